// The WebSocket of one session: opened again and again until it stands, noticed when it is lost without a word. It knows
// nothing of what the frames say.

import { server } from "./server.js";

const PAUSE_MS_FIRST = 500;  // between two attempts; doubled up to
const PAUSE_MS_MAX = 15_000;
const SILENCE = 2.5;         // heartbeats that may be missing before the connection counts as lost
const GREETING_MS = 10_000;  // from an attempt to the first frame

export class Connection {
  #socket;
  #closed = false;
  #pause = PAUSE_MS_FIRST;
  #timer;
  #silence;
  #greeted = false;
  #heartbeat = 0;

  // frame(frame): one came; it may return a promise, and if that fails the connection is closed. lost(code): it is lost, or could not
  // be opened. check(): resolves if the server would serve the session. refused(error): it would not, no more attempts are made.
  constructor(session, { frame, lost, check, refused }) {
    Object.assign(this, { session, frame, lost, check, refused });
    this.connect();
  }

  // An attempt now, unless the connection stands. One that nobody has answered yet is given up for it.
  connect() {
    if (this.#closed || (this.#socket && this.#greeted)) return;
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#greeted = false;
    const socket = server.socket("/ws/chat", { session_id: this.session });
    this.#socket = socket;
    this.#expect(socket, GREETING_MS);
    socket.onmessage = ({ data }) => socket === this.#socket && this.#take(socket, JSON.parse(data));
    socket.onclose = ({ code }) => socket === this.#socket && this.#lost(code);
  }

  // All is there: the next pause is short again.
  settled(heartbeat) {
    this.#heartbeat = heartbeat;
    this.#pause = PAUSE_MS_FIRST;
  }

  send(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    this.#socket?.close();
    this.#socket = undefined;
  }

  // A frame must come within that time; 0: at any time.
  #expect(socket, milliseconds) {
    clearTimeout(this.#silence);
    if (milliseconds) this.#silence = setTimeout(() => this.#drop(socket), milliseconds);
  }

  async #take(socket, frame) {
    this.#greeted = true;
    this.#expect(socket, this.#heartbeat * SILENCE * 1000);
    try {
      await this.frame(frame, () => socket === this.#socket);
    } catch (error) {
      if (error.name !== "ServerError") console.error(error);
      this.#drop(socket);
    }
  }

  // A connection can end without a word, for example while the computer sleeps.
  #drop(socket) {
    if (socket !== this.#socket) return;
    socket.close();
    this.#lost();
  }

  // A browser does not say why a connection was refused; a request does.
  async #lost(code) {
    if (this.#closed) return;
    clearTimeout(this.#silence);
    this.#socket = undefined;
    this.lost(code);
    const error = await this.check().then(() => null, (reason) => reason);
    if (this.#closed || this.#socket) return;
    if (error?.status >= 400 && error.status < 500) return this.refused(error);
    const pause = this.#pause * (0.5 + Math.random());
    this.#pause = Math.min(this.#pause * 2, PAUSE_MS_MAX);
    this.#timer = setTimeout(() => this.connect(), pause);
  }
}
