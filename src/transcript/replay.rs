//! Making transcripts agree with the journal: at the start for all that was published since the last checkpoint, and
//! for a session that fell behind.
//!
//! A replay is fed records in sequence. For each session it finds where its first record belongs, compares line by line
//! what stands there, and at the first difference sets the rest aside and appends from there on. So a transcript that is
//! already right is only read.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use lru::LruCache;

use crate::disk::{self, Disk, DiskFile};
use crate::message::{Message, SessionId};

use super::read::Lines;
use super::{Transcript, Transcripts};

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
    /// What `feed` says, or the disk: the sessions stay behind.
    pub fn rebuild(
        &self,
        mut feed: impl FnMut(u64, &mut dyn FnMut(&Message) -> io::Result<()>) -> io::Result<u64>,
    ) -> io::Result<usize> {
        let behind: HashMap<SessionId, super::Behind> = self.all_behind().into_iter().collect();
        let Some(first) = behind.values().map(|behind| behind.first).min() else { return Ok(0) };
        let mut replay = self.replay();
        let reached = feed(first - 1, &mut |message| match behind.contains_key(message.session()) {
            true => replay.message(message),
            false => Ok(()),
        })?;
        replay.sync()?;
        let mut open = self.open.lock().expect("no holder panics");
        // Whoever lacks something newer than what was fed stays listed, for the next round.
        open.behind.retain(|session, now| !behind.contains_key(session) || now.last > reached);
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
            None => Transcript::open(&self.transcripts.disk, &self.transcripts.path(session))?,
        };
        let place = self.place(message, &mut transcript)?;
        self.places.insert(session.clone(), place);
        self.open.put(session.clone(), transcript);
        Ok(())
    }

    fn place(&mut self, message: &Message, transcript: &mut Transcript<D::File>) -> io::Result<Place> {
        let offset = match self.places.get(message.session()) {
            Some(Place::Ended) => transcript.bytes,
            Some(Place::Agrees(offset)) => *offset,
            None => belongs(&transcript.file, message)?,
        };
        if offset < transcript.bytes {
            let mut there = vec![0; message.line().len() + 1];
            let read = transcript.file.read_at(&mut there, offset)?;
            if read == there.len() && there.strip_suffix(b"\n") == Some(message.line()) {
                return Ok(Place::Agrees(offset + read as u64));
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
        let mut tail = vec![0; usize::try_from(transcript.bytes - from).map_err(io::Error::other)?];
        let read = transcript.file.read_at(&mut tail, from)?;
        let name = format!("{}.{from}", session.file_name());
        disk::replace(&self.transcripts.disk, &folder.join(&name), &tail[..read])?;
        log::warn!("the transcript of {session} differs from the journal: its end was set aside as {name}");
        self.set_aside += 1;
        Ok(())
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

/// Where a message's line belongs: behind the last line that is a message before it.
fn belongs<F: DiskFile>(file: &F, message: &Message) -> io::Result<u64> {
    let mut lines = Lines::new(file, u64::MAX)?;
    let mut end = lines.end;
    while let Some(range) = lines.line_before(end)? {
        if Message::id_of_line(lines.bytes(&range)).is_some_and(|id| id < message.id()) {
            return Ok(end);
        }
        end = range.start;
    }
    Ok(0)
}
