//! The store against a real MongoDB: what it writes, read back by the driver, and what it says and does when the server is
//! killed, frozen, locked, outvoted or set up otherwise.
//!
//! The oracle of the outages: every message handed in is there exactly once with its text, and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chatkeep::config::{Config, MongoConfig, Secret};
use chatkeep::message::{Clock, Direction, Draft, Id, IdGenerator, Message, Metadata, SessionId, Timestamp};
use chatkeep::store::{self, CallError, Calls, Inserted, Store, StoreError, StoreQuery};
use mongodb::IndexModel;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::{Acknowledgment, IndexOptions, WriteConcern};
use mongodb::sync::Collection;
use serde_json::{Map, Value};
use support::mongod::{Mongod, PASSWORD, ReplicaSet, USER};
use support::{SLACK, WAIT_TIMEOUT, wait_until};

fn config(uri: &str) -> MongoConfig {
    MongoConfig { uri: Secret::new(uri), ..Config::defaults(None).unwrap().mongo }
}

fn open(uri: &str) -> Arc<dyn Store> {
    store::open(&config(uri)).unwrap()
}

/// A server and a store that is connected to it.
fn connected() -> (Mongod, Arc<dyn Store>) {
    let server = Mongod::start();
    let store = open(&server.uri());
    assert_eq!(store.connect().unwrap().differing_indexes, [""; 0]);
    (server, store)
}

/// Makes messages as the server does.
struct Maker(IdGenerator);

impl Maker {
    fn new() -> Self {
        Self(IdGenerator::new(Clock::system(), None))
    }

    fn message(&mut self, session: &str, text: &str) -> Arc<Message> {
        message(self.0.next_id(), session, "user", text, "{}")
    }

    fn batch(&mut self, session: &str, many: usize) -> Vec<Arc<Message>> {
        (0..many).map(|n| self.message(session, &format!("text {n} of {session}"))).collect()
    }
}

fn message(id: Id, session: &str, role: &str, text: &str, metadata: &str) -> Arc<Message> {
    let session = SessionId::new(session).unwrap();
    let given: Map<String, Value> = serde_json::from_str(metadata).unwrap();
    let metadata = Metadata { given: Some(&given), defaults: &[] };
    Arc::new(Draft { session: &session, role, text, metadata, vector_ids: &[] }.prepare().seal(id))
}

fn stored(many: usize) -> Inserted {
    Inserted { stored: many, ..Inserted::default() }
}

fn already(many: usize) -> Inserted {
    Inserted { already: many, ..Inserted::default() }
}

/// Offers the batch until it is taken, as the worker will.
#[track_caller]
fn insist(store: &dyn Store, batch: &[Arc<Message>]) -> Inserted {
    let mut taken = None;
    wait_until("the batch is taken", WAIT_TIMEOUT, || {
        match store.insert(batch) {
            Ok(inserted) => taken = Some(inserted),
            Err(error) => assert!(error.is_passing(), "{error}"),
        }
        taken.is_some()
    });
    taken.unwrap()
}

/// Holds the oracle's list against the collection.
#[track_caller]
fn assert_exactly(collection: &Collection<Document>, handed_in: &[Arc<Message>]) {
    let found: BTreeMap<String, String> = collection
        .find(doc! {})
        .run()
        .unwrap()
        .map(|document| document.unwrap())
        .map(|document| (document.get_str("_id").unwrap().to_owned(), document.get_str("text").unwrap().to_owned()))
        .collect();
    let wanted: BTreeMap<String, String> = handed_in.iter().map(|m| (m.id().to_string(), m.text())).collect();
    assert_eq!(found.len(), wanted.len(), "documents and messages");
    assert!(found == wanted, "each is there with its text");
}

/// Inserts 60 batches of 50 while `trouble` is made, which begins when ten are in; gives what was handed in.
fn under_load(store: &Arc<dyn Store>, trouble: impl FnOnce()) -> Vec<Arc<Message>> {
    let done = Arc::new(AtomicUsize::new(0));
    let load = {
        let (store, done) = (Arc::clone(store), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut maker = Maker::new();
            let mut handed_in = Vec::new();
            for n in 0..60 {
                let batch = maker.batch(&format!("s{}", n % 7), 50);
                let inserted = insist(&*store, &batch);
                assert_eq!((inserted.stored + inserted.already, inserted.refused.len()), (50, 0));
                handed_in.extend(batch);
                done.store(n + 1, Ordering::Relaxed);
            }
            handed_in
        })
    };
    wait_until("ten batches are in", WAIT_TIMEOUT, || done.load(Ordering::Relaxed) >= 10);
    trouble();
    load.join().unwrap()
}

