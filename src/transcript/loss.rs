//! Transcripts that are missing or shorter than what was synced: finds them, reports them, and has them rewritten from
//! the journal.
//!
//! A start opens no transcript. The length of each is compared with the noted one (`lengths.rs`) when the session is
//! first used, and the worker compares the rest. A transcript that is too short is *stale* from the first record of the
//! journal on, so it is repaired like any other, and until then history reads the journal instead. While the server
//! runs, the same is noticed by a reader, by an append that opens the file, and before a length is revoked. What the
//! journal does not have any more is lost: the gap is stored with the lengths, and history mentions it on pages that
//! reach it. The gap is:
//!
//! * after the last message that the file still had, and before the first that the journal has;
//! * empty, if the file is again as long as it was, or if the journal reaches back to what the file still had, or to
//!   what has expired.
//!
//! A marker in the folder distinguishes a folder that was removed, or is not mounted, from an empty one.
//!
//! Knows nothing of how the lengths are kept.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::disk::{Disk, DiskFile};
use crate::layout;
use crate::message::{Id, Message, SessionId};

use super::lengths::{KnownLength, Lengths, Lost};
use super::read::Lines;
use super::{OpenTranscripts, Stale, Transcripts};

/// Sessions compared before the lock is released.
const AT_ONCE: usize = 256;
/// The most bytes that are read to find a file's last message.
const LOOK_BYTES_MAX: u64 = 1 << 20;

/// The losses of all transcripts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Sessions whose transcript lacks something that the journal has.
    pub stale: usize,
    /// Sessions whose transcript has lost something for good.
    pub lost: usize,
    /// The folder is not the one written to before: it was removed, or is not mounted.
    pub folder_is_new: bool,
}

/// The lengths of transcripts before a sync, and the erasures until then.
pub(super) type Measured = (HashMap<SessionId, u64>, HashMap<SessionId, u64>);

/// What a rebuild found in the journal of the sessions that lost something.
pub(super) struct Met {
    /// The first message of each.
    first: HashMap<SessionId, Option<Id>>,
    /// The newest of all.
    newest: Option<Id>,
}

impl Met {
    pub fn message(&mut self, message: &Message) {
        self.newest = self.newest.max(Some(message.id()));
        if let Some(first) = self.first.get_mut(message.session()) {
            first.get_or_insert(message.id());
        }
    }
}

impl<D: Disk> Transcripts<D> {
    /// The same with noted lengths in the file at `path`, which is made once something was synced.
    #[must_use]
    pub fn remembering(self, path: &Path) -> Self {
        let lengths = Lengths::new(self.disk.clone(), path);
        let marker = layout::marker(&self.folder);
        let mut folder_is_new = false;
        if self.disk.open_read(&marker).is_err() {
            let folder = self.folder.display();
            folder_is_new = lengths.any();
            if folder_is_new {
                log::warn!(
                    "{folder} is not the folder that the transcripts were written to: it was removed, or is not mounted"
                );
            }
            if let Err(e) = self.disk.create(&marker).and_then(|_| self.disk.sync_dir(&self.folder)) {
                log::warn!("{folder} cannot be marked: {e}");
            }
        }
        Self { lengths: Some(lengths), folder_is_new, ..self }
    }

    /// Compares up to `at_most` more transcripts with their noted lengths, one at a time; returns whether some are
    /// left.
    pub fn check_lengths(&self, at_most: usize) -> bool {
        let Some(lengths) = &self.lengths else { return false };
        let some = lengths.unasked(at_most);
        some.iter().for_each(|session| self.check_length(&mut self.lock_open(), session));
        !lengths.unasked(1).is_empty()
    }

    /// Compares one transcript with its noted length, unless that was done.
    pub(super) fn check_length(&self, open: &mut OpenTranscripts<D>, session: &SessionId) {
        let Some(known) = self.lengths.as_ref().and_then(|lengths| lengths.take(session)) else { return };
        if open.unnoted.contains_key(session) {
            // Erased since.
            return;
        }
        let has_expired = |lost: Lost| lost.before.is_some_and(|before| self.expiry.has_expired(before));
        let lost = known.lost.filter(|lost| !has_expired(*lost));
        if lost.is_some() {
            open.losses.insert(session.clone(), KnownLength { lost, ..known });
        }
        let left = self.byte_len(session);
        // Of an unfinished search the loss is known, whatever the file's length.
        let is_pending = lost.is_some_and(|lost| lost.before.is_none());
        match left {
            Ok(left) if left < known.bytes || is_pending => self.lose(open, session, known.bytes, left),
            Ok(_) => {}
            Err(_) if is_pending => self.lose(open, session, known.bytes, 0),
            // It is compared again before it is read, appended to or rewritten.
            Err(e) => log::warn!("the transcript of {session} cannot be compared with what it was: {e}"),
        }
    }

