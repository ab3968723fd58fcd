// Makes nodes of Markdown: of the blocks of markdown-blocks.js, and what markdown-inline.js finds in them. No text makes it slow.
import { element, replace } from "./dom.js";
import { blocks, textOf } from "./markdown-blocks.js";
import { inline } from "./markdown-inline.js";

// Beyond, the rest is shown as it was written, in pieces that the browser lays out when they come into sight.
const NODES_MAX = 20_000;
const PLAIN_PIECE = 16_384;
const LANGUAGE_MAX = 1000;

// A whole text.
export function markdown(text) {
  const view = new MarkdownView();
  view.update(text);
  return view.element;
}

// A text that grows: `element` shows it, update(text) shows more of it. Blocks that are finished stay as they are, with what
// is selected in them. A text that does not continue the last one is shown anew.
export class MarkdownView {
  constructor() {
    this.element = element("div", { class: "markdown" });
    this.restart();
  }

  restart() {
    replace(this.element);
    Object.assign(this, { text: "", nodes: 0, tail: undefined, newest: undefined, from: 0 });
  }

  update(text) {
    if (!text.startsWith(this.text)) this.restart();
    this.text = text;
    if (this.tail?.plain) return this.plain(text);
    this.newest?.remove();
    this.newest = undefined;
    let last;
    for (const block of blocks(text, this.from)) {
      // A line that is not whole may yet turn out to belong to the block before it.
      if (last && !text.includes("\n", block.known)) {
        this.newest = render(block);
        break;
      }
      if (last) this.finish(last);
      if (this.nodes > NODES_MAX) {
        this.dropTail();
        this.from = block.start;
        return this.plain(text);
      }
      last = block;
    }
    if (last) this.showTail(last);
    if (this.newest) this.element.append(this.newest);
    return undefined;
  }

  finish(block) {
    const node = this.showTail(block);
    this.nodes += node.getElementsByTagName("*").length * 2 + 2;
    this.from = block.end;
    this.tail = undefined;
  }

  // The last block, in the place of what it was before.
  showTail(block) {
    const { tail } = this;
    if (tail?.kind === block.kind && tail.end === block.end) return tail.node;
    const code = block.kind === "code" && textOf(block);
    if (tail && code !== false && tail.code !== undefined && tail.language === block.language && code.startsWith(tail.code)) {
      appendCode(tail.node, code.slice(tail.code.length));
      Object.assign(tail, { code, end: block.end });
      return tail.node;
    }
    const node = render(block);
    if (tail) tail.node.replaceWith(node);
    else this.element.append(node);
    this.tail = { node, kind: block.kind, end: block.end, language: block.language, code: code === false ? undefined : code };
    return node;
  }

  dropTail() {
    this.tail?.node.remove();
    this.tail = undefined;
  }

  // All that follows `from`, as it was written.
  plain(text) {
    this.dropTail();
    this.tail = { plain: true, node: element("div") };
    this.element.append(this.tail.node);
    while (this.from < text.length) {
      const end = cut(text, this.from, this.from + PLAIN_PIECE);
      if (end === text.length) break;
      this.tail.node.before(plainPiece(text.slice(this.from, end)));
      this.from = end;
    }
    replace(this.tail.node, plainPiece(text.slice(this.from)));
  }
}

function plainPiece(text) {
  return element("p", { class: "plain", text });
}

// Where to cut a text: at the end of a line if there is one after `least`, and not within a pair of surrogates.
export function cut(text, least, most) {
  if (most >= text.length) return text.length;
  const newline = text.lastIndexOf("\n", most);
  if (newline > least) return newline + 1;
  const code = text.charCodeAt(most);
  return code >= 0xdc00 && code < 0xe000 ? most + 1 : most;
}

export function render(block) {
  switch (block.kind) {
    case "heading":
      // All are of one level for a screen reader: a message is a part of the page, whose headings it must not mix up.
      return element("h3", { class: `level-${block.level}` }, inline(block.text));
    case "code":
      return code(block);
    case "quote":
      return element("blockquote", {}, block.children.map(render));
    case "list":
      return list(block);
    case "table":
      return table(block);
    case "rule":
      return element("hr");
    default:
      return element("p", {}, inline(textOf(block)));
  }
}

function list(block) {
  const items = block.children.map((item) => element("li", { class: item.task === undefined ? null : "task" }, [
    item.task === undefined ? null : element("span", { role: "img", "aria-label": item.task ? "done" : "to do", text: item.task ? "☑" : "☐" }),
    item.children.map((child) => (child.kind === "paragraph" && !block.loose ? inline(textOf(child)) : render(child))),
  ]));
  const start = block.ordered && block.first !== 1 ? block.first : null;
  return element(block.ordered ? "ol" : "ul", { start }, items);
}

// What is wider than its place scrolls in itself, also by the keyboard.
function scrolling(name, node) {
  return { class: name.toLowerCase(), tabindex: 0, role: "group", "aria-label": name, ...node };
}

function table({ aligns, head, rows }) {
  const cell = (tag) => (text, n) => element(tag, { class: aligns[n] || null, scope: tag === "th" ? "col" : null }, inline(text));
  return element("div", scrolling("Table"), element("table", {},
    element("thead", {}, element("tr", {}, head.map(cell("th")))),
    rows.length > 0 && element("tbody", {}, rows.map((row) => element("tr", {}, row.map(cell("td"))))),
  ));
}

// The page listens for clicks on .copy-code; codeOf(button) is what is to be copied.
function code(block) {
  const language = block.language.slice(0, LANGUAGE_MAX);
  const text = textOf(block);
  return element("div", { class: "code" },
    element("div", { class: "code-head" },
      element("span", { class: "language", text: language }),
      element("button", { type: "button", class: "copy-code", "aria-label": "Copy this code", text: "Copy" })),
    element("pre", { tabindex: 0, role: "group", "aria-label": language ? `Code, ${language}` : "Code" }, element("code", {}, text)));
}

export function codeOf(button) {
  return button.closest(".code").querySelector("code").textContent;
}

function appendCode(node, more) {
  const shown = node.querySelector("code");
  if (shown.firstChild) shown.firstChild.appendData(more);
  else shown.textContent = more;
}
