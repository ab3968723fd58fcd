//! What the drain tells the status.

use super::*;

#[test]
fn a_start_tells_what_the_store_had_wherever_it_stands_in_its_segment() {
    for (drained, place) in [(0, None), (1, Some(0)), (3, Some(2)), (4, Some(3)), (5, None)] {
        let fixture = Fixture::new();
        fixture.say(&["1", "2", "3", "4"]);
        let mut ids = Vec::new();
        fixture.journal.reader(0).read(usize::MAX, |record| ids.extend(record.entry.id())).unwrap();
        let mut drain = fixture.drain_from(drained);
        drain.step(drained).unwrap();
        assert_eq!(drain.mongo_status.view().watermark, place.map(|place: usize| ids[place]), "{drained}");
    }
}

#[test]
fn only_a_success_that_matters_says_that_all_is_well() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain().sharing(RemoteErasures::new(Box::new(|_| Ok(0))));
    let succeed = |drain: &mut Drain<SimDisk>, task| match task {
        CallPurpose::Resend => drain.succeeded(task),
        CallPurpose::RemoteErasures => drain.heard(&[]),
        CallPurpose::ErasePending | CallPurpose::Erase => drain.erased(task, 0),
        CallPurpose::Connect => drain.connected(&Connected::default()),
        CallPurpose::Insert => drain.inserted(&Inserted::default(), Duration::ZERO),
    };
    let all = [
        CallPurpose::Resend,
        CallPurpose::RemoteErasures,
        CallPurpose::ErasePending,
        CallPurpose::Connect,
        CallPurpose::Insert,
        CallPurpose::Erase,
    ];
    for failed in all {
        for lesser in all.into_iter().filter(|lesser| *lesser <= failed) {
            for succeeded in all {
                succeed(&mut drain, CallPurpose::Erase);
                drain.failed(failed, &UNREACHABLE);
                // A less important failure does not lower it.
                drain.failed(lesser, &UNREACHABLE);
                succeed(&mut drain, succeeded);
                let is_well = succeeded >= failed;
                let told = if is_well { MongoHealth::Ok } else { MongoHealth::Error };
                let state = (drain.is_failing(), drain.mongo_status.view().state);
                assert_eq!(state, (!is_well, told), "{failed:?} failed, then {lesser:?}, and {succeeded:?} succeeded");
            }
        }
    }
}

#[test]
fn the_oldest_that_is_pending_is_told_as_long_as_it_is_and_no_longer() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    fixture.store.plan([Act::Work, Act::Fail]);
    fixture.say(&["1", "2"]);
    fixture.until(&mut drain, |drain| drain.caller.backoff.failures() > 0);
    assert!(fixture.mongo_status.view().oldest_pending.is_some());
    fixture.all(&mut drain);
    assert_eq!(fixture.mongo_status.view().oldest_pending, None);
}

#[test]
fn indexes_are_looked_for_after_an_outage_and_after_a_while() {
    let fixture = Fixture::new();
    let mut drain = fixture.drain();
    fixture.say(&["1"]);
    fixture.all(&mut drain);
    let made_again = || fixture.mongo_status.view().collection.indexes_made_again;
    assert_eq!((fixture.store.asked().len(), made_again()), (2, None), "they were made, for the first time");
    fixture.store.plan([Act::Fail]);
    fixture.say(&["2"]);
    fixture.until(&mut drain, |drain| fixture.store.asked().len() == 5 && drain.caller.under_way.is_none());
    assert_eq!(fixture.store.asked()[2..], ["insert 2", "insert 2", "connect"]);
    assert!(made_again().is_some());
    drain.caller.look_at -= LOOK_INTERVAL;
    fixture.until(&mut drain, |_| fixture.store.asked().len() == 6);
    assert_eq!(fixture.store.asked()[5..], ["connect"]);
}
