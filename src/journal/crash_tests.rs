//! The journal against a model, on a disk that forgets, fails, tears and fills up: random histories, a power cut at every
//! call, a fault at every call. Compiled under `#[cfg(test)]` only.
//!
//! The model remembers what was acknowledged and what was refused. Whatever happens: under `always` every acknowledged
//! record is there once, as it was, in order; a refused one is there once or not at all, and never while the process that
//! refused it lives; nothing else is there; and the journal opens and takes records again.

mod damage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::config::Fsync;
use crate::disk::sim::{Cases, Fault, Random, SimDisk};
use crate::message::{self, Id, Metadata, SessionId};

/// Operations of one history.
const STEPS: u64 = 24;

/// What the sender knows of a text it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Appended(Id, u64),
    Unknown,
}

struct Case {
    disk: SimDisk,
    config: JournalConfig,
    random: Random,
    fates: BTreeMap<String, Fate>,
    /// The texts that were sent with a key.
    keyed: BTreeSet<String>,
    /// The texts acknowledged since the last sync that a power cut may take (`interval`, `never`).
    loose: Vec<String>,
    journal: Option<Journal<SimDisk>>,
    published: Arc<Mutex<Vec<String>>>,
    largest: Option<(Id, u64)>,
    /// Refused by the process that lives.
    refused_here: Vec<String>,
    _folder: tempfile::TempDir,
}

fn draft(text: &str, key: Option<&str>) -> NewRecord {
    let session = SessionId::new("s").unwrap();
    let line = message::Draft { session: &session, role: "user", text, metadata: Metadata::default(), vector_ids: &[] };
    let key = key.map(|key| IdempotencyKey::new(&session, key, &[text.as_bytes()]));
    NewRecord::Message { line: line.prepare(), key, reply_to: ReplyTo::Nothing }
}

