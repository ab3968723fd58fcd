//! The dead letters: messages that the store can never take, one JSON object a line, each with the reason.
//!
//! `{"reason": "…", "at": "…", "message": {…}}`, synced before the drain goes past the message. A batch that is tried
//! again after a crash meets the same refusals, so an id that is already there is not added again. Only people, the TTL,
//! erasures and a retry that MongoDB took remove anything: a line becomes spaces, in place, since the janitor may be doing
//! the same.
//!
//! Letters of an earlier process may not have reached the disk, so the file is synced before they count. Whatever a
//! failed write or sync left never counts: it is cut off and written again.

use std::collections::HashSet;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, RealDisk};
use crate::message::{Clock, Id, Message};
use crate::transcript;

/// How many bytes at the file's end are searched for letters that an earlier process added before it crashed: more than
/// the largest batch. The checkpoint is stored after each batch with letters, so there is hardly ever more than one.
const TAIL_BYTES: u64 = 64 << 20;
/// Bytes of one read.
const PIECE_BYTES: u64 = 1 << 20;

/// The file of dead letters, and the ids near its end.
pub struct DeadLetters<D: Disk = RealDisk> {
    disk: D,
    path: PathBuf,
    clock: Clock,
    /// The ids near the file's end when it was first read; letters added since cannot come again.
    known: Option<HashSet<Id>>,
    /// The folder was synced, so the file's name is on disk.
    is_named: bool,
    /// Letters came since [`Self::came`] was last asked.
    came: bool,
}

impl<D: Disk> DeadLetters<D> {
    /// Opens nothing: the file at `path` is made with the first letter.
    pub fn new(disk: D, path: &Path, clock: Clock) -> Self {
        Self { disk, path: path.to_owned(), clock, known: None, is_named: false, came: false }
    }

    /// Adds the letters that are not there yet; they are on disk when it returns.
    ///
    /// # Errors
    /// The disk failed. Some letters may have been added; a retry adds the rest.
    pub fn add<'a>(&mut self, letters: impl Iterator<Item = (&'a Arc<Message>, &'a str)>) -> io::Result<()> {
        let mut letters = letters.peekable();
        if letters.peek().is_none() {
            return Ok(());
        }
        self.came = true;
        let file = self.disk.open_append(&self.path)?;
        self.name()?;
        let end = file.byte_len()?;
        let known = match &self.known {
            Some(known) => known,
            None => {
                if end > 0 {
                    file.sync()?;
                }
                self.known.insert(ids_near_the_end(&file, end)?)
            }
        };
        let (mut lines, mut count, now) = (Vec::new(), 0, self.clock.now());
        for (message, reason) in letters.filter(|(message, _)| !known.contains(&message.id())) {
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
            // The torn line stays; the new letters begin on a line of their own.
            lines.insert(0, b'\n');
        }
        if let Err(e) = file.write_all_at(&lines, end).and_then(|()| file.sync()) {
            // If this fails too, a letter may be there twice, which is better than not at all.
            let _ = file.set_len(end);
            return Err(e);
        }
        log::error!("[CHAT WORKER] MongoDB can never store {count} messages; they are in {}", self.path.display());
        Ok(())
    }

    /// Whether letters came since the last call of this, new ones or known ones.
    pub fn came(&mut self) -> bool {
        std::mem::take(&mut self.came)
    }

    /// Where the file ends, with a whole line; 0 without a file.
    ///
    /// # Errors
    /// The disk failed. A retry is safe.
    pub fn end(&self) -> io::Result<u64> {
        let file = match self.disk.open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            file => file?,
        };
        let end = file.byte_len()?;
        if !is_torn(&file, end)? {
            return Ok(end);
        }
        file.write_all_at(b"\n", end)?;
        Ok(end + 1)
    }

    /// Hands the letters from the offset `at` on to `take`, each with its place, `None` for one that cannot be read, until it
    /// breaks. Returns where to go on.
    ///
    /// # Errors
    /// The file could not be read. A retry is safe.
    pub fn read(
        &self,
        at: u64,
        mut take: impl FnMut(Range<u64>, Option<Message>) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        transcript::lines_from(&self.disk, &self.path, at, |place, line| {
            // One that is too long to be read has no bytes here.
            let is_blank = line.trim_ascii().is_empty() && !(line.is_empty() && place.end - place.start > 1);
            if is_blank || transcript::is_half_blank(place.start, line) {
                ControlFlow::Continue(())
            } else {
                take(place, message_of_letter(line))
            }
        })
    }

    /// Takes out the letters at these places, durably.
    ///
    /// # Errors
    /// The disk failed. Some may be gone, perhaps not durably; a retry is safe.
    pub fn remove<'a>(&self, places: impl Iterator<Item = &'a Range<u64>>) -> io::Result<()> {
        let mut places = places.peekable();
        if places.peek().is_none() {
            return Ok(());
        }
        let file = self.disk.open(&self.path)?;
        for place in places {
            let length = usize::try_from(place.end - place.start).map_err(io::Error::other)?;
            file.write_all_at(&vec![b' '; length.saturating_sub(1)], place.start)?;
        }
        file.sync()
    }

    /// Empties the file if it still ends there and nobody is blanking lines: all its letters are gone.
    ///
    /// # Errors
    /// The disk failed. The file is empty, perhaps not durably, or as it was.
    pub fn cut(&self, end: u64) -> io::Result<()> {
        if end == 0 {
            return Ok(());
        }
        transcript::cut_lines(&self.disk, &self.path, end)
    }

    /// Syncs the folder once, before the first letter, so that a failure cannot leave letters that are written again.
    fn name(&mut self) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if !self.is_named {
            self.disk.sync_dir(folder.unwrap_or(Path::new(".")))?;
            self.is_named = true;
        }
        Ok(())
    }
}

