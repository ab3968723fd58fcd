// What the Storage tab shows, and what it means, of a status and metrics. A token that is limited to some sessions is not told all.
import { mean, rate } from "./metrics.js";
import { bytes, count, perSecond, span } from "./units.js";

// What this page asks for itself every second is not counted.
const OF_THIS_PAGE = new Set(["/metrics", "/api/storage/status"]);
const others = ({ route }) => !OF_THIS_PAGE.has(route);

// The values of all plots at one time, from two readings: { at (ms), status, metrics }.
export function sampleOf(earlier, now) {
  const seconds = earlier ? (now.at - earlier.at) / 1000 : 0;
  const since = (read, ...what) => (earlier ? read(earlier.metrics, now.metrics, ...what) : undefined);
  const { queue, mongo } = now.status;
  return {
    at: now.at,
    away: mongo.status === "error",
    pending: queue.pending,
    oldest: queue.oldest_pending_seconds,
    flush: since(mean, "chatkeep_flush_seconds"),
    recorded: since(rate, seconds, "chatkeep_messages_recorded_total"),
    requests: since(rate, seconds, "chatkeep_http_requests_total", others),
    sync: since(mean, "chatkeep_journal_sync_seconds"),
    memory: now.metrics.sum("process_resident_memory_bytes"),
  };
}

// key: that of the sample
export function plotsOf({ mongo, journal }) {
  const to = mongo.enabled ? "MongoDB" : "the transcripts";
  return [
    { key: "pending", name: `Waiting for ${to}`, format: count,
      text: `Messages that are durable in the journal and not yet in ${to}. A few seconds after the last message there are none.` },
    { key: "oldest", name: "Oldest that waits", format: span,
      text: `How long the oldest of them has been waiting. While it rises, ${mongo.enabled ? "MongoDB takes nothing" : "the transcripts are not written"}.` },
    mongo.enabled && { key: "flush", name: "Time of a batch", format: span,
      text: "From sending messages to MongoDB until a majority of its servers has them on disk. No client waits for it." },
    { key: "recorded", name: "Messages recorded", format: perSecond, text: "Messages made durable each second, answers included." },
    { key: "requests", name: "Requests", format: perSecond, text: "HTTP requests answered each second, without the two that this page makes." },
    { key: "sync", name: "Time of a sync", format: span,
      text: journal.fsync === "always"
        ? "How long the disk takes to make records durable. Each message waits for one sync; all that wait share it."
        : `How long the disk takes to make records durable. With journal.fsync: ${journal.fsync} no message waits for it.` },
    { key: "memory", name: "Memory", format: bytes, binary: true, text: "Resident memory of the server. What waits for MongoDB is on disk and takes none." },
  ].filter(Boolean);
}

// Each { name, value, most, said, text }: how much there is, how much there may be, both in words, and what it means.
export function metersOf({ journal, cache, websocket, responder, mongo }) {
  const to = mongo.enabled ? "MongoDB" : "the transcripts";
  const mayGrow = Math.max(0, journal.max_bytes - journal.bytes);
  return [
    { name: "Journal that waits", value: journal.undrained_bytes, most: journal.max_bytes,
      said: `${bytes(journal.undrained_bytes)} of ${bytes(journal.max_bytes)}`,
      text: `Bytes of the journal that ${to} may still lack. At the limit, journal.max_bytes, new messages get 507 until there is room.` },
    typeof journal.disk_free_bytes === "number" && { name: "Disk", value: mayGrow, most: journal.disk_free_bytes,
      said: `${bytes(journal.disk_free_bytes)} are free`,
      text: mayGrow < journal.disk_free_bytes
        ? `The journal may take ${bytes(mayGrow)} more of it. When nothing is free, new messages get 507.`
        : `The journal may take ${bytes(mayGrow)} more, so the disk is full before the journal is. New messages then get 507.` },
    { name: "Cache", value: cache.bytes, most: cache.max_bytes, said: `${bytes(cache.bytes)} of ${bytes(cache.max_bytes)}`,
      text: `Memory for the newest messages of ${count(cache.sessions)} ${cache.sessions === 1 ? "session" : "sessions"}. When it is full, the sessions used least recently are read from disk.` },
    { name: "WebSockets", value: websocket.open, most: websocket.max_connections,
      said: `${count(websocket.open)} of ${count(websocket.max_connections)}`, text: "Open connections. Beyond the limit a handshake gets 503." },
    responder.kind !== "none" && { name: "Answers in progress", value: responder.running, most: responder.max_concurrent,
      said: `${count(responder.running)} of ${count(responder.max_concurrent)}`,
      text: `Of the responder ${responder.kind}. Beyond the limit a new turn takes the place of an answer that nobody follows, or gets 503.` },
  ].filter(Boolean);
}

