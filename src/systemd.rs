//! What a service manager is told: ready, stopping, a line of status, and that the process still works.
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET` (sd_notify(3)); podman and others do the same. Without it nothing is
//! sent. `WATCHDOG_USEC` asks for a sign of life: it is sent while every loop of the process turns
//! ([`crate::liveness`]), so that a process that only seems to live is restarted.
//!
//! Invariant: a manager that does not read delays nothing by more than a second. Knows nothing of what the status means.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use sd_notify::NotifyState;

use crate::liveness;

/// The longest that a message waits for a manager that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the status is looked at. A watchdog shorter than four times that is fed more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

const SOCKET: &str = "NOTIFY_SOCKET";

/// Whether a service manager listens.
#[must_use]
pub fn listens() -> bool {
    std::env::var_os(SOCKET).is_some()
}

/// Tells the manager that everything is ready.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells it that the configuration is being reloaded, until [`reloaded`].
pub fn reloading() {
    // Without the time, which a manager wants with it, a plain reload is told all the same.
    let now = NotifyState::monotonic_usec_now().ok();
    let states: Vec<NotifyState<'_>> = [NotifyState::Reloading].into_iter().chain(now).collect();
    tell(&states);
}

/// Tells it that the reload is over, whether anything was changed or not.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// Tells it that an ordered stop has begun.
pub fn stopping(why: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(why)]);
}

/// Keeps the status up to date, and feeds the watchdog if there is one, until the sender of `stop` is dropped.
pub fn watch(stop: &Receiver<()>, status: &dyn Fn() -> String) {
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let interval = watchdog.map_or(STATUS_INTERVAL, |limit| STATUS_INTERVAL.min(limit / 4));
    let (mut told, mut was_stuck) = (String::new(), false);
    loop {
        let line = status();
        let mut states = Vec::with_capacity(2);
        if line != told {
            states.push(NotifyState::Status(&line));
        }
        let stuck = watchdog.and_then(|limit| liveness::stuck(limit / 2));
        match &stuck {
            None if watchdog.is_some() => states.push(NotifyState::Watchdog),
            Some((name, stands)) if !was_stuck => {
                let seconds = stands.as_secs_f64();
                log::error!("the loop {name} has stood still for {seconds:.1} s: the watchdog is not fed meanwhile");
            }
            _ => {}
        }
        was_stuck = stuck.is_some();
        if !states.is_empty() {
            tell(&states);
        }
        drop(states);
        told = line;
        if stop.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let message: String = states.iter().map(|state| format!("{}\n", state.to_string().replace('\n', " "))).collect();
    if let Err(e) = send(&socket, message.as_bytes()) {
        log::warn!("the service manager cannot be told at {SOCKET}: {e}");
    }
}

/// sd_notify's own sending knows no abstract sockets, and waits without end.
fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    from.set_write_timeout(Some(SEND_TIMEOUT))?;
    from.send_to_addr(message, &address).map(drop)
}
