// Export and import from the page: the questions before, what is told meanwhile, the summary after. How the bytes go stands in
// download.js and upload.js.

import { button, openDialog, row, toast } from "./dialog.js";
import { element, replace, set } from "./dom.js";
import { FORMATS, download, openFile } from "./download.js";
import { bytes } from "./units.js";
import { recognised, upload } from "./upload.js";

const SESSION_ID = /^(?!\.{1,2}$)[A-Za-z0-9._:@-]{1,128}$/;

// What takes the files that are dropped: the last transfer that was made, if its token may import.
let taker;

// `current()` is the session that is open, if one; `titleOf(session_id)` what it is called. openExport(session_ids) asks how to export these, or the one that is open, or
// everything; openImport() asks for a file. Files that are dropped on the page are taken as well. Import needs admin access.
export function transfer({ server, canAdmin, current, titleOf }) {
  let dropped;

  function openExport(sessions = []) {
    const open = sessions.length ? undefined : current();
    const scopes = sessions.length
      ? [choice("what", "these", sessions.length > 1 ? `${sessions.length} conversations` : "This conversation", named(sessions), true)]
      : [open && choice("what", "open", "This conversation", titleOf(open), true),
        choice("what", "all", "Everything", "Every conversation that you may read.", !open)];
    const usual = open || sessions.length ? "markdown" : "ndjson";
    const formats = Object.entries(FORMATS).map(([key, { name: label, says }]) => choice("as", key, label, says, key === usual));
    const submit = async (event) => {
      event.preventDefault();
      const scope = view.dialog.querySelector("[name=what]:checked").value;
      const format = view.dialog.querySelector("[name=as]:checked").value;
      const which = { these: sessions, open: [open], all: [] }[scope];
      const file = await openFile(fileName(which, format), FORMATS[format]).catch(refusedFile);
      if (!file) return;
      view.close();
      await runExport(which, format, file);
    };
    const view = openDialog({
      title: "Export", class: "dialog-transfer",
      content: element("form", { onsubmit: submit },
        element("fieldset", {}, element("legend", { text: "What" }), scopes),
        element("fieldset", {}, element("legend", { text: "As" }), formats),
        row(button("Cancel", "quiet", () => view.close()), element("button", { class: "primary", type: "submit" }, "Export"))),
    });
  }

  function named(sessions) {
    const more = sessions.length - 5;
    return sessions.slice(0, 5).map(titleOf).join(", ") + (more > 0 ? ` and ${more} more` : "");
  }

  async function runExport(sessions, format, file) {
    const abort = new AbortController();
    const note = toast("Exporting…", { stay: true, action: { label: "Stop", run: () => abort.abort() } });
    note.progress(undefined);
    try {
      const told = (length) => note.say(`Exporting… ${bytes(length)}`);
      const { length, missing } = await download({ server, sessions, format, file, signal: abort.signal, told });
      await file.close();
      if (missing) toast(`The export is not complete: ${missing}. What could be read is in ${file.name} (${bytes(length)}).`, { error: true });
      else toast(`Exported to ${file.name} (${bytes(length)}).`);
    } catch (fault) {
      await Promise.resolve(file.drop()).catch(() => {});
      toast(abort.signal.aborted ? "The export was stopped; nothing was kept." : `The export failed: ${fault.message}`, { error: !abort.signal.aborted });
    } finally {
      note.close();
    }
  }

  function openImport(files = []) {
    if (!canAdmin) return;
    dropped?.close();
    const what = element("div", { class: "import-what", role: "status" });
    const picker = element("input", { type: "file", multiple: true, class: "only-heard", onchange: () => look([...picker.files]) });
    const zone = element("label", { class: "import-zone" }, picker, element("strong", { text: "Choose a file" }), " or drop it on this page.");
    const into = element("input", { type: "text", class: "field", autocomplete: "off", spellcheck: "false", "aria-describedby": "import-into-why" });
    const start = element("button", { class: "primary", type: "submit", disabled: true }, "Import");
    let chosen = [];

    async function look(list) {
      chosen = [];
      replace(what);
      for (const file of list) {
        const found = await recognised(file).catch(() => ({ what: "not readable" }));
        if (found.lines) chosen.push(file);
        what.append(described(file, found));
      }
      set(start, { disabled: chosen.length === 0 });
      if (chosen.length) start.focus();
    }

    async function submit(event) {
      event.preventDefault();
      const as = into.value.trim();
      set(into, { "aria-invalid": String(as !== "" && !SESSION_ID.test(as)) });
      if (as && !SESSION_ID.test(as)) return into.focus();
      view.close();
      for (const file of chosen) await runImport(file, as || undefined);
    }

    const view = openDialog({
      title: "Import", class: "dialog-transfer",
      content: element("form", { onsubmit: submit },
        element("p", { class: "dialog-text", text: "Lines of messages (NDJSON), as chatkeep exports them. What is there already is passed over, so a file can be imported again." }),
        zone, what,
        element("label", { class: "import-into" }, element("span", { text: "Into one conversation (optional)" }), into),
        element("p", { class: "dialog-hint", id: "import-into-why", text: "Its id: letters, digits and . _ - : @. Without one each message goes to the conversation that its line names." }),
        row(button("Cancel", "quiet", () => view.close()), start)),
    });
    dropped = { look, close: view.close };
    view.closed.then(() => { dropped = undefined; });
    if (files.length) look(files);
    else picker.focus();
  }

  async function runImport(file, as) {
    const abort = new AbortController();
    const note = toast(`Importing ${file.name}…`, { stay: true, action: { label: "Stop", run: () => abort.abort() } });
    note.progress(0);
    try {
      const told = (share) => { note.progress(share); note.say(`Importing ${file.name}… ${Math.round(share * 100)} %`); };
      const waits = (seconds) => note.say(`Importing ${file.name}: the server asks to wait ${seconds} s…`);
      summarise(file, await upload({ server, file, as, signal: abort.signal, told, waits }));
    } catch (fault) {
      const why = abort.signal.aborted ? "was stopped" : `ended: ${fault.message.replace(/\.$/, "")}`;
      const again = "What was recorded stays; importing the same file again goes on after it.";
      toast(`The import of ${file.name} ${why}. ${fault.so_far ? `${sums(fault.so_far)}. ` : ""}${again}`, { error: true });
    } finally {
      note.close();
    }
  }

  function takeDropped(files) {
    if (dropped) dropped.look(files);
    else openImport(files);
  }

  taker = canAdmin ? takeDropped : undefined;
  return { openExport, openImport: () => openImport() };
}

