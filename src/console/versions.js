// The versions of a conversation. An edit or a new answer is a rewind: a record that says from which message the conversation
// goes on. Nothing is removed, so between two rewinds the messages are a line, and the lines are a tree: each hangs on the message
// that its rewind names. This finds the siblings of a message in that tree, with a few requests and without reading all of it.
//
// A version is named by a cursor: the history before it ends with that version. null is the version that the session is on.

const BEGINNING = "00000000-0000-7000-8000-000000000000";  // below every id
const SIBLINGS_MAX = 20;

export function isRewind({ role, metadata }) {
  return role === "system" && metadata?.type === "rewind";
}

export class Versions {
  #rewinds = [];  // { id, to }, oldest first
  #history;

  // history(query) reads a page of the session.
  constructor(history) {
    this.#history = history;
  }

  // The newest 500 are known; versions that only older rewinds lead to are not offered.
  async read() {
    const { messages } = await this.#history({ role: "system", limit: 500 });
    this.#rewinds = [];
    for (const message of messages) if (isRewind(message)) this.add(message);
  }

  add({ id, metadata }) {
    if (!this.#rewinds.some((rewind) => rewind.id === id)) this.#rewinds.push({ id, to: metadata.to ?? null });
  }

  get count() {
    return this.#rewinds.length;
  }

  // Whether a message that follows `parent` (an id, or null at the beginning) can have siblings.
  fork(parent) {
    return this.#rewinds.some(({ to }) => to === parent);
  }

  // All messages that follow `parent`, oldest first: { id, cursor }, the cursor being that of the newest version with it.
  async siblings(parent) {
    const from = this.#rewinds.filter(({ to }) => to === parent).slice(-SIBLINGS_MAX).map(({ id }) => id);
    const found = await Promise.all([parent ?? BEGINNING, ...from].map((id) => this.#next(id)));
    const ids = [...new Set(found.filter(Boolean))].sort();
    return ids.map((id) => ({ id, cursor: this.cursorOf(id) }));
  }

  // The message after that record in the same line, or undefined.
  async #next(id) {
    const { messages } = await this.#history({ after: id, limit: 4 });
    const next = messages.find(({ role, metadata }) => !(role === "system" && metadata?.type === "session"));
    return next && !isRewind(next) ? next.id : undefined;
  }

  #line(id) {
    return this.#rewinds.findLastIndex((rewind) => rewind.id <= id);
  }

  // The cursor of the newest version that a message is in. Of the lines that hang on it, directly or by others, the newest ends
  // the version; the next rewind is its cursor.
  cursorOf(id) {
    let newest = this.#line(id);
    const below = new Map([[newest, id]]);  // line: from which id on it belongs to this message
    for (let line = newest + 1; line < this.#rewinds.length; line += 1) {
      const { id: own, to } = this.#rewinds[line];
      const start = to === null ? undefined : below.get(this.#line(to));
      if (start === undefined || to < start) continue;
      below.set(line, own);
      newest = line;
    }
    return this.#rewinds[newest + 1]?.id ?? null;
  }
}
