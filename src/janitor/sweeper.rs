//! The sweep: once an hour, messages that have expired by `mongo.ttl_days` leave the cache, the transcripts, the dead
//! letters and files that were set aside or recovered.
//!
//! The first sweep that would remove something only counts, announces what it will remove and when, and removes it an
//! hour later (`first_sweep.rs`). Meanwhile readers see the messages as expired.
//!
//! It is separate from the thread so that tests can let hours pass. It goes in steps of a few hundred files with a
//! pause between them, so that a hundred thousand transcripts cause no burst on the disk.
//!
//! A clock that jumps forward expires everything, and what was removed does not come back when the clock is set right.
//! So after a jump, which the monotonic clock reveals, nothing is removed for one interval; meanwhile readers see the
//! messages as expired, and see them again if the clock goes back. The time at the start of the process must be
//! trusted.
//!
//! Knows nothing of the journal's segments: `journal.retain_hours` removes those.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value;

use crate::cache::Cache;
use crate::disk::{Disk, DiskFile, RealDisk};
use crate::message::{Clock, Expiry, Id, Timestamp};
use crate::transcript::{self, Sweep, Transcripts};

use super::first_sweep::FirstSweep;

/// The time from the start to the first sweep, so that it does not slow the start.
const FIRST_SWEEP_DELAY: Duration = Duration::from_secs(10);
/// The time from the end of a sweep to the next. The TTL counts in days.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Transcripts checked in one step; a rewrite counts as many, so that the journal's waker is checked soon.
const STEP_FILES: usize = 200;
/// The pause between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// How far the clock may get ahead of the monotonic clock before it counts as a jump.
const CLOCK_LEAP: Duration = Duration::from_secs(3600);

/// Other places with messages beside transcripts and journal.
pub struct Aside {
    /// Folders with copies of what was set aside.
    pub copies: Vec<PathBuf>,
    /// Files with a message in each line, or in a line's `message`; they may be appended to meanwhile.
    pub lines: Vec<PathBuf>,
}

/// Removes what has expired.
pub struct Sweeper<D: Disk = RealDisk> {
    disk: D,
    cache: Arc<Cache>,
    transcripts: Arc<Transcripts<D>>,
    aside: Aside,
    first: Arc<FirstSweep<D>>,
    expiry: Expiry,
    clock: Clock,
    /// The last reading of the clock, and when it was.
    seen: (Instant, Timestamp),
    next: Instant,
    under_way: Option<Sweep>,
}

/// The limits of what has expired: an id, a time, and the TTL.
#[derive(Clone, Copy)]
struct SweepRule {
    bound: Id,
    time: Timestamp,
    ttl: Duration,
}

impl<D: Disk> Sweeper<D> {
    /// A sweeper whose first sweep comes 10 s after `now`.
    #[must_use]
    pub fn new(
        disk: D,
        cache: Arc<Cache>,
        transcripts: Arc<Transcripts<D>>,
        (aside, first): (Aside, Arc<FirstSweep<D>>),
        (expiry, clock): (Expiry, Clock),
        now: Instant,
    ) -> Self {
        let seen = (now, clock.now());
        Self {
            disk,
            cache,
            transcripts,
            aside,
            first,
            expiry,
            clock,
            seen,
            next: now + FIRST_SWEEP_DELAY,
            under_way: None,
        }
    }

    /// When there is something to do next.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Does the next step if it is due; stops early once `go_on` returns false.
    pub fn work(&mut self, now: Instant, go_on: &dyn Fn() -> bool) {
        if now < self.next {
            return;
        }
        self.next = now + SWEEP_INTERVAL;
        let Some(rule) = self.rule() else { return self.first.forget() };
        if self.has_leapt(now) {
            log::warn!("the clock jumped forward: what has expired by it is removed in an hour, unless it is set back");
            self.under_way = None;
            return;
        }
        let sweep = self.under_way.take().map_or_else(|| self.begin(rule), Ok);
        let mut sweep = match sweep {
            Ok(sweep) => sweep,
            Err(e) => return log::warn!("[CHAT TTL] The transcripts cannot be listed: {e}"),
        };
        if self.transcripts.sweep_on(&mut sweep, STEP_FILES, go_on) {
            self.next = now + STEP_PAUSE;
            self.under_way = Some(sweep);
        } else if sweep.only_counts() {
            self.announce(&sweep, rule, now);
        } else {
            tell(&sweep);
            match sweep.swept.rewritten + sweep.swept.removed {
                0 if sweep.fault.is_none() => self.first.forget(),
                0 => {}
                _ => self.first.done(),
            }
        }
    }

    fn rule(&self) -> Option<SweepRule> {
        Some(SweepRule { bound: self.expiry.bound()?, time: self.expiry.time()?, ttl: self.expiry.ttl()? })
    }

    /// Begins a sweep, or only counts if nothing may be removed yet.
    fn begin(&self, rule: SweepRule) -> io::Result<Sweep> {
        let messages = self.cache.expire(rule.bound);
        if !self.first.may_run(self.clock.now(), rule.ttl) {
            return self.transcripts.look();
        }
        let (copies, lines) = self.aside.clean(&self.disk, rule);
        if messages + copies + lines > 0 {
            log::info!(
                "[CHAT TTL] {messages} expired messages left memory, {lines} dead letters or recovered ones were \
                 blanked, {copies} old copies removed"
            );
        }
        if copies + lines > 0 {
            self.first.done();
        }
        self.transcripts.sweep()
    }

