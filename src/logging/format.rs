//! How a line of the log looks: for people, for journald, or as JSON.
//!
//! | style | a line |
//! |---|---|
//! | plain | `2025-11-28T01:23:45.123456+00:00 [INFO ] (http-3) message (request 1b2c3d4e-5)` |
//! | journal | `<6>[INFO ] (http-3) message (request 1b2c3d4e-5)`: journald adds the time and takes the priority off |
//! | JSON | `{"time":"…","level":"INFO","target":"chatkeep::recorder","thread":"http-3","message":"…","request_id":"…"}` |
//!
//! simplelog makes the first two. Knows nothing of which lines are logged, nor of who reads them.

use std::io::{self, Write};
use std::os::fd::AsFd;

use log::kv::{Error, Key, Value as Given, VisitSource};
use log::{Level, LevelFilter, Record};
use serde_json::{Map, Number, Value};
use simplelog::{LevelPadding, ThreadLogMode};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::request;
use super::text::forges;

/// RFC 3339 with microseconds, always UTC, as everywhere else.
const TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00");

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineStyle {
    /// For people and files.
    Plain,
    /// For journald, which puts the time to each line itself.
    Journal,
    /// One JSON object a line.
    Json,
}

impl LineStyle {
    /// The style for `stderr`: JSON if it is wanted, else what its reader takes.
    #[must_use]
    pub fn of(wants_json: bool, stderr: impl AsFd) -> Self {
        match wants_json {
            true => Self::Json,
            false if is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), stderr) => Self::Journal,
            false => Self::Plain,
        }
    }

    pub(super) fn simplelog(self) -> simplelog::Config {
        let time = if self == Self::Journal { LevelFilter::Off } else { LevelFilter::Error };
        simplelog::ConfigBuilder::new()
            .set_time_format_custom(TIME)
            .set_time_level(time)
            .set_level_padding(LevelPadding::Right)
            .set_thread_level(LevelFilter::Error)
            .set_thread_mode(ThreadLogMode::Both)
            // The prefix of a message says where it comes from; the module is only needed for debugging.
            .set_target_level(LevelFilter::Debug)
            .set_location_level(LevelFilter::Off)
            .build()
    }

    /// The line that says how many were lost.
    pub(super) fn lost(self, count: u64) -> Vec<u8> {
        let text = format!("{count} lines were lost: the log was not read for a while");
        match self {
            Self::Json => {
                let record = Record::builder().level(Level::Warn).target(env!("CARGO_CRATE_NAME")).build();
                json(&record, &text)
            }
            Self::Journal => format!("<4>[WARN ] (log) {text}\n").into_bytes(),
            Self::Plain => format!("[WARN ] (log) {text}\n").into_bytes(),
        }
    }
}

/// Whether `stderr` is the stream that `JOURNAL_STREAM` names by device and inode: who has redirected it reads no
/// priorities (systemd.exec(5)).
fn is_journal(named: Option<&str>, stderr: impl AsFd) -> bool {
    let named = named.and_then(|named| named.split_once(':'));
    let named = named.and_then(|(device, inode)| Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?)));
    let Ok(stat) = rustix::fs::fstat(stderr) else { return false };
    named == Some((stat.st_dev, stat.st_ino))
}

/// A record as one JSON object on one line, in ASCII where a character could steer a terminal.
pub(super) fn json(record: &Record<'_>, text: &str) -> Vec<u8> {
    let mut object = JsonFields(Map::new());
    let mut put = |name: &str, value: &str| object.0.insert(name.to_owned(), value.into());
    put("time", &OffsetDateTime::now_utc().format(TIME).unwrap_or_default());
    put("level", record.level().as_str());
    put("target", record.target());
    put("thread", std::thread::current().name().unwrap_or_default());
    put("message", text);
    request::look(|current| {
        current.request.as_deref().map(|request| put("request_id", request));
        current.session.as_deref().map(|session| put("session", session));
    });
    // A value that cannot be shown is left out.
    let _ = record.key_values().visit(&mut object);
    let mut line = String::with_capacity(256);
    for c in Value::Object(object.0).to_string().chars() {
        // JSON has C0 escaped; all others stand in the basic plane.
        if forges(c) { line.push_str(&format!("\\u{:04x}", c as u32)) } else { line.push(c) }
    }
    line.push('\n');
    line.into_bytes()
}

/// The fields of an object, to which a record's own are added.
struct JsonFields(Map<String, Value>);

impl<'kvs> VisitSource<'kvs> for JsonFields {
    fn visit_pair(&mut self, key: Key<'kvs>, given: Given<'kvs>) -> Result<(), Error> {
        let number = given.to_u64().map(Number::from).or_else(|| given.to_f64().and_then(Number::from_f64));
        let value = number.map_or_else(|| Value::String(given.to_string()), Value::Number);
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}

/// Collects the pieces that simplelog writes and passes each line on whole.
pub(super) struct LineBuffer<W: Write> {
    line: Vec<u8>,
    style: LineStyle,
    out: W,
}

impl<W: Write> LineBuffer<W> {
    pub(super) fn new(style: LineStyle, out: W) -> Self {
        Self { line: Vec::new(), style, out }
    }
}

impl<W: Write> Write for LineBuffer<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.line.is_empty() && self.style == LineStyle::Journal {
            // simplelog begins with the level, in one piece.
            self.line.extend_from_slice(priority(piece));
        }
        self.line.extend_from_slice(piece);
        if piece.ends_with(b"\n") {
            // A failed write must not fail the caller.
            let _ = self.out.write_all(&self.line);
            self.line.clear();
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The priority of a line by its level (sd-daemon(3)).
fn priority(level: &[u8]) -> &'static [u8] {
    match level.get(1..3) {
        Some(b"ER") => b"<3>",
        Some(b"WA") => b"<4>",
        Some(b"DE" | b"TR") => b"<7>",
        _ => b"<6>",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn journald_is_recognised_by_device_and_inode_only() {
        let file = tempfile::tempfile().unwrap();
        let stat = file.metadata().unwrap();
        let named = format!("{}:{}", stat.dev(), stat.ino());
        assert!(is_journal(Some(&named), &file));
        for other in [&format!("{}:{}", stat.dev(), stat.ino() + 1), &format!("{named}:1"), "", ":", "8:x"] {
            assert!(!is_journal(Some(other), &file), "{other}");
        }
        assert!(!is_journal(None, &file));
    }
}
