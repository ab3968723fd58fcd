//! The folder `quarantine/` of the journal: copies of what a start takes out of a segment or steps over.
//!
//! | name | what |
//! |---|---|
//! | `tail-NUMBER-AT` | the bytes after the last intact frame of the last segment, from offset AT; zeroed there |
//! | `gap-NUMBER-AT` | a stretch of damage between intact frames; the segment keeps it too |
//! | `header-NUMBER` | a damaged header, before it was rebuilt |
//! | `segment-NUMBER` | a whole file of which nothing could be read |
//!
//! A name that is taken by other bytes gets `.2`, `.3` and so on (`disk/aside.rs`). Nothing here is read again but by people
//! and `chatkeep doctor`.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, aside};
use crate::layout;

use super::scan::{read_over_damage, used_bytes};

/// Copies a stretch of a segment to the quarantine under that name, without the zeros at its end. The copy is durable
/// when this returns. Returns its path and length in bytes.
///
/// # Errors
/// The segment could not be read, or the copy not written. The segment is unchanged; a copy may remain, perhaps
/// unfinished.
pub fn keep_range<D: Disk>(
    disk: &D,
    folder: &Path,
    name: &str,
    file: &D::File,
    range: Range<u64>,
) -> io::Result<(PathBuf, u64)> {
    let len = used_bytes(file, range.clone())?;
    let read = |to: &mut [u8], at: u64| read_over_damage(file, to, range.start + at);
    Ok((aside::keep(disk, &layout::quarantine(folder), name, &read, len)?, len))
}

/// Moves the file of segment `number` to the quarantine.
///
/// # Errors
/// The file could not be moved; or the move was not made durable, and the file is in the quarantine already.
pub fn take_segment<D: Disk>(disk: &D, folder: &Path, number: u64) -> io::Result<PathBuf> {
    let name = format!("segment-{number:016}");
    aside::take(disk, &layout::quarantine(folder), &name, &layout::segment(folder, number))
}
