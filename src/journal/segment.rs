//! The segment files: their names, how one is made, and the spare that is zeroed in advance.
//!
//! A segment is filled with zeros before its first frame: so a full disk shows when the file is made and not in the
//! middle of a batch, and a sync of frames changes no metadata, which makes it fast. The zeroing happens in the
//! background, into a spare file.
//!
//! Knows nothing of batches or records.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::layout;
use crate::message::Clock;

use super::frame::{SEGMENT_HEADER_BYTES, SegmentHeader};

pub use crate::layout::{number_of_segment as number_of, segment as path};

/// Bytes of one write of zeros.
const ZEROS_BYTES: u64 = 256 * 1024;
/// Bytes at the end of every segment that only erasures may take, so that a session can be erased on a full disk and at
/// `journal.max_bytes`: some 600 of them. When they are used up too, an erasure is refused like a message.
const ERASURE_BYTES: u64 = 64 * 1024;
/// Of a small segment this part, so that most of it is left for messages.
const ERASURE_PART: u64 = 16;

/// One segment in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its header.
    pub header: SegmentHeader,
    /// The file's length, in bytes.
    pub file_bytes: u64,
}

/// The open segment.
pub struct Segment<F> {
    /// Its header.
    pub header: SegmentHeader,
    /// Its file.
    pub file: Arc<F>,
    /// The file's length, in bytes: no frame may reach beyond it.
    pub file_bytes: u64,
    /// Where the next frame goes, in bytes from the file's beginning.
    pub offset: u64,
}

impl<F> Segment<F> {
    /// How many bytes of frames still fit.
    pub fn room(&self) -> u64 {
        self.file_bytes.saturating_sub(self.offset)
    }

    /// How many of them are kept for erasures.
    pub fn kept_for_erasures(&self) -> u64 {
        (self.file_bytes / ERASURE_PART).min(ERASURE_BYTES)
    }
}

/// The least length of a segment that takes so many bytes of frames, whatever they hold.
pub fn least_bytes(frames: u64) -> u64 {
    let least = frames + SEGMENT_HEADER_BYTES as u64;
    least + (least / (ERASURE_PART - 1) + 1).min(ERASURE_BYTES)
}

/// The first sequence that belongs to a later segment than `number`.
pub fn bound(segments: &[SegmentInfo], number: u64) -> u64 {
    let later = segments.iter().rev().take_while(|info| info.header.number > number);
    later.map(|info| info.header.first_sequence).min().unwrap_or(u64::MAX)
}

/// A header with a salt of its own.
pub fn new_header(clock: &Clock, epoch: u64, number: u64, first_sequence: u64) -> SegmentHeader {
    let salt = u32::try_from(random_u64() >> 32).expect("32 bits").max(1);
    SegmentHeader { salt, epoch, number, first_sequence, made_micros: clock.now().micros() }
}

/// A random number from the system.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    u64::from_le_bytes(bytes)
}

/// A segment without its final name: it is full of zeros already, and a start does not find it.
pub struct Unnamed<F> {
    /// The segment.
    pub segment: Segment<F>,
    temporary: PathBuf,
}

/// Makes a segment of `file_bytes`, from the spare if one of that size exists.
///
/// # Errors
/// The disk failed, most often because it is full. The unfinished file is removed, if the disk allows it.
pub fn prepare<D: Disk>(
    disk: &D,
    folder: &Path,
    header: SegmentHeader,
    file_bytes: u64,
) -> io::Result<Unnamed<D::File>> {
    let spare = layout::spare(folder);
    let temporary = layout::unnamed_segment(folder, header.number);
    let file = match disk.open(&spare).and_then(|file| file.byte_len().map(|len| (file, len))) {
        Ok((file, len)) if len == file_bytes => {
            disk.rename(&spare, &temporary)?;
            file
        }
        _ => zeroed(disk, &temporary, file_bytes)?,
    };
    let segment = Segment { header, file: Arc::new(file), file_bytes, offset: SEGMENT_HEADER_BYTES as u64 };
    let unnamed = Unnamed { segment, temporary };
    match unnamed.segment.file.write_all_at(&header.encode(), 0) {
        Ok(()) => Ok(unnamed),
        Err(e) => {
            unnamed.discard(disk);
            Err(e)
        }
    }
}

impl<F: DiskFile> Unnamed<F> {
    /// Gives it its name. Its first frames must be written by then: from here on a start counts it, and the segments
    /// before it end where it begins. If `durable`, all of it is on disk when this returns.
    ///
    /// # Errors
    /// The sync or the rename failed. The file is removed, if the disk allows it; a retry needs a newly prepared
    /// segment.
    pub fn name<D: Disk<File = F>>(self, disk: &D, folder: &Path, durable: bool) -> io::Result<Segment<F>> {
        let name = path(folder, self.segment.header.number);
        match self.try_name(disk, folder, &name, durable) {
            Ok(()) => Ok(self.segment),
            Err(e) => {
                // The next try takes another number, so files left by failed tries would fill the disk without being
                // listed. And a start would trust the first sequence of such a file.
                let _ = disk.remove(&name);
                self.discard(disk);
                Err(e)
            }
        }
    }

