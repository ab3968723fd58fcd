//! A program in a process group of its own, and the end of that group.
//!
//! It stands alone because it is where a wrong process could be hit. Invariants: while the program is not reaped its number
//! is nobody else's, and afterwards it is not while the group has a member (the kernel gives no number away that names a
//! group), so a signal is sent only after the group was seen. Dropped, it has ended the group. A process that leaves the group
//! (setsid) is out of reach. The program has descriptors 0 to 2 and no other of ours, which are all opened to be closed on
//! exec, no blocked signals, and no handlers; the standard library sees to that.
//!
//! Knows nothing of what is said over the pipes.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid};

/// From SIGTERM to SIGKILL: for a program that has something to put away.
const TERM_TIMEOUT: Duration = Duration::from_millis(300);

/// From SIGKILL on. Only what hangs in the kernel, on a dead network disk most likely, takes longer; it is left.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the group is looked at meanwhile, at first and at last: the end of a process that is not our child wakes nobody.
const GROUP_POLL_INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));

/// A running program and all it started that stayed in its group.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    pid: Pid,
    /// How the program ended, once it was reaped.
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

impl Group {
    /// Starts it.
    ///
    /// # Errors
    /// There is no such program, it is not executable, or no descriptor or process is left. No program runs then.
    pub(super) fn start(argv: &[String], environment: &[(&str, String)]) -> io::Result<(Self, Pipes)> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = std::process::Command::new(program);
        command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value))).process_group(0);
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
        // An error says that there is no such child any more.
        self.status.is_some() || !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// Ends what is left of the group: SIGTERM, and after a grace SIGKILL. `None` for a program that cannot be killed; otherwise
    /// how it ended, by itself or by us.
    pub(super) fn end(&mut self) -> Option<ExitStatus> {
        self.ended = true;
        // To a group whose program waits to be reaped a signal is no harm. One that is stopped must go on to hear it.
        let _ = kill_process_group(self.pid, Signal::TERM);
        let _ = kill_process_group(self.pid, Signal::CONT);
        if !self.is_gone_within(TERM_TIMEOUT) {
            let _ = kill_process_group(self.pid, Signal::KILL);
            if !self.is_gone_within(KILL_TIMEOUT) && self.status.is_none() {
                log::error!("the responder's command, process {}, survived SIGKILL and is left", self.pid);
            }
        }
        self.status
    }

    /// Reaps the program when it has ended, and says whether nothing of its group is left after at most `time`.
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

/// Whether a group whose program was reaped has a process that runs. One that has ended is in its group until its new parent
/// looks, which in a container may be never; where that parent is ourselves, as the first process of a container, we look.
fn has_members(group: Pid) -> bool {
    let ours = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    while matches!(waitid(WaitId::Pgid(Some(group)), ours), Ok(Some(_))) {}
    test_kill_process_group(group) != Err(Errno::SRCH) && has_living(group).unwrap_or(true)
}

/// Asks /proc (proc(5)): behind the name in parentheses of each process stand its state, its parent and its group.
fn has_living(group: Pid) -> io::Result<bool> {
    let group = group.as_raw_nonzero().to_string();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // One that ends meanwhile has no file any more.
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

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}