#[test]
fn documents_and_indexes_are_as_other_programs_expect_them() {
    let (server, store) = connected();
    let id = Id::from_parts(Timestamp::parse("2999-11-28T01:23:45.123456Z").unwrap(), 7);
    let one = message(id, "verifier", "assistant", "pong!", r#"{"transport":"rest","n":7}"#);
    assert_eq!(store.insert(&[one]), Ok(stored(1)));

    let found = server.messages().find_one(doc! {}).run().unwrap().unwrap();
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["_id", "session_id", "role", "text", "metadata", "vector_ids", "created_at", "expires_at"]
    );
    assert_eq!(found.get_str("_id").unwrap(), id.to_string());
    assert_eq!(found.get_str("created_at").unwrap(), "2999-11-28T01:23:45.123456+00:00");
    assert_eq!(found.get_document("metadata").unwrap(), &doc! { "transport": "rest", "n": 7 });
    assert_eq!(found.get_array("vector_ids").unwrap(), &Vec::<Bson>::new());
    // A TTL index only looks at dates; a document with text there would be kept for ever.
    let expires = found.get_datetime("expires_at").unwrap();
    assert_eq!(expires.try_to_rfc3339_string().unwrap(), "2999-12-28T01:23:45.124Z");

    let indexes: Vec<IndexModel> = server.messages().list_indexes().run().unwrap().map(Result::unwrap).collect();
    let told: Vec<(String, Document, Option<Duration>)> = indexes
        .into_iter()
        .map(|index| (index.keys, index.options.unwrap()))
        .map(|(keys, options)| (options.name.unwrap(), keys, options.expire_after))
        .collect();
    assert_eq!(told[1], ("session_ts_idx".to_owned(), doc! { "session_id": 1, "created_at": -1 }, None));
    assert_eq!(told[2], ("expires_at_idx".to_owned(), doc! { "expires_at": 1 }, Some(Duration::ZERO)));
    assert_eq!(store.connect().unwrap().differing_indexes, [""; 0], "a second connection finds them good");
}

#[test]
fn messages_kept_for_ever_have_no_expiry() {
    let server = Mongod::start();
    let store = store::open(&MongoConfig { ttl: None, ..config(&server.uri()) }).unwrap();
    assert_eq!(store.insert(&Maker::new().batch("s", 1)), Ok(stored(1)));
    assert_eq!(server.messages().count_documents(doc! { "expires_at": { "$exists": true } }).run().unwrap(), 0);
}

#[test]
fn an_index_that_differs_is_reported_and_left_alone() {
    let server = Mongod::start();
    let options = IndexOptions::builder().name("expires_at_idx".to_owned()).expire_after(Duration::from_secs(3600));
    let theirs = IndexModel::builder().keys(doc! { "expires_at": 1 }).options(options.build()).build();
    server.messages().create_index(theirs).run().unwrap();
    let renamed = IndexOptions::builder().name("by_session".to_owned()).build();
    let key = doc! { "session_id": 1, "created_at": -1 };
    server.messages().create_index(IndexModel::builder().keys(key).options(renamed).build()).run().unwrap();

    let differing = open(&server.uri()).connect().unwrap().differing_indexes;
    assert_eq!(differing.len(), 2, "{differing:?}");
    assert!(differing[0].contains("session_ts_idx: it is there under the name \"by_session\""), "{differing:?}");
    assert!(differing[1].contains("expires_at_idx: its expireAfterSeconds is 3600"), "{differing:?}");
    assert_eq!(server.messages().list_index_names().run().unwrap(), ["_id_", "expires_at_idx", "by_session"]);
}

#[test]
fn what_is_inserted_twice_is_there_once() {
    let (server, store) = connected();
    let mut maker = Maker::new();
    let first = maker.batch("s", 100);
    assert_eq!(store.insert(&first), Ok(stored(100)));
    assert_eq!(store.insert(&first), Ok(already(100)));
    let mixed: Vec<_> = first[..40].iter().cloned().chain(maker.batch("s", 60)).collect();
    assert_eq!(store.insert(&mixed), Ok(Inserted { stored: 60, already: 40, refused: vec![] }));
    assert_exactly(&server.messages(), &[&first[..], &mixed[40..]].concat());
    assert_eq!(store.insert(&[]), Ok(stored(0)));
}

#[test]
fn an_id_of_other_content_is_refused_and_nothing_is_overwritten() {
    let (server, store) = connected();
    let mut maker = Maker::new();
    let ours = maker.batch("s", 5);
    for (n, field) in ["session_id", "role", "text", "created_at"].into_iter().enumerate() {
        store.insert(&ours[n..=n]).unwrap();
        let id = ours[n].id().to_string();
        server.messages().update_one(doc! { "_id": id }, doc! { "$set": { field: "theirs" } }).run().unwrap();
    }
    let inserted = store.insert(&ours).unwrap();
    assert_eq!((inserted.stored, inserted.already), (1, 0));
    let told: Vec<(usize, &str)> = inserted.refused.iter().map(|r| (r.index, r.reason.as_str())).collect();
    assert_eq!(told, [0, 1, 2, 3].map(|n| (n, "another document has its _id")));
    assert_eq!(server.messages().count_documents(doc! { "text": "theirs" }).run().unwrap(), 1);
}

