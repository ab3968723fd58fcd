//! What a real mongod may answer, one by one, and what comes of it: rights that are missing, write concerns that are not met,
//! connections that break, a full disk, documents that expire, erasures that have to wait.
//!
//! In all of them MongoDB ends with every acknowledged message exactly once, and nobody who posts or reads notices.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chatkeep::config::{Config, MongoConfig, Secret};
use chatkeep::message::{Clock, Draft, Id, Metadata, SessionId, Timestamp};
use chatkeep::store;
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};
use support::drained::{assert_holds, options, post, queue, status, stored, wait_until_drained, wait_until_in_error};
use support::mongod::Mongod;
use support::{Options, SLACK, Server, WAIT_TIMEOUT, wait_until};

fn erase(server: &Server, session: &str) -> Value {
    server.client().request("DELETE", &format!("/api/chat/sessions/{session}"), &[], None).expect(202)
}

/// A user of the database `oqoqo` who may do `actions` with its collections, and nothing else.
fn clerk(mongod: &Mongod, name: &str, actions: &[&str]) -> String {
    let admin = mongod.client().database("admin");
    let may: Vec<Bson> = actions.iter().map(|&action| Bson::from(action)).collect();
    let all = doc! { "db": "oqoqo", "collection": "" };
    let role =
        doc! { "createRole": name, "privileges": [{ "resource": all, "actions": may }], "roles": Vec::<Bson>::new() };
    admin.run_command(role).run().unwrap();
    admin.run_command(doc! { "createUser": name, "pwd": "clerks-own", "roles": [name] }).run().unwrap();
    format!("mongodb://{name}:clerks-own@127.0.0.1:{}/?authSource=admin", mongod.port())
}

#[test]
fn a_user_who_may_make_no_index_drains_all_the_same_and_is_told_of_once() {
    let mongod = Mongod::start_with_password();
    let key = doc! { "session_id": -1 };
    let other = mongodb::options::IndexOptions::builder().name("session_ts_idx".to_owned()).build();
    let other = mongodb::IndexModel::builder().keys(key).options(other).build();
    mongod.messages().create_index(other).run().unwrap();
    let mut kept = BTreeMap::new();
    for (name, actions, wanted) in [
        (
            "reader",
            &["find", "insert", "remove"][..],
            ["session_ts_idx: MongoDB refuses to make it (code 13, Unauthorized)"; 1],
        ),
        (
            "maker",
            &["find", "insert", "remove", "createIndex"],
            ["session_ts_idx: MongoDB refuses to make it (code 86, IndexKeySpecsConflict)"],
        ),
    ] {
        let server = Server::start(options(&clerk(&mongod, name, actions), "oqoqo"));
        let gone = post(&server, "gone", "erased", 10);
        kept.extend(post(&server, "s", name, 20));
        wait_until_drained(&server);
        assert!(gone.keys().all(|id| stored(&mongod.messages()).contains_key(id)));
        erase(&server, "gone");
        wait_until_drained(&server);
        assert_holds(&mongod.messages(), &kept);
        let told = status(&server)["mongo"]["differing_indexes"].clone();
        let told: Vec<&str> = told.as_array().unwrap().iter().map(|index| index.as_str().unwrap()).collect();
        assert!(told.contains(&wanted[0]), "{told:?}");
        assert_eq!(told.len(), if name == "reader" { 2 } else { 1 }, "{told:?}");
        server.wait_for_log("session_ts_idx");
        let lines = server.log().lines().filter(|line| line.contains("session_ts_idx")).count();
        assert_eq!(lines, 1, "{}", server.log());
        assert!(!server.log().contains("clerks-own"));
    }
    let found: Vec<String> = mongod.messages().list_index_names().run().unwrap();
    assert!(found.contains(&"expires_at_idx".to_owned()), "{found:?}");
}