// A file may be dropped anywhere on the page: else the browser would leave the page for the file.
function acceptDrops() {
  const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  const dropping = (now) => document.documentElement.classList.toggle("dropping", now);
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = taker ? "copy" : "none";
    dropping(Boolean(taker));
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? dropping(false));
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    dropping(false);
    taker?.([...event.dataTransfer.files]);
  });
}

acceptDrops();

function choice(name, value, label, says, checked) {
  return element("label", { class: "choice" },
    element("input", { type: "radio", name, value, checked }),
    element("span", {}, element("span", { class: "choice-name", text: label }), element("span", { class: "choice-says", dir: "auto", text: says })));
}

function described(file, { lines, what, command }) {
  return element("div", { class: lines ? "import-file" : "import-file import-other" },
    element("p", {}, element("strong", { dir: "auto", text: file.name }), ` ${bytes(file.size)}${lines ? "" : `: ${what}`}`),
    command && [element("p", { text: "The command line imports it:" }), element("pre", { tabindex: "0", "aria-label": "The command" }, element("code", { text: command }))]);
}

function summarise(file, result) {
  if (result.skipped_count === 0) return toast(`${file.name}: ${sums(result)}.`);
  const expired = result.skipped.some(({ reason }) => reason === "expired");
  const shown = result.skipped.slice(0, 100);
  const more = result.skipped_count - shown.length;
  const view = openDialog({
    title: "Imported, with lines skipped", class: "dialog-transfer",
    content: [
      element("p", { class: "dialog-text", text: `${file.name}: ${sums(result)}. Skipped lines stop no other.` }),
      expired && element("p", { class: "dialog-text", text: "Expired messages are older than mongo.ttl_days. Set ttl_days: 0 and import again to keep them." }),
      element("div", { class: "skipped", tabindex: "0", role: "region", "aria-label": "Skipped lines" }, element("table", {},
        element("thead", {}, element("tr", {}, ["Line", "Why"].map((text) => element("th", { scope: "col", text })))),
        element("tbody", {}, shown.map(({ line, reason, detail }) => element("tr", {},
          element("td", { text: line }), element("td", { text: detail ?? reason })))))),
      more > 0 && element("p", { class: "dialog-hint", text: `and ${more} more` }),
      row(button("Close", "primary", () => view.close())),
    ],
  });
}

function sums({ imported, already_there, skipped_count }) {
  return `imported ${imported}, already there ${already_there}, skipped ${skipped_count}`;
}

function refusedFile(fault) {
  toast(`The file cannot be written: ${fault.message}`, { error: true });
}

function fileName(sessions, format) {
  const day = new Date().toISOString().slice(0, 10);
  const what = sessions.length === 1 ? sessions[0].replaceAll(/[^A-Za-z0-9._-]/g, "-").replace(/^\.+/, "") : `chatkeep-${day}`;
  return `${what || "export"}.${FORMATS[format].ending}`;
}
