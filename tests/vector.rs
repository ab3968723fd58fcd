//! The vector pipeline of `scripts/vector/`, run as a user runs it: questions find what was said in other words, and whoever
//! is killed or erased meanwhile, the index has each message that the sessions have, once, and nothing else.
//!
//! `scripts/vector/python.sh` finds or fetches its packages. What the index has is read by Qdrant's client alone.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use support::server::said;
use support::{Client, Limit, Options, Random, Server, WAIT_TIMEOUT};
use tempfile::TempDir;

/// A text that fills more than one point.
const LONG_WORDS: usize = 300;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The python of `scripts/vector/python.sh`.
fn python() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let output = Command::new(root().join("scripts/vector/python.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "scripts/vector/python.sh failed");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}

/// The pipeline, its index in a folder of its own.
struct Pipeline {
    folder: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Pipeline {
    fn of(server: &Server) -> Self {
        let folder = tempfile::Builder::new().prefix("chatkeep-vectors-").tempdir().unwrap();
        let mut pipeline = Self { folder, environment: Vec::new() };
        pipeline.ask_at(server);
        pipeline
    }

    /// Where the server is now; it has another address after a start.
    fn ask_at(&mut self, server: &Server) {
        self.set("CHATKEEP_URL", format!("http://{}", server.address()));
        self.set("CHATKEEP_TRANSCRIPTS", server.data().join("cache/chat_sessions").display().to_string());
    }

    fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.environment.retain(|(other, _)| *other != name);
        self.environment.push((name, value.into()));
    }

    fn index(&self) -> PathBuf {
        self.folder.path().join("vectors")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(python());
        command.arg(root().join("scripts/vector/pipeline.py")).args(arguments).current_dir(self.folder.path());
        for name in ["MONGO_URI", "QDRANT_URL", "EMBEDDINGS_URL", "CHATKEEP_TOKEN", "VECTORS", "VECTORS_NAME"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    #[track_caller]
    fn output(&self, arguments: &[&str]) -> Output {
        let child = self.command(arguments).spawn().unwrap();
        let _limit = Limit::within(&child, 5 * WAIT_TIMEOUT);
        child.wait_with_output().unwrap()
    }

    /// `run --once`, which must succeed; what it said.
    #[track_caller]
    fn run_once(&self) -> String {
        let output = self.output(&["run", "--once"]);
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    /// `ask`, as JSON.
    #[track_caller]
    fn ask(&self, question: &str, more: &[&str]) -> Vec<Value> {
        let output = self.output(&[&["ask", "--json", question], more].concat());
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Starts `run`; it is killed at the end.
    fn start(&self) -> Running {
        let mut child = self.command(&["run"]).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Running { child, lines }
    }

    /// Every point but the position.
    fn points(&self) -> Vec<Value> {
        let mut command = Command::new(python());
        command.arg(root().join("tests/python/points.py")).arg(self.index()).stderr(Stdio::inherit());
        let output = command.output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let points = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        points.filter(|point| point["cursor"].is_null()).collect()
    }

    /// The index has each message of these sessions once, whole, and nothing else.
    #[track_caller]
    fn assert_holds(&self, client: &mut Client, sessions: &[&str]) {
        let mut wanted = BTreeMap::new();
        for session in sessions {
            for message in client.whole_history(session) {
                wanted.insert(message["id"].as_str().unwrap().to_owned(), message);
            }
        }
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for point in self.points() {
            found.entry(point["message_id"].as_str().unwrap().to_owned()).or_default().push(point);
        }
        let lost: Vec<_> = wanted.keys().filter(|id| !found.contains_key(*id)).take(3).collect();
        let foreign: Vec<_> = found.iter().filter(|(id, _)| !wanted.contains_key(*id)).take(3).collect();
        assert!(lost.is_empty() && foreign.is_empty(), "lost: {lost:?}, not in any history: {foreign:?}");
        for (id, points) in &found {
            let (message, count) = (&wanted[id], points[0]["chunks"].as_u64().unwrap());
            assert_eq!(points.len() as u64, count, "points of {message}: {points:?}");
            let characters =
                |value: &Value| value["text"].as_str().unwrap().split_whitespace().map(str::len).sum::<usize>();
            assert_eq!(points.iter().map(characters).sum::<usize>(), characters(message), "the text of {message}");
            for point in points {
                for field in ["session_id", "role", "created_at"] {
                    assert_eq!(point[field], message[field], "{field} of {message}");
                }
            }
        }
    }
}

/// A pipeline that follows the feed.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStderr>,
}

impl Running {
    /// Reads what it says until that many lines are as they should be.
    #[track_caller]
    fn wait_for(&mut self, lines: u64, is_one: impl Fn(&str) -> bool) {
        let _limit = Limit::on(&self.child);
        let mut told = 0;
        while told < lines {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended, or said nothing for {WAIT_TIMEOUT:?}");
            told += u64::from(is_one(&line));
        }
    }

    /// Waits until it has stored something, so many times.
    #[track_caller]
    fn wait_for_steps(&mut self, steps: u64) {
        self.wait_for(steps, |line| line.contains("points added") && !line.starts_with("0 "));
    }

    fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(client: &mut Client, session: &str, texts: &[String]) {
    for part in texts.chunks(500) {
        let one = |text: &String| json!({"session_id": session, "role": "user", "text": text});
        client.post("/api/chat/messages", &part.iter().map(one).collect::<Value>()).expect(201);
    }
}

/// Two hundred sentences about this and that.
fn small_talk() -> Vec<String> {
    let subjects = "The train|Our neighbour|My sister|The new server|The football team|A letter from the bank|The garden|\
                    The recipe|The doctor|Her bicycle";
    let predicates = "was late again this morning|needs a new password|won by two goals|should be watered on Fridays|calls \
                      for two eggs and a cup of flour|is closed in August|sent a bill for the repair|has moved to another \
                      town|asked for the report by Monday|broke down near the station|looks better in the blue light|costs \
                      more than last year|wants to sell the car|lost a set of papers|is painted green now|starts at eight \
                      in the evening|was praised in the newspaper|will be here for two weeks|runs out of memory at \
                      night|keeps the door open";
    let all =
        subjects.split('|').flat_map(|subject| predicates.split('|').map(move |rest| format!("{subject} {rest}")));
    all.collect()
}

#[test]
fn a_question_finds_what_was_said_in_other_words() {
    let server = Server::start(Options::default().set("server.auth_token", "s3cret"));
    let mut client = server.client().with_header("Authorization", "Bearer s3cret");
    let mut pipeline = Pipeline::of(&server);
    let output = pipeline.output(&["run"]);
    assert!(!output.status.success() && said(&output).contains("401 Unauthorized"), "{}", said(&output));
    pipeline.set("CHATKEEP_TOKEN", "s3cret");

    let (keys, grandma) = ("I put the car keys in the blue bowl", "Grandma was born on the third of May");
    let talk = small_talk();
    assert_eq!(talk.len(), 200);
    record(&mut client, "talk", &talk[..100]);
    record(&mut client, "home", &[keys.to_owned(), grandma.to_owned()]);
    pipeline.run_once();
    let table = said(&pipeline.output(&["ask", "where are my car keys?"]));
    let first: Vec<&str> = table.lines().next().unwrap().split("  ").collect();
    assert!(first[2..] == ["home", "user", keys] && table.lines().count() == 5, "{table}");

    // By the histories before, by the feed from here on.
    record(&mut client, "talk", &talk[100..]);
    record(&mut client, "family", &[grandma.to_owned()]);
    client.chat("talk", "/clear");
    client.request("DELETE", "/api/chat/sessions/home", &[], None).expect(200);
    let told = pipeline.run_once();
    assert!(told.contains("points added, 2 removed, by the feed"), "{told}");
    let found = pipeline.ask("when is my grandmother's birthday?", &["--limit", "300"]);
    assert_eq!((&found[0]["text"], &found[0]["session_id"]), (&grandma.into(), &"family".into()), "{found:?}");
    assert!(found.len() > 200 && found.iter().all(|found| found["session_id"] != "home"));
    // The marker of a new context was said by nobody.
    assert!(found.iter().all(|found| found["role"] != "system"));
}

/// A server of `tests/python/`, ended with this.
struct Helper {
    child: Child,
    url: String,
}

impl Helper {
    fn start(program: &str) -> Self {
        let mut command = Command::new(python());
        command.arg(root().join("tests/python").join(program)).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let _limit = Limit::on(&child);
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { child, url: format!("http://127.0.0.1:{}", port.trim()) }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn embeddings_and_points_may_be_those_of_servers() {
    let (embeddings, qdrant) = (Helper::start("embeddings.py"), Helper::start("qdrant.py"));
    let server = Server::start(Options::default());
    let mut texts: Vec<String> = small_talk();
    texts.push("zzz qqq xxx".to_owned());
    record(&mut server.client(), "talk", &texts);
    record(&mut server.client(), "erased", &["qzx".to_owned()]);
    let mut pipeline = Pipeline::of(&server);
    pipeline.set("EMBEDDINGS_URL", format!("{}/v1", embeddings.url));
    pipeline.set("EMBEDDINGS_MODEL", "letters");
    pipeline.set("QDRANT_URL", qdrant.url.as_str());
    pipeline.set("QDRANT_API_KEY", "q");
    pipeline.set("VECTORS_NAME", "another");
    let output = pipeline.output(&["run"]);
    assert!(!output.status.success() && said(&output).contains("401 Unauthorized"), "{}", said(&output));
    pipeline.set("EMBEDDINGS_KEY", "k");
    pipeline.run_once();
    server.client().request("DELETE", "/api/chat/sessions/erased", &[], None).expect(200);
    assert!(pipeline.run_once().contains("0 points added, 1 removed"));
    let found = pipeline.ask("q x z q x z", &["--session", "talk", "--limit", "300"]);
    assert_eq!((found.len(), &found[0]["text"]), (201, &"zzz qqq xxx".into()));
    assert!(!pipeline.index().exists(), "nothing is kept here");
}

/// Texts that no other has; one in a hundred fills several points.
fn many(tag: &str, count: usize) -> Vec<String> {
    let more = |n: usize| if n % 100 == 7 { "word ".repeat(LONG_WORDS) } else { String::new() };
    (0..count).map(|n| format!("{tag} {n} {}", more(n))).collect()
}

#[test]
#[ignore = "long: some thousand messages, a dozen starts"]
fn kills_erasures_expiry_and_a_gap_leave_what_the_sessions_have() {
    let mut random = Random::announced("the vector pipeline");
    let forever = || Options::default().set("mongo.ttl_days", 0);
    let mut server = Server::start(forever());
    server.sigterm_and_wait();
    let line = concat!(
        r#"{"id":"019385d7-5e00-7000-8000-000000000001","session_id":"old","role":"user","text":"long ago","#,
        r#""metadata":{},"vector_ids":[],"created_at":"2024-12-02T06:27:08.672000+00:00"}"#
    );
    fs::write(server.transcript_path("old"), format!("{line}\n")).unwrap();
    server.start_again();
    let mut pipeline = Pipeline::of(&server);
    let mut client = server.client();
    for session in ["a", "b", "c"] {
        record(&mut client, session, &many(session, 700));
    }

    // Killed while it reads the histories, then while it follows the feed: somewhere in a page behind the first.
    let mut sessions = vec!["old", "a", "b", "c"];
    let mut kill = |pipeline: &Pipeline| {
        let mut running = pipeline.start();
        running.wait_for_steps(1);
        std::thread::park_timeout(Duration::from_millis(random.between(0, 300)));
        running.kill9();
    };
    kill(&pipeline);
    kill(&pipeline);
    let before = pipeline.points().len();
    assert!(before >= 500, "what was stored before a kill is there: {before} points");
    pipeline.run_once();
    pipeline.assert_holds(&mut client, &sessions);
    for session in ["d", "e", "f"] {
        record(&mut client, session, &many(session, 1500));
        sessions.push(session);
        kill(&pipeline);
    }
    // While it is down: erased, and recorded again behind it.
    client.request("DELETE", "/api/chat/sessions/b", &[], None).expect(200);
    client.request("DELETE", "/api/chat/sessions/d", &[], None).expect(200);
    record(&mut client, "d", &many("d again", 50));
    pipeline.run_once();
    pipeline.assert_holds(&mut client, &sessions);
    assert!(!pipeline.run_once().contains("points added"), "there is nothing left to do");

    // The feed no longer has what follows: an erasure and new messages are in what is missing.
    client.request("DELETE", "/api/chat/sessions/a", &[], None).expect(200);
    record(&mut client, "g", &many("g", 300));
    server.transcript_of("g", 300);
    server.sigterm_and_wait();
    fs::remove_dir_all(server.data().join("journal")).unwrap();
    server.start_again();
    pipeline.ask_at(&server);
    let mut client = server.client();
    record(&mut client, "h", &many("h", 30));
    sessions.extend(["g", "h"]);
    let mut running = pipeline.start();
    running.wait_for_steps(1);
    running.kill9();
    assert!(pipeline.run_once().contains("by the history of g"));
    pipeline.assert_holds(&mut client, &sessions);
    assert_eq!(client.whole_history("old").len(), 1);

    // What has expired goes, and a question does not find it.
    server.reconfigure(Options::default().set("mongo.ttl_days", 30));
    server.restart();
    pipeline.ask_at(&server);
    let mut client = server.client();
    assert!(pipeline.points().iter().any(|point| point["session_id"] == "old"));
    pipeline.run_once();
    pipeline.assert_holds(&mut client, &sessions);
    assert!(client.whole_history("old").is_empty() && pipeline.ask("long ago", &["--session", "old"]).is_empty());

    // Meanwhile it follows; a question waits until it has nothing to do. A server that is away is waited for.
    let mut running = pipeline.start();
    record(&mut client, "h", &many("at last", 10));
    running.wait_for_steps(1);
    let found = pipeline.ask("at last 7", &["--session", "h", "--limit", "1"]);
    assert!(found[0]["text"].as_str().unwrap().starts_with("at last"), "{found:?}");
    drop(client);
    server.sigterm_and_wait();
    running.wait_for(2, |line| line.contains("again in"));
    running.kill9();
}

#[cfg(feature = "mongo")]
mod with_mongo {
    use super::support::drained::{options, queue, wait_until_drained};
    use super::support::mongod::Mongod;
    use super::support::wait_until;
    use mongodb::bson::doc;

    use super::*;

    /// The ids of each message's points, by its id, as the index and as MongoDB have them.
    fn compare(pipeline: &Pipeline, mongod: &Mongod) -> bool {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for point in pipeline.points() {
            let text = |field: &str| point[field].as_str().unwrap().to_owned();
            wanted.entry(text("message_id")).or_default().push(text("id"));
        }
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for document in mongod.messages().find(doc! {}).run().unwrap() {
            let document = document.unwrap();
            let ids = document.get_array("vector_ids").unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
            found.insert(document.get_str("_id").unwrap().to_owned(), ids.collect());
        }
        wanted.values_mut().chain(found.values_mut()).for_each(|ids| ids.sort());
        wanted == found
    }

    #[test]
    #[ignore = "long: some thousand messages, an outage of MongoDB"]
    fn every_document_gets_its_vector_ids_and_keeps_them() {
        let mut mongod = Mongod::start();
        let mut server = Server::start(options(&mongod.uri(), "oqoqo"));
        let mut pipeline = Pipeline::of(&server);
        pipeline.set("MONGO_URI", mongod.uri());
        let mut client = server.client();
        // Nothing can be drained, so the pipeline comes first.
        mongod.kill9();
        record(&mut client, "s", &many("s", 1000));
        let mut running = pipeline.start();
        running.wait_for_steps(1);
        running.kill9();
        let mut running = pipeline.start();
        record(&mut client, "s", &many("then", 1000));
        running.wait_for_steps(1);
        let ours = json!({"session_id": "s", "role": "user", "text": "with ids", "vector_ids": ["theirs"]});
        client.post("/api/chat/messages", &ours).expect(201);
        mongod.restart();
        let theirs = || mongod.messages().find_one(doc! { "text": "with ids" }).run().unwrap();
        wait_until("every document has its ids", 3 * WAIT_TIMEOUT, || {
            let without = doc! { "vector_ids.0": { "$exists": false } };
            mongod.messages().count_documents(doc! {}).run().unwrap() == 2001
                && mongod.messages().count_documents(without).run().unwrap() == 0
                && theirs().is_some_and(|document| document.get_array("vector_ids").unwrap().len() == 2)
        });
        running.kill9();
        let clear = doc! { "$pull": { "vector_ids": "theirs" } };
        mongod.messages().update_one(doc! { "text": "with ids" }, clear).run().unwrap();
        assert!(compare(&pipeline, &mongod));

        // Offered again, each is recognised and left as it is.
        server.sigterm_and_wait();
        fs::remove_file(server.data().join("journal/checkpoint")).unwrap();
        server.start_again();
        wait_until("all are offered again", WAIT_TIMEOUT, || queue(&server, "already_stored") == 2001);
        assert_eq!((queue(&server, "stored"), queue(&server, "dead_letters")), (0, 0));
        assert!(compare(&pipeline, &mongod));
        // Read from MongoDB, since nothing else has it any more, it is the same message and shows its ids.
        server.sigterm_and_wait();
        fs::remove_dir_all(server.data().join("journal")).unwrap();
        fs::remove_dir_all(server.data().join("cache")).unwrap();
        server.start_again();
        wait_until_drained(&server);
        let page = server.client().answered_page("s", "&limit=1");
        let message = &page["messages"][0];
        assert_eq!((&message["source"], &message["text"]), (&"mongo".into(), &"with ids".into()), "{page}");
        assert_eq!(message["vector_ids"].as_array().unwrap().len(), 1, "{page}");
    }
}
