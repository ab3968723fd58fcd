//! The checkpoint: the sequence up to which everything has arrived at its destinations.
//!
//! One small file, replaced whole. Numbers are little-endian. Format version 1:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CKCHKPNT` |
//! | 8 | 4 | format version |
//! | 12 | 4 | bit 0: MongoDB lacks records after `drained`; bit 1: MongoDB has every record up to there; else zero |
//! | 16 | 8 | epoch of the journal it belongs to |
//! | 24 | 8 | `drained`: the sink has everything up to this sequence |
//! | 32 | 8 | `transcribed`: the transcripts hold everything up to this sequence, synced |
//! | 40 | 16 | the largest id given so far, or zeros |
//! | 56 | 4 | zero |
//! | 60 | 4 | CRC-32 of bytes 0..60 |
//!
//! A missing, damaged or foreign checkpoint means "from the start": everything is then looked at again, and nothing is lost.
//! It is not known then whether MongoDB lacked something, so that is taken for granted (where there was one:
//! `worker/pending_erasures.rs`).

use std::io;
use std::path::Path;

use crate::disk::{self, Disk};
use crate::layout::checkpoint as path;
use crate::message::Id;

use super::codec::{Encoded, sealed, vouched_for};

const LETTERS: &[u8; 8] = b"CKCHKPNT";
const VERSION: u32 = 1;
const BYTES: usize = 64;
const MONGO_LACKS_SOME: u32 = 1;
const MONGO_HAS_ALL: u32 = 2;

/// What the checkpoint's file holds; see the table above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The sink has everything up to this sequence.
    pub drained: u64,
    /// The transcripts hold everything up to this sequence, synced.
    pub transcribed: u64,
    /// The largest id given so far.
    pub largest_id: Option<Id>,
    /// MongoDB lacks records after `drained`, some of which were recorded while it was enabled. Without this a start
    /// with MongoDB disabled could not tell a backlog from records that an ordinary crash left to be transcribed.
    pub mongo_lacks_some: bool,
    /// Everything that was ever recorded here up to `drained` was stored in MongoDB: it was in use from the beginning.
    pub mongo_has_all: bool,
}

/// The state of the checkpoint's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredCheckpoint {
    /// There is no file.
    #[default]
    Missing,
    /// The file is no checkpoint, or cannot be read.
    Damaged,
    /// The checkpoint of another journal; only its largest id is used.
    Foreign {
        /// The largest id given by that journal.
        largest_id: Option<Id>,
    },
    /// The checkpoint of this journal.
    Ours(Checkpoint),
}

impl StoredCheckpoint {
    /// Reads the checkpoint in `folder` for the journal of that epoch.
    pub(super) fn of<D: Disk>(disk: &D, folder: &Path, epoch: u64) -> Self {
        let why = match disk::read(disk, &path(folder)) {
            Ok(bytes) => match Checkpoint::decode(&bytes) {
                Some((of, checkpoint)) if of == epoch => return Self::Ours(checkpoint),
                Some((_, Checkpoint { largest_id, .. })) => return Self::Foreign { largest_id },
                None => "it is damaged".to_owned(),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Self::Missing,
            Err(e) => e.to_string(),
        };
        log::warn!("cannot read the journal's checkpoint ({why}): the start reads everything that is kept");
        Self::Damaged
    }

    /// The checkpoint to start from: from the beginning if there is none to be trusted.
    pub(super) fn checkpoint(self) -> Checkpoint {
        let unknown = Checkpoint { mongo_lacks_some: true, ..Checkpoint::default() };
        match self {
            Self::Missing | Self::Damaged => unknown,
            // Ids rise, even over different journals.
            Self::Foreign { largest_id } => Checkpoint { largest_id, ..unknown },
            Self::Ours(checkpoint) => checkpoint,
        }
    }
}

impl Checkpoint {
    pub(super) fn encode(&self, epoch: u64) -> Vec<u8> {
        let flag = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        let flags = flag(self.mongo_lacks_some, MONGO_LACKS_SOME) | flag(self.mongo_has_all, MONGO_HAS_ALL);
        sealed(LETTERS, VERSION, BYTES, |to| {
            (flags, epoch, self.drained, self.transcribed, self.largest_id).put(to);
        })
    }

    /// The epoch of the journal it belongs to, and the checkpoint.
    pub(super) fn decode(bytes: &[u8]) -> Option<(u64, Self)> {
        let (_, mut fields) =
            vouched_for(LETTERS, bytes).filter(|(version, _)| *version == VERSION && bytes.len() == BYTES)?;
        let (flags, epoch, drained, transcribed, largest_id): (u32, _, _, _, _) = Encoded::take(&mut fields)?;
        let is_set = |bit: u32| flags & bit != 0;
        let (mongo_lacks_some, mongo_has_all) = (is_set(MONGO_LACKS_SOME), is_set(MONGO_HAS_ALL));
        Some((epoch, Self { drained, transcribed, largest_id, mongo_lacks_some, mongo_has_all }))
    }

    /// The epoch of the journal that the checkpoint in `folder` belongs to.
    pub fn epoch<D: Disk>(disk: &D, folder: &Path) -> Option<u64> {
        Self::decode(&disk::read(disk, &path(folder)).ok()?).map(|(epoch, _)| epoch)
    }

    /// Replaces the checkpoint; it is on disk when this returns.
    ///
    /// # Errors
    /// The disk failed. The old checkpoint still stands, unless only the folder's sync failed; a retry is safe.
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
        let (drained, transcribed, mongo_lacks_some, mongo_has_all) = (7, 9, true, true);
        Checkpoint { drained, transcribed, largest_id: Some(id), mongo_lacks_some, mongo_has_all }
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let unknown = Checkpoint { mongo_lacks_some: true, ..Checkpoint::default() };
        assert_eq!(StoredCheckpoint::of(&RealDisk, folder.path(), 1).checkpoint(), unknown);
        sample().store(&RealDisk, folder.path(), 1).unwrap();
        assert_eq!(StoredCheckpoint::of(&RealDisk, folder.path(), 1).checkpoint(), sample());
        assert_eq!(Checkpoint::epoch(&RealDisk, folder.path()), Some(1));
        std::fs::write(path(folder.path()), "not one").unwrap();
        assert_eq!(StoredCheckpoint::of(&RealDisk, folder.path(), 1).checkpoint(), unknown);
    }

    #[test]
    fn a_damaged_cut_or_foreign_checkpoint_means_from_the_start() {
        let bytes = sample().encode(1);
        let folder = tempfile::tempdir().unwrap();
        sample().store(&RealDisk, folder.path(), 1).unwrap();
        let foreign = StoredCheckpoint::of(&RealDisk, folder.path(), 2).checkpoint();
        assert_eq!(foreign, Checkpoint { drained: 0, transcribed: 0, mongo_has_all: false, ..sample() });
        for at in 0..BYTES {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Checkpoint::decode(&damaged), None, "byte {at}");
            assert_eq!(Checkpoint::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
