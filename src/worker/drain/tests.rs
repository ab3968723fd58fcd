//! The drain before a store that fails, hangs and answers late on command. `tests/store.rs` and `tests/drain.rs` show
//! what the real one does; this one does it at a moment of the test's choice.
//!
//! Compiled under `#[cfg(test)]` only.

mod batches;
mod erasures;
mod failures;
mod resend;
mod status;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};

use super::call::{LOOK_INTERVAL, StoreConnection};
use super::*;
use crate::config::{BatchConfig, Config, MongoConfig};
use crate::disk::sim::{Fault, Op, Random, SimDisk};
use crate::journal::NewRecord;
use crate::journal::testing::{Fixture as JournalFixture, say};
use crate::message::{Clock, Id, Message, SessionId};
use crate::store::{
    Connected, ErasurePlace, Inserted, OutgoingMessage, Refused, StoreError, StorePage, StoreQuery, StoredErasure,
};
use crate::worker::mongo_status::MongoHealth;

/// How a call ends.
enum Act {
    /// It does its work and says so; the default.
    Work,
    /// It fails, and did nothing.
    Fail,
    /// It fails, and did everything.
    LoseAnswer,
    /// It fails, and did half.
    Half,
    /// It hangs until the sender is dropped, then does its work.
    Hang(Receiver<()>),
}

#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Act>>,
    held: Mutex<BTreeMap<Id, Arc<Message>>>,
    /// The calls, in the order in which they began.
    asked: Mutex<Vec<String>>,
    /// The question what other servers erased fails.
    deaf: AtomicBool,
    /// What was refused is taken now.
    takes_poison: AtomicBool,
}

const UNREACHABLE: StoreError = StoreError::Unreachable(String::new());

impl Scripted {
    fn next(&self, asked: String) -> Option<Act> {
        // Under both locks, so that a test that sees the call may plan the next.
        let (mut all, mut script) = (self.asked.lock().unwrap(), self.script.lock().unwrap());
        all.push(asked);
        script.pop_front()
    }

    /// Sets how the next calls end.
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
        self.work("connect".to_owned(), |_| Connected {
            differing_indexes: vec!["one differs".to_owned()],
            made_indexes: vec!["one"],
            ttl_differs: None,
        })
    }

    fn send(&self, batch: &[OutgoingMessage]) -> Result<Inserted, StoreError> {
        let messages: Vec<_> = batch.iter().map(|outgoing| &outgoing.message).collect();
        let texts: Vec<String> = messages.iter().map(|message| message.text()).collect();
        self.work(format!("insert {}", texts.join(" ")), |most| {
            let (mut held, mut inserted) = (self.held.lock().unwrap(), Inserted::default());
            for (index, message) in messages.iter().take(most).copied().enumerate() {
                if message.text().starts_with("poison") && !self.takes_poison.load(Ordering::SeqCst) {
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

    fn erasures(&self, _: Option<&ErasurePlace>) -> Result<Vec<StoredErasure>, StoreError> {
        if self.deaf.load(Ordering::SeqCst) { Err(UNREACHABLE) } else { Ok(Vec::new()) }
    }

    fn read(&self, _: &StoreQuery) -> Result<StorePage, StoreError> {
        unreachable!("the drain reads nothing")
    }

    fn sessions(&self, _: &str, _: Duration) -> Result<(Vec<SessionId>, Option<String>), StoreError> {
        unreachable!("the drain reads nothing")
    }
}

const LETTERS: &str = "/data/dead_letter.jsonl";
const PENDING: &str = "/erasures_owed.jsonl";

/// A journal, a store, and what a drain between them needs.
struct Fixture {
    disk: SimDisk,
    journal: Arc<Journal<SimDisk>>,
    store: Arc<Scripted>,
    config: MongoConfig,
    mongo_status: Arc<MongoStatus>,
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
            // Only calls that a test stalls may take this long.
            call_timeout: Duration::from_secs(300),
            ..defaults
        };
        Self {
            disk: folder.disk.clone(),
            journal: Arc::new(folder.open()),
            store: Arc::default(),
            config,
            mongo_status: Arc::new(MongoStatus::new(Clock::system())),
            expiry: Expiry::never(),
            _folder: folder,
        }
    }

    fn say(&self, texts: &[&str]) {
        say(&self.journal, texts).unwrap();
    }

    fn erase(&self) {
        let session = SessionId::new("s").unwrap();
        let (ticket, _) = self.journal.append(vec![NewRecord::Erasure { session }]).unwrap();
        self.journal.commit(ticket).unwrap();
    }

    fn drain_from(&self, drained: u64) -> Drain<SimDisk> {
        let letters = DeadLetters::new(self.disk.clone(), Path::new(LETTERS), Clock::system());
        let pending = PendingErasures::load(self.disk.clone(), Path::new(PENDING), || panic!("it is damaged")).unwrap();
        let (store, mongo_status) = (self.store.clone(), self.mongo_status.clone());
        Drain::new(&self.journal, store, (letters, pending), self.expiry.clone(), &self.config, drained, mongo_status)
    }

    /// How many erasures a restart would begin with.
    fn noted(&self) -> usize {
        let bytes = self.disk.peek(Path::new(PENDING)).unwrap_or_default();
        bytes.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn drain(&self) -> Drain<SimDisk> {
        self.drain_from(0)
    }

    /// Steps the drain until `holds`.
    #[track_caller]
    fn until(&self, drain: &mut Drain<SimDisk>, holds: impl Fn(&Drain<SimDisk>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds(drain) {
            let (asked, view) = (self.store.asked(), self.mongo_status.view());
            assert!(Instant::now() < deadline, "it does not come to that: {asked:?} {view:?}");
            drain.caller.backoff.end_pause();
            drain.caller.late.iter_mut().for_each(LateInsert::wait_no_longer);
            drain.resender.iter_mut().for_each(Resender::wait_no_longer);
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
    let (task, took, answer) = drain.caller.take().unwrap();
    drain.finish(task, took, answer);
}

#[test]
fn whatever_call_fails_everything_is_there_once_and_counts_only_then() {
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

/// Messages of two kinds, erasures, every way to fail, restarts: a hundred seeds.
#[test]
fn in_whatever_order_the_store_ends_with_what_was_said_and_not_erased() {
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
            drain.caller.late.iter_mut().for_each(LateInsert::wait_no_longer);
            drain.step(fixture.journal.published()).unwrap();
        }
        hanging.clear();
        fixture.all(&mut drain);
        // Calls that hung return before anything is final.
        while Arc::strong_count(&fixture.store) > 2 {
            std::thread::yield_now();
        }
        drain.erasures.a_moment_later();
        fixture.until(&mut drain, |_| fixture.noted() == 0);
        assert_eq!(fixture.store.texts(), wanted, "seed {seed}: {:?}", fixture.store.asked());
        // The scrubber removes a dead letter that was erased later.
        let mut found = fixture.letters();
        found.retain(|letter| !erased.contains(letter));
        assert_eq!(found, letters, "seed {seed}");
    }
}
