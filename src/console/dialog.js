// Questions, prompts, the list of keys, and short notes at the edge of the page. Dialogs are modal <dialog> elements: the browser
// keeps the focus inside, closes them on Escape and returns the focus. It knows nothing of what is asked.

import { element, replace } from "./dom.js";

// A confirmation. `text` is a string, or nodes. Resolves to true only if the user confirmed; `danger` marks what cannot be undone,
// and puts the focus on Cancel, so that Enter alone never does it.
export function ask({ title, text, confirm, danger }) {
  const no = button("Cancel", "quiet", () => view.close());
  const yes = element("button", { class: danger ? "danger" : "primary", type: "submit" }, confirm);
  const view = openDialog({ title, class: "dialog-ask", content: form(() => view.close(true), paragraph(text), row(no, yes)) });
  (danger ? no : yes).focus();
  return view.closed.then((answer) => answer === true);
}

// Asks for a line of text. Resolves to it, or to null if the user gave up. `check(text)` returns what is wrong with it, or a
// falsy value.
export function prompt({ title, text, label, value, confirm, check }) {
  const fault = element("p", { class: "dialog-fault", role: "alert", id: "dialog-fault" });
  const input = element("input", {
    type: "text", class: "field", value, "aria-label": label, autocomplete: "off", spellcheck: "false",
    oninput: () => judge(""),
  });
  const judge = (wrong) => {
    replace(fault, wrong || "");
    input.setAttribute("aria-invalid", String(Boolean(wrong)));
    input.setAttribute("aria-describedby", fault.id);
  };
  const submit = () => {
    const wrong = check(input.value);
    if (!wrong) return view.close(input.value);
    judge(wrong);
    input.focus();
  };
  const buttons = row(button("Cancel", "quiet", () => view.close()), element("button", { class: "primary", type: "submit" }, confirm));
  const view = openDialog({ title, class: "dialog-ask", content: form(submit, paragraph(text), input, fault, buttons) });
  input.focus();
  input.select();
  return view.closed.then((answer) => answer ?? null);
}

// The list of keys: showKeys([{ title: "Anywhere", keys: [[["Ctrl", "K"], "Search"], …] }, …])
export function showKeys(groups) {
  const list = ({ title, keys }) => element("section", {},
    element("h3", { text: title }),
    element("dl", { class: "keys" }, keys.map(([names, does]) => element("div", {},
      element("dt", {}, names.map((name) => element("kbd", { text: name }))),
      element("dd", { text: does })))));
  const view = openDialog({
    title: "Keys", class: "dialog-keys",
    content: [element("div", { class: "keys-groups" }, groups.map(list)), row(button("Close", "quiet", () => view.close()))],
  });
  view.dialog.scrollTop = 0;  // the focus is on its last line
}

// Any other dialog. `title` names it and is its heading unless `heading` is false. `close(answer)` closes it; `closed` resolves to
// that answer, or to undefined after Escape or a click beside it.
export function openDialog({ title, heading = true, content, class: name = "" }) {
  const before = document.activeElement;
  const dialog = element("dialog", { class: `dialog ${name}`, "aria-label": title },
    heading && element("h2", { text: title }), content);
  let answer;
  const closed = new Promise((resolve) => dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected && document.activeElement === document.body) before.focus();
    resolve(answer);
  }));
  const close = (value) => {
    answer = value;
    dialog.close();
  };
  // The press counts, not the click: a selection of text that ends beside the dialog does not close it.
  dialog.addEventListener("pointerdown", (event) => event.target === dialog && isOutside(dialog, event) && close());
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, close, closed };
}

// A note that goes after some seconds; with `error` or `stay` it stays until it is closed. `action` is { label, run }.
// Returns { say(text), progress(share), close() }: what lasts can tell how far it is, `share` from 0 to 1 or undefined if unknown.
export function toast(text, { error = false, stay = error, action } = {}) {
  const words = element("span", { class: "toast-text", text });
  const bar = element("progress", { max: "1", hidden: true, "aria-label": text });
  const note = element("div", { class: error ? "toast toast-error" : "toast", role: error ? "alert" : "status" },
    element("div", { class: "toast-body" }, words, bar),
    action && button(action.label, "quiet", () => { action.run(); close(); }),
    element("button", { class: "icon", type: "button", "aria-label": "Close this note", onclick: () => close() }, "×"));
  let timer;
  const wait = () => { timer = stay ? undefined : setTimeout(close, 6000); };
  const close = () => { clearTimeout(timer); note.remove(); shelve(); };
  // Whoever is reading it, or is about to press its button, has the time to.
  for (const begin of ["pointerenter", "focusin"]) note.addEventListener(begin, () => clearTimeout(timer));
  for (const end of ["pointerleave", "focusout"]) note.addEventListener(end, wait);
  shelf().append(note);
  shelve();
  wait();
  return {
    say: (next) => { if (words.textContent !== next) words.textContent = next; },
    progress: (share) => {
      bar.hidden = false;
      if (share === undefined) bar.removeAttribute("value");
      else bar.value = share;
    },
    close,
  };
}

// Notes stand above everything, dialogs too: a popover is in the top layer, and showing it again puts it on top.
function shelf() {
  const found = document.querySelector(".toasts");
  if (found) return found;
  const made = element("div", { class: "toasts", popover: "manual", "aria-label": "Notes", role: "region" });
  document.body.append(made);
  return made;
}

function shelve() {
  const notes = shelf();
  const open = notes.matches(":popover-open");
  if (open && (notes.childElementCount === 0 || document.querySelector("dialog[open]"))) notes.hidePopover();
  if (notes.childElementCount && !notes.matches(":popover-open")) notes.showPopover();
}

function form(submit, ...content) {
  return element("form", { novalidate: true, onsubmit: (event) => { event.preventDefault(); submit(); } }, ...content);
}

function paragraph(text) {
  return element("div", { class: "dialog-text" }, typeof text === "string" ? element("p", { text }) : text);
}

export function row(...buttons) {
  return element("div", { class: "dialog-buttons" }, ...buttons);
}

export function button(text, name, onclick) {
  return element("button", { class: name, type: "button", onclick }, text);
}

function isOutside(dialog, { clientX: x, clientY: y }) {
  const box = dialog.getBoundingClientRect();
  return x < box.left || x > box.right || y < box.top || y > box.bottom;
}
