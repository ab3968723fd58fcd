//! The oracle: remembers everything that was sent and everything that was acknowledged, and later tells whether the
//! server kept its promise. Each acknowledged message is found exactly once, with its text, in the history and in the
//! transcript, and once it is drained in MongoDB; nothing is there that was never sent; ids rise; a fresh write works.
//!
//! Every text it hears of is unique in its session and role, so that a text names one message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};

#[cfg(feature = "mongo")]
use mongodb::{
    bson::{Document, doc},
    sync::Collection,
};
use serde_json::Value;

use super::{Server, WAIT_TIMEOUT, wait_until};

/// What was sent as (role, text), and what is known of it.
#[derive(Default)]
struct Session {
    /// The id once acknowledged.
    sent: HashMap<(String, String), Option<String>>,
}

/// Shared by all clients of one test.
#[derive(Default)]
pub struct Oracle {
    sessions: Mutex<BTreeMap<String, Session>>,
    fresh: Mutex<u32>,
}

impl Oracle {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Session>> {
        self.sessions.lock().expect("no client panicked while it told the oracle")
    }

    /// A message is about to be sent; it may be stored from now on.
    #[track_caller]
    pub fn attempt(&self, session: &str, role: &str, text: &str) {
        let mut sessions = self.lock();
        let sent = &mut sessions.entry(session.to_owned()).or_default().sent;
        let before = sent.insert((role.to_owned(), text.to_owned()), None);
        assert!(before.is_none(), "a text is sent once: {text}");
    }

    /// The server answered for it: it must be stored from now on, for ever.
    #[track_caller]
    pub fn acknowledge(&self, session: &str, role: &str, text: &str, id: &Value) {
        let id = id.as_str().unwrap_or_else(|| panic!("an acknowledgement without an id for {text}"));
        let mut sessions = self.lock();
        let sent = &mut sessions.entry(session.to_owned()).or_default().sent;
        let known = sent.get_mut(&(role.to_owned(), text.to_owned()));
        *known.unwrap_or_else(|| panic!("acknowledged but never sent: {role} {text}")) = Some(id.to_owned());
    }

    /// How many messages were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.lock().values().map(|s| s.sent.values().flatten().count()).sum()
    }

    /// Checks the sessions whose name begins with `prefix`, then that a fresh write works and has the largest id.
    /// `damaged_lines` is how many torn lines a transcript may show: at most one for each kill.
    #[track_caller]
    pub fn check(&self, server: &Server, prefix: &str, damaged_lines: usize) {
        let mut largest = String::new();
        {
            let sessions = self.lock();
            for (name, session) in sessions.iter().filter(|(n, _)| n.starts_with(prefix)) {
                let history = server.client().whole_history(name);
                session.compare(&format!("history of {name}"), name, &history);
                let ids: BTreeSet<&str> = history.iter().filter_map(|m| m["id"].as_str()).collect();
                wait_until(&format!("the transcript of {name} has its {} messages", ids.len()), WAIT_TIMEOUT, || {
                    server.transcript(name).0.len() >= ids.len()
                });
                let (lines, damaged) = server.transcript(name);
                assert!(damaged <= damaged_lines, "{damaged} damaged lines in the transcript of {name}");
                session.compare(&format!("transcript of {name}"), name, &lines);
                let in_file: BTreeSet<&str> = lines.iter().filter_map(|m| m["id"].as_str()).collect();
                assert_eq!(ids, in_file, "history and transcript of {name} hold the same");
                if let Some(last) = ids.last() {
                    largest = largest.max((*last).to_owned());
                }
            }
        }
        self.check_fresh_write(server, &largest);
    }

    /// Compares what was found of one session with what is known of it.
    #[track_caller]
    pub fn compare(&self, place: &str, name: &str, found: &[Value]) {
        self.lock().get(name).expect("a session that was told of").compare(place, name, found);
    }

    /// Checks that MongoDB holds the sessions whose name begins with `prefix`: every acknowledged message but those whose text
    /// `is_elsewhere`, once, as the document other programs expect; and nothing that was never sent.
    #[cfg(feature = "mongo")]
    #[track_caller]
    pub fn check_mongo(&self, collection: &Collection<Document>, prefix: &str, is_elsewhere: impl Fn(&str) -> bool) {
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for document in collection.find(doc! {}).sort(doc! { "_id": 1 }).run().expect("find") {
            let message = super::mongod::message_of(&document.expect("a document"));
            let session = message["session_id"].as_str().expect("a session").to_owned();
            found.entry(session).or_default().push(message);
        }
        let sessions = self.lock();
        for name in found.keys().filter(|name| name.starts_with(prefix)) {
            assert!(sessions.contains_key(name), "MongoDB has a session nobody wrote to: {name}");
        }
        for (name, session) in sessions.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let wanted = Session {
                sent: session
                    .sent
                    .iter()
                    .filter(|((_, text), _)| !is_elsewhere(text))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            };
            wanted.compare(&format!("MongoDB, {name}"), name, found.get(name).map_or(&[], Vec::as_slice));
        }
    }

    #[track_caller]
    fn check_fresh_write(&self, server: &Server, largest: &str) {
        let number = {
            let mut fresh = self.fresh.lock().expect("a counter");
            *fresh += 1;
            *fresh
        };
        let text = format!("fresh {number}");
        let mut client = server.client();
        self.attempt("oracle-fresh", "user", &text);
        self.attempt("oracle-fresh", "assistant", &text);
        let reply = client.chat("oracle-fresh", &text);
        self.acknowledge("oracle-fresh", "user", &text, &reply["user_message_id"]);
        self.acknowledge("oracle-fresh", "assistant", &text, &reply["assistant_message_id"]);
        let id = reply["user_message_id"].as_str().expect("an id");
        assert!(id > largest, "a new id ({id}) is larger than every one before ({largest})");
        let page = client.history("oracle-fresh", "&limit=2");
        assert_eq!(page["messages"][0]["id"], reply["user_message_id"], "the fresh message is in the history");
        assert_eq!(page["messages"][1]["text"], text.as_str(), "the fresh reply is in the history");
    }
}

impl Session {
    #[track_caller]
    fn compare(&self, place: &str, name: &str, found: &[Value]) {
        let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
        let mut last = String::new();
        for message in found {
            let field =
                |f: &str| message[f].as_str().unwrap_or_else(|| panic!("{place}: no {f}: {message}")).to_owned();
            let (id, role, text) = (field("id"), field("role"), field("text"));
            assert_eq!(field("session_id"), name, "{place}: a message of another session");
            assert!(id > last, "{place}: ids rise strictly: {id} after {last}");
            last.clone_from(&id);
            let key = (role, text);
            match self.sent.get(&key) {
                None => panic!("{place}: never sent: {message}"),
                Some(Some(known)) => assert_eq!(&id, known, "{place}: stored under another id: {message}"),
                Some(None) => {}
            }
            if key.0 == "assistant" && self.sent.contains_key(&("user".to_owned(), key.1.clone())) {
                let user = ("user".to_owned(), key.1.clone());
                assert!(seen.contains(&user), "{place}: a reply without its message: {message}");
            }
            assert!(seen.insert(key), "{place}: there twice: {message}");
        }
        let lost: Vec<_> = self.sent.iter().filter(|(k, id)| id.is_some() && !seen.contains(*k)).take(5).collect();
        assert!(lost.is_empty(), "{place}: acknowledged and lost, among them: {lost:?}");
    }
}
