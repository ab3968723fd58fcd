// Tokens: the page asks for one, keeps it as the user says, and shows what it may do.
import { assert, test } from "../harness.mjs";

const ADMIN = "the-administrators-token";
const READER = "the-readers-token";
const config = { server: { auth_token: ADMIN, auth_tokens: [{ name: "reader", token: READER, access: "read" }] } };
const allow = [/status of 40[13]/];  // Chromium writes a line for each refused request
const token = (page) => page.getByLabel("Token", { exact: true });

test("a token is asked for, and forgotten with the page", async ({ chatkeep, open }) => {
  const server = await chatkeep({ config });
  await server.say("one", "ping");
  const page = await open(server, { at: "#/chat/one", allow });
  await token(page).waitFor();
  await token(page).fill("a wrong one");
  await token(page).press("Enter");
  await page.getByText("The server does not know this token.").waitFor();
  await token(page).fill(ADMIN);
  await token(page).press("Enter");
  await page.getByRole("article", { name: "Answer" }).getByText("pong!").waitFor();
  await page.reload();
  await token(page).waitFor();
});

test("a token is kept in the browser by choice, and forgotten by a button", async ({ chatkeep, open }) => {
  const server = await chatkeep({ config });
  await server.say("one", "ping");
  const page = await open(server, { at: "#/chat/one", allow });
  await token(page).fill(ADMIN);
  await page.getByLabel(/Keep it in this browser/).check();
  await page.getByRole("button", { name: "Open" }).click();
  await page.getByRole("article", { name: "Answer" }).getByText("pong!").waitFor();
  await page.reload();
  await page.getByRole("article", { name: "Answer" }).getByText("pong!").waitFor();
  await page.getByRole("button", { name: "Forget the token" }).click();
  await token(page).waitFor();
  await page.reload();
  await token(page).waitFor();
  assert.equal(await page.evaluate(() => localStorage.length), 0);
});

test("a token that may only read sees nothing to write with", async ({ chatkeep, open, axe }) => {
  const server = await chatkeep({ config });
  await server.say("one", "ping");
  const page = await open(server, { at: "#/chat/one", allow });
  await token(page).fill(READER);
  await token(page).press("Enter");
  const answer = page.getByRole("article", { name: "Answer" });
  await answer.getByText("pong!").waitFor();
  await page.getByText("This token may read only.").waitFor();
  assert.equal(await page.getByRole("textbox", { name: "Message" }).count(), 0);
  const names = await page.getByRole("button").evaluateAll((buttons) => buttons.map((button) => button.ariaLabel ?? button.textContent));
  for (const name of names) assert.doesNotMatch(name, /edit|again|new|branch|send|erase|rename|import/i);
  await axe(page, "a page that may only read");
  await server.say("one", "more");
  await answer.getByText("more").waitFor();
  await page.goto(`${server.url}/#/chat`);
  await page.getByRole("heading", { name: "A conversation that is kept" }).waitFor();
  assert.equal(await page.getByText("The same from a terminal").count(), 0);
});

test("a token that is revoked is asked for again, and what was written is not lost", async ({ chatkeep, open }) => {
  const server = await chatkeep({ config });
  const page = await open(server, { at: "#/chat/one", allow });
  await token(page).fill(ADMIN);
  await token(page).press("Enter");
  await page.getByRole("textbox", { name: "Message" }).fill("ping");
  await page.getByRole("textbox", { name: "Message" }).press("Enter");
  await page.getByRole("article", { name: "Answer" }).getByText("pong!").waitFor();
  await page.getByRole("textbox", { name: "Message" }).fill("a draft");
  await server.kill9();
  await server.restart({ config: { server: { local_socket: "", auth_token: "the-next-token" } } });
  await token(page).fill("the-next-token");
  await token(page).press("Enter");
  await page.getByRole("article", { name: "Answer" }).getByText("pong!").waitFor();
  assert.equal(await page.getByRole("textbox", { name: "Message" }).inputValue(), "a draft");
});

test("a conversation that the server refuses says why", async ({ chatkeep, open }) => {
  const limited = { name: "limited", token: "the-limited-token", access: "write", sessions: "mine-*" };
  const server = await chatkeep({ config: { server: { auth_token: ADMIN, auth_tokens: [limited] } } });
  const refused = [/status of 4\d\d/, /WebSocket connection .* failed/];
  const page = await open(server, { at: "#/chat/yours-1", allow: refused });
  await token(page).fill("the-limited-token");
  await token(page).press("Enter");
  await page.locator(".state").getByText(/must begin with mine-/).waitFor();
  await page.getByRole("textbox", { name: "Message" }).fill("ping");
  assert.ok(await page.getByRole("button", { name: "Send" }).isDisabled());
  await page.evaluate(() => { location.hash = "#/chat/%"; });
  await page.locator(".state").getByText(/session_id/).waitFor();
  // A new one begins as the token asks.
  await page.keyboard.press("Control+Shift+O");
  await page.getByRole("textbox", { name: "Message" }).fill("ping");
  await page.getByRole("textbox", { name: "Message" }).press("Enter");
  await page.getByRole("article", { name: "Answer" }).getByText("pong!").waitFor();
  assert.match(new URL(page.url()).hash, /^#\/chat\/mine-/);
});
