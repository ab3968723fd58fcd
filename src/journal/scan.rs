//! Walks the frames of one segment file, over damage where there is some.
//!
//! After a bad frame it looks on, byte by byte, for the next place where salt, checksum and a rising sequence agree;
//! what lies between is a gap. A length is bounded by what is left of the file before anything is allocated, and every
//! step moves forward, so a walk always ends, whatever the bytes. Places that look like frames and are none may cost a
//! few walks over the file, all together; beyond that only short ones are looked at ([`VAIN_WALKS`]).
//!
//! Of a file whose header is lost, or that was set aside, not even the salt is known. A frame is told by itself then: its salt,
//! whatever that is, stands under its checksum, and kind, flags and the zeros behind them leave few other places to try. The
//! bytes before the kind are in no message's line, so no text can pass for a frame.
//!
//! Knows nothing of what payloads mean, nor what becomes of a gap.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;

use crate::disk::{Disk, DiskFile};
use crate::message::LINE_BYTES_MAX;

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, Kind, SEGMENT_HEADER_BYTES, is_intact};
use super::segment::{self, SegmentInfo};

/// How much is read at once, unless one frame is longer.
const WINDOW_BYTES: usize = 256 * 1024;
/// How much is read first by a walk that begins at a place, most likely near the end of what there is; each further read takes
/// four times as much, up to [`WINDOW_BYTES`].
const FIRST_WINDOW_BYTES: usize = 16 * 1024;
/// What is given up at once where the medium cannot be read.
const SECTOR_BYTES: usize = 4096;

/// How many times the file's length may be checked for frames that turn out to be none. Damage comes nowhere near it; bytes
/// made so that every few of them promise a frame to the end of the file would else cost the square of its length.
const VAIN_WALKS: u64 = 8;

/// The most a payload has before its line.
const LINKS_BYTES_MAX: usize = 64;

/// Zeros in a row that no frame has: a small sequence and a round length are ten.
const ZEROS_OF_A_TEAR: usize = 12;

/// What stands next in the segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// An intact frame; [`Scanner::payload`] has its payload.
    Frame(FrameHeader),
    /// Bytes that belong to no frame, with an intact frame behind them.
    Gap(Range<u64>),
    /// No intact frame follows. `dirty` tells whether anything but zeros stands from here to the end of the file.
    End {
        /// See above.
        dirty: bool,
    },
}

/// A walk through one segment.
pub struct Scanner<F> {
    file: Arc<F>,
    file_bytes: u64,
    /// The salt of all frames; none where every frame may have its own.
    salt: Option<u32>,
    /// Where the next frame is looked for.
    offset: u64,
    last_sequence: Option<u64>,
    /// Offset and last sequence before the frame found last.
    before: (u64, Option<u64>),
    window: Vec<u8>,
    window_at: u64,
    /// How much the next read takes.
    window_bytes: usize,
    payload: Range<usize>,
    /// Bytes that were checked for frames that were none.
    vain_bytes: u64,
}

impl<F: DiskFile> Scanner<F> {
    /// Starts behind the header of a segment with that salt.
    ///
    /// # Errors
    /// The file's length could not be read. Nothing was changed.
    pub fn new(file: Arc<F>, salt: u32) -> io::Result<Self> {
        Self::from(file, Some(salt), SEGMENT_HEADER_BYTES as u64)
    }

    /// Starts at the beginning of a file of whatever frames, in whatever order.
    ///
    /// # Errors
    /// The file's length could not be read. Nothing was changed.
    pub fn of_any(file: Arc<F>) -> io::Result<Self> {
        Self::from(file, None, 0)
    }

    fn from(file: Arc<F>, salt: Option<u32>, offset: u64) -> io::Result<Self> {
        Ok(Self {
            file_bytes: file.byte_len()?,
            file,
            salt,
            offset,
            last_sequence: None,
            before: (offset, None),
            window: Vec::new(),
            window_at: 0,
            window_bytes: WINDOW_BYTES,
            payload: 0..0,
            vain_bytes: 0,
        })
    }

    /// Where the next frame is looked for: behind the last one found.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on at that offset, where a frame starts as far as the caller knows.
    pub fn go_to(&mut self, offset: u64) {
        (self.offset, self.last_sequence) = (offset, None);
        self.before = (offset, None);
        self.window_bytes = FIRST_WINDOW_BYTES;
    }

    /// The payload of the frame found last.
    pub fn payload(&self) -> &[u8] {
        &self.window[self.payload.clone()]
    }

    /// The salt of the frame found last.
    pub fn salt(&self) -> u32 {
        salt_of(&self.window[self.payload.start - FRAME_HEADER_BYTES..])
    }

    /// Forgets what was read ahead, and gives its memory back: for a segment that is still being written.
    pub fn refresh(&mut self) {
        self.window = Vec::new();
        // What was half written then is whole by now.
        self.vain_bytes = 0;
    }

