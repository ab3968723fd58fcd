//! Walks over whole and damaged segments.
//!
//! Compiled under `#[cfg(test)]` only.

use super::super::frame::{RequestPart, stamp};
use super::*;
use crate::disk::RealDisk;

const SALT: u32 = 0x0102_0304;

/// A segment of `count` frames and `zeros` behind them; returns the file's bytes and where each frame starts.
fn segment(count: u64, zeros: usize) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let mut starts = Vec::new();
    for sequence in 1..=count {
        let payload = vec![b'a' + (sequence % 26) as u8; 10 + sequence as usize % 50];
        let start = bytes.len();
        starts.push(start);
        let header = FrameHeader {
            sequence,
            payload_bytes: payload.len() as u32,
            kind: RecordKind::Message,
            group: RequestPart::default(),
        };
        header.push_to(&mut bytes);
        bytes.extend_from_slice(&payload);
        stamp(&mut bytes[start..], SALT);
    }
    bytes.extend(std::iter::repeat_n(0, zeros));
    (bytes, starts)
}

/// Walks those bytes to the end: the sequences found, the gaps, and whether the tail is dirty.
fn walk(bytes: &[u8]) -> (Vec<u64>, Vec<Range<u64>>, bool) {
    let folder = tempfile::tempdir().unwrap();
    let file = RealDisk.create(&folder.path().join("segment")).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let mut scanner = Scanner::new(Arc::new(file), SALT).unwrap();
    let (mut sequences, mut gaps) = (Vec::new(), Vec::new());
    loop {
        match scanner.next().unwrap() {
            Scanned::Frame(header) => sequences.push(header.sequence),
            Scanned::Gap(range) => gaps.push(range),
            Scanned::End { dirty } => return (sequences, gaps, dirty),
        }
    }
}

#[test]
fn a_whole_segment_is_walked_to_its_zeros() {
    let (bytes, _) = segment(2000, 300_000);
    assert_eq!(walk(&bytes), ((1..=2000).collect(), vec![], false));
}

#[test]
fn every_flipped_byte_costs_one_frame_and_no_other() {
    let (bytes, starts) = segment(8, 40);
    for at in SEGMENT_HEADER_BYTES..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        let (sequences, _, dirty) = walk(&damaged);
        let hit = starts.iter().rposition(|&start| start <= at).unwrap() as u64 + 1;
        if at < bytes.len() - 40 {
            let wanted: Vec<u64> = (1..=8).filter(|&s| s != hit).collect();
            assert_eq!(sequences, wanted, "byte {at}");
            assert_eq!(dirty, hit == 8, "byte {at}");
        } else {
            assert_eq!((sequences.len(), dirty), (8, true), "byte {at}");
        }
    }
}

#[test]
fn every_prefix_is_walked_to_its_end() {
    let (bytes, starts) = segment(8, 0);
    for end in SEGMENT_HEADER_BYTES..=bytes.len() {
        let whole = starts.iter().skip(1).filter(|&&s| s <= end).count() + usize::from(end == bytes.len());
        assert_eq!(walk(&bytes[..end]).0, (1..=whole as u64).collect::<Vec<_>>(), "cut at {end}");
    }
}

#[test]
fn a_gap_longer_than_the_window_is_crossed() {
    let (mut bytes, starts) = segment(3, 0);
    let garbage: Vec<u8> = (0..WINDOW_BYTES * 2 + 77).map(|i| (i * 31 % 251) as u8).collect();
    bytes.splice(starts[2]..starts[2], garbage.iter().copied());
    let gap = starts[2] as u64..(starts[2] + garbage.len()) as u64;
    assert_eq!(walk(&bytes), (vec![1, 2, 3], vec![gap], false));
}
