// Writing in a conversation: following what comes, stopping it, waiting for it.
import { assert, still, test, until } from "../harness.mjs";

const field = (page) => page.getByRole("textbox", { name: "Message" });
const scroller = (page) => page.getByRole("region", { name: "Messages" });
const answers = (page) => page.getByRole("article", { name: "Answer", exact: true });
const mine = (page) => page.getByRole("article", { name: "Your message" });
const hasFocus = (node) => node.evaluate((one) => one === document.activeElement);
const write = async (page, text) => {
  await field(page).fill(text);
  await field(page).press("Enter");
};

test("a new user is told what this is, and can do the same from a terminal", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server);
  await page.getByRole("heading", { name: "A conversation that is kept" }).waitFor();
  await page.getByText("Nothing is set to answer yet").waitFor();
  await field(page).fill("a draft");
  await page.getByRole("button", { name: "Write ping" }).click();
  assert.equal(await field(page).inputValue(), "a draft\nping");
  const [, body] = /--json '(.*)'$/s.exec(await page.locator(".sample code").last().innerText());
  const { response } = await server.api("POST", "/api/chat", JSON.parse(body));
  assert.equal(response, "pong!");
  await answers(page).getByText("pong!").waitFor();
  assert.equal(await page.getByRole("heading", { name: "A conversation that is kept" }).count(), 0);
});

test("Enter sends, Shift+Enter begins a line, and the address names the conversation", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server);
  await field(page).pressSequentially("one");
  await field(page).press("Shift+Enter");
  await field(page).pressSequentially("two");
  await field(page).press("Enter");
  await mine(page).getByText("one\ntwo").waitFor();
  await answers(page).waitFor();
  assert.equal(await field(page).inputValue(), "");
  const session = /#\/chat\/(chat-[a-z0-9]{8})$/.exec(page.url())[1];
  const { messages } = await server.api("GET", `/api/chat/history?session_id=${session}`);
  assert.deepEqual(messages.map(({ text }) => text), ["one\ntwo", "one\ntwo"]);
  assert.equal(await page.getByText("0 s", { exact: true }).count(), 0, "no time is no news");
  await page.reload();
  await mine(page).getByText("one\ntwo").waitFor();
});

test("the Enter that ends a composition does not send", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server);
  await field(page).focus();
  const session = await page.context().newCDPSession(page);
  await session.send("Input.imeSetComposition", { text: "にほん", selectionStart: 3, selectionEnd: 3 });
  await page.evaluate(() => {
    // As Chromium does it while a composition is there, and as Safari does it right after: by the code 229 alone.
    for (const how of [{ isComposing: true, keyCode: 13 }, { isComposing: false, keyCode: 229 }]) {
      document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...how }));
    }
  });
  assert.equal(await mine(page).count(), 0);
  await session.send("Input.insertText", { text: "日本" });
  assert.equal(await field(page).inputValue(), "日本");
  await field(page).press("Enter");
  await mine(page).getByText("日本").waitFor();
});

test("new text is followed, scrolling up stops that, and a button returns", async ({ chatkeep, slowModel, open }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  await server.record("follow", Array.from({ length: 40 }, (_, n) => `Message ${n}`));
  const page = await open(server, { at: "#/chat/follow" });
  await scroller(page).getByText("Message 39").waitFor();
  const below = () => scroller(page).evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight);
  const size = () => scroller(page).evaluate((box) => box.scrollHeight);

  await write(page, "go on");
  const asked = await model.asked();
  let before = await size();
  asked.say("A line.\n\n".repeat(30));
  await until("the answer has grown and its end is in view", async () => (await size()) > before + 500 && (await below()) < 2);

  await page.mouse.move(700, 400);
  const newest = page.getByRole("button", { name: "Newest" });
  const place = () => scroller(page).evaluate((box) => box.scrollTop);
  // By little, with a key, and by more.
  for (const scrollUp of [() => scroller(page).press("ArrowUp"), () => page.mouse.wheel(0, -300)]) {
    await scrollUp();
    await until("it is scrolled", async () => (await below()) > 30);
    const kept = await still(page, place);
    before = await size();
    asked.say("Another line.\n\n".repeat(30));
    await until("the answer has grown", async () => (await size()) > before + 500);
    assert.equal(await place(), kept);

    await newest.click();
    await until("the end is in view", async () => (await below()) < 2);
    assert.ok(await hasFocus(scroller(page)));
  }
  asked.say("The last line.");
  asked.end();
  await answers(page).last().getByText("The last line.").waitFor();
  assert.ok((await below()) < 2);
  assert.equal(await newest.count(), 0);
});

test("an answer that grows keeps the nodes of what is finished", async ({ chatkeep, slowModel, open }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  const page = await open(server);
  await write(page, "go on");
  const asked = await model.asked();
  asked.say("# A heading\n\nThe first paragraph.\n\nThe sec");
  await page.getByText("The sec").first().waitFor();
  await page.evaluate(() => { window.kept = [...document.querySelectorAll(".live .markdown > *")].slice(0, 2); });
  asked.say("ond.\n\n```js\nconst a = 1;\n```\n\nThe end.");
  await page.getByText("The end.").first().waitFor();
  asked.end();
  await answers(page).waitFor();
  assert.deepEqual(await page.evaluate(() => window.kept.map((node) => [node.isConnected, node.textContent])),
    [[true, "A heading"], [true, "The first paragraph."]]);
});

test("Stop keeps what was said, by the button and by Escape", async ({ chatkeep, slowModel, open }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  const page = await open(server, { at: "#/chat/stop" });
  await field(page).fill("one");
  await page.getByRole("button", { name: "Send", exact: true }).click();
  assert.ok(await hasFocus(field(page)));
  (await model.asked()).say("said so far");
  await page.getByText("said so far").first().waitFor();
  await page.getByRole("button", { name: "Stop the answer" }).click();
  assert.ok(await hasFocus(field(page)));
  await answers(page).getByText("said so far").waitFor();
  await answers(page).getByText("Stopped.").waitFor();
  await write(page, "two");
  (await model.asked()).say("and more");
  await page.getByText("and more").first().waitFor();
  await field(page).press("Escape");
  await answers(page).nth(1).getByText("Stopped.").waitFor();
  const { messages } = await server.api("GET", "/api/chat/history?session_id=stop&role=assistant");
  assert.deepEqual(messages.map(({ text, metadata }) => [text, metadata.status]), [["said so far", "cancelled"], ["and more", "cancelled"]]);
});

test("what is written during an answer waits for its end, and can be taken back", async ({ chatkeep, slowModel, open }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  const page = await open(server, { at: "#/chat/wait" });
  await write(page, "first");
  const asked = await model.asked();
  await write(page, "second");
  await write(page, "third");
  await page.getByText("Waits for the end of the answer.").first().waitFor();
  await page.locator(".unsent", { hasText: "third" }).getByRole("button", { name: "Take back" }).click();
  asked.say("done");
  asked.end();
  const next = await model.asked();
  assert.equal(next.text, "second");
  next.say("done too");
  next.end();
  await answers(page).getByText("done too").waitFor();
  assert.equal(await page.locator(".unsent").count(), 0);
});
