//! Four servers with one replica set behind a balancer, all as docs/scaling.md shows it. Under load the primary is killed, then a
//! server, which comes back on its data, then another is stopped in order. Nothing acknowledged is lost or stored twice, the
//! history of a session that moves has all that MongoDB has, and what is erased on one server is erased on all.
//!
//! A key belongs to the server that heard it. So a message whose outcome is unknown may be recorded once more if it is sent
//! again to another server. That happens here on purpose, and is counted, and so is what happens when it is sent to the same one.
//!
//! `scripts/scale-demo` runs it and shows the table.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

#[path = "scale/balancer.rs"]
mod balancer;
#[path = "scale/ledger.rs"]
mod ledger;
mod support;
#[path = "scale/writers.rs"]
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use balancer::{Balancer, NAMES, server_of};
use ledger::{Found, Ledger, Name};
use mongodb::bson::{Document, doc};
use mongodb::options::ReadConcern;
use mongodb::sync::Collection;
use serde_json::{Value, json};
use support::drained::{options, wait_until_drained};
use support::mongod::ReplicaSet;
use support::{Client, Connection, Options, Random, Server, WAIT_TIMEOUT, free_port, wait_until};
use writers::{Request, SESSIONS, Writers};

/// Acknowledgements that each phase waits for, and those of one server.
const IN_PHASE: usize = 150;
const OF_SERVER: usize = 15;
/// Longer than a batch waits to be sent: what is acknowledged later is in none that was.
const BATCH_SENT: Duration = Duration::from_millis(500);
/// Sessions over which the lag of the history is measured.
const LAGS: usize = 8;

/// A server that takes the host of the document, with the same port for every start, because the balancer knows it.
fn start_server(options: Options) -> Server {
    let options = options.set("server.allowed_hosts", json!(["chat.example.org"]));
    Server::start(options.listen(&format!("127.0.0.1:{}", free_port())))
}

