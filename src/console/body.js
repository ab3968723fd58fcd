// The contents of a message: Markdown that may grow, and long texts, which show their beginning first and are put into the page
// bit by bit. It knows nothing of who wrote them.

import { element } from "./dom.js";
import { MarkdownView, cut } from "./markdown.js";
import { count } from "./units.js";

const FOLD = 20_000;     // characters; a longer text shows its beginning
const FOLDED = 6_000;
const SLICE = 16_384;    // characters that are put into the page between two frames
const NEAR = 2_000;      // characters before such a place where an end of a line is taken

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
  showTo(FOLDED, text, node, show);
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
  showTo(node.shown + SLICE, text, node, show);
  if (node.shown < text.length) requestAnimationFrame(() => unfold(text, node, show));
}

function showTo(most, text, node, show) {
  const end = cut(text, most - NEAR, most);
  show(text.slice(0, end));
  node.shown = end;
}
