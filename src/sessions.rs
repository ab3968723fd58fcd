//! The index of sessions: of each when it was last active and began, how many messages it has, and whether it is
//! archived. It is kept in memory, told of every published record, and written to a file from time to time.
//!
//! An entry is a statement on a transcript of a certain length: whoever shows it compares the length, and counts again if
//! the transcript has another (`listing.rs`). So whatever rewrites a transcript (expiry, repairs, users) need not tell
//! the index. Titles and texts are not here: they are read where they stand, so nothing is left to erase but names.
//!
//! After a start the index first holds what is published from then on, until [`SessionIndex::adopt`] adds what was
//! before. Of a session with both, the transcript is counted again.
//!
//! Invariant: the file counts the records up to the sequence that it names. Should one be counted twice (it was being
//! published while transcripts were counted), its entry no longer fits the transcript. Knows nothing of transcripts and
//! journals.

mod file;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::disk::{self, Disk, RealDisk};
use crate::message::{Id, Marker, Message, MessageView, SessionId};

pub use file::Covered;
pub use table::{SessionEntry, UNKNOWN_BYTES};

use table::SessionTable;

/// The file is written again when so many records are not in it, or as many as there are sessions: that many a start
/// reads from the journal.
const RECORDS_BETWEEN_FILES: u64 = 20_000;
/// Slots looked at before the lock is released.
const SLOTS_AT_ONCE: usize = 4096;
/// From one slot to the next of a walk. Sessions often become active in the order of their slots, and a walk in that order
/// would find a newer one at every slot. A prime beyond any number of slots leads to each slot once.
const STRIDE: u64 = 4_294_967_291;

/// The index and its file.
pub struct SessionIndex<D: Disk = RealDisk> {
    disk: D,
    path: PathBuf,
    state: Mutex<IndexState>,
    /// Notified when it is whole.
    adopted: Condvar,
}

#[derive(Default)]
struct IndexState {
    table: SessionTable,
    covered: Covered,
    /// It was told of everything published after this.
    begins_after: u64,
    /// What was before the start is in it, too.
    is_whole: bool,
    /// Sessions that were erased before it was whole, each up to that id.
    erased: HashMap<SessionId, Id>,
    /// Up to where the file counts.
    filed: u64,
    /// Counts what the file must not lack for long: erasures, and that there is none.
    changes: u64,
    filed_changes: u64,
    records_between_files: u64,
}

/// An index that is being made of what was before a start.
#[derive(Clone, Default)]
pub struct IndexBase(SessionTable);

/// Where a list goes on: after the session of that time and name.
pub type ListPosition = (u64, String);

impl<D: Disk> SessionIndex<D> {
    /// An index with the file at `path`, which is not read yet.
    pub fn new(disk: D, path: &Path) -> Self {
        let state = IndexState { records_between_files: RECORDS_BETWEEN_FILES, ..IndexState::default() };
        Self { disk, path: path.to_owned(), state: Mutex::new(state), adopted: Condvar::new() }
    }

    /// Has the file written after so many records.
    #[cfg(test)]
    pub(crate) fn file_every(&self, records: u64) {
        self.lock().records_between_files = records;
    }

