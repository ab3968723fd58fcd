//! What a message is: its id, its time, its session, and the one JSON line it is kept as.
//!
//! A message is serialised once. The same bytes stand in the journal, in the transcript and in the cache, and history
//! splices `source` into them; nothing parses a message back to print it.
//!
//! Invariants:
//! * An id is a UUIDv7 whose 48 bits of milliseconds and 12 bits of `rand_a` are the message's logical time to the
//!   microsecond (RFC 9562, section 6.2, method 3); `created_at` is that time and nothing else.
//! * A line is one JSON object without a newline, its fields in the order of [`LAYOUT`]; what stands before `text` has
//!   fixed places, so that id, session, role and time are read without a JSON parser.
//!
//! Knows nothing of files, sockets or who answers.

mod expiry;
mod id;
mod line;
mod session;
mod timestamp;
mod value;

pub use expiry::Expiry;
pub use id::{Id, IdGenerator, InvalidId};
pub use line::{Draft, LAYOUT, LINE_BYTES_MAX, Message, Metadata, Origin, Parts, Prepared, ROLE_BYTES_MAX, is_role};
pub use session::{InvalidSession, SessionId};
pub use timestamp::{Clock, Timestamp};
pub use value::by_value;
