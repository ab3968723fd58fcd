//! The length of each transcript at its last sync, in one small file next to the journal. A transcript shorter than
//! that was removed, cut or replaced by an older one.
//!
//! The file is a log with a line for each change, `CRC BYTES SESSION` or, if a part is lost, `CRC BYTES AFTER BEFORE
//! SESSION`; the last line of a session counts. It is rewritten when half of it no longer counts, so that a hundred
//! thousand sessions are not written at every checkpoint, and its size is at most twice what counts plus one MiB. It is
//! read once, when it is first asked after a start. Of the sessions asked for, only the length stays in memory, for
//! later reads of the transcript.
//!
//! Invariants: a length is written after the bytes are synced and before the checkpoint passes them. Before a
//! transcript is made shorter, 0 (*unknown*) is written durably; an erasure need not do that, since the journal tells a
//! start of every erasure after the checkpoint. The file is derived: if it is missing or a whole line is damaged (it
//! may have revoked an earlier one), nothing is known of any session. A last line without its end was never confirmed.
//!
//! Knows nothing of transcripts.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::disk::{self, Disk, DiskFile};
use crate::message::{Id, SessionId};

/// Up to this size the file is not rewritten, in bytes.
const SMALL_BYTES: u64 = 1 << 20;

/// Sessions whose length stays in memory: about 2 MiB. The lengths of further sessions are compared at the next start.
const NOTED_MAX: usize = 65_536;

/// What is known of a session's transcript.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownLength {
    /// Its length at its last sync, in bytes; 0 when unknown.
    pub bytes: u64,
    /// What it has lost for good.
    pub lost: Option<Lost>,
}

/// A part of a transcript that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The last message before it; `None` when it reaches to the beginning.
    pub after: Option<Id>,
    /// The lost messages have ids before this one; `None` while the journal is being searched for them.
    pub before: Option<Id>,
}

/// Reads the file at `path` without changing it; empty if it is missing.
///
/// # Errors
/// It could not be read; [`io::ErrorKind::InvalidData`] where it is damaged.
pub(super) fn look<D: Disk>(disk: &D, path: &Path) -> io::Result<HashMap<SessionId, KnownLength>> {
    match disk::read(disk, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(HashMap::new()),
        content => {
            let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
            parse(&content?).map(|(known, ..)| known).ok_or_else(damaged)
        }
    }
}

/// The noted lengths and their file.
pub(super) struct Lengths<D: Disk> {
    disk: D,
    path: PathBuf,
    hasher: RandomState,
    /// Held during no disk access except the one read.
    told: Mutex<Told>,
    /// That read alone takes it after `told`.
    file: Mutex<LengthsFile>,
}

/// What is known, in memory.
#[derive(Default)]
struct Told {
    /// The file's entries at the start of sessions that were not asked for yet; `None` before it was read.
    unasked: Option<HashMap<SessionId, KnownLength>>,
    /// The lengths of the others, up to [`NOTED_MAX`], by the hash of their name.
    noted: HashMap<u64, u64>,
}

/// The file's length now, and what of it counted when it was last rewritten or read.
#[derive(Default)]
struct LengthsFile {
    bytes: u64,
    compact: u64,
}

impl<D: Disk> Lengths<D> {
    /// The lengths in the file at `path`, which is not read yet.
    pub fn new(disk: D, path: &Path) -> Self {
        let (told, file) = (Mutex::default(), Mutex::default());
        Self { disk, path: path.to_owned(), hasher: RandomState::new(), told, file }
    }

    /// Whether anything was ever written.
    pub fn any(&self) -> bool {
        self.disk.open_read(&self.path).and_then(|file| file.byte_len()).is_ok_and(|bytes| bytes > 0)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        let mut told = self.told.lock().expect("no holder panics");
        if told.unasked.is_none() {
            let known = self.load(&mut self.content()).unwrap_or_else(|e| {
                log::warn!("{} cannot be read, so the lengths of transcripts are unknown: {e}", self.path.display());
                HashMap::new()
            });
            told.unasked = Some(known);
        }
        told
    }