    fn lock(&self) -> MutexGuard<'_, IndexState> {
        self.state.lock().expect("no holder panics")
    }

    /// Counts published messages, in sequence.
    pub fn published<'a>(&self, messages: impl Iterator<Item = &'a Message>) {
        let mut state = self.lock();
        messages.for_each(|message| count(&mut state.table, &message.view()));
    }

    /// Everything of the session up to `id` is erased.
    pub fn erased(&self, session: &SessionId, id: Id) {
        let mut state = self.lock();
        erase(&mut state.table, session, id);
        state.changes += 1;
        if !state.is_whole {
            let up_to = state.erased.entry(session.clone()).or_insert(id);
            *up_to = id.max(*up_to);
        }
    }

    /// Every record up to this one was counted.
    pub fn covers(&self, covered: Covered) {
        self.lock().covered = covered;
    }

    /// Everything published after this sequence will be told.
    pub fn begin(&self, published: u64) {
        self.lock().begins_after = published;
    }

    /// The last sequence of which it was not told.
    pub fn begins_after(&self) -> u64 {
        self.lock().begins_after
    }

    /// Whether what was before the start is in it; waits up to `wait` for that.
    pub fn is_whole(&self, wait: Duration) -> bool {
        let waited = self.adopted.wait_timeout_while(self.lock(), wait, |state| !state.is_whole);
        waited.expect("no holder panics").0.is_whole
    }

    /// Reads the file.
    ///
    /// # Errors
    /// Those of [`IndexBase::read`].
    pub fn load(&self) -> io::Result<(IndexBase, Covered)> {
        IndexBase::read(&self.disk, &self.path)
    }

    /// Takes in what was before the start, up to `covered`; `is_whole`: that is all of it. `filed`: up to where the file
    /// counts, 0 if it counts for nothing. May be called again.
    pub fn adopt(&self, base: IndexBase, covered: Covered, is_whole: bool, filed: u64) {
        let mut state = self.lock();
        let mut table = base.0;
        state.erased.iter().for_each(|(session, id)| erase(&mut table, session, *id));
        for (name, live) in state.table.iter() {
            match table.get(name).copied() {
                None => *table.entry(name) = *live,
                Some(before) if before.updated < live.updated || before.record < live.record => {
                    *table.entry(name) = before.with_later(live);
                }
                Some(_) => {}
            }
        }
        (state.table, state.filed) = (table, filed);
        state.is_whole |= is_whole;
        state.changes += u64::from(filed == 0);
        if state.covered.sequence < covered.sequence {
            state.covered = covered;
        }
        if state.is_whole {
            state.erased = HashMap::new();
            self.adopted.notify_all();
        }
    }

    /// Writes the file if enough is new, if something was erased, if the journal no longer reaches back to it, or if
    /// `at_once`.
    ///
    /// # Errors
    /// The disk failed; the old file stands. A retry is safe.
    pub fn store(&self, journal_begins: u64, at_once: bool) -> io::Result<()> {
        let state = self.lock();
        let new = state.covered.sequence.saturating_sub(state.filed);
        let is_wanted = state.changes > state.filed_changes;
        let enough = new >= state.records_between_files.max(state.table.len() as u64);
        let is_out_of_reach = state.filed + 1 < journal_begins;
        let is_due = is_wanted || (new > 0 && (at_once || enough || is_out_of_reach));
        if !state.is_whole || !is_due || state.covered.sequence == 0 {
            return Ok(());
        }
        let (table, covered, changes) = (state.table.clone(), state.covered, state.changes);
        drop(state);
        disk::replace(&self.disk, &self.path, &file::encode(&table, covered))?;
        let mut state = self.lock();
        (state.filed, state.filed_changes) = (covered.sequence, changes);
        Ok(())
    }

    /// What is known of a session.
    pub fn get(&self, session: &SessionId) -> Option<SessionEntry> {
        self.lock().table.get(session.as_str()).copied()
    }

    /// Replaces an entry, or removes it, unless it has changed since it was read.
    pub fn replace(&self, session: &SessionId, read: SessionEntry, with: Option<SessionEntry>) {
        let mut state = self.lock();
        if state.table.get(session.as_str()).copied() != Some(read) {
            return;
        }
        match with {
            Some(entry) => *state.table.entry(session.as_str()) = entry,
            None => state.table.remove(session.as_str()),
        }
    }

    /// The `limit` sessions that were active last, newest first, of those before `before` that are wanted. Locks the
    /// index for some slots at a time; a session that becomes active meanwhile is found at its old place or its new one.
    pub fn newest(
        &self,
        limit: usize,
        before: Option<&ListPosition>,
        wanted: &dyn Fn(&str, &SessionEntry) -> bool,
    ) -> Vec<(SessionId, SessionEntry)> {
        // Oldest first, so that the one to go stands at the front.
        let mut found: BTreeMap<ListPosition, SessionEntry> = BTreeMap::new();
        let mut least: Option<u64> = None;
        let (mut from, slots) = (0, self.lock().table.slots());
        loop {
            let state = self.lock();
            let until = (from + SLOTS_AT_ONCE).min(slots);
            for turn in from..until {
                let slot = (turn as u64 * STRIDE % slots as u64) as usize;
                let fits = |entry: &SessionEntry| {
                    least.is_none_or(|least| entry.updated >= least)
                        && before.is_none_or(|(time, _)| entry.updated <= *time)
                };
                let Some((name, entry)) = state.table.at(slot, fits) else { continue };
                let is_before = before.is_none_or(|(time, last)| (entry.updated, name) < (*time, last.as_str()));
                if !is_before || !wanted(name, entry) {
                    continue;
                }
                found.insert((entry.updated, name.to_owned()), *entry);
                if found.len() > limit {
                    found.pop_first();
                }
                least = if found.len() == limit { found.keys().next().map(|(time, _)| *time) } else { None };
            }
            if until == slots {
                break;
            }
            from = until;
        }
        let named = found.into_iter().rev().filter_map(|((_, name), entry)| Some((SessionId::new(&name).ok()?, entry)));
        named.collect()
    }

    /// The names of all sessions, in no order. Locks the index for some slots at a time.
    pub fn names(&self) -> Vec<SessionId> {
        let (mut names, mut from) = (Vec::new(), 0);
        loop {
            let state = self.lock();
            let slots = state.table.slots();
            let until = (from + SLOTS_AT_ONCE).min(slots);
            let found = (from..until).filter_map(|slot| state.table.at(slot, |_| true));
            names.extend(found.filter_map(|(name, _)| SessionId::new(name).ok()));
            if until == slots {
                return names;
            }
            from = until;
        }
    }

    /// The number of sessions and the memory they take, in bytes.
    pub fn stats(&self) -> (usize, usize) {
        let state = self.lock();
        (state.table.len(), state.table.memory_bytes())
    }
}

