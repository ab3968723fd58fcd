//! Plays a document: its blocks in order, in one folder, beside a server that runs there.
//!
//! In a command `127.0.0.1:8000` is the server's address, `chatkeep` the binary under test, and `scripts/` the
//! repository's. Commands that build the program do nothing. What a configuration with the word `restart` needs is started
//! where this build can use it (`services.rs`).

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::markdown::Block;
use super::services::Services;
use super::shape::difference;
use super::support::server::{BINARY, run, said};
use super::support::{Options, Server, WAIT_TIMEOUT, free_port};

/// What the examples of a configuration take from the environment.
const ENVIRONMENT: [(&str, &str); 2] = [("CHATKEEP_TOKEN", "s3cret"), ("OPENAI_API_KEY", "sk-none")];

/// How a block of commands is run, by the words behind `sh`.
#[derive(Default)]
struct Manner {
    /// `needs=WHAT`: where that is there; elsewhere only its syntax is checked.
    needs: Option<String>,
    /// `endless`: until it has printed what is shown.
    endless: bool,
    /// `fails`: it must not exit with 0.
    fails: bool,
    /// `stopped`: while the server is stopped.
    stopped: bool,
}

impl Manner {
    fn of(words: &[String]) -> Result<Self, String> {
        let mut manner = Self::default();
        for word in words {
            match word.as_str() {
                "endless" => manner.endless = true,
                "fails" => manner.fails = true,
                "stopped" => manner.stopped = true,
                word => match word.strip_prefix("needs=") {
                    Some(what) => manner.needs = Some(what.to_owned()),
                    None => return Err(format!("`{word}` is no way to run a block")),
                },
            }
        }
        Ok(manner)
    }
}

/// The server and the folder in which a document is played.
pub struct Stage {
    server: Server,
    options: Options,
    services: Services,
}

impl Stage {
    /// A new folder with a server and the programs that commands use.
    pub fn new() -> Self {
        let options = ENVIRONMENT.iter().fold(Options::default(), |options, pair| options.environment(pair.0, pair.1));
        // Each start uses the same address, which nobody else gets while the server is down.
        let address = format!("127.0.0.1:{}", free_port());
        let options = options.set("server.listen", address.as_str()).listen(&address);
        let server = Server::start(options.clone());
        let programs = server.folder().join("bin");
        fs::create_dir(&programs).unwrap();
        symlink(BINARY, programs.join("chatkeep")).unwrap();
        // It installs nothing. A script written here could be busy when it is run: a child that another test just forked
        // would have it open.
        symlink("/bin/true", programs.join("cargo")).unwrap();
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts"), server.folder().join("scripts")).unwrap();
        Self { server, options, services: Services::default() }
    }

    /// Plays one block; `shown` is what the document says that it prints.
    pub fn play(&mut self, block: &Block, shown: Option<&Block>) -> Result<(), String> {
        match block.language.as_str() {
            "sh" => self.commands(block, shown),
            "yaml" => self.configuration(block),
            "json" if !block.follows => serde_json::from_str::<Value>(&block.text).map(drop).map_err(|e| e.to_string()),
            "bash" | "console" | "shell" => Err("commands stand in a block `sh`, which is run".to_owned()),
            _ => Ok(()),
        }
    }

    /// Every example of a configuration is one that this build takes, if it can; with the word `restart` the server goes on
    /// with it.
    fn configuration(&mut self, block: &Block) -> Result<(), String> {
        let value: Value = serde_yaml::from_str(&block.text).map_err(|e| e.to_string())?;
        let mongo = value.pointer("/mongo/enabled") == Some(&Value::Bool(true));
        let model = value.pointer("/responder/kind").and_then(Value::as_str) == Some("openai");
        if (mongo && !cfg!(feature = "mongo")) || (model && !cfg!(feature = "openai")) {
            return Ok(());
        }
        fs::write(self.server.folder().join("example.yaml"), &block.text).unwrap();
        let output = run(&mut self.command("chatkeep check-config --config example.yaml"));
        if !output.status.success() {
            return Err(said(&output));
        }
        if block.words.iter().any(|word| word == "restart") {
            for (path, value) in leaves("", &value) {
                self.options = self.options.clone().set(&path, value);
            }
            self.options = self.services.provide(&value, self.options.clone());
            self.server.reconfigure(self.options.clone());
            self.server.restart();
        }
        Ok(())
    }