#[test]
fn an_entry_in_a_unique_index_of_theirs_is_no_success() {
    let (server, store) = connected();
    let unique = IndexOptions::builder().unique(true).build();
    server
        .messages()
        .create_index(IndexModel::builder().keys(doc! { "text": 1 }).options(unique).build())
        .run()
        .unwrap();
    let mut maker = Maker::new();
    let words = "the words index: _id_ dup key: of a user";
    let two = [maker.message("s", words), maker.message("s", words)];
    for expected in [(1, 0), (0, 1)] {
        let inserted = store.insert(&two).unwrap();
        assert_eq!((inserted.stored, inserted.already), expected);
        assert_eq!(inserted.refused[0].index, 1);
        assert!(inserted.refused[0].reason.contains("unique index"), "{:?}", inserted.refused);
        assert!(!inserted.refused[0].reason.contains("words"), "{:?}", inserted.refused);
    }
}

#[test]
fn a_document_that_the_validator_refuses_keeps_no_other_out() {
    let (server, store) = connected();
    let validator = doc! { "text": { "$ne": "poison" } };
    let command = doc! { "collMod": "chat_messages", "validator": validator };
    server.client().database("oqoqo").run_command(command).run().unwrap();
    let mut maker = Maker::new();
    let mut batch = maker.batch("s", 100);
    batch[41] = maker.message("s", "poison");
    for expected in [(99, 0), (0, 99)] {
        let inserted = store.insert(&batch).unwrap();
        assert_eq!((inserted.stored, inserted.already), expected);
        assert_eq!(inserted.refused.len(), 1);
        assert_eq!(inserted.refused[0].index, 41);
        assert_eq!(inserted.refused[0].reason, "MongoDB refuses the document: code 121, DocumentValidationFailure");
    }
    batch.remove(41);
    assert_exactly(&server.messages(), &batch);
}

#[test]
fn a_message_too_large_for_a_document_is_refused_alone() {
    let (server, store) = connected();
    let mut maker = Maker::new();
    let zeros = format!("{{\"many\":[0{}]}}", ",0".repeat(2_000_000));
    // The largest line that still fits into a document.
    let large = maker.message("s", &"x".repeat(12_000_000));
    let batch = [
        maker.message("s", "before"),
        message(maker.0.next_id(), "s", "user", "too large", &zeros),
        large.clone(),
        message(maker.0.next_id(), "s", "user", "no key", "{\"a\\u0000\":1}"),
    ];
    let inserted = store.insert(&batch).unwrap();
    assert_eq!((inserted.stored, inserted.already), (2, 0));
    assert_eq!(inserted.refused.iter().map(|refused| refused.index).collect::<Vec<_>>(), [1, 3]);
    assert!(inserted.refused[0].reason.contains("16 MiB") && inserted.refused[1].reason.contains("NUL"));
    assert_exactly(&server.messages(), &[batch[0].clone(), large]);
    assert_eq!(store.insert(&batch[1..2]).unwrap().refused.len(), 1, "alone, too, without a word to the server");
}

#[test]
fn metadata_comes_back_from_the_server_as_it_was() {
    let (_server, store) = connected();
    let mut maker = Maker::new();
    let sent: Vec<_> = [
        r#"{"a.b":1,"$set":{"$inc":2},"$ref":"x","$id":"y","$db":"z","_id":4,"":5,".":6,"$":7}"#,
        r#"{"u":18446744073709551615,"i":-9223372036854775808,"f":[0.1,-0.0,1.0,0.30000000000000004,5e-324]}"#,
        "{\"deep\":[[[[{\"er\":[null,true,\"\\u0000\u{1F600}\"]}]]]]}",
    ]
    .into_iter()
    .map(|metadata| message(maker.0.next_id(), "s", "user", "m", metadata))
    .collect();
    assert_eq!(store.insert(&sent), Ok(stored(3)));
    assert_eq!(store.read(&query("s")).unwrap().messages, sent);
}

