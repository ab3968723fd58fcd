//! A survey of the transcripts that changes nothing: which lines readers skip, and what the journal has and a file
//! lacks.
//!
//! It does not use [`super::Transcripts`], because opening them makes their folder. Every line of every file is read
//! and parsed; memory is bounded by one line, the names in the folder, and the sessions whose place a comparison
//! remembers.
//!
//! Knows nothing of the journal's files, nor of how a fault is displayed.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lru::LruCache;

use crate::disk::{Disk, DiskFile};
use crate::layout;
use crate::message::{Id, Message, SessionId};

use super::lengths;
use super::loss::last_id;
use super::merge::{next_line, stands_at};
use super::read::Lines;
use super::replay::Provenance;

/// Sessions whose place a comparison remembers; for others it searches again.
const PLACES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not 0");
/// Files that a comparison keeps open, if the limit of open files allows as many.
const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(512).expect("not 0");
/// What is wrong with a transcript.
#[derive(Debug)]
pub enum TranscriptFault {
    /// Lines that are no message, or of another session: every reader skips them.
    Foreign {
        /// Lines that are no message.
        bad: u64,
        /// Messages of another session.
        others: u64,
        /// The first of both, in bytes from the file's beginning.
        first: Range<u64>,
    },
    /// Lines after one with a later id, also second copies: they hide lines between from some readers.
    OutOfOrder(u64),
    /// Its last line is unfinished and has this many bytes.
    Torn(u64),
    /// The disk cannot read it.
    Io(io::Error),
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranscriptSurvey {
    /// The number of transcripts.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that readers find.
    pub messages: u64,
    /// Lines that repeat the one before them: no reader shows them.
    pub repeated: u64,
    /// Files that interrupted rewrites left, and their bytes.
    pub leftovers: (u64, u64),
}

impl TranscriptSurvey {
    /// Reads every transcript in `folder`; reports each fault to `tell`, with its session.
    ///
    /// # Errors
    /// The folder could not be listed; nothing was changed. A file that cannot be read is reported to `tell` instead.
    pub fn of<D: Disk>(disk: &D, folder: &Path, tell: &mut dyn FnMut(&SessionId, TranscriptFault)) -> io::Result<Self> {
        let mut survey = Self::default();
        for name in disk.list(folder)? {
            let Some(session) = SessionId::from_file_name(&name) else { continue };
            survey.files += 1;
            if let Err(e) = survey.file(disk, &folder.join(name), &session, tell) {
                tell(&session, TranscriptFault::Io(e));
            }
        }
        for name in disk.list(&layout::rewriting(folder)).unwrap_or_default() {
            let file = disk.open_read(&layout::rewriting(folder).join(name));
            survey.leftovers.0 += 1;
            survey.leftovers.1 += file.and_then(|file| file.byte_len()).unwrap_or(0);
        }
        Ok(survey)
    }

    fn file<D: Disk>(
        &mut self,
        disk: &D,
        path: &Path,
        session: &SessionId,
        tell: &mut dyn FnMut(&SessionId, TranscriptFault),
    ) -> io::Result<()> {
        let file = disk.open_read(path)?;
        let bytes = file.byte_len()?;
        self.bytes += bytes;
        let mut lines = Lines::new(&file, u64::MAX)?;
        let mut walk = Walk::default();
        let mut at = 0;
        while let Some(range) = lines.line_at(at)? {
            at = range.end;
            match lines.message(&range) {
                Some(message) if message.session() == session => walk.message(message.id()),
                Some(_) => {
                    walk.others += 1;
                    walk.first.get_or_insert(range);
                }
                None => {
                    walk.bad += 1;
                    walk.first.get_or_insert(range);
                }
            }
        }
        self.messages += walk.messages;
        self.repeated += walk.repeated;
        if let Some(first) = walk.first {
            tell(session, TranscriptFault::Foreign { bad: walk.bad, others: walk.others, first });
        }
        if walk.out_of_order > 0 {
            tell(session, TranscriptFault::OutOfOrder(walk.out_of_order));
        }
        if at < bytes {
            tell(session, TranscriptFault::Torn(bytes - at));
        }
        Ok(())
    }
}

/// The walk through one file.
#[derive(Default)]
struct Walk {
    largest: Option<Id>,
    messages: u64,
    repeated: u64,
    out_of_order: u64,
    bad: u64,
    others: u64,
    first: Option<Range<u64>>,
}

impl Walk {
    fn message(&mut self, id: Id) {
        if Some(id) > self.largest {
            self.largest = Some(id);
            self.messages += 1;
        } else if Some(id) == self.largest {
            self.repeated += 1;
        } else {
            self.out_of_order += 1;
        }
    }
}

/// Compares transcripts with the journal; messages of a session must come in the order of their ids, except imported ones.
pub struct Comparison<'a, D: Disk> {
    disk: &'a D,
    folder: PathBuf,
    /// Where the next line of a session is searched; `None` if it has no file.
    places: LruCache<SessionId, Option<u64>>,
    open: LruCache<SessionId, D::File>,
}

