//! Data folders of earlier versions, opened by today's binary; and what an earlier version does with a folder of a later one.
//!
//! `tests/data/NAME.tar.gz` is a data folder as the binary of that version left it when it was killed, and `NAME.json` what
//! that binary answered. A folder is never made again: whoever changes what is on disk adds one, under the name of the first
//! version that writes it, and every test here takes it up. A test that fails with an old folder shows an upgrade that loses
//! something; the binary is to be mended then, not the folder. To add one, with a real mongod:
//!
//! ```text
//! CHATKEEP_FOLDER=0.2.0 cargo test --test upgrade -- --ignored a_folder_is_made
//! ```

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::clock::ClockShift;
use support::server::{BINARY, run, said};
use support::{Client, Options, Server, WAIT_TIMEOUT, files_holding, wait_until, walk};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
/// What every erased text holds.
const ERASED_TEXT: &str = "never to be seen again";

/// Nothing is removed for its age, however old the folder is: segments neither, and with them the keys.
fn options() -> Options {
    Options::default()
        .set("mongo.ttl_days", 0)
        .set("journal.retain_hours", 87_600)
        .set("journal.checkpoint_seconds", 1)
        .set("server.max_body_bytes", 4096)
        .set("journal.segment_bytes", 73_728)
        .set("journal.max_bytes", 4 << 20)
}

/// A folder of an earlier version.
struct OldFolder {
    name: String,
    archive: PathBuf,
    /// `made_at`: seconds since 1970. `sessions`: messages by session, without `source`. `erased`: sessions. `feed`: all
    /// `events`, and those `later` than `cursor`. `keys`: each `path` and `body` with its `reply`. `undelivered`: records
    /// that MongoDB lacked. `dead_letters`: ids.
    wanted: Value,
}

fn old_folders() -> Vec<OldFolder> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut found: Vec<_> =
        walk(&folder).into_iter().filter(|path| path.to_string_lossy().ends_with(".tar.gz")).collect();
    found.sort();
    assert!(!found.is_empty());
    let old = found.into_iter().map(|archive| {
        let name = archive.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz").to_owned();
        let wanted = serde_json::from_slice(&fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        OldFolder { name, archive, wanted }
    });
    old.collect()
}

impl OldFolder {
    /// A server that is not started, with a copy of the folder.
    fn copy(&self, options: Options) -> Server {
        let server = Server::prepared(options);
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&self.archive).arg("-C").arg(server.folder());
        let output = run(&mut tar);
        assert!(output.status.success(), "{}", said(&output));
        server
    }

    /// The seconds by which a clock must be moved to show that long after the folder was made.
    fn later(&self, seconds: i64) -> i64 {
        self.wanted["made_at"].as_i64().unwrap() + seconds - now()
    }
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn doctor(server: &Server, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.arg("doctor").arg("--config").arg(server.config_path()).arg("--data").arg(server.data()).args(more);
    let output = run(command.current_dir(server.folder()));
    (output.status.code(), said(&output))
}

fn status(server: &Server) -> Value {
    server.client().get("/api/storage/status").expect(200)
}

fn history(client: &mut Client, session: &str) -> Vec<Value> {
    let mut messages = client.whole_history(session);
    messages.iter_mut().for_each(|message| _ = message.as_object_mut().unwrap().remove("source"));
    messages
}

fn events(client: &mut Client, after: Option<&str>, limit: usize) -> (Value, String) {
    let after = after.map(|cursor| format!("&after={cursor}")).unwrap_or_default();
    let mut page = client.get(&format!("/api/chat/feed?limit={limit}{after}")).expect(200);
    (page["events"].take(), page["next"].as_str().unwrap().to_owned())
}

/// The name of a session's transcript.
fn transcript_name(session: &str) -> String {
    match session.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}.jsonl"),
        None => format!("{session}.jsonl"),
    }
}

