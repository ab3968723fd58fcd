//! The drain before a store that fails, hangs and answers late as it is told. What the real one does is shown by
//! `tests/store.rs` and `tests/drain.rs`; this one does it at a moment of the test's choice.
//!
//! Compiled under `#[cfg(test)]` only.

mod status;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};

use super::call::Connection;
use super::*;
use crate::config::{BatchConfig, Config, MongoConfig};
use crate::disk::sim::{Fault, Op, Random, SimDisk};
use crate::journal::Draft;
use crate::journal::testing::{Fixture as JournalFixture, say};
use crate::message::{Clock, Id, Message, SessionId};
use crate::store::{Connected, Inserted, Outgoing, Refused, StorePage, StoreQuery};
use crate::worker::storage::State;

/// How a call ends. Without one it does its work and says so.
enum Act {
    /// As without one.
    Work,
    /// It fails, and nothing is done.
    Fail,
    /// It fails, and all is done.
    LoseAnswer,
    /// It fails, and half is done.
    Half,
    /// It hangs until nobody holds the other end, then does its work.
    Hang(Receiver<()>),
}

#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Act>>,
    held: Mutex<BTreeMap<Id, Arc<Message>>>,
    /// What was asked, in the order of the beginnings.
    asked: Mutex<Vec<String>>,
}

const UNREACHABLE: StoreError = StoreError::Unreachable { reason: String::new() };

impl Scripted {
    fn next(&self, asked: String) -> Option<Act> {
        // Under both locks: whoever sees that it was asked for may plan what comes next.
        let (mut all, mut script) = (self.asked.lock().unwrap(), self.script.lock().unwrap());
        all.push(asked);
        script.pop_front()
    }

    /// Whatever is to come next.
    fn plan(&self, acts: impl IntoIterator<Item = Act>) {
        self.script.lock().unwrap().extend(acts);
    }

    /// The next call hangs until what is returned is dropped.
    fn hang(&self) -> Sender<()> {
        let (release, held) = bounded(0);
        self.plan([Act::Hang(held)]);
        release
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn texts(&self) -> Vec<String> {
        self.held.lock().unwrap().values().map(|message| message.text()).collect()
    }

    fn work<T>(&self, asked: String, work: impl Fn(usize) -> T) -> Result<T, StoreError> {
        match self.next(asked) {
            None | Some(Act::Work) => Ok(work(usize::MAX)),
            Some(Act::Fail) => Err(UNREACHABLE),
            Some(Act::LoseAnswer) => {
                work(usize::MAX);
                Err(UNREACHABLE)
            }
            Some(Act::Half) => {
                work(2);
                Err(UNREACHABLE)
            }
            Some(Act::Hang(held)) => {
                let _ = held.recv_timeout(Duration::from_secs(30));
                Ok(work(usize::MAX))
            }
        }
    }
}

impl Store for Scripted {
    fn connect(&self) -> Result<Connected, StoreError> {
        self.work("connect".to_owned(), |_| Connected { differing_indexes: vec!["one differs".to_owned()] })
    }

    fn send(&self, batch: &[Outgoing]) -> Result<Inserted, StoreError> {
        let messages: Vec<_> = batch.iter().map(|outgoing| &outgoing.message).collect();
        let texts: Vec<String> = messages.iter().map(|message| message.text()).collect();
        self.work(format!("insert {}", texts.join(" ")), |most| {
            let (mut held, mut inserted) = (self.held.lock().unwrap(), Inserted::default());
            for (index, message) in messages.iter().take(most).copied().enumerate() {
                if message.text().starts_with("poison") {
                    inserted.refused.push(Refused { index, reason: "poison".to_owned() });
                } else if held.insert(message.id(), message.clone()).is_none() {
                    inserted.stored += 1;
                } else {
                    inserted.already += 1;
                }
            }
            inserted
        })
    }

    fn erase(&self, session: &SessionId, up_to: Id) -> Result<u64, StoreError> {
        self.work(format!("erase {session}"), |_| {
            let mut held = self.held.lock().unwrap();
            let before = held.len();
            held.retain(|id, message| message.session() != session || *id > up_to);
            (before - held.len()) as u64
        })
    }

