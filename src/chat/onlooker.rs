//! Who watches turns as they are answered: the seam to whoever shows them live.
//!
//! Knows nothing of sockets.

use super::running::{End, Running};

/// Told of every turn that is answered on a thread of its own. A turn that is answered at once is not told of: its two
/// messages are published together, and there is nothing in between.
///
/// The calls for one turn come in this order: `started`, any number of `delta`, `ended`; `stopping` at most once between
/// `started` and `ended`, beside a `delta` perhaps, from another thread. Turns of one session do not overlap. The user's message is published before
/// `started`; the reply is published, by the journal's leader, after the last `delta` and before `ended`.
///
/// The calls are made on the threads that begin, answer or stop a turn, and these wait for them: they take memory and short
/// locks, never a socket. What an onlooker may ask from within: everything of [`Running`] but [`Running::stop`].
pub trait Onlooker: Send + Sync + 'static {
    /// A turn is being answered.
    fn started(&self, _turn: &Running) {}

    /// More of the text: it begins at `offset`, in bytes of the whole text. [`Running::text`] has it already, so whoever took
    /// that leaves out what lies before its length.
    fn delta(&self, _turn: &Running, _offset: usize, _text: &str) {}

    /// Somebody has asked it to stop.
    fn stopping(&self, _turn: &Running) {}

    /// It is over. The reply's id and how it ended are in `end`; an error there says that no reply could be recorded.
    fn ended(&self, _turn: &Running, _end: &End) {}
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Onlooker for Nobody {}
