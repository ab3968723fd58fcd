//! Pages of a search beside a plain look at all messages: random histories with erasures, expiry, rewinds, imports,
//! transcripts that are stale or were edited, odd letters and escapes, and every size of a page.
//!
//! Compiled under `#[cfg(test)]` only.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::page::JOURNAL;
use super::*;
use crate::cache::Cache;
use crate::disk::sim::{Op, Random, SimDisk};
use crate::history::History;
use crate::journal::{NewRecord, ReplyTo};
use crate::listing::{SessionList, folded};
use crate::message::{Draft, Marker, Message, Metadata};
use crate::recorder::{OpenedRecorder, Recorder};

const SEEDS: u64 = 40;
const BEGIN: u64 = 1_790_000_000_000_000;
const DAY: u64 = 86_400_000_000;
const SESSIONS: [&str; 5] = ["a", "a-1", "b", "b-2", "c"];
/// What texts and words are made of.
const PARTS: [&str; 22] = [
    "alpha",
    "ALPHA",
    "Kiwi",
    "\u{212a}iwi",
    "\u{130}stanbul",
    "istanbul",
    "ΟΔΟΣ",
    "οδος",
    "straße",
    "STRA\u{1e9e}E",
    "日本",
    "\"",
    "\\",
    "/",
    "\u{1}",
    "\u{1b}[1m",
    "привет",
    "ПРИВЕТ",
    "text",
    "😀",
    "\u{307}",
    "rewind",
];

struct Server {
    recorder: Recorder<SimDisk>,
    transcripts: Arc<Transcripts<SimDisk>>,
    search: MessageSearch<SimDisk>,
}

struct World {
    disk: SimDisk,
    config: Config,
    now: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
    /// What was recorded and neither erased nor expired, by session, oldest first.
    model: BTreeMap<&'static str, Vec<Said>>,
}

