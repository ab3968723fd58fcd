// What is wrong with the server, in a line above both tabs, as long as it is so. What it says comes from the status; storage.js
// tells more.

import { element, replace } from "./dom.js";
import { icon } from "./icon.js";
import { sinceWhen } from "./time.js";
import { plural } from "./words.js";

const SENTENCES = {
  journal_full: ({ journal }) => `New messages are refused: the journal is full${because(journal.reason)}. The history is there.`,
  journal_error: ({ journal }) => `New messages are refused: the journal cannot be written${because(journal.reason)}. The history is there.`,
  mongo_error: ({ mongo, queue }) => `MongoDB cannot be reached${mongo.since ? ` since ${sinceWhen(mongo.since)}` : ""}. Nothing is lost: `
    + `messages are recorded and the history is read on this server; ${plural(queue.pending, "message")} ${queue.pending === 1 ? "waits" : "wait"} for MongoDB.`,
  disk_low: () => "Less than a tenth of the disk is free, and less than 2 GiB. When it is full, new messages are refused.",
  backlog_high: () => "More than half of the journal waits for MongoDB. When it is full, new messages are refused.",
  lost: () => "The transcripts on disk lack a part of the history.",
};
const RANK = Object.keys(SENTENCES);

export class Banner {
  #said = "";
  element = element("div", { class: "banners", role: "status" });

  // status: of GET /api/storage/status, or the ServerError with which that failed; null while it is not known.
  show(status) {
    const [text, severe] = sentence(status);
    if (text === this.#said) return;
    this.#said = text;
    replace(this.element, text && element("p", { class: severe ? "banner severe" : "banner" }, icon("warning"), element("span", {}, text),
      status.warnings && element("a", { href: "#/storage", text: "Storage" })));
  }
}

function sentence(status) {
  if (!status) return [""];
  if (status instanceof Error) return [status.status === 0 ? "The server cannot be reached. The page tries again." : `The server's status cannot be read: ${status.message}`, true];
  const [first, ...rest] = [...status.warnings].sort((a, b) => rank(a) - rank(b));
  if (!first) return [""];
  const say = SENTENCES[first]?.(status) ?? `The server warns of ${first.replaceAll("_", " ")}.`;
  return [rest.length ? `${say} (${plural(rest.length, "more warning")})` : say, first.startsWith("journal")];
}

function rank(warning) {
  return RANK.includes(warning) ? RANK.indexOf(warning) : RANK.length;
}

function because(reason) {
  return reason ? ` (${reason})` : "";
}
