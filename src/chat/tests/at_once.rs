//! Turns that are answered at once, and how their keys behave later.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};

use super::super::*;
use crate::cache::Cache;
use crate::config::Config;
use crate::journal::IdempotencyKey;
use crate::message::{Clock, Expiry};
use crate::recorder::open_transcripts;
use crate::responder;

const DAY: u64 = 86_400;

#[test]
fn a_retry_whose_turn_has_expired_since_learns_its_ids_and_stores_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(1_790_000_000_000_000));
    let clock = Clock::fixed(now.clone());
    let mut config = Config::defaults(Some(folder.path())).unwrap();
    config.mongo.ttl = Some(Duration::from_secs(DAY));
    let expiry = Expiry::new(config.mongo.ttl, clock.clone());
    let transcripts = open_transcripts(&config, NonZeroUsize::MIN).unwrap().expiring(expiry.clone());
    let (transcripts, cache) = (Arc::new(transcripts), Arc::new(Cache::new(&config.mongo.cache)));
    let panics = Box::new(|| panic!("it panicked"));
    let opened = Recorder::open(&config, clock.clone(), &transcripts, cache.clone(), panics).unwrap();
    let journal = opened.journal.clone();
    let history = History::new(&config, clock, cache.clone(), transcripts.clone(), journal.clone());
    let chat = Chat::new(
        Arc::new(opened.recorder),
        Arc::new(history),
        opened.hub,
        responder::new(&config.responder),
        &config.responder,
        8,
    );
    let session = SessionId::new("s").unwrap();
    let turn = Turn {
        session: &session,
        text: "hi",
        metadata: None,
        transport: Transport::Tcp,
        key: Some("k"),
        origin: None,
        rewind_to: None,
    };
    let first = chat.say(&turn).unwrap();
    assert!(!first.duplicate && first.text.is_some());
    assert_eq!(chat.say(&turn).unwrap(), TurnOutcome { duplicate: true, ..first.clone() });
    // Expired by the clock, then also gone from memory and disk.
    now.fetch_add((DAY + 1) * 1_000_000, Ordering::Relaxed);
    for removed in [false, true] {
        if removed {
            cache.expire(expiry.bound().unwrap());
            let mut sweep = transcripts.sweep().unwrap();
            while transcripts.sweep_on(&mut sweep, 10, &|| true) {}
            assert_eq!(sweep.swept.removed, 1);
        }
        let again = chat.say(&turn).unwrap();
        assert_eq!(
            again,
            TurnOutcome { duplicate: true, text: None, status: TurnStatus::Recorded, ..first.clone() },
            "{removed}"
        );
        assert_eq!(journal.published(), 2, "{removed}");
    }
    let other =
        NewMessage { session: &session, role: "user", text: "hi", metadata: None, vector_ids: &[], key: Some("k") };
    assert_eq!(chat.record(&[other], Transport::Tcp).unwrap(), [(first.user, true)]);
    let later = Turn { key: Some("another"), ..turn };
    assert!(!chat.say(&later).unwrap().duplicate);
}

#[test]
fn a_key_kept_before_contents_were_compared_by_value_still_counts() {
    let world = super::World::new();
    let session = SessionId::new("s").unwrap();
    let metadata = serde_json::json!({"z": 1.0, "a": {}});
    let (role, text, metadata) = ("user", "hi", metadata.as_object());
    // Keys of older journals were made from the bytes as they were sent.
    let rest = serde_json::to_vec(&(metadata, &[] as &[Value])).unwrap();
    let kept = IdempotencyKey::new(&session, "k", &[b"4 2 ", role.as_bytes(), text.as_bytes(), &rest]);
    let given = Metadata { given: metadata, defaults: &[] };
    let line = line(&session, role, text, given);
    let draft = journal::NewRecord::Message { line, key: Some(kept), reply_to: ReplyTo::Nothing };
    let first = world.chat.recorder.record(vec![draft]).unwrap()[0].id();
    let again = |metadata: Option<&Map<String, Value>>| {
        let (session, key) = (&session, Some("k"));
        world.chat.record(&[NewMessage { session, role, text, metadata, vector_ids: &[], key }], Transport::Tcp)
    };
    assert_eq!(again(metadata), Ok(vec![(first, true)]));
    assert_eq!(again(None), Err(AppendError::KeyConflict(0)));
}
