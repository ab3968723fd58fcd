// Shows one message: its text, who says it, what came of it, and what can be done with it. It knows nothing of its neighbours
// nor of how they are scrolled.

import { GrowingBody, rendered, written } from "./body.js";
import { copyButton } from "./clipboard.js";
import { element, replace, set } from "./dom.js";
import { icon } from "./icon.js";
import { textField } from "./input.js";
import { clockTime, dayOf } from "./time.js";
import { span } from "./units.js";

const STOPPED = {
  client: "Stopped.",
  shutdown: "Cut off: the server was stopped.",
  disconnect: "Stopped: nobody followed this answer any more.",
  capacity: "Stopped: another answer needed its place, and nobody followed this one.",
};
const FINISHED = {
  length: "The model reached its limit of tokens.",
  content_filter: "The filter of the model's server ended this answer.",
};

// `actions` are what the page can do with a message, each left out where it is not allowed: edit(message, text),
// regenerate(message), branchOff(message).
export function messageView(message, actions = {}) {
  const view = { id: message.id, message, element: article(message) };
  const row = element("div", { class: "actions" });
  if (isClear(message)) {
    replace(view.element, separator("New context", "What follows is answered without what precedes it"));
  } else {
    replace(view.element, heading(message), contents(message), outcome(message, actions), row);
    replace(row, buttons(view, message, actions));
  }
  view.setDay = (shown) => setDay(view.element, shown && message.created_at ? dayOf(message.created_at) : "");
  view.setVersions = (versions) => setVersions(row, versions);
  return view;
}

// The answer in progress. grow(text) shows what was said so far; `whole(message, actions)` makes it the view of the message that was
// recorded, keeping what is shown.
export function answerView() {
  const body = new GrowingBody();
  const waiting = element("p", { class: "thinking" }, element("span", { class: "only-heard", text: "Answering" }),
    element("span", {}), element("span", {}), element("span", {}));
  const view = { id: "answer", element: element("article", { class: "message assistant live", "aria-label": "Answer in progress" },
    heading({ role: "assistant" }), waiting, body.element) };
  view.grow = (text) => {
    waiting.hidden = text !== "";
    body.grow(text);
  };
  view.whole = (message, actions) => {
    const whole = messageView({ ...message, text: "" }, actions);
    body.finish(message.text);
    whole.message = message;
    whole.element.querySelector(".markdown").replaceWith(body.element);
    replace(whole.element.querySelector(".actions"), buttons(whole, message, actions));
    return whole;
  };
  return view;
}

// What is not recorded yet, or was refused: { message, reason }. update(note) shows what it waits for, and what can be done with it:
// takeBack, and sendAgain if that is given.
export function unsentView(unsent, { takeBack, sendAgain }) {
  const view = { id: unsent.client_id, element: element("article", { class: `message user unsent${unsent.reason ? " refused" : ""}` },
    heading({ role: "user" }), written(unsent.message)) };
  const state = element("p", { class: unsent.reason ? "outcome error" : "outcome" });
  const row = element("div", { class: "actions stay" });
  view.element.append(state, row);
  view.update = (note) => {
    const known = `${note} ${unsent.sent}`;
    if (view.known === known) return;
    view.known = known;
    replace(state, unsent.reason ? [icon("warning"), `Not recorded. ${unsent.reason}`] : note);
    replace(row, sendAgain && button("Send again", "retry", sendAgain),
      (unsent.reason || !unsent.sent) && button("Take back", "close", takeBack));
  };
  return view;
}

function article({ id, role, metadata }) {
  const own = ["user", "assistant"].includes(role) ? role : "other";
  return element("article", {
    class: isClear({ role, metadata }) ? "message marker" : `message ${own}`,
    "aria-label": role === "user" ? "Your message" : role === "assistant" ? "Answer" : `Message of ${role}`,
    dataset: { id },
    tabindex: -1,
  });
}

function isClear({ role, metadata }) {
  return role === "system" && metadata?.type === "clear";
}

function heading({ role }) {
  const known = { user: "You", assistant: "Answer" }[role];
  return element("h2", { class: known ? "only-heard" : "role", text: known ?? role });
}

function separator(text, title) {
  return element("p", { class: "separator", title }, element("span", { text }));
}

// Answers are Markdown; what people and programs write is shown as it was written. The text of a failed answer is the reason.
function contents({ role, text, metadata = {} }) {
  if (role !== "assistant") return written(text);
  return rendered(metadata.status === "error" ? metadata.partial ?? "" : text);
}

