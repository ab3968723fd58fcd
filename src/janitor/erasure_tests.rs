//! Erasure from the DELETE to the last byte, on a disk that forgets and fails. Compiled under `#[cfg(test)]` only.
//!
//! A history with an erasure in its middle runs again with a power cut, a kill or a fault at each call of the disk.
//! Afterwards, whatever happened to the checkpoint and the digests and also after a repair: no read path has anything
//! that was erased and acknowledged as such; everything else that was acknowledged is there as it was; and after the
//! janitor's pass no file holds an erased text.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::Scrubber;
use crate::cache::Cache;
use crate::config::{Config, Fsync};
use crate::disk::sim::{Cases, Fault, Random, SimDisk};
use crate::doctor;
use crate::history::{History, HistoryQuery};
use crate::import::{ImportOutcome, Importer};
use crate::journal::{AppendError, Appended, IdempotencyKey, Journal, NewRecord, ReadProgress, Record, ReplyTo};
use crate::message::{self, Clock, Expiry, Id, Message, Metadata, SessionId, Timestamp};
use crate::recorder::{OpenedRecorder, Recorder, RecorderError};
use crate::transcript::Transcripts;
use crate::worker::Worker;

/// Part of every text that is erased, and of no other.
const MARK: &str = "SECRET";
/// Steps of [`Case::live`].
const STEPS: u64 = 14;

struct Live {
    recorder: Arc<Recorder<SimDisk>>,
    importer: Importer<SimDisk>,
    journal: Arc<Journal<SimDisk>>,
    transcripts: Arc<Transcripts<SimDisk>>,
    history: History<SimDisk>,
    channel: Receiver<Record>,
    scrubber: Scrubber<SimDisk>,
}

struct Case {
    disk: SimDisk,
    config: Config,
    live: Option<Live>,
    /// What must be there, by its text.
    kept: BTreeMap<String, (SessionId, Id, Vec<u8>)>,
    /// Keys of erased messages.
    keys: Vec<String>,
    /// It was acknowledged.
    erased: bool,
    /// Another server made the erasure, and there are newer messages.
    elsewhere: bool,
    said: u64,
    /// The kernel's lock is on the real disk.
    _folder: tempfile::TempDir,
}

fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

fn draft(session: &SessionId, text: &str, key: Option<&str>) -> NewRecord {
    let (metadata, vector_ids) = (Metadata::default(), [].as_slice());
    let line = message::Draft { session, role: "user", text, metadata, vector_ids }.prepare();
    let key = key.map(|key| IdempotencyKey::new(session, key, &[text.as_bytes()]));
    NewRecord::Message { line, key, reply_to: ReplyTo::Nothing }
}

fn ask_all(name: &str) -> HistoryQuery {
    HistoryQuery::newest(session(name), 100)
}

impl Case {
    fn new(fsync: Fsync, elsewhere: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        let mut config = Config::defaults(Some(folder.path())).unwrap();
        config.journal.fsync = fsync;
        config.journal.segment_bytes = 2048;
        config.journal.retain = Duration::from_secs(3600);
        config.mongo.queue_capacity = 3;
        config.mongo.cache.max_messages_per_session = 3;
        let (kept, keys) = (BTreeMap::new(), Vec::new());
        let (disk, live, erased) = (SimDisk::default(), None, false);
        Self { disk, config, live, kept, keys, erased, elsewhere, said: 0, _folder: folder }
    }

