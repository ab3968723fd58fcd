//! Settings that only routes read, and that a reload changes while they are served.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::config::Config;

use super::BodyLimit;

/// The settings in effect.
pub struct RouteSettings {
    /// What the bodies of requests with OpenAI's protocol may have.
    pub front_bodies: BodyLimit,
    /// Whether the console is served.
    console: AtomicBool,
    import_line_bytes_max: AtomicUsize,
}

impl RouteSettings {
    /// As the configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let (front_bodies, server) = (BodyLimit::new(&config.openai_front), &config.server);
        Self { front_bodies, console: server.console.into(), import_line_bytes_max: server.max_body_bytes.into() }
    }

    /// As a new configuration says, for requests from now on.
    pub fn reload(&self, config: &Config) {
        self.front_bodies.reload(&config.openai_front);
        self.console.store(config.server.console, Ordering::Relaxed);
        self.import_line_bytes_max.store(config.server.max_body_bytes, Ordering::Relaxed);
    }

    /// What a line of an import may have, in bytes: as much as the body of a message.
    #[must_use]
    pub fn import_line_bytes_max(&self) -> usize {
        self.import_line_bytes_max.load(Ordering::Relaxed)
    }

    /// Whether the console is served.
    #[must_use]
    pub fn has_console(&self) -> bool {
        self.console.load(Ordering::Relaxed)
    }
}
