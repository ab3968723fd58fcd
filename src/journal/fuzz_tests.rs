//! The readers of bytes on a disk, fed with what no writer of ours wrote: damaged segments, digests, checkpoints, headers and
//! payloads, with checksums that are wrong and with some that are right. Compiled under `#[cfg(test)]` only.
//!
//! Whatever the bytes: nothing panics; a walk ends, reads and allocates in proportion to the file, gives out nothing that was
//! not written with the segment's salt, and finds every intact frame that damage did not touch.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::digest::Digest;
use super::frame::{
    FRAME_HEADER_BYTES, FrameHeader, HeaderError, RecordKind, RequestPart, SegmentHeader, is_intact, stamp,
};
use super::requests::Fragments;
use super::scan::{Scanned, Scanner};
use super::*;
use crate::disk::DiskFile;
use crate::disk::sim::Random;
use crate::message::{Id, Timestamp};

const SALT: u32 = 0x5a17_c0de;

fn scale() -> u64 {
    std::env::var("CHATKEEP_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

/// A file in memory that counts what is read, and notes the longest read.
#[derive(Default)]
struct Counted {
    bytes: Vec<u8>,
    read: AtomicU64,
    longest: AtomicUsize,
}

impl DiskFile for Counted {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        self.longest.fetch_max(to.len(), Ordering::Relaxed);
        let from = self.bytes.get(offset as usize..).unwrap_or_default();
        let count = from.len().min(to.len());
        to[..count].copy_from_slice(&from[..count]);
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        unreachable!("a walk writes nothing")
    }

    fn sync(&self) -> io::Result<()> {
        unreachable!("a walk syncs nothing")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("a walk cuts nothing")
    }
}

/// What a walk found, and what it cost.
struct Walked {
    /// Each frame with its offset.
    frames: Vec<(usize, FrameHeader, Vec<u8>)>,
    read: u64,
    vain: u64,
}

/// Walks a segment to its end; fails when that takes more than a walk may take.
fn walk(bytes: &[u8]) -> Walked {
    let file = Arc::new(Counted { bytes: bytes.to_vec(), ..Counted::default() });
    let mut scanner = Scanner::new(file.clone(), SALT).unwrap();
    let (mut frames, mut at) = (Vec::new(), frame::SEGMENT_HEADER_BYTES as u64);
    for _ in 0..=bytes.len() / 12 + 2 {
        match scanner.next().unwrap() {
            Scanned::Frame(header) => {
                frames.push((at as usize, header, scanner.payload().to_vec()));
                at = scanner.offset();
            }
            Scanned::Gap(gap) => {
                assert!(gap.start == at && gap.end > at && gap.end == scanner.offset());
                at = gap.end;
            }
            Scanned::End { .. } => {
                let (read, vain) = (file.read.load(Ordering::Relaxed), scanner.vain_bytes());
                assert!(file.longest.load(Ordering::Relaxed) <= bytes.len());
                return Walked { frames, read, vain };
            }
        }
    }
    panic!("the walk does not end");
}

fn push_frame(bytes: &mut Vec<u8>, sequence: u64, payload: &[u8], salt: u32) -> Range<usize> {
    let start = bytes.len();
    let payload_bytes = payload.len() as u32;
    FrameHeader { sequence, payload_bytes, kind: RecordKind::Message, group: RequestPart::default() }.push_to(bytes);
    bytes.extend_from_slice(payload);
    stamp(&mut bytes[start..], salt);
    start..bytes.len()
}

/// A segment of some frames and zeros behind them, and where each frame stands.
fn segment(random: &mut Random) -> (Vec<u8>, Vec<Range<usize>>) {
    let header = SegmentHeader { salt: SALT, epoch: 1, number: 1, first_sequence: 1, made_micros: 1 };
    let mut bytes = header.encode();
    let mut sequence = 0;
    let frames = (0..1 + random.below(40)).map(|_| {
        sequence += 1 + random.below(3);
        let payload: Vec<u8> = (0..random.below(120)).map(|_| random.draw() as u8).collect();
        push_frame(&mut bytes, sequence, &payload, SALT)
    });
    let frames = frames.collect();
    bytes.resize(bytes.len() + random.below(300) as usize, 0);
    (bytes, frames)
}

/// Somewhere behind the segment's header.
fn place(random: &mut Random, bytes: &[u8]) -> usize {
    64 + random.below(bytes.len() as u64 - 63) as usize
}

fn stretch(random: &mut Random, bytes: &[u8]) -> Range<usize> {
    let start = place(random, bytes);
    start..(start + random.below(400) as usize).min(bytes.len())
}

/// Damages a segment once, by one of the ways a disk or a hand may do it.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = place(random, bytes);
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 => bytes.truncate(at),
        2 => {
            let taken = stretch(random, bytes);
            let copy = bytes[taken].to_vec();
            drop(bytes.splice(at..at, copy));
        }
        3 => drop(bytes.drain(stretch(random, bytes))),
        4 => {
            let taken = stretch(random, bytes);
            bytes[taken].fill(0);
        }
        5 => {
            let garbage: Vec<u8> = (0..random.below(200)).map(|_| random.draw() as u8).collect();
            drop(bytes.splice(at..at, garbage));
        }
        6 => {
            // A salt in a wrong place, so that the bytes after it look like a header.
            let end = (at + 4).min(bytes.len());
            bytes[at..end].copy_from_slice(&SALT.to_le_bytes()[..end - at]);
        }
        7 => {
            // A header with any length.
            let mut fake = Vec::new();
            push_frame(&mut fake, random.draw() % 100, b"", SALT);
            fake[16..20].copy_from_slice(&((random.draw() >> random.below(64)) as u32).to_le_bytes());
            drop(bytes.splice(at..at, fake));
        }
        _ => {
            // A whole frame of another segment.
            let mut foreign = Vec::new();
            push_frame(&mut foreign, random.draw() % 100, b"of another segment", SALT ^ 1);
            drop(bytes.splice(at..at, foreign));
        }
    }
}

