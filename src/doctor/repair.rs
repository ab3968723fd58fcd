//! The repair: does what a start would do, and two things that no start does: it compares the transcripts with
//! everything the journal has, not only from the checkpoint on, and it takes intact messages out of the quarantine.
//!
//! Rule: no byte that may belong to a message leaves its only place before it was copied. Recovery, replay and merge
//! keep this rule anyway; a whole segment that never got its name would be removed by a start, and is kept here. The
//! repair can be stopped at any moment and run again; a second run changes nothing more.

use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::disk::{self, Disk, DiskFile, aside};
use crate::journal::{Checkpoint, Journal, salvage};
use crate::layout;
use crate::message::{Clock, Message, SessionId, Timestamp};
use crate::transcript::Transcripts;

use super::examine::Report;
use super::orphans;
use super::place::{DataLocation, DoctorError, messages};

/// Transcript lengths compared in one call.
const LENGTHS_AT_ONCE: usize = 256;
/// Transcripts kept open.
const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("not 0");

/// Refuses to change what a later version wrote.
pub fn refuse_what_is_newer(report: &Report) -> Result<(), DoctorError> {
    let newer = report.journal.as_ref().and_then(|journal| journal.newer.as_ref());
    newer.map_or(Ok(()), |(name, why)| Err(DoctorError::Unrepairable(format!("{name}: {why}"))))
}

/// Refuses to make files as `user` that the server could not read: its own user has made the journal's lock.
pub fn refuse_another_user(lock: &Path, user: u32) -> Result<(), DoctorError> {
    match std::fs::metadata(lock).map(|metadata| metadata.uid()) {
        Ok(owner) if owner != user => Err(DoctorError::Unrepairable(format!(
            "{} belongs to the user {owner}: repair as that user (sudo -u '#{owner}'), so that the server can use what is made",
            lock.display()
        ))),
        _ => Ok(()),
    }
}

/// Keeps what the next open would remove: segments that hold messages and never got their name.
pub fn keep_first<D: Disk>(disk: &D, place: &DataLocation) -> Result<(), DoctorError> {
    let folder = place.journal();
    let keep = || -> io::Result<()> {
        for name in names(disk, folder)?.iter().filter(|name| name.ends_with(layout::UNFINISHED)) {
            let mut messages = 0;
            salvage(disk, &folder.join(name), &mut |_, _| messages += 1)?;
            if messages > 0 {
                let unnamed = format!("unnamed-{}", name.trim_end_matches(layout::UNFINISHED));
                aside::take(disk, &layout::quarantine(folder), &unnamed, &folder.join(name))?;
            }
        }
        Ok(())
    };
    keep().map_err(|source| DoctorError::Io { path: folder.to_owned(), source })
}