#[test]
fn a_wrong_password_is_told_as_such_and_no_credential_is_quoted() {
    let server = Mongod::start_with_password();
    let wrong = server.uri().replace(PASSWORD, "hunter3");
    let nobody = server.uri().replace(&format!("{USER}:{PASSWORD}@"), "");
    for uri in [wrong, nobody] {
        let store = open(&uri);
        for error in [store.connect().unwrap_err(), store.insert(&Maker::new().batch("s", 1)).unwrap_err()] {
            assert!(matches!(error, StoreError::Credentials(_)) && !error.is_passing(), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
            assert!(!format!("{error} {error:?}").contains(USER), "{error:?}");
        }
    }
    let store = open(&server.uri());
    assert_eq!(store.connect().unwrap().differing_indexes, [""; 0]);
    assert_eq!(store.insert(&Maker::new().batch("s", 3)), Ok(stored(3)));
}

#[test]
fn a_missing_server_is_told_within_seconds_and_found_when_it_comes() {
    let mut server = Mongod::start();
    server.kill9();
    let store = open(&server.uri().replace("//", &format!("//{USER}:{PASSWORD}@")));
    let began = Instant::now();
    let error = store.connect().unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)) && error.is_passing(), "{error:?}");
    assert!(!format!("{error:?}").contains(PASSWORD), "{error:?}");
    assert!(began.elapsed() < SLACK, "it took {:?}", began.elapsed());

    let store = open(&server.uri());
    let batch = Maker::new().batch("s", 10);
    assert!(store.insert(&batch).is_err());
    server.restart();
    assert_eq!(insist(&*store, &batch).refused, []);
    assert_exactly(&server.messages(), &batch);
}

#[test]
fn an_unusable_connection_string_is_refused_before_anything_is_tried() {
    for uri in ["mongodb://user:hunter2hunter2@host/?maxPoolSize=many", "http://user:hunter2hunter2@host"] {
        let error = store::open(&config(uri)).err().unwrap();
        assert!(matches!(error, StoreError::Configuration(_)), "{error:?}");
        assert!(!format!("{error:?}").contains(PASSWORD), "{error:?}");
    }
}

#[test]
fn calls_on_a_frozen_server_end_in_time_and_all_is_there_once() {
    let (server, store) = connected();
    let calls = Calls::new("mongo-write");
    let batch = Maker::new().batch("s", 500);
    let insert = |within: Duration| {
        let (store, batch) = (Arc::clone(&store), batch.clone());
        let deadline = Instant::now() + within;
        calls.submit(deadline, move || store.insert(&batch)).and_then(|call| call.wait(deadline))
    };
    let mark = server.stop_cont(Duration::from_secs(5), || {
        let began = Instant::now();
        assert_eq!(insert(Duration::from_millis(200)), Err(CallError::Late));
        assert_eq!(insert(Duration::from_millis(200)), Err(CallError::Late));
        assert_eq!((insert(Duration::from_secs(60)), calls.abandoned()), (Err(CallError::Busy), 2));
        assert!(began.elapsed() < SLACK, "nobody waited for it: {:?}", began.elapsed());
        let mark = calls.mark();
        assert!(!calls.is_settled(mark));
        mark
    });
    let thawed = Instant::now();
    wait_until("the abandoned calls have returned", WAIT_TIMEOUT, || calls.is_settled(mark) && calls.abandoned() == 0);
    assert_eq!(insist(&*store, &batch).refused, []);
    assert!(thawed.elapsed() < SLACK, "it took {:?}", thawed.elapsed());
    assert_exactly(&server.messages(), &batch);
}

#[test]
fn a_server_killed_under_load_has_everything_once_when_it_is_back() {
    let (mut server, store) = connected();
    let handed_in = under_load(&store, || {
        server.restart();
        server.restart();
    });
    assert_eq!(handed_in.len(), 3000);
    assert_exactly(&server.messages(), &handed_in);
}

#[test]
fn a_replica_set_that_loses_its_primary_has_everything_once() {
    let mut set = ReplicaSet::start();
    let store = open(&set.uri());
    store.connect().unwrap();
    let mut handed_in = under_load(&store, || {
        let killed = set.kill_primary();
        set.wait_for_primary();
        set.members[killed].restart();
    });
    handed_in.extend(under_load(&store, || set.step_down()));
    assert_exactly(&set.messages(), &handed_in);
}

#[test]
fn without_a_majority_nothing_counts_as_stored_not_even_what_is_there() {
    let set = ReplicaSet::start();
    // A primary without secondaries steps down after a second, which a write may take on a busy machine.
    let admin = set.members[set.wait_for_primary()].client().database("admin");
    let mut config = admin.run_command(doc! { "replSetGetConfig": 1 }).run().unwrap();
    let config = config.get_document_mut("config").unwrap();
    config.insert("version", config.get_i32("version").unwrap() + 1);
    config.get_document_mut("settings").unwrap().insert("electionTimeoutMillis", 60_000);
    admin.run_command(doc! { "replSetReconfig": config.clone() }).run().unwrap();
    let store = open(&format!("{}&wtimeoutMS=150", set.uri()));
    store.connect().unwrap();
    let mut maker = Maker::new();
    let (before, during) = (maker.batch("s", 5), maker.batch("s", 5));
    // In a new replica set the first write may take longer than that.
    assert_eq!(insist(&*store, &before).refused, []);
    let primary = set.wait_for_primary();
    let secondaries: Vec<_> = (0..3).filter(|&n| n != primary).map(|n| &set.members[n]).collect();
    secondaries.iter().for_each(|member| member.freeze());
    for _ in 0..2 {
        let error = store.insert(&during).unwrap_err();
        assert!(matches!(error, StoreError::WriteConcern(_)) && error.is_passing(), "{error:?}");
    }
    secondaries.iter().for_each(|member| member.thaw());
    assert_eq!(insist(&*store, &during).refused, []);
    assert_exactly(&set.messages(), &[before, during].concat());
}