/// Everything that the old version answered is answered so again.
fn assert_answers_as_before(server: &Server, wanted: &Value, case: &str) {
    let mut client = server.client();
    for (session, messages) in wanted["sessions"].as_object().unwrap() {
        assert_eq!(Value::from(history(&mut client, session)), *messages, "{case}: {session}");
        let path = server.data().join("cache/chat_sessions").join(transcript_name(session));
        wait_until(&format!("{case}: the transcript of {session} is whole"), WAIT_TIMEOUT, || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
            lines.is_ok_and(|lines| Value::from(lines) == *messages)
        });
    }
    for session in wanted["erased"].as_array().unwrap() {
        assert_eq!(history(&mut client, session.as_str().unwrap()), [Value::Null; 0], "{case}");
    }
    let feed = &wanted["feed"];
    assert_eq!(events(&mut client, None, 1000).0, feed["events"], "{case}");
    assert_eq!(events(&mut client, feed["cursor"].as_str(), 1000).0, feed["later"], "{case}: a cursor goes on");
    for key in wanted["keys"].as_array().unwrap() {
        let (path, body) = (key["path"].as_str().unwrap(), &key["body"]);
        let mut reply = client.post(path, body).json();
        // What is not of the first answer.
        reply.as_object_mut().unwrap().remove("durable");
        assert_eq!(reply, key["reply"], "{case}: {body}");
        let mut other = body.clone();
        let field = if path.ends_with("messages") { "text" } else { "message" };
        other[field] = "something else".into();
        client.post(path, &other).problem(409);
    }
    let told = status(server);
    assert_eq!(told["journal"]["damaged_at_start"], 0, "{case}");
    assert_eq!(told["transcripts"]["lost"], 0, "{case}");
}

fn dead_letters(server: &Server) -> Vec<String> {
    let text = fs::read_to_string(server.data().join("dead_letter.jsonl")).unwrap();
    text.lines().map(|line| find_id(&serde_json::from_str(line).unwrap())).collect()
}

/// The id of the message in a dead letter.
fn find_id(letter: &Value) -> String {
    let id = letter["id"].as_str().or_else(|| letter["message"]["id"].as_str());
    id.unwrap_or_else(|| panic!("a dead letter has the id of its message: {letter}")).to_owned()
}

#[test]
fn a_folder_of_every_version_is_answered_as_it_was_now_and_in_years() {
    for old in old_folders() {
        for (when, seconds) in [("an hour later", HOUR), ("nine years later", 9 * YEAR)] {
            let case = format!("{}, {when}", old.name);
            let clock = ClockShift::new();
            clock.set(old.later(seconds));
            let mut server = old.copy(clock.of(options()));
            let (code, told) = doctor(&server, &[]);
            assert!(code == Some(0) && told.contains("Nothing is damaged"), "{case}: {told}");
            server.start_again();
            assert_eq!(status(&server)["journal"]["undelivered_to_mongo"], old.wanted["undelivered"], "{case}");
            assert_answers_as_before(&server, &old.wanted, &case);
            assert_eq!(json!(dead_letters(&server)), old.wanted["dead_letters"], "{case}");
            assert!(files_holding(&server.data(), ERASED_TEXT).is_empty(), "{case}");
            // Again, from what today's binary has written meanwhile, with something new behind it.
            server.restart();
            assert_answers_as_before(&server, &old.wanted, &case);
            let new = server.client().chat("new", "hello");
            let newest =
                old.wanted["feed"]["events"].as_array().unwrap().iter().filter_map(|e| e["message"]["id"].as_str());
            assert!(new["user_message_id"].as_str().unwrap() > newest.max().unwrap(), "{case}: ids go on");
            server.sigterm_and_wait();
            let (code, told) = doctor(&server, &[]);
            assert!(code == Some(0) && told.contains("Nothing is damaged."), "{case}: {told}");
        }
    }
}

#[cfg(feature = "mongo")]
#[test]
fn what_mongodb_lacked_arrives_there_and_its_erasures_are_carried_out() {
    use mongodb::bson::doc;
    use support::drained::{stored, wait_until_drained};
    use support::mongod::Mongod;
    let mongod = Mongod::shared();
    for (n, old) in old_folders().into_iter().enumerate() {
        let database = format!("upgrade-{n}");
        let collection = mongod.messages_of(&database);
        // As that version left it there: a message that was erased while MongoDB was away, older than the erasure.
        let id = "00000000-0001-7000-8000-000000000001";
        for session in old.wanted["erased"].as_array().unwrap() {
            let session = session.as_str().unwrap();
            let id = format!("{id}-{session}");
            collection.insert_one(doc! { "_id": id, "session_id": session, "text": ERASED_TEXT }).run().unwrap();
        }
        let mut server = old.copy(
            options()
                .set("mongo.enabled", true)
                .set("mongo.uri", mongod.uri())
                .set("mongo.database", database.as_str()),
        );
        server.start_again();
        wait_until_drained(&server);
        let found = stored(&collection);
        assert_eq!(json!(found.len()), old.wanted["undelivered_messages"], "{}: {found:?}", old.name);
        assert!(!found.values().any(|text| text.contains(ERASED_TEXT)), "{}: {found:?}", old.name);
        assert_eq!(status(&server)["mongo"]["erasures_pending"], 0, "{}", old.name);
    }
}