    fn content(&self) -> MutexGuard<'_, LengthsFile> {
        self.file.lock().expect("no holder panics")
    }

    fn load(&self, state: &mut LengthsFile) -> io::Result<HashMap<SessionId, KnownLength>> {
        let content = match disk::read(&self.disk, &self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
            content => content?,
        };
        let Some((known, whole, counts)) = parse(&content) else {
            let _ = self.disk.remove(&self.path);
            return Err(io::Error::other("it is damaged, and is begun anew"));
        };
        (state.bytes, state.compact) = (whole as u64, counts);
        if whole < content.len() {
            self.write_anew(state, &known)?;
        }
        Ok(known)
    }

    /// What was known of a session at the start; a second call returns nothing.
    pub fn take(&self, session: &SessionId) -> Option<KnownLength> {
        let mut told = self.told();
        let known = told.unasked.as_mut()?.remove(session)?;
        told.note(self.hasher.hash_one(session), known.bytes);
        Some(known)
    }

    /// The last noted length of a session that was asked for; 0 when unknown.
    pub fn noted(&self, session: &SessionId) -> u64 {
        self.told().noted.get(&self.hasher.hash_one(session)).copied().unwrap_or(0)
    }

    /// Up to `at_most` sessions that were not asked for yet.
    pub fn unasked(&self, at_most: usize) -> Vec<SessionId> {
        let mut told = self.told();
        let Some(unasked) = &mut told.unasked else { return Vec::new() };
        if unasked.is_empty() {
            // Frees the memory.
            *unasked = HashMap::new();
        }
        unasked.keys().take(at_most).cloned().collect()
    }

    /// Writes what is known now. When it returns either that is durable, or nothing is known of any session any more,
    /// as on a full disk.
    ///
    /// # Errors
    /// The lengths could not be written, nor the file durably removed. Old lengths may still count after a restart.
    pub fn write(&self, known: &[(SessionId, KnownLength)]) -> io::Result<()> {
        if known.is_empty() {
            return Ok(());
        }
        let mut told = self.told();
        known.iter().for_each(|(session, known)| told.note(self.hasher.hash_one(session), known.bytes));
        drop(told);
        let mut state = self.content();
        let Err(e) = self.append(&mut state, known) else { return Ok(()) };
        log::debug!("{} cannot be written and is begun anew: {e}", self.path.display());
        (state.bytes, state.compact) = (0, 0);
        match self.disk.remove(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }?;
        self.sync_folder()
    }

    fn append(&self, state: &mut LengthsFile, known: &[(SessionId, KnownLength)]) -> io::Result<()> {
        let mut lines = String::new();
        known.iter().for_each(|(session, known)| push_line(&mut lines, session, *known));
        let file = self.disk.open_append(&self.path)?;
        file.write_all_at(lines.as_bytes(), state.bytes)?;
        file.sync()?;
        if state.bytes == 0 {
            self.sync_folder()?;
        }
        state.bytes += lines.len() as u64;
        if state.bytes > SMALL_BYTES + 2 * state.compact {
            let content = disk::read(&self.disk, &self.path)?;
            let (known, ..) = parse(&content).ok_or_else(|| io::Error::other("it is damaged"))?;
            self.write_anew(state, &known)?;
        }
        Ok(())
    }

    fn write_anew(&self, state: &mut LengthsFile, known: &HashMap<SessionId, KnownLength>) -> io::Result<()> {
        let lines = lines(known);
        disk::replace(&self.disk, &self.path, lines.as_bytes())?;
        (state.bytes, state.compact) = (lines.len() as u64, lines.len() as u64);
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_dir(self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl Told {
    fn note(&mut self, session: u64, bytes: u64) {
        let has_room = self.noted.len() < NOTED_MAX || self.noted.contains_key(&session);
        // A transcript whose length is unknown because it lost a part is noted as longer than any.
        if bytes == 0 || bytes == u64::MAX || !has_room {
            self.noted.remove(&session);
        } else {
            self.noted.insert(session, bytes);
        }
    }
}

/// What the file has if these are known.
pub(super) fn lines(known: &HashMap<SessionId, KnownLength>) -> String {
    let mut lines = String::new();
    let counts = known.iter().filter(|(_, known)| **known != KnownLength::default());
    counts.for_each(|(session, known)| push_line(&mut lines, session, *known));
    lines
}

fn push_line(to: &mut String, session: &SessionId, known: KnownLength) {
    let text = |id: Option<Id>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let line = match known.lost {
        None => format!("{} {session}", known.bytes),
        Some(lost) => format!("{} {} {} {session}", known.bytes, text(lost.after), text(lost.before)),
    };
    let _ = writeln!(to, "{:08x} {line}", crc32fast::hash(line.as_bytes()));
}

/// The entries of the lines, the end of the last whole one, and about how many bytes the lines that count have; `None` if
/// a line is damaged.
fn parse(content: &[u8]) -> Option<(HashMap<SessionId, KnownLength>, usize, u64)> {
    let (mut known, mut whole, mut lines) = (HashMap::new(), 0, 0);
    while whole < content.len() {
        let rest = &content[whole..];
        let line = &rest[..memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1)];
        match parse_line(line).and_then(|(session, now)| note(&mut known, session, now)) {
            Some(()) => (whole, lines) = (whole + line.len(), lines + 1),
            None if line.ends_with(b"\n") => return None,
            None => break,
        }
    }
    let counts = whole as u64 * known.len() as u64 / lines.max(1);
    Some((known, whole, counts))
}

/// Most sessions have several lines, and one name.
fn note(known: &mut HashMap<SessionId, KnownLength>, session: &str, now: KnownLength) -> Option<()> {
    match known.get_mut(session) {
        Some(before) => *before = now,
        None => drop(known.insert(SessionId::new(session).ok()?, now)),
    }
    Some(())
}

fn parse_line(line: &[u8]) -> Option<(&str, KnownLength)> {
    let (checksum, line) = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?.split_once(' ')?;
    if u32::from_str_radix(checksum, 16).ok()? != crc32fast::hash(line.as_bytes()) {
        return None;
    }
    let id = |text: &str| if text == "-" { Some(None) } else { text.parse().ok().map(Some) };
    let mut words = line.split(' ');
    let bytes = words.next()?;
    let (lost, session) = match [(); 4].map(|()| words.next()) {
        [Some(session), None, ..] => (None, session),
        [Some(after), Some(before), Some(session), None] => {
            (Some(Lost { after: id(after)?, before: id(before)? }), session)
        }
        _ => return None,
    };
    Some((session, KnownLength { bytes: bytes.parse().ok()?, lost }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Fault, Random, SimDisk};
    use crate::message::Timestamp;

    const PATH: &str = "/lengths";

    fn session(n: u64) -> SessionId {
        SessionId::new(&format!("s:{n}")).unwrap()
    }

    fn of(bytes: u64) -> KnownLength {
        KnownLength { bytes, lost: None }
    }

    fn lengths(disk: &SimDisk) -> Lengths<SimDisk> {
        Lengths::new(disk.clone(), Path::new(PATH))
    }

    #[test]
    fn the_last_word_of_a_session_counts_after_a_restart_and_is_told_once() {
        let disk = SimDisk::default();
        let id = Id::from_parts(Timestamp::from_micros(1_790_000_000_000_000), 7);
        let lost = Some(Lost { after: None, before: Some(id) });
        let pending = KnownLength { bytes: 9, lost: Some(Lost { after: Some(id), before: None }) };
        let before = lengths(&disk);
        assert!(!before.any());
        before.write(&[(session(1), of(5)), (session(2), of(6)), (session(4), pending)]).unwrap();
        before.write(&[(session(1), of(7)), (session(3), KnownLength { bytes: 8, lost })]).unwrap();
        let after = lengths(&disk);
        assert_eq!((after.any(), after.unasked(9).len()), (true, 4));
        assert_eq!((after.take(&session(1)), after.take(&session(1))), (Some(of(7)), None));
        assert_eq!(after.take(&session(3)), Some(KnownLength { bytes: 8, lost }));
        assert_eq!(after.take(&session(4)), Some(pending));
        assert_eq!(after.unasked(9), [session(2)]);
    }

    #[test]
    fn the_file_is_bounded_however_often_lengths_change() {
        let disk = SimDisk::default();
        for round in 1..=60 {
            // After each start it goes on from what the one before left.
            let before = lengths(&disk);
            before.write(&(0..1000).map(|n| (session(n), of(round * 1000 + n))).collect::<Vec<_>>()).unwrap();
            assert!(disk.peek(Path::new(PATH)).unwrap().len() < (1 << 20) + 3 * 30_000, "round {round}");
        }
        let after = lengths(&disk);
        assert!((0..1000).all(|n| after.take(&session(n)) == Some(of(60_000 + n))));
    }

    #[test]
    fn damage_leaves_nothing_known_and_a_torn_end_loses_only_the_unsynced() {
        let whole = {
            let disk = SimDisk::default();
            lengths(&disk).write(&(0..3).map(|n| (session(n), of(n + 1))).collect::<Vec<_>>()).unwrap();
            disk.peek(Path::new(PATH)).unwrap()
        };
        let last = whole.len() - 1;
        for at in 0..whole.len() {
            let (disk, path) = (SimDisk::default(), Path::new(PATH));
            drop(disk.create(path).unwrap());
            disk.damage(path, |bytes| {
                bytes.clone_from(&whole);
                bytes[at] ^= 1;
            });
            let after = lengths(&disk);
            assert_eq!(after.unasked(9).len(), if at < last { 0 } else { 2 }, "damage at {at}");
            after.write(&[(session(9), of(9))]).unwrap();
            assert_eq!(lengths(&disk).take(&session(9)), Some(of(9)), "damage at {at}");
            disk.damage(path, |bytes| *bytes = whole[..at].to_vec());
            assert_eq!(lengths(&disk).unasked(9).len(), at / (whole.len() / 3), "cut at {at}");
        }
    }

    #[test]
    fn after_a_cut_or_fault_at_any_call_what_was_revoked_stays_revoked() {
        for cut in [true, false] {
            for call in 0.. {
                let disk = SimDisk::default();
                lengths(&disk).write(&[(session(1), of(5)), (session(2), of(6))]).unwrap();
                let before = lengths(&disk);
                before.take(&session(1));
                let fault = if cut { Fault::PowerOff } else { Fault::Fail(io::ErrorKind::StorageFull) };
                let at = disk.calls() + call;
                disk.fault_at(at, fault);
                let written = before.write(&[(session(1), of(0))]);
                let is_done = disk.calls() < at;
                disk.power_cut(&mut Random(call + 1));
                let after = lengths(&disk);
                let found = after.take(&session(1)).unwrap_or_default();
                assert!(found == of(0) || (written.is_err() && found == of(5)), "call {call}: {written:?}, {found:?}");
                if cut {
                    assert_eq!(after.take(&session(2)), Some(of(6)), "call {call}");
                }
                if is_done {
                    break;
                }
            }
        }
    }
}
