//! The folder `quarantine/` of the journal: copies of what a start takes out of a segment or steps over.
//!
//! | name | what |
//! |---|---|
//! | `tail-NUMBER-AT` | what stood behind the last intact frame of the last segment, from offset AT; zeroed there |
//! | `gap-NUMBER-AT` | a stretch of damage between intact frames; still stands there too |
//! | `header-NUMBER` | a damaged header, before it was rebuilt |
//! | `segment-NUMBER` | a whole file of which nothing could be read |
//!
//! A name that is taken by other bytes gets `-2`, `-3` and so on: no copy ever replaces another. Nothing here is read
//! again but by people and `chatkeep doctor`.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::disk::{self, Disk};

use super::{scan, segment};

/// The folder's name within the journal's.
pub const FOLDER: &str = "quarantine";

/// See the module.
pub struct Quarantine<'a, D> {
    disk: &'a D,
    journal: &'a Path,
}

impl<'a, D: Disk> Quarantine<'a, D> {
    /// The quarantine of the journal in that folder. It is made when something is put there.
    pub fn new(disk: &'a D, journal: &'a Path) -> Self {
        Self { disk, journal }
    }

    fn folder(&self) -> io::Result<PathBuf> {
        let folder = self.journal.join(FOLDER);
        disk::make_folder(self.disk, &folder)?;
        Ok(folder)
    }

    /// Keeps a copy of a stretch of segment `number`; the zeros at its end are left out. It is durable when this returns.
    /// Returns where it is and how long.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep_range(&self, what: &str, number: u64, file: &D::File, range: Range<u64>) -> io::Result<(PathBuf, u64)> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
        let read = scan::read_over_damage(file, &mut bytes, range.start)?;
        bytes.truncate(bytes[..read].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
        let path = self.keep(&format!("{what}-{number:016}-{}", range.start), &bytes)?;
        Ok((path, bytes.len() as u64))
    }

    /// Keeps those bytes, unless a copy of them is there under that name.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let folder = self.folder()?;
        let names = std::iter::once(name.to_owned()).chain((2..).map(|n: u64| format!("{name}-{n}")));
        for path in names.map(|name| folder.join(name)) {
            match disk::read(self.disk, &path) {
                Ok(there) if there == bytes => return Ok(path),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    disk::replace(self.disk, &path, bytes)?;
                    return Ok(path);
                }
                Err(e) => return Err(e),
            }
        }
        unreachable!("there is always another number")
    }

    /// Moves the file of segment `number` there, whole.
    ///
    /// # Errors
    /// The disk's.
    pub fn take_segment(&self, number: u64) -> io::Result<PathBuf> {
        let folder = self.folder()?;
        let mut aside = folder.join(format!("segment-{number:016}"));
        for n in 2.. {
            match self.disk.open_read(&aside) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
                Ok(_) => aside = folder.join(format!("segment-{number:016}-{n}")),
            }
        }
        self.disk.rename(&segment::path(self.journal, number), &aside)?;
        self.disk.sync_dir(&folder)?;
        self.disk.sync_dir(self.journal)?;
        Ok(aside)
    }
}
