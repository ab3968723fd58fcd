// Edit and regenerate, the versions that they leave, and branching into a new conversation.
import { assert, test, until } from "../harness.mjs";

const field = (page) => page.getByRole("textbox", { name: "Message" });
const mine = (page) => page.getByRole("article", { name: "Your message" });
const answers = (page) => page.getByRole("article", { name: "Answer", exact: true });
const texts = (page) => page.locator(".window .written, .window .markdown").allInnerTexts().then((all) => all.map((text) => text.trim()));
const shows = (page, expected) => until(`the page shows ${expected}`, async () => JSON.stringify(await texts(page)) === JSON.stringify(expected));

async function path(server, session) {
  const { messages } = await server.api("GET", `/api/chat/history?session_id=${session}&view=current`);
  return messages.map(({ text }) => text);
}

async function copied(server, session) {
  const lines = (await server.api("GET", `/api/chat/export?session_id=${session}`)).trim().split("\n").map((line) => JSON.parse(line));
  return lines.filter(({ metadata }) => metadata.type !== "session").map(({ text }) => text);
}

// Enter is pressed twice before anything can answer.
async function edit(page, message, text) {
  await message.hover();
  await message.getByRole("button", { name: "Edit", exact: true }).click();
  const editor = page.getByRole("textbox", { name: "Edit your message" });
  await editor.fill(text);
  await editor.evaluate((field) => {
    for (const turn of ["first", "second"]) {
      field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", code: turn, bubbles: true, cancelable: true }));
    }
  });
}

test("an edited message begins another version, and the one before can be looked at and gone back to", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  const page = await open(server, { at: "#/chat/edit" });
  for (const text of ["one", "two", "three"]) {
    await field(page).fill(text);
    await field(page).press("Enter");
    await answers(page).getByText(text).waitFor();
  }
  await edit(page, mine(page).nth(1), "two again");
  await shows(page, ["one", "one", "two again", "two again"]);

  const versions = page.getByRole("group", { name: "Versions" });
  await versions.getByText("2 / 2").waitFor();
  await axe(page, "a conversation with versions");
  await versions.getByRole("button", { name: "The version before" }).click();
  await shows(page, ["one", "one", "two", "two", "three", "three"]);
  await versions.getByText("1 / 2").waitFor();
  await picture(page, "another-version");
  await axe(page, "another version");
  // Nothing has changed for anybody else.
  assert.deepEqual(await path(server, "edit"), ["one", "one", "two again", "two again"]);
  await page.getByRole("button", { name: "Back to the current one" }).click();
  await shows(page, ["one", "one", "two again", "two again"]);

  await versions.getByRole("button", { name: "The version before" }).click();
  await page.getByRole("button", { name: "Go on with this one" }).click();
  await until("the session is on it", async () => (await path(server, "edit")).length === 6);
  await page.getByText("You are looking at another version.").waitFor({ state: "detached" });
  await shows(page, ["one", "one", "two", "two", "three", "three"]);
});

test("what is written while another version is looked at goes on from it", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const first = await server.say("look", "one");
  await server.say("look", "two");
  await server.api("POST", "/api/chat", { session_id: "look", message: "other two", rewind_to: first.assistant_message_id });
  const page = await open(server, { at: "#/chat/look" });
  await page.getByRole("button", { name: "The version before" }).click();
  await shows(page, ["one", "one", "two", "two"]);
  await field(page).fill("three");
  await field(page).press("Enter");
  await shows(page, ["one", "one", "two", "two", "three", "three"]);
  assert.deepEqual(await path(server, "look"), ["one", "one", "two", "two", "three", "three"]);
});

test("the first message can be edited, and Escape leaves it as it is", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.say("first", "one");
  const page = await open(server, { at: "#/chat/first" });
  await mine(page).hover();
  await mine(page).getByRole("button", { name: "Edit", exact: true }).click();
  await page.getByRole("textbox", { name: "Edit your message" }).fill("never sent");
  await page.getByRole("textbox", { name: "Edit your message" }).press("Escape");
  await shows(page, ["one", "one"]);
  await edit(page, mine(page), "uno");
  await shows(page, ["uno", "uno"]);
  await page.getByRole("button", { name: "The version before" }).click();
  await shows(page, ["one", "one"]);
});