    fn read(&self, _: &StoreQuery) -> Result<StorePage, StoreError> {
        unreachable!("the drain reads nothing")
    }
}

const LETTERS: &str = "/data/dead_letter.jsonl";
const OWED: &str = "/erasures_owed.jsonl";

/// A journal, a store, and what a drain between them is made of.
struct Fixture {
    disk: SimDisk,
    journal: Arc<Journal<SimDisk>>,
    store: Arc<Scripted>,
    config: MongoConfig,
    storage: Arc<Storage>,
    expiry: Expiry,
    _folder: JournalFixture,
}

impl Fixture {
    fn new() -> Self {
        let mut folder = JournalFixture::new();
        folder.config.segment_bytes = 64 * 1024;
        let defaults = Config::defaults(None).unwrap().mongo;
        let config = MongoConfig {
            batch: BatchConfig { max_messages: 4, max_age: Duration::ZERO, ..defaults.batch },
            backoff_max: Duration::from_millis(100),
            // What is to hang is told to; nothing else may take as long.
            call_timeout: Duration::from_secs(30),
            ..defaults
        };
        Self {
            disk: folder.disk.clone(),
            journal: Arc::new(folder.open()),
            store: Arc::default(),
            config,
            storage: Arc::default(),
            expiry: Expiry::never(),
            _folder: folder,
        }
    }

    fn say(&self, texts: &[&str]) {
        say(&self.journal, texts).unwrap();
    }

    fn erase(&self) {
        let session = SessionId::new("s").unwrap();
        let (ticket, _) = self.journal.append(vec![Draft::Erasure { session }]).unwrap();
        self.journal.commit(ticket).unwrap();
    }

    fn drain_from(&self, drained: u64) -> Drain<SimDisk> {
        let letters = DeadLetters::new(self.disk.clone(), Path::new(LETTERS), Clock::system());
        let owed = PendingErasures::load(self.disk.clone(), Path::new(OWED), || panic!("it is damaged")).unwrap();
        let (store, storage) = (self.store.clone(), self.storage.clone());
        Drain::new(&self.journal, store, (letters, owed), self.expiry.clone(), &self.config, drained, storage)
    }

