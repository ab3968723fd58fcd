//! Erasures that are not final in MongoDB: in a file, in the order in which they are to be carried out.
//!
//! While MongoDB is disabled, no segment is kept for it. So an erasure's record may be gone when it is enabled again,
//! and the erased messages would stay there for ever: the erasure is noted here until then. An erasure that was carried
//! out is not final as long as an insert that failed before it may still arrive after it: until its call has returned,
//! and for a while longer ([`LATE_INSERT_TIMEOUT`]). Then it is carried out again, and only then it is final. The
//! checkpoint and the segments do not wait for that.
//!
//! The file holds one JSON object a line, `{"session_id": "…", "erased_to": "…"}`: everything of the session up to that
//! id, and no text of it. A start carries out all of them first, and assumes that the process before it had sent
//! something, too. The file is replaced whole; an erasure that became final stays in it until the next replacement,
//! which is harmless: a second deletion finds nothing. The file exists once MongoDB was in use; without it MongoDB
//! lacks nothing.
//!
//! Knows nothing of journals and of how an erasure is carried out.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::disk::{self, Disk, RealDisk};
use crate::message::{Id, SessionId};
use crate::store::{Calls, Mark};

/// The most erasures to be repeated; beyond, the oldest counts as final.
const AGAIN_MAX: usize = 10_000;
/// A failed insert may arrive this much later: a stalled server goes on with what it had received, and a network that
/// recovers may wait two minutes before it sends again.
const LATE_INSERT_TIMEOUT: Duration = Duration::from_secs(300);
/// After this an erasure is repeated and is final, whatever call still hangs.
const FINAL_TIMEOUT: Duration = Duration::from_secs(3600);

/// An erasure to be repeated, and what it waits for.
struct Again {
    session: SessionId,
    up_to: Id,
    /// Inserts begun before this may still arrive.
    mark: Mark,
    not_before: Instant,
    not_after: Instant,
}

/// The erasures that are not final. About 200 bytes of memory for each session.
pub struct PendingErasures<D: Disk = RealDisk> {
    disk: D,
    path: PathBuf,
    is_there: bool,
    sessions: BTreeMap<SessionId, Id>,
    /// Found at the start and not carried out since. They come first.
    found: VecDeque<(SessionId, Id)>,
    again: VecDeque<Again>,
    /// When an insert last failed; at a start, when one of the process before may have failed.
    failed_at: Instant,
}

