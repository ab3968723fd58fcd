//! The table of all families: name, kind, labels, buckets and what each one says. `docs/operations.md` has it too, made
//! from here by the test at the end of this file, and the dashboard and the alerts may name nothing else.
//!
//! Buckets follow what was measured: a sync of the journal takes 0.05 to 1 ms on a good disk and seconds on a bad one, a
//! batch for MongoDB milliseconds to seconds, a request 0.1 ms and more, a model seconds to minutes.

#![allow(missing_docs, reason = "each constant says in its help what it is")]

/// What kind of numbers a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only rises while the process runs.
    Counter,
    /// The value at the moment.
    Gauge,
    /// Counts of values by range.
    Histogram,
}

impl FamilyKind {
    /// Its name in the text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Series of one name.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// See [`FamilyKind`].
    pub kind: FamilyKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The upper bounds of a histogram's ranges but the last, in the unit of its name; else empty.
    pub buckets: &'static [f64],
    /// What it says, in one sentence or two.
    pub help: &'static str,
}

/// Syncs of a file: a fast disk has 0.05 ms, a bad one seconds.
const SYNC: &[f64] =
    &[0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Requests: 0.1 ms from memory, a minute for a model.
const REQUEST: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Batches for MongoDB; a call is given up after `mongo.call_timeout_seconds`.
const FLUSH: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Answers.
const ANSWER: &[f64] = &[0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const RECORDS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: FamilyKind::Counter, labels, buckets: &[], help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: FamilyKind::Gauge, labels, buckets: &[], help }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    buckets: &'static [f64],
    help: &'static str,
) -> Family {
    Family { name, kind: FamilyKind::Histogram, labels, buckets, help }
}

pub const BUILD_INFO: Family =
    gauge("chatkeep_build_info", &["version", "commit", "features"], "Always 1: which build this is.");
pub const HTTP_REQUESTS: Family = counter(
    "chatkeep_http_requests_total",
    &["route", "method", "code"],
    "Requests answered over TCP and the Unix socket. Route other: no route was found. A series appears with its first request.",
);
pub const HTTP_REQUEST_SECONDS: Family = histogram(
    "chatkeep_http_request_seconds",
    &["route"],
    REQUEST,
    "From a whole request to its reply, without the time that the client takes to send and to read. Event streams, long polls and WebSockets are left out.",
);
pub const JOURNAL_SYNC_SECONDS: Family = histogram(
    "chatkeep_journal_sync_seconds",
    &[],
    SYNC,
    "How long the journal's syncs took. A message waits for one (journal.fsync: always).",
);
pub const JOURNAL_BATCH_RECORDS: Family =
    histogram("chatkeep_journal_batch_records", &[], RECORDS, "Records that were written together, with one sync.");
pub const JOURNAL_BYTES: Family = gauge("chatkeep_journal_bytes", &[], "The length of all segments of the journal.");
pub const JOURNAL_APPEND_FAILURES: Family = counter(
    "chatkeep_journal_append_failures_total",
    &["reason"],
    "Requests whose records were refused: full, unavailable (the disk failed), too_long, key_conflict.",
);
pub const MESSAGES_RECORDED: Family = counter(
    "chatkeep_messages_recorded_total",
    &["role", "transport"],
    "Messages recorded, replies included, repeated requests with a known key not. Transport: tcp, unix or websocket.",
);
pub const FLUSH_SECONDS: Family = histogram(
    "chatkeep_flush_seconds",
    &[],
    FLUSH,
    "How long batches of messages took to MongoDB, confirmed by a majority.",
);
pub const FLUSHED_MESSAGES: Family =
    counter("chatkeep_flushed_messages_total", &[], "Messages that MongoDB has confirmed.");
pub const FLUSH_FAILURES: Family = counter(
    "chatkeep_flush_failures_total",
    &["reason"],
    "Calls of MongoDB that failed and are tried again. Reason disk: MongoDB answered, and this machine's disk failed.",
);
pub const SKIPPED_WRITES: Family = counter(
    "chatkeep_skipped_writes_total",
    &[],
    "Records that the full channel to the worker turned away: it reads them from the journal instead, and nothing is lost.",
);
pub const DEAD_LETTERS: Family = counter("chatkeep_dead_letters_total", &[], "Messages that MongoDB refuses for ever.");
pub const PENDING_MESSAGES: Family = gauge(
    "chatkeep_pending_messages",
    &[],
    "Records that are durable here and not yet at their destination: MongoDB, or without it the synced transcripts.",
);
pub const OLDEST_PENDING_SECONDS: Family =
    gauge("chatkeep_oldest_pending_seconds", &[], "The age of the oldest of them; 0 without any.");
pub const MONGO_UP: Family =
    gauge("chatkeep_mongo_up", &[], "1 if the last call of MongoDB succeeded. Absent while MongoDB is disabled.");
pub const CACHE_HITS: Family = counter(
    "chatkeep_cache_hits_total",
    &[],
    "Pages of the history for which the cache had all that this machine has.",
);
pub const CACHE_MISSES: Family =
    counter("chatkeep_cache_misses_total", &[], "Pages of the history for which a transcript or the journal was read.");
