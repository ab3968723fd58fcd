// Puts text on the clipboard, and tells so on the button that was pressed.

import { element, replace } from "./dom.js";
import { icon } from "./icon.js";

// Resolves to whether it worked.
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);  // over http:// from another machine a page has no clipboard of its own
  }
}

// A button that copies what `text()` gives.
export function copyButton(label, text, { words = false } = {}) {
  const show = (name, say) => replace(button, icon(name), words && element("span", { text: say }));
  const button = element("button", {
    class: words ? "quiet small" : "icon", type: "button", "aria-label": label, title: label,
    onclick: async () => {
      const done = await copy(text());
      show(done ? "check" : "warning", done ? "Copied" : "Not copied");
      button.setAttribute("aria-label", done ? "Copied" : "Could not be copied");
      setTimeout(() => {
        show("copy", "Copy");
        button.setAttribute("aria-label", label);
      }, 1500);
    },
  });
  show("copy", "Copy");
  return button;
}

function copyBySelection(text) {
  const before = document.activeElement;
  const field = element("textarea", { class: "only-heard", readonly: true, "aria-hidden": "true", value: text });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus();
  return done;
}
