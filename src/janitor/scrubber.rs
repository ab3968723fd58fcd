//! Scrubbing: an erased message leaves the disk within a minute, in every file that holds a copy.
//!
//! An erasure is acknowledged when no reader finds its messages any more. Their bytes are still in the journal, and may
//! be in files that were set aside, recovered or rejected by MongoDB. Each such file is rewritten without them; in the
//! dead letters, to which the worker may be appending, their lines are blanked in place. A pass comes a few seconds
//! after the first erasure and handles many at once. What fails is tried again; over a restart the journal remembers
//! what is still to be done.
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

/// The time from an erasure to its scrubbing: others may follow, and each pass may end a segment and rewrite many.
const SCRUB_DELAY: Duration = Duration::from_secs(10);
/// The interval between two tries.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Scrubs journal, transcripts' copies and dead letters.
pub struct Scrubber<D: Disk = RealDisk> {
    disk: D,
    journal: Arc<Journal<D>>,
    transcripts: Arc<Transcripts<D>>,
    /// Messages that a repair recovered from the journal's quarantine; not written to while a server runs.
    recovered: PathBuf,
    dead_letters: PathBuf,
    due: Option<Instant>,
    failing: bool,
}

impl<D: Disk> Scrubber<D> {
    /// A scrubber for this journal, these transcripts and this file of dead letters.
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

    /// Scrubs if it is due; stops early once `go_on` returns false.
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
                // Erased meanwhile.
                self.due = (self.journal.erasures_pending() > 0).then(|| now + SCRUB_DELAY);
            }
            Err(e) => {
                self.due = Some(now + RETRY_INTERVAL);
                if e.kind() != io::ErrorKind::Interrupted && !std::mem::replace(&mut self.failing, true) {
                    log::warn!("[CHAT ERASE] Cannot scrub what is erased yet, trying again: {e}");
                }
            }
        }
    }

    /// Scrubs everything that was erased until now.
    ///
    /// # Errors
    /// The disk failed, or `go_on` returned false ([`io::ErrorKind::Interrupted`]). The next pass does all of it again.
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
            "[CHAT ERASE] Overwrote what was erased. Sessions: {}; messages in the journal: {} (files: {}); other files: {}; \
             dead letters: {}",
            wanted.sessions.len(),
            journal.blanks,
            journal.files,
            copies + usize::from(recovered),
            letters.get()
        );
        Ok(())
    }
}

/// Whether a line is an erased message, or begins like one.
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
        // A line cut off by a crash: the erased message is in it from its beginning, or not at all.
        Err(_) => {
            let mut places = memchr::memmem::find_iter(line, b"{\"id\":\"");
            places.any(|at| {
                Message::beginning_of_line(&line[at..]).is_some_and(|(id, session)| wanted.covers(&session, id))
            })
        }
    }
}