#[test]
fn a_user_without_the_right_to_read_erasures_drains_and_is_told() {
    let mongod = Mongod::start_with_password();
    let uri = clerk(&mongod, "writer", &["find", "insert", "remove", "createIndex", "listIndexes"]);
    let admin = mongod.client().database("admin");
    let narrow = doc! {
        "updateRole": "writer",
        "privileges": [
            { "resource": { "db": "oqoqo", "collection": "chat_messages" }, "actions": ["find", "insert", "remove"] },
            { "resource": { "db": "oqoqo", "collection": "chat_messages_erasures" }, "actions": ["insert", "update"] },
        ],
    };
    admin.run_command(narrow).run().unwrap();
    let server = Server::start(options(&uri, "oqoqo").set("mongo.shared", true));
    let kept = post(&server, "s", "kept", 20);
    post(&server, "gone", "erased", 20);
    wait_until_drained(&server);
    erase(&server, "gone");
    wait_until_drained(&server);
    assert_holds(&mongod.messages(), &kept);
    let reason = || status(&server)["mongo"]["shared_reason"].as_str().unwrap_or_default().to_owned();
    wait_until("the status says so", WAIT_TIMEOUT, || reason().contains("MongoDB refuses the credentials"));
    let told = || server.log().matches("cannot read the erasures of other servers").count();
    wait_until("the log says so", WAIT_TIMEOUT, || told() > 0);
    assert_eq!(told(), 1, "{}", server.log());
}

#[test]
fn an_erasure_mongodb_lacks_is_pending_and_carried_out_after_a_kill() {
    let mongod = Mongod::start_fallible();
    let mut server = Server::start(options(&mongod.uri(), "oqoqo"));
    post(&server, "gone", "drained", 30);
    let mut kept = post(&server, "stays", "stays", 30);
    wait_until_drained(&server);
    let pending = |server: &Server| status(server)["mongo"]["erasures_pending"].clone();
    assert_eq!(pending(&server), 0);
    mongod.fail("alwaysOn", doc! { "failCommands": ["delete", "insert"], "errorCode": 14_031 });
    post(&server, "gone", "undrained", 30);
    let reply = erase(&server, "gone");
    assert_eq!((&reply["mongo"], &reply["counts"]["transcript"]), (&json!("pending"), &json!(60)));
    kept.extend(post(&server, "gone", "later", 5));
    let texts = |server: &Server| -> BTreeSet<String> {
        let page = server.client().history("gone", "&limit=500");
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["text"].as_str().unwrap().to_owned())
            .collect()
    };
    let later: BTreeSet<String> = (0..5).map(|n| format!("later {n}")).collect();
    for _ in 0..2 {
        wait_until_in_error(&server);
        assert_eq!(pending(&server), 1);
        assert_eq!(texts(&server), later, "what MongoDB still has is not shown");
        server.kill9();
        server.start_again();
    }
    mongod.work();
    wait_until_drained(&server);
    assert_holds(&mongod.messages(), &kept);
    assert_eq!((pending(&server), texts(&server)), (json!(0), later));
    // The failed insert may still arrive, so the erasure is to be carried out once more.
    assert_eq!(status(&server)["mongo"]["erasures_to_confirm"], 1);
}

