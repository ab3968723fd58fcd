//! Making what was appended durable, and noticing what is not.
//!
//! A file that somebody removed or replaced takes bytes as before, and a sync of the whole file system says nothing of
//! it; so each file is looked at by its name after the sync. What is not known to be durable is told, and the caller has
//! it written anew from the journal: a second sync of the same pages would say "done" of pages that are gone.

use std::collections::HashSet;
use std::io;

use crate::disk::{self, Disk, DiskFile};
use crate::message::SessionId;

use super::{Transcript, Transcripts};

/// Transcripts synced one by one; more are synced with one call for the whole file system.
const SYNC_SINGLY_MAX: usize = 8;
/// From so many on their names are looked for in one list of the folder, which costs less than to open each.
const LIST_MIN: usize = 1000;

impl<D: Disk> Transcripts<D> {
    /// Makes what was appended to those sessions durable. Returns those of which that is not known: their files failed,
    /// are gone or others. The caller marks them as stale.
    ///
    /// # Errors
    /// The file system could not be synced, the folder listed or a length noted. None of the sessions counts as durable: the
    /// caller marks them all as stale.
    pub fn sync<'a>(&self, sessions: impl Iterator<Item = &'a SessionId>) -> io::Result<Vec<SessionId>> {
        // No file is swapped between its sync and the look at its name.
        let _alone = self.maintenance.lock().expect("no holder panics");
        // What is suspect is written anew, and then synced.
        let sessions: Vec<&SessionId> = {
            let open = self.open.lock().expect("no holder panics");
            sessions.filter(|session| !open.stale.get(session).is_some_and(|stale| stale.suspect)).collect()
        };
        let measured = self.measure(&sessions);
        let mut unsafe_ones: HashSet<SessionId> = self.sync_files(&sessions)?.into_iter().collect();
        unsafe_ones.extend(sessions.into_iter().filter(|session| self.was_lost(session)).cloned());
        let unsafe_ones: Vec<SessionId> = unsafe_ones.into_iter().collect();
        self.note_synced(measured, &unsafe_ones)?;
        Ok(unsafe_ones)
    }

    /// Syncs the files that have those sessions' names. Returns the sessions whose file is not there or failed by itself.
    pub(super) fn sync_files(&self, sessions: &[&SessionId]) -> io::Result<Vec<SessionId>> {
        let singly = sessions.len() <= SYNC_SINGLY_MAX;
        if !singly {
            self.folder_synced(self.disk.sync_all(&self.folder))?;
        }
        let mut unsafe_ones = Vec::new();
        if sessions.len() >= LIST_MIN {
            let names: HashSet<String> = self.disk.list(&self.folder)?.into_iter().collect();
            let gone = sessions.iter().filter(|session| !names.contains(session.file_name().as_str()));
            unsafe_ones.extend(gone.map(|session| (*session).clone()));
            log_gone(unsafe_ones.len());
            return Ok(unsafe_ones);
        }
        for session in sessions {
            let file = self.disk.open_read(&self.path(session));
            if let Err(e) = file.and_then(|file| if singly { file.sync() } else { Ok(()) }) {
                log::warn!("the transcript of {session} cannot be made durable: {e}");
                unsafe_ones.push((*session).clone());
            }
        }
        if singly {
            self.folder_synced(self.disk.sync_dir(&self.folder))?;
        }
        Ok(unsafe_ones)
    }

    /// A folder that was removed is made again; what stood in it is missed file by file.
    fn folder_synced(&self, outcome: io::Result<()>) -> io::Result<()> {
        match outcome {
            Err(e) if e.kind() == io::ErrorKind::NotFound => disk::make_folder(&self.disk, &self.folder),
            outcome => outcome,
        }
    }

    /// Whether what was appended went to a file that no longer has the session's name.
    fn was_lost(&self, session: &SessionId) -> bool {
        let mut open = self.open.lock().expect("no holder panics");
        let lost = open.lost.remove(session);
        lost || open.files.peek(session).is_some_and(|transcript| !self.has_its_name(session, transcript))
    }

    /// Whether the open file is the one a reader finds, and as long as we left it: a line behind one that somebody cut, or
    /// began, is torn with it. When nobody can tell, it is.
    pub(super) fn has_its_name(&self, session: &SessionId, transcript: &Transcript<D::File>) -> bool {
        let named = self.disk.is_named(&self.path(session), &transcript.file, transcript.bytes);
        named.unwrap_or_else(|e| e.kind() != io::ErrorKind::NotFound)
    }
}

fn log_gone(count: usize) {
    if count > 0 {
        log::warn!("{count} transcripts are gone");
    }
}