    fn commands(&mut self, block: &Block, shown: Option<&Block>) -> Result<(), String> {
        let manner = Manner::of(&block.words)?;
        let script = block.text.replace("127.0.0.1:8000", &self.server.address().to_string());
        if manner.needs.as_ref().is_some_and(|what| !self.services.has(what, self.server.folder())) {
            let output = run(Command::new("bash").args(["-n", "-c", &script]).stdin(Stdio::null()));
            return if output.status.success() { Ok(()) } else { Err(said(&output)) };
        }
        if manner.stopped {
            self.server.sigterm_and_wait();
        }
        let result = self.run(&script, &manner, shown);
        if manner.stopped {
            self.server.start_again();
        }
        result
    }

    fn command(&self, script: &str) -> Command {
        let folder = self.server.folder();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-eu", "-o", "pipefail", "-c", script]).current_dir(folder).stdin(Stdio::null());
        command.env("PATH", format!("{}:{path}", folder.join("bin").display())).envs(ENVIRONMENT);
        command
    }

    /// Runs a script to its end, or an endless one until it has printed what is shown.
    fn run(&self, script: &str, manner: &Manner, shown: Option<&Block>) -> Result<(), String> {
        let errors = self.server.folder().join("stderr.txt");
        let mut command = self.command(script);
        command.stdout(Stdio::piped()).stderr(fs::File::create(&errors).unwrap()).process_group(0);
        let mut child = command.spawn().unwrap();
        let agrees = |printed: &str| {
            shown.is_none_or(|shown| difference(&shown.text, printed, shown.language == "json").is_none())
        };
        // The Python of the vectors loads a model first.
        let time = WAIT_TIMEOUT * if manner.needs.as_deref() == Some("vectors") { 5 } else { 1 };
        let printed = read(&mut child, time, |printed| manner.endless && agrees(printed));
        let status = end(&mut child, manner.endless);
        let errors = fs::read_to_string(errors).unwrap();
        if !manner.endless && status.success() == manner.fails {
            return Err(format!("{status}\n{printed}{errors}"));
        }
        let printed = if manner.fails { format!("{printed}{errors}") } else { printed };
        // The harness gives the server its data folder as an absolute path.
        let printed = printed.replace(&format!("{}/", self.server.folder().display()), "");
        let difference = shown.and_then(|shown| difference(&shown.text, &printed, shown.language == "json"));
        difference.map_or(Ok(()), |difference| Err(format!("{difference}\n{errors}")))
    }
}

/// What a child prints, until that is enough, or to its end, or for that time.
fn read(child: &mut Child, time: Duration, enough: impl Fn(&str) -> bool) -> String {
    let stdout = child.stdout.take().unwrap();
    let (send, lines) = channel();
    // Ends with the child's output, or when the receiver is gone.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + time;
    let mut printed = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                printed.push_str(&line);
                printed.push('\n');
                if enough(&printed) {
                    return printed;
                }
            }
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return printed,
        }
    }
}

/// Waits for a child's end, which is asked for where it does not come by itself, and takes what it has started with it.
fn end(child: &mut Child, endless: bool) -> ExitStatus {
    let group = Pid::from_child(child);
    let deadline = Instant::now() + if endless { Duration::ZERO } else { WAIT_TIMEOUT };
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    // A process that has already ended cannot be signalled, which is no fault.
    let _ = kill_process_group(group, Signal::TERM);
    let patience = Instant::now() + WAIT_TIMEOUT;
    while child.try_wait().unwrap().is_none() && Instant::now() < patience {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let _ = kill_process_group(group, Signal::KILL);
    child.wait().unwrap()
}

/// The values of a configuration by their paths, with dots between.
fn leaves(prefix: &str, value: &Value) -> Vec<(String, Value)> {
    let Value::Object(block) = value else {
        return vec![(prefix.to_owned(), value.clone())];
    };
    let path = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    block.iter().flat_map(|(key, value)| leaves(&path(key), value)).collect()
}
