// A field for a text of some lines: it grows with its text, Enter submits and Shift+Enter begins a line. It knows nothing of
// what is written.

import { element } from "./dom.js";

export function textField({ label, placeholder, value = "", submit, cancel = () => {}, changed = () => {} }) {
  const field = element("textarea", {
    class: "field", rows: 1, "aria-label": label, placeholder, value, enterkeyhint: "send", dir: "auto",
    oninput: () => {
      fit(field);
      changed(field.value);
    },
    onkeydown: (event) => {
      if (composes(event)) return;
      if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
        event.preventDefault();
        submit(field.value);
      } else if (event.key === "Escape") cancel(event);
    },
  });
  // Its height depends on its width, and is known once it is in the page.
  new ResizeObserver(() => fit(field)).observe(field);
  return field;
}

export function setText(field, text) {
  field.value = text;
  fit(field);
}

// The Enter that ends a composition (Japanese, Chinese, Korean and others) chooses a word. Safari tells so by the code 229 only.
export function composes({ isComposing, keyCode }) {
  return isComposing || keyCode === 229;
}

function fit(field) {
  const border = field.offsetHeight - field.clientHeight;
  const height = field.style.height;
  field.style.setProperty("height", "auto");
  const needed = `${field.scrollHeight + border}px`;
  field.style.setProperty("height", field.scrollHeight ? needed : height);
}
