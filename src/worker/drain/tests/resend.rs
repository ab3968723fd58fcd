//! What is sent again on request: whatever fails, and whatever is erased meanwhile.

use std::num::NonZeroUsize;

use super::*;
use crate::disk::DiskFile;
use crate::message::Timestamp;
use crate::transcript::Transcripts;
use crate::worker::resend::{Resend, ResendTask};

fn recorded() -> ResendTask {
    ResendTask::Recorded { since: Timestamp::from_micros(0) }
}

impl Fixture {
    fn transcripts(&self) -> Arc<Transcripts<SimDisk>> {
        let folder = Path::new("/data/cache");
        Arc::new(Transcripts::open(self.disk.clone(), folder, NonZeroUsize::MIN).unwrap())
    }

    /// A drain that has taken everything so far.
    fn resending(&self) -> Drain<SimDisk> {
        self.drain_from(self.journal.published()).resending(self.transcripts())
    }

    fn ask(&self, task: ResendTask) {
        self.mongo_status.resends().ask(task).unwrap();
    }

    fn last(&self) -> Resend {
        self.mongo_status.resends().view().unwrap()
    }

    #[track_caller]
    fn ended(&self, drain: &mut Drain<SimDisk>) -> Resend {
        self.until(drain, |_| !self.last().running);
        self.last()
    }

    /// Has these texts refused, so that they are letters.
    fn refused(&self, texts: &[&str]) -> Drain<SimDisk> {
        self.say(texts);
        let mut drain = self.drain().resending(self.transcripts());
        self.all(&mut drain);
        drain
    }

    /// The letters without those that are blank.
    fn left(&self) -> Vec<String> {
        let bytes = self.disk.peek(Path::new(LETTERS)).unwrap_or_default();
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let letters = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap());
        letters.map(|letter| letter["message"]["text"].as_str().unwrap().to_owned()).collect()
    }
}

const POISON: [&str; 9] =
    ["poison 1", "poison 2", "poison 3", "poison 4", "poison 5", "poison 6", "poison 7", "poison 8", "poison 9"];

#[test]
fn whatever_call_fails_a_letter_leaves_once_it_is_there_and_not_before() {
    let acts: [fn() -> Act; 3] = [|| Act::Fail, || Act::LoseAnswer, || Act::Half];
    for (at, act) in (0..4).flat_map(|at| acts.map(|act| (at, act))) {
        let fixture = Fixture::new();
        let mut drain = fixture.refused(&POISON);
        fixture.store.takes_poison.store(true, Ordering::SeqCst);
        fixture.store.plan((0..at).map(|_| Act::Work));
        fixture.store.plan([act(), act()]);
        fixture.ask(ResendTask::DeadLetters);
        fixture.until(&mut drain, |_| {
            let (left, there) = (fixture.left(), fixture.store.texts());
            assert!(POISON.iter().all(|text| left.iter().chain(&there).any(|one| one == text)), "{left:?} {there:?}");
            !fixture.last().running
        });
        let counts = fixture.last().counts;
        assert_eq!((counts.stored + counts.already_stored, counts.refused), (9, 0));
        assert_eq!(
            (fixture.store.texts(), fixture.disk.peek(Path::new(LETTERS)).unwrap()),
            (POISON.map(str::to_owned).to_vec(), vec![])
        );
        assert_eq!(fixture.mongo_status.view().totals.dead_letters, 9, "none is counted again");
    }
}

#[test]
fn letters_that_cannot_be_taken_out_end_it_and_are_offered_by_the_next() {
    for op in [Op::Write, Op::Sync] {
        let fixture = Fixture::new();
        let mut drain = fixture.refused(&POISON);
        fixture.store.takes_poison.store(true, Ordering::SeqCst);
        fixture.ask(ResendTask::DeadLetters);
        fixture.disk.fail_every(op, "dead_letter", io::ErrorKind::Other);
        let ended = fixture.ended(&mut drain);
        assert_eq!((ended.counts.stored, ended.counts.refused), (4, 0));
        assert!(ended.reason.is_some_and(|reason| reason.contains("cannot be taken out of their file")));
        fixture.disk.heal();
        fixture.ask(ResendTask::DeadLetters);
        assert_eq!(fixture.ended(&mut drain).counts.stored, 5);
        assert_eq!((fixture.left(), fixture.store.texts().len()), (vec![], 9));
    }
}