    fn open(&mut self) -> Result<(), RecorderError> {
        self.live = None;
        let (disk, config, clock) = (self.disk.clone(), &self.config, Clock::system());
        let open_max = NonZeroUsize::new(2).unwrap();
        let transcripts = Transcripts::open(disk.clone(), &config.mongo.cache.disk_path, open_max);
        let transcripts = Arc::new(transcripts.map_err(RecorderError::Replay)?);
        let cache = Arc::new(Cache::new(&config.mongo.cache));
        let on_panic = Box::new(|| panic!("the leader panicked"));
        let OpenedRecorder { recorder, journal, channel, hub, .. } =
            Recorder::open_on(disk.clone(), config, clock.clone(), &transcripts, cache.clone(), on_panic)?;
        let (recorder, expiry) = (Arc::new(recorder), Expiry::new(config.mongo.ttl, clock.clone()));
        let importer = Importer::new(config, expiry, recorder.clone(), journal.clone(), transcripts.clone(), hub);
        let history = History::new(config, clock, cache, transcripts.clone(), journal.clone());
        let aside = [config.journal.path.join("recovered.jsonl"), self.dead_letters()];
        let [recovered, letters] = aside;
        let scrubber = Scrubber::new(disk, journal.clone(), transcripts.clone(), recovered, letters);
        self.live = Some(Live { recorder, importer, journal, transcripts, history, channel, scrubber });
        Ok(())
    }

    fn dead_letters(&self) -> PathBuf {
        self.config.journal.path.with_file_name("dead_letter.jsonl")
    }

    fn live(&self) -> &Live {
        self.live.as_ref().unwrap()
    }

