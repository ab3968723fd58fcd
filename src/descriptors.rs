//! How many files and sockets the process may open, how they are shared out, and what is lent.
//!
//! Connections are limited to what remains after the files of the journal, the transcripts and the driver, so that the
//! process does not run out of descriptors. What connections do not use is lent to transcripts, which give it back as
//! connections come. The sharing is a pure function, so that its edge cases are tested.
//!
//! Knows nothing of sockets nor of transcripts.

use std::io;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::permit::Semaphore;
use crate::swap::Swap;

/// Descriptors reserved for everything but connections: standard streams, the journal, the lock, transcripts, the
/// driver.
const FILES: u64 = 64;
/// The most transcripts worth keeping open, at about 150 bytes each; an open one saves one open, four stats and one
/// close for an append.
const TRANSCRIPTS_MAX: u64 = 16_384;
/// One part in so many of what connections may use is never lent, and at least [`UNLENT_MIN`]: so many connections may come
/// while one append waits for its disk, for transcripts are only closed between two appends. If more come, the listener
/// reaches the limit and closes idle connections until the append is done.
const UNLENT_PART: usize = 8;
/// See above; with a tiny limit nothing is lent.
const UNLENT_MIN: usize = 64;

/// The most descriptors of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// TCP connections that are no WebSocket. At the limit the listener closes the oldest idle one, or refuses the new
    /// one.
    pub connections: usize,
    /// WebSockets. At the limit a handshake is refused.
    pub sockets: usize,
    /// Transcripts kept open between two appends, whatever connections there are. Beyond it and what is lent, the least
    /// recently used is closed.
    pub transcripts: usize,
}

impl Share {
    /// The most transcripts that may be open in addition to `open` connections and WebSockets.
    #[must_use]
    pub fn transcripts_beside(&self, open: usize) -> usize {
        let all = self.connections + self.sockets;
        let unlent = (all / UNLENT_PART).max(UNLENT_MIN);
        (self.transcripts + all.saturating_sub(unlent + open)).min(TRANSCRIPTS_MAX as usize)
    }
}

/// The shares, and how many connections use descriptors now.
#[derive(Debug)]
pub struct Descriptors {
    share: Swap<Share>,
    /// A permit for each TCP connection that is no WebSocket.
    pub connections: Arc<Semaphore>,
    /// A permit for each WebSocket.
    pub sockets: Arc<Semaphore>,
}

impl Descriptors {
    /// Shares of which none is used yet.
    #[must_use]
    pub fn new(share: Share) -> Arc<Self> {
        // The listener has a limit of its own, at which it makes room.
        let (connections, sockets) = (Semaphore::new(usize::MAX), Semaphore::new(share.sockets));
        Arc::new(Self { share: Swap::new(share), connections, sockets })
    }

    /// The most descriptors of each kind.
    #[must_use]
    pub fn share(&self) -> Share {
        *self.share.load()
    }

    /// Shares them out anew; what is open beyond it stays open.
    pub fn share_anew(&self, share: Share) {
        self.sockets.set_max(share.sockets);
        self.share.store(share);
    }

    /// As many as given, all for transcripts.
    #[must_use]
    pub fn of_transcripts(transcripts: usize) -> Arc<Self> {
        Self::new(Share { connections: 0, sockets: 0, transcripts })
    }

    /// The most transcripts that may be open now.
    #[must_use]
    pub fn transcripts_max(&self) -> usize {
        self.share().transcripts_beside(self.connections.taken() + self.sockets.taken())
    }
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
    fn what_connections_do_not_use_is_lent_but_for_a_margin() {
        let wide = share(20_000, 4096, 10_000);
        let lent = |open| wide.transcripts_beside(open) - wide.transcripts;
        assert_eq!((lent(0), lent(1), lent(12_333), lent(12_334), lent(14_096)), (12_334, 12_333, 1, 0, 0));
        assert_eq!(share(u64::MAX, 4096, 10_000).transcripts_beside(0), 16_384);
        let narrow = share(1024, 4096, 10_000);
        assert_eq!((narrow.transcripts_beside(0), narrow.transcripts_beside(960)), (32 + 840, 32));
        assert_eq!(share(256, 4096, 10_000).transcripts_beside(0), 32 + 128);
        assert_eq!(share(64, 4096, 10_000).transcripts_beside(0), 8);
        assert_eq!(share(0, 0, 0).transcripts_beside(0), 8);
    }

    #[test]
    fn what_is_lent_never_takes_what_connections_and_files_need() {
        for limit in (0..4096).chain([20_000, 100_000]) {
            let share = share(limit, 4096, 10_000);
            let all = share.connections + share.sockets;
            for open in 0..=all.min(4096) {
                let transcripts = share.transcripts_beside(open);
                assert!(transcripts + open <= all + share.transcripts, "{limit} {open}");
                assert!(transcripts == share.transcripts || transcripts + open + UNLENT_MIN <= all + share.transcripts);
            }
        }
    }

    #[test]
    fn each_connection_takes_back_one_descriptor_until_it_ends() {
        let descriptors = Descriptors::new(share(1024, 4096, 10_000));
        let before = descriptors.transcripts_max();
        let permits = (descriptors.connections.try_acquire(), descriptors.sockets.try_acquire());
        assert_eq!(descriptors.transcripts_max(), before - 2);
        drop(permits);
        assert_eq!(descriptors.transcripts_max(), before);
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        assert_eq!(raise().unwrap(), limit());
    }
}
