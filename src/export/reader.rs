//! One session of an export, page by page from its beginning, and what could not be read.

use std::io;

use crate::disk::Disk;
use crate::history::{History, HistoryPage};
use crate::message::{Id, Message, SessionId};

/// So many sessions are told that could not be read; of more only the number.
const TOLD_MAX: usize = 10;

/// What could not be read.
#[derive(Debug, Default)]
pub(super) struct Missing {
    told: Vec<String>,
    others: usize,
}

impl Missing {
    pub(super) fn add(&mut self, session: &SessionId, why: &str) {
        self.add_all(format!("session {session}: {why}"));
    }

    pub(super) fn add_all(&mut self, why: String) {
        if self.told.len() < TOLD_MAX {
            self.told.push(why);
        } else {
            self.others += 1;
        }
    }

    pub(super) fn told(self) -> Option<String> {
        let Self { told, others } = self;
        let more = if others == 0 { String::new() } else { format!("; and {others} more like it") };
        (!told.is_empty()).then(|| told.join("; ") + &more)
    }
}

/// Why a session was not read to its end.
#[derive(Debug)]
pub(super) enum Stopped {
    Client(io::Error),
    Ended(&'static str),
    Unreadable(io::Error),
}

/// Reads one session from its beginning, as often as asked.
pub(super) struct SessionReader<'a, D: Disk> {
    pub(super) history: &'a History<D>,
    pub(super) session: &'a SessionId,
    pub(super) ends: &'a dyn Fn() -> Option<&'static str>,
    /// Why it may lack messages.
    pub(super) unread: Option<String>,
}

impl<D: Disk> SessionReader<'_, D> {
    /// Hands every message to `take`, whose error ends the export.
    pub(super) fn each(&mut self, take: &mut dyn FnMut(&Message) -> io::Result<()>) -> Result<(), Stopped> {
        let mut after = Id::BEGINNING;
        loop {
            if let Some(why) = (self.ends)() {
                return Err(Stopped::Ended(why));
            }
            let HistoryPage { messages, has_more, incomplete, next, .. } =
                self.history.page_after(self.session, after).map_err(Stopped::Unreadable)?;
            for (message, _) in &messages {
                take(message).map_err(Stopped::Client)?;
            }
            let end = messages.last().map(|(message, _)| message.id()).max(next);
            if let Some(why) = incomplete {
                self.unread.get_or_insert(why);
            }
            match end.filter(|end| *end > after) {
                Some(end) if has_more => after = end,
                _ if has_more => {
                    self.unread.get_or_insert_with(|| format!("nothing could be read after {after}"));
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_could_not_be_read_are_named_up_to_ten() {
        assert_eq!(Missing::default().told(), None);
        let mut missing = Missing::default();
        (0..12).for_each(|n| missing.add(&SessionId::new(&format!("s{n}")).unwrap(), "why"));
        let told = missing.told().unwrap();
        assert!(told.starts_with("session s0: why; session s1: why; "), "{told}");
        assert!(told.ends_with("; session s9: why; and 2 more like it"), "{told}");
    }
}
