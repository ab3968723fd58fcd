//! The whole write path against a model: journal, publication, transcripts, cache, worker, pruning, the replay at the
//! start and history, on a disk that forgets, fails, tears and fills up. Compiled under `#[cfg(test)]` only.
//!
//! A seed makes the limits and a history of requests, worker steps, looks, restarts, a full disk and transcripts
//! changed by hand. The history runs again with a fault at each call of the disk. At its end the process is killed or
//! the power fails, and the oracle says what must be found; then once more, after a drained stop.

mod oracle;
pub mod world;

use std::io;

use crate::config::Fsync;
use crate::disk::sim::{Cases, Fault, Random};
use crate::journal::Appended;
use crate::message::{Id, Timestamp};

use oracle::Oracle;
use world::{Saying, World};

/// Operations of a history that runs once, and of one that runs again for each of its calls.
const LONG: u64 = 40;
const SHORT: u64 = 16;

/// How a history ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    /// The power fails; the number seeds what remains of unsynced data.
    PowerCut(u64),
}

struct Case {
    world: World,
    oracle: Oracle,
    random: Random,
    said: u64,
    /// Users tear lines.
    tears: bool,
}

impl Case {
    fn new(seed: u64, fsync: Fsync, tears: bool) -> Self {
        let mut random = Random(seed);
        Self { world: World::new(&mut random, fsync), oracle: Oracle::default(), random, said: 0, tears }
    }

    /// A request of one to three messages, mostly of one session, some with keys, some long.
    fn request(&mut self) -> Vec<Saying> {
        let random = &mut self.random;
        let keyed = random.one_in(2);
        let one = random.below(self.world.sessions.len() as u64);
        let count = 1 + random.below(3);
        let sayings = (0..count).map(|_| {
            self.said += 1;
            let session = if random.one_in(4) { random.below(self.world.sessions.len() as u64) } else { one };
            let filler = if random.one_in(16) { 2500 } else { random.below(200) };
            let text = format!("{} {}", self.said, "x".repeat(filler as usize));
            Saying { session: self.world.sessions[session as usize].clone(), text, keyed }
        });
        sayings.collect()
    }

    fn say(&mut self) {
        let sayings = self.request();
        let live = self.world.live.as_ref().unwrap();
        let outcome = live.say(&sayings).ok();
        self.oracle.published = live.journal.published();
        self.oracle.note(&self.world, &sayings, outcome.as_deref());
    }

    /// Imports up to six messages of a session: new ones whose ids lie anywhere among the others, some of them twice, and
    /// some that were there.
    fn import(&mut self) {
        let random = &mut self.random;
        let session = self.world.sessions[random.below(self.world.sessions.len() as u64) as usize].clone();
        let known = self.oracle.known(&session);
        let now = self.world.clock.now().micros();
        let oldest = known.iter().map(|(_, id)| id.time().micros()).min().unwrap_or(now).min(now - 1) - 1000;
        let mut sayings = Vec::new();
        for _ in 0..1 + random.below(6) {
            let again = (!known.is_empty()).then(|| random.below(2 * known.len() as u64) as usize);
            if let Some(known) = again.and_then(|at| known.get(at)) {
                sayings.push(known.clone());
                continue;
            }
            self.said += 1;
            let filler = if random.one_in(16) { 2500 } else { random.below(200) };
            let text = format!("{} {}", self.said, "y".repeat(filler as usize));
            let id = Id::from_parts(Timestamp::from_micros(oldest + random.below(now - oldest)), random.draw());
            sayings.push((Saying { session: session.clone(), text, keyed: false }, id));
            if random.one_in(8) {
                sayings.push(sayings[sayings.len() - 1].clone());
            }
        }
        let live = self.world.live.as_ref().unwrap();
        let outcomes = live.import(&sayings).ok();
        self.oracle.published = live.journal.published();
        self.oracle.note_import(&self.world, &sayings, outcomes.as_deref(), live.journal.published());
        if self.random.one_in(3) {
            let _ = self.world.live.as_ref().unwrap().importer.finish(&|| false);
        }
    }

    /// Runs a history; it goes on whatever fails.
    fn live(&mut self, steps: u64) {
        for _ in 0..steps {
            if self.world.live.is_none() {
                self.oracle.after_end(false);
                if self.world.open().is_err() {
                    continue;
                }
                self.oracle.published = self.world.live.as_ref().unwrap().journal.published();
            }
            self.step();
        }
    }

