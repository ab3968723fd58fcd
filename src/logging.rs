//! The log on stderr: one line a record, one write a line, and no text from a client can forge a line.
//!
//! The rules of the log are all here: a message is formatted once, before any lock; its control characters become
//! visible escapes; a long message is cut; the finished line is written at once, so that lines of several threads never
//! mix. simplelog's `WriteLogger` adds time, level and thread. The thread `log` writes the lines, because a reader of
//! stderr may stop reading.
//!
//! Invariants: a closed, failing or blocked stderr never causes a panic and never delays or fails a request. If the
//! queue to the thread `log` is full, lines are lost, and a line says how many. A panic is one line; its text, if it
//! was formatted at run time, appears at TRACE only: Rust's own panics quote the strings on which they failed, which
//! may be messages. Knows nothing of what is logged.

use std::any::Any;
use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};
use simplelog::{LevelPadding, ThreadLogMode, WriteLogger};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::thread;

/// The longest message that is written whole, in bytes. An escape sequence at the limit is not cut.
const MESSAGE_BYTES: usize = 8 * 1024;

/// Lines that wait for the thread `log`; beyond, lines are lost and counted.
const QUEUE_LINES: usize = 1024;

/// The longest that a flush waits for a blocked stderr.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// The target of our own records, as `log` makes it from the module path.
const OURS: &str = env!("CARGO_CRATE_NAME");

/// Crates that trace heads and bytes of requests and answers, where the key of a model's server may stand: never heard below
/// WARN.
const TELL_SECRETS: [&str; 2] = ["ureq", "ureq_proto"];

/// RFC 3339 with microseconds, always UTC, as everywhere else.
const TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00");

/// Sends the log from `level` up, and panics, to stderr. Call it once in a process.
///
/// # Errors
/// There is a logger already.
pub fn init(level: LevelFilter) -> Result<(), SetLoggerError> {
    log::set_boxed_logger(Box::new(Logger::new(level, LogQueue::new(io::stderr()))))?;
    log::set_max_level(level);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Escapes and bounds each message, and hands it to simplelog.
struct Logger<W: Write + Send + 'static> {
    level: LevelFilter,
    inner: Box<WriteLogger<LineBuffer<W>>>,
}

impl<W: Write + Send + 'static> Logger<W> {
    fn new(level: LevelFilter, out: W) -> Self {
        let config = simplelog::ConfigBuilder::new()
            .set_time_format_custom(TIME)
            .set_level_padding(LevelPadding::Right)
            .set_thread_level(LevelFilter::Error)
            .set_thread_mode(ThreadLogMode::Both)
            // The prefix of a message says where it comes from; the module is only needed for debugging.
            .set_target_level(LevelFilter::Debug)
            .set_location_level(LevelFilter::Off)
            .build();
        Self { level, inner: WriteLogger::new(level, config, LineBuffer { line: Vec::new(), out }) }
    }
}

impl<W: Write + Send + 'static> Log for Logger<W> {
    /// Other crates log from WARN up only: their details are for TRACE, and some contain network traffic.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_of =
            |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        let is_told = self.level == LevelFilter::Trace && !TELL_SECRETS.iter().any(|name| is_of(name));
        metadata.level() <= self.level && (is_of(OURS) || metadata.level() <= Level::Warn || is_told)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Formatted outside simplelog's lock, which a Display that panics would poison.
        let mut message = Escaped { text: String::new(), left_out: 0 };
        // Escaped never fails; an error is a Display's own, and its text so far is kept.
        let _ = message.write_fmt(*record.args());
        let text = message.finish();
        self.inner.log(&Record::builder().metadata(record.metadata().clone()).args(format_args!("{text}")).build());
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

/// `text` on one line, with every character escaped that could forge a line or control a terminal; cut at the longest
/// message.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut message = Escaped { text: String::with_capacity(text.len()), left_out: 0 };
    // Escaped never fails.
    let _ = message.write_str(text);
    message.finish()
}

/// Takes formatted text, escapes control characters, and keeps at most [`MESSAGE_BYTES`].
struct Escaped {
    text: String,
    left_out: usize,
}

impl Escaped {
    fn finish(mut self) -> String {
        if self.left_out > 0 {
            self.text.push_str(&format!("… ({} more bytes)", self.left_out));
        }
        self.text
    }
}