    /// Steps back, so that the frame found last is found again.
    pub fn step_back(&mut self) {
        (self.offset, self.last_sequence) = self.before;
    }

    /// Whether a write that ended early can have left that stretch. Segments are zeroed beforehand, so what is missing of a
    /// torn write is zero to its end; a whole frame has no such run of zeros and does not end with one.
    ///
    /// # Errors
    /// The stretch could not be read. The walk stays where it was.
    pub fn could_be_torn(&self, stretch: Range<u64>) -> io::Result<bool> {
        let (mut zeros, mut is_torn, mut is_there) = (0, false, false);
        each_block(&*self.file, stretch, |_, block| {
            is_there = true;
            for &byte in block {
                zeros = if byte == 0 { zeros + 1 } else { 0 };
                is_torn |= zeros == ZEROS_OF_A_TEAR;
            }
        })?;
        Ok(is_torn || zeros > 0 || !is_there)
    }

    /// Where a whole frame ends that stands behind the last intact one with zeros behind it: its header can be read, nothing
    /// of it is missing, and its checksum is wrong.
    ///
    /// # Errors
    /// The file could not be read. The walk stays where it was.
    pub fn damaged_end(&mut self) -> io::Result<Option<u64>> {
        let (at, salt) = (self.offset, self.salt);
        let Some(header) = peek(self.bytes(at, FRAME_HEADER_BYTES)?, salt) else { return Ok(None) };
        let end = at + header.frame_bytes() as u64;
        if end > self.file_bytes || self.could_be_torn(at..end)? {
            return Ok(None);
        }
        Ok((used_bytes(&*self.file, end..self.file_bytes)? == 0).then_some(end))
    }

    /// Finds what stands next. After [`Scanned::End`] it may be asked again, once the segment has grown.
    ///
    /// # Errors
    /// The file could not be read. The walk stays where it was, and another call goes on from there.
    pub fn next(&mut self) -> io::Result<Scanned> {
        if let Some(header) = self.frame_at(self.offset)? {
            self.before = (self.offset, self.last_sequence);
            self.offset += header.frame_bytes() as u64;
            self.last_sequence = Some(header.sequence);
            return Ok(Scanned::Frame(header));
        }
        let (next, dirty) = self.resynchronise()?;
        Ok(match next {
            Some(at) => {
                let gap = self.offset..at;
                self.offset = at;
                Scanned::Gap(gap)
            }
            None => Scanned::End { dirty },
        })
    }

    /// The intact frame that starts exactly there, if one does.
    fn frame_at(&mut self, at: u64) -> io::Result<Option<FrameHeader>> {
        let left = self.file_bytes.saturating_sub(at);
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let salt = self.salt;
        let Some(header) = peek(self.bytes(at, FRAME_HEADER_BYTES)?, salt) else { return Ok(None) };
        let rises = salt.is_none() || self.last_sequence.is_none_or(|last| header.sequence > last);
        let frame_bytes = header.frame_bytes();
        let patience = (VAIN_WALKS * (self.file_bytes + at)).saturating_sub(self.vain_bytes);
        if !rises || frame_bytes as u64 > left.min(patience) {
            return Ok(None);
        }
        let frame = self.bytes(at, frame_bytes)?;
        if frame.len() < frame_bytes || !is_intact(frame) {
            self.vain_bytes += frame_bytes as u64;
            return Ok(None);
        }
        let start = usize::try_from(at - self.window_at).expect("the window holds the frame");
        self.payload = start + FRAME_HEADER_BYTES..start + frame_bytes;
        Ok(Some(header))
    }

    /// Looks on from the byte behind `offset`: the next intact frame, and whether the way to it (or to the end) holds
    /// anything but zeros.
    fn resynchronise(&mut self) -> io::Result<(Option<u64>, bool)> {
        let (salt, start, file_bytes) = (self.salt, self.offset, self.file_bytes);
        let (mut dirty, mut at) = (false, start);
        while at < file_bytes {
            let window = self.ahead(at)?;
            // The first byte is no frame: it was tried.
            let skip = usize::from(at == start).min(window.len());
            let found = candidate(&window[skip..], salt).map(|i| i + skip);
            let seen = found.unwrap_or(window.len());
            dirty = dirty || window[..seen].iter().any(|&byte| byte != 0);
            match found {
                Some(i) => {
                    let candidate = at + i as u64;
                    if self.frame_at(candidate)?.is_some() {
                        return Ok((Some(candidate), dirty));
                    }
                    dirty = true;
                    at = candidate + 1;
                }
                None if window.len() < FRAME_HEADER_BYTES || at + window.len() as u64 >= file_bytes => break,
                // A frame's header may lie across the window's end.
                None => at += (window.len() + 1 - FRAME_HEADER_BYTES) as u64,
            }
        }
        Ok((None, dirty))
    }

