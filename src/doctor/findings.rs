//! The findings, by weight.

use std::path::Path;

use serde::Serialize;

/// Listed findings of one weight; the others are counted.
pub(super) const LISTED_MAX: usize = 30;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Data is unreadable, or could not be examined.
    #[serde(rename = "damaged")]
    Damage,
    /// The next start repairs it.
    Pending,
    /// No new loss, but an operator should know.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How serious it is.
    pub weight: Weight,
    /// The file or folder.
    pub place: String,
    /// What was found there.
    pub what: String,
}

/// The findings, the first of each weight.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub(super) listed: Vec<Finding>,
    counts: [u64; 3],
}

impl Findings {
    /// Adds a finding.
    pub(super) fn add(&mut self, weight: Weight, place: impl AsRef<Path>, what: impl Into<String>) {
        let count = &mut self.counts[weight as usize];
        *count += 1;
        if *count <= LISTED_MAX as u64 {
            let place = place.as_ref().display().to_string();
            self.listed.push(Finding { weight, place, what: what.into() });
        }
    }

    /// How many there are of a weight.
    #[must_use]
    pub fn count(&self, weight: Weight) -> u64 {
        self.counts[weight as usize]
    }

    /// How many of them are counted and not listed.
    pub(super) fn unlisted(&self, weight: Weight) -> u64 {
        self.count(weight).saturating_sub(LISTED_MAX as u64)
    }
}
