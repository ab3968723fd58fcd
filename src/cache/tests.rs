//! The cache's limits and warm-ups.
//!
//! Compiled under `#[cfg(test)]` only.

use super::*;
use crate::message::{Draft, Metadata, Timestamp};

fn cache(messages_max: usize, bytes_max: usize) -> Cache {
    let disk_path = std::path::PathBuf::new();
    Cache::new(&CacheConfig { max_messages_per_session: messages_max, max_bytes: bytes_max, disk_path })
}

fn message(session: &str, at: u64) -> Arc<Message> {
    let session = SessionId::new(session).unwrap();
    let draft = Draft { session: &session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] };
    Arc::new(draft.prepare().seal(Id::from_parts(Timestamp::from_micros(at), 0)))
}

fn times(cache: &Cache, session: &str) -> Vec<u64> {
    let of = |held: CachedSession<'_>| held.messages.iter().map(|message| message.id().time().micros()).collect();
    cache.look(&SessionId::new(session).unwrap(), of).unwrap_or_default()
}

#[test]
fn at_the_limit_the_oldest_goes_and_the_session_is_no_longer_whole() {
    let cache = cache(3, 1 << 20);
    for at in 1..=3 {
        cache.push(&message("s", at), at == 1);
    }
    assert!(is_whole(&cache));
    cache.push(&message("s", 4), false);
    assert_eq!(times(&cache, "s"), [2, 3, 4]);
    assert!(!is_whole(&cache));
}

#[test]
fn the_session_longest_unused_gives_way_when_bytes_run_out() {
    let one = message("a", 1).memory_bytes() + SESSION_BYTES;
    let cache = cache(75, one * 2 + one / 2);
    cache.push(&message("a", 1), true);
    cache.push(&message("b", 2), true);
    assert_eq!(times(&cache, "a"), [1], "a is used again, so b is the oldest");
    assert_eq!(cache.push(&message("c", 3), true), Pushed { first_touch: true, evicted: 1 });
    assert_eq!((times(&cache, "a").len(), times(&cache, "b").len(), times(&cache, "c").len()), (1, 0, 1));
    let stats = cache.stats();
    assert_eq!((stats.sessions, stats.messages, stats.bytes), (2, 2, one * 2));
}

#[test]
fn one_session_alone_is_cut_to_the_bytes() {
    let cache = cache(1000, 4000);
    for at in 1..=100 {
        cache.push(&message("s", at), false);
    }
    let times = times(&cache, "s");
    assert!(times.len() < 20 && times.last() == Some(&100), "{times:?}");
    assert!(cache.stats().bytes <= 4000);
}

#[test]
fn a_warm_up_puts_older_messages_before_the_new_ones() {
    let cache = cache(75, 1 << 20);
    let session = SessionId::new("s").unwrap();
    let generation = cache.reserve(&session);
    cache.push(&message("s", 5), false);
    let older: Vec<_> = [3, 4, 5].into_iter().map(|at| message("s", at)).collect();
    assert_eq!(cache.fill(&session, generation, &older, Extent::Whole), 2);
    assert_eq!(times(&cache, "s"), [3, 4, 5]);
    assert!(is_whole(&cache));
}

#[test]
fn a_warm_up_that_read_ahead_of_the_writer_keeps_no_message_twice() {
    let cache = cache(75, 1 << 20);
    let session = SessionId::new("s").unwrap();
    let generation = cache.reserve(&session);
    cache.fill(&session, generation, &[message("s", 4), message("s", 5)], Extent::Whole);
    cache.push(&message("s", 5), false);
    cache.push(&message("s", 6), false);
    assert_eq!(times(&cache, "s"), [4, 5, 6]);
}

#[test]
fn a_warm_up_of_a_session_that_was_evicted_meanwhile_is_dropped() {
    let cache = cache(75, 700);
    let session = SessionId::new("s").unwrap();
    let generation = cache.reserve(&session);
    cache.push(&message("other", 1), true);
    cache.push(&message("another", 2), true);
    cache.push(&message("s", 9), false);
    assert_eq!(cache.fill(&session, generation, &[message("s", 3)], Extent::Whole), 0);
    assert_eq!(times(&cache, "s"), [9]);
}

#[test]
fn erased_messages_are_forgotten() {
    let cache = cache(75, 1 << 20);
    for at in 1..=4 {
        cache.push(&message("s", at), at == 1);
    }
    cache.erase(&SessionId::new("s").unwrap(), Id::from_parts(Timestamp::from_micros(3), 0));
    assert_eq!(times(&cache, "s"), [4]);
}

#[test]
fn an_erasure_that_takes_nothing_from_memory_does_not_make_it_whole() {
    let cache = cache(2, 1 << 20);
    for at in 1..=4 {
        cache.push(&message("s", at), at == 1);
    }
    let erase = |at| cache.erase(&SessionId::new("s").unwrap(), Id::from_parts(Timestamp::from_micros(at), 0));
    erase(1);
    assert_eq!((times(&cache, "s"), is_whole(&cache)), (vec![3, 4], false), "2 is on disk only");
    erase(3);
    assert_eq!((times(&cache, "s"), is_whole(&cache)), (vec![4], true));
}

