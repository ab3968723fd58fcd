//! The doctor on a disk in memory: every byte flipped, every call interrupted. A repair and a start reach at least what
//! a start alone reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::config::Config;
use crate::disk::overlay::{self, Overlay};
use crate::disk::sim::{Cases, Fault, Random, SimDisk};
use crate::disk::{self, Disk, DiskFile};
use crate::journal::{self, Appended, Checkpoint, Entry, Journal, NewRecord, ReadProgress, ReplyTo};
use crate::layout;
use crate::message::{self, Direction, Message, Metadata, SessionId};
use crate::transcript::{Query, Transcripts};

const SESSIONS: [&str; 2] = ["a", "b"];
const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(4).unwrap();

struct Case {
    disk: SimDisk,
    place: DataLocation,
    clock: Clock,
    _folder: tempfile::TempDir,
}

fn draft(session: &str, text: &str) -> NewRecord {
    let session = SessionId::new(session).unwrap();
    let line = message::Draft { session: &session, role: "user", text, metadata: Metadata::default(), vector_ids: &[] };
    NewRecord::Message { line: line.prepare(), key: None, reply_to: ReplyTo::Nothing }
}

fn open(disk: &SimDisk, place: &DataLocation, clock: &Clock) -> (Journal<SimDisk>, Transcripts<SimDisk>) {
    let transcripts = Transcripts::open(disk.clone(), place.transcripts(), OPEN_MAX).unwrap();
    let publish = Box::new(|_: &[journal::Record]| {});
    let journal =
        Journal::open_on(disk.clone(), &place.config.journal, clock.clone(), publish, Box::new(|| {})).unwrap();
    (journal, transcripts)
}

/// What a start does: recovery, and the replay from the checkpoint on.
fn start(disk: &SimDisk, place: &DataLocation, clock: &Clock) -> (Journal<SimDisk>, Transcripts<SimDisk>) {
    let (journal, transcripts) = open(disk, place, clock);
    let mut reader = journal.reader(journal.start().transcribed);
    let mut replay = transcripts.replay();
    let mut take = |record: journal::Record| {
        if let Some(message) = record.entry.message() {
            replay.message(record.sequence, message);
        }
    };
    while reader.read(1 << 20, &mut take).unwrap() == ReadProgress::More {}
    replay.end();
    (journal, transcripts)
}

/// The texts within reach after a start: in the journal, on a page of a transcript, or recovered.
fn reachable(case: &Case, disk: &SimDisk) -> BTreeSet<String> {
    let (journal, transcripts) = start(disk, &case.place, &case.clock);
    let mut found = BTreeSet::new();
    let mut reader = journal.reader(0);
    let mut take = |record: journal::Record| {
        found.extend(record.entry.message().map(|message| message.text()));
    };
    while reader.read(1 << 20, &mut take).unwrap() == ReadProgress::More {}
    for session in SESSIONS {
        found.extend(page(&transcripts, session));
    }
    found.extend(recovered(case, disk));
    // A flipped byte within a transcript's text makes another text.
    found.retain(|text| (0..6).any(|n| *text == format!("a{n}") || *text == format!("b{n}")));
    found
}

fn page(transcripts: &Transcripts<SimDisk>, session: &str) -> Vec<String> {
    let query = Query {
        after: None,
        before: None,
        role: None,
        direction: Direction::Oldest,
        limit: 500,
        bytes_max: u64::MAX,
        page_bytes_max: 1 << 20,
    };
    let page = transcripts.read(&SessionId::new(session).unwrap(), &query).unwrap();
    page.messages.iter().map(|message| message.text()).collect()
}

fn recovered(case: &Case, disk: &SimDisk) -> Vec<String> {
    let bytes = disk::read(disk, &case.place.recovered()).unwrap_or_default();
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Message::from_line(line).expect("a recovered line is a message").text()).collect()
}

