//! A closed journal whose bytes are changed behind its back: every one flipped, every prefix, a lost sector, a file of another
//! journal. Damage costs what it touches and nothing else, and what the first start mended the second one finds whole.

use std::path::{Path, PathBuf};

use super::*;

/// A journal of some segments, closed; with all it holds, and the paths of its segments.
fn small_journal(seed: u64) -> (Case, Vec<(String, Id, u64)>, Vec<PathBuf>) {
    let mut case = Case::new(seed, Fsync::Always);
    case.open().unwrap();
    (0..8).for_each(|step| case.append(step));
    let all = case.read();
    case.journal = None;
    let segments: Vec<PathBuf> = case.disk.paths().into_iter().filter(|path| is_segment(path)).collect();
    assert!(segments.len() > 1 && !all.is_empty());
    (case, all, segments)
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "segment")
}

/// The records left on a damaged copy of the disk, after two opens and one more record.
fn left_after(case: &mut Case, path: &Path, damage: impl FnOnce(&mut Vec<u8>)) -> Vec<(String, Id, u64)> {
    let whole = case.disk.clone();
    case.disk = whole.fork();
    case.disk.damage(path, damage);
    case.open().unwrap();
    let left = case.read();
    let journal = case.journal.as_ref().unwrap();
    let (ticket, _) = journal.append(vec![draft("one more", None)]).unwrap();
    journal.commit(ticket).unwrap();
    case.open().unwrap();
    let mut again = case.read();
    assert_eq!(again.pop().map(|(text, ..)| text).as_deref(), Some("one more"));
    assert!(again == left, "a second open finds {} records, the first found {}", again.len(), left.len());
    case.journal = None;
    case.disk = whole;
    left
}

fn used(case: &Case, path: &Path) -> usize {
    let bytes = crate::disk::read(&case.disk, path).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

/// Where the second and the last frame of a segment start.
fn inner_frames(case: &Case, path: &Path) -> (usize, usize) {
    let bytes = crate::disk::read(&case.disk, path).unwrap();
    let salt = frame::SegmentHeader::decode(&bytes).unwrap().salt;
    let mut starts = vec![frame::SEGMENT_HEADER_BYTES];
    while let Some(header) = frame::FrameHeader::peek(&bytes[*starts.last().unwrap()..], salt) {
        starts.push(starts.last().unwrap() + header.frame_bytes());
        if *starts.last().unwrap() >= bytes.len() {
            break;
        }
    }
    starts.pop();
    (starts.get(1).copied().unwrap_or(usize::MAX), starts.last().copied().unwrap_or(0))
}

#[test]
fn every_flipped_byte_costs_one_record_at_most_and_none_in_a_header() {
    for with_digests in [false, true] {
        let (mut case, all, segments) = small_journal(7);
        if with_digests {
            case.open().unwrap();
            case.journal.take().unwrap().maintain().unwrap();
        }
        for path in segments {
            // With digests only the rebuilding of headers differs.
            let end = if with_digests { frame::SEGMENT_HEADER_BYTES } else { used(&case, &path) };
            let (second_frame, last_frame) = inner_frames(&case, &path);
            for at in 0..end {
                let left = left_after(&mut case, &path, |bytes| bytes[at] ^= 0x55);
                assert!(left.iter().all(|record| all.contains(record)), "byte {at} made something up");
                // Only a damaged frame is lost; its request too if that may continue in another segment or has no end.
                let cost = match at {
                    _ if at < frame::SEGMENT_HEADER_BYTES => 0,
                    _ if (second_frame..last_frame).contains(&at) => 1,
                    _ => 3,
                };
                assert!(left.len() + cost >= all.len(), "byte {at}: {} of {} left", left.len(), all.len());
            }
        }
    }
}

#[test]
fn a_lost_first_sector_costs_what_stood_there_and_not_the_segment() {
    for with_digests in [false, true] {
        let (mut case, all, segments) = small_journal(9);
        if with_digests {
            case.open().unwrap();
            case.journal.take().unwrap().maintain().unwrap();
        }
        for path in segments {
            // The header and the first frame are damaged.
            let end = frame::SEGMENT_HEADER_BYTES + 100;
            let left = left_after(&mut case, &path, |bytes| bytes[..end].fill(0));
            assert!(left.iter().all(|record| all.contains(record)));
            assert!(left.len() + 3 >= all.len(), "{}: {} of {} left", path.display(), left.len(), all.len());
        }
    }
}

#[test]
fn every_prefix_of_a_journal_opens_with_what_it_holds() {
    let (mut case, all, segments) = small_journal(8);
    let last = segments.last().unwrap();
    let before: usize = {
        let whole = case.disk.clone();
        case.disk = whole.fork();
        case.disk.damage(last, |bytes| bytes[frame::SEGMENT_HEADER_BYTES..].fill(0));
        case.open().unwrap();
        let count = case.read().len();
        case.journal = None;
        case.disk = whole;
        count
    };
    for end in frame::SEGMENT_HEADER_BYTES..used(&case, last) {
        for zeroed in [true, false] {
            let left =
                left_after(&mut case, last, |bytes| if zeroed { bytes[end..].fill(0) } else { bytes.truncate(end) });
            assert!(left == all[..left.len()], "cut at {end}");
            assert!(left.len() >= before, "cut at {end}");
        }
    }
}

#[test]
fn a_segment_of_another_journal_hides_nothing_of_this_one() {
    let (mut case, all, segments) = small_journal(11);
    let (other, _, theirs) = small_journal(12);
    let foreign = crate::disk::read(&other.disk, &theirs[0]).unwrap();
    // With a number between ours, as after copying a backup over a journal, and with one after all of ours.
    for number in [2, 90] {
        let whole = case.disk.clone();
        case.disk = whole.fork();
        let path = segment::path(&case.config.path, number);
        let mut bytes = foreign.clone();
        let header = frame::SegmentHeader { number, ..frame::SegmentHeader::decode(&bytes).unwrap() };
        bytes[..frame::SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
        let replaces = segments.contains(&path);
        let file = case.disk.create(&path).unwrap();
        crate::disk::DiskFile::write_all_at(&file, &bytes, 0).unwrap();
        case.disk.sync_dir(&case.config.path).unwrap();
        let checkpoint = Checkpoint { drained: 1, transcribed: 1, ..Checkpoint::default() };
        checkpoint.store(&case.disk, &case.config.path, epoch_of(&case.disk, &segments[0])).unwrap();
        case.open().unwrap();
        let left = case.read();
        assert!(left.iter().all(|record| all.contains(record)), "something of theirs is there");
        assert!(replaces || left == all, "{} of {} are left beside number {number}", left.len(), all.len());
        case.journal = None;
        case.disk = whole;
    }
}

fn epoch_of(disk: &SimDisk, path: &Path) -> u64 {
    frame::SegmentHeader::decode(&crate::disk::read(disk, path).unwrap()).unwrap().epoch
}
