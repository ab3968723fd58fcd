//! The dead letters: messages the store can never take, each with the reason, one JSON object a line.
//!
//! `{"reason": "…", "at": "…", "message": {…}}`, synced before the drain goes past the message. A batch that is tried again
//! after a crash meets the same refusals, so an id that is there already is not added twice. Nothing here is removed but by
//! people, the TTL and erasure.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, RealDisk};
use crate::message::{Clock, Id, Message};

/// How much of the file's end is looked at for what a try before a crash has added: many batches' worth.
const TAIL_BYTES: u64 = 8 << 20;

/// See the module.
pub struct DeadLetters<D: Disk = RealDisk> {
    disk: D,
    path: PathBuf,
    clock: Clock,
    /// The ids near the file's end when it was last looked at; what was added since cannot come again.
    known: Option<HashSet<Id>>,
}

impl<D: Disk> DeadLetters<D> {
    /// The dead letters in that file, which is made with the first.
    pub fn new(disk: D, path: &Path, clock: Clock) -> Self {
        Self { disk, path: path.to_owned(), clock, known: None }
    }

    /// Adds letters that are not there yet; they are on disk when it returns.
    ///
    /// # Errors
    /// The disk's; some may have been added, and the same may be added again.
    pub fn add<'a>(&mut self, letters: impl Iterator<Item = (&'a Arc<Message>, &'a str)>) -> io::Result<()> {
        let mut letters = letters.peekable();
        if letters.peek().is_none() {
            return Ok(());
        }
        let file = self.disk.open_append(&self.path)?;
        let end = file.byte_len()?;
        if self.known.is_none() {
            self.known = Some(ids_near_the_end(&file, end)?);
        }
        let (known, now) = (self.known.iter().flatten().collect::<HashSet<_>>(), self.clock.now());
        let new = letters.filter(|(message, _)| !known.contains(&message.id()));
        let mut lines: Vec<u8> = Vec::new();
        let mut count = 0;
        for (message, reason) in new {
            let reason = serde_json::Value::from(reason);
            lines.extend_from_slice(format!("{{\"reason\":{reason},\"at\":\"{now}\",\"message\":").as_bytes());
            lines.extend_from_slice(message.line());
            lines.extend_from_slice(b"}\n");
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        if is_torn(&file, end)? {
            // What comes now stands on a line of its own.
            lines.insert(0, b'\n');
        }
        if let Err(e) = write(&self.disk, &file, &lines, &self.path, end) {
            self.known = None;
            return Err(e);
        }
        log::error!("[CHAT WORKER] {count} messages can never be stored in MongoDB and are in {}", self.path.display());
        Ok(())
    }
}

fn write<D: Disk>(disk: &D, file: &D::File, lines: &[u8], path: &Path, end: u64) -> io::Result<()> {
    file.write_all_at(lines, end)?;
    file.sync()?;
    if end == 0 {
        disk.sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

fn is_torn<F: DiskFile>(file: &F, end: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if end > 0 {
        file.read_at(&mut last, end - 1)?;
    }
    Ok(last != *b"\n")
}

fn ids_near_the_end<F: DiskFile>(file: &F, end: u64) -> io::Result<HashSet<Id>> {
    let at = end.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; usize::try_from(end - at).expect("the tail fits")];
    let read = file.read_at(&mut tail, at)?;
    let of_line = |line: &[u8]| {
        let at = memchr::memmem::find(line, MESSAGE)? + MESSAGE.len();
        Message::id_of_line(line.get(at..line.len() - 1)?)
    };
    Ok(tail[..read].split(|&byte| byte == b'\n').filter_map(of_line).collect())
}

const MESSAGE: &[u8] = b",\"message\":";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Draft, Metadata, SessionId, Timestamp};

    fn message(n: u64) -> Arc<Message> {
        let session = SessionId::new("s").unwrap();
        let draft =
            Draft { session: &session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] };
        Arc::new(draft.prepare().seal(Id::from_parts(Timestamp::from_micros(n * 1000), n)))
    }

    #[test]
    fn a_letter_is_there_once_however_often_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead_letter.jsonl");
        let mut letters = DeadLetters::new(RealDisk, &path, Clock::system());
        letters.add(std::iter::empty()).unwrap();
        assert!(!path.exists());
        let (one, two) = (message(1), message(2));
        letters.add([(&one, "too \"big\"")].into_iter()).unwrap();
        // A crash in the middle of the next.
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"reason\":\"to");
        std::fs::write(&path, torn).unwrap();
        let mut letters = DeadLetters::new(RealDisk, &path, Clock::system());
        letters.add([(&one, "again"), (&two, "other")].into_iter()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let good: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(good.len(), 2, "{text}");
        assert_eq!((&good[0]["reason"], &good[1]["message"]["text"]), (&"too \"big\"".into(), &"hi".into()));
    }
}
