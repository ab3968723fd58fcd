//! Transcripts as their callers see them, on real files.
//!
//! Compiled under `#[cfg(test)]` only.

use std::fs;

use super::*;
use crate::message::{Direction, Draft, Id, Metadata, Timestamp};

pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub transcripts: Transcripts,
    pub session: SessionId,
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open_max = NonZeroUsize::new(2).unwrap();
        let transcripts = Transcripts::open(RealDisk, folder.path(), open_max).unwrap();
        Self { folder, transcripts, session: SessionId::new("s").unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("s.jsonl")
    }

    pub fn fill(&self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.transcripts.append(&self.session, &[(number, &message(number))]);
        }
    }

    pub fn read(&self, query: &Query) -> (Vec<u64>, bool) {
        let page = self.transcripts.read(&self.session, query).unwrap();
        assert!(!page.cut_short);
        (page.messages.iter().map(|m| number(m)).collect(), page.more)
    }
}

/// The message whose time is `number` milliseconds; its length varies, and every third is the assistant's.
pub fn message(number: u64) -> Arc<Message> {
    let session = SessionId::new("s").unwrap();
    let text = format!("{number}: {}", "x".repeat((number * 37 % 300) as usize));
    let role = if number.is_multiple_of(3) { "assistant" } else { "user" };
    let draft = Draft { session: &session, role, text: &text, metadata: Metadata::default(), vector_ids: &[] };
    Arc::new(draft.prepare().seal(id(number)))
}

pub fn id(number: u64) -> Id {
    Id::from_parts(Timestamp::from_micros(number * 1000), number)
}

pub fn number(message: &Message) -> u64 {
    message.id().time().micros() / 1000
}

pub fn query(direction: Direction, limit: usize) -> Query {
    Query { after: None, before: None, role: None, direction, limit, bytes_max: u64::MAX, page_bytes_max: usize::MAX }
}

#[test]
fn lines_stand_in_the_file_and_are_read_from_both_sides() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.transcripts.append(&fixture.session, &[(1, &message(1)), (2, &message(2))]),
        AppendOutcome::Written { first_ever: true }
    );
    assert_eq!(
        fixture.transcripts.append(&fixture.session, &[(3, &message(3))]),
        AppendOutcome::Written { first_ever: false }
    );
    let text = fs::read_to_string(fixture.path()).unwrap();
    assert_eq!(text.lines().map(|l| Message::from_line(l.as_bytes()).unwrap()).map(|m| number(&m)).sum::<u64>(), 6);
    assert_eq!(fixture.read(&query(Direction::Newest, 2)), (vec![2, 3], true));
    assert_eq!(fixture.read(&query(Direction::Newest, 3)), (vec![1, 2, 3], false));
    assert_eq!(fixture.read(&query(Direction::Oldest, 2)), (vec![1, 2], true));
}

#[test]
fn every_page_of_a_long_transcript_is_the_one_a_full_walk_gives() {
    let fixture = Fixture::new();
    // Even numbers only, so that bounds can also lie between messages.
    for number in (2..=3000).step_by(2) {
        fixture.transcripts.append(&fixture.session, &[(number, &message(number))]);
    }
    for bound in [0, 1, 2, 3, 77, 1000, 1501, 2998, 2999, 3000, 3001, 9999] {
        for limit in [1, 7, 50] {
            let before = Query { before: Some(id(bound)), ..query(Direction::Newest, limit) };
            let all: Vec<u64> = (2..=3000).step_by(2).filter(|&n| n < bound).collect();
            let wanted = all[all.len().saturating_sub(limit)..].to_vec();
            assert_eq!(fixture.read(&before), (wanted, all.len() > limit), "before {bound}, {limit}");
            let after = Query { after: Some(id(bound)), ..query(Direction::Oldest, limit) };
            let all: Vec<u64> = (2..=3000).step_by(2).filter(|&n| n > bound).collect();
            let wanted = all[..limit.min(all.len())].to_vec();
            assert_eq!(fixture.read(&after), (wanted, all.len() > limit), "after {bound}, {limit}");
        }
    }
    let mine = Query { role: Some("assistant".into()), ..query(Direction::Newest, 3) };
    assert_eq!(fixture.read(&mine), (vec![2988, 2994, 3000], true));
}

