//! What the drain takes, and how much of it one call sends.

use super::*;

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
    // The look at the connection comes before it.
    assert!(drain.wake().is_some_and(|wake| wake > Instant::now() + Duration::from_secs(500)));
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
fn a_huge_backlog_takes_no_more_memory_than_a_few_batches() {
    let mut fixture = Fixture::new();
    fixture.config.batch.max_messages = 100;
    fixture.config.batch.max_bytes = 64 * 1024;
    let text = "x".repeat(500);
    let mut drain = fixture.drain();
    fixture.until(&mut drain, |drain| matches!(drain.caller.connection, StoreConnection::Made));
    fixture.store.plan((0..50).map(|_| Act::Fail));
    for _ in 0..100 {
        fixture.say(&[text.as_str(); 100]);
        drain.caller.backoff.end_pause();
        drain.step(fixture.journal.published()).unwrap();
        let batch: usize = drain.intake.batch.messages().iter().map(|outgoing| outgoing.message.line().len()).sum();
        // One batch, one more that is prefetched, and what a single read brings beyond that.
        assert!(drain.intake.batch.messages().len() <= 100 && batch <= 64 * 1024 + 1000, "{batch} in the batch");
        let (counted, there) = drain.intake.prefetch.bytes();
        assert!(there <= 2 * 64 * 1024, "{there} ahead");
        assert_eq!(counted, there);
    }
    fixture.all(&mut drain);
    assert_eq!((fixture.store.texts().len(), drain.intake.prefetch.bytes()), (10_000, (0, 0)));
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
    assert_eq!(fixture.mongo_status.view().oldest_pending, None);
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
    assert_eq!((fixture.store.texts().len(), drain.intake.prefetch.is_empty()), (6, true));
}
