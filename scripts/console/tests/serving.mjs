// How the page is served: its policy, its size, how soon it is there.
import { assert, test } from "../harness.mjs";

test("the page loads without a complaint", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server);
  assert.match(await page.title(), /chatkeep/);
});
