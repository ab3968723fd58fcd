//! The feed on a journal with tiny segments: pages, cursors, what is left out, what is dropped.
//!
//! Compiled under `#[cfg(test)]` only.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::config::{Fsync, JournalConfig};
use crate::disk::sim::{Op, SimDisk};
use crate::journal::{Appended, Checkpoint, NewRecord, ReplyTo};
use crate::message::{self, Clock, Metadata, Timestamp};

struct Fixture {
    disk: SimDisk,
    config: JournalConfig,
    /// Microseconds since 1970.
    now: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        // The kernel's lock is on the real disk.
        std::fs::create_dir(&path).unwrap();
        let config = JournalConfig {
            path,
            fsync: Fsync::Always,
            fsync_interval: Duration::from_secs(1),
            segment_bytes: 4096,
            max_bytes: 1 << 30,
            retain: Duration::ZERO,
            max_keys: 0,
            checkpoint_interval: Duration::from_secs(1),
        };
        let now = Arc::new(AtomicU64::new(Timestamp::parse("2026-11-23T00:00:00Z").unwrap().micros()));
        Self { disk: SimDisk::default(), config, now, _folder: folder }
    }

    fn open(&self) -> Arc<Feed<SimDisk>> {
        let (clock, publish) = (Clock::fixed(self.now.clone()), Box::new(|_: &[Record]| ()));
        let journal = Journal::open_on(self.disk.clone(), &self.config, clock.clone(), publish, Box::new(|| ()));
        Arc::new(Feed::new(Arc::new(journal.unwrap()), Expiry::new(Some(Duration::from_secs(3600)), clock), 2))
    }

    fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }
}

fn record(feed: &Feed<SimDisk>, drafts: Vec<NewRecord>) -> Vec<Appended> {
    let (ticket, kept) = feed.journal.append(drafts).unwrap();
    feed.journal.commit(ticket).unwrap();
    kept
}

fn say_in(feed: &Feed<SimDisk>, session: &str, text: &str) {
    let session = SessionId::new(session).unwrap();
    let (metadata, vector_ids) = (Metadata::default(), [].as_slice());
    let line = message::Draft { session: &session, role: "user", text, metadata, vector_ids }.prepare();
    record(feed, vec![NewRecord::Message { line, key: None, reply_to: ReplyTo::Nothing }]);
}

fn say(feed: &Feed<SimDisk>, text: &str) {
    say_in(feed, "s", text);
}

fn erase(feed: &Feed<SimDisk>, session: &str) {
    record(feed, vec![NewRecord::Erasure { session: SessionId::new(session).unwrap() }]);
}

/// Texts, and `-SESSION` for an erasure.
fn told(events: &[FeedEvent]) -> Vec<String> {
    let one = |event: &FeedEvent| match &event.what {
        FeedEventKind::Message(message) => message.text(),
        FeedEventKind::Erased(session, _) => format!("-{session}"),
    };
    events.iter().map(one).collect()
}

fn all(feed: &Feed<SimDisk>, limit: usize) -> Vec<String> {
    let (mut after, mut found) = (feed.oldest(), Vec::new());
    loop {
        let page = feed.page(after, limit, None).unwrap();
        assert!(page.events.len() <= limit);
        found.extend(told(&page.events));
        after = page.next;
        if !page.has_more {
            return found;
        }
    }
}

/// Drops all segments but the open one.
fn prune(feed: &Feed<SimDisk>) {
    let published = feed.journal.published();
    let checkpoint = Checkpoint { drained: published, transcribed: published, ..feed.journal.start() };
    feed.journal.store_checkpoint(&checkpoint).unwrap();
    // The clock is trusted once it has run evenly for a while.
    let now = Timestamp::parse("2030-01-01T00:00:00Z").unwrap();
    feed.journal.want_room();
    feed.journal.prune(published, now).unwrap();
}

fn gone(feed: &Feed<SimDisk>, after: Cursor) -> Gone {
    match feed.page(after, 10, None) {
        Err(FeedError::Gone(gone)) => gone,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_of_every_length_give_every_event_once_and_in_order() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    assert_eq!(all(&feed, 1), Vec::<String>::new());
    let sent: Vec<String> = (0..60).map(|n| format!("{n} {}", "x".repeat(n * 7))).collect();
    sent.iter().for_each(|text| say(&feed, text));
    assert!(feed.journal.stats().segments > 3);
    for limit in [1, 2, 7, 59, 60, 61, 1000] {
        assert_eq!(all(&feed, limit), sent, "{limit}");
    }
}

#[test]
fn the_cursor_of_an_event_leads_to_the_next_one_also_after_a_restart() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    (0..40).for_each(|n| say(&feed, &format!("{n} {}", "x".repeat(200))));
    let events = feed.page(feed.oldest(), 1000, None).unwrap().events;
    drop(feed);
    let feed = fixture.open();
    for pair in events.windows(2) {
        let after: Cursor = pair[0].cursor.to_string().parse().unwrap();
        assert_eq!(feed.page(after, 1, None).unwrap().events[0], pair[1]);
    }
    assert!(feed.page(events.last().unwrap().cursor, 1, None).unwrap().events.is_empty());
}

#[test]
fn a_page_ends_before_what_does_not_fit_and_holds_at_least_one() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    let texts: Vec<String> = [100, 100, 100, 300, 1].iter().map(|kib| "x".repeat(kib << 10)).collect();
    texts.iter().for_each(|text| say(&feed, text));
    let (mut after, mut counts) = (feed.oldest(), Vec::new());
    loop {
        let page = feed.page(after, 1000, None).unwrap();
        counts.push(page.events.len());
        after = page.next;
        if !page.has_more {
            break;
        }
    }
    assert_eq!(counts, [2, 1, 1, 1]);
}