    /// One request with a message for each session; those to the first will be erased if `secret`.
    fn say(&mut self, sessions: &[&str], secret: bool) -> Result<Vec<Appended>, AppendError> {
        self.said += 1;
        let said = self.said;
        let texts: Vec<(SessionId, String)> = sessions
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let mark = if secret && index == 0 { MARK } else { "plain" };
                (session(name), format!("{mark} {said}.{index} {}", "x".repeat(40 * (said as usize % 5))))
            })
            .collect();
        let key = |text: &String| said.is_multiple_of(2).then(|| text.clone());
        let drafts = texts.iter().map(|(session, text)| draft(session, text, key(text).as_deref())).collect();
        self.live().journal.a_moment_later();
        let kept = self.live().recorder.record(drafts)?;
        for ((session, text), kept) in texts.iter().zip(&kept) {
            let Appended::New(record) = kept else { panic!("{text} is new") };
            let message = record.entry.message().unwrap();
            if text.contains(MARK) {
                self.keys.extend(key(text));
            } else {
                self.kept.insert(text.clone(), (session.clone(), message.id(), message.line().to_vec()));
            }
        }
        Ok(kept)
    }

    /// Imports a message into each of two sessions, as old as the first one there; the first session's is erased, or was.
    fn import(&mut self) {
        let oldest = self.kept.values().map(|(_, id, _)| id.time().micros()).min();
        let now = Clock::system().now().micros();
        let time = Timestamp::from_micros(oldest.unwrap_or(now) - 1000 - self.said);
        self.said += 1;
        let texts = [("gone", MARK), ("kept", "plain")].map(|(name, mark)| (name, format!("{mark} {} old", self.said)));
        let messages: Vec<Arc<Message>> = texts
            .iter()
            .map(|(name, text)| {
                let (session, metadata) = (session(name), Metadata::default());
                let draft = message::Draft { session: &session, role: "user", text, metadata, vector_ids: &[] };
                Arc::new(draft.prepare().seal(Id::derived(time, text)))
            })
            .collect();
        self.live().journal.a_moment_later();
        let Ok(outcomes) = self.live().importer.import(&messages, &|| false) else { return };
        let wanted = if self.erased { ImportOutcome::Erased } else { ImportOutcome::Imported };
        assert_eq!(outcomes[1], ImportOutcome::Imported);
        // An erasure that was not acknowledged may be known.
        assert!(outcomes[0] == wanted || outcomes[0] == ImportOutcome::Erased, "{outcomes:?}");
        let kept = (session("kept"), messages[1].id(), messages[1].line().to_vec());
        self.kept.insert(texts[1].1.clone(), kept);
    }

    fn erase(&mut self) -> Result<(), AppendError> {
        if self.elsewhere {
            // Recorded before the erasure, but newer than what it covers.
            let newer = self.say(&["gone", "kept"], false)?[0].id().time().micros();
            let up_to = Id::from_parts(Timestamp::from_micros(newer - 1), u64::MAX);
            self.live().journal.a_moment_later();
            self.live().recorder.erase_elsewhere(&[(session("gone"), up_to), (session("nobody"), up_to)])?;
        } else {
            self.live().journal.a_moment_later();
            self.live().recorder.erase(&session("gone"))?;
        }
        self.erased = true;
        Ok(())
    }

    /// What the worker does until a stop.
    fn work(&self) {
        let live = self.live();
        let (config, channel, transcripts) = (&self.config.journal, live.channel.clone(), live.transcripts.clone());
        let (checkpoint, clock) = (live.journal.start(), Clock::system());
        let worker = Worker::new(live.journal.clone(), channel, transcripts, clock, config, checkpoint, Arc::default());
        let (stop, stopped) = bounded(0);
        drop(stop);
        worker.run(&stopped);
    }

    /// Runs a history, whatever fails. A fault while the checkpoint is read ends it.
    fn live_through(&mut self, from: u64) {
        for step in from..STEPS {
            if self.live.is_none() && self.open().is_err() {
                continue;
            }
            match step {
                0 | 2 | 6 => drop(self.say(&["gone", "kept"], true)),
                1 => drop(self.say(&["gone", "kept", "other"], true)),
                3 => {
                    let _ = self.live().journal.maintain();
                    self.import();
                }
                4 => self.work(),
                5 => {
                    let _ = self.say(&["other", "kept"], false);
                    self.import();
                }
                7 => drop(self.erase()),
                8 => drop(self.say(&["gone", "kept"], false)),
                9 => drop(self.live().scrubber.scrub(&|| true)),
                10 => {
                    let _ = self.say(&["gone"], false);
                    self.import();
                }
                11 => self.work(),
                12 => drop(self.live().journal.maintain()),
                13 => drop(self.live().scrubber.scrub(&|| true)),
                _ => {}
            }
            self.glance();
        }
    }

    /// Reads as a client of the living process, if the disk lets it.
    fn glance(&self) {
        let Some(live) = self.live.as_ref().filter(|_| self.erased) else { return };
        for after in [None, Some(Id::from_parts(Timestamp::from_micros(0), 0))] {
            let Ok(answer) = live.history.read(&HistoryQuery { after, ..ask_all("gone") }) else { continue };
            assert!(answer.messages.iter().all(|(message, _)| !message.text().contains(MARK)), "it is still shown");
        }
    }

    fn ask(&self, name: &str) -> Vec<(String, Id, Vec<u8>)> {
        let answer = self.live().history.read(&ask_all(name)).unwrap();
        assert!(answer.incomplete.is_none());
        answer.messages.iter().map(|(m, _)| (m.text(), m.id(), m.line().to_vec())).collect()
    }

    /// Checks what readers find, if the erasure was acknowledged.
    fn check(&self) {
        let mut found = BTreeMap::new();
        for name in ["gone", "kept", "other"] {
            for (text, id, line) in self.ask(name) {
                assert!(found.insert(text, (session(name), id, line)).is_none());
            }
        }
        for (text, place) in &self.kept {
            assert_eq!(found.get(text), Some(place), "{text:.20} was acknowledged");
        }
        if !self.erased {
            return;
        }
        assert!(found.keys().all(|text| !text.contains(MARK)), "{found:?}");
        let mut reader = self.live().journal.reader(0);
        let no_mark = |record: Record| {
            assert!(record.entry.message().is_none_or(|message| !message.text().contains(MARK)), "{record:?}");
        };
        while reader.read(700, no_mark).unwrap() == ReadProgress::More {}
    }

    /// No transcript has an erased line once everything has arrived.
    fn check_transcripts(&self) {
        let folder = &self.config.mongo.cache.disk_path;
        for path in self.disk.paths().into_iter().filter(|path| path.parent() == Some(folder)) {
            assert!(!self.erased || !holds_mark(&self.disk, &path), "{}", path.display());
        }
    }

    fn check_files(&self) {
        if self.erased {
            let holding: Vec<PathBuf> =
                self.disk.paths().into_iter().filter(|path| holds_mark(&self.disk, path)).collect();
            assert!(holding.is_empty(), "{holding:?}");
        }
    }

    /// Checks a copy of the disk that was changed.
    fn check_without(&mut self, suffix: &str, repaired: bool) {
        let disk = std::mem::take(&mut self.disk);
        self.live = None;
        self.disk = disk.fork();
        for path in self.disk.paths() {
            if !suffix.is_empty() && path.to_string_lossy().ends_with(suffix) {
                self.disk.unlink(&path);
            }
        }
        if repaired {
            let data = self.config.journal.path.parent().unwrap().to_owned();
            let place = doctor::DataLocation { data, config: self.config.clone() };
            doctor::repair_on(&self.disk, &place, &Clock::system()).unwrap();
            self.check_transcripts();
            let recovered = self.config.journal.path.join("recovered.jsonl");
            assert!(!self.erased || !holds_mark(&self.disk, &recovered));
        }
        self.open().unwrap();
        self.check();
        self.work();
        self.check_transcripts();
        self.check();
        self.live = None;
        self.disk = disk;
    }

    /// The keys of erased messages stand for nothing.
    fn check_keys(&mut self) {
        for key in self.keys.clone().iter().filter(|_| self.erased) {
            let kept = self.live().recorder.record(vec![draft(&session("gone"), key, Some(key))]).unwrap();
            assert!(matches!(&kept[0], Appended::New(_)), "{key:.20} is still known: {kept:?}");
        }
    }
}

