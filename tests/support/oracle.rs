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

/// The messages found of each session, in their order.
type Found = BTreeMap<String, Vec<Value>>;

/// What is wrong with what was found; messages by session, role and text.
#[derive(Default)]
struct Findings {
    lost: BTreeSet<String>,
    twice: BTreeSet<String>,
    wrong: Vec<String>,
}

/// Shared by all clients of one test.
#[derive(Default)]
pub struct Oracle {
    sessions: Mutex<BTreeMap<String, Session>>,
    fresh: Mutex<u32>,
    found: Mutex<Findings>,
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

    /// How many acknowledged messages a check missed, and how many messages it found twice.
    pub fn lost_and_twice(&self) -> (usize, usize) {
        let found = self.found.lock().expect("it is only added to");
        (found.lost.len(), found.twice.len())
    }

    /// Checks the sessions whose name begins with `prefix`, then that a fresh write works and has the largest id.
    /// `damaged_lines` is how many torn lines a transcript may show: at most one for each kill.
    #[track_caller]
    pub fn check(&self, server: &Server, prefix: &str, damaged_lines: usize) {
        let names: Vec<String> = self.lock().keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        let histories: Found = names.iter().map(|name| (name.clone(), server.client().whole_history(name))).collect();
        self.compare_all("history", &histories, |_| false);
        let ids = |messages: &[Value]| -> BTreeSet<String> {
            messages.iter().filter_map(|message| message["id"].as_str()).map(str::to_owned).collect()
        };
        let transcript = |(name, history): (&String, &Vec<Value>)| {
            let wanted = ids(history);
            wait_until(&format!("the transcript of {name} has its {} messages", wanted.len()), WAIT_TIMEOUT, || {
                server.transcript(name).0.len() >= wanted.len()
            });
            let (lines, damaged) = server.transcript(name);
            assert!(damaged <= damaged_lines, "{damaged} damaged lines in the transcript of {name}");
            assert_eq!(wanted, ids(&lines), "history and transcript of {name} hold the same");
            (name.clone(), lines)
        };
        self.compare_all("transcript", &histories.iter().map(transcript).collect(), |_| false);
        let largest = histories.values().flat_map(|history| ids(history)).max().unwrap_or_default();
        self.check_fresh_write(server, &largest);
    }

    /// Compares what was found of one session with what is known of it.
    #[track_caller]
    pub fn compare(&self, place: &str, name: &str, found: &[Value]) {
        self.compare_all(place, &BTreeMap::from([(name.to_owned(), found.to_vec())]), |_| false);
    }

    /// The same of several sessions, all of which are looked at before it fails. Messages whose text `is_elsewhere` are not
    /// expected.
    #[track_caller]
    fn compare_all(&self, place: &str, found: &Found, is_elsewhere: impl Fn(&str) -> bool) {
        let mut all = Findings::default();
        let sessions = self.lock();
        for (name, messages) in found {
            match sessions.get(name) {
                Some(session) => session.compare(name, messages, &is_elsewhere, &mut all),
                None => all.wrong.push(format!("{name}: nobody wrote to it")),
            }
        }
        drop(sessions);
        let told = all.told();
        let mut kept = self.found.lock().expect("it is only added to");
        kept.lost.append(&mut all.lost);
        kept.twice.append(&mut all.twice);
        drop(kept);
        assert!(told.is_empty(), "{place}: {told}");
    }

    /// Checks that MongoDB holds the sessions whose name begins with `prefix`: every acknowledged message but those whose text
    /// `is_elsewhere`, once, as the document other programs expect; and nothing that was never sent.
    #[cfg(feature = "mongo")]
    #[track_caller]
    pub fn check_mongo(&self, collection: &Collection<Document>, prefix: &str, is_elsewhere: impl Fn(&str) -> bool) {
        let is_ours = |name: &str| name.starts_with(prefix);
        let mut found: Found =
            self.lock().keys().filter(|name| is_ours(name)).map(|name| (name.clone(), Vec::new())).collect();
        for document in collection.find(doc! {}).sort(doc! { "_id": 1 }).run().expect("find") {
            let message = super::mongod::message_of(&document.expect("a document"));
            let session = message["session_id"].as_str().expect("a session").to_owned();
            if is_ours(&session) {
                found.entry(session).or_default().push(message);
            }
        }
        self.compare_all("MongoDB", &found, is_elsewhere);
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
    fn compare(&self, name: &str, found: &[Value], is_elsewhere: impl Fn(&str) -> bool, findings: &mut Findings) {
        let (mut seen, mut last) = (BTreeSet::new(), String::new());
        for message in found {
            let field = |f: &str| message[f].as_str().unwrap_or_else(|| panic!("no {f}: {message}")).to_owned();
            let (id, key) = (field("id"), (field("role"), field("text")));
            let asked = ("user".to_owned(), key.1.clone());
            let wrong = match self.sent.get(&key) {
                _ if field("session_id") != name => "a message of another session",
                None => "never sent",
                Some(_) if is_elsewhere(&key.1) => "it should be elsewhere",
                Some(_) if seen.contains(&key) => {
                    findings.twice.insert(format!("{name} {} {}", key.0, key.1));
                    continue;
                }
                Some(Some(known)) if *known != id => "stored under another id",
                Some(_) if id <= last => "ids do not rise strictly",
                Some(_) if key.0 == "assistant" && self.sent.contains_key(&asked) && !seen.contains(&asked) => {
                    "a reply without its message"
                }
                Some(_) => "",
            };
            if !wrong.is_empty() {
                findings.wrong.push(format!("{name}: {wrong}: {message}"));
            }
            last.clone_from(&id);
            seen.insert(key);
        }
        let is_lost = |key: &(String, String)| !seen.contains(key) && !is_elsewhere(&key.1);
        let lost = self.sent.iter().filter(|(key, id)| id.is_some() && is_lost(key));
        findings.lost.extend(lost.map(|((role, text), _)| format!("{name} {role} {text}")));
    }
}

impl Findings {
    /// Some of it in words; empty when all is right.
    fn told(&self) -> String {
        let mut told = String::new();
        for (what, some) in [("acknowledged and lost", &self.lost), ("there twice", &self.twice)] {
            if let Some(one) = some.first() {
                told += &format!("{} {what}, among them: {one}; ", some.len());
            }
        }
        told + &self.wrong.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}
