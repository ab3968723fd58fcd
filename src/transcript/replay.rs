//! Makes transcripts agree with the journal: at the start for everything published since the last checkpoint, and later
//! for stale sessions.
//!
//! A replay gets messages in sequence, which is the order of their ids except for those that were imported. It gathers some
//! and puts them in order. For each session it finds where the first one belongs and compares line by line: a transcript
//! that is right already is only read. Where a later part begins before what was compared, it begins anew; so a transcript
//! into which messages were imported is rewritten once for each [`WAITING_BYTES_MAX`], or not at all where they follow its
//! lines. A line of the session that the journal no longer has (damage there) is skipped, garbage at the end is set aside
//! and cut off, and if something is missing before other lines the file is rewritten (`merge.rs`). So is every file that
//! is suspect.
//!
//! A transcript that cannot be written delays no other: it stays as it is and is reported at the end.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::disk::{Disk, DiskFile};
use crate::message::{Id, Message, SessionId};

use super::merge::{Merge, next_line, stands_at};
use super::read::Lines;
use super::{Transcript, Transcripts};

/// Bytes of messages that are put in order at once.
const WAITING_BYTES_MAX: usize = if cfg!(test) { 2000 } else { 32 << 20 };

/// How a message came into the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// It was recorded: its id follows those before it.
    Recorded,
    /// It was imported, with an id of its own.
    Imported,
}

/// A replay of journal messages into transcripts.
pub struct Replay<'a, D: Disk> {
    transcripts: &'a Transcripts<D>,
    sessions: HashMap<SessionId, ReplayedSession>,
    /// Messages that were not compared yet.
    waiting: Vec<WaitingMessage>,
    waiting_bytes: usize,
    /// Some of the transcripts, kept open between their lines.
    open: LruCache<SessionId, Transcript<D::File>>,
    /// Missing lines that it added.
    pub(super) appended: u64,
    /// The noted lengths of the sessions that it meets were revoked.
    pub(super) are_forgotten: bool,
    /// A message that belongs before other lines is left to the next rebuild.
    pub(super) at_ends_only: bool,
    /// Why a transcript failed: the first such fault.
    pub(super) fault: Option<io::Error>,
}

/// A session of the replay.
struct ReplayedSession {
    /// The first and the last sequence it met of it.
    first: u64,
    last: u64,
    /// The last message that was compared.
    newest: Option<Id>,
    place: Agreement,
}

struct WaitingMessage {
    sequence: u64,
    message: Message,
    is_suspect: bool,
}

/// How far a session's transcript agrees.
enum Agreement {
    /// Nothing was compared yet.
    Unknown,
    /// Everything before this offset agrees.
    Agrees(u64),
    /// Everything to its end agrees.
    Ended,
    /// It is being rewritten.
    Merging(Merge),
    /// It could not be written, or is left to the next rebuild.
    Failed,
}

impl<D: Disk> Transcripts<D> {
    /// Begins a replay. No append to its sessions may run until it is done.
    pub fn replay(&self) -> Replay<'_, D> {
        // It borrows no descriptors: its files are open in addition to those that are appended to.
        let open_max = NonZeroUsize::new(self.descriptors.share().transcripts).unwrap_or(NonZeroUsize::MIN);
        let open = LruCache::new(open_max);
        Replay {
            transcripts: self,
            sessions: HashMap::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            open,
            appended: 0,
            are_forgotten: false,
            at_ends_only: false,
            fault: None,
        }
    }
}

