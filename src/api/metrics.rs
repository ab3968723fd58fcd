//! `GET /metrics`: what all parts have counted, in the text format of Prometheus.
//!
//! Reads memory only: neither a disk nor MongoDB is asked, so that it answers when they do not. What the status shows is
//! read from where the status reads it. At most about 40 KiB.

use crate::chat::Chat;
use crate::feed::Feed;
use crate::journal::AppendError;
use crate::message::Timestamp;
use crate::metrics::{CONTENT_TYPE, MetricsText, ProcessFigures, family};
use crate::worker::{FlushFailure, MongoHealth, View};

use super::http::full;
use super::http_meters::HttpMeters;
use super::{EventStreams, Reply, StatusSources, header};

/// The parts beside those of the status.
pub struct MetricsSources<'a> {
    /// What the status reads.
    pub status: &'a StatusSources,
    /// The turns.
    pub chat: &'a Chat,
    /// The feed.
    pub feed: &'a Feed,
    /// The event streams of sessions.
    pub events: &'a EventStreams,
    /// The requests.
    pub http: &'a HttpMeters,
    /// When the process started.
    pub started_at: Timestamp,
}

impl MetricsSources<'_> {
    /// The reply to `GET /metrics`.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "exact to the microsecond")]
    pub fn reply(&self) -> Reply {
        let mut text = MetricsText::new();
        self.build_info(&mut text);
        self.http.write_answered(&mut text.family(&family::HTTP_REQUESTS));
        self.http.write_seconds(&mut text.family(&family::HTTP_REQUEST_SECONDS));
        self.journal(&mut text);
        self.turns(&mut text);
        let database = self.status.mongo_status.view();
        self.drain(&mut text, &database);
        self.memory(&mut text);
        self.warnings(&mut text, database);
        ProcessFigures::now().write(&mut text);
        text.value(&family::PROCESS_START_TIME, self.started_at.micros() as f64 / 1e6);
        full(200, vec![header("Content-Type", CONTENT_TYPE), header("Cache-Control", "no-store")], text.into_bytes())
    }

    fn build_info(&self, text: &mut MetricsText) {
        let commit = option_env!("CHATKEEP_COMMIT").unwrap_or_default();
        let features = [("mongo", cfg!(feature = "mongo")), ("openai", cfg!(feature = "openai"))];
        let features: Vec<&str> = features.into_iter().filter_map(|(name, is_in)| is_in.then_some(name)).collect();
        let labels = [env!("CARGO_PKG_VERSION"), commit, &features.join(",")];
        text.family(&family::BUILD_INFO).series(&labels, 1.0);
    }

    fn journal(&self, text: &mut MetricsText) {
        let (journal, meters) = (&self.status.journal, self.status.journal.meters());
        text.family(&family::JOURNAL_SYNC_SECONDS).histogram(&[], &meters.sync_seconds);
        text.family(&family::JOURNAL_BATCH_RECORDS).histogram(&[], &meters.batch_records);
        text.number(&family::JOURNAL_BYTES, journal.stats().bytes);
        let mut failures = text.family(&family::JOURNAL_APPEND_FAILURES);
        for (reason, counter) in AppendError::REASONS.iter().zip(&meters.refused) {
            failures.count(&[reason], counter.get());
        }
    }

    fn turns(&self, text: &mut MetricsText) {
        let (meters, kind) = (self.chat.meters(), self.status.config.responder.kind.as_str());
        let mut recorded = text.family(&family::MESSAGES_RECORDED);
        meters.all_recorded().for_each(|(labels, count)| _ = recorded.count(&labels, count));
        let mut seconds = text.family(&family::RESPONDER_SECONDS);
        meters.all_seconds().for_each(|(status, histogram)| _ = seconds.histogram(&[kind, status], histogram));
        text.number(&family::RESPONDER_RUNNING, self.chat.stats().running as u64);
    }

    fn drain(&self, text: &mut MetricsText, database: &View) {
        let (status, totals) = (self.status, &database.totals);
        text.family(&family::FLUSH_SECONDS).histogram(&[], status.mongo_status.flush_seconds());
        text.number(&family::FLUSHED_MESSAGES, totals.stored + totals.already);
        let mut failures = text.family(&family::FLUSH_FAILURES);
        for (reason, count) in FlushFailure::NAMES.iter().zip(totals.failures) {
            failures.count(&[reason], count);
        }
        text.number(&family::SKIPPED_WRITES, status.skipped.get());
        text.number(&family::DEAD_LETTERS, totals.dead_letters);
        let pending = status.pending();
        text.number(&family::PENDING_MESSAGES, pending.records);
        text.value(&family::OLDEST_PENDING_SECONDS, pending.oldest_seconds);
        if database.state != MongoHealth::Disabled {
            text.number(&family::MONGO_UP, u64::from(database.state == MongoHealth::Ok));
        }
        let erasures = status.erasures_pending() + status.journal.erasures_pending();
        text.number(&family::ERASURES_PENDING, erasures as u64);
    }

    fn memory(&self, text: &mut MetricsText) {
        let (cache, meters) = (self.status.cache.stats(), self.status.cache.meters());
        text.number(&family::CACHE_HITS, meters.hits.get());
        text.number(&family::CACHE_MISSES, meters.misses.get());
        text.number(&family::CACHE_EVICTIONS, meters.evictions.get());
        text.number(&family::CACHE_BYTES, cache.bytes as u64);
        text.number(&family::WEBSOCKET_CONNECTIONS, self.status.sockets_open());
        text.number(&family::FEED_STREAMS, self.feed.watching() as u64);
        text.number(&family::EVENT_STREAMS, self.events.open_now() as u64);
    }

    fn warnings(&self, text: &mut MetricsText, database: View) {
        let now = self.status.warning_sources(self.status.journal.known_warnings(), database);
        let mut warnings = text.family(&family::WARNINGS);
        now.all().for_each(|(kind, holds)| _ = warnings.count(&[kind], u64::from(holds)));
    }
}
