// A conversation through a lost connection, a killed server, and a switch to another conversation.
import { assert, still, test, until } from "../harness.mjs";

const field = (page) => page.getByRole("textbox", { name: "Message" });
const write = async (page, text) => {
  await field(page).fill(text);
  await field(page).press("Enter");
};
const answers = (page) => page.getByRole("article", { name: "Answer", exact: true });

// Every text of the conversation, in order.
const texts = (page) => page.locator(".written, .markdown").allInnerTexts().then((all) => all.map((text) => text.trim()));

async function history(server, session) {
  const { messages } = await server.api("GET", `/api/chat/history?session_id=${session}&limit=500`);
  return messages.map(({ text }) => text.trim());
}

test("after kill -9 in mid-answer the message is answered once, and what was written meanwhile follows", async ({ chatkeep, slowModel, open }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  const page = await open(server, { at: "#/chat/crash" });
  await write(page, "first");
  const cut = await model.asked();
  cut.say("half of an ans");
  await page.getByText("half of an ans").waitFor();

  await server.kill9();
  await page.getByText("Not connected.").first().waitFor();
  await write(page, "second");
  await page.getByText("Not sent yet").waitFor();

  await server.restart();
  const again = await model.asked();
  assert.equal(again.text, "first");
  again.say("the whole answer");
  again.end();
  const next = await model.asked();
  assert.equal(next.text, "second");
  next.say("and the next");
  next.end();
  const expected = ["first", "the whole answer", "second", "and the next"];
  await until("the page shows each once", async () => JSON.stringify(await texts(page)) === JSON.stringify(expected));
  await answers(page).getByText("and the next").waitFor();
  assert.deepEqual(await history(server, "crash"), expected);
  assert.equal(await page.getByText("Not connected.").count(), 0);
});

test("what was sent and not acknowledged is sent again, and recorded once", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server, { at: "#/chat/unacknowledged" });
  await write(page, "ping");
  await answers(page).getByText("pong!").waitFor();
  // The server takes the bytes and does nothing with them any more.
  process.kill(-server.process.pid, "SIGSTOP");
  await write(page, "sent into the void");
  await page.locator(".unsent").getByText("sent into the void").waitFor();
  assert.equal(await page.getByRole("button", { name: "Take back" }).count(), 0);
  await server.kill9();
  await server.restart();
  await answers(page).getByText("sent into the void").waitFor();
  assert.deepEqual(await history(server, "unacknowledged"), ["ping", "pong!", "sent into the void", "sent into the void"]);
  assert.equal(await page.locator(".unsent").count(), 0);
});

test("what others record while the page is not connected is there afterwards, and the reader's place is kept", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("gap", Array.from({ length: 200 }, (_, n) => `Message ${n}`));
  const page = await open(server, { at: "#/chat/gap" });
  const scroller = page.getByRole("region", { name: "Messages" });
  await scroller.getByText("Message 199").waitFor();
  await page.mouse.move(700, 400);
  await page.mouse.wheel(0, -1500);
  await page.getByRole("button", { name: "Newest" }).waitFor();
  const first = () => scroller.evaluate((box) => {
    const from = box.getBoundingClientRect().top;
    const node = [...box.querySelectorAll("article")].find((article) => article.getBoundingClientRect().bottom > from + 1);
    return [node.textContent, Math.round(node.getBoundingClientRect().top)];
  });
  const before = await still(page, first);

  await server.kill9();
  await page.getByText("Not connected.").first().waitFor();
  await server.restart();
  await server.record("gap", ["Message 200", "Message 201"]);
  // It may be back by itself already.
  await page.getByRole("button", { name: "Try now" }).click({ timeout: 500 }).catch(() => {});
  await page.getByRole("button", { name: "2 new messages" }).waitFor();
  assert.deepEqual(await first(), before);
  await page.getByRole("button", { name: "2 new messages" }).click();
  await scroller.getByText("Message 201").waitFor();
  assert.equal(await scroller.getByText("Message 200").count(), 1);
});

test("an answer goes on while another conversation is open, and is shown whole afterwards", async ({ chatkeep, slowModel, open }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  await server.record("other", ["elsewhere"]);
  const page = await open(server, { at: "#/chat/one" });
  await write(page, "a long question");
  const asked = await model.asked();
  asked.say("It begins");
  await page.getByText("It begins").waitFor();

  await page.evaluate(() => { location.hash = "#/chat/other"; });
  await page.getByText("elsewhere").last().waitFor();
  const row = page.getByRole("option", { name: /a long question/ });
  await row.getByText("Answering…").waitFor();
  asked.say(" and goes on");

  await row.click();
  await page.getByText("It begins and goes on").waitFor();
  asked.say(" to the end.");
  asked.end();
  await answers(page).getByText("It begins and goes on to the end.").waitFor();
  assert.deepEqual(await history(server, "one"), ["a long question", "It begins and goes on to the end."]);
});

