// Import from the page: what is recorded, what is told, and what the page leaves to the command line.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after } from "node:test";

import { WINDOWS, assert, test, until } from "../harness.mjs";
import { more, notes, opened } from "../transfer.mjs";

const folders = [];
after(() => folders.forEach((folder) => fs.rmSync(folder, { recursive: true, force: true })));

async function imported(page, files) {
  const dialog = await more(page, "Import…");
  // By their paths: a long file would be slow to hand over by its content.
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "console-import-"));
  const paths = files.map(({ name, text }) => {
    fs.writeFileSync(path.join(folder, name), text);
    return path.join(folder, name);
  });
  folders.push(folder);
  await dialog.locator("input[type=file]").setInputFiles(paths);
  return dialog;
}

const lines = (messages) => messages.map((message) => JSON.stringify(message)).join("\n") + "\n";

test("a file of lines is imported once, and its conversations are in the list", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  await server.record("trip", ["Where to?", "To the sea."]);
  const text = await server.api("GET", "/api/chat/export");
  await server.api("DELETE", "/api/chat/sessions/trip");
  const page = await opened(open, server);
  for (const told of ["imported 2, already there 0, skipped 0", "imported 0, already there 2, skipped 0"]) {
    const dialog = await imported(page, [{ name: "trip.ndjson", text }]);
    await dialog.getByRole("textbox", { name: "Into one conversation" }).fill("trip again");
    await dialog.getByRole("button", { name: "Import" }).click();
    await dialog.locator("[aria-invalid=true]").waitFor();
    await dialog.getByRole("textbox", { name: "Into one conversation" }).fill("trip-again");
    await axe(page, "the import");
    await picture(page, "import");
    await dialog.getByRole("button", { name: "Import" }).click();
    await notes(page).getByText(told).waitFor();
  }
  await page.getByRole("option").filter({ hasText: "To the sea." }).waitFor();
  const { messages } = await server.api("GET", "/api/chat/history?session_id=trip-again");
  assert.deepEqual(messages.map(({ text: said }) => said), ["Where to?", "To the sea."]);
});

test("a long file goes in pieces, and lines that are skipped are named by their number in it", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  const page = await opened(open, server);
  const message = (n) => ({ session_id: `s${n % 7}`, role: "user", text: `Line ${n} ${"ä".repeat(2200)}` });
  const all = lines(Array.from({ length: 2000 }, (_, n) => message(n + 1))).split("\n");
  all[0] = JSON.stringify({ ...message(1), role: "NOT A ROLE" });
  all[1600] = "no JSON";
  all[1999] = JSON.stringify({ ...message(2000), created_at: "2001-01-01T00:00:00Z" });
  const posts = [];
  page.on("request", (request) => request.url().includes("/api/chat/import") && posts.push(request.url()));
  const dialog = await imported(page, [{ name: "long.ndjson", text: all.join("\n") }]);
  await dialog.getByRole("button", { name: "Import" }).click();
  const summary = page.getByRole("dialog", { name: "Imported, with lines skipped" });
  await summary.getByText("long.ndjson: imported 1997, already there 0, skipped 3.").waitFor({ timeout: 60_000 });
  assert.deepEqual(await summary.locator("tbody td:first-child").allTextContents(), ["1", "1601", "2000"]);
  await summary.getByText("Set ttl_days: 0").waitFor();
  assert.ok(posts.length > 2, `${posts.length} pieces`);
  await axe(page, "the summary of an import");
  await picture(page, "import-skipped");
});

