//! Who answers a message: one trait, one file for each answerer, one arm to add another.
//!
//! Knows nothing of how messages are kept or sent.

mod echo;

use crate::config::ResponderKind;

pub use echo::Echo;

/// Answers a user's message.
pub trait Responder: Send + Sync + 'static {
    /// The reply to `text`. It is called on the path of the request, so it answers at once and waits for nothing.
    fn reply(&self, text: &str) -> String;
}

/// The responder of that kind; `None` records only.
#[must_use]
pub fn new(kind: ResponderKind) -> Option<Box<dyn Responder>> {
    match kind {
        ResponderKind::Echo => Some(Box::new(Echo)),
        ResponderKind::None => None,
    }
}
