//! Imports messages that have ids: into living sessions, in the place of their ids, each once however often it comes.
//!
//! A message is there already if its session's transcript has it, or if it was imported since the transcripts were last
//! brought up. So a session is asked only while its transcript lacks nothing; from its first import on, the ids are
//! remembered in a window until the transcripts have them. Ids given meanwhile are in neither, so where one of these comes
//! the window is closed first. A window is bounded, and so is what readers must search in the journal meanwhile. MongoDB is
//! not asked: there the `_id` decides.
//!
//! Whoever follows a session is told once the window's messages are in its transcript. What is acknowledged stays, whatever
//! ends an import: it is gone on with by sending everything again.
//!
//! Knows nothing of HTTP and of lines.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::disk::{Disk, RealDisk};
use crate::hub::Hub;
use crate::journal::{AppendError, Journal, JournalStats};
use crate::message::{Expiry, Id, Message, SessionId, Timestamp};
use crate::recorder::Recorder;
use crate::transcript::Transcripts;
use crate::worker;

/// The most messages and bytes of a window.
const WINDOW_MESSAGES_MAX: usize = if cfg!(test) { 20 } else { 200_000 };
const WINDOW_BYTES_MAX: usize = if cfg!(test) { 4000 } else { 24 << 20 };
/// How far an id may be ahead of the clock.
const AHEAD_MAX: Duration = Duration::from_secs(5 * 60);
/// The most bytes of one request, and the part of the journal that it may take at most, so that others find room beside it.
const REQUEST_BYTES_MAX: u64 = 1 << 20;
const REQUEST_PART: u64 = 16;
/// How often what is waited for is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How often it is tried to record ids that may still be ahead of the clock: each time their sessions are looked at again.
const AHEAD_INTERVAL: Duration = Duration::from_millis(100);

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It is recorded.
    Imported,
    /// Its session had it.
    AlreadyThere,
    /// `mongo.ttl_days` are over.
    Expired,
    /// Its session was erased since.
    Erased,
    /// Its id is more than five minutes ahead of the clock.
    Ahead,
}

/// Why an import ended early. What was acknowledged before stays, and sending everything again goes on after it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The journal takes nothing now.
    #[error(transparent)]
    Refused(#[from] AppendError),
    /// A transcript could not be read or written.
    #[error("the transcripts cannot be brought up to date: {0}")]
    Transcripts(io::Error),
    /// What was recorded before does not leave the journal.
    #[error("half of journal.max_bytes is waiting for its destination, and nothing arrived there for {} s", .0.as_secs())]
    Backlog(Duration),
    /// The client is gone, or the server stops.
    #[error("the import was ended")]
    Ended,
}

/// Imports messages, batch by batch.
pub struct Importer<D: Disk = RealDisk> {
    recorder: Arc<Recorder<D>>,
    journal: Arc<Journal<D>>,
    transcripts: Arc<Transcripts<D>>,
    hub: Arc<Hub>,
    expiry: Expiry,
    journal_bytes_max: u64,
    /// How long what is waited for may stand still.
    patience: Duration,
    window: Mutex<ImportWindow>,
}

/// What was imported since the transcripts were brought up.
#[derive(Default)]
struct ImportWindow {
    sessions: HashMap<SessionId, ImportedIds>,
    messages: usize,
    bytes: usize,
}

/// What was imported of a session.
struct ImportedIds {
    /// Its transcript had every message up to this id when the first was imported.
    mark: Id,
    ids: HashSet<Id>,
}

impl<D: Disk> Importer<D> {
    /// An importer into these parts.
    pub fn new(
        config: &Config,
        expiry: Expiry,
        recorder: Arc<Recorder<D>>,
        journal: Arc<Journal<D>>,
        transcripts: Arc<Transcripts<D>>,
        hub: Arc<Hub>,
    ) -> Self {
        let (journal_bytes_max, patience) = (config.journal.max_bytes, config.server.timeouts.body);
        Self { recorder, journal, transcripts, hub, expiry, journal_bytes_max, patience, window: Mutex::default() }
    }

    /// The bytes of lines that are enough for one request.
    pub fn request_bytes(&self) -> usize {
        usize::try_from(REQUEST_BYTES_MAX.min(self.journal_bytes_max / REQUEST_PART)).unwrap_or(usize::MAX)
    }

