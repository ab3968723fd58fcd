//! What can be counted for an operator: the table of all families (`family.rs`), counters and histograms that hot
//! paths add to, the text that Prometheus reads (`text.rs`), and the figures of the process (`process.rs`).
//!
//! Each part of the server owns its counters, and `GET /metrics` reads them all (`api/metrics.rs`). Adding is one or
//! two atomic additions: no lock, no allocation, no look-up by name. Labels are indexes into arrays, so the number of
//! series is fixed when the program is built.
//!
//! Knows nothing of what is counted.

pub mod family;
mod process;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use family::{Family, FamilyKind};
pub use process::ProcessFigures;
pub use text::{CONTENT_TYPE, FamilyText, MetricsText};

/// A number that only rises, from 0 at the start of the process.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many values there were in each range, and their sum.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds of all ranges but the last, in `1 / scale`, rising.
    bounds: Box<[u64]>,
    counts: Box<[Counter]>,
    sum: Counter,
    scale: f64,
}

impl Histogram {
    /// A histogram of times, with the buckets of its family.
    #[must_use]
    pub fn of_seconds(family: &Family) -> Self {
        Self::scaled(family, 1e9)
    }

    /// A histogram of whole numbers.
    #[must_use]
    pub fn of_numbers(family: &Family) -> Self {
        Self::scaled(family, 1.0)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounds are positive and small")]
    fn scaled(family: &Family, scale: f64) -> Self {
        Self {
            bounds: family.buckets.iter().map(|bound| (bound * scale).round() as u64).collect(),
            counts: (0..=family.buckets.len()).map(|_| Counter::default()).collect(),
            sum: Counter::default(),
            scale,
        }
    }

    /// Adds a time; beyond 584 years it counts as that.
    pub fn observe(&self, took: Duration) {
        self.observe_number(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds a number, which for a histogram of times is in nanoseconds.
    pub fn observe_number(&self, value: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)].add(1);
        self.sum.add(value);
    }

    /// How many values there were up to each bound, and at last how many in all.
    fn cumulative(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().scan(0, |all, count| {
            *all += count.get();
            Some(*all)
        })
    }

    /// The sum of all values, in the unit of the family.
    #[allow(clippy::cast_precision_loss, reason = "a sum to 15 digits is enough")]
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum.get() as f64 / self.scale
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_range_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::of_numbers(&family::JOURNAL_BATCH_RECORDS);
        let bounds: Vec<u64> = histogram.bounds.to_vec();
        assert!(bounds.is_sorted() && bounds[..3] == [1, 2, 5], "{bounds:?}");
        for value in [1, 2, 3, 5, 6, u64::MAX / 2] {
            histogram.observe_number(value);
        }
        let found: Vec<u64> = histogram.cumulative().collect();
        assert_eq!((&found[..3], found.last(), histogram.count()), (&[1, 2, 4][..], Some(&6), 6));
    }

    #[test]
    fn times_are_counted_to_the_nanosecond_and_told_in_seconds() {
        let histogram = Histogram::of_seconds(&family::JOURNAL_SYNC_SECONDS);
        for nanos in [50_000, 50_001, 99_999] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        assert_eq!(histogram.cumulative().take(2).collect::<Vec<_>>(), [1, 3]);
        assert!((histogram.sum() - 200e-6).abs() < 1e-12, "{}", histogram.sum());
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.count(), 4);
    }
}
