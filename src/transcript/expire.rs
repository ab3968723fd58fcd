//! Taking what has expired out of the transcripts, without ever losing a line.
//!
//! A [`Sweep`] goes over the folder in steps, one file after the other and none held open between two. A transcript is
//! looked at cheaply: its first message, and by binary search where the first one stands that has not expired. When a
//! quarter of its bytes has expired it is written anew under another name and takes its own in one rename; when all of it
//! has, it is removed. What is no line goes with the messages behind it: it stays when one of them does.
//!
//! Appends go on meanwhile. Why no line gets lost, and none counts as durable that is not:
//!
//! * The copy is made and synced without the lock of the open files. What came meanwhile, a few KiB, is copied under that
//!   lock, where nobody appends, together with the rename; the open handle is dropped there, so that the next append opens
//!   the new file by its name.
//! * Those last lines are not synced here. They need not be: the worker's sync, a rebuild and this hold one lock, so none
//!   of these lines was synced before, and no checkpoint covers them; they were appended while that lock was held here.
//!   The worker will take them, and then syncs the file that has the session's name, the new one, and the folder.
//! * Everything older is synced in the new file before it gets the name. The old file is synced before it is copied: if
//!   that fails, what a read of it shows is not to be trusted, and the worker is told at its next sync.
//! * Until the folder is synced a power cut leaves either file under the name. The old one has all that a checkpoint can
//!   cover by then: the next one comes behind a sync of the folder.
//! * A session that is stale, or whose file is not the one that takes its lines, is left alone, until it is mended.
//! * A reader that has the old file open reads on in it: it has everything that the reader's TTL still shows.
//!
//! Knows nothing of how often, and nothing of the cache.

use std::io;
use std::ops::Range;

use crate::disk::{self, Disk, DiskFile, copy};
use crate::message::{Id, Message, SessionId};

use super::Transcripts;
use super::read::Lines;

/// A transcript is written anew when one in this many of its bytes has expired.
const EXPIRED_SHARE: u64 = 4;
/// The most that is read to look at one transcript, beyond a line that is too long: where more is no message, it is left
/// as it is.
const LOOK_BYTES_MAX: u64 = 1 << 20;
/// Lines that came while a transcript was copied are copied too, until no more than this is left for the lock.
const REST_BYTES: u64 = 64 * 1024;
/// More than this is not copied under the lock; the transcript is left for the next sweep.
const REST_BYTES_MAX: u64 = 1 << 20;
/// How often it is tried to get the rest that small.
const ROUNDS_MAX: usize = 8;
/// So many looks are as much work as one transcript written anew, about: that waits for the disk three times.
const LOOKS_OF_A_REWRITE: usize = 20;
/// Copied between two looks whether to go on.
const PIECE_BYTES: u64 = 8 << 20;

/// A walk over all transcripts that is under way.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Names that are still to be looked at: about 100 bytes of memory for each file.
    names: Vec<String>,
    /// Nothing is changed: it counts what a sweep would do.
    only_counts: bool,
    /// What it did so far.
    pub swept: Swept,
    /// Why the first transcript could not be swept of those that could not.
    pub fault: Option<io::Error>,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Transcripts that were looked at.
    pub looked_at: usize,
    /// Transcripts that were written anew.
    pub rewritten: usize,
    /// Transcripts that were removed.
    pub removed: usize,
    /// Bytes that went.
    pub bytes: u64,
}

/// What came of one transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expired {
    /// It stays as it is.
    Left,
    /// It was written anew, without that many bytes.
    Rewritten(u64),
    /// It was removed, with that many bytes.
    Removed(u64),
}

/// A transcript's new file, not yet in its place. `None` where nothing is left to be kept.
struct New<F> {
    file: Option<F>,
    /// Where in the old file it begins.
    from: u64,
    /// All of the old file from there to here is in it.
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
    /// Begins a sweep: [`Transcripts::sweep_on`] does the work. There is none where nothing expires.
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

    /// Begins a look: the same walk, which changes nothing and counts what a sweep would do, about.
    ///
    /// # Errors
    /// As [`Transcripts::sweep`].
    pub fn look(&self) -> io::Result<Sweep> {
        Ok(Sweep { only_counts: true, ..self.sweep()? })
    }

    /// Looks at up to `files` more transcripts, fewer where some are written anew, as long as `go_on` says so. Whether some
    /// are left.
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

    /// Takes what lies before `bound` out of one transcript, if it is worth it.
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
            self.open.lock().expect("no holder panics").lost.insert(session.clone());
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

    /// A cheap look at one transcript: what [`Transcripts::expire`] would make of it.
    fn would_expire(&self, session: &SessionId, bound: Id) -> io::Result<Expired> {
        let Some(file) = self.old_file(session)? else { return Ok(Expired::Left) };
        let (expired, bytes) = (expired_bytes(&file, bound)?, file.byte_len()?);
        Ok(match is_share(expired, bytes) {
            false => Expired::Left,
            true if expired < bytes => Expired::Rewritten(expired),
            true => Expired::Removed(bytes),
        })
    }

    /// Writes a transcript anew without what lies before `bound`. To be called by whoever maintains the transcripts.
    fn rewrite(&self, session: &SessionId, old: &D::File, bound: Id, go_on: &dyn Fn() -> bool) -> io::Result<Expired> {
        let kept = first_unexpired(old, bound)?;
        if !is_share(kept.at, old.byte_len()?) {
            return Ok(Expired::Left);
        }
        let mut new = New { file: None, from: kept.at, to: kept.at };
        if kept.any {
            disk::make_folder(&self.disk, &self.staging())?;
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

    /// Puts the new file in the old one's place, with what was appended since it was copied.
    fn swap(&self, session: &SessionId, old: &D::File, new: &New<D::File>, bound: Id) -> io::Result<Expired> {
        let path = self.path(session);
        let mut open = self.open.lock().expect("no holder panics");
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

    /// Whether what the session's file holds is not known to be what it should.
    fn is_in_doubt(&self, session: &SessionId) -> bool {
        let mut open = self.open.lock().expect("no holder panics");
        self.settle_in(&mut open, session);
        open.stale.contains_key(session) || open.lost.contains(session)
    }
}

impl<F: DiskFile> New<F> {
    /// Copies what stands in the old file by now. Whether it came to its end.
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

/// Whether so much of a file has expired that it is worth the work.
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

/// What is kept of a transcript.
struct FirstKept {
    /// Where it begins: the first message that has not expired, or the end of the last whole line.
    at: u64,
    /// There was such a message.
    any: bool,
}

/// Finds the first message that has not expired. Every line before it is looked at: a file that somebody has edited may
/// have one out of order.
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

/// Whether the end of a file, behind what was its last whole line, is more than the torn beginning of one: lines that were
/// appended since, or a message that lacks nothing but its newline, which the next append will give it.
fn holds_a_message<F: DiskFile>(file: &F, end: Range<u64>, bound: Id) -> io::Result<bool> {
    let mut bytes = vec![0; usize::try_from(end.end - end.start).map_err(io::Error::other)?];
    file.read_at(&mut bytes, end.start)?;
    let unfinished = Message::from_line(&bytes).is_some_and(|message| message.id() >= bound);
    Ok(unfinished || memchr::memchr(b'\n', &bytes).is_some())
}
