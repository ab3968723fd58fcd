//! The path of a conversation after its rewinds, for a reader that goes forward.
//!
//! `history/current.rs` walks backward and jumps; here one pass over the session notes the rewinds, and what the jumps
//! leave is a list of spans of ids. The next pass shows what lies in them. Messages that came after the first pass are not
//! shown.

use std::io;

use crate::disk::Disk;
use crate::message::{Id, Marker, Message, SessionState};

use super::reader::{SessionReader, Stopped};

/// The most rewinds of a session that are looked at, 40 bytes each. A session with more cannot be shown.
const REWINDS_MAX: usize = 100_000;
/// The longest title out of a text, in characters, as in the list of sessions.
const TITLE_CHARS_MAX: usize = 80;

/// What is on the path, and what is told of the session.
#[derive(Debug, Default)]
pub(super) struct CurrentPath {
    /// Oldest first: what is between both ids, without them.
    spans: Vec<(Id, Id)>,
    /// The title that was set, or the beginning of the oldest text of a user.
    pub(super) title: Option<String>,
}

/// A pass along it.
struct SpanWalk<'a> {
    spans: &'a [(Id, Id)],
}

impl CurrentPath {
    /// Reads a session for it.
    pub(super) fn of<D: Disk>(reader: &mut SessionReader<'_, D>) -> Result<Self, Stopped> {
        let (mut rewinds, mut last, mut first_text) = (Vec::new(), None, None);
        let mut state: Option<SessionState> = None;
        let read = reader.each(&mut |message| {
            last = Some(message.id());
            match message.marker() {
                Some(Marker::Rewind(_)) if rewinds.len() == REWINDS_MAX => {
                    return Err(io::Error::other(format!("it has more than {REWINDS_MAX} rewinds")));
                }
                Some(Marker::Rewind(to)) => rewinds.push((message.id(), to)),
                Some(Marker::Session(set)) => state = Some(set),
                Some(Marker::Clear) => {}
                None if first_text.is_none() && message.role() == "user" => first_text = Some(message.text()),
                None => {}
            }
            Ok(())
        });
        match read {
            // Nothing was written here.
            Err(Stopped::Client(fault)) => return Err(Stopped::Unreadable(fault)),
            read => read?,
        }
        let beginning = |text: String| text.trim().chars().take(TITLE_CHARS_MAX).collect();
        let title = state.and_then(|state| state.title).or_else(|| first_text.map(beginning));
        Ok(Self { spans: last.map(|last| spans(&rewinds, last)).unwrap_or_default(), title })
    }

    /// Hands the messages on the path, and clear markers, to `take`, whose error ends the export.
    pub(super) fn each<D: Disk>(
        &self,
        reader: &mut SessionReader<'_, D>,
        take: &mut dyn FnMut(&Message) -> io::Result<()>,
    ) -> Result<(), Stopped> {
        let mut walk = SpanWalk { spans: &self.spans };
        reader.each(&mut |message| if walk.shows(message) { take(message) } else { Ok(()) })
    }
}

/// What the rewinds, oldest first, leave of a session that ends with `last`.
fn spans(rewinds: &[(Id, Option<Id>)], last: Id) -> Vec<(Id, Id)> {
    let (mut spans, mut below) = (Vec::new(), last.just_after());
    loop {
        let before = rewinds.partition_point(|(id, _)| *id < below);
        let Some((marker, to)) = before.checked_sub(1).map(|at| rewinds[at]) else {
            spans.push((Id::BEGINNING.just_before(), below));
            break;
        };
        spans.push((marker, below));
        let Some(to) = to else { break };
        below = marker.min(to.just_after());
    }
    spans.reverse();
    spans
}

impl SpanWalk<'_> {
    /// Whether that message is shown; asked in the order of ids.
    fn shows(&mut self, message: &Message) -> bool {
        let id = message.id();
        while let Some((_, end)) = self.spans.first()
            && *end <= id
        {
            self.spans = &self.spans[1..];
        }
        let is_within = self.spans.first().is_some_and(|(begin, _)| *begin < id);
        is_within && !matches!(message.marker(), Some(Marker::Rewind(_) | Marker::Session(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Random;
    use crate::message::Timestamp;

    fn id(n: u64) -> Id {
        Id::least_of(Timestamp::from_micros(n * 1000))
    }

    /// The specification: from the newest backward, at a rewind on at the newest that is not newer than its target.
    fn walked(all: &[(Id, Option<Option<Id>>)]) -> Vec<Id> {
        let (mut shown, mut below) = (Vec::new(), None);
        while let Some((at, rewind)) = all.iter().rev().find(|(at, _)| below.is_none_or(|below| *at < below)) {
            below = Some(*at);
            match rewind {
                Some(None) => break,
                Some(Some(to)) => below = Some(to.just_after().min(*at)),
                None => shown.push(*at),
            }
        }
        shown.reverse();
        shown
    }

    #[test]
    fn the_spans_of_any_rewinds_hold_what_a_walk_backward_shows() {
        for seed in 0..2000 {
            let mut random = Random(seed);
            let count = random.below(30);
            let all: Vec<(Id, Option<Option<Id>>)> = (1..=count)
                .map(|n| {
                    let rewind = match random.below(6) {
                        0 => Some(None),
                        // Also to itself, to later ones, and between two.
                        1 => Some(Some(id(random.below(count + 2)))),
                        2 => Some(Some(id(random.below(n) + 1).just_before())),
                        _ => None,
                    };
                    (id(n), rewind)
                })
                .collect();
            let rewinds: Vec<_> = all.iter().filter_map(|(at, rewind)| rewind.map(|to| (*at, to))).collect();
            let spans = all.last().map(|(last, _)| spans(&rewinds, *last)).unwrap_or_default();
            let is_within = |at: Id| spans.iter().any(|(begin, end)| *begin < at && at < *end);
            let shown: Vec<Id> =
                all.iter().filter(|(at, rewind)| rewind.is_none() && is_within(*at)).map(|a| a.0).collect();
            assert_eq!(shown, walked(&all), "seed {seed}");
            assert!(spans.is_sorted(), "seed {seed}");
        }
    }
}