#[test]
fn what_is_erased_while_mongodb_is_off_is_erased_there_once_it_is_on() {
    let mongod = Mongod::start();
    let options = |enabled: bool| {
        let small =
            options(&mongod.uri(), "oqoqo").set("journal.segment_bytes", 1 << 20).set("journal.retain_hours", 0);
        small.set("server.max_body_bytes", 400_000).set("mongo.enabled", enabled)
    };
    let mut server = Server::start(options(true));
    post(&server, "gone", "SECRET", 5);
    post(&server, "undrained", "SECRET too", 5);
    post(&server, "stays", "stays", 5);
    wait_until_drained(&server);
    // A session is erased while MongoDB hangs, and MongoDB is disabled before that is carried out.
    mongod.freeze();
    assert_eq!(erase(&server, "undrained")["mongo"], "pending");
    server.kill9();
    mongod.thaw();
    server.reconfigure(options(false));
    server.start_again();
    let reply = server.client().request("DELETE", "/api/chat/sessions/gone", &[], None).expect(202);
    assert_eq!(reply["mongo"], "pending");
    let pending = |server: &Server| status(server)["mongo"]["erasures_pending"].clone();
    assert_eq!(pending(&server), 2);
    post(&server, "gone", "later", 5);
    // Until the segment with the erasure is dropped.
    let erased = status(&server)["journal"]["last_sequence"].as_u64().unwrap();
    wait_until("its segment is gone", 3 * WAIT_TIMEOUT, || {
        post(&server, "filler", &"x".repeat(50_000), 5);
        status(&server)["journal"]["first_sequence"].as_u64() > Some(erased)
    });
    server.kill9();
    let texts = |session: &str| {
        let found = mongod.messages().find(doc! { "session_id": session }).run().unwrap();
        found.map(|document| document.unwrap().get_str("text").unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts("gone").len(), 5, "MongoDB has them still");
    server.reconfigure(options(true));
    server.start_again();
    post(&server, "gone", "latest", 5);
    wait_until("it is erased there", WAIT_TIMEOUT, || pending(&server) == 0);
    wait_until_drained(&server);
    assert!(texts("gone").iter().all(|text| text.starts_with("late")), "{:?}", texts("gone"));
    assert!(texts("gone").len() >= 5);
    assert_eq!((texts("undrained").len(), texts("stays").len()), (0, 5));
    // The previous process may have sent an insert that still arrives.
    assert_eq!(status(&server)["mongo"]["erasures_to_confirm"], 2);
}

/// A server that never had a MongoDB has nobody to tell.
#[test]
fn without_a_mongodb_at_any_time_nothing_is_noted_for_one() {
    let server = Server::start(Options::default());
    post(&server, "gone", "hi", 2);
    let reply = server.client().request("DELETE", "/api/chat/sessions/gone", &[], None).expect(200);
    assert_eq!((&reply["mongo"], &status(&server)["mongo"]["erasures_pending"]), (&"none".into(), &0.into()));
    assert!(!server.data().join("journal/erasures_owed.jsonl").exists());
}

#[test]
fn what_expires_leaves_mongodb_and_the_history_together() {
    let mongod = Mongod::start_with(&["--setParameter", "ttlMonitorSleepSecs=1"]);
    let options = options(&mongod.uri(), "oqoqo").set("mongo.ttl_days", 1).set("mongo.shared", true);
    let server = Server::start(options);
    let mut kept = post(&server, "s", "young", 20);
    wait_until_drained(&server);
    // As stored by another server almost a day ago: with a TTL of a day they expire within moments.
    let ttl = Some(Duration::from_secs(86_400));
    let config = MongoConfig { uri: Secret::new(mongod.uri()), ttl, ..Config::defaults(None).unwrap().mongo };
    let session = SessionId::new("s").unwrap();
    let now = Clock::system().now().micros();
    let old: Vec<_> = (0..20)
        .map(|n| {
            let id = Id::from_parts(Timestamp::from_micros(now - 86_400_000_000 + 25_000_000 + n), n);
            let metadata = Metadata::default();
            let draft = Draft { session: &session, role: "user", text: "old", metadata, vector_ids: &[] };
            Arc::new(draft.prepare().seal(id))
        })
        .collect();
    store::open(&config).unwrap().insert(&old).unwrap();
    let shown = || server.client().answered_page("s", "&limit=500");
    let texts = |page: &Value, text: &str| {
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|message| message["text"].as_str().unwrap().starts_with(text))
            .count()
    };
    let page = shown();
    assert_eq!((texts(&page, "old"), texts(&page, "young")), (20, 20), "{page}");
    wait_until("the history leaves out what has expired", WAIT_TIMEOUT, || texts(&shown(), "old") == 0);
    kept.extend(post(&server, "s", "younger", 20));
    let old = || mongod.messages().count_documents(doc! { "text": "old" }).run().unwrap();
    wait_until("MongoDB removes what has expired", 3 * WAIT_TIMEOUT, || old() == 0);
    wait_until_drained(&server);
    assert_holds(&mongod.messages(), &kept);
    let page = shown();
    assert_eq!((texts(&page, "young"), &page["complete"]), (40, &json!(true)));
    assert_eq!(queue(&server, "failures"), 0);
}

