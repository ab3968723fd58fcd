//! `GET /api/storage/status`, `/livez`, `/readyz`, `/health`: for operators and load balancers. Never shows a secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::access::Principal;
use crate::cache::Cache;
use crate::chat::{self, Chat};
use crate::config::Config;
use crate::janitor::FirstSweep;
use crate::journal::{self, AppendError, Journal, Warning};
use crate::message::{Clock, Id, Timestamp};
use crate::metrics::Counter;
use crate::permit::Semaphore;
use crate::store;
use crate::transcript::{Losses, Transcripts};
use crate::worker::{MongoHealth, MongoStatus, Progress, Reached, View};

use super::warnings::{StatusBlock, WarningSources};
use super::{Problem, Reply, SocketCounters};

/// The parts that the status describes.
pub struct StatusSources {
    /// The configuration in effect.
    pub config: Config,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The journal.
    pub journal: Arc<Journal>,
    /// The transcripts.
    pub transcripts: Arc<Transcripts>,
    /// When something is first to be removed because it is too old.
    pub first_sweep: Arc<FirstSweep>,
    /// How far the worker is.
    pub progress: Arc<Progress>,
    /// The state of MongoDB.
    pub mongo_status: Arc<MongoStatus>,
    /// Records that the full channel skipped.
    pub skipped: Arc<Counter>,
    /// Counters of the WebSockets.
    pub sockets: Arc<SocketCounters>,
    /// A permit for each that is open: as many as the configuration and the limit of open files allow.
    pub sockets_open: Arc<Semaphore>,
    /// For the age of pending messages.
    pub clock: Clock,
    /// When the server started.
    pub started: Instant,
}

/// What waits for its destination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Records that are published and not there.
    pub(super) records: u64,
    /// The age of the oldest of them; 0 without any.
    pub(super) oldest_seconds: f64,
}

/// Fields that tell where the data is, or may quote it.
const PLACES: [(&str, &[&str]); 3] = [
    ("mongo", &["hosts", "database", "chat_collection", "collection", "reason", "shared_reason", "differing_indexes"]),
    ("cache", &["disk_path"]),
    ("journal", &["reason"]),
];

/// Whoever is limited to some sessions learns how the server is, in numbers of all sessions, and not where its data is.
fn leave_out_places(status: &mut Value) {
    for (block, fields) in PLACES {
        if let Some(block) = status[block].as_object_mut() {
            block.retain(|name, _| !fields.contains(&name.as_str()));
        }
    }
}

fn transcripts(now: &WarningSources) -> Value {
    let Losses { stale, lost, .. } = now.losses;
    let warnings = now.names_in(StatusBlock::Transcripts);
    json!({"stale": stale, "lost": lost, "first_sweep_at": now.first_sweep_at, "warnings": warnings})
}

impl StatusSources {
    /// `GET /api/storage/status`: one object with a block for each part, in brief:
    ///
    /// ```json
    /// {"warnings":[],"mongo":{"enabled":true,"status":"ok",…},"cache":{"sessions":3,…},"transcripts":{"stale":0,…},
    ///  "websocket":{"open":1,…},
    /// "queue":{"pending":0,…},"journal":{"status":"ok",…},"responder":{"kind":"echo",…},"version":"0.1.0",
    ///  "uptime_seconds":42,"access":"read","token":"dashboard","sessions":null}
    /// ```
    #[must_use]
    pub fn storage(&self, chat: &Chat, caller: &Principal) -> Reply {
        // In this order, so that the oldest pending message is published and not yet drained.
        let (reached, database) = (self.progress.look(), self.mongo_status.view());
        let journal = self.journal.stats();
        let now = self.warning_sources(self.journal.warnings(), database);
        let mut status = json!({
            "warnings": now.names(),
            "mongo": self.mongo(&reached, &now.database),
            "cache": self.cache(),
            "transcripts": transcripts(&now),
            "websocket": self.websocket(),
            "queue": self.queue(journal.published, &reached, &now.database),
            "journal": self.journal(&reached, &journal, &now),
            "responder": self.responder(&chat.stats()),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "access": caller.access().as_str(),
            "token": caller.token(),
            "sessions": caller.sessions().map(ToString::to_string),
        });
        if caller.sessions().is_some() {
            leave_out_places(&mut status);
        }
        super::json(200, &status)
    }

