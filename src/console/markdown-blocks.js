// Finds the blocks of a Markdown text: paragraphs, headings, lists, quotes, code, tables, rules. Line by line, with a stack of
// open containers, as CommonMark's appendix describes it, in linear time. What is in a line is for markdown-inline.js.
//
// HTML and references ([text][name]) are text. Nothing of a block depends on another one, so that while a text grows only its last
// block changes.
//
// A block: { kind, start, end, known, … }: offsets into the text, `known` that of the line that began it, which for a table is
// the second. By kind:
//   paragraph   its text: textOf(block)
//   heading     level (1 to 6), text
//   code        language (what stands behind the fence); its text: textOf(block)
//   quote       children
//   list        ordered, first, loose, children: of kind item, with children, and task (undefined, false, true)
//   table       aligns ("", "left", "center", "right"), head and rows: arrays of cells, which are texts
//   rule

// Deeper markers are text: very deep nodes overflow the browser's stack.
const DEPTH_MAX = 12;
// A longer block ends at the next line, and another one begins (not in code): bounds what is made again while a text grows.
const LINES_MAX = 2000;
const LENGTH_MAX = 65_536;
const COLUMNS_MAX = 128;

// The top-level blocks, in order. `from` is the start of one: only what follows is read.
export function* blocks(text, from = 0) {
  const parser = new Parser();
  for (let at = from; at < text.length;) {
    const newline = text.indexOf("\n", at);
    const next = newline < 0 ? text.length : newline + 1;
    const end = newline < 0 ? text.length : newline;
    parser.take(text.slice(at, text[end - 1] === "\r" ? end - 1 : end), at);
    if (parser.root.children.length > 1) yield* parser.finished(1);
    at = next;
  }
  parser.close(1);
  yield* parser.finished(0, text.length);
}

// Where in a line one is; a tab reaches to the next column that is a multiple of four.
class Line {
  constructor(text) {
    Object.assign(this, { text, offset: 0, column: 0, tabRest: 0 });
    this.look();
  }

  look() {
    let column = this.column + this.tabRest;
    let next = this.offset;
    for (;; next += 1) {
      const char = this.text[next];
      if (char === " ") column += 1;
      else if (char === "\t") column += 4 - (column % 4);
      else break;
    }
    this.next = next;
    this.indent = column - this.column;
    this.blank = next >= this.text.length;
  }

  // Passes over that many columns of white space, or less if there is less.
  skip(columns) {
    for (let left = columns; left > 0;) {
      if (this.tabRest > 0) {
        const step = Math.min(left, this.tabRest);
        this.column += step;
        this.tabRest -= step;
        left -= step;
      } else if (this.text[this.offset] === "\t") {
        this.offset += 1;
        this.tabRest = 4 - (this.column % 4);
      } else if (this.text[this.offset] === " ") {
        this.offset += 1;
        this.column += 1;
        left -= 1;
      } else break;
    }
    this.look();
  }

  pass(characters) {
    this.column += this.indent + characters;
    this.offset = this.next + characters;
    this.tabRest = 0;
    this.look();
  }

  get rest() {
    return " ".repeat(this.tabRest) + this.text.slice(this.offset);
  }

  get content() {
    return this.text.slice(this.next);
  }
}

class Parser {
  constructor() {
    this.root = { kind: "root", children: [] };
    this.open = [this.root];
    this.leaf = undefined;
    this.afterBlank = false;
    this.lines = 0;
  }

  *finished(keep, end) {
    const { children } = this.root;
    while (children.length > keep) {
      const block = children.shift();
      block.end = children[0]?.start ?? end;
      yield block;
    }
  }

  take(text, start) {
    this.start = start;
    if (text === "" && this.open.length === 1 && this.leaf?.kind !== "code") {
      Object.assign(this, { leaf: undefined, afterBlank: true });
      return;
    }
    const line = new Line(text.includes("\0") ? text.replaceAll("\0", "\uFFFD") : text);
    this.cut();
    this.lines += 1;
    this.matched = this.match(line);
    const whole = this.matched === this.open.length;
    if (whole && this.leaf?.kind === "code" && this.code(line)) {
      this.afterBlank = false;
      return;
    }
    if (line.blank && whole && this.leaf?.kind !== "code") this.leaf = undefined;
    const began = this.begin(line);
    if (!began && !line.blank) this.text(line);
    else if (!began) this.close(this.matched);
    // A blank line in a quote, or right behind the marker of an item, does not make its list loose.
    const inner = this.open.at(-1);
    this.afterBlank = line.blank && inner.kind !== "quote" && !(inner.kind === "item" && inner.children.length === 0 && inner.start === start);
  }

