//! Settings that only routes read, and that a reload changes while they are served.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Config;

use super::BodyLimit;

/// The settings in effect.
pub struct RouteSettings {
    /// What the bodies of requests with OpenAI's protocol may have.
    pub front_bodies: BodyLimit,
    /// Whether the console is served.
    console: AtomicBool,
}

impl RouteSettings {
    /// As the configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { front_bodies: BodyLimit::new(&config.openai_front), console: config.server.console.into() }
    }

    /// As a new configuration says, for requests from now on.
    pub fn reload(&self, config: &Config) {
        self.front_bodies.reload(&config.openai_front);
        self.console.store(config.server.console, Ordering::Relaxed);
    }

    /// Whether the console is served.
    #[must_use]
    pub fn has_console(&self) -> bool {
        self.console.load(Ordering::Relaxed)
    }
}