#[test]
fn what_is_not_a_letter_stays_and_is_told_and_later_letters_are_not_cut_off() {
    let fixture = Fixture::new();
    let mut drain = fixture.refused(&["poison 1"]);
    let file = fixture.disk.open_append(Path::new(LETTERS)).unwrap();
    file.write_all_at(b"{\"reason\":\"to", 0).unwrap();
    fixture.store.takes_poison.store(true, Ordering::SeqCst);
    fixture.ask(ResendTask::DeadLetters);
    let counts = fixture.ended(&mut drain).counts;
    assert_eq!((counts.stored, counts.unreadable), (1, 1));
    assert!(fixture.disk.peek(Path::new(LETTERS)).unwrap().ends_with(b"\n{\"reason\":\"to\n"));
    let fixture = Fixture::new();
    let mut drain = fixture.refused(&POISON);
    fixture.store.takes_poison.store(true, Ordering::SeqCst);
    fixture.ask(ResendTask::DeadLetters);
    let release = fixture.store.hang();
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 5);
    let end = drain.dead_letters.end().unwrap();
    let file = fixture.disk.open(Path::new(LETTERS)).unwrap();
    file.write_all_at(b"{\"reason\":\"\",\"at\":\"\",\"message\":{}}\n", end).unwrap();
    drop(release);
    fixture.ended(&mut drain);
    assert!(fixture.disk.peek(Path::new(LETTERS)).unwrap().ends_with(b"\"message\":{}}\n"), "one that came meanwhile");
}

#[test]
fn what_is_erased_while_it_is_sent_again_is_gone_in_the_end() {
    for (gives_up, task) in
        [(false, recorded()), (true, recorded()), (false, ResendTask::DeadLetters), (true, ResendTask::DeadLetters)]
    {
        let fixture = Fixture::new();
        let mut drain = fixture.refused(&POISON);
        fixture.store.takes_poison.store(true, Ordering::SeqCst);
        let before = fixture.store.asked().len();
        fixture.ask(task);
        let release = fixture.store.hang();
        fixture.until(&mut drain, |_| fixture.store.asked().len() == before + 1);
        fixture.erase();
        if gives_up {
            give_up(&mut drain);
            fixture.all(&mut drain);
        }
        drop(release);
        assert!(fixture.ended(&mut drain).counts.stored <= 4, "what is erased is not sent any more");
        fixture.all(&mut drain);
        while Arc::strong_count(&fixture.store) > 2 {
            std::thread::yield_now();
        }
        drain.erasures.a_moment_later();
        fixture.until(&mut drain, |_| fixture.noted() == 0);
        assert_eq!(fixture.store.texts(), [""; 0], "{task:?} {gives_up} {:?}", fixture.store.asked());
    }
}

#[test]
fn what_is_new_goes_first_and_all_is_sent_only_if_none_is_refused() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2", "3", "4", "5", "6"]);
    let mut drain = fixture.resending();
    fixture.ask(recorded());
    let release = fixture.store.hang();
    fixture.store.plan([]);
    fixture.until(&mut drain, |_| fixture.store.asked() == ["connect"]);
    fixture.say(&["7", "8"]);
    drop(release);
    let ended = fixture.ended(&mut drain);
    assert_eq!(fixture.store.asked(), ["connect", "insert 7 8", "insert 1 2 3 4", "insert 5 6 7 8"]);
    assert_eq!((ended.counts.stored, ended.sent_all, drain.has_sent_all()), (6, true, true));
    assert!(!drain.has_sent_all(), "it is told once");
    // A message is refused on its ordinary way meanwhile.
    fixture.ask(recorded());
    let release = fixture.store.hang();
    let before = fixture.store.asked().len();
    fixture.until(&mut drain, |_| fixture.store.asked().len() == before + 1);
    fixture.say(&["poison"]);
    drop(release);
    fixture.until(&mut drain, |drain| drain.drained() == fixture.journal.published() && !fixture.last().running);
    assert_eq!((fixture.last().counts.already_stored, fixture.last().sent_all), (8, false));
    assert!(!drain.has_sent_all() && drain.wrote_letters());
}

#[test]
fn with_both_threads_stuck_nothing_is_passed_over() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let mut drain = fixture.resending();
    fixture.ask(recorded());
    fixture.store.plan([Act::Work]);
    let stuck = [fixture.store.hang(), fixture.store.hang()];
    for asked in [2, 3] {
        fixture.until(&mut drain, |_| fixture.store.asked().len() == asked);
        give_up(&mut drain);
    }
    fixture.until(&mut drain, |drain| drain.caller.backoff.failures() > 5);
    assert_eq!(fixture.store.asked().len(), 3, "nothing more is asked");
    drop(stuck);
    fixture.ended(&mut drain);
    assert_eq!(fixture.store.texts().len(), 9);
}
