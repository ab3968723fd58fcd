//! The one rule of `mongo.ttl_days`: which messages have expired.
//!
//! History, cache, transcripts and the janitor all ask here, so that they agree to the microsecond. A message has
//! expired when its time, the one in its id, is more than the TTL ago. So the expired messages of a session are always
//! its oldest, and the rule is one bound on ids.
//!
//! The bound follows the clock, backward too: a message that has expired by a clock that ran ahead has not by the right
//! one. So no caller may store an answer for later. Knows nothing of what happens to expired messages.

use std::time::Duration;

use super::id::Id;
use super::timestamp::{Clock, Timestamp};

/// The TTL and the clock.
#[derive(Clone, Debug, Default)]
pub struct Expiry {
    ttl: Option<Duration>,
    clock: Clock,
}

impl Expiry {
    /// Messages expire after `ttl`; without one, never.
    #[must_use]
    pub fn new(ttl: Option<Duration>, clock: Clock) -> Self {
        Self { ttl, clock }
    }

    /// No message ever expires.
    #[must_use]
    pub fn never() -> Self {
        Self::default()
    }

    /// Messages before this time have expired; `None` if they never do.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        // A TTL beyond all numbers is for ever; with a clock before 1970 plus the TTL nothing has expired.
        let ttl = u64::try_from(self.ttl?.as_micros()).unwrap_or(u64::MAX);
        Some(Timestamp::from_micros(self.clock.now().micros().saturating_sub(ttl)))
    }

    /// How long a message is kept; `None`: for ever.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// The time of the clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Messages with ids below this one have expired; `None` if they never do.
    #[must_use]
    pub fn bound(&self) -> Option<Id> {
        self.time().map(Id::least_of)
    }

    /// Whether the message of that id has expired.
    #[must_use]
    pub fn has_expired(&self, id: Id) -> bool {
        self.bound().is_some_and(|bound| id < bound)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const DAY: u64 = 86_400_000_000;

    fn one_day(now: &Arc<AtomicU64>) -> Expiry {
        Expiry::new(Some(Duration::from_secs(86_400)), Clock::fixed(now.clone()))
    }

    fn id(micros: u64, random: u64) -> Id {
        Id::from_parts(Timestamp::from_micros(micros), random)
    }

    fn micros(text: &str) -> u64 {
        Timestamp::parse(text).unwrap().micros()
    }

    #[test]
    fn a_message_lives_through_its_last_microsecond_and_no_longer() {
        for text in [
            "2026-11-23T01:24:57.552180Z",
            "2038-01-19T03:14:07.999999Z",
            "2038-01-19T03:14:08Z",
            "2040-02-29T00:00:00Z",
        ] {
            let now = Arc::new(AtomicU64::new(micros(text)));
            let expiry = one_day(&now);
            let sent = micros(text) - DAY;
            assert!(!expiry.has_expired(id(sent, 0)) && !expiry.has_expired(id(sent, u64::MAX)), "{text}");
            assert!(expiry.has_expired(id(sent - 1, u64::MAX)), "{text}");
            now.fetch_add(1, Ordering::Relaxed);
            assert!(expiry.has_expired(id(sent, 0)) && expiry.has_expired(id(sent, u64::MAX)), "{text}");
        }
    }

    #[test]
    fn a_clock_turned_back_brings_back_what_it_had_expired() {
        let now = Arc::new(AtomicU64::new(micros("2026-11-23T01:00:00Z")));
        let expiry = one_day(&now);
        let sent = id(micros("2026-11-22T00:30:00Z"), 7);
        assert!(expiry.has_expired(sent));
        now.fetch_sub(3_600_000_000, Ordering::Relaxed);
        assert!(!expiry.has_expired(sent));
    }

    #[test]
    fn the_ends_of_time_expire_nothing_by_mistake() {
        let now = Arc::new(AtomicU64::new(0));
        let expiry = one_day(&now);
        for early in [0, 1, DAY - 1, DAY] {
            now.store(early, Ordering::Relaxed);
            assert!(!expiry.has_expired(id(0, 0)), "{early}");
        }
        let end = micros("9999-12-31T23:59:59.999999Z");
        for late in [end - 1, end, u64::MAX] {
            now.store(late, Ordering::Relaxed);
            assert!(!expiry.has_expired(id(end, 0)) && !expiry.has_expired(id(end - DAY, 0)), "{late}");
            assert!(expiry.has_expired(id(end - DAY - 2, 0)), "{late}");
        }
        let for_ages = Expiry::new(Some(Duration::MAX), Clock::fixed(now));
        assert!(!for_ages.has_expired(id(0, 0)) && !Expiry::never().has_expired(id(0, 0)));
        assert_eq!(Expiry::never().bound(), None);
    }
}
