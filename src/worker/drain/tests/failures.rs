//! Calls that hang or fail, and letters that cannot be written.

use super::*;

#[test]
fn dead_letters_that_cannot_be_written_hold_the_drain_until_they_can() {
    let fixture = Fixture::new();
    fixture.say(&["1", "poison 2", "3"]);
    let mut drain = fixture.drain();
    fixture.disk.fail_every(Op::Write, "dead_letter", io::ErrorKind::StorageFull);
    fixture.until(&mut drain, |drain| drain.caller.backoff.failures() > 3);
    assert_eq!(drain.drained(), 0);
    let view = fixture.mongo_status.view();
    assert!(view.reason.is_some_and(|reason| reason.contains("cannot write the dead letters")));
    fixture.disk.heal();
    fixture.all(&mut drain);
    assert_eq!((fixture.letters(), drain.wrote_letters()), (vec!["poison 2".to_owned()], true));
    assert_eq!(fixture.mongo_status.view().totals.dead_letters, 1);
    // The same records again, as after a crash before the checkpoint.
    let mut again = fixture.drain();
    fixture.all(&mut again);
    assert_eq!(fixture.letters(), ["poison 2"]);
    assert_eq!(fixture.store.texts(), ["1", "3"]);
}

#[test]
fn with_both_threads_stuck_it_goes_on_with_the_first_to_return() {
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
    assert!(fixture.mongo_status.view().reason.is_some_and(|reason| reason.contains("have not returned")));
    drop(stuck);
    fixture.all(&mut drain);
    assert_eq!(fixture.store.texts(), ["1", "2"]);
    // The other may still be stuck when the first has brought everything.
    fixture.until(&mut drain, |_| fixture.mongo_status.view().state == MongoHealth::Ok);
}

#[test]
fn while_one_thread_builds_indexes_batches_go_over_the_other() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    let building = fixture.store.hang();
    fixture.until(&mut drain, |_| fixture.store.asked() == ["connect"]);
    give_up(&mut drain);
    assert_eq!(fixture.mongo_status.view().state, MongoHealth::Error);
    for n in 1..=9 {
        fixture.say(&[&n.to_string()]);
        fixture.all(&mut drain);
    }
    assert_eq!(fixture.store.asked().iter().filter(|asked| *asked == "connect").count(), 1);
    assert_eq!((fixture.store.texts().len(), fixture.mongo_status.view().state), (9, MongoHealth::Ok));
    drop(building);
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, StoreConnection::Made));
    assert_eq!(fixture.mongo_status.view().collection.differing_indexes, ["one differs"]);
}

#[test]
fn a_slow_connection_that_fails_is_made_again() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    let building = fixture.store.hang();
    fixture.until(&mut drain, |_| fixture.store.asked() == ["connect"]);
    give_up(&mut drain);
    let (fails, failed) = bounded(1);
    fails.send(Err(UNREACHABLE)).unwrap();
    let call = drain.caller.calls.submit(Instant::now(), move || failed.recv().unwrap()).unwrap();
    drain.caller.connection = StoreConnection::Slow(call);
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, StoreConnection::Made));
    assert_eq!(fixture.store.asked(), ["connect", "connect"]);
    drop(building);
}

#[test]
fn an_unwritable_letter_is_a_failure_that_only_its_batch_ends() {
    let fixture = Fixture::new();
    fixture.say(&["1", "poison 2"]);
    let mut drain = fixture.drain().sharing(RemoteErasures::new(Box::new(|_| Ok(0))));
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, StoreConnection::Made));
    drain.failed(CallPurpose::RemoteErasures, &UNREACHABLE);
    fixture.disk.fail_every(Op::Write, "dead_letter", io::ErrorKind::StorageFull);
    let about_letters = || fixture.mongo_status.view().reason.is_some_and(|reason| reason.contains("dead letters"));
    fixture.until(&mut drain, |_| about_letters());
    drain.heard(&[]);
    drain.erased(CallPurpose::ErasePending, 0);
    assert!(drain.is_failing() && about_letters() && drain.caller.backoff.until().is_some());
    assert_eq!((fixture.mongo_status.view().state, drain.drained()), (MongoHealth::Error, 0));
    fixture.disk.heal();
    fixture.all(&mut drain);
    assert_eq!((drain.is_failing(), fixture.mongo_status.view().state), (false, MongoHealth::Ok));
    assert_eq!((fixture.letters(), fixture.store.texts()), (vec!["poison 2".to_owned()], vec!["1".to_owned()]));
}

#[test]
fn a_batch_too_slow_goes_in_halves_and_its_late_success_ends_its_retry() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2", "poison 3", "4", "5"]);
    fixture.store.plan([Act::Work]);
    let (late, retry) = (fixture.store.hang(), fixture.store.hang());
    let mut drain = fixture.drain();
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 2);
    give_up(&mut drain);
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 3);
    assert_eq!(fixture.store.asked()[1..], ["insert 1 2 poison 3 4", "insert 1 2"]);
    drop(late);
    fixture.until(&mut drain, |drain| drain.drained() >= 4);
    assert_eq!(fixture.letters(), ["poison 3"]);
    // The retry still hangs, and nobody waits for it.
    fixture.all(&mut drain);
    assert_eq!(fixture.store.asked()[3..], ["connect", "insert 5"]);
    let totals = fixture.mongo_status.view().totals;
    assert_eq!((totals.stored, totals.already, totals.dead_letters), (4, 0, 1), "each is counted once");
    drop(retry);
}

#[test]
fn a_late_success_counts_for_what_came_through_no_other_way() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2", "3", "4"]);
    fixture.store.plan([Act::Work]);
    let late = fixture.store.hang();
    let mut drain = fixture.drain();
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 2);
    give_up(&mut drain);
    fixture.until(&mut drain, |drain| drain.drained() == 2);
    let rest = fixture.store.hang();
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 4);
    give_up(&mut drain);
    drop(late);
    fixture.all(&mut drain);
    let totals = fixture.mongo_status.view().totals;
    assert_eq!((totals.stored + totals.already, fixture.store.texts().len()), (4, 4));
    drop(rest);
}

#[test]
fn a_call_that_broke_off_halves_the_batch_and_quick_ones_double_it() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2", "3", "4", "5", "6", "7", "8"]);
    let mut drain = fixture.drain();
    // Else the first batch could go out in the step that connects.
    let connecting = fixture.store.hang();
    fixture.until(&mut drain, |drain| drain.intake.batch.messages().len() == 4);
    drain.finish(CallPurpose::Insert, Duration::ZERO, Err(StoreError::BrokenOff(String::new())));
    drop(connecting);
    fixture.all(&mut drain);
    assert_eq!(fixture.store.asked()[1..], ["insert 1 2", "connect", "insert 3 4 5 6", "insert 7 8"]);
    drain.finish(CallPurpose::Insert, Duration::ZERO, Err(StoreError::Unreachable(String::new())));
    assert_eq!(drain.intake.pace.messages(), 4, "when nobody could be asked nothing was too much");
}
