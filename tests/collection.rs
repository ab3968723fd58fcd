//! A collection or a replica set that is not as the configuration says: dates by other days, indexes that somebody dropped,
//! a view, a set of another name or not initiated. Each is told by its name, and what can be put right is.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::process::Command;
use std::time::SystemTime;

use chatkeep::config::{Config, MongoConfig, Secret};
use chatkeep::message::Timestamp;
use chatkeep::store::{self, Store};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use support::drained::{options, post, status, wait_until_drained, wait_until_in_error};
use support::mongod::Mongod;
use support::server::{BINARY, run, said};
use support::{Options, Server, WAIT_TIMEOUT, wait_until};

const DAY_MILLIS: i64 = 86_400_000;

fn apply_ttl(server: &Server) -> String {
    let mut command = Command::new(BINARY);
    command.arg("apply-ttl").arg("--config").arg(server.config_path()).arg("--data").arg(server.data());
    said(&run(&mut command))
}

/// Later and sooner, as the status tells.
#[track_caller]
fn differs(server: &Server) -> (u64, u64) {
    wait_until("it is connected", WAIT_TIMEOUT, || status(server)["mongo"]["status"] == "ok");
    let differs = status(server)["mongo"]["ttl_differs"].clone();
    (differs["later"].as_u64().unwrap(), differs["sooner"].as_u64().unwrap())
}

#[test]
fn dates_by_other_days_are_told_and_set_in_either_direction() {
    let mongod = Mongod::start();
    let with_days = |days: u32| options(&mongod.uri(), "oqoqo").set("mongo.ttl_days", days);
    let mut server = Server::start(with_days(365));
    assert_eq!(differs(&server), (0, 0));
    post(&server, "s", "a year", 25);
    wait_until_drained(&server);
    let now = Timestamp::from_micros(u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap());
    let without_time =
        doc! { "_id": "number", "session_id": "s", "role": "user", "text": "?", "created_at": 1_700_000_000 };
    let others = [
        doc! { "session_id": "s", "role": "user", "text": "text", "created_at": now.to_string() },
        doc! { "_id": ObjectId::new(), "session_id": "s", "role": "ai", "content": "date", "created_at": DateTime::now() },
        without_time.clone(),
    ];
    mongod.messages().insert_many(others).run().unwrap();
    // No document has expired by then, so MongoDB removes none under the test.
    for (days, before, rule) in [
        (300, (27, 0), "expire 300 days after they were made"),
        (3650, (0, 27), "expire 3650 days after they were made"),
        (0, (0, 27), "never expire"),
        (365, (27, 0), "expire 365 days after they were made"),
    ] {
        server.reconfigure(with_days(days));
        server.restart();
        assert_eq!(differs(&server), before, "{days}");
        let (later, sooner) = before;
        let told =
            format!("{later} expire later than mongo.ttl_days says, {sooner} sooner; chatkeep apply-ttl sets them");
        server.wait_for_log(&told);
        assert_eq!(apply_ttl(&server), format!("27 documents of oqoqo.chat_messages now {rule}\n"));
        server.restart();
        assert_eq!(differs(&server), (0, 0), "{days}");
        assert_eq!(apply_ttl(&server), format!("0 documents of oqoqo.chat_messages now {rule}\n"));
    }
    for document in mongod.messages().find(doc! { "_id": { "$ne": "number" } }).run().unwrap().map(Result::unwrap) {
        let created = match document.get("created_at").unwrap() {
            Bson::DateTime(date) => date.timestamp_millis(),
            text => i64::try_from(Timestamp::parse(text.as_str().unwrap()).unwrap().micros() / 1000).unwrap(),
        };
        let kept = document.get_datetime("expires_at").unwrap().timestamp_millis() - created;
        assert!((0..=1).contains(&(kept - 365 * DAY_MILLIS)), "{document}");
    }
    assert_eq!(
        mongod.messages().find_one(doc! { "_id": "number" }).run().unwrap(),
        Some(without_time),
        "no time, no date"
    );
}

#[test]
fn dates_that_were_set_by_half_are_set_by_the_same_command_again() {
    let mongod = Mongod::start_fallible();
    let server = Server::prepared(options(&mongod.uri(), "oqoqo").set("mongo.shared", true));
    let old = DateTime::from_millis(DateTime::now().timestamp_millis() + DAY_MILLIS);
    let made = |n: i32| doc! { "_id": n, "session_id": "s", "created_at": DateTime::now(), "expires_at": old };
    mongod.messages().insert_many((0..2500).map(made)).run().unwrap();
    let erasures = mongod.client().database("oqoqo").collection::<Document>("chat_messages_erasures");
    erasures.insert_one(doc! { "_id": "s", "erased_at": DateTime::now(), "expires_at": old }).run().unwrap();
    // The erasures, one batch, and then nothing.
    let fails = doc! { "failCommands": ["update"], "errorCode": 14_031 };
    mongod.fail(doc! { "skip": 2 }, fails);
    let told = apply_ttl(&server);
    assert!(told.starts_with("error: MongoDB answered with an error (code 14031"), "{told}");
    assert!(told.ends_with("; 1000 documents are set, the same again sets the rest\n"), "{told}");
    mongod.work();
    let told = apply_ttl(&server);
    assert_eq!(told, "1500 documents of oqoqo.chat_messages now expire 30 days after they were made\n");
    let erasure = erasures.find_one(doc! {}).run().unwrap().unwrap();
    let kept = erasure.get_datetime("expires_at").unwrap().timestamp_millis() - DateTime::now().timestamp_millis();
    assert!(kept > 30 * DAY_MILLIS, "an erasure outlives what it erases: {erasure}");
}