#[derive(Clone, Debug)]
struct Said {
    id: Id,
    role: &'static str,
    text: String,
    marker: Option<Marker>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        config.journal.path = folder.path().join("journal");
        config.mongo.ttl = Some(Duration::from_micros(DAY));
        let now = Arc::new(AtomicU64::new(BEGIN));
        Self { disk: SimDisk::default(), config, now, _folder: folder, model: BTreeMap::new() }
    }

    fn open(&self) -> Server {
        let (disk, config, clock) = (self.disk.clone(), &self.config, Clock::fixed(self.now.clone()));
        let folder = &config.mongo.cache.disk_path;
        let transcripts = Transcripts::open(disk.clone(), folder, NonZeroUsize::new(2).unwrap()).unwrap();
        let transcripts = Arc::new(transcripts.expiring(Expiry::new(config.mongo.ttl, clock.clone())));
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let opened = Recorder::open_on(disk, config, clock.clone(), &transcripts, cache.clone(), Box::new(|| ()));
        let OpenedRecorder { recorder, journal, sessions, .. } = opened.unwrap();
        let history = Arc::new(History::new(config, clock.clone(), cache, transcripts.clone(), journal.clone()));
        let (index, kept) = (sessions.clone(), transcripts.clone());
        let list = SessionList::new(config, clock.clone(), sessions, kept, journal.clone(), history);
        list.load();
        let search = MessageSearch::new(config, clock, index, transcripts.clone(), journal);
        Server { recorder, transcripts, search }
    }

    fn path(&self, session: &str) -> PathBuf {
        self.config.mongo.cache.disk_path.join(SessionId::new(session).unwrap().file_name())
    }

    fn say(&mut self, server: &Server, session: &'static str, role: &'static str, text: &str, metadata: &Value) {
        let id = SessionId::new(session).unwrap();
        let given = Metadata { given: metadata.as_object(), defaults: &[] };
        let line = Draft { session: &id, role, text, metadata: given, vector_ids: &[] }.prepare();
        let new = NewRecord::Message { line, key: None, reply_to: ReplyTo::Nothing };
        let id = server.recorder.record(vec![new]).unwrap()[0].id();
        let marker = match metadata["type"].as_str().filter(|_| role == "system") {
            Some("rewind") => Some(Marker::Rewind(metadata["to"].as_str().map(|to| to.parse().unwrap()))),
            Some(_) => Some(Marker::Clear),
            None => None,
        };
        self.model.entry(session).or_default().push(Said { id, role, text: text.to_owned(), marker });
    }

    fn say_any(&mut self, server: &Server, random: &mut Random) {
        let session = SESSIONS[random.below(5) as usize];
        let said = self.model.get(session).map_or(&[][..], Vec::as_slice);
        let any = |random: &mut Random| said[random.below(said.len() as u64) as usize].id.to_string();
        let metadata = match random.below(12) {
            0 => json!({"type": "clear", "note": "alpha"}),
            1 => json!({"type": "rewind", "to": null}),
            2..=3 if !said.is_empty() => json!({"type": "rewind", "to": any(random)}),
            _ => json!({"note": "alpha"}),
        };
        let is_marker = metadata["type"].is_string();
        let role = if is_marker { "system" } else { ["user", "assistant", "system"][random.below(3) as usize] };
        let mut text = any_text(random);
        if random.one_in(20) {
            text.push_str(&"x".repeat(random.below(6000) as usize));
            text.push_str(PARTS[random.below(22) as usize]);
        }
        self.say(server, session, role, &text, &metadata);
    }

    /// Imports a message of the half day before.
    fn import_any(&mut self, server: &Server, session: &'static str, random: &mut Random) {
        let time = self.now.load(Ordering::SeqCst) - 1 - random.below(DAY / 2);
        let (id, text) = (Id::from_parts(Timestamp::from_micros(time), random.draw()), any_text(random));
        let (name, metadata) = (SessionId::new(session).unwrap(), Metadata::default());
        let draft = Draft { session: &name, role: "user", text: &text, metadata, vector_ids: &[] };
        if server.recorder.import(&[Arc::new(draft.prepare().seal(id))]).unwrap().is_some() {
            let said = self.model.entry(session).or_default();
            said.insert(said.partition_point(|said| said.id < id), Said { id, role: "user", text, marker: None });
        }
    }

    fn expire(&mut self) {
        let bound = self.now.load(Ordering::SeqCst).saturating_sub(DAY);
        self.model.values_mut().for_each(|said| said.retain(|said| said.id.time().micros() >= bound));
    }

    /// Writes some lines of a transcript as other programs would.
    fn edit(&self, session: &str, random: &mut Random) {
        let path = self.path(session);
        if self.disk.peek(&path).is_none() {
            return;
        }
        self.disk.damage(&path, |bytes| {
            let mut edited = Vec::new();
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                match serde_json::from_slice::<Value>(line) {
                    Ok(message) if random.one_in(3) => {
                        let layout = if random.one_in(2) { message.to_string() } else { reversed(&message) };
                        edited.extend_from_slice(escaped(&layout).as_bytes());
                        edited.push(b'\n');
                    }
                    _ => edited.extend_from_slice(line),
                }
                if random.one_in(8) {
                    edited.extend_from_slice(b"alpha is no message\n");
                }
            }
            *bytes = edited;
        });
    }

    /// The specification.
    fn find(&self, ask: &SearchQuery) -> Vec<Id> {
        let updated = |said: &[Said]| said.iter().filter(|said| said.marker.is_none()).map(|said| said.id.time()).max();
        let wanted = |session: &SessionId| {
            ask.session.as_ref().is_none_or(|asked| asked == session)
                && ask.prefix.as_ref().is_none_or(|prefix| prefix.covers(session))
        };
        let sessions = self.model.iter().filter(|(name, _)| wanted(&SessionId::new(name).unwrap()));
        let mut sessions: Vec<_> = sessions.filter_map(|(name, said)| Some((updated(said)?, name, said))).collect();
        sessions.sort_unstable_by(|one, other| (other.0, other.1).cmp(&(one.0, one.1)));
        let row = |said: &'_ [Said]| if ask.current { path(said) } else { said.iter().rev().cloned().collect() };
        let is_found = |said: &Said| {
            let text = folded(&said.text);
            said.marker.is_none()
                && ask.role.as_ref().is_none_or(|role| said.role == role)
                && ask.since.is_none_or(|since| said.id.time() >= since)
                && ask.until.is_none_or(|until| said.id.time() < until)
                && ask.words.as_slice().iter().all(|word| text.contains(word.as_str()))
        };
        sessions.iter().flat_map(|(.., said)| row(said)).filter(is_found).map(|said| said.id).collect()
    }

    /// A question of which something may be found, or nothing.
    fn any_question(&self, random: &mut Random) -> SearchQuery {
        let all: Vec<&Said> = self.model.values().flatten().collect();
        let time = |random: &mut Random| Some(all.get(random.below(1 + all.len() as u64) as usize)?.id.time());
        let mut ask = SearchQuery { limit: [1, 2, 5, 500][random.below(4) as usize], ..SearchQuery::default() };
        let words = match all.get(random.below(1 + all.len() as u64) as usize) {
            Some(said) if random.one_in(2) => {
                let letters: Vec<char> = said.text.chars().take(60).collect();
                let from = random.below(1 + letters.len() as u64) as usize;
                letters[from..].iter().take(1 + random.below(12) as usize).collect()
            }
            _ => (0..=random.below(2)).map(|_| PARTS[random.below(22) as usize].to_owned() + " ").collect::<String>(),
        };
        let words = if random.one_in(3) { words.to_uppercase() } else { words };
        ask.words = SearchWords::parse(&words).unwrap_or(SearchWords::parse("a").unwrap());
        ask.session = random.one_in(4).then(|| SessionId::new(SESSIONS[random.below(5) as usize]).unwrap());
        ask.prefix = SessionPrefix::parse("a*").filter(|_| ask.session.is_none() && random.one_in(4));
        ask.role = random.one_in(4).then(|| ["user", "assistant", "system"][random.below(3) as usize].to_owned());
        (ask.since, ask.until) = (time(random).filter(|_| random.one_in(4)), time(random).filter(|_| random.one_in(4)));
        ask.current = random.one_in(3);
        ask
    }
}

