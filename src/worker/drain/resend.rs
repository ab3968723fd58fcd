//! Sends to MongoDB again what an operator asked for: dead letters, or what was recorded since some time.
//!
//! It is the drain's least urgent call: one piece of a batch's size whenever nothing else is to be sent, so that what waits
//! longest for it is one call. A piece is read right before it is sent, and read again if the call fails: nothing is held in
//! memory that may be erased meanwhile, and its place moves only when MongoDB has answered. An erasure that is published while
//! a piece is under way is carried out after it, and repeated if that call was given up, as after any insert.
//!
//! A letter leaves its file once MongoDB has confirmed its message; a refused one stays. A message refused on its way from a
//! transcript is no letter: it stays where it is, and is counted.
//!
//! Where the pieces come from stands in `pass.rs`.

use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::store::{Inserted, StoreError};
use crate::worker::resend::ResendCounts;

use super::Drain;
use super::call::{CallPurpose, CallResult};
use super::pass::{Pass, Place, Sources};

impl<D: Disk> Drain<D> {
    /// Begins the next call of a task to send again, if there is one; returns whether it did.
    pub(super) fn begin_resend(&mut self) -> bool {
        let wanted = self.mongo_status.resends().wanted().filter(|_| !self.hurry);
        let (Some(task), Some(resender)) = (wanted, &mut self.resender) else { return false };
        if resender.not_before.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        let from = Sources {
            journal: &self.journal,
            transcripts: &resender.transcripts,
            dead_letters: &self.dead_letters,
            pace: &self.intake.pace,
            expiry: &self.intake.expiry,
        };
        let pass = match resender.pass.take() {
            Some(pass) => Ok(pass),
            None => Pass::new(task, self.intake.drained, &from),
        };
        let read = pass.and_then(|mut pass| pass.read(&from).map(|piece| (pass, piece)));
        match read {
            Err(e) => {
                self.mongo_status.resends().end(Some(format!("the dead letters cannot be read: {e}")), false);
            }
            Ok((mut pass, piece)) if piece.messages.is_empty() => {
                pass.reached(&piece, &Inserted::default());
                self.mongo_status.resends().note(&pass.counts, None);
                self.go_on(pass);
            }
            Ok((mut pass, piece)) => {
                let messages = piece.messages.clone();
                pass.under_way = Some(piece);
                resender.pass = Some(pass);
                return self.call(CallPurpose::Resend, move |store| store.insert(&messages).map(CallResult::Inserted));
            }
        }
        false
    }

    /// The call of a piece has succeeded.
    pub(super) fn resent(&mut self, inserted: &Inserted, took: Duration) {
        let taken = self.resender.as_mut().and_then(|resender| resender.pass.take());
        let Some(mut pass) = taken else { return };
        let Some(piece) = pass.under_way.take() else { return };
        let is_refused = |index: usize| inserted.refused.iter().any(|refused| refused.index == index);
        let gone = piece.letters.iter().enumerate().filter(|(index, _)| !is_refused(*index)).map(|(_, place)| place);
        let removed = self.dead_letters.remove(gone);
        let flushed = Inserted { refused: Vec::new(), ..inserted.clone() };
        self.mongo_status.flushed(&flushed, piece.messages.len(), took);
        self.intake.pace.worked(piece.messages.len(), piece.bytes, took);
        pass.reached(&piece, inserted);
        let refused = inserted.refused.first().map(|refused| &*refused.reason);
        self.mongo_status.resends().note(&pass.counts, refused);
        match removed {
            Ok(()) => self.go_on(pass),
            // Sent again they will be there already.
            Err(e) => {
                let reason = format!("MongoDB has taken dead letters that cannot be taken out of their file: {e}");
                self.mongo_status.resends().end(Some(reason), false);
            }
        }
        self.succeeded(CallPurpose::Resend);
    }

    /// The call of a piece has failed: it is read again.
    pub(super) fn resend_failed(&mut self, error: &StoreError, gave_up: bool) {
        let Some(resender) = &mut self.resender else { return };
        let piece = resender.pass.as_ref().and_then(|pass| pass.under_way.as_ref());
        if let Some(piece) = piece.filter(|_| gave_up || matches!(error, StoreError::BrokenOff(_))) {
            self.intake.pace.failed(piece.messages.len(), piece.bytes);
        }
        resender.not_before = gave_up.then(|| Instant::now() + 2 * self.caller.timeout);
    }

    /// Goes on with the pass, or ends it.
    fn go_on(&mut self, pass: Pass<D>) {
        let Some(resender) = &mut self.resender else { return };
        if !matches!(pass.place, Place::End) {
            (resender.pass, resender.not_before) = (Some(pass), None);
            return;
        }
        let ResendCounts { refused, expired, unreadable, .. } = pass.counts;
        if let Some(end) = pass.letters_end.filter(|_| refused + expired + unreadable == 0)
            && let Err(e) = self.dead_letters.cut(end)
        {
            log::warn!("[CHAT WORKER] The dead letters are blank, and the file cannot be cut: {e}");
        }
        resender.has_sent_all |= pass.is_all;
        self.mongo_status.resends().end(None, pass.is_all);
    }

    /// Whether everything that was ever recorded here was sent again since the last call of this.
    pub fn has_sent_all(&mut self) -> bool {
        self.resender.as_mut().is_some_and(|resender| std::mem::take(&mut resender.has_sent_all))
    }

    /// When there is more to send again.
    pub(super) fn resend_at(&self) -> Option<Instant> {
        let resender = self.resender.as_ref().filter(|_| !self.hurry)?;
        self.mongo_status.resends().wanted().map(|_| resender.not_before.unwrap_or_else(Instant::now))
    }
}
