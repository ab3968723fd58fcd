// The Chat tab: which conversation is open, and the list beside it. Switching does not end what the one before is doing: it is
// followed until its answer is there and all that was sent is acknowledged.

import { Conversation } from "./conversation.js";
import { element, replace } from "./dom.js";
import { icon } from "./icon.js";
import { newSession } from "./branch.js";
import { Pane } from "./pane.js";

export class Chat {
  #conversations = new Map();  // that are followed, by session
  #shown = null;
  #side = element("aside", { class: "side", "aria-label": "Conversations", id: "side" });
  #drawerButton = element("button", {
    class: "icon only-narrow", type: "button", "aria-label": "Conversations", "aria-expanded": "false", "aria-controls": "side",
    onclick: () => this.drawer(this.#drawerButton.getAttribute("aria-expanded") === "false"),
  }, icon("list"));

  // status() is the last one of the server; writable: whether the token may write; go(session, message) changes the address;
  // list: the sessionList; unauthorized(error): the token is refused.
  constructor({ status, writable, go, list, unauthorized, help }) {
    Object.assign(this, { status, writable, go, list, unauthorized });
    this.pane = new Pane({
      status, writable, go, help, button: this.#drawerButton,
      startNew: () => go(""),
      newId: () => newSession(this.#prefix()),
    });
    replace(this.#side, list.element);
    this.element = element("div", { class: "chat", onkeydown: (event) => this.#onKey(event) },
      this.#side, element("div", { class: "veil", onclick: () => this.drawer(false) }), this.pane.element);
  }

  // Opens a session, and scrolls to a message of it. Without a session a new one begins.
  open(session = newSession(this.#prefix()), message) {
    this.drawer(false);
    const before = this.#shown;
    const conversation = this.#conversations.get(session) ?? this.#follow(session);
    this.#shown = conversation;
    if (before && before !== conversation) this.#leave(before);
    this.list.show(session);
    if (before !== conversation) this.pane.open(conversation);
    document.title = this.pane.windowTitle;
    if (message) this.pane.showMessage(message);
    else this.pane.focus();
  }

  // MongoDB is back: what it alone has can be read.
  complete() {
    if (this.#shown?.incomplete) this.#shown.reload().catch(() => {});
  }

  // The network is back, or the page is seen again.
  reconnect() {
    for (const conversation of this.#conversations.values()) conversation.reconnect();
  }

  // Ends all, for example because there is another token.
  close() {
    for (const conversation of this.#conversations.values()) conversation.close();
    this.#conversations.clear();
  }

  // Whether something that was written is not recorded yet.
  get hasUnsent() {
    return [...this.#conversations.values()].some(({ hasUnsent }) => hasUnsent);
  }

  drawer(open) {
    this.element.classList.toggle("drawer-open", open);
    this.#drawerButton.setAttribute("aria-expanded", String(open));
    if (open) this.list.focus();
  }

  get session() {
    return this.#shown?.session;
  }

  // The same, once something is recorded there.
  get recorded() {
    return this.#shown?.messages.length ? this.#shown.session : undefined;
  }

  #prefix() {
    return this.status().sessions?.replace(/\*$/, "") ?? "";
  }

  #follow(session) {
    const conversation = new Conversation(session, {
      changed: () => this.#changed(conversation),
      notice: (frame) => conversation === this.#shown && this.pane.notice(frame),
    });
    this.#conversations.set(session, conversation);
    return conversation;
  }

  #changed(conversation) {
    if (conversation.refusal?.status === 401) return this.unauthorized(conversation.refusal);
    if (conversation === this.#shown) this.pane.changed();
    else if (this.#shown) this.#leave(conversation);
  }

  #leave(conversation) {
    if (conversation.busy) return;
    conversation.close();
    this.#conversations.delete(conversation.session);
  }

  #onKey(event) {
    if (event.key !== "Escape" || !this.element.classList.contains("drawer-open")) return;
    event.preventDefault();
    this.drawer(false);
    this.#drawerButton.focus();
  }
}
