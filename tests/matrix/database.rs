//! The rows of the fault matrix in which MongoDB is absent, killed, frozen, failing over, picky, slow or dropped: it ends with
//! every acknowledged message once, and meanwhile nobody who posts or reads notices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::sync::Collection;
use serde_json::{Value, json};

use crate::support::drained::{NOWHERE, options, queue, status, wait_until_drained, wait_until_in_error};
use crate::support::mongod::{Mongod, PASSWORD, ReplicaSet, USER};
use crate::support::relay::Relay;
use crate::support::{Options, SLACK, Server, Trial, WAIT_TIMEOUT, remove_if_there, wait_until};

fn started(options: Options) -> Server {
    Server::start(Trial::lasting(options))
}

/// MongoDB has everything; then the server is killed, started, and stopped in order.
fn all_is_there(trial: &Trial, server: &mut Server, messages: &Collection<Document>, since: Instant) {
    trial.drains(server, since);
    trial.oracle.check_mongo(messages, "", |_| false);
    trial.all_is_there(server, 1);
    wait_until_drained(server);
    trial.oracle.check_mongo(messages, "", |_| false);
    assert_eq!(queue(server, "dead_letters"), 0);
}

/// Waits until MongoDB has got some hundred more.
fn wait_for_batches(server: &Server, more: u64) {
    let stored = || queue(server, "stored") + queue(server, "already_stored");
    let before = stored();
    wait_until("batches go through", 2 * WAIT_TIMEOUT, || stored() > before + more);
}

/// MongoDB is not there when the server starts.
pub fn absent(trial: &Trial) {
    let mut mongod = Mongod::start();
    mongod.kill9();
    let mut server = started(options(&mongod.uri(), "oqoqo"));
    let load = trial.load(&server);
    load.wait_for(500);
    wait_until_in_error(&server);
    assert!(queue(&server, "pending") >= 500);
    mongod.restart();
    let since = Instant::now();
    load.end();
    all_is_there(trial, &mut server, &mongod.messages(), since);
}

/// MongoDB is killed under load, four times, at any moment.
pub fn killed(trial: &Trial) {
    let mut mongod = Mongod::start();
    let mut server = started(options(&mongod.uri(), "oqoqo").set("mongo.batch_max_messages", 50));
    let load = trial.load(&server);
    let mut since = Instant::now();
    for _ in 0..4 {
        wait_for_batches(&server, 100);
        load.wait_for_more(50);
        trial.moment(50_000);
        mongod.kill9();
        load.wait_for_more(200);
        mongod.restart();
        since = Instant::now();
    }
    load.end();
    all_is_there(trial, &mut server, &mongod.messages(), since);
}

/// The server is killed before it knows what MongoDB has stored, so that it sends some of it again.
pub fn server_killed(trial: &Trial, rounds: usize) {
    let mongod = Mongod::start();
    let mut server = started(options(&mongod.uri(), "oqoqo").set("mongo.batch_max_age_ms", 1));
    let load = trial.load(&server);
    let mut since = Instant::now();
    for _ in 0..rounds {
        load.wait_for_more(trial.between(1, 300) as usize);
        trial.moment(400_000);
        server.assert_running();
        server.kill9();
        since = Instant::now();
        trial.recovers(&load, || server.start_again());
    }
    load.end();
    trial.drains(&server, since);
    trial.oracle.check(&server, "", rounds);
    trial.oracle.check_mongo(&mongod.messages(), "load", |_| false);
}

