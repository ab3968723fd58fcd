//! Erasing: removes a transcript at once, also during a rebuild, and removes its messages from copies that were set
//! aside.
//!
//! When an erasure is published the file is removed, under the lock of the open files: later appends go to a new file.
//! Three cases are harder; all make the session *stale* and note the erasure ([`Stale::erased`]): a file that cannot be
//! removed; a session that is already stale, whose file a rebuild may be writing at this moment with lines that it read
//! before; and a file with newer messages, because the erasure was made on another server. The next rebuild first
//! removes what is erased and then goes on as usual. Until then nothing is appended, no reader gets an erased message,
//! and the checkpoint stays before the erasure. So a start finds after its checkpoint every erasure whose file may
//! still exist, and repeats it.
//!
//! The worker syncs the folder before its checkpoint passes the erasure, as for every line.
//!
//! Knows nothing of the reasons for an erasure.

use std::collections::HashMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::de::IgnoredAny;

use crate::disk::{Disk, DiskFile, copy};
use crate::layout;
use crate::message::{Id, Message, SessionId};

use super::read::Lines;
use super::{Stale, Transcripts};

/// The most bytes of an unfinished line that are read: more than a whole line has.
const REST_BYTES_MAX: usize = 32 << 20;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// A transcript as it was before its erasure: it can be counted afterwards, although it has no name any more.
pub struct Before<F>(Option<F>);

/// What happens to a line, or to other bytes, in a copy that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
}

impl<F: DiskFile> Before<F> {
    /// Counts its messages up to `id`.
    ///
    /// # Errors
    /// The transcript could not be read. Nothing was changed; a retry is safe.
    pub fn count(&self, id: Id) -> io::Result<u64> {
        let Some(file) = &self.0 else { return Ok(0) };
        let mut lines = Lines::new(file, u64::MAX)?;
        let (mut at, mut count) = (0, 0);
        while let Some(range) = lines.line_at(at)? {
            count += u64::from(Message::id_of_line(lines.bytes(&range)).is_some_and(|found| found < id));
            at = range.end;
        }
        Ok(count)
    }
}

impl<D: Disk> Transcripts<D> {
    /// The transcript as it is now.
    pub fn before(&self, session: &SessionId) -> Before<D::File> {
        Before(self.old_file(session).ok().flatten())
    }

    /// Erases everything of a session up to `id`; the erasure has that sequence, and the call comes between the appends
    /// before and after it. Never fails: if the file cannot be removed, the session becomes stale.
    pub fn erase(&self, session: &SessionId, id: Id, sequence: u64) {
        let mut open = self.lock_open();
        open.newest = open.newest.max(sequence);
        self.reconcile_in(&mut open, session);
        open.files.pop(session);
        open.losses.remove(session);
        open.unnoted.insert(session.clone(), sequence);
        let before = open.stale.get(session).copied();
        if self.holds_newer(session, id).unwrap_or(true) {
            open.stale.insert(session.clone(), Stale::erased(id, sequence, before));
            return;
        }
        open.lost.remove(session);
        let removed = remove_if_there(&self.disk, &self.path(session));
        if let Err(e) = &removed {
            log::warn!("the transcript of {session} cannot be removed yet: {e}");
        }
        if removed.is_err() || before.is_some() {
            open.stale.insert(session.clone(), Stale::erased(id, sequence, before));
        }
    }

    /// Whether the file has a message after `id`; never for an erasure made on this server.
    fn holds_newer(&self, session: &SessionId, id: Id) -> io::Result<bool> {
        let Some(file) = self.old_file(session)? else { return Ok(false) };
        let mut lines = Lines::new(&file, u64::MAX)?;
        let mut at = lines.first_not_before(id)?;
        while let Some(range) = lines.line_at(at)? {
            if Message::id_of_line(lines.bytes(&range)).is_some_and(|found| found > id) {
                return Ok(true);
            }
            at = range.end;
        }
        Ok(false)
    }

    /// Whether the transcript may hold a message of the session up to `id`.
    pub fn may_hold(&self, session: &SessionId, id: Id) -> bool {
        let open = self.lock_open();
        let is_open = open.stale.contains_key(session)
            || open.expected_tails.contains_key(session)
            || open.lost.contains(session);
        drop(open);
        is_open || self.holds_not_after(session, id).unwrap_or(true)
    }