#[test]
fn the_newest_page_reads_the_end_and_not_the_file() {
    let fixture = Fixture::new();
    fixture.fill(1..=5000);
    let bounded = Query { bytes_max: 64 * 1024, ..query(Direction::Newest, 50) };
    assert_eq!(fixture.read(&bounded).0, (4951..=5000).collect::<Vec<_>>());
    let rare = Query { role: Some("nobody".into()), ..bounded };
    let page = fixture.transcripts.read(&fixture.session, &rare).unwrap();
    assert!(page.cut_short && page.messages.is_empty());
}

#[test]
fn a_bad_line_hides_nothing_else() {
    let fixture = Fixture::new();
    fixture.fill(1..=20);
    let mut text = fs::read_to_string(fixture.path()).unwrap();
    let middle = text.match_indices('\n').nth(9).unwrap().0 + 1;
    text.insert_str(middle, "this is no JSON\n{\"id\":\"nor this\n\n\u{0}\n");
    fs::write(fixture.path(), &text).unwrap();
    assert_eq!(fixture.read(&query(Direction::Newest, 50)).0, (1..=20).collect::<Vec<_>>());
    assert_eq!(fixture.read(&query(Direction::Oldest, 50)).0, (1..=20).collect::<Vec<_>>());
    let page = Query { before: Some(id(12)), ..query(Direction::Newest, 3) };
    assert_eq!(fixture.read(&page).0, [9, 10, 11]);
}

#[test]
fn a_line_larger_than_every_block_is_read() {
    let fixture = Fixture::new();
    let session = &fixture.session;
    let text = "y".repeat(700_000);
    let huge = Draft { session, role: "user", text: &text, metadata: Metadata::default(), vector_ids: &[] };
    fixture.fill(1..=5);
    fixture.transcripts.append(session, &[(6, &Arc::new(huge.prepare().seal(id(6))))]);
    fixture.fill(7..=9);
    assert_eq!(fixture.read(&query(Direction::Newest, 50)).0, (1..=9).collect::<Vec<_>>());
    assert_eq!(fixture.read(&query(Direction::Oldest, 50)).0, (1..=9).collect::<Vec<_>>());
    let page = Query { before: Some(id(7)), ..query(Direction::Newest, 1) };
    assert_eq!(fixture.read(&page).0, [6]);
}

#[test]
fn a_torn_last_line_is_not_there_and_the_next_starts_on_its_own() {
    let fixture = Fixture::new();
    fixture.fill(1..=3);
    let whole = fs::read(fixture.path()).unwrap();
    let last_at = whole[..whole.len() - 1].iter().rposition(|&b| b == b'\n').unwrap() + 1;
    for cut in (last_at..whole.len()).step_by(3).chain([whole.len() - 1]) {
        fs::write(fixture.path(), &whole[..cut]).unwrap();
        let again = Fixture { transcripts: Fixture::reopen(&fixture), ..Fixture::new() };
        let page = again.transcripts.read(&fixture.session, &query(Direction::Newest, 9)).unwrap();
        assert_eq!(page.messages.len(), 2, "cut at {cut}");
        again.transcripts.append(&fixture.session, &[(4, &message(4))]);
        let page = again.transcripts.read(&fixture.session, &query(Direction::Newest, 9)).unwrap();
        // Cut just before its newline the last line was whole after all.
        let wanted: &[u64] = if cut + 1 == whole.len() { &[1, 2, 3, 4] } else { &[1, 2, 4] };
        assert_eq!(page.messages.iter().map(|m| number(m)).collect::<Vec<_>>(), wanted, "cut at {cut}");
    }
}

impl Fixture {
    pub fn reopen(other: &Self) -> Transcripts {
        Transcripts::open(RealDisk, other.folder.path(), NonZeroUsize::new(2).unwrap()).unwrap()
    }
}