#[test]
fn an_erasure_takes_a_session_up_to_an_id_and_nothing_else() {
    let (server, store) = connected();
    let mut maker = Maker::new();
    let (ours, theirs) = (maker.batch("ours", 10), maker.batch("theirs", 3));
    store.insert(&[&ours[..], &theirs[..]].concat()).unwrap();
    let later = maker.message("ours", "said afterwards");
    store.insert(std::slice::from_ref(&later)).unwrap();
    let session = SessionId::new("ours").unwrap();
    assert_eq!(store.erase(&session, ours[9].id()), Ok(10));
    assert_eq!(store.erase(&session, ours[9].id()), Ok(0));
    assert_exactly(&server.messages(), &[&theirs[..], &[later]].concat());
}

#[test]
fn servers_of_one_store_tell_each_other_what_is_erased_and_it_only_rises() {
    let server = Mongod::start();
    let open = |shared| store::open(&MongoConfig { shared, ..config(&server.uri()) }).unwrap();
    let (alone, store) = (open(false), open(true));
    assert_eq!(store.connect().unwrap().differing_indexes, [""; 0]);
    let mut maker = Maker::new();
    let ids: Vec<Id> = (0..600).map(|_| maker.0.next_id()).collect();
    let session = |n: usize| SessionId::new(&format!("s{n}")).unwrap();
    alone.erase(&session(0), ids[0]).unwrap();
    assert_eq!((alone.erasures(None).unwrap().len(), store.erasures(None).unwrap().len()), (0, 0));
    // The largest id stays, in whatever order they come, and from many threads at once too.
    std::thread::scope(|scope| {
        for id in ids.iter().rev().take(16) {
            scope.spawn(|| store.erase(&session(0), *id).unwrap());
        }
    });
    store.erase(&session(0), ids[0]).unwrap();
    let told = store.erasures(None).unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].erasure, Some((session(0), ids[599])));
    let documents = server.client().database("oqoqo").collection::<Document>("chat_messages_erasures");
    documents.insert_one(doc! { "_id": 7, "erased_at": "never" }).run().unwrap();
    for (n, id) in ids.iter().enumerate().skip(1) {
        store.erase(&session(n), *id).unwrap();
    }
    let (mut found, mut after, mut pages) = (BTreeMap::new(), None, 0);
    loop {
        let page = store.erasures(after.as_ref()).unwrap();
        after = page.last().map(|last| last.place.clone()).or(after);
        pages += 1;
        let full = page.len() == store::ERASURES_MAX;
        found.extend(page.into_iter().filter_map(|one| one.erasure));
        if !full {
            break;
        }
    }
    assert_eq!((pages, found.len()), (2, 600));
    assert!((1..600).all(|n| found[&session(n)] == ids[n]));
    // An erasure that is raised comes again, after everything that was already read.
    let last = maker.0.next_id();
    store.erase(&session(5), last).unwrap();
    let again = store.erasures(after.as_ref()).unwrap();
    assert_eq!(again.iter().map(|one| one.erasure.clone()).collect::<Vec<_>>(), [Some((session(5), last))]);
    let expires = documents
        .find_one(doc! { "_id": "s5" })
        .run()
        .unwrap()
        .unwrap()
        .get_datetime("expires_at")
        .unwrap()
        .timestamp_millis();
    assert_eq!(expires, i64::try_from(last.time().micros() / 1000).unwrap() + 31 * 86_400_000);
}

fn query(session: &str) -> StoreQuery {
    StoreQuery {
        session: SessionId::new(session).unwrap(),
        after: None,
        before: None,
        role: None,
        direction: Direction::Newest,
        limit: 50,
        bytes_max: 8 << 20,
        time_max: Duration::from_secs(10),
    }
}

