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

/// Places with messages other than transcripts and journal.
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
mod tests;