    /// Erasures that MongoDB has still to carry out.
    pub(super) fn erasures_pending(&self) -> usize {
        self.erasures_beyond(&self.progress.look(), &self.mongo_status.view())
    }

    fn erasures_beyond(&self, reached: &Reached, database: &View) -> usize {
        // After the progress was read: erasures noted meanwhile count here.
        let unnoted = self.journal.erasures_after(match database.state {
            MongoHealth::Disabled => reached.erasures_noted,
            _ => reached.drained,
        });
        unnoted.len() + reached.erasures_pending
    }

    fn mongo(&self, reached: &Reached, database: &View) -> Value {
        let mongo = &self.config.mongo;
        json!({
            "enabled": mongo.enabled,
            "status": database.state,
            "since": database.since,
            "reason": database.reason,
            "differing_indexes": database.collection.differing_indexes,
            "indexes_made_again": database.collection.indexes_made_again,
            "ttl_differs": database.collection.ttl_differs,
            "shared": mongo.shared,
            "shared_reason": database.cannot_share,
            "erasures_pending": self.erasures_beyond(reached, database),
            "erasures_to_confirm": database.erasures_to_confirm,
            "resend": self.mongo_status.resends().view(),
            "hosts": store::hosts(mongo.uri.expose()).unwrap_or_default(),
            "database": mongo.database,
            "chat_collection": mongo.chat_collection,
            // The name that it had in the Python system's status.
            "collection": mongo.chat_collection,
            "ttl_days": mongo.ttl.map_or(0, |ttl| ttl.as_secs() / 86_400),
        })
    }

    fn cache(&self) -> Value {
        let (mongo, stats) = (&self.config.mongo, self.cache.stats());
        json!({
            "max_messages_per_session": mongo.cache.max_messages_per_session,
            "disk_path": mongo.cache.disk_path,
            "flush_enabled": mongo.enabled,
            "max_bytes": mongo.cache.max_bytes,
            "sessions": stats.sessions,
            "messages": stats.messages,
            "bytes": stats.bytes,
        })
    }

    /// What waits for its destination.
    pub(super) fn pending(&self) -> Pending {
        // In this order, so that the oldest pending message is published and not yet drained.
        let (reached, database) = (self.progress.look(), self.mongo_status.view());
        self.pending_of(self.journal.published(), &reached, &database)
    }

    fn pending_of(&self, published: u64, reached: &Reached, database: &View) -> Pending {
        let oldest = match database.state {
            MongoHealth::Disabled => reached.oldest_pending,
            _ => database.oldest_pending.map(Id::time),
        };
        let records = published.saturating_sub(reached.drained);
        let oldest = oldest.filter(|_| records > 0);
        Pending { records, oldest_seconds: oldest.map_or(0.0, |time| self.age_seconds(time)) }
    }

    fn queue(&self, published: u64, reached: &Reached, database: &View) -> Value {
        let last_flush = match database.state {
            MongoHealth::Disabled => reached.last_flush,
            _ => database.last_flush,
        };
        let pending = self.pending_of(published, reached, database);
        let totals = &database.totals;
        let flushes = self.mongo_status.flush_seconds();
        json!({
            "pending": pending.records,
            "oldest_pending_seconds": pending.oldest_seconds,
            "last_flush": last_flush,
            "flushes": flushes.count(),
            "stored": totals.stored,
            "already_stored": totals.already,
            "dead_letters": totals.dead_letters,
            "failures": totals.failures.iter().sum::<u64>(),
            "flush_seconds": flushes.sum(),
            "skipped": self.skipped.get(),
            "capacity": self.config.mongo.queue_capacity,
        })
    }