impl Case {
    fn new(seed: u64, fsync: Fsync) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The lock is the kernel's and stands on the real disk.
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        let config = JournalConfig {
            path: folder.path().join("journal"),
            fsync,
            fsync_interval: Duration::from_secs(1),
            segment_bytes: 2048,
            max_bytes: 1 << 30,
            retain: Duration::from_secs(3600),
            max_keys: 10_000,
            checkpoint_interval: Duration::from_secs(1),
        };
        Self {
            disk: SimDisk::default(),
            config,
            random: Random(seed),
            fates: BTreeMap::new(),
            keyed: BTreeSet::new(),
            loose: Vec::new(),
            journal: None,
            published: Arc::default(),
            largest: None,
            refused_here: Vec::new(),
            _folder: folder,
        }
    }

    fn open(&mut self) -> Result<(), OpenError> {
        self.journal = None;
        self.refused_here.clear();
        let published = self.published.clone();
        let publish = Box::new(move |records: &[Record]| {
            published.lock().unwrap().extend(records.iter().map(|record| record.entry.message().unwrap().text()));
        });
        let panicked = Box::new(|| panic!("the leader panicked"));
        self.journal = Some(Journal::open_on(self.disk.clone(), &self.config, Clock::system(), publish, panicked)?);
        Ok(())
    }

    fn read(&self) -> Vec<(String, Id, u64)> {
        let mut reader = self.journal.as_ref().unwrap().reader(0);
        let mut found = Vec::new();
        let mut take = |record: Record| {
            let message = record.entry.message().expect("only messages were sent");
            found.push((message.text(), message.id(), record.sequence));
        };
        while reader.read(512, &mut take).unwrap() == ReadProgress::More {}
        found
    }

    /// One append of one to three records, some with keys, some long.
    fn append(&mut self, step: u64) {
        let count = 1 + self.random.below(3);
        let texts: Vec<String> = (0..count)
            .map(|i| {
                let filler = if self.random.one_in(12) { 3000 } else { self.random.below(200) };
                format!("{step}.{i}.{}", "x".repeat(filler as usize))
            })
            .collect();
        let keyed = self.random.one_in(2);
        self.keyed.extend(texts.iter().filter(|_| keyed).cloned());
        let drafts = texts.iter().map(|text| draft(text, keyed.then_some(text.as_str()))).collect();
        let journal = self.journal.as_ref().unwrap();
        let outcome = journal.append(drafts).and_then(|(ticket, kept)| journal.commit(ticket).map(|()| kept));
        match outcome {
            Ok(kept) => {
                for (text, kept) in texts.iter().zip(kept) {
                    let Appended::New(record) = kept else { panic!("the key of {text} is new") };
                    let place = (record.entry.id().unwrap(), record.sequence);
                    assert!(Some(place.0) > self.largest.map(|l| l.0) && Some(place.1) > self.largest.map(|l| l.1));
                    self.largest = Some(place);
                    self.fates.insert(text.clone(), Fate::Appended(place.0, place.1));
                    assert_eq!(self.published.lock().unwrap().last(), texts.last());
                    if self.config.fsync != Fsync::Always {
                        self.loose.push(text.clone());
                    }
                }
            }
            Err(_) => {
                for text in texts {
                    self.fates.insert(text.clone(), Fate::Unknown);
                    self.refused_here.push(text);
                }
            }
        }
    }

    fn sync(&mut self) {
        if self.config.fsync == Fsync::Interval {
            self.journal.as_ref().unwrap().sync_outside();
            if self.journal.as_ref().unwrap().is_writable() {
                self.loose.clear();
            }
        }
    }

    /// What is there is what the model says, after a kill (`cut`: after a power cut).
    fn check(&mut self, cut: bool) {
        if cut {
            for text in self.loose.drain(..) {
                self.fates.insert(text, Fate::Unknown);
            }
        }
        let found = self.read();
        if cut && self.config.fsync != Fsync::Always {
            // Unsynced records may be gone, and their sequences may be used again.
            self.largest = found.last().map(|(_, id, sequence)| (*id, *sequence));
        }
        assert!(found.windows(2).all(|pair| pair[0].1 < pair[1].1 && pair[0].2 < pair[1].2), "out of order");
        let mut places = BTreeMap::new();
        for (text, id, sequence) in found {
            assert!(!self.refused_here.contains(&text), "{text:.20} was refused by this very process");
            assert!(places.insert(text.clone(), (id, sequence)).is_none(), "{text:.20} is there twice");
            assert!(self.fates.contains_key(&text), "{text:.20} was never sent");
        }
        for (text, fate) in &mut self.fates {
            match (*fate, places.get(text)) {
                (Fate::Appended(id, sequence), Some(place)) => {
                    assert_eq!((id, sequence), *place, "{text:.20} has moved");
                }
                (Fate::Appended(..), None) => panic!("{text:.20} was acknowledged and is gone"),
                (Fate::Unknown, _) => {}
            }
        }
    }

    /// A retry of what had a key finds what is there and adds what is not.
    fn retry(&mut self) {
        let there: BTreeMap<String, Id> = self.read().into_iter().map(|(text, id, _)| (text, id)).collect();
        let journal = self.journal.as_ref().unwrap();
        for text in &self.keyed {
            let (ticket, kept) = journal.append(vec![draft(text, Some(text))]).unwrap();
            journal.commit(ticket).unwrap();
            match &kept[0] {
                Appended::Before { id, .. } => assert_eq!(there.get(text), Some(id), "{text:.20}: the key of nothing"),
                Appended::New(record) => {
                    assert!(!there.contains_key(text), "{text:.20} is there and its key is gone");
                    let place = (record.entry.id().unwrap(), record.sequence);
                    self.fates.insert(text.clone(), Fate::Appended(place.0, place.1));
                }
            }
            if self.config.fsync != Fsync::Always {
                self.loose.push(text.clone());
            }
        }
    }

    /// A history of appends, syncs, looks and restarts; ends early when the power goes.
    fn live(&mut self) {
        let steps = STEPS;
        for step in 0..steps {
            if self.journal.is_none() && self.open().is_err() {
                return;
            }
            match self.random.below(10) {
                0 => {
                    self.journal = None;
                }
                1 => drop(self.journal.as_ref().unwrap().maintain()),
                2 => self.sync(),
                3 => {
                    let published = self.journal.as_ref().unwrap().published();
                    let checkpoint = Checkpoint { drained: published, transcribed: published, ..Checkpoint::default() };
                    let _ = self.journal.as_ref().unwrap().store_checkpoint(&checkpoint);
                }
                _ => self.append(step),
            }
        }
    }
}