    fn step(&mut self) {
        let choice = self.random.below(32);
        let live = self.world.live.as_mut().unwrap();
        match choice {
            0 => self.world.stop(),
            1 => self.world.kill(None),
            2 | 3 => drop(live.journal.maintain()),
            4 => {
                live.journal.sync_now();
                if self.world.config.journal.fsync == Fsync::Interval && live.journal.is_writable() {
                    self.oracle.synced();
                }
            }
            5 => live.a_moment_later(),
            6 => self.world.disk.limit_room(self.world.disk.used() + self.random.below(6000) as usize),
            7 | 8 => self.world.disk.limit_room(usize::MAX),
            9 => self.by_hand(),
            10 | 11 => {
                let limit = 1 + self.random.below(9) as usize;
                let _ = self.oracle.look(self.world.live.as_ref().unwrap(), &self.world, limit);
            }
            12 => drop(live.list.load()),
            13..15 => live.work(),
            15..19 => {
                live.worker.flush();
                self.oracle.clear_up(live);
            }
            19 => {
                live.drain();
                self.oracle.clear_up(live);
            }
            20..24 => self.import(),
            _ => self.say(),
        }
    }

    /// A user removes a transcript, cuts it anywhere, or writes into it. Where calls fail, no user tears lines: a file
    /// that cannot be read counts as intact, so that a server without descriptors does not rewrite everything.
    fn by_hand(&mut self) {
        let session = self.world.sessions[self.random.below(self.world.sessions.len() as u64) as usize].clone();
        let (disk, path) = (self.world.disk.clone(), self.world.transcript(&session));
        if !disk.paths().contains(&path) {
            return;
        }
        let (random, tears) = (&mut self.random, self.tears);
        self.oracle.by_hand(&self.world, &session, || match random.below(4) {
            0 => disk.unlink(&path),
            1 if tears => disk.damage(&path, |bytes| bytes.truncate(random.below(bytes.len() as u64 + 1) as usize)),
            2 if tears => disk.damage(&path, |bytes| bytes.extend_from_slice(b"and does not end")),
            _ => disk.damage(&path, |bytes| bytes.extend_from_slice(b"what a user writes\n")),
        });
    }

    /// The end, and a start on a disk that works: the oracle checks what remains.
    fn end(&mut self, end: End) {
        let cut = end != End::Kill;
        match end {
            End::Kill => self.world.kill(None),
            End::PowerCut(seed) => self.world.kill(Some(&mut Random(seed))),
        }
        self.world.disk.heal();
        self.oracle.after_end(cut);
        self.oracle.check_checkpoint(&self.world);
        self.world.open().unwrap_or_else(|e| panic!("it does not open again: {e}"));
        self.oracle.check(&self.world, cut);
    }

    /// Sends again what had a key: it is found if it is there, and recorded if not.
    fn retry(&mut self) {
        for (saying, place) in self.oracle.retries() {
            let sayings = [saying];
            let live = self.world.live.as_mut().unwrap();
            live.a_moment_later();
            // Space made for one record may have dropped another's segment, and the key with it.
            if place.is_some_and(|(_, sequence)| sequence < live.journal.stats().first_sequence) {
                continue;
            }
            let kept = if place.is_some() { live.say(&sayings).unwrap() } else { self.say_at_last(&sayings) };
            match (&kept[0], place) {
                (Appended::Before { id, .. }, Some(there)) => assert_eq!(there.0, *id, "another's key"),
                (Appended::New(_), None) => self.oracle.note(&self.world, &sayings, Some(&kept)),
                (kept, there) => panic!("{:.20}: {there:?} in the journal, {kept:?} by its key", sayings[0].text),
            }
        }
    }

    /// On a disk that works every request succeeds, if need be after the worker has freed space.
    fn say_at_last(&mut self, sayings: &[Saying]) -> Vec<Appended> {
        let live = self.world.live.as_mut().unwrap();
        let kept = live.say(sayings).or_else(|_| {
            live.a_moment_later();
            live.drain();
            live.say(sayings)
        });
        self.oracle.published = live.journal.published();
        kept.unwrap_or_else(|refusal| panic!("refused on a disk that works: {refusal}"))
    }

