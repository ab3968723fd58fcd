//! The drain to MongoDB, from outside: the real binary before a real mongod that is absent, killed, frozen, locked, outvoted
//! or picky, and killed itself.
//!
//! The oracle of all of it: MongoDB ends with every acknowledged message exactly once, as a document of the right form, and
//! with nothing that was never sent; meanwhile nobody who posts or reads notices.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

#[path = "matrix/database.rs"]
#[allow(dead_code, reason = "some of its rows are for the table alone")]
mod database;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chatkeep::config::{Config, Fsync, JournalConfig, MongoConfig, Secret};
use chatkeep::disk::RealDisk;
use chatkeep::journal::{Journal, NewRecord, ReplyTo};
use chatkeep::message::{self, Clock, Expiry, Metadata, SessionId};
use chatkeep::store;
use chatkeep::worker::{DeadLetters, Drain, MongoStatus, PendingErasures};
use mongodb::IndexModel;
use mongodb::bson::{Bson, Document, doc};
use mongodb::sync::Collection;
use serde_json::json;
use support::drained::{
    NOWHERE, assert_holds, drained_to, options, post, queue, status, stored, wait_until_drained, wait_until_in_error,
};
use support::mongod::{Mongod, PASSWORD, USER, message_of};
use support::{Load, Oracle, Random, SLACK, Server, Trial, WAIT_TIMEOUT, remove_if_there, wait_until};

/// How much a million messages may add to resident memory: 1 MiB was seen.
const GROWTH_KIB_MAX: u64 = 4 * 1024;

fn memory_kib(server: &Server) -> u64 {
    server.process_status("VmRSS:")
}

/// No credential is in the log or the status.
#[track_caller]
fn assert_keeps_secrets(server: &Server) {
    let said = format!("{}{}", server.log(), status(server));
    for secret in [PASSWORD, USER, "hunter3"] {
        assert!(!said.contains(secret), "{secret} is told: {said}");
    }
}

#[test]
fn documents_and_indexes_are_as_a_foreign_program_expects_them() {
    let (mongod, server) = drained_to("form");
    let body = json!({
        "session_id": "s", "role": "assistant", "text": "grüße \u{1F600}",
        "metadata": {"n": 7, "deep": {"f": 0.5}, "none": null}, "vector_ids": ["v1", "v2"],
    });
    let reply = server.client().post("/api/chat/messages", &body).expect(201);
    let kept = &reply["messages"][0];
    wait_until_drained(&server);
    let collection = mongod.messages_of("form");
    let document = collection.find_one(doc! {}).run().unwrap().unwrap();
    message_of(&document);
    assert_eq!(document.get_str("_id").unwrap(), kept["id"]);
    assert_eq!(document.get_str("created_at").unwrap(), kept["created_at"]);
    assert_eq!(document.get_str("text").unwrap(), "grüße \u{1F600}");
    let deep = document.get_document("metadata").unwrap();
    assert_eq!((deep.get("n"), deep.get("none")), (Some(&Bson::Int32(7)), Some(&Bson::Null)));
    assert_eq!(document.get_array("vector_ids").unwrap(), &vec![Bson::from("v1"), Bson::from("v2")]);
    let created = mongodb::bson::DateTime::parse_rfc3339_str(document.get_str("created_at").unwrap()).unwrap();
    let expires = document.get_datetime("expires_at").unwrap();
    let days_30 = 30 * 86_400_000;
    assert!((0..=1).contains(&(expires.timestamp_millis() - created.timestamp_millis() - days_30)), "{document}");
    let indexes: Vec<IndexModel> = collection.list_indexes().run().unwrap().map(Result::unwrap).collect();
    let told: Vec<(String, Document, Option<Duration>)> = indexes
        .into_iter()
        .map(|index| (index.options.unwrap(), index.keys))
        .map(|(options, keys)| (options.name.unwrap(), keys, options.expire_after))
        .collect();
    assert_eq!(told[1], ("session_ts_idx".to_owned(), doc! { "session_id": 1, "created_at": -1 }, None));
    assert_eq!(told[2], ("expires_at_idx".to_owned(), doc! { "expires_at": 1 }, Some(Duration::ZERO)));
    assert_eq!(status(&server)["mongo"]["differing_indexes"], json!([]));
}

