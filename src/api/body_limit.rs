//! A limit of the bodies of one route, where it is another than `server.max_body_bytes`: of each, and of all at once.
//!
//! Bytes count as they come, so a client that announces a long body and sends none holds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::OpenAiFrontConfig;
use crate::permit::{HeldBytes, Semaphore};

use super::Problem;

/// The limit; may change.
pub struct BodyLimit {
    bytes_max: AtomicUsize,
    held: Arc<Semaphore>,
}

impl BodyLimit {
    /// As the configuration says.
    #[must_use]
    pub fn new(config: &OpenAiFrontConfig) -> Self {
        Self { bytes_max: config.max_request_bytes.into(), held: Semaphore::new(config.max_held_bytes) }
    }

    /// As a new configuration says, for bodies that come from now on.
    pub fn reload(&self, config: &OpenAiFrontConfig) {
        self.bytes_max.store(config.max_request_bytes, Ordering::Relaxed);
        self.held.set_max(config.max_held_bytes);
    }

    /// The longest body, in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max.load(Ordering::Relaxed)
    }

    /// Counts what has come of a body.
    ///
    /// # Errors
    /// 503: other bodies leave no room for it. A retry may succeed once their requests are answered.
    pub fn count(&self, body: &mut HeldBytes) -> Result<(), Problem> {
        let detail =
            "the bodies of other requests hold all of openai_front.max_held_bytes; nothing of this one was kept";
        if body.count(&self.held) { Ok(()) } else { Err(Problem::unavailable("bodies_full", detail, 1)) }
    }
}