test("files of other systems are answered with the command that imports them", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  const page = await opened(open, server);
  const files = [
    ["my chats.zip", "PK\u0003\u0004…", "chatkeep import 'my chats.zip'"],
    ["conversations.json", "[\n  {\"mapping\": {}}\n]", "chatkeep import conversations.json"],
    ["-it's.jsonl", "{\"messages\": []}\n", "chatkeep import './-it'\\''s.jsonl'"],
    ["librechat.json", "{\n  \"conversationId\": \"x\"\n}", "chatkeep import librechat.json"],
    ["langchain.jsonl", "{\"SessionId\": \"x\", \"History\": \"{}\"}\n", "chatkeep import langchain.jsonl"],
    ["documents.jsonl", "{\"_id\": {}, \"role\": \"user\", \"text\": \"x\"}\n", "chatkeep import documents.jsonl"],
    ["read.md", "# Title\n", undefined],
    ["picture.png", "\u0089PNG", undefined],
    ["empty.ndjson", "", undefined],
  ];
  const dialog = await imported(page, files.map(([name, text]) => ({ name, text })));
  await until("all are looked at", async () => (await dialog.locator(".import-file").count()) === files.length);
  assert.deepEqual(await dialog.locator("code").allTextContents(), files.map(([, , command]) => command).filter(Boolean));
  assert.ok(await dialog.getByRole("button", { name: "Import" }).isDisabled());
  await axe(page, "files that the page does not import");
  await picture(page, "import-other");
});

test("a file is dropped anywhere on the page", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await opened(open, server);
  await page.getByText("No conversations yet").waitFor();
  const file = await page.evaluateHandle((text) => {
    const data = new DataTransfer();
    data.items.add(new File([text], "dropped.ndjson"));
    return data;
  }, lines([{ session_id: "dropped", role: "user", text: "It was dropped" }]));
  await page.dispatchEvent("main", "dragover", { dataTransfer: file });
  await page.dispatchEvent("main", "drop", { dataTransfer: file });
  await page.getByRole("dialog", { name: "Import" }).getByRole("button", { name: "Import" }).click();
  await notes(page).getByText("imported 1").waitFor();
  await page.getByRole("option").filter({ hasText: "It was dropped" }).waitFor();
});

test("a token that may not import takes no file", async ({ chatkeep, open }) => {
  const server = await chatkeep({ config: { server: { auth_tokens: [{ name: "one", token: "the-token-of-the-test", access: "write" }] } } });
  const page = await opened(open, server, { allow: [/status of 401/] });
  await page.getByLabel("Token", { exact: true }).fill("the-token-of-the-test");
  await page.keyboard.press("Enter");
  await page.getByText("No conversations yet").waitFor();
  const taken = await page.evaluate(() => {
    const data = new DataTransfer();
    data.items.add(new File(["{}"], "dropped.ndjson"));
    const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
    return event.defaultPrevented;
  });
  assert.ok(taken, "the browser would leave the page for the file");
  assert.equal(await page.getByRole("dialog").count(), 0);
});

test("an import that the server cannot end says what was recorded", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  const page = await opened(open, server);
  // The second piece waits until the server is gone.
  let held, count = 0;
  await page.route(/api\/chat\/import/, (route) => {
    count += 1;
    if (count === 2) held = route;
    else route.continue();
  });
  const text = lines(Array.from({ length: 2300 }, (_, n) => ({ session_id: "s", role: "user", text: `Line ${n} ${"x".repeat(4000)}` })));
  const dialog = await imported(page, [{ name: "long.ndjson", text }]);
  await dialog.getByRole("button", { name: "Import" }).click();
  await until("the first piece is there", () => held);
  await notes(page).getByText(/Importing long\.ndjson… [1-9]/).waitFor();
  await server.kill9();
  await held.continue();
  await notes(page).getByText(/The import of long\.ndjson ended: The server cannot be reached\. imported [1-9]\d*, .* goes on after it\./).waitFor();
});

for (const [size, how] of Object.entries(WINDOWS)) {
  test(`it looks right: ${size}`, async ({ chatkeep, open, looks }) => {
    const server = await chatkeep();
    const page = await opened(open, server, how);
    if (how.width) await page.getByRole("button", { name: "Conversations", exact: true }).first().click();
    await imported(page, [{ name: "trip.ndjson", text: "{\"role\":\"user\",\"text\":\"x\"}\n" }, { name: "chatgpt-export.zip", text: "PK\u0003\u0004" }]);
    await page.getByText("chatkeep import chatgpt-export.zip").waitFor();
    await looks(page, "import");
  });
}
