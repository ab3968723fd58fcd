//! The log on stderr: one line a record, one write a line, and no text from a client can forge a line.
//!
//! A message is formatted once, before any lock; its control characters become visible escapes; a long message is cut;
//! the finished line is written at once, so that lines of several threads never mix. Its parts stand in files of their
//! own: how a line looks (`format.rs`), which request it names (`request.rs`), the thread that writes it (`queue.rs`), how
//! many of a kind there are (`throttle.rs`).
//!
//! Invariants: a closed, failing or blocked stderr never causes a panic and never delays or fails a request. If the
//! queue to the thread `log` is full, lines are lost, and a line says how many. A panic is one line; its text, if it
//! was formatted at run time, appears at TRACE only: Rust's own panics quote the strings on which they failed, which
//! may be messages. Knows nothing of what is logged.

mod format;
mod queue;
mod request;
mod text;
mod throttle;

use std::any::Any;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use simplelog::WriteLogger;

use crate::config::{LogConfig, LogFormat};

use format::LineBuffer;
use queue::LogQueue;
use text::MessageText;

pub use format::LineStyle;
pub use request::{EnteredRequest, RequestId, about_session, current, enter, in_the_log};
pub use text::escaped;
pub use throttle::{Throttle, others};

/// The target of the access log: a line for each request, if `log.access` wants it.
pub const ACCESS: &str = "chatkeep::access";

/// The target of our own records, as `log` makes it from the module path.
const OURS: &str = env!("CARGO_CRATE_NAME");

/// Crates that trace heads and bytes of requests and answers, where the key of a model's server may stand: never heard below
/// WARN.
const TELL_SECRETS: [&str; 2] = ["ureq", "ureq_proto"];

/// Sends the log and panics to stderr, as the configuration wants it, and returns how its lines look. Call it once in a
/// process.
///
/// # Errors
/// There is a logger already.
pub fn init(config: &LogConfig) -> Result<LineStyle, SetLoggerError> {
    let style = LineStyle::of(config.format == LogFormat::Json, io::stderr());
    if style == LineStyle::Json {
        request::tell_sessions();
    }
    let logger = Logger::new(config, style, LogQueue::new(io::stderr(), style));
    // The level of the process, which may change.
    log::set_boxed_logger(Box::new(Logger { level: None, ..logger }))?;
    log::set_max_level(config.level);
    std::panic::set_hook(Box::new(log_panic));
    Ok(style)
}

/// Logs from `level` up from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Bounds each message, makes a line of it, and hands it to the queue.
struct Logger<W: Write + Send + 'static> {
    /// `None`: that of the process.
    level: Option<LevelFilter>,
    logs_access: bool,
    writer: LineWriter<W>,
}

enum LineWriter<W: Write + Send + 'static> {
    Text(Box<WriteLogger<LineBuffer<W>>>),
    Json(Mutex<W>),
}

impl<W: Write + Send + 'static> Logger<W> {
    fn new(config: &LogConfig, style: LineStyle, out: W) -> Self {
        let text = |out| WriteLogger::new(LevelFilter::Trace, style.simplelog(), LineBuffer::new(style, out));
        let writer = match style {
            LineStyle::Json => LineWriter::Json(Mutex::new(out)),
            LineStyle::Plain | LineStyle::Journal => LineWriter::Text(text(out)),
        };
        Self { level: Some(config.level), logs_access: config.access, writer }
    }
}

impl<W: Write + Send + 'static> Log for Logger<W> {
    /// Other crates log from WARN up only: their details are for TRACE, and some contain network traffic.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let (target, level) = (metadata.target(), self.level.unwrap_or_else(log::max_level));
        let is_of =
            |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        let is_told = level == LevelFilter::Trace && !TELL_SECRETS.iter().any(|name| is_of(name));
        let is_wanted = self.logs_access || target != ACCESS;
        metadata.level() <= level && is_wanted && (is_of(OURS) || metadata.level() <= Level::Warn || is_told)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Formatted outside of any lock, which a Display that panics would poison.
        let mut message = MessageText::new(matches!(self.writer, LineWriter::Text(_)));
        // MessageText never fails; an error is a Display's own, and its text so far is kept.
        let _ = message.write_fmt(*record.args());
        let mut text = message.finish();
        match &self.writer {
            LineWriter::Text(writer) => {
                request::look(|current| {
                    current.request.as_ref().map(|request| text.push_str(&format!(" (request {request})")))
                });
                writer.log(&Record::builder().metadata(record.metadata().clone()).args(format_args!("{text}")).build());
            }
            LineWriter::Json(out) => {
                let line = format::json(record, &text);
                // A failed write must not fail the caller.
                let _ = out.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
            }
        }
    }

    fn flush(&self) {
        match &self.writer {
            LineWriter::Text(writer) => writer.flush(),
            LineWriter::Json(out) => drop(out.lock().unwrap_or_else(PoisonError::into_inner).flush()),
        }
    }
}

/// The panic hook: writes one line, which names the thread and the request like every line.
fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    log::error!("panic at {place}: {}", panic_text(info.payload(), log::max_level()));
}

/// The text of a panic that may be logged: a literal of our source always, formatted text at TRACE only.
fn panic_text(payload: &(dyn Any + Send), level: LevelFilter) -> &str {
    match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(literal), _) => literal,
        (None, Some(text)) if level == LevelFilter::Trace => text,
        (None, Some(_)) => "(its text is logged at trace)",
        (None, None) => "(no text)",
    }
}

#[cfg(test)]
mod tests;
