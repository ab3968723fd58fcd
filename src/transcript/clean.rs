//! A transcript without the lines that readers pass over: they are set aside, and what is left is written anew.
//!
//! For the repair of a stopped server. A running one leaves such lines where they are, since they hide nothing. It is a
//! merge with nothing to put in, so all that holds of merges holds here: until the rename the old file stands untouched.

use std::io;

use crate::disk::Disk;
use crate::message::SessionId;

use super::Transcripts;

impl<D: Disk> Transcripts<D> {
    /// Sets aside every stretch that is no message of the session. Nobody may append to it meanwhile.
    ///
    /// # Errors
    /// The disk's; the old file is then still there.
    pub fn set_bad_lines_aside(&self, session: &SessionId) -> io::Result<()> {
        let merge = self.begin_merge(session, 0)?;
        self.end_merge(merge)?;
        self.disk.sync_dir(&self.folder)
    }
}
