//! Looks up a host name on a thread of its own: the system's lookup can take half a minute and cannot be cancelled, and
//! a stop must not wait for it.
//!
//! A lookup that is abandoned ends with its thread; at most [`RUNNING_MAX`] run at once, beyond that none is begun. A
//! numeric address needs no lookup. Knows nothing of what is asked of the host.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::transport::CancelToken;
use crate::permit::Semaphore;
use crate::thread;

/// The most lookups at once, abandoned ones included.
pub(super) const RUNNING_MAX: usize = 64;

/// The longest wait without checking stop and deadline.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// The most addresses that the client takes.
const ADDRESSES_MAX: usize = 16;

/// Looks up names while it watches stop and deadline.
pub(super) struct Names {
    pub(super) watch: CancelToken,
    pub(super) running: Arc<Semaphore>,
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let mut found = self.empty();
        for address in self.look_up(host.trim_matches(['[', ']']), port)?.into_iter().take(ADDRESSES_MAX) {
            found.push(address);
        }
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(found) }
    }
}

impl Names {
    fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let too_many = || io::Error::other("too many names are being looked up");
        let one = self.running.try_acquire().ok_or_else(too_many)?;
        // There is always space for the one answer: the thread never waits to hand it over.
        let (tell, told) = bounded(1);
        let host = host.to_owned();
        // Not joined: it may outlive its caller by the duration of the system's lookup.
        thread::spawn("responder-dns", move || {
            let _one = one;
            let _ = tell.send((host.as_str(), port).to_socket_addrs().map(Iterator::collect));
        })?;
        loop {
            self.watch.check()?;
            match told.recv_deadline(Instant::now() + STOP_POLL_INTERVAL) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the lookup panicked")),
            }
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::responder::{ResponderError, Stop};

    fn names() -> Names {
        Names {
            watch: CancelToken::new(Stop::default(), Instant::now() + Duration::from_secs(30)),
            running: Semaphore::new(RUNNING_MAX),
        }
    }

    #[test]
    fn addresses_and_names_are_found_with_the_port_of_the_scheme() {
        let names = names();
        for (uri, address) in [
            ("http://127.0.0.1:7/v1", "127.0.0.1:7"),
            ("https://127.0.0.1", "127.0.0.1:443"),
            ("http://[::1]/v1", "[::1]:80"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            let found = names.resolve(&uri, &Config::default(), NextTimeout::default()).unwrap();
            assert_eq!(&*found, [address.parse::<SocketAddr>().unwrap()]);
        }
        let found = names.look_up("localhost", 80).unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn lookups_are_counted_and_given_up_at_the_stop() {
        let names = names();
        let full = Names { running: Semaphore::new(0), watch: names.watch.clone() };
        assert!(full.look_up("localhost", 80).unwrap_err().to_string().contains("too many"));
        let stop = Stop::default();
        stop.set();
        let watch = CancelToken::new(stop, Instant::now() + Duration::from_secs(30));
        let stopped = Names { watch, ..names };
        assert!(stopped.look_up("localhost", 80).is_err());
        assert_eq!(stopped.watch.end(), Some(ResponderError::Stopped));
    }
}
