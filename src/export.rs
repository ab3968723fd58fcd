//! The export: all messages, by session name and then by id, for a file.
//!
//! | format | what |
//! |---|---|
//! | `ndjson` | every message that has neither expired nor been erased, markers too: the lines as they were recorded |
//! | `markdown` | a document to read: of each session the path after its rewinds |
//! | `openai` | a line for each session, `{"messages":[…]}`: the same path without markers and failed replies |
//!
//! The feed's cursor is taken first and the sessions are listed after it, so the export and the feed after that cursor are
//! everything, with some messages in both. Sessions are read page by page as the history reads them, what only MongoDB has
//! included. Of a session the memory holds a page, of all sessions the names.
//!
//! Invariants: no lock is held while something is written; what could not be read is told at the end, and nothing else is
//! left out for it. Knows nothing of HTTP.

mod names;
mod openai;
mod path;
mod readable;
mod reader;

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use crate::access::SessionPrefix;
use crate::disk::{Disk, RealDisk};
use crate::feed::{Cursor, Feed};
use crate::history::History;
use crate::message::SessionId;
use crate::sessions::SessionIndex;

use names::SessionNames;
use reader::{Missing, SessionReader, Stopped};

/// The form of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// One message a line, lossless.
    #[default]
    Ndjson,
    /// For people.
    Markdown,
    /// One conversation a line, in the form for training.
    OpenAi,
}

impl ExportFormat {
    /// All of them by name.
    pub const NAMES: [(&str, Self); 3] =
        [("ndjson", Self::Ndjson), ("markdown", Self::Markdown), ("openai", Self::OpenAi)];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }
}

/// The text names no format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be ndjson, markdown or openai")]
pub struct UnknownFormat;

impl FromStr for ExportFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format).ok_or(UnknownFormat)
    }
}

/// Why an export is not whole.
#[derive(Debug)]
pub enum ExportError {
    /// What is written cannot be passed on: the client is gone.
    Client(io::Error),
    /// Something could not be read. Everything else was written.
    Incomplete(String),
}

/// An export that has begun.
pub struct Export<D: Disk = RealDisk> {
    history: Arc<History<D>>,
    cursor: Cursor,
    names: SessionNames,
    missing: Missing,
}

impl<D: Disk> Export<D> {
    /// Begins an export of one session, or of all whose name the prefix covers.
    ///
    /// # Errors
    /// The transcripts cannot be listed. A retry is safe.
    pub fn begin(
        history: &Arc<History<D>>,
        feed: &Feed<D>,
        index: &SessionIndex<D>,
        (session, prefix): (Option<SessionId>, Option<SessionPrefix>),
    ) -> io::Result<Self> {
        let cursor = feed.newest();
        let names = match session {
            Some(session) => SessionNames::one(session),
            None => {
                let mut here = history.sessions_here()?;
                here.extend(index.names());
                SessionNames::all(here, prefix)
            }
        };
        Ok(Self { history: Arc::clone(history), cursor, names, missing: Missing::default() })
    }

    /// The feed's cursor at its start.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Writes everything. `ends` tells between two pages why the export is to end, if so.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub fn write(
        mut self,
        format: ExportFormat,
        ends: &dyn Fn() -> Option<&'static str>,
        to: &mut dyn Write,
    ) -> Result<(), ExportError> {
        while let Some(session) = self.names.next(&*self.history, &mut self.missing) {
            let mut reader = SessionReader { history: &*self.history, session: &session, ends, unread: None };
            let written = match format {
                ExportFormat::Ndjson => reader.each(&mut |message| {
                    to.write_all(message.line())?;
                    to.write_all(b"\n")
                }),
                ExportFormat::Markdown => readable::write(&mut reader, to),
                ExportFormat::OpenAi => openai::write(&mut reader, to),
            };
            let unread = reader.unread.take();
            match written {
                Err(Stopped::Client(fault)) => return Err(ExportError::Client(fault)),
                Err(Stopped::Ended(why)) => {
                    return Err(ExportError::Incomplete(format!("it ended at session {session}: {why}")));
                }
                Err(Stopped::Unreadable(fault)) => self.missing.add(&session, &fault.to_string()),
                Ok(()) => {}
            }
            unread.iter().for_each(|why| self.missing.add(&session, why));
        }
        self.missing.told().map_or(Ok(()), |why| Err(ExportError::Incomplete(why)))
    }
}
