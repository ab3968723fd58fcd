//! Rewrites a transcript: its lines and the journal's messages are merged by id into a new file, which replaces it in
//! one rename.
//!
//! For a transcript whose pages may be lost although a read still shows them (a failed sync), and for one where a
//! missing line belongs before others. Every whole line of the session is kept; if both have a message the journal's
//! bytes count; anything that is no line is set aside in `quarantine/`. Until the rename the old file is unchanged.
//!
//! No file is held open between two messages, because a failed sync of the whole file system may affect thousands of
//! sessions.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::disk::{Disk, DiskFile, aside, copy};
use crate::layout;
use crate::message::{Id, Message, SessionId};

use super::Transcripts;
use super::read::Lines;

/// A transcript that is being rewritten.
pub(super) struct Merge {
    session: SessionId,
    /// All of the old file before this offset is in the new one.
    at: u64,
    /// The length of the new file.
    bytes: u64,
    /// The first message of the old file from `at` on, while it is known: nothing has to be read for one before it.
    next: Option<Id>,
}

impl<D: Disk> Transcripts<D> {
    /// The folder of new files until they are whole.
    pub(super) fn staging(&self) -> PathBuf {
        layout::rewriting(&self.folder)
    }

    /// Removes files that interrupted rewrites left.
    pub(super) fn clear_staging(&self) {
        let Ok(names) = self.disk.list(&self.staging()) else { return };
        for name in names {
            if let Err(e) = self.disk.remove(&self.staging().join(&name)) {
                log::debug!("{name}, left from a rewrite that did not end, cannot be removed: {e}");
            }
        }
    }

    /// The transcript as it is; `None` if it does not exist.
    pub(super) fn old_file(&self, session: &SessionId) -> io::Result<Option<D::File>> {
        match self.disk.open_read(&self.path(session)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Begins a rewrite: everything before `at`, the start of a line, is taken over as it is.
    pub(super) fn begin_merge(&self, session: &SessionId, at: u64) -> io::Result<Merge> {
        self.make_again(&self.staging())?;
        let new = self.disk.create(&self.staging().join(session.file_name()))?;
        let at = match self.old_file(session)? {
            Some(old) => copy(&old, 0..at, &new, 0)?,
            None => 0,
        };
        Ok(Merge { session: session.clone(), at, bytes: at, next: None })
    }

    /// Adds the journal's next message, after every older line of the file.
    pub(super) fn merge(&self, merge: &mut Merge, message: &Message) -> io::Result<()> {
        let new = self.disk.open(&self.staging().join(merge.session.file_name()))?;
        let is_before = merge.next.is_some_and(|next| message.id() < next);
        if !is_before && let Some(old) = self.old_file(&merge.session)? {
            let read = stands_at(&old, merge.at, message)?;
            if read > 0 {
                (merge.at, merge.next) = (merge.at + read, None);
            } else {
                self.keep_lines(merge, &old, &new, Some(message))?;
            }
        }
        let mut line = message.line().to_vec();
        line.push(b'\n');
        new.write_all_at(&line, merge.bytes)?;
        merge.bytes += line.len() as u64;
        Ok(())
    }

    /// Adds the rest of the old file and renames the new one. The caller syncs the folder.
    pub(super) fn end_merge(&self, mut merge: Merge) -> io::Result<()> {
        let path = self.staging().join(merge.session.file_name());
        let new = self.disk.open(&path)?;
        if let Some(old) = self.old_file(&merge.session)? {
            self.keep_lines(&mut merge, &old, &new, None)?;
        }
        new.sync()?;
        self.disk.rename(&path, &self.path(&merge.session))
    }

    /// Copies the session's lines before `until`; its own line is left out, and set aside if it differs.
    fn keep_lines(&self, merge: &mut Merge, old: &D::File, new: &D::File, until: Option<&Message>) -> io::Result<()> {
        let mut lines = Lines::new(old, u64::MAX)?;
        let mut at = merge.at;
        merge.next = None;
        loop {
            let line = next_line(&mut lines, at, &merge.session)?;
            let garbage_end = line.as_ref().map_or(old.byte_len()?, |(range, _)| range.start);
            if garbage_end > at {
                self.set_aside(&merge.session, old, at..garbage_end)?;
            }
            merge.at = garbage_end;
            match line {
                Some((range, id)) if until.is_none_or(|until| id < until.id()) => {
                    merge.bytes += copy(old, range.clone(), new, merge.bytes)?;
                    (at, merge.at) = (range.end, range.end);
                }
                Some((range, id)) => {
                    match until.filter(|until| until.id() == id) {
                        None => merge.next = Some(id),
                        Some(until) => {
                            merge.at = range.end;
                            if stands_at(old, range.start, until)? == 0 {
                                self.set_aside(&merge.session, old, range)?;
                            }
                        }
                    }
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    }

    /// Copies a part of a transcript, which will be removed from it, to the quarantine.
    pub(super) fn set_aside(&self, session: &SessionId, file: &D::File, what: Range<u64>) -> io::Result<()> {
        let name = format!("{}.{}", session.file_name(), what.start);
        let read = |to: &mut [u8], at: u64| file.read_at(to, what.start + at);
        let folder = layout::quarantine(&self.folder);
        let aside = aside::keep(&self.disk, &folder, &name, &read, what.end - what.start)?;
        log::warn!(
            "the transcript of {session} differs from the journal: what it had in place of a line was set aside as {}",
            aside.display()
        );
        Ok(())
    }
}

/// The length of the message's line with its newline if it is at `at`, else 0.
pub(super) fn stands_at<F: DiskFile>(file: &F, at: u64, message: &Message) -> io::Result<u64> {
    let mut there = vec![0; message.line().len() + 1];
    let read = file.read_at(&mut there, at)?;
    let same = read == there.len() && there.strip_suffix(b"\n") == Some(message.line());
    Ok(if same { read as u64 } else { 0 })
}

/// The first whole line of the session at or after `at`, which is the start of a line.
pub(super) fn next_line<F: DiskFile>(
    lines: &mut Lines<'_, F>,
    mut at: u64,
    session: &SessionId,
) -> io::Result<Option<(Range<u64>, Id)>> {
    while let Some(range) = lines.line_at(at)? {
        if let Some(message) = lines.message(&range)
            && message.session() == session
        {
            return Ok(Some((range, message.id())));
        }
        at = range.end;
    }
    Ok(None)
}