#[test]
fn a_damaged_segment_yields_only_what_was_written_in_bounded_work() {
    let mut random = Random(1);
    for case in 0..4000 * scale() {
        let (whole, frames) = segment(&mut random);
        let written: Vec<&[u8]> = frames.iter().map(|frame| &whole[frame.clone()]).collect();
        let mut bytes = whole.clone();
        (0..1 + random.below(4)).for_each(|_| mutate(&mut random, &mut bytes));
        let walked = walk(&bytes);
        assert!(walked.frames.windows(2).all(|pair| pair[0].1.sequence < pair[1].1.sequence), "case {case}");
        for (at, header, payload) in &walked.frames {
            let frame = &bytes[*at..at + header.frame_bytes()];
            // An empty payload's frame may be made by the fuzz itself.
            assert!(is_intact(frame) && frame.ends_with(payload), "case {case}");
            assert!(written.contains(&frame) || payload.is_empty(), "case {case}: made up at {at}");
        }
    }
}

#[test]
fn every_intact_frame_beside_a_damaged_stretch_is_found() {
    let mut random = Random(2);
    for case in 0..3000 * scale() {
        let (mut bytes, frames) = segment(&mut random);
        let hit = stretch(&mut random, &bytes);
        bytes[hit.clone()].iter_mut().for_each(|byte| *byte ^= 1 + random.below(255) as u8);
        let found: Vec<usize> = walk(&bytes).frames.iter().map(|(at, ..)| *at).collect();
        let wanted = frames.iter().filter(|frame| frame.end <= hit.start || frame.start >= hit.end || hit.is_empty());
        assert_eq!(found, wanted.map(|frame| frame.start).collect::<Vec<_>>(), "case {case}, {hit:?}");
    }
}

/// A segment whose every 24 bytes from `from` on are a header that promises a payload to the end of the file; the
/// checksums are wrong.
fn promises(count: usize, claimed: impl Fn(usize) -> usize) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    for index in 0..count {
        let start = push_frame(&mut bytes, 10 + index as u64, b"", SALT).start;
        bytes[start + 4] ^= 1;
        bytes[start + 16..start + 20].copy_from_slice(&(claimed(index) as u32).to_le_bytes());
    }
    bytes
}

#[test]
fn headers_that_promise_much_cost_no_more_than_a_few_walks_over_the_file() {
    let count = 40_000;
    let to_the_end = |index: usize| (count - 1 - index) * 24;
    let claims: [&dyn Fn(usize) -> usize; 4] = [&to_the_end, &|index| to_the_end(index) / 2, &|_| 0, &|index| {
        if index % 2 == 0 { to_the_end(index) } else { 0 }
    }];
    for (case, claimed) in claims.iter().enumerate() {
        let mut bytes = promises(count, claimed);
        let frame = push_frame(&mut bytes, 1 << 40, b"the one that is intact", SALT);
        let walked = walk(&bytes);
        assert_eq!(walked.frames.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [frame.start], "case {case}");
        let (size, cost) = (bytes.len() as u64, walked.read + walked.vain);
        assert!(cost <= 64 * size, "case {case}: {cost} bytes for a file of {size}");
    }
}

#[test]
fn a_stretch_that_was_doubled_costs_no_more_than_a_walk_over_it() {
    let mut bytes = vec![0; 64];
    for sequence in 1..=200 {
        push_frame(&mut bytes, sequence, &[7; 40], SALT);
    }
    let doubled = bytes[64..].to_vec();
    (0..200).for_each(|_| bytes.extend_from_slice(&doubled));
    push_frame(&mut bytes, 201, b"the next", SALT);
    let walked = walk(&bytes);
    assert_eq!(walked.frames.len(), 201);
    assert!(walked.read + walked.vain <= 8 * bytes.len() as u64, "{} of {}", walked.read, bytes.len());
}

