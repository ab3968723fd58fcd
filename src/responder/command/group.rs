//! A program in a process group of its own, and the end of that group.
//!
//! A separate file because a mistake here could kill another process. Invariants: until the program is reaped its
//! process id belongs to no other process, and afterwards not while the group has a member (the kernel does not reuse
//! an id that names a group), so a signal is sent only after the group was seen. Dropping a [`ProcessGroup`] ends it. A
//! process that leaves the group (setsid) cannot be reached. The program has descriptors 0 to 2 and no other of ours,
//! which are all opened close-on-exec, no blocked signals, and no handlers; the standard library ensures that.
//!
//! Knows nothing of the content of the pipes.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid};

/// The time from SIGTERM to SIGKILL, for a program that must clean up.
const TERM_TIMEOUT: Duration = Duration::from_millis(300);

/// The time after SIGKILL. Only a process that hangs in the kernel, most likely on a dead network disk, takes longer;
/// it is abandoned.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The first and the last interval of checks whether the group has ended: the end of a process that is not our child
/// wakes nothing.
const GROUP_POLL_INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));

/// A running program and all it started that stayed in its group.
#[derive(Debug)]
pub(super) struct ProcessGroup {
    child: Child,
    pid: Pid,
    /// The exit status, once it was reaped.
    status: Option<ExitStatus>,
    ended: bool,
}

/// Our ends of the program's pipes; none of them blocks.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl ProcessGroup {
    /// Starts a program with that environment and no other.
    ///
    /// # Errors
    /// There is no such program, it is not executable, or no descriptor or process is left. No program runs then; a
    /// retry may succeed in the last case.
    pub(super) fn start(argv: &[String], environment: Vec<(OsString, OsString)>) -> io::Result<(Self, Pipes)> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = std::process::Command::new(program);
        command.args(arguments).env_clear().envs(environment).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pipes = Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
        let group = Self { pid: Pid::from_child(&child), child, status: None, ended: false };
        let Pipes { stdin, stdout, stderr } = &pipes;
        let all = [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
        all.into_iter().flatten().try_for_each(|pipe| ioctl_fionbio(pipe, true))?;
        Ok((group, pipes))
    }

    /// Whether the program has ended. Does not reap it.
    pub(super) fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        // An error means that the child does not exist any more.
        self.status.is_some() || !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// Ends what is left of the group: SIGTERM, and after a pause SIGKILL. Returns how the program ended, by itself or
    /// by us; `None` if it cannot be killed.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        self.ended = true;
        // A signal to a group whose program waits to be reaped is harmless. A stopped process must continue to receive
        // it.
        let _ = kill_process_group(self.pid, Signal::TERM);
        let _ = kill_process_group(self.pid, Signal::CONT);
        if !self.is_gone_within(TERM_TIMEOUT) {
            let _ = kill_process_group(self.pid, Signal::KILL);
            if !self.is_gone_within(KILL_TIMEOUT) && self.status.is_none() {
                log::error!("the responder's command, process {}, survived SIGKILL and is abandoned", self.pid);
            }
        }
        self.status
    }

    /// Reaps the program if it has ended; returns whether nothing of its group is left after at most `time`.
    fn is_gone_within(&mut self, time: Duration) -> bool {
        let (until, mut slice) = (Instant::now() + time, GROUP_POLL_INTERVALS.0);
        loop {
            if self.status.is_none() {
                self.status = self.child.try_wait().ok().flatten();
            }
            if self.status.is_some() && !has_members(self.pid) {
                return true;
            }
            let now = Instant::now();
            if now >= until {
                return false;
            }
            park_timeout(slice.min(until - now));
            slice = GROUP_POLL_INTERVALS.1.min(slice * 2);
        }
    }
}

/// Whether a group whose program was reaped has a running process. A process that has ended stays in its group until
/// its new parent reaps it, which in a container may be never; if that parent is this process, as the first of a
/// container, it is reaped here.
fn has_members(group: Pid) -> bool {
    let ours = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    while matches!(waitid(WaitId::Pgid(Some(group)), ours), Ok(Some(_))) {}
    test_kill_process_group(group) != Err(Errno::SRCH) && has_living(group).unwrap_or(true)
}

/// Reads /proc (proc(5)): after the name in parentheses, each process has its state, its parent and its group.
fn has_living(group: Pid) -> io::Result<bool> {
    let group = group.as_raw_nonzero().to_string();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // The file vanishes when a process ends meanwhile.
        let Ok(stat) = fs::read(entry.path().join("stat")) else { continue };
        let stat = String::from_utf8_lossy(&stat);
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let is_dead = matches!(fields.next(), Some("Z" | "X"));
        if !is_dead && fields.nth(1) == Some(group.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}
