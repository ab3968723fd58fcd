// The search: titles and texts, by keys alone, and what it says when it cannot know everything.
import { WINDOWS, assert, test, until } from "../harness.mjs";

const dialog = (page) => page.getByRole("dialog", { name: "Search" });
const field = (page) => page.getByRole("combobox", { name: "Search titles and messages" });
const hits = (page) => dialog(page).getByRole("option");
const marked = (node) => node.locator("mark").allTextContents();
const chosen = (page) => dialog(page).locator("[role=option][aria-selected=true]");

async function searching(page, words) {
  await page.getByRole("textbox", { name: "Message" }).waitFor();
  await page.keyboard.press("Control+k");
  await field(page).waitFor();
  if (words) await field(page).fill(words);
}

const settled = (page) => until("the search is over", async () => /\d messages?[^…]*$|Nothing/.test(await dialog(page).getByRole("status").textContent()));

test("Ctrl+K finds titles and texts, marks the words, and opens at the message", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  await server.record("garden", Array.from({ length: 400 }, (_, n) => (n === 9 ? "The TOMATO wants water each morning" : `Line ${n}`)));
  await server.record("kitchen", ["How long does it cook?", "Ten minutes."]);
  await server.api("PATCH", "/api/chat/sessions/kitchen", { title: "Water and tomatoes" });
  const page = await open(server);
  await page.getByRole("option").first().waitFor();
  await searching(page, "tomato WATER");
  await hits(page).nth(1).waitFor();
  await settled(page);
  assert.deepEqual(await marked(hits(page).nth(0)), ["Water", "tomato"]);
  assert.deepEqual(await marked(hits(page).nth(1)), ["TOMATO", "water"]);
  assert.match(await dialog(page).getByRole("status").textContent(), /^1 title, 1 message\.$/);
  await axe(page, "what a search found");
  await picture(page, "search-found");

  await page.keyboard.press("ArrowDown");
  await until("the field names the active hit", async () => (await field(page).getAttribute("aria-activedescendant")) === (await hits(page).nth(1).getAttribute("id")));
  await page.keyboard.press("Enter");
  await dialog(page).waitFor({ state: "detached" });
  await page.waitForURL(/#\/chat\/garden/);
  const message = page.getByRole("article").filter({ hasText: "The TOMATO wants water each morning" });
  await message.waitFor();
  await until("it is in sight", () => message.evaluate((node) => {
    const { top, bottom } = node.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  }));

  // Enter comes before what was typed is searched for; the one before it ends a composition.
  await searching(page);
  await hits(page).nth(1).waitFor();
  await field(page).evaluate((input) => {
    const enter = (how) => input.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...how }));
    enter({ keyCode: 229 });
    input.value = "Line 399";
    input.dispatchEvent(new InputEvent("input", { bubbles: true }));
    enter();
  });
  await page.getByRole("article").filter({ hasText: "Line 399" }).and(page.locator(":focus")).waitFor();
  assert.match(page.url(), /#\/chat\/garden\/.+/);
});

test("without words it goes to another conversation, and Escape gives the focus back", async ({ chatkeep, open, axe }) => {
  const server = await chatkeep();
  await server.record("one", ["The first"]);
  await server.record("two", ["The second"]);
  const page = await open(server, { at: "#/chat/two" });
  const box = page.getByRole("textbox", { name: "Message" });
  await box.focus();
  await searching(page);
  await hits(page).nth(1).waitFor();
  await axe(page, "a search without words");
  await page.keyboard.press("Escape");
  await dialog(page).waitFor({ state: "detached" });
  assert.ok(await box.evaluate((node) => node === document.activeElement));
  await searching(page);
  await hits(page).nth(1).waitFor();
  await page.keyboard.press("ArrowUp");
  await until("it goes round", async () => /The first/.test(await chosen(page).textContent()));
  await page.keyboard.press("Enter");
  await page.waitForURL(/#\/chat\/one/);
});

test("more is found by going on downward", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("many", Array.from({ length: 55 }, (_, n) => `needle ${n}`));
  const page = await open(server);
  await searching(page, "needle");
  await until("a page is there", async () => (await hits(page).count()) > 15);
  await settled(page);
  const first = await hits(page).count();
  assert.ok(first < 50, `${first} at once`);
  await until("all are there", async () => {
    for (let n = 0; n < 5; n += 1) await page.keyboard.press("ArrowDown");
    return (await hits(page).filter({ hasText: "needle" }).count()) >= 56;
  });
  const texts = await dialog(page).locator(".hit-snippet").allTextContents();
  assert.equal(new Set(texts).size, 55);
});