fn any_text(random: &mut Random) -> String {
    let separators = [" ", "", "\n", "\t", "x"];
    let part = |random: &mut Random| PARTS[random.below(22) as usize].to_owned() + separators[random.below(5) as usize];
    (0..random.below(8)).map(|_| part(random)).collect()
}

/// The path that rewinds leave, newest first.
fn path(all: &[Said]) -> Vec<Said> {
    let (mut shown, mut below) = (Vec::new(), Id::END);
    while let Some(said) = all.iter().rev().find(|said| said.id < below) {
        below = said.id;
        match &said.marker {
            Some(Marker::Rewind(None)) => break,
            Some(Marker::Rewind(Some(to))) => below = to.just_after().min(said.id),
            _ => shown.push(said.clone()),
        }
    }
    shown
}

/// A message with its fields in another order.
fn reversed(message: &Value) -> String {
    let fields = message.as_object().unwrap().iter().rev();
    let fields: Vec<String> = fields.map(|(name, value)| format!("{}: {value}", json!(name))).collect();
    format!("{{{}}}", fields.join(", "))
}

/// With everything that is not ASCII escaped by number, and some letters too.
fn escaped(json: &str) -> String {
    let mut escaped = String::new();
    for letter in json.chars() {
        match letter {
            letter if letter.is_ascii() => escaped.push(letter),
            letter => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    escaped.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    escaped
}

impl Server {
    /// Every page, going on where each ends.
    fn all_pages(&self, mut ask: SearchQuery) -> Vec<Id> {
        let mut found = Vec::new();
        for _ in 0..20_000 {
            let page = self.search.page(&ask).unwrap();
            assert_eq!(page.reasons, [""; 0]);
            assert!(page.messages.len() <= ask.limit);
            found.extend(page.messages.iter().map(Message::id));
            match page.next {
                Some(next) => ask.cursor = Some(next),
                None => return found,
            }
        }
        panic!("the pages never end");
    }
}

#[test]
fn pages_show_what_a_plain_look_at_all_messages_finds() {
    let (mut found, mut stale) = (0, 0);
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut world = World::new();
        world.config.history.max_scan_bytes = [1, 3000, 20_000, 64 << 20][(seed % 4) as usize];
        // What a stale transcript lacks is found up to the limit only.
        let may_be_stale = world.config.history.max_scan_bytes > 1 << 20;
        let mut server = world.open();
        for _ in 0..120 {
            let session = SESSIONS[random.below(5) as usize];
            match random.below(30) {
                0 => {
                    server.recorder.erase(&SessionId::new(session).unwrap()).unwrap();
                    world.model.remove(session);
                }
                1 => {
                    world.now.fetch_add(random.below(DAY / 2), Ordering::SeqCst);
                    world.expire();
                }
                2 if may_be_stale => {
                    server.search.index.store(1, true).unwrap();
                    drop(server);
                    world.disk.heal();
                    server = world.open();
                }
                3 => world.edit(session, &mut random),
                4 if may_be_stale => {
                    world.disk.fail_every(Op::Write, &format!("/{session}.jsonl"), std::io::ErrorKind::Other);
                }
                5 => world.disk.heal(),
                6 if may_be_stale => world.import_any(&server, session, &mut random),
                _ => world.say_any(&server, &mut random),
            }
            if random.one_in(4) {
                let ask = world.any_question(&mut random);
                let (shown, wanted) = (server.all_pages(ask.clone()), world.find(&ask));
                assert_eq!(shown, wanted, "seed {seed}, {ask:?}");
                found += usize::from(!wanted.is_empty());
                stale += usize::from(!server.transcripts.all_stale().is_empty());
            }
        }
    }
    assert!(found > 200 && stale > 30, "{found} {stale}");
}

fn words(words: &str) -> SearchQuery {
    SearchQuery { words: SearchWords::parse(words).unwrap(), limit: 50, ..SearchQuery::default() }
}

#[test]
fn no_more_than_two_searches_run_at_once() {
    let server = World::new().open();
    let others = [server.search.running.try_acquire(), server.search.running.try_acquire()];
    assert!(others.iter().all(Option::is_some) && server.search.page(&words("alpha")).is_none());
    drop(others);
    assert!(server.search.page(&words("alpha")).is_some());
}

#[test]
fn what_cannot_be_read_is_told_and_hides_no_other_session() {
    let mut world = World::new();
    let server = world.open();
    for session in ["a", "b", "c"] {
        world.say(&server, session, "user", "alpha", &json!({}));
    }
    world.disk.fail_every(Op::Read, "/b.jsonl", std::io::ErrorKind::Other);
    let page = server.search.page(&words("alpha")).unwrap();
    let found: Vec<&str> = page.messages.iter().map(|message| message.session().as_str()).collect();
    assert_eq!((found, page.reasons), (vec!["c", "a"], vec![UNREADABLE]));
}

#[test]
fn what_a_stale_transcript_lacks_beyond_the_limit_is_told() {
    let mut world = World::new();
    world.config.history.max_scan_bytes = 64 << 10;
    let server = world.open();
    world.say(&server, "a", "user", "alpha first", &json!({}));
    server.transcripts.mark_stale(&SessionId::new("a").unwrap(), 2, 2);
    for _ in 0..300 {
        world.say(&server, "b", "user", &"x".repeat(1000), &json!({}));
    }
    world.say(&server, "a", "user", "alpha last", &json!({}));
    let (mut ask, mut found, mut reasons) = (words("alpha"), Vec::new(), Vec::new());
    loop {
        let page = server.search.page(&ask).unwrap();
        found.extend(page.messages.iter().map(Message::text));
        reasons.extend(page.reasons);
        match page.next {
            Some(next) => ask.cursor = Some(next),
            None => break,
        }
    }
    assert_eq!((found, reasons), (vec!["alpha first".to_owned()], vec![JOURNAL]));
}

#[test]
fn a_page_ends_at_its_bytes_and_a_transcript_may_lack_more_than_a_page() {
    let mut world = World::new();
    let server = world.open();
    server.transcripts.mark_stale(&SessionId::new("a").unwrap(), 1, 1);
    for number in 0..9 {
        world.say(&server, "a", "user", &format!("alpha {number} {}", "x".repeat(1 << 20)), &json!({}));
    }
    let page = server.search.page(&words("alpha")).unwrap();
    assert_eq!(page.messages.len(), 7, "8 MiB hold no more");
    assert_eq!(server.all_pages(words("alpha")), world.find(&words("alpha")));
    // As many small ones as are not kept at once.
    server.transcripts.mark_stale(&SessionId::new("b").unwrap(), 10, 10);
    for _ in 0..1500 {
        world.say(&server, "b", "user", "beta", &json!({}));
    }
    let ask = SearchQuery { limit: 500, ..words("beta") };
    assert_eq!(server.all_pages(ask.clone()), world.find(&ask));
}