  cut() {
    const [block] = this.root.children;
    const long = this.lines > LINES_MAX || (block && this.start - block.start > LENGTH_MAX);
    if (!long || this.leaf?.kind === "code") return;
    this.close(1);
    this.leaf = undefined;
    this.lines = 0;
  }

  // How many of the open containers go on in this line.
  match(line) {
    let count = 1;
    for (; count < this.open.length; count += 1) {
      const container = this.open[count];
      if (container.kind === "quote") {
        if (line.indent >= 4 || line.text[line.next] !== ">") break;
        line.pass(1);
        if (line.indent > 0) line.skip(1);
      } else if (container.kind === "item") {
        if (line.blank ? container.children.length === 0 : line.indent < container.width) break;
        line.skip(line.blank ? line.indent : container.width);
      }
    }
    return count;
  }

  // A line while code is open: true if it belongs to it.
  code(line) {
    const { leaf } = this;
    if (!leaf.fence) {
      if (line.indent < 4 && !line.blank) {
        this.leaf = undefined;
        return false;
      }
      line.skip(4);
      leaf.lines.push(line.rest);
      return true;
    }
    if (line.indent < 4 && isEndOf(leaf.fence, line.content)) {
      this.leaf = undefined;
      return true;
    }
    line.skip(Math.min(line.indent, leaf.indent));
    leaf.lines.push(line.rest);
    return true;
  }

  // Begins the blocks that begin in this line; true if the whole line is used up by that.
  begin(line) {
    for (;;) {
      const paragraph = this.leaf?.kind === "paragraph";
      if (line.blank) return false;
      if (line.indent >= 4) {
        if (paragraph) return false;
        line.skip(4);
        this.add("code", { language: "", lines: [line.rest] });
        return true;
      }
      if (this.container(line, paragraph && this.matched === this.open.length)) continue;
      return this.line(line, paragraph && this.matched === this.open.length);
    }
  }

  container(line, interrupts) {
    if (this.matched > DEPTH_MAX) return false;
    if (line.text[line.next] === ">") {
      this.add("quote", { children: [] });
      line.pass(1);
      if (line.indent > 0) line.skip(1);
      return true;
    }
    return !isRule(line.content) && this.item(line, interrupts);
  }

  item(line, interrupts) {
    const match = markerOf(line);
    if (!match) return false;
    const [marker, bullet, number, delimiter] = match;
    const empty = !/\S/.test(line.text.slice(line.next + marker.length));
    if (interrupts && (empty || (number && Number(number) !== 1))) return false;
    const type = bullet ?? delimiter;
    const before = line.indent;
    const list = this.listFor(type, number);
    line.pass(marker.length);
    const spaces = empty || line.indent > 4 ? 1 : line.indent;
    line.skip(spaces);
    this.add("item", { children: [], width: before + marker.length + spaces, task: undefined }, list);
    if (!empty && /^\[[ xX]\][ \t]/.test(line.content)) {
      this.open.at(-1).task = line.text[line.next + 1] !== " ";
      line.pass(3);
      line.skip(1);
    }
    return true;
  }

  listFor(type, number) {
    this.close(this.matched);
    const inner = this.open.at(-1);
    if (inner.kind === "list" && inner.type === type) {
      if (this.afterBlank) inner.loose = true;
      return inner;
    }
    this.add("list", { type, ordered: number !== undefined, first: Number(number ?? 1), loose: false, children: [] });
    return this.open.at(-1);
  }

