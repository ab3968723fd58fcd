// An export as a file: read from the server as it comes and written as it comes, so its length takes no memory. It makes no
// nodes but the link that a browser saves a file by, and asks nobody but where the file shall be.

import { element } from "./dom.js";

const TAIL_BYTES = 16 * 1024;
// What is kept in memory before it becomes a Blob, which the browser keeps on its disk.
const PART_BYTES = 4 * 1024 * 1024;

export const FORMATS = {
  markdown: { ending: "md", type: "text/markdown", name: "Markdown", says: "To read: what the conversation shows." },
  ndjson: { ending: "ndjson", type: "application/x-ndjson", name: "NDJSON", says: "Everything, a message a line. Can be imported again." },
  openai: { ending: "jsonl", type: "application/jsonl", name: "OpenAI form", says: "A line of messages a conversation, as for training." },
};

// Where an export is written: a file that the user chooses, where the browser lets one choose, else one that it saves at the end.
// Resolves to undefined if the user gave up. Must be called by a press of the user's.
export async function openFile(name, { type, ending }) {
  if (!window.showSaveFilePicker) return savedAtEnd(name, type);
  try {
    const handle = await window.showSaveFilePicker({ suggestedName: name, types: [{ accept: { [type]: [`.${ending}`] } }] });
    const stream = await handle.createWritable();
    return { name: handle.name, write: (bytes) => stream.write(bytes), close: () => stream.close(), drop: () => stream.abort() };
  } catch (fault) {
    if (fault.name === "AbortError") return undefined;
    throw fault;
  }
}

function savedAtEnd(name, type) {
  let whole = new Blob([], { type }), part = [], waiting = 0;
  const settle = () => {
    whole = new Blob([whole, ...part], { type });
    [part, waiting] = [[], 0];
  };
  return {
    name,
    write(bytes) {
      part.push(bytes);
      waiting += bytes.length;
      if (waiting >= PART_BYTES) settle();
    },
    close() {
      settle();
      const href = URL.createObjectURL(whole);
      element("a", { href, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(href), 60_000);
    },
    drop() {},
  };
}

// Writes the exports of these sessions, one after the other, or of all without any. `told(length)` is called as it goes on.
// Resolves to { length, missing }: how many bytes, and why something is missing, if so. Throws a ServerError if nothing was written, and if aborted.
export async function download({ server, sessions, format, file, signal, told }) {
  let length = 0;
  const missing = [];
  for (const session_id of sessions.length ? sessions : [undefined]) {
    const reply = await server.request("GET", "/api/chat/export", { query: { session_id, format, cut: false }, signal });
    const tail = await copy(reply, file, (more) => told(length += more));
    if (tail.why) missing.push(tail.why);
  }
  return { length, missing: [...new Set(missing)].join("; ") };
}

// The last line says why an export is not whole. The server is asked not to cut the reply then: a browser may lose the end of one
// that is cut. One whose server goes away is cut all the same.
async function copy(reply, file, told) {
  const reader = reply.body.getReader();
  let tail = new Uint8Array(0), cut = false;
  for (;;) {
    let next;
    try {
      next = await reader.read();
    } catch (fault) {
      if (fault.name === "AbortError") throw fault;
      cut = true;
      break;
    }
    if (next.done) break;
    await file.write(next.value);
    told(next.value.length);
    tail = joined(tail, next.value);
  }
  const said = reason(new TextDecoder().decode(tail));
  return { why: said ?? (cut ? "the server ended the reply before its end" : undefined) };
}

function joined(tail, bytes) {
  const both = new Uint8Array(tail.length + Math.min(bytes.length, TAIL_BYTES));
  both.set(tail);
  both.set(bytes.subarray(-TAIL_BYTES), tail.length);
  return both.subarray(-TAIL_BYTES);
}

function reason(tail) {
  const last = tail.trimEnd().split("\n").at(-1);
  const inMarkdown = /^> \*\*This export is not complete\*\*: (.*)$/.exec(last);
  if (inMarkdown) return inMarkdown[1];
  if (!last.startsWith('{"incomplete":')) return undefined;
  try {
    return String(JSON.parse(last).incomplete);
  } catch {
    return undefined;
  }
}