/// A message of `number` whose line has more than `bytes`.
fn large(number: u64, bytes: usize) -> Arc<Message> {
    let session = SessionId::new("s").unwrap();
    let text = "z".repeat(bytes);
    let draft = Draft { session: &session, role: "user", text: &text, metadata: Metadata::default(), vector_ids: &[] };
    Arc::new(draft.prepare().seal(id(number)))
}

#[test]
fn lines_longer_than_a_block_are_found_by_binary_search_too() {
    let fixture = Fixture::new();
    for number in 1..=40 {
        let bytes = if number % 3 == 0 { 200_000 } else { 90_000 };
        fixture.transcripts.append(&fixture.session, &[(number, &large(number, bytes))]);
    }
    for bound in 0..=41 {
        let before = Query { before: Some(id(bound)), ..query(Direction::Newest, 2) };
        let wanted: Vec<u64> = (bound.saturating_sub(2).max(1)..bound).collect();
        assert_eq!(fixture.read(&before).0, wanted, "before {bound}");
        let after = Query { after: Some(id(bound)), ..query(Direction::Oldest, 2) };
        assert_eq!(fixture.read(&after).0, (bound + 1..=40).take(2).collect::<Vec<_>>(), "after {bound}");
    }
}

#[test]
fn a_page_ends_at_its_bytes_but_never_before_its_first_message() {
    let fixture = Fixture::new();
    for number in 1..=6 {
        fixture.transcripts.append(&fixture.session, &[(number, &large(number, 1000))]);
    }
    let bounded = |direction, page_bytes_max| Query { page_bytes_max, ..query(direction, 50) };
    assert_eq!(fixture.read(&bounded(Direction::Newest, 3000)), (vec![5, 6], true));
    assert_eq!(fixture.read(&bounded(Direction::Oldest, 3000)), (vec![1, 2], true));
    assert_eq!(fixture.read(&bounded(Direction::Newest, 10)), (vec![6], true));
    assert_eq!(fixture.read(&bounded(Direction::Oldest, 10)), (vec![1], true));
}

/// A transcript with 40 MiB of zeros between two messages, as a hole in the file.
fn with_a_hole(fixture: &Fixture) {
    fixture.fill(1..=1);
    let file = fs::OpenOptions::new().write(true).open(fixture.path()).unwrap();
    file.set_len(40 << 20).unwrap();
    drop(file);
    let transcripts = Fixture::reopen(fixture);
    transcripts.append(&fixture.session, &[(2, &message(2))]);
}

#[test]
fn a_stretch_too_long_for_a_line_is_stepped_over_in_bounded_memory() {
    let fixture = Fixture::new();
    with_a_hole(&fixture);
    for direction in [Direction::Newest, Direction::Oldest] {
        assert_eq!(fixture.read(&query(direction, 9)).0, [1, 2], "{direction:?}");
    }
    let file = fs::File::open(fixture.path()).unwrap();
    let mut lines = read::Lines::new(&file, u64::MAX).unwrap();
    let last = lines.line_before(lines.end).unwrap().unwrap();
    let hole = lines.line_before(last.start).unwrap().unwrap();
    assert!(lines.bytes(&hole).is_empty() && lines.block_bytes() <= 32 << 20);
    assert_eq!(lines.line_at(hole.start).unwrap(), Some(hole.clone()));
    assert!(lines.bytes(&hole).is_empty() && lines.block_bytes() <= 32 << 20);
}

#[test]
fn a_search_that_ends_within_a_stretch_without_lines_is_cut_short() {
    let fixture = Fixture::new();
    with_a_hole(&fixture);
    for (direction, found) in [(Direction::Newest, 2), (Direction::Oldest, 1)] {
        let page = fixture.transcripts.read(&fixture.session, &Query { bytes_max: 1 << 20, ..query(direction, 9) });
        let page = page.unwrap();
        assert!(page.cut_short, "{direction:?}");
        assert_eq!(page.messages.iter().map(|m| number(m)).collect::<Vec<_>>(), [found], "{direction:?}");
        assert_eq!(page.searched, Some(id(found)));
    }
}

