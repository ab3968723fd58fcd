//! Intact frames out of a file of which nothing else is known: a segment without its header, a tail set aside.
//!
//! A frame is told by itself: its salt, whatever that is, stands under its checksum, and kind, flags and the zeros behind
//! them leave few other places to try. The bytes before the kind are in no message's line, so no text can pass for a frame.
//!
//! Knows nothing of what counts: a message that was refused may be among them.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::message::{LINE_BYTES_MAX, Message};

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, is_intact};
use super::record::Entry;
use super::scan::read_over_damage;

/// How much is read at once, unless one frame is longer.
const WINDOW_BYTES: usize = 256 * 1024;
/// The most a payload has before its line.
const LINKS_BYTES_MAX: usize = 64;
/// How many times the file's length may be checked for frames that turn out to be none (see scan.rs).
const VAIN_WALKS: u64 = 8;

/// Hands every intact message in the file to `take`, with the sequence it was given.
///
/// # Errors
/// The disk's.
pub fn messages<D: Disk>(disk: &D, path: &Path, take: &mut dyn FnMut(u64, &Arc<Message>)) -> io::Result<()> {
    frames(&disk.open_read(path)?, |_, header, payload, _| {
        if let Some(message) = Entry::decode(header.kind, payload).as_ref().and_then(Entry::message) {
            take(header.sequence, message);
        }
        ControlFlow::Continue(())
    })
}

/// The salt and the sequence of the first intact frame.
///
/// # Errors
/// The disk's.
pub fn first_frame<F: DiskFile>(file: &F) -> io::Result<Option<(u32, u64)>> {
    let mut first = None;
    frames(file, |salt, header, _, _| {
        first = Some((salt, header.sequence));
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// Hands every intact frame to `take`, with its salt, its payload and where it starts, until it says to stop.
///
/// # Errors
/// The disk's.
pub fn frames<F: DiskFile>(
    file: &F,
    mut take: impl FnMut(u32, &FrameHeader, &[u8], u64) -> ControlFlow<()>,
) -> io::Result<()> {
    let file_bytes = file.byte_len()?;
    let mut window = Window { bytes: Vec::new(), at: 0 };
    let (mut at, mut vain) = (0, 0);
    while at + FRAME_HEADER_BYTES as u64 <= file_bytes && vain <= VAIN_WALKS * file_bytes {
        let seen = window.from(file, at, FRAME_HEADER_BYTES)?;
        if seen.len() < FRAME_HEADER_BYTES {
            break;
        }
        let (skipped, found) = first_candidate(seen, file_bytes - at);
        at += skipped as u64;
        let Some((salt, header)) = found else { continue };
        let seen = window.from(file, at, header.frame_bytes())?;
        let Some(frame) = seen.get(..header.frame_bytes()).filter(|frame| is_intact(frame)) else {
            vain += header.frame_bytes() as u64;
            at += 1;
            continue;
        };
        if take(salt, &header, &frame[FRAME_HEADER_BYTES..], at).is_break() {
            break;
        }
        at += header.frame_bytes() as u64;
    }
    Ok(())
}

/// A stretch of the file in memory.
struct Window {
    bytes: Vec<u8>,
    at: u64,
}

impl Window {
    /// What is held from `at` on: at least `wanted` bytes, unless the file ends before.
    fn from<F: DiskFile>(&mut self, file: &F, at: u64, wanted: usize) -> io::Result<&[u8]> {
        let end = self.at + self.bytes.len() as u64;
        if at < self.at || at + wanted as u64 > end {
            self.bytes.resize(wanted.max(WINDOW_BYTES), 0);
            let read = read_over_damage(file, &mut self.bytes, at)?;
            self.bytes.truncate(read);
            self.at = at;
        }
        Ok(&self.bytes[usize::try_from(at - self.at).expect("inside the window")..])
    }
}

/// The first place in the window where a frame may start that ends within `left` bytes, or how far none does.
fn first_candidate(window: &[u8], left: u64) -> (usize, Option<(u32, FrameHeader)>) {
    let places = window.len() + 1 - FRAME_HEADER_BYTES;
    for at in 0..places {
        // Cheap first: almost every byte fails here.
        if !(1..=4).contains(&window[at + 20]) {
            continue;
        }
        let bytes = &window[at..];
        let salt = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let fits = |header: &FrameHeader| {
            header.payload_bytes as usize <= LINE_BYTES_MAX + LINKS_BYTES_MAX
                && at as u64 + header.frame_bytes() as u64 <= left
        };
        if let Some(header) = FrameHeader::peek(bytes, salt).filter(|header| salt != 0 && fits(header)) {
            return (at, Some((salt, header)));
        }
    }
    (places, None)
}