test("a message that waits is sent though another conversation was opened", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server, { at: "#/chat/two" });
  const show = (session) => page.evaluate((hash) => new Promise((resolve) => {
    addEventListener("hashchange", resolve, { once: true });
    location.hash = hash;
  }), `#/chat/${session}`);
  await page.getByRole("heading", { name: "A conversation that is kept" }).waitFor();
  // What the first visit asks for is answered during the second.
  let late;
  await page.route(/session_id=one&role=system/, (route) => { late = route; }, { times: 1 });
  await show("one");
  await until("the versions are asked for", () => late);
  await show("two");
  await show("one");
  await late.continue();
  await write(page, "ping");
  await answers(page).getByText("pong!").waitFor();
  await server.kill9();
  await page.getByText("Not connected.").first().waitFor();
  await write(page, "written without a server");
  await show("two");
  await show("one");
  await page.locator(".unsent").getByText("written without a server").waitFor();
  await show("two");
  await server.restart();
  await until("it is recorded", async () => (await history(server, "one")).includes("written without a server"), 90);
});

test("a server that takes a connection and says nothing is tried again", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("silent", ["what was said"]);
  const page = await open(server, { blank: true });
  // The ten seconds that a server has are over sooner at the first attempt, and later at the next, which only the button ends.
  await page.addInitScript(() => {
    const { setTimeout } = window;
    let patience = 100;
    window.setTimeout = (work, ms, ...rest) => {
      if (ms === 10_000) [ms, patience] = [patience, 120_000];
      return setTimeout(work, ms, ...rest);
    };
  });
  let attempts = 0;
  await page.routeWebSocket(/ws\/chat/, (socket) => {
    attempts += 1;
    if (attempts > 2) socket.connectToServer();
  });
  await page.goto(`${server.url}/#/chat/silent`);
  await page.getByText("Not connected.").first().waitFor();
  await until("the next attempt is under way", () => attempts === 2);
  await page.getByRole("button", { name: "Try now" }).click();
  await until("it is given up for another", () => attempts === 3);
  await page.getByText("what was said").last().waitFor();
  await page.getByText("Not connected.").first().waitFor({ state: "hidden" });
});

test("a message of another client arrives, and a rewind of it is shown", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await open(server, { at: "#/chat/shared" });
  const first = await server.say("shared", "ping");
  await answers(page).getByText("pong!").waitFor();
  await server.say("shared", "taken back soon");
  await answers(page).getByText("taken back soon").waitFor();
  await server.api("POST", "/api/chat/sessions/shared/rewind", { to: first.assistant_message_id });
  await answers(page).getByText("taken back soon").waitFor({ state: "detached" });
  assert.deepEqual(await texts(page), ["ping", "pong!"]);
});

test("history is there while the model is down, and the answer says why", async ({ chatkeep, open }) => {
  const config = { responder: { kind: "openai", openai: { base_url: "http://127.0.0.1:9/v1", model: "none" } } };
  const server = await chatkeep({ config });
  await server.record("old", ["what was asked", "what was answered"]);
  const page = await open(server, { at: "#/chat/old" });
  await page.getByText("what was answered").last().waitFor();
  await write(page, "are you there?");
  await page.getByText("There is no answer.").waitFor();
  await page.getByText(/127\.0\.0\.1:9/).first().waitFor();
  await page.getByText("Your message and the history are kept.").waitFor();
  await page.getByRole("button", { name: "Try again" }).waitFor();
  await page.getByText("what was answered").last().waitFor();
});

test("history is there while MongoDB is down, and the page says so", async ({ chatkeep, mongod, open }) => {
  const mongo = await mongod();
  const server = await chatkeep({ mongo });
  await until("MongoDB is connected", async () => (await server.status()).mongo.status === "ok");
  await server.record("kept", ["what was asked", "what was answered"]);
  const page = await open(server, { at: "#/chat/kept" });
  await page.getByText("what was answered").last().waitFor();
  await mongo.kill9();
  await write(page, "ping");
  await answers(page).getByText("pong!").waitFor();
  const banner = page.locator(".banner").getByText("MongoDB cannot be reached");
  await banner.waitFor();
  // That tab says it itself.
  await page.goto(`${server.url}/#/storage`);
  await page.getByRole("heading", { name: "MongoDB is away" }).waitFor();
  assert.ok(await banner.isHidden());
  await page.goto(`${server.url}/#/chat/kept`);
  await banner.waitFor();
  await page.reload();
  await answers(page).getByText("pong!").waitFor();
  await page.getByText("what was answered").last().waitFor();
  await mongo.start();
  await banner.waitFor({ state: "detached" });
});
