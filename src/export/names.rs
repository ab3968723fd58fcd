//! The sessions of an export, by name: those of this machine and those that only MongoDB has.

use std::collections::{BTreeSet, VecDeque};

use crate::access::SessionPrefix;
use crate::disk::Disk;
use crate::history::History;
use crate::message::SessionId;

use super::reader::Missing;

/// The names that are still to come.
pub(super) struct SessionNames {
    here: VecDeque<SessionId>,
    /// Some of MongoDB's.
    there: VecDeque<SessionId>,
    /// After which name MongoDB has more, perhaps.
    there_after: Option<String>,
    prefix: Option<SessionPrefix>,
}

impl SessionNames {
    /// One session, wherever it is.
    pub(super) fn one(session: SessionId) -> Self {
        Self { here: VecDeque::from([session]), there: VecDeque::new(), there_after: None, prefix: None }
    }

    /// Those of this machine and of MongoDB.
    pub(super) fn all(here: BTreeSet<SessionId>, prefix: Option<SessionPrefix>) -> Self {
        let covers = |session: &SessionId| prefix.as_ref().is_none_or(|prefix| prefix.covers(session));
        let here = here.into_iter().filter(covers).collect();
        Self { here, there: VecDeque::new(), there_after: Some(String::new()), prefix }
    }

    /// The next name. That MongoDB's cannot be told is noted as missing.
    pub(super) fn next<D: Disk>(&mut self, history: &History<D>, missing: &mut Missing) -> Option<SessionId> {
        while self.there.is_empty()
            && let Some(after) = self.there_after.take()
        {
            match history.sessions_of_mongo(&after) {
                None => {}
                Some(Ok((found, next))) => {
                    let covers = |session: &SessionId| self.prefix.as_ref().is_none_or(|prefix| prefix.covers(session));
                    self.there.extend(found.into_iter().filter(covers));
                    self.there_after = next;
                }
                Some(Err(why)) => {
                    missing.add_all(format!(
                        "sessions that only MongoDB has are left out, as it did not name them: {why}"
                    ));
                }
            }
        }
        match (self.here.front(), self.there.front()) {
            (Some(here), Some(there)) if there < here => self.there.pop_front(),
            (Some(here), Some(there)) => {
                if here == there {
                    self.there.pop_front();
                }
                self.here.pop_front()
            }
            (Some(_), None) => self.here.pop_front(),
            (None, _) => self.there.pop_front(),
        }
    }
}
