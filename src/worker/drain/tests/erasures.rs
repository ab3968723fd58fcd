//! Erasures: in their place, and again until nothing that was sent before can arrive any more.

use super::*;

#[test]
fn an_erasure_is_carried_out_in_its_place() {
    let fixture = Fixture::new();
    fixture.say(&["1", "2"]);
    fixture.store.plan([Act::Work, Act::LoseAnswer, Act::Half, Act::Work, Act::Work, Act::Fail, Act::LoseAnswer]);
    let mut drain = fixture.drain();
    // From now on the journal no longer returns these records.
    fixture.until(&mut drain, |drain| drain.intake.position == 2);
    fixture.erase();
    fixture.say(&["3"]);
    fixture.all(&mut drain);
    let inserts = ["insert 1 2", "insert 1 2", "insert 1 2"];
    let asked =
        [&["connect"], &inserts[..], &["connect", "erase s", "erase s", "erase s", "connect", "insert 3"]].concat();
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
        // There is always a batch waiting.
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
fn what_an_earlier_process_sent_does_not_outlive_a_later_erasure() {
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
fn a_question_that_is_never_answered_holds_nothing_up_for_long() {
    let fixture = Fixture::new();
    fixture.say(&["1"]);
    fixture.store.deaf.store(true, Ordering::SeqCst);
    let mut drain = fixture.drain().sharing(RemoteErasures::new(Box::new(|erased| Ok(erased.len()))));
    let failures = |fixture: &Fixture| fixture.mongo_status.view().totals.failures.iter().sum::<u64>();
    fixture.until(&mut drain, |_| failures(&fixture) >= 3);
    assert_eq!(fixture.store.asked(), ["connect"], "what another server erased might be put back");

    drain.remote_erasures.as_mut().unwrap().a_minute_later();
    // The insert fails, so the question comes first again for another minute.
    fixture.store.plan([Act::Fail]);
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 2);
    let failed = failures(&fixture);
    fixture.until(&mut drain, |_| failures(&fixture) >= failed + 3);
    assert_eq!(fixture.store.asked().len(), 2);

    drain.remote_erasures.as_mut().unwrap().a_minute_later();
    fixture.until(&mut drain, |drain| drain.drained() == 1);
    let reason = fixture.mongo_status.view().cannot_share.unwrap();
    assert!(reason.contains("cannot read the erasures of other servers"), "{reason}");

    fixture.store.deaf.store(false, Ordering::SeqCst);
    drain.remote_erasures.as_mut().unwrap().insert_failed();
    fixture.until(&mut drain, |_| fixture.mongo_status.view().cannot_share.is_none());
}
