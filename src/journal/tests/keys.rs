//! Idempotency keys: what comes again stands for what came first.

use std::collections::BTreeSet;

use super::*;

#[test]
fn a_key_that_comes_again_stands_for_the_first_message_and_its_reply() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, published) = open(&config(folder.path()));
    let first = keep(&journal, turn("k", "hi"));
    let again = keep(&journal, turn("k", "hi"));
    assert_eq!(again[0], Appended::Before { id: first[0].id(), reply: Some(first[1].id()) });
    assert_eq!(again[1].id(), first[1].id());
    let conflict = journal.append(turn("k", "something else")).err();
    assert_eq!(conflict, Some(AppendError::KeyConflict(0)));
    assert_eq!(published.lock().unwrap().len(), 2);
    // The key twice in one append, with a message without a key between: each is recorded once.
    let kept = keep(&journal, vec![keyed("l", "a"), draft("b"), keyed("l", "a")]);
    assert_eq!(kept[2], Appended::Before { id: kept[0].id(), reply: None });
    assert_eq!(published.lock().unwrap().len(), 4);
    let conflict = journal.append(vec![keyed("m", "a"), keyed("m", "b")]).err();
    assert_eq!(conflict, Some(AppendError::KeyConflict(1)));
    assert!(matches!(keep(&journal, vec![keyed("m", "b")])[..], [Appended::New(_)]), "a refused append leaves no key");
}

#[test]
fn a_message_without_a_reply_gets_one_when_its_key_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&config(folder.path()));
    let first = keep(&journal, vec![keyed("k", "hi")]);
    let again = keep(&journal, turn("k", "hi"));
    assert_eq!(again[0], Appended::Before { id: first[0].id(), reply: None });
    let Appended::New(reply) = &again[1] else { panic!("the reply is new") };
    assert_eq!(reply.entry.links().reply_to, Some(first[0].id()));
    assert_eq!(keep(&journal, turn("k", "hi"))[1].id(), again[1].id());
}

#[test]
fn a_reply_that_comes_later_is_kept_once_and_its_key_finds_both() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, published) = open(&config);
    let reply = |to| {
        let NewRecord::Message { line, .. } = draft("reply") else { unreachable!() };
        NewRecord::Message { line, key: keyed("k", "hi").key().copied(), reply_to: ReplyTo::Message(to) }
    };
    assert_eq!(journal.find(&keyed("k", "hi")).unwrap(), None);
    let asked = keep(&journal, vec![keyed("k", "hi")])[0].id();
    assert_eq!(journal.find(&keyed("k", "hi")).unwrap(), Some(Appended::Before { id: asked, reply: None }));
    assert_eq!(journal.find(&keyed("k", "other")), Err(AppendError::KeyConflict(0)));
    let kept = keep(&journal, vec![reply(asked)]);
    assert!(matches!(kept[0], Appended::New(_)), "the key stands for the question, not for its reply");
    assert_eq!(keep(&journal, vec![reply(asked)])[0].id(), kept[0].id(), "a second reply is the first");
    assert_eq!(published.lock().unwrap().len(), 2);
    drop(journal);
    let (journal, _) = open(&config);
    let both = Appended::Before { id: asked, reply: Some(kept[0].id()) };
    assert_eq!(journal.find(&keyed("k", "hi")).unwrap(), Some(both), "after a restart");
}

#[test]
fn one_key_sent_by_many_threads_at_once_is_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, published) = open(&config(folder.path()));
    for round in 0..50 {
        let key = format!("key {round}");
        let ids: BTreeSet<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| keep(&journal, turn(&key, "hi"))[1].id())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ids.len(), 1, "round {round}");
        assert_eq!(published.lock().unwrap().len(), (round + 1) * 2);
    }
}

#[test]
fn keys_outlive_a_restart_with_digests_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (journal, _) = open(&config);
    let kept: Vec<Vec<Appended>> = (0..150).map(|i| keep(&journal, turn(&format!("k{i}"), "hi"))).collect();
    let sealed = journal.stats().segments as u64 - 1;
    assert!(sealed > 3);
    journal.maintain().unwrap();
    drop(journal);
    let digests: Vec<_> = (1..=sealed).map(|number| digest::path(&config.path, number)).collect();
    assert!(digests.iter().all(|path| path.exists()));
    for case in ["with digests", "with a damaged one", "without"] {
        match case {
            "with a damaged one" => std::fs::write(&digests[1], b"no digest").unwrap(),
            "without" => digests.iter().for_each(|path| std::fs::remove_file(path).unwrap()),
            _ => {}
        }
        let (journal, published) = open(&config);
        for (i, first) in kept.iter().enumerate() {
            let again = keep(&journal, turn(&format!("k{i}"), "hi"));
            assert_eq!(again[0], Appended::Before { id: first[0].id(), reply: Some(first[1].id()) }, "{case}, {i}");
        }
        assert!(published.lock().unwrap().is_empty(), "{case}");
        assert_eq!(journal.findings().records, 300, "{case}");
    }
}