    /// What the window has from there on: at least a frame's header, unless the file ends before.
    fn ahead(&mut self, at: u64) -> io::Result<&[u8]> {
        let left = usize::try_from(self.file_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        self.bytes(at, FRAME_HEADER_BYTES.min(left))?;
        let from = usize::try_from(at - self.window_at).expect("inside the window");
        Ok(&self.window[from.min(self.window.len())..])
    }

    /// Bytes checked in vain, for a test of what a walk costs.
    #[cfg(test)]
    pub fn vain_bytes(&self) -> u64 {
        self.vain_bytes
    }

    /// Bytes of the file from there on, `wanted` of them unless the file ends before.
    fn bytes(&mut self, at: u64, wanted: usize) -> io::Result<&[u8]> {
        let window_end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + wanted as u64 > window_end {
            let left = usize::try_from(self.file_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
            self.window.resize(wanted.max(self.window_bytes).min(left), 0);
            self.window_bytes = WINDOW_BYTES.min(self.window_bytes * 4);
            self.window_at = at;
            let read = read_over_damage(&*self.file, &mut self.window, at);
            self.window.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        let from = usize::try_from(at - self.window_at).expect("inside the window");
        let to = (from + wanted).min(self.window.len());
        Ok(&self.window[from.min(to)..to])
    }
}

fn salt_of(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[..4].try_into().expect("four bytes"))
}

/// The header of a frame that may start with those bytes.
fn peek(bytes: &[u8], salt: Option<u32>) -> Option<FrameHeader> {
    if salt.is_some() || bytes.len() < FRAME_HEADER_BYTES {
        return FrameHeader::peek(bytes, salt?);
    }
    let is_likely = |header: &FrameHeader| header.payload_bytes as usize <= LINE_BYTES_MAX + LINKS_BYTES_MAX;
    Some(salt_of(bytes)).filter(|salt| *salt != 0).and_then(|salt| FrameHeader::peek(bytes, salt)).filter(is_likely)
}

/// The first place in the window where a frame may start.
fn candidate(window: &[u8], salt: Option<u32>) -> Option<usize> {
    match salt {
        Some(salt) => memmem::find(window, &salt.to_le_bytes()),
        // Cheap first: almost every byte is no kind.
        None => (0..(window.len() + 1).saturating_sub(FRAME_HEADER_BYTES))
            .find(|&at| Kind::from_byte(window[at + 20]).is_some() && peek(&window[at..], None).is_some()),
    }
}

/// Reads a stretch block by block, as far as the file goes; what the medium has lost is zeros.
fn each_block<F: DiskFile>(file: &F, stretch: Range<u64>, mut see: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let (mut block, mut at) = (vec![0; WINDOW_BYTES], stretch.start);
    while at < stretch.end {
        let wanted = usize::try_from(stretch.end - at).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        let read = read_over_damage(file, &mut block[..wanted], at)?;
        if read == 0 {
            break;
        }
        see(at, &block[..read]);
        at += read as u64;
    }
    Ok(())
}

/// The length of a stretch without the zeros at its end.
///
/// # Errors
/// The stretch could not be read. Nothing was changed.
pub fn used_bytes<F: DiskFile>(file: &F, stretch: Range<u64>) -> io::Result<u64> {
    let (start, mut end) = (stretch.start, stretch.start);
    each_block(file, stretch, |at, block| {
        end = block.iter().rposition(|&byte| byte != 0).map_or(end, |last| at + last as u64 + 1);
    })?;
    Ok(end - start)
}

/// Opens a segment for walking.
///
/// # Errors
/// The segment could not be opened, or its length not read. Nothing was changed.
pub fn open<D: Disk>(disk: &D, folder: &Path, info: &SegmentInfo) -> io::Result<Scanner<D::File>> {
    let file = disk.open_read(&segment::path(folder, info.header.number))?;
    Scanner::new(Arc::new(file), info.header.salt)
}

/// Reads as [`DiskFile::read_at`] does, but a sector the medium has lost reads as zeros, which no frame is: it costs what
/// stood there and not the file.
pub fn read_over_damage<F: DiskFile>(file: &F, to: &mut [u8], offset: u64) -> io::Result<usize> {
    let lost = |e: &io::Error| e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    match file.read_at(to, offset) {
        Err(e) if lost(&e) => log::error!("the disk cannot read the journal at byte {offset} and around: {e}"),
        read => return read,
    }
    let mut done = 0;
    for piece in to.chunks_mut(SECTOR_BYTES) {
        match file.read_at(piece, offset + done as u64) {
            Ok(read) if read < piece.len() => return Ok(done + read),
            Ok(_) => {}
            Err(e) if lost(&e) => piece.fill(0),
            Err(e) => return Err(e),
        }
        done += piece.len();
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