impl<D: Disk> Replay<'_, D> {
    /// Takes the next message of a session whose transcript is not suspect.
    pub fn message(&mut self, sequence: u64, message: &Message) {
        self.take(sequence, message, false);
    }

    /// Revokes the noted lengths of files that will be rewritten or cut.
    fn forget(&self, sessions: &[&SessionId]) -> io::Result<()> {
        if self.are_forgotten {
            Ok(())
        } else {
            self.transcripts.note_lengths(sessions.iter().map(|session| (*session, 0)))
        }
    }

    pub(super) fn take(&mut self, sequence: u64, message: &Message, suspect: bool) {
        if self.transcripts.expiry.has_expired(message.id()) {
            // It may have been swept already and does not come back.
            return;
        }
        self.waiting_bytes += message.memory_bytes();
        self.waiting.push(WaitingMessage { sequence, message: message.clone(), is_suspect: suspect });
        if self.waiting_bytes > WAITING_BYTES_MAX {
            self.follow_waiting();
        }
    }

    /// Compares what waits, session by session in the order of ids.
    pub(super) fn follow_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let place = |one: &WaitingMessage| (one.message.id(), one.sequence);
        waiting.sort_unstable_by(|one, other| {
            one.message.session().cmp(other.message.session()).then(place(one).cmp(&place(other)))
        });
        waiting.dedup_by(|later, one| {
            later.message.id() == one.message.id() && later.message.session() == one.message.session()
        });
        waiting
            .iter()
            .for_each(|WaitingMessage { sequence, message, is_suspect }| self.meet(*sequence, message, *is_suspect));
    }

    fn meet(&mut self, sequence: u64, message: &Message, suspect: bool) {
        let session = message.session();
        let new = ReplayedSession { first: sequence, last: sequence, newest: None, place: Agreement::Unknown };
        let mut seen = self.sessions.remove(session).unwrap_or(new);
        (seen.first, seen.last) = (seen.first.min(sequence), seen.last.max(sequence));
        let begins_anew = seen.newest >= Some(message.id());
        seen.newest = Some(message.id());
        let place = if begins_anew { self.begin_anew(session, seen.place) } else { Ok(seen.place) };
        seen.place = place.and_then(|place| self.follow(place, message, suspect)).unwrap_or_else(|e| {
            self.open.pop(session);
            log::debug!("the transcript of {session} cannot be brought up to the journal: {e}");
            self.fault.get_or_insert(e);
            Agreement::Failed
        });
        self.sessions.insert(session.clone(), seen);
    }

    /// What is next may belong before what was compared.
    fn begin_anew(&self, session: &SessionId, place: Agreement) -> io::Result<Agreement> {
        match place {
            Agreement::Failed => Ok(Agreement::Failed),
            Agreement::Merging(merge) => {
                self.forget(&[session])?;
                self.transcripts.end_merge(merge).map(|()| Agreement::Unknown)
            }
            _ => Ok(Agreement::Unknown),
        }
    }

    fn follow(&mut self, place: Agreement, message: &Message, suspect: bool) -> io::Result<Agreement> {
        match place {
            Agreement::Failed => Ok(Agreement::Failed),
            Agreement::Merging(mut merge) => {
                self.transcripts.merge(&mut merge, message)?;
                self.appended += 1;
                Ok(Agreement::Merging(merge))
            }
            Agreement::Unknown if suspect => {
                let offset = match self.transcripts.disk.open_read(&self.transcripts.path(message.session())) {
                    Ok(file) => belongs(&file, message)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
                    Err(e) => return Err(e),
                };
                self.merge_from(offset, message)
            }
            place => self.in_place(&place, message),
        }
    }

    fn merge_from(&mut self, offset: u64, message: &Message) -> io::Result<Agreement> {
        if self.at_ends_only {
            return Ok(Agreement::Failed);
        }
        let merge = self.transcripts.begin_merge(message.session(), offset)?;
        self.follow(Agreement::Merging(merge), message, false)
    }

    fn in_place(&mut self, place: &Agreement, message: &Message) -> io::Result<Agreement> {
        let session = message.session();
        let mut transcript = match self.open.pop(session) {
            Some(transcript) => transcript,
            None => {
                let expected_len = self.transcripts.expected_len(&self.transcripts.lock_open(), session);
                self.transcripts.open_transcript(session, expected_len)?
            }
        };
        let offset = match place {
            Agreement::Agrees(offset) => *offset,
            Agreement::Unknown => belongs(&transcript.file, message)?,
            _ => transcript.bytes,
        };
        let place = self.compare(message, &mut transcript, offset)?;
        if !matches!(place, Agreement::Merging(_)) {
            self.open.put(session.clone(), transcript);
        }
        Ok(place)
    }

    /// Compares the line at `offset` with the message, and writes the message there if it is missing.
    fn compare(
        &mut self,
        message: &Message,
        transcript: &mut Transcript<D::File>,
        mut offset: u64,
    ) -> io::Result<Agreement> {
        if offset < transcript.bytes {
            let read = stands_at(&transcript.file, offset, message)?;
            if read > 0 {
                return Ok(Agreement::Agrees(offset + read));
            }
            let (difference, has_lines_after) = first_difference(&transcript.file, offset, message)?;
            offset = difference;
            if has_lines_after {
                return match stands_at(&transcript.file, offset, message)? {
                    0 => self.merge_from(offset, message),
                    read => Ok(Agreement::Agrees(offset + read)),
                };
            }
            if offset < transcript.bytes {
                self.transcripts.set_aside(message.session(), &transcript.file, offset..transcript.bytes)?;
                self.forget(&[message.session()])?;
                transcript.cut(offset)?;
            }
        }
        let mut line = message.line().to_vec();
        line.push(b'\n');
        transcript.append(&line)?;
        self.appended += 1;
        Ok(Agreement::Ended)
    }

    /// Whether the transcript holds all messages of the session; if not, the next rebuild begins where this one did.
    pub(super) fn is_up_to_date(&self, session: &SessionId) -> bool {
        !self.sessions.get(session).is_some_and(|seen| matches!(seen.place, Agreement::Failed | Agreement::Merging(_)))
    }

    /// Renames new files and syncs everything. Returns the sessions that may not be durable, with the first and the
    /// last sequence that they may lack.
    pub(super) fn reconcile(&mut self) -> Vec<(SessionId, u64, u64)> {
        self.follow_waiting();
        let merging = self.sessions.iter().filter(|(_, seen)| matches!(seen.place, Agreement::Merging(_)));
        let forgotten = self.forget(&merging.map(|(session, _)| session).collect::<Vec<_>>());
        let may_rename = forgotten.map_err(|e| self.fault.get_or_insert(e)).is_ok();
        for seen in self.sessions.values_mut() {
            seen.place = match std::mem::replace(&mut seen.place, Agreement::Ended) {
                Agreement::Merging(_) if !may_rename => Agreement::Failed,
                Agreement::Merging(merge) => match self.transcripts.end_merge(merge) {
                    // The file may have lines behind those that were merged.
                    Ok(()) => Agreement::Unknown,
                    Err(e) => {
                        self.fault.get_or_insert(e);
                        Agreement::Failed
                    }
                },
                place => place,
            };
        }
        let written: Vec<&SessionId> =
            self.sessions.iter().filter(|(_, seen)| !matches!(seen.place, Agreement::Failed)).map(|(s, _)| s).collect();
        let unsafe_ones: Vec<SessionId> = match self.transcripts.sync_files(&written) {
            Ok(sessions) => sessions,
            Err(e) => {
                self.fault.get_or_insert(e);
                written.into_iter().cloned().collect()
            }
        };
        for session in &unsafe_ones {
            self.open.pop(session);
            if let Some(seen) = self.sessions.get_mut(session) {
                seen.place = Agreement::Failed;
            }
        }
        let failed = self.sessions.iter().filter(|(_, seen)| matches!(seen.place, Agreement::Failed));
        failed.map(|(session, seen)| (session.clone(), seen.first, seen.last)).collect()
    }

    /// Ends the replay of a start: its changes are durable, and sessions whose transcripts could not be written are
    /// stale. Returns how many missing lines it added.
    pub fn end(mut self) -> u64 {
        let failed = self.reconcile();
        if let Some(fault) = &self.fault {
            log::warn!("{} transcripts cannot be brought up to the journal and are stale: {fault}", failed.len());
        }
        for (session, first, last) in failed {
            self.transcripts.mark_stale(&session, first, last);
        }
        self.appended
    }
}

/// Where a message's line belongs: after the last line with an earlier message.
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

/// Skips the session's lines before `message`, from the start of a line; returns where it stopped, and whether a line
/// of the session is there or after it.
fn first_difference<F: DiskFile>(file: &F, mut at: u64, message: &Message) -> io::Result<(u64, bool)> {
    let mut lines = Lines::new(file, u64::MAX)?;
    loop {
        match next_line(&mut lines, at, message.session())? {
            Some((range, id)) if range.start == at && id < message.id() => at = range.end,
            Some(_) => return Ok((at, true)),
            None => return Ok((at, false)),
        }
    }
}