impl fmt::Write for Escaped {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if self.text.len() >= MESSAGE_BYTES {
                self.left_out += c.len_utf8();
            } else if forges(c) {
                // \n, \r, \t, and \u{1b} for the others.
                self.text.extend(c.escape_default());
            } else {
                self.text.push(c);
            }
        }
        Ok(())
    }
}

/// Characters that could end the line, control a terminal, or reorder its text: C0, DEL, C1, the Unicode line
/// separators and the bidirectional controls.
fn forges(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Collects the pieces that simplelog writes and passes each line on whole.
struct LineBuffer<W: Write> {
    line: Vec<u8>,
    out: W,
}

impl<W: Write> Write for LineBuffer<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
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

/// Lines for the thread that writes them.
struct LogQueue {
    lines: Sender<Line>,
    lost: Arc<AtomicU64>,
}

enum Line {
    Text(Vec<u8>),
    /// Its drop tells that everything before it was written.
    Flush(#[allow(dead_code, reason = "its end is the message")] Sender<()>),
}

impl LogQueue {
    /// Starts the thread `log`, which is never joined: it ends with the process. If it cannot be started, every line is
    /// lost.
    fn new(out: impl Write + Send + 'static) -> Self {
        let (lines, queue) = bounded(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let _ = thread::spawn("log", move || write_lines(&queue, &counted, out));
        Self { lines, lost }
    }
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Line::Text(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    /// Waits until everything logged so far is written, at most a second.
    fn flush(&mut self) -> io::Result<()> {
        let (written, wait) = bounded::<()>(0);
        let deadline = Instant::now() + FLUSH_WAIT;
        if self.lines.send_deadline(Line::Flush(written), deadline).is_ok() {
            // Nothing is sent: the channel closes when the thread comes to it.
            let _ = wait.recv_deadline(deadline);
        }
        Ok(())
    }
}

fn write_lines(queue: &Receiver<Line>, lost: &AtomicU64, mut out: impl Write) {
    for line in queue {
        let Line::Text(line) = line else { continue };
        // A write that fails cannot be reported: the line is lost, the next one is tried.
        let _ = out.write_all(&line);
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = writeln!(out, "[WARN ] (log) {count} lines were lost: the log was not read for a while");
        }
    }
}

/// The panic hook: writes one line, with the thread like every line.
fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(unknown_place, ToString::to_string);
    log::error!("panic at {place}: {}", panic_text(info.payload(), log::max_level()));
    let _ = LAST_PANIC.try_with(|last| last.replace(place));
}

fn unknown_place() -> String {
    "an unknown place".to_owned()
}

thread_local! {
    /// Where this thread panicked last.
    static LAST_PANIC: RefCell<String> = RefCell::new(unknown_place());
}

/// Where this thread panicked last: for code that catches a panic and knows which request it concerns.
pub fn last_panic() -> String {
    LAST_PANIC.with(|last| last.borrow().clone())
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

/// Lets a few lines through each second, for events that may happen thousands of times.
///
/// ```
/// static TOUCHED: chatkeep::logging::Throttle = chatkeep::logging::Throttle::new(3);
/// if let Some(left_out) = TOUCHED.admit() {
///     log::info!("[CHAT CACHE] session touched ({left_out} more left out before)");
/// }
/// ```
#[derive(Debug)]
pub struct Throttle {
    per_second: u32,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    since: Option<Instant>,
    admitted: u32,
    left_out: u64,
}

/// What a throttle left out, for the end of a line.
#[must_use]
pub fn others(left_out: u64) -> String {
    if left_out > 0 { format!(" (such lines left out: {left_out})") } else { String::new() }
}

impl Throttle {
    /// Admits at most `per_second` in a second that begins with the first of them.
    #[must_use]
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, window: Mutex::new(Window { since: None, admitted: 0, left_out: 0 }) }
    }

    /// `Some` if this line may be logged, with the number left out since the last one; `None` to leave it out.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        // The numbers are valid even after a panic of the last holder.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |since: Instant| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if window.since.is_none_or(is_over) {
            window.since = Some(now);
            window.admitted = 0;
        }
        if window.admitted < self.per_second {
            window.admitted += 1;
            Some(std::mem::take(&mut window.left_out))
        } else {
            window.left_out += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests;
