//! Sweeps over transcripts on real files, with a clock that tests move, and beside appends and syncs.
//!
//! Compiled under `#[cfg(test)]` only. A message's number is its time in milliseconds.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::tests::*;
use super::*;
use crate::message::{Clock, Draft, Metadata};

const DAY: u64 = 86_400;

/// A fixture whose clock says which messages have expired.
struct Expiring {
    fixture: Fixture,
    now: Arc<AtomicU64>,
}

impl Expiring {
    fn new() -> Self {
        let Fixture { folder, transcripts, session } = Fixture::new();
        let now = Arc::new(AtomicU64::new(0));
        let transcripts = transcripts.expiring(one_day(&now));
        Self { fixture: Fixture { folder, transcripts, session }, now }
    }

    /// From now on the messages before `number` have expired.
    fn expire_before(&self, number: u64) {
        expire_before(&self.now, number);
    }

    fn sweep(&self) -> Swept {
        let (swept, fault) = sweep(&self.fixture.transcripts);
        assert!(fault.is_none(), "{fault:?}");
        swept
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.fixture.path()).unwrap()).into_owned()
    }

    /// The numbers in the file; 0 for a line that is no message.
    fn numbers(&self) -> Vec<u64> {
        let text = self.text();
        text.lines().map(|line| Message::from_line(line.as_bytes()).map_or(0, |m| number(&m))).collect()
    }

    fn is_synced(&self) -> bool {
        self.fixture.transcripts.sync([&self.fixture.session].into_iter()).unwrap().is_empty()
    }

    /// A transcript of messages of the same length, synced.
    fn fill(&self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.fixture.transcripts.append(&self.fixture.session, &[(number, &short("s", number))]);
        }
        assert!(self.is_synced());
    }
}

pub fn one_day(now: &Arc<AtomicU64>) -> Expiry {
    Expiry::new(Some(Duration::from_secs(DAY)), Clock::fixed(now.clone()))
}

pub fn expire_before(now: &AtomicU64, number: u64) {
    now.store(DAY * 1_000_000 + number * 1000, Ordering::Relaxed);
}

pub fn sweep<D: Disk>(transcripts: &Transcripts<D>) -> (Swept, Option<io::Error>) {
    let mut sweep = match transcripts.sweep() {
        Ok(sweep) => sweep,
        Err(fault) => return (Swept::default(), Some(fault)),
    };
    while transcripts.sweep_on(&mut sweep, 7, &|| true) {}
    (sweep.swept, sweep.fault)
}

pub fn short(session: &str, number: u64) -> Arc<Message> {
    let session = SessionId::new(session).unwrap();
    let text = format!("{number:8}");
    let draft = Draft { session: &session, role: "user", text: &text, metadata: Metadata::default(), vector_ids: &[] };
    Arc::new(draft.prepare().seal(id(number)))
}

#[test]
fn a_transcript_is_rewritten_from_a_quarter_on_and_removed_when_empty() {
    let expiring = Expiring::new();
    expiring.fill(1..=100);
    let line_bytes = short("s", 1).line().len() as u64 + 1;
    for (bound, rewritten, left) in [(1, 0, 1), (2, 0, 1), (25, 0, 1), (26, 1, 26), (44, 0, 26), (45, 1, 45)] {
        expiring.expire_before(bound);
        let swept = expiring.sweep();
        assert_eq!((swept.looked_at, swept.rewritten, swept.removed), (1, rewritten, 0), "before {bound}");
        assert_eq!(expiring.numbers(), (left..=100).collect::<Vec<_>>(), "before {bound}");
        assert!(expiring.is_synced(), "it is not mistaken for one that was removed");
    }
    expiring.expire_before(100);
    assert_eq!(expiring.sweep(), Swept { looked_at: 1, rewritten: 1, removed: 0, bytes: 55 * line_bytes });
    expiring.expire_before(101);
    assert_eq!(expiring.sweep(), Swept { looked_at: 1, rewritten: 0, removed: 1, bytes: line_bytes });
    assert!(!expiring.fixture.path().exists());
    let staging = expiring.fixture.folder.path().join("rewriting");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
    let (session, transcripts) = (&expiring.fixture.session, &expiring.fixture.transcripts);
    assert_eq!(transcripts.append(session, &[(101, &short("s", 101))]), AppendOutcome::Written { first_ever: true });
    assert_eq!(expiring.numbers(), [101]);
    assert!(expiring.is_synced());
}