    fn holds_not_after(&self, session: &SessionId, id: Id) -> io::Result<bool> {
        let Some(file) = self.old_file(session)? else { return Ok(false) };
        let mut lines = Lines::new(&file, u64::MAX)?;
        let mut at = 0;
        while let Some(range) = lines.line_at(at)? {
            if let Some(found) = Message::id_of_line(lines.bytes(&range)) {
                return Ok(found <= id);
            }
            at = range.end;
        }
        Ok(false)
    }

    /// The same for an erasure that a start finds: before the first append and before any tail is expected.
    pub fn erase_at_start(&self, session: &SessionId, id: Id, sequence: u64) {
        self.lock_open().unnoted.insert(session.clone(), sequence);
        if let Err(e) = self.drop_erased(session, id) {
            log::warn!("the transcript of {session} cannot be removed yet: {e}");
            let mut open = self.lock_open();
            let before = open.stale.get(session).copied();
            open.stale.insert(session.clone(), Stale::erased(id, sequence, before));
        }
    }

    /// Removes everything up to `id` from a transcript. No append to it may run meanwhile. Newer messages stay.
    ///
    /// # Errors
    /// The disk failed. The old file is unchanged, unless only the folder's sync failed; a retry is safe. An unfinished
    /// new file may remain.
    pub fn drop_erased(&self, session: &SessionId, id: Id) -> io::Result<()> {
        let Some(old) = self.old_file(session)? else { return Ok(()) };
        let path = self.path(session);
        let mut lines = Lines::new(&old, u64::MAX)?;
        let (mut at, mut holds_erased, mut newer) = (0, false, None);
        while let Some(range) = lines.line_at(at)? {
            match Message::id_of_line(lines.bytes(&range)) {
                Some(found) if found > id => {
                    newer = Some(range.start);
                    break;
                }
                Some(_) => holds_erased = true,
                None => {}
            }
            at = range.end;
        }
        match newer {
            Some(_) if !holds_erased => return Ok(()),
            // An unfinished line may be the rest of an erased one.
            None => self.disk.remove(&path)?,
            Some(newer) => {
                self.make_again(&self.staging())?;
                let temporary = self.staging().join(session.file_name());
                let new = self.disk.create(&temporary)?;
                copy(&old, newer..old.byte_len()?, &new, 0)?;
                new.sync()?;
                self.disk.rename(&temporary, &path)?;
            }
        }
        self.disk.sync_dir(&self.folder)
    }

    /// The id up to which the session is erased, while its file may still hold erased messages.
    pub(super) fn hidden(&self, session: &SessionId) -> Option<Id> {
        self.lock_open().stale.get(session).and_then(|stale| stale.erased)
    }

    /// Removes erased messages from copies that were set aside and from unfinished rewrites: of each session everything
    /// up to its id. Of a copy of such a session's transcript only whole lines that are not erased stay. Returns how
    /// many files it changed.
    ///
    /// # Errors
    /// The disk failed, or `go_on` returned false ([`io::ErrorKind::Interrupted`]). Files that were done stay scrubbed;
    /// another call does the rest.
    pub fn scrub_copies(&self, erased: &HashMap<SessionId, Id>, go_on: &dyn Fn() -> bool) -> io::Result<usize> {
        let _alone = self.maintenance.lock().expect("no holder panics");
        for session in erased.keys() {
            remove_if_there(&self.disk, &self.staging().join(session.file_name()))?;
        }
        let folder = layout::quarantine(&self.folder);
        let names = match self.disk.list(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            names => names?,
        };
        let mut changed = 0;
        for name in names {
            if !go_on() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if name.ends_with(layout::UNFINISHED) {
                // No rewrite runs meanwhile: a stop or a failed try left this file, and this try may have reused its
                // name.
                remove_if_there(&self.disk, &folder.join(&name))?;
                continue;
            }
            let own = taken_from(&name).is_some_and(|session| erased.contains_key(&session));
            changed += usize::from(self.scrub_copy(&folder.join(&name), erased, own)?);
        }
        // A try that failed here may have done all the rest.
        self.disk.sync_dir(&folder)?;
        Ok(changed)
    }

