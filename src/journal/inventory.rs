//! Which segments exist: reads every header, and rebuilds a damaged one.
//!
//! A whole segment depends on its header of 64 bytes, so their content is elsewhere too: in the segment's digest once
//! it is sealed, and the salt in every frame, under the frame's checksum. Only a file of which neither can be read is
//! set aside. No file is changed before every header was read: a newer format ends the start.

use std::io;
use std::path::PathBuf;

use crate::config::JournalConfig;
use crate::disk::{Disk, DiskFile};
use crate::layout;
use crate::message::Clock;

use super::checkpoint::Checkpoint;
use super::digest::Digest;
use super::error::{OpenError, at};
use super::frame::{HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::segment::{self, SegmentInfo};
use super::survey::{JournalFault, RecoveryWatch};
use super::{quarantine, salvage};

/// What a start works with.
pub struct Start<'a, D> {
    /// The journal's disk.
    pub disk: &'a D,
    /// The journal's folder and limits.
    pub config: &'a JournalConfig,
    /// Dates new segments.
    pub clock: &'a Clock,
}

/// The segments of a journal.
#[derive(Debug, Default)]
pub struct Inventory {
    /// All readable segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// The largest number in a file's name, readable or not.
    pub last_number: u64,
    /// The last file was set aside, and with it the sequences given there.
    pub lost_last: bool,
}

/// Makes the fault of a file that is set aside from the number of intact messages in it.
type Flaw = fn(u64) -> JournalFault;

/// An inventory in progress.
struct Taking<'a, 'w, D> {
    start: &'a Start<'a, D>,
    watch: &'a mut RecoveryWatch<'w>,
    found: Inventory,
    /// Numbers of files whose header is damaged.
    damaged: Vec<u64>,
    /// Numbers of files that are no segments of this journal, and why.
    others: Vec<(u64, Flaw)>,
}

/// Takes the inventory of a journal's folder, rebuilds headers, and removes what an interrupted operation left.
///
/// # Errors
/// [`OpenError`]: a file could not be read or repaired, or a later version wrote it. Repairs made so far stay; a start
/// may be tried again.
pub fn take<D: Disk>(start: &Start<'_, D>, watch: &mut RecoveryWatch<'_>) -> Result<Inventory, OpenError> {
    let (disk, folder) = (start.disk, &start.config.path);
    let names = disk.list(folder).map_err(at(folder))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    let found = Inventory { last_number: numbers.last().copied().unwrap_or(0), ..Inventory::default() };
    let mut taking = Taking { start, watch, found, damaged: Vec::new(), others: Vec::new() };
    for number in numbers {
        let looked = taking.look(number);
        taking.watch.pass(looked)?;
    }
    taking.tell_others_apart();
    for number in std::mem::take(&mut taking.damaged) {
        let mended = taking.mend(number);
        taking.watch.pass(mended.map_err(at(&segment::path(folder, number))))?;
    }
    for (number, fault) in std::mem::take(&mut taking.others) {
        let aside = taking.set_aside(number, fault);
        taking.watch.pass(aside.map_err(at(&segment::path(folder, number))))?;
    }
    let Taking { watch, found: mut inventory, .. } = taking;
    inventory.segments.sort_by_key(|info| info.header.number);
    for path in names.iter().filter(|name| name.ends_with(layout::UNFINISHED)).map(|name| folder.join(name)) {
        // Left by a crash before it got its name.
        watch.survey.files.leftovers += 1;
        watch.survey.files.leftover_bytes += disk.open_read(&path).and_then(|file| file.byte_len()).unwrap_or(0);
        watch.pass(disk.remove(&path).map_err(at(&path)))?;
    }
    watch.pass(segment::drop_used_spare(disk, folder).map_err(at(&layout::spare(folder))))?;
    Ok(inventory)
}

impl<D: Disk> Taking<'_, '_, D> {
    fn path(&self, number: u64) -> PathBuf {
        segment::path(&self.start.config.path, number)
    }