#[test]
fn a_history_is_whole_or_says_what_it_lacks_while_mongodb_stalls() {
    let mongod = Mongod::start_fallible();
    let options = options(&mongod.uri(), "oqoqo").set("mongo.call_timeout_seconds", 60);
    let server = Server::start(options.set("mongo.cache.max_messages_per_session", 5));
    let mut kept = post(&server, "s", "drained", 100);
    wait_until_drained(&server);
    // Messages of a data folder that is gone: the oldest ones, and only MongoDB has them.
    let hour_ago = Clock::system().now().micros() - 3_600_000_000;
    let theirs: Vec<Document> = (0..10_u64)
        .map(|n| {
            let id = Id::from_parts(Timestamp::from_micros(hour_ago + n), n);
            kept.insert(id.to_string(), format!("theirs {n}"));
            doc! {
                "_id": id.to_string(), "session_id": "s", "role": "user", "text": format!("theirs {n}"), "metadata": {},
                "vector_ids": Vec::<Bson>::new(), "created_at": id.time().to_string(),
            }
        })
        .collect();
    mongod.messages().insert_many(theirs).run().unwrap();
    mongod.fail("alwaysOn", doc! { "failCommands": ["insert"], "errorCode": 14_031 });
    kept.extend(post(&server, "s", "undrained", 100));
    wait_until_in_error(&server);
    let texts = |server: &Server| -> BTreeMap<String, String> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let page = server.client().answered_page("s", "&limit=500");
        page["messages"].as_array().unwrap().iter().map(|m| (text(&m["id"]), text(&m["text"]))).collect()
    };
    let here: BTreeMap<String, String> = kept
        .iter()
        .filter(|(_, text)| !text.starts_with("theirs"))
        .map(|(id, text)| (id.clone(), text.clone()))
        .collect();
    assert_eq!(texts(&server), here, "what is known to fail is not asked");
    let page = server.client().history("s", "&limit=500");
    assert_eq!(page["complete"], false);
    assert!(page["reason"].as_str().unwrap().contains("code 14031"), "{page}");
    mongod.work();
    wait_until_drained(&server);
    assert_eq!(texts(&server), kept);
    let page = server.client().answered_page("s", "&limit=500");
    assert_eq!((&page["complete"], &page["counts"]["mongo"].as_u64().is_some_and(|n| n >= 10)), (&json!(true), &true));
    mongod.freeze();
    let began = Instant::now();
    let page = server.client().history("s", "&limit=500");
    mongod.thaw();
    assert_eq!((page["messages"].as_array().unwrap().len(), &page["complete"]), (200, &json!(false)), "{page}");
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
}

