//! Erasures that are not final in MongoDB, in a file: those of a time when it was switched off, and those that are to be carried
//! out once more (`erasures.rs`).
//!
//! While MongoDB is switched off nothing holds a segment for it, so an erasure's record may be gone by the time it is on again,
//! and what was erased here would stand there for ever. And an erasure that is to be repeated minutes later must not keep the
//! checkpoint and all segments behind it waiting. So both are kept here, one JSON object a line, `{"session_id": "…",
//! "erased_to": "…"}`: everything of the session up to that id. A start carries out all of them first. The file is replaced
//! whole; what became final since stands in it until the next time, which does no harm: a second time takes nothing more. It
//! holds no word of what was said.
//!
//! The file is there once MongoDB was in use: where it is not, nothing is owed to any.
//!
//! Knows nothing of journals and of how one is carried out.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::disk::{self, Disk, RealDisk};
use crate::message::{Id, SessionId};

/// See the module. In memory some 200 bytes for each session.
pub struct OwedErasures<D: Disk = RealDisk> {
    disk: D,
    path: PathBuf,
    is_there: bool,
    sessions: BTreeMap<SessionId, Id>,
    /// Those that were found at the start and are still to be carried out.
    found: VecDeque<(SessionId, Id)>,
}

impl<D: Disk> OwedErasures<D> {
    /// Those in the file at `path`, if there is one. When a line cannot be read, which is told in the log, those that the
    /// journal still `knows` are taken, too.
    ///
    /// # Errors
    /// The disk's: the file is there and cannot be read.
    pub fn load(disk: D, path: &Path, knows: impl FnOnce() -> Vec<(SessionId, Id)>) -> io::Result<Self> {
        let (bytes, is_there) = match disk::read(&disk, path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Vec::new(), false),
            bytes => (bytes?, true),
        };
        let (sessions, found) = (BTreeMap::new(), VecDeque::new());
        let mut owed = Self { disk, path: path.to_owned(), is_there, sessions, found };
        let mut is_damaged = false;
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match read_line(line) {
                Some((session, up_to)) => owed.note(session, up_to),
                None => is_damaged = true,
            }
        }
        if is_damaged {
            log::warn!(
                "[CHAT ERASE] {} has lines that are no erasures: all of the journal's are taken",
                path.display()
            );
            owed.add(knows())?;
        }
        owed.found = owed.sessions.iter().map(|(session, up_to)| (session.clone(), *up_to)).collect();
        Ok(owed)
    }

    /// Whether MongoDB was ever in use.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    /// MongoDB is in use from now on.
    ///
    /// # Errors
    /// The disk's.
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
    /// The disk's; the same can be added again.
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

    /// How many are not final.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// How many of those that were found at the start are to be carried out.
    pub fn left(&self) -> usize {
        self.found.len()
    }

    /// The first of those.
    pub fn first(&self) -> Option<(SessionId, Id)> {
        self.found.front().cloned()
    }

    /// That one was carried out.
    pub fn carried_out(&mut self) -> Option<(SessionId, Id)> {
        self.found.pop_front()
    }

    /// Everything of the session up to that id is erased for good. With the last one the file is emptied.
    pub fn is_final(&mut self, session: &SessionId, up_to: Id) {
        if self.sessions.get(session).is_none_or(|known| *known > up_to) {
            return;
        }
        self.sessions.remove(session);
        if self.sessions.is_empty()
            && let Err(e) = self.store()
        {
            log::warn!("[CHAT ERASE] {} is carried out and cannot be emptied: {e}", self.path.display());
        }
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
    use crate::disk::sim::SimDisk;
    use crate::message::Timestamp;

    fn erasure(session: &str, n: u64) -> (SessionId, Id) {
        let id = Id::from_parts(Timestamp::from_micros(1_790_000_000_000_000 + n), 0);
        (SessionId::new(session).unwrap(), id)
    }

    const PATH: &str = "/erasures_owed.jsonl";

    fn load(disk: &SimDisk) -> OwedErasures<SimDisk> {
        OwedErasures::load(disk.clone(), Path::new(PATH), || panic!("the file is damaged")).unwrap()
    }

    #[test]
    fn what_was_added_is_there_after_a_restart_each_session_once_and_the_file_is_empty_after_the_last() {
        let (disk, path) = (SimDisk::default(), Path::new(PATH));
        let mut owed = load(&disk);
        assert_eq!((owed.is_there(), owed.count(), owed.first()), (false, 0, None));
        owed.begin().unwrap();
        assert_eq!(disk.peek(path), Some(Vec::new()));
        owed.add(vec![erasure("b", 2), erasure("a:b", 1)]).unwrap();
        owed.add(vec![erasure("b", 5), erasure("b", 3)]).unwrap();
        assert_eq!(owed.left(), 0, "what comes later is not of a start");
        for _ in 0..2 {
            let mut owed = load(&disk);
            assert_eq!((owed.left(), owed.carried_out()), (2, Some(erasure("a:b", 1))));
            let (session, up_to) = erasure("a:b", 1);
            owed.is_final(&session, up_to);
            // A start before the last one is final begins with all.
        }
        let mut owed = load(&disk);
        for (session, up_to) in [erasure("a:b", 1), erasure("b", 3), erasure("b", 5)] {
            assert_ne!(disk.peek(path), Some(Vec::new()), "{session} up to {up_to}");
            owed.is_final(&session, up_to);
        }
        assert_eq!((owed.count(), disk.peek(path)), (0, Some(Vec::new())));
        assert!(load(&disk).is_there());
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
        let owed = OwedErasures::load(disk.clone(), Path::new(PATH), known).unwrap();
        assert_eq!(owed.found, [erasure("a", 1), erasure("b", 2), erasure("c", 3)]);
        assert_eq!(load(&disk).found, owed.found, "it is whole again");
    }
}
