//! What ends the process, or has its configuration reloaded: a signal, or a part that cannot go on. Also what a
//! command does before an interrupt ends it.
//!
//! `main` waits here for either. The first SIGTERM or SIGINT stops in order; from then on a second one ends the process
//! at once with code 1 (which loses nothing acknowledged: the journal has it).
//!
//! SIGHUP ends nothing: the configuration is to be read again, also where the process was started with it ignored
//! (`nohup`). SIGXFSZ is caught so that a file-size limit becomes an error of the write, which the journal
//! handles.
//!
//! A signal that the parent process had blocked is never delivered, and to unblock it would take unsafe code. But
//! the kernel tells that it is pending, so then a thread looks.
//!
//! Knows nothing of what stopping means.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::signal_name;

use crate::thread;

/// The exit code after a second signal.
const FORCED_EXIT: i32 = 1;

/// Between two looks for signals that are blocked.
const BLOCKED_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why the process stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A signal, by name: an ordered stop, exit code 0.
    Signal(&'static str),
    /// A part that cannot go on, with its reason: an ordered stop, exit code 1.
    Fatal(String),
}

/// Ends [`EndWaiter::wait`] from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    reason: Arc<OnceLock<String>>,
    handle: Handle,
}

impl Stopper {
    /// Stops the process in order because a part cannot go on. Only the first reason counts. Never blocks.
    pub fn fatal(&self, reason: impl Into<String>) {
        // A second reason is most often a consequence of the first.
        let _ = self.reason.set(reason.into());
        self.handle.close();
    }

    /// The reason, if one was given, also after `wait` returned: for failures during the stop.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }
}

/// Waits for the end; the main thread holds it.
#[derive(Debug)]
pub struct EndWaiter {
    signals: Signals,
    reason: Arc<OnceLock<String>>,
    is_stopping: Arc<AtomicBool>,
    /// The first one that came although it is blocked.
    blocked: Arc<OnceLock<i32>>,
    /// What the log should say once there is one.
    pub warnings: Vec<String>,
}

impl EndWaiter {
    /// Blocks until a signal to stop arrives or a [`Stopper`] is used; earlier ones count. `on_hangup` is called on each
    /// SIGHUP meanwhile, once for several that come close together.
    #[must_use]
    pub fn wait(mut self, mut on_hangup: impl FnMut()) -> Cause {
        let mut stops = self.signals.forever().filter(|signal| {
            let is_hangup = *signal == SIGHUP;
            if is_hangup {
                on_hangup();
            }
            !is_hangup
        });
        let signal = stops.next();
        match signal.or(self.blocked.get().copied()) {
            Some(signal) => Cause::Signal(signal_name(signal).unwrap_or("a signal")),
            None => {
                // An ordered stop has begun without a signal: the next signal counts as the second.
                self.is_stopping.store(true, Ordering::SeqCst);
                Cause::Fatal(self.reason.get().cloned().unwrap_or_default())
            }
        }
    }
}

/// Installs the signal handlers. Call it once in a process, before its first thread.
///
/// # Errors
/// The process has no descriptor left, or the system refuses a handler. Some handlers may stay installed: end the
/// process.
pub fn install() -> io::Result<(Stopper, EndWaiter)> {
    let is_stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: handlers run as registered, and the first signal must not meet a flag that it has just set.
        flag::register_conditional_shutdown(signal, FORCED_EXIT, Arc::clone(&is_stopping))?;
        flag::register(signal, Arc::clone(&is_stopping))?;
    }
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (status, mut warnings) = (look(), Vec::new());
    if status.holds("SigBlk", SIGHUP) {
        let told = "SIGHUP is blocked by whoever started this process: a change of the configuration needs a restart";
        warnings.push(told.to_owned());
    }
    let reason = Arc::new(OnceLock::new());
    let stopper = Stopper { reason: Arc::clone(&reason), handle: signals.handle() };
    let blocked = Arc::default();
    let heeded: Vec<i32> = [SIGTERM, SIGINT].into_iter().filter(|signal| status.holds("SigBlk", *signal)).collect();
    if !heeded.is_empty() {
        let names: Vec<&str> = heeded.iter().filter_map(|signal| signal_name(*signal)).collect();
        let names = names.join(", ");
        warnings.push(format!("{names} is blocked by whoever started this process, and is looked for instead"));
        let (stops, first, handle) = (Arc::clone(&is_stopping), Arc::clone(&blocked), signals.handle());
        thread::spawn("signals-blocked", move || heed_blocked(heeded, &stops, &first, &handle))?;
    }
    Ok((stopper, EndWaiter { signals, reason, is_stopping, blocked, warnings }))
}