// Each { name, said, text, bad }: `bad` is worth a look.
export function figuresOf({ queue, journal, mongo, transcripts, responder, uptime_seconds, version }, metrics) {
  const erasures = mongo.erasures_pending === undefined ? metrics.sum("chatkeep_erasures_pending") : mongo.erasures_pending + journal.erasures_pending;
  const failures = metrics.sum("chatkeep_flush_failures_total") ?? queue.failures;
  return [
    { name: "Recorded", said: count(journal.last_sequence), text: "Records in this data folder so far: messages, and marks such as erasures. Each is on disk before it is acknowledged." },
    mongo.enabled && { name: "Stored in MongoDB", said: count(queue.stored),
      text: `Messages since the start${queue.already_stored ? `; ${count(queue.already_stored)} more were there already, which happens after a batch with an unknown outcome` : ""}.` },
    mongo.enabled && { name: "Dead letters", said: count(queue.dead_letters), bad: queue.dead_letters > 0,
      text: "Messages that MongoDB refuses for ever. They are in data/dead_letter.jsonl and in the history; chatkeep retry-dead-letters offers them again." },
    mongo.enabled && { name: "Failed calls of MongoDB", said: count(failures), text: "Since the start. Each is tried again; nothing is lost by one." },
    { name: "Erasures to carry out", said: count(erasures), text: "Erased sessions whose bytes may still be in files or in MongoDB. No reader sees them." },
    { name: "Transcripts behind", said: count(transcripts.stale), bad: transcripts.stale > 0, text: "Sessions whose file lacks something that the journal has. They are written again from it." },
    { name: "Transcripts damaged", said: count(transcripts.lost), bad: transcripts.lost > 0,
      text: "Sessions whose file has lost a part. Pages of the history that reach it say so, unless MongoDB has it." },
    responder.kind !== "none" && { name: "Answers", said: count(responder.completed),
      text: `Completed since the start; ${count(responder.cancelled)} were stopped, ${count(responder.errors)} failed.` },
    { name: "Kept for", said: mongo.ttl_days ? `${count(mongo.ttl_days)} days` : "ever", text: "By mongo.ttl_days, which counts without MongoDB as well." },
    { name: "Running for", said: span(Math.round(uptime_seconds)), text: `chatkeep ${version}.` },
  ].filter(Boolean);
}

// What a warning of the status means, and the section of docs/runbook.md that says what to do.
const WARNINGS = {
  backlog_high: ["More than half of journal.max_bytes waits to be taken over. When it is full, new messages are refused.", "The backlog grows"],
  disk_low: ["Less than a tenth of the disk is free, and less than 2 GiB.", "The disk is nearly full"],
  damaged_at_start: ["The start found damaged places in the journal.", "Damage"],
  lost: ["A part of a transcript is gone, and the journal does not have it any more.", "Damage"],
  stale: ["Transcripts lack something that the journal has; they are written again.", "Transcripts are stale or gone"],
  folder_is_new: ["The folder of the transcripts is not the one that was written before: it was removed, or is not mounted.", "Transcripts are stale or gone"],
  first_sweep_due: ["Messages older than mongo.ttl_days are hidden and will be removed within the hour, for the first time in this folder.", "Old messages are removed"],
  ids_ahead: ["The clock was set back: new messages are dated ahead of it until it has caught up.", "The clock is wrong"],
  clock_before_2020: ["The clock shows a time before 2020.", "The clock is wrong"],
  differing_indexes: ["An index in MongoDB is not as chatkeep makes it.", "MongoDB is not as it should be"],
  indexes_made_again: ["The collection was dropped while chatkeep ran; its indexes were made again.", "MongoDB is not as it should be"],
  ttl_differs: ["Documents in MongoDB expire otherwise than mongo.ttl_days says.", "MongoDB is not as it should be"],
  cannot_share: ["Erasures of other servers cannot be read, so they are not carried out here.", "MongoDB is not as it should be"],
};

// What storage-state.js tells at length.
const TOLD = new Set(["mongo_error", "journal_full", "journal_error"]);

// Each { name, text, section, reason }.
export function warningsOf({ warnings, mongo }) {
  return warnings.filter((name) => !TOLD.has(name)).map((name) => {
    const [text, section] = WARNINGS[name] ?? ["The runbook tells what it means.", undefined];
    return { name, text, section, reason: name === "cannot_share" ? mongo.shared_reason : undefined };
  });
}