fn is_torn<F: DiskFile>(file: &F, end: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if end > 0 {
        file.read_at(&mut last, end - 1)?;
    }
    Ok(last != *b"\n")
}

fn ids_near_the_end<F: DiskFile>(file: &F, end: u64) -> io::Result<HashSet<Id>> {
    let (mut ids, mut at, mut line_begun) = (HashSet::new(), end.saturating_sub(TAIL_BYTES), Vec::new());
    while at < end {
        let mut piece = vec![0; usize::try_from(PIECE_BYTES.min(end - at)).expect("a piece fits")];
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            break;
        }
        at += read as u64;
        line_begun.extend_from_slice(&piece[..read]);
        if let Some(newline) = memchr::memrchr(b'\n', &line_begun) {
            ids.extend(line_begun[..newline].split(|&byte| byte == b'\n').filter_map(id_of_letter));
            line_begun.drain(..=newline);
        }
    }
    // The last line may lack only its newline.
    ids.extend(id_of_letter(&line_begun));
    Ok(ids)
}

/// The id of a whole letter; a torn one must be written again.
fn id_of_letter(line: &[u8]) -> Option<Id> {
    Message::id_of_line(line_of_letter(line)?)
}

fn message_of_letter(line: &[u8]) -> Option<Message> {
    Message::from_line(line_of_letter(line)?)
}

/// The line of a whole letter's message.
fn line_of_letter(line: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::find(line, MESSAGE)? + MESSAGE.len();
    serde_json::from_slice::<serde::de::IgnoredAny>(line).ok()?;
    line.get(at..line.len() - 1)
}