/// Runs one history with a fault at one call, then a power cut or a kill, then a look at what is left.
fn run(seed: u64, fsync: Fsync, fault: Option<(u64, Fault)>, cut: bool) -> u64 {
    let told = Told(format!("seed {seed}, {fsync:?}, fault {fault:?}, power cut {cut}"));
    let mut case = Case::new(seed, fsync);
    if let Some((call, fault)) = fault {
        case.disk.fault_at(call, fault);
    }
    case.live();
    let calls = case.disk.calls();
    case.journal = None;
    if cut {
        let mut random = Random(seed ^ calls);
        case.disk.power_cut(&mut random);
    }
    case.disk.heal();
    case.open().unwrap_or_else(|e| panic!("it does not open again: {e}"));
    case.check(cut);
    case.retry();
    case.append(1000);
    case.check(false);
    // Another start: what the recovery repaired stays repaired.
    case.journal = None;
    if cut {
        case.disk.power_cut(&mut Random(seed));
    }
    case.open().unwrap();
    case.check(cut);
    drop(told);
    calls
}

/// Tells which case it was when one fails.
struct Told(String);

#[allow(clippy::print_stderr, reason = "a failing test tells its seed there")]
impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn scale() -> u64 {
    std::env::var("CHATKEEP_TEST_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

#[test]
fn random_histories_without_faults_keep_everything() {
    for seed in 0..40 * scale() {
        for fsync in [Fsync::Always, Fsync::Interval, Fsync::Never] {
            run(seed, fsync, None, false);
            run(seed, fsync, None, true);
        }
    }
}

#[test]
fn a_power_cut_at_every_call_loses_nothing_that_was_synced() {
    let mut cases = Cases::default();
    for seed in 0..3 * scale() {
        for fsync in [Fsync::Always, Fsync::Interval] {
            let calls = run(seed, fsync, None, true);
            cases.0 += 1 + calls;
            for call in 1..=calls {
                run(seed, fsync, Some((call, Fault::PowerOff)), true);
            }
        }
    }
}

#[test]
fn a_kill_at_every_call_loses_nothing_whatever_the_policy() {
    for seed in 100..101 + scale() {
        for fsync in [Fsync::Always, Fsync::Interval, Fsync::Never] {
            let calls = run(seed, fsync, None, false);
            for call in 1..=calls {
                run(seed, fsync, Some((call, Fault::PowerOff)), false);
            }
        }
    }
}

#[test]
fn a_fault_at_every_call_is_survived_and_told() {
    for seed in 200..201 + scale() {
        for fsync in [Fsync::Always, Fsync::Interval, Fsync::Never] {
            let calls = run(seed, fsync, None, true);
            for call in 1..=calls {
                let faults = [Fault::Fail(io::ErrorKind::StorageFull), Fault::Fail(io::ErrorKind::Other), Fault::Short];
                for fault in faults {
                    run(seed, fsync, Some((call, fault)), call % 2 == 0);
                }
            }
        }
    }
}

#[test]
fn a_power_cut_brings_no_segment_back_without_the_one_that_voids_it() {
    for seed in 0..60 * scale() {
        let mut case = Case::new(seed, Fsync::Always);
        case.open().unwrap();
        case.append(0);
        // The next write is short: it is refused, and void because the next segment begins before it.
        for step in 100.. {
            case.disk.fault_at(case.disk.calls() + 1, Fault::Short);
            case.append(step);
            if !case.refused_here.is_empty() {
                break;
            }
        }
        case.disk.heal();
        let refused: Vec<String> = case.refused_here.clone();
        for step in 2..30 {
            case.journal.as_ref().unwrap().a_moment_later();
            case.append(step);
        }
        let journal = case.journal.as_ref().unwrap();
        let published = journal.published();
        let checkpoint = Checkpoint { drained: published, transcribed: published, ..Checkpoint::default() };
        journal.store_checkpoint(&checkpoint).unwrap();
        for _ in 0..2 {
            journal.want_room();
            assert_eq!(journal.prune(published, Clock::system().now()).unwrap(), 1);
        }
        case.journal = None;
        case.disk.power_cut(&mut Random(seed));
        case.open().unwrap();
        assert!(case.read().iter().all(|(text, ..)| !refused.contains(text)), "seed {seed}");
    }
}