#[test]
fn messages_kept_for_ever_have_no_expiry_in_mongodb() {
    let mongod = Mongod::shared();
    let server = Server::start(options(&mongod.uri(), "forever").set("mongo.ttl_days", 0));
    post(&server, "s", "kept", 3);
    wait_until_drained(&server);
    let collection = mongod.messages_of("forever");
    assert_eq!(collection.count_documents(doc! { "expires_at": { "$exists": true } }).run().unwrap(), 0);
    assert_eq!(stored(&collection).len(), 3);
}

#[test]
fn a_server_starts_at_once_without_mongodb_and_drains_when_it_comes() {
    let mut mongod = Mongod::start();
    mongod.kill9();
    let uri = mongod.uri().replace("//", &format!("//{USER}:{PASSWORD}@"));
    let mut server = Server::start(options(&uri, "oqoqo"));
    let first = status(&server)["mongo"]["status"].clone();
    assert!(first == "connecting" || first == "error", "{first}");
    let kept = post(&server, "s", "early", 50);
    let page = server.client().history("s", "&limit=500");
    assert_eq!((page["messages"].as_array().unwrap().len(), &page["complete"]), (50, &false.into()));
    assert!(page["reason"].as_str().unwrap().contains("MongoDB did not answer"), "{page}");
    // The reason is one short sentence and not the driver's long dump. A first try may end by its timeout.
    let host = mongod.uri().trim_start_matches("mongodb://").split(['/', '?']).next().unwrap().to_owned();
    let reason = format!("MongoDB cannot be reached: {host}: Connection refused (os error 111)");
    wait_until(&reason, WAIT_TIMEOUT, || wait_until_in_error(&server) == reason);
    assert_eq!(queue(&server, "pending"), 50);
    assert!(status(&server)["queue"]["oldest_pending_seconds"].as_f64().unwrap() > 0.0);
    assert_keeps_secrets(&server);

    server.reconfigure(options(&mongod.uri(), "oqoqo"));
    server.restart();
    let since = || status(&server)["mongo"]["since"].clone();
    wait_until_in_error(&server);
    let before = since();
    wait_until("it goes on trying", WAIT_TIMEOUT, || queue(&server, "failures") > 2);
    assert_eq!(since(), before, "an error is since its first failure");
    mongod.restart();
    wait_until_drained(&server);
    assert_holds(&mongod.messages(), &kept);
    server.wait_for_log("MongoDB works again after");
    let lines = server.log().lines().filter(|line| line.contains("tried again")).count();
    assert!(lines <= 3, "an outage is told once, not with every try:\n{}", server.log());
}

#[test]
fn a_mongod_killed_under_load_has_everything_once_when_it_is_back() {
    database::killed(&Trial::new("mongod killed"));
}

#[test]
fn killed_again_and_again_a_server_has_everything_in_mongodb_once() {
    database::server_killed(&Trial::new("chatkeep killed"), 8);
}

#[test]
fn a_mongod_frozen_for_twenty_seconds_is_noticed_by_the_status_only() {
    database::frozen(&Trial::new("frozen"), Duration::from_secs(20));
}

#[test]
fn a_replica_set_that_loses_its_primary_has_everything_once() {
    database::failover(&Trial::new("replica set"));
}

#[test]
fn what_a_validator_refuses_is_a_dead_letter_once_and_keeps_nothing_back() {
    database::poison(&Trial::new("poison"));
}

#[test]
fn an_id_of_another_document_is_a_dead_letter_and_overwrites_nothing() {
    database::collision(&Trial::new("collision"));
}

#[test]
fn a_wrong_password_is_told_without_any_credential_until_it_is_right() {
    database::wrong_password(&Trial::new("password"));
}

#[test]
fn with_or_without_mongodb_a_stop_with_100_000_pending_ends_in_time() {
    database::stopped_with_backlog(&Trial::new("backlog"), 100_000);
}

#[test]
fn whatever_a_server_answers_for_a_while_all_is_there_once_afterwards() {
    database::errors(&Trial::new("errors"));
}

#[test]
fn indexes_of_a_database_dropped_in_an_outage_are_made_again() {
    database::dropped(&Trial::new("dropped"));
}

#[test]
fn a_stop_while_a_call_hangs_ends_within_the_deadline() {
    let mongod = Mongod::start();
    let mut server = Server::start(
        options(&mongod.uri(), "oqoqo").set("server.drain_seconds", 3).set("mongo.call_timeout_seconds", 60),
    );
    let mut kept = post(&server, "s", "before", 10);
    wait_until_drained(&server);
    mongod.freeze();
    kept.extend(post(&server, "s", "during", 10));
    let began = Instant::now();
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3) + SLACK, "the stop took {:?}", began.elapsed());
    mongod.thaw();
    server.start_again();
    wait_until_drained(&server);
    assert_holds(&mongod.messages(), &kept);
}