#[test]
fn a_consumer_of_the_feed_reads_all_once_across_restarts_of_both_sides() {
    let mut mongod = Mongod::start();
    let configured =
        options(&mongod.uri(), "oqoqo").set("journal.segment_bytes", 80 * 1024).set("server.max_body_bytes", 8192);
    let mut server = Server::start(configured);
    let (mut kept, mut read, mut cursor) = (BTreeMap::new(), Vec::new(), None::<String>);
    let mut read_on = |server: &Server, most: usize| {
        for _ in 0..most {
            let after = cursor.as_ref().map(|cursor| format!("&after={cursor}")).unwrap_or_default();
            let page = server.client().get(&format!("/api/chat/feed?limit=37{after}")).expect(200);
            let events = page["events"].as_array().unwrap();
            read.extend(events.iter().map(|event| event["message"]["id"].as_str().unwrap().to_owned()));
            cursor = Some(page["next"].as_str().unwrap().to_owned());
            if events.is_empty() {
                break;
            }
        }
        read.clone()
    };
    for round in 0..6 {
        for part in 0..4 {
            kept.extend(post(&server, &format!("s{part}"), &format!("{round} {part}"), 40));
            read_on(&server, 2);
        }
        match round % 3 {
            0 => mongod.kill9(),
            1 => mongod.restart(),
            _ => {}
        }
        if round % 2 == 0 {
            server.kill9();
        } else {
            assert_eq!(server.sigterm_and_wait().code(), Some(0));
        }
        server.start_again();
    }
    mongod.restart();
    wait_until("it has found MongoDB again", WAIT_TIMEOUT, || status(&server)["mongo"]["status"] == "ok");
    wait_until_drained(&server);
    let read = read_on(&server, usize::MAX);
    assert_eq!(read, kept.keys().cloned().collect::<Vec<_>>(), "each once and in order");
    assert_holds(&mongod.messages(), &kept);
}

#[test]
fn without_the_checkpoint_mongodb_gets_what_was_recorded_before_it() {
    let mongod = Mongod::start();
    let mut server = Server::start(options(&mongod.uri(), "oqoqo").set("mongo.enabled", false));
    let mut kept = post(&server, "s", "before", 50);
    let gone = post(&server, "gone", "erased", 50);
    let reply = server.client().request("DELETE", "/api/chat/sessions/gone", &[], None).expect(200);
    assert_eq!(reply["mongo"], "none");
    let on = options(&mongod.uri(), "oqoqo");
    server.reconfigure(on);
    server.restart();
    let later = post(&server, "s", "later", 50);
    wait_until_drained(&server);
    assert_holds(&mongod.messages(), &later);
    kept.extend(later);
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    std::fs::remove_file(server.data().join("journal/checkpoint")).unwrap();
    server.start_again();
    wait_until("all is there", WAIT_TIMEOUT, || stored(&mongod.messages()).len() == kept.len());
    wait_until_drained(&server);
    assert_holds(&mongod.messages(), &kept);
    assert!(gone.keys().all(|id| !kept.contains_key(id)));
}

#[test]
fn an_insert_that_was_given_up_before_an_erasure_brings_nothing_back() {
    let mongod = Mongod::start();
    // Longer than a busy machine takes for a call that does not hang.
    let mut server = Server::start(options(&mongod.uri(), "oqoqo").set("mongo.call_timeout_seconds", 3));
    post(&server, "gone", "drained", 10);
    let mut kept = post(&server, "stays", "stays", 10);
    wait_until_drained(&server);
    mongod.freeze();
    post(&server, "gone", "given up", 500);
    wait_until("a call is given up", WAIT_TIMEOUT, || queue(&server, "failures") > 1);
    assert_eq!(erase(&server, "gone")["mongo"], "pending");
    kept.extend(post(&server, "gone", "later", 10));
    let page = server.client().history("gone", "&limit=500");
    assert_eq!(page["messages"].as_array().unwrap().len(), 10, "{page}");
    mongod.thaw();
    wait_until("it has found MongoDB again", WAIT_TIMEOUT, || status(&server)["mongo"]["status"] == "ok");
    wait_until_drained(&server);
    assert_eq!(status(&server)["mongo"]["erasures_to_confirm"], 1, "what was given up may still arrive");
    wait_until("what hung has arrived or never will", WAIT_TIMEOUT, || {
        let running = doc! { "currentOp": 1, "active": true, "op": "insert" };
        let running = mongod.client().database("admin").run_command(running).run().unwrap();
        running.get_array("inprog").unwrap().is_empty()
    });
    server.restart();
    wait_until_drained(&server);
    wait_until("it is erased again", WAIT_TIMEOUT, || status(&server)["mongo"]["erasures_pending"] == 0);
    assert_holds(&mongod.messages(), &kept);
}