    fn try_name<D: Disk<File = F>>(&self, disk: &D, folder: &Path, name: &Path, durable: bool) -> io::Result<()> {
        if durable {
            self.segment.file.sync()?;
        }
        disk.rename(&self.temporary, name)?;
        if durable { disk.sync_dir(folder) } else { Ok(()) }
    }

    /// Removes it.
    pub fn discard<D: Disk<File = F>>(self, disk: &D) {
        // A start removes files with such a name.
        let _ = disk.remove(&self.temporary);
    }
}

/// Makes the spare, unless one of that size exists. It gets its name only when it is whole and synced.
///
/// # Errors
/// The spare could not be written or renamed. The next segment is then zeroed when it is made; a retry is safe.
pub fn prepare_spare<D: Disk>(disk: &D, folder: &Path, file_bytes: u64) -> io::Result<()> {
    let spare = layout::spare(folder);
    if disk.open_read(&spare).and_then(|file| file.byte_len()).is_ok_and(|len| len == file_bytes) {
        return Ok(());
    }
    let temporary = layout::unfinished(&spare);
    zeroed(disk, &temporary, file_bytes)?.sync()?;
    disk.rename(&temporary, &spare)
}

/// Gives the spare another name and its own back: what the next segment will need of the folder.
///
/// # Errors
/// The folder does not allow it, or the spare was just taken. The spare may be left under the other name, which a start
/// removes; a retry is safe.
pub fn rename_spare<D: Disk>(disk: &D, folder: &Path) -> io::Result<()> {
    let (spare, other) = (layout::spare(folder), layout::unfinished(&layout::spare(folder)));
    disk.rename(&spare, &other)?;
    disk.rename(&other, &spare)?;
    disk.sync_dir(folder)
}

/// Removes a spare that was in use once: a power cut can give a segment its old name back.
///
/// # Errors
/// The spare could not be read or removed, and still exists; a retry is safe.
pub fn drop_used_spare<D: Disk>(disk: &D, folder: &Path) -> io::Result<()> {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    match disk.open_read(&layout::spare(folder)).and_then(|file| file.read_at(&mut header, 0)) {
        Ok(_) if header == [0; SEGMENT_HEADER_BYTES] => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => drop_spare(disk, folder),
        Err(e) => Err(e),
    }
}

/// Removes the spare, because its space is needed.
///
/// # Errors
/// The spare could not be removed; a retry is safe. [`io::ErrorKind::NotFound`] if there is none.
pub fn drop_spare<D: Disk>(disk: &D, folder: &Path) -> io::Result<()> {
    disk.remove(&layout::spare(folder))
}

fn zeroed<D: Disk>(disk: &D, path: &Path, file_bytes: u64) -> io::Result<D::File> {
    let file = disk.create(path)?;
    match zero(&file, 0, file_bytes) {
        Ok(()) => Ok(file),
        Err(e) => {
            // An unfinished file of zeros would only take space.
            let _ = disk.remove(path);
            Err(e)
        }
    }
}

/// Writes zeros from `from` up to `to`.
pub fn zero<F: DiskFile>(file: &F, from: u64, to: u64) -> io::Result<()> {
    // Zeroed pages that are never touched take no memory; a constant would add its length to the binary.
    let zeros = vec![0; usize::try_from((to - from).min(ZEROS_BYTES)).expect("a small number")];
    let mut at = from;
    while at < to {
        let count = (to - at).min(ZEROS_BYTES);
        file.write_all_at(&zeros[..count as usize], at)?;
        at += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    const HEADER: SegmentHeader = SegmentHeader { salt: 1, epoch: 2, number: 3, first_sequence: 4, made_micros: 5 };

    #[test]
    fn a_segment_takes_the_spare_and_has_its_size() {
        let folder = tempfile::tempdir().unwrap();
        prepare_spare(&RealDisk, folder.path(), 1 << 20).unwrap();
        assert!(layout::spare(folder.path()).exists());
        let made = prepare(&RealDisk, folder.path(), HEADER, 1 << 20).unwrap();
        let segment = made.name(&RealDisk, folder.path(), true).unwrap();
        assert!(!layout::spare(folder.path()).exists());
        assert_eq!(segment.file.byte_len().unwrap(), 1 << 20);
        assert_eq!((segment.room(), segment.kept_for_erasures()), ((1 << 20) - 64, 64 << 10));
        let bytes = std::fs::read(path(folder.path(), 3)).unwrap();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
        assert!(bytes[64..].iter().all(|&b| b == 0));
    }

    #[test]
    fn the_least_segment_holds_what_it_is_made_for_beside_the_part_for_erasures() {
        for frames in [0, 1, 100, 10_000, 1 << 20, 100 << 20] {
            let file_bytes = least_bytes(frames);
            let segment =
                Segment { header: HEADER, file: Arc::new(()), file_bytes, offset: SEGMENT_HEADER_BYTES as u64 };
            assert!(segment.room() - segment.kept_for_erasures() >= frames, "{frames}");
        }
    }

    #[test]
    fn a_segment_without_a_spare_or_with_a_wrong_one_is_made_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(layout::spare(folder.path()), b"short").unwrap();
        let segment = prepare(&RealDisk, folder.path(), HEADER, 100_000).unwrap().segment;
        assert_eq!(segment.file.byte_len().unwrap(), 100_000);
    }
}
