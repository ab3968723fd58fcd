//! Copies the transcripts for a backup, while they are written to.
//!
//! A transcript is copied from the file that is open, up to its last whole line; what comes later stands in the journal, which
//! is copied after them. The noted length of a copy is its own. But if the transcript was shorter than noted, or its loss was
//! noticed and not yet searched for in the journal, it is the length that the transcript had: a server that starts with the
//! copy notices the loss, and searches the copied journal.
//!
//! The noted lengths are read before the transcripts are copied and again afterwards. A sweep or a rebuild notes 0 before it
//! makes a file shorter, so the file had at least the smaller length whenever it was copied. An erasure notes 0 later, but
//! before the checkpoint passes it: the copied journal has it, and a start compares no length of an erased session.
//!
//! Knows nothing of journals.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use crate::disk::{self, Disk, DiskFile};
use crate::layout;
use crate::message::SessionId;

use super::lengths::{self, KnownLength};

/// The lengths of a transcript that was copied, in bytes.
#[derive(Clone, Copy, Default)]
struct CopiedTranscript {
    /// Its length just before: also more than that of the copy if its last line is unfinished.
    source: u64,
    /// The length of the copy.
    copy: u64,
}

/// Copies the transcripts in `folder`, with their lengths noted in the file `noted`, to the folder and the file `to`. Returns
/// their number and bytes. Nothing is synced.
///
/// # Errors
/// A file could not be read or written.
pub fn copy_all<D: Disk>(disk: &D, (folder, noted): (&Path, &Path), to: (&Path, &Path)) -> io::Result<(u64, u64)> {
    disk.create(&layout::marker(to.0))?;
    // A file that cannot be read knows nothing, as at a start.
    let look = || lengths::look(disk, noted).unwrap_or_default();
    let (before, mut copied) = (look(), HashMap::new());
    for name in disk.list(folder)? {
        let Some(session) = SessionId::from_file_name(&name) else { continue };
        match copy_one(disk, &folder.join(&name), &to.0.join(&name)) {
            // Erased, or expired, since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            one => drop(copied.insert(session, one?)),
        }
    }
    let after = look();
    let sessions: HashSet<&SessionId> = before.keys().chain(after.keys()).chain(copied.keys()).collect();
    let known = |session: &SessionId| {
        let [before, after] = [&before, &after].map(|noted| noted.get(session).copied().unwrap_or_default());
        known_of_copy(before, after, copied.get(session).copied().unwrap_or_default())
    };
    let lengths = sessions.into_iter().map(|session| (session.clone(), known(session))).collect();
    disk.create(to.1)?.write_all_at(lengths::lines(&lengths).as_bytes(), 0)?;
    let copies = copied.values().filter(|one| one.copy > 0);
    Ok(copies.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.copy)))
}

/// Copies a transcript, if it has a whole line.
fn copy_one<D: Disk>(disk: &D, from: &Path, to: &Path) -> io::Result<CopiedTranscript> {
    let source = disk.open_read(from)?.byte_len()?;
    let copy = disk::copy_lines(disk, from, to)?;
    if copy == 0 {
        disk.remove(to)?;
    }
    Ok(CopiedTranscript { source, copy })
}

/// What is noted of a copy, by what was noted of the transcript before and after it was made.
fn known_of_copy(before: KnownLength, after: KnownLength, copied: CopiedTranscript) -> KnownLength {
    let is_searched = |known: &KnownLength| known.lost.is_some_and(|lost| lost.before.is_none());
    if let Some(searched) = [after, before].into_iter().find(is_searched) {
        return searched;
    }
    let had = before.bytes.min(after.bytes);
    let bytes = if copied.source < had { had.max(copied.copy) } else { copied.copy };
    KnownLength { bytes, lost: after.lost }
}