/// Makes a folder; see the head of this file.
#[cfg(feature = "mongo")]
#[test]
#[ignore = "adds a folder to tests/data"]
fn a_folder_is_made() {
    use std::collections::BTreeMap;

    use mongodb::bson::doc;
    use support::drained::wait_until_drained;
    use support::mongod::Mongod;

    let name = std::env::var("CHATKEEP_FOLDER").expect("CHATKEEP_FOLDER names the version");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let archive = folder.join(format!("{name}.tar.gz"));
    assert!(!archive.exists(), "a folder is never made again");

    let mut mongod = Mongod::start();
    let validator = doc! { "text": { "$not": { "$regex": "^poison" } } };
    let create = doc! { "create": "chat_messages", "validator": validator };
    mongod.client().database("old").run_command(create).run().unwrap();
    let with_mongo = options()
        .set("mongo.enabled", true)
        .set("mongo.uri", mongod.uri())
        .set("mongo.database", "old")
        .set("mongo.backoff_ms_max", 500);
    let mut server = Server::start(with_mongo);
    let mut keys = Vec::new();
    let mut keyed = |server: &Server, path: &str, body: Value| {
        server.client().post(path, &body);
        // What it answers from then on.
        let mut reply = server.client().post(path, &body).json();
        reply.as_object_mut().unwrap().remove("durable");
        keys.push(json!({"path": path, "body": body, "reply": reply}));
    };
    let erase = |server: &Server, session: &str| {
        let path = format!("/api/chat/sessions/{session}");
        server.client().request("DELETE", &path, &[], None).expect(202);
    };
    let record = |server: &Server, session: &str, text: &str| {
        let body = json!({"session_id": session, "role": "user", "text": text});
        server.client().post("/api/chat/messages", &body).expect(201)
    };

    // Drained to MongoDB: turns, names, markers, metadata, keys, a dead letter, an erasure, more than a segment holds.
    for text in ["hello", "Grüße, 世界 🦀", "two\nlines\tand \"quotes\" \\ \u{1}"] {
        server.client().chat("plain", text);
    }
    server.client().chat("plain", "/clear");
    server.client().chat("plain", "after the clear");
    server.client().chat(".hidden:a@b", "a file name with an escape");
    let metadata = json!({"nested": {"list": [1, -2.5, 1e300, null, true, "x"], "big": u64::MAX}, "": "empty name"});
    let roles = ["system", "tool", "narrator", "assistant"];
    let many: Vec<Value> = roles
        .map(|role| json!({"session_id": "roles", "role": role, "text": "", "metadata": metadata, "vector_ids": ["v1", "v2"]}))
        .into();
    server.client().post("/api/chat/messages", &many.into()).expect(201);
    keyed(&server, "/api/chat", json!({"session_id": "keys", "message": "once", "message_id": "a key"}));
    keyed(
        &server,
        "/api/chat/messages",
        json!({"session_id": "keys", "role": "user", "text": "x", "message_id": "k2"}),
    );
    let import = |server: &Server, session: &str, tag: &str| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let micros = u64::try_from(since.as_micros()).unwrap() - 3_600_000_000;
        let lines = (0..5).map(|n| {
            let id = chatkeep::message::Id::from_parts(chatkeep::message::Timestamp::from_micros(micros + n), n);
            json!({"id": id.to_string(), "session_id": session, "role": "user", "text": format!("{tag} {n}")})
                .to_string()
        });
        let (lines, kind) = (lines.collect::<Vec<_>>().join("\n"), [("Content-Type", "application/x-ndjson")]);
        let reply = server.client().request("POST", "/api/chat/import", &kind, Some(lines.as_bytes()));
        assert_eq!(reply.expect(200)["imported"], 5);
    };
    import(&server, "plain", "imported and drained");
    let poison = record(&server, "plain", "poison");
    for n in 0..30 {
        record(&server, "erased", &format!("{ERASED_TEXT} {n} {}", "x".repeat(3000)));
    }
    erase(&server, "erased");
    record(&server, "half", &format!("{ERASED_TEXT}: before the erasure"));
    erase(&server, "half");
    record(&server, "half", "after the erasure");
    record(&server, "erased-late", &format!("{ERASED_TEXT}: in MongoDB"));
    wait_until_drained(&server);

    // MongoDB goes away, and is switched off: what is recorded and erased from here on it lacks.
    mongod.kill9();
    server.client().chat("plain", "while MongoDB is away");
    erase(&server, "erased-late");
    server.reconfigure(options());
    server.restart();
    keyed(
        &server,
        "/api/chat",
        json!({"session_id": "keys", "message": "later", "message_id": "k3", "metadata": metadata}),
    );
    // Files hold nothing of what was erased, the closed segments have their digests, and the transcripts are synced.
    wait_until("the erased texts are overwritten", 2 * WAIT_TIMEOUT, || {
        status(&server)["journal"]["erasures_pending"] == 0 && files_holding(&server.data(), ERASED_TEXT).is_empty()
    });
    let files = |end: &str| walk(&server.data()).iter().filter(|path| path.to_string_lossy().ends_with(end)).count();
    wait_until("closed segments have digests", WAIT_TIMEOUT, || {
        files(".segment") > 1 && files(".digest") + 1 == files(".segment")
    });
    wait_until("all is synced", WAIT_TIMEOUT, || status(&server)["queue"]["pending"] == 0);
    // From here on no checkpoint is written: a start has to read what follows.
    server.sigterm_and_wait();
    // A transcript that was put there, so old that its removal is announced: `first_sweep` tells when.
    let line = json!({
        "id": "019385d7-5e00-7000-8000-000000000001", "session_id": "put-there", "role": "user", "text": "long ago",
        "metadata": {"from": "elsewhere"}, "created_at": "2024-12-02T05:28:24.320000+00:00",
    });
    fs::write(server.transcript_path("put-there"), format!("{line}\n")).unwrap();
    server.reconfigure(options().set("journal.checkpoint_seconds", 3600).set("mongo.ttl_days", 30));
    server.start_again();
    wait_until("the removal is announced", WAIT_TIMEOUT, || {
        status(&server)["transcripts"]["first_sweep_at"].is_string()
    });
    import(&server, "plain", "imported behind the last checkpoint");
    import(&server, "imported", "a session of its own");
    server.client().chat("plain", "behind the last checkpoint");
    server.client().chat(".hidden:a@b", "in the journal only, perhaps");

    let mut client = server.client();
    let sessions = ["plain", ".hidden:a@b", "roles", "keys", "half", "imported"];
    let mut sessions: BTreeMap<_, _> = sessions.map(|session| (session, history(&mut client, session))).into();
    sessions.insert("put-there", vec![line]);
    let (all, _) = events(&mut client, None, 1000);
    let (_, cursor) = events(&mut client, None, 9);
    let (later, _) = events(&mut client, Some(&cursor), 1000);
    let undelivered = status(&server)["journal"]["undelivered_to_mongo"].as_u64().unwrap();
    // Four turns, ten imported messages, and the erasure.
    let lacked = 18;
    assert_eq!(undelivered, lacked + 1);
    let wanted = json!({
        "made_at": now(),
        "sessions": sessions,
        "erased": ["erased", "erased-late"],
        "feed": {"events": all, "cursor": cursor, "later": later},
        "keys": keys,
        "undelivered": undelivered,
        "undelivered_messages": lacked,
        "dead_letters": [poison["messages"][0]["id"]],
    });
    server.kill9();
    fs::create_dir_all(&folder).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "--exclude=spare",
        "--exclude=chatkeep.sock",
        "--exclude=lock",
        "--owner=0",
        "--group=0",
        "--sort=name",
        "-czf",
    ]);
    tar.arg(&archive).arg("-C").arg(server.folder()).arg("data");
    assert!(run(&mut tar).status.success());
    let text = serde_json::to_string_pretty(&wanted).unwrap();
    fs::write(folder.join(format!("{name}.json")), format!("{text}\n")).unwrap();
}

