//! Which conversations say what: how a request that names none finds its own, also after a restart.
//!
//! Of each conversation two numbers are kept: of its first message, and of its newest message with the reply to it. They
//! only propose conversations; what these say is read and compared before any is gone on with. So a number that is wrong,
//! missing or of an erased conversation costs a new conversation at worst. Conversations whose clients name them are not
//! here.
//!
//! They stand in a file to which each change is appended, and that is written anew when most of it is outdated. It is not
//! synced: after a power cut the newest may be missing. Format version 1, numbers little-endian: 8 bytes `CKCONVS1`, then
//! for each change 36 bytes:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 16 | the id that the session's name ends with |
//! | 16 | 8 | the number of the first message |
//! | 24 | 8 | the number of the newest message and its reply; 0: it has none |
//! | 32 | 4 | CRC-32 of these |
//!
//! A damaged change is passed over. The numbers of an erased conversation stay until the file is written anew; they are parts
//! of SHA-256 hashes, and hold no text. Memory: 36 bytes a conversation, which are searched one after the other.
//!
//! The file is written by one caller at a time and outside of the lock, so no request waits for the disk to find its
//! conversation: who notes a change while another writes leaves it to that one. Written anew it is synced, by one change of
//! some [`OUTDATED_MIN`] at least.
//!
//! Knows nothing of messages.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::disk::{self, Disk, DiskFile, RealDisk};
use crate::layout;
use crate::logging::Throttle;

const LETTERS: &[u8; 8] = b"CKCONVS1";
const ENTRY_BYTES: usize = 36;
/// Changes beyond twice the conversations before the file is written anew.
const OUTDATED_MIN: usize = 1000;

/// Of one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// What the name of its session ends with.
    pub id: Uuid,
    /// Of its first message.
    pub opening: u64,
    /// Of its newest message with the reply; 0 without one.
    pub tail: u64,
}

/// The conversations.
pub(super) struct ConversationIndex<D: Disk = RealDisk> {
    disk: D,
    path: PathBuf,
    max: usize,
    inner: Mutex<Inner<D>>,
    failed: Throttle,
}

struct Inner<D: Disk> {
    prints: Fingerprints,
    /// Noted and not written yet.
    unwritten: Vec<Fingerprint>,
    /// `None`: somebody writes, and takes what is unwritten, too.
    file: Option<IndexFile<D>>,
}

struct IndexFile<D: Disk> {
    /// `None`: it could not be opened or written, and is made anew with the next change.
    file: Option<D::File>,
    /// Changes in it.
    written: usize,
}

#[derive(Clone, Default)]
struct Fingerprints {
    ids: Vec<u128>,
    openings: Vec<u64>,
    tails: Vec<u64>,
    /// When each was used: the number of the change.
    used: Vec<u32>,
    changes: u32,
}

