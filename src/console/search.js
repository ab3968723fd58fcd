// The search, on Ctrl+K: one field over titles and texts, and what was found below it. The focus stays in the field; arrow keys go
// through what was found, Enter opens it at its message. It knows nothing of how a conversation is shown.

import { openDialog } from "./dialog.js";
import { element, replace, set } from "./dom.js";
import { finder } from "./finder.js";
import { icon } from "./icon.js";
import { composes } from "./input.js";
import { shortTime } from "./time.js";
import { plural } from "./units.js";

// While one types: as long as it takes to type the next letter.
const TYPING_MS = 150;
const LIST_ID = "search-found";

export function searchDialog({ onOpen }) {
  let view;
  return {
    open() {
      if (view) return;
      view = openSearch({ onOpen });
      view.closed.then(() => { view = undefined; });
    },
  };
}

function openSearch({ onOpen }) {
  const search = finder({ changed: later });
  let active = 0, chosen, timer, frame;

  const field = element("input", {
    type: "search", class: "search-field", role: "combobox", "aria-label": "Search titles and messages", "aria-expanded": "true",
    "aria-controls": LIST_ID, "aria-autocomplete": "list", autocomplete: "off", spellcheck: "false", enterkeyhint: "search",
    placeholder: "Search titles and messages", oninput: typed, onkeydown: keys,
  });
  const list = element("div", { class: "search-found", id: LIST_ID, role: "listbox", "aria-label": "Found", onscroll: nearEnd, onclick: clicked });
  const state = element("p", { class: "search-state", role: "status" });
  const head = element("div", { class: "search-head" }, icon("search"), field,
    element("button", { class: "icon", type: "button", "aria-label": "Close the search", onclick: () => view.close() }, icon("close")));
  const view = openDialog({ title: "Search", heading: false, class: "dialog-search", content: [head, list, state] });
  view.closed.then(search.stop);
  field.focus();
  search.find("");
  return view;

  function typed() {
    clearTimeout(timer);
    timer = setTimeout(find, TYPING_MS);
  }

  function find() {
    clearTimeout(timer);
    timer = undefined;
    [active, chosen] = [0, undefined];
    list.scrollTop = 0;
    return search.find(field.value);
  }

  // It may come before the words were searched for: then it opens what they find, unless they become others.
  async function enter() {
    const words = field.value;
    if (timer) await find();
    if (!field.isConnected || field.value !== words) return;
    paint();
    open(options()[active]);
  }

  function later() {
    frame ??= requestAnimationFrame(() => { frame = undefined; paint(); });
  }

  function paint() {
    const { found } = search;
    const marked = found.query.toLowerCase().split(" ").filter(Boolean);
    const hits = [
      ...found.titles.map((row) => titleHit(row, marked)),
      ...found.messages.map((message) => messageHit(message, search.titleOf(message.session_id))),
    ];
    // What the user went to stays the active one when more is found above it.
    const same = hits.findIndex((node) => chosen && node.dataset.session === chosen.session && node.dataset.message === chosen.message);
    active = same >= 0 ? same : Math.min(active, Math.max(hits.length - 1, 0));
    hits.forEach((node, index) => set(node, { id: `${LIST_ID}-${index}` }));
    const groups = [group(found.query ? "Titles" : "Conversations", hits.slice(0, found.titles.length)), group("Messages", hits.slice(found.titles.length))];
    replace(list, groups);
    point();
    replace(state, saying(found));
  }

  function point() {
    const nodes = options();
    nodes.forEach((node, index) => set(node, { "aria-selected": String(index === active) }));
    set(field, { "aria-activedescendant": nodes[active]?.id ?? false });
  }

  function options() {
    return [...list.querySelectorAll("[role=option]")];
  }

  function keys(event) {
    const count = options().length;
    const page = Math.max(1, Math.floor(list.clientHeight / 64));
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[event.key];
    if (event.key === "Enter" && !composes(event)) enter();
    else if (step !== undefined && count) move(active + step, Math.abs(step) === 1, count);
    else if ((event.ctrlKey || event.metaKey) && event.key === "k") field.select();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Past the end it goes on with more, or at the beginning.
  function move(to, wraps, count) {
    if (to >= count && search.found.next) return search.more();
    active = wraps ? (to + count) % count : Math.min(Math.max(to, 0), count - 1);
    point();
    chosen = { ...options()[active].dataset };
    options()[active].scrollIntoView({ block: "nearest" });
    nearEnd();
  }

  function nearEnd() {
    if (list.scrollTop + 2 * list.clientHeight > list.scrollHeight && list.scrollTop > 0) search.more();
  }

  function clicked({ target }) {
    open(target.closest("[role=option]"));
  }

  function open(node) {
    if (!node) return;
    const { session, message } = node.dataset;
    view.close();
    view.closed.then(() => onOpen(session, message));
  }
}

function group(label, nodes) {
  return nodes.length > 0 && element("div", { role: "group", "aria-label": label },
    element("div", { class: "search-group", "aria-hidden": "true", text: label }), nodes);
}

function titleHit({ session_id, title, updated_at, archived }, words) {
  return element("div", { class: "hit", role: "option", dataset: { session: session_id } },
    element("span", { class: "hit-line" },
      element("span", { class: "hit-title", dir: "auto" }, marks(title || session_id, words)),
      archived && element("span", { class: "hit-flag", text: "archived" }),
      element("time", { datetime: updated_at, text: shortTime(updated_at) })));
}

function messageHit({ id, session_id, role, created_at, snippet }, title) {
  return element("div", { class: "hit", role: "option", dataset: { session: session_id, message: id } },
    element("span", { class: "hit-snippet", dir: "auto" }, snippet.map(({ text, hit }) => (hit ? element("mark", { text }) : text))),
    element("span", { class: "hit-line hit-from" },
      element("span", { text: role === "user" ? "You" : role }),
      element("span", { class: "hit-title", dir: "auto", text: title }),
      element("time", { datetime: created_at, text: shortTime(created_at) })));
}

// The server marks the words in texts; in titles it is done here. A letter whose lower case is longer would shift the places, so
// such a title stays unmarked.
function marks(text, words) {
  const lower = text.toLowerCase();
  if (words.length === 0 || lower.length !== text.length) return text;
  const isHit = new Uint8Array(text.length);
  for (const word of words) {
    for (let at = lower.indexOf(word); at >= 0; at = lower.indexOf(word, at + word.length)) isHit.fill(1, at, at + word.length);
  }
  const parts = [];
  for (let from = 0, to; from < text.length; from = to) {
    for (to = from + 1; to < text.length && isHit[to] === isHit[from];) to += 1;
    const part = text.slice(from, to);
    parts.push(isHit[from] ? element("mark", { text: part }) : part);
  }
  return parts;
}

function saying({ query, titles, messages, isReading, isBusy, incomplete, fault, next }) {
  if (fault) return `The search failed: ${fault.message}`;
  const missing = incomplete ? ` Something may be missing: ${incomplete}.` : "";
  if (isBusy) return "The server is searching for others; trying again…";
  if (isReading && titles.length + messages.length === 0) return `Searching…${missing}`;
  if (!query) return `Type words: all of them are looked for in titles and messages.${missing}`;
  if (titles.length + messages.length === 0) return `Nothing has all of these words.${missing}`;
  const more = isReading ? ", searching on…" : next ? ", and more: scroll on." : ".";
  return `${plural(titles.length, "title")}, ${plural(messages.length, "message")}${more}${missing}`;
}
