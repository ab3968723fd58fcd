//! Removes expired messages from the transcripts without ever losing a line.
//!
//! A [`Sweep`] goes over the folder in steps, file after file, and holds none open between two steps. The check of a
//! transcript is cheap: its first message, and a binary search for the first one that has not expired. When a quarter
//! of its bytes has expired it is rewritten under another name and renamed; when all of it has, it is removed. A line
//! that is no message goes or stays with the messages after it.
//!
//! Appends go on meanwhile. Why no line is lost, and none counts as durable that is not:
//!
//! * The copy is made and synced without the lock of the open files. Lines appended meanwhile, a few KiB, are copied
//!   under that lock, when no append can run, together with the rename. The open handle is dropped there, so the next
//!   append opens the new file by its name.
//! * Those last lines are not synced here, and need not be. The worker's sync, a rebuild and this hold one lock, and
//!   the lines were appended while this held it: so none of them was synced before, and no checkpoint covers them. The
//!   worker will sync the file that has the session's name by then, the new one, and the folder.
//! * Everything older is synced in the new file before it gets the name. The old file is synced before it is copied: if
//!   that fails, a read of it cannot be trusted, and the worker is told at its next sync.
//! * Until the folder is synced, a power cut may leave either file under the name. The old one has all that a
//!   checkpoint can cover by then, because the next checkpoint comes after a sync of the folder.
//! * A session that is stale, or whose open file is not the one with its name, is skipped until it is repaired.
//! * A reader that has the old file open goes on reading it: it has everything that the reader's TTL still shows.
//!
//! Knows nothing of the schedule and of the cache.

use std::io;
use std::ops::Range;

use crate::disk::{Disk, DiskFile, copy};
use crate::message::{Id, Message, SessionId};

use super::Transcripts;
use super::read::Lines;

/// A transcript is rewritten when one in this many of its bytes has expired.
const EXPIRED_SHARE: u64 = 4;
/// The most bytes that are read to check one transcript, beyond one line that is too long: if more than that is no
/// message, it stays as it is.
const LOOK_BYTES_MAX: u64 = 1 << 20;
/// Lines that arrive during the copy are copied too, until no more than this is left to be copied under the lock.
const REST_BYTES: u64 = 64 * 1024;
/// If more than this is left, the transcript is skipped until the next sweep.
const REST_BYTES_MAX: u64 = 1 << 20;
/// How often the copy goes on to make the rest that small.
const ROUNDS_MAX: usize = 8;
/// About so many checks are as much work as one rewrite, which waits for the disk three times.
const LOOKS_OF_A_REWRITE: usize = 20;
/// Bytes copied before `go_on` is asked again.
const PIECE_BYTES: u64 = 8 << 20;

/// A sweep over all transcripts.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Names still to be checked: about 100 bytes of memory for each file.
    names: Vec<String>,
    /// Nothing is changed: it counts what a sweep would do.
    only_counts: bool,
    /// What it did so far.
    pub swept: Swept,
    /// Why a transcript could not be swept: the first such fault.
    pub fault: Option<io::Error>,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Transcripts that were checked.
    pub looked_at: usize,
    /// Transcripts that were rewritten.
    pub rewritten: usize,
    /// Transcripts that were removed.
    pub removed: usize,
    /// Bytes that went.
    pub bytes: u64,
}

/// The outcome for one transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expired {
    /// It stays as it is.
    Left,
    /// It was rewritten without that many bytes.
    Rewritten(u64),
    /// It was removed, with that many bytes.
    Removed(u64),
}

/// A transcript's new file, before the rename. `None` if nothing is left to be kept.
struct New<F> {
    file: Option<F>,
    /// The offset in the old file where it begins.
    from: u64,
    /// The offset in the old file where it ends.
    to: u64,
}

impl Sweep {
    /// Whether it changes nothing: see [`Transcripts::look`].
    #[must_use]
    pub fn only_counts(&self) -> bool {
        self.only_counts
    }
}