    /// Compares a transcript with the length it should have by what was noted and appended, before it is read or that
    /// length is revoked: it may have been removed or cut since the last comparison, or that failed. An error leaves it
    /// open: what is read then may lack anything, and not say so.
    pub(super) fn check_again(&self, open: &mut OpenTranscripts<D>, session: &SessionId) -> io::Result<()> {
        let had = self.expected_len(open, session);
        if had == 0 {
            return Ok(());
        }
        let left = self.byte_len(session)?;
        if left < had {
            self.lose(open, session, had, left);
        }
        Ok(())
    }

    /// The least length in bytes that the session's file has unless it was removed or cut; 0 when unknown.
    pub(super) fn expected_len(&self, open: &OpenTranscripts<D>, session: &SessionId) -> u64 {
        let Some(lengths) = &self.lengths else { return 0 };
        let is_pending = |known: &KnownLength| known.lost.is_some_and(|lost| lost.before.is_none());
        if open.unnoted.contains_key(session) || open.losses.get(session).is_some_and(is_pending) {
            return 0;
        }
        lengths.noted(session).max(open.files.peek(session).map_or(0, |transcript| transcript.bytes))
    }

    /// The length of a transcript, in bytes; 0 if there is none.
    ///
    /// # Errors
    /// It could not be opened or measured. A retry is safe.
    pub fn byte_len(&self, session: &SessionId) -> io::Result<u64> {
        self.old_file(session)?.map_or(Ok(0), |file| file.byte_len())
    }

    /// The transcript had more bytes than it has now: marks it as stale.
    fn lose(&self, open: &mut OpenTranscripts<D>, session: &SessionId, had: u64, has: u64) {
        let last = self.old_file(session).and_then(|file| file.map_or(Ok(None), |file| last_id(&file))).ok().flatten();
        log::warn!(
            "the transcript of {session} is gone or was cut, {has} bytes are left of {had}: it is written again from the \
             journal, as far as that is kept"
        );
        let before = open.losses.get(session).copied().unwrap_or(KnownLength { bytes: had, lost: None });
        // If it had lost a part before, its length cannot tell whether it is whole.
        let bytes = if before.lost.is_some_and(|lost| lost.before.is_some()) { u64::MAX } else { before.bytes };
        let after = before.lost.map_or(last, |lost| lost.after.min(last));
        let known = KnownLength { bytes, lost: Some(Lost { after, before: None }) };
        open.losses.insert(session.clone(), known);
        open.files.pop(session);
        let new = Stale::of(1, open.newest);
        let stale = open.stale.entry(session.clone()).or_insert(new);
        (stale.first, stale.last) = (1, stale.last.max(new.last));
    }

    /// What the session's transcript has lost, for good or until it is rewritten.
    pub fn lost(&self, session: &SessionId) -> Option<Lost> {
        let mut open = self.lock_open();
        self.reconcile_in(&mut open, session);
        open.losses.get(session).and_then(|known| known.lost)
    }

    /// The losses of all transcripts together.
    pub fn losses(&self) -> Losses {
        let open = self.lock_open();
        let lost = open.losses.values().filter(|known| known.lost.is_some_and(|lost| lost.before.is_some())).count();
        Losses { stale: open.stale.len(), lost, folder_is_new: self.folder_is_new }
    }

    /// The current lengths of transcripts that are not stale, and the erasures so far.
    pub(super) fn measure(&self, sessions: &[&SessionId]) -> Measured {
        let mut measured = HashMap::new();
        if self.lengths.is_none() {
            return Measured::default();
        }
        let erased = self.lock_open().unnoted.clone();
        for some in sessions.chunks(AT_ONCE) {
            let mut closed = Vec::new();
            let open = self.lock_open();
            for session in some.iter().filter(|session| !open.stale.contains_key(**session)) {
                match open.files.peek(*session) {
                    Some(transcript) => drop(measured.insert((*session).clone(), transcript.bytes)),
                    None => closed.push(*session),
                }
            }
            drop(open);
            let file = |session: &SessionId| self.disk.open_read(&self.path(session));
            let bytes = |session: &&SessionId| file(session).and_then(|file| file.byte_len()).ok();
            measured.extend(closed.iter().filter_map(|session| Some(((*session).clone(), bytes(session)?))));
        }
        (measured, erased)
    }