    fn window(&self) -> MutexGuard<'_, ImportWindow> {
        // After a panic ids may be missing, at worst of messages that come twice: whatever reads both takes one.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Imports messages as one request, and returns what became of each. May wait, for the drain and for ids ahead of the
    /// clock, while `goes_on`; other imports go on meanwhile.
    ///
    /// # Errors
    /// See [`ImportError`]; of these messages it is unknown which are recorded.
    pub fn import(
        &self,
        messages: &[Arc<Message>],
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Vec<ImportOutcome>, ImportError> {
        let mut interval = POLL_INTERVAL;
        loop {
            self.wait_for_room(goes_on)?;
            if let Some(outcomes) = self.try_import(messages, goes_on)? {
                return Ok(outcomes);
            }
            // An erasure under way is known soon, and an id ahead of the clock is behind it in five minutes.
            pause(goes_on, interval)?;
            interval = AHEAD_INTERVAL;
        }
    }

    /// The same; `None`: something may not be recorded now, and nothing was.
    fn try_import(
        &self,
        messages: &[Arc<Message>],
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<ImportOutcome>>, ImportError> {
        let (mut window, mark) = (self.window(), self.journal.mark());
        if window.is_full_for(messages) || messages.iter().any(|message| window.has_passed(message)) {
            self.close(&mut window, goes_on)?;
        }
        let there = self.known(&window, messages, goes_on)?;
        let mut seen = HashSet::new();
        let is_there = |message: &Arc<Message>| there.contains(&(message.session(), message.id()));
        let mut outcomes = Vec::with_capacity(messages.len());
        for message in messages {
            outcomes.push(match self.refusal(message) {
                Some(refusal) => refusal,
                None if is_there(message) || !seen.insert((message.session(), message.id())) => {
                    ImportOutcome::AlreadyThere
                }
                None => ImportOutcome::Imported,
            });
        }
        let new = messages.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == ImportOutcome::Imported);
        let new: Vec<Arc<Message>> = new.map(|(message, _)| message.clone()).collect();
        if !new.is_empty() && self.recorder.import(&new)?.is_none() {
            return Ok(None);
        }
        new.iter().for_each(|message| window.add(message, mark));
        Ok(Some(outcomes))
    }

    /// Brings the transcripts up to all that was imported, and tells those who follow its sessions.
    ///
    /// # Errors
    /// See [`ImportError`]. All that was imported is recorded; the worker brings the transcripts up later.
    pub fn finish(&self, goes_on: &dyn Fn() -> bool) -> Result<(), ImportError> {
        self.close(&mut self.window(), goes_on)
    }

    /// Why a message is not to be recorded.
    fn refusal(&self, message: &Message) -> Option<ImportOutcome> {
        if self.expiry.has_expired(message.id()) {
            Some(ImportOutcome::Expired)
        } else if self.journal.is_erased(message) {
            Some(ImportOutcome::Erased)
        } else if message.id().time() > self.latest() {
            Some(ImportOutcome::Ahead)
        } else {
            None
        }
    }

    /// The latest time of an id that is taken.
    fn latest(&self) -> Timestamp {
        let now = self.expiry.now().max(self.journal.last_time());
        Timestamp::from_micros(now.micros().saturating_add(u64::try_from(AHEAD_MAX.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Which of these messages their sessions have.
    fn known<'m>(
        &self,
        window: &ImportWindow,
        messages: &'m [Arc<Message>],
        goes_on: &dyn Fn() -> bool,
    ) -> Result<HashSet<(&'m SessionId, Id)>, ImportError> {
        let mut ids: HashMap<&SessionId, Vec<Id>> = HashMap::new();
        messages.iter().for_each(|message| ids.entry(message.session()).or_default().push(message.id()));
        let is_new = |session: &&SessionId| !window.sessions.contains_key(*session);
        let new: Vec<&SessionId> = ids.keys().copied().filter(is_new).collect();
        self.bring_up(&new, goes_on)?;
        let mut there = HashSet::new();
        for (session, mut ids) in ids {
            ids.sort_unstable();
            let known = window.sessions.get(session);
            let is_known = |id: &&Id| known.is_some_and(|known| known.ids.contains(id));
            there.extend(ids.iter().filter(is_known).map(|id| (session, *id)));
            let held = self.transcripts.those_held(session, &ids).map_err(ImportError::Transcripts)?;
            there.extend(held.into_iter().map(|id| (session, id)));
        }
        Ok(there)
    }

    /// Waits until what is not drained takes less than half of the journal, and all that it holds leaves room to others. What
    /// the window holds back is brought up first.
    fn wait_for_room(&self, goes_on: &dyn Fn() -> bool) -> Result<(), ImportError> {
        let mut least = u64::MAX;
        let mut since = Instant::now();
        loop {
            let JournalStats { undrained_bytes, bytes, .. } = self.journal.stats();
            // Drained segments are dropped down to three quarters.
            if undrained_bytes <= self.journal_bytes_max / 2 && bytes <= self.journal_bytes_max / 16 * 13 {
                return Ok(());
            }
            let held = undrained_bytes + bytes;
            if least == u64::MAX {
                self.finish(goes_on)?;
            }
            if held < least {
                (least, since) = (held, Instant::now());
            } else if since.elapsed() > self.patience {
                return Err(ImportError::Backlog(self.patience));
            }
            pause(goes_on, POLL_INTERVAL)?;
        }
    }

    fn close(&self, window: &mut ImportWindow, goes_on: &dyn Fn() -> bool) -> Result<(), ImportError> {
        let sessions: Vec<&SessionId> = window.sessions.keys().collect();
        self.bring_up(&sessions, goes_on)?;
        sessions.into_iter().for_each(|session| self.hub.imported(session));
        *window = ImportWindow::default();
        Ok(())
    }

    /// Brings the transcripts of these sessions up, as far as they lack anything.
    fn bring_up(&self, sessions: &[&SessionId], goes_on: &dyn Fn() -> bool) -> Result<(), ImportError> {
        let since = Instant::now();
        // Why it ends, should one of these still lack something: the fault may be that of another session.
        let mut ends = None;
        loop {
            let stale = sessions.iter().map(|session| self.transcripts.stale(session));
            let stale = stale.collect::<io::Result<Vec<_>>>().map_err(ImportError::Transcripts)?;
            if stale.iter().all(Option::is_none) {
                return Ok(());
            }
            if let Some(fault) = ends {
                return Err(ImportError::Transcripts(fault));
            }
            let rebuilt = worker::rebuild(&self.transcripts, &self.journal).map_err(ImportError::Transcripts)?;
            ends = match rebuilt.fault {
                Some(fault) if rebuilt.mended == 0 => Some(fault),
                _ if rebuilt.lacking == 0 => None,
                fault if since.elapsed() > self.patience => {
                    Some(fault.unwrap_or_else(|| io::Error::other("they take more than can be written")))
                }
                _ => {
                    pause(goes_on, POLL_INTERVAL)?;
                    None
                }
            };
        }
    }
}

impl ImportWindow {
    fn is_full_for(&self, messages: &[Arc<Message>]) -> bool {
        let has_room = self.messages + messages.len() <= WINDOW_MESSAGES_MAX && self.bytes < WINDOW_BYTES_MAX;
        self.messages > 0 && !has_room
    }

    /// Whether the message may have been recorded since its session is in the window.
    fn has_passed(&self, message: &Message) -> bool {
        self.sessions.get(message.session()).is_some_and(|known| message.id() > known.mark)
    }

    fn add(&mut self, message: &Message, mark: Id) {
        self.messages += 1;
        self.bytes += message.line().len();
        match self.sessions.get_mut(message.session()) {
            Some(known) => drop(known.ids.insert(message.id())),
            None => {
                let known = ImportedIds { mark, ids: HashSet::from([message.id()]) };
                self.sessions.insert(message.session().clone(), known);
            }
        }
    }
}

/// Waits a little, if the import goes on.
fn pause(goes_on: &dyn Fn() -> bool, interval: Duration) -> Result<(), ImportError> {
    if !goes_on() {
        return Err(ImportError::Ended);
    }
    std::thread::sleep(interval);
    Ok(())
}
