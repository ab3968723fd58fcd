// The list of sessions: what it shows while others work, its keys, and what can be done with one conversation or several.
import { WINDOWS, assert, test, until } from "../harness.mjs";

const HOSTILE = "<img src=x onerror=\"document.title='run'\"> \u202e</div>";

const list = (page) => page.getByRole("listbox", { name: "Conversations" });
const row = (page, text) => page.getByRole("option").filter({ hasText: text });
const titles = (page) => page.locator(".row-title").allTextContents();
const active = (page) => page.evaluate(() => {
  const box = document.activeElement;
  return document.getElementById(box?.getAttribute("aria-activedescendant") ?? "")?.querySelector(".row-title").textContent;
});

// Conversations one to `count`, the last one the newest.
async function recorded(server, count) {
  const messages = Array.from({ length: count }, (_, n) => ({ session_id: `s${n + 1}`, role: "user", text: `Conversation ${n + 1}` }));
  for (let from = 0; from < count; from += 1000) await server.api("POST", "/api/chat/messages", messages.slice(from, from + 1000));
}

async function opened(open, server, how) {
  const page = await open(server, how);
  await page.getByRole("option").first().waitFor();
  return page;
}

const session = (server, id) => server.api("GET", `/api/chat/sessions/${id}`);
const listed = async (server, query = "") => (await server.api("GET", `/api/chat/sessions?limit=500${query}`)).sessions.map(({ session_id }) => session_id);

test("a conversation that is being answered shows it while another one is open", async ({ chatkeep, slowModel, open, axe, picture }) => {
  const model = await slowModel();
  const server = await chatkeep({ model });
  await recorded(server, 3);
  const page = await opened(open, server, { at: "#/chat/s1" });
  const reply = server.say("s3", "go on");
  const asked = await model.asked();
  asked.say("Half");
  await row(page, "Conversation 3").getByText("Answering…").waitFor();
  await axe(page, "a list with an answer in progress");
  await picture(page, "list-answering");
  assert.equal(await row(page, "Conversation 2").getByText("Answering…").count(), 0);
  asked.say(" and whole.");
  asked.end();
  await reply;
  await row(page, "Conversation 3").getByText("Half and whole.").waitFor();
  assert.equal(await page.getByText("Answering…").count(), 0);
});

test("what other clients record, rename and erase is shown at once, and the focus stays on its row", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await recorded(server, 4);
  const page = await opened(open, server);
  await list(page).focus();
  await page.keyboard.press("ArrowDown");
  assert.equal(await active(page), "Conversation 3");
  await server.record("s1", ["Conversation 1 again"]);
  await until("it stands first", async () => (await titles(page))[0] === "Conversation 1");
  assert.equal(await active(page), "Conversation 3");
  await server.api("PATCH", "/api/chat/sessions/s3", { title: "Renamed elsewhere" });
  await row(page, "Renamed elsewhere").waitFor();
  assert.equal(await active(page), "Renamed elsewhere");
  await server.api("DELETE", "/api/chat/sessions/s3");
  await until("the next row is the active one", async () => (await active(page)) === "Conversation 2");
  assert.deepEqual(await titles(page), ["Conversation 1", "Conversation 4", "Conversation 2"]);
});

test("keys move, open, select and rename", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  await recorded(server, 30);
  const page = await opened(open, server);
  await list(page).focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.waitForURL(/#\/chat\/s29/);
  await until("it is marked as the open one", () => page.locator("[aria-current=true]").getByText("Conversation 29", { exact: true }).count());

  await list(page).focus();
  await page.keyboard.press("End");
  await until("the last one is active", async () => (await active(page)) === "Conversation 1");
  await page.keyboard.press("Home");
  await page.keyboard.press("Space");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Shift+ArrowDown");
  await page.getByText("3 selected").waitFor();
  await axe(page, "a list with rows selected");
  await picture(page, "list-selected");
  await page.keyboard.press("Escape");
  await page.getByText("3 selected").waitFor({ state: "detached" });
  assert.equal(await page.locator("[role=option][aria-selected=true]").count(), 0);

  await page.keyboard.press("F2");
  const field = page.getByRole("textbox", { name: "Title" });
  await axe(page, "the question for a title");
  await field.fill("x".repeat(201));
  await page.keyboard.press("Enter");
  await page.getByText("A title has at most 200 characters.").waitFor();
  await field.fill(HOSTILE);
  await page.keyboard.press("Enter");
  await row(page, HOSTILE).waitFor();
  assert.equal((await session(server, "s28")).title, HOSTILE);
  assert.notEqual(await page.title(), "run");
  assert.equal(await active(page), HOSTILE);
});