    /// Reads the header of segment `number`.
    fn look(&mut self, number: u64) -> Result<(), OpenError> {
        let path = self.path(number);
        let file = self.start.disk.open_read(&path).map_err(at(&path))?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut bytes, 0).map_err(at(&path))?;
        let file_bytes = file.byte_len().map_err(at(&path))?;
        self.watch.survey.files.bytes += file_bytes;
        match SegmentHeader::decode(&bytes[..read]) {
            Ok(header) if header.number == number => self.found.segments.push(SegmentInfo { header, file_bytes }),
            // A power cut gave a file the name of its next use. What it holds belongs to no segment.
            Ok(_) => self.others.push((number, JournalFault::OtherNumber)),
            Err(HeaderError::Damaged) => self.damaged.push(number),
            Err(source) => return Err(OpenError::Newer { path, source }),
        }
        Ok(())
    }

    /// Finds the segments of another journal. This journal's epoch is the checkpoint's, if a segment has that, else the
    /// last segment's. A segment of another epoch was put there by hand, and its sequences mean nothing here.
    fn tell_others_apart(&mut self) {
        let segments = &mut self.found.segments;
        let of_checkpoint = Checkpoint::epoch(self.start.disk, &self.start.config.path);
        let known = of_checkpoint.filter(|epoch| segments.iter().any(|info| info.header.epoch == *epoch));
        let Some(ours) = known.or_else(|| segments.last().map(|info| info.header.epoch)) else { return };
        let foreign = segments.extract_if(.., |info| info.header.epoch != ours);
        self.others.extend(foreign.map(|info| (info.header.number, JournalFault::OtherEpoch as Flaw)));
    }

    /// Rebuilds the header of segment `number` from the digest, or else from the first intact frame.
    ///
    /// In the second case the segment may have begun before that frame. What a failed segment before it holds from
    /// there on was refused, or is in both, so at worst a refused message comes back. If the first frame comes before
    /// the beginning of an earlier segment, it is left from an earlier use of the file, and no header is made.
    fn rebuilt(&self, number: u64) -> io::Result<Option<SegmentHeader>> {
        let Start { disk, config, clock } = self.start;
        let intact = &self.found.segments;
        let frame = salvage::first_frame(disk.open_read(&self.path(number))?)?;
        if let Some(header) = Digest::header_of(*disk, &config.path, number)
            && frame.is_none_or(|(salt, _)| salt == header.salt)
        {
            return Ok(Some(header));
        }
        let before = intact.iter().filter(|info| info.header.number < number);
        let before = before.map(|info| info.header.first_sequence).max().unwrap_or(0);
        let epoch = intact.first().map(|info| info.header.epoch).or_else(|| Checkpoint::epoch(*disk, &config.path));
        Ok(frame.filter(|(_, first)| *first >= before).map(|(salt, first_sequence)| {
            let made_micros = clock.now().micros();
            SegmentHeader {
                salt,
                epoch: epoch.unwrap_or_else(segment::random_u64),
                number,
                first_sequence,
                made_micros,
            }
        }))
    }

    /// Rebuilds a damaged header, or sets the file aside.
    fn mend(&mut self, number: u64) -> io::Result<()> {
        let Some(header) = self.rebuilt(number)? else { return self.set_aside(number, JournalFault::NoHeader) };
        let (path, folder) = (self.path(number), &self.start.config.path);
        self.watch.tell(&path, JournalFault::Header);
        let file = self.start.disk.open(&path)?;
        let (name, header_bytes) = (format!("header-{number:016}"), 0..SEGMENT_HEADER_BYTES as u64);
        let (aside, _) = quarantine::keep_range(self.start.disk, folder, &name, &file, header_bytes)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync()?;
        log::error!("the header of {} was damaged and is rebuilt; it was kept as {}", path.display(), aside.display());
        self.watch.survey.findings.rebuilt_headers += 1;
        self.found.segments.push(SegmentInfo { header, file_bytes: file.byte_len()? });
        Ok(())
    }

    /// Moves a file that cannot be used as a segment to the quarantine.
    fn set_aside(&mut self, number: u64, fault: Flaw) -> io::Result<()> {
        let path = self.path(number);
        self.watch.set_aside(self.start.disk, &path, fault)?;
        let aside = quarantine::take_segment(self.start.disk, &self.start.config.path, number)?;
        let (path, aside) = (path.display(), aside.display());
        log::error!("{path} is no segment of this journal that can be used: it is kept as {aside}");
        self.watch.survey.findings.lost_segments += 1;
        self.found.lost_last |= number == self.found.last_number;
        Ok(())
    }
}