/// How a message is in its transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageStanding {
    /// With the same bytes.
    Same,
    /// With other bytes.
    Differs,
    /// Not where a reader would find it.
    Lacking,
}

impl<'a, D: Disk> Comparison<'a, D> {
    /// A comparison with the transcripts in `folder`.
    pub fn new(disk: &'a D, folder: &Path) -> Self {
        Self { disk, folder: folder.to_owned(), places: LruCache::new(PLACES_MAX), open: LruCache::new(OPEN_MAX) }
    }

    /// Looks a message up in its transcript.
    ///
    /// # Errors
    /// The transcript could not be opened or read. Nothing was changed; the same message can be looked up again.
    pub fn look(&mut self, message: &Message, provenance: Provenance) -> io::Result<MessageStanding> {
        let session = message.session();
        let place = self.places.get(session).copied();
        if place == Some(None) {
            return Ok(MessageStanding::Lacking);
        }
        if !self.open.contains(session) {
            match self.open_file(session) {
                Ok(file) => drop(self.open.put(session.clone(), file)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.places.put(session.clone(), None);
                    return Ok(MessageStanding::Lacking);
                }
                Err(e) => return Err(e),
            }
        }
        let file = self.open.get(session).expect("it was put there");
        let at = match place.flatten() {
            Some(at) if provenance == Provenance::Recorded => at,
            _ => Lines::new(file, u64::MAX)?.first_not_before(message.id())?,
        };
        let (found, next) = look_from(file, at, message)?;
        if provenance == Provenance::Imported {
            return Ok(found);
        }
        match self.places.get_mut(session) {
            Some(place) => *place = Some(next),
            None => drop(self.places.put(session.clone(), Some(next))),
        }
        Ok(found)
    }
}

impl<D: Disk> Comparison<'_, D> {
    fn open_file(&mut self, session: &SessionId) -> io::Result<D::File> {
        let path = self.folder.join(session.file_name());
        match self.disk.open_read(&path) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) && !self.open.is_empty() => {
                self.open.clear();
                self.disk.open_read(&path)
            }
            opened => opened,
        }
    }
}

/// Searches the message at or after `at`; returns also where to search the next one.
fn look_from<F: DiskFile>(file: &F, mut at: u64, message: &Message) -> io::Result<(MessageStanding, u64)> {
    let read = stands_at(file, at, message)?;
    if read > 0 {
        return Ok((MessageStanding::Same, at + read));
    }
    let mut lines = Lines::new(file, u64::MAX)?;
    while let Some((range, id)) = next_line(&mut lines, at, message.session())? {
        if id > message.id() {
            return Ok((MessageStanding::Lacking, range.start));
        }
        if id == message.id() {
            let same = stands_at(file, range.start, message)? > 0;
            return Ok((if same { MessageStanding::Same } else { MessageStanding::Differs }, range.end));
        }
        at = range.end;
    }
    Ok((MessageStanding::Lacking, at))
}