    fn scrub_copy(&self, path: &Path, erased: &HashMap<SessionId, Id>, own: bool) -> io::Result<bool> {
        without_lines(&self.disk, path, &|line| {
            let whole = Message::from_line(line).map(|message| (message.id(), message.session().clone()));
            let is_erased = |(id, session): (Id, SessionId)| erased.get(&session).is_some_and(|erased| id <= *erased);
            match whole {
                Some(known) => is_erased(known),
                None => own || Message::beginning_of_line(line).is_some_and(is_erased),
            }
        })
    }
}

impl Stale {
    /// The rebuild begins at `before`, because messages newer than the erasure may be missing from there on.
    fn erased(id: Id, sequence: u64, before: Option<Self>) -> Self {
        let first = before.map_or(sequence, |before| before.first.min(sequence));
        let suspect = before.is_some_and(|before| before.suspect);
        Self { first, last: sequence, suspect, erased: Some(id).max(before.and_then(|before| before.erased)) }
    }
}

fn remove_if_there<D: Disk>(disk: &D, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The session of the transcript that a copy was taken from: the file's name, followed by numbers.
fn taken_from(name: &str) -> Option<SessionId> {
    let mut name = name;
    while !name.ends_with(".jsonl") {
        let (before, number) = name.rsplit_once('.')?;
        number.parse::<u64>().ok()?;
        name = before;
    }
    SessionId::from_file_name(name)
}

/// Rewrites a file of lines without those that go, an unfinished last one included; removes the file if nothing is
/// left. Returns whether any went. Nothing may write to it meanwhile.
///
/// # Errors
/// The disk failed. The file has its old lines, or the new ones, perhaps not durably. An unfinished file may remain
/// beside it.
pub fn without_lines<D: Disk>(disk: &D, path: &Path, goes: &dyn Fn(&[u8]) -> bool) -> io::Result<bool> {
    let old = match disk.open_read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        old => old?,
    };
    let mut any_goes = false;
    each_line(&old, goes, &mut |_, fate| {
        any_goes |= fate == Fate::Goes;
        Ok(())
    })?;
    if !any_goes {
        return Ok(false);
    }
    let temporary = layout::unfinished(path);
    let (new, mut bytes) = (disk.create(&temporary)?, 0);
    each_line(&old, goes, &mut |range, fate| {
        bytes += if fate == Fate::Stays { copy(&old, range, &new, bytes)? } else { 0 };
        Ok(())
    })?;
    new.sync()?;
    disk.rename(&temporary, path)?;
    if bytes == 0 {
        disk.remove(path)?;
    }
    disk.sync_dir(path.parent().unwrap_or(path))?;
    Ok(true)
}

/// Held while lines of a file are blanked: a file that is cut meanwhile and appended to would lose what is new.
static BLANKING: Mutex<()> = Mutex::new(());

/// Empties a file that ends at `end` and whose lines are all done with, durably. Nothing is done while lines of a file are
/// blanked, nor if it was appended to; nothing may be appended to it meanwhile.
///
/// # Errors
/// The disk failed. The file is empty, perhaps not durably, or as it was.
pub fn cut_lines<D: Disk>(disk: &D, path: &Path, end: u64) -> io::Result<()> {
    let Ok(_alone) = BLANKING.try_lock() else { return Ok(()) };
    let file = disk.open(path)?;
    if file.byte_len()? != end {
        return Ok(());
    }
    file.set_len(0)?;
    file.sync()
}

/// Hands the whole lines of a file from `at` on to `take`, each with its place and without its newline, until it breaks; that
/// line counts as not handed out. One longer than any message has no bytes. Returns where to go on.
///
/// # Errors
/// The file could not be read. A retry is safe.
pub fn lines_from<D: Disk>(
    disk: &D,
    path: &Path,
    at: u64,
    mut take: impl FnMut(Range<u64>, &[u8]) -> ControlFlow<()>,
) -> io::Result<u64> {
    let file = match disk.open_read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(at),
        file => file?,
    };
    let (mut lines, mut at) = (Lines::new(&file, u64::MAX)?, at);
    while let Some(range) = lines.line_at(at)? {
        if take(range.clone(), lines.bytes(&range)).is_break() {
            break;
        }
        at = range.end;
    }
    Ok(at)
}