fn holds_mark(disk: &SimDisk, path: &std::path::Path) -> bool {
    disk.peek(path).is_some_and(|bytes| memchr::memmem::find(&bytes, MARK.as_bytes()).is_some())
}

/// Runs the history with a fault, ends it, and checks everything. Returns the number of calls.
fn run(fsync: Fsync, fault: Option<(u64, Fault)>, cut: Option<u64>) -> u64 {
    run_erased(false, fsync, fault, cut)
}

fn run_erased(elsewhere: bool, fsync: Fsync, fault: Option<(u64, Fault)>, cut: Option<u64>) -> u64 {
    let told = Told(format!("{fsync:?}, fault {fault:?}, power cut {cut:?}, elsewhere: {elsewhere}"));
    let mut case = Case::new(fsync, elsewhere);
    if let Some((call, fault)) = fault {
        case.disk.fault_at(call, fault);
    }
    case.live_through(0);
    let calls = case.disk.calls();
    case.live = None;
    if let Some(seed) = cut {
        case.disk.power_cut(&mut Random(seed));
    }
    case.disk.heal();
    if cut.is_some() && fsync != Fsync::Always {
        return calls;
    }
    for (suffix, repaired) in [("", true), ("checkpoint", false), (".digest", false)] {
        case.check_without(suffix, repaired);
    }
    case.open().unwrap();
    case.check();
    case.work();
    case.check_transcripts();
    case.live().scrubber.scrub(&|| true).unwrap();
    assert_eq!(case.live().journal.erasures_pending(), 0);
    case.check();
    case.check_files();
    for (suffix, repaired) in [("checkpoint", true), (".digest", false)] {
        case.check_without(suffix, repaired);
    }
    case.open().unwrap();
    case.check();
    case.check_keys();
    drop(told);
    calls
}

/// Prints the case when one fails.
struct Told(String);

#[allow(clippy::print_stderr, reason = "a failing test tells its case there")]
impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

#[test]
fn what_is_erased_is_gone_from_every_reader_and_then_from_every_file() {
    for fsync in [Fsync::Always, Fsync::Interval, Fsync::Never] {
        run(fsync, None, None);
    }
    run(Fsync::Always, None, Some(1));
}

