//! The table: what is known of each session, found by its name, in less than 100 bytes for a name of 36.
//!
//! Names stand one after the other in one buffer, the entries in a list of slots, and a hash table holds numbers of
//! slots. There is no order by activity: a page walks all slots, 2 ms for a hundred thousand, while an order would cost
//! every message a change of it.
//!
//! Knows nothing of files and of time.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// The length of a transcript that must be read to know what is in it.
pub const UNKNOWN_BYTES: u64 = u64::MAX;

/// A buffer grows by one part in this many: doubling would leave half of it unused.
const GROWTH: usize = 16;

/// What is known of a session. Times are in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionEntry {
    /// The time of the newest message that is no marker; 0 if there is none.
    pub updated: u64,
    /// The time of the oldest one.
    pub created: u64,
    /// The time of the newest session record; 0 if there is none.
    pub record: u64,
    /// The length of the transcript to which the entry belongs, or [`UNKNOWN_BYTES`].
    pub bytes: u64,
    /// Messages that are no markers.
    pub messages: u32,
    /// By that record.
    pub is_archived: bool,
    /// By that record.
    pub is_pinned: bool,
}

/// A slot, which a session keeps as long as it is known.
#[derive(Clone, Copy)]
struct Slot {
    entry: SessionEntry,
    name_at: u32,
    /// 0: the slot is free.
    name_bytes: u8,
}

/// Entries by the name of their session.
#[derive(Clone, Default)]
pub(super) struct SessionTable {
    slots: Vec<Slot>,
    names: Vec<u8>,
    /// Bytes of `names` that no slot uses.
    unused_names: usize,
    free: Vec<u32>,
    numbers: HashTable<u32>,
    hasher: RandomState,
}

impl SessionTable {
    /// An empty table that need not grow for so many sessions whose names have so many bytes.
    pub(super) fn with_room(sessions: usize, name_bytes: usize) -> Self {
        let (slots, names) = (Vec::with_capacity(sessions), Vec::with_capacity(name_bytes));
        Self { slots, names, numbers: HashTable::with_capacity(sessions), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The number of slots, free ones included.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The name and the entry in a slot that is not free, if the entry `fits`; most names need not be read.
    pub(super) fn at(&self, slot: usize, fits: impl Fn(&SessionEntry) -> bool) -> Option<(&str, &SessionEntry)> {
        let slot = self.slots.get(slot).filter(|slot| slot.name_bytes > 0 && fits(&slot.entry))?;
        Some((name_of(&self.names, slot), &slot.entry))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &SessionEntry)> {
        (0..self.slots.len()).filter_map(|slot| self.at(slot, |_| true))
    }

    pub(super) fn get(&self, name: &str) -> Option<&SessionEntry> {
        let number = self.number(name, self.hasher.hash_one(name))?;
        Some(&self.slots[number as usize].entry)
    }

    fn number(&self, name: &str, hash: u64) -> Option<u32> {
        let is_it = |number: &u32| bytes_of(&self.names, &self.slots[*number as usize]) == name.as_bytes();
        self.numbers.find(hash, is_it).copied()
    }

    /// The entry of a session, made if there is none.
    pub(super) fn entry(&mut self, name: &str) -> &mut SessionEntry {
        let hash = self.hasher.hash_one(name);
        let number = self.number(name, hash).unwrap_or_else(|| self.insert(name, hash));
        &mut self.slots[number as usize].entry
    }

    fn insert(&mut self, name: &str, hash: u64) -> u32 {
        let (entry, name_bytes) = (SessionEntry::default(), u8::try_from(name.len()).expect("a name is short"));
        let name_at = u32::try_from(self.names.len()).expect("names of all sessions are below 4 GiB");
        reserve(&mut self.names, name.len());
        self.names.extend_from_slice(name.as_bytes());
        let slot = Slot { entry, name_at, name_bytes };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                reserve(&mut self.slots, 1);
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("there are fewer sessions than bytes of names")
            }
        };
        let Self { slots, names, numbers, hasher, .. } = self;
        let hash_of = |number: &u32| hasher.hash_one(name_of(names, &slots[*number as usize]));
        numbers.insert_unique(hash, number, hash_of);
        number
    }

    pub(super) fn remove(&mut self, name: &str) {
        let hash = self.hasher.hash_one(name);
        let Some(number) = self.number(name, hash) else { return };
        if let Ok(found) = self.numbers.find_entry(hash, |other| *other == number) {
            found.remove();
        }
        self.unused_names += name.len();
        self.slots[number as usize].name_bytes = 0;
        self.free.push(number);
        if self.unused_names > self.names.len() / 2 {
            self.compact();
        }
    }

    /// Moves the names together. Slots keep their numbers.
    fn compact(&mut self) {
        let mut names = Vec::with_capacity(self.names.len() - self.unused_names);
        for slot in self.slots.iter_mut().filter(|slot| slot.name_bytes > 0) {
            let name_at = u32::try_from(names.len()).expect("they are fewer than before");
            names.extend_from_slice(name_of(&self.names, slot).as_bytes());
            slot.name_at = name_at;
        }
        (self.names, self.unused_names) = (names, 0);
    }

    /// The memory it takes, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.names.capacity()
            + self.free.capacity() * size_of::<u32>()
            + self.numbers.allocation_size()
    }
}

fn bytes_of<'n>(names: &'n [u8], slot: &Slot) -> &'n [u8] {
    let at = slot.name_at as usize;
    &names[at..at + usize::from(slot.name_bytes)]
}

fn name_of<'n>(names: &'n [u8], slot: &Slot) -> &'n str {
    str::from_utf8(bytes_of(names, slot)).expect("names are ASCII")
}

/// Makes room for some more items, with little to spare.
fn reserve<T>(list: &mut Vec<T>, more: usize) {
    if list.capacity() - list.len() < more {
        list.reserve_exact(more.max(list.len() / GROWTH));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::disk::sim::Random;

    fn name(n: u64) -> String {
        format!("017f22e2-79b0-7cc3-98c4-{n:012}")
    }

    #[test]
    fn a_hundred_thousand_sessions_take_less_than_100_bytes_each() {
        let mut table = SessionTable::default();
        for n in 0..100_000 {
            table.entry(&name(n)).updated = n;
        }
        let each = table.memory_bytes() as f64 / table.len() as f64;
        assert!(each < 100.0, "{each} bytes a session");
    }

    #[test]
    fn the_table_holds_what_a_map_of_names_holds() {
        let (mut table, mut model, mut random) = (SessionTable::default(), BTreeMap::new(), Random(7));
        for step in 1..20_000 {
            let name = name(random.below(300));
            if random.one_in(3) {
                table.remove(&name);
                model.remove(&name);
            } else {
                table.entry(&name).updated = step;
                model.insert(name.clone(), step);
            }
            assert_eq!(table.get(&name).map(|entry| entry.updated), model.get(&name).copied());
            assert_eq!(table.len(), model.len());
        }
        let held: BTreeMap<String, u64> = table.iter().map(|(name, entry)| (name.to_owned(), entry.updated)).collect();
        assert_eq!(held, model);
        assert!(table.names.len() <= 2 * 300 * 36 && table.slots() <= 300, "what was removed is used again");
    }
}