/// Any bytes; some of them repeat what stands before.
fn noise(random: &mut Random, bytes: &mut [u8]) {
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len().max(1) as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte = match random.below(4) {
                0 => 0,
                1 => 0xff,
                _ => random.draw() as u8,
            };
        }
    }
}

/// Puts the right checksum over everything before the last four bytes.
fn seal(bytes: &mut [u8]) {
    if let Some((content, checksum)) = bytes.split_last_chunk_mut::<4>() {
        *checksum = crc32fast::hash(content).to_le_bytes();
    }
}

#[test]
fn wrong_content_under_right_checksums_is_read_without_a_panic() {
    let mut random = Random(3);
    let id = Id::from_parts(Timestamp::from_micros(1_764_292_425_000_000), 1);
    let checkpoint = Checkpoint { drained: 1, transcribed: 2, largest_id: Some(id), ..Checkpoint::default() }.encode(7);
    let of = SegmentHeader { salt: SALT, epoch: 7, number: 1, first_sequence: 1, made_micros: 1 };
    let header = of.encode();
    let known = keys::KnownKey { id, content: [1; 8], sequence: 3, reply: None };
    let digest = Digest {
        largest_id: Some(id),
        requests: Fragments { unfinished: None, head: Some((1, 2, true)), remains: vec![(3, 3)] },
        aborted: vec![(1, 2)],
        keys: vec![([1; 16], known); 3],
        replies: vec![([1; 16], 4, id); 2],
        ..Digest::default()
    };
    let digest = digest.encode(&of);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..10_000 * scale() {
        let mut count = |is_read: bool| if is_read { read += 1 } else { refused += 1 };
        let mut bytes = checkpoint.clone();
        noise(&mut random, &mut bytes[12..]);
        seal(&mut bytes);
        count(Checkpoint::decode(&bytes).is_some());
        let mut bytes = header.clone();
        noise(&mut random, &mut bytes[8..]);
        seal(&mut bytes);
        count(!matches!(SegmentHeader::decode(&bytes), Err(HeaderError::Damaged)));
        let mut bytes = digest.clone();
        noise(&mut random, &mut bytes[76..]);
        bytes.truncate(bytes.len() - random.below(60) as usize);
        seal(&mut bytes);
        count(Digest::decode(&bytes, &of).is_some_and(|digest| {
            // It holds no more than its bytes do.
            digest.keys.len() * 48 + digest.replies.len() * 40 + digest.aborted.len() * 16 <= bytes.len()
        }));
        let mut bytes: Vec<u8> = (0..random.below(100)).map(|_| random.draw() as u8).collect();
        seal(&mut bytes);
        count(Digest::decode(&bytes, &of).is_some());
    }
    assert!(read > 1000 && refused > 1000, "{read} read, {refused} refused");
}

#[test]
fn payloads_of_any_bytes_are_entries_or_none_and_never_a_panic() {
    let mut random = Random(4);
    let id = Id::from_parts(Timestamp::from_micros(1_764_292_425_000_000), 1);
    let session = SessionId::new("s").unwrap();
    let (metadata, vector_ids) = (crate::message::Metadata::default(), [].as_slice());
    let line = || crate::message::Draft { session: &session, role: "user", text: "hé", metadata, vector_ids }.prepare();
    let key = Some(IdempotencyKey { hash: [1; 16], content: [2; 8], as_sent: [2; 8] });
    let entries = [
        NewRecord::Message { line: line(), key, reply_to: ReplyTo::Message(id) }.seal(id, None),
        NewRecord::ContextClear { line: line(), key: None }.seal(id, None),
        NewRecord::Erasure { session: session.clone() }.seal(id, None),
        NewRecord::Import(Arc::new(line().seal(id))).seal(id, None),
        Entry::Abort { first: 1, last: 2 },
    ];
    let kinds =
        [RecordKind::Message, RecordKind::ContextClear, RecordKind::Erasure, RecordKind::Import, RecordKind::Abort];
    let mut read = 0;
    for _ in 0..10_000 * scale() {
        let mut bytes = Vec::new();
        let which = random.below(5) as usize;
        Record { sequence: 1, entry: entries[which].clone(), origin: None, request: None }
            .push_frame(RequestPart::default(), &mut bytes);
        let mut payload = bytes.split_off(FRAME_HEADER_BYTES);
        noise(&mut random, &mut payload);
        if random.one_in(4) {
            payload.truncate(random.below(payload.len() as u64 + 1) as usize);
        }
        let kind = if random.one_in(4) { kinds[random.below(5) as usize] } else { kinds[which] };
        if let Some(entry) = Entry::decode(kind, &payload) {
            read += 1;
            // The questions that readers ask.
            let _ = (entry.id(), entry.links(), entry.message().map(|message| (message.role().len(), message.text())));
        }
    }
    assert!(read > 1000, "{read}");
}