#[test]
fn mongodb_off_and_on_again_gets_the_backlog_and_what_came_meanwhile() {
    let mongod = Mongod::shared();
    let mut server = Server::start(options(&mongod.uri(), "switched"));
    let mut kept = post(&server, "s", "first", 50);
    wait_until_drained(&server);
    for (uri, enabled, tag) in [(NOWHERE, true, "outage"), (NOWHERE, false, "off"), (&mongod.uri(), true, "on")] {
        server.reconfigure(options(uri, "switched").set("mongo.enabled", enabled));
        server.restart();
        kept.extend(post(&server, "s", tag, 50));
        let undelivered = status(&server)["journal"]["undelivered_to_mongo"].as_u64();
        // It includes what was recorded since MongoDB was disabled; while it is enabled, `pending` counts it.
        assert_eq!(undelivered, Some(if enabled { 0 } else { 100 }), "{tag}");
    }
    wait_until_drained(&server);
    assert_holds(&mongod.messages_of("switched"), &kept);
    assert_eq!(server.client().whole_history("s").len(), 200);
}

/// No checkpoint was stored since the messages came: the one of the start says that MongoDB lacks them.
#[test]
fn a_killed_servers_backlog_counts_as_undelivered_while_mongodb_is_off() {
    let mongod = Mongod::shared();
    let rarely = |uri: &str| options(uri, "killed").set("journal.checkpoint_seconds", 3600);
    let mut server = Server::start(rarely(NOWHERE));
    let mut kept = post(&server, "s", "outage", 50);
    server.kill9();
    for (tag, undelivered) in [("off", 100), ("still off", 150), ("off without a checkpoint", 200)] {
        if undelivered == 200 {
            // As if the server had been killed before its first checkpoint.
            remove_if_there(&server.data().join("journal/checkpoint"));
        }
        server.reconfigure(rarely(NOWHERE).set("mongo.enabled", false));
        server.start_again();
        kept.extend(post(&server, "s", tag, 50));
        assert_eq!(status(&server)["journal"]["undelivered_to_mongo"], undelivered, "{tag}");
        server.kill9();
    }
    server.reconfigure(rarely(&mongod.uri()));
    server.start_again();
    wait_until_drained(&server);
    assert_holds(&mongod.messages_of("killed"), &kept);
    // MongoDB has everything now, so it lacks nothing when it is disabled.
    server.reconfigure(rarely(NOWHERE).set("mongo.enabled", false));
    server.sigterm_and_wait();
    let path = server.data().join("journal/checkpoint");
    let checkpoint = || std::fs::read(&path).unwrap();
    let enabled = checkpoint();
    server.start_again();
    post(&server, "s", "off again", 50);
    assert_eq!(status(&server)["journal"]["undelivered_to_mongo"], 0);
    // A server that is killed before the checkpoint says so takes them for undelivered.
    wait_until("the checkpoint says that MongoDB is disabled", WAIT_TIMEOUT, || checkpoint() != enabled);
    server.kill9();
    server.start_again();
    assert_eq!(status(&server)["journal"]["undelivered_to_mongo"], 0);
}

#[test]
fn an_erasure_that_is_to_be_repeated_keeps_nothing_else_waiting() {
    let mongod = Mongod::shared();
    let mut server = Server::start(options(&mongod.uri(), "repeated"));
    post(&server, "gone", "gone", 5);
    server.client().request("DELETE", "/api/chat/sessions/gone", &[], None).expect(202);
    let kept = post(&server, "stays", "stays", 5);
    wait_until_drained(&server);
    let mongo = |server: &Server, field: &str| status(server)["mongo"][field].as_u64();
    // An earlier process may have sent an insert that still arrives.
    wait_until("it is carried out and to be repeated", WAIT_TIMEOUT, || {
        (mongo(&server, "erasures_pending"), mongo(&server, "erasures_to_confirm")) == (Some(0), Some(1))
    });
    server.sigterm_and_wait();
    server.reconfigure(options(NOWHERE, "repeated"));
    server.start_again();
    assert_eq!((queue(&server, "pending"), mongo(&server, "erasures_pending")), (0, Some(1)));
    server.kill9();
    server.reconfigure(options(&mongod.uri(), "repeated"));
    server.start_again();
    wait_until("it is carried out again", WAIT_TIMEOUT, || mongo(&server, "erasures_pending") == Some(0));
    assert_holds(&mongod.messages_of("repeated"), &kept);
}

