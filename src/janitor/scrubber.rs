//! Scrubbing: what was erased leaves the disk within a minute, wherever a copy of it stands.
//!
//! An erasure is answered when no reader finds anything any more; its bytes still stand in the journal, and may stand in
//! what was set aside, recovered or refused by a database. Each such file is written anew without them, the dead letters, to
//! which the worker may be appending, are blanked where they stand. Many erasures are worked through at once, a few seconds
//! after the first. What fails is tried again; over a restart the journal remembers what is still to be done.
//!
//! Knows nothing of who erased what, and logs no session.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk::{Disk, RealDisk};
use crate::journal::{Journal, Unscrubbed};
use crate::message::{Id, Message, SessionId};
use crate::transcript::{self, Transcripts};

/// From an erasure to its scrubbing: others may come, and each pass may end a segment and write many anew.
const SCRUB_DELAY: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
pub struct Scrubber<D: Disk = RealDisk> {
    disk: D,
    journal: Arc<Journal<D>>,
    transcripts: Arc<Transcripts<D>>,
    /// Messages that a repair took out of the journal's quarantine: written by nobody while a server runs.
    recovered: PathBuf,
    dead_letters: PathBuf,
    due: Option<Instant>,
    failing: bool,
}

impl<D: Disk> Scrubber<D> {
    /// A scrubber of the journal's folder, of these transcripts and of that file of dead letters.
    #[must_use]
    pub fn new(
        disk: D,
        journal: Arc<Journal<D>>,
        transcripts: Arc<Transcripts<D>>,
        recovered: PathBuf,
        dead_letters: PathBuf,
    ) -> Self {
        Self { disk, journal, transcripts, recovered, dead_letters, due: None, failing: false }
    }

    /// When there is something to do next, as far as is known.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.due
    }

    /// Scrubs if it is time, and breaks off where `go_on` says so.
    pub fn work(&mut self, now: Instant, go_on: &dyn Fn() -> bool) {
        if self.journal.erasures_pending() == 0 {
            self.due = None;
            return;
        }
        let due = *self.due.get_or_insert(now + SCRUB_DELAY);
        if now < due {
            return;
        }
        match self.scrub(go_on) {
            Ok(()) => {
                self.failing = false;
                // What was erased meanwhile.
                self.due = (self.journal.erasures_pending() > 0).then(|| now + SCRUB_DELAY);
            }
            Err(e) => {
                self.due = Some(now + RETRY_INTERVAL);
                if e.kind() != io::ErrorKind::Interrupted && !std::mem::replace(&mut self.failing, true) {
                    log::warn!("[CHAT ERASE] What is erased cannot be scrubbed yet, trying on: {e}");
                }
            }
        }
    }

    /// Scrubs everything that was erased until now.
    ///
    /// # Errors
    /// The disk's, and [`io::ErrorKind::Interrupted`]: all of it is to be done again.
    pub fn scrub(&self, go_on: &dyn Fn() -> bool) -> io::Result<()> {
        let wanted = self.journal.unscrubbed();
        if wanted.sessions.is_empty() {
            return Ok(());
        }
        let copies = self.transcripts.scrub_copies(&wanted.sessions, go_on)?;
        let goes = |line: &[u8]| is_erased_line(line, &wanted);
        let recovered = transcript::without_lines(&self.disk, &self.recovered, &goes)?;
        let letters = Cell::new(0);
        transcript::blank_lines(&self.disk, &self.dead_letters, &|line| {
            let holds = holds_erased(line, &wanted);
            letters.set(letters.get() + usize::from(holds));
            // One that was blanked before a sync failed may be blank in memory only.
            holds || line.trim_ascii().is_empty()
        })?;
        let journal = self.journal.scrub(&wanted, go_on)?;
        self.journal.scrubbed(&wanted);
        log::info!(
            "[CHAT ERASE] {} erased sessions were scrubbed: {} messages in {} files of the journal, {} other files, \
             {} dead letters",
            wanted.sessions.len(),
            journal.blanks,
            journal.files,
            copies + usize::from(recovered),
            letters.get()
        );
        Ok(())
    }
}

/// Whether a line is that of an erased message, or begins like one.
fn is_erased_line(line: &[u8], wanted: &Unscrubbed) -> bool {
    let whole = Message::from_line(line).map(|message| (message.id(), message.session().clone()));
    let known = whole.or_else(|| Message::beginning_of_line(line));
    known.is_some_and(|(id, session)| wanted.covers(&session, id))
}

/// Whether a JSON line has an erased message in it, at whatever depth.
fn holds_erased(line: &[u8], wanted: &Unscrubbed) -> bool {
    fn look(value: &Value, wanted: &Unscrubbed) -> bool {
        match value {
            Value::Object(fields) => {
                let text = |name: &str| fields.get(name).and_then(Value::as_str);
                let session = text("session_id").and_then(|session| SessionId::new(session).ok());
                let id = text("id").or(text("_id")).and_then(|id| id.parse::<Id>().ok());
                session.zip(id).is_some_and(|(session, id)| wanted.covers(&session, id))
                    || fields.values().any(|value| look(value, wanted))
            }
            Value::Array(items) => items.iter().any(|value| look(value, wanted)),
            _ => false,
        }
    }
    match serde_json::from_slice(line) {
        Ok(value) => look(&value, wanted),
        // A line that a crash cut off: what is erased stands in it from its beginning on, or not at all.
        Err(_) => {
            let mut places = memchr::memmem::find_iter(line, b"{\"id\":\"");
            places.any(|at| {
                Message::beginning_of_line(&line[at..]).is_some_and(|(id, session)| wanted.covers(&session, id))
            })
        }
    }
}
