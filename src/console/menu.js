// A menu at a place of the page: arrow keys, Home, End, the first letter; Escape and a click beside it close it and return the
// focus. It knows nothing of what the entries do.

import { element } from "./dom.js";
import { icon } from "./icon.js";

const EDGE = 8;

// `at` is an element, or { x, y }. Entries are { label, icon, key, danger, run }; null makes a line between two groups.
export function openMenu({ label, at, entries }) {
  const before = document.activeElement;
  const items = entries.map((entry) => (entry ? item(entry) : element("div", { class: "menu-line", role: "separator" })));
  const menu = element("div", { class: "menu", role: "menu", "aria-label": label, popover: "auto", onkeydown: keys }, items);
  const choices = items.filter((node) => node.matches("button"));

  function item({ label: text, icon: glyph, key, danger, run }) {
    const choose = () => {
      menu.hidePopover();
      run();
    };
    return element("button", { class: danger ? "menu-item danger" : "menu-item", role: "menuitem", type: "button", tabindex: "-1", onclick: choose },
      icon(glyph), element("span", { text }), key && element("kbd", { text: key, "aria-hidden": "true" }));
  }

  function keys(event) {
    event.stopPropagation();
    const now = choices.indexOf(document.activeElement);
    const next = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: -1 }[event.key]
      ?? (event.key.length === 1 ? choices.findIndex((node) => node.textContent.toLowerCase().startsWith(event.key.toLowerCase())) : NaN);
    if (event.key === "Tab") menu.hidePopover();
    if (Number.isNaN(next)) return;
    event.preventDefault();
    choices.at(next % choices.length)?.focus();
  }

  menu.addEventListener("toggle", ({ newState }) => {
    if (newState !== "closed") return;
    const hadFocus = menu.contains(document.activeElement) || document.activeElement === document.body;
    menu.remove();
    if (hadFocus) before?.focus();
  });
  // It belongs to what it was opened from: everything outside of an open dialog is inert.
  (before?.closest("dialog, aside, main") ?? document.body).append(menu);
  menu.showPopover();
  position(menu, at);
  choices[0]?.focus();
}

function position(menu, at) {
  const anchor = at instanceof Element ? at.getBoundingClientRect() : { left: at.x, right: at.x, top: at.y, bottom: at.y };
  const { width, height } = menu.getBoundingClientRect();
  const below = anchor.bottom + height + EDGE <= innerHeight;
  const left = anchor.left + width + EDGE <= innerWidth ? anchor.left : anchor.right - width;
  const top = below ? anchor.bottom : anchor.top - height;
  menu.style.setProperty("left", `${Math.max(EDGE, left)}px`);
  menu.style.setProperty("top", `${Math.max(EDGE, top)}px`);
}