/// The names in a folder; none when there is no such folder.
fn names<D: Disk>(disk: &D, folder: &Path) -> io::Result<Vec<String>> {
    match disk.list(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

/// A repair in progress.
struct Repair<'a, D: Disk> {
    disk: &'a D,
    place: &'a DataLocation,
    journal: Journal<D>,
    now: Timestamp,
    /// What it did, one line each.
    done: Vec<String>,
}

/// Repairs; returns what it did, one line each.
///
/// # Errors
/// [`DoctorError::Unfinished`]: a step failed. What was repaired stays repaired; run it again.
pub fn run<D: Disk>(
    disk: &D,
    place: &DataLocation,
    clock: &Clock,
    before: &Report,
) -> Result<Vec<String>, DoctorError> {
    let unfinished = |e: &dyn std::fmt::Display| DoctorError::Unfinished(e.to_string());
    let config = &place.config.journal;
    let opened = Journal::open_on(disk.clone(), config, clock.clone(), Box::new(|_| {}), Box::new(|| {}));
    let journal = opened.map_err(|e| unfinished(&e))?;
    let mut repair = Repair { disk, place, journal, now: clock.now(), done: Vec::new() };
    repair.opened(before);
    repair.transcripts().map_err(|e| unfinished(&e))?;
    repair.journal.maintain().map_err(|e| unfinished(&e))?;
    let digests = before.journal.as_ref().map_or(0, |journal| journal.digests.missing + journal.digests.damaged);
    repair.did("digests of segments that were rewritten", digests);
    repair.recover_orphans().map_err(|e| unfinished(&e))?;
    Ok(repair.done)
}

impl<D: Disk> Repair<'_, D> {
    fn did(&mut self, what: &str, count: u64) {
        if count > 0 {
            self.done.push(format!("{what}: {count}"));
        }
    }

    /// Notes what opening the journal did.
    fn opened(&mut self, before: &Report) {
        let findings = self.journal.findings();
        let (headers, lost, tail) = (findings.rebuilt_headers, findings.lost_segments, findings.tail_bytes);
        self.did("damaged headers of segments that were rebuilt", headers);
        self.did("segments without a usable header, set aside in quarantine/", lost);
        self.did("bytes behind the journal's last record, copied to quarantine/ and zeroed", tail);
        if let Some(journal) = &before.journal {
            self.did("records of torn requests that were voided", journal.torn);
            self.did("unfinished files of the journal that were cleared away", journal.files.leftovers);
        }
    }

    /// Puts the transcripts in order, then brings them up to date with the journal.
    fn transcripts(&mut self) -> io::Result<()> {
        let transcripts = Transcripts::open(self.disk.clone(), self.place.transcripts(), OPEN_MAX)?;
        let transcripts = transcripts.remembering(&layout::transcript_lengths(self.place.journal()));
        // A start only looks after the checkpoint, and the checkpoint moves below.
        for (session, id) in self.journal.erasures_after(0) {
            transcripts.drop_erased(&session, id)?;
        }
        for (session, id) in self.journal.erasures_after(self.journal.start().transcribed) {
            transcripts.erase_at_start(&session, id, self.journal.published());
        }
        // Losses are found before anything is rewritten: afterwards no length reveals them.
        while transcripts.check_lengths(LENGTHS_AT_ONCE) {}
        let rebuilt = transcripts.rebuild(|after, take| {
            messages(&self.journal, &(after + 1..=u64::MAX), None, take)?;
            Ok(self.journal.published())
        })?;
        let faulty = faulty(self.disk, self.place)?;
        for session in &faulty {
            transcripts.put_in_order(session)?;
        }
        self.did("transcripts put in order, foreign lines set aside in quarantine/", faulty.len() as u64);
        let oldest = self.place.oldest_shown(self.now);
        let mut replay = transcripts.replay();
        messages(&self.journal, &(1..=u64::MAX), oldest, &mut |sequence, message, _| {
            replay.message(sequence, message);
        })?;
        self.did("lines put back into transcripts", rebuilt.appended + replay.end());
        // Notes the lengths of erased transcripts, too, before the checkpoint passes the erasures.
        transcripts.sync(std::iter::empty())?;
        if self.store_checkpoint(&transcripts)? {
            self.done.push("the checkpoint says how far the transcripts are".to_owned());
        }
        Ok(())
    }

    /// Stores in the checkpoint how far the transcripts are, as a start does, if that changed; returns whether it did.
    fn store_checkpoint(&self, transcripts: &Transcripts<D>) -> io::Result<bool> {
        let start = self.journal.start();
        let reached = transcripts.first_lacking().map_or(self.journal.published(), |lacking| lacking - 1);
        if start.transcribed == reached {
            return Ok(false);
        }
        self.journal.store_checkpoint(&Checkpoint { transcribed: reached, ..start })?;
        Ok(true)
    }

    /// Appends messages that only the quarantine has to `recovered.jsonl`. The old file stays until the new one is
    /// whole.
    fn recover_orphans(&mut self) -> io::Result<()> {
        let path = self.place.recovered();
        let temporary = layout::unfinished(&path);
        let mut new: Option<(D::File, u64)> = None;
        let mut count = 0;
        orphans::find(self.disk, self.place, &self.journal, self.now, &mut |message: &Message| {
            let (file, bytes) = match &mut new {
                Some(new) => new,
                None => new.insert(copied(self.disk, &path, &temporary)?),
            };
            let mut line = message.line().to_vec();
            line.push(b'\n');
            file.write_all_at(&line, *bytes)?;
            *bytes += line.len() as u64;
            count += 1;
            Ok(())
        })?;
        let Some((file, _)) = new else { return Ok(()) };
        file.sync()?;
        self.disk.rename(&temporary, &path)?;
        self.disk.sync_dir(self.place.journal())?;
        self.did(&format!("messages that only the quarantine had, written to {}", path.display()), count);
        Ok(())
    }
}

/// Sessions whose transcripts must be put in order.
fn faulty<D: Disk>(disk: &D, place: &DataLocation) -> io::Result<Vec<SessionId>> {
    use crate::transcript::survey::{TranscriptFault, TranscriptSurvey};
    let mut sessions = Vec::new();
    TranscriptSurvey::of(disk, place.transcripts(), &mut |session, fault| {
        let can_be_mended = matches!(
            fault,
            TranscriptFault::Foreign { .. } | TranscriptFault::OutOfOrder(_) | TranscriptFault::Torn(_)
        );
        if can_be_mended && sessions.last() != Some(session) {
            sessions.push(session.clone());
        }
    })?;
    Ok(sessions)
}

/// Copies `from`, empty if it does not exist; returns the copy and its length. Its last line gets a newline.
fn copied<D: Disk>(disk: &D, from: &Path, to: &Path) -> io::Result<(D::File, u64)> {
    let new = disk.create(to)?;
    let old = match disk.open_read(from) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((new, 0)),
        old => old?,
    };
    let mut at = disk::copy(&old, 0..u64::MAX, &new, 0)?;
    let mut last = [b'\n'];
    new.read_at(&mut last, at.saturating_sub(1))?;
    if last != *b"\n" {
        new.write_all_at(b"\n", at)?;
        at += 1;
    }
    Ok((new, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_user_whose_server_it_was_repairs() {
        let lock = tempfile::NamedTempFile::new().unwrap();
        let own = lock.as_file().metadata().unwrap().uid();
        assert!(refuse_another_user(lock.path(), own).is_ok());
        let refused = refuse_another_user(lock.path(), own + 1).unwrap_err().to_string();
        assert!(refused.contains(&format!("belongs to the user {own}")), "{refused}");
        assert!(refuse_another_user(Path::new("/nowhere/lock"), own).is_ok(), "no server was ever there");
    }
}