test("a newer query ends the one before, and only its own hits are shown", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("s", ["first words", "second words"]);
  const page = await open(server);
  await page.getByRole("option").first().waitFor();
  const ended = [];
  page.on("requestfailed", (request) => ended.push(request.url()));
  let late;
  await page.route(/search\?q=first/, (route) => { late = route; });
  await searching(page, "first");
  await until("the first query is asked", () => late);
  await field(page).fill("second");
  await dialog(page).locator("mark", { hasText: "second" }).waitFor();
  await until("the first was ended", () => ended.some((url) => /q=first/.test(url)));
  await late.continue().catch(() => {});
  await settled(page);
  assert.deepEqual(await dialog(page).locator(".hit-snippet").allTextContents(), ["second words"]);
});

test("a server that is busy is asked again when it says", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("s", ["something to find"]);
  const page = await open(server, { allow: [/status of 503/] });
  // The second request waits until it was seen that there will be one.
  let asked = 0, seen;
  const told = new Promise((resolve) => { seen = resolve; });
  await page.route(/api\/chat\/search/, (route) => {
    asked += 1;
    if (asked > 1) return told.then(() => route.continue());
    const problem = { type: "about:blank", title: "Service Unavailable", status: 503, code: "search_busy", detail: "two searches are running" };
    return route.fulfill({ status: 503, headers: { "Retry-After": "1" }, contentType: "application/problem+json", body: JSON.stringify(problem) });
  });
  await searching(page, "find");
  await dialog(page).getByText("trying again").waitFor();
  seen();
  await dialog(page).locator(".hit-snippet mark", { hasText: "find" }).waitFor();
  assert.equal(asked, 2);
});

test("it says when nothing is found, when something may be missing, and when the server is gone", async ({ chatkeep, open, axe }) => {
  const server = await chatkeep({ config: { mongo: { enabled: true, uri: "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100" } } });
  await server.record("s", ["something"]);
  const { reason } = await server.api("GET", "/api/chat/search?q=nothing");
  const page = await open(server);
  await searching(page, "nothing");
  await dialog(page).getByRole("status").filter({ hasText: /^Nothing has all of these words. Something may be missing: / }).filter({ hasText: reason }).waitFor();
  await axe(page, "a search that found nothing");
  await server.kill9();
  await field(page).fill("something");
  await dialog(page).getByText("The search failed: The server cannot be reached.").waitFor();
});

test("what is found is text, whatever it says", async ({ chatkeep, open, picture }) => {
  const server = await chatkeep();
  const hostile = "<img src=x onerror=\"document.title='run'\"> <mark>no</mark> \u202e evil İ";
  await server.record("s", [hostile, `answer ${hostile}`]);
  const page = await open(server);
  await searching(page, "onerror");
  await hits(page).nth(2).waitFor();
  await settled(page);
  await picture(page, "search-hostile");
  assert.equal(await dialog(page).locator("img").count(), 0);
  assert.deepEqual([...new Set(await dialog(page).locator("mark").allTextContents())], ["onerror"]);
  assert.notEqual(await page.title(), "run");
});

for (const [size, how] of Object.entries(WINDOWS)) {
  test(`it looks right: ${size}`, async ({ chatkeep, open, looks }) => {
    const server = await chatkeep();
    for (let n = 0; n < 12; n += 1) await server.record(`s${n}`, [`A question about water and plants, number ${n}`, `An answer about water. ${"It goes on for a while. ".repeat(9)}`]);
    const page = await open(server, how);
    await searching(page);
    await field(page).fill("water");
    await dialog(page).locator("mark").first().waitFor();
    await settled(page);
    await page.keyboard.press("ArrowDown");
    await looks(page, "search");
  });
}