const MESSAGE: &[u8] = b",\"message\":";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Fault, Random, SimDisk};
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
        // A crash in the middle of the next letter.
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

    #[test]
    fn a_letter_half_removed_is_none_and_one_that_somebody_broke_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead_letter.jsonl");
        let mut letters = DeadLetters::new(RealDisk, &path, Clock::system());
        let (long, one) = ("x".repeat(2000), message(1));
        letters.add([(&one, long.as_str())].into_iter()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let found = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut found = Vec::new();
            letters.read(0, |_, message| {
                found.push(message);
                ControlFlow::Continue(())
            })?;
            io::Result::Ok(found)
        };
        assert_eq!(found(&whole).unwrap(), [Some((*one).clone())]);
        let mut half = whole.clone();
        half[..1024].fill(b' ');
        assert_eq!(found(&half).unwrap(), []);
        let mut broken = whole;
        broken[0] = b'x';
        assert_eq!(found(&broken).unwrap(), [None]);
    }

    /// The ids of the letters that a reader can parse.
    fn ids_of(bytes: &[u8]) -> Vec<Id> {
        let lines = bytes.split(|&byte| byte == b'\n');
        let letters = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
        letters.map(|letter| letter["message"]["id"].as_str().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn a_letter_torn_anywhere_is_written_again_and_a_whole_one_is_not() {
        let (one, two) = (message(1), message(2));
        let both = [(&one, "no"), (&two, "no")];
        let path = Path::new("/data/dead_letter.jsonl");
        let whole = {
            let disk = SimDisk::default();
            DeadLetters::new(disk.clone(), path, Clock::system()).add(both.into_iter()).unwrap();
            disk.peek(path).unwrap()
        };
        for end in 0..=whole.len() {
            let disk = SimDisk::default();
            disk.open_append(path).unwrap().write_all_at(&whole[..end], 0).unwrap();
            DeadLetters::new(disk.clone(), path, Clock::system()).add(both.into_iter()).unwrap();
            assert_eq!(ids_of(&disk.peek(path).unwrap()), [one.id(), two.id()], "cut at {end}");
        }
    }

    #[test]
    fn whatever_call_fails_a_letter_that_counts_survives_a_power_cut() {
        let (one, two) = (message(1), message(2));
        let path = Path::new("/data/dead_letter.jsonl");
        for seed in 0..20 {
            for at in 1..15 {
                for fault in [Fault::Fail(io::ErrorKind::StorageFull), Fault::Short] {
                    let disk = SimDisk::default();
                    disk.fault_at(at, fault);
                    let mut letters = DeadLetters::new(disk.clone(), path, Clock::system());
                    let mut tries = 0;
                    for letter in [(&one, "no"), (&two, "no")] {
                        while letters.add([letter].into_iter()).is_err() {
                            tries += 1;
                            assert!(tries < 5);
                        }
                    }
                    disk.power_cut(&mut Random(seed));
                    let found = ids_of(&disk.peek(path).unwrap());
                    assert_eq!(found, [one.id(), two.id()], "seed {seed}, fault {at}");
                }
            }
        }
    }

    #[test]
    fn whatever_call_fails_only_what_was_taken_out_is_gone_after_a_power_cut() {
        let (one, two, three) = (message(1), message(2), message(3));
        let path = Path::new("/data/dead_letter.jsonl");
        let places = |letters: &DeadLetters<SimDisk>| {
            let mut places = Vec::new();
            letters
                .read(0, |place, _| {
                    places.push(place);
                    ControlFlow::Continue(())
                })
                .unwrap();
            places
        };
        for (seed, at) in (0..20).flat_map(|seed| (1..8).map(move |at| (seed, at))) {
            let disk = SimDisk::default();
            let mut letters = DeadLetters::new(disk.clone(), path, Clock::system());
            letters.add([(&one, "no"), (&two, "no")].into_iter()).unwrap();
            let first = places(&letters);
            disk.fault_at(disk.calls() + at, Fault::Fail(io::ErrorKind::Other));
            let is_out = letters.remove(first.iter().take(1)).is_ok();
            disk.heal();
            disk.power_cut(&mut Random(seed));
            let found = ids_of(&disk.peek(path).unwrap());
            assert!(found.contains(&two.id()) && !(is_out && found.contains(&one.id())), "{seed} {at}: {found:?}");
            // Emptied, or not, a letter that comes later is there.
            let mut letters = DeadLetters::new(disk.clone(), path, Clock::system());
            letters.remove(places(&letters).iter()).unwrap();
            let end = letters.end().unwrap();
            disk.fault_at(disk.calls() + at, Fault::Fail(io::ErrorKind::Other));
            let _ = letters.cut(end);
            disk.heal();
            letters.add([(&three, "no")].into_iter()).unwrap();
            disk.power_cut(&mut Random(seed));
            assert_eq!(ids_of(&disk.peek(path).unwrap()), [three.id()], "{seed} {at}");
        }
    }

    #[test]
    fn a_letter_left_unsynced_by_a_kill_is_synced_before_it_counts() {
        let one = message(1);
        let path = Path::new("/data/dead_letter.jsonl");
        let disk = SimDisk::default();
        DeadLetters::new(disk.clone(), path, Clock::system()).add([(&one, "no")].into_iter()).unwrap();
        let bytes = disk.peek(path).unwrap();
        for seed in 0..20 {
            let disk = SimDisk::default();
            disk.open_append(path).unwrap().write_all_at(&bytes, 0).unwrap();
            DeadLetters::new(disk.clone(), path, Clock::system()).add([(&one, "no")].into_iter()).unwrap();
            disk.power_cut(&mut Random(seed));
            assert_eq!(disk.peek(path), Some(bytes.clone()), "seed {seed}");
        }
    }
}
