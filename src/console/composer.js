// Where a message is written: the field, Send and Stop, and what the page says about the connection. A draft is kept for each
// conversation while the page is open.

import { element, replace } from "./dom.js";
import { icon } from "./icon.js";
import { setText, textField } from "./input.js";

export class Composer {
  #drafts = new Map();   // by session
  #field = textField({
    label: "Message",
    placeholder: "Write a message",
    submit: () => this.#send(),
    cancel: (event) => this.#escape(event),
    changed: (text) => this.#changed(text),
  });
  #sendButton = element("button", { class: "round primary", type: "submit", "aria-label": "Send", title: "Send (Enter)" }, icon("send"));
  #stop = element("button", {
    class: "round", type: "button", "aria-label": "Stop the answer", title: "Stop the answer (Esc)", hidden: true,
    onclick: () => {
      this.conversation.stop();
      this.focus();
    },
  }, icon("stop"));
  #state = element("div", { class: "state", hidden: true });
  #form = element("form", { class: "composer-box", onsubmit: (event) => { event.preventDefault(); this.#send(); } },
    this.#field, this.#stop, this.#sendButton);
  #hint = element("p", { class: "hint" }, element("kbd", { text: "Enter" }), " sends, ",
    element("kbd", { text: "Shift" }), " ", element("kbd", { text: "Enter" }), " begins a line, ", element("kbd", { text: "?" }), " lists all keys");
  element = element("div", { class: "composer" }, this.#state, this.#form, this.#hint);

  // editLast() opens the last message of the user; sent() is called after a message was sent; goTo(id) goes on from a message;
  // help() shows the keys and commands.
  // writable: false for a token that may only read.
  constructor({ editLast, sent, goTo, help, writable }) {
    Object.assign(this, { editLast, sent, goTo, help, writable });
    this.#form.hidden = this.#hint.hidden = !writable;
    this.#field.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowUp" || this.#field.value !== "" || event.isComposing) return;
      event.preventDefault();
      this.editLast();
    });
  }

  open(conversation) {
    this.conversation = conversation;
    setText(this.#field, this.#drafts.get(conversation.session) ?? "");
    this.#changed(this.#field.value);
    this.update();
  }

  update() {
    const { state, connected, loaded, interrupted, refusal, looking } = this.conversation;
    this.#sendButton.disabled = this.#field.value.trim() === "" || refusal !== null;
    const answering = state === "processing" || state === "cancelling";
    this.#stop.hidden = !answering;
    this.#stop.disabled = !connected || state === "cancelling";
    this.#say(refusal ? refusal.message : !connected && (loaded || interrupted) ? this.#lost() : looking ? this.#looking()
      : this.writable ? "" : "This token may read only.");
  }

  // On a phone the focus opens a keyboard that covers half of the page.
  focus() {
    if (matchMedia("(hover: hover)").matches) this.#field.focus();
  }

  // Adds a text to what is written: an example, or what could not be sent.
  write(text) {
    setText(this.#field, [this.#field.value, text].filter(Boolean).join("\n"));
    this.#changed(this.#field.value);
    this.focus();
  }

  #send() {
    const text = this.#field.value;
    if (text.trim() === "" || this.conversation.refusal) return;
    setText(this.#field, "");
    this.#changed("");
    this.focus();
    // The server's own help is for programs.
    if (/^\/?help$/i.test(text.trim())) return this.help();
    // As a message it would wait for the end of the answer.
    if (text.trim() === "/stop") return this.conversation.stop();
    this.conversation.send(text);
    this.sent();
  }

  #changed(text) {
    const { session, refusal } = this.conversation;
    if (text) this.#drafts.set(session, text);
    else this.#drafts.delete(session);
    this.#sendButton.disabled = text.trim() === "" || refusal !== null;
  }

  #escape(event) {
    if (this.#stop.hidden) return;
    event.preventDefault();
    this.conversation.stop();
  }

  #say(nodes) {
    const key = typeof nodes === "string" ? nodes : nodes.map((node) => node.textContent ?? node).join("");
    if (key === this.said) return;
    this.said = key;
    this.#state.hidden = !key;
    replace(this.#state, nodes);
  }

  #lost() {
    const waiting = this.conversation.waiting.length > 0;
    return [icon("warning"), element("span", { text: waiting
      ? "Not connected. What you wrote is kept here and sent when the server is back."
      : "Not connected. What you write now is sent when the server is back." }),
    button("Try now", () => this.conversation.reconnect())];
  }

  #looking() {
    return [element("span", { text: this.writable
      ? "You are looking at another version. What you write goes on from it."
      : "You are looking at another version." }),
    button("Back to the current one", () => this.conversation.look(null)),
    this.writable && button("Go on with this one", () => this.goTo(this.conversation.messages.at(-1)?.id ?? null))].filter(Boolean);
  }
}

function button(text, onclick) {
  return element("button", { class: "quiet small", type: "button", onclick }, text);
}