/// MongoDB stands still (SIGSTOP) for a while: posts and full pages go on.
pub fn frozen(trial: &Trial, pause: Duration) {
    let mongod = Mongod::start();
    // No post waits for a busy disk, so that one that is slow waits for MongoDB.
    let mut server = started(options(&mongod.uri(), "oqoqo").set("journal.fsync", "never"));
    let load = trial.load(&server);
    load.wait_for(200);
    // A full page needs nothing from MongoDB; a shorter one would rightly say that it is incomplete.
    wait_until("a session has more than a page", WAIT_TIMEOUT, || {
        server.client().history("load001-0", "&limit=50")["has_more"] == true
    });
    let before = load.acknowledged();
    let slowest_read = mongod.stop_cont(pause, || {
        let (began, mut client) = (Instant::now(), server.client());
        let (mut slowest, mut reason) = (Duration::ZERO, None);
        while began.elapsed() < pause {
            let asked = Instant::now();
            let page = client.history("load001-0", "&limit=50");
            assert_eq!(page["complete"], true, "{page}");
            slowest = slowest.max(asked.elapsed());
            let status = client.get("/api/storage/status").expect(200);
            reason = reason.or_else(|| status["mongo"]["reason"].as_str().map(str::to_owned));
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let reason = reason.expect("the status tells why");
        assert!(reason.contains("cannot be reached"), "{reason}");
        slowest
    });
    let since = Instant::now();
    let (slowest, during) = (load.slowest(), load.acknowledged() - before);
    load.end();
    assert!(during > 100, "posts went on: {during}");
    // `mongo.call_timeout_seconds` is ten: no request waits for it.
    assert!(slowest < Duration::from_secs(9) && slowest_read < Duration::from_secs(9), "{slowest:?} {slowest_read:?}");
    let lines = || server.log().lines().filter(|line| line.contains("tried again")).count();
    wait_until_drained(&server);
    assert!(lines() <= 4, "each reason is told once:\n{}", server.log());
    all_is_there(trial, &mut server, &mongod.messages(), since);
}

/// The primary of a replica set is killed, its successor steps down, and then no majority answers.
pub fn failover(trial: &Trial) {
    let mut set = ReplicaSet::start();
    let mut server = started(options(&set.uri(), "oqoqo").set("mongo.batch_max_messages", 100));
    let load = trial.load(&server);
    wait_for_batches(&server, 200);
    let killed = set.kill_primary();
    set.wait_for_primary();
    set.members[killed].restart();
    wait_for_batches(&server, 200);
    set.step_down();
    set.wait_for_primary();
    wait_for_batches(&server, 200);
    let primary = set.wait_for_primary();
    let secondaries: Vec<_> = (0..3).filter(|&n| n != primary).map(|n| &set.members[n]).collect();
    secondaries.iter().for_each(|member| member.freeze());
    load.wait_for_more(300);
    let reason = wait_until_in_error(&server);
    assert!(reason.contains("majority") || reason.contains("cannot be reached"), "{reason}");
    assert!(queue(&server, "pending") > 0, "what no majority confirmed is pending");
    secondaries.iter().for_each(|member| member.thaw());
    let since = Instant::now();
    load.end();
    trial.drains(&server, since);
    all_is_there(trial, &mut server, &set.messages(), since);
}

/// A validator refuses some for ever: they are dead letters, and keep nothing else back.
pub fn poison(trial: &Trial) {
    let mongod = Mongod::start();
    let validator = doc! { "text": { "$not": { "$regex": "^load002" } } };
    let create = doc! { "create": "chat_messages", "validator": validator };
    mongod.client().database("oqoqo").run_command(create).run().unwrap();
    let mut server = started(options(&mongod.uri(), "oqoqo").set("mongo.batch_max_messages", 40));
    let (good, poison) = (trial.load(&server), trial.load(&server));
    good.wait_for(500);
    poison.wait_for(100);
    poison.end();
    // Without a checkpoint everything is offered again.
    server.kill9();
    remove_if_there(&server.data().join("journal/checkpoint"));
    let since = Instant::now();
    trial.recovers(&good, || server.start_again());
    good.wait_for_more(100);
    good.end();
    trial.drains(&server, since);
    trial.oracle.check_mongo(&mongod.messages(), "load", |text| text.starts_with("load002"));
    let letters = dead_letters(&server);
    assert!(letters.iter().all(|letter| letter["reason"].to_string().contains("121")), "{letters:?}");
    assert_eq!(queue(&server, "dead_letters"), letters.len() as u64);
    let mut refused: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for mut letter in letters {
        let session = letter["message"]["session_id"].as_str().unwrap().to_owned();
        refused.entry(session).or_default().push(letter["message"].take());
    }
    assert!(refused.len() > 1, "{refused:?}");
    refused.iter().for_each(|(session, messages)| trial.oracle.compare("dead letters", session, messages));
    trial.all_is_there(&mut server, 1);
}

/// Another document has the `_id` of a message: it is not overwritten, and the message is a dead letter.
pub fn collision(trial: &Trial) {
    let mongod = Mongod::start();
    let mut server = started(options(NOWHERE, "oqoqo"));
    let load = trial.load(&server);
    load.wait_for(300);
    let ours = json!({"session_id": "ours", "role": "user", "text": "ours"});
    let ours = server.client().post("/api/chat/messages", &ours).expect(201)["messages"][0].take();
    let id = ours["id"].as_str().unwrap();
    let theirs = doc! { "_id": id, "text": "theirs" };
    mongod.messages().insert_one(theirs.clone()).run().unwrap();
    let address = server.address().to_string();
    server.reconfigure(options(&mongod.uri(), "oqoqo").listen(&address));
    let since = Instant::now();
    trial.recovers(&load, || server.restart());
    load.end();
    trial.drains(&server, since);
    let letters = dead_letters(&server);
    assert_eq!((letters.len(), queue(&server, "dead_letters")), (1, 1), "{letters:?}");
    assert_eq!((&letters[0]["message"]["id"], &letters[0]["message"]["text"]), (&ours["id"], &json!("ours")));
    assert_eq!(letters[0]["reason"], "another document has its _id");
    assert_eq!(mongod.messages().find_one(doc! { "_id": id }).run().unwrap(), Some(theirs));
    mongod.messages().delete_one(doc! { "_id": id }).run().unwrap();
    trial.oracle.check_mongo(&mongod.messages(), "", |_| false);
    trial.all_is_there(&mut server, 1);
}

fn dead_letters(server: &Server) -> Vec<Value> {
    let letters = std::fs::read_to_string(server.data().join("dead_letter.jsonl")).unwrap();
    letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The password is wrong until the server is started with the right one.
pub fn wrong_password(trial: &Trial) {
    let mongod = Mongod::start_with_password();
    let wrong = Trial::lasting(options(&mongod.uri().replace(PASSWORD, "hunter3"), "oqoqo"));
    let mut server = Server::start(wrong.set("server.drain_seconds", 60));
    let load = trial.load(&server);
    load.wait_for(300);
    let reason = wait_until_in_error(&server);
    assert!(reason.contains("refuses the credentials"), "{reason}");
    assert_eq!(status(&server)["mongo"]["hosts"], json!([format!("127.0.0.1:{}", mongod.port())]));
    let address = server.address().to_string();
    server.reconfigure(options(&mongod.uri(), "oqoqo").listen(&address));
    let since = Instant::now();
    trial.recovers(&load, || server.restart());
    assert!(since.elapsed() < SLACK, "the stop waited for nothing: {:?}", since.elapsed());
    load.end();
    all_is_there(trial, &mut server, &mongod.messages(), since);
    for secret in [PASSWORD, USER, "hunter3"] {
        assert!(!format!("{}{}", server.log(), status(&server)).contains(secret), "{secret} is told");
    }
}

/// MongoDB stores and answers with an error, breaks connections, has no room, or refuses.
pub fn errors(trial: &Trial) {
    let mongod = Mongod::start_fallible();
    let mut server = started(options(&mongod.uri(), "oqoqo").set("mongo.batch_max_messages", 50));
    let load = trial.load(&server);
    let concern = |code: i32| doc! { "code": code, "errmsg": "waiting for replication timed out" };
    let mut since = Instant::now();
    for (data, told) in [
        // MongoDB stores the documents and answers with an error.
        (doc! { "writeConcernError": concern(64) }, "confirm the write on a majority"),
        (doc! { "writeConcernError": concern(100) }, "confirm the write on a majority"),
        (doc! { "closeConnection": true }, "cannot be reached"),
        (doc! { "errorCode": 10_107 }, "cannot be reached"),
        (doc! { "errorCode": 11_602 }, "cannot be reached"),
        (doc! { "errorCode": 14_031 }, "code 14031, OutOfDiskSpace"),
        (doc! { "errorCode": 13 }, "refuses the credentials (code 13, Unauthorized)"),
    ] {
        wait_for_batches(&server, 50);
        let mut data = data;
        data.insert("failCommands", vec!["insert"]);
        mongod.fail("alwaysOn", data);
        load.wait_for_more(100);
        wait_until(told, WAIT_TIMEOUT, || wait_until_in_error(&server).contains(told));
        let failures = queue(&server, "failures");
        wait_until("it goes on trying", WAIT_TIMEOUT, || queue(&server, "failures") > failures);
        let page = server.client().history("load001-0", "&limit=1");
        assert_eq!(page["complete"], true, "who reads does not notice");
        mongod.work();
        since = Instant::now();
    }
    load.end();
    all_is_there(trial, &mut server, &mongod.messages(), since);
}

/// The database is dropped while the server runs: its indexes are made again, and what comes later is stored.
pub fn dropped(trial: &Trial) {
    let mut mongod = Mongod::start();
    let mut server = started(options(&mongod.uri(), "oqoqo"));
    let load = trial.load(&server);
    load.wait_for(300);
    load.end();
    wait_until_drained(&server);
    assert_eq!(status(&server)["mongo"]["indexes_made_again"], Value::Null);
    mongod.client().database("oqoqo").drop().run().unwrap();
    // Otherwise the kill takes it back.
    mongod.client().database("admin").run_command(doc! { "fsync": 1 }).run().unwrap();
    mongod.kill9();
    let load = trial.load(&server);
    load.wait_for(300);
    wait_until_in_error(&server);
    mongod.restart();
    let since = Instant::now();
    load.end();
    trial.drains(&server, since);
    wait_until("it is told", WAIT_TIMEOUT, || status(&server)["mongo"]["indexes_made_again"].is_string());
    assert_eq!(status(&server)["mongo"]["differing_indexes"], json!([]));
    server.wait_for_log("Indexes were gone and are made again (session_ts_idx, expires_at_idx)");
    assert_eq!(mongod.messages().list_index_names().run().unwrap(), ["_id_", "session_ts_idx", "expires_at_idx"]);
    // What was there before is there no more: the server does not know, and `chatkeep resend-to-mongo` sends it again.
    trial.oracle.check_mongo(&mongod.messages(), "load002", |_| false);
    trial.all_is_there(&mut server, 1);
}

/// A link over which a whole batch takes longer than a call may.
pub fn slow_link(trial: &Trial) {
    let mongod = Mongod::start();
    let relay = Relay::before(mongod.port(), 250_000, None);
    let mut server = started(options(&relay.uri(), "oqoqo").set("mongo.call_timeout_seconds", 2));
    let load = trial.load(&server);
    load.wait_for(3_000);
    load.end();
    let since = Instant::now();
    trial.drains(&server, since);
    trial.oracle.check_mongo(&mongod.messages(), "", |_| false);
    // A page that needs MongoDB would wait for the link.
    server.reconfigure(options(&mongod.uri(), "oqoqo"));
    server.restart();
    all_is_there(trial, &mut server, &mongod.messages(), Instant::now());
}

/// SIGTERM with so many pending, without MongoDB and with it.
pub fn stopped_with_backlog(trial: &Trial, messages: usize) {
    let mongod = Mongod::start();
    let mut server = Server::start(options(NOWHERE, "oqoqo").set("server.drain_seconds", 60));
    backlog(trial, &server, messages);
    let stop = |server: &mut Server| {
        let began = Instant::now();
        assert_eq!(server.sigterm_and_wait().code(), Some(0), "{}", server.log());
        began.elapsed()
    };
    let took = stop(&mut server);
    assert!(took < SLACK, "without MongoDB a stop takes {took:?}");
    assert!(server.log().contains(&format!("{messages} records are not in MongoDB yet")), "{}", server.log());

    server.reconfigure(options(&mongod.uri(), "oqoqo").set("server.drain_seconds", 3));
    server.start_again();
    // The connection and the indexes may take a busy machine longer than a stop.
    wait_until("it drains", WAIT_TIMEOUT, || queue(&server, "stored") > 0);
    let stored = || mongod.messages().count_documents(doc! {}).run().unwrap();
    let before_the_stop = stored();
    let took = stop(&mut server);
    // A quarter of the time is kept for the checkpoint. On a busy machine that is too short, and more is sent again.
    let in_time = !server.log().contains("did not end by the deadline");
    assert!(took < Duration::from_secs(3) + SLACK, "with MongoDB a stop takes {took:?}");
    let after_the_stop = stored();
    assert!(after_the_stop > before_the_stop.min(messages as u64 - 1), "it drains as long as it may");
    assert!(after_the_stop < messages as u64 || took < Duration::from_millis(4500), "it drains no longer: {took:?}");
    let since = Instant::now();
    server.start_again();
    trial.drains(&server, since);
    let again = queue(&server, "already_stored");
    assert!(
        again <= 3_000 || !in_time,
        "the stop left a checkpoint behind what it drained: {again} of {after_the_stop} came again"
    );
    trial.oracle.check_mongo(&mongod.messages(), "", |_| false);
    trial.oracle.check(&server, "", 0);
}

/// Records so many in arrays of a thousand, over ten sessions.
fn backlog(trial: &Trial, server: &Server, messages: usize) {
    let mut client = server.client();
    for n in 0..messages / 1000 {
        let session = format!("backlog-{}", n % 10);
        let texts: Vec<String> = (0..1000).map(|m| format!("backlog {n} {m}")).collect();
        texts.iter().for_each(|text| trial.oracle.attempt(&session, "user", text));
        let one = |text: &String| json!({"session_id": session, "role": "user", "text": text});
        let reply = client.post("/api/chat/messages", &texts.iter().map(one).collect()).expect(201);
        for (text, stored) in texts.iter().zip(reply["messages"].as_array().expect("messages")) {
            trial.oracle.acknowledge(&session, "user", text, &stored["id"]);
        }
    }
}

/// A session is erased while MongoDB is down, and the server killed before it can tell MongoDB.
pub fn erased_in_outage(trial: &Trial) {
    let mut mongod = Mongod::start();
    let mut server = started(options(&mongod.uri(), "oqoqo"));
    let record = |text: &str| {
        let body = json!({"session_id": "gone", "role": "user", "text": text});
        server.client().post("/api/chat/messages", &body).expect(201);
    };
    (0..50).for_each(|n| record(&format!("drained {n}")));
    let load = trial.load(&server);
    load.wait_for(200);
    wait_for_batches(&server, 100);
    mongod.kill9();
    (0..50).for_each(|n| record(&format!("undrained {n}")));
    let reply = server.client().request("DELETE", "/api/chat/sessions/gone", &[], None).expect(202);
    assert_eq!(reply["mongo"], "pending");
    load.wait_for_more(200);
    server.kill9();
    trial.recovers(&load, || server.start_again());
    assert!(server.client().history("gone", "")["messages"].as_array().unwrap().is_empty());
    mongod.restart();
    let since = Instant::now();
    load.end();
    trial.drains(&server, since);
    wait_until("MongoDB has erased it", WAIT_TIMEOUT, || status(&server)["mongo"]["erasures_pending"] == 0);
    assert_eq!(mongod.messages().count_documents(doc! { "session_id": "gone" }).run().unwrap(), 0);
    all_is_there(trial, &mut server, &mongod.messages(), since);
}