/// Whether a JSON line at that offset of its file was being overwritten with spaces when that was broken off, and is not blank
/// yet: of a line, each sector is written or not, and what is left of it does not tell what it was.
pub fn is_half_blank(at: u64, line: &[u8]) -> bool {
    let first = usize::try_from(SECTOR_BYTES - at % SECTOR_BYTES).map_or(line.len(), |first| first.min(line.len()));
    let (first, others) = line.split_at(first);
    let is_blank = |piece: &[u8]| !piece.is_empty() && piece.trim_ascii().is_empty();
    let has_blank = is_blank(first) || others.chunks(SECTOR_BYTES as usize).any(is_blank);
    has_blank && !line.trim_ascii().is_empty() && serde_json::from_slice::<IgnoredAny>(line).is_err()
}

/// Overwrites the lines that go with spaces, in place: for a file that may be appended to meanwhile. So it does with lines for
/// which that was begun. Returns how many there were.
///
/// # Errors
/// The disk failed. Some lines may be blank already, perhaps not durably: where that matters, blank lines must go once more in
/// the call that is to be believed, since a second sync after a failed one says nothing.
pub fn blank_lines<D: Disk>(disk: &D, path: &Path, goes: &dyn Fn(&[u8]) -> bool) -> io::Result<usize> {
    let _alone = BLANKING.lock().unwrap_or_else(PoisonError::into_inner);
    let file = match disk.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    let mut lines = Lines::new(&file, u64::MAX)?;
    let (mut at, mut count) = (0, 0);
    while let Some(range) = lines.line_at(at)? {
        let line = lines.bytes(&range);
        if goes(line) || is_half_blank(range.start, line) {
            let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            file.write_all_at(&vec![b' '; length - 1], range.start)?;
            count += 1;
        }
        at = range.end;
    }
    let mut rest = vec![0; usize::try_from(file.byte_len()?.saturating_sub(at)).unwrap_or(0).min(REST_BYTES_MAX)];
    let read = file.read_at(&mut rest, at)?;
    // Cut off by a crash; the next append begins a new line. Or it is being appended at this moment: what is still to come may
    // be spaces as well, but it does not begin with one.
    let rest = &rest[..read];
    if !rest.is_empty() && (goes(rest) || (rest.starts_with(b" ") && is_half_blank(at, rest))) {
        file.write_all_at(&vec![b' '; read], at)?;
        count += 1;
    }
    if count > 0 {
        file.sync()?;
    }
    Ok(count)
}

/// How many lines, an unfinished last one among them, `counts` says count; none where there is no file.
///
/// # Errors
/// The file could not be read. A retry is safe.
pub fn count_lines<D: Disk>(disk: &D, path: &Path, counts: &dyn Fn(&[u8]) -> bool) -> io::Result<usize> {
    let file = match disk.open_read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    let mut count = 0;
    each_line(&file, counts, &mut |_, fate| {
        count += usize::from(fate == Fate::Goes);
        Ok(())
    })?;
    Ok(count)
}

/// Hands every line to `take`, and then the bytes after the last one.
fn each_line<F: DiskFile>(
    file: &F,
    goes: &dyn Fn(&[u8]) -> bool,
    take: &mut dyn FnMut(Range<u64>, Fate) -> io::Result<()>,
) -> io::Result<()> {
    let fate = |bytes: &[u8]| if goes(bytes) { Fate::Goes } else { Fate::Stays };
    let mut lines = Lines::new(file, u64::MAX)?;
    let mut at = 0;
    while let Some(range) = lines.line_at(at)? {
        at = range.end;
        let fate = fate(lines.bytes(&range));
        take(range, fate)?;
    }
    let rest = at..file.byte_len()?;
    if rest.end > rest.start {
        // Its beginning tells its session.
        let mut bytes = vec![0; usize::try_from(rest.end - rest.start).unwrap_or(usize::MAX).min(1024)];
        let read = file.read_at(&mut bytes, rest.start)?;
        take(rest, fate(&bytes[..read]))?;
    }
    Ok(())
}
