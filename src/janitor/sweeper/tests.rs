//! Sweeps: what they remove, announce and leave.
//!
//! Compiled under `#[cfg(test)]` only.

use std::fs;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::*;
use crate::config::Config;
use crate::disk::sim::{Fault, Random, SimDisk};
use crate::message::{Draft, Message, Metadata, SessionId};

const DAY: u64 = 86_400;

struct Fixture {
    folder: tempfile::TempDir,
    cache: Arc<Cache>,
    now: Arc<AtomicU64>,
    first: Arc<FirstSweep>,
    sweeper: Sweeper,
    start: Instant,
}

fn message(session: &SessionId, micros: u64) -> Arc<Message> {
    let draft = Draft { session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] };
    Arc::new(draft.prepare().seal(Id::from_parts(Timestamp::from_micros(micros), 0)))
}

impl Fixture {
    /// `sessions` with one message each, recorded now; the TTL is that many days. The first sweep was long ago.
    fn new(sessions: usize, days: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let now = Arc::new(AtomicU64::new(micros));
        let clock = Clock::fixed(now.clone());
        let expiry = Expiry::new((days > 0).then(|| Duration::from_secs(days * DAY)), clock.clone());
        let cache = Arc::new(Cache::new(&Config::defaults(None).unwrap().mongo.cache));
        let open_max = NonZeroUsize::new(4).unwrap();
        let transcripts = Transcripts::open(RealDisk, &folder.path().join("chats"), open_max).unwrap();
        let transcripts = Arc::new(transcripts.expiring(expiry.clone()));
        for session in 0..sessions {
            let session = SessionId::new(&format!("s-{session}")).unwrap();
            let message = message(&session, micros);
            transcripts.append(&session, &[(1, &message)]);
            cache.push(&message, true);
        }
        let at = |name: &str| folder.path().join(name);
        let copies = vec![at("quarantine"), at("never made")];
        let aside = Aside { copies, lines: vec![at("letters"), at("never written")] };
        let start = Instant::now();
        let first = Arc::new(FirstSweep::load(RealDisk, &at("first_sweep")));
        first.done();
        let rule = (expiry, clock);
        let sweeper = Sweeper::new(RealDisk, cache.clone(), transcripts, (aside, first.clone()), rule, start);
        Self { folder, cache, now, first, sweeper, start }
    }

    fn files(&self) -> usize {
        fs::read_dir(self.folder.path().join("chats")).unwrap().count()
    }

    /// Lets time pass by both clocks, and does what is due, hour by hour.
    fn pass(&mut self, time: Duration) {
        let end = self.start + time;
        while self.start < end {
            let step = self.sweeper.next().clamp(self.start, end) - self.start;
            self.now.fetch_add(step.as_micros() as u64, Ordering::Relaxed);
            self.start += step;
            self.sweeper.work(self.start, &|| true);
        }
    }
}

#[test]
fn what_has_expired_leaves_cache_transcripts_and_copies_within_an_hour() {
    let mut fixture = Fixture::new(450, 2);
    let aside = fixture.folder.path().join("quarantine");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("s.jsonl.7"), "what was said").unwrap();
    fixture.pass(Duration::from_secs(2 * DAY - 5));
    assert_eq!((fixture.files(), fixture.cache.stats().messages), (450, 450));
    assert!(aside.join("s.jsonl.7").exists());
    fixture.pass(Duration::from_secs(2 * 3600));
    assert_eq!((fixture.files(), fixture.cache.stats().messages), (0, 0));
    assert_eq!(fs::read_dir(&aside).unwrap().count(), 0);
    assert_eq!(fixture.cache.stats().bytes, 0);
}

