//! The age of a drained segment, by a clock that may be wrong.
//!
//! A segment's age counts from the time of the segment after it, with two precautions. The clock is trusted only once
//! it has run evenly for some minutes, since the start or its last jump: a machine whose clock is set after the start,
//! or twice, must not lose everything that it kept at once. And a segment dated in the future counts as made when the
//! clock began to run evenly, so that it does not stay until that date. So a wrong clock costs at most a part of
//! `journal.retain_hours`, and only if it stays wrong.
//!
//! A server that is restarted every few minutes drops nothing by age; `journal.max_bytes` limits what it keeps. Knows
//! nothing of files, nor of what is drained.

use std::time::Duration;

use crate::message::Timestamp;

/// The largest step between two looks at the clock that does not count as a jump, in microseconds. The worker looks
/// every two seconds, unless a disk hangs.
const JUMP_MICROS: u64 = 5 * 60 * 1_000_000;
/// How long the clock must have run evenly.
const EVEN_CLOCK_TIME: Duration = Duration::from_secs(10 * 60);

/// Watches the clock and judges ages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ages {
    /// Since when the clock runs evenly, and the time of the last look.
    even: Option<(Timestamp, Timestamp)>,
}

impl Ages {
    /// Looks at the clock.
    pub fn look(&mut self, now: Timestamp) {
        let since = match self.even {
            Some((since, last)) if last.micros().abs_diff(now.micros()) <= JUMP_MICROS => since,
            Some(_) => {
                log::warn!("the clock has jumped to {now}: no segment is dropped for its age for {EVEN_CLOCK_TIME:?}");
                now
            }
            None => now,
        };
        self.even = Some((since, now));
    }

    /// Whether `made_micros` is longer than `retain` ago, as of the last look.
    pub fn is_past(&self, made_micros: u64, retain: Duration) -> bool {
        let Some((since, now)) = self.even else { return false };
        let age = |from: u64| Duration::from_micros(now.micros().saturating_sub(from));
        let even = age(since.micros());
        let made_since = if made_micros <= now.micros() { age(made_micros) } else { even };
        even >= EVEN_CLOCK_TIME.min(retain) && made_since > retain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60 * 1_000_000;
    const NOW: u64 = 1_764_292_425_000_000;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    /// Looks every minute from there on.
    fn run(ages: &mut Ages, from: u64, minutes: u64) {
        (0..=minutes).for_each(|minute| ages.look(at(from + minute * MINUTE)));
    }

    #[test]
    fn what_is_old_goes_once_the_clock_has_run_evenly_for_ten_minutes() {
        let mut ages = Ages::default();
        assert!(!ages.is_past(0, DAY), "nobody has looked at the clock");
        run(&mut ages, NOW, 9);
        assert!(!ages.is_past(NOW - 25 * 60 * MINUTE, DAY));
        run(&mut ages, NOW + 9 * MINUTE, 1);
        assert!(ages.is_past(NOW - 25 * 60 * MINUTE, DAY));
        assert!(!ages.is_past(NOW - 23 * 60 * MINUTE, DAY));
    }

    #[test]
    fn without_a_time_to_keep_anything_nothing_waits() {
        let mut ages = Ages::default();
        ages.look(at(NOW));
        assert!(ages.is_past(NOW - 1, Duration::ZERO));
    }

    #[test]
    fn what_is_dated_in_the_future_ages_once_the_clock_runs_evenly() {
        let mut ages = Ages::default();
        run(&mut ages, NOW, 24 * 60);
        assert!(!ages.is_past(u64::MAX, DAY));
        run(&mut ages, NOW + 24 * 60 * MINUTE, 1);
        assert!(ages.is_past(u64::MAX, DAY));
    }
}