fn repaired(case: &Case, disk: &SimDisk) -> Report {
    let before = examine(disk, &case.place, &case.clock).unwrap();
    repair::keep_first(disk, &case.place).unwrap();
    repair::run(disk, &case.place, &case.clock, &before).unwrap();
    examine(disk, &case.place, &case.clock).unwrap()
}

/// Every file but the lock, with its bytes.
fn content(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.paths().into_iter().map(|path| (path.clone(), disk::read(disk, &path).unwrap())).collect()
}

impl Case {
    /// Some segments, two transcripts; the checkpoint has passed the first half.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        // The kernel's lock is on the real disk.
        std::fs::create_dir_all(&config.journal.path).unwrap();
        // Room for frames of four messages, and the part reserved for erasures.
        config.journal.segment_bytes = 1092;
        config.mongo.ttl = None;
        let place = DataLocation { data: folder.path().to_owned(), config };
        let clock = Clock::fixed(Arc::new(AtomicU64::new(1_764_292_425_000_000)));
        let case = Self { disk: SimDisk::default(), place, clock, _folder: folder };
        let (journal, transcripts) = open(&case.disk, &case.place, &case.clock);
        for n in 0..4 {
            case.say(&journal, &transcripts, n);
        }
        let synced = SESSIONS.map(|session| SessionId::new(session).unwrap());
        assert!(transcripts.sync(synced.iter()).unwrap().is_empty());
        let reached = journal.published();
        let checkpoint = Checkpoint { drained: reached, transcribed: reached, ..Checkpoint::default() };
        journal.store_checkpoint(&checkpoint).unwrap();
        for n in 4..6 {
            case.say(&journal, &transcripts, n);
        }
        journal.maintain().unwrap();
        assert!(transcripts.sync(synced.iter()).unwrap().is_empty());
        case
    }

    /// One request of two messages, one for each session.
    fn say(&self, journal: &Journal<SimDisk>, transcripts: &Transcripts<SimDisk>, n: u32) {
        let drafts = SESSIONS.map(|session| draft(session, &format!("{session}{n}"))).into();
        let (ticket, kept) = journal.append(drafts).unwrap();
        journal.commit(ticket).unwrap();
        for kept in kept {
            let Appended::New(record) = kept else { panic!("no keys were sent") };
            let Entry::Message(message, _) = &record.entry else { panic!("a message was sent") };
            transcripts.append(message.session(), &[(record.sequence, message)]);
        }
    }

    fn journal_file(&self, name: &str) -> PathBuf {
        self.place.journal().join(name)
    }

    fn transcript(&self, session: &str) -> PathBuf {
        self.place.transcripts().join(format!("{session}.jsonl"))
    }

    fn segments(&self) -> Vec<PathBuf> {
        self.disk.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "segment")).collect()
    }

    fn used(&self, path: &Path) -> usize {
        let bytes = disk::read(&self.disk, path).unwrap();
        bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
    }
}

#[test]
fn what_is_well_is_said_to_be_well_and_left_alone() {
    let case = Case::new();
    let before = content(&case.disk);
    let report = examine(&case.disk, &case.place, &case.clock).unwrap();
    assert_eq!((report.damage(), report.findings.listed.len()), (0, 0), "{}", report.to_text());
    let journal = report.journal.as_ref().unwrap();
    assert_eq!((journal.records.messages, journal.last_sequence, journal.pending), (12, 12, 4));
    assert_eq!(report.transcripts.unwrap().messages, 12);
    assert_eq!(report.compared.looked_for, 12);
    assert!(content(&case.disk) == before, "looking changed something");
}