pub const CACHE_EVICTIONS: Family =
    counter("chatkeep_cache_evictions_total", &[], "Sessions that left the cache to make room.");
pub const CACHE_BYTES: Family = gauge("chatkeep_cache_bytes", &[], "Memory of the cache, roughly.");
pub const WEBSOCKET_CONNECTIONS: Family = gauge("chatkeep_websocket_connections", &[], "Open WebSockets.");
pub const FEED_STREAMS: Family = gauge("chatkeep_feed_streams", &[], "Event streams and long polls of the feed.");
pub const EVENT_STREAMS: Family = gauge("chatkeep_event_streams", &[], "Open event streams of sessions.");
pub const RESPONDER_SECONDS: Family =
    histogram("chatkeep_responder_seconds", &["kind", "status"], ANSWER, "How long the responder took for an answer.");
pub const RESPONDER_RUNNING: Family = gauge("chatkeep_responder_running", &[], "Answers in progress.");
pub const ERASURES_PENDING: Family = gauge(
    "chatkeep_erasures_pending",
    &[],
    "Erasures still to be carried out: in MongoDB, and in the files of this machine.",
);
pub const WARNINGS: Family = gauge("chatkeep_warnings", &["kind"], "1 for each warning that the status tells, else 0.");
pub const PROCESS_CPU_SECONDS: Family =
    counter("process_cpu_seconds_total", &[], "Processor time used, of user and system.");
pub const PROCESS_RESIDENT_MEMORY: Family = gauge("process_resident_memory_bytes", &[], "Resident memory.");
pub const PROCESS_OPEN_FDS: Family = gauge("process_open_fds", &[], "Open file descriptors.");
pub const PROCESS_MAX_FDS: Family = gauge("process_max_fds", &[], "The limit of open file descriptors.");
pub const PROCESS_START_TIME: Family =
    gauge("process_start_time_seconds", &[], "When the process started, in seconds since 1970.");

/// All of them, in the order of the text.
pub const ALL: &[Family] = &[
    BUILD_INFO,
    HTTP_REQUESTS,
    HTTP_REQUEST_SECONDS,
    JOURNAL_SYNC_SECONDS,
    JOURNAL_BATCH_RECORDS,
    JOURNAL_BYTES,
    JOURNAL_APPEND_FAILURES,
    MESSAGES_RECORDED,
    FLUSH_SECONDS,
    FLUSHED_MESSAGES,
    FLUSH_FAILURES,
    SKIPPED_WRITES,
    DEAD_LETTERS,
    PENDING_MESSAGES,
    OLDEST_PENDING_SECONDS,
    MONGO_UP,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_EVICTIONS,
    CACHE_BYTES,
    WEBSOCKET_CONNECTIONS,
    FEED_STREAMS,
    EVENT_STREAMS,
    RESPONDER_SECONDS,
    RESPONDER_RUNNING,
    ERASURES_PENDING,
    WARNINGS,
    PROCESS_CPU_SECONDS,
    PROCESS_RESIDENT_MEMORY,
    PROCESS_OPEN_FDS,
    PROCESS_MAX_FDS,
    PROCESS_START_TIME,
];

#[cfg(test)]
mod manual {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::fs;

    use super::*;

    const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    const BEGIN: &str = "<!-- made from src/metrics/family.rs: begin -->\n";
    const END: &str = "<!-- made from src/metrics/family.rs: end -->\n";

    fn table() -> String {
        let mut out = String::from("\n| metric | kind | |\n|---|---|---|\n");
        for Family { name, kind, labels, help, .. } in ALL {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            writeln!(out, "| `{name}{labels}` | {} | {help} |", kind.as_str()).unwrap();
        }
        out.push('\n');
        out
    }

    #[test]
    fn the_manual_has_the_table_of_metrics_as_it_is() {
        let manual = fs::read_to_string(MANUAL).unwrap();
        let (head, rest) = manual.split_once(BEGIN).unwrap();
        let (stands, tail) = rest.split_once(END).unwrap();
        let wanted = table();
        if std::env::var_os("CHATKEEP_RENEW_DOCS").is_some() {
            fs::write(MANUAL, [head, BEGIN, &wanted, END, tail].concat()).unwrap();
        } else {
            assert!(stands == wanted, "docs/operations.md is stale; CONTRIBUTING.md says how to renew it");
        }
    }

    #[test]
    fn names_follow_the_rules_of_prometheus_and_stand_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for Family { name, kind, labels, buckets, .. } in ALL {
            assert_eq!(name.ends_with("_total"), *kind == FamilyKind::Counter, "{name}");
            assert_eq!(buckets.is_empty(), *kind != FamilyKind::Histogram, "{name}");
            assert!(buckets.is_sorted_by(|one, next| one < next), "{name}: {buckets:?}");
            assert!(!labels.iter().any(|label| label.contains("session")), "{name}");
        }
    }
}
