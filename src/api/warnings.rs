//! What the status warns of: the one table behind `warnings` of the status, the lists of its blocks and the metric
//! `chatkeep_warnings`.
//!
//! Knows nothing of alerts; `packaging/prometheus/` names the kinds, and a test compares them.

use crate::journal::{AppendError, Warning};
use crate::message::Timestamp;
use crate::transcript::Losses;
use crate::worker::{MongoHealth, View};

/// What the warnings are told from.
pub(super) struct WarningSources {
    /// What the journal warns of.
    pub(super) journal: Vec<Warning>,
    /// Why a message would be refused.
    pub(super) refusal: Option<AppendError>,
    /// Places of the journal that the start found damaged.
    pub(super) damaged_at_start: u64,
    /// What transcripts lack.
    pub(super) losses: Losses,
    /// When messages are first removed because they are too old.
    pub(super) first_sweep_at: Option<Timestamp>,
    /// The state of MongoDB.
    pub(super) database: View,
}

/// One line of the table.
struct WarningKind {
    /// Its name.
    name: &'static str,
    /// The block of the status that lists it, too.
    listed_in: Option<StatusBlock>,
    holds: fn(&WarningSources) -> bool,
}

/// A block of the status with a list of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusBlock {
    Journal,
    Transcripts,
}

const fn kind(name: &'static str, holds: fn(&WarningSources) -> bool) -> WarningKind {
    WarningKind { name, listed_in: None, holds }
}

const fn listed(block: StatusBlock, name: &'static str, holds: fn(&WarningSources) -> bool) -> WarningKind {
    WarningKind { name, listed_in: Some(block), holds }
}

use StatusBlock::{Journal, Transcripts};

const TABLE: &[WarningKind] = &[
    listed(Journal, "disk_low", |now| now.journal.contains(&Warning::DiskLow)),
    listed(Journal, "backlog_high", |now| now.journal.contains(&Warning::BacklogHigh)),
    listed(Journal, "ids_ahead", |now| now.journal.contains(&Warning::IdsAhead)),
    listed(Journal, "clock_before_2020", |now| now.journal.contains(&Warning::ClockBefore2020)),
    kind("journal_full", |now| matches!(now.refusal, Some(AppendError::Full(_)))),
    kind("journal_error", |now| now.refusal.as_ref().is_some_and(|why| !matches!(why, AppendError::Full(_)))),
    kind("damaged_at_start", |now| now.damaged_at_start > 0),
    listed(Transcripts, "stale", |now| now.losses.stale > 0),
    listed(Transcripts, "lost", |now| now.losses.lost > 0),
    listed(Transcripts, "folder_is_new", |now| now.losses.folder_is_new),
    kind("first_sweep_due", |now| now.first_sweep_at.is_some()),
    kind("mongo_error", |now| now.database.state == MongoHealth::Error),
    kind("differing_indexes", |now| !now.database.collection.differing_indexes.is_empty()),
    kind("indexes_made_again", |now| now.database.collection.indexes_made_again.is_some()),
    kind("ttl_differs", |now| now.database.collection.ttl_differs.is_some_and(|found| found.later + found.sooner > 0)),
    kind("cannot_share", |now| now.database.cannot_share.is_some()),
];

impl WarningSources {
    /// Every kind by its name, and whether it holds.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, bool)> {
        TABLE.iter().map(|kind| (kind.name, (kind.holds)(self)))
    }

    /// The names of those that hold.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.all().filter(|(_, holds)| *holds).map(|(name, _)| name).collect()
    }

    /// The names of those that hold and that `block` lists.
    pub(super) fn names_in(&self, block: StatusBlock) -> Vec<&'static str> {
        let kinds = TABLE.iter().filter(|kind| kind.listed_in == Some(block) && (kind.holds)(self));
        kinds.map(|kind| kind.name).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::openapi;
    use crate::store::TtlDifference;

    type Fault = fn(&mut WarningSources);

    /// Each kind with a fault for which it is to be told, and no other.
    const FAULTS: &[(&str, Fault)] = &[
        ("disk_low", |now| now.journal = vec![Warning::DiskLow]),
        ("backlog_high", |now| now.journal = vec![Warning::BacklogHigh]),
        ("ids_ahead", |now| now.journal = vec![Warning::IdsAhead]),
        ("clock_before_2020", |now| now.journal = vec![Warning::ClockBefore2020]),
        ("journal_full", |now| now.refusal = Some(AppendError::Full(String::new()))),
        ("journal_error", |now| now.refusal = Some(AppendError::Unavailable(String::new()))),
        ("damaged_at_start", |now| now.damaged_at_start = 1),
        ("stale", |now| now.losses.stale = 1),
        ("lost", |now| now.losses.lost = 1),
        ("folder_is_new", |now| now.losses.folder_is_new = true),
        ("first_sweep_due", |now| now.first_sweep_at = Some(Timestamp::from_micros(1))),
        ("mongo_error", |now| now.database.state = MongoHealth::Error),
        ("differing_indexes", |now| now.database.collection.differing_indexes = vec!["x".to_owned()]),
        ("indexes_made_again", |now| now.database.collection.indexes_made_again = Some(Timestamp::from_micros(1))),
        ("ttl_differs", |now| now.database.collection.ttl_differs = Some(TtlDifference { later: 0, sooner: 1 })),
        ("cannot_share", |now| now.database.cannot_share = Some(String::new())),
    ];

    /// A server with MongoDB in which nothing is wrong.
    fn nothing() -> WarningSources {
        let mut database = View { state: MongoHealth::Ok, ..View::default() };
        database.collection.ttl_differs = Some(TtlDifference::default());
        WarningSources {
            journal: Vec::new(),
            refusal: None,
            damaged_at_start: 0,
            losses: Losses::default(),
            first_sweep_at: None,
            database,
        }
    }

    #[test]
    fn every_kind_holds_for_its_fault_and_for_no_other() {
        assert_eq!(nothing().names(), [""; 0]);
        let mut seen = BTreeSet::new();
        for (name, fault) in FAULTS {
            let mut now = nothing();
            fault(&mut now);
            assert_eq!(now.names(), [*name]);
            assert!(seen.insert(*name), "{name} twice");
        }
        assert_eq!(seen.len(), TABLE.len(), "every line of the table has its fault");
        assert!(Warning::ALL.iter().all(|warning| seen.contains(warning.as_str())), "every warning of the journal");
    }

    #[test]
    fn the_description_names_every_kind_where_the_status_has_it() {
        let document: serde_json::Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
        let status = &document["components"]["schemas"]["Status"]["properties"];
        let words = |list: &serde_json::Value| -> Vec<String> {
            serde_json::from_value(list["items"]["enum"].clone()).unwrap()
        };
        let names = |block: Option<StatusBlock>| -> Vec<&str> {
            let kinds = TABLE.iter().filter(|kind| block.is_none() || kind.listed_in == block);
            kinds.map(|kind| kind.name).collect()
        };
        assert_eq!(words(&status["warnings"]), names(None));
        assert_eq!(words(&status["journal"]["properties"]["warnings"]), names(Some(Journal)));
        assert_eq!(words(&status["transcripts"]["properties"]["warnings"]), names(Some(Transcripts)));
    }
}