    /// How many erasures a restart would begin with.
    fn noted(&self) -> usize {
        let bytes = self.disk.peek(Path::new(OWED)).unwrap_or_default();
        bytes.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn drain(&self) -> Drain<SimDisk> {
        self.drain_from(0)
    }

    /// Lets the drain go on until `holds`.
    #[track_caller]
    fn until(&self, drain: &mut Drain<SimDisk>, holds: impl Fn(&Drain<SimDisk>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds(drain) {
            let (asked, view) = (self.store.asked(), self.storage.view());
            assert!(Instant::now() < deadline, "it does not come to that: {asked:?} {view:?}");
            drain.caller.backoff.end_pause();
            drain.step(self.journal.published()).unwrap();
            if let Some(outcome) = drain.outcome() {
                let mut select = crossbeam_channel::Select::new();
                select.recv(outcome);
                let _ = select.ready_timeout(Duration::from_millis(1));
            }
        }
    }

    #[track_caller]
    fn all(&self, drain: &mut Drain<SimDisk>) {
        self.until(drain, |drain| drain.drained() == self.journal.published());
    }

    fn letters(&self) -> Vec<String> {
        let bytes = self.disk.peek(Path::new(LETTERS)).unwrap_or_default();
        let letter = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let text = |line| letter(line)["message"]["text"].as_str().unwrap().to_owned();
        String::from_utf8(bytes).unwrap().lines().filter(|line| !line.is_empty()).map(text).collect()
    }
}

/// Gives up the call under way, as its deadline would.
fn give_up(drain: &mut Drain<SimDisk>) {
    drain.caller.under_way.as_mut().unwrap().deadline = Instant::now();
    assert!(matches!(drain.look(), Looked::Ended));
}

#[test]
fn whatever_call_fails_and_however_everything_is_there_once_and_never_counts_before() {
    let acts: [fn() -> Act; 3] = [|| Act::Fail, || Act::LoseAnswer, || Act::Half];
    for at in 0..6 {
        for act in acts {
            let fixture = Fixture::new();
            fixture.say(&["a", "b", "poison c", "d", "e", "f", "g", "h", "i"]);
            fixture.store.plan((0..at).map(|_| Act::Work));
            fixture.store.plan([act(), act()]);
            let mut drain = fixture.drain();
            fixture.until(&mut drain, |drain| {
                let held = fixture.store.texts().len() as u64;
                // The third is a letter.
                let there = if drain.drained() >= 3 { drain.drained() - 1 } else { drain.drained() };
                assert!(held >= there, "{held} are there, {} count", drain.drained());
                drain.drained() == 9
            });
            assert_eq!(fixture.store.texts(), ["a", "b", "d", "e", "f", "g", "h", "i"]);
            assert_eq!(fixture.letters(), ["poison c"]);
        }
    }
}

#[test]
fn a_batch_ends_with_its_count_its_bytes_its_age_or_an_erasure() {
    let mut fixture = Fixture::new();
    fixture.config.batch.max_age = Duration::from_secs(3600);
    fixture.config.batch.max_bytes = 1000;
    let long = "x".repeat(600);
    let mut drain = fixture.drain();
    fixture.say(&["1", "2", "3", "4", "5"]);
    fixture.until(&mut drain, |drain| drain.drained() == 4);
    assert!(drain.caller.under_way.is_none(), "the fifth waits for others");
    assert!(drain.wake().is_some_and(|wake| wake > Instant::now() + Duration::from_secs(3000)));
    fixture.say(&[&long, &long]);
    fixture.until(&mut drain, |drain| drain.drained() == 6);
    assert!(drain.caller.under_way.is_none(), "the second long one waits");
    fixture.erase();
    fixture.all(&mut drain);
    fixture.say(&["old"]);
    fixture.until(&mut drain, |drain| drain.intake.batch.messages().len() == 1);
    drain.intake.batch.age(drain.batch_age);
    fixture.all(&mut drain);
    let inserts = ["insert 1 2 3 4", &format!("insert 5 {long}"), &format!("insert {long}"), "erase s", "insert old"];
    assert_eq!(fixture.store.asked()[1..], inserts);
}

#[test]
fn a_message_larger_than_a_batch_goes_alone() {
    let mut fixture = Fixture::new();
    fixture.config.batch.max_bytes = 300;
    let long = "x".repeat(1000);
    fixture.say(&["1", &long, "2"]);
    let mut drain = fixture.drain();
    fixture.all(&mut drain);
    assert_eq!(fixture.store.asked()[1..], ["insert 1", &format!("insert {long}"), "insert 2"]);
}

#[test]
fn at_a_stop_what_is_there_goes_out_at_once() {
    let mut fixture = Fixture::new();
    fixture.config.batch.max_age = Duration::from_secs(3600);
    fixture.say(&["1"]);
    let mut drain = fixture.drain();
    fixture.until(&mut drain, |drain| drain.intake.batch.messages().len() == 1 && drain.caller.under_way.is_none());
    drain.hurry();
    fixture.all(&mut drain);
}

#[test]
fn an_erasure_is_carried_out_in_its_place() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2"]);
    fixture.store.plan([Act::Work, Act::LoseAnswer, Act::Half, Act::Work, Act::Fail, Act::LoseAnswer]);
    let mut drain = fixture.drain();
    // From here on the journal hands them out no more.
    fixture.until(&mut drain, |drain| drain.intake.position == 2);
    fixture.erase();
    fixture.say(&["3"]);
    fixture.all(&mut drain);
    let inserts = ["insert 1 2", "insert 1 2", "insert 1 2"];
    let asked = [&["connect"], &inserts[..], &["erase s", "erase s", "erase s", "insert 3"]].concat();
    assert_eq!(fixture.store.asked(), asked);
    assert_eq!(fixture.store.texts(), ["3"]);
}

#[test]
fn an_insert_that_arrives_behind_an_erasure_brings_nothing_back() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2"]);
    fixture.store.plan([Act::Work]);
    let late = fixture.store.hang();
    let mut drain = fixture.drain();
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 2);
    give_up(&mut drain);
    fixture.erase();
    fixture.say(&["3"]);
    fixture.all(&mut drain);
    assert_eq!(fixture.store.texts(), ["3"]);
    assert_eq!((drain.drained(), fixture.noted()), (4, 1), "a restart would begin with the erasure");
    drain.erasures.a_moment_later();
    drain.step(fixture.journal.published()).unwrap();
    assert_eq!(fixture.noted(), 1, "its call has not returned");

