//! Intact messages of the journal's quarantine that are nowhere else: not in the journal, not in a transcript, and not
//! among those already recovered.
//!
//! The quarantine may be as large as a journal, so it is searched in batches of a few megabytes. Expired and erased
//! messages are left out. A message in two files of the quarantine is found once.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use crate::disk::Disk;
use crate::journal::{Journal, salvage};
use crate::layout;
use crate::message::{Id, Message, Timestamp};
use crate::transcript::Provenance;
use crate::transcript::survey::{Comparison, MessageStanding, each_message};

use super::place::{DataLocation, messages};

/// Bytes of lines in a batch, unless one alone has more.
const BATCH_BYTES: usize = 8 << 20;
/// Messages remembered as found; beyond, a message in two files may be found twice.
const FOUND_MAX: usize = 1 << 18;

/// Messages of the quarantine that are still to be looked up elsewhere.
#[derive(Default)]
struct SearchBatch {
    messages: BTreeMap<Id, (u64, Arc<Message>)>,
    bytes: usize,
}

struct Search<'a, D: Disk, J: Disk> {
    disk: &'a D,
    place: &'a DataLocation,
    journal: &'a Journal<J>,
    found: HashSet<Id>,
}

/// Hands every such message to `take`, those of one batch in the order of their ids.
///
/// # Errors
/// A file could not be read, or `take` failed. The search itself changes nothing and can be run again.
pub fn find<D: Disk, J: Disk>(
    disk: &D,
    place: &DataLocation,
    journal: &Journal<J>,
    now: Timestamp,
    take: &mut dyn FnMut(&Message) -> io::Result<()>,
) -> io::Result<()> {
    let folder = layout::quarantine(place.journal());
    let mut names = match disk.list(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    names.sort_unstable();
    let oldest = place.oldest_shown(now);
    let mut search = Search { disk, place, journal, found: HashSet::new() };
    for name in names {
        let mut batch = SearchBatch::default();
        let mut outcome = Ok(());
        salvage(disk, &folder.join(name), &mut |sequence, message| {
            if outcome.is_err() || oldest.is_some_and(|oldest| message.id() < oldest) || journal.is_erased(message) {
                return;
            }
            batch.bytes += message.line().len();
            batch.messages.insert(message.id(), (sequence, message.clone()));
            if batch.bytes >= BATCH_BYTES {
                outcome = search.search_batch(std::mem::take(&mut batch), take);
            }
        })?;
        outcome?;
        search.search_batch(batch, take)?;
    }
    Ok(())
}

impl<D: Disk, J: Disk> Search<'_, D, J> {
    fn search_batch(
        &mut self,
        mut batch: SearchBatch,
        take: &mut dyn FnMut(&Message) -> io::Result<()>,
    ) -> io::Result<()> {
        let rest = &mut batch.messages;
        rest.retain(|id, _| !self.found.contains(id));
        let sequences = || rest.values().map(|(sequence, _)| *sequence);
        let (Some(first), Some(last)) = (sequences().min(), sequences().max()) else { return Ok(()) };
        messages(self.journal, &(first..=last), None, &mut |_, message, _| drop(rest.remove(&message.id())))?;
        let mut comparison = Comparison::new(self.disk, self.place.transcripts());
        let mut fault = None;
        rest.retain(|_, (_, message)| match comparison.look(message, Provenance::Recorded) {
            Ok(found) => found == MessageStanding::Lacking,
            Err(e) => {
                fault = Some(e);
                true
            }
        });
        fault.map_or(Ok(()), Err)?;
        if !rest.is_empty() {
            each_message(self.disk, &self.place.recovered(), &mut |message| drop(rest.remove(&message.id())))?;
        }
        for (id, (_, message)) in &*rest {
            if self.found.len() < FOUND_MAX {
                self.found.insert(*id);
            }
            take(message)?;
        }
        Ok(())
    }
}