    fn journal(&self, reached: &Reached, stats: &journal::JournalStats, now: &WarningSources) -> Value {
        let refusal = &now.refusal;
        // Records of dropped segments cannot be delivered any more.
        let undelivered_after =
            reached.undelivered_after.map(|after| after.max(stats.first_sequence.saturating_sub(1)));
        json!({
            "status": match refusal {
                None => "ok",
                Some(AppendError::Full(_)) => "full",
                Some(_) => "error",
            },
            "reason": refusal.as_ref().map(AppendError::to_string),
            "fsync": self.config.journal.fsync.as_str(),
            "segments": stats.segments,
            "bytes": stats.bytes,
            "max_bytes": self.config.journal.max_bytes,
            "first_sequence": stats.first_sequence,
            "last_sequence": stats.published,
            "checkpoint": reached.drained,
            "transcribed": reached.transcribed,
            "undelivered_to_mongo": undelivered_after.map_or(0, |after| stats.published.saturating_sub(after)),
            "undrained_bytes": stats.undrained_bytes,
            "erasures_pending": self.journal.erasures_pending(),
            "disk_free_bytes": self.journal.disk_space().ok().map(|disk_space| disk_space.free_bytes),
            "warnings": now.names_in(StatusBlock::Journal),
            "ids_ahead_seconds": self.journal.ids_ahead().as_secs(),
            "damaged_at_start": now.damaged_at_start,
        })
    }

    /// What the warnings are told from, with those of the journal and the state of MongoDB.
    pub(super) fn warning_sources(&self, journal: Vec<Warning>, database: View) -> WarningSources {
        let found = self.journal.findings();
        WarningSources {
            journal,
            refusal: self.journal.refusal(),
            damaged_at_start: found.gaps + found.lost_segments + found.rebuilt_headers,
            losses: self.transcripts.losses(),
            first_sweep_at: self.first_sweep.due(),
            database,
        }
    }

    /// How many WebSockets are open.
    pub(super) fn sockets_open(&self) -> u64 {
        self.sockets.open.load(Ordering::Relaxed)
    }

    fn responder(&self, turns: &chat::ChatStats) -> Value {
        json!({
            "kind": self.config.responder.kind.as_str(),
            "max_concurrent": self.config.responder.max_concurrent,
            "running": turns.running,
            "waiting": turns.waiting,
            "completed": turns.completed,
            "cancelled": turns.cancelled,
            "errors": turns.errors,
            "panics": turns.panics,
        })
    }

    fn websocket(&self) -> Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sockets = &self.sockets;
        json!({
            "open": count(&sockets.open),
            "max_connections": self.sockets_open.max(),
            "opened": count(&sockets.opened),
            "refused": count(&sockets.refused),
            "messages_in": count(&sockets.messages_in),
            "messages_out": count(&sockets.messages_out),
            "cut": count(&sockets.cut),
            "idle_closed": count(&sockets.idle),
        })
    }

    #[allow(clippy::cast_precision_loss)]
    fn age_seconds(&self, time: Timestamp) -> f64 {
        self.clock.now().micros().saturating_sub(time.micros()) as f64 / 1e6
    }

    /// The state in one line, for a service manager.
    #[must_use]
    pub fn line(&self) -> String {
        let (reached, published) = (self.progress.look(), self.journal.stats().published);
        let pending = published.saturating_sub(reached.drained);
        let mongo = match self.mongo_status.view().state {
            MongoHealth::Disabled => "is off",
            MongoHealth::Connecting => "is being connected",
            MongoHealth::Ok => "works",
            MongoHealth::Error => "does not work",
        };
        let refused = self.journal.refusal().map(|refusal| format!("Messages are refused: {refusal}. "));
        format!("{}{published} records, {pending} pending; MongoDB {mongo}", refused.unwrap_or_default())
    }

    /// `GET /livez`: `{"status":"ok"}` while the process answers.
    #[must_use]
    pub fn live() -> Reply {
        super::json(200, &json!({"status": "ok"}))
    }

    /// `GET /readyz` and `GET /health`: `{"status":"ok"}` if a message would be recorded.
    ///
    /// # Errors
    /// 503 with the reason while messages are refused, or once the server stops. It tries to write again every second; a
    /// client just retries.
    pub fn ready(&self, is_stopping: bool) -> Result<Reply, Problem> {
        if is_stopping {
            return Err(Problem::unavailable("stopping", "the server is stopping", 5));
        }
        match self.journal.refusal() {
            None => Ok(super::json(200, &json!({"status": "ok"}))),
            Some(refusal) => Err(Problem::unavailable("journal_unavailable", refusal.to_string(), 1)),
        }
    }
}