/// Messages of one session whose transcript and journal lost the first five, of a server that drained them: id and text.
fn lost(mongod: &Mongod, deed: fn(&Server)) -> (Server, BTreeMap<String, String>) {
    let small = options(&mongod.uri(), "oqoqo").set("journal.segment_bytes", 2_162_688).set("journal.retain_hours", 0);
    let mut server = Server::start(small);
    let long = "x".repeat(100_000);
    let mut kept = post(&server, "s", &long, 5);
    (0..5).for_each(|part| drop(post(&server, "filler", &format!("{part} {long}"), 5)));
    wait_until_drained(&server);
    wait_until("the first segments are gone", WAIT_TIMEOUT, || {
        post(&server, "filler", "more", 1);
        status(&server)["journal"]["first_sequence"].as_u64() > Some(5)
    });
    kept.extend(post(&server, "s", "later", 3));
    wait_until_drained(&server);
    wait_until("the checkpoint has passed everything", WAIT_TIMEOUT, || {
        let journal = &status(&server)["journal"];
        journal["transcribed"] == journal["last_sequence"]
    });
    server.kill9();
    deed(&server);
    (server, kept)
}

fn wait_until_what_is_left_is_written(server: &Server) {
    wait_until("what is left is written", WAIT_TIMEOUT, || {
        let transcripts = status(server)["transcripts"].clone();
        transcripts["stale"] == 0 && transcripts["lost"].as_u64() > Some(0)
    });
}

/// Whether a page is complete, and what it shows: id and text.
fn page(server: &Server, more: &str) -> (bool, BTreeMap<String, String>) {
    let page = server.client().answered_page("s", more);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = page["messages"].as_array().unwrap();
    (page["complete"] == true, messages.iter().map(|m| (text(&m["id"]), text(&m["text"]))).collect())
}

#[test]
fn what_a_transcript_lost_comes_from_mongodb_and_what_is_lost_is_told() {
    let mut mongod = Mongod::start();
    let deeds: [fn(&Server); 2] = [
        |server| std::fs::remove_dir_all(server.data().join("cache")).unwrap(),
        |server| std::fs::remove_file(server.transcript_path("s")).unwrap(),
    ];
    for deed in deeds {
        mongod.restart();
        mongod.messages().delete_many(doc! {}).run().unwrap();
        let (mut server, kept) = lost(&mongod, deed);
        let here: BTreeMap<_, _> = kept.iter().skip(5).map(|(id, text)| (id.clone(), text.clone())).collect();
        server.start_again();
        wait_until_what_is_left_is_written(&server);
        wait_until_drained(&server);
        // The last three come from memory or disk, the others from MongoDB; a page may be on either side of the border.
        for _ in 0..2 {
            assert_eq!(page(&server, ""), (true, kept.clone()));
            let (mut before, mut shown) = (String::new(), BTreeMap::new());
            while shown.len() < kept.len() {
                let (complete, some) = page(&server, &format!("&limit=2{before}"));
                assert!(complete && !some.is_empty(), "{before}");
                before = format!("&before={}", some.keys().next().unwrap());
                shown.extend(some);
            }
            assert_eq!(shown, kept);
            let first = kept.keys().next().unwrap();
            assert_eq!(page(&server, &format!("&after={first}")).1.len(), kept.len() - 1);
            server.restart();
        }
        mongod.kill9();
        for _ in 0..2 {
            assert_eq!(page(&server, ""), (false, here.clone()), "MongoDB is down");
            let reason = server.client().history("s", "")["reason"].as_str().unwrap().to_owned();
            assert!(reason.contains("MongoDB did not answer"), "{reason}");
            server.restart();
        }
        mongod.restart();
        wait_until("it has found MongoDB again", WAIT_TIMEOUT, || status(&server)["mongo"]["status"] == "ok");
        assert_eq!(page(&server, ""), (true, kept.clone()));
        // A server that has not shown these messages before, and a database that lacks them.
        let lacked: Vec<_> = kept.keys().take(5).map(|id| Bson::from(id.clone())).collect();
        mongod.messages().delete_many(doc! { "_id": { "$in": lacked } }).run().unwrap();
        server.restart();
        wait_until_drained(&server);
        for _ in 0..2 {
            assert_eq!(page(&server, ""), (false, here.clone()), "MongoDB lacks them");
            let reason = server.client().answered_page("s", "")["reason"].as_str().unwrap().to_owned();
            assert!(reason.contains("a part of the transcript is gone"), "{reason}");
            assert!(page(&server, "&limit=2").0, "a page that ends before it lacks nothing");
        }
    }
}

