//! A program of the user's answers: run once for each message, without a shell between.
//!
//! ```text
//! environment.rs    what the program finds in its environment
//! program.rs        why it cannot be run, in words
//! command.rs        one answer: the pipes, the stop, the deadline, and what the end means
//! conversation.rs   what the program reads on its standard input
//! group.rs          the program in a process group of its own, and the end of that group
//! ```
//!
//! The program may read the conversation, and what it writes to its standard output is the answer, as it comes; line ends at its
//! end are not part of it, as in a shell's `$(…)`, and CRLF is one. Its environment is ours without secrets, and with
//! `CHATKEEP_SESSION_ID` and `CHATKEEP_MESSAGE_ID`; its folder is ours. It has answered when it has exited with code 0. Any
//! other end, and an answer beyond [`TEXT_BYTES_MAX`](super::TEXT_BYTES_MAX), is a failure, with the end of what it wrote to its standard error.
//!
//! Invariants: no pipe is ever waited for alone, so no order of reading and writing can hang; every wait checks the stop
//! and the deadline each [`STOP_POLL_INTERVAL`]; on return the process group has been ended in any case. Memory is one piece
//! of output, [`TAIL_BYTES`] of error output and one message. Knows nothing of what the answer is for.

mod conversation;
mod environment;
mod group;
mod program;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::excerpt::{OutputTail, escaped};
use super::output_limit::OutputLimit;
use super::utf8::Utf8Decoder;
use super::{Answer, ContextLimit, Question, Responder, ResponderError};
use crate::config::ResponderConfig;
use crate::swap::Swap;
use group::{Pipes, ProcessGroup};

/// The context that a command gets.
const CONTEXT: ContextLimit = ContextLimit { messages: 100, bytes: 1 << 20 };

/// The longest wait without checking stop and deadline.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// How long after the exit a silent pipe is read that another process holds open.
const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long after the exit pipes are read at all: a process that goes on writing is not the program.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes kept of the error output.
const TAIL_BYTES: usize = 2048;

/// The most bytes of one read; as many as a pipe holds.
const PIECE_BYTES: usize = 64 * 1024;

/// Runs a program for each answer.
#[derive(Debug)]
pub struct CommandResponder {
    argv: Vec<String>,
    environment: Swap<Vec<(OsString, OsString)>>,
}

impl CommandResponder {
    /// Runs the `command` of `config`, its first item the program: a path, or a name on the `PATH`.
    #[must_use]
    pub fn new(config: &ResponderConfig) -> Self {
        let environment = Swap::new(environment::passed(config, std::env::vars_os()));
        Self { argv: config.command.clone(), environment }
    }

    /// Why it cannot be run, as far as that can be seen without running it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let (program, environment) = (self.program(), self.environment.load());
        let path = environment.iter().find(|(name, _)| name == "PATH");
        let fault = program::fault(program, path.map(|(_, value)| OsStr::new(value)))?;
        Some(format!("the command {} cannot be run: {fault}", escaped(program)))
    }

    fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }
}

impl Responder for CommandResponder {
    fn context(&self) -> ContextLimit {
        CONTEXT
    }

    fn hide_secrets(&self, config: &ResponderConfig) {
        self.environment.store(environment::passed(config, std::env::vars_os()));
    }

    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        let mut environment = self.environment.load().to_vec();
        environment.push(("CHATKEEP_SESSION_ID".into(), question.session.as_str().into()));
        environment.push(("CHATKEEP_MESSAGE_ID".into(), question.user.to_string().into()));
        let (mut group, pipes) = ProcessGroup::start(&self.argv, environment).map_err(|e| {
            let seen = || format!("the command {} cannot be run: {e}", escaped(self.program()));
            ResponderError::Failed(self.fault().unwrap_or_else(seen))
        })?;
        let mut talk = Exchange::new(question, pipes, say);
        let end = talk.run(&group);
        let status = group.end();
        end?;
        match status {
            Some(status) if status.success() && talk.output.output_limit.has_text() => Ok(Answer::default()),
            status => {
                // What `env` says of an interpreter that is missing: the program itself could be run.
                let is_missing = matches!(status.and_then(|status| status.code()), Some(126 | 127));
                let fault = if is_missing { self.fault() } else { None };
                Err(ResponderError::Failed(fault.unwrap_or_else(|| complaint(status, &talk.errors.shown()))))
            }
        }
    }
}

/// The error for a program that did not exit with code 0, or wrote nothing.
fn complaint(status: Option<ExitStatus>, errors: &str) -> String {
    use std::os::unix::process::ExitStatusExt;
    let (code, signal) = (status.and_then(|s| s.code()), status.and_then(|s| s.signal()));
    let end = match (code, signal) {
        (Some(0), _) => "the command wrote no text".to_owned(),
        (Some(code), _) => format!("the command failed with exit code {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).map(|name| format!(" ({name})"));
            format!("the command was ended by signal {signal}{}", name.unwrap_or_default())
        }
        (None, None) => "the command has not ended in any known way".to_owned(),
    };
    if errors.is_empty() { end } else { format!("{end}: {errors}") }
}

/// The exchange with one running program.
struct Exchange<'a> {
    question: &'a Question,
    pipes: Pipes,
    input: ProgramInput<'a>,
    output: Output<'a>,
    errors: OutputTail,
    piece: Vec<u8>,
}

