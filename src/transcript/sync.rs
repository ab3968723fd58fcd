//! Makes what was appended durable, and notices what is not.
//!
//! A file that was removed or replaced takes bytes as before, and a sync of the whole file system does not report it;
//! so each file is checked by its name after the sync. Sessions that may not be durable are returned, and the caller
//! has them rewritten from the journal: a second sync of the same pages would succeed although the pages are lost. The
//! same holds for the whole file system: one sync of it is told of an error, whoever asked, and it may concern lines of
//! any session, also those that the caller takes only later. So it is remembered up to which sequence lines are suspect.

use std::collections::HashSet;
use std::io;

use crate::disk::{Disk, DiskFile};
use crate::message::SessionId;

use super::{Transcript, Transcripts};

/// Transcripts synced one by one; more are synced with one call for the whole file system.
const SYNC_SINGLY_MAX: usize = 8;
/// From this number on their names are checked in one listing of the folder, which costs less than to open each.
const LIST_MIN: usize = 1000;

impl<D: Disk> Transcripts<D> {
    /// Syncs what was appended to those sessions. Returns the sessions that may not be durable: their files failed, are
    /// missing or were replaced. The caller marks them as stale.
    ///
    /// # Errors
    /// The file system could not be synced, the folder not listed or a length not noted. None of the sessions counts as
    /// durable: the caller marks them all as stale.
    pub fn sync<'a>(&self, sessions: impl Iterator<Item = &'a SessionId>) -> io::Result<Vec<SessionId>> {
        self.sync_since(sessions.map(|session| (session, 0)))
    }

    /// The same, where nothing before that sequence is to be synced of each session.
    ///
    /// # Errors
    /// Those of [`Transcripts::sync`].
    pub fn sync_since<'a>(&self, sessions: impl Iterator<Item = (&'a SessionId, u64)>) -> io::Result<Vec<SessionId>> {
        // No file is swapped between its sync and the check of its name.
        let _alone = self.maintenance.lock().expect("no holder panics");
        // A suspect file is rewritten, and then synced. So is one that had nothing of what is to be synced: it may not even
        // exist.
        let (sessions, firsts): (Vec<&SessionId>, Vec<u64>) = {
            let open = self.lock_open();
            let is_rewritten =
                |session, first| open.stale.get(session).is_some_and(|stale| stale.suspect || stale.first <= first);
            sessions.filter(|(session, first)| !is_rewritten(*session, *first)).unzip()
        };
        let measured = self.measure(&sessions);
        let mut unsafe_ones: HashSet<SessionId> = self.sync_files(&sessions)?.into_iter().collect();
        let suspect_through = self.lock_open().suspect_through;
        let not_durable =
            |(session, first): &(&SessionId, u64)| self.was_lost(session) || Some(*first) <= suspect_through;
        unsafe_ones.extend(sessions.into_iter().zip(firsts).filter(not_durable).map(|(session, _)| session.clone()));
        let unsafe_ones: Vec<SessionId> = unsafe_ones.into_iter().collect();
        self.note_synced(measured, &unsafe_ones)?;
        Ok(unsafe_ones)
    }

    /// Syncs the files with those sessions' names. Returns the sessions whose file is missing or failed by itself.
    pub(super) fn sync_files(&self, sessions: &[&SessionId]) -> io::Result<Vec<SessionId>> {
        let singly = sessions.len() <= SYNC_SINGLY_MAX;
        if !singly {
            let synced = self.folder_synced(self.disk.sync_all(&self.folder));
            synced.inspect_err(|_| self.suspect_unsynced())?;
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

    /// A sync of the whole file system failed: what was appended until now is lost unless it was synced before.
    pub fn suspect_unsynced(&self) {
        let mut open = self.lock_open();
        open.suspect_through = Some(open.newest);
    }

    /// A folder that was removed is made again; its files are noticed one by one.
    fn folder_synced(&self, outcome: io::Result<()>) -> io::Result<()> {
        match outcome {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.make_again(&self.folder),
            outcome => outcome,
        }
    }

    /// Whether what was appended went to a file that no longer has the session's name.
    fn was_lost(&self, session: &SessionId) -> bool {
        let mut open = self.lock_open();
        let lost = open.lost.remove(session);
        lost || open.files.peek(session).is_some_and(|transcript| !self.has_its_name(session, transcript))
    }

    /// Whether the open file is the one that a reader finds, and has the length that we left: after a line that was cut
    /// or begun by another program, our next line would be torn too. If that cannot be told, the answer is yes.
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
