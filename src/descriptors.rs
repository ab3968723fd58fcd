//! How many files and sockets the process may open, and how they are shared out.
//!
//! Connections are limited to what remains after the files of the journal, the transcripts and the driver, so that the
//! process does not run out of descriptors. The sharing is a pure function, so that its edge cases are tested.
//!
//! Knows nothing of sockets nor of transcripts.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors reserved for everything but connections: standard streams, the journal, the lock, transcripts, the
/// driver.
const FILES: u64 = 64;
/// The most transcripts worth keeping open, at about 150 bytes each; an open one saves one open, four stats and one
/// close for an append.
const TRANSCRIPTS_MAX: u64 = 16_384;

/// The most descriptors of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// TCP connections that are no WebSocket. At the limit the listener closes the oldest idle one, or refuses the new
    /// one.
    pub connections: usize,
    /// WebSockets. At the limit a handshake is refused.
    pub sockets: usize,
    /// Transcripts kept open between two appends. Beyond, the least recently used is closed.
    pub transcripts: usize,
}

/// Shares out a limit of `descriptors`; `connections_max` and `sockets_max` are the configured limits.
///
/// If they do not fit, WebSockets get a quarter of what the files leave, or all that connections leave, and transcripts
/// half of what remains. Even a tiny limit leaves a quarter to connections, so that the server answers at all.
#[must_use]
pub fn share(descriptors: u64, connections_max: usize, sockets_max: usize) -> Share {
    let left = descriptors.saturating_sub(FILES).max(descriptors / 4).max(1);
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    let sockets = sockets_max.min(left.saturating_sub(connections_max).max(left / 4)).max(1);
    let connections = (left.saturating_sub(sockets)).min(connections_max).max(1);
    let files = descriptors.saturating_sub(connections as u64).saturating_sub(sockets as u64);
    let transcripts = if descriptors < 256 { 8 } else { (files / 2).min(TRANSCRIPTS_MAX) as usize };
    Share { connections, sockets, transcripts }
}

/// Raises the soft limit of open files to the hard one; returns the limit that now holds.
///
/// # Errors
/// The system refuses. The old limit still holds.
pub fn raise() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// The limit of open files that holds now.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_limit_leaves_what_the_configuration_asks_for() {
        assert_eq!(share(20_000, 4096, 10_000), Share { connections: 4096, sockets: 10_000, transcripts: 2952 });
        assert_eq!(share(u64::MAX, 4096, 10_000), Share { connections: 4096, sockets: 10_000, transcripts: 16_384 });
        assert_eq!(share(20_000, 4096, 100_000), Share { connections: 4096, sockets: 15_840, transcripts: 32 });
    }

    #[test]
    fn a_narrow_limit_keeps_room_for_files() {
        assert_eq!(share(1024, 4096, 10_000), Share { connections: 720, sockets: 240, transcripts: 32 });
        assert_eq!(share(256, 4096, 10_000), Share { connections: 144, sockets: 48, transcripts: 32 });
        assert_eq!(share(255, 4096, 10_000), Share { connections: 144, sockets: 47, transcripts: 8 });
        assert_eq!(share(1024, 4096, 10), Share { connections: 950, sockets: 10, transcripts: 32 });
    }

    #[test]
    fn a_tiny_limit_still_leaves_a_quarter_to_connections() {
        assert_eq!(share(64, 4096, 10_000), Share { connections: 12, sockets: 4, transcripts: 8 });
        assert_eq!(share(80, 4096, 10_000).connections, 15);
        assert_eq!(share(0, 4096, 10_000).connections, 1);
        assert_eq!(share(1024, 0, 0).connections, 1);
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        assert_eq!(raise().unwrap(), limit());
    }
}