#[test]
fn what_has_expired_is_left_out_and_the_cursor_passes_it() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    (0..10).for_each(|n| say(&feed, &format!("old {n}")));
    fixture.pass(3601);
    assert_eq!(all(&feed, 3), Vec::<String>::new());
    let page = feed.page(feed.oldest(), 3, None).unwrap();
    assert!(!page.has_more && feed.check(page.next).is_ok() && page.next.sequence == 10);
    say(&feed, "new");
    assert_eq!(all(&feed, 1), ["new"]);
    assert_eq!(told(&feed.page(page.next, 1, None).unwrap().events), ["new"]);
}

#[test]
fn an_erasure_is_told_and_what_it_erases_is_not_told_with_it() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    for text in ["a", "b", "c"] {
        say_in(&feed, "gone", text);
        say_in(&feed, "stays", text);
    }
    erase(&feed, "gone");
    say_in(&feed, "gone", "again");
    assert_eq!(all(&feed, 100), ["a", "b", "c", "-gone", "again"]);
    // A consumer that read page by page had the messages before, and is told to forget them.
    let in_pieces = all(&feed, 1);
    let erased_at = in_pieces.iter().position(|event| event == "-gone").unwrap();
    assert_eq!(in_pieces[erased_at + 1..], ["again"]);
    // A consumer that begins after the erasure does not get it.
    let after = feed.page(feed.oldest(), 1000, None).unwrap().events[3].cursor;
    assert_eq!(told(&feed.page(after, 10, None).unwrap().events), ["again"]);
}

#[test]
fn a_cursor_of_a_dropped_foreign_or_future_record_is_gone() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    (0..60).for_each(|n| say(&feed, &format!("{n} {}", "x".repeat(200))));
    let events = feed.page(feed.oldest(), 1000, None).unwrap().events;
    prune(&feed);
    let first = feed.journal.first_sequence();
    assert!(first > 10, "segments were dropped");
    for event in &events {
        let sequence = event.cursor.sequence;
        match feed.page(event.cursor, 1, None) {
            Ok(page) => assert!(sequence + 1 >= first && page.events.iter().all(|e| e.cursor.sequence == sequence + 1)),
            Err(FeedError::Gone(Gone::Dropped)) => assert!(sequence + 1 < first, "{sequence}"),
            Err(fault) => panic!("{fault:?}"),
        }
    }
    assert_eq!(all(&feed, 7).len() as u64, 61 - first);
    assert_eq!(gone(&feed, feed.cursor(61)), Gone::Ahead);
    let foreign = Fixture::new().open();
    assert_eq!(gone(&foreign, events[0].cursor), Gone::Foreign);
}

#[test]
fn segments_dropped_under_a_reader_leave_no_hole_in_what_it_is_told() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    (0..60).for_each(|n| say(&feed, &format!("{n} {}", "x".repeat(200))));
    let (first, after) = ("0000000000000001.segment", feed.page(feed.oldest(), 3, None).unwrap().next);
    // The reader is in the first segment while the following ones are dropped, and would continue with the last one.
    fixture.disk.stall(Op::Read, first);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| gone(&feed, after));
        fixture.disk.wait_until_stalled();
        prune(&feed);
        fixture.disk.release();
        assert_eq!(reading.join().unwrap(), Gone::Dropped);
    });
    assert_eq!(gone(&feed, after), Gone::Dropped);
}

#[test]
fn a_segment_whose_file_has_gone_before_its_name_is_as_good_as_dropped() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    say(&feed, "one");
    fixture.disk.remove(&fixture.config.path.join("0000000000000001.segment")).unwrap();
    assert_eq!(gone(&feed, feed.oldest()), Gone::Dropped);
}

#[test]
fn who_waits_is_woken_by_the_next_record_and_by_the_stop() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    let (one, two) = (feed.watch().unwrap(), feed.watch().unwrap());
    assert!(feed.watch().is_none() && feed.watching() == 2, "two may wait");
    let (after, patience) = (feed.oldest(), Instant::now() + Duration::from_secs(60));
    let woken = std::thread::spawn(move || one.wait(after, patience));
    say(&feed, "hello");
    assert_eq!(woken.join().unwrap(), Woken::Arrived);
    assert_eq!(two.wait(feed.cursor(1), Instant::now() + Duration::from_millis(5)), Woken::Late);
    let again = feed.watch().expect("the first has given its right back");
    let stopped = std::thread::spawn(move || again.wait(two.feed().cursor(1), patience));
    feed.stop();
    assert_eq!(stopped.join().unwrap(), Woken::Stopped);
    assert!(feed.is_stopping() && Instant::now() < patience);
}

#[test]
fn the_places_remembered_are_bounded() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    (0..400).for_each(|n| say(&feed, &n.to_string()));
    assert_eq!(all(&feed, 1).len(), 400);
    assert_eq!(feed.places.lock().unwrap().len(), PLACES_MAX);
}

#[test]
fn after_a_rest_waiters_wake_at_once_and_then_at_the_bounded_rate() {
    let fixture = Fixture::new();
    let feed = fixture.open();
    let now = feed.began + Duration::from_secs(60);
    for _ in 0..=WAKE_BURST {
        assert!(feed.next_turn(now) <= now);
    }
    let turns: Vec<Instant> = (0..10).map(|_| feed.next_turn(now)).collect();
    assert!(turns[0] > now && turns.windows(2).all(|pair| pair[1] - pair[0] == WAKE_INTERVAL));
    for _ in 0..1000 {
        assert!(feed.next_turn(now) <= now + GATHER_MAX);
    }
    let rested = now + Duration::from_secs(1);
    for _ in 0..=WAKE_BURST {
        assert!(feed.next_turn(rested) <= rested);
    }
}