impl<D: Disk> PendingErasures<D> {
    /// Reads the file at `path`, if there is one. If a line cannot be read, the log says so and the erasures that the
    /// journal still `knows` are added.
    ///
    /// # Errors
    /// The file could not be read, or not be rewritten after a bad line. A retry is safe.
    pub fn load(disk: D, path: &Path, knows: impl FnOnce() -> Vec<(SessionId, Id)>) -> io::Result<Self> {
        let (bytes, is_there) = match disk::read(&disk, path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Vec::new(), false),
            bytes => (bytes?, true),
        };
        let (sessions, found, again) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        let mut pending =
            Self { disk, path: path.to_owned(), is_there, sessions, found, again, failed_at: Instant::now() };
        let mut is_damaged = false;
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match read_line(line) {
                Some((session, up_to)) => pending.note(session, up_to),
                None => is_damaged = true,
            }
        }
        if is_damaged {
            log::warn!("[CHAT ERASE] {} has damaged lines: all erasures of the journal are added", path.display());
            pending.add(knows())?;
        }
        pending.found = pending.sessions.iter().map(|(session, up_to)| (session.clone(), *up_to)).collect();
        Ok(pending)
    }

    /// Whether MongoDB was ever in use.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    /// Notes that MongoDB is in use from now on.
    ///
    /// # Errors
    /// The file could not be written durably. A start may not find that MongoDB is in use; call it again.
    pub fn begin(&mut self) -> io::Result<()> {
        if !self.is_there {
            self.store()?;
        }
        self.is_there = true;
        Ok(())
    }

    /// Adds erasures; they are on disk when it returns.
    ///
    /// # Errors
    /// The file could not be written durably. The erasures stay in memory; a retry is safe.
    pub fn add(&mut self, erased: Vec<(SessionId, Id)>) -> io::Result<()> {
        for (session, up_to) in erased {
            self.note(session, up_to);
        }
        self.store()
    }

    fn store(&self) -> io::Result<()> {
        let line = |(session, up_to): (&SessionId, &Id)| {
            format!("{}\n", json!({"session_id": session, "erased_to": up_to.to_string()}))
        };
        let lines: String = self.sessions.iter().map(line).collect();
        disk::replace(&self.disk, &self.path, lines.as_bytes())
    }

    fn note(&mut self, session: SessionId, up_to: Id) {
        let known = self.sessions.entry(session).or_insert(up_to);
        *known = up_to.max(*known);
    }

    /// How many erasures are not final.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// How many of those found at the start are still to be carried out.
    pub fn found(&self) -> usize {
        self.found.len()
    }

    /// How many are to be repeated.
    pub fn again(&self) -> usize {
        self.again.len()
    }

    /// Notes that an insert failed that may have been sent.
    pub fn insert_failed(&mut self) {
        self.failed_at = Instant::now();
    }

    /// The erasure that is due now; every insert so far was one of `calls`.
    pub fn next(&self, calls: &Calls) -> Option<(SessionId, Id)> {
        self.found.front().cloned().or_else(|| {
            let Again { session, up_to, mark, not_before, not_after } = self.again.front()?;
            let now = Instant::now();
            let is_due = now >= *not_before && (now >= *not_after || calls.is_settled(*mark));
            is_due.then(|| (session.clone(), *up_to))
        })
    }

    /// When to ask [`Self::next`] again.
    pub fn wake(&self) -> Option<Instant> {
        if !self.found.is_empty() {
            return Some(Instant::now());
        }
        // A call may return without waking the worker.
        self.again.front().map(|again| again.not_before.max(Instant::now() + Duration::from_secs(1)))
    }

    /// Notes that the due erasure was carried out.
    pub fn next_is_carried_out(&mut self, calls: &Calls) {
        if let Some((session, up_to)) = self.found.pop_front() {
            // It is in the file already.
            self.carry_on(session, up_to, calls);
        } else if let Some(Again { session, up_to, .. }) = self.again.pop_front() {
            self.is_final(&session, up_to);
        }
    }

    /// Notes that an erasure was carried out in its place. If it is not final yet, it is on disk when this returns.
    ///
    /// # Errors
    /// The file could not be written durably. A start may not know of the erasure: it must not count as carried out.
    pub fn carried_out(&mut self, session: &SessionId, up_to: Id, calls: &Calls) -> io::Result<()> {
        if self.must_wait(calls) {
            self.add(vec![(session.clone(), up_to)])?;
        }
        self.carry_on(session.clone(), up_to, calls);
        Ok(())
    }

    fn must_wait(&self, calls: &Calls) -> bool {
        self.failed_at + LATE_INSERT_TIMEOUT > Instant::now() || calls.abandoned() > 0
    }

    fn carry_on(&mut self, session: SessionId, up_to: Id, calls: &Calls) {
        if !self.must_wait(calls) {
            return self.is_final(&session, up_to);
        }
        let now = Instant::now();
        let (not_before, not_after) = (now.max(self.failed_at + LATE_INSERT_TIMEOUT), now + FINAL_TIMEOUT);
        self.again.push_back(Again { session, up_to, mark: calls.mark(), not_before, not_after });
        if self.again.len() > AGAIN_MAX
            && let Some(Again { session, up_to, .. }) = self.again.pop_front()
        {
            self.is_final(&session, up_to);
        }
    }

    /// Notes that an erasure is final. After the last one the file is emptied.
    fn is_final(&mut self, session: &SessionId, up_to: Id) {
        if self.sessions.get(session).is_none_or(|known| *known > up_to) {
            return;
        }
        self.sessions.remove(session);
        if self.sessions.is_empty()
            && let Err(e) = self.store()
        {
            log::warn!(
                "[CHAT ERASE] All erasures of {} are final, and the file cannot be emptied: {e}",
                self.path.display()
            );
        }
    }

    /// Ends every pause.
    #[cfg(test)]
    pub fn a_moment_later(&mut self) {
        let now = Instant::now();
        self.failed_at = now.checked_sub(LATE_INSERT_TIMEOUT).expect("the machine runs for longer");
        self.again.iter_mut().for_each(|again| again.not_before = now);
    }
}

