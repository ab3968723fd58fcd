// Says in sentences where messages are, and what has happened since the page is open.
import { bytes, count, moment, plural, span } from "./units.js";

const messages = (n) => plural(n, "message");
const wait = (n) => `${messages(n)} ${n === 1 ? "waits" : "wait"}`;

// { kind, title, text, … }: kind is ok, busy, away, refusing or local. Where there are any: the reason, the section of the
// runbook, and the lines of a configuration with what to do with them, `config` and `add`.
export function stateOf(status, metrics, now = Date.now()) {
  const { journal, mongo } = status;
  if (journal.status !== "ok") {
    const full = journal.status === "full";
    return {
      kind: "refusing",
      title: full ? "New messages are refused: no room" : "New messages are refused",
      text: `${full && mongo.status === "error" ? "MongoDB is away, and the journal has no room for more. " : ""}What was acknowledged is safe, and can be read. `
        + "New messages are taken again within a second of the reason being gone.",
      reason: journal.reason,
      section: full ? "No room: 507" : "The journal cannot be written: 503",
    };
  }
  return mongo.enabled ? withMongo(status, now) : withoutMongo(status, metrics);
}

function withoutMongo({ journal, cache }, metrics) {
  const features = metrics.label("chatkeep_build_info", "features") ?? "";
  const owed = journal.undelivered_to_mongo > 0 ? ` MongoDB was in use before: ${messages(journal.undelivered_to_mongo)} that it lacks will be delivered when it is enabled again.` : "";
  return {
    kind: "local",
    title: "Everything is on this disk",
    text: `Each message is in the journal before it is acknowledged, and a moment later in its session's transcript, a file of JSON lines${cache.disk_path ? ` in ${cache.disk_path}` : ""}. `
      + `No database is needed.${owed}`,
    add: features.includes("mongo")
      ? "For a copy in MongoDB add this to config.yaml and start chatkeep again:"
      : "This build has no driver for MongoDB. For a copy there build it with the cargo feature mongo, add this to config.yaml and start it:",
    config: 'mongo:\n  enabled: true\n  uri: "mongodb://127.0.0.1:27017"',
  };
}

function withMongo({ mongo, queue, journal }, now) {
  const place = mongo.hosts ? ` ${mongo.database}.${mongo.chat_collection} on ${mongo.hosts.join(", ")}` : "";
  if (mongo.status === "connecting") {
    return { kind: "busy", title: "MongoDB is being connected", text: `Messages are recorded meanwhile; ${wait(queue.pending)} for it.` };
  }
  if (mongo.status === "error") {
    const long = mongo.since ? `, for ${span(Math.max(0, Math.round((now - Date.parse(mongo.since)) / 1000)))}` : "";
    const room = Math.max(0, journal.max_bytes - journal.undrained_bytes);
    return {
      kind: "away",
      title: "MongoDB is away",
      text: `${mongo.since ? `Since ${moment(mongo.since)}${long}. ` : ""}Nothing is lost: messages are recorded and read on this disk as ever. ${wait(queue.pending)} in the journal, which has room for `
        + `${bytes(room)} more; all are sent when MongoDB is back.`,
      reason: mongo.reason,
      section: "MongoDB is away",
    };
  }
  const late = queue.pending > 0 && queue.oldest_pending_seconds > 10;
  return {
    kind: late ? "busy" : "ok",
    title: late ? "MongoDB is catching up" : "MongoDB is connected",
    text: `${mongo.since ? `Since ${moment(mongo.since)}. ` : ""}${queue.pending === 0 ? `Everything is in${place || " it"}.` : `${wait(queue.pending)} for${place || " it"}; they are safe in the journal.`}`,
  };
}

// The way of a message: [{ name, said, text, kind }].
export function wayOf({ queue, journal, mongo }, { recorded }) {
  const rate = recorded === undefined ? "" : `${count(recorded)} a second`;
  const refused = journal.status !== "ok";
  return [
    { name: "Clients", said: rate || "–", text: refused ? "get an error now" : "acknowledged once on disk" },
    { name: "Journal on this disk", said: count(journal.last_sequence), text: journal.fsync === "always" ? "records, synced" : `records, synced by ${journal.fsync}`, kind: refused ? "refusing" : "ok" },
    { name: mongo.enabled ? "On the way" : "To be copied", said: count(queue.pending), text: queue.pending === 1 ? "waits" : "wait", kind: queue.pending > 0 ? "busy" : "" },
    mongo.enabled
      ? { name: "MongoDB", said: { ok: "connected", error: "away", connecting: "connecting" }[mongo.status], text: `${messages(queue.stored)} since the start`, kind: { ok: "ok", error: "away" }[mongo.status] ?? "busy" }
      : { name: "Transcripts", said: "on this disk", text: "a file for each session", kind: "ok" },
  ];
}

// What has happened, told from one status to the next.
export class Diary {
  entries = [];   // { at, text }, newest first
  #outage;        // { began } until all that waited is delivered
  #before;

  // The server was not reached.
  unreachable(at, message) {
    if (this.#before !== "unreachable") this.#write(at, `The server does not answer: ${message}`);
    this.#before = "unreachable";
  }

  take(at, { mongo, queue, uptime_seconds }) {
    const before = this.#before;
    this.#before = mongo.status;
    if (before === "unreachable") this.#write(at, uptime_seconds < 30 ? "The server was started again and answers." : "The server answers again.");
    if (!before) return;
    if (mongo.status === "error" && !this.#outage) {
      this.#outage = { began: at, most: 0 };
      this.#write(at, "MongoDB went away. Messages wait in the journal.");
    }
    const outage = this.#outage;
    if (!outage) return;
    outage.most = Math.max(outage.most, queue.pending);
    if (mongo.status === "ok" && before !== "ok") {
      this.#write(at, `MongoDB is back after ${span(Math.round((at - outage.began) / 1000))}; ${wait(queue.pending)} to be sent.`);
    }
    if (mongo.status === "ok" && queue.pending === 0) {
      this.#write(at, `All that waited is in MongoDB: ${messages(outage.most)}, none lost.`);
      this.#outage = undefined;
    }
  }

  #write(at, text) {
    this.entries = [{ at, text }, ...this.entries].slice(0, 12);
  }
}