/// Transcripts that lost a part: those that are shorter than at their last sync, which a start rewrites from the
/// journal, and those whose loss a start has reported.
#[derive(Default)]
pub struct Shortened(HashMap<SessionId, Shorter>);

/// Where the lost part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A start writes it again.
    InTheJournal,
    /// It is lost.
    Nowhere,
    /// A start has reported that it is lost.
    KnownToBeGone,
}

struct Shorter {
    /// Bytes that it had, and has.
    had: u64,
    has: u64,
    /// The last message before the lost part.
    last: Option<Id>,
    /// The lost part lies before this id, as a start found.
    told: Option<Id>,
    /// The first message that the journal has and that was recorded here, and the bytes of those that the file lacks.
    first: Option<Id>,
    lacking: u64,
}

impl Shortened {
    /// Compares the transcripts in `folder` with the lengths in the file at `lengths`. A transcript that cannot be read
    /// is left out.
    ///
    /// # Errors
    /// The file of lengths could not be read. Nothing was changed; a retry is safe.
    pub fn of<D: Disk>(disk: &D, folder: &Path, lengths: &Path) -> io::Result<Self> {
        let mut shortened = HashMap::new();
        for (session, known) in lengths::look(disk, lengths)? {
            let found = match disk.open_read(&folder.join(session.file_name())) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((0, None)),
                file => file.and_then(|file| Ok((file.byte_len()?, last_id(&file)?))),
            };
            let (Ok((has, last)), lost) = (found, known.lost) else { continue };
            let is_pending = has < known.bytes || lost.is_some_and(|lost| lost.before.is_none());
            let told = lost.and_then(|lost| lost.before).filter(|_| !is_pending);
            if is_pending || told.is_some() {
                let last = lost.map_or(last, |lost| lost.after.min(last));
                shortened.insert(session, Shorter { had: known.bytes, has, last, told, first: None, lacking: 0 });
            }
        }
        Ok(Self(shortened))
    }

    /// Forgets a session that was erased since its length was noted.
    pub fn forget(&mut self, session: &SessionId) {
        self.0.remove(session);
    }

    /// Takes a message of the journal, which its transcript may lack. Returns whether a start writes it again because
    /// the transcript is too short.
    pub fn meet(&mut self, message: &Message, provenance: Provenance, is_lacking: bool) -> bool {
        let Some(shorter) = self.0.get_mut(message.session()) else { return false };
        if provenance == Provenance::Recorded {
            shorter.first.get_or_insert(message.id());
        }
        if is_lacking {
            shorter.lacking += message.line().len() as u64 + 1;
        }
        shorter.told.is_none()
    }

    /// Called after the whole journal was read: for each session where its lost part is, and its length in bytes. A
    /// message before `oldest` does not count as lost.
    pub fn judge(&self, oldest: Option<Id>) -> impl Iterator<Item = (&SessionId, Part, u64)> {
        let is_over = move |id: Id| oldest.is_some_and(|oldest| id < oldest);
        let shorter = self.0.iter().filter(move |(_, shorter)| !shorter.told.is_some_and(is_over));
        shorter.map(move |(session, shorter)| {
            let reaches_back = shorter.first.is_some_and(|first| Some(first) <= shorter.last || is_over(first));
            let part = match shorter.told {
                Some(_) => Part::KnownToBeGone,
                None if reaches_back || shorter.has + shorter.lacking >= shorter.had => Part::InTheJournal,
                None => Part::Nowhere,
            };
            (session, part, shorter.has)
        })
    }
}

/// Hands every message of a file of lines to `take`; a missing file has none.
///
/// # Errors
/// The file could not be opened or read. `take` may have had some of the messages; another call starts over.
pub fn each_message<D: Disk>(disk: &D, path: &Path, take: &mut dyn FnMut(&Message)) -> io::Result<()> {
    let file = match disk.open_read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let (mut lines, mut at) = (Lines::new(&file, u64::MAX)?, 0);
    while let Some(range) = lines.line_at(at)? {
        at = range.end;
        lines.message(&range).as_ref().map(&mut *take);
    }
    Ok(())
}
