//! Copies the transcripts for a backup, while they are written to.
//!
//! A transcript is copied from the file that is open, up to its last whole line; what comes later stands in the journal, which
//! is copied after them. The noted lengths of the copies are their own. Knows nothing of journals.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::disk::{self, Disk, DiskFile};
use crate::layout;
use crate::message::SessionId;

use super::lengths::{self, KnownLength};

/// Copies the transcripts in `folder`, with their lengths noted in the file `noted`, to the folder and the file `to`. Returns
/// their number and bytes. Nothing is synced.
///
/// # Errors
/// A file could not be read or written.
pub fn copy_all<D: Disk>(disk: &D, (folder, noted): (&Path, &Path), to: (&Path, &Path)) -> io::Result<(u64, u64)> {
    disk.create(&layout::marker(to.0))?;
    let (mut lengths, mut copied) = (HashMap::new(), (0, 0));
    for name in disk.list(folder)? {
        let Some(session) = SessionId::from_file_name(&name) else { continue };
        let bytes = match disk::copy_lines(disk, &folder.join(&name), &to.0.join(&name)) {
            // Erased, or expired, since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        if bytes == 0 {
            disk.remove(&to.0.join(&name))?;
            continue;
        }
        lengths.insert(session, KnownLength { bytes, lost: None });
        copied = (copied.0 + 1, copied.1 + bytes);
    }
    // Of what is lost there is no other trace. A file that cannot be read knows nothing, as at a start.
    for (session, known) in lengths::look(disk, noted).unwrap_or_default() {
        if known.lost.is_some() {
            let copy = lengths.entry(session).or_default();
            let bytes = if known.bytes == u64::MAX { known.bytes } else { copy.bytes };
            *copy = KnownLength { bytes, lost: known.lost };
        }
    }
    disk.create(to.1)?.write_all_at(lengths::lines(&lengths).as_bytes(), 0)?;
    Ok(copied)
}
