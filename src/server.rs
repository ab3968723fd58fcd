//! The listeners: TCP for everyone ([`tcp`]), a Unix socket for this machine's own user ([`local`]).
//!
//! ```text
//! tcp         accepts, caps, stops            local      tiny_http on the Unix socket
//! table       who is open, who may go           |
//! connection  one connection's life             |
//! input output  bytes in and out, under deadlines |
//! http1 chunked guard tokens  pure rules        |
//! reply       bytes out, for both  <------------+
//! websocket   handshake, and the pool of sockets
//! ```
//!
//! Both hand the same [`RequestHead`](crate::api::RequestHead) to the same [`Service`](crate::api::Service). Nothing here
//! knows what a message or a session is.

mod chunked;
mod connection;
mod guard;
mod http1;
mod input;
pub mod local;
mod output;
mod reply;
mod request_scope;
mod table;
pub mod tcp;
#[cfg(test)]
mod tcp_tests;
#[cfg(test)]
mod testing;
mod tokens;
mod websocket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::Problem;
use crate::logging::RequestId;

pub use websocket::WebSocketOptions;

/// Makes the ids of requests without one: a random prefix for the listener, and a counter.
struct RequestIds {
    prefix: u32,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        let mut random = [0; 4];
        // Without randomness ids repeat between starts, which only makes logs harder to read.
        let _ = getrandom::fill(&mut random);
        Self { prefix: u32::from_ne_bytes(random), next: AtomicU64::new(1) }
    }

    fn next(&self) -> RequestId {
        format!("{:08x}-{:x}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed)).into()
    }
}

/// Runs a part of a service; a panic becomes a 500. Its line in the log names the request that this thread works for.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Problem> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| {
        let detail = "a fault in the server; its log has the details under this request_id";
        Problem::new(500, "internal_error", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::logging;

    const ROLE: &str = "CHATKEEP_TEST_SERVER_ROLE";

    #[test]
    fn the_child_of_the_next_test() {
        if std::env::var_os(ROLE).is_none() {
            return;
        }
        logging::init(&Config::defaults(None).unwrap().log).unwrap();
        let _entered = logging::enter(Some("job-17.3".into()));
        assert_eq!(guarded(|| panic!("asked to")).unwrap_err().status, 500);
        log::logger().flush();
    }

    #[test]
    fn a_panic_is_in_the_log_with_its_place_under_the_id_that_its_answer_has() {
        let only = ["--exact", "server::tests::the_child_of_the_next_test", "--nocapture"];
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(only).env(ROLE, "1").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let (place, id) = ("panic at src/server.rs:", "asked to (request job-17.3)\n");
        assert!(output.status.success() && stderr.contains(place) && stderr.contains(id), "{stderr}");
    }
}