#[test]
fn without_a_ttl_or_with_a_wrong_clock_nothing_unexpired_is_lost() {
    let fixture = Fixture::new();
    fixture.fill(1..=9);
    assert_eq!(sweep(&fixture.transcripts).0, Swept::default());
    // Messages of 2026, 2040 and of the last hour of time.
    for sent in [1_790_000_000_000, 2_220_000_000_000, 253_402_297_200_000] {
        let expiring = Expiring::new();
        expiring.fill(sent..=sent + 20);
        let at = |micros: u64| expiring.now.store(micros, Ordering::Relaxed);
        for back in [0, 1, sent * 1000 - 3_600_000_000, sent * 1000 + (DAY - 3600) * 1_000_000] {
            at(back);
            assert_eq!((expiring.sweep().rewritten, expiring.sweep().removed), (0, 0), "{back}");
        }
        at((sent + 10) * 1000 + DAY * 1_000_000);
        let may_expire = sent < 253_402_000_000_000;
        expiring.sweep();
        let left = if may_expire { sent + 10 } else { sent };
        assert_eq!(expiring.numbers(), (left..=sent + 20).collect::<Vec<_>>());
        at(u64::MAX);
        assert_eq!(expiring.sweep().removed, usize::from(may_expire), "{sent}");
    }
}

#[test]
fn bad_lines_go_with_the_messages_after_them_and_stay_where_one_is_left() {
    let expiring = Expiring::new();
    expiring.fill(1..=6);
    let mut lines: Vec<String> = expiring.text().lines().map(|line| format!("{line}\n")).collect();
    lines.insert(5, "bad before 6\n".into());
    lines.insert(3, "bad before 4\n".into());
    lines.insert(0, "bad before 1\n".into());
    fs::write(expiring.fixture.path(), lines.concat()).unwrap();
    expiring.expire_before(4);
    assert_eq!(expiring.sweep().rewritten, 1);
    assert_eq!(expiring.numbers(), [4, 5, 0, 6]);
    assert_eq!(expiring.text(), [&lines[5], &lines[6], &lines[7], &lines[8]].map(String::as_str).concat());
    // A file without any message is not removed.
    fs::write(expiring.fixture.path(), "no message\nnor this\n").unwrap();
    expiring.expire_before(9999);
    assert_eq!(expiring.sweep(), Swept { looked_at: 1, ..Swept::default() });
}

#[test]
fn a_line_out_of_order_is_not_taken_for_an_expired_one() {
    let expiring = Expiring::new();
    expiring.fill(1..=2);
    expiring.fill(90..=90);
    expiring.fill(3..=99);
    expiring.expire_before(60);
    expiring.sweep();
    let numbers = expiring.numbers();
    assert!((60..=99).all(|number| numbers.contains(&number)), "{numbers:?}");
    assert_eq!(numbers.iter().filter(|&&number| number == 90).count(), 2);
}

#[test]
fn the_unfinished_end_of_a_transcript_is_kept_with_what_stands_before_it() {
    for (end, bound, removed) in [("{\"id\":\"torn", 4, 0), ("{\"id\":\"torn", 9, 1), ("", 9, 1), ("whole", 9, 0)] {
        let expiring = Expiring::new();
        expiring.fill(1..=8);
        let mut text = expiring.text();
        let end =
            if end == "whole" { str::from_utf8(short("s", 9).line()).unwrap().to_owned() } else { end.to_owned() };
        text.push_str(&end);
        fs::write(expiring.fixture.path(), &text).unwrap();
        expiring.expire_before(bound);
        // As after a start, the file is not open.
        let transcripts = Fixture::reopen(&expiring.fixture).expiring(one_day(&expiring.now));
        assert_eq!(sweep(&transcripts).0.removed, removed, "{end}, {bound}");
        assert_eq!(expiring.fixture.path().exists(), removed == 0);
        if removed == 0 {
            assert!(expiring.text().ends_with(&end));
            transcripts.append(&expiring.fixture.session, &[(10, &short("s", 10))]);
            let mut wanted: Vec<u64> = if bound == 4 { (4..=8).chain([0]).collect() } else { (1..=9).collect() };
            wanted.push(10);
            assert_eq!(expiring.numbers(), wanted, "{end}, {bound}");
        }
    }
}

