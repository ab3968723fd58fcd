//! Scrubbing: rewrites segments and the copies in `quarantine/` without the payloads of erased messages.
//!
//! Every frame keeps its place, its length and its sequence; the payload becomes zeros (record.rs). So offsets in digests,
//! readers that have the old file open, and the rules on requests see no difference. A file is copied under another name,
//! blanked there, synced and renamed: at every moment either the old or the new one has the name. A segment that is no
//! longer listed is left alone (`JournalState::swap`), and the zeros after a sealed segment's last record are left out.
//!
//! * The open segment is never rewritten: if it holds anything erased, it is sealed first. Nothing acknowledged is at
//!   risk: it is synced, and the file it copies is no longer written to.
//! * Digests tell which segments hold a session; without a readable digest the segment itself is searched.
//! * Copies in memory, kept in case a sync fails, must not bring anything back, so scrubbing waits until they are gone.
//! * Whatever a frame's fate was (refused, voided, published), its text goes. Of damaged bytes no more is known than what can
//!   be read: from the beginning of an erased line to the next line's, they are zeroed.
//!
//! It can stop anywhere and begin again: until all is done the erasures stay pending, also over a restart.
//!
//! Knows nothing of transcripts or other copies: the janitor does.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;

use crate::disk::{self, Disk, DiskFile};
use crate::layout;
use crate::message::Message;

use super::digest::{Digest, hash_of};
use super::erasures::Unscrubbed;
use super::error::AppendError;
use super::frame::{FrameHeader, stamp};
use super::record::Entry;
use super::scan::{Scanned, Scanner, read_over_damage};
use super::segment::{self, SegmentInfo};
use super::{Journal, scan};

/// Bytes searched at once.
const BLOCK_BYTES: usize = 1 << 20;
/// The first bytes of a line.
const LINE_START: &[u8] = b"{\"id\":\"";
/// The longest beginning of a line that tells its session, in bytes.
const LAYOUT_BYTES_MAX: usize = 256;

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Files that were rewritten.
    pub files: usize,
    /// Payloads and stretches of damage that were zeroed.
    pub blanks: usize,
}

/// A part of a file to be zeroed.
enum Blank {
    /// The payload of the frame at offset `at`.
    Frame { at: u64, salt: u32, header: FrameHeader },
    /// Damaged bytes.
    Raw(Range<u64>),
}

/// What to remove from one file.
#[derive(Default)]
struct ScrubFindings {
    blanks: Vec<Blank>,
    /// The keys of the removed messages: hash and sequence.
    keys: Vec<([u8; 16], u64)>,
    /// Only zeros follow this offset.
    end: u64,
}

impl<D: Disk> Journal<D> {
    /// How many erased sessions still have bytes in some file.
    pub fn erasures_pending(&self) -> usize {
        self.shared.erasures.read().expect("no holder panics").unscrubbed()
    }

    /// What is to be scrubbed. Tell [`Journal::scrubbed`] once it is done everywhere.
    pub fn unscrubbed(&self) -> Unscrubbed {
        self.shared.erasures.read().expect("no holder panics").look()
    }

    /// Notes that everything of `done` is scrubbed.
    pub fn scrubbed(&self, done: &Unscrubbed) {
        self.shared.erasures.write().expect("no holder panics").scrubbed(done);
    }