#[test]
fn a_replay_keeps_what_only_the_transcript_has() {
    let fixture = Fixture::new();
    fixture.fill(1..=9);
    let whole = fs::read(fixture.path()).unwrap();
    let mut replay = fixture.transcripts.replay();
    // 5, 6 and 8 were lost to damage of the journal.
    for number in [3, 4, 7, 9] {
        replay.message(number, &message(number));
    }
    assert_eq!(replay.end(), 0);
    assert_eq!(fs::read(fixture.path()).unwrap(), whole);
    // With the end missing too, what stands there is kept and the rest is appended.
    fs::write(fixture.path(), whole.split_inclusive(|&b| b == b'\n').take(8).collect::<Vec<_>>().concat()).unwrap();
    let transcripts = Fixture::reopen(&fixture);
    let mut replay = transcripts.replay();
    for number in [3, 4, 7, 9] {
        replay.message(number, &message(number));
    }
    assert_eq!(replay.end(), 1);
    assert_eq!(fs::read(fixture.path()).unwrap(), whole);
}

#[test]
fn a_stretch_of_zeros_longer_than_any_line_hides_nothing_and_is_not_held() {
    let fixture = Fixture::new();
    fixture.fill(1..=3);
    let file = fs::OpenOptions::new().write(true).open(fixture.path()).unwrap();
    // A sparse file, which takes no room.
    file.set_len(80 << 20).unwrap();
    assert_eq!(fixture.read(&query(Direction::Newest, 9)).0, [1, 2, 3]);
    let transcripts = Fixture::reopen(&fixture);
    transcripts.append(&fixture.session, &[(4, &message(4))]);
    for direction in [Direction::Newest, Direction::Oldest] {
        assert_eq!(fixture.read(&query(direction, 9)).0, [1, 2, 3, 4], "{direction:?}");
    }
    let after = Query { after: Some(id(2)), ..query(Direction::Oldest, 9) };
    assert_eq!(fixture.read(&after).0, [3, 4]);
    let mut replay = transcripts.replay();
    for number in 3..=5 {
        replay.message(number, &message(number));
    }
    replay.end();
    let bytes = fs::metadata(fixture.path()).unwrap().len();
    assert!(bytes < 4096, "{bytes}");
    assert_eq!(fixture.read(&query(Direction::Newest, 9)).0, [1, 2, 3, 4, 5]);
}

#[test]
fn a_line_out_of_its_order_hides_no_other() {
    // 2 once more at the end, 9 too early, 4 twice.
    for order in [&[1, 2, 3, 4, 5, 2][..], &[1, 2, 9, 3, 4, 5], &[1, 2, 3, 4, 4, 5], &[1, 2, 3, 4, 2, 5]] {
        let fixture = Fixture::new();
        let lines: Vec<String> =
            order.iter().map(|&n| String::from_utf8(message(n).line().to_vec()).unwrap() + "\n").collect();
        fs::write(fixture.path(), lines.concat()).unwrap();
        let newest = fixture.read(&query(Direction::Newest, 10)).0;
        assert_eq!(newest, [1, 2, 3, 4, 5], "{order:?}");
        assert_eq!(fixture.read(&query(Direction::Newest, 2)), (vec![4, 5], true), "{order:?}");
        let before = Query { before: Some(id(5)), ..query(Direction::Newest, 2) };
        if order[2] != 9 {
            // A line from the future misleads the binary search.
            assert_eq!(fixture.read(&before), (vec![3, 4], true), "{order:?}");
        }
    }
}

#[test]
fn a_fifo_in_a_transcripts_place_keeps_nobody_waiting() {
    let fixture = Fixture::new();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, fixture.path(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let read = fixture.transcripts.read(&fixture.session, &query(Direction::Newest, 5)).is_err();
        let appended = fixture.transcripts.append(&fixture.session, &[(1, &message(1))]);
        done.send((read, appended)).unwrap();
    });
    // Nobody opens the other end.
    let patience = std::time::Duration::from_secs(60);
    assert_eq!(outcome.recv_timeout(patience), Ok((true, AppendOutcome::Stale)));
}
