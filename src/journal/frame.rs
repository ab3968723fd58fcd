//! The bytes of a segment: its header and its frames. Pure: reads and writes memory, never a file.
//!
//! All numbers are little-endian. Format version 1:
//!
//! | header at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CHATKEEP` |
//! | 8 | 4 | format version |
//! | 12 | 4 | salt: random, never 0; older bytes on these blocks cannot pass for a frame of this segment |
//! | 16 | 8 | epoch: random, given to the journal when it was made; a feed cursor of another journal differs in it |
//! | 24 | 8 | number of the segment |
//! | 32 | 8 | sequence of its first frame, or of the first that could be there |
//! | 40 | 8 | when it was made, in microseconds since 1970: the segment before it was full by then |
//! | 48 | 12 | zero |
//! | 60 | 4 | CRC-32 of bytes 0..60 |
//!
//! | frame at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | the segment's salt |
//! | 4 | 4 | CRC-32 of bytes 0..4, 8..24 and the payload |
//! | 8 | 8 | sequence, rising |
//! | 16 | 4 | length of the payload |
//! | 20 | 1 | kind: 1 message, 2 erasure, 3 abort, 4 context-clear, 5 imported message |
//! | 21 | 1 | flags: bit 0, the next record belongs to the same request; bit 1, the one before does |
//! | 22 | 2 | zero |
//! | 24 | … | payload (record.rs); of a message that was erased, zeros |
//!
//! A request's records are kept all or none. A segment ends where a later one's first sequence begins: what a failed
//! segment holds from there on was refused, or was written again.
//!
//! Behind the last frame the segment is zero. Checksums are not chained: damage costs the frames it touches and no other.
//! To raise the version: write the new one, keep reading this one, and refuse a newer one by name ([`HeaderError`]). An
//! intact frame of another kind or with other flags is refused in the same way: it is no damage, and must not be cut off.

use super::codec::{Encoded, sealed, vouched_for};

/// The version we write.
pub const FORMAT_VERSION: u32 = 1;
/// The length of a segment's header, in bytes.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// The length of a frame's header, in bytes.
pub const FRAME_HEADER_BYTES: usize = 24;

const LETTERS: &[u8; 8] = b"CHATKEEP";
const FLAG_MORE: u8 = 1;
const FLAG_CONTINUES: u8 = 2;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A message.
    Message = 1,
    /// Everything of a session up to here is erased.
    Erasure = 2,
    /// Voids records of a request that is not whole; they must never be published.
    Abort = 3,
    /// A session's new context begins; reads as a `system` message.
    ContextClear = 4,
    /// A message with an id of its own, older than the record.
    Import = 5,
}

impl RecordKind {
    /// The kind that a frame's byte stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::Message, Self::Erasure, Self::Abort, Self::ContextClear, Self::Import];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Whether the frame that begins there is an erasure.
pub fn is_erasure(frame: &[u8]) -> bool {
    frame.get(20) == Some(&(RecordKind::Erasure as u8))
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random; every frame of the segment carries it.
    pub salt: u32,
    /// The journal's random number.
    pub epoch: u64,
    /// The segment's number, rising.
    pub number: u64,
    /// The first sequence that the segment may hold.
    pub first_sequence: u64,
    /// When it was made, in microseconds since 1970.
    pub made_micros: u64,
}

/// Why a file is not a segment we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A program of a later version wrote it: it is intact and must not be changed.
    #[error("written in journal format {0}; this chatkeep reads formats up to {FORMAT_VERSION}: use a newer chatkeep")]
    Newer(u32),
    /// The segment has an intact frame of that kind and with those flags, which a program of a later version wrote: it
    /// must not be changed.
    #[error("it holds a record of kind {0} with flags {1}, which this chatkeep does not know: use a newer chatkeep")]
    NewerRecord(u8, u8),
    /// The bytes are damaged or were never a segment.
    #[error("its header is damaged")]
    Damaged,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl SegmentHeader {
    /// The header as [`SEGMENT_HEADER_BYTES`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        sealed(LETTERS, FORMAT_VERSION, SEGMENT_HEADER_BYTES, |to| {
            (self.salt, self.epoch, self.number, self.first_sequence, self.made_micros).put(to);
        })
    }

    /// Reads the first bytes of a file.
    ///
    /// # Errors
    /// [`HeaderError`]: `Newer` needs a newer chatkeep; `Damaged` can perhaps be rebuilt (inventory.rs).
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = bytes.get(..SEGMENT_HEADER_BYTES).and_then(|header| vouched_for(LETTERS, header));
        match header {
            Some((FORMAT_VERSION, mut fields)) => {
                let fields = Encoded::take(&mut fields).ok_or(HeaderError::Damaged)?;
                let (salt, epoch, number, first_sequence, made_micros) = fields;
                Ok(Self { salt, epoch, number, first_sequence, made_micros })
            }
            Some((0, _)) | None => Err(HeaderError::Damaged),
            Some((newer, _)) => Err(HeaderError::Newer(newer)),
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The record's place in the one order.
    pub sequence: u64,
    /// The length of the payload, in bytes.
    pub payload_bytes: u32,
    /// What the payload is.
    pub kind: RecordKind,
    /// Its place in its request.
    pub group: RequestPart,
}

