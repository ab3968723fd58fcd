//! Erasures that MongoDB is to hear of when it is switched on again.
//!
//! While it is switched off nothing holds a segment for it, so an erasure's record may be gone by then, and what was erased here
//! would stand there for ever. So these are kept in a file of their own, one JSON object a line, `{"session_id": "…",
//! "erased_to": "…"}`: everything of the session up to that id. The file is replaced whole, and it is empty when MongoDB has
//! carried out all of them; until then a start begins with all, since a second time does no harm. It holds no word of what
//! was said.
//!
//! The file is there once MongoDB was in use: where it is not, nothing is owed to any.
//!
//! Knows nothing of journals and of how one is carried out.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::disk::{self, Disk, RealDisk};
use crate::message::{Id, SessionId};

/// The file's name, in the journal's folder.
pub const NAME: &str = "erasures_owed.jsonl";

/// See the module. In memory some 200 bytes for each session.
pub struct OwedErasures<D: Disk = RealDisk> {
    disk: D,
    path: PathBuf,
    is_there: bool,
    sessions: BTreeMap<SessionId, Id>,
}

impl<D: Disk> OwedErasures<D> {
    /// Those in the file at `path`, if there is one. A line that is none is told in the log and passed over.
    ///
    /// # Errors
    /// The disk's: the file is there and cannot be read.
    pub fn load(disk: D, path: &Path) -> io::Result<Self> {
        let (bytes, is_there) = match disk::read(&disk, path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => (Vec::new(), false),
            bytes => (bytes?, true),
        };
        let mut owed = Self { disk, path: path.to_owned(), is_there, sessions: BTreeMap::new() };
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match read_line(line) {
                Some((session, up_to)) => owed.note(session, up_to),
                None => log::warn!("[CHAT ERASE] {} has a line that is no erasure", path.display()),
            }
        }
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

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// One of them.
    pub fn first(&self) -> Option<(SessionId, Id)> {
        self.sessions.first_key_value().map(|(session, up_to)| (session.clone(), *up_to))
    }

    /// That one was carried out. With the last one the file is emptied.
    pub fn carried_out(&mut self) {
        self.sessions.pop_first();
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

    fn all(mut owed: OwedErasures<SimDisk>) -> Vec<(SessionId, Id)> {
        std::iter::from_fn(|| {
            let first = owed.first();
            owed.carried_out();
            first
        })
        .collect()
    }

    #[test]
    fn what_was_added_is_there_after_a_restart_each_session_once_and_the_file_is_empty_after_the_last() {
        let (disk, path) = (SimDisk::default(), Path::new("/erasures_owed.jsonl"));
        let mut owed = OwedErasures::load(disk.clone(), path).unwrap();
        assert_eq!((owed.is_there(), owed.count(), owed.first()), (false, 0, None));
        owed.begin().unwrap();
        assert_eq!(disk.peek(path), Some(Vec::new()));
        owed.add(vec![erasure("b", 2), erasure("a:b", 1)]).unwrap();
        owed.add(vec![erasure("b", 5), erasure("b", 3)]).unwrap();
        disk.damage(path, |bytes| bytes.extend_from_slice(b"{\"session_id\":\"torn"));
        let wanted = [erasure("a:b", 1), erasure("b", 5)];
        for _ in 0..2 {
            let mut owed = OwedErasures::load(disk.clone(), path).unwrap();
            assert_eq!(owed.first(), Some(wanted[0].clone()));
            owed.carried_out();
            // A start before the last one is carried out begins with all.
        }
        assert_eq!(all(OwedErasures::load(disk.clone(), path).unwrap()), wanted);
        assert_eq!(disk.peek(path), Some(Vec::new()));
        let owed = OwedErasures::load(disk, path).unwrap();
        assert_eq!((owed.is_there(), owed.count()), (true, 0));
    }
}
