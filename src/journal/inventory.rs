//! Which segments there are: every header read, a damaged one rebuilt from what else is known of its segment.
//!
//! A header is 64 bytes on which a whole segment depends, so what it says stands elsewhere too: in the segment's digest
//! once it is sealed, and the salt in every frame, whose checksum vouches for it. Only a file of which neither can be read
//! is set aside. Nothing is touched before every header was looked at: a newer format ends the start.

use std::io;
use std::path::Path;

use crate::disk::{Disk, DiskFile};
use crate::message::Clock;

use super::checkpoint::Checkpoint;
use super::digest::Digest;
use super::frame::{HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::quarantine::Quarantine;
use super::recovery::{OpenError, at};
use super::segment::{self, SegmentInfo};
use super::{random_u64, scan};

/// What was found.
#[derive(Debug, Default)]
pub struct Inventory {
    /// All that can be read, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// The largest number a file had, readable or not.
    pub last_number: u64,
    /// The last file was set aside, and with it the sequences given there.
    pub lost_last: bool,
    /// Files set aside.
    pub lost: u64,
    /// Headers that were damaged and rebuilt.
    pub rebuilt: u64,
}

/// Takes the inventory of a journal's folder, mends headers, and removes what a stop in the middle of something left.
///
/// # Errors
/// [`OpenError`].
pub fn take<D: Disk>(disk: &D, folder: &Path, clock: &Clock) -> Result<Inventory, OpenError> {
    let names = disk.list(folder).map_err(at(folder))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    let mut inventory = Inventory { last_number: numbers.last().copied().unwrap_or(0), ..Inventory::default() };
    let mut damaged = Vec::new();
    for number in numbers {
        match header(disk, folder, number)? {
            Some(info) => inventory.segments.push(info),
            None => damaged.push(number),
        }
    }
    for number in damaged {
        inventory.mend(disk, folder, number, clock).map_err(at(&segment::path(folder, number)))?;
    }
    inventory.segments.sort_by_key(|info| info.header.number);
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        // Left by a crash between making and naming it.
        disk.remove(&folder.join(name)).map_err(at(folder))?;
    }
    segment::drop_used_spare(disk, folder).map_err(at(folder))?;
    Ok(inventory)
}

/// One header; `None` when it is damaged, or is another segment's.
fn header<D: Disk>(disk: &D, folder: &Path, number: u64) -> Result<Option<SegmentInfo>, OpenError> {
    let path = segment::path(folder, number);
    let file = disk.open_read(&path).map_err(at(&path))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(at(&path))?;
    match SegmentHeader::decode(&bytes[..read]) {
        Ok(header) if header.number == number => {
            Ok(Some(SegmentInfo { header, file_bytes: file.byte_len().map_err(at(&path))? }))
        }
        Err(source @ HeaderError::Newer(_)) => Err(OpenError::Newer { path, source }),
        Ok(_) | Err(HeaderError::Damaged) => Ok(None),
    }
}

impl Inventory {
    /// Rebuilds a header, or sets the file aside.
    fn mend<D: Disk>(&mut self, disk: &D, folder: &Path, number: u64, clock: &Clock) -> io::Result<()> {
        let path = segment::path(folder, number);
        let quarantine = Quarantine::new(disk, folder);
        let file = disk.open(&path)?;
        let Some(header) = self.known_elsewhere(disk, folder, number, &file, clock)? else {
            drop(file);
            let aside = quarantine.take_segment(number)?;
            log::error!("nothing in {} can be read: the file is kept as {}", path.display(), aside.display());
            self.lost += 1;
            self.lost_last |= number == self.last_number;
            return Ok(());
        };
        let mut damaged = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut damaged, 0)?;
        let aside = quarantine.keep(&format!("header-{number:016}"), &damaged[..read])?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync()?;
        log::error!("the header of {} was damaged and is rebuilt; it was kept as {}", path.display(), aside.display());
        self.rebuilt += 1;
        self.segments.push(SegmentInfo { header, file_bytes: file.byte_len()? });
        Ok(())
    }

    /// What the header said: from the digest, or else from the first intact frame. In the second case the segment may have
    /// begun earlier than its first frame says; what a failed segment before it holds from there on was refused or stands
    /// in both, so the worst is a refused message that comes back.
    fn known_elsewhere<D: Disk>(
        &self,
        disk: &D,
        folder: &Path,
        number: u64,
        file: &D::File,
        clock: &Clock,
    ) -> io::Result<Option<SegmentHeader>> {
        let frame = scan::find_any_frame(file)?;
        if let Some(header) = Digest::header_of(disk, folder, number)
            && frame.is_none_or(|(salt, _)| salt == header.salt)
        {
            return Ok(Some(header));
        }
        let epoch = self.segments.first().map(|info| info.header.epoch);
        let epoch = epoch.or_else(|| Checkpoint::epoch(disk, folder));
        Ok(frame.map(|(salt, first_sequence)| SegmentHeader {
            salt,
            epoch: epoch.unwrap_or_else(random_u64),
            number,
            first_sequence,
            made_micros: clock.now().micros(),
        }))
    }
}