/// Follows a session page by page from one side to the other; oldest first.
fn follow(store: &dyn Store, mut query: StoreQuery) -> Vec<Arc<Message>> {
    let mut all: Vec<Arc<Message>> = Vec::new();
    loop {
        let page = store.read(&query).unwrap();
        assert!(page.messages.len() <= query.limit && page.messages.is_sorted_by_key(|m| m.id()));
        match query.direction {
            Direction::Newest => {
                query.before = page.searched;
                all.splice(0..0, page.messages);
            }
            Direction::Oldest => {
                query.after = page.searched;
                all.extend(page.messages);
            }
        }
        if !page.more {
            return all;
        }
        assert!(page.searched.is_some(), "a reader can go on");
    }
}

#[test]
fn pages_from_both_sides_give_every_message_once_and_in_order() {
    let (server, store) = connected();
    let mut all = Vec::new();
    // Ids that share a microsecond, as those of two servers may: runs of 1, 2, 3, 4 and 12. Inserted in no order,
    // because the index keeps equal times in the order of insertion.
    for (n, run) in (0..20_u64).zip([1, 1, 2, 3, 4, 12, 1].into_iter().cycle()) {
        for tie in 0..run {
            let id = Id::from_parts(Timestamp::from_micros(1_764_292_425_123_000 + n), tie * 5 % 13);
            let role = if (n + tie) % 3 == 0 { "user" } else { "assistant" };
            all.push(message(id, "s", role, &format!("{n}.{tie}"), "{}"));
        }
    }
    let store_config = MongoConfig { ttl: None, ..config(&server.uri()) };
    store::open(&store_config).unwrap().insert(&all).unwrap();
    store.insert(&Maker::new().batch("other", 20)).unwrap();
    all.sort_by_key(|message| message.id());

    for direction in [Direction::Newest, Direction::Oldest] {
        for limit in [1, 2, 5, 11, 12, 13, 1000] {
            let asked = StoreQuery { direction, limit, ..query("s") };
            assert!(follow(&*store, asked.clone()) == all, "{direction:?} by {limit}");
            let users = follow(&*store, StoreQuery { role: Some("user".to_owned()), ..asked });
            assert!(users == all.iter().filter(|m| m.role() == "user").cloned().collect::<Vec<_>>());
        }
        let by_bytes = StoreQuery { direction, bytes_max: 700, ..query("s") };
        assert!(follow(&*store, by_bytes.clone()) == all, "{direction:?} by bytes");
        assert!(store.read(&by_bytes).unwrap().messages.len() < 10);
        let bounds =
            StoreQuery { after: Some(all[3].id()), before: Some(all[30].id()), direction, limit: 7, ..query("s") };
        assert!(follow(&*store, bounds) == all[4..30], "{direction:?} between bounds");
    }
    assert_eq!(store.read(&query("nobody")).unwrap(), store::StorePage::default());
}

#[test]
fn a_document_that_is_no_message_is_passed_over_and_counted() {
    let (server, store) = connected();
    let mut maker = Maker::new();
    let ours = maker.batch("s", 4);
    store.insert(&ours).unwrap();
    for broken in &ours[1..3] {
        let change = doc! { "$unset": { "text": 1 } };
        server.messages().update_one(doc! { "_id": broken.id().to_string() }, change).run().unwrap();
    }
    let page = store.read(&query("s")).unwrap();
    assert_eq!((page.messages, page.passed_over), (vec![ours[0].clone(), ours[3].clone()], 2));
    let page = store.read(&StoreQuery { before: Some(ours[3].id()), limit: 1, ..query("s") }).unwrap();
    assert_eq!((page.messages.len(), page.passed_over, page.searched), (0, 1, Some(ours[2].id())));
    assert!(page.more);
}

#[test]
fn a_page_costs_what_it_holds_however_long_the_session_is() {
    let (server, store) = connected();
    let mut maker = Maker::new();
    for _ in 0..5 {
        store.insert(&maker.batch("long", 1000)).unwrap();
        store.insert(&maker.batch("other", 1000)).unwrap();
    }
    let middle = maker.message("long", "middle");
    store.insert(&maker.batch("long", 1000)).unwrap();
    // As in a collection that was sharded by it first. Of two indexes that look as good the server takes the older one.
    server.messages().drop_index("session_ts_idx").run().unwrap();
    let hashed = IndexModel::builder().keys(doc! { "session_id": "hashed" }).build();
    server.messages().create_index(hashed).run().unwrap();
    assert_eq!(store.read(&query("long")).unwrap().messages.len(), 50, "also without our index");
    assert_eq!(store.connect().unwrap().made_indexes, ["session_ts_idx"]);
    let database = server.client().database("oqoqo");
    database.run_command(doc! { "profile": 2 }).run().unwrap();
    let newest = query("long");
    let asked = [
        newest.clone(),
        StoreQuery { direction: Direction::Oldest, ..newest.clone() },
        StoreQuery { before: Some(middle.id()), ..newest.clone() },
        StoreQuery { after: Some(middle.id()), direction: Direction::Oldest, ..newest },
    ];
    for asked in &asked {
        assert_eq!(store.read(asked).unwrap().messages.len(), 50);
    }
    let profile = database.collection::<Document>("system.profile");
    let seen: Vec<Document> = profile.find(doc! { "op": "query" }).run().unwrap().map(Result::unwrap).collect();
    assert_eq!(seen.len(), 2 * asked.len(), "the page, and whether there is anything of other programs");
    let (pages, looks): (Vec<_>, Vec<_>) =
        seen.into_iter().partition(|operation| operation.get_i32("nreturned").unwrap() == 51);
    for look in looks {
        let number = |field: &str| look.get_i32(field).unwrap();
        assert_eq!((number("nreturned"), number("docsExamined")), (0, 0), "{look}");
    }
    for operation in pages {
        assert_eq!(operation.get_str("planSummary").unwrap(), "IXSCAN { session_id: 1, created_at: -1 }");
        assert_eq!(operation.get_i32("docsExamined").unwrap(), 51, "{operation}");
        assert!(!operation.get_bool("hasSortStage").unwrap_or(false), "{operation}");
    }
}