#[test]
fn apply_ttl_says_why_it_can_do_nothing() {
    let server = Server::prepared(Options::default());
    assert_eq!(apply_ttl(&server), "error: apply-ttl is for MongoDB, and mongo.enabled is false\n");
    let server = Server::prepared(options(support::drained::NOWHERE, "oqoqo"));
    // On a busy machine a try may end by its timeout first.
    wait_until("it says what is refused, and what is set", WAIT_TIMEOUT, || {
        let told = apply_ttl(&server);
        told.starts_with("error: MongoDB cannot be reached: 127.0.0.1:1: Connection refused")
            && told.ends_with("; 0 documents are set, the same again sets the rest\n")
    });
}

#[test]
fn check_config_refuses_a_typed_password_and_writes_without_an_answer() {
    for (uri, wanted) in
        [("mongodb://user:p@ss/word@127.0.0.1/", "percent-encode"), ("mongodb://127.0.0.1/?w=0", "must not have w=0")]
    {
        let server = Server::prepared(options(uri, "oqoqo"));
        let output = run(Command::new(BINARY).arg("check-config").arg("--config").arg(server.config_path()));
        let told = said(&output);
        assert!(output.status.code() == Some(2) && told.contains("mongo.uri: [redacted]: "), "{told}");
        assert!(told.contains(wanted) && !told.contains("p@ss"), "{told}");
    }
}

fn opened(uri: &str) -> std::sync::Arc<dyn Store> {
    let config = MongoConfig { uri: Secret::new(uri), ..Config::defaults(None).unwrap().mongo };
    store::open(&config).unwrap()
}

/// Waits until a connection is refused with this reason: on a busy machine a try may end by its timeout first.
#[track_caller]
fn wait_until_refused(store: &dyn Store, reason: &str) {
    wait_until(reason, WAIT_TIMEOUT, || store.connect().unwrap_err().to_string().contains(reason));
}

#[test]
fn what_is_wrong_with_a_replica_set_or_a_view_is_named() {
    let mongod = Mongod::start_with(&["--replSet", "rs"]);
    let (uri, address) = (mongod.uri(), format!("127.0.0.1:{}", mongod.port()));
    for query in ["", "?replicaSet=rs"] {
        let wanted = format!("{address}: its replica set is not initiated");
        wait_until_refused(&*opened(&format!("{uri}{query}")), &wanted);
    }
    let admin = mongod.client().database("admin");
    let set = doc! { "_id": "rs", "members": [{ "_id": 0, "host": &address }] };
    admin.run_command(doc! { "replSetInitiate": set }).run().unwrap();
    let database = mongod.client().database("oqoqo");
    wait_until("a view can be made", WAIT_TIMEOUT, || {
        let view = doc! { "create": "chat_messages", "viewOn": "other", "pipeline": Vec::<Bson>::new() };
        database.run_command(view).run().is_ok()
    });
    for query in ["?replicaSet=wrong", "?replicaSet=wrong&directConnection=true"] {
        let wanted = format!(
            "MongoDB cannot be used: mongo.uri says replicaSet \"wrong\", and the replica set of {address} is \"rs\""
        );
        wait_until_refused(&*opened(&format!("{uri}{query}")), &wanted);
    }
    let server = Server::start(options(&format!("{uri}?replicaSet=rs"), "oqoqo"));
    let reason = "MongoDB cannot be used: mongo.chat_collection is a view, which takes no documents";
    wait_until(reason, WAIT_TIMEOUT, || wait_until_in_error(&server) == reason);
    database.collection::<Document>("chat_messages").drop().run().unwrap();
    post(&server, "s", "text", 1);
    wait_until_drained(&server);
    // A member that is not the primary, and the only one that may be asked.
    admin.run_command(doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 0, "force": true }).run().unwrap();
    let direct = Server::start(options(&format!("{uri}?directConnection=true"), "oqoqo"));
    post(&direct, "s", "text", 1);
    wait_until("it is told", WAIT_TIMEOUT, || {
        let reason = status(&direct)["mongo"]["reason"].to_string();
        reason.contains("it is not the primary, and with directConnection=true no other server is asked")
    });
}

#[test]
fn a_server_that_joins_the_named_set_later_is_found_without_a_restart() {
    let mut mongod = Mongod::start();
    let (store, port) = (opened(&format!("{}?replicaSet=rs", mongod.uri())), mongod.port());
    for _ in 0..2 {
        let wanted = format!("mongo.uri says replicaSet \"rs\", and 127.0.0.1:{port} is in no replica set");
        wait_until_refused(&*store, &wanted);
    }
    mongod.restart_with("--replSet", "rs");
    let set = doc! { "_id": "rs", "members": [{ "_id": 0, "host": format!("127.0.0.1:{port}") }] };
    mongod.client().database("admin").run_command(doc! { "replSetInitiate": set }).run().unwrap();
    wait_until("it is found", WAIT_TIMEOUT, || store.connect().is_ok());
}
