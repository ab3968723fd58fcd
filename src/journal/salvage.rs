//! Intact frames of a file of which nothing else is known: a segment without its header, a tail that was set aside.
//!
//! A message that was refused may be among them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::message::Message;

use super::record::Entry;
use super::scan::{Scanned, Scanner};

/// Hands every intact message in the file to `take`, with its sequence.
///
/// # Errors
/// The file could not be opened or read. `take` may have had some of the messages; another call starts over.
pub fn messages<D: Disk>(disk: &D, path: &Path, take: &mut dyn FnMut(u64, &Arc<Message>)) -> io::Result<()> {
    let mut scanner = Scanner::of_any(Arc::new(disk.open_read(path)?))?;
    loop {
        match scanner.next()? {
            Scanned::Frame(header) => {
                if let Some(message) = Entry::decode(header.kind, scanner.payload()).as_ref().and_then(Entry::message) {
                    take(header.sequence, message);
                }
            }
            Scanned::Gap(_) => {}
            Scanned::End { .. } => return Ok(()),
        }
    }
}

/// The salt and the sequence of the first intact frame.
///
/// # Errors
/// The file could not be read. Nothing was changed.
pub fn first_frame<F: DiskFile>(file: F) -> io::Result<Option<(u32, u64)>> {
    let mut scanner = Scanner::of_any(Arc::new(file))?;
    loop {
        match scanner.next()? {
            Scanned::Frame(header) => return Ok(Some((scanner.salt(), header.sequence))),
            Scanned::Gap(_) => {}
            Scanned::End { .. } => return Ok(None),
        }
    }
}