/// Has `run` called when the process is interrupted (SIGINT), and then ends it as that signal does; a second one ends it at
/// once. Not for a process that has called [`install`]. A process that was started with SIGINT ignored goes on ignoring it.
///
/// # Errors
/// The system gives no descriptor, handler or thread. An interrupt then ends the process as if this had not been called, or
/// is ignored.
pub fn before_interrupt(run: impl FnOnce() + Send + 'static) -> io::Result<Interrupt> {
    let is_second = Arc::new(AtomicBool::new(false));
    let interrupt = Interrupt(Arc::clone(&is_second));
    if look().holds("SigIgn", SIGINT) {
        return Ok(interrupt);
    }
    flag::register_conditional_default(SIGINT, Arc::clone(&is_second))?;
    let mut signals = Signals::new([SIGINT])?;
    thread::spawn("interrupted", move || {
        if signals.forever().next().is_some() {
            is_second.store(true, Ordering::SeqCst);
            run();
            let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
        }
    })?;
    Ok(interrupt)
}

/// Whether an interrupt is ending the process.
#[derive(Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Returns only if there was none: otherwise the process ends here, by the interrupt.
    pub fn end_if_any(&self) {
        while self.0.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

/// Does for blocked signals what the handlers do for others. Each counts once: it stays pending.
fn heed_blocked(mut signals: Vec<i32>, is_stopping: &AtomicBool, first: &OnceLock<i32>, handle: &Handle) {
    while !signals.is_empty() {
        std::thread::sleep(BLOCKED_POLL_INTERVAL);
        let status = look();
        for signal in signals.extract_if(.., |signal| status.holds("ShdPnd", *signal)) {
            if is_stopping.swap(true, Ordering::SeqCst) {
                std::process::exit(FORCED_EXIT);
            }
            let _ = first.set(signal);
            handle.close();
        }
    }
}

/// What the kernel says of the process (proc(5)); asking it by its calls would take unsafe code.
struct Status(String);

fn look() -> Status {
    Status(std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

impl Status {
    /// Whether a signal is in the mask of that name: bit n - 1 of a hexadecimal number stands for signal n. Unknown is no.
    fn holds(&self, mask: &str, signal: i32) -> bool {
        let mask = self.0.lines().find_map(|line| line.strip_prefix(mask)?.strip_prefix(':'));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & 1 << (signal - 1) != 0)
    }
}

/// Signals belong to a whole process, so each test runs one of its own: this test binary again, with only
/// `the_child_of_the_other_tests` in it.
#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    const ROLE: &str = "CHATKEEP_TEST_SIGNALS_ROLE";

    #[test]
    fn the_child_of_the_other_tests() {
        let Ok(role) = std::env::var(ROLE) else { return };
        let (stopper, waiter) = install().unwrap();
        say("ready");
        if role == "fatal" {
            let stopper = stopper.clone();
            let run = move || (stopper.fatal("the disk is gone"), stopper.fatal("and so is this"));
            thread::spawn("part", run).unwrap().join().unwrap();
        }
        if role == "signal-handler-of-files" {
            signal_hook::low_level::raise(SIGXFSZ).unwrap();
        }
        let cause = waiter.wait(|| say("hangup"));
        say(&format!("{cause:?} {:?}", stopper.reason()));
        if role == "stuck" || role == "fatal" {
            // An ordered stop that never ends; standard input ends with the parent.
            let _ = io::stdin().read(&mut [0]);
        }
        std::process::exit(0);
    }

    /// Past the test harness, which keeps what a test prints.
    fn say(line: &str) {
        use std::io::Write;
        writeln!(io::stdout(), "said: {line}").unwrap();
    }

    /// How long a child may take to print a line, or to end.
    const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

    struct Role {
        child: Child,
        said: Receiver<String>,
    }

    impl Role {
        /// With the default SIGHUP, because tests may run under `nohup`.
        fn start(role: &str) -> Self {
            let mut heeding = Command::new("env");
            heeding.arg("--default-signal=HUP").arg(std::env::current_exe().unwrap());
            Self::start_by(&mut heeding, role)
        }

        fn start_by(command: &mut Command, role: &str) -> Self {
            let only = ["--exact", "signals::tests::the_child_of_the_other_tests", "--nocapture", "--test-threads=1"];
            let command = command.args(only).env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let (tell, said) = channel();
            std::thread::spawn(move || {
                for line in lines {
                    let _ = line.split_once("said: ").map(|(_, said)| tell.send(said.to_owned()));
                }
            });
            let role = Self { child, said };
            assert_eq!(role.next(), "ready");
            role
        }

        fn next(&self) -> String {
            self.said.recv_timeout(WAIT_TIMEOUT).unwrap_or_else(|_| "nothing".to_owned())
        }

        fn send(&self, signal: Signal) {
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }

        /// Its end, with standard input still open: a stuck child ends by its signal or not at all.
        fn end(&mut self) -> ExitStatus {
            let _held_open = self.child.stdin.take();
            self.wait()
        }

        fn wait(&mut self) -> ExitStatus {
            let until = Instant::now() + WAIT_TIMEOUT;
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                assert!(Instant::now() < until, "it does not end");
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }

    impl Drop for Role {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn a_signal_ends_the_wait_and_the_process_goes_on_to_stop_in_order() {
        for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
            let mut role = Role::start("waiting");
            role.send(signal);
            assert_eq!(role.next(), format!("Signal({name:?}) None"));
            assert_eq!(role.end().code(), Some(0));
        }
    }

    #[test]
    fn a_second_signal_ends_the_process_at_once_with_code_1() {
        for second in [Signal::TERM, Signal::INT] {
            let mut role = Role::start("stuck");
            role.send(Signal::TERM);
            assert_eq!(role.next(), "Signal(\"SIGTERM\") None");
            role.send(second);
            assert_eq!(role.end().code(), Some(1));
        }
    }

    #[test]
    fn a_hangup_is_told_each_time_and_ends_nothing() {
        let mut role = Role::start("stuck");
        for _ in 0..3 {
            role.send(Signal::HUP);
            assert_eq!(role.next(), "hangup");
        }
        role.send(Signal::TERM);
        assert_eq!(role.next(), "Signal(\"SIGTERM\") None");
        // An ordered stop has begun, and goes on whatever terminals and service managers send with the first signal.
        role.send(Signal::HUP);
        drop(role.child.stdin.take());
        let status = role.wait();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
    }

    #[test]
    fn a_part_that_fails_ends_the_wait_and_a_signal_then_the_process() {
        let mut role = Role::start("fatal");
        assert_eq!(role.next(), "Fatal(\"the disk is gone\") Some(\"the disk is gone\")");
        role.send(Signal::TERM);
        assert_eq!(role.end().code(), Some(1));
    }

    #[test]
    fn a_file_size_limit_does_not_end_the_process() {
        let role = Role::start("signal-handler-of-files");
        role.send(Signal::TERM);
        assert_eq!(role.next(), "Signal(\"SIGTERM\") None");
    }

    #[test]
    fn a_signal_blocked_from_the_start_stops_the_process_all_the_same() {
        let start = |role: &str| {
            let mut blocking = Command::new("env");
            blocking
                .args(["--default-signal=HUP", "--block-signal=TERM,INT,HUP"])
                .arg(std::env::current_exe().unwrap());
            Role::start_by(&mut blocking, role)
        };
        for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
            let mut role = start("waiting");
            role.send(signal);
            assert_eq!(role.next(), format!("Signal({name:?}) None"));
            assert_eq!(role.end().code(), Some(0));
        }
        let mut role = start("stuck");
        role.send(Signal::HUP);
        role.send(Signal::TERM);
        assert_eq!(role.next(), "Signal(\"SIGTERM\") None");
        role.send(Signal::INT);
        assert_eq!(role.end().code(), Some(1));
    }

    #[test]
    fn a_hangup_ignored_from_the_start_is_told_as_well() {
        let mut nohup = Command::new("sh");
        nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
        let role = Role::start_by(&mut nohup, "waiting");
        role.send(Signal::HUP);
        assert_eq!(role.next(), "hangup");
        role.send(Signal::TERM);
        assert_eq!(role.next(), "Signal(\"SIGTERM\") None");
    }

    #[test]
    fn the_kernels_masks_of_signals_are_understood() {
        for (status, ignored) in [
            ("Name:\tx\nSigIgn:\t0000000000001001\n", true),
            ("SigIgn:\t0000000000001000\n", false),
            ("SigIgn:\tnone\n", false),
            ("", false),
        ] {
            assert_eq!(Status(status.to_owned()).holds("SigIgn", SIGHUP), ignored, "{status}");
        }
    }
}
