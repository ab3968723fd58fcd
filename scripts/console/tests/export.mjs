// Export from the page, against the server's own call.
import fs from "node:fs";

import { WINDOWS, assert, test, until } from "../harness.mjs";
import { more, notes, opened } from "../transfer.mjs";

const NO_MONGO = { mongo: { enabled: true, uri: "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100" } };

async function saved(page, dialog) {
  const [download] = await Promise.all([page.waitForEvent("download"), dialog.getByRole("button", { name: "Export" }).click()]);
  return { name: download.suggestedFilename(), text: fs.readFileSync(await download.path(), "utf8") };
}

test("the open conversation is saved as Markdown, NDJSON and in OpenAI's form, and everything as NDJSON", async ({ chatkeep, open, axe, picture }) => {
  const server = await chatkeep();
  await server.record("trip", ["Where to?", "To the <sea> & back."]);
  await server.record("other", ["Something else"]);
  const page = await opened(open, server, { at: "#/chat/trip" });
  await page.getByRole("article").getByText("To the <sea> & back.").waitFor();
  for (const [label, format, ending] of [["Markdown", "markdown", "md"], ["NDJSON", "ndjson", "ndjson"], ["OpenAI form", "openai", "jsonl"]]) {
    const dialog = await more(page, "Export…");
    await dialog.getByRole("radio", { name: label }).check();
    if (format === "markdown") {
      await axe(page, "the export");
      await picture(page, "export");
    }
    const file = await saved(page, dialog);
    assert.equal(file.name, `trip.${ending}`);
    assert.equal(file.text, await server.api("GET", `/api/chat/export?session_id=trip&format=${format}`));
    await notes(page).getByText(`Exported to trip.${ending}`).waitFor();
  }
  const dialog = await more(page, "Export…");
  await dialog.getByRole("radio", { name: /^Everything Every/ }).check();
  await dialog.getByRole("radio", { name: "NDJSON" }).check();
  assert.equal((await saved(page, dialog)).text, await server.api("GET", "/api/chat/export"));
  await axe(page, "a note");
});

test("what is selected in the list is saved in one file, also with a token", async ({ chatkeep, open }) => {
  const server = await chatkeep({ config: { server: { auth_token: "the-token-of-the-test" } } });
  for (const session of ["a", "b", "c"]) await server.record(session, [`Conversation ${session}`]);
  const page = await opened(open, server, { allow: [/status of 401/] });
  await page.getByLabel("Token", { exact: true }).fill("the-token-of-the-test");
  await page.keyboard.press("Enter");
  await page.getByRole("option").first().waitFor();
  await page.getByRole("listbox").focus();
  await page.keyboard.press("Shift+ArrowDown");
  await page.getByRole("toolbar").getByRole("button", { name: "Export" }).click();
  const dialog = page.getByRole("dialog", { name: "Export" });
  await dialog.getByText("Conversation c, Conversation b").waitFor();
  await dialog.getByRole("radio", { name: "NDJSON" }).check();
  const { text } = await saved(page, dialog);
  assert.deepEqual(text.trim().split("\n").map((line) => JSON.parse(line).session_id).sort(), ["b", "c"]);
});

test("an export goes straight to a file that the user chose", async ({ chatkeep, open }) => {
  const server = await chatkeep();
  await server.record("trip", ["Where to?", "To the sea."]);
  // A real file of the browser, in the place of the one that its dialog would give.
  const picker = () => {
    window.showSaveFilePicker = async ({ suggestedName }) => (await navigator.storage.getDirectory()).getFileHandle(suggestedName, { create: true });
  };
  const page = await opened(open, server, { at: "#/chat/trip", picker });
  await page.getByRole("article").getByText("To the sea.").waitFor();
  const dialog = await more(page, "Export…");
  await dialog.getByRole("button", { name: "Export" }).click();
  await notes(page).getByText("Exported to trip.md").waitFor();
  const text = await page.evaluate(async () => (await (await (await navigator.storage.getDirectory()).getFileHandle("trip.md")).getFile()).text());
  assert.equal(text, await server.api("GET", "/api/chat/export?session_id=trip&format=markdown"));
});

test("an export that is not whole is told, and what there is is kept", async ({ chatkeep, open, axe }) => {
  const server = await chatkeep({ config: NO_MONGO });
  await server.record("trip", ["Where to?"]);
  const page = await opened(open, server, { at: "#/chat/trip", allow: [/ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION/] });
  await page.getByRole("article").getByText("Where to?").waitFor();
  for (const label of ["Markdown", "NDJSON"]) {
    const dialog = await more(page, "Export…");
    await dialog.getByRole("radio", { name: label }).check();
    const { text } = await saved(page, dialog);
    assert.match(text, /Where to\?/);
    await notes(page).getByText(/The export is not complete: .*MongoDB/).waitFor();
    await axe(page, "a note of what is missing");
    await page.getByRole("button", { name: "Close this note" }).click();
  }
});

for (const [size, how] of Object.entries(WINDOWS)) {
  test(`it looks right: ${size}`, async ({ chatkeep, open, looks }) => {
    const server = await chatkeep();
    await server.record("trip", ["Where to, and with whom?", "To the sea."]);
    const page = await opened(open, server, { at: "#/chat/trip", ...how });
    await page.getByRole("article").getByText("To the sea.").waitFor();
    if (how.width) await page.getByRole("button", { name: "Conversations", exact: true }).first().click();
    await more(page, "Export…");
    await looks(page, "export");
  });
}
