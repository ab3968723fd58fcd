// The conversation that is open: its title, its messages, where one writes, and what can be done with a message.

import { branchOff } from "./branch.js";
import { copy } from "./clipboard.js";
import { Composer } from "./composer.js";
import { toast } from "./dialog.js";
import { element, replace } from "./dom.js";
import { icon } from "./icon.js";
import { codeOf } from "./markdown.js";
import { button, edit } from "./message.js";
import { server, sessionPath } from "./server.js";
import { Transcript } from "./transcript.js";
import { welcome } from "./welcome.js";

const SPOKEN_MAX = 300;  // characters of a message that a screen reader is told at once

export class Pane {
  #title = element("h1", { class: "title", dir: "auto" });
  #from = element("p", { class: "branched" });
  #spoken = element("p", { class: "only-heard", role: "status" });
  #frame = 0;
  #end = { key: "", node: null };
  #known = { length: 0, newest: "", answering: false };

  // button: stands before the title; startNew() begins a new conversation; newId() makes an id for one.
  constructor({ status, writable, go, button, startNew, newId, help }) {
    Object.assign(this, { status, writable, go });
    this.actions = writable ? {
      edit: (message, text) => this.#try(this.conversation.edit(message, text), true),
      regenerate: (message) => this.#try(this.conversation.regenerate(message), true),
      branchOff: (message) => this.#branchOff(this.conversation, message, newId(), this.title),
    } : {};
    this.transcript = new Transcript({ actions: () => this.actions, note: () => this.#atEnd(), takenBack: (text) => this.composer.write(text) });
    this.composer = new Composer({
      editLast: () => this.#editLast(),
      sent: () => this.transcript.toNewest(),
      goTo: (id) => this.#try(this.conversation.goTo(id)),
      help,
      writable,
    });
    this.element = element("div", { class: "pane", onclick: (event) => this.#copyCode(event) },
      element("header", { class: "pane-head" }, button, element("div", { class: "titles" }, this.#title, this.#from),
        writable && element("button", { class: "icon only-narrow", type: "button", "aria-label": "New conversation", onclick: startNew }, icon("plus"))),
      this.transcript.element, this.composer.element, this.#spoken);
  }

  open(conversation) {
    this.conversation = conversation;
    this.#end = { key: "", node: null };
    this.#known = { length: 0, newest: conversation.messages.at(-1)?.id ?? "", answering: false, connected: false };
    replace(this.#title, "New conversation");
    replace(this.#from);
    this.windowTitle = "chatkeep";
    this.transcript.open(conversation);
    this.composer.open(conversation);
  }

  focus() {
    if (this.writable) this.composer.focus();
    else this.transcript.focus();
  }

  async showMessage(id) {
    const { conversation } = this;
    if (!conversation.loaded) await new Promise((resolve) => { this.onceLoaded = resolve; });
    const show = () => conversation === this.conversation ? this.#try(this.transcript.showMessage(id)) : undefined;
    if ((await show()) !== false) return;
    // It is not in the version that is shown: the one that it is in is looked at.
    await this.#try(conversation.versions.read());
    const cursor = conversation.versions.cursorOf(id);
    if (cursor !== conversation.looking) await this.#try(conversation.look(cursor));
    if ((await show()) === false) toast("This message is not in the history any more.");
  }

  // The conversation has changed: the page follows with the next frame.
  changed() {
    if (this.conversation?.loaded) this.onceLoaded?.();
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.update();
    });
  }

  update() {
    this.transcript.update();
    this.composer.update();
    this.#speak();
    const { length } = this.conversation.messages;
    if (length > 0 && this.#known.length === 0) this.#readTitle();
    this.#known.length = length;
  }

  // What the server says that is no message: the help, a fault, a new title.
  notice(frame) {
    if (frame.metadata?.type === "session") this.#readTitle();
    else toast(frame.message ?? frame.detail, { error: frame.type === "error", stay: true });
  }

  #editLast() {
    const last = this.conversation.messages.findLast(({ role }) => role === "user");
    const view = last && this.transcript.view(last.id);
    if (view) edit(view);
  }

  // A session without messages has no title, and is not found.
  async #readTitle() {
    const { conversation } = this;
    if (conversation.messages.length === 0) return;
    const known = await server.get(sessionPath(conversation.session)).catch(() => ({}));
    if (conversation !== this.conversation) return;
    replace(this.#title, known.title ?? conversation.session);
    this.#title.title = conversation.session;
    this.windowTitle = `${this.#title.textContent} · chatkeep`;
    if (this.element.isConnected) document.title = this.windowTitle;
    const from = known.metadata?.branched_from;
    replace(this.#from, from?.session_id && [icon("branch"), " Branched from ",
      element("a", { href: `#/chat/${encodeURIComponent(from.session_id)}/${encodeURIComponent(from.message_id ?? "")}`, text: from.session_id })]);
    this.title = known.title;
  }

  // Copies the path to a message into a new conversation, and opens that, unless the user has opened another one meanwhile.
  async #branchOff(...what) {
    const [conversation, message, session, title] = what;
    const note = toast("Copying the conversation…", { stay: true });
    try {
      await conversation.during(branchOff(conversation, message, session, { title, progress: (share) => note.progress(share) }));
      if (conversation === this.conversation) this.go(session);
      toast("A new conversation goes on from there.");
    } catch (error) {
      toast(`Not all was copied: ${error.message}`, { error: true, action: { label: "Go on", run: () => this.#branchOff(...what) } });
    }
    note.close();
  }

  // What stands at the end of the messages. The same nodes stay while what they say is the same.
  #atEnd() {
    const { loaded, messages, more, waiting, failed, state, connected, looking, answer, incomplete } = this.conversation;
    const status = this.status();
    const last = messages.at(-1);
    const empty = loaded && messages.length === 0 && !more && !incomplete && waiting.length + failed.length === 0 && !answer;
    const open = last?.role === "user" && connected && state === "idle" && waiting.length === 0 && !looking && this.writable;
    const key = empty ? "empty" : open && status.responder.kind !== "none" ? `open ${last.id}` : "";
    if (key === this.#end.key) return this.#end.node;
    const node = key === "empty" ? this.#welcome() : key ? this.#unanswered() : null;
    this.#end = { key, node };
    return node;
  }

  #welcome() {
    return welcome({
      session: this.conversation.session, status: this.status(), token: server.hasToken, writable: this.writable,
      write: (text) => this.composer.write(text),
    });
  }

  #unanswered() {
    return element("p", { class: "note unanswered" }, "This message was recorded without an answer. ",
      button("Have it answered", "retry", () => this.conversation.answerLast()));
  }

  // A screen reader is told what arrived once it is whole, not each piece.
  #speak() {
    const { messages, answer, connected } = this.conversation;
    const { newest, answering, connected: wasConnected } = this.#known;
    const last = messages.at(-1);
    const say = (text) => replace(this.#spoken, text);
    if (wasConnected && !connected) say("Not connected.");
    else if (newest && last?.id > newest && last.role !== "user") say(`${roleOf(last)}: ${last.text.slice(0, SPOKEN_MAX)}`);
    else if (answer && !answering) say("Answering…");
    Object.assign(this.#known, { newest: last?.id ?? newest, answering: Boolean(answer), connected });
  }

  async #copyCode({ target }) {
    const button = target.closest?.(".copy-code");
    if (!button) return;
    button.textContent = (await copy(codeOf(button))) ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  // Resolves to what `work` on the conversation gives; a fault is shown. `newest`: what comes of it is at the end.
  async #try(work, newest = false) {
    const { conversation } = this;
    try {
      const done = await conversation.during(work);
      if (newest && conversation === this.conversation) this.transcript.toNewest();
      return done;
    } catch (error) {
      if (error.name !== "ServerError") console.error(error);
      toast(error.message, { error: true });
      return undefined;
    }
  }
}

function roleOf({ role }) {
  return role === "assistant" ? "Answer" : `Message of ${role}`;
}