    /// Announces what the first sweep will remove and when, and waits until then.
    fn announce(&mut self, look: &Sweep, rule: SweepRule, now: Instant) {
        let (copies, lines) = self.aside.count(&self.disk, rule);
        let transcripts = look.swept.rewritten + look.swept.removed;
        if transcripts + copies + lines == 0 {
            return self.first.forget();
        }
        let time = self.clock.now();
        let due = self.first.announce(time, rule.ttl);
        self.next = now + Duration::from_micros(due.micros().saturating_sub(time.micros())).min(SWEEP_INTERVAL);
        log::warn!(
            "[CHAT TTL] What is older than mongo.ttl_days ({}) is hidden and will be removed from {due} on. Transcripts: \
             {transcripts} ({} of them whole, about {} bytes); dead letters and recovered messages: {lines}; files set \
             aside: {copies}. To keep it, set mongo.ttl_days: 0 and restart before then. Later sweeps are not announced",
            rule.ttl.as_secs() / 86_400,
            look.swept.removed,
            look.swept.bytes,
        );
    }

    /// Whether the clock is far ahead of its last reading, beyond the time that has passed.
    fn has_leapt(&mut self, now: Instant) -> bool {
        let (then, was) = std::mem::replace(&mut self.seen, (now, self.clock.now()));
        let gained = Duration::from_micros(self.seen.1.micros().saturating_sub(was.micros()));
        gained > now.saturating_duration_since(then).saturating_add(CLOCK_LEAP)
    }
}

/// Logs counts only; no session is named here.
fn tell(sweep: &Sweep) {
    let swept = sweep.swept;
    if swept.rewritten + swept.removed > 0 {
        log::info!(
            "[CHAT TTL] {} bytes of expired messages left the transcripts: {} written anew, {} removed, of {}",
            swept.bytes,
            swept.rewritten,
            swept.removed,
            swept.looked_at
        );
    }
    if let Some(fault) = &sweep.fault {
        log::warn!("[CHAT TTL] Some transcripts could not be swept, trying again in an hour: {fault}");
    }
}

impl Aside {
    /// Removes old copies and blanks old lines; returns how many of each.
    fn clean<D: Disk>(&self, disk: &D, rule: SweepRule) -> (usize, usize) {
        let copies = self.copies.iter().map(|folder| {
            let removed = old_copies(disk, folder, rule.time).into_iter().filter(|path| match disk.remove(path) {
                Ok(()) => true,
                Err(e) => {
                    log::warn!("[CHAT TTL] Cannot remove {}: {e}", path.display());
                    false
                }
            });
            removed.count()
        });
        let lines = self.lines.iter().map(|path| {
            transcript::blank_lines(disk, path, &|line| is_old(line, rule.bound)).unwrap_or_else(|e| {
                log::warn!(
                    "[CHAT TTL] Cannot clear what has expired from {}; trying again in an hour: {e}",
                    path.display()
                );
                0
            })
        });
        (copies.sum(), lines.sum())
    }

    /// Counts what [`Aside::clean`] would remove.
    fn count<D: Disk>(&self, disk: &D, rule: SweepRule) -> (usize, usize) {
        let copies = self.copies.iter().map(|folder| old_copies(disk, folder, rule.time).len());
        let lines = self.lines.iter().map(|path| {
            transcript::count_lines(disk, path, &|line| is_old(line, rule.bound)).unwrap_or_else(|e| {
                log::warn!("[CHAT TTL] Cannot count what has expired in {}: {e}", path.display());
                0
            })
        });
        (copies.sum(), lines.sum())
    }
}

/// Whether a line holds a message with an id before `bound`.
fn is_old(line: &[u8], bound: Id) -> bool {
    let line: Option<Value> = serde_json::from_slice(line).ok();
    let message = line.as_ref().map(|line| line.get("message").unwrap_or(line));
    let id = message.and_then(|message| message.get("id")?.as_str()?.parse::<Id>().ok());
    id.is_some_and(|id| id < bound)
}

/// The files of a folder that were last written to before `time`.
fn old_copies<D: Disk>(disk: &D, folder: &Path, time: Timestamp) -> Vec<PathBuf> {
    // Most often there is no such folder: nothing was ever set aside.
    let paths = disk.list(folder).unwrap_or_default().into_iter().map(|name| folder.join(name));
    let is_old = |path: &PathBuf| {
        is_older(disk, path, time).unwrap_or_else(|e| {
            log::warn!("[CHAT TTL] Cannot read the age of {}: {e}", path.display());
            false
        })
    };
    paths.filter(is_old).collect()
}

fn is_older<D: Disk>(disk: &D, path: &Path, time: Timestamp) -> io::Result<bool> {
    let modified = disk.open_read(path)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp::from_micros(u64::try_from(modified.as_micros()).unwrap_or(u64::MAX)) < time)
}

#[cfg(test)]
mod tests {
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
        // Later ones run as ever, over restarts too.
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
            // As if the power had gone soon after the announcement: whatever the file says, an hour was given.
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
}
