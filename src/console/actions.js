// What can be done with sessions of the list: rename, pin, archive, erase, one or several. Asks first where it matters, tells what
// failed, and lets what can be undone be undone. It knows nothing of how the list looks.

import { ask, prompt, toast } from "./dialog.js";
import { element } from "./dom.js";
import { server, sessionPath } from "./server.js";
import { plural } from "./units.js";

const TITLE_CHARS_MAX = 200;
// A browser opens six connections to a host: this leaves some to the conversation.
const AT_ONCE = 3;
const NAMED_MAX = 5;

export function titleOf(row) {
  return row.title || row.session_id;
}

// `store` is the list as data; `gone(session_id)` is called for each session that was erased.
export function sessionActions({ store, gone }) {
  async function rename(row) {
    const title = await prompt({
      title: "Rename", label: "Title", value: titleOf(row), confirm: "Rename",
      text: "Without a title the beginning of the first message is shown.",
      check: (text) => [...text.trim()].length > TITLE_CHARS_MAX && `A title has at most ${TITLE_CHARS_MAX} characters.`,
    });
    if (title === null || title.trim() === titleOf(row)) return;
    await change([row], { title: title.trim() || null }, "renamed");
  }

  async function pin(rows, pinned) {
    await change(rows, { pinned }, pinned ? "pinned" : "unpinned");
  }

  async function archive(rows, archived) {
    const text = archived ? "They leave this list and stay in the archive, whole and searchable." : "They come back to the list.";
    const word = archived ? "Archive" : "Restore";
    if (rows.length > 1 && !await ask({ title: `${word} ${counted(rows)}?`, text: [element("p", { text }), names(rows)], confirm: word })) return;
    const done = await change(rows, { archived }, archived ? "archived" : "restored");
    const undo = () => change(done, { archived: !archived }, archived ? "restored" : "archived");
    if (done.length) toast(`${counted(done)} ${archived ? "archived" : "restored"}.`, { action: { label: "Undo", run: undo } });
  }

  async function erase(rows) {
    const running = rows.some((row) => row.answering) ? " An answer that is being given is stopped." : "";
    const text = `Every message is erased, from memory, from the disk and from MongoDB. This cannot be undone.${running}`;
    const question = { title: `Erase ${rows.length > 1 ? counted(rows) : "this conversation"}?`, text: [element("p", { text }), names(rows)] };
    if (!await ask({ ...question, confirm: "Erase", danger: true })) return;
    let pending = 0;
    const done = await each(rows, "erased", async ({ session_id }) => {
      const { mongo } = await server.delete(sessionPath(session_id));
      pending += mongo === "pending";
      store.remove(session_id);
      gone(session_id);
    });
    const later = pending ? " MongoDB's copies follow as soon as it can be reached." : "";
    if (done.length) toast(`${counted(done)} erased.${later}`);
  }

  function change(rows, what, word) {
    return each(rows, word, async (row) => {
      const set = await server.patch(sessionPath(row.session_id), what);
      // Without a title the list shows the beginning of the first message, which only the server knows.
      if (set.title === null) await store.refresh(row.session_id);
      else store.put({ ...(store.get(row.session_id) ?? row), ...set });
    });
  }

  // Does it to all, some at once. Resolves to the rows for which it worked.
  async function each(rows, word, work) {
    const left = [...rows], done = [], faults = [];
    const note = rows.length > 2 * AT_ONCE ? toast(`0 of ${rows.length} ${word}`, { stay: true }) : undefined;
    const one = async () => {
      for (let row; (row = left.shift());) {
        await work(row).then(() => done.push(row), (fault) => faults.push(fault));
        note?.say(`${done.length} of ${rows.length} ${word}`);
        note?.progress((done.length + faults.length) / rows.length);
        store.changed();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
    note?.close();
    if (faults.length) toast(failed(rows, faults, word), { error: true });
    return done;
  }

  return { rename, pin, archive, erase };
}

function failed(rows, faults, word) {
  return `${faults.length} of ${counted(rows)} not ${word}: ${faults[0].message}`;
}

function counted(rows) {
  return plural(rows.length, "conversation");
}

function names(rows) {
  const more = rows.length - NAMED_MAX;
  return element("ul", { class: "dialog-names" },
    rows.slice(0, NAMED_MAX).map((row) => element("li", { dir: "auto", text: titleOf(row) })),
    more > 0 && element("li", { text: `and ${more} more` }));
}
