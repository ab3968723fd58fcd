//! What was found, by its weight.

use std::path::Path;

use serde::Serialize;

/// Findings of one weight that are listed; the others are counted.
pub(super) const LISTED_MAX: usize = 30;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Something that was kept cannot be read any more, or could not be looked at.
    #[serde(rename = "damaged")]
    Damage,
    /// The next start mends it.
    Pending,
    /// Nothing is lost that was not known to be, and yet somebody should know.
    Warning,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub weight: Weight,
    /// The file or folder.
    pub place: String,
    /// What about it.
    pub what: String,
}

/// The findings, the first of each weight.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub(super) listed: Vec<Finding>,
    counts: [u64; 3],
}

impl Findings {
    /// Takes one.
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