#[test]
fn where_mongodb_came_late_a_page_that_reaches_a_loss_is_not_complete() {
    let mongod = Mongod::start();
    let options =
        options(&mongod.uri(), "oqoqo").set("journal.segment_bytes", 2_162_688).set("journal.retain_hours", 0);
    let mut server = Server::start(options.clone().set("mongo.enabled", false));
    let long = "x".repeat(100_000);
    post(&server, "s", "before MongoDB", 2);
    server.sigterm_and_wait();
    server.reconfigure(options);
    server.start_again();
    let mut there = post(&server, "s", &long, 3);
    (0..5).for_each(|part| drop(post(&server, "filler", &format!("{part} {long}"), 5)));
    wait_until("the first segments are gone", WAIT_TIMEOUT, || {
        post(&server, "filler", "more", 1);
        status(&server)["journal"]["first_sequence"].as_u64() > Some(5)
    });
    there.extend(post(&server, "s", "later", 3));
    wait_until_drained(&server);
    wait_until("the checkpoint has passed everything", WAIT_TIMEOUT, || {
        let journal = &status(&server)["journal"];
        journal["transcribed"] == journal["last_sequence"]
    });
    server.kill9();
    std::fs::remove_file(server.transcript_path("s")).unwrap();
    server.start_again();
    wait_until_what_is_left_is_written(&server);
    wait_until_drained(&server);
    for _ in 0..2 {
        assert_eq!(page(&server, ""), (false, there.clone()), "the first two are nowhere");
        let reason = server.client().history("s", "")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("MongoDB may lack some of it"), "{reason}");
        server.restart();
    }
}

#[test]
fn a_responder_is_told_what_mongodb_alone_has_within_its_time() {
    let mongod = Mongod::start();
    let told = "import json,sys; print(' | '.join(m['text'] for m in json.load(sys.stdin)['messages'][-4:]))";
    let options = options(&mongod.uri(), "oqoqo");
    let options = options.set("responder.kind", "command").set("responder.command", json!(["python3", "-c", told]));
    let lost = Server::start(options.clone());
    let sessions: Vec<String> = (0..10).map(|n| format!("s{n}")).collect();
    sessions.iter().chain([&"t".to_owned()]).for_each(|session| drop(post(&lost, session, "old", 3)));
    wait_until_drained(&lost);
    drop(lost);
    // Its data folder is removed with it.
    let server = Server::start(options);
    wait_until_drained(&server);
    let mut client = server.client();
    let context = |client: &mut support::Client, session: &str| {
        let messages = client.history(session, "&limit=1")["messages"].clone();
        messages[0]["metadata"]["context"].clone()
    };
    // On a busy machine MongoDB may take longer than that once, and not each time.
    let mut answer = |session| (client.chat(session, "now")["response"].take(), context(&mut client, session));
    let whole = (json!("old 0 | old 1 | old 2 | now"), Value::Null);
    assert!(sessions.iter().any(|session| answer(session) == whole), "what MongoDB alone has is told");
    assert_eq!(client.chat("here", "one")["response"], "one");
    wait_until_drained(&server);
    // It is known then that the session began here.
    assert_eq!(client.answered_page("here", "")["complete"], true);
    mongod.freeze();
    let began = Instant::now();
    assert_eq!(client.chat("t", "now")["response"], "now");
    assert!(began.elapsed() < Duration::from_millis(200) + SLACK, "{:?}", began.elapsed());
    // A session that began on this server needs nothing from MongoDB.
    assert_eq!(client.chat("here", "two")["response"], "one | one | two");
    mongod.thaw();
    assert_eq!((context(&mut client, "t"), context(&mut client, "here")), (json!("partial"), Value::Null));
}

