//! Walks the frames of one segment file, over damage if there is any.
//!
//! After a bad frame it searches, byte by byte, for the next place where salt, checksum and a rising sequence agree;
//! the bytes between are a gap. A length is checked against the rest of the file before anything is allocated, and
//! every step moves forward, so a walk always ends, whatever the bytes. Places that look like frames and are none may
//! cost the length of the file a few times in all; beyond that only short ones are checked ([`VAIN_WALKS`]).
//!
//! In a file whose header is lost, or that was set aside, even the salt is unknown. Then a frame is recognised by
//! itself: its checksum covers its salt, and kind, flags and the zeros after them leave few other places to try. The
//! bytes before the kind occur in no message's line, so no text can pass for a frame.
//!
//! Knows nothing of what payloads mean, nor of what happens to a gap.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memchr::memmem;

use crate::disk::{Disk, DiskFile};
use crate::message::LINE_BYTES_MAX;

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, RecordKind, SEGMENT_HEADER_BYTES, is_intact};
use super::segment::{self, SegmentInfo};

/// Bytes of one read, unless a single frame is longer.
const WINDOW_BYTES: usize = 256 * 1024;
/// Bytes of the first read of a walk that begins at a place, most likely near the end of the file; each further read
/// takes four times as much, up to [`WINDOW_BYTES`].
const FIRST_WINDOW_BYTES: usize = 16 * 1024;
/// Bytes that are skipped at once where the medium cannot be read.
const SECTOR_BYTES: usize = 4096;

/// Bytes compared with zero at once.
const ZERO_BLOCK_BYTES: usize = 4096;

/// How many times the file's length may be checked for frames that turn out to be none. Damage comes nowhere near it;
/// but bytes made to promise a frame to the end of the file every few bytes would cost the square of its length.
const VAIN_WALKS: u64 = 8;

/// The most bytes of a payload before its line.
const LINKS_BYTES_MAX: usize = 64;

/// More zeros in a row than any frame has: a small sequence and a round length have ten.
const ZEROS_OF_A_TEAR: usize = 12;

/// What follows in the segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// An intact frame; [`Scanner::payload`] has its payload.
    Frame(FrameHeader),
    /// Bytes of no frame, followed by an intact frame.
    Gap(Range<u64>),
    /// No intact frame follows.
    End {
        /// Something other than zeros follows, up to the end of the file.
        dirty: bool,
    },
}

/// A walk through one segment.
pub struct Scanner<F> {
    file: Arc<F>,
    file_bytes: u64,
    /// The salt of all frames; `None` if every frame may have its own.
    salt: Option<u32>,
    /// Where the search for the next frame begins.
    offset: u64,
    last_sequence: Option<u64>,
    /// The offset and sequence before the frame found last.
    before: (u64, Option<u64>),
    window: Vec<u8>,
    window_at: u64,
    /// Bytes of the next read.
    window_bytes: usize,
    payload: Range<usize>,
    /// Bytes checked for frames that were none.
    vain_bytes: u64,
}

impl<F: DiskFile> Scanner<F> {
    /// Starts after the header of a segment with that salt.
    ///
    /// # Errors
    /// The file's length could not be read. Nothing was changed.
    pub fn new(file: Arc<F>, salt: u32) -> io::Result<Self> {
        Self::from(file, Some(salt), SEGMENT_HEADER_BYTES as u64)
    }

    /// Starts at the beginning of a file with frames of any salt, in any order.
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

    /// Where the search for the next frame begins: after the last one found.
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

    /// Drops what was read ahead and its memory: for a segment that is still being written.
    pub fn refresh(&mut self) {
        self.window = Vec::new();
        // A frame that was half written then is whole by now.
        self.vain_bytes = 0;
    }

    /// Steps back, so that the frame found last is found again.
    pub fn step_back(&mut self) {
        (self.offset, self.last_sequence) = self.before;
    }