    drop(late);
    let calls = &drain.caller.calls;
    while calls.abandoned() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(fixture.store.texts(), ["1", "2", "3"], "it came back");
    fixture.until(&mut drain, |_| fixture.noted() == 0);
    assert_eq!(fixture.store.texts(), ["3"]);
}

#[test]
fn an_erasure_is_repeated_although_batches_never_cease() {
    let fixture = Fixture::new();
    fixture.say(&["1"]);
    fixture.erase();
    let mut drain = fixture.drain();
    fixture.all(&mut drain);
    assert_eq!(fixture.noted(), 1, "a process before may have sent an insert");
    drain.erasures.a_moment_later();
    let mut said = 2;
    while fixture.noted() > 0 {
        // There is always a batch that waits.
        fixture.say(&["more"]);
        said += 1;
        assert!(said < 50, "the erasure is never repeated: {:?}", fixture.store.asked());
        fixture.until(&mut drain, |drain| drain.drained() + 2 >= said && drain.intake.position == said);
    }
}

#[test]
fn an_erasure_long_after_any_failure_is_final_at_once() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    drain.erasures.a_moment_later();
    fixture.say(&["1"]);
    fixture.erase();
    fixture.all(&mut drain);
    assert_eq!((drain.drained(), fixture.noted()), (2, 0));
}

#[test]
fn what_a_process_before_had_sent_does_not_outlive_an_erasure_after_the_restart() {
    let fixture = Fixture::new();
    fixture.say(&["1"]);
    fixture.store.plan([Act::Work]);
    let late = fixture.store.hang();
    let mut drain = fixture.drain();
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 2);
    let drained = drain.drained();
    drop(drain);
    fixture.erase();
    let mut drain = fixture.drain_from(drained);
    fixture.all(&mut drain);
    drop(late);
    while fixture.store.texts().is_empty() {
        std::thread::yield_now();
    }
    drain.erasures.a_moment_later();
    fixture.until(&mut drain, |_| fixture.noted() == 0);
    assert!(fixture.store.texts().is_empty());
}

#[test]
fn dead_letters_that_cannot_be_written_hold_the_drain_until_they_can() {
    let fixture = Fixture::new();
    fixture.say(&["1", "poison 2", "3"]);
    let mut drain = fixture.drain();
    fixture.disk.fail_every(Op::Write, "dead_letter", io::ErrorKind::StorageFull);
    fixture.until(&mut drain, |drain| drain.caller.backoff.failures() > 3);
    assert_eq!(drain.drained(), 0);
    let view = fixture.storage.view();
    assert!(view.reason.is_some_and(|reason| reason.contains("dead letters cannot be written")));
    fixture.disk.heal();
    fixture.all(&mut drain);
    assert_eq!((fixture.letters(), drain.wrote_letters()), (vec!["poison 2".to_owned()], true));
    assert_eq!(fixture.storage.view().totals.dead_letters, 1);
    // The same again, as after a crash before the checkpoint.
    let mut again = fixture.drain();
    fixture.all(&mut again);
    assert_eq!(fixture.letters(), ["poison 2"]);
    assert_eq!(fixture.store.texts(), ["1", "3"]);
}