#[test]
fn a_server_with_an_empty_data_folder_goes_on_with_what_its_database_has() {
    let mongod = Mongod::start();
    let mut wanted = {
        let server = Server::start(options(&mongod.uri(), "moved"));
        let kept = post(&server, "s", "before", 60);
        wait_until_drained(&server);
        kept
    };
    let server = Server::start(options(&mongod.uri(), "moved"));
    let held = || {
        let page = server.client().answered_page("s", "&limit=500");
        let messages = page["messages"].as_array().unwrap().clone();
        let one = |message: &Value| (message["id"].as_str().unwrap().to_owned(), message["text"].to_string());
        (page["complete"] == true, messages.iter().map(one).collect::<BTreeMap<_, _>>())
    };
    let texts = |of: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        of.iter().map(|(id, text)| (id.clone(), Value::from(text.as_str()).to_string())).collect()
    };
    wait_until("the history comes from MongoDB", WAIT_TIMEOUT, || held() == (true, texts(&wanted)));
    let later = post(&server, "s", "after", 5);
    assert!(later.keys().all(|id| wanted.keys().all(|before| before < id)), "ids go on");
    wanted.extend(later);
    assert_eq!(held(), (true, texts(&wanted)));
    assert_eq!(server.client().get("/api/chat/sessions").expect(200)["sessions"][0]["session_id"], "s");
    wait_until_drained(&server);
    assert_holds(&mongod.messages_of("moved"), &wanted);
}

#[test]
fn an_export_has_what_only_mongodb_has_and_says_when_it_cannot_be_asked() {
    let mut mongod = Mongod::start();
    let server = Server::start(options(&mongod.uri(), "export"));
    let own = post(&server, "m", "own", 3);
    wait_until_drained(&server);
    let messages = mongod.messages_of("export");
    let foreign = |session: &str, text: &str, time: &str| {
        messages
            .insert_one(doc! { "session_id": session, "role": "human", "content": text, "created_at": time })
            .run()
            .unwrap();
    };
    foreign("a", "before all", "2026-11-28T00:00:00Z");
    foreign("z", "behind all", "2026-11-28T00:00:00Z");
    foreign("m", "among them", "2026-11-28T00:00:00Z");
    foreign("no session", "left out", "2026-11-28T00:00:00Z");
    let export = || {
        let output = support::server::run(
            std::process::Command::new(support::server::BINARY).arg("export").current_dir(server.folder()),
        );
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, out, err) = export();
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sessions: Vec<&str> = lines.iter().map(|line| line["session_id"].as_str().unwrap()).collect();
    assert_eq!(sessions, ["a", "m", "m", "m", "m", "z"]);
    assert_eq!(lines[1]["text"], "among them");
    assert!(own.keys().all(|id| out.contains(id.as_str())), "{out}");
    // What both have is as it was recorded here.
    let transcript = std::fs::read_to_string(server.data().join("cache/chat_sessions/m.jsonl")).unwrap();
    assert!(out.contains(&transcript), "{out}\n{transcript}");
    mongod.kill9();
    let (code, out, err) = export();
    assert!(code == Some(1) && err.starts_with("error: the export is not complete: "), "{err}");
    assert!(out.starts_with(&transcript) && out.contains("\n{\"incomplete\":"), "{out}");
}
