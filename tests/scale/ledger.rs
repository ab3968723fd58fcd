//! What writers wanted recorded, what was acknowledged, and what is there in the end. Unlike the oracle of the other tests it
//! knows that one message may be recorded on two servers, and counts that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A message, by its session, role and text, which no other message has.
pub type Name = (String, String, String);

/// The ids under which messages are recorded.
pub type Found = BTreeMap<Name, BTreeSet<String>>;

/// An acknowledgement.
#[derive(Clone)]
pub struct Acknowledged {
    /// The id.
    pub id: String,
    /// The number of the server that gave it.
    pub server: usize,
    /// When it came.
    at: Instant,
    /// How many phases had begun.
    phase: usize,
}

#[derive(Default)]
struct Wanted {
    acknowledged: Option<Acknowledged>,
    /// Tries whose outcome is unknown.
    unknown: usize,
}

/// What became of the messages of one phase.
#[derive(Default)]
pub struct Count {
    /// Messages that were acknowledged.
    pub acknowledged: usize,
    /// Those of them that are not there.
    pub lost: usize,
    /// Those that are there twice though their first try was acknowledged.
    pub twice: usize,
    /// Those with a try of unknown outcome.
    pub unknown: usize,
    /// Those of them that are there once for more than one try.
    pub copies: usize,
    /// The longest time from a first try to the acknowledgement.
    pub longest: Duration,
}

#[derive(Default)]
struct Inner {
    messages: BTreeMap<Name, Wanted>,
    /// The longest time from a first try to the acknowledgement, for each phase.
    longest: Vec<Duration>,
}

/// Shared by all writers.
#[derive(Default)]
pub struct Ledger(Mutex<Inner>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no writer panicked while it wrote here")
    }

    /// Another phase begins; what is acknowledged from now on counts for it.
    pub fn begin_phase(&self) {
        self.lock().longest.push(Duration::ZERO);
    }

    /// It is about to be sent for the first time.
    #[track_caller]
    pub fn attempt(&self, name: &Name) {
        let before = self.lock().messages.insert(name.clone(), Wanted::default());
        assert!(before.is_none(), "it is sent under one name: {name:?}");
    }

    /// A try brought no answer that says what became of it.
    pub fn unknown(&self, name: &Name) {
        self.lock().messages.get_mut(name).expect("it was sent").unknown += 1;
    }

    /// A server acknowledged it, that long after its first try.
    pub fn acknowledge(&self, name: &Name, id: &str, server: usize, after: Duration) {
        let mut inner = self.lock();
        let phase = inner.longest.len();
        let longest = inner.longest.last_mut().expect("a phase has begun");
        *longest = after.max(*longest);
        let acknowledged = Acknowledged { id: id.to_owned(), server, at: Instant::now(), phase };
        inner.messages.get_mut(name).expect("it was sent").acknowledged = Some(acknowledged);
    }

    /// Every acknowledgement so far.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.lock().messages.values().filter_map(|message| message.acknowledged.clone()).collect()
    }

    /// How many there are that `wanted` takes.
    fn how_many(&self, wanted: impl Fn(&Inner, &Acknowledged) -> bool) -> usize {
        let inner = self.lock();
        let acknowledged = inner.messages.values().filter_map(|message| message.acknowledged.as_ref());
        acknowledged.filter(|acknowledged| wanted(&inner, acknowledged)).count()
    }

    /// How many were acknowledged in this phase.
    pub fn acknowledged_in_phase(&self) -> usize {
        self.how_many(|inner, acknowledged| acknowledged.phase == inner.longest.len())
    }

    /// How many one server acknowledged after that time.
    pub fn acknowledged_by(&self, server: usize, after: Instant) -> usize {
        self.how_many(|_, acknowledged| acknowledged.server == server && acknowledged.at > after)
    }

    /// What became of everything, phase by phase.
    ///
    /// # Panics
    /// When something is there that nobody sent, or more often than it was tried.
    #[track_caller]
    pub fn count(&self, found: &Found) -> Vec<Count> {
        let inner = self.lock();
        let never_sent = found.keys().find(|name| !inner.messages.contains_key(*name));
        assert!(never_sent.is_none(), "nobody sent it: {never_sent:?}");
        let mut counts: Vec<Count> =
            inner.longest.iter().map(|&longest| Count { longest, ..Count::default() }).collect();
        for (name, message) in &inner.messages {
            let acknowledged = message.acknowledged.as_ref().unwrap_or_else(|| panic!("it was given up: {name:?}"));
            let ids = found.get(name);
            let times = ids.map_or(0, BTreeSet::len);
            assert!(times <= 1 + message.unknown, "{times} times there: {name:?}");
            let count = &mut counts[acknowledged.phase - 1];
            count.acknowledged += 1;
            count.lost += usize::from(ids.is_none_or(|ids| !ids.contains(&acknowledged.id)));
            count.twice += usize::from(times > 1 && message.unknown == 0);
            count.unknown += usize::from(message.unknown > 0);
            count.copies += usize::from(times > 1 && message.unknown > 0);
        }
        counts
    }
}