    /// Scrubs the segments and the quarantine while `go_on` returns true. The janitor calls it.
    ///
    /// # Errors
    /// The disk failed, or `go_on` returned false ([`io::ErrorKind::Interrupted`]). Call it again; what was scrubbed
    /// stays so.
    pub fn scrub(&self, wanted: &Unscrubbed, go_on: &dyn Fn() -> bool) -> io::Result<Scrubbed> {
        let mut scrubbed = Scrubbed::default();
        // Copies first: they are small, and on a full disk segments may be dropped anyway.
        let folder = layout::quarantine(&self.shared.config.path);
        for name in names(&self.shared.disk, &folder)?.iter().filter(|name| !name.ends_with(layout::UNFINISHED)) {
            on(go_on)?;
            match self.scrub_file(&folder.join(name), wanted, &mut scrubbed, &|| true) {
                // The sweep removes old copies.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => drop(done?),
            }
        }
        self.seal(wanted)?;
        let hashes: HashSet<u64> = wanted.sessions.keys().map(|session| hash_of(session.as_str())).collect();
        let mut sealed = self.shared.segments.lock().expect("no holder panics").clone();
        sealed.pop();
        for info in sealed.iter().filter(|info| info.header.first_sequence <= wanted.last) {
            on(go_on)?;
            let digest = Digest::stored(&self.shared.disk, &self.shared.config.path, &info.header);
            if digest.is_none_or(|digest| digest.may_hold(&hashes)) {
                match self.scrub_segment(info, wanted, &mut scrubbed) {
                    // Dropped in the meantime.
                    Err(e) if e.kind() == io::ErrorKind::NotFound && !self.is_listed(info) => {}
                    done => done?,
                }
            }
        }
        // A try that failed here may have done all the rest.
        for folder in [&folder, &self.shared.config.path] {
            match self.shared.disk.sync_dir(folder) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                synced => synced?,
            }
        }
        Ok(scrubbed)
    }

    /// Ends the open segment if it holds erased messages, and makes sure that memory keeps no copy of them.
    fn seal(&self, wanted: &Unscrubbed) -> io::Result<()> {
        let open = self.shared.segments.lock().expect("no holder panics").last().cloned();
        let holds = open.map_or(Ok(false), |info| self.holds_erased(&info, wanted))?;
        let mut writer = self.shared.writer.lock().expect("no holder panics");
        if holds || writer.holds_unsynced(wanted.last) {
            let sealed = if holds { writer.seal() } else { writer.sync() };
            self.shared.condition.look(&writer);
            sealed.map_err(|refusal| match refusal {
                AppendError::Full(reason) => io::Error::new(io::ErrorKind::StorageFull, reason),
                refusal => io::Error::other(refusal.to_string()),
            })?;
        }
        if writer.holds_unsynced(wanted.last) {
            return Err(io::Error::other("what was written before an erasure waits for a sync"));
        }
        Ok(())
    }

    /// Whether a segment that may still be written to holds erased messages.
    fn holds_erased(&self, info: &SegmentInfo, wanted: &Unscrubbed) -> io::Result<bool> {
        if info.header.first_sequence > wanted.last {
            return Ok(false);
        }
        let mut scanner = scan::open(&self.shared.disk, &self.shared.config.path, info)?;
        loop {
            match scanner.next()? {
                // Everything that an erasure covers comes before it.
                Scanned::Frame(header) if header.sequence > wanted.last => return Ok(false),
                Scanned::Frame(header) if is_to_go(&header, scanner.payload(), wanted) => return Ok(true),
                Scanned::Frame(_) => {}
                // A write may be under way; damage is looked into once the segment is sealed.
                Scanned::Gap(_) => return Ok(true),
                Scanned::End { .. } => return Ok(false),
            }
        }
    }

    fn scrub_segment(&self, info: &SegmentInfo, wanted: &Unscrubbed, scrubbed: &mut Scrubbed) -> io::Result<()> {
        let path = segment::path(&self.shared.config.path, info.header.number);
        let Some(found) = self.scrub_file(&path, wanted, scrubbed, &|| self.is_listed(info))? else { return Ok(()) };
        if !found.blanks.is_empty() {
            let mut segments = self.shared.segments.lock().expect("no holder panics");
            if let Some(listed) = segments.iter_mut().find(|listed| listed.header == info.header) {
                listed.file_bytes = found.end;
            }
        }
        self.shared.queue.lock().expect("no holder panics").keys.forget_erased(&found.keys);
        // The old digest may list the removed messages: the process may have stopped right after the rename.
        Digest::renew(&self.shared.disk, &self.shared.config.path, info)
    }

    fn is_listed(&self, info: &SegmentInfo) -> bool {
        let segments = self.shared.segments.lock().expect("no holder panics");
        segments.iter().any(|listed| listed.header == info.header)
    }

    /// Rewrites a file if anything in it must go. `None`: the file was dropped meanwhile and stays gone.
    fn scrub_file(
        &self,
        path: &Path,
        wanted: &Unscrubbed,
        scrubbed: &mut Scrubbed,
        is_kept: &dyn Fn() -> bool,
    ) -> io::Result<Option<ScrubFindings>> {
        let disk = &self.shared.disk;
        let found = find(&Arc::new(disk.open_read(path)?), wanted)?;
        if !found.blanks.is_empty() {
            let temporary = layout::unfinished(path);
            rewrite(disk, path, &temporary, &found)?;
            let _alone = self.shared.swap.lock().expect("no holder panics");
            if !is_kept() {
                return disk.remove(&temporary).map(|()| None);
            }
            disk.rename(&temporary, path)?;
            disk.sync_dir(path.parent().unwrap_or(path))?;
            scrubbed.files += 1;
            scrubbed.blanks += found.blanks.len();
        }
        Ok(Some(found))
    }
}

