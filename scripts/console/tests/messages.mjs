// The messages of a conversation: what each tells and what can be done with it; drafts, commands and keys.
import { assert, test, until } from "../harness.mjs";

const field = (page) => page.getByRole("textbox", { name: "Message" });
const scroller = (page) => page.getByRole("region", { name: "Messages" });
const answers = (page) => page.getByRole("article", { name: "Answer", exact: true });
const mine = (page) => page.getByRole("article", { name: "Your message" });
const clipboard = (page) => page.evaluate(() => navigator.clipboard.readText());
const write = async (page, text) => {
  await field(page).fill(text);
  await field(page).press("Enter");
};

test("a message is copied as it was written, and a block of code alone", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const text = "Some *text*:\n\n```js\nconst a = \"<b>\";\n\n  return a;\n```\n\n1. one\n2. two";
  await server.record("copy", ["question", text]);
  const page = await open(server, { at: "#/chat/copy" });
  await answers(page).getByText("return a;").waitFor();
  await answers(page).getByRole("button", { name: "Copy the message as it was written" }).click();
  await until("it is copied", async () => (await clipboard(page)) === text);
  await answers(page).getByRole("button", { name: "Copy this code" }).click();
  await until("the code is copied", async () => (await clipboard(page)) === "const a = \"<b>\";\n\n  return a;");
});

test("a failed answer says why, keeps its beginning, and can be tried again", async ({ chatkeep, slowModel, open, axe }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  const page = await open(server, { at: "#/chat/fail" });
  await write(page, "a question");
  const asked = await model.asked();
  asked.say("The **beginning**");
  await page.getByText("beginning").first().waitFor();
  asked.fail("the model ran out of memory");
  await page.getByText("The answer is not whole.").waitFor();
  await page.getByText(/the model ran out of memory/).first().waitFor();
  assert.equal(await answers(page).locator("strong", { hasText: "beginning" }).count(), 1);
  await axe(page, "a failed answer");
  await page.getByRole("button", { name: "Try again" }).click();
  const again = await model.asked();
  assert.equal(again.text, "a question");
  again.say("It works.");
  again.end();
  await answers(page).getByText("It works.").waitFor();
  assert.equal(await page.getByText("The answer is not whole.").count(), 0);
});

test("an answer tells which model gave it, and how long it took", async ({ chatkeep, openAiModel, open }) => {
  const model = await openAiModel({ weather: "It rains." });
  const server = await chatkeep({ model });
  const page = await open(server);
  await write(page, "What is the weather?");
  await answers(page).getByText("It rains.").waitFor();
  assert.match(await answers(page).locator(".model").innerText(), /^small-1/);
  assert.match(await answers(page).locator(".duration").innerText(), /^\d+(\.\d)? m?s$/);
});

test("a draft is kept for each conversation, and that of an edit", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("a", ["in a"]);
  await server.record("b", ["in b"]);
  const page = await open(server, { at: "#/chat/a" });
  await scroller(page).getByText("in a").waitFor();
  await field(page).fill("not sent yet");
  await page.getByRole("option", { name: /in b/ }).click();
  await scroller(page).getByText("in b").waitFor();
  assert.equal(await field(page).inputValue(), "");
  await page.getByRole("option", { name: /in a/ }).click();
  await scroller(page).getByText("in a").waitFor();
  assert.equal(await field(page).inputValue(), "not sent yet");

  const editor = page.getByRole("textbox", { name: "Edit your message" });
  const edit = async () => {
    await mine(page).hover();
    await page.getByRole("button", { name: "Edit", exact: true }).click();
  };
  await edit();
  await editor.fill("half of an edit");
  await page.getByRole("option", { name: /in b/ }).click();
  await scroller(page).getByText("in b").waitFor();
  await page.getByRole("option", { name: /in a/ }).click();
  await scroller(page).getByText("in a").waitFor();
  await edit();
  assert.equal(await editor.inputValue(), "half of an edit");
  await editor.press("Escape");
  await edit();
  assert.equal(await editor.inputValue(), "in a");
});

test("/clear begins a new context, and /help lists keys and commands", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server, { at: "#/chat/commands" });
  await write(page, "ping");
  await answers(page).getByText("pong!").waitFor();
  await write(page, "/clear");
  await scroller(page).getByText("New context").waitFor();
  assert.equal(await mine(page).count(), 1);
  await write(page, "/help");
  await page.getByRole("dialog", { name: "Keys" }).getByText("/clear").waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await field(page).inputValue(), "");
});

test("what the server refuses is not lost", async ({ chatkeep, open }) => {
  const server = await chatkeep({ config: { websocket: { max_message_bytes: 1024 } } });
  const page = await open(server, { at: "#/chat/refused" });
  const text = "too long ".repeat(200).trim();
  await write(page, text);
  await page.getByText(/Not recorded\. The message is longer/).waitFor();
  await field(page).fill("written meanwhile");
  await page.getByRole("button", { name: "Take back" }).click();
  assert.equal(await field(page).inputValue(), `written meanwhile\n${text}`);
  await write(page, "ping");
  await answers(page).getByText("pong!").waitFor();
  assert.equal(await page.locator(".unsent").count(), 0);
});

test("marks and other roles are shown for what they are", async ({ chatkeep, open, axe }) => {
  const server = await chatkeep();
  await server.say("roles", "ping");
  await server.api("PATCH", "/api/chat/sessions/roles", { title: "Roles" });
  await server.say("roles", "/clear");
  await server.api("POST", "/api/chat/messages", [
    { session_id: "roles", role: "system", text: "Answer in *verse*." },
    { session_id: "roles", role: "tool", text: "{\"temperature\": 21}" },
  ]);
  const page = await open(server, { at: "#/chat/roles" });
  await page.getByText("New context").waitFor();
  const tool = page.getByRole("article", { name: "Message of tool" });
  await tool.getByText("{\"temperature\": 21}").waitFor();
  await page.getByRole("article", { name: "Message of system" }).getByText("Answer in *verse*.").waitFor();
  assert.equal(await page.locator("article").count(), 5);
  await page.getByRole("heading", { name: "Roles", exact: true }).waitFor();
  await axe(page, "a conversation with other roles");
});

test("a very long message shows its beginning, and all of it when asked", async ({ chatkeep, open, diagnostic }) => {
  const server = await chatkeep();
  const text = `${"A line of some words.\n\n".repeat(5000)}The very end.`;
  await server.record("big", ["question", text]);
  const page = await open(server, { at: "#/chat/big" });
  await page.evaluate(() => {
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map(({ duration }) => duration))).observe({ entryTypes: ["longtask"] });
  });
  await page.getByRole("button", { name: /^Show all/ }).click();
  await page.getByText("The very end.").first().waitFor();
  diagnostic(`${text.length} characters; tasks over 50 ms: ${(await page.evaluate(() => window.tasks)).join(", ") || "none"}`);
});

test("the keys of the page", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server, { at: "#/chat/keys" });
  await write(page, "ping");
  await answers(page).getByText("pong!").waitFor();
  await field(page).press("ArrowUp");
  await page.getByRole("textbox", { name: "Edit your message" }).press("Escape");
  assert.equal(await page.getByRole("textbox", { name: "Edit your message" }).count(), 0);
  await scroller(page).focus();
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("/");
  assert.ok(await field(page).evaluate((node) => node === document.activeElement));
  await page.keyboard.press("Control+Shift+O");
  await page.getByRole("heading", { name: "A conversation that is kept" }).waitFor();
  assert.notEqual(new URL(page.url()).hash, "#/chat/keys");
});
