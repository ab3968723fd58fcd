// The list of sessions: how it looks, its keys, what is selected. What it shows comes from sessions.js, what is done to it from
// actions.js, the windowed listbox from rows.js. It knows nothing of what a conversation says.

import { sessionActions, titleOf } from "./actions.js";
import { element, replace, set } from "./dom.js";
import { icon } from "./icon.js";
import { follow } from "./live.js";
import { openMenu } from "./menu.js";
import { windowedRows } from "./rows.js";
import { sessionStore } from "./sessions.js";
import { shortTime } from "./time.js";

// `onOpen(session_id)` opens one; `onErased(session_id)` is told of one that was erased here. `onNew`, `onSearch`, `onExport(
// session_ids)` and `onImport` are what the buttons of that name do.
export function sessionList({ onOpen, onErased, onNew, onSearch, onExport, onImport, canWrite, canAdmin }) {
  const store = sessionStore({ changed: paint });
  const actions = sessionActions({ store, gone: onErased });
  const selected = new Set();
  let open, from, isSelecting = false, isLive = true;

  const rows = windowedRows({
    label: "Conversations",
    model: { count: () => store.count, key: (index) => store.at(index)?.session_id, indexOf: store.indexOf, fill, total },
    near: () => store.next && !store.fault && store.load(),
    onclick: click, onkeydown: keys, oncontextmenu: contextMenu,
  });
  const header = element("div", { class: "list-head" });
  const notes = element("div", { class: "list-notes", role: "status" });
  const whole = element("section", { class: "list", "aria-label": "Conversations" }, header, notes, rows.element);

  function total() {
    return store.next === null ? store.count : -1;
  }

  function paint() {
    for (const id of selected) if (!store.get(id)) selected.delete(id);
    whole.classList.toggle("list-selecting", isSelecting || selected.size > 0);
    paintHeader();
    paintNotes();
    set(rows.box, { "aria-busy": String(store.next === undefined && !store.fault), "aria-label": store.archived ? "Archive" : "Conversations" });
    rows.paint();
  }

  // --- a row ---

  function fill(node, index) {
    const row = store.at(index);
    const state = `${selected.has(row.session_id)} ${row.session_id === open} ${isSelecting} ${shortTime(row.updated_at)}`;
    set(node, { "aria-selected": String(selected.has(row.session_id)) });
    // A row is made anew only if it says something else: scrolling costs little, and nothing flickers.
    if (node.shownRow === row && node.shownState === state) return;
    Object.assign(node, { shownRow: row, shownState: state });
    set(node, { "aria-current": row.session_id === open ? "true" : false });
    node.classList.toggle("row-pinned", row.pinned);
    node.classList.toggle("row-answering", row.answering);
    node.classList.toggle("row-last-pinned", row.pinned && index === store.pinned.length - 1 && store.rest.length > 0);
    replace(node,
      element("span", { class: "row-check", "aria-hidden": "true" }, icon("check")),
      element("span", { class: "row-text" },
        element("span", { class: "row-line" },
          element("span", { class: "row-title", dir: "auto", text: titleOf(row) }),
          row.pinned && element("span", { class: "row-pin" }, icon("pin"), hidden("pinned")),
          element("time", { datetime: row.updated_at, text: shortTime(row.updated_at) })),
        preview(row)),
      // The same menu is on Shift+F10 and the context key; a button inside of an option would be no option any more.
      element("span", { class: "row-more", "aria-hidden": "true" }, icon("more")));
  }

  function preview({ answering, last }) {
    if (answering) return element("span", { class: "row-preview row-busy" }, element("span", { class: "pulse", "aria-hidden": "true" }), "Answering…");
    if (!last) return element("span", { class: "row-preview", text: "The last message cannot be read now." });
    return element("span", { class: "row-preview", dir: "auto" }, last.role === "user" && hidden("You: "), last.text);
  }

  // --- head and notes ---

  function paintHeader() {
    const state = JSON.stringify([selected.size, isSelecting, store.archived, picked().every((row) => row.pinned)]);
    if (header.shownState === state) return;
    const name = header.contains(document.activeElement) ? document.activeElement.dataset.name : undefined;
    header.shownState = state;
    replace(header, isSelecting || selected.size ? selectionBar() : usualBar());
    // The bar is made anew under the user's hands: the button of that name keeps the focus, else the list has it.
    if (name) (header.querySelector(`[data-name="${name}"]`) ?? rows.box).focus();
  }

  function usualBar() {
    const view = (archived, text) => element("button", {
      class: "tab", type: "button", dataset: { name: text }, "aria-pressed": String(store.archived === archived), onclick: () => switchTo(archived),
    }, text);
    return [
      element("div", { class: "list-bar" },
        canWrite && element("button", { class: "primary", type: "button", dataset: { name: "new" }, onclick: onNew }, icon("plus"), "New"),
        element("span", { class: "bar-space" }),
        button("search", "Search", onSearch, "Ctrl+K"),
        button("more", "More", ({ currentTarget }) => listMenu(currentTarget))),
      element("div", { class: "list-views", role: "group", "aria-label": "View" }, view(false, "Conversations"), view(true, "Archive")),
    ];
  }

  function selectionBar() {
    const chosen = picked();
    const allPinned = chosen.length > 0 && chosen.every((row) => row.pinned);
    const none = chosen.length === 0;
    return element("div", { class: "list-bar", role: "toolbar", "aria-label": "Selected conversations" },
      button("close", "End the selection", endSelection, "Escape"),
      element("span", { class: "list-count", role: "status", text: `${chosen.length} selected` }),
      canWrite && button("pin", allPinned ? "Unpin" : "Pin", () => actions.pin(picked(), !allPinned), "P", none),
      canWrite && button("archive", store.archived ? "Restore" : "Archive", () => actions.archive(picked(), !store.archived), "A", none),
      button("download", "Export", () => onExport(picked().map((row) => row.session_id)), undefined, none),
      canAdmin && button("erase", "Erase", () => actions.erase(picked()), "Delete", none));
  }

  function button(glyph, label, onclick, key, disabled = false) {
    const title = key ? `${label} (${key})` : label;
    return element("button", { class: "icon", type: "button", dataset: { name: glyph }, "aria-label": label, title, disabled, onclick }, icon(glyph));
  }

  function paintNotes() {
    const say = [];
    if (store.fault) say.push(note(`The list could not be read: ${store.fault.message}`, { label: "Try again", run: retry }));
    else if (!isLive) say.push(note("Changes are not shown at the moment; connecting again…"));
    if (store.incomplete) say.push(note(`Not everything is listed: ${store.incomplete}.`));
    if (store.count === 0 && store.next === null) say.push(empty());
    const state = say.map((node) => node.textContent).join("\n");
    if (notes.shownState === state) return;
    notes.shownState = state;
    replace(notes, say);
  }

  function note(text, action) {
    return element("div", { class: "list-note" }, element("p", { text }),
      action && element("button", { type: "button", onclick: action.run }, action.label));
  }

  function empty() {
    return element("p", { class: "list-empty", text: store.archived
      ? "Nothing is archived. What you archive stays whole and can be found by search."
      : "No conversations yet. Each is listed here as soon as it has a message, from this page or any other client." });
  }

  // --- what one does ---

  function retry() {
    return store.next === undefined ? store.reload() : store.load();
  }

  async function switchTo(archived) {
    endSelection();
    await store.show(archived);
    rows.box.scrollTop = 0;
  }

  function picked() {
    return [...selected].map(store.get).filter(Boolean);
  }

  // What a key acts upon: the selection, or the active row.
  function meant() {
    const active = store.get(rows.active);
    return selected.size ? picked() : active ? [active] : [];
  }

  function endSelection() {
    selected.clear();
    isSelecting = false;
    from = undefined;
    paint();
  }

  function toggle(id) {
    if (!selected.delete(id)) selected.add(id);
    from = id;
    paint();
  }

  function selectTo(id) {
    const [a, b] = [store.indexOf(from ?? id), store.indexOf(id)].sort((x, y) => x - y);
    from ??= id;
    selected.clear();
    for (let index = Math.max(a, 0); index <= b; index += 1) selected.add(store.at(index).session_id);
    paint();
  }

  function choose(id) {
    from = undefined;
    onOpen(id);
  }

  function click(event) {
    const id = rows.keyOf(event.target);
    if (!id) return;
    rows.activate(id, false);
    if (event.target.closest(".row-more")) return rowMenu(id, { x: event.clientX, y: event.clientY });
    if (event.shiftKey) selectTo(id);
    else if (event.ctrlKey || event.metaKey || isSelecting || selected.size || event.target.closest(".row-check")) toggle(id);
    else choose(id);
  }

  function contextMenu(event) {
    const id = rows.keyOf(event.target) ?? rows.active;
    if (!id) return;
    event.preventDefault();
    rows.activate(id, false);
    const byKey = event.clientX === 0 || event.button !== 2;
    const box = rows.box.querySelector(".row-active")?.getBoundingClientRect();
    const show = () => rowMenu(id, byKey && box ? { x: box.left + 40, y: box.bottom } : { x: event.clientX, y: event.clientY });
    // Firefox would take the release of the button for a click beside the menu.
    if (event.buttons === 2) addEventListener("mouseup", show, { once: true });
    else show();
  }

  function rowMenu(id, at) {
    const row = store.get(id);
    if (!row) return;
    const several = selected.has(id) && selected.size > 1;
    const on = several ? picked() : [row];
    const entries = [
      !several && { label: "Open", icon: "open", key: "Enter", run: () => choose(id) },
      canWrite && !several && { label: "Rename…", icon: "edit", key: "F2", run: () => actions.rename(row) },
      canWrite && { label: row.pinned ? "Unpin" : "Pin", icon: "pin", key: "P", run: () => actions.pin(on, !row.pinned) },
      canWrite && { label: store.archived ? "Restore" : "Archive", icon: "archive", key: "A", run: () => actions.archive(on, !store.archived) },
      !several && { label: "Select", icon: "select", key: "Space", run: () => toggle(id) },
      { label: "Export…", icon: "download", run: () => onExport(on.map((one) => one.session_id)) },
      canAdmin && null,
      canAdmin && { label: "Erase…", icon: "erase", key: "Delete", danger: true, run: () => actions.erase(on) },
    ];
    openMenu({ label: titleOf(row), at, entries: entries.filter((entry) => entry !== false && entry !== undefined) });
  }

  function listMenu(at) {
    const entries = [
      { label: "Select several", icon: "select", run: () => { isSelecting = true; paint(); rows.box.focus(); } },
      { label: "Export…", icon: "download", run: () => onExport([]) },
      canAdmin && { label: "Import…", icon: "upload", run: onImport },
    ];
    openMenu({ label: "More", at, entries: entries.filter(Boolean) });
  }

  function keys(event) {
    const now = rows.active === undefined ? -1 : store.indexOf(rows.active);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: rows.pageRows, PageUp: -rows.pageRows, Home: -Infinity, End: Infinity }[event.key];
    const active = rows.active;
    const act = {
      Enter: () => active && choose(active),
      " ": () => active && toggle(active),
      F2: () => canWrite && active && actions.rename(store.get(active)),
      Delete: () => canAdmin && meant().length && actions.erase(meant()),
      Escape: () => endSelection(),
      p: () => canWrite && meant().length && actions.pin(meant(), !meant().every((row) => row.pinned)),
      a: () => canWrite && meant().length && actions.archive(meant(), !store.archived),
    }[event.key];
    const isCommand = event.ctrlKey || event.metaKey;
    if (isCommand && event.key === "a") selectAll();
    else if (step !== undefined) move(now, step, event.shiftKey);
    else if (act && !isCommand && !event.altKey && (event.key !== "Escape" || selected.size || isSelecting)) act();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function move(now, step, isExtending) {
    if (store.count === 0) return;
    const to = store.at(Math.min(Math.max(now + step, 0), store.count - 1)).session_id;
    if (isExtending) {
      from ??= rows.active ?? to;
      selectTo(to);
    }
    rows.activate(to);
  }

  // All that is loaded: more comes with scrolling, and the count says how many are meant.
  function selectAll() {
    for (let index = 0; index < store.count; index += 1) selected.add(store.at(index).session_id);
    paint();
  }

  paint();
  const live = follow({ onEvent: store.touch, onAnew: store.reload, onState: (now) => { isLive = now; paint(); } });
  return {
    element: whole,
    // Marks the session that is open, and brings it into sight if it is listed.
    show(id) {
      open = id;
      if (store.get(id)) rows.reveal(id);
      paint();
    },
    focus: () => rows.box.focus(),
    close: live.close,
    // The token is another one, or the server is known to be back.
    reconnect: live.reconnect,
    titleOf: (id) => (store.get(id) ? titleOf(store.get(id)) : id),
  };
}

function hidden(text) {
  return element("span", { class: "only-heard", text });
}