test("an answer is given again once, also one that is in progress", async ({ chatkeep, slowModel, open }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  const page = await open(server, { at: "#/chat/again" });
  await field(page).fill("question");
  await field(page).press("Enter");
  const first = await model.asked();
  first.say("first answer");
  first.end();
  await answers(page).getByText("first answer").waitFor();
  await answers(page).getByRole("button", { name: "Answer again" }).evaluate((button) => {
    button.click();
    button.click();
  });
  const second = await model.asked();
  assert.deepEqual(second.messages.map(({ text }) => text), ["question"]);
  second.say("second ans");
  await page.getByText("second ans").first().waitFor();
  await edit(page, mine(page), "better question");
  const third = await model.asked();
  assert.equal(third.text, "better question");
  await until("pressed twice it is sent once", async () => (await page.locator(".unsent").count()) === 0);
  third.say("third answer");
  third.end();
  await shows(page, ["better question", "third answer"]);
  await page.getByText("3 / 3").waitFor();
});

test("a conversation branches into a new one", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("trunk", Array.from({ length: 1204 }, (_, n) => `Message ${n}`));
  await server.api("PATCH", "/api/chat/sessions/trunk", { title: "The trunk" });
  const page = await open(server, { at: "#/chat/trunk" });
  const message = page.getByRole("article").filter({ has: page.getByText("Message 1201", { exact: true }) });
  await message.hover();
  await message.getByRole("button", { name: "Go on from here in a new conversation" }).click();
  await page.getByText("Branched from").waitFor({ timeout: 120_000 });
  const session = new URL(page.url()).hash.split("/")[2];
  assert.notEqual(session, "trunk");
  assert.deepEqual(await copied(server, session), Array.from({ length: 1202 }, (_, n) => `Message ${n}`));
  const { metadata, title } = await server.api("GET", `/api/chat/sessions/${session}`);
  assert.equal(metadata.branched_from.session_id, "trunk");
  assert.equal(title, "The trunk (branch)");
  await field(page).fill("ping");
  await field(page).press("Enter");
  await answers(page).getByText("pong!").waitFor();
  await page.getByRole("link", { name: "trunk" }).click();
  await page.getByRole("region", { name: "Messages" }).getByText("Message 1201").waitFor();
});

test("a copy is completed though another conversation is opened meanwhile", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("trunk", Array.from({ length: 1204 }, (_, n) => `Message ${n}`));
  await server.api("PATCH", "/api/chat/sessions/trunk", { title: "The trunk" });
  await server.record("other", ["elsewhere"]);
  const page = await open(server, { at: "#/chat/trunk", allow: [/status of 503/] });
  // Older pages come when the test says so, and the first part of the copy is refused.
  const older = /history\?.*before=/;
  const held = [];
  await page.route(older, (route) => held.push(route));
  await page.route("**/api/chat/messages", (route) => route.fulfill({ status: 503, json: { detail: "no room just now" } }), { times: 1 });
  await page.getByRole("heading", { name: "The trunk" }).waitFor();
  await mine(page).filter({ has: page.getByText("Message 1202", { exact: true }) }).getByRole("button", { name: "Go on from here in a new conversation" }).click();
  await until("an older page is asked for", () => held.length);
  await page.getByRole("option", { name: /elsewhere/ }).click();
  await mine(page).getByText("elsewhere").waitFor();
  await page.unroute(older);
  for (const route of held) await route.continue();

  await page.getByText("Not all was copied: no room just now").waitFor();
  await page.getByRole("button", { name: "Go on", exact: true }).click();
  await page.getByText("A new conversation goes on from there.").waitFor({ timeout: 120_000 });
  assert.match(page.url(), /#\/chat\/other$/, "the user stays where he is");
  const { sessions } = await server.api("GET", "/api/chat/sessions");
  const copy = sessions.find(({ title }) => title === "The trunk (branch)");
  assert.equal((await server.api("GET", `/api/chat/sessions/${copy.session_id}`)).metadata.branched_from.session_id, "trunk");
  assert.deepEqual(await copied(server, copy.session_id), Array.from({ length: 1203 }, (_, n) => `Message ${n}`));
});

test("a found message is shown in its version, which may be the current one", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const first = await server.say("found", "one");
  const lost = await server.say("found", "a rare word");
  const current = await server.api("POST", "/api/chat", { session_id: "found", message: "other", rewind_to: first.assistant_message_id });
  const page = await open(server, { at: `#/chat/found/${lost.user_message_id}` });
  await mine(page).getByText("a rare word").waitFor();
  const looking = page.getByText("You are looking at another version.");
  await looking.waitFor();
  await page.goto(`${server.url}/#/chat/found/${current.user_message_id}`);
  await mine(page).getByText("other").waitFor();
  await looking.waitFor({ state: "detached" });
});
