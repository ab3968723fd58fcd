// One conversation, without the page: follows a session by WebSocket, reads its history in pages, sends. What is sent is kept
// until the server has acknowledged it, and sent again after a lost connection with the same key: it is recorded once. What the
// server has recorded but did not live to answer is sent again as well, and answered then.
//
// The same client, shorter, stands in docs/websocket.md.

import { Connection } from "./connection.js";
import { server, sessionPath } from "./server.js";
import { Versions, isRewind } from "./versions.js";

const FIRST_PAGE = 50;       // messages
const PAGE = 100;
const PAGE_MAX = 500;

export class Conversation {
  messages = [];             // of the version that is shown, oldest first; a new array after each change
  more = false;              // whether older ones follow above
  incomplete = null;         // why some of them cannot be read now
  answer = null;             // the answer in progress: { text, replyTo }
  state = "idle";            // idle, processing, cancelling, cancelled
  connected = false;         // true when all that was missed is shown
  loaded = false;            // true once the first page is there
  interrupted = false;       // true once a connection was lost, or could not be opened
  failed = [];               // what the server refused: { client_id, message, rewind_to, reason }
  looking = null;            // the cursor of another version that is looked at, see versions.js
  refusal = null;            // the error with which the server refuses this session: no more attempts are made
  versions = new Versions((query) => this.history(query));

  #unacknowledged = new Map();
  #unanswered = new Map();   // by the id of the recorded message
  #queue = Promise.resolve();
  #connection;
  #closed = false;
  #works = 0;                // see during()
  #last = "";                // the newest message that is known; ids rise
  #top;                      // where older pages go on
  #greeted = false;          // until the server has said after its welcome whether an answer is in progress

  // changed() is called after each change. notice(frame): the text of the help, an error that belongs to no message, or that
  // the session's title or marks were set.
  constructor(session, { changed, notice = () => {} }) {
    // A page that was asked for before the end comes all the same.
    Object.assign(this, { session, changed: () => this.#closed || changed(), notice });
    this.#connection = new Connection(session, {
      frame: (frame, isCurrent) => this.#inTurn(() => isCurrent() && this.#handle(frame)),
      lost: (code) => this.#lost(code),
      check: () => this.history({ limit: 1 }, 10_000),
      refused: (error) => {
        this.refusal = error;
        this.changed();
      },
    });
  }