#[test]
fn a_dead_letter_is_blanked_when_it_expires_and_the_others_stay() {
    let mut fixture = Fixture::new(0, 2);
    let path = fixture.folder.path().join("letters");
    let session = SessionId::new("s").unwrap();
    let line = |days: u64| {
        let message = message(&session, fixture.now.load(Ordering::Relaxed) + days * DAY * 1_000_000);
        String::from_utf8(message.line().to_vec()).unwrap()
    };
    let letter = |days: u64| format!(r#"{{"reason":"none","message":{}}}"#, line(days));
    let lines = [letter(0), letter(1), line(0), line(1), r#"{"id":7}"#.to_owned(), "no letter".to_owned()];
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    fixture.pass(Duration::from_secs(2 * DAY + 2 * 3600));
    let text = fs::read_to_string(&path).unwrap();
    let blank = |line: &String| " ".repeat(line.len());
    let [old, new, old_line, new_line, other, none] = &lines;
    assert_eq!(text.lines().collect::<Vec<_>>(), [&blank(old), new, &blank(old_line), new_line, other, none]);
    assert_eq!(text.len(), lines.iter().map(|line| line.len() + 1).sum::<usize>());
}

#[test]
fn without_a_ttl_nothing_is_ever_removed() {
    let mut fixture = Fixture::new(3, 0);
    let aside = fixture.folder.path().join("quarantine");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("segment-1"), "what was said").unwrap();
    fixture.pass(Duration::from_secs(50 * DAY));
    assert_eq!((fixture.files(), fixture.cache.stats().messages), (3, 3));
    assert!(aside.join("segment-1").exists());
}

#[test]
fn a_step_is_small_and_a_sweep_that_is_told_to_stop_does_nothing() {
    let mut fixture = Fixture::new(450, 1);
    fixture.now.fetch_add((DAY + 1) * 1_000_000, Ordering::Relaxed);
    let mut at = fixture.start + Duration::from_secs(DAY + 1);
    fixture.sweeper.work(at, &|| false);
    assert_eq!(fixture.files(), 450);
    for left in (0..450).step_by(10).rev() {
        at = fixture.sweeper.next();
        assert!(at < fixture.start + Duration::from_secs(DAY + 3));
        fixture.sweeper.work(at, &|| true);
        assert_eq!(fixture.files(), left);
    }
    assert!(fixture.sweeper.next() >= at + SWEEP_INTERVAL);
}

#[test]
fn a_clock_that_leaps_forward_and_is_soon_set_right_removes_nothing() {
    let mut fixture = Fixture::new(3, 1);
    fixture.pass(Duration::from_secs(60));
    for leap in [2 * DAY, 3650 * DAY, 300_000 * DAY] {
        fixture.now.fetch_add(leap * 1_000_000, Ordering::Relaxed);
        fixture.pass(Duration::from_secs(3601));
        assert_eq!((fixture.files(), fixture.cache.stats().messages), (3, 3), "{leap}");
        fixture.now.fetch_sub(leap * 1_000_000, Ordering::Relaxed);
        fixture.pass(Duration::from_secs(3601));
        assert_eq!(fixture.files(), 3, "{leap}");
    }
    fixture.now.fetch_add(2 * DAY * 1_000_000, Ordering::Relaxed);
    fixture.pass(Duration::from_secs(2 * 3600 + 60));
    assert_eq!(fixture.files(), 0, "it still said so an hour later");
}

/// A folder on a disk in memory, into which transcripts of a year ago are put, and the servers that run over it.
struct Old {
    disk: SimDisk,
    now: Arc<AtomicU64>,
    instant: Instant,
    transcripts: Arc<Transcripts<SimDisk>>,
    first: Arc<FirstSweep<SimDisk>>,
    sweeper: Sweeper<SimDisk>,
}

impl Old {
    fn new() -> Self {
        let mut old = Self::on(SimDisk::default(), Arc::new(AtomicU64::new(365 * DAY * 1_000_000)), Instant::now());
        (0..3).for_each(|number| old.put(number));
        old.restart();
        old
    }

    fn on(disk: SimDisk, now: Arc<AtomicU64>, instant: Instant) -> Self {
        let clock = Clock::fixed(now.clone());
        let expiry = Expiry::new(Some(Duration::from_secs(DAY)), clock.clone());
        let transcripts = Transcripts::open(disk.clone(), Path::new("/chats"), NonZeroUsize::MIN).unwrap();
        let transcripts = Arc::new(transcripts.expiring(expiry.clone()));
        let first = Arc::new(FirstSweep::load(disk.clone(), Path::new("/journal/first_sweep")));
        let aside = Aside { copies: vec!["/aside".into()], lines: vec!["/letters".into()] };
        let cache = Arc::new(Cache::new(&Config::defaults(None).unwrap().mongo.cache));
        let with = (aside, first.clone());
        let sweeper = Sweeper::new(disk.clone(), cache, transcripts.clone(), with, (expiry, clock), instant);
        Self { disk, now, instant, transcripts, first, sweeper }
    }

    fn restart(&mut self) {
        *self = Self::on(self.disk.clone(), self.now.clone(), self.instant);
    }

    fn put(&self, number: u64) {
        let session = SessionId::new(&format!("s-{number}")).unwrap();
        self.transcripts.append(&session, &[(number + 1, &message(&session, number + 1))]);
        self.disk.sync_all(Path::new("/")).unwrap();
    }

    fn files(&self) -> usize {
        self.disk.paths().iter().filter(|path| path.starts_with("/chats")).count()
    }

    /// Lets seconds pass by both clocks, and does what is due.
    fn pass(&mut self, seconds: u64) {
        let end = self.instant + Duration::from_secs(seconds);
        while self.instant < end {
            let step = self.sweeper.next().clamp(self.instant, end) - self.instant;
            self.now.fetch_add(step.as_micros() as u64, Ordering::Relaxed);
            self.instant += step;
            self.sweeper.work(self.instant, &|| true);
        }
    }

    fn due_in(&self) -> Option<u64> {
        let now = self.now.load(Ordering::Relaxed);
        self.first.due().map(|due| due.micros().saturating_sub(now) / 1_000_000)
    }
}

#[test]
fn the_first_sweep_waits_for_an_hour_that_no_restart_begins_again() {
    let mut old = Old::new();
    assert_eq!(old.due_in(), None);
    old.pass(11);
    for passed in [11, 1011, 2011, 3011] {
        assert_eq!((old.files(), old.due_in()), (3, Some(3610 - passed)), "after {passed} s");
        old.restart();
        assert_eq!(old.due_in(), Some(3610 - passed), "the status tells it at once");
        old.pass(if passed == 3011 { 590 } else { 1000 });
    }
    assert_eq!(old.files(), 3);
    old.pass(20);
    assert_eq!((old.files(), old.due_in()), (0, None));
    // Later sweeps run without an announcement, over restarts too.
    old.restart();
    old.put(7);
    old.pass(11);
    assert_eq!((old.files(), old.due_in()), (0, None));
}

#[test]
fn what_is_taken_out_again_within_the_hour_is_as_if_it_never_was_there() {
    let mut old = Old::new();
    old.pass(60);
    old.disk.paths().iter().filter(|path| path.starts_with("/chats")).for_each(|path| old.disk.unlink(path));
    old.pass(2 * 3600);
    assert_eq!(old.due_in(), None);
    old.restart();
    old.put(7);
    old.pass(11);
    assert_eq!((old.files(), old.due_in()), (1, Some(3599)));
}

#[test]
fn a_dead_letter_alone_is_announced_and_a_ttl_that_is_given_up_keeps_it() {
    let mut fixture = Fixture::new(0, 2);
    fs::remove_file(fixture.folder.path().join("first_sweep")).unwrap();
    fixture.first = Arc::new(FirstSweep::load(RealDisk, &fixture.folder.path().join("first_sweep")));
    fixture.sweeper.first = fixture.first.clone();
    let session = SessionId::new("s").unwrap();
    let letter = format!("{}\n", str::from_utf8(message(&session, 7).line()).unwrap());
    let path = fixture.folder.path().join("letters");
    fs::write(&path, &letter).unwrap();
    fixture.pass(Duration::from_secs(60));
    assert!(fixture.first.due().is_some());
    fixture.sweeper.expiry = Expiry::never();
    fixture.pass(Duration::from_secs(2 * 3600));
    assert_eq!((fixture.first.due(), fs::read_to_string(path).unwrap()), (None, letter));
}

#[test]
fn a_crash_at_any_call_of_look_and_sweep_removes_nothing_before_its_hour() {
    let calls = {
        let mut old = Old::new();
        let before = old.disk.calls();
        old.pass(3700);
        old.disk.calls() - before
    };
    for (call, seed) in (1..=calls).flat_map(|call| (0..8).map(move |seed| (call, seed))) {
        let mut old = Old::new();
        let begun = old.now.load(Ordering::Relaxed);
        old.disk.fault_at(old.disk.calls() + call, Fault::PowerOff);
        old.pass(3700);
        old.disk.power_cut(&mut Random(seed));
        let case = format!("call {call}, seed {seed}");
        // As if the power failed soon after the announcement: whatever the file says, the hour must be given.
        old.now.store(begun + 2000 * 1_000_000, Ordering::Relaxed);
        let (files, has_begun) = (old.files(), old.files() < 3);
        old.restart();
        let is_done = old.first.may_run(Timestamp::from_micros(begun), Duration::from_secs(DAY));
        old.pass(1500);
        assert!(old.files() == files || is_done, "{case}: removed before its hour");
        assert!(!is_done || has_begun || files == 3, "{case}");
        old.pass(2 * 3700);
        assert_eq!(old.files(), 0, "{case}");
    }
}