/// Flips bytes of `files`, one at a time, and compares a start with a repair and a start; at least `least` messages are
/// left.
fn flip(case: &Case, files: &[PathBuf], every: usize, least: usize) {
    let mut cases = Cases::default();
    for path in files {
        for at in (0..case.used(path)).step_by(every) {
            cases.0 += 1;
            let told = || format!("{} byte {at}", path.display());
            let damaged = case.disk.fork();
            damaged.damage(path, |bytes| bytes[at] ^= 0x41);
            let started = reachable(case, &damaged.fork());
            repaired(case, &damaged);
            let (once, again) = (content(&damaged), damaged.fork());
            let after = reachable(case, &damaged);
            assert!(after.is_superset(&started), "{}: {:?}", told(), started.difference(&after));
            assert!(after.len() >= least, "{}: {after:?}", told());
            if at % 8 == 0 {
                repaired(case, &again);
                let twice = content(&again);
                let changed: Vec<_> = twice.keys().filter(|path| twice.get(*path) != once.get(*path)).collect();
                assert!(twice == once, "{}: a second repair changes {changed:?}", told());
            }
        }
    }
}

#[test]
fn whatever_byte_is_flipped_a_repair_reaches_what_a_start_reaches() {
    let case = Case::new();
    let all = || case.disk.paths().into_iter().filter(|path| !path.ends_with("spare"));
    let (journal, transcripts): (Vec<_>, Vec<_>) = all().partition(|path| path.starts_with(case.place.journal()));
    assert!(journal.len() >= 6 && transcripts.len() == 2, "{journal:?} {transcripts:?}");
    // One byte cannot destroy what is in two places.
    flip(&case, &transcripts, 5, 12);
    flip(&case, &journal, 5, 12);
    // Without the transcripts a damaged frame costs its request, and a damaged header costs nothing.
    for path in transcripts {
        case.disk.remove(&path).unwrap();
    }
    let segments = case.segments();
    flip(&case, &segments, 1, 10);
    for path in &segments {
        let headless = case.disk.fork();
        headless.damage(path, |bytes| bytes[..64].fill(0x41));
        repaired(&case, &headless);
        assert_eq!(reachable(&case, &headless).len(), 12, "{}", path.display());
    }
}

/// For a folder with every kind of fault. Gives a segment's header another number, so that the file cannot be used any
/// more, whatever it holds.
fn renumber(bytes: &mut [u8]) {
    bytes[24] ^= 0x40;
    let checksum = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
}

fn ruined() -> Case {
    let case = Case::new();
    let segments = case.segments();
    assert!(segments.len() >= 3, "{segments:?}");
    // One unusable segment, and one without its header and its first frame.
    case.disk.damage(&segments[0], |bytes| renumber(bytes));
    case.disk.damage(&segments[1], |bytes| bytes[40..80].fill(0xee));
    let last = segments.last().unwrap();
    let end = case.used(last);
    case.disk.damage(last, |bytes| bytes[end + 7..end + 40].fill(0x77));
    // A rewritten segment that was not renamed yet, with a message that is nowhere else.
    let unnamed = case.journal_file("0000000000000099.tmp");
    let bytes = disk::read(&case.disk, &segments[1]).unwrap();
    case.disk.create(&unnamed).unwrap().write_all_at(&bytes, 0).unwrap();
    // A transcript without its first lines and with lines that are no messages, another with a torn end.
    case.disk.damage(&case.transcript("a"), |bytes| {
        let third = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0;
        bytes.drain(..=third);
        let middle = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        bytes.splice(middle..middle, b"no message\n".iter().copied());
        // And the first line once more, out of place.
        let first = bytes[..middle].to_vec();
        bytes.extend(first);
    });
    case.disk.damage(&case.transcript("b"), |bytes| bytes.truncate(bytes.len() - 30));
    case.disk.sync_all(Path::new("/")).unwrap();
    case
}