/// `cargo test --release --test store -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr, reason = "what was measured must be on the screen")]
fn the_throughput_of_inserts_beside_bare_ones() {
    let (server, store) = connected();
    let mut maker = Maker::new();
    let batches: Vec<_> = (0..100).map(|n| maker.batch(&format!("s{n}"), 1000)).collect();
    let majority = WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build();
    let bare = server.client().database("oqoqo").collection::<RawDocumentBuf>("bare");
    let copies: Vec<Vec<RawDocumentBuf>> = {
        let all = server.messages().clone_with_type::<RawDocumentBuf>();
        store.insert(&batches[0]).unwrap();
        let model: Vec<RawDocumentBuf> = all.find(doc! {}).run().unwrap().map(Result::unwrap).collect();
        server.messages().delete_many(doc! {}).run().unwrap();
        let fields = |document: &RawDocumentBuf| Document::try_from(document.as_ref()).unwrap();
        let rename = |batch: &Vec<Arc<Message>>| {
            let one = |(message, document): (&Arc<Message>, &RawDocumentBuf)| {
                let mut fields = fields(document);
                fields.insert("_id", message.id().to_string());
                fields.insert("session_id", message.session().as_str());
                RawDocumentBuf::try_from(&fields).unwrap()
            };
            batch.iter().zip(&model).map(one).collect()
        };
        batches.iter().map(rename).collect()
    };
    for keys in [doc! { "session_id": 1, "created_at": -1 }, doc! { "expires_at": 1 }] {
        bare.create_index(IndexModel::builder().keys(keys).build()).run().unwrap();
    }
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    for (batch, copy) in batches.iter().zip(&copies) {
        let began = Instant::now();
        assert_eq!(store.insert(batch), Ok(stored(1000)));
        ours += began.elapsed();
        let began = Instant::now();
        bare.insert_many(copy).ordered(false).write_concern(majority.clone()).run().unwrap();
        theirs += began.elapsed();
    }
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    eprintln!("100 batches of 1000: the store {ours:?}, bare {theirs:?}, ratio {ratio:.2}");
}

/// Documents of other programs: each with the text that is to be shown, in the order of their times.
fn foreign_documents(many: i64) -> Vec<Document> {
    let begin = 1_764_292_000_000_i64;
    let text = |millis: i64, form: usize| {
        let at = |micros: i64| Timestamp::from_micros(u64::try_from(micros).unwrap()).to_string();
        let (utc, ahead, behind) =
            (at(millis * 1000), at((millis + 7_200_000) * 1000), at((millis - 19_800_000) * 1000));
        match form {
            0 => utc,
            1 => format!("{}Z", &utc[..23]),
            2 => utc[..26].to_owned(),
            3 => utc[..23].replace('T', " "),
            4 => format!("{}+02:00", &ahead[..26]),
            _ => format!("{}-0530", &behind[..23]),
        }
    };
    let document = |n: i64| {
        // Ten a second, two of them with each time.
        let millis =
            begin + n / 2 * 200 + if n % 40 > 20 { 86_400_000 * (n / 40) } else { 86_400_000 * (n / 40) - 5000 };
        let form = usize::try_from(n * 5 % 7).unwrap();
        let created_at: Bson =
            if form == 6 { mongodb::bson::DateTime::from_millis(millis).into() } else { text(millis, form).into() };
        let id: Bson = match n % 5 {
            0 => mongodb::bson::oid::ObjectId::new().into(),
            1 => format!("0190a5b2-0000-4000-8000-{n:012}").into(),
            2 => n.into(),
            3 => format!("any {n}").into(),
            _ => mongodb::bson::Binary {
                subtype: mongodb::bson::spec::BinarySubtype::Uuid,
                bytes: n.to_be_bytes().repeat(2),
            }
            .into(),
        };
        let (role, name) = [("user", "text"), ("AI", "content"), ("Human", "content"), ("assistant", "text")]
            [usize::try_from(n % 4).unwrap()];
        doc! { "_id": id, "session_id": "s", "role": role, name: format!("foreign {n}"), "created_at": created_at, "n": millis }
    };
    (0..many).map(document).collect()
}

