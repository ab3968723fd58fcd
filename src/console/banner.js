// What is wrong with the server, in a line above both tabs, as long as it is so. The Storage tab tells more.

import { element, replace } from "./dom.js";
import { icon } from "./icon.js";
import { warningsOf } from "./storage-figures.js";
import { moment, plural } from "./units.js";

export class Banner {
  #said = "";
  element = element("div", { class: "banners", role: "status" });

  // status: of GET /api/storage/status, or the ServerError with which that failed; null while it is not known.
  show(status) {
    const { text, severe } = status instanceof Error ? { text: status.message, severe: true } : status ? sentence(status) : {};
    if (text === this.#said) return;
    this.#said = text;
    replace(this.element, text && element("p", { class: severe ? "banner severe" : "banner" }, icon("warning"), element("span", {}, text),
      status.warnings && element("a", { href: "#/storage", text: "Storage" })));
  }
}

// The worst is said, the others are counted. No figure that rises while it lasts: a screen reader would speak without end.
function sentence(status) {
  const { journal, mongo, warnings } = status;
  const more = warnings.length > 1 ? ` (${plural(warnings.length - 1, "more warning")})` : "";
  if (journal.status !== "ok") {
    return { text: `New messages are refused${journal.reason ? `: ${journal.reason}` : ""}. The history is there.${more}`, severe: true };
  }
  if (mongo.status !== "error") {
    const [first] = warningsOf(status);
    return { text: first ? first.text + more : "" };
  }
  return { text: `MongoDB cannot be reached${mongo.since ? ` since ${moment(mongo.since)}` : ""}. Nothing is lost: messages are recorded and `
    + `the history is read on this server; all is sent when MongoDB is back.${more}` };
}
