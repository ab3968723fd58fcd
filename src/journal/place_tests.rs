//! Readers that begin at a place: the same records as from the beginning, whatever has become of the segment.
//!
//! Compiled under `#[cfg(test)]` only.

use std::ops::ControlFlow;

use super::frame::{FrameHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::testing::{Fixture, fill, say};
use super::*;
use crate::disk::DiskFile;
use crate::disk::sim::SimDisk;

/// Reads one record at a time, and where each stands.
fn places(journal: &Journal<SimDisk>) -> Vec<(u64, Option<ReadPosition>)> {
    let mut reader = journal.reader(0);
    let mut found = Vec::new();
    loop {
        let mut taken = None;
        let progress = reader.read_while(usize::MAX, |record| match taken {
            None => {
                taken = Some(record.sequence);
                ControlFlow::Continue(())
            }
            Some(_) => ControlFlow::Break(()),
        });
        found.extend(taken.map(|sequence| (sequence, reader.place())));
        if progress.unwrap() == ReadProgress::CaughtUp {
            return found;
        }
    }
}

fn sequences(mut reader: Reader<SimDisk>) -> Vec<u64> {
    let mut found = Vec::new();
    while reader.read(1000, |record| found.push(record.sequence)).unwrap() == ReadProgress::More {}
    found
}

#[test]
fn a_reader_that_breaks_off_at_each_record_hands_out_all_of_them_once() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let sent = fill(&journal, 4).len() as u64;
    assert_eq!(
        places(&journal).iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(),
        (1..=sent).collect::<Vec<_>>()
    );
}

#[test]
fn every_place_leads_to_the_records_behind_it_and_to_no_other() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let before = fill(&journal, 4).len() as u64;
    let places = places(&journal);
    say(&journal, &["later"]).unwrap();
    for (sequence, place) in places {
        assert!(place.is_some(), "{sequence}");
        assert_eq!(sequences(journal.reader_at(sequence, place)), (sequence + 1..=before + 1).collect::<Vec<_>>());
        // The place also helps readers that are further, and is ignored for those that are not as far.
        assert_eq!(sequences(journal.reader_at(sequence + 1, place)), (sequence + 2..=before + 1).collect::<Vec<_>>());
        assert_eq!(sequences(journal.reader_at(0, place)), (1..=before + 1).collect::<Vec<_>>());
    }
}

#[test]
fn a_place_in_a_segment_written_anew_is_not_believed() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let sent = fill(&journal, 3).len() as u64;
    let places = places(&journal);
    // The first segment without its first record: all others stand nearer to its beginning.
    let path = fixture.segment(1);
    let mut bytes = crate::disk::read(&fixture.disk, &path).unwrap();
    let header = SegmentHeader::decode(&bytes).unwrap();
    let first = FrameHeader::peek(&bytes[SEGMENT_HEADER_BYTES..], header.salt).unwrap().frame_bytes();
    bytes.drain(SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + first);
    bytes.resize(bytes.len() + first, 0);
    fixture.disk.open(&path).unwrap().write_all_at(&bytes, 0).unwrap();
    for (sequence, place) in places.into_iter().skip(1) {
        assert_eq!(
            sequences(journal.reader_at(sequence, place)),
            (sequence + 1..=sent).collect::<Vec<_>>(),
            "{sequence}"
        );
    }
}

#[test]
fn a_reader_that_skips_walks_over_nothing_that_lies_between() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let sent = fill(&journal, 6).len() as u64;
    let mut reader = journal.reader(0);
    reader.read(1, |_| {}).unwrap();
    reader.skip_to(sent - 1);
    // As if these segments were dropped meanwhile.
    for number in 2..=4 {
        fixture.disk.unlink(&fixture.segment(number));
    }
    assert_eq!(sequences(reader), [sent]);
}