/// Every file of a data folder with its bytes; not the lock, which is opened before anything is read.
fn content(server: &Server) -> Vec<(PathBuf, Vec<u8>)> {
    let files = walk(&server.data()).into_iter().filter(|path| path.is_file() && !path.ends_with("lock"));
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn segments(server: &Server) -> Vec<PathBuf> {
    walk(&server.data()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "segment")).collect()
}

/// Changes the bytes of a file.
fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Sets the version in a header or side file whose checksum ends at `end`.
fn set_version(bytes: &mut [u8], version: u32, end: usize) {
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let checksum = crc32fast::hash(&bytes[..end - 4]);
    bytes[end - 4..end].copy_from_slice(&checksum.to_le_bytes());
}

/// Sets kind and flags of the first frame, with its checksum.
fn set_kind(segment: &mut [u8], kind: u8, flags: u8) {
    let frame = &mut segment[64..];
    let end = 24 + u32::from_le_bytes(frame[16..20].try_into().unwrap()) as usize;
    (frame[20], frame[21]) = (kind, flags);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[0..4]);
    hasher.update(&frame[8..end]);
    frame[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
}

#[test]
fn a_journal_of_a_later_version_is_refused_by_name_and_left_as_it_is() {
    let old = old_folders().pop().unwrap();
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change, &str); 3] = [
        ("a newer segment", |bytes| set_version(bytes, 2, 64), "written in journal format 2"),
        ("another kind of record", |bytes| set_kind(bytes, 9, 0), "a record of kind 9 with flags 0"),
        ("another flag", |bytes| set_kind(bytes, 1, 4), "a record of kind 1 with flags 4"),
    ];
    for (what, change, said_of_it) in changes {
        for closed in [false, true] {
            let case = format!("{what}, closed: {closed}");
            let server = old.copy(options());
            let all = segments(&server);
            let path = if closed { &all[0] } else { all.last().unwrap() };
            edit(path, change);
            if closed {
                // A later version's digest is of its own format.
                edit(&path.with_extension("digest"), |bytes| {
                    let end = bytes.len();
                    set_version(bytes, 99, end);
                });
            }
            let before = content(&server);
            let name = path.file_name().unwrap().to_str().unwrap();
            let output = run(&mut server.command());
            assert_eq!(output.status.code(), Some(1), "{case}: {}", said(&output));
            assert!(said(&output).contains(name) && said(&output).contains(said_of_it), "{case}: {}", said(&output));
            assert!(content(&server) == before, "{case}: a start changes nothing");
            let (code, told) = doctor(&server, &[]);
            assert!(code == Some(1) && told.contains(said_of_it), "{case}: {told}");
            let (code, told) = doctor(&server, &["--repair"]);
            assert!(code == Some(1) && told.contains(said_of_it), "{case}: {told}");
            assert!(content(&server) == before, "{case}: the doctor changes nothing");
        }
    }
}

#[test]
fn side_files_of_a_later_version_are_made_again_and_cost_no_message() {
    for old in old_folders() {
        let mut server = old.copy(options());
        let journal = server.data().join("journal");
        for (name, end) in [("checkpoint", Some(64)), ("first_sweep", Some(33)), ("digest", None)] {
            for path in
                walk(&journal).iter().filter(|path| path.ends_with(name) || path.extension().is_some_and(|e| e == name))
            {
                edit(path, |bytes| {
                    let end = end.unwrap_or(bytes.len());
                    set_version(bytes, 99, end);
                });
            }
        }
        edit(&journal.join("transcript_lengths"), |bytes| bytes.extend_from_slice(b"v2 a line of another form\n"));
        let letters = server.data().join("dead_letter.jsonl");
        edit(&letters, |bytes| bytes.extend_from_slice(b"{\"version\":2}\n"));
        server.start_again();
        assert_answers_as_before(&server, &old.wanted, &old.name);
        assert!(fs::read_to_string(letters).unwrap().ends_with("{\"version\":2}\n"), "what is not known stays");
        server.sigterm_and_wait();
        let (code, told) = doctor(&server, &[]);
        assert_eq!(code, Some(0), "{told}");
    }
}