test("pinned conversations stand first, also those that the first page does not have", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await recorded(server, 600);
  await server.api("PATCH", "/api/chat/sessions/s1", { pinned: true });
  const page = await opened(open, server);
  await until("the oldest stands first", async () => (await titles(page))[0] === "Conversation 1");
  await row(page, "Conversation 600").hover();
  await page.mouse.down({ button: "right" });
  assert.equal(await page.getByRole("menu").count(), 0, "Firefox closes it when the button is released");
  await page.mouse.up({ button: "right" });
  await page.getByRole("menuitem", { name: "Pin" }).click();
  await until("both are pinned", async () => (await titles(page)).slice(0, 3).join() === "Conversation 600,Conversation 1,Conversation 599");
  assert.equal((await session(server, "s600")).pinned, true);
  await list(page).focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("p");
  await until("it stands at its own place", async () => (await titles(page))[0] === "Conversation 1");
  assert.equal((await session(server, "s600")).pinned, false);
});

test("several are archived after a question, found in the archive, and come back", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  await recorded(server, 5);
  const page = await opened(open, server);
  await list(page).focus();
  await page.keyboard.press("Shift+ArrowDown");
  await page.getByText("2 selected").waitFor();
  await page.getByRole("button", { name: "Archive" }).click();
  await axe(page, "the question before archiving");
  await page.getByRole("dialog", { name: "Archive 2 conversations?" }).getByRole("button", { name: "Archive" }).click();
  await until("they have left the list", async () => (await titles(page)).join() === "Conversation 3,Conversation 2,Conversation 1");
  await until("they are archived", async () => (await listed(server, "&archived=true")).join() === "s5,s4");

  await page.getByRole("group", { name: "View" }).getByRole("button", { name: "Archive" }).click();
  const archive = page.getByRole("listbox", { name: "Archive" });
  await archive.getByText("Conversation 4").first().waitFor();
  await picture(page, "list-archive");
  await axe(page, "the archive");
  await archive.focus();
  await page.keyboard.press("a");
  await page.getByText("1 conversation restored.").waitFor();
  await until("it is back", async () => (await listed(server, "&archived=true")).length === 1);
  await page.getByRole("button", { name: "Undo" }).last().click();
  await until("it is archived again", async () => (await listed(server, "&archived=true")).length === 2);
});

test("several are erased, but only after a question", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  await recorded(server, 12);
  const page = await opened(open, server, { at: "#/chat/s11" });
  await list(page).focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("Delete");
  const one = page.getByRole("dialog", { name: "Erase this conversation?" });
  await one.getByText("Conversation 12").waitFor();
  await page.keyboard.press("Enter");
  await one.waitFor({ state: "detached" });
  assert.equal((await listed(server)).length, 12, "Enter alone erases nothing");

  for (let n = 0; n < 9; n += 1) await page.keyboard.press("Shift+ArrowDown");
  await page.getByText("10 selected").waitFor();
  await page.keyboard.press("Delete");
  const several = page.getByRole("dialog", { name: "Erase 10 conversations?" });
  await several.getByText("and 5 more").waitFor();
  await axe(page, "the question before erasing");
  await picture(page, "list-erase");
  await several.getByRole("button", { name: "Erase" }).click();
  await page.getByText("10 conversations erased.").waitFor();
  assert.deepEqual(await listed(server), ["s2", "s1"]);
  await until("the list has the others", async () => (await titles(page)).join() === "Conversation 2,Conversation 1");
  await page.waitForFunction(() => !location.hash.includes("s11"));
});

test("a thousand conversations are few nodes, and all can be reached", async ({ chatkeep, open, diagnostic }) => {
  const server = await chatkeep();
  await recorded(server, 1200);
  const page = await opened(open, server);
  const began = Date.now();
  await list(page).focus();
  let nodes = 0;
  await until("the oldest is there", async () => {
    await page.keyboard.press("End");
    nodes = Math.max(nodes, await page.getByRole("option").count());
    return await row(page, /^.*Conversation 1\D/).count() || (await titles(page)).at(-1) === "Conversation 1";
  }, 30);
  diagnostic(`1200 conversations in ${Date.now() - began} ms, at most ${nodes} rows as nodes`);
  assert.ok(nodes < 100, `${nodes} rows are nodes`);
  assert.equal(await page.locator("[role=option]").last().getAttribute("aria-posinset"), "1200");
  await until("how many there are is known", async () => (await page.locator("[role=option]").last().getAttribute("aria-setsize")) === "1200");
  await page.keyboard.press("Home");
  await until("the newest is there", async () => (await titles(page))[0] === "Conversation 1200");
});

test("the row under the reader stays where it is when others come in above", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await recorded(server, 80);
  const page = await opened(open, server);
  await list(page).evaluate((box) => { box.scrollTop = 20 * box.querySelector("[role=option]").offsetHeight; });
  const top = () => row(page, "Conversation 55").evaluate((node) => Math.round(node.getBoundingClientRect().top));
  await row(page, "Conversation 55").waitFor();
  const before = await top();
  await server.record("other", ["A new one"]);
  await server.record("s2", ["An old one"]);
  await until("both have come in", () => list(page).locator("[aria-posinset='28']").getByText("Conversation 55", { exact: true }).count());
  assert.equal(await top(), before);
});

