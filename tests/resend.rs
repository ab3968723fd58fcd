//! `chatkeep retry-dead-letters` and `resend-to-mongo`, by the real binary before a real mongod: what MongoDB once refused, and
//! what was recorded before it was on, arrives once, whoever is killed meanwhile; what others wrote there stays.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use mongodb::bson::doc;
use serde_json::{Value, json};
use support::clock::ClockShift;
use support::drained::{
    NOWHERE, assert_holds, options, post, queue, status, stored, wait_until_drained, wait_until_in_error,
};
use support::metrics::Scrape;
use support::mongod::Mongod;
use support::server::{BINARY, run};
use support::{Limit, Options, Random, SLACK, Server, WAIT_TIMEOUT, wait_until};

const RETRY: &str = "retry-dead-letters";
const RESEND: &[&str] = &["resend-to-mongo", "--since", "2020-01-01"];

/// A call of the program for that server.
fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--config").arg(server.config_path()).arg("--data").arg(server.data());
    command
}

/// Exit code, stdout and stderr.
#[track_caller]
fn ran(server: &Server, arguments: &[&str]) -> (i32, String, String) {
    let output = run(&mut command(server, arguments));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The counts of a call with `--json`: stored, already stored, refused.
#[track_caller]
fn counts(server: &Server, arguments: &[&str]) -> (u64, u64, u64) {
    let (_, out, err) = ran(server, &[arguments, &["--json"]].concat());
    let told: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    let count = |name: &str| told[name].as_u64().unwrap_or_else(|| panic!("{name}: {told}"));
    assert_eq!(told["running"], false);
    (count("stored"), count("already_stored"), count("refused"))
}

/// The texts of the dead letters, by id, without those that are being blanked; panics when one is there twice.
#[track_caller]
fn letters(server: &Server) -> BTreeMap<String, String> {
    let bytes = std::fs::read_to_string(server.data().join("dead_letter.jsonl")).unwrap_or_default();
    let mut found = BTreeMap::new();
    for line in bytes.lines().filter(|line| !line.starts_with(' ') && !line.ends_with(' ')) {
        let letter: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let text = |name: &str| letter["message"][name].as_str().unwrap().to_owned();
        assert!(found.insert(text("id"), text("text")).is_none(), "a letter is there twice: {line}");
    }
    found
}

/// Has texts refused that the pattern matches.
fn refuse(mongod: &Mongod, database: &str, pattern: &str) {
    let database = mongod.client().database(database);
    let _ = database.create_collection("chat_messages").run();
    let validator = doc! { "text": { "$not": { "$regex": pattern } } };
    database.run_command(doc! { "collMod": "chat_messages", "validator": validator }).run().unwrap();
}

/// Has each insert take that long, so that what is under way does not end before a busy machine looks at it.
fn slow_down(mongod: &Mongod, milliseconds: i32) {
    let insert = doc! { "failCommands": ["insert"], "blockConnection": true, "blockTimeMS": milliseconds };
    mongod.fail("alwaysOn", insert);
}

/// Whether the checkpoint says that MongoDB has everything.
fn has_all(server: &Server) -> bool {
    std::fs::read(server.data().join("journal/checkpoint")).unwrap()[12] & 2 != 0
}

#[test]
fn letters_that_mongodb_takes_leave_the_file_and_the_others_stay_once() {
    let mongod = Mongod::shared();
    refuse(&mongod, "retried", "^poison");
    let mut server = Server::start(options(&mongod.uri(), "retried").set("mongo.batch_max_messages", 7));
    let mut all = post(&server, "s", "good", 5);
    let bad = post(&server, "s", "poison", 50);
    wait_until_drained(&server);
    assert_eq!(letters(&server), bad);
    let (code, out, err) = ran(&server, &[RETRY]);
    let refused = "50 dead letters sent again: 0 stored, 0 there already, 50 refused\n\
                   reason: MongoDB refuses the document: code 121, DocumentValidationFailure\n";
    assert_eq!((code, &*out, &*err), (1, refused, "error: not everything is in MongoDB\n"));
    assert_eq!(letters(&server), bad, "each is there once");
    assert_eq!(queue(&server, "dead_letters"), 50, "it counts what was refused, not how often");
    refuse(&mongod, "retried", "^poison 1");
    assert_eq!(counts(&server, &[RETRY]), (39, 0, 11));
    assert!(letters(&server).into_values().all(|text| text.starts_with("poison 1")) && letters(&server).len() == 11);
    // One that somebody put there meanwhile, with what chatkeep never had.
    refuse(&mongod, "retried", "^never");
    let (id, text) = letters(&server).pop_first().unwrap();
    let letter = std::fs::read_to_string(server.data().join("dead_letter.jsonl")).unwrap();
    let letter = letter.lines().find(|line| line.contains(&id)).unwrap();
    let created: Value = serde_json::from_str::<Value>(letter).unwrap()["message"]["created_at"].clone();
    let theirs = doc! { "_id": &id, "session_id": "s", "role": "user", "text": &text, "vector_ids": ["v"],
    "created_at": created.as_str().unwrap() };
    mongod.messages_of("retried").insert_one(theirs.clone()).run().unwrap();
    let before = Scrape::of(&mut server.client());
    let (code, out, err) = ran(&server, &[RETRY]);
    let told = "11 dead letters sent again: 10 stored, 1 there already, 0 refused\n";
    assert_eq!((code, &*out, &*err), (0, told, ""));
    assert_eq!(mongod.messages_of("retried").find_one(doc! { "_id": &id }).run().unwrap(), Some(theirs));
    let flushed = Scrape::of(&mut server.client()).since(&before, "chatkeep_flushed_messages_total");
    assert_eq!(flushed.into_values().collect::<Vec<_>>(), [11.0]);
    assert_eq!(std::fs::read(server.data().join("dead_letter.jsonl")).unwrap(), b"");
    assert_eq!(ran(&server, &[RETRY]).1, "0 dead letters sent again: 0 stored, 0 there already, 0 refused\n");
    // What comes later is a letter as before.
    refuse(&mongod, "retried", "^late");
    let late = post(&server, "s", "late", 3);
    wait_until_drained(&server);
    assert_eq!(letters(&server), late);
    refuse(&mongod, "retried", "^never");
    server.restart();
    assert_eq!(counts(&server, &[RETRY]), (3, 0, 0));
    mongod.messages_of("retried").delete_one(doc! { "_id": &id }).run().unwrap();
    all.extend(bad.into_iter().chain(late));
    all.remove(&id);
    assert_holds(&mongod.messages_of("retried"), &all);
}

#[test]
fn a_kill_at_any_moment_of_a_retry_loses_no_letter_and_doubles_none() {
    let mut random = Random::announced("kill in a retry");
    let mongod = Mongod::start_fallible();
    refuse(&mongod, "killed", "^poison");
    let mut server = Server::start(options(&mongod.uri(), "killed").set("mongo.batch_max_messages", 10));
    let bad = post(&server, "s", "poison", 2000);
    wait_until_drained(&server);
    refuse(&mongod, "killed", "^never");
    slow_down(&mongod, 30);
    let mut kills = 0;
    while !letters(&server).is_empty() {
        let mut retry = command(&server, &[RETRY]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let before = letters(&server).len();
        if kills < 8 {
            let sent = random.between(1, 300) as usize;
            wait_until("it is under way", WAIT_TIMEOUT, || {
                letters(&server).len().saturating_add(sent) <= before.max(sent)
            });
            server.kill9();
            assert!(retry.wait().unwrap().code() == Some(1) || letters(&server).is_empty());
            kills += 1;
            let (left, there) = (letters(&server), stored(&mongod.messages_of("killed")));
            assert!(bad.keys().all(|id| left.contains_key(id) || there.contains_key(id)), "none is lost");
            server.start_again();
        } else {
            assert!(retry.wait().unwrap().success());
        }
    }
    assert!(kills > 2, "{kills}");
    assert_holds(&mongod.messages_of("killed"), &bad);
}

#[test]
fn letters_that_were_erased_or_have_expired_do_not_come_to_mongodb() {
    let (mongod, clock) = (Mongod::shared(), ClockShift::new());
    refuse(&mongod, "gone", "^poison");
    let server = Server::start(clock.of(options(&mongod.uri(), "gone").set("mongo.ttl_days", 30)));
    post(&server, "old", "poison old", 4);
    wait_until_drained(&server);
    clock.set(31 * 86_400);
    post(&server, "erased", "poison erased", 30);
    let kept = post(&server, "kept", "poison kept", 3);
    wait_until_drained(&server);
    refuse(&mongod, "gone", "^never");
    server.client().request("DELETE", "/api/chat/sessions/erased", &[], None).expect(202);
    let (code, out, _) = ran(&server, &[RETRY]);
    let told = "3 dead letters sent again: 3 stored, 0 there already, 0 refused\n\
                4 dead letters: expired by mongo.ttl_days, not sent\n";
    assert_eq!((code, &*out), (0, told));
    assert_eq!(stored(&mongod.messages_of("gone")), kept);
}

/// Posts so much of so many sessions that the journal's first segments are dropped.
fn fill(server: &Server, sessions: usize) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for n in 0..60 {
        let text = format!("{n} {}", "x".repeat(1000));
        kept.extend(post(server, &format!("s{}", n % sessions), &text, 100));
    }
    wait_until("the first segments are gone", 3 * WAIT_TIMEOUT, || {
        status(server)["journal"]["first_sequence"].as_u64().unwrap() > 1
    });
    kept
}

#[test]
fn what_was_recorded_before_comes_from_journal_and_transcripts() {
    let mongod = Mongod::shared();
    let small = |options: Options| options.set("journal.segment_bytes", 2_162_688).set("journal.retain_hours", 0);
    let mut server = Server::start(small(Options::default()));
    let mut all = fill(&server, 17);
    server.client().request("DELETE", "/api/chat/sessions/s3", &[], None).expect(200);
    let kept: Vec<Value> = (0..17).flat_map(|n| server.client().whole_history(&format!("s{n}"))).collect();
    all.retain(|id, _| kept.iter().any(|message| message["id"] == **id));
    assert!(all.len() > 5000 && all.len() < 6000);
    server.reconfigure(small(options(&mongod.uri(), "late")).set("mongo.batch_max_messages", 150));
    server.restart();
    wait_until_drained(&server);
    let newer = post(&server, "new", "new", 10);
    wait_until_drained(&server);
    assert_eq!(stored(&mongod.messages_of("late")), newer, "nothing of before comes by itself");
    assert!(!has_all(&server));
    // One that is there, and to which another program has added something.
    let id = all.keys().next().unwrap().clone();
    let message = kept.iter().find(|message| message["id"] == *id).unwrap();
    let text = |name: &str| message[name].as_str().unwrap().to_owned();
    let theirs = doc! { "_id": &id, "session_id": text("session_id"), "role": text("role"), "text": text("text"),
    "metadata": {}, "vector_ids": ["mine"], "created_at": text("created_at") };
    mongod.messages_of("late").insert_one(theirs.clone()).run().unwrap();
    // Only the last of it, then all.
    let last = all.keys().nth(all.len() - 100).unwrap();
    let since = kept.iter().find(|message| message["id"] == **last).unwrap()["created_at"].as_str().unwrap();
    assert_eq!(counts(&server, &["resend-to-mongo", "--since", since]), (100, 10, 0));
    assert!(!has_all(&server), "there is older");
    let (code, out, err) = ran(&server, RESEND);
    let told = format!(
        "{} messages sent again: {} stored, 111 there already, 0 refused\n\
         MongoDB has everything that was ever recorded here\n",
        all.len() + 10,
        all.len() - 101,
    );
    assert_eq!((code, out, &*err), (0, told, ""));
    wait_until("the checkpoint says so", WAIT_TIMEOUT, || has_all(&server));
    let collection = mongod.messages_of("late");
    assert_eq!(collection.find_one(doc! { "_id": &id }).run().unwrap(), Some(theirs));
    all.extend(newer);
    assert_holds(&collection, &all);
    assert_eq!(counts(&server, RESEND), (0, all.len() as u64, 0), "the same again changes nothing");
    assert_eq!(letters(&server).len(), 0);
    // A transcript that goes now is whole from MongoDB, and the page says so.
    server.sigterm_and_wait();
    assert!(has_all(&server));
    std::fs::remove_file(server.transcript_path("s5")).unwrap();
    server.start_again();
    wait_until("MongoDB answers for it", WAIT_TIMEOUT, || {
        server.client().history("s5", "&limit=500")["complete"] == true
    });
}

#[test]
fn what_is_nowhere_and_what_mongodb_refuses_is_told_and_then_it_has_not_all() {
    let mongod = Mongod::shared();
    refuse(&mongod, "lacking", "^poison");
    let small = |options: Options| options.set("journal.segment_bytes", 2_162_688).set("journal.retain_hours", 0);
    let mut server = Server::start(small(Options::default()));
    fill(&server, 3);
    post(&server, "poison", "poison", 2);
    server.sigterm_and_wait();
    let of_s1 = std::fs::read(server.transcript_path("s1")).unwrap();
    std::fs::write(server.transcript_path("s1"), &of_s1[of_s1.len() / 2..]).unwrap();
    server.reconfigure(small(options(&mongod.uri(), "lacking")));
    server.start_again();
    wait_until_drained(&server);
    wait_until("the loss is known", WAIT_TIMEOUT, || status(&server)["transcripts"]["lost"] == 1);
    let (code, out, err) = ran(&server, RESEND);
    assert_eq!((code, &*err), (1, "error: not everything is in MongoDB\n"), "{out}");
    assert!(out.contains(", 2 refused\nreason: MongoDB refuses the document: code 121"), "{out}");
    assert!(out.ends_with("1 transcript: lost a part that is nowhere here: chatkeep doctor\n"), "{out}");
    assert_eq!(letters(&server).len(), 0, "a message that is in a transcript needs no letter");
    server.sigterm_and_wait();
    assert!(!has_all(&server));
}

#[test]
fn a_resend_goes_on_over_an_outage_and_ends_with_its_process() {
    let mut mongod = Mongod::start_fallible();
    let mut server = Server::start(Options::default());
    let mut all = BTreeMap::new();
    for n in 0..40 {
        all.extend(post(&server, &format!("s{n}"), "before", 500));
    }
    server.reconfigure(options(&mongod.uri(), "oqoqo").set("mongo.batch_max_messages", 200));
    server.restart();
    wait_until_drained(&server);
    let begin =
        |server: &Server| command(server, RESEND).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let count = |mongod: &Mongod| mongod.messages().count_documents(doc! {}).run().unwrap();
    // 50 s in all.
    slow_down(&mongod, 500);
    let mut resending = begin(&server);
    let limit = Limit::within(&resending, 5 * WAIT_TIMEOUT);
    let mut said = BufReader::new(resending.stderr.take().unwrap());
    let mut told = String::new();
    let mut wait_for_note = |note: &str| {
        while !told.contains(note) {
            assert!(said.read_line(&mut told).unwrap() > 0, "it ended without {note:?}: {told}");
        }
    };
    wait_until("it is under way", WAIT_TIMEOUT, || count(&mongod) > 1000);
    // What is recorded meanwhile does not wait for it.
    let beside = Instant::now();
    all.extend(post(&server, "now", "now", 20));
    let now = || mongod.messages().count_documents(doc! { "session_id": "now" }).run().unwrap();
    wait_until("it is there", WAIT_TIMEOUT, || now() == 20);
    assert!(beside.elapsed() < SLACK);
    let other = server.local_client().post("/api/storage/resend", &json!({"dead_letters": true}));
    let there = count(&mongod);
    assert!(there < all.len() as u64, "{there}");
    let busy = "what was recorded since 2020-01-01T00:00:00.000000+00:00 is being sent; ask again when that has ended";
    assert_eq!((other.problem(409), &other.json()["code"]), (busy.to_owned(), &json!("resend_running")));
    mongod.kill9();
    all.extend(post(&server, "now", "in the outage", 20));
    wait_until_in_error(&server);
    wait_for_note("note: MongoDB cannot be reached");
    mongod.restart();
    slow_down(&mongod, 500);
    wait_until("it goes on", 3 * WAIT_TIMEOUT, || count(&mongod) > there + 500);
    wait_for_note("note: MongoDB works again");
    server.kill9();
    said.read_to_string(&mut told).unwrap();
    let output = resending.wait_with_output().unwrap();
    drop(limit);
    assert!(told.contains("\nerror: the server stopped before it had sent all of it; nothing is lost"), "{told}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    server.start_again();
    assert_eq!(status(&server)["mongo"]["resend"], Value::Null);
    mongod.work();
    let (code, out, _) = ran(&server, RESEND);
    assert_eq!(code, 0, "{out}");
    wait_until_drained(&server);
    assert_holds(&mongod.messages(), &all);
}

#[test]
fn what_another_server_erased_does_not_come_back() {
    let mongod = Mongod::start();
    refuse(&mongod, "oqoqo", "^poison");
    let shared = || options(&mongod.uri(), "oqoqo").set("mongo.shared", true);
    let (a, b) = (Server::start(shared()), Server::start(shared()));
    post(&a, "gone", "poison", 5);
    post(&a, "gone", "said", 5);
    wait_until_drained(&a);
    b.client().request("DELETE", "/api/chat/sessions/gone", &[], None).expect(202);
    wait_until("both have heard of it", WAIT_TIMEOUT, || {
        a.client().whole_history("gone").is_empty() && status(&b)["mongo"]["erasures_pending"] == 0
    });
    refuse(&mongod, "oqoqo", "^never");
    assert_eq!(counts(&a, &[RETRY]), (0, 0, 0));
    assert_eq!(counts(&a, RESEND), (0, 0, 0));
    wait_until_drained(&a);
    assert_eq!(mongod.messages().count_documents(doc! {}).run().unwrap(), 0);
}

#[test]
fn either_command_says_why_it_can_do_nothing() {
    let mut server = Server::prepared(Options::default());
    let (code, out, err) = ran(&server, &[RETRY]);
    let path = server.data().join("chatkeep.sock");
    let told = format!("error: no server is listening on {}: start it with `chatkeep serve`", path.display());
    assert!((code, &*out) == (1, "") && err.starts_with(&told), "{err}");
    server.start_again();
    let refused = "error: the server refuses with 409: mongo.enabled is false, so nothing can be sent; enable it and \
                   restart the server\n";
    assert_eq!(ran(&server, RESEND), (1, String::new(), refused.to_owned()));
    server.reconfigure(options(NOWHERE, "oqoqo"));
    server.restart();
    wait_until_in_error(&server);
    let (code, _, err) = ran(&server, &[RETRY]);
    assert!(code == 1 && err.contains("503: MongoDB cannot be reached: 127.0.0.1:1: Connection refused"), "{err}");
    assert!(err.ends_with("; nothing was sent, and nothing is lost: ask again when mongo.status is ok\n"), "{err}");
    for (arguments, wanted) in [
        (&["resend-to-mongo"][..], "error: resend-to-mongo needs --since: "),
        (&["resend-to-mongo", "--since", "yesterday"], "error: --since must be a day (2025-11-28) or an RFC 3339 time"),
        (&[RETRY, "--since", "2025-11-28"], "error: --since belongs to resend-to-mongo: "),
    ] {
        let (code, _, err) = ran(&server, arguments);
        assert!(code == 2 && err.starts_with(wanted), "{err}");
    }
    let mut client = server.local_client();
    for body in [json!({}), json!({"since": "2025-11-28", "dead_letters": true}), json!({"since": "now"})] {
        let problem = client.post("/api/storage/resend", &body);
        assert_eq!((problem.status, &problem.json()["field"]), (422, &json!("since")), "{body}");
    }
    let told = client.post("/api/storage/resend", &json!({"dead_letter": true})).problem(422);
    assert!(told.ends_with("did you mean `dead_letters`?"), "{told}");
}
