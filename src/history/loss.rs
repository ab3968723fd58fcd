//! Pages that reach the lost part of a transcript say so, unless MongoDB has it.
//!
//! A page reaches it when it covers any id of the lost part: a full page ends at its last message, any other goes on to
//! the bound that was asked for, or to the session's end.

use crate::disk::Disk;
use crate::message::Id;
use crate::transcript::{Direction, Lost, Query};

use super::History;
use super::page::{Answer, Ask, Source};

/// While the journal is being searched for it.
const PENDING: &str = "the transcript is gone or was cut, and is being written again from the journal";
/// After the search has not found it.
const FOR_GOOD: &str = "a part of the transcript is gone that the journal no longer has";

impl<D: Disk> History<D> {
    /// Marks an answer that reaches a lost part as incomplete.
    pub(super) fn tell_of_loss(&self, ask: &Ask, query: &Query, answer: &mut Answer) {
        if answer.incomplete.is_some() {
            return;
        }
        let Some(lost) = self.transcripts.lost(&ask.session).filter(|lost| reaches(query, answer, *lost)) else {
            return;
        };
        if self.database.is_none() || !is_supplied(query, answer, lost) {
            answer.incomplete = Some(if lost.before.is_none() { PENDING } else { FOR_GOOD }.into());
        }
    }
}

fn reaches(query: &Query, answer: &Answer, lost: Lost) -> bool {
    let end = |backward: bool| {
        let message = if backward { answer.messages.first() } else { answer.messages.last() };
        let id = message.map(|(message, _)| message.id());
        id.filter(|_| answer.has_more && (query.direction == Direction::Newest) == backward)
    };
    let from = end(true).or(query.after).max(lost.after);
    let until = [end(false).or(query.before), lost.before].into_iter().flatten().min();
    // Neither bound is within.
    until.is_none_or(|until| from.map(Id::just_after) < Some(until))
}

/// Whether MongoDB has what was lost, as far as can be told: it had some of it for this page, or the page goes on where
/// it did.
fn is_supplied(query: &Query, answer: &Answer, lost: Lost) -> bool {
    let is_within = |id: Id| Some(id) > lost.after && lost.before.is_none_or(|before| id < before);
    let theirs = answer.messages.iter().filter(|(_, source)| *source == Source::Mongo);
    theirs.map(|(message, _)| message.id()).chain(query.before).any(is_within)
}
