// A listbox of any length of which only the rows in sight, and the active one, are nodes. The focus stays on the listbox and
// `aria-activedescendant` names the active row, so it is kept when rows move. It knows nothing of sessions.

import { element, set } from "./dom.js";

const MARGIN_ROWS = 8;
let lists = 0;

// `model` is { count(), key(index), indexOf(key), fill(node, index), total() }: `fill` sets what a row shows, `total` is the number
// of all rows if it is known, else -1. `near()` is called when the end comes near.
export function windowedRows({ label, model, near, ...handlers }) {
  const prefix = `rows-${lists += 1}`;
  const space = element("div", { class: "rows-space", role: "presentation" });
  const box = element("div", {
    class: "rows", role: "listbox", tabindex: "0", "aria-label": label, "aria-multiselectable": "true",
    onscroll: () => later(), onfocus: () => activate(current ?? model.key(0), false), ...handlers,
  }, space);
  const shown = new Map();  // nodes by key
  let current, currentIndex = 0, frame, height = 0, seen = [];

  function later() {
    frame ??= requestAnimationFrame(() => { frame = undefined; paint(); });
  }

  function paint() {
    const count = model.count();
    height = measured();
    keepInPlace();
    space.style.setProperty("height", `${count * height}px`);
    const first = Math.max(0, Math.floor(box.scrollTop / height) - MARGIN_ROWS);
    const last = Math.min(count, Math.ceil((box.scrollTop + box.clientHeight) / height) + MARGIN_ROWS);
    const indexes = Array.from({ length: Math.max(0, last - first) }, (_, n) => first + n);
    const at = activeIndex(count);
    if (at >= 0 && (at < first || at >= last)) indexes.push(at);
    arrange(indexes.sort((a, b) => a - b));
    seen = inSight(count);
    set(box, { "aria-activedescendant": at >= 0 ? idOf(current) : false });
    if ((last + MARGIN_ROWS) >= count) near();
  }

  // If the active row has gone, the one that took its place is active.
  function activeIndex(count) {
    if (current === undefined || count === 0) return -1;
    const found = model.indexOf(current);
    currentIndex = found >= 0 ? found : Math.min(currentIndex, count - 1);
    if (found < 0) current = model.key(currentIndex);
    return currentIndex;
  }

  function arrange(indexes) {
    const nodes = indexes.map((index) => {
      const key = model.key(index);
      const node = shown.get(key) ?? element("div", { class: "list-row", role: "option", id: idOf(key), dataset: { key } });
      node.style.setProperty("transform", `translateY(${index * height}px)`);
      set(node, { "aria-posinset": index + 1, "aria-setsize": model.total() });
      node.classList.toggle("row-active", key === current);
      model.fill(node, index);
      return [key, node];
    });
    shown.clear();
    for (const [key, node] of nodes) shown.set(key, node);
    const wanted = [...shown.values()];
    if (wanted.length !== space.childElementCount || wanted.some((node, n) => space.children[n] !== node)) space.replaceChildren(...wanted);
  }

  // Rows that come in above push no other from under the reader's eyes: what was in sight stays, by the step of most of its rows.
  function keepInPlace() {
    if (box.scrollTop < height / 2) return;
    const steps = seen.map(([key, index]) => [model.indexOf(key), index]).filter(([now]) => now >= 0).map(([now, index]) => now - index);
    const step = steps.sort((a, b) => a - b)[steps.length >> 1] ?? 0;
    if (step) {
      space.style.setProperty("height", `${model.count() * height}px`);
      box.scrollTop += step * height;
    }
  }

  function inSight(count) {
    const first = Math.floor(box.scrollTop / height);
    const last = Math.min(count, Math.ceil((box.scrollTop + box.clientHeight) / height));
    return Array.from({ length: Math.max(0, last - first) }, (_, n) => [model.key(first + n), first + n]);
  }

  // The height of a row follows the size of the text, so it is asked for, by a row that nobody sees.
  const probe = element("div", { class: "list-row", "aria-hidden": "true" });
  const measured = () => probe.offsetHeight || height || 60;

  function activate(key, scroll = true) {
    if (key === undefined) return;
    current = key;
    if (scroll) reveal(key);
    paint();
  }

  function reveal(key) {
    const index = model.indexOf(key);
    if (index < 0) return;
    const top = index * height, bottom = top + height;
    space.style.setProperty("height", `${model.count() * height}px`);
    if (top < box.scrollTop) box.scrollTop = top;
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
    seen = [];
  }

  const idOf = (key) => `${prefix}-${key}`;
  const whole = element("div", { class: "rows-frame" }, element("div", { class: "rows-probe-frame", "aria-hidden": "true" }, probe), box);
  new ResizeObserver(later).observe(box);
  return {
    element: whole, box, paint: later, activate, reveal,
    get active() { return current !== undefined && model.indexOf(current) >= 0 ? current : undefined; },
    get pageRows() { return Math.max(1, Math.floor(box.clientHeight / (height || 60)) - 1); },
    keyOf: (target) => target.closest?.(".list-row")?.dataset.key,
  };
}