    /// Whether a torn write can have left that stretch. Segments are zeroed in advance, so the missing part of a torn
    /// write is zero to its end; a whole frame has no such run of zeros and does not end with one.
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

    /// The end of a single damaged frame between the last intact one and zeros: its header can be read, nothing of it
    /// is missing, and its checksum is wrong.
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

    /// Finds what follows. After [`Scanned::End`] it may be called again, once the segment has grown.
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

    /// The intact frame that starts exactly at `at`, if there is one.
    fn frame_at(&mut self, at: u64) -> io::Result<Option<FrameHeader>> {
        let left = self.file_bytes.saturating_sub(at);
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let salt = self.salt;
        let Some(header) = peek(self.bytes(at, FRAME_HEADER_BYTES)?, salt) else {
            return self.refuse_newer(at, left).map(|()| None);
        };
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

    /// An error if an intact frame of a later version starts at `at`, with `left` bytes up to the file's end.
    fn refuse_newer(&mut self, at: u64, left: u64) -> io::Result<()> {
        let Some(salt) = self.salt else { return Ok(()) };
        let Some((frame_bytes, why)) = FrameHeader::peek_newer(self.bytes(at, FRAME_HEADER_BYTES)?, salt) else {
            return Ok(());
        };
        let patience = (VAIN_WALKS * (self.file_bytes + at)).saturating_sub(self.vain_bytes);
        if frame_bytes as u64 > left.min(patience) {
            return Ok(());
        }
        let frame = self.bytes(at, frame_bytes)?;
        if frame.len() == frame_bytes && is_intact(frame) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        self.vain_bytes += frame_bytes as u64;
        Ok(())
    }

    /// Searches from the byte after `offset`: returns the next intact frame, and whether the bytes before it (or before
    /// the end) hold anything but zeros.
    fn resynchronise(&mut self) -> io::Result<(Option<u64>, bool)> {
        let (salt, start, file_bytes) = (self.salt, self.offset, self.file_bytes);
        let (mut dirty, mut at) = (false, start);
        while at < file_bytes {
            let window = self.ahead(at)?;
            // The first byte was tried already.
            let skip = usize::from(at == start).min(window.len());
            let found = candidate(&window[skip..], salt).map(|i| i + skip);
            let seen = found.unwrap_or(window.len());
            dirty = dirty || !is_zero(&window[..seen]);
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
                // A frame's header may cross the window's end.
                None => at += (window.len() + 1 - FRAME_HEADER_BYTES) as u64,
            }
        }
        Ok((None, dirty))
    }

    /// The window from `at` on: at least a frame's header, unless the file ends before.
    fn ahead(&mut self, at: u64) -> io::Result<&[u8]> {
        let left = usize::try_from(self.file_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        self.bytes(at, FRAME_HEADER_BYTES.min(left))?;
        let from = usize::try_from(at - self.window_at).expect("inside the window");
        Ok(&self.window[from.min(self.window.len())..])
    }

    /// Bytes checked in vain, for a test of a walk's cost.
    #[cfg(test)]
    pub fn vain_bytes(&self) -> u64 {
        self.vain_bytes
    }

    /// Bytes of the file from `at` on: `wanted` of them, unless the file ends before.
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

/// Whether all bytes are zero. Block by block, which is ten times as fast as byte by byte: a start looks so at all that is
/// free in the last segment.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZERO_BLOCK_BYTES).all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
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
        // Cheapest check first: almost no byte is a kind.
        None => (0..(window.len() + 1).saturating_sub(FRAME_HEADER_BYTES))
            .find(|&at| RecordKind::from_byte(window[at + 20]).is_some() && peek(&window[at..], None).is_some()),
    }
}

/// Reads a stretch block by block, up to the file's end; sectors that the medium has lost read as zeros.
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

/// Reads as [`DiskFile::read_at`] does, but a sector that the medium has lost reads as zeros, which are no frame: only
/// its own records are lost, not the file.
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