    /// Notes the lengths of what was synced, and revokes those of what was erased. A transcript that is missing or
    /// shorter by now has lost a part, unless its session was erased since it was measured.
    pub(super) fn note_synced(&self, measured: Measured, unsafe_ones: &[SessionId]) -> io::Result<()> {
        let (mut measured, erased) = measured;
        for session in unsafe_ones {
            let Some(had) = measured.remove(session) else { continue };
            // An erasure comes before this lock, and is known here, or after it, and removes the loss.
            let mut open = self.lock_open();
            if open.unnoted.get(session) == erased.get(session)
                && let Ok(left) = self.byte_len(session)
                && left < had
            {
                self.lose(&mut open, session, had, left);
            }
        }
        for session in erased.keys() {
            measured.entry(session.clone()).or_insert(0);
        }
        self.note_lengths(measured.iter().map(|(session, bytes)| (session, *bytes)))?;
        // A session that was erased again meanwhile is left for the next time.
        let mut open = self.lock_open();
        open.unnoted.retain(|session, sequence| erased.get(session) != Some(sequence));
        Ok(())
    }

    /// Notes these lengths, with what was lost. 0 before a transcript is rewritten.
    pub(super) fn note_lengths<'a>(&self, lengths: impl Iterator<Item = (&'a SessionId, u64)>) -> io::Result<()> {
        let Some(file) = &self.lengths else { return Ok(()) };
        let open = self.lock_open();
        let of = |session: &SessionId, bytes: u64| match open.losses.get(session) {
            // With the length that it had, in case the search begins again.
            Some(known) if known.lost.is_some_and(|lost| lost.before.is_none()) => *known,
            known => KnownLength { bytes, lost: known.and_then(|known| known.lost) },
        };
        let known: Vec<(SessionId, KnownLength)> =
            lengths.map(|(session, bytes)| (session.clone(), of(session, bytes))).collect();
        drop(open);
        file.write(&known)
    }

    /// Begins to look in the journal for the messages of transcripts that lost something.
    pub(super) fn begin_search(&self) -> Met {
        let open = self.lock_open();
        let pending = |known: &KnownLength| known.lost.is_some_and(|lost| lost.before.is_none());
        let first = open.losses.iter().filter(|(_, known)| pending(known)).map(|(session, _)| (session.clone(), None));
        Met { first: first.collect(), newest: None }
    }

    /// The transcripts of those sessions now hold, synced, all that the journal has, so what they lack is lost. An
    /// error leaves the search to the next rebuild.
    pub(super) fn end_search<'a>(&self, met: &Met, sessions: impl Iterator<Item = &'a SessionId>) -> io::Result<()> {
        if self.lengths.is_none() {
            return Ok(());
        }
        let lengths = sessions.map(|session| Ok((session, self.byte_len(session)?))).collect::<io::Result<Vec<_>>>()?;
        let (mut whole, mut short) = (0, Vec::new());
        for &(session, bytes) in &lengths {
            let mut open = self.lock_open();
            if let Some(first) = met.first.get(session)
                && let Some(pending) = open.losses.remove(session)
            {
                let lost = self.lost_for_good(pending, bytes, *first, met.newest);
                if lost.is_some() {
                    open.losses.insert(session.clone(), KnownLength { bytes, lost });
                    short.push(session);
                } else {
                    whole += 1;
                }
            }
        }
        if whole > 0 {
            log::info!("{whole} transcripts that were gone or cut are whole again");
        }
        if let Some(session) = short.first() {
            let count = short.len();
            log::warn!("{count} transcripts lack what the journal no longer has, among them that of {session}");
        }
        self.note_lengths(lengths.into_iter())
    }

    fn lost_for_good(&self, pending: KnownLength, bytes: u64, first: Option<Id>, newest: Option<Id>) -> Option<Lost> {
        let lost = pending.lost?;
        let reaches_back = first.is_some_and(|first| Some(first) <= lost.after || self.expiry.has_expired(first));
        if bytes >= pending.bytes || reaches_back {
            return None;
        }
        // Nothing recorded from now on was lost.
        let now = Id::least_of(self.expiry.now());
        Some(Lost { before: first.or(newest.map(Id::just_after).max(Some(now))), ..lost })
    }
}

/// The id of the last message of a file.
pub(super) fn last_id<F: DiskFile>(file: &F) -> io::Result<Option<Id>> {
    let mut lines = Lines::new(file, LOOK_BYTES_MAX)?;
    let mut end = lines.end;
    while let Some(range) = lines.line_before(end)? {
        if let Some(id) = Message::id_of_line(lines.bytes(&range)) {
            return Ok(Some(id));
        }
        end = range.start;
    }
    Ok(None)
}
