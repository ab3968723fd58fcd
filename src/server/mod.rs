//! The listeners: TCP for everyone ([`tcp`]), a Unix socket for this machine's own user ([`local`]).
//!
//! ```text
//! tcp         accepts, caps, stops            local      tiny_http on the Unix socket
//! table       who is open, who may go           |
//! connection  one connection's life             |
//! input output  bytes in and out, under deadlines |
//! http1 chunked guard     pure rules            |
//! reply       bytes out, for both  <------------+
//! websocket   handshake, and the pool of sockets
//! ```
//!
//! Both hand the same [`Head`](crate::api::Head) to the same [`Service`](crate::api::Service). Nothing here knows what a
//! message or a session is.

mod chunked;
mod connection;
mod guard;
mod http1;
mod input;
pub mod local;
mod output;
mod reply;
mod table;
pub mod tcp;
#[cfg(test)]
mod tcp_tests;
#[cfg(test)]
mod testing;
mod websocket;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

pub use table::Counters;

/// Makes the ids of requests that bring none: a random prefix per listener and a count.
struct RequestIds {
    prefix: String,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        let mut random = [0_u8; 4];
        // Without randomness ids repeat between starts, which only makes logs harder to read.
        let _ = getrandom::fill(&mut random);
        let mut prefix = String::with_capacity(9);
        for byte in random {
            let _ = write!(prefix, "{byte:02x}");
        }
        prefix.push('-');
        Self { prefix, next: AtomicU64::new(1) }
    }

    fn next(&self) -> String {
        let mut id = String::with_capacity(self.prefix.len() + 12);
        id.push_str(&self.prefix);
        let _ = write!(id, "{:x}", self.next.fetch_add(1, Ordering::Relaxed));
        id
    }
}
