//! What a message is: its id, its time, its session, and the JSON line in which it is stored.
//!
//! A message is serialised once. The same bytes are in the journal, the transcript and the cache, and history adds
//! `source` to them; no message is parsed again to be printed.
//!
//! Invariants:
//! * An id is a UUIDv7 whose 48 bits of milliseconds and 12 bits of `rand_a` are the message's logical time to the
//!   microsecond (RFC 9562, section 6.2, method 3); `created_at` is exactly that time.
//! * A line is one JSON object without a newline, its fields in the order of [`LAYOUT`]; the fields before `text` have
//!   fixed places, so that id, session, role and time are read without a JSON parser.
//!
//! Knows nothing of files, sockets or responders.

mod characters;
mod draft;
mod edited;
mod expiry;
mod id;
mod line;
mod marker;
mod session;
#[cfg(test)]
mod tests;
mod timestamp;
mod value;

pub use characters::whole_characters;
pub use draft::{AddedValue, Draft, Metadata, Origin, Prepared};
pub use expiry::Expiry;
pub use id::{Id, IdGenerator, InvalidId};
pub use line::{LAYOUT, LINE_BYTES_MAX, Message, MessageView, Parts, ROLE_BYTES_MAX, is_role, text_range};
pub use marker::{Marker, SessionState, with_target_in};
pub use session::{InvalidSession, SessionId};
pub use timestamp::{Clock, Timestamp};
pub use value::by_value;

/// The side from which a page is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The newest messages that fit.
    Newest,
    /// The oldest messages that fit.
    Oldest,
}
