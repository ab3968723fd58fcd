//! A body that a route reads while it comes, as it may have any length. Knows nothing of how it is framed.

use super::Problem;

/// A body that is read while it is served.
pub trait BodySource {
    /// Appends what comes next; `false` at the end of the body.
    ///
    /// # Errors
    /// The body came too slowly, is cut short or cannot be read: nothing follows.
    fn read(&mut self, into: &mut Vec<u8>) -> Result<bool, Problem>;
}
