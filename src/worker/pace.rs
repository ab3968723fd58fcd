//! How much one insert holds: what is configured, or less while the link to MongoDB is too slow for that.
//!
//! An insert has a deadline, and a server sees nothing of one before it has all of it: a batch that is too large for the link
//! would be sent for ever and never be there. So after a call that came late or broke off the limits are halved, in messages
//! and in bytes, and they grow again, twofold, with calls that took a quarter of the deadline or less: twice as much then
//! takes half of it.
//!
//! Knows nothing of calls.

use std::time::Duration;

use crate::config::BatchConfig;

/// How many messages and bytes one insert may hold now.
pub struct Pace {
    configured: BatchConfig,
    /// Of one call.
    deadline: Duration,
    messages: usize,
    bytes: usize,
}

impl Pace {
    /// What is configured.
    pub fn new(configured: BatchConfig, deadline: Duration) -> Self {
        Self { configured, deadline, messages: configured.max_messages, bytes: configured.max_bytes }
    }

    /// The most messages of one insert; at least 1.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// The most bytes of one insert, as lines; one message may have more.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So much at once did not come through.
    pub fn failed(&mut self, messages: usize, bytes: usize) {
        self.halve(messages, bytes);
        log::info!(
            "[CHAT WORKER] MongoDB did not take {messages} messages at once in time: {} from now on",
            self.messages
        );
    }

    /// So much at once came through, after that time.
    pub fn worked(&mut self, messages: usize, bytes: usize, took: Duration) {
        let mut expected = took;
        while expected > self.deadline / 2 && self.messages > 1 && expected.as_millis() > 0 {
            self.halve(messages, bytes);
            expected /= 2;
        }
        let says_something = 2 * messages >= self.messages || 2 * bytes >= self.bytes;
        let is_reduced = self.messages < self.configured.max_messages || self.bytes < self.configured.max_bytes;
        if took > self.deadline / 4 || !says_something || !is_reduced {
            return;
        }
        self.messages = (2 * self.messages).min(self.configured.max_messages);
        self.bytes = (2 * self.bytes).min(self.configured.max_bytes);
        if self.messages == self.configured.max_messages && self.bytes == self.configured.max_bytes {
            log::info!("[CHAT WORKER] MongoDB takes {} messages at once again", self.messages);
        }
    }

    fn halve(&mut self, messages: usize, bytes: usize) {
        self.messages = (self.messages.min(messages) / 2).max(1);
        self.bytes = (self.bytes.min(bytes) / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn pace() -> Pace {
        let configured =
            BatchConfig { max_messages: 1000, max_bytes: 1 << 20, ..Config::defaults(None).unwrap().mongo.batch };
        Pace::new(configured, Duration::from_secs(8))
    }

    #[test]
    fn it_halves_what_was_too_much_down_to_one_message() {
        let mut pace = pace();
        pace.failed(600, 600_000);
        assert_eq!((pace.messages(), pace.bytes()), (300, 300_000), "by what was sent, not by what could have been");
        for _ in 0..30 {
            pace.failed(pace.messages(), pace.bytes());
        }
        assert_eq!((pace.messages(), pace.bytes()), (1, 1));
    }

    #[test]
    fn it_grows_with_full_quick_calls_and_keeps_what_takes_half_the_deadline() {
        let mut pace = pace();
        pace.failed(1000, 1 << 20);
        pace.failed(500, 1 << 19);
        pace.worked(250, 1 << 18, Duration::from_secs(4));
        assert_eq!(pace.messages(), 250);
        pace.worked(10, 10_000, Duration::from_millis(1));
        assert_eq!(pace.messages(), 250, "a few messages say nothing");
        pace.worked(250, 1 << 18, Duration::from_secs(2));
        pace.worked(500, 1 << 19, Duration::from_secs(1));
        pace.worked(1000, 1 << 20, Duration::from_secs(1));
        assert_eq!((pace.messages(), pace.bytes()), (1000, 1 << 20));
        pace.worked(1000, 1 << 20, Duration::from_secs(20));
        assert_eq!(pace.messages(), 125, "of a late success it learns how much is half a deadline");
    }
}