  // Begins what takes one line, or code with a fence.
  line(line, afterParagraph) {
    const { content } = line;
    if (content[0] === "#") {
      const [marks] = /^#*/.exec(content);
      if (marks.length > 6 || !/^(?:[ \t]|$)/.test(content.slice(marks.length))) return false;
      this.add("heading", { level: marks.length, text: withoutMarks(content.slice(marks.length)) });
    } else if (content.startsWith("```") || content.startsWith("~~~")) {
      const [fence] = content[0] === "`" ? /^`*/.exec(content) : /^~*/.exec(content);
      if (content[0] === "`" && content.includes("`", fence.length)) return false;
      const language = content.slice(fence.length).trim();
      this.add("code", { fence, indent: line.indent, language, lines: [] });
      return true;
    } else if (afterParagraph && /^(?:=+|-+)[ \t]*$/.test(content)) {
      Object.assign(this.leaf, { kind: "heading", level: content[0] === "=" ? 1 : 2, text: this.leaf.lines.join("\n").trimEnd() });
    } else if (afterParagraph && this.table(content)) {
      return true;
    } else if (isRule(content)) {
      this.add("rule", {});
    } else return false;
    this.leaf = undefined;
    return true;
  }

  // Makes the last line of the open paragraph the head of a table, if this line is what follows one.
  table(content) {
    const aligns = alignsOf(content);
    const paragraph = this.leaf;
    if (!aligns || !paragraph.mayBeHead || aligns.length !== cellsOf(paragraph.lines.at(-1)).length) return false;
    const head = cellsOf(paragraph.lines.pop());
    const { lastStart } = paragraph;
    if (paragraph.lines.length === 0) this.open.at(-1).children.pop();
    this.add("table", { aligns, head, rows: [] });
    this.leaf.start = lastStart;
    return true;
  }

  text(line) {
    const { leaf } = this;
    // A paragraph goes on also where the marks of its containers are left out.
    if (leaf?.kind === "paragraph") {
      leaf.lines.push(line.content);
      // Only what would begin a paragraph can be a table's head: read from there on, the text must come out the same.
      Object.assign(leaf, { lastStart: this.start, mayBeHead: line.indent < 4 && !markerOf(line) });
      return;
    }
    if (leaf?.kind === "table" && this.matched === this.open.length) {
      leaf.rows.push(cellsOf(line.content));
      return;
    }
    this.add("paragraph", { lines: [line.content], lastStart: this.start, mayBeHead: true });
  }

  close(count) {
    if (count < this.open.length) this.leaf = undefined;
    this.open.length = count;
  }

  add(kind, rest, parent) {
    this.close(this.matched);
    if (kind !== "item" && this.open.at(-1).kind === "list") this.open.pop();
    const inner = parent ?? this.open.at(-1);
    if (inner.kind === "item" && inner.children.length > 0 && this.afterBlank) this.open.at(-2).loose = true;
    const block = { kind, start: this.start, known: this.start, ...rest };
    if (inner === this.root) this.lines = 1;
    inner.children.push(block);
    if (block.children) {
      this.open.push(block);
      this.leaf = undefined;
    } else this.leaf = block;
    this.matched = this.open.length;
    // What else begins in this line follows no blank line.
    this.afterBlank = false;
  }
}

// The text of a block of kind paragraph or code.
export function textOf({ kind, fence, lines, text }) {
  if (kind === "paragraph") return lines.join("\n").trimEnd();
  if (kind !== "code") return text;
  let end = lines.length;
  // Blank lines behind indented code do not belong to it.
  while (!fence && end > 0 && !/\S/.test(lines[end - 1])) end -= 1;
  return lines.slice(0, end).join("\n");
}

// The marker of a list's item: [whole, bullet, number, what follows the number].
function markerOf(line) {
  return /^(?:([*+-])|(\d{1,9})([.)]))(?=[ \t]|$)/.exec(line.text.slice(line.next, line.next + 12));
}

function isRule(content) {
  const mark = content[0];
  if (mark !== "*" && mark !== "-" && mark !== "_") return false;
  let count = 0;
  for (const char of content) {
    if (char === mark) count += 1;
    else if (char !== " " && char !== "\t") return false;
  }
  return count >= 3;
}

function isEndOf(fence, content) {
  const end = content.trimEnd();
  if (end.length < fence.length) return false;
  for (const char of end) if (char !== fence[0]) return false;
  return true;
}

// A heading's text without the marks that may close it. From the end, since a pattern would try each place.
function withoutMarks(content) {
  const text = content.trim();
  let end = text.length;
  while (end > 0 && text[end - 1] === "#") end -= 1;
  return end === 0 || text[end - 1] === " " || text[end - 1] === "\t" ? text.slice(0, end).trimEnd() : text;
}

// What the line below a table's head says of its columns; undefined if it is no such line.
function alignsOf(content) {
  if (!content.includes("|") || /[^ \t|:-]/.test(content)) return undefined;
  const cells = cellsOf(content);
  const aligns = cells.map((cell) => {
    const [, left, right] = /^(:?)-+(:?)$/.exec(cell) ?? [];
    if (left === undefined) return undefined;
    return left && right ? "center" : left ? "left" : right ? "right" : "";
  });
  return aligns.includes(undefined) || aligns.length > COLUMNS_MAX ? undefined : aligns;
}

// The cells of a row. Beyond the most columns the rest of it is one cell.
function cellsOf(row) {
  const cells = [];
  let from = row.startsWith("|") ? 1 : 0;
  for (let at = from; at <= row.length; at += 1) {
    if (row[at] === "\\" && at + 1 < row.length) at += 1;
    else if (at === row.length ? /\S/.test(row.slice(from)) || cells.length === 0 : row[at] === "|" && cells.length < COLUMNS_MAX) {
      cells.push(row.slice(from, at).trim().replaceAll("\\|", "|"));
      from = at + 1;
    }
  }
  return cells;
}