#[test]
fn a_stale_session_is_left_alone_until_rebuilt_without_the_expired() {
    let expiring = Expiring::new();
    expiring.fill(1..=10);
    let Fixture { transcripts, session, .. } = &expiring.fixture;
    transcripts.mark_stale(session, 8, 12);
    expiring.expire_before(9);
    assert_eq!(expiring.sweep(), Swept { looked_at: 1, ..Swept::default() });
    let feed = |after: u64, take: Take<'_>| {
        (after + 1..=12).for_each(|number| take(number, &short("s", number), Provenance::Recorded));
        Ok(12)
    };
    assert_eq!(transcripts.rebuild(feed).unwrap().mended, 1);
    assert_eq!(expiring.numbers(), (1..=12).collect::<Vec<_>>(), "8 stood there and is no harm");
    assert_eq!(expiring.sweep().rewritten, 1);
    assert_eq!(expiring.numbers(), [9, 10, 11, 12]);
    // Removed messages do not come back, nor does a file whose messages have all expired.
    transcripts.mark_stale(session, 1, 12);
    assert_eq!(transcripts.rebuild(feed).unwrap().mended, 1);
    assert_eq!(expiring.numbers(), [9, 10, 11, 12]);
    expiring.expire_before(13);
    assert_eq!(expiring.sweep().removed, 1);
    transcripts.mark_stale(session, 1, 12);
    assert_eq!(transcripts.rebuild(feed).unwrap().mended, 1);
    let mut replay = transcripts.replay();
    (1..=12).for_each(|number| replay.message(number, &short("s", number)));
    assert_eq!(replay.end(), 0);
    assert!(!expiring.fixture.path().exists() && transcripts.first_lacking().is_none());
}

#[test]
fn a_file_replaced_by_hand_is_left_alone_and_still_missed_by_the_sync() {
    let expiring = Expiring::new();
    expiring.fill(1..=10);
    let Fixture { transcripts, session, .. } = &expiring.fixture;
    let text = expiring.text();
    fs::remove_file(expiring.fixture.path()).unwrap();
    fs::write(expiring.fixture.path(), &text).unwrap();
    transcripts.append(session, &[(11, &short("s", 11))]);
    expiring.expire_before(9);
    assert_eq!(expiring.sweep(), Swept { looked_at: 1, ..Swept::default() });
    assert_eq!(expiring.text(), text);
    assert_eq!(transcripts.sync([session].into_iter()).unwrap(), std::slice::from_ref(session));
}

#[test]
fn a_reader_in_the_middle_of_a_page_reads_on_in_the_old_file() {
    let expiring = Expiring::new();
    expiring.fill(1..=50);
    let file = fs::File::open(expiring.fixture.path()).unwrap();
    let mut lines = read::Lines::new(&file, u64::MAX).unwrap();
    let last = lines.line_before(lines.end).unwrap().unwrap();
    expiring.expire_before(45);
    assert_eq!(expiring.sweep().rewritten, 1);
    expiring.fill(51..=60);
    let mut end = last.start;
    for wanted in (1..=49).rev() {
        let range = lines.line_before(end).unwrap().unwrap();
        assert_eq!(lines.message(&range).map(|m| number(&m)), Some(wanted));
        end = range.start;
    }
    assert_eq!(expiring.numbers(), (45..=60).collect::<Vec<_>>());
}

#[test]
fn a_sweep_goes_in_steps_and_ends_when_it_is_told_to() {
    let expiring = Expiring::new();
    let transcripts = &expiring.fixture.transcripts;
    for other in 0..10 {
        let name = format!("s-{other}");
        transcripts.append(&SessionId::new(&name).unwrap(), &[(1, &short(&name, 1))]);
    }
    fs::write(expiring.fixture.folder.path().join("notes.txt"), "of somebody else").unwrap();
    expiring.expire_before(2);
    let mut sweep = transcripts.sweep().unwrap();
    assert!(transcripts.sweep_on(&mut sweep, 4 * 20, &|| true));
    assert_eq!(sweep.swept.removed, 4);
    assert!(transcripts.sweep_on(&mut sweep, 4 * 20, &|| false), "nothing more was done");
    assert_eq!(sweep.swept.removed, 4);
    assert!(transcripts.sweep_on(&mut sweep, 4 * 20, &|| true));
    assert!(!transcripts.sweep_on(&mut sweep, 4 * 20, &|| true));
    assert_eq!(sweep.swept.removed, 10);
    assert!(expiring.fixture.folder.path().join("notes.txt").exists());
}

#[test]
fn a_rewrite_that_is_told_to_stop_leaves_the_old_file_and_no_other() {
    let expiring = Expiring::new();
    expiring.fill(1..=50);
    expiring.expire_before(30);
    let asked = AtomicU64::new(0);
    let mut sweep = expiring.fixture.transcripts.sweep().unwrap();
    expiring.fixture.transcripts.sweep_on(&mut sweep, 1, &|| asked.fetch_add(1, Ordering::Relaxed) == 0);
    assert_eq!((sweep.swept.rewritten, asked.load(Ordering::Relaxed)), (0, 2));
    assert_eq!(expiring.numbers(), (1..=50).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(expiring.fixture.folder.path().join("rewriting")).unwrap().count(), 0);
}

/// The open files that lie in a folder.
fn descriptors_in(folder: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    open.filter(|path| path.starts_with(folder)).count()
}