impl<'a> Exchange<'a> {
    fn new(question: &'a Question, pipes: Pipes, say: &'a mut dyn FnMut(&str)) -> Self {
        let input = ProgramInput { pieces: Box::new(conversation::pieces(question)), piece: Vec::new(), at: 0 };
        let output = Output {
            output_limit: OutputLimit::new(say),
            decoder: Utf8Decoder::default(),
            newlines: 0,
            has_return: false,
        };
        Self { question, pipes, input, output, errors: OutputTail::new(TAIL_BYTES), piece: vec![0; PIECE_BYTES] }
    }

    /// Runs until the program has exited and its pipes are read.
    fn run(&mut self, group: &ProcessGroup) -> Result<(), ResponderError> {
        let (mut exited_at, mut wait) = (None, STOP_POLL_INTERVAL);
        loop {
            if self.question.stop.is_set() {
                return Err(ResponderError::Stopped);
            }
            let now = Instant::now();
            if now >= self.question.until {
                // A program that has exited was in time.
                break exited_at.map_or(Err(ResponderError::Late), |_| self.output.finish());
            }
            let came = self.exchange(wait.min(self.question.until - now))?;
            if exited_at.is_none() && group.has_exited() {
                exited_at = Some(Instant::now());
            }
            let is_silent = self.pipes.stdout.is_none() && self.pipes.stderr.is_none();
            // Between the end of its output and its exit a program does almost nothing.
            wait = if is_silent { (wait / 2).max(Duration::from_millis(1)) } else { STOP_POLL_INTERVAL };
            match exited_at {
                Some(_) if is_silent => break self.output.finish(),
                Some(exited_at) if exited_at.elapsed() >= if came { DRAIN_TIMEOUT } else { DRAIN_IDLE_TIMEOUT } => {
                    break self.output.finish();
                }
                _ => {}
            }
        }
    }

    /// Waits until a pipe is ready, at most `time`, and moves what can be moved without blocking. Returns whether
    /// output came.
    fn exchange(&mut self, time: Duration) -> Result<bool, ResponderError> {
        let broken = |e: io::Error| ResponderError::Failed(format!("the pipes to the command failed: {e}"));
        wait_for_any(&self.pipes, time).map_err(broken)?;
        if self.input.write(self.pipes.stdin.as_mut()).map_err(broken)? {
            // Closing it marks the end of the conversation.
            self.pipes.stdin = None;
        }
        let mut came = false;
        match read(self.pipes.stderr.as_mut(), &mut self.piece).map_err(broken)? {
            Some(0) => self.pipes.stderr = None,
            Some(n) => (came, _) = (true, self.errors.push(&self.piece[..n])),
            None => {}
        }
        match read(self.pipes.stdout.as_mut(), &mut self.piece).map_err(broken)? {
            Some(0) => self.pipes.stdout = None,
            Some(n) => (came, _) = (true, self.output.hear(&self.piece[..n])?),
            None => {}
        }
        Ok(came)
    }
}

/// Waits until a pipe is ready or closed, at most `time`.
fn wait_for_any(pipes: &Pipes, time: Duration) -> io::Result<()> {
    let stdin = pipes.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT));
    let stdout = pipes.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
    let stderr = pipes.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
    let mut open: Vec<PollFd<'_>> = [stdin, stdout, stderr].into_iter().flatten().collect();
    match poll(&mut open, Some(&Timespec::try_from(time).unwrap_or_default())) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// `None` when there is nothing to read now; 0 at the end.
fn read(pipe: Option<&mut impl Read>, piece: &mut [u8]) -> io::Result<Option<usize>> {
    let Some(pipe) = pipe else { return Ok(None) };
    match pipe.read(piece) {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The input that is still to be written.
struct ProgramInput<'a> {
    pieces: Box<dyn Iterator<Item = Vec<u8>> + 'a>,
    piece: Vec<u8>,
    at: usize,
}

impl ProgramInput<'_> {
    /// Writes what the pipe takes. Returns whether to close it: everything was written, or the program does not read.
    fn write(&mut self, pipe: Option<&mut impl Write>) -> io::Result<bool> {
        let Some(pipe) = pipe else { return Ok(true) };
        loop {
            if self.at == self.piece.len() {
                let Some(piece) = self.pieces.next() else { return Ok(true) };
                (self.piece, self.at) = (piece, 0);
            }
            match pipe.write(&self.piece[self.at..]) {
                Ok(n) => self.at += n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(false),
                // A program need not read its input.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Passes the standard output on.
struct Output<'a> {
    output_limit: OutputLimit<'a>,
    decoder: Utf8Decoder,
    /// Newlines that belong to the answer only if something follows them.
    newlines: usize,
    /// A carriage return that belongs to the newline that may follow.
    has_return: bool,
}

impl Output<'_> {
    fn hear(&mut self, bytes: &[u8]) -> Result<(), ResponderError> {
        let mut text = self.decoder.decode(bytes);
        if self.has_return && !text.is_empty() {
            text.insert(0, '\r');
        }
        self.has_return = text.ends_with('\r') || self.has_return && text.is_empty();
        let text = text.strip_suffix('\r').unwrap_or(&text).replace("\r\n", "\n");
        self.say(&text)
    }

    fn say(&mut self, text: &str) -> Result<(), ResponderError> {
        let body = text.trim_end_matches('\n');
        let newlines = text.len() - body.len();
        if body.is_empty() {
            self.newlines += newlines;
            return Ok(());
        }
        // Bounded by the longest text, whatever was written.
        let held = std::mem::replace(&mut self.newlines, newlines).min(super::TEXT_BYTES_MAX + 1);
        if held > 0 {
            self.output_limit.say(&"\n".repeat(held))?;
        }
        self.output_limit.say(body)
    }

    fn finish(&mut self) -> Result<(), ResponderError> {
        let rest = std::mem::take(&mut self.decoder).finish();
        self.say(rest)
    }
}