#[test]
fn with_both_threads_stuck_it_waits_and_goes_on_with_the_first_that_returns() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2"]);
    fixture.store.plan([Act::Work]);
    let stuck = [fixture.store.hang(), fixture.store.hang()];
    let mut drain = fixture.drain();
    for asked in [2, 3] {
        fixture.until(&mut drain, |_| fixture.store.asked().len() == asked);
        give_up(&mut drain);
    }
    fixture.until(&mut drain, |drain| drain.caller.backoff.failures() > 5);
    assert_eq!((fixture.store.asked().len(), drain.caller.calls.abandoned()), (3, 2), "nothing more is asked");
    assert!(fixture.storage.view().reason.is_some_and(|reason| reason.contains("have not returned")));
    drop(stuck);
    fixture.all(&mut drain);
    assert_eq!(
        (fixture.store.texts(), fixture.storage.view().state),
        (vec!["1".to_owned(), "2".to_owned()], State::Ok)
    );
}

#[test]
fn a_connection_that_builds_indexes_keeps_one_thread_and_batches_go_over_the_other() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    let building = fixture.store.hang();
    fixture.until(&mut drain, |_| fixture.store.asked() == ["connect"]);
    give_up(&mut drain);
    assert_eq!(fixture.storage.view().state, State::Error);
    for n in 1..=9 {
        fixture.say(&[&n.to_string()]);
        fixture.all(&mut drain);
    }
    assert_eq!(fixture.store.asked().iter().filter(|asked| *asked == "connect").count(), 1);
    assert_eq!((fixture.store.texts().len(), fixture.storage.view().state), (9, State::Ok));
    drop(building);
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, Connection::Made));
    assert_eq!(fixture.storage.view().differing_indexes, ["one differs"]);
}

#[test]
fn a_slow_connection_that_fails_is_made_again() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    let building = fixture.store.hang();
    fixture.until(&mut drain, |_| fixture.store.asked() == ["connect"]);
    give_up(&mut drain);
    let (fails, failed) = bounded(1);
    fails.send(Outcome::Connected(Err(UNREACHABLE))).unwrap();
    let call = drain.caller.calls.submit(Instant::now(), move || failed.recv().unwrap()).unwrap();
    drain.caller.connection = Connection::Slow(call);
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, Connection::Made));
    assert_eq!(fixture.store.asked(), ["connect", "connect"]);
    drop(building);
}

#[test]
fn a_huge_backlog_takes_no_more_memory_than_a_few_batches() {
    let mut fixture = Fixture::new();
    fixture.config.batch.max_messages = 100;
    fixture.config.batch.max_bytes = 64 * 1024;
    let text = "x".repeat(500);
    let mut drain = fixture.drain();
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, Connection::Made));
    fixture.store.plan((0..50).map(|_| Act::Fail));
    for _ in 0..100 {
        fixture.say(&[text.as_str(); 100]);
        drain.caller.backoff.end_pause();
        drain.step(fixture.journal.published()).unwrap();
        let batch: usize = drain.intake.batch.messages().iter().map(|outgoing| outgoing.message.line().len()).sum();
        // A batch, as much again, and what one read goes beyond it.
        assert!(drain.intake.batch.messages().len() <= 100 && batch <= 64 * 1024 + 1000, "{batch} in the batch");
        let (counted, there) = drain.intake.ahead.bytes();
        assert!(there <= 2 * 64 * 1024, "{there} ahead");
        assert_eq!(counted, there);
    }
    fixture.all(&mut drain);
    assert_eq!((fixture.store.texts().len(), drain.intake.ahead.bytes()), (10_000, (0, 0)));
}

#[test]
fn sequences_that_were_refused_are_holes_also_at_the_end() {
    let fixture = Fixture::new();
    fixture.say(&["1"]);
    fixture.disk.fault_at(fixture.disk.calls() + 1, Fault::Fail(io::ErrorKind::Other));
    assert!(say(&fixture.journal, &["refused", "refused"]).is_err());
    let mut drain = fixture.drain();
    fixture.all(&mut drain);
    fixture.journal.a_moment_later();
    fixture.say(&["4"]);
    assert_eq!(fixture.journal.published(), 4);
    fixture.all(&mut drain);
    assert_eq!((fixture.store.texts(), drain.drained()), (vec!["1".to_owned(), "4".to_owned()], 4));
}

