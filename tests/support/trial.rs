//! One row of the fault matrix (`tests/matrix/`) while it runs: what its clients were told, whether it is there, and how long the
//! server took to recover. A test and `scripts/faults` run the same rows.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Load, Options, Oracle, Random, Server, WAIT_TIMEOUT, free_port, wait_until};

/// See the module.
pub struct Trial {
    /// Knows what was acknowledged.
    pub oracle: Arc<Oracle>,
    /// Draws the moments.
    pub random: RefCell<Random>,
    loads: Cell<u32>,
    recovered: Cell<Option<Duration>>,
    drained: Cell<Option<Duration>>,
}

impl Trial {
    /// Its seed is told by that name.
    pub fn new(name: &str) -> Self {
        let random = RefCell::new(Random::announced(name));
        let (oracle, loads, recovered, drained) = Default::default();
        Self { oracle, random, loads, recovered, drained }
    }

    /// These options at a port of the server's own, so that its clients find it again after a restart.
    pub fn lasting(options: Options) -> Options {
        options.listen(&format!("127.0.0.1:{}", free_port()))
    }

    /// Clients in sessions of their own, and the prefix of these.
    pub fn load_apart(&self, server: &Server) -> (Load, String) {
        self.loads.set(self.loads.get() + 1);
        let name = format!("load{:03}", self.loads.get());
        (Load::start(server, &self.oracle, &name, &name, &mut self.random.borrow_mut()), name)
    }

    /// Clients.
    pub fn load(&self, server: &Server) -> Load {
        self.load_apart(server).0
    }

    /// Draws a number from `low` up to and with `high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.random.borrow_mut().between(low, high)
    }

    /// Lets up to so many microseconds pass, for a fault at any moment.
    pub fn moment(&self, most: u64) {
        std::thread::park_timeout(Duration::from_micros(self.between(0, most)));
    }

    /// Ends the fault by `end`, and waits until a message is acknowledged.
    #[track_caller]
    pub fn recovers<T>(&self, load: &Load, end: impl FnOnce() -> T) -> T {
        let (began, before) = (Instant::now(), load.acknowledged());
        let ended = end();
        wait_until("a message is acknowledged again", WAIT_TIMEOUT, || load.acknowledged() > before);
        self.recovered.set(self.recovered.get().max(Some(began.elapsed())));
        ended
    }

    /// Waits until MongoDB has everything; the fault ended at `since`.
    #[cfg(feature = "mongo")]
    #[track_caller]
    pub fn drains(&self, server: &Server, since: Instant) {
        super::drained::wait_until_drained(server);
        self.drained.set(self.drained.get().max(Some(since.elapsed())));
    }

    /// All that was acknowledged is there once: now, after a kill, and after an ordered stop. A transcript may show so many
    /// torn lines.
    #[track_caller]
    pub fn all_is_there(&self, server: &mut Server, damaged_lines: usize) {
        wait_until("the server is ready", WAIT_TIMEOUT, || server.client().get("/readyz").status == 200);
        self.oracle.check(server, "", damaged_lines);
        server.kill9();
        server.start_again();
        self.oracle.check(server, "", damaged_lines);
        server.restart();
        self.oracle.check(server, "", damaged_lines);
    }

    /// The longest from the end of a fault, or the beginning of a start, to the first acknowledgement; and until MongoDB had
    /// everything.
    pub fn times(&self) -> [Option<Duration>; 2] {
        [self.recovered.get(), self.drained.get()]
    }
}
