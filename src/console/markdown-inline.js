// Reads what stands within a block of a Markdown text, and makes nodes of it, in linear time: emphasis as CommonMark's appendix
// describes it, code, links, addresses, line breaks. HTML stays text, images become links, and what does not lead to http, https
// or mailto is shown as it was written.
import { element } from "./dom.js";

// Beyond, a paragraph is plain text.
const LENGTH_MAX = 65_536;
// What is nested deeper stands in the outer nodes.
const DEPTH_MAX = 16;
const ADDRESS_MAX = 4000;
const PARENTHESES_MAX = 32;

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00A0" };
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const NEXT = /[\\`*_~[\]!<&\n]|https?:\/\//gi;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-z]{2,5}));/y;
const POINTED = /<((?:https?:\/\/|mailto:)[^\s<>]*|[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[a-zA-Z\d][a-zA-Z\d.-]{0,250})>/iy;
// An address in a text ends before what cannot belong to it, the marks of Chinese and Japanese sentences among that.
const BARE = /[^\s<>[\]`"|\\、。，；：？！）】》」』“”‘’]*/y;

export function inline(text) {
  const parsed = new Inline(text.slice(0, LENGTH_MAX)).parse();
  const nodes = build(parsed);
  if (text.length > LENGTH_MAX) nodes.push(text.slice(LENGTH_MAX));
  return nodes;
}

// The address of a link, if a page may lead there; else undefined.
export function addressOf(text) {
  return /^(?:https?:\/\/|mailto:)[^\s<>\p{Cc}]+$/iu.test(text) ? text : undefined;
}

// A token is a text; or a run of marks that may become emphasis, { char, count, … }; or the bracket that may become a link;
// or { open, … } and { close }, between which a node's content stands; or { node }; or { bare }, an address.
class Inline {
  constructor(text) {
    Object.assign(this, { text, at: 0, tokens: [], brackets: [], linkable: 0, order: 0, unclosed: new Set() });
    this.top = undefined;  // the newest run of marks: runs are linked, since some are taken out in the middle
  }

  parse() {
    const { text, tokens } = this;
    while (this.at < text.length) {
      NEXT.lastIndex = this.at;
      const found = NEXT.exec(text);
      const end = found ? found.index : text.length;
      if (end > this.at) tokens.push(text.slice(this.at, end));
      this.at = end;
      if (found) this.special(found[0]);
    }
    this.emphasize(undefined);
    return tokens;
  }

  special(mark) {
    if (mark.length > 1) this.bare();
    else if (mark === "\\") this.escape();
    else if (mark === "`") this.code();
    else if (mark === "*" || mark === "_" || mark === "~") this.marks(mark);
    else if (mark === "[") this.bracket("[", false);
    else if (mark === "!") this.text[this.at + 1] === "[" ? this.bracket("![", true) : this.plain(1);
    else if (mark === "]") this.endLink();
    else if (mark === "<") this.pointed();
    else if (mark === "&") this.entity();
    else this.newline();
  }

  plain(length) {
    this.tokens.push(this.text.slice(this.at, this.at + length));
    this.at += length;
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "\n") {
      this.tokens.push({ node: "br" });
      this.pass(2);
    } else if (next && ESCAPABLE.test(next)) {
      this.at += 1;
      this.plain(1);
    } else this.plain(1);
  }

  // Two spaces before the end of a line break it there.
  newline() {
    const last = this.tokens.at(-1);
    if (typeof last === "string" && last.endsWith(" ")) {
      const kept = last.replace(/ +$/, "");
      this.tokens[this.tokens.length - 1] = kept;
      this.tokens.push(last.length - kept.length > 1 ? { node: "br" } : "\n");
    } else this.tokens.push("\n");
    this.pass(1);
  }

  pass(length) {
    this.at += length;
    while (this.text[this.at] === " ") this.at += 1;
  }

  entity() {
    ENTITY.lastIndex = this.at;
    const [whole = "&", decimal, hexadecimal, name] = ENTITY.exec(this.text) ?? [];
    const code = decimal ? Number(decimal) : Number.parseInt(hexadecimal ?? "", 16);
    if (name ? !Object.hasOwn(ENTITIES, name) : Number.isNaN(code)) return this.plain(1);
    // What is no character is shown as such.
    const isCharacter = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000);
    this.tokens.push(name ? ENTITIES[name] : isCharacter ? String.fromCodePoint(code) : "\uFFFD");
    this.at += whole.length;
  }

  // Code ends at the next run of as many backticks. All runs are found once; for each length one goes forward in its list.
  code() {
    const length = this.runAt(this.at, "`");
    this.runs ??= this.backticks();
    const ends = this.runs.get(length) ?? { at: [], next: 0 };
    while (ends.next < ends.at.length && ends.at[ends.next] <= this.at) ends.next += 1;
    const end = ends.at[ends.next];
    if (end === undefined) return this.plain(length);
    const content = this.text.slice(this.at + length, end).replaceAll("\n", " ");
    const padded = content.startsWith(" ") && content.endsWith(" ") && /[^ ]/.test(content);
    this.tokens.push({ node: "code", text: padded ? content.slice(1, -1) : content });
    this.at = end + length;
  }

  backticks() {
    const runs = new Map();
    for (let at = this.text.indexOf("`", this.at); at >= 0;) {
      const length = this.runAt(at, "`");
      if (!runs.has(length)) runs.set(length, { at: [], next: 0 });
      runs.get(length).at.push(at);
      at = this.text.indexOf("`", at + length);
    }
    return runs;
  }

  runAt(from, char) {
    let end = from;
    while (this.text[end] === char) end += 1;
    return end - from;
  }

  pointed() {
    POINTED.lastIndex = this.at;
    const found = POINTED.exec(this.text);
    if (!found || found[0].length > ADDRESS_MAX) return this.plain(1);
    const [whole, shown] = found;
    this.tokens.push({ bare: shown, address: /^(?:https?:|mailto:)/i.test(shown) ? shown : `mailto:${shown}` });
    this.at += whole.length;
  }

  bare() {
    BARE.lastIndex = this.at;
    const [whole] = BARE.exec(this.text);
    const shown = withoutEnd(whole);
    const within = /[a-z\d]/i.test(this.text[this.at - 1] ?? "");
    // The whole is passed over, so that nothing is looked at twice.
    if (within || !/\/\/[^/?#]/.test(shown.slice(0, 10)) || shown.length > ADDRESS_MAX) return this.plain(whole.length);
    this.tokens.push({ bare: shown, address: shown });
    this.at += shown.length;
  }

  // A run of * _ or ~: whether it may begin or end emphasis depends on its neighbours.
  marks(char) {
    const count = this.runAt(this.at, char);
    const before = before_(this.text, this.at);
    const after = String.fromCodePoint(this.text.codePointAt(this.at + count) ?? 32);
    const [spaceBefore, spaceAfter] = [/\s/.test(before), /\s/.test(after)];
    const [signBefore, signAfter] = [/[\p{P}\p{S}]/u.test(before), /[\p{P}\p{S}]/u.test(after)];
    const left = !spaceAfter && (!signAfter || spaceBefore || signBefore);
    const right = !spaceBefore && (!signBefore || spaceAfter || signAfter);
    const run = { order: (this.order += 1), char, count, length: count, opens: [], closes: [], before: this.top, after: undefined };
    run.canOpen = char === "_" ? left && (!right || signBefore) : left;
    run.canClose = char === "_" ? right && (!left || signAfter) : right;
    if (this.top) this.top.after = run;
    this.top = run;
    this.tokens.push(run);
    this.at += count;
  }

  bracket(text, image) {
    const token = { text, image, bottom: this.top, place: this.tokens.length };
    this.brackets.push(token);
    this.tokens.push(token);
    this.at += text.length;
  }

  // Makes a link of what stands since the opening bracket, if an address follows. Links do not contain links.
  endLink() {
    const opening = this.brackets.pop();
    const target = opening && (opening.image || this.brackets.length >= this.linkable) && this.target(this.at + 1);
    if (!target) return this.plain(1);
    const empty = opening.image && opening.place === this.tokens.length - 1;
    Object.assign(opening, { open: "a", address: target.address, title: target.title });
    if (empty) this.tokens.push(target.address);
    this.tokens.push({ close: true });
    this.at = target.end;
    this.emphasize(opening.bottom);
    if (!opening.image) this.linkable = this.brackets.length;
  }

  // Reads `(address "title")`; undefined if that is not what is there.
  target(from) {
    const { text } = this;
    if (text[from] !== "(") return undefined;
    let at = this.space(from + 1);
    const start = at;
    at = text[at] === "<" ? this.pointedEnd(at) : this.addressEnd(at);
    if (at < 0 || at - start > ADDRESS_MAX) return undefined;
    const written = text.slice(start, at);
    const address = addressOf(plainOf(written.startsWith("<") ? written.slice(1, -1) : written));
    const quote = this.space(at);
    const titled = quote > at && (text[quote] === '"' || text[quote] === "'");
    if (titled) at = this.titleEnd(quote);
    if (at < 0 || address === undefined) return undefined;
    const title = titled ? plainOf(text.slice(quote + 1, at - 1)) : undefined;
    at = this.space(at);
    return text[at] === ")" ? { address, title, end: at + 1 } : undefined;
  }

  space(from) {
    let at = from;
    while (/[ \t\n]/.test(this.text[at] ?? "")) at += 1;
    return at;
  }

  pointedEnd(from) {
    for (let at = from + 1; at < this.text.length; at += 1) {
      const char = this.text[at];
      if (char === ">") return at + 1;
      if (char === "<" || char === "\n") return -1;
      if (char === "\\") at += 1;
    }
    return -1;
  }

  addressEnd(from) {
    let depth = 0;
    let at = from;
    for (; at < this.text.length && at - from <= ADDRESS_MAX; at += 1) {
      const char = this.text[at];
      if (char === "\\") at += 1;
      else if (char === "(") depth += 1;
      else if (char === ")" && (depth -= 1) < 0) break;
      else if (char <= " " || depth > PARENTHESES_MAX) break;
    }
    return depth > 0 ? -1 : Math.min(at, this.text.length);
  }

  titleEnd(from) {
    const quote = this.text[from];
    if (this.unclosed.has(quote)) return -1;
    for (let at = from + 1; at < this.text.length; at += 1) {
      if (this.text[at] === "\\") at += 1;
      else if (this.text[at] === quote) return at + 1;
    }
    this.unclosed.add(quote);  // none follows here, so none follows later
    return -1;
  }

  // Pairs the runs of marks above `bottom`. For each kind of closing run it is remembered up to where there is nothing for it, so
  // that nothing is looked at twice in vain.
  emphasize(bottom) {
    const searched = new Map();
    let closer = this.top;
    while (closer && closer.before !== bottom) closer = closer.before;
    while (closer) {
      if (!closer.canClose) {
        closer = closer.after;
        continue;
      }
      const kind = `${closer.char}${closer.canOpen}${closer.char === "~" ? closer.length : closer.length % 3}`;
      const floor = Math.max(bottom?.order ?? 0, searched.get(kind) ?? 0);
      let opener = closer.before;
      while (opener && opener.order > floor && !pairs(opener, closer)) opener = opener.before;
      if (!opener || opener.order <= floor) {
        searched.set(kind, closer.order - 1);
        const next = closer.after;
        if (!closer.canOpen) this.remove(closer);
        closer = next;
        continue;
      }
      pair(opener, closer);
      // What stands between them is text.
      opener.after = closer;
      closer.before = opener;
      if (opener.count === 0) this.remove(opener);
      if (closer.count === 0) {
        const next = closer.after;
        this.remove(closer);
        closer = next;
      }
    }
    if (bottom) bottom.after = undefined;
    this.top = bottom;
  }

  remove(run) {
    if (run.before) run.before.after = run.after;
    if (run.after) run.after.before = run.before;
    else this.top = run.before;
  }
}

function pairs(opener, closer) {
  if (opener.char !== closer.char || !opener.canOpen) return false;
  // Only two are struck out: one stands in "5~10" and before paths.
  if (closer.char === "~") return opener.length === 2 && closer.length === 2;
  const either = opener.canClose || closer.canOpen;
  return !(either && (opener.length + closer.length) % 3 === 0 && (opener.length % 3 !== 0 || closer.length % 3 !== 0));
}

function pair(opener, closer) {
  const two = opener.count >= 2 && closer.count >= 2;
  opener.count -= two ? 2 : 1;
  closer.count -= two ? 2 : 1;
  opener.opens.push(opener.char === "~" ? "del" : two ? "strong" : "em");
  closer.closes.push(true);
}

// The character before a place, also if it is a pair of surrogates.
function before_(text, at) {
  if (at === 0) return " ";
  const low = text.charCodeAt(at - 1);
  return low >= 0xdc00 && low < 0xe000 && at > 1 ? text.slice(at - 2, at) : text[at - 1];
}

// An address does not end with the marks of the sentence that it stands in.
function withoutEnd(address) {
  let end = address.length;
  let missing = address.split(")").length - address.split("(").length;
  for (; end > 0; end -= 1) {
    const last = address[end - 1];
    if (last === ")") {
      if (missing <= 0) break;
      missing -= 1;
    } else if (!/[?!.,:;*_~']/.test(last)) break;
  }
  return address.slice(0, end);
}

function plainOf(text) {
  return text
    .replaceAll(/\\([!-/:-@[-`{-~])/g, "$1")
    .replaceAll(/&([a-z]{2,4});/g, (whole, name) => (Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole));
}

// Makes nodes of tokens. Texts that follow each other become one.
function build(tokens) {
  const stack = [[]];       // what is open, each with its nodes so far
  const makers = [];        // how each becomes a node; undefined: its nodes go to the outer one
  let links = 0;
  const put = (one) => {
    const nodes = stack.at(-1);
    if (typeof one === "string" && typeof nodes.at(-1) === "string") nodes[nodes.length - 1] += one;
    else if (one !== "") nodes.push(one);
  };
  const open = (maker) => {
    const fitting = stack.length <= DEPTH_MAX ? maker : undefined;
    makers.push(fitting);
    if (fitting) stack.push([]);
  };
  const close = () => {
    const maker = makers.pop();
    if (maker) put(maker(stack.pop()));
  };
  for (const token of tokens) {
    if (typeof token === "string") put(token);
    else if (token.char) {
      token.closes.forEach(close);
      put(token.char.repeat(token.count));
      for (const tag of token.opens.reverse()) open((nodes) => element(tag, {}, nodes));
    } else if (token.open) {
      // An image within a link, or a link within an image, is its text.
      open(links === 0 ? (nodes) => link(token, nodes) : undefined);
      links += 1;
    } else if (token.close) {
      links -= 1;
      close();
    } else if (token.bare) put(links > 0 ? token.bare : link(token, [token.bare]));
    else if (token.node) put(element(token.node, { text: token.text }));
    else put(token.text);
  }
  return stack[0];
}

function link({ address, title }, nodes) {
  return element("a", { href: address, title, rel: "noopener noreferrer", target: "_blank" }, nodes);
}
