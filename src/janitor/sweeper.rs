//! The sweep: once an hour, what has expired by `mongo.ttl_days` leaves the cache, the transcripts, the dead letters and what
//! was set aside or recovered.
//!
//! It stands beside the thread so that tests can let hours pass. It goes in steps of a few hundred files with a pause
//! between them, so that a hundred thousand transcripts are no burst on the disk.
//!
//! A clock that leaps forward expires everything, and what was removed does not come back when it is set right. So after
//! a leap, told by the clock that only counts, nothing is removed for one interval; readers see it expired meanwhile, and
//! see it again if the clock goes back. What the clock said at the start of the process has to be believed.
//!
//! Knows nothing of the journal's segments: those go by `journal.retain_hours`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value;

use crate::cache::Cache;
use crate::disk::{Disk, DiskFile, RealDisk};
use crate::message::{Clock, Expiry, Id, Timestamp};
use crate::transcript::{self, Sweep, Transcripts};

/// From the start to the first sweep: it is to be no part of the start.
const FIRST_SWEEP_DELAY: Duration = Duration::from_secs(10);
/// From the end of a sweep to the next one. The TTL counts in days.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Transcripts looked at in one step; one that is written anew counts for many, so that the journal's waker is heard soon.
const STEP_FILES: usize = 200;
/// Between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// What the clock may gain on the one that only counts before it is said to have leapt.
const CLOCK_LEAP: Duration = Duration::from_secs(3600);

/// Where messages stand beside transcripts and journal.
pub struct Aside {
    /// Folders with copies of what was set aside.
    pub copies: Vec<PathBuf>,
    /// Files with a message in each line, or in a line's `message`; others may be appending to them.
    pub lines: Vec<PathBuf>,
}

/// See the module.
pub struct Sweeper {
    cache: Arc<Cache>,
    transcripts: Arc<Transcripts>,
    aside: Aside,
    expiry: Expiry,
    clock: Clock,
    /// When the clock was last looked at, and what it said.
    seen: (Instant, Timestamp),
    next: Instant,
    under_way: Option<Sweep>,
}

impl Sweeper {
    /// A sweeper that first works a little after `now`.
    #[must_use]
    pub fn new(
        cache: Arc<Cache>,
        transcripts: Arc<Transcripts>,
        aside: Aside,
        (expiry, clock): (Expiry, Clock),
        now: Instant,
    ) -> Self {
        let seen = (now, clock.now());
        Self { cache, transcripts, aside, expiry, clock, seen, next: now + FIRST_SWEEP_DELAY, under_way: None }
    }

    /// When there is something to do next.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Does the next step if it is due, and breaks off where `go_on` says so.
    pub fn work(&mut self, now: Instant, go_on: &dyn Fn() -> bool) {
        if now < self.next {
            return;
        }
        self.next = now + SWEEP_INTERVAL;
        let (Some(bound), Some(time)) = (self.expiry.bound(), self.expiry.time()) else { return };
        if self.has_leapt(now) {
            log::warn!("the clock leapt forward: what has expired by it is removed in an hour, if it still says so");
            self.under_way = None;
            return;
        }
        let mut sweep = match self.under_way.take() {
            Some(sweep) => sweep,
            None => {
                let messages = self.cache.expire(bound);
                let copies: usize = self.aside.copies.iter().map(|folder| remove_old(&RealDisk, folder, time)).sum();
                let lines: usize = self.aside.lines.iter().map(|path| blank_old(&RealDisk, path, bound)).sum();
                if messages + copies + lines > 0 {
                    log::info!(
                        "[CHAT TTL] {messages} expired messages left memory, {lines} dead letters or recovered ones were \
                         blanked, {copies} old copies removed"
                    );
                }
                match self.transcripts.sweep() {
                    Ok(sweep) => sweep,
                    Err(e) => return log::warn!("[CHAT TTL] The transcripts cannot be listed: {e}"),
                }
            }
        };
        if self.transcripts.sweep_on(&mut sweep, STEP_FILES, go_on) {
            self.next = now + STEP_PAUSE;
            self.under_way = Some(sweep);
        } else {
            tell(&sweep);
        }
    }

    /// Whether the clock is now far ahead of where it was last, time passed taken into account.
    fn has_leapt(&mut self, now: Instant) -> bool {
        let (then, was) = std::mem::replace(&mut self.seen, (now, self.clock.now()));
        let gained = Duration::from_micros(self.seen.1.micros().saturating_sub(was.micros()));
        gained > now.saturating_duration_since(then).saturating_add(CLOCK_LEAP)
    }
}

/// Counts only: the log names no session here.
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
        log::warn!("[CHAT TTL] Some transcripts could not be swept, and are tried again in an hour: {fault}");
    }
}

/// Blanks the lines of messages before `bound`. Returns how many.
fn blank_old<D: Disk>(disk: &D, path: &Path, bound: Id) -> usize {
    let is_old = |line: &[u8]| {
        let line: Option<Value> = serde_json::from_slice(line).ok();
        let message = line.as_ref().map(|line| line.get("message").unwrap_or(line));
        let id = message.and_then(|message| message.get("id")?.as_str()?.parse::<Id>().ok());
        id.is_some_and(|id| id < bound)
    };
    transcript::blank_lines(disk, path, &is_old).unwrap_or_else(|e| {
        log::warn!("[CHAT TTL] {} keeps what has expired, and is tried again in an hour: {e}", path.display());
        0
    })
}

/// Removes the files of a folder that were last written to before `time`. Returns how many.
fn remove_old<D: Disk>(disk: &D, folder: &Path, time: Timestamp) -> usize {
    // Mostly there is no such folder: nothing was ever set aside.
    let names = disk.list(folder).unwrap_or_default();
    let removed = names.iter().filter(|name| {
        let path = folder.join(name);
        let removed =
            is_older(disk, &path, time).and_then(|old| if old { disk.remove(&path) } else { Ok(()) }.map(|()| old));
        removed.unwrap_or_else(|e| {
            log::warn!("[CHAT TTL] {} is not removed: {e}", path.display());
            false
        })
    });
    removed.count()
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
    use crate::message::{Draft, Message, Metadata, SessionId};

    const DAY: u64 = 86_400;

    struct Fixture {
        folder: tempfile::TempDir,
        cache: Arc<Cache>,
        now: Arc<AtomicU64>,
        sweeper: Sweeper,
        start: Instant,
    }

    fn message(session: &SessionId, micros: u64) -> Arc<Message> {
        let draft = Draft { session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] };
        Arc::new(draft.prepare().seal(Id::from_parts(Timestamp::from_micros(micros), 0)))
    }

    impl Fixture {
        /// `sessions` with one message each, of now; the TTL is that many days.
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
            let sweeper = Sweeper::new(cache.clone(), transcripts, aside, (expiry, clock), start);
            Self { folder, cache, now, sweeper, start }
        }

        fn files(&self) -> usize {
            fs::read_dir(self.folder.path().join("chats")).unwrap().count()
        }

        /// Lets time pass by both clocks, and does what is due in it, hour by hour.
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
}
