//! Reads what is to be sent again, piece by piece: letters from their file, messages from journal and transcripts.
//!
//! What was recorded comes from the journal as far as that is kept, up to what the drain had reached, and then from the
//! transcripts, up to where the journal began. If the journal had gaps, or lost its oldest segments meanwhile, the transcripts
//! are read whole: what comes twice is recognised.
//!
//! Invariant: a place moves only when its piece was answered for ([`Pass::reached`]); until then the same is read again. Knows
//! nothing of calls.

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Instant;

use crate::disk::Disk;
use crate::journal::{Journal, ReadPosition, ReadProgress, Reader};
use crate::message::{Direction, Expiry, Id, Message, SessionId};
use crate::store::Inserted;
use crate::transcript::{Losses, Query, Transcripts};
use crate::worker::dead_letters::DeadLetters;
use crate::worker::pace::Pace;
use crate::worker::resend::{ResendCounts, ResendTask};

/// Bytes that one look reads of the journal or of a transcript.
const READ_BYTES: usize = 256 * 1024;
/// Transcripts looked into at once, when they have nothing to send.
const TRANSCRIPTS_AT_ONCE: usize = 100;
/// Transcripts compared with their noted lengths at once: 10 µs each.
const LENGTHS_AT_ONCE: usize = 1000;

/// Sends again what is asked for.
pub(super) struct Resender<D: Disk> {
    pub(super) transcripts: Arc<Transcripts<D>>,
    pub(super) pass: Option<Pass<D>>,
    /// After a call that was given up: over a slow link the next would take half of it.
    pub(super) not_before: Option<Instant>,
    /// A pass has ended after which the store has everything.
    pub(super) has_sent_all: bool,
}

/// One task under way.
pub(super) struct Pass<D: Disk> {
    pub(super) place: Place,
    /// Beyond the place only by what is left out; made anew after a failure.
    reader: Option<Reader<D>>,
    pub(super) counts: ResendCounts,
    /// Only ids from here on.
    since: Id,
    /// The first message of the journal: transcripts are read up to it.
    before: Option<Id>,
    sessions: Vec<SessionId>,
    /// Nothing was found before `since`, and nothing was refused meanwhile.
    pub(super) is_all: bool,
    /// The end of the file of dead letters at the beginning, if they are what is sent.
    pub(super) letters_end: Option<u64>,
    pub(super) under_way: Option<Piece>,
}

/// How far a pass is.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Letters: the offsets where to go on and where to end.
    Letters(u64, u64),
    /// The sequences where to go on and where to end.
    Journal(u64, u64, Option<ReadPosition>),
    /// The number of sessions that are left, and where to go on in the last of them.
    Transcripts(usize, Option<Id>),
    End,
}

/// What one call sends.
pub(super) struct Piece {
    pub(super) messages: Arc<Vec<Arc<Message>>>,
    /// The places of letters in their file.
    pub(super) letters: Vec<Range<u64>>,
    pub(super) bytes: usize,
    /// Where to go on after it.
    next: Place,
    /// What was passed over.
    passed: ResendCounts,
}

impl Piece {
    fn at(place: Place) -> Self {
        Self { messages: Arc::default(), letters: Vec::new(), bytes: 0, next: place, passed: ResendCounts::default() }
    }

    fn is_full(&self, pace: &Pace) -> bool {
        self.messages.len() >= pace.messages() || self.bytes >= pace.bytes()
    }

    fn push(&mut self, message: Arc<Message>) {
        self.bytes += message.line().len();
        Arc::make_mut(&mut self.messages).push(message);
    }
}

/// What a pass reads from.
pub(super) struct Sources<'a, D: Disk> {
    pub(super) journal: &'a Arc<Journal<D>>,
    pub(super) transcripts: &'a Transcripts<D>,
    pub(super) dead_letters: &'a DeadLetters<D>,
    pub(super) pace: &'a Pace,
    pub(super) expiry: &'a Expiry,
}

impl<D: Disk> Resender<D> {
    pub(super) fn new(transcripts: Arc<Transcripts<D>>) -> Self {
        Self { transcripts, pass: None, not_before: None, has_sent_all: false }
    }

    /// As if its time to be waited for had passed.
    #[cfg(test)]
    pub(super) fn wait_no_longer(&mut self) {
        self.not_before = None;
    }