  // What is sent and not acknowledged: { client_id, message, rewind_to, sent }
  get waiting() {
    return [...this.#unacknowledged.values()];
  }

  get hasUnsent() {
    return this.#unacknowledged.size + this.failed.length > 0;
  }

  // Whether leaving now would lose something, or end an answer where `responder.on_disconnect` is `stop`.
  get busy() {
    return this.hasUnsent || this.#works > 0 || this.state === "processing";
  }

  // Gives what `work` resolves to. It may read page after page, so until then the conversation is followed.
  async during(work) {
    this.#works += 1;
    try {
      return await work;
    } finally {
      this.#works -= 1;
      this.changed();
    }
  }

  place(id) {
    return this.messages.findIndex((message) => message.id === id);
  }

  history(query, timeout) {
    return server.get("/api/chat/history", { query: { session_id: this.session, ...query }, timeout });
  }

  // Sends a message. With `rewind_to` it goes on from that message, null being the beginning of the conversation.
  send(message, rewind_to) {
    if (rewind_to === undefined && this.looking) rewind_to = this.messages.at(-1)?.id ?? null;
    const client_id = crypto.getRandomValues(new Uint32Array(4)).join("-");  // the key too
    this.#unacknowledged.set(client_id, { message, client_id, message_id: client_id, rewind_to });
    if (this.#unacknowledged.size === 1) this.#transmit();
    this.changed();
  }

  // Takes back what waits, unless it may be recorded already.
  discard(client_id) {
    if (!this.#unacknowledged.get(client_id)?.sent) this.#unacknowledged.delete(client_id);
    this.failed = this.failed.filter((message) => message.client_id !== client_id);
    this.changed();
  }

  // Sends once more what was refused.
  sendAgain({ client_id, message, rewind_to }) {
    this.discard(client_id);
    this.send(message, rewind_to);
  }

  stop() {
    if (this.connected) this.#connection.send({ command: "stop" });
  }

  // Another text in the place of that message: what followed stays as another version.
  async edit({ id }, message) {
    while (this.place(id) === 0 && this.more) await this.older();
    const index = this.place(id);
    if (index < 0 || (index === 0 && this.incomplete)) throw new Error("What precedes this message cannot be read now.");
    const rewind_to = this.messages[index - 1]?.id ?? null;
    // Pressed twice, it is the same edit.
    if (this.waiting.some((one) => one.rewind_to === rewind_to && one.message === message)) return;
    if (this.state === "processing") this.stop();
    this.send(message, rewind_to);
  }

  // Asks the question of that answer again.
  async regenerate({ id }) {
    const asked = () => this.messages.slice(0, this.place(id) + 1).findLast(({ role }) => role === "user");
    while (!asked() && this.more) await this.older();
    if (!asked()) throw new Error("No question precedes this answer.");
    return this.edit(asked(), asked().text);
  }

  // Has the last message answered, which was recorded without an answer. With its key no message is added.
  answerLast() {
    const last = this.messages.at(-1);
    const frame = this.#unanswered.get(last.id);
    if (!frame) return this.regenerate(last);
    this.#unacknowledged.set(frame.client_id, frame);
    this.#transmit();
  }

  // Goes on from that message. Nothing is lost: what followed it is another version.
  goTo(id) {
    return server.post(sessionPath(this.session, "rewind"), { to: id, stop: true });
  }

  // Shows another version without changing anything; null returns to the one that the session is on.
  look(cursor) {
    return this.#inTurn(async () => {
      this.looking = cursor;
      await this.#reload(true);
    });
  }

  older(limit = PAGE) {
    return this.#inTurn(async () => {
      if (!this.more) return;
      const page = await this.history({ view: "current", limit, before: this.#top });
      this.#put(page, [...page.messages, ...this.messages]);
    });
  }

  // Reads the newest page again, for example when MongoDB is back.
  reload() {
    return this.#inTurn(() => this.#reload(true));
  }

  reconnect() {
    this.refusal = null;
    this.#connection.connect();
  }

  close() {
    this.#closed = true;
    this.#connection.close();
  }

  // Frames and pages are worked on one after the other.
  #inTurn(work) {
    const done = this.#queue.then(work);
    this.#queue = done.catch(() => {});
    return done;
  }

  #put(page, messages) {
    this.messages = messages;
    this.more = page.has_more;
    this.incomplete = page.complete ? null : page.reason;
    this.#top = page.next ?? messages[0]?.id;
    this.loaded = true;
    const newest = messages.at(-1)?.id ?? "";
    if (newest > this.#last) this.#last = newest;
    this.changed();
  }

