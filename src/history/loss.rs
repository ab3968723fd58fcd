//! Pages that reach the lost part of a transcript say so, unless MongoDB has it.
//! That some of it came from there does not prove it: MongoDB may have been enabled late. It has all of it if it was enabled
//! from the beginning.
//!
//! A page reaches it when it covers any id of the lost part: a full page ends at its last message, any other goes on to
//! the bound that was asked for, or to the session's end.

use crate::disk::Disk;
use crate::message::{Direction, Id};
use crate::transcript::{Lost, Query};

use super::History;
use super::page::{HistoryPage, HistoryQuery, MessageSource};

/// While the journal is being searched for it.
const PENDING: &str = "the transcript is gone or was cut, and is being written again from the journal";
/// After the search has not found it.
const FOR_GOOD: &str = "a part of the transcript is gone that the journal no longer has";
/// The same where MongoDB has some of it.
const PERHAPS: &str = "a part of the transcript is gone that the journal no longer has; MongoDB may lack some of it, as it was \
                       not always in use here or refused messages";

impl<D: Disk> History<D> {
    /// Marks an answer that reaches a lost part as incomplete.
    pub(super) fn tell_of_loss(&self, ask: &HistoryQuery, query: &Query, answer: &mut HistoryPage) {
        if answer.incomplete.is_some() {
            return;
        }
        let Some(lost) = self.transcripts.lost(&ask.session).filter(|lost| reaches(query, answer, *lost)) else {
            return;
        };
        let is_supplied = is_supplied(query, answer, lost);
        let why = match (&self.database, lost.before) {
            (Some(database), _) if is_supplied && database.has_all() => return,
            (_, None) => PENDING,
            (Some(_), _) if is_supplied => PERHAPS,
            _ => FOR_GOOD,
        };
        answer.incomplete = Some(why.into());
    }
}

fn reaches(query: &Query, answer: &HistoryPage, lost: Lost) -> bool {
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

/// Whether MongoDB had anything of what was lost: for this page, or the page goes on where it did.
fn is_supplied(query: &Query, answer: &HistoryPage, lost: Lost) -> bool {
    let is_within = |id: Id| Some(id) > lost.after && lost.before.is_none_or(|before| id < before);
    let theirs = answer.messages.iter().filter(|(_, source)| *source == MessageSource::Mongo);
    theirs.map(|(message, _)| message.id()).chain(query.before).any(is_within)
}
