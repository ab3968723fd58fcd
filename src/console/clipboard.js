// Puts text on the clipboard, and tells so on the button that was pressed.

import { element, replace, set } from "./dom.js";
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
export function copyButton(label, text) {
  const show = (name, says) => set(replace(button, icon(name)), { "aria-label": says, title: says });
  const button = element("button", {
    class: "icon", type: "button",
    onclick: async () => {
      if (await copy(text())) show("check", "Copied");
      else show("warning", "Could not be copied");
      setTimeout(() => show("copy", label), 1500);
    },
  });
  return show("copy", label);
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
