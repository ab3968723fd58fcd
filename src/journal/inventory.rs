//! Which segments there are: every header read, a damaged one rebuilt from what else is known of its segment.
//!
//! A header is 64 bytes on which a whole segment depends, so what it says stands elsewhere too: in the segment's digest
//! once it is sealed, and the salt in every frame, whose checksum vouches for it. Only a file of which neither can be read
//! is set aside. Nothing is touched before every header was looked at: a newer format ends the start.

use std::io;
use std::path::Path;

use crate::disk::{Disk, DiskFile};
use crate::layout;
use crate::message::Clock;

use super::checkpoint::Checkpoint;
use super::digest::Digest;
use super::error::{OpenError, at};
use super::frame::{HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::segment::{self, SegmentInfo};
use super::survey::{Fault, Watch};
use super::{quarantine, salvage};

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
pub fn take<D: Disk>(disk: &D, folder: &Path, clock: &Clock, watch: &mut Watch<'_>) -> Result<Inventory, OpenError> {
    let names = disk.list(folder).map_err(at(folder))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    let mut inventory = Inventory { last_number: numbers.last().copied().unwrap_or(0), ..Inventory::default() };
    let mut damaged = Vec::new();
    for number in numbers {
        let found = header(disk, folder, number, watch);
        match watch.pass(found)? {
            Some(Header::Good(info)) => inventory.segments.push(info),
            Some(Header::Damaged) => damaged.push((number, true)),
            Some(Header::Another) => damaged.push((number, false)),
            None => {}
        }
    }
    if let Some(ours) = epoch(disk, folder, &inventory.segments) {
        let (segments, foreign) = inventory.segments.into_iter().partition(|info| info.header.epoch == ours);
        inventory.segments = segments;
        for info in foreign {
            let number = info.header.number;
            let aside = inventory.set_aside(disk, folder, number, watch, |messages| Fault::OtherEpoch { messages });
            watch.pass(aside.map_err(at(&segment::path(folder, number))))?;
        }
    }
    for (number, may_rebuild) in damaged {
        let mended = inventory.mend(disk, folder, number, clock, may_rebuild, watch);
        watch.pass(mended.map_err(at(&segment::path(folder, number))))?;
    }
    inventory.segments.sort_by_key(|info| info.header.number);
    for name in names.iter().filter(|name| name.ends_with(layout::UNFINISHED)) {
        // Left by a crash between making and naming it.
        watch.leftover(disk, &folder.join(name));
        watch.pass(disk.remove(&folder.join(name)).map_err(at(&folder.join(name))))?;
    }
    watch.pass(segment::drop_used_spare(disk, folder).map_err(at(&layout::spare(folder))))?;
    Ok(inventory)
}

/// The epoch of the journal in that folder, some of whose segments are `intact`: the checkpoint's, if one of them has it,
/// else the last one's. A segment of another was put there by somebody, and its sequences say nothing here.
fn epoch<D: Disk>(disk: &D, folder: &Path, intact: &[SegmentInfo]) -> Option<u64> {
    let of_checkpoint = Checkpoint::epoch(disk, folder);
    let known = of_checkpoint.filter(|epoch| intact.iter().any(|info| info.header.epoch == *epoch));
    known.or_else(|| intact.last().map(|info| info.header.epoch))
}

/// How a header was found.
enum Header {
    Good(SegmentInfo),
    Damaged,
    /// It names another number than the file: a power cut gave a file the name of its next life. What stands in it belongs
    /// to none.
    Another,
}

fn header<D: Disk>(disk: &D, folder: &Path, number: u64, watch: &mut Watch<'_>) -> Result<Header, OpenError> {
    let path = segment::path(folder, number);
    let file = disk.open_read(&path).map_err(at(&path))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(at(&path))?;
    let file_bytes = file.byte_len().map_err(at(&path))?;
    watch.file(file_bytes);
    match SegmentHeader::decode(&bytes[..read]) {
        Ok(header) if header.number == number => Ok(Header::Good(SegmentInfo { header, file_bytes })),
        Ok(_) => Ok(Header::Another),
        Err(HeaderError::Damaged) => Ok(Header::Damaged),
        Err(source @ HeaderError::Newer(_)) => Err(OpenError::Newer { path, source }),
    }
}

/// What the damaged header of segment `number` said: from the digest, or else from the first intact frame. `intact` are the
/// segments whose headers are.
///
/// In the second case the segment may have begun earlier than its first frame says; what a failed segment before it holds
/// from there on was refused or stands in both, so the worst is a refused message that comes back. A first frame that comes
/// before what an earlier segment begins with is of another life of the file, and nothing is made of it.
fn rebuilt<D: Disk>(
    disk: &D,
    folder: &Path,
    number: u64,
    intact: &[SegmentInfo],
    clock: &Clock,
) -> io::Result<Option<SegmentHeader>> {
    let frame = salvage::first_frame(&disk.open_read(&segment::path(folder, number))?)?;
    if let Some(header) = Digest::header_of(disk, folder, number)
        && frame.is_none_or(|(salt, _)| salt == header.salt)
    {
        return Ok(Some(header));
    }
    let before = intact.iter().filter(|info| info.header.number < number).map(|info| info.header.first_sequence).max();
    let epoch = intact.first().map(|info| info.header.epoch).or_else(|| Checkpoint::epoch(disk, folder));
    Ok(frame.filter(|(_, first)| before.is_none_or(|before| *first >= before)).map(|(salt, first_sequence)| {
        let made_micros = clock.now().micros();
        SegmentHeader { salt, epoch: epoch.unwrap_or_else(segment::random_u64), number, first_sequence, made_micros }
    }))
}

impl Inventory {
    /// Takes a file away that cannot be used as a segment.
    fn set_aside<D: Disk>(
        &mut self,
        disk: &D,
        folder: &Path,
        number: u64,
        watch: &mut Watch<'_>,
        fault: fn(u64) -> Fault,
    ) -> io::Result<()> {
        watch.set_aside(disk, &segment::path(folder, number), fault)?;
        let aside = quarantine::take_segment(disk, folder, number)?;
        let path = segment::path(folder, number);
        log::error!(
            "{} is no segment of this journal that can be used: it is kept as {}",
            path.display(),
            aside.display()
        );
        self.lost += 1;
        self.lost_last |= number == self.last_number;
        Ok(())
    }

    /// Rebuilds a header, or sets the file aside.
    fn mend<D: Disk>(
        &mut self,
        disk: &D,
        folder: &Path,
        number: u64,
        clock: &Clock,
        may_rebuild: bool,
        watch: &mut Watch<'_>,
    ) -> io::Result<()> {
        let path = segment::path(folder, number);
        let known = if may_rebuild { rebuilt(disk, folder, number, &self.segments, clock)? } else { None };
        let Some(header) = known else {
            let fault: fn(u64) -> Fault = match may_rebuild {
                true => |messages| Fault::Header { messages: Some(messages) },
                false => |messages| Fault::OtherNumber { messages },
            };
            return self.set_aside(disk, folder, number, watch, fault);
        };
        watch.rebuilt(&path);
        let file = disk.open(&path)?;
        let aside = quarantine::keep_header(disk, folder, number, &file, SEGMENT_HEADER_BYTES as u64)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync()?;
        log::error!("the header of {} was damaged and is rebuilt; it was kept as {}", path.display(), aside.display());
        self.rebuilt += 1;
        self.segments.push(SegmentInfo { header, file_bytes: file.byte_len()? });
        Ok(())
    }
}
