// The list of sessions as data: pages, order, and what becomes of it while the page is open. It makes no nodes and asks nobody.
//
// The server lists by newest activity and does not move pinned sessions; here they stand first. Rows are kept sorted, so a place
// is found by bisection also among a hundred thousand.

import { server, sessionPath } from "./server.js";

const SESSIONS = "/api/chat/sessions";
const PAGE_ROWS = 100;
// More pinned sessions than that stand at their own place only.
const PINNED_MAX = 500;
// Up to so many changed sessions are read one by one, more of them as the first page: they are the newest.
const SINGLE_READS_MAX = 6;
// The feed does not tell the moment an answer begins or ends, so rows where that is due are read again.
const ANSWERING_POLL_MS = 1500;
const COLLECT_MS = 120;
// What is missing may come, such as a list that is being made again: it is read again, ever less often.
const AGAIN_MS = 2000;
const AGAIN_MS_MAX = 60_000;
const ROWS_AGAIN_MAX = 500;

// `changed()` is called after every change; `moved` tells which row went elsewhere, if one did.
export function sessionStore({ changed }) {
  const list = {
    archived: false,        // which view
    pinned: [], rest: [],   // newest activity first
    next: undefined,        // where the next page goes on; null: everything is there; undefined: nothing was read yet
    incomplete: "",         // why the list lacks sessions
    fault: undefined,       // the ServerError that ended the last reading
    get count() { return list.pinned.length + list.rest.length; },
    at: (index) => list.pinned[index] ?? list.rest[index - list.pinned.length],
    get: (id) => rows.get(id),
    indexOf, load, reload, show, refresh, put, remove, touch, changed,
  };
  const rows = new Map();
  const asked = new Map();  // how often a row was asked for: an answer that was overtaken is not taken
  let generation = 0, loading, edge, timer, poll, again, pause = AGAIN_MS;
  let due = new Set();
  const expecting = new Set();

  function load() {
    if (!loading && list.next !== null) loading = readPage(list.next).finally(() => { loading = undefined; changed(); });
    return loading;
  }

  async function readPage(after) {
    const own = generation, archived = list.archived;
    const limit = after ? PAGE_ROWS : Math.min(Math.max(PAGE_ROWS, list.rest.length), ROWS_AGAIN_MAX);
    changed();
    try {
      const pinned = after ? undefined : server.get(SESSIONS, { query: { archived, pinned: true, limit: PINNED_MAX } });
      pinned?.catch(() => {});
      const page = await server.get(SESSIONS, { query: { archived, limit, after } });
      const first = await pinned;
      if (own !== generation) return;
      if (!after) clear();
      list.next = page.next;
      edge = page.sessions.at(-1) ?? edge;
      Object.assign(list, { fault: undefined, incomplete: page.complete ? "" : page.reason ?? "" });
      for (const row of [...(first?.sessions.filter((row) => row.pinned) ?? []), ...page.sessions]) put(row);
    } catch (fault) {
      if (own === generation) list.fault = fault;
    }
  }

  // Everything anew; what is shown stays until the first page is there.
  function reload() {
    generation += 1;
    loading = readPage(undefined).finally(() => { loading = undefined; repeat(); changed(); });
    return loading;
  }

  function repeat() {
    clearTimeout(again);
    const isWhole = !list.fault && !list.incomplete;
    pause = isWhole ? AGAIN_MS : Math.min(pause * 2, AGAIN_MS_MAX);
    if (isWhole) return;
    again = setTimeout(() => {
      if (document.visibilityState === "visible" && list.rest.length <= ROWS_AGAIN_MAX) reload();
      else repeat();
    }, pause);
  }

  function show(archived) {
    if (list.archived !== archived) {
      list.archived = archived;
      clear();
    }
    return reload();
  }

  function clear() {
    rows.clear();
    Object.assign(list, { pinned: [], rest: [], next: undefined, incomplete: "" });
    edge = undefined;
  }

  function put(row) {
    remove(row.session_id);
    if (row.archived !== list.archived) return;
    // What stands behind the last row that was read comes with its page.
    if (!row.pinned && list.next && edge && compare(row, edge) > 0) return;
    const among = row.pinned ? list.pinned : list.rest;
    among.splice(place(among, row), 0, row);
    rows.set(row.session_id, row);
  }

  function remove(id) {
    const row = rows.get(id);
    if (!row) return;
    rows.delete(id);
    const among = row.pinned ? list.pinned : list.rest;
    among.splice(place(among, row), 1);
  }

  function indexOf(id) {
    const row = rows.get(id);
    if (!row) return -1;
    return row.pinned ? place(list.pinned, row) : list.pinned.length + place(list.rest, row);
  }

  // Reads one row again. Resolves to it, or to undefined if there is no such session or it cannot be read now.
  async function refresh(id) {
    const turn = (asked.get(id) ?? 0) + 1;
    asked.set(id, turn);
    try {
      const row = await server.get(sessionPath(id));
      if (asked.get(id) === turn) put(row);
      return row;
    } catch (fault) {
      if (fault.status === 404 && asked.get(id) === turn) remove(id);
      return undefined;
    } finally {
      if (asked.get(id) === turn) asked.delete(id);
      watchAnswers();
      changed();
    }
  }

  // An event of the feed: its session is read again soon, together with others that changed meanwhile.
  function touch({ type, session_id, erasure_id, message }) {
    if (type === "erased") return forget(session_id, erasure_id);
    const id = message.session_id;
    // A title or a pin moves nothing to the front, so the first page would not tell of it.
    if (message.role === "system") return refresh(id);
    due.add(id);
    if (message.role === "user") expecting.add(id);
    timer ??= setTimeout(readDue, COLLECT_MS);
  }

  // What was recorded after the erasure stays.
  function forget(id, erasure_id) {
    due.delete(id);
    const row = rows.get(id);
    if (!row) return;
    if (Date.parse(row.updated_at) > timeOf(erasure_id)) return refresh(id);
    remove(id);
    changed();
  }

  async function readDue() {
    const ids = due;
    due = new Set();
    await readRows([...ids]);
    timer = due.size ? setTimeout(readDue, COLLECT_MS) : undefined;
  }

  async function readRows(ids) {
    if (ids.length > SINGLE_READS_MAX) {
      const limit = Math.min(ids.length + PAGE_ROWS, 500);
      const page = await server.get(SESSIONS, { query: { archived: list.archived, limit } }).catch(() => undefined);
      page?.sessions.forEach(put);
      ids = ids.filter((id) => !page?.sessions.some((row) => row.session_id === id)).slice(0, SINGLE_READS_MAX);
    }
    await Promise.all(ids.map(refresh));
    watchAnswers();
    changed();
  }

  function watchAnswers() {
    poll ??= setTimeout(async () => {
      const ids = [...new Set([...expecting, ...answering()])];
      expecting.clear();
      if (ids.length && document.visibilityState === "visible") await readRows(ids);
      poll = undefined;
      if (expecting.size || answering().length) watchAnswers();
    }, ANSWERING_POLL_MS);
  }

  // They are active, so they stand in front.
  function answering() {
    return [...list.pinned, ...list.rest.slice(0, 500)].filter((row) => row.answering).map((row) => row.session_id);
  }

  return list;
}

// The time in an id (UUIDv7), in milliseconds since 1970.
function timeOf(id) {
  return Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16);
}

// Newest activity first, then by name from the end: the order of the server. Times have one form, so they compare as text.
function compare(a, b) {
  return descending(a.updated_at, b.updated_at) || descending(a.session_id, b.session_id);
}

function descending(a, b) {
  return a < b ? 1 : Number(a > b) * -1;
}

function place(sorted, row) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(sorted[middle], row) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}