test("a page that is not seen holds no connection to the feed, and is brought up when it is seen", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await recorded(server, 2);
  const page = await opened(open, server);
  const streams = async () => Number(/^chatkeep_feed_streams(?:_open)?(?:\{[^}]*\})? (\d+)/m.exec(await server.api("GET", "/metrics"))?.[1] ?? NaN);
  const seen = (state) => page.evaluate((now) => {
    Object.defineProperty(document, "visibilityState", { value: now, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, state);
  await until("it follows", async () => (await streams()) === 1);
  await seen("hidden");
  await until("it follows no more", async () => (await streams()) === 0);
  await server.record("meanwhile", ["Said meanwhile"]);
  await seen("visible");
  await row(page, "Said meanwhile").waitFor();
});

test("the list goes on by itself after the server was killed", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await recorded(server, 2);
  const page = await opened(open, server);
  await server.kill9();
  await page.getByText("Changes are not shown at the moment").waitFor();
  assert.deepEqual(await titles(page), ["Conversation 2", "Conversation 1"]);
  await server.restart();
  await server.record("s1", ["Back again"]);
  await until("it is live again", async () => (await titles(page))[0] === "Conversation 1", 90);
  await page.getByText("Changes are not shown at the moment").waitFor({ state: "detached" });
});

test("a list that may lack conversations says why", async ({ chatkeep, open, axe }) => {
  const server = await chatkeep({ config: { mongo: { enabled: true, uri: "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100" } } });
  await recorded(server, 1);
  const { reason } = await server.api("GET", "/api/chat/sessions");
  const page = await opened(open, server);
  await page.getByText(`Not everything is listed: ${reason}`).waitFor();
  await axe(page, "a list that is not complete");
});

test("a list that could not be read says so, and is read again by itself", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await recorded(server, 2);
  const page = await open(server, { blank: true, allow: [/ERR_FAILED/] });
  let isRefused = true;
  await page.route(/api\/chat\/sessions\?/, (route) => (isRefused ? route.abort() : route.continue()));
  await page.goto(`${server.url}/`);
  await page.getByText("The list could not be read: The server cannot be reached.").waitFor();
  assert.equal(await page.getByRole("button", { name: "Try again" }).count(), 1);
  isRefused = false;
  await row(page, "Conversation 2").waitFor();
  await page.getByText("The list could not be read").waitFor({ state: "detached" });
});

test("an empty list says how the first conversation comes", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  const page = await open(server);
  await page.getByText("No conversations yet").waitFor();
  await axe(page, "an empty list");
  await picture(page, "list-empty");
  await server.record("first", ["Hello"]);
  await row(page, "Hello").waitFor();
  assert.equal(await page.getByText("No conversations yet").count(), 0);
});

for (const [access, write, erase] of [["read", false, false], ["write", true, false], ["admin", true, true]]) {
  test(`a token of access ${access} sees the controls that it may use`, async ({ chatkeep, open }) => {
    const tokens = [{ name: "all", token: "an-admin-token-of-the-test", access: "admin" }, { name: "one", token: "the-token-of-the-test", access }];
    const server = await chatkeep({ config: { server: { auth_tokens: tokens } } });
    const post = (path, json) => fetch(server.url + path, { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${tokens[0].token}` }, body: JSON.stringify(json) });
    await post("/api/chat/messages", { session_id: "s1", role: "user", text: "Conversation 1" });
    const page = await open(server, { allow: [/status of 401/] });
    await page.getByLabel("Token", { exact: true }).fill(tokens[1].token);
    await page.keyboard.press("Enter");
    await row(page, "Conversation 1").click({ button: "right" });
    const entries = await page.getByRole("menuitem").allTextContents();
    assert.equal(entries.some((text) => /^Rename/.test(text)), write, entries.join());
    assert.equal(entries.some((text) => /^Pin/.test(text)), write, entries.join());
    assert.equal(entries.some((text) => /^Erase/.test(text)), erase, entries.join());
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "More" }).click();
    assert.equal(await page.getByRole("menuitem", { name: "Import" }).count(), erase ? 1 : 0);
    await page.keyboard.press("Escape");
    await list(page).focus();
    for (const key of ["F2", "Delete", "p", "a"]) {
      if (!write || (key === "Delete" && !erase)) await page.keyboard.press(key);
    }
    assert.equal(await page.getByRole("dialog").count(), 0);
  });
}

for (const [size, how] of Object.entries(WINDOWS)) {
  test(`it looks right: ${size}`, async ({ chatkeep, open, looks }) => {
    const server = await chatkeep();
    await recorded(server, 40);
    await server.record("long", [`${"A title that is much longer than its place ".repeat(3)}`, "An answer that is longer than its place as well, and goes on and on, so that it is cut."]);
    await server.record("hostile", [HOSTILE, "مرحبا"]);
    await server.api("PATCH", "/api/chat/sessions/s2", { pinned: true, title: "Plans for the week" });
    const page = await open(server, { at: "#/chat/long", ...how });
    if (how.width) await page.getByRole("button", { name: "Conversations", exact: true }).first().click();
    await row(page, "Plans for the week").waitFor();
    await looks(page, "list");
    await list(page).focus();
    await page.keyboard.press("Shift+F10");
    await page.getByRole("menu").waitFor();
    await looks(page, "list-menu");
  });
}
