// Shows the messages of a conversation. Only those near what is seen are in the page: a window that moves over all that are
// loaded, so that ten thousand cost what fifty do. place.js keeps the reader's place, whatever changes.

import { element, replace } from "./dom.js";
import { Ending } from "./ending.js";
import { icon } from "./icon.js";
import { button, messageView } from "./message.js";
import { Place } from "./place.js";
import { plural } from "./units.js";

const NEAR = 1500;       // pixels beyond what is seen in which messages are put into the page,
const FAR = 4500;        // and beyond which they leave it
const SLICE_MS = 8;      // of putting messages into the page, between two frames
const FIRST = 8;         // messages that are put into it at once

export class Transcript {
  #all = [];             // the messages of the conversation
  #from = 0;             // the window: #all.slice(#from, #to)
  #to = 0;
  #views = new Map();    // of the messages in the window, by id
  #unseen = 0;           // messages that came while the reader was elsewhere
  #known = "";           // which versions there are, which is shown, and whether there is a connection
  #loading = false;
  #trouble = "";         // why older messages could not be loaded
  #frame = 0;

  #top = element("div", { class: "top" });
  #window = element("div", { class: "window" });
  #newest = element("button", { class: "newest", type: "button", hidden: true, onclick: () => {
    this.toNewest();
    this.focus();
  } });

  // actions(): what can be done with a message, see message.js. note(), takenBack(text): see ending.js.
  constructor({ actions, note, takenBack }) {
    this.actions = actions;
    this.ending = new Ending({ note, takenBack });
    this.scroller = element("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Messages", onkeydown: (event) => this.#onKey(event) },
      element("div", { class: "messages" }, this.#top, this.#window, this.ending.element));
    this.element = element("div", { class: "transcript" }, this.scroller, this.#newest);
    this.place = new Place(this.scroller, {
      parts: () => this.#inOrder(),
      isWhole: () => this.#to === this.#all.length,
      moved: () => this.#moved(),
    });
  }

  // Shows another conversation, at its end.
  open(conversation) {
    this.conversation = conversation;
    this.#views.clear();
    replace(this.#window);
    this.ending.clear();
    this.#all = [];
    this.#from = this.#to = 0;
    this.#loading = false;
    this.#trouble = "";
    this.#unseen = 0;
    this.place.follow();
    this.update();
  }

  // The conversation has changed.
  update() {
    const { messages, versions, looking, waiting, failed, answer, connected } = this.conversation;
    if (messages.length + waiting.length + failed.length === 0 && !answer) this.place.rest();
    const known = `${versions.count} ${looking} ${connected}`;
    this.#keep(() => {
      if (messages !== this.#all) this.#takeAll(messages);
      else if (known !== this.#known) this.#sync();
      if (known !== this.#known) this.#trouble = "";  // it may work now
      this.#known = known;
      this.#showTop();
      this.ending.show(this.conversation, this.#to === this.#all.length);
    });
    this.#later();
  }

  toNewest() {
    this.place.follow();
    this.#unseen = 0;
    this.#to = this.#all.length;
    this.#from = Math.max(this.#from, this.#to - FIRST);
    this.#keep(() => {
      this.#sync();
      this.ending.show(this.conversation, true);
    });
    this.#later();
  }

  // Scrolls to the first message of the conversation, and loads all before that.
  async toOldest() {
    const { conversation } = this;
    this.place.leaveEnd();
    while (conversation.more && conversation === this.conversation) await conversation.older(500);
    const [first] = conversation.messages;
    if (first && conversation === this.conversation) await this.showMessage(first.id);
  }

  // Scrolls to a message, and loads older ones until it is there. Resolves to false if it is not in this version.
  async showMessage(id) {
    const { conversation } = this;
    while (conversation === this.conversation && conversation.place(id) < 0 && conversation.more) await conversation.older(500);
    if (conversation !== this.conversation) return undefined;
    const index = conversation.place(id);
    if (index < 0) return false;
    this.update();
    this.#from = Math.max(0, index - FIRST);
    this.#to = Math.min(this.#all.length, index + FIRST);
    this.#sync();
    this.place.leaveEnd();
    const { element: shown } = this.#views.get(id);
    this.place.show(shown, 80);
    shown.classList.add("found");
    shown.addEventListener("animationend", () => shown.classList.remove("found"), { once: true });
    shown.focus({ preventScroll: true });
    this.#moved();
    return true;
  }

  // The view of a message, if it is in the page.
  view(id) {
    return this.#views.get(id);
  }

  focus() {
    this.scroller.focus();
  }

  // --- the messages in the window ---

  // Other messages than before: the window stays on those that the reader sees, or at the end.
  #takeAll(messages) {
    const old = this.#all;
    const newest = old.at(-1)?.id ?? "";
    const added = messages.length - 1 - messages.findLastIndex(({ id }) => id <= newest);
    const { first } = this.place;
    const index = first ? messages.findIndex(({ id }) => id === first.id) : -1;
    this.#all = messages;
    if (index < 0) {
      if (messages.length) this.place.follow();
      this.#to = messages.length;
      this.#from = Math.max(0, this.#to - Math.max(this.#window.childElementCount, FIRST));
    } else {
      const before = old.findIndex(({ id }) => id === first.id);
      const wasAtEnd = this.#to === old.length;
      this.#unseen += added;
      this.#from = Math.max(0, index - (before - this.#from));
      this.#to = wasAtEnd && added < 2 * FIRST ? messages.length : Math.min(messages.length, index + this.#to - before);
    }
    this.#sync();
  }

  // Brings the page in line with the window. What is there already keeps its node.
  #sync() {
    const wanted = new Map(this.#all.slice(this.#from, this.#to).map(({ id, role }) => [id, role]));
    // Another role: what was sent as /clear has become its mark.
    for (const view of this.#views.values()) if (wanted.get(view.id) !== view.message.role) this.#drop(view);
    let next = this.#window.firstChild;
    for (let index = this.#from; index < this.#to; index += 1) {
      const { element: node } = this.#viewAt(index);
      if (node === next) next = next.nextSibling;
      else this.#window.insertBefore(node, next);
    }
  }

  #viewAt(index) {
    const message = this.#all[index];
    const previous = this.#all[index - 1];
    let view = this.#views.get(message.id);
    if (!view) {
      const isAnswer = message.role === "assistant" && index === this.#all.length - 1;
      view = (isAnswer && this.ending.take(message, this.actions())) || messageView(message, this.actions());
      this.#views.set(message.id, view);
    }
    // Before the first that is loaded there may be others of that day: a line that goes away would be a jump.
    view.setDay(previous ? !isSameDay(previous, message) : !this.conversation.more);
    this.#showVersions(view, previous);
    return view;
  }

  #showVersions(view, previous) {
    const { conversation } = this;
    const { versions, more, looking } = conversation;
    const parent = previous?.id ?? (more ? undefined : null);
    if (parent === undefined || !versions.fork(parent)) return;
    const known = `${parent} ${versions.count} ${looking}`;
    if (view.versions === known) return;
    view.versions = known;
    versions.siblings(parent).then((siblings) => {
      const at = siblings.findIndex(({ id }) => id === view.id);
      if (at < 0 || conversation !== this.conversation) return;
      const go = (by) => conversation.look(siblings[at + by].cursor);
      this.#keep(() => view.setVersions({ at, count: siblings.length, go }));
    }, () => { view.versions = ""; });
  }

  #drop(view) {
    const hadFocus = view.element.contains(document.activeElement);
    this.#views.delete(view.id);
    view.element.remove();
    if (hadFocus) this.scroller.focus({ preventScroll: true });
  }

  #inOrder() {
    return this.#all.slice(this.#from, this.#to).map(({ id }) => this.#views.get(id)).filter(Boolean);
  }

  // What stands above the first message.
  #showTop() {
    const { conversation } = this;
    const { loaded, more, incomplete, interrupted, refusal } = conversation;
    const retry = (again) => button("Try again", "retry", again);
    const say = this.#from > 0 ? ["\u00a0"]
      : this.#trouble ? [`Older messages: ${this.#trouble}`, retry(() => this.#older())]
      : incomplete ? [icon("warning"), `Older messages may be missing here: ${incomplete}`, retry(() => conversation.reload())]
      : !loaded ? [interrupted && !refusal ? "Loading…" : "\u00a0"]
      : more ? ["Loading…"]
      : this.#all.length ? ["The conversation begins here."] : [];
    const text = say.map((part) => part.textContent ?? part).join(" ");
    if (this.#top.textContent === text && this.#top.firstChild) return;
    replace(this.#top, say.length > 0 && element("p", { class: "note" }, say));
  }

  // --- the window moves ---

  #keep(change) {
    this.place.keep(change);
    this.#showNewest();
  }

  #moved() {
    if (this.place.follows) this.#unseen = 0;
    this.#showNewest();
    this.#later();
  }

  #showNewest() {
    this.#newest.hidden = this.place.follows || this.place.isAtEnd || this.#all.length === 0;
    const text = this.#unseen ? plural(this.#unseen, "new message") : "Newest";
    if (this.#newest.textContent !== text) replace(this.#newest, icon("down"), text);
  }

  #onKey(event) {
    if (event.target !== this.scroller || event.altKey || event.metaKey) return;
    if (event.key === "End") this.toNewest();
    else if (event.key === "Home") this.toOldest().catch((error) => this.#fail(error));
    else return;
    event.preventDefault();
  }

  #later() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.conversation) this.#move();
    });
  }

  // Puts messages into the page before they are seen, as many as a part of a frame allows, and takes far ones out.
  #move() {
    if (!this.element.isConnected) return;  // nothing has a size then, so everything would seem to be near
    const end = performance.now() + SLICE_MS;
    const { above, below } = this.place;
    if (above < NEAR && this.#from > 0) {
      this.#keep(() => {
        do this.#insertAbove(); while (performance.now() < end && this.#from > 0);
        this.#showTop();
      });
      this.#later();
    } else if (below < NEAR && this.#to < this.#all.length) {
      this.#keep(() => {
        do this.#insertBelow(); while (performance.now() < end && this.#to < this.#all.length);
        this.ending.show(this.conversation, this.#to === this.#all.length);
      });
      this.#later();
    } else {
      if (above > FAR || below > FAR) this.#keep(() => this.#trim());
      if (above < NEAR && this.conversation.more && !this.#trouble) this.#older();
    }
  }

  #insertAbove() {
    this.#from -= 1;
    this.#window.prepend(this.#viewAt(this.#from).element);
  }

  #insertBelow() {
    this.#to += 1;
    this.#window.append(this.#viewAt(this.#to - 1).element);
  }

  // Takes out what is far from what is seen, but never a message that is being edited.
  #trim() {
    const { top, bottom } = this.scroller.getBoundingClientRect();
    const boxes = this.#inOrder().map((view) => ({ view, box: view.element.getBoundingClientRect() }));
    const isFree = ({ view }) => !view.element.querySelector("textarea");
    while (boxes.length > 1 && boxes[0].box.bottom < top - FAR + NEAR && isFree(boxes[0])) {
      this.#drop(boxes.shift().view);
      this.#from += 1;
    }
    while (boxes.length > 1 && boxes.at(-1).box.top > bottom + FAR - NEAR && isFree(boxes.at(-1))) {
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
    } catch (error) {
      if (conversation === this.conversation) this.#fail(error);
    }
    if (conversation !== this.conversation) return;
    this.#loading = false;
    this.#later();
  }

  #fail({ message }) {
    this.#trouble = message;
    this.#keep(() => this.#showTop());
  }
}

function isSameDay(a, b) {
  return new Date(a.created_at).toDateString() === new Date(b.created_at).toDateString();
}
