//! The checkpoint: up to which sequence everything has arrived where it was to go.
//!
//! One small file, replaced whole. Numbers are little-endian. Format version 1:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CKCHKPNT` |
//! | 8 | 4 | format version |
//! | 12 | 4 | bit 0: what lies behind `drained` is owed to MongoDB; the others zero |
//! | 16 | 8 | epoch of the journal it belongs to |
//! | 24 | 8 | `drained`: the sink has everything up to this sequence |
//! | 32 | 8 | `transcribed`: the transcripts hold everything up to this sequence, synced |
//! | 40 | 16 | the largest id given so far, or zeros |
//! | 56 | 4 | zero |
//! | 60 | 4 | CRC-32 of bytes 0..60 |
//!
//! A missing, damaged or foreign checkpoint means "from the start": everything is then looked at again, and nothing is lost.
//! It is not known then whether something was owed to MongoDB, so that is taken for granted (where there was one:
//! `worker/pending_erasures.rs`).

use std::io;
use std::path::Path;

use crate::disk::{self, Disk};
use crate::layout::checkpoint as path;
use crate::message::Id;

const MAGIC: &[u8; 8] = b"CKCHKPNT";
const VERSION: u32 = 1;
const BYTES: usize = 64;
const OWES_MONGO: u32 = 1;

/// See the module's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The sink has everything up to this sequence.
    pub drained: u64,
    /// The transcripts hold everything up to this sequence, synced.
    pub transcribed: u64,
    /// The largest id given so far.
    pub largest_id: Option<Id>,
    /// What lies behind `drained` is owed to MongoDB, which was in use when something of it was recorded. Without this a
    /// start with MongoDB switched off could not tell a backlog from what an ordinary crash left to be transcribed.
    pub owes_mongo: bool,
}

/// What stands where the checkpoint should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    #[default]
    Missing,
    /// Something that is no checkpoint, or cannot be read.
    Damaged,
    /// The checkpoint of another journal.
    Foreign,
    /// This journal's.
    Ours(Checkpoint),
}

impl Checkpoint {
    pub(super) fn encode(&self, epoch: u64) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let flags = if self.owes_mongo { OWES_MONGO } else { 0 };
        bytes[12..16].copy_from_slice(&flags.to_le_bytes());
        bytes[16..24].copy_from_slice(&epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.drained.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.transcribed.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.largest_id.map_or([0; 16], Id::to_bytes));
        let checksum = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], epoch: u64) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let known = bytes.len() == BYTES
            && &bytes[0..8] == MAGIC
            && bytes[8..12] == VERSION.to_le_bytes()
            && bytes[60..64] == crc32fast::hash(&bytes[..60]).to_le_bytes();
        // Of another journal only the id counts: ids rise, whatever became of the journal they were given by.
        let ours = || number(16) == epoch;
        let of = |at| if ours() { number(at) } else { 0 };
        known.then(|| Self {
            drained: of(24),
            transcribed: of(32),
            largest_id: Id::from_bytes(bytes[40..56].try_into().expect("sixteen bytes")).ok(),
            owes_mongo: !ours() || bytes[12..16] == OWES_MONGO.to_le_bytes(),
        })
    }

    /// Looks at the checkpoint and judges nothing.
    pub(super) fn standing<D: Disk>(disk: &D, folder: &Path, epoch: u64) -> Standing {
        match disk::read(disk, &path(folder)) {
            Ok(bytes) => match Self::decode(&bytes, epoch) {
                Some(_) if bytes[16..24] != epoch.to_le_bytes() => Standing::Foreign,
                Some(checkpoint) => Standing::Ours(checkpoint),
                None => Standing::Damaged,
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Standing::Missing,
            Err(_) => Standing::Damaged,
        }
    }

    /// Nobody knows what it said.
    fn unknown() -> Self {
        Self { owes_mongo: true, ..Self::default() }
    }

    /// Reads the checkpoint of the journal with that epoch; "from the start" when there is none to be trusted.
    pub fn load<D: Disk>(disk: &D, folder: &Path, epoch: u64) -> Self {
        match disk::read(disk, &path(folder)) {
            Ok(bytes) => Self::decode(&bytes, epoch).unwrap_or_else(|| {
                log::warn!("the journal's checkpoint is unreadable: everything kept is looked at again");
                Self::unknown()
            }),
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    log::warn!("the journal's checkpoint cannot be read ({e}): everything kept is looked at again");
                }
                Self::unknown()
            }
        }
    }

    /// The epoch of the journal that the checkpoint in `folder` belongs to.
    pub fn epoch<D: Disk>(disk: &D, folder: &Path) -> Option<u64> {
        let bytes = disk::read(disk, &path(folder)).ok()?;
        Self::decode(&bytes, 0)?;
        Some(u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")))
    }

    /// Replaces the checkpoint; it is on disk when this returns.
    ///
    /// # Errors
    /// The disk's; the old checkpoint still stands.
    pub fn store<D: Disk>(&self, disk: &D, folder: &Path, epoch: u64) -> io::Result<()> {
        disk::replace(disk, &path(folder), &self.encode(epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::message::Timestamp;

    fn sample() -> Checkpoint {
        let id = Id::from_parts(Timestamp::from_micros(1_764_292_425_123_456), 5);
        Checkpoint { drained: 7, transcribed: 9, largest_id: Some(id), owes_mongo: true }
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let unknown = Checkpoint { owes_mongo: true, ..Checkpoint::default() };
        assert_eq!(Checkpoint::load(&RealDisk, folder.path(), 1), unknown);
        sample().store(&RealDisk, folder.path(), 1).unwrap();
        assert_eq!(Checkpoint::load(&RealDisk, folder.path(), 1), sample());
        assert_eq!(Checkpoint::epoch(&RealDisk, folder.path()), Some(1));
        std::fs::write(path(folder.path()), "not one").unwrap();
        assert_eq!(Checkpoint::load(&RealDisk, folder.path(), 1), unknown);
    }

    #[test]
    fn a_damaged_cut_or_foreign_checkpoint_means_from_the_start() {
        let bytes = sample().encode(1);
        let foreign = Checkpoint::decode(&bytes, 2).unwrap();
        assert_eq!(foreign, Checkpoint { drained: 0, transcribed: 0, ..sample() });
        for at in 0..BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(Checkpoint::decode(&damaged, 1), None, "byte {at}");
            assert_eq!(Checkpoint::decode(&bytes[..at], 1), None, "cut at {at}");
        }
    }
}