fn texts(page: &Value) -> BTreeSet<String> {
    let messages = page["messages"].as_array().into_iter().flatten();
    messages.map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

fn ids(page: &Value) -> BTreeSet<String> {
    let messages = page["messages"].as_array().into_iter().flatten();
    messages.map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

/// A page that lacks nothing, asked for until there is one: in a failover there is none for a while.
#[track_caller]
fn page(client: &mut Client, session: &str) -> Value {
    let mut page = Value::Null;
    wait_until("the history is complete", WAIT_TIMEOUT, || {
        let path = format!("/api/chat/history?session_id={session}&limit=500");
        let reply = client.try_request("GET", &path, &[], None).ok().filter(|reply| reply.status == 200);
        page = reply.map_or(Value::Null, |reply| reply.json());
        page["complete"] == true
    });
    page
}

/// The servers, the set and the balancer, and what has happened so far.
struct Demo {
    set: ReplicaSet,
    /// The documents, by a client that follows the primary.
    messages: Collection<Document>,
    servers: Vec<Server>,
    balancer: Balancer,
    ledger: Arc<Ledger>,
    writers: Option<Writers>,
    /// What happened in each phase, and how long it took until all that was acknowledged was in MongoDB, if that was waited for.
    phases: Vec<(&'static str, Option<Duration>)>,
    /// What else is to be told.
    notes: Vec<String>,
}

impl Demo {
    #[track_caller]
    fn start() -> Self {
        let set = ReplicaSet::start();
        let messages =
            mongodb::sync::Client::with_uri_str(set.uri()).unwrap().database("oqoqo").collection("chat_messages");
        let options = options(&set.uri(), "oqoqo").set("mongo.shared", true).set("server.drain_seconds", 50);
        let servers: Vec<Server> = NAMES.iter().map(|_| start_server(options.clone())).collect();
        let (balancer, ledger) = (Balancer::start(&servers), Arc::new(Ledger::default()));
        let writers = Writers::start(balancer.address(), &ledger, &mut Random::announced("scale"));
        let writers = Some(writers);
        Self { set, messages, servers, balancer, ledger, writers, phases: Vec::new(), notes: Vec::new() }
    }

    /// What a majority of the set has.
    #[track_caller]
    fn found(&self) -> Found {
        let read = || -> mongodb::error::Result<Found> {
            let fields = doc! { "session_id": 1, "role": 1, "text": 1 };
            let found = self.messages.find(doc! {}).projection(fields).read_concern(ReadConcern::majority());
            let mut ids = Found::new();
            for document in found.run()? {
                let document = document?;
                let text = |field: &str| document.get_str(field).unwrap().to_owned();
                let name = (text("session_id"), text("role"), text("text"));
                ids.entry(name).or_default().insert(text("_id"));
            }
            Ok(ids)
        };
        let mut found = Found::new();
        wait_until("the set answers", WAIT_TIMEOUT, || read().map(|read| found = read).is_ok());
        found
    }

    /// Waits until everything that is acknowledged now is in MongoDB.
    #[track_caller]
    fn wait_until_in_mongo(&self) {
        let mut missing: BTreeSet<String> = self.ledger.acknowledged().into_iter().map(|kept| kept.id).collect();
        wait_until("everything is in MongoDB", 3 * WAIT_TIMEOUT, || {
            let wanted: Vec<&String> = missing.iter().collect();
            let found = self.messages.find(doc! { "_id": { "$in": wanted } }).projection(doc! { "_id": 1 });
            for document in found.read_concern(ReadConcern::majority()).run().into_iter().flatten().flatten() {
                missing.remove(document.get_str("_id").unwrap());
            }
            missing.is_empty()
        });
    }

    #[track_caller]
    fn wait_for_load(&self) {
        wait_until("the load goes on", 2 * WAIT_TIMEOUT, || self.ledger.acknowledged_in_phase() >= IN_PHASE);
    }

    #[track_caller]
    fn wait_for_acknowledgements_by(&self, server: usize, after: Instant, least: usize) {
        let enough = || self.ledger.acknowledged_by(server, after) >= least;
        wait_until("the balancer sends it requests", WAIT_TIMEOUT, enough);
    }

    /// Erases a session by way of the balancer.
    #[track_caller]
    fn erase(&self, session: &str) {
        let path = format!("/api/chat/sessions/{session}");
        let mut client = self.balancer.client();
        let mut erased = || client.try_request("DELETE", &path, &[], None).is_ok_and(|reply| reply.status == 202);
        wait_until("it is erased", WAIT_TIMEOUT, &mut erased);
    }

    /// Waits until no server and no document has anything of a session.
    #[track_caller]
    fn wait_until_gone(&self, session: &str) {
        for server in &self.servers {
            let mut client = server.client();
            wait_until("no server shows it", WAIT_TIMEOUT, || ids(&page(&mut client, session)).is_empty());
        }
        let left = || self.messages.count_documents(doc! { "session_id": session }).run();
        wait_until("MongoDB has nothing of it", WAIT_TIMEOUT, || left().is_ok_and(|left| left == 0));
    }

    /// How long it takes until another server shows what one has acknowledged, at most.
    fn lag(&self) -> Duration {
        let mut client = self.balancer.client();
        let one = |n: usize| {
            let session = format!("lag-{n}");
            let request = Request::message(&session, "hello");
            request.attempt(&self.ledger);
            let server = server_of(&request.deliver(&mut client, &self.ledger)).unwrap();
            let began = Instant::now();
            let mut other = self.servers[(server + 1) % NAMES.len()].client();
            wait_until("the other shows it", WAIT_TIMEOUT, || texts(&page(&mut other, &session)).contains("hello"));
            began.elapsed()
        };
        (0..LAGS).map(one).max().unwrap()
    }

    fn all_is_well(&mut self) {
        self.ledger.begin_phase();
        self.wait_for_load();
        let lag = self.lag();
        self.notes
            .push(format!("A message is in the history of other servers after {:.1} s at most.", lag.as_secs_f64()));
        for server in &self.servers {
            server.client().chat("erased", "hello");
        }
        let began = Instant::now();
        self.erase("erased");
        self.wait_until_gone("erased");
        let took = began.elapsed().as_secs_f64();
        self.notes.push(format!("What is erased on one server is gone from all and from MongoDB after {took:.1} s."));
        let began = Instant::now();
        self.wait_until_in_mongo();
        self.phases.push(("nothing yet", Some(began.elapsed())));
    }

    fn primary_is_killed(&mut self) {
        self.ledger.begin_phase();
        let began = Instant::now();
        let killed = self.set.kill_primary();
        self.wait_for_load();
        self.set.wait_for_primary();
        self.wait_until_in_mongo();
        self.phases.push(("the primary is killed", Some(began.elapsed())));
        self.set.members[killed].restart();
        self.set.wait_until_whole();
    }

    /// Sends a request whose reply is lost on its way, once that server has recorded it.
    #[track_caller]
    fn lose_reply(&self, request: &Request, server: usize, session: &str, text: &str) {
        request.attempt(&self.ledger);
        let mut connection = Connection::tcp(self.balancer.address()).unwrap();
        connection.send(&request.bytes(self.balancer.address())).unwrap();
        let mut client = self.servers[server].client();
        wait_until("it is recorded", WAIT_TIMEOUT, || texts(&page(&mut client, session)).contains(text));
        request.unknown(&self.ledger);
    }

    /// Kills the server of one session, while MongoDB lacks some of its messages, and starts it again.
    fn server_is_killed_and_comes_back(&mut self) {
        self.ledger.begin_phase();
        let mut client = self.balancer.client();
        let first = Request::message("lost-reply", "first");
        first.attempt(&self.ledger);
        let victim = server_of(&first.deliver(&mut client, &self.ledger)).unwrap();
        let [moves, stays] = ["moves", "stays"].map(|text| {
            let request = Request::message("lost-reply", text);
            self.lose_reply(&request, victim, "lost-reply", text);
            request
        });
        let primary = self.set.wait_for_primary();
        self.set.members[primary].freeze();
        self.wait_for_acknowledgements_by(victim, Instant::now() + BATCH_SENT, 5);
        self.servers[victim].client().chat("erased-meanwhile", "hello");
        self.servers[victim].kill9();
        let began = Instant::now();
        self.set.members[primary].thaw();

        let moved = moves.deliver(&mut client, &self.ledger);
        assert_ne!(server_of(&moved), Some(victim));
        assert_eq!(moved.json()["messages"][0]["duplicate"], false, "the other server does not know the key");
        self.erase("erased-meanwhile");
        self.wait_for_load();
        let hidden = self.check_moved_sessions(victim);
        self.notes.push(format!("{hidden} acknowledged messages were on the killed server only, until it came back."));
        self.phases.push(("a server is killed", None));
        self.come_back(victim, &stays, began);
    }

    /// What MongoDB has is in the history of every session, wherever it is now. Returns how many messages are on that server
    /// only.
    #[track_caller]
    fn check_moved_sessions(&self, dead: usize) -> usize {
        let found = self.found();
        let mut client = self.balancer.client();
        for n in 0..SESSIONS {
            let session = format!("load-{n}");
            let shown = ids(&page(&mut client, &session));
            let there = found.iter().filter(|(name, _)| name.0 == session).flat_map(|(_, ids)| ids);
            let lacking: Vec<_> = there.filter(|id| !shown.contains(*id)).collect();
            assert!(lacking.is_empty(), "the history of {session} lacks {lacking:?}");
        }
        let there: BTreeSet<&String> = found.values().flatten().collect();
        let kept = self.ledger.acknowledged();
        kept.iter().filter(|kept| kept.server == dead && !there.contains(&kept.id)).count()
    }

    fn come_back(&mut self, victim: usize, stays: &Request, killed: Instant) {
        self.ledger.begin_phase();
        let began = Instant::now();
        self.servers[victim].start_again();
        let mut client = self.servers[victim].client();
        let again = stays.send(&mut client, &self.ledger, killed, Some(victim)).unwrap();
        assert_eq!(again.json()["messages"][0]["duplicate"], true, "the server that heard the key knows it");
        let waited = killed.elapsed().as_secs_f64();
        self.notes.push(format!("Sent again to its own server a message waited {waited:.1} s, and was recorded once."));
        self.wait_until_gone("erased-meanwhile");
        let took = began.elapsed().as_secs_f64();
        self.notes
            .push(format!("What was erased while a server was dead is gone from it {took:.1} s after its start."));
        self.wait_for_acknowledgements_by(victim, began, OF_SERVER);
        self.wait_for_load();
        self.wait_until_in_mongo();
        self.phases.push(("it is started again", Some(began.elapsed())));
    }

    fn server_is_stopped_in_order(&mut self, server: usize) {
        self.ledger.begin_phase();
        assert_eq!(self.servers[server].sigterm_and_wait().code(), Some(0));
        let there: BTreeSet<String> = self.found().into_values().flatten().collect();
        let left =
            self.ledger.acknowledged().into_iter().filter(|kept| kept.server == server && !there.contains(&kept.id));
        assert_eq!(left.count(), 0, "a server that is stopped in order leaves nothing behind");
        let began = Instant::now();
        self.servers[server].start_again();
        self.wait_for_acknowledgements_by(server, began, OF_SERVER);
        self.wait_for_load();
        self.wait_until_in_mongo();
        self.phases.push(("another is stopped and started", Some(began.elapsed())));
    }

    /// Ends the load, checks everything and shows the table.
    #[allow(clippy::print_stdout, reason = "the table is what it is for")]
    fn ends(mut self) {
        self.writers.take().unwrap().end();
        self.servers.iter().for_each(wait_until_drained);
        let found = self.found();
        self.check_histories(&found);
        self.check_repeated_keys(&found);
        let counts = self.ledger.count(&found);
        println!(
            "\n| what happens | acknowledged | lost | twice | outcome unknown | again | longest wait | all in MongoDB |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for ((what, in_mongo), count) in self.phases.iter().zip(&counts) {
            let ledger::Count { acknowledged, lost, twice, unknown, copies, longest } = count;
            let longest = longest.as_secs_f64();
            let in_mongo = in_mongo.map_or(String::new(), |took| format!("{:.1} s ", took.as_secs_f64()));
            println!(
                "| {what} | {acknowledged} | {lost} | {twice} | {unknown} | {copies} | {longest:.2} s | {in_mongo}|"
            );
        }
        println!();
        self.notes.iter().for_each(|note| println!("{note}"));
        let sum = |of: fn(&ledger::Count) -> usize| counts.iter().map(of).sum::<usize>();
        assert_eq!((sum(|count| count.lost), sum(|count| count.twice)), (0, 0), "lost and twice");
        assert!(sum(|count| count.copies) >= 1, "one was sent to another server on purpose");
    }

    /// The messages that the pipeline of docs/scaling.md finds, by their keys: as many as users sent that are there twice.
    #[track_caller]
    fn check_repeated_keys(&self, found: &Found) {
        let pipeline = [
            doc! { "$match": { "metadata.key": { "$exists": true } } },
            doc! { "$sort": { "_id": 1 } },
            doc! { "$group": { "_id": { "session": "$session_id", "key": "$metadata.key" }, "ids": { "$push": "$_id" } } },
            doc! { "$match": { "ids.1": { "$exists": true } } },
        ];
        let repeated = self.messages.aggregate(pipeline).run().unwrap().map(Result::unwrap);
        let repeated: BTreeSet<Name> = repeated
            .map(|one| {
                let of = one.get_document("_id").unwrap();
                let text = |field: &str| of.get_str(field).unwrap().to_owned();
                (text("session"), "user".to_owned(), text("key"))
            })
            .collect();
        let wanted = found.iter().filter(|(name, ids)| name.1 == "user" && ids.len() > 1).map(|(name, _)| name.clone());
        assert_eq!(repeated, wanted.collect());
    }

    /// Every server shows of every session what MongoDB has, and no more.
    #[track_caller]
    fn check_histories(&self, found: &Found) {
        let sessions: BTreeSet<&String> = found.keys().map(|(session, ..)| session).collect();
        for server in &self.servers {
            let mut client = server.client();
            for session in &sessions {
                let wanted = found.iter().filter(|(name, _)| name.0 == **session).flat_map(|(_, ids)| ids);
                let mut wanted: Vec<&str> = wanted.map(String::as_str).collect();
                wanted.sort_unstable();
                let history = client.whole_history(session);
                let shown: Vec<&str> = history.iter().map(|message| message["id"].as_str().unwrap()).collect();
                assert_eq!(shown, wanted, "the history of {session}");
            }
        }
    }
}

#[test]
#[ignore = "takes a minute; needs Debian's package haproxy"]
fn kills_of_the_primary_and_of_a_server_lose_nothing_acknowledged() {
    let mut demo = Demo::start();
    demo.all_is_well();
    demo.primary_is_killed();
    demo.server_is_killed_and_comes_back();
    demo.server_is_stopped_in_order(0);
    demo.ends();
}

/// Sends a request by a connection of its own, reads the head of its answer only, and tells which server gave it.
#[track_caller]
fn server_at(balancer: &Balancer, request: &str) -> String {
    let mut connection = Connection::tcp(balancer.address()).unwrap();
    connection.send(request.replace("HOST", &balancer.address().to_string()).as_bytes()).unwrap();
    let head = connection.until("\r\n\r\n").unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap();
    assert!(["101", "200", "201", "202"].contains(&status), "{request}: {head}");
    let line = head.lines().find_map(|line| line.strip_prefix("x-chatkeep-server: "));
    line.unwrap_or_else(|| panic!("{request}: {head}")).to_owned()
}

/// A POST; `fields` are further lines of its head, each with its end.
fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: HOST\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// All ways to name a session.
fn requests(session: &str) -> Vec<String> {
    let encoded = session.replace(':', "%3A").replace('@', "%40");
    let long = "x".repeat(200_000);
    let get = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: HOST\r\n{fields}\r\n");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let header = format!("X-Session-Id: {session}\r\n");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    vec![
        post("/api/chat", "", &json!({"message": "hi", "session_id": session}).to_string()),
        post("/api/chat", "", &json!({"session_id": session, "message": long}).to_string()),
        post("/api/chat", &header, &json!({"message": long, "session_id": session}).to_string()),
        post("/api/chat", form, &format!("message=hi&session_id={encoded}")),
        post("/api/chat/messages", "", &json!({"session_id": session, "role": "user", "text": "hi"}).to_string()),
        post("/api/chat/messages", "", &json!([{"session_id": session, "role": "user", "text": "hi"}]).to_string()),
        post("/v1/chat/completions", &header, r#"{"messages": [{"role": "user", "content": "hi"}]}"#),
        get(&format!("/api/chat/history?limit=1&session_id={encoded}"), ""),
        get(&format!("/api/chat/sessions/{encoded}"), ""),
        get(&format!("/api/chat/sessions/{encoded}/events"), ""),
        get(&format!("/ws/chat?session_id={encoded}"), upgrade),
        post(&format!("/api/chat/sessions/{encoded}/stop"), "", ""),
        format!("DELETE /api/chat/sessions/{encoded} HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    ]
}

#[test]
#[ignore = "needs Debian's package haproxy"]
fn a_session_stays_on_its_server_however_a_request_names_it() {
    let mut servers: Vec<Server> = NAMES.iter().map(|_| start_server(Options::default())).collect();
    let balancer = Balancer::start(&servers);
    let mut home = BTreeMap::new();
    for session in ["default", "a:b@example.org", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"] {
        let answered: Vec<String> = requests(session).iter().map(|request| server_at(&balancer, request)).collect();
        assert!(answered.iter().all(|server| *server == answered[0]), "{session}: {answered:?}");
        home.insert(session, answered[0].clone());
    }
    assert_eq!(home.values().collect::<BTreeSet<_>>().len(), NAMES.len(), "all of them are used");
    // Without a session the API means `default`.
    let unnamed = server_at(&balancer, &post("/api/chat", "", r#"{"message": "hi"}"#));
    let named = server_at(&balancer, &post("/api/chat", "", r#"{"message": "hi", "session_id": "default"}"#));
    assert_eq!(unnamed, named);

    let look = |session: &str| {
        let path = format!("/api/chat/history?session_id={}", session.replace('@', "%40"));
        server_at(&balancer, &format!("GET {path} HTTP/1.1\r\nHost: HOST\r\n\r\n"))
    };
    servers[1].kill9();
    for (session, server) in &home {
        let is_down = server == NAMES[1];
        assert_eq!(look(session) != *server, is_down, "{session} moves only if its server is down");
    }
    servers[1].start_again();
    wait_until("every session is back", WAIT_TIMEOUT, || home.iter().all(|(session, server)| look(session) == *server));
}
