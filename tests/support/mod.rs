//! What every test against the real binary stands on: a server in a folder of its own, a small blocking HTTP client,
//! raw connections, and the oracle that remembers what was acknowledged.
//!
//! Everything waits for a condition with a deadline; a server that hangs fails the test, it does not hang it. Knows
//! nothing of chatkeep's inside: what is used here is what a user could use.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

pub mod clock;
#[cfg(feature = "mongo")]
pub mod drained;
#[cfg(feature = "openai")]
pub mod fakellm;
pub mod faults;
pub mod goal;
pub mod http;
pub mod limit;
pub mod load;
pub mod metrics;
#[cfg(feature = "mongo")]
pub mod mongod;
pub mod oracle;
pub mod proxy;
#[cfg(feature = "mongo")]
pub mod relay;
pub mod server;
pub mod socket;
pub mod trial;

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::TcpListener;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use http::{Client, Connection, Reply};
pub use limit::Limit;
pub use load::Load;
pub use oracle::Oracle;
pub use server::{Options, Server};
pub use trial::Trial;

/// How long anything may take that should take milliseconds. Generous: the machines are shared.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// How much longer than its time a thing may take, where a test shows that something else was not waited for. What is not to
/// be waited for takes [`WAIT_TIMEOUT`] or longer in such a test, so that the two cannot be taken for each other.
pub const SLACK: Duration = Duration::from_secs(20);

/// Waits until `holds` is true, looking a hundred times a second.
///
/// # Panics
/// When it is not within `within`; the message names `what`.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A port that nobody listens on, below those that the system gives to connections (32768 and above): nobody takes it by chance
/// before its server has started, or while that is down.
///
/// # Panics
/// When none of a thousand is free.
pub fn free_port() -> u16 {
    let random = || 15_000 + (RandomState::new().build_hasher().finish() % 17_000) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(random).take(1000).find(is_free).expect("a port is free")
}

/// A small, seeded generator (splitmix64): a failing run is repeated by its seed.
pub struct Random(u64);

impl Random {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed in `CHATKEEP_TEST_SEED`, or one from the clock; printed, so that a failure shows it.
    #[allow(clippy::print_stderr, reason = "the seed of a failed run must be on the screen")]
    pub fn announced(test: &str) -> Self {
        let from_clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
            now.as_micros() as u64
        };
        let seed = match std::env::var("CHATKEEP_TEST_SEED") {
            Ok(text) => text.parse().expect("CHATKEEP_TEST_SEED is a number"),
            Err(_) => from_clock(),
        };
        eprintln!("{test}: CHATKEEP_TEST_SEED={seed}");
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` up to and with `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
}

/// Every file, folder and socket below `root`, with `root` itself.
pub fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => panic!("{}: {e}", folder.display()),
        };
        for entry in entries {
            let entry = entry.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// The files below `root` that hold `needle`: how a test shows that something was stored nowhere. By grep, since a test
/// build would take seconds for the zeros of one journal segment.
///
/// A file of a running server may be renamed or removed between its name and its bytes. Its bytes may then stand in a file
/// that was listed before, so that look counts for nothing and there is another.
///
/// # Panics
/// When there was no whole look within [`WAIT_TIMEOUT`].
pub fn files_holding(root: &Path, needle: &str) -> Vec<PathBuf> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let mut grep = Command::new("grep");
        let output = grep.arg("-rlaF").arg("-e").arg(needle).arg(root).output().expect("grep can be run");
        if output.status.code().is_some_and(|code| code < 2) {
            return String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
        }
        assert!(Instant::now() < deadline, "grep: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Removes a file that may not be there, or not yet.
#[track_caller]
pub fn remove_if_there(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => panic!("{}: {e}", path.display()),
    }
}