    /// On a disk that works everything arrives.
    fn drain(&mut self) {
        let live = self.world.live.as_mut().unwrap();
        for _ in 0..2 {
            live.a_moment_later();
            live.drain();
        }
        assert_eq!(live.transcripts.first_lacking(), None);
        assert_eq!(live.worker.checkpoint.drained, live.journal.published());
        let live = self.world.live.as_ref().unwrap();
        let view = self.oracle.look(live, &self.world, 9).expect("the disk works");
        assert!(self.oracle.check_list(live, &self.world, &view), "the list is not whole though nothing is stale");
    }
}

/// Runs a history with faults at some calls, ends it, and checks what remains; once more after everything has arrived.
/// Returns the number of calls.
fn run(seed: u64, fsync: Fsync, steps: u64, faults: &[(u64, Fault)], end: End) -> u64 {
    let told = Told(format!("seed {seed}, {fsync:?}, {steps} steps, faults {faults:?}, {end:?}"));
    let mut case = Case::new(seed, fsync, faults.is_empty());
    faults.iter().for_each(|(call, fault)| case.world.disk.fault_at(*call, *fault));
    case.live(steps);
    let calls = case.world.disk.calls();
    case.end(end);
    case.retry();
    let sayings = case.request();
    let kept = case.say_at_last(&sayings);
    case.oracle.note(&case.world, &sayings, Some(&kept));
    case.drain();
    case.end(end);
    drop(told);
    calls
}

/// Prints the case when one fails.
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

const POLICIES: [Fsync; 3] = [Fsync::Always, Fsync::Interval, Fsync::Never];
const FAULTS: [Fault; 3] = [Fault::Fail(io::ErrorKind::StorageFull), Fault::Fail(io::ErrorKind::Other), Fault::Short];

/// Seeds of histories that run again for each of their calls, each with a policy.
fn seeds(first: u64, policies: &[Fsync]) -> impl Iterator<Item = (u64, Fsync)> {
    (first..first + 2 * policies.len() as u64 * scale()).zip(policies.iter().copied().cycle())
}

#[test]
fn histories_without_faults_keep_everything_in_one_order() {
    for seed in 0..50 * scale() {
        for fsync in POLICIES {
            for end in [End::Kill, End::PowerCut(seed), End::PowerCut(!seed)] {
                run(seed, fsync, LONG, &[], end);
            }
        }
    }
}

#[test]
fn after_a_power_cut_transcripts_hold_what_the_checkpoint_passed() {
    for (seed, fsync) in seeds(1000, &POLICIES) {
        let calls = run(seed, fsync, SHORT, &[], End::PowerCut(0));
        for call in 1..=calls {
            run(seed, fsync, SHORT, &[(call, Fault::PowerOff)], End::PowerCut(call));
        }
    }
}

#[test]
fn after_a_kill_at_any_call_nothing_is_lost_or_there_twice() {
    let mut cases = Cases::default();
    for (seed, fsync) in seeds(2000, &POLICIES) {
        let calls = run(seed, fsync, SHORT, &[], End::Kill);
        cases.0 += 1 + calls;
        for call in 1..=calls {
            run(seed, fsync, SHORT, &[(call, Fault::PowerOff)], End::Kill);
        }
    }
}

#[test]
fn a_fault_at_every_call_costs_nothing_that_was_acknowledged() {
    let mut cases = Cases::default();
    for (seed, fsync) in seeds(3000, &POLICIES[..2]) {
        let calls = run(seed, fsync, SHORT, &[], End::Kill);
        cases.0 += 1 + calls;
        for call in 1..=calls {
            let end = if call % 2 == 0 { End::Kill } else { End::PowerCut(call) };
            run(seed, fsync, SHORT, &[(call, FAULTS[((call + seed) % 3) as usize])], end);
        }
    }
}

#[test]
fn two_faults_anywhere_cost_nothing_that_was_acknowledged() {
    let mut random = Random(4000);
    for seed in 4000..4000 + 40 * scale() {
        let fsync = POLICIES[(seed % 2) as usize];
        let calls = run(seed, fsync, LONG, &[], End::PowerCut(seed));
        for _ in 0..8 {
            let mut draw = || (1 + random.below(calls), FAULTS[random.below(3) as usize]);
            let faults = [draw(), draw()];
            run(seed, fsync, LONG, &faults, End::PowerCut(random.draw()));
        }
    }
}
