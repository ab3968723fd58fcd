// The contents of a message: Markdown that may grow, and long texts, which show their beginning first and are put into the page
// bit by bit. It knows nothing of who wrote them.

import { element } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { count } from "./units.js";

const FOLD = 20_000;     // characters; a longer text shows its beginning
const FOLDED = 6_000;
const SLICE = 16_384;    // characters that are put into the page between two frames

// An answer in progress. Rendering takes a fifth of the time at most: the rest is the reader's.
export class GrowingBody {
  #view = new MarkdownView();
  #text = "";
  #frame = 0;
  #begun = 0;
  #cost = 0;   // of the last rendering, in milliseconds

  element = this.#view.element;

  grow(text) {
    this.#text = text;
    this.#frame ||= requestAnimationFrame(() => this.#tick());
  }

  // The text is whole.
  finish(text) {
    const same = text.trimEnd() === this.#text.trimEnd();  // what is recorded may lack the last line ends
    if (!same) this.#text = text;
    this.#render();
  }

  #tick() {
    this.#frame = 0;
    if (performance.now() - this.#begun < this.#cost * 5) this.grow(this.#text);
    else this.#render();
  }

  #render() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#begun = performance.now();
    this.#view.update(this.#text);
    this.#cost = performance.now() - this.#begun;
  }
}

// A text as Markdown.
export function rendered(text) {
  const view = new MarkdownView();
  return folding(text, view.element, (part) => view.update(part));
}

// A text as it was written.
export function written(text) {
  const node = element("div", { class: "written", dir: "auto" });
  return folding(text, node, (part) => node.append(part.slice(node.shown ?? 0)));
}

function folding(text, node, show) {
  if (text.length <= FOLD) {
    show(text);
    return node;
  }
  show(text.slice(0, cut(text, FOLDED)));
  node.shown = cut(text, FOLDED);
  const more = element("button", {
    class: "quiet small unfold", type: "button",
    onclick: () => {
      more.remove();
      unfold(text, node, show);
    },
  }, `Show all ${count(text.length)} characters`);
  return element("div", { class: "folded" }, node, more);
}

function unfold(text, node, show) {
  const end = cut(text, node.shown + SLICE);
  show(text.slice(0, end));
  node.shown = end;
  if (end < text.length) requestAnimationFrame(() => unfold(text, node, show));
}

// Where to cut: at the end of a line if one is near, and not within a pair of surrogates.
function cut(text, most) {
  if (most >= text.length) return text.length;
  const newline = text.lastIndexOf("\n", most);
  if (newline > most - 2_000) return newline + 1;
  const code = text.charCodeAt(most);
  return code >= 0xdc00 && code < 0xe000 ? most + 1 : most;
}