impl IndexBase {
    /// Reads the file of an index.
    ///
    /// # Errors
    /// It is missing, damaged, or could not be read: the index must be made again.
    pub fn read<D: Disk>(disk: &D, path: &Path) -> io::Result<(Self, Covered)> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged or of another version");
        let (table, covered) = file::decode(&disk::read(disk, path)?).ok_or_else(damaged)?;
        Ok((Self(table), covered))
    }

    /// Counts a message that follows all others of its session.
    pub fn message(&mut self, message: &MessageView<'_>) {
        count(&mut self.0, message);
    }

    /// Everything of the session up to `id` is erased.
    pub fn erased(&mut self, session: &SessionId, id: Id) {
        erase(&mut self.0, session, id);
    }

    /// Whether anything is known of a session but that it has nothing.
    #[must_use]
    pub fn holds(&self, session: &str) -> bool {
        self.0.get(session).is_some_and(|entry| entry.messages > 0 || entry.record > 0)
    }

    /// Sets what is known of a session.
    pub fn set(&mut self, session: &SessionId, entry: SessionEntry) {
        *self.0.entry(session.as_str()) = entry;
    }
}

impl SessionEntry {
    /// Counts a message that follows all others.
    pub fn count(&mut self, message: &MessageView<'_>) {
        let time = message.id().time().micros();
        match message.marker() {
            None => {
                self.updated = self.updated.max(time);
                self.created = if self.messages == 0 { time } else { self.created.min(time) };
                self.messages = self.messages.saturating_add(1);
            }
            Some(Marker::Session(state)) if time >= self.record => {
                (self.record, self.is_archived, self.is_pinned) = (time, state.archived, state.pinned);
            }
            Some(_) => {}
        }
    }

    /// The same with what was published later. What of it is in both is unknown, so the transcript is to be counted.
    fn with_later(self, later: &Self) -> Self {
        let newest = if later.record > self.record { later } else { &self };
        Self {
            updated: self.updated.max(later.updated),
            record: newest.record,
            is_archived: newest.is_archived,
            is_pinned: newest.is_pinned,
            messages: self.messages.max(later.messages),
            created: if self.messages == 0 { later.created } else { self.created },
            bytes: UNKNOWN_BYTES,
        }
    }
}

fn count(table: &mut SessionTable, message: &MessageView<'_>) {
    let entry = table.entry(message.session());
    entry.count(message);
    if entry.bytes != UNKNOWN_BYTES {
        entry.bytes += message.line().len() as u64 + 1;
    }
}

fn erase(table: &mut SessionTable, session: &SessionId, id: Id) {
    let Some(entry) = table.get(session.as_str()).copied() else { return };
    let erased = id.time().micros();
    if entry.updated.max(entry.record) >= erased {
        // Most likely another server's erasure, with newer messages after it.
        table.entry(session.as_str()).bytes = UNKNOWN_BYTES;
    } else {
        table.remove(session.as_str());
    }
}