fn on(go_on: &dyn Fn() -> bool) -> io::Result<()> {
    if go_on() { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

/// The names in a folder; none when there is no such folder.
fn names<D: Disk>(disk: &D, folder: &Path) -> io::Result<Vec<String>> {
    match disk.list(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names,
    }
}

fn is_to_go(header: &FrameHeader, payload: &[u8], wanted: &Unscrubbed) -> bool {
    let entry = Entry::decode(header.kind, payload);
    let message = entry.as_ref().and_then(Entry::message);
    message.is_some_and(|message| wanted.covers(message.session(), message.id()))
}

/// Finds what must go from a file of frames, in any order and state.
fn find<F: DiskFile>(file: &Arc<F>, wanted: &Unscrubbed) -> io::Result<ScrubFindings> {
    let mut found = ScrubFindings::default();
    let mut between = Vec::new();
    let mut scanner = Scanner::of_any(file.clone())?;
    loop {
        match scanner.next()? {
            Scanned::Frame(header) => {
                found.end = scanner.offset();
                if is_to_go(&header, scanner.payload(), wanted) {
                    let at = found.end - header.frame_bytes() as u64;
                    found.blanks.push(Blank::Frame { at, salt: scanner.salt(), header });
                    let links = Entry::decode(header.kind, scanner.payload()).map(|entry| entry.links());
                    found.keys.extend(links.unwrap_or_default().key.map(|key| (key.hash, header.sequence)));
                }
            }
            Scanned::Gap(range) => between.push(range),
            Scanned::End { .. } => break,
        }
    }
    between.push(scanner.offset()..file.byte_len()?);
    for range in between {
        let end = find_raw(&**file, range, wanted, &mut found.blanks)?;
        found.end = found.end.max(end);
    }
    Ok(found)
}

/// Finds erased lines among bytes that are no frames; returns the end of the last byte that is not zero.
fn find_raw<F: DiskFile>(file: &F, range: Range<u64>, wanted: &Unscrubbed, blanks: &mut Vec<Blank>) -> io::Result<u64> {
    let (mut block, mut at, mut end) = (vec![0; BLOCK_BYTES], range.start, 0);
    let mut erased_from = None;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        let read = read_over_damage(file, &mut block[..length], at)?;
        let bytes = &block[..read];
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        let is_last = at + read as u64 >= range.end || read < length;
        // If a line continues in the next block, its beginning is found there.
        let whole = if is_last { read } else { read - LAYOUT_BYTES_MAX };
        for start in memmem::find_iter(bytes, LINE_START).filter(|start| *start < whole) {
            let line = &bytes[start..read.min(start + LAYOUT_BYTES_MAX)];
            let Some((id, session)) = Message::beginning_of_line(line) else { continue };
            if let Some(from) = erased_from.take() {
                blanks.push(Blank::Raw(from..at + start as u64));
            }
            if wanted.covers(&session, id) {
                erased_from = Some(at + start as u64);
            }
        }
        if is_last {
            break;
        }
        at += whole as u64;
    }
    blanks.extend(erased_from.map(|from| Blank::Raw(from..range.end)));
    Ok(end)
}

/// Writes the file without what must go, synced, under another name.
fn rewrite<D: Disk>(disk: &D, from: &Path, to: &Path, found: &ScrubFindings) -> io::Result<()> {
    let (old, new) = (disk.open_read(from)?, disk.create(to)?);
    let read = |to: &mut [u8], at: u64| read_over_damage(&old, to, at);
    if disk::copy_from(&read, found.end, &new, 0)? < found.end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut block = Vec::new();
    for blank in &found.blanks {
        match blank {
            Blank::Frame { at, salt, header } => {
                block.clear();
                header.push_to(&mut block);
                block.resize(header.frame_bytes(), 0);
                stamp(&mut block, *salt);
                new.write_all_at(&block, *at)?;
            }
            Blank::Raw(range) => segment::zero(&new, range.start, range.end.min(found.end))?,
        }
    }
    new.sync()
}