fn read_line(line: &[u8]) -> Option<(SessionId, Id)> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| line.get(name)?.as_str();
    Some((SessionId::new(text("session_id")?).ok()?, text("erased_to")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Op, SimDisk};
    use crate::message::Timestamp;

    fn erasure(session: &str, n: u64) -> (SessionId, Id) {
        let id = Id::from_parts(Timestamp::from_micros(1_790_000_000_000_000 + n), 0);
        (SessionId::new(session).unwrap(), id)
    }

    const PATH: &str = "/erasures_owed.jsonl";

    fn load(disk: &SimDisk) -> PendingErasures<SimDisk> {
        PendingErasures::load(disk.clone(), Path::new(PATH), || panic!("the file is damaged")).unwrap()
    }

    #[test]
    fn after_a_restart_each_session_is_there_once_and_the_file_ends_empty() {
        let (disk, path, calls) = (SimDisk::default(), Path::new(PATH), Calls::new("a-test"));
        let mut pending = load(&disk);
        assert_eq!((pending.is_there(), pending.count(), pending.found()), (false, 0, 0));
        pending.begin().unwrap();
        assert_eq!(disk.peek(path), Some(Vec::new()));
        pending.add(vec![erasure("b", 2), erasure("a:b", 1)]).unwrap();
        pending.add(vec![erasure("b", 5), erasure("b", 3)]).unwrap();
        assert_eq!(pending.found(), 0, "what comes later is not of a start");
        for _ in 0..2 {
            let mut pending = load(&disk);
            assert_eq!((pending.found(), pending.next(&calls)), (2, Some(erasure("a:b", 1))));
            pending.a_moment_later();
            pending.next_is_carried_out(&calls);
            assert_eq!((pending.count(), pending.found(), pending.again()), (1, 1, 0));
            // A start before the last erasure is final begins with all of them.
        }
        let mut pending = load(&disk);
        for (session, up_to) in [erasure("a:b", 1), erasure("b", 3), erasure("b", 5)] {
            assert_ne!(disk.peek(path), Some(Vec::new()), "{session} up to {up_to}");
            pending.is_final(&session, up_to);
        }
        assert_eq!((pending.count(), disk.peek(path)), (0, Some(Vec::new())));
        assert!(load(&disk).is_there());
    }

    #[test]
    fn soon_after_a_failure_it_is_carried_out_again_the_oldest_of_many_final() {
        let (disk, calls) = (SimDisk::default(), Calls::new("a-test"));
        let lines = || disk.peek(Path::new(PATH)).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
        load(&disk).add(vec![erasure("found", 1)]).unwrap();
        let mut pending = load(&disk);
        pending.next_is_carried_out(&calls);
        let (session, up_to) = erasure("in-its-place", 2);
        pending.carried_out(&session, up_to, &calls).unwrap();
        assert_eq!((pending.found(), pending.again(), pending.next(&calls), lines()), (0, 2, None, 2));
        disk.fail_every(Op::Write, "erasures", io::ErrorKind::StorageFull);
        assert!(pending.carried_out(&session, up_to, &calls).is_err());
        disk.heal();
        pending.a_moment_later();
        assert_eq!((pending.again(), pending.next(&calls)), (2, Some(erasure("found", 1))), "in the order they came");
        pending.next_is_carried_out(&calls);
        pending.next_is_carried_out(&calls);
        assert_eq!((pending.count(), pending.next(&calls), lines()), (0, None, 0));
        pending.insert_failed();
        let many = (0..=AGAIN_MAX as u64).map(|n| erasure(&format!("s{n}"), n)).collect::<Vec<_>>();
        pending.add(many.clone()).unwrap();
        for (session, up_to) in many {
            pending.carry_on(session, up_to, &calls);
        }
        assert_eq!((pending.again(), pending.count()), (AGAIN_MAX, AGAIN_MAX));
    }

    #[test]
    fn a_line_that_cannot_be_read_costs_no_other_and_the_journal_may_know_it() {
        let disk = SimDisk::default();
        load(&disk).add(vec![erasure("a", 1), erasure("b", 2), erasure("c", 3)]).unwrap();
        disk.damage(Path::new(PATH), |bytes| {
            let second = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
            bytes[second] = 0;
        });
        let known = || vec![erasure("b", 2), erasure("c", 1)];
        let pending = PendingErasures::load(disk.clone(), Path::new(PATH), known).unwrap();
        assert_eq!(pending.found, [erasure("a", 1), erasure("b", 2), erasure("c", 3)]);
        assert_eq!(load(&disk).found, pending.found, "it is whole again");
    }
}
