//! Making transcripts agree with the journal: at the start for all that was published since the last checkpoint, and
//! for a session that fell behind.
//!
//! A replay is fed records in sequence. For each session it finds where its first record belongs, compares line by line
//! what stands there, and at the first difference sets the rest aside and appends from there on. So a transcript that is
//! already right is only read. Messages that stand before the one expected are left where they are: damage took them from
//! the journal, and the transcript is then the only place that has them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lru::LruCache;

use crate::disk::{Disk, DiskFile};
use crate::message::{Message, SessionId};

use super::read::Lines;
use super::{Transcript, Transcripts};

/// How much is copied at once of what is set aside, in bytes.
const COPY_BYTES: usize = 1 << 20;

/// See the module.
pub struct Replay<'a, D: Disk> {
    transcripts: &'a Transcripts<D>,
    places: HashMap<SessionId, Place>,
    /// Some of the transcripts, kept open between their lines.
    open: LruCache<SessionId, Transcript<D::File>>,
    /// Transcripts whose end was set aside.
    pub set_aside: usize,
    /// Lines that were missing.
    pub appended: u64,
}

/// How far a session's transcript agrees.
enum Place {
    /// All before this offset.
    Agrees(u64),
    /// To its end.
    Ended,
}

impl<D: Disk> Transcripts<D> {
    /// Begins a replay. Nobody may append to the sessions it meets until it is done.
    pub fn replay(&self) -> Replay<'_, D> {
        let open = LruCache::new(self.open_max);
        Replay { transcripts: self, places: HashMap::new(), open, set_aside: 0, appended: 0 }
    }

    /// Catches up sessions that are behind: `feed` hands every published record behind a sequence to its callback and
    /// returns the sequence up to which it did. Returns the sessions that still lack something.
    ///
    /// # Errors
    /// What `feed` says, or the disk: the sessions it struck stay behind.
    pub fn rebuild(
        &self,
        mut feed: impl FnMut(u64, &mut dyn FnMut(&Message) -> io::Result<()>) -> io::Result<u64>,
    ) -> io::Result<usize> {
        let behind: HashMap<SessionId, super::Behind> = self.all_behind().into_iter().collect();
        let Some(first) = behind.values().map(|behind| behind.first).min() else { return Ok(0) };
        let mut replay = self.replay();
        let (mut failed, mut fault) = (HashSet::new(), None);
        let reached = feed(first - 1, &mut |message| {
            let session = message.session();
            if behind.contains_key(session)
                && !failed.contains(session)
                && let Err(e) = replay.message(message)
            {
                // It keeps no other session from being caught up.
                failed.insert(session.clone());
                fault = Some(e);
            }
            Ok(())
        })?;
        replay.sync()?;
        let mut open = self.open.lock().expect("no holder panics");
        // Whoever lacks something newer than what was fed stays listed, for the next round.
        let lacks = |session: &SessionId, last| failed.contains(session) || last > reached;
        open.behind.retain(|session, now| !behind.contains_key(session) || lacks(session, now.last));
        if let Some(e) = fault {
            return Err(e);
        }
        Ok(open.behind.len())
    }
}

impl<D: Disk> Replay<'_, D> {
    /// Takes the next message.
    ///
    /// # Errors
    /// The disk's; the session's transcript then lacks this message and all later ones.
    pub fn message(&mut self, message: &Message) -> io::Result<()> {
        let session = message.session();
        let mut transcript = match self.open.pop(session) {
            Some(transcript) => transcript,
            None => self.transcripts.open_file(session)?,
        };
        let place = self.place(message, &mut transcript)?;
        self.places.insert(session.clone(), place);
        self.open.put(session.clone(), transcript);
        Ok(())
    }

    fn place(&mut self, message: &Message, transcript: &mut Transcript<D::File>) -> io::Result<Place> {
        let mut offset = match self.places.get(message.session()) {
            Some(Place::Ended) => transcript.bytes,
            Some(Place::Agrees(offset)) => *offset,
            None => belongs(&transcript.file, message)?,
        };
        if offset < transcript.bytes && !is_at(&transcript.file, message, offset)? {
            offset = behind_earlier(&transcript.file, message, offset)?;
        }
        if offset < transcript.bytes {
            if is_at(&transcript.file, message, offset)? {
                return Ok(Place::Agrees(offset + message.line().len() as u64 + 1));
            }
            self.set_aside(message.session(), transcript, offset)?;
            transcript.cut(offset)?;
        }
        let mut line = message.line().to_vec();
        line.push(b'\n');
        transcript.append(&line)?;
        self.appended += 1;
        Ok(Place::Ended)
    }

    /// Keeps a copy of what will be cut off.
    fn set_aside(&mut self, session: &SessionId, transcript: &Transcript<D::File>, from: u64) -> io::Result<()> {
        let folder = self.quarantine();
        self.transcripts.disk.create_dir_all(&folder)?;
        let name = format!("{}.{from}", session.file_name());
        self.copy(&transcript.file, from..transcript.bytes, &folder, &name)?;
        log::warn!("the transcript of {session} differs from the journal: its end was set aside as {name}");
        self.set_aside += 1;
        Ok(())
    }

    /// Copies a part of a file, block by block; blocks of zeros stay holes, so that a long stretch of them costs nothing.
    fn copy(&self, file: &D::File, part: Range<u64>, folder: &Path, name: &str) -> io::Result<()> {
        let disk = &self.transcripts.disk;
        let temporary = folder.join(format!("{name}.tmp"));
        let copy = disk.create(&temporary)?;
        let mut block = vec![0; COPY_BYTES];
        let mut at = part.start;
        while at < part.end {
            let wanted = usize::try_from(part.end - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let read = file.read_at(&mut block[..wanted], at)?;
            if read == 0 {
                break;
            }
            if block[..read].iter().any(|&byte| byte != 0) {
                copy.write_all_at(&block[..read], at - part.start)?;
            }
            at += read as u64;
        }
        copy.sync()?;
        disk.rename(&temporary, &folder.join(name))?;
        disk.sync_dir(folder)
    }

    fn quarantine(&self) -> PathBuf {
        self.transcripts.folder.join("quarantine")
    }

    /// Makes durable what the replay changed.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        self.transcripts.sync(self.places.keys())
    }
}

/// Whether the message's line stands exactly there.
fn is_at<F: DiskFile>(file: &F, message: &Message, offset: u64) -> io::Result<bool> {
    let mut there = vec![0; message.line().len() + 1];
    let read = file.read_at(&mut there, offset)?;
    Ok(read == there.len() && there.strip_suffix(b"\n") == Some(message.line()))
}

/// The end of the run of whole lines from `offset` on that hold messages before `message`, in order.
fn behind_earlier<F: DiskFile>(file: &F, message: &Message, offset: u64) -> io::Result<u64> {
    let mut lines = Lines::new(file)?;
    let (mut end, mut last) = (offset, None);
    while let Some(range) = lines.line_at(end)? {
        let there = lines.message(&range).filter(|there| there.session() == message.session()).map(|there| there.id());
        if there.is_none_or(|id| id >= message.id()) || there <= last {
            break;
        }
        (end, last) = (range.end, there);
    }
    Ok(end)
}

/// Where a message's line belongs: behind the last line that is a message before it.
fn belongs<F: DiskFile>(file: &F, message: &Message) -> io::Result<u64> {
    let mut lines = Lines::new(file)?;
    let mut end = lines.end;
    while let Some(range) = lines.line_before(end)? {
        if Message::id_of_line(lines.bytes(&range)).is_some_and(|id| id < message.id()) {
            return Ok(end);
        }
        end = range.start;
    }
    Ok(0)
}
