//! A value that is replaced as a whole while others read it.
//!
//! A reader gets the value as it was when it asked, and keeps it for as long as it works with it. Costs an uncontended
//! lock and a count.

use std::sync::{Arc, PoisonError, RwLock};

/// A value that may be replaced.
#[derive(Debug, Default)]
pub struct Swap<T>(RwLock<Arc<T>>);

impl<T> Swap<T> {
    /// Begins with that value.
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value that is in effect now.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it for those who ask from now on.
    pub fn store(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}