impl<D: Disk> ConversationIndex<D> {
    /// Opens the one beside that journal; of more than `max` conversations the newest count.
    pub(super) fn open(disk: D, journal: &Path, max: usize) -> Self {
        let path = layout::conversations(journal);
        let (mut prints, mut file) = (Fingerprints::default(), IndexFile { file: None, written: 0 });
        if let Err(e) = load(&disk, &path, max, (&mut prints, &mut file)) {
            log::warn!("the index of conversations is not readable, and begins anew: {e}");
        }
        let inner = Inner { prints, unwritten: Vec::new(), file: Some(file) };
        Self { disk, path, max, inner: Mutex::new(inner), failed: Throttle::new(1) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The conversations with one of these numbers, newest first, at most `max`.
    pub(super) fn find(&self, opening: u64, tail: Option<u64>, max: usize) -> Vec<Uuid> {
        let inner = &self.inner().prints;
        let tail = tail.filter(|tail| *tail != 0);
        let is_same = |at: &usize| inner.openings[*at] == opening || Some(inner.tails[*at]) == tail;
        let mut found: Vec<_> = (0..inner.ids.len()).filter(is_same).collect();
        let newest_first = |at: &usize| std::cmp::Reverse((Some(inner.tails[*at]) == tail, inner.used[*at]));
        // Many may begin alike, of which few are asked for.
        if found.len() > max {
            found.select_nth_unstable_by_key(max, newest_first);
            found.truncate(max);
        }
        found.sort_by_key(newest_first);
        found.into_iter().map(|at| Uuid::from_u128(inner.ids[at])).collect()
    }

    /// Notes what a conversation says by now.
    pub(super) fn note(&self, print: &Fingerprint) {
        let mut inner = self.inner();
        inner.prints.put(print, self.max);
        inner.unwritten.push(*print);
        let Some(mut file) = inner.file.take() else { return };
        while !inner.unwritten.is_empty() {
            let changes = std::mem::take(&mut inner.unwritten);
            let is_outdated = file.written > 2 * inner.prints.ids.len() + OUTDATED_MIN;
            let anew = (is_outdated || file.file.is_none()).then(|| inner.prints.clone());
            drop(inner);
            let written = match anew {
                Some(prints) => self.write_anew(&mut file, &prints),
                None => file.append(&changes),
            };
            if let Err(e) = written {
                file.file = None;
                if self.failed.admit().is_some() {
                    log::warn!("the index of conversations cannot be written; they are found until a restart: {e}");
                }
            }
            inner = self.inner();
        }
        inner.file = Some(file);
    }

    fn write_anew(&self, file: &mut IndexFile<D>, prints: &Fingerprints) -> io::Result<()> {
        let mut order: Vec<_> = (0..prints.ids.len()).collect();
        order.sort_by_key(|at| prints.used[*at]);
        let changes = order.iter().flat_map(|at| encode(&prints.get(*at)));
        let bytes: Vec<u8> = LETTERS.iter().copied().chain(changes).collect();
        file.file = None;
        disk::replace(&self.disk, &self.path, &bytes)?;
        *file = IndexFile { file: Some(self.disk.open_append(&self.path)?), written: prints.ids.len() };
        Ok(())
    }
}

impl<D: Disk> IndexFile<D> {
    fn append(&mut self, changes: &[Fingerprint]) -> io::Result<()> {
        let bytes: Vec<u8> = changes.iter().flat_map(encode).collect();
        if let Some(file) = &self.file {
            file.write_all_at(&bytes, (LETTERS.len() + self.written * ENTRY_BYTES) as u64)?;
        }
        self.written += changes.len();
        Ok(())
    }
}

/// Reads the file, if there is one.
fn load<D: Disk>(
    disk: &D,
    path: &Path,
    max: usize,
    (prints, file): (&mut Fingerprints, &mut IndexFile<D>),
) -> io::Result<()> {
    let bytes = match disk::read(disk, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes?,
    };
    let Some(changes) = bytes.strip_prefix(LETTERS) else { return Err(io::ErrorKind::InvalidData.into()) };
    // The newest of each, newest first, so that the oldest are left out.
    let mut newest = HashMap::new();
    let known = changes.chunks_exact(ENTRY_BYTES).rev().filter_map(decode);
    for print in known {
        if newest.len() < max && !newest.contains_key(&print.id) {
            newest.insert(print.id, (newest.len(), print));
        }
    }
    let mut newest: Vec<_> = newest.into_values().collect();
    newest.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    for (_, print) in &newest {
        let at = prints.push();
        prints.set(at, print);
    }
    file.written = changes.len() / ENTRY_BYTES;
    // After a change that is cut short no later one would be found.
    if changes.len() % ENTRY_BYTES == 0 {
        file.file = Some(disk.open_append(path)?);
    }
    Ok(())
}

impl Fingerprints {
    fn get(&self, at: usize) -> Fingerprint {
        Fingerprint { id: Uuid::from_u128(self.ids[at]), opening: self.openings[at], tail: self.tails[at] }
    }

    /// Notes a conversation; if there are `max`, in place of the one that was not used for the longest time.
    fn put(&mut self, print: &Fingerprint, max: usize) {
        let id = print.id.as_u128();
        let known = self.ids.iter().position(|known| *known == id);
        let full = (self.ids.len() >= max).then(|| (0..self.ids.len()).min_by_key(|at| self.used[*at])).flatten();
        let at = known.or(full).unwrap_or_else(|| self.push());
        self.set(at, print);
    }

    fn push(&mut self) -> usize {
        self.ids.push(0);
        self.openings.push(0);
        self.tails.push(0);
        self.used.push(0);
        self.ids.len() - 1
    }

    fn set(&mut self, at: usize, print: &Fingerprint) {
        self.changes += 1;
        (self.ids[at], self.openings[at]) = (print.id.as_u128(), print.opening);
        (self.tails[at], self.used[at]) = (print.tail, self.changes);
    }
}

fn encode(print: &Fingerprint) -> [u8; ENTRY_BYTES] {
    let mut to = [0; ENTRY_BYTES];
    to[..16].copy_from_slice(&print.id.as_u128().to_le_bytes());
    to[16..24].copy_from_slice(&print.opening.to_le_bytes());
    to[24..32].copy_from_slice(&print.tail.to_le_bytes());
    let checksum = crc32fast::hash(&to[..32]);
    to[32..].copy_from_slice(&checksum.to_le_bytes());
    to
}

fn decode(bytes: &[u8]) -> Option<Fingerprint> {
    let (content, checksum) = bytes.split_at_checked(32)?;
    if checksum != crc32fast::hash(content).to_le_bytes() {
        return None;
    }
    let number = |range: std::ops::Range<usize>| Some(u64::from_le_bytes(content[range].try_into().ok()?));
    let id = Uuid::from_u128(u128::from_le_bytes(content[..16].try_into().ok()?));
    Some(Fingerprint { id, opening: number(16..24)?, tail: number(24..32)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Fault, Op, Random, SimDisk};

    const JOURNAL: &str = "/data/journal";

    fn print(n: u128, opening: u64, tail: u64) -> Fingerprint {
        Fingerprint { id: Uuid::from_u128(n), opening, tail }
    }

    fn open(disk: &SimDisk, max: usize) -> ConversationIndex<SimDisk> {
        ConversationIndex::open(disk.clone(), Path::new(JOURNAL), max)
    }

    fn found(index: &ConversationIndex<SimDisk>, opening: u64, tail: Option<u64>) -> Vec<u128> {
        index.find(opening, tail, 3).iter().map(Uuid::as_u128).collect()
    }

    fn bytes(disk: &SimDisk) -> usize {
        disk.peek(&layout::conversations(Path::new(JOURNAL))).unwrap().len()
    }

    #[test]
    fn conversations_are_found_newest_first_also_after_a_restart() {
        let disk = SimDisk::default();
        let index = open(&disk, 10);
        for (n, opening, tail) in [(1, 7, 0), (2, 7, 5), (3, 8, 6), (4, 7, 0), (5, 7, 0), (1, 7, 9)] {
            index.note(&print(n, opening, tail));
        }
        for index in [&index, &open(&disk, 10)] {
            assert_eq!(found(index, 7, None), [1, 5, 4], "of four the three newest");
            assert_eq!(found(index, 7, Some(5)), [2, 1, 5], "the end counts before the beginning");
            assert_eq!(
                (found(index, 0, Some(6)), found(index, 0, Some(0)), found(index, 9, None)),
                (vec![3], vec![], vec![])
            );
        }
    }

    #[test]
    fn the_newest_stay_and_the_file_does_not_grow_for_ever() {
        let disk = SimDisk::default();
        let index = open(&disk, 3);
        let longest = LETTERS.len() + (2 * 3 + OUTDATED_MIN + 2) * ENTRY_BYTES;
        for n in 0..5000 {
            index.note(&print(n, 7, 0));
            assert!(bytes(&disk) <= longest, "after {n}");
        }
        for index in [index, open(&disk, 3)] {
            assert_eq!(found(&index, 7, None), [4999, 4998, 4997]);
        }
    }

    #[test]
    fn nobody_waits_for_the_disk_and_what_is_noted_meanwhile_is_written() {
        let disk = SimDisk::default();
        let index = open(&disk, 10);
        disk.stall(Op::Sync, "");
        std::thread::scope(|scope| {
            scope.spawn(|| index.note(&print(1, 1, 0)));
            disk.wait_until_stalled();
            index.note(&print(2, 2, 0));
            index.note(&print(2, 2, 5));
            assert_eq!((found(&index, 1, None), found(&index, 0, Some(5))), (vec![1], vec![2]));
            disk.release();
        });
        index.note(&print(3, 3, 0));
        let index = open(&disk, 10);
        assert_eq!([1, 2, 3].map(|n| found(&index, n, None)), [[1], [2], [3]]);
        assert_eq!(found(&index, 0, Some(5)), [2], "in the order in which they were noted");
    }

    #[test]
    fn damage_costs_what_it_hits_and_the_next_change_is_found() {
        let path = layout::conversations(Path::new(JOURNAL));
        for at in 0..LETTERS.len() + 3 * ENTRY_BYTES {
            for is_cut in [false, true] {
                let disk = SimDisk::default();
                let index = open(&disk, 10);
                (1..=3).for_each(|n| index.note(&print(n, n as u64, 0)));
                drop(index);
                disk.damage(&path, |bytes| if is_cut { bytes.truncate(at) } else { bytes[at] ^= 1 });
                let index = open(&disk, 10);
                let known = (1..=3).filter(|n| found(&index, *n, None) == [u128::from(*n)]).count();
                let before = at.checked_sub(LETTERS.len()).map_or(0, |at| at / ENTRY_BYTES);
                let left = if at < LETTERS.len() {
                    0
                } else if is_cut {
                    before
                } else {
                    2
                };
                assert_eq!(known, left, "byte {at}, cut {is_cut}");
                index.note(&print(9, 9, 0));
                assert_eq!(found(&open(&disk, 10), 9, None), [9], "byte {at}, cut {is_cut}");
            }
        }
    }

    #[test]
    fn whatever_call_fails_what_is_found_was_noted_and_it_goes_on() {
        for fault in [Fault::Fail(io::ErrorKind::StorageFull), Fault::Short, Fault::PowerOff] {
            for at in 1..30 {
                let disk = SimDisk::default();
                disk.fault_at(at, fault);
                let index = open(&disk, 10);
                (1..=4).for_each(|n| index.note(&print(n, n as u64, 0)));
                assert!((1..=4).all(|n| found(&index, n, None) == [u128::from(n)]), "in memory all are there");
                disk.power_cut(&mut Random(at));
                let index = open(&disk, 10);
                assert!((1..=4).all(|n| found(&index, n, None).iter().all(|found| *found == u128::from(n))));
                index.note(&print(9, 9, 0));
                assert_eq!(found(&open(&disk, 10), 9, None), [9], "fault {at}");
            }
        }
    }
}
