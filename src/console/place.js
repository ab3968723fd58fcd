// The reader's place in a scrolled box. Either the end stays in view while the contents grow, or the first part that is seen stays
// where it is, whatever is put in or taken out above and below it. It knows nothing of what the parts are.

const AT_END = 40;  // pixels from the end that count as the end

export class Place {
  follows = true;        // whether the end stays in view

  #anchor = null;        // the first part that is seen: { part, top }
  #scrolled = 0;

  // parts(): what is in the box, in order: { element, … }; isWhole(): whether the last of them is the last there is;
  // moved(): the reader has scrolled, or the box has another size.
  constructor(box, { parts, isWhole, moved }) {
    Object.assign(this, { box, parts, isWhole, moved });
    box.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    // Before the first scroll event: new text must not pull the reader back down.
    box.addEventListener("wheel", ({ deltaY, ctrlKey }) => deltaY < 0 && !ctrlKey && this.leaveEnd(), { passive: true });
    const sizes = new ResizeObserver(() => {
      // Taken out of the page it has no size; put in again it has another one.
      if (!box.isConnected) return;
      if (this.follows) this.toEnd();
      else this.#restore();
      this.moved();
    });
    sizes.observe(box);
    sizes.observe(box.firstElementChild);
  }

  // Pixels of the contents above and below what is seen.
  get above() {
    return this.box.scrollTop;
  }
  get below() {
    return this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
  }

  get isAtEnd() {
    return this.below <= AT_END && this.isWhole();
  }

  // The first part that is seen, when the end is not followed.
  get first() {
    return this.follows ? null : this.#anchor?.part ?? null;
  }

  follow() {
    this.follows = true;
    this.#anchor = null;
  }

  // From the beginning of the box, with no part to keep: what is in it is read as a page.
  rest() {
    if (this.follows || this.#anchor) this.#scrollTo(0);
    this.follows = false;
    this.#anchor = null;
  }

  leaveEnd() {
    if (this.box.scrollHeight <= this.box.clientHeight) return;
    this.follows = false;
    this.#record();
  }

  toEnd() {
    this.#scrollTo(this.box.scrollHeight);
  }

  // Scrolls so that the element stands `space` pixels below the edge of the box.
  show(node, space) {
    this.#scrollTo(this.above + this.#topOf(node) - space);
    this.#record();
  }

  // Changes the contents and keeps the place.
  keep(change) {
    if (!this.follows) this.#record();
    change();
    if (this.follows) this.toEnd();
    else this.#restore();
  }

  #scrollTo(top) {
    this.box.scrollTop = top;
    this.#scrolled = this.box.scrollTop;
  }

  #topOf(node) {
    return node.getBoundingClientRect().top - this.box.getBoundingClientRect().top;
  }

  #record() {
    const edge = this.box.getBoundingClientRect().top + 1;
    const part = this.parts().find(({ element }) => element.getBoundingClientRect().bottom > edge);
    if (part) this.#anchor = { part, top: this.#topOf(part.element) };
  }

  #restore() {
    const { part, top } = this.#anchor ?? {};
    if (!part?.element.isConnected) return;
    const moved = this.#topOf(part.element) - top;
    if (Math.abs(moved) > 0.5) this.#scrollTo(this.above + moved);
  }

  #onScroll() {
    const by = this.above - this.#scrolled;
    // Near the end one may be on the way up.
    if (this.isAtEnd && this.parts().length && (by > 0 || this.below <= 1)) this.follow();
    else if (by < -1) this.follows = false;
    this.#scrolled = this.above;
    if (!this.follows) this.#record();
    this.moved();
  }
}