function outcome({ role, text, metadata = {} }, { retry }) {
  if (role !== "assistant") return null;
  if (metadata.status === "error") {
    return element("div", { class: "outcome error" }, icon("warning"), element("div", {},
      element("p", {}, element("strong", { text: metadata.partial ? "The answer is not whole. " : "There is no answer. " }), sentence(text)),
      element("p", { class: "muted", text: "Your message and the history are kept." })));
  }
  const notes = [];
  if (metadata.status === "cancelled") notes.push(STOPPED[metadata.cancelled_by] ?? "Stopped.");
  if (FINISHED[metadata.finish_reason]) notes.push(FINISHED[metadata.finish_reason]);
  if (metadata.context === "partial") notes.push("MongoDB did not answer in time: the model was told what this server has.");
  return notes.length ? element("p", { class: "outcome" }, notes.join(" ")) : null;
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

function buttons(view, message, actions) {
  const { role, text, metadata = {} } = message;
  const failed = metadata.status === "error";
  return [
    failed && actions.regenerate && button("Try again", "retry", () => actions.regenerate(message)),
    copyButton("Copy the message as it was written", () => (failed && metadata.partial) || text),
    role === "user" && actions.edit && action("Edit", "edit", () => openEditor(view, message, actions)),
    role === "assistant" && !failed && actions.regenerate && action("Answer again", "retry", () => actions.regenerate(message)),
    actions.branchOff && action("Go on from here in a new conversation", "branch", () => actions.branchOff(message)),
    facts(message),
  ];
}

function facts({ role, created_at, metadata = {} }) {
  return element("span", { class: "facts" },
    role === "assistant" && metadata.model && element("span", { class: "model", title: "The model that answered", text: metadata.model }),
    role === "assistant" && metadata.duration_ms > 0
      && element("span", { class: "duration", title: "How long the answer took", text: span(metadata.duration_ms / 1000) }),
    created_at && element("time", { datetime: created_at, title: new Date(created_at).toLocaleString(), text: clockTime(created_at) }));
}

function action(label, name, onclick) {
  return element("button", { class: "icon", type: "button", "aria-label": label, title: label, onclick }, icon(name));
}

export function button(text, name, onclick) {
  return element("button", { class: "quiet small", type: "button", onclick }, icon(name), text);
}

// The texts of edits that were not sent, by the id of the message: its view may leave the page meanwhile.
const unsaved = new Map();

// The message becomes a field; what it was comes back on Cancel.
function openEditor(view, message, { edit }) {
  const shown = [...view.element.childNodes];
  const days = shown.filter((node) => node.classList.contains("day"));
  const close = () => {
    unsaved.delete(message.id);
    replace(view.element, shown);
    view.element.querySelector("[aria-label='Edit']")?.focus();
  };
  const submit = (text) => {
    if (!text.trim() || text === message.text) return close();
    unsaved.delete(message.id);
    edit(message, text);
  };
  const field = textField({
    label: "Edit your message", value: unsaved.get(message.id) ?? message.text, submit,
    changed: (text) => unsaved.set(message.id, text),
    cancel: (event) => { event.stopPropagation(); close(); },
  });
  replace(view.element, days, heading(message), element("div", { class: "editor" }, field, element("div", { class: "row" },
    element("span", { class: "muted", text: "What follows stays as another version." }),
    element("button", { class: "quiet", type: "button", onclick: close }, "Cancel"),
    element("button", { class: "primary", type: "button", onclick: () => submit(field.value) }, "Send"))));
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

export function edit(view) {
  view.element.querySelector("[aria-label='Edit']")?.click();
}

function setDay(parent, text) {
  const shown = parent.querySelector(":scope > .day");
  if (shown?.textContent === text || (!shown && !text)) return;
  shown?.remove();
  if (text) parent.prepend(element("p", { class: "day" }, element("span", { text })));
}

// { at, count, go(step) }: which of the versions this is.
function setVersions(row, { at, count, go }) {
  row.querySelector(".versions")?.remove();
  if (count < 2) return;
  const step = (label, name, by, enabled) => set(action(label, name, () => go(by)), { disabled: !enabled });
  row.prepend(element("span", { class: "versions", role: "group", "aria-label": "Versions" },
    step("The version before", "back", -1, at > 0),
    element("span", { text: `${at + 1} / ${count}` }),
    step("The version after", "forward", 1, at < count - 1)));
}