#[test]
fn a_repair_mends_what_is_ruined_and_empties_the_quarantine() {
    let case = ruined();
    let before = examine(&case.disk, &case.place, &case.clock).unwrap();
    assert!(before.damage() >= 3, "{}", before.to_text());
    let report = repaired(&case, &case.disk);
    assert_eq!(report.orphans, 0, "{}", report.to_text());
    assert_eq!(reachable(&case, &case.disk).len(), 12);
    // The transcripts lacked these lines, and the journal lacks its first segments.
    let recovered: BTreeSet<String> = recovered(&case, &case.disk).into_iter().collect();
    assert!(recovered.contains("a0"), "{recovered:?}");
    let aside: Vec<PathBuf> = case.disk.paths().into_iter().filter(|p| p.iter().any(|n| n == "quarantine")).collect();
    assert!(aside.iter().any(|path| path.ends_with("unnamed-0000000000000099")), "{aside:?}");
    let garbage = aside.iter().filter(|path| disk::read(&case.disk, path).unwrap() == b"no message\n").count();
    assert_eq!(garbage, 1, "{aside:?}");
}

#[test]
fn a_repair_stopped_at_any_call_leaves_no_less_than_before() {
    let case = ruined();
    let started = reachable(&case, &case.disk.fork());
    let trial = case.disk.fork();
    let before = examine(&trial, &case.place, &case.clock).unwrap();
    let first = trial.calls() + 1;
    let run = |disk: &SimDisk, before: &Report| {
        let kept = repair::keep_first(disk, &case.place);
        kept.and_then(|()| repair::run(disk, &case.place, &case.clock, before).map(drop))
    };
    run(&trial, &before).unwrap();
    for call in first..=trial.calls() {
        for cut in [false, true] {
            let disk = case.disk.fork();
            let before = examine(&disk, &case.place, &case.clock).unwrap();
            disk.fault_at(call, Fault::PowerOff);
            // The repair fails, or loses power at this call.
            let _ = run(&disk, &before);
            disk.heal();
            if cut {
                disk.power_cut(&mut Random(call));
            }
            let after = reachable(&case, &disk.fork());
            assert!(after.is_superset(&started), "call {call}, cut {cut}: {:?}", started.difference(&after));
            repaired(&case, &disk);
            let mended = reachable(&case, &disk);
            assert_eq!(mended.len(), 12, "call {call}, cut {cut}: the next repair has all: {mended:?}");
        }
    }
}

#[test]
fn what_was_set_aside_before_stays_when_the_same_place_is_damaged_again() {
    let case = Case::new();
    let last = case.segments().pop().unwrap();
    let end = case.used(&last);
    for byte in [0x66, 0x77] {
        case.disk.damage(&last, |bytes| bytes[end..end + 30].fill(byte));
        case.disk.damage(&case.transcript("a"), |bytes| bytes.splice(0..0, [byte, byte, b'\n']).for_each(drop));
        repaired(&case, &case.disk);
    }
    let aside: Vec<Vec<u8>> = content(&case.disk)
        .into_iter()
        .filter_map(|(path, bytes)| path.iter().any(|name| name == "quarantine").then_some(bytes))
        .collect();
    for byte in [0x66, 0x77] {
        assert!(aside.contains(&vec![byte; 30]), "the tail {byte}: {aside:?}");
        assert!(aside.contains(&vec![byte, byte, b'\n']), "the line {byte}: {aside:?}");
    }
}

#[test]
fn what_is_recovered_later_is_added_to_what_was_recovered_before() {
    let case = Case::new();
    let segments = case.segments();
    let mut had = 0;
    for path in &segments[..2] {
        // The transcripts have what the journal had: without them only the quarantine does.
        for session in SESSIONS {
            case.disk.remove(&case.transcript(session)).unwrap();
        }
        case.disk.damage(path, |bytes| renumber(bytes));
        repaired(&case, &case.disk);
        let found = recovered(&case, &case.disk);
        assert!(found.len() > had, "{found:?}");
        had = found.len();
    }
    let found: BTreeSet<String> = recovered(&case, &case.disk).into_iter().collect();
    assert!(found.len() == had && found.contains("a0"), "{found:?}");
    assert_eq!(reachable(&case, &case.disk).len(), 12);
}

