//! What the drain tells of itself.

use super::*;

#[test]
fn a_start_tells_what_the_store_had_by_then_wherever_that_stands_in_its_segment() {
    for (drained, place) in [(0, None), (1, Some(0)), (3, Some(2)), (4, Some(3)), (5, None)] {
        let fixture = Fixture::new();
        fixture.say(&["1", "2", "3", "4"]);
        let mut ids = Vec::new();
        fixture.journal.reader(0).read(usize::MAX, |record| ids.extend(record.entry.id())).unwrap();
        let mut drain = fixture.drain_from(drained);
        drain.step(drained).unwrap();
        assert_eq!(drain.storage.view().watermark, place.map(|place: usize| ids[place]), "{drained}");
    }
}

/// A kind of call: what it fails by, and how it succeeds.
type Kind = (fn() -> Task, fn(&mut Drain<SimDisk>));

/// All of them, the least first.
fn calls() -> [Kind; 4] {
    let erase = || Task::Erase(SessionId::new("s").unwrap(), Id::least_of(Clock::system().now()));
    [
        (|| Task::Foreign, |drain| drain.heard(&[])),
        (|| Task::ErasePending, |drain| drain.erased(&Task::ErasePending, 0)),
        (|| Task::Insert, |drain| drain.inserted(&Inserted::default(), Duration::ZERO)),
        (erase, |drain| drain.connected(&Connected::default())),
    ]
}

#[test]
fn only_what_failed_or_what_more_depends_on_says_by_its_success_that_all_is_well() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain().sharing(Foreign::new(Box::new(|_| Ok(0))));
    let state = |drain: &Drain<SimDisk>| (drain.is_failing(), drain.storage.view().state);
    for (failed, (task, _)) in calls().iter().enumerate() {
        for (then, (lesser, _)) in calls().iter().enumerate().take(failed + 1) {
            for (succeeded, (_, succeeds)) in calls().iter().enumerate() {
                drain.connected(&Connected::default());
                drain.failed(&task(), &UNREACHABLE);
                // What fails besides does not make it less.
                drain.failed(&lesser(), &UNREACHABLE);
                succeeds(&mut drain);
                // A batch, an erasure in its place and a connection tell of each other.
                let is_well = succeeded >= failed.min(2);
                let wanted = if is_well { (false, State::Ok) } else { (true, State::Error) };
                assert_eq!(state(&drain), wanted, "{failed} failed, then {then}, and {succeeded} succeeded");
            }
        }
    }
}

#[test]
fn letters_that_cannot_be_written_are_a_failure_that_only_the_batch_itself_ends() {
    let fixture = Fixture::new();
    fixture.say(&["1", "poison 2"]);
    let mut drain = fixture.drain().sharing(Foreign::new(Box::new(|_| Ok(0))));
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, Connection::Made));
    drain.failed(&Task::Foreign, &UNREACHABLE);
    fixture.disk.fail_every(Op::Write, "dead_letter", io::ErrorKind::StorageFull);
    let about_letters = || fixture.storage.view().reason.is_some_and(|reason| reason.contains("dead letters"));
    fixture.until(&mut drain, |_| about_letters());
    drain.heard(&[]);
    drain.erased(&Task::ErasePending, 0);
    assert!(drain.is_failing() && about_letters() && drain.caller.backoff.pauses());
    assert_eq!((fixture.storage.view().state, drain.drained()), (State::Error, 0));
    fixture.disk.heal();
    fixture.all(&mut drain);
    assert_eq!((drain.is_failing(), fixture.storage.view().state), (false, State::Ok));
    assert_eq!((fixture.letters(), fixture.store.texts()), (vec!["poison 2".to_owned()], vec!["1".to_owned()]));
}