    /// A message was refused on its ordinary way.
    pub(super) fn letters_written(&mut self) {
        self.pass.iter_mut().for_each(|pass| pass.is_all = false);
    }
}

impl<D: Disk> Pass<D> {
    pub(super) fn new(task: ResendTask, drained: u64, from: &Sources<'_, D>) -> io::Result<Self> {
        let letters_end = if task == ResendTask::DeadLetters { Some(from.dead_letters.end()?) } else { None };
        let (place, since) = match task {
            ResendTask::DeadLetters => (Place::Letters(0, letters_end.unwrap_or(0)), Id::BEGINNING),
            ResendTask::Recorded { since } => {
                let first = from.journal.first_sequence().saturating_sub(1);
                (Place::Journal(first, drained, None), Id::least_of(since))
            }
        };
        Ok(Self {
            place,
            reader: None,
            counts: ResendCounts::default(),
            since,
            before: None,
            sessions: Vec::new(),
            is_all: letters_end.is_none(),
            letters_end,
            under_way: None,
        })
    }

    /// Reads the next piece; it may be empty although more follows.
    pub(super) fn read(&mut self, from: &Sources<'_, D>) -> io::Result<Piece> {
        if self.under_way.take().is_some() {
            // It was not sent: what comes after the place is read again.
            self.reader = None;
        }
        let mut piece = Piece::at(self.place);
        match self.place {
            Place::Letters(at, until) => read_letters(&mut piece, (at, until), from)?,
            Place::Journal(after, until, hint) => self.read_journal(&mut piece, (after, until, hint), from),
            Place::Transcripts(left, after) => self.read_transcripts(&mut piece, (left, after), from),
            Place::End => {}
        }
        // Erased while it was read.
        let kept: Vec<bool> = piece.messages.iter().map(|message| !from.journal.is_erased(message)).collect();
        let (mut of_messages, mut of_letters) = (kept.iter(), kept.iter());
        Arc::make_mut(&mut piece.messages).retain(|_| of_messages.next() == Some(&true));
        piece.letters.retain(|_| of_letters.next() == Some(&true));
        Ok(piece)
    }

    fn read_journal(
        &mut self,
        piece: &mut Piece,
        (after, until, hint): (u64, u64, Option<ReadPosition>),
        from: &Sources<'_, D>,
    ) {
        let found = from.journal.findings();
        self.is_all &= found.gaps + found.lost_segments == 0;
        let is_whole = found.gaps == 0 && from.journal.first_sequence() <= after + 1;
        let mut reader = self.reader.take().unwrap_or_else(|| from.journal.reader_at(after, hint));
        let mut is_done = after >= until;
        let read = reader.read_while(READ_BYTES, |record| {
            if record.sequence > until {
                is_done = true;
            }
            if is_done || piece.is_full(from.pace) {
                return ControlFlow::Break(());
            }
            let Some(message) = record.entry.message() else { return ControlFlow::Continue(()) };
            // Transcripts may have older ones than an imported message.
            self.before = self.before.or(Some(message.id()).filter(|_| !record.entry.is_import()));
            self.take(piece, message, from.expiry);
            ControlFlow::Continue(())
        });
        let is_read = read.as_ref().is_ok_and(|read| *read == ReadProgress::CaughtUp) || is_done;
        if let Err(e) = &read {
            log::warn!(
                "[CHAT WORKER] The journal cannot be read to send it again, the transcripts are read instead: {e}"
            );
        }
        if !is_whole || read.is_err() {
            self.before = Some(Id::BEGINNING);
        }
        piece.next = match is_read || read.is_err() {
            false => Place::Journal(reader.position(), until, reader.place()),
            true => self.begin_transcripts(piece, from),
        };
        self.reader = Some(reader);
    }

    /// After the journal: the transcripts, whole if it had gaps.
    fn begin_transcripts(&mut self, piece: &mut Piece, from: &Sources<'_, D>) -> Place {
        self.before = self.before.filter(|before| *before > Id::BEGINNING);
        if self.before.is_some_and(|before| before <= self.since) {
            // The journal has all of it.
            return Place::End;
        }
        let sessions = from.transcripts.sessions();
        if let Err(e) = &sessions {
            log::warn!("[CHAT WORKER] The transcripts cannot be listed to send them again: {e}");
            piece.passed.unreadable += 1;
        }
        self.sessions = sessions.unwrap_or_default();
        Place::Transcripts(self.sessions.len(), None)
    }