#[test]
fn documents_of_other_programs_stand_among_ours_by_their_time_on_every_page() {
    let (server, store) = connected();
    let theirs = foreign_documents(200);
    server.messages().insert_many(&theirs).run().unwrap();
    let mut ours = Vec::new();
    for n in 0..120_u64 {
        let id = Id::from_parts(Timestamp::from_micros(1_764_291_990_000_000 + n * 3_700_000_000), n);
        ours.push(message(id, "s", if n % 2 == 0 { "user" } else { "assistant" }, &format!("ours {n}"), "{}"));
    }
    store::open(&MongoConfig { ttl: None, ..config(&server.uri()) }).unwrap().insert(&ours).unwrap();
    // The time of each, computed in another way than the store does.
    let mut times: BTreeMap<String, u64> = ours.iter().map(|m| (m.text(), m.id().time().micros())).collect();
    for document in &theirs {
        let text = document.get_str("text").or_else(|_| document.get_str("content")).unwrap();
        times.insert(text.to_owned(), u64::try_from(document.get_i64("n").unwrap()).unwrap() * 1000);
    }
    let whole = follow(&*store, StoreQuery { limit: 1000, ..query("s") });
    assert_eq!(whole.len(), 320);
    for message in &whole {
        assert_eq!(times[&message.text()], message.id().time().micros(), "{message:?}");
    }
    assert!(whole.iter().all(|m| ["user", "assistant"].contains(&m.role())));
    for direction in [Direction::Newest, Direction::Oldest] {
        for limit in [1, 3, 10, 50, 400] {
            let asked = StoreQuery { direction, limit, ..query("s") };
            assert!(follow(&*store, asked.clone()) == whole, "{direction:?} by {limit}");
            let users = follow(&*store, StoreQuery { role: Some("user".to_owned()), ..asked });
            assert!(users == whole.iter().filter(|m| m.role() == "user").cloned().collect::<Vec<_>>());
        }
        let by_bytes = StoreQuery { direction, bytes_max: 900, ..query("s") };
        assert!(follow(&*store, by_bytes) == whole, "{direction:?} by bytes");
        let (after, before) = (Some(whole[37].id()), Some(whole[290].id()));
        let bounds = StoreQuery { after, before, direction, limit: 7, ..query("s") };
        assert!(follow(&*store, bounds) == whole[38..290], "{direction:?} between bounds");
    }
    let session = SessionId::new("s").unwrap();
    assert_eq!(store.erase(&session, whole[200].id()), Ok(201));
    assert!(follow(&*store, query("s")) == whole[201..]);
    assert_eq!(store.erase(&session, whole[319].id()), Ok(119));
    assert_eq!(server.messages().count_documents(doc! {}).run().unwrap(), 0);
}

#[test]
fn documents_that_say_no_time_are_counted_with_every_page_and_erased() {
    let (server, store) = connected();
    let ours = Maker::new().batch("s", 30);
    store.insert(&ours).unwrap();
    let page = || store.read(&StoreQuery { limit: 5, before: Some(ours[20].id()), ..query("s") }).unwrap();
    assert_eq!((page().messages.len(), page().passed_over), (5, 0));
    let times: [Bson; 8] = [
        Bson::Null,
        7.into(),
        1.5.into(),
        true.into(),
        "yesterday".into(),
        "".into(),
        "20.11.2025 12:00".into(),
        "3000".into(),
    ];
    for (n, time) in (0_i32..).zip(times) {
        let theirs = doc! { "_id": n, "session_id": "s", "role": "user", "text": "hi", "created_at": time };
        server.messages().insert_one(theirs).run().unwrap();
        assert_eq!(page().passed_over, usize::try_from(n).unwrap() + 1);
    }
    let later = mongodb::bson::oid::ObjectId::parse_str("ffffffff0000000000000000").unwrap();
    for id in [Bson::from(mongodb::bson::oid::ObjectId::new()), later.into()] {
        server
            .messages()
            .insert_one(doc! { "_id": id, "session_id": "s", "role": "user", "text": "hi" })
            .run()
            .unwrap();
    }
    assert_eq!((page().messages.len(), page().passed_over), (5, 10));
    let erased = store.erase(&SessionId::new("s").unwrap(), Maker::new().0.next_id());
    assert_eq!(erased, Ok(30 + 9), "what was made later stays");
}