impl<D: Disk> Transcripts<D> {
    /// Begins a sweep; [`Transcripts::sweep_on`] does the work. Without an expiry it has nothing to do.
    ///
    /// # Errors
    /// The folder could not be listed. Nothing was changed; the next sweep lists it again.
    pub fn sweep(&self) -> io::Result<Sweep> {
        let mut names = match self.disk.list(&self.folder) {
            _ if self.expiry.bound().is_none() => Vec::new(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        names.retain(|name| SessionId::from_file_name(name).is_some());
        Ok(Sweep { names, ..Sweep::default() })
    }

    /// Begins a walk that changes nothing and counts, roughly, what a sweep would do.
    ///
    /// # Errors
    /// See [`Transcripts::sweep`].
    pub fn look(&self) -> io::Result<Sweep> {
        Ok(Sweep { only_counts: true, ..self.sweep()? })
    }

    /// Checks up to `files` more transcripts, fewer if some are rewritten, while `go_on` returns true. Returns whether
    /// some are left.
    pub fn sweep_on(&self, sweep: &mut Sweep, files: usize, go_on: &dyn Fn() -> bool) -> bool {
        let mut worked = 0;
        while worked < files {
            let Some(bound) = self.expiry.bound().filter(|_| go_on()) else { break };
            let Some(session) = sweep.names.pop().and_then(|name| SessionId::from_file_name(&name)) else { break };
            let outcome = match sweep.only_counts {
                true => self.would_expire(&session, bound),
                false => self.expire(&session, bound, go_on),
            };
            let outcome = outcome.unwrap_or_else(|e| {
                log::debug!("what has expired in the transcript of {session} cannot be removed: {e}");
                sweep.fault.get_or_insert(e);
                Expired::Left
            });
            sweep.swept.count(outcome);
            worked += if outcome == Expired::Left || sweep.only_counts { 1 } else { LOOKS_OF_A_REWRITE };
        }
        !sweep.names.is_empty()
    }

    /// Removes what lies before `bound` from one transcript, if it is worth it.
    fn expire(&self, session: &SessionId, bound: Id, go_on: &dyn Fn() -> bool) -> io::Result<Expired> {
        if self.would_expire(session, bound)? == Expired::Left {
            return Ok(Expired::Left);
        }
        let _alone = self.maintenance.lock().expect("no holder panics");
        if self.is_in_doubt(session) {
            return Ok(Expired::Left);
        }
        let Some(old) = self.old_file(session)? else { return Ok(Expired::Left) };
        let synced = old.byte_len()?;
        if let Err(e) = old.sync() {
            self.lock_open().lost.insert(session.clone());
            return Err(e);
        }
        self.note_lengths([(session, 0)].into_iter())?;
        let outcome = self.rewrite(session, &old, bound, go_on);
        if !matches!(outcome, Ok(Expired::Rewritten(_))) {
            let _ = self.disk.remove(&self.staging().join(session.file_name()));
        }
        let outcome = outcome?;
        if outcome != Expired::Left {
            self.disk.sync_dir(&self.folder)?;
        }
        let bytes = match outcome {
            Expired::Left => synced,
            Expired::Rewritten(gone) => synced.saturating_sub(gone),
            Expired::Removed(_) => 0,
        };
        self.note_lengths([(session, bytes)].into_iter())?;
        Ok(outcome)
    }

    /// A cheap check of what [`Transcripts::expire`] would do with one transcript.
    fn would_expire(&self, session: &SessionId, bound: Id) -> io::Result<Expired> {
        let Some(file) = self.old_file(session)? else { return Ok(Expired::Left) };
        let (expired, bytes) = (expired_bytes(&file, bound)?, file.byte_len()?);
        Ok(match is_share(expired, bytes) {
            false => Expired::Left,
            true if expired < bytes => Expired::Rewritten(expired),
            true => Expired::Removed(bytes),
        })
    }

    /// Rewrites a transcript without what lies before `bound`. The caller holds the maintenance lock.
    fn rewrite(&self, session: &SessionId, old: &D::File, bound: Id, go_on: &dyn Fn() -> bool) -> io::Result<Expired> {
        let kept = first_unexpired(old, bound)?;
        if !is_share(kept.at, old.byte_len()?) {
            return Ok(Expired::Left);
        }
        let mut new = New { file: None, from: kept.at, to: kept.at };
        if kept.any {
            self.make_again(&self.staging())?;
            let file = self.disk.create(&self.staging().join(session.file_name()))?;
            for _ in 0..ROUNDS_MAX {
                if !new.take(old, &file, go_on)? {
                    return Ok(Expired::Left);
                }
                file.sync()?;
                if old.byte_len()?.saturating_sub(new.to) <= REST_BYTES {
                    break;
                }
            }
            new.file = Some(file);
        }
        self.swap(session, old, &new, bound)
    }

    /// Renames the new file to the old one's name, after copying what was appended meanwhile.
    fn swap(&self, session: &SessionId, old: &D::File, new: &New<D::File>, bound: Id) -> io::Result<Expired> {
        let path = self.path(session);
        let mut open = self.lock_open();
        // A session becomes stale when its append fails, and then its file may have been cut.
        let in_doubt = open.stale.contains_key(session) || open.lost.contains(session);
        let is_ours = match open.files.peek(session) {
            Some(transcript) => transcript.file.is_same(old)?,
            None => true,
        };
        if in_doubt || !is_ours || !self.disk.open_read(&path)?.is_same(old)? {
            return Ok(Expired::Left);
        }
        let rest = new.to..old.byte_len()?;
        if rest.end < rest.start || rest.end - rest.start > REST_BYTES_MAX {
            return Ok(Expired::Left);
        }
        let Some(file) = &new.file else {
            if holds_a_message(old, rest, bound)? {
                return Ok(Expired::Left);
            }
            open.files.pop(session);
            self.disk.remove(&path)?;
            return Ok(Expired::Removed(new.from));
        };
        copy(old, rest, file, new.to - new.from)?;
        open.files.pop(session);
        self.disk.rename(&self.staging().join(session.file_name()), &path)?;
        Ok(Expired::Rewritten(new.from))
    }

    /// Whether the session's file may differ from what it should hold.
    fn is_in_doubt(&self, session: &SessionId) -> bool {
        let mut open = self.lock_open();
        self.reconcile_in(&mut open, session);
        self.check_again(&mut open, session).is_err() || open.stale.contains_key(session) || open.lost.contains(session)
    }
}

impl<F: DiskFile> New<F> {
    /// Copies what the old file holds by now. Returns whether the copy reached its end.
    fn take(&mut self, old: &F, file: &F, go_on: &dyn Fn() -> bool) -> io::Result<bool> {
        let end = old.byte_len()?;
        while self.to < end && go_on() {
            let copied = copy(old, self.to..end.min(self.to + PIECE_BYTES), file, self.to - self.from)?;
            if copied == 0 {
                // It was cut by hand.
                return Ok(false);
            }
            self.to += copied;
        }
        Ok(self.to >= end)
    }
}

impl Swept {
    fn count(&mut self, outcome: Expired) {
        self.looked_at += 1;
        match outcome {
            Expired::Left => {}
            Expired::Rewritten(bytes) => {
                self.rewritten += 1;
                self.bytes += bytes;
            }
            Expired::Removed(bytes) => {
                self.removed += 1;
                self.bytes += bytes;
            }
        }
    }
}

/// Whether enough of a file has expired to be worth the work.
fn is_share(expired: u64, bytes: u64) -> bool {
    expired > 0 && expired.saturating_mul(EXPIRED_SHARE) >= bytes
}

/// The bytes of a transcript that have expired; 0 where that is not found cheaply.
fn expired_bytes<F: DiskFile>(file: &F, bound: Id) -> io::Result<u64> {
    let mut lines = Lines::new(file, LOOK_BYTES_MAX)?;
    if first_id(&mut lines)?.is_none_or(|first| first >= bound) {
        return Ok(0);
    }
    let expired = lines.first_not_before(bound)?;
    Ok(if lines.spent { 0 } else { expired })
}

/// The id of the first line that has one.
fn first_id<F: DiskFile>(lines: &mut Lines<'_, F>) -> io::Result<Option<Id>> {
    let mut at = 0;
    while let Some(range) = lines.line_at(at)? {
        if let Some(id) = Message::id_of_line(lines.bytes(&range)) {
            return Ok(Some(id));
        }
        at = range.end;
    }
    Ok(None)
}

/// The part of a transcript that is kept.
struct FirstKept {
    /// Its offset: the first message that has not expired, or the end of the last whole line.
    at: u64,
    /// There is such a message.
    any: bool,
}

/// Finds the first message that has not expired. Reads every line before it, because a file that was edited may have
/// one out of order.
fn first_unexpired<F: DiskFile>(file: &F, bound: Id) -> io::Result<FirstKept> {
    let mut lines = Lines::new(file, u64::MAX)?;
    let mut at = 0;
    while let Some(range) = lines.line_at(at)? {
        if Message::id_of_line(lines.bytes(&range)).is_some_and(|id| id >= bound) {
            return Ok(FirstKept { at, any: true });
        }
        at = range.end;
    }
    Ok(FirstKept { at, any: false })
}

/// Whether the bytes after the last whole line are more than the torn beginning of one: lines appended since, or a
/// message that lacks only its newline, which the next append will add.
fn holds_a_message<F: DiskFile>(file: &F, end: Range<u64>, bound: Id) -> io::Result<bool> {
    let mut bytes = vec![0; usize::try_from(end.end - end.start).map_err(io::Error::other)?];
    file.read_at(&mut bytes, end.start)?;
    let unfinished = Message::from_line(&bytes).is_some_and(|message| message.id() >= bound);
    Ok(unfinished || memchr::memchr(b'\n', &bytes).is_some())
}