    fn read_transcripts(
        &mut self,
        piece: &mut Piece,
        (mut left, mut after): (usize, Option<Id>),
        from: &Sources<'_, D>,
    ) {
        // A loss is known once all were compared.
        if left > 0 && from.transcripts.check_lengths(LENGTHS_AT_ONCE) {
            return;
        }
        for _ in 0..TRANSCRIPTS_AT_ONCE {
            let Some(session) = left.checked_sub(1).and_then(|at| self.sessions.get(at)).cloned() else { break };
            if piece.is_full(from.pace) {
                break;
            }
            after = match self.read_transcript(piece, &session, after, from) {
                Ok(after) => after,
                Err(e) => {
                    log::warn!("[CHAT WORKER] The transcript of {session} cannot be read to send it again: {e}");
                    piece.passed.unreadable += 1;
                    None
                }
            };
            left -= usize::from(after.is_none());
        }
        piece.next = if left == 0 { Place::End } else { Place::Transcripts(left, after) };
        if left == 0 {
            let Losses { stale, lost, folder_is_new } = from.transcripts.losses();
            piece.passed.lost = lost as u64;
            // What a stale one lacks may turn out to be lost.
            self.is_all &= stale + lost == 0 && !folder_is_new;
        }
    }

    /// Reads on in a transcript; returns after which message to go on, `None` at its end.
    fn read_transcript(
        &mut self,
        piece: &mut Piece,
        session: &SessionId,
        after: Option<Id>,
        from: &Sources<'_, D>,
    ) -> io::Result<Option<Id>> {
        let query = |after, before, limit| Query {
            after,
            before,
            role: None,
            direction: Direction::Oldest,
            limit,
            bytes_max: READ_BYTES as u64,
            page_bytes_max: from.pace.bytes().saturating_sub(piece.bytes),
        };
        if after.is_none() && self.is_all {
            let older = from.transcripts.read(session, &query(None, Some(self.since), 1))?;
            self.is_all = older.messages.is_empty() && !older.cut_short;
        }
        let limit = from.pace.messages().saturating_sub(piece.messages.len()).max(1);
        let begin = after.or(Some(self.since.just_before()));
        let page = from.transcripts.read(session, &query(begin, self.before, limit))?;
        let last = page.messages.last().map(|message| message.id());
        page.messages.iter().for_each(|message| self.take(piece, message, from.expiry));
        Ok(match (page.more, page.cut_short) {
            (true, _) => last,
            (false, true) => page.searched,
            (false, false) => None,
        })
    }

    fn take(&mut self, piece: &mut Piece, message: &Arc<Message>, expiry: &Expiry) {
        if message.id() < self.since {
            self.is_all = false;
        } else if expiry.has_expired(message.id()) {
            piece.passed.expired += 1;
        } else {
            piece.push(message.clone());
        }
    }

    /// The piece was sent, or nothing of it was to be sent.
    pub(super) fn reached(&mut self, piece: &Piece, inserted: &Inserted) {
        let (sum, passed) = (&mut self.counts, piece.passed);
        sum.stored += inserted.stored as u64;
        sum.already_stored += inserted.already as u64;
        sum.refused += inserted.refused.len() as u64;
        sum.expired += passed.expired;
        sum.unreadable += passed.unreadable;
        sum.lost += passed.lost;
        self.is_all &= inserted.refused.is_empty() && passed.unreadable == 0;
        self.place = piece.next;
    }
}

fn read_letters<D: Disk>(piece: &mut Piece, (at, until): (u64, u64), from: &Sources<'_, D>) -> io::Result<()> {
    let (mut passed, mut looked_at) = (ResendCounts::default(), 0);
    let next = from.dead_letters.read(at, |place, letter| {
        looked_at += place.end - place.start;
        if place.start >= until || piece.is_full(from.pace) || looked_at > 4 * READ_BYTES as u64 && place.start > at {
            return ControlFlow::Break(());
        }
        match letter {
            None => passed.unreadable += 1,
            Some(message) if from.expiry.has_expired(message.id()) => passed.expired += 1,
            Some(message) => {
                piece.push(Arc::new(message));
                piece.letters.push(place);
            }
        }
        ControlFlow::Continue(())
    })?;
    piece.passed = passed;
    piece.next = if next >= until || next == at { Place::End } else { Place::Letters(next, until) };
    Ok(())
}