#[test]
fn a_channel_that_overflows_under_load_loses_nothing() {
    let mut random = Random::announced("overflow");
    let mongod = Mongod::shared();
    let options = options(&mongod.uri(), "overflow").set("mongo.queue_capacity", 1);
    let server = Server::start(options.set("journal.fsync", "never"));
    let oracle = Arc::new(Oracle::default());
    let load = Load::start(&server, &oracle, "o", "r", &mut random);
    load.wait_for(3_000);
    load.end();
    assert!(queue(&server, "skipped") > 0, "the channel was full at times");
    wait_until_drained(&server);
    oracle.check_mongo(&mongod.messages_of("overflow"), "o", |_| false);
}

/// A journal and a drain in this process: no call of the server erases anything yet.
struct Inside {
    journal: Arc<Journal>,
    drain: Drain,
    storage: Arc<MongoStatus>,
    folder: tempfile::TempDir,
}

/// Erasures that a restart begins with.
fn owed_in(folder: &tempfile::TempDir) -> PendingErasures {
    PendingErasures::load(RealDisk, &folder.path().join("erasures_owed.jsonl"), Vec::new).unwrap()
}

impl Inside {
    fn draining_to(mongod: &Mongod, database: &str, call_timeout: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::defaults(Some(folder.path())).unwrap();
        let uri = Secret::new(mongod.uri());
        let (backoff_max, database) = (Duration::from_millis(200), database.to_owned());
        let mongo = MongoConfig { uri, database, call_timeout, backoff_max, ..config.mongo };
        let config = JournalConfig { fsync: Fsync::Never, ..config.journal };
        let journal = Arc::new(Journal::open(&config, Clock::system(), Box::new(|_| ()), Box::new(|| ())).unwrap());
        let letters = DeadLetters::new(RealDisk, &folder.path().join("dead_letter.jsonl"), Clock::system());
        let (store, storage) = (store::open(&mongo).unwrap(), Arc::new(MongoStatus::new(Clock::system())));
        let files = (letters, owed_in(&folder));
        let drain = Drain::new(&journal, store, files, Expiry::never(), &mongo, 0, storage.clone());
        Self { journal, drain, storage, folder }
    }

    fn append(&self, draft: NewRecord) {
        let (ticket, _) = self.journal.append(vec![draft]).unwrap();
        self.journal.commit(ticket).unwrap();
    }

    fn say(&self, session: &str, text: &str) {
        let session = SessionId::new(session).unwrap();
        let draft =
            message::Draft { session: &session, role: "user", text, metadata: Metadata::default(), vector_ids: &[] };
        self.append(NewRecord::Message { line: draft.prepare(), key: None, reply_to: ReplyTo::Nothing });
    }

    fn erase(&self, session: &str) {
        self.append(NewRecord::Erasure { session: SessionId::new(session).unwrap() });
    }

    #[track_caller]
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        wait_until(what, WAIT_TIMEOUT, || {
            self.drain.step(self.journal.published()).unwrap();
            holds(self)
        });
    }
}

fn texts(collection: &Collection<Document>) -> Vec<String> {
    stored(collection).into_values().collect()
}

#[test]
fn an_erasure_takes_what_was_said_before_and_nothing_said_later() {
    let mongod = Mongod::shared();
    let mut inside = Inside::draining_to(&mongod, "erased", Duration::from_secs(10));
    inside.say("gone", "gone 1");
    inside.say("stays", "stays 1");
    inside.until("the first are there", |inside| inside.drain.drained() == 2);
    assert_eq!(texts(&mongod.messages_of("erased")), ["gone 1", "stays 1"]);
    inside.say("gone", "gone 2");
    inside.erase("gone");
    inside.say("gone", "later 1");
    inside.say("stays", "stays 2");
    inside.until("all is there", |inside| inside.drain.drained() == 6);
    assert_eq!(texts(&mongod.messages_of("erased")), ["stays 1", "later 1", "stays 2"]);
}