/// Whether a record's neighbours belong to the same request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestPart {
    /// The next record does.
    pub more: bool,
    /// The one before does.
    pub continues: bool,
}

impl RequestPart {
    fn flags(self) -> u8 {
        (u8::from(self.more) * FLAG_MORE) | (u8::from(self.continues) * FLAG_CONTINUES)
    }
}

impl FrameHeader {
    /// The whole frame's length, in bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload_bytes as usize
    }

    /// Appends the header, with zeros for salt and checksum: [`stamp`] fills them in when the frame's segment is known.
    pub fn push_to(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&[0; 8]);
        buffer.extend_from_slice(&self.sequence.to_le_bytes());
        buffer.extend_from_slice(&self.payload_bytes.to_le_bytes());
        buffer.extend_from_slice(&[self.kind as u8, self.group.flags(), 0, 0]);
    }

    /// The length of the frame that begins there by its own account, and why only a later version can read it; `None` if this
    /// one can, or if these bytes cannot start a frame of the segment with that salt. The checksum is not checked.
    #[must_use]
    pub fn peek_newer(bytes: &[u8], salt: u32) -> Option<(usize, HeaderError)> {
        let is_newer =
            bytes.len() >= FRAME_HEADER_BYTES && u32_at(bytes, 0) == salt && Self::peek(bytes, salt).is_none();
        is_newer
            .then(|| (FRAME_HEADER_BYTES + u32_at(bytes, 16) as usize, HeaderError::NewerRecord(bytes[20], bytes[21])))
    }

    /// Reads the header of a frame of the segment with that salt, without checking the checksum.
    ///
    /// `None` if these bytes cannot start such a frame.
    #[must_use]
    pub fn peek(bytes: &[u8], salt: u32) -> Option<Self> {
        if bytes.len() < FRAME_HEADER_BYTES || u32_at(bytes, 0) != salt {
            return None;
        }
        let (kind, flags) = (RecordKind::from_byte(bytes[20])?, bytes[21]);
        let known = flags & !(FLAG_MORE | FLAG_CONTINUES) == 0 && bytes[22..24] == [0, 0];
        known.then(|| Self {
            sequence: u64_at(bytes, 8),
            payload_bytes: u32_at(bytes, 16),
            kind,
            group: RequestPart { more: flags & FLAG_MORE != 0, continues: flags & FLAG_CONTINUES != 0 },
        })
    }
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[0..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Fills in a frame's salt and checksum: the last step before it is written.
pub fn stamp(frame: &mut [u8], salt: u32) {
    frame[0..4].copy_from_slice(&salt.to_le_bytes());
    let checksum = checksum(frame);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Whether a frame's checksum is right.
#[must_use]
pub fn is_intact(frame: &[u8]) -> bool {
    checksum(frame) == u32_at(frame, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 0x5a17_c0de;
    const GROUP: RequestPart = RequestPart { more: true, continues: false };

    fn frame() -> Vec<u8> {
        let payload = b"payload";
        let header = FrameHeader { sequence: 7, payload_bytes: 7, kind: RecordKind::Message, group: GROUP };
        let mut frame = Vec::new();
        header.push_to(&mut frame);
        frame.extend_from_slice(payload);
        stamp(&mut frame, SALT);
        frame
    }

    #[test]
    fn a_frame_reads_back() {
        let frame = frame();
        let header = FrameHeader::peek(&frame, SALT).unwrap();
        assert_eq!(header, FrameHeader { sequence: 7, payload_bytes: 7, kind: RecordKind::Message, group: GROUP });
        assert_eq!(header.frame_bytes(), frame.len());
        assert!(is_intact(&frame));
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_seen() {
        for at in 0..frame().len() * 8 {
            let mut frame = frame();
            frame[at / 8] ^= 1 << (at % 8);
            assert!(FrameHeader::peek(&frame, SALT).is_none() || !is_intact(&frame), "bit {at}");
        }
    }

    #[test]
    fn a_frame_of_another_segment_is_none_of_ours() {
        assert_eq!(FrameHeader::peek(&frame(), SALT + 1), None);
        assert_eq!(FrameHeader::peek(&[0; 64], SALT), None);
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_seen() {
        let header = SegmentHeader { salt: SALT, epoch: 1, number: 2, first_sequence: 3, made_micros: 4 };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        for at in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut bytes = header.encode();
            bytes[at / 8] ^= 1 << (at % 8);
            assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Damaged), "bit {at}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mut bytes = SegmentHeader { salt: SALT, epoch: 1, number: 2, first_sequence: 3, made_micros: 4 }.encode();
        bytes[8] = 9;
        let checksum = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        let error = SegmentHeader::decode(&bytes).unwrap_err();
        assert_eq!(error, HeaderError::Newer(9));
        assert!(error.to_string().contains("format 9"));
    }
}
