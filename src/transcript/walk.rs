//! All messages of a transcript.

use std::io;

use crate::disk::{Disk, DiskFile};
use crate::message::{Id, Message, SessionId};

use super::Transcripts;
use super::read::Lines;

impl<D: Disk> Transcripts<D> {
    /// Hands the messages of a session after `after` to `take`, oldest first, until it returns false; lines out of order
    /// are passed over. Returns the length of the transcript before, in bytes; 0 if there is none.
    ///
    /// # Errors
    /// The transcript could not be opened or read. A retry is safe.
    pub fn each_message(
        &self,
        session: &SessionId,
        after: Option<Id>,
        take: &mut dyn FnMut(&Message) -> bool,
    ) -> io::Result<u64> {
        let Some(file) = self.old_file(session)? else { return Ok(0) };
        let bytes = file.byte_len()?;
        let mut lines = Lines::new(&file, u64::MAX)?;
        let mut at = after.map_or(Ok(0), |after| lines.first_not_before(after))?;
        let mut last = after;
        while let Some(range) = lines.line_at(at)? {
            at = range.end;
            let Some(message) = lines.message(&range).filter(|message| Some(message.id()) > last) else { continue };
            last = Some(message.id());
            if !take(&message) {
                break;
            }
        }
        Ok(bytes)
    }
}