#[test]
fn inserts_that_hung_before_an_erasure_bring_nothing_back() {
    let mongod = Mongod::start();
    let mut inside = Inside::draining_to(&mongod, "oqoqo", Duration::from_millis(500));
    inside.say("gone", "before");
    inside.until("the first is there", |inside| inside.drain.drained() == 1);
    mongod.freeze();
    (0..100).for_each(|n| inside.say("gone", &format!("gone {n}")));
    inside.until("two calls hang", |inside| inside.storage.view().totals.failures.iter().sum::<u64>() > 2);
    inside.erase("gone");
    inside.say("gone", "later");
    mongod.thaw();
    inside.until("all is there", |inside| inside.drain.drained() == 103);
    // The insert that hung arrives before or after the erasure. A new drain, as after a restart, erases again.
    wait_until("what hung has arrived or never will", WAIT_TIMEOUT, || {
        let running = doc! { "currentOp": 1, "active": true, "op": "insert" };
        let running = mongod.client().database("admin").run_command(running).run().unwrap();
        running.get_array("inprog").unwrap().is_empty()
    });
    let mongo = MongoConfig { uri: Secret::new(mongod.uri()), ..Config::defaults(None).unwrap().mongo };
    let letters = DeadLetters::new(RealDisk, &inside.folder.path().join("letters"), Clock::system());
    let (store, storage) = (store::open(&mongo).unwrap(), inside.storage.clone());
    let files = (letters, owed_in(&inside.folder));
    inside.drain = Drain::new(&inside.journal, store, files, Expiry::never(), &mongo, 103, storage);
    assert_eq!(inside.drain.erasures_pending(), 1, "a restart begins with the erasure until it is final");
    inside.until("it is erased again", |inside| inside.drain.erasures_pending() == 0);
    assert_eq!(texts(&mongod.messages()), ["later"]);
}

/// `cargo test --test drain -- --ignored --nocapture million`
#[test]
#[ignore = "minutes long"]
#[allow(clippy::print_stderr, reason = "what was measured must be on the screen")]
fn an_outage_with_a_million_messages_takes_no_memory_and_loses_none() {
    let mut mongod = Mongod::start();
    // One arena, since glibc alone keeps up to 17 MiB in its arenas on two processors, which is not measured here.
    let options = options(&mongod.uri(), "oqoqo").set("journal.fsync", "never").environment("MALLOC_ARENA_MAX", "1");
    let server = Server::start(options);
    let mut kept = post(&server, "s-0", "warm", 50_000);
    wait_until_drained(&server);
    mongod.kill9();
    // The first outage allocates some things once; they are not measured.
    kept.extend(post(&server, "s-0", "down", 50_000));
    wait_until_in_error(&server);
    let before = memory_kib(&server);
    for n in 1..=95 {
        kept.extend(post(&server, &format!("s-{}", n % 20), &format!("outage {n}"), 10_000));
    }
    let during = memory_kib(&server);
    eprintln!("resident: {before} KiB before, {during} KiB with {} pending", queue(&server, "pending"));
    assert!(during < before + GROWTH_KIB_MAX, "{before} KiB became {during}");
    let (began, pending) = (Instant::now(), queue(&server, "pending"));
    mongod.restart();
    wait_until("all of it is drained", 20 * WAIT_TIMEOUT, || queue(&server, "pending") == 0);
    let (after, took) = (memory_kib(&server), began.elapsed());
    eprintln!("drained {pending} in {took:?}; resident: {after} KiB");
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB became {after}");
    assert_holds(&mongod.messages(), &kept);
}

/// `cargo test --test drain -- --ignored --nocapture rate`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr, reason = "what was measured must be on the screen")]
fn the_rate_of_a_drain_beside_bare_inserts() {
    let mongod = Mongod::start();
    let mut server = Server::start(options(NOWHERE, "oqoqo").set("journal.fsync", "never"));
    for n in 0..20 {
        post(&server, &format!("s{n}"), &format!("backlog {n}"), 10_000);
    }
    server.reconfigure(options(&mongod.uri(), "oqoqo"));
    server.restart();
    let began = Instant::now();
    wait_until_drained(&server);
    let drained = began.elapsed();
    let documents: Vec<Document> = mongod.messages().find(doc! {}).run().unwrap().map(Result::unwrap).collect();
    let bare = mongod.client().database("bare").collection::<Document>("bare");
    for keys in [doc! { "session_id": 1, "created_at": -1 }, doc! { "expires_at": 1 }] {
        bare.create_index(IndexModel::builder().keys(keys).build()).run().unwrap();
    }
    let majority =
        mongodb::options::WriteConcern::builder().w(mongodb::options::Acknowledgment::Majority).journal(true);
    let majority = majority.build();
    let began = Instant::now();
    for batch in documents.chunks(1000) {
        bare.insert_many(batch).ordered(false).write_concern(majority.clone()).run().unwrap();
    }
    let (loops, count) = (began.elapsed(), documents.len());
    eprintln!("{count} messages: drained in {drained:?}, bare in {loops:?}");
}