#[test]
fn what_has_expired_is_passed_over() {
    let now = Arc::new(AtomicU64::new(Clock::system().now().micros()));
    let mut fixture = Fixture::new();
    fixture.expiry = Expiry::new(Some(Duration::from_secs(86_400)), Clock::fixed(now.clone()));
    fixture.say(&["1", "2"]);
    now.fetch_add(2 * 86_400_000_000, Ordering::Relaxed);
    let mut drain = fixture.drain();
    fixture.all(&mut drain);
    fixture.until(&mut drain, |drain| drain.caller.under_way.is_none());
    assert_eq!(fixture.store.asked(), ["connect"], "there is nothing to insert");
    assert_eq!(fixture.storage.view().oldest_pending, None);
}

#[test]
fn records_that_are_offered_are_not_read_and_what_was_not_offered_is() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2", "3", "4", "5", "6"]);
    let mut records = Vec::new();
    fixture.journal.reader(0).read(1 << 20, |record| records.push(record)).unwrap();
    let mut drain = fixture.drain();
    fixture.disk.fail_every(Op::Read, "segment", io::ErrorKind::Other);
    records[..3].iter().for_each(|record| drain.offer(record));
    let deadline = Instant::now() + Duration::from_secs(60);
    while drain.drained() < 3 {
        assert!(Instant::now() < deadline);
        drain.step(3).unwrap();
    }
    // The fourth was not offered, so the fifth comes too early.
    drain.offer(&records[4]);
    assert_eq!(drain.intake.position, 3);
    fixture.disk.heal();
    fixture.all(&mut drain);
    drain.offer(&records[5]);
    assert_eq!((fixture.store.texts().len(), drain.intake.ahead.is_empty()), (6, true));
}

#[test]
fn the_oldest_that_is_pending_is_told_as_long_as_it_is_and_no_longer() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    fixture.store.plan([Act::Work, Act::Fail]);
    fixture.say(&["1", "2"]);
    fixture.until(&mut drain, |drain| drain.caller.backoff.failures() > 0);
    assert!(fixture.storage.view().oldest_pending.is_some());
    fixture.all(&mut drain);
    assert_eq!(fixture.storage.view().oldest_pending, None);
}

/// Messages of two kinds, erasures, every way to fail, restarts: a hundred seeds.
#[test]
fn whatever_happens_in_whatever_order_the_store_ends_with_what_was_said_and_not_erased() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let fixture = Fixture::new();
        let (mut wanted, mut letters, mut erased) = (Vec::new(), Vec::new(), Vec::new());
        let mut hanging: Vec<Sender<()>> = Vec::new();
        let mut drain = fixture.drain();
        for n in 0..40 {
            match random.below(10) {
                0 => {
                    fixture.erase();
                    wanted.clear();
                    erased.append(&mut letters);
                }
                1 => {
                    fixture.say(&[&format!("poison {n}")]);
                    letters.push(format!("poison {n}"));
                }
                2 => fixture.store.plan([Act::Fail, Act::LoseAnswer]),
                3 => fixture.store.plan([Act::Half]),
                4 => hanging.push(fixture.store.hang()),
                5 if drain.caller.under_way.is_some() => give_up(&mut drain),
                6 => drop(hanging.pop()),
                7 => {
                    let drained = drain.drained();
                    drop(drain);
                    drain = fixture.drain_from(drained);
                }
                _ => {
                    fixture.say(&[&format!("{n}")]);
                    wanted.push(format!("{n}"));
                }
            }
            drain.caller.backoff.end_pause();
            drain.step(fixture.journal.published()).unwrap();
        }
        hanging.clear();
        fixture.all(&mut drain);
        // What hung returns before anything is final.
        while Arc::strong_count(&fixture.store) > 2 {
            std::thread::yield_now();
        }
        drain.erasures.a_moment_later();
        fixture.until(&mut drain, |_| fixture.noted() == 0);
        assert_eq!(fixture.store.texts(), wanted, "seed {seed}: {:?}", fixture.store.asked());
        // What was a dead letter before it was erased is the scrubber's to remove.
        let mut found = fixture.letters();
        found.retain(|letter| !erased.contains(letter));
        assert_eq!(found, letters, "seed {seed}");
    }
}
