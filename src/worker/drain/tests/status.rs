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

#[test]
fn what_was_to_be_repeated_and_is_says_nothing_of_a_batch_that_fails() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, Connection::Made));
    drain.failed(&Task::Insert, &UNREACHABLE);
    drain.erased(&Task::ErasePending, 0);
    assert!(drain.is_failing());
    assert_eq!(drain.storage.view().state, State::Error);
    drain.inserted(&Inserted::default(), Duration::ZERO);
    assert!(!drain.is_failing());
    // When it was the repetition that failed, it is well again by the next one.
    drain.failed(&Task::ErasePending, &UNREACHABLE);
    drain.erased(&Task::ErasePending, 0);
    assert!(!drain.is_failing());
    assert_eq!(drain.storage.view().state, State::Ok);
}