#[test]
fn a_torn_request_is_pending_and_a_segment_of_another_journal_is_damage() {
    let case = Case::new();
    let last = case.segments().pop().unwrap();
    let bytes = disk::read(&case.disk, &last).unwrap();
    // The last frame is that of b5: without it the request of a5 is not whole.
    let text = memchr::memmem::rfind(&bytes, b"\"session_id\":\"b\"").unwrap();
    case.disk.damage(&last, |bytes| bytes[text..].fill(0));
    let report = examine(&case.disk, &case.place, &case.clock).unwrap();
    assert_eq!(report.journal.as_ref().unwrap().torn, 1, "{}", report.to_text());
    // A transcript keeps what it has.
    assert_eq!((report.damage(), report.transcripts.unwrap().messages), (0, 12), "{}", report.to_text());

    let other = Case::new();
    let foreign = disk::read(&other.disk, &other.segments()[1]).unwrap();
    case.disk.damage(&case.segments()[1], |bytes| bytes.clone_from(&foreign));
    let report = examine(&case.disk, &case.place, &case.clock).unwrap();
    assert!(report.to_text().contains("it is a segment of another journal"), "{}", report.to_text());
}

#[test]
fn a_look_that_would_have_to_hold_too_much_says_so_and_what_it_has_seen() {
    let case = Case::new();
    let last = case.segments().pop().unwrap();
    let bytes = disk::read(&case.disk, &last).unwrap();
    let text = memchr::memmem::rfind(&bytes, b"\"session_id\":\"b\"").unwrap();
    // A torn request, which a start voids by a record.
    case.disk.damage(&last, |bytes| bytes[text..].fill(0));
    let overlay = Overlay::new(case.disk.clone(), layout::quarantine(case.place.journal()));
    let full = overlay.create(Path::new("/elsewhere")).unwrap();
    full.write_all_at(&vec![1; overlay::HELD_BYTES_MAX - 164], 0).unwrap();
    let mut faults = Vec::new();
    let mut tell =
        |path: &Path, fault: journal::survey::JournalFault| faults.push(format!("{}: {fault:?}", path.display()));
    let (survey, opened) = Journal::look(overlay, &case.place.config.journal, case.clock.clone(), &mut tell);
    assert!(opened.is_none() && survey.records.messages == 11, "{survey:?}");
    assert!(faults.len() == 1 && faults[0].contains("too much would be written"), "{faults:?}");
}

#[test]
fn an_emptied_journal_is_damage_as_long_as_anything_tells_of_it() {
    let case = Case::new();
    let lengths = case.journal_file("transcript_lengths");
    disk::replace(&case.disk, &lengths, b"").unwrap();
    let checkpoint = case.journal_file("checkpoint");
    for path in case.disk.paths() {
        if path.starts_with(case.place.journal()) && ![&lengths, &checkpoint].contains(&&path) {
            case.disk.unlink(&path);
        }
    }
    for (trace, gone) in [
        ("transcripts", vec![case.transcript("a"), case.transcript("b")]),
        ("lengths of transcripts", vec![lengths]),
        ("traces of a checkpoint", vec![checkpoint]),
    ] {
        let report = examine(&case.disk, &case.place, &case.clock).unwrap();
        let told = format!("there is no journal, although there are {trace}");
        assert!(report.damage() > 0 && report.to_text().contains(&told), "{trace}: {}", report.to_text());
        gone.iter().for_each(|path| case.disk.unlink(path));
    }
    let report = examine(&case.disk, &case.place, &case.clock).unwrap();
    assert_eq!(report.damage(), 0, "a folder in which nothing ever was: {}", report.to_text());
}

#[test]
fn a_damaged_file_of_lengths_is_told() {
    let case = Case::new();
    disk::replace(&case.disk, &case.journal_file("transcript_lengths"), b"nothing of ours\n").unwrap();
    let report = examine(&case.disk, &case.place, &case.clock).unwrap();
    let text = report.to_text();
    assert!(report.damage() == 0 && text.contains("how long transcripts were is not known"), "{text}");
}