#[test]
fn a_power_cut_at_any_call_brings_nothing_erased_back_and_loses_nothing() {
    let calls = run(Fsync::Always, None, None);
    let _cases = Cases(1 + calls);
    for call in 1..=calls {
        run(Fsync::Always, Some((call, Fault::PowerOff)), Some(call));
    }
}

#[test]
fn after_a_kill_at_any_call_nothing_erased_comes_back() {
    for fsync in [Fsync::Always, Fsync::Never] {
        let calls = run(fsync, None, None);
        for call in (1..=calls).skip(usize::from(fsync == Fsync::Never) * 100) {
            run(fsync, Some((call, Fault::PowerOff)), None);
        }
    }
}

#[test]
fn a_fault_at_every_call_of_an_erasure_and_its_scrubbing_is_survived() {
    use std::io::ErrorKind::{Other, StorageFull};
    for fsync in [Fsync::Always, Fsync::Interval] {
        let calls = run(fsync, None, None);
        for call in 1..=calls {
            let fault = [Fault::Fail(Other), Fault::Fail(StorageFull), Fault::Short][(call % 3) as usize];
            run(fsync, Some((call, fault)), (call % 2 == 0).then_some(call));
        }
    }
}

#[test]
fn whatever_happens_what_another_server_erased_goes_and_newer_stays() {
    use std::io::ErrorKind::Other;
    let all = [
        (Fsync::Always, Fault::PowerOff, true),
        (Fsync::Never, Fault::PowerOff, false),
        (Fsync::Always, Fault::Fail(Other), false),
    ];
    for (fsync, fault, cut) in all {
        let calls = run_erased(true, fsync, None, None);
        for call in 1..=calls {
            run_erased(true, fsync, Some((call, fault)), cut.then_some(call));
        }
    }
}

/// Scrubs what is erased, of which copies stand in every place beside the journal too, with a fault at that call of the
/// scrubbing, and again without one; then the power goes. Returns the calls of the first scrubbing.
fn scrub_twice(call: u64, seed: u64) -> u64 {
    let told = Told(format!("call {call}, seed {seed}"));
    let mut case = Case::new(Fsync::Always, false);
    case.open().unwrap();
    let Appended::New(record) = case.say(&["gone", "kept"], true).unwrap().remove(0) else { panic!("it is new") };
    let line = String::from_utf8(record.entry.message().unwrap().line().to_vec()).unwrap();
    case.erase().unwrap();
    case.work();
    let aside = crate::layout::quarantine(&case.config.mongo.cache.disk_path).join("gone.jsonl.0");
    for (path, content) in [
        (case.dead_letters(), format!("{{\"reason\":\"none\",\"message\":{line}}}\n{{\"reason\":\"another\"}}\n")),
        (case.config.journal.path.join("recovered.jsonl"), format!("{line}\n")),
        (aside, format!("{line}\n")),
    ] {
        crate::disk::replace(&case.disk, &path, content.as_bytes()).unwrap();
    }
    let before = case.disk.calls();
    case.disk.fault_at(before + call, Fault::Fail(std::io::ErrorKind::Other));
    let _ = case.live().scrubber.scrub(&|| true);
    let calls = case.disk.calls() - before;
    case.disk.heal();
    // Like the janitor: a journal that failed recovers first.
    let _ = case.live().journal.maintain();
    case.live().scrubber.scrub(&|| true).unwrap();
    case.live = None;
    case.disk.power_cut(&mut Random(seed));
    case.check_files();
    drop(told);
    calls
}

#[test]
fn a_fault_at_any_call_of_a_scrubbing_is_made_good_by_the_next_one() {
    let calls = scrub_twice(0, 0);
    for (call, seed) in (1..=calls).flat_map(|call| (0..6).map(move |seed| (call, seed))) {
        scrub_twice(call, seed);
    }
}
