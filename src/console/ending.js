// What stands below the last message of a conversation: the answer in progress, what is not recorded yet or was refused, and what
// the page has to say at the end.

import { element, replace } from "./dom.js";
import { answerView, unsentView } from "./message.js";

export class Ending {
  #answer = null;        // { replyTo, said, …view }
  #unsent = new Map();   // by the key of the message

  element = element("div", { class: "ending" });

  // note(): a node to show at the very end, or null; the same one as long as it says the same. takenBack(text): what waited or was
  // refused is not to be sent.
  constructor({ note, takenBack }) {
    Object.assign(this, { note, takenBack });
  }

  clear() {
    this.#answer = null;
    this.#unsent.clear();
  }

  // isAtEnd: whether the last message is in the page; else what follows it is not, either.
  show(conversation, isAtEnd) {
    const { answer, waiting, failed, looking } = conversation;
    const unsent = [...waiting, ...failed];
    const keys = new Set(unsent.map(({ client_id }) => client_id));
    for (const key of this.#unsent.keys()) if (!keys.has(key)) this.#unsent.delete(key);
    const growing = answer && !looking && isAtEnd ? this.#growing(answer) : null;
    if (!growing) this.#answer = null;
    const nodes = [growing, ...unsent.map((one) => this.#viewOf(one, conversation)), this.note()].filter(Boolean);
    const shown = this.element.childNodes;
    // A node that is put in again loses the focus and what is selected in it.
    if (nodes.length !== shown.length || nodes.some((node, n) => node !== shown[n])) replace(this.element, nodes);
  }

  // The answer in progress was recorded as this message: its view goes on as that of the message, without being rendered again.
  // null if nothing of it was shown.
  take(message, actions) {
    const answer = this.#answer;
    this.#answer = null;
    answer?.element.remove();
    return answer?.said && message.metadata?.status !== "error" ? answer.whole(message, actions) : null;
  }

  #growing({ text, replyTo }) {
    if (this.#answer?.replyTo !== replyTo) this.#answer = Object.assign(answerView(), { replyTo, said: false });
    this.#answer.said ||= text !== "";
    this.#answer.grow(text);
    return this.#answer.element;
  }

  #viewOf(unsent, conversation) {
    const { client_id: key, reason } = unsent;
    let view = this.#unsent.get(key);
    if (!view || view.reason !== reason) {
      view = Object.assign(unsentView(unsent, {
        takeBack: () => {
          conversation.discard(key);
          this.takenBack(unsent.message);
        },
        sendAgain: reason && (() => conversation.sendAgain(unsent)),
      }), { reason });
      this.#unsent.set(key, view);
    }
    view.update(!conversation.connected ? "Not sent yet: the server cannot be reached."
      : conversation.state === "processing" ? "Waits for the end of the answer." : "");
    return view.element;
  }
}
