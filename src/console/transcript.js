// Shows the messages of a conversation and keeps the reader's place. Only the messages near what is seen are in the page: a
// window that moves over all that are loaded, so that ten thousand cost what fifty do. Whatever changes, the first message
// that is seen stays where it is; at the end of the conversation the end stays in view instead.

import { element, replace } from "./dom.js";
import { icon } from "./icon.js";
import { answerView, messageView, unsentView } from "./message.js";
import { plural } from "./words.js";

const NEAR = 1500;       // pixels beyond what is seen in which messages are put into the page,
const FAR = 4500;        // and beyond which they leave it
const SLICE_MS = 8;      // of putting messages into the page, between two frames
const AT_END = 40;       // pixels from the end that count as the end

export class Transcript {
  #views = new Map();    // by id, of the messages in the page
  #all = [];             // the messages of the conversation
  #from = 0;             // the window: #all.slice(#from, #to)
  #to = 0;
  #follow = true;        // whether the end stays in view
  #unseen = 0;           // messages that came meanwhile
  #anchor = null;        // the first message that is seen: { view, top }
  #frame = 0;
  #scrolled = 0;
  #answer = null;
  #unsent = new Map();
  #loading = false;
  #trouble = "";
  #known = "";           // which versions there are, and which is shown

  #list = element("div", { class: "messages" });
  #top = element("div", { class: "top" });
  #messages = element("div", { class: "window" });
  #rest = element("div", { class: "rest" });
  #newest = element("button", { class: "newest", type: "button", hidden: true, onclick: () => this.toNewest() });
  #scroller = element("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Messages" }, this.#list);
  element = element("div", { class: "transcript" }, this.#scroller, this.#newest);

  // actions(message): see message.js. end(conversation): nodes to show at the end, such as an explanation of an empty conversation.
  constructor({ actions, end = () => null }) {
    Object.assign(this, { actions, end });
    this.#list.append(this.#top, this.#messages, this.#rest);
    this.#scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.#scroller.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && this.#leaveEnd(), { passive: true });
    this.#scroller.addEventListener("keydown", (event) => this.#onKey(event));
    const sizes = new ResizeObserver(() => this.#onResize());
    sizes.observe(this.#list);
    sizes.observe(this.#scroller);
  }

  // Shows another conversation, at its end.
  open(conversation) {
    this.conversation = conversation;
    this.#views.clear();
    replace(this.#messages);
    this.#unsent.clear();
    this.#all = [];
    this.#from = this.#to = 0;
    this.#answer = null;
    this.#loading = false;
    this.#trouble = "";
    this.#stay();
    this.update();
  }

  // The conversation has changed.
  update() {
    const { messages, versions, looking } = this.conversation;
    const known = `${versions.count} ${looking}`;
    this.#keep(() => {
      if (messages !== this.#all) this.#replaceAll(messages);
      else if (known !== this.#known) this.#sync();
      this.#known = known;
      this.#showTop();
      this.#showRest();
    });
    this.#later();
  }

  toNewest() {
    this.#stay();
    this.#to = this.#all.length;
    this.#from = Math.max(this.#from, this.#to - 12);
    this.#sync();
    this.#toEnd();
    this.#later();
  }

  // Scrolls to the first message of the conversation, and loads all before that.
  async toOldest() {
    const { conversation } = this;
    this.#leaveEnd();
    while (conversation.more && conversation === this.conversation) await conversation.older(500);
    const first = conversation.messages[0];
    return first && conversation === this.conversation ? this.showMessage(first.id) : false;
  }

  // Scrolls to a message, and loads older ones until it is there. Resolves to whether it is.
  async showMessage(id) {
    const { conversation } = this;
    while (conversation.place(id) < 0 && conversation.more) await conversation.older(500);
    if (conversation !== this.conversation || conversation.place(id) < 0) return false;
    this.update();
    this.#leaveEnd();
    const index = conversation.place(id);
    this.#from = Math.max(0, index - 6);
    this.#to = Math.min(this.#all.length, index + 12);
    this.#sync();
    const { element: shown } = this.#views.get(id);
    this.#scroller.scrollTop += shown.getBoundingClientRect().top - this.#scroller.getBoundingClientRect().top - 80;
    this.#record();
    shown.classList.add("found");
    shown.addEventListener("animationend", () => shown.classList.remove("found"), { once: true });
    shown.focus({ preventScroll: true });
    this.#later();
    return true;
  }

  // The view of a message, if it is in the page.
  view(id) {
    return this.#views.get(id);
  }

  focus() {
    this.#scroller.focus();
  }

  // --- what is in the page ---

  #replaceAll(messages) {
    const old = this.#all;
    this.#all = messages;
    const newest = old.at(-1)?.id ?? "";
    const added = messages.length - (messages.findLastIndex(({ id }) => id <= newest) + 1);
    if (!this.#follow && this.#anchor) {
      const index = messages.findIndex(({ id }) => id === this.#anchor.view.id);
      if (index >= 0) {
        const before = old.findIndex(({ id }) => id === this.#anchor.view.id);
        this.#unseen += added;
        const atEnd = this.#to === old.length;
        this.#from = Math.max(0, index - (before - this.#from));
        this.#to = atEnd && added < 20 ? messages.length : Math.min(messages.length, index + this.#to - before);
        return this.#sync();
      }
      this.#stay();  // that message is not in this version
    }
    this.#to = messages.length;
    this.#from = Math.min(Math.max(0, this.#to - Math.max(this.#messages.childElementCount, 8)), this.#to);
    this.#sync();
  }

  // Brings the page in line with the window. What is there already keeps its node.
  #sync() {
    const wanted = this.#all.slice(this.#from, this.#to);
    const ids = new Set(wanted.map(({ id }) => id));
    for (const [id, view] of this.#views) if (!ids.has(id)) this.#drop(view);
    let next = this.#messages.firstChild;
    wanted.forEach((message, n) => {
      const view = this.#viewOf(message, this.#all[this.#from + n - 1]);
      if (view.element === next) next = next.nextSibling;
      else this.#messages.insertBefore(view.element, next);
    });
  }

  #viewOf(message, previous) {
    let view = this.#views.get(message.id);
    if (!view) {
      view = this.#wholeAnswer(message) ?? messageView(message, this.actions(message));
      this.#views.set(message.id, view);
    }
    const sameDay = previous?.created_at && message.created_at
      && new Date(previous.created_at).toDateString() === new Date(message.created_at).toDateString();
    view.setDay(!sameDay);
    this.#versions(view, message, previous);
    return view;
  }

  // The answer that was in progress becomes a message without being rendered again.
  #wholeAnswer(message) {
    const answer = this.#answer;
    if (!answer || message.role !== "assistant" || message !== this.#all.at(-1)) return null;
    this.#answer = null;
    answer.element.remove();
    const status = message.metadata?.status;
    return status === "error" || !answer.said ? null : answer.whole(message, this.actions(message));
  }

  #versions(view, message, previous) {
    const { versions, more, looking } = this.conversation;
    const parent = previous?.id ?? (more ? undefined : null);
    if (parent === undefined || !versions.fork(parent)) return;
    const key = `${parent} ${versions.count} ${looking}`;
    if (view.versions === key) return;
    view.versions = key;
    const { conversation } = this;
    versions.siblings(parent).then((siblings) => {
      const at = siblings.findIndex(({ id }) => id === message.id);
      if (at < 0 || conversation !== this.conversation) return;
      const go = (by) => conversation.look(siblings[at + by].cursor);
      this.#keep(() => view.setVersions({ at, count: siblings.length, go }));
    }, () => { view.versions = ""; });
  }

  #drop(view) {
    const focused = view.element.contains(document.activeElement);
    this.#views.delete(view.id);
    view.element.remove();
    if (focused) this.#scroller.focus({ preventScroll: true });
  }

  // What stands above the first message.
  #showTop() {
    const { conversation } = this;
    const { loaded, more, incomplete, messages } = conversation;
    const retry = (again) => element("button", { class: "quiet small", type: "button", onclick: again }, icon("retry"), "Try again");
    if (this.#from > 0) return replace(this.#top, element("p", { class: "note", text: " " }));
    if (this.#trouble) return replace(this.#top, element("p", { class: "note" }, `Older messages: ${this.#trouble} `, retry(() => this.#older())));
    if (incomplete) {
      return replace(this.#top, element("p", { class: "note" }, icon("warning"),
        ` Older messages may be missing here: ${incomplete} `, retry(() => conversation.reload())));
    }
    if (!loaded || more) return replace(this.#top, element("p", { class: "note", text: loaded || !conversation.connected ? "Loading…" : "" }));
    return replace(this.#top, messages.length > 0 && element("p", { class: "note", text: "The conversation begins here." }));
  }

  // What stands below the last message: the answer in progress, what is not recorded yet, what the page has to say.
  #showRest() {
    const { conversation } = this;
    const { answer, waiting, failed, looking, state } = conversation;
    const bottom = this.#to === this.#all.length;
    const nodes = [];
    if (answer && !looking && bottom) nodes.push(this.#growing(answer));
    else this.#answer = null;
    const wanted = looking ? [] : [...waiting, ...failed];
    const ids = new Set(wanted.map(({ client_id }) => client_id));
    for (const id of this.#unsent.keys()) if (!ids.has(id)) this.#unsent.delete(id);
    for (const unsent of wanted) nodes.push(this.#unsentOf(unsent, state));
    nodes.push(this.end(conversation));
    const kept = nodes.flat().filter(Boolean);
    if (kept.length !== this.#rest.childNodes.length || kept.some((node, n) => node !== this.#rest.childNodes[n])) replace(this.#rest, kept);
  }

  #growing({ text, replyTo }) {
    if (this.#answer?.replyTo !== replyTo) this.#answer = Object.assign(answerView(), { replyTo, said: false });
    this.#answer.said ||= text !== "";
    this.#answer.grow(text);
    return this.#answer.element;
  }

  #unsentOf(unsent) {
    const { conversation } = this;
    const id = unsent.client_id;
    let view = this.#unsent.get(id);
    if (!view || Boolean(unsent.reason) !== view.refused) {
      const note = () => !conversation.connected ? "Not sent yet: the server cannot be reached."
        : conversation.state === "processing" ? "Waits for the end of the answer." : "";
      view = unsentView(unsent, {
        note,
        discard: () => conversation.discard(id),
        sendAgain: unsent.reason && (() => conversation.sendAgain(unsent)),
      });
      view.refused = Boolean(unsent.reason);
      this.#unsent.set(id, view);
    }
    view.update();
    return view.element;
  }

  // --- where the reader is ---

  #stay() {
    this.#follow = true;
    this.#unseen = 0;
    this.#anchor = null;
  }

  #leaveEnd() {
    if (this.#scroller.scrollHeight <= this.#scroller.clientHeight) return;
    this.#follow = false;
    this.#record();
    this.#showNewest();
  }

  // Changes the page and keeps the reader's place.
  #keep(change) {
    if (this.#follow) {
      change();
      this.#toEnd();
    } else {
      this.#record();
      change();
      this.#restore();
    }
    this.#showNewest();
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#scrolled = this.#scroller.scrollTop;
  }

  #record() {
    const top = this.#scroller.getBoundingClientRect().top;
    for (const view of this.#inOrder()) {
      const box = view.element.getBoundingClientRect();
      if (box.bottom <= top + 1) continue;
      this.#anchor = { view, top: box.top - top };
      return;
    }
  }

  #restore() {
    const { view, top } = this.#anchor ?? {};
    if (!view?.element.isConnected) return;
    const moved = view.element.getBoundingClientRect().top - this.#scroller.getBoundingClientRect().top - top;
    if (Math.abs(moved) > 0.5) this.#scroller.scrollTop += moved;
    this.#scrolled = this.#scroller.scrollTop;
  }

  #inOrder() {
    return this.#all.slice(this.#from, this.#to).map(({ id }) => this.#views.get(id)).filter(Boolean);
  }

  #onScroll() {
    const { scrollTop } = this.#scroller;
    if (this.#below() <= AT_END && this.#to === this.#all.length) this.#stay();
    else if (scrollTop < this.#scrolled - 1) this.#follow = false;
    this.#scrolled = scrollTop;
    if (!this.#follow) this.#record();
    this.#showNewest();
    this.#later();
  }

  #onResize() {
    if (this.#follow) this.#toEnd();
    else this.#restore();
    this.#later();
  }

  #onKey(event) {
    if (event.target !== this.#scroller || event.altKey || event.metaKey) return;
    if (event.key === "End") this.toNewest();
    else if (event.key === "Home") this.toOldest().catch(({ message }) => this.#fail(message));
    else return;
    event.preventDefault();
  }

  #below() {
    return this.#scroller.scrollHeight - this.#scroller.scrollTop - this.#scroller.clientHeight;
  }

  #showNewest() {
    const away = !this.#follow && (this.#below() > AT_END || this.#to < this.#all.length);
    this.#newest.hidden = !away;
    const text = this.#unseen ? plural(this.#unseen, "new message") : "Newest";
    if (away && this.#newest.textContent !== text) replace(this.#newest, icon("down"), text);
  }

  // --- the window moves ---

  #later() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#move();
    });
  }

  // Puts messages into the page before they are seen, as many as a part of a frame allows, and takes far ones out.
  #move() {
    if (!this.conversation) return;
    const end = performance.now() + SLICE_MS;
    const above = this.#scroller.scrollTop;
    const below = this.#below();
    if (above < NEAR && this.#from > 0) {
      this.#keep(() => {
        do this.#insertAbove(); while (performance.now() < end && this.#from > 0);
        this.#showTop();
      });
      return this.#later();
    }
    if (below < NEAR && this.#to < this.#all.length) {
      this.#keep(() => {
        do this.#insertBelow(); while (performance.now() < end && this.#to < this.#all.length);
        this.#showRest();
      });
      return this.#later();
    }
    if (above > FAR || below > FAR) this.#keep(() => this.#trim());
    if (above < NEAR && this.conversation.more) this.#older();
  }

  #insertAbove() {
    this.#from -= 1;
    const message = this.#all[this.#from];
    const view = this.#viewOf(message, this.#all[this.#from - 1]);
    this.#messages.prepend(view.element);
    const after = this.#all[this.#from + 1];
    if (after) this.#viewOf(after, message);
  }

  #insertBelow() {
    const message = this.#all[this.#to];
    this.#messages.append(this.#viewOf(message, this.#all[this.#to - 1]).element);
    this.#to += 1;
  }

  // Never a message that is being edited.
  #trim() {
    const { top, bottom } = this.#scroller.getBoundingClientRect();
    const boxes = this.#inOrder().map((view) => ({ view, box: view.element.getBoundingClientRect() }));
    const far = ({ view, box }) => (box.bottom < top - FAR + NEAR || box.top > bottom + FAR - NEAR)
      && !view.element.querySelector("textarea");
    while (boxes.length > 1 && boxes[0].box.bottom < top && far(boxes[0])) {
      this.#drop(boxes.shift().view);
      this.#from += 1;
    }
    while (boxes.length > 1 && boxes.at(-1).box.top > bottom && far(boxes.at(-1))) {
      this.#drop(boxes.pop().view);
      this.#to -= 1;
    }
    this.#showTop();
  }

  async #older() {
    const { conversation } = this;
    if (this.#loading) return;
    this.#loading = true;
    this.#trouble = "";
    try {
      await conversation.older();
    } catch ({ message }) {
      if (conversation === this.conversation) this.#fail(message);
    }
    if (conversation !== this.conversation) return;
    this.#loading = false;
    if (!this.#trouble) this.#later();
  }

  #fail(trouble) {
    this.#trouble = trouble;
    this.#keep(() => this.#showTop());
  }
}
