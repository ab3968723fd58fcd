// Every look of the page in its states, before axe-core: light and dark, on a desk and on a phone, with large text. And hostile
// text as messages, titles and names, in all of them.
import { WINDOWS, assert, test } from "../harness.mjs";

const ALL = `# A title

A *paragraph* with **strong**, ~~struck~~ and \`code\`, a [link](https://example.org "a title") and https://example.org/bare.

- [x] done
- [ ] to do
  1. one
  2. two

> A quote
> > in a quote

\`\`\`rust
fn main() { println!("a line that is so long that it does not fit into the width of a phone, nor of a desk, and scrolls in itself"); }
\`\`\`

| left | right | a column |
|---|--:|---|
| 1 | 2 | ${"wide ".repeat(30)} |

---

![a picture](https://example.org/p.png)`;

const HOSTILE = [
  "<script>document.title = 'taken'</script>", "<img src=x onerror=\"document.title = 'taken'\">", "[a](javascript:document.title='taken')",
  "![](https://example.org/p.png)", "\u202Edesrever\u202C and \u0000 and \uFFFE", "a".repeat(5000), "`".repeat(3000), "> ".repeat(2000), "\n".repeat(3000), "[".repeat(3000),
  "{{constructor.constructor('document.title=1')()}}", "</textarea></style><svg onload=alert(1)>",
];

for (const [size, how] of Object.entries(WINDOWS)) {
  test(`axe-core finds nothing: ${size}`, async ({ chatkeep, open, looks }) => {
    const server = await chatkeep();
    await server.record("all", ["What can you show?", ALL]);
    const page = await open(server, { at: "#/chat", ...how });
    await page.getByRole("heading", { name: "A conversation that is kept" }).waitFor();
    await looks(page, "welcome");
    assert.equal(await page.getByRole("region", { name: "Messages" }).evaluate((box) => box.scrollTop), 0);
    assert.equal(await page.getByRole("button", { name: "Newest" }).count(), 0);
    await page.goto(`${server.url}/#/chat/all`);
    await page.getByText("a picture").waitFor();
    await looks(page, "conversation");
    // A phone has no button for them.
    if (size === "desk") await page.getByRole("button", { name: "Keys" }).click();
    else await page.keyboard.press("?");
    await page.getByRole("dialog").waitFor();
    assert.equal(await page.getByRole("dialog").evaluate((dialog) => dialog.scrollTop), 0);
    await looks(page, "keys");
    await page.keyboard.press("Escape");
    await page.goto(`${server.url}/#/storage`);
    await page.getByRole("img", { name: /^Memory: / }).waitFor();
    await looks(page, "storage");
  });

  test(`axe-core finds nothing where a token is asked for: ${size}`, async ({ chatkeep, open, looks }) => {
    const server = await chatkeep({ config: { server: { auth_token: "a-token" } } });
    const page = await open(server, { allow: [/status of 401/], ...how });
    await page.getByLabel("Token", { exact: true }).waitFor();
    await looks(page, "token");
  });
}

test("hostile texts, titles and names are shown as what they are", async ({ chatkeep, open, axe, until }) => {
  const server = await chatkeep();
  await server.record("hostile", HOSTILE);
  // The same as answers.
  await server.record("hostile-too", HOSTILE.flatMap((text) => ["?", text]));
  for (const [n, title] of HOSTILE.filter((text) => text.trim() && text.length < 80).entries()) {
    await server.record(`title:${n}`, ["hello"]);
    await server.api("PATCH", `/api/chat/sessions/title:${n}`, { title });
  }
  for (const session of ["hostile", "hostile-too"]) {
    const page = await open(server, { at: `#/chat/${session}`, motion: "reduce" });
    await page.getByText("onload=alert(1)").first().waitFor();
    await until("the list is there", async () => (await page.getByRole("option").count()) > 5);
    await axe(page, session);
    assert.notEqual(await page.title(), "taken");
    assert.equal(await page.locator("main img, main script, main iframe, main form[action]").count(), 0);
    const addresses = await page.locator("main a").evaluateAll((links) => links.map(({ protocol }) => protocol));
    assert.deepEqual(addresses.filter((protocol) => !/^https?:$/.test(protocol)), []);
  }
});