fn is_whole(cache: &Cache) -> bool {
    cache.look(&SessionId::new("s").unwrap(), |held| held.whole).unwrap()
}

fn large(at: u64, bytes: usize) -> Arc<Message> {
    let session = SessionId::new("s").unwrap();
    let text = "x".repeat(bytes);
    let draft = Draft { session: &session, role: "user", text: &text, metadata: Metadata::default(), vector_ids: &[] };
    Arc::new(draft.prepare().seal(Id::from_parts(Timestamp::from_micros(at), 0)))
}

#[test]
fn a_warm_up_during_which_the_old_end_gave_way_leaves_no_hole() {
    let cache = cache(75, 2000);
    let session = SessionId::new("s").unwrap();
    let generation = cache.reserve(&session);
    cache.push(&large(5, 1200), false);
    cache.push(&message("s", 6), false);
    cache.push(&message("s", 7), false);
    assert_eq!(times(&cache, "s"), [6, 7], "5 had to go");
    assert_eq!(cache.fill(&session, generation, &[message("s", 3), message("s", 4)], Extent::Whole), 0);
    assert_eq!(times(&cache, "s"), [6, 7]);
}

#[test]
fn a_warm_up_brings_back_nothing_that_was_erased_meanwhile() {
    let cache = cache(75, 1 << 20);
    let session = SessionId::new("s").unwrap();
    let generation = cache.reserve(&session);
    cache.erase(&session, Id::from_parts(Timestamp::from_micros(4), 0));
    assert_eq!(cache.fill(&session, generation, &[message("s", 3)], Extent::Whole), 0);
    assert!(times(&cache, "s").is_empty());
}

#[test]
fn a_session_that_was_cut_for_its_bytes_says_so() {
    let cache = cache(75, 4000);
    let session = SessionId::new("s").unwrap();
    let is_cut = || cache.look(&session, |held| held.byte_limited).unwrap();
    let generation = cache.reserve(&session);
    cache.fill(&session, generation, &[message("s", 3)], Extent::Full);
    assert!(!is_cut());
    cache.push(&large(5, 3500), false);
    assert!(is_cut(), "it had to give messages back");
}

fn bound(at: u64) -> Id {
    Id::least_of(Timestamp::from_micros(at))
}

fn evicted_through(cache: &Cache) -> Option<u64> {
    cache.look(&SessionId::new("s").unwrap(), |held| held.evicted_through.map(|id| id.time().micros())).unwrap()
}

#[test]
fn what_has_expired_leaves_from_the_old_end_and_the_sums_stay_right() {
    let cache = cache(75, 1 << 20);
    for at in 1..=4 {
        cache.push(&message("s", at), at == 1);
        cache.push(&message("old", at), at == 1);
    }
    cache.push(&message("s", 9), false);
    assert_eq!(cache.expire(bound(1)), 0);
    assert!(is_whole(&cache) && evicted_through(&cache).is_none());
    assert_eq!(cache.expire(bound(5)), 8);
    assert_eq!((times(&cache, "s"), is_whole(&cache), evicted_through(&cache)), (vec![9], false, Some(4)));
    let left = message("s", 9).memory_bytes() + SESSION_BYTES;
    assert_eq!(cache.stats(), CacheStats { sessions: 1, messages: 1, bytes: left }, "the other one had nothing else");
    assert_eq!(cache.expire(bound(5)), 0);
}

#[test]
fn a_warm_up_during_which_all_that_is_held_expires_is_dropped() {
    let cache = cache(75, 1 << 20);
    let session = SessionId::new("s").unwrap();
    let generation = cache.reserve(&session);
    cache.expire(bound(5));
    cache.push(&message("s", 4), false);
    cache.expire(bound(5));
    assert_eq!(cache.fill(&session, generation, &[message("s", 3)], Extent::Whole), 0);
    assert!(times(&cache, "s").is_empty());
}

#[test]
fn everything_newer_than_the_last_eviction_is_held() {
    let cache = cache(3, 1 << 20);
    let session = SessionId::new("s").unwrap();
    (1..=5).for_each(|at| _ = cache.push(&message("s", at), at == 1));
    assert_eq!((times(&cache, "s"), evicted_through(&cache)), (vec![3, 4, 5], Some(2)));
    cache.expire(bound(5));
    assert_eq!((times(&cache, "s"), evicted_through(&cache)), (vec![5], Some(4)));
    // If the clock says that two of them have not expired, a warm-up brings back as many as there is room for.
    let generation = cache.reserve(&session);
    let older: Vec<_> = (1..=4).map(|at| message("s", at)).collect();
    cache.fill(&session, generation, &older, Extent::Whole);
    assert_eq!((times(&cache, "s"), evicted_through(&cache)), (vec![3, 4, 5], Some(2)));
    cache.expire_one(&session, bound(4));
    assert_eq!((times(&cache, "s"), evicted_through(&cache)), (vec![4, 5], Some(3)));
}