  // The newest page. What was read above it stays, unless `anew`: every message has one path that leads to it.
  async #reload(anew) {
    const before = this.looking ?? undefined;
    const limit = anew ? Math.min(Math.max(this.messages.length, FIRST_PAGE), PAGE_MAX) : this.loaded ? PAGE : FIRST_PAGE;
    const page = await this.history({ view: "current", limit, before });
    const joint = page.messages.length ? this.place(page.messages[0].id) : -1;
    if (anew || joint <= 0 || !page.has_more) return this.#put(page, page.messages);
    const { more, incomplete } = this;
    this.#put({ has_more: more, complete: !incomplete, reason: incomplete, next: this.#top },
      [...this.messages.slice(0, joint), ...page.messages]);
  }

  #take(message) {
    if (message.id <= this.#last) return;  // it is shown, or was rewound
    this.#last = message.id;
    if (!this.looking) this.messages = [...this.messages, message];
  }

  async #handle(frame) {
    const sent = this.#settle(frame);
    if (frame.type === "system" && frame.last_id) await this.#welcome(frame);
    else if (frame.type === "clear") await this.#reload();
    else if (frame.type === "erased" || frame.type === "gap") {
      await this.#reload(true);
      this.#readVersions();
    }
    else if (isRewind(frame)) {
      this.versions.add(frame);
      this.looking = null;
      await this.#reload();
    } else if (frame.type === "message") this.#message(frame);
    else if (frame.type === "ack") frame.duplicate || this.#take({ ...frame, role: "user", text: sent.message, metadata: {} });
    else if (frame.type === "response") this.#response(frame);
    else if (frame.type === "delta") this.#delta(frame);
    else if (frame.type === "status") this.#status(frame);
    else if (frame.type === "system" || (frame.type === "error" && !sent)) this.notice(frame);
    if (["system", "ack", "response", "error", "heartbeat"].includes(frame.type) || frame.status === "idle") this.#transmit();
    if (frame.type !== "heartbeat") this.changed();
  }

  // What the frame says of a message that was sent; returns that message. After `busy` it is sent again.
  #settle({ type, client_id, id, detail, status, duplicate }) {
    const sent = this.#unacknowledged.get(client_id);
    if (!sent) return undefined;
    if (status === "busy") {
      sent.sent = false;
      return sent;
    }
    this.#unacknowledged.delete(client_id);
    if (type === "ack" && !duplicate) this.#unanswered.set(id, sent);
    if (type === "error") this.failed = [...this.failed, { ...sent, reason: detail }];
    return sent;
  }

  async #welcome({ heartbeat_seconds }) {
    this.answer = null;
    this.state = "idle";
    await this.#reload();
    this.connected = true;
    this.#connection.settled(heartbeat_seconds);
    this.#greeted = true;
    this.#readVersions();
  }

  // They come after the messages, which do not wait for them.
  #readVersions() {
    this.versions.read().then(() => this.changed(), () => {});
  }

  #message(frame) {
    if (frame.role === "system" && frame.metadata?.type === "session") this.notice(frame);
    else this.#take(frame);
  }

  #response(frame) {
    this.#unanswered.delete(frame.reply_to);
    this.answer = null;
    const { id, message, timestamp, metadata, status } = frame;
    this.#take({ id, role: "assistant", text: message, created_at: timestamp, metadata: { status, ...metadata } });
  }

  #delta({ offset, text, reply_to }) {
    this.answer = { text: (offset ? this.answer?.text ?? "" : "") + text, replyTo: reply_to };
  }

  #status({ status, reply_to }) {
    if (status === "busy") return;
    this.state = status;
    if (status === "processing") this.answer ??= { text: "", replyTo: reply_to };
    if (status === "idle") {
      this.answer = null;
      if (this.#greeted) this.#repeatUnanswered();
    }
    this.#greeted = false;
  }

  // The server says after its welcome that no answer is in progress: if the last message is ours, a crash cut its answer off.
  #repeatUnanswered() {
    const frame = this.#unanswered.get(this.messages.at(-1)?.id);
    if (frame && !this.looking) this.#unacknowledged = new Map([[frame.client_id, frame], ...this.#unacknowledged]);
  }

  #lost(code) {
    this.connected = false;
    this.interrupted = true;
    if (code === 1009) this.#refuseFirst("The message is longer than the server takes (websocket.max_message_bytes).");
    this.changed();
  }

  #refuseFirst(reason) {
    const [first] = this.#unacknowledged.values();
    if (!first) return;
    this.#unacknowledged.delete(first.client_id);
    this.failed = [...this.failed, { ...first, reason }];
  }

  // The oldest; the others follow in order.
  #transmit() {
    const [first] = this.#unacknowledged.values();
    if (!first || !this.connected || this.#greeted) return;
    const { message, client_id, message_id, rewind_to } = first;
    this.#connection.send({ message, client_id, message_id, rewind_to });
    first.sent = true;
  }
}