#[test]
fn three_thousand_sessions_are_swept_with_a_handful_of_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(0));
    let open_max = NonZeroUsize::new(8).unwrap();
    let transcripts = Transcripts::open(RealDisk, folder.path(), open_max).unwrap().expiring(one_day(&now));
    let name = |index: u64| format!("session-{index}");
    let mut most = 0;
    for round in [1, 2] {
        for index in 0..3000 {
            let number = 2 * index + round;
            transcripts.append(&SessionId::new(&name(index)).unwrap(), &[(number, &short(&name(index), number))]);
            if index % 100 == 0 {
                most = most.max(descriptors_in(folder.path()));
            }
        }
    }
    assert!((1..=8).contains(&most), "{most}");
    // All messages of the first hundred sessions have expired, and half of the next hundred.
    expire_before(&now, 202);
    let mut sweep = transcripts.sweep().unwrap();
    let most = AtomicU64::new(0);
    while transcripts.sweep_on(&mut sweep, 200, &|| {
        most.fetch_max(descriptors_in(folder.path()) as u64, Ordering::Relaxed);
        true
    }) {}
    assert!(most.into_inner() <= 8 + 3, "the open ones, an old one, a new one and a look");
    assert_eq!((sweep.swept.looked_at, sweep.swept.removed, sweep.swept.rewritten), (3000, 100, 1));
    assert!(sweep.fault.is_none());
    expire_before(&now, 400);
    for index in 0..3000 {
        let number = 6001 + index;
        transcripts.append(&SessionId::new(&name(index)).unwrap(), &[(number, &short(&name(index), number))]);
    }
    assert!(descriptors_in(folder.path()) <= 8);
    assert_eq!(transcripts.first_lacking(), None);
    let swept = sweep_all(&transcripts);
    assert!(swept.removed == 0 && swept.rewritten > 90, "{swept:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3001, "the sessions and the staging folder");
}

fn sweep_all(transcripts: &Transcripts) -> Swept {
    sweep(transcripts).0
}

#[test]
fn concurrent_appends_syncs_and_sweeps_lose_no_line_and_keep_order() {
    let Expiring { fixture, now } = Expiring::new();
    let transcripts = &fixture.transcripts;
    let names = ["a", "b", "c"];
    let sessions = names.map(|name| SessionId::new(name).unwrap());
    for (number, name) in [(1, "b"), (2, "c"), (3, "a")] {
        transcripts.append(&SessionId::new(name).unwrap(), &[(number, &short(name, number))]);
    }
    let (newest, synced, swept) = (AtomicU64::new(3), AtomicU64::new(0), AtomicU64::new(0));
    let (done, rewritten) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let syncs = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let taken = newest.load(Ordering::Acquire);
                assert_eq!(transcripts.sync(sessions.iter()).unwrap(), []);
                transcripts.rebuild(|_, _| panic!("nothing is stale")).unwrap();
                synced.store(taken, Ordering::Release);
                while newest.load(Ordering::Acquire) < taken + 30 && !done.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
            }
        });
        let sweeps = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let taken = newest.load(Ordering::Acquire);
                expire_before(&now, taken.saturating_sub(15));
                let outcome = sweep_all(transcripts);
                rewritten.fetch_add(outcome.rewritten as u64, Ordering::Relaxed);
                swept.store(taken, Ordering::Release);
            }
        });
        for number in 4..=3000 {
            // No faster than the syncs and the sweeps, so that both have their turns.
            let slowest = || synced.load(Ordering::Acquire).min(swept.load(Ordering::Acquire));
            while number > slowest() + 60 && !syncs.is_finished() && !sweeps.is_finished() {
                std::thread::yield_now();
            }
            let which = number as usize % 3;
            transcripts.append(&sessions[which], &[(number, &short(names[which], number))]);
            newest.store(number, Ordering::Release);
        }
        done.store(true, Ordering::Release);
    });
    assert!(rewritten.load(Ordering::Relaxed) > 10, "{rewritten:?}");
    assert_eq!(transcripts.first_lacking(), None);
    let bound = now.load(Ordering::Relaxed) / 1000 - DAY * 1000;
    for (which, name) in names.iter().enumerate() {
        let text = fs::read_to_string(fixture.folder.path().join(format!("{name}.jsonl"))).unwrap();
        let found: Vec<u64> = text.lines().map(|l| number(&Message::from_line(l.as_bytes()).unwrap())).collect();
        let from = found.first().copied().unwrap_or(bound).min(bound);
        let wanted: Vec<u64> = (from..=3000).filter(|number| *number as usize % 3 == which).collect();
        assert!(found.ends_with(&wanted) && found.len() >= wanted.len(), "{name}: {found:?}");
        assert!(found.windows(2).all(|pair| pair[0] + 3 == pair[1]), "{name}: {found:?}");
    }
}
