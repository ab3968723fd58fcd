// An import of a file: what the file is, and its lines sent piece by piece, each of whole lines, so that one sees how far it is and
// a file of any length takes little memory. It makes no nodes.

const PIECE_BYTES = 4 * 1024 * 1024;
// A line is at most as long as a body may be; a file whose first line is longer has no lines.
const LINE_BYTES_MAX = 16 * 1024 * 1024;
const SKIPPED_MAX = 1000;
const TRIES = 5;
const LINE_END = 10;

// What a file is: { lines: true } of chatkeep, which the page imports; or { what, command } for what the command line imports;
// or { what } for what nothing does.
export async function recognised(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (head[0] === 0x50 && head[1] === 0x4b) return byCommand(file, "a ZIP, such as ChatGPT's export");
  if (head[0] === 0x1f && head[1] === 0x8b) return { what: "compressed by gzip: unpack it first" };
  if (file.size === 0) return { what: "empty" };
  const line = await firstLine(file);
  if (line.startsWith("#")) return { what: "Markdown, which is for reading: an export that can be imported is NDJSON" };
  if (!/^[[{]/.test(line)) return { what: "neither lines of JSON nor another export that chatkeep knows" };
  try {
    return ofValue(file, JSON.parse(line));
  } catch {
    return byCommand(file, "one JSON text, such as an export of ChatGPT, Open WebUI or LibreChat");
  }
}

async function firstLine(file) {
  for (const length of [64 * 1024, LINE_BYTES_MAX]) {
    const text = (await file.slice(0, length).text()).replace(/^\uFEFF/, "").trimStart();
    if (text.includes("\n") || length >= file.size || length === LINE_BYTES_MAX) return text.split("\n", 1)[0];
  }
}

// As the command line tells the forms apart.
function ofValue(file, value) {
  const has = (name) => value[name] !== undefined;
  if (Array.isArray(value)) return byCommand(file, "one JSON array, such as an export of ChatGPT or Open WebUI");
  if (has("incomplete") || (has("role") && has("text") && !has("_id"))) return { lines: true };
  if (has("SessionId") && has("History")) return byCommand(file, "LangChain's message history");
  if (has("messages")) return byCommand(file, "conversations in OpenAI's form, or an export of LibreChat");
  if (has("role") || has("mapping") || has("chat")) return byCommand(file, "an export of another system");
  return { what: "no messages: a line needs at least `role` and `text`" };
}

function byCommand({ name }, what) {
  const plain = name.startsWith("-") ? `./${name}` : name;
  const quoted = /^[A-Za-z0-9._/-]+$/.test(plain) ? plain : `'${plain.replaceAll("'", "'\\''")}'`;
  return { what, command: `chatkeep import ${quoted}` };
}

// Sends the file. `as` is the session for everything, if one; `told(share)` is called as it goes on, `waits(seconds)` when the
// server asks to come again. Resolves to { imported, already_there, skipped: [{ line, reason, detail }], skipped_count }; throws
// what ended it, with `so_far`, the same of what was sent before.
export async function upload({ server, file, as, signal, told, waits }) {
  const sums = { imported: 0, already_there: 0, skipped: [], skipped_count: 0 };
  // For lines that tell no time: that of the file, as the command line takes it.
  const time = new Date(file.lastModified).toISOString();
  let at = 0, line = 0;
  try {
    while (at < file.size) {
      const piece = await wholeLines(file, at);
      const reply = await sent({ server, piece, as, time, signal, waits });
      add(sums, reply, line);
      line += ends(piece);
      at += piece.length;
      told(at / file.size);
    }
  } catch (fault) {
    throw Object.assign(fault, { so_far: sums });
  }
  return sums;
}

async function wholeLines(file, at) {
  for (let length = PIECE_BYTES; ; length *= 2) {
    const bytes = new Uint8Array(await file.slice(at, at + length).arrayBuffer());
    const last = bytes.lastIndexOf(LINE_END);
    // A line longer than any may be is sent as it is: the server says so of it.
    if (at + bytes.length >= file.size || length > LINE_BYTES_MAX) return bytes;
    if (last >= 0) return bytes.subarray(0, last + 1);
  }
}

// What was recorded is passed over when it comes again, so a piece can be sent twice.
async function sent({ server, piece, as, time, signal, waits }) {
  for (let turn = 1; ; turn += 1) {
    try {
      return await server.call("POST", "/api/chat/import", { query: { as, time }, body: piece, type: "application/x-ndjson", signal });
    } catch (fault) {
      if (signal.aborted || fault.status !== 503 || turn === TRIES) throw fault;
      const seconds = Math.min(fault.retryAfter ?? turn, 30);
      waits(seconds);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    }
  }
}

function add(sums, { imported, already_there, skipped, skipped_count }, before) {
  sums.imported += imported;
  sums.already_there += already_there;
  sums.skipped_count += skipped_count;
  for (const one of skipped.slice(0, SKIPPED_MAX - sums.skipped.length)) sums.skipped.push({ ...one, line: before + one.line });
}

function ends(bytes) {
  let count = 0;
  for (let at = bytes.indexOf(LINE_END); at >= 0; at = bytes.indexOf(LINE_END, at + 1)) count += 1;
  return count;
}
