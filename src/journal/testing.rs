//! What tests outside the journal may do to it: let time pass, sync at once, look at the stored checkpoint.
//!
//! Compiled under `#[cfg(test)]` only.

use super::*;

impl<D: Disk> Journal<D> {
    /// The moment is over for which appends are refused at once after a refusal.
    pub(crate) fn a_moment_later(&self) {
        self.shared.queue.lock().unwrap().refusing = None;
    }

    /// What `journal-sync` does every interval.
    pub(crate) fn sync_now(&self) {
        self.sync_outside();
    }
}

/// The checkpoint that stands on the disk, for the epoch of the segments that stand there.
pub(crate) fn stored_checkpoint<D: Disk>(disk: &D, folder: &std::path::Path) -> Checkpoint {
    let names = disk.list(folder).unwrap();
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    let epoch = numbers.iter().find_map(|number| {
        let bytes = crate::disk::read(disk, &segment::path(folder, *number)).unwrap();
        frame::SegmentHeader::decode(&bytes).ok().map(|header| header.epoch)
    });
    epoch.map_or_else(Checkpoint::default, |epoch| Checkpoint::load(disk, folder, epoch))
}
