//! One chatkeep process in a temporary folder, started as a user starts it and always ended.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Client, Connection};
use super::{Limit, WAIT_TIMEOUT, wait_until};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_chatkeep");

/// How a server is started: its config file and its surroundings.
#[derive(Clone, Debug)]
pub struct Options {
    config: Value,
    listen: String,
    descriptors: Option<u32>,
    environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: json!({"mongo": {"enabled": false}}),
            listen: "127.0.0.1:0".to_owned(),
            descriptors: None,
            environment: Vec::new(),
        }
    }
}

impl Options {
    /// Sets one key of the config file, by its path with dots.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.config;
        for key in path.split('.') {
            place = &mut place[key];
        }
        *place = value.into();
        self
    }

    /// The address on the command line, in place of `127.0.0.1:0`.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// A variable of the server's environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the server under `ulimit -n`, soft and hard.
    #[must_use]
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// The config file's text: JSON, which is YAML.
    pub fn config_text(&self) -> String {
        serde_json::to_string_pretty(&self.config).expect("a config is plain JSON")
    }
}

/// A server that runs, or has run, on its folder.
pub struct Server {
    folder: TempDir,
    options: Options,
    child: Option<Child>,
    address: Option<SocketAddr>,
    starts: u32,
}

impl Server {
    /// Starts a server in a new folder and waits until it says that it listens.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let mut server = Self::prepared(options);
        server.start_again();
        server
    }

    /// The folder and the config without a process, for what a server must refuse.
    pub fn prepared(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("chatkeep-").tempdir().expect("a temporary folder");
        let server = Self { folder, options, child: None, address: None, starts: 0 };
        server.write_config();
        server
    }

    fn write_config(&self) {
        fs::write(self.config_path(), self.options.config_text()).expect("the config file can be written");
    }

    /// Takes other options for the next start, on the same data.
    pub fn reconfigure(&mut self, options: Options) {
        self.options = options;
        self.write_config();
    }

    /// The command that starts it, on its data.
    pub fn command(&self) -> Command {
        let mut command = match self.options.descriptors {
            None => Command::new(BINARY),
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!(r#"ulimit -n {most} && exec "$0" "$@""#)).arg(BINARY);
                shell
            }
        };
        command.arg("serve").arg("--config").arg(self.config_path());
        command.arg("--listen").arg(&self.options.listen).arg("--data").arg(self.data());
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the process on the folder as it is, and waits until it listens.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.start_by(self.command());
    }

    /// The same by another command.
    #[track_caller]
    pub fn start_by(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "it runs already");
        self.starts += 1;
        let log = File::create(self.log_path()).expect("the log file can be made");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("chatkeep can be started");
        let stdout = child.stdout.take().expect("its stdout is piped");
        self.child = Some(child);
        let (send, lines) = mpsc::channel();
        // Reads to the end, so that the server never meets a closed pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let deadline = Instant::now() + WAIT_TIMEOUT;
        self.address = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(address) = line.strip_prefix("listening on http://") {
                        break Some(address.trim().parse().unwrap_or_else(|e| panic!("{line}: {e}")));
                    }
                }
                Err(e) => panic!("chatkeep never said that it listens ({e}); its log:\n{}", self.log()),
            }
        };
    }

    /// Stops in order if it still runs, then starts again on the same data.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.child.is_some() {
            let status = self.sigterm_and_wait();
            assert_eq!(status.code(), Some(0), "an ordered stop exits 0; its log:\n{}", self.log());
        }
        self.start_again();
    }

    /// Kills it as a power switch would kill the process: no handler runs.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.running()), signal).expect("a child takes a signal");
    }

    /// Asks it to stop and waits for its exit.
    #[track_caller]
    pub fn sigterm_and_wait(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its exit.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let child = self.child.as_mut().expect("it runs");
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "it did not stop within {WAIT_TIMEOUT:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Panics with the log when the process has gone.
    #[track_caller]
    pub fn assert_running(&mut self) {
        let child = self.child.as_mut().expect("it was started");
        if let Some(status) = child.try_wait().expect("a child can be asked") {
            panic!("chatkeep has gone ({status}); its log:\n{}", self.log());
        }
    }

    fn running(&self) -> &Child {
        self.child.as_ref().expect("it runs")
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.running().id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it was started")
    }

    /// Whether the next start listens where this one does.
    pub fn has_a_port_of_its_own(&self) -> bool {
        !self.options.listen.ends_with(":0")
    }

    /// A keep-alive client of the TCP listener.
    pub fn client(&self) -> Client {
        Client::tcp(self.address())
    }

    /// A keep-alive client of the Unix socket.
    pub fn local_client(&self) -> Client {
        Client::unix(self.data().join("chatkeep.sock"))
    }

    /// A bare connection to the TCP listener.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::tcp(self.address()).expect("the listener takes connections")
    }

    /// The folder around the data: working directory, config and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The config file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// The transcript of a session with a plain name.
    pub fn transcript_path(&self, session: &str) -> PathBuf {
        self.data().join("cache/chat_sessions").join(format!("{session}.jsonl"))
    }

    /// The transcript's lines that are JSON, and how many others there are.
    pub fn transcript(&self, session: &str) -> (Vec<Value>, usize) {
        let bytes = fs::read(self.transcript_path(session)).unwrap_or_default();
        let mut good = Vec::new();
        let mut bad = 0;
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(value) => good.push(value),
                Err(_) => bad += 1,
            }
        }
        (good, bad)
    }

    /// Waits until the transcript has that many lines (it is written after the acknowledgement's sync, and may be
    /// repaired after a start), and gives them.
    #[track_caller]
    pub fn transcript_of(&self, session: &str, lines: usize) -> Vec<Value> {
        wait_until(&format!("{lines} lines in the transcript of {session}"), WAIT_TIMEOUT, || {
            self.transcript(session).0.len() >= lines
        });
        let (good, bad) = self.transcript(session);
        assert_eq!((good.len(), bad), (lines, 0), "good and damaged lines of {session}");
        good
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join(format!("log-{}.txt", self.starts))
    }

    /// What it logged since its last start.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Waits until it has logged that: its lines are written by a thread that no request waits for.
    #[track_caller]
    pub fn wait_for_log(&self, told: &str) {
        wait_until(&format!("the log says {told:?}"), WAIT_TIMEOUT, || self.log().contains(told));
    }

    /// A number of `/proc/PID/status`: `VmRSS:` and `VmHWM:` are resident memory and its peak in KiB.
    pub fn process_status(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc tells of a child");
        let line = text.lines().find(|line| line.starts_with(name)).expect("the name stands in /proc/PID/status");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number follows the name")
    }

    /// Bytes it has read by system calls, files and sockets alike.
    pub fn bytes_read(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid())).expect("/proc tells of a child's I/O");
        let line = text.lines().find_map(|l| l.strip_prefix("rchar: ")).expect("rchar stands in /proc/PID/io");
        line.trim().parse().expect("rchar is a number")
    }

    /// Its open descriptors.
    pub fn open_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Server {
    #[allow(clippy::print_stderr, reason = "the log of a failed test must be on the screen")]
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(4_000).map_or(0, |(at, _)| at);
            eprintln!("the end of chatkeep's log:\n{}", &log[from..]);
        }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it takes longer than [`WAIT_TIMEOUT`]: what must refuse to start must not serve instead.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command can be started");
    let _limit = Limit::on(&child);
    let output = child.wait_with_output().expect("a child can be waited for");
    let is_killed = output.status.signal() == Some(Signal::KILL.as_raw());
    assert!(!is_killed, "it should have ended by itself; it said:\n{}", said(&output));
    output
}

/// Both outputs as one text.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
