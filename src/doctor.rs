//! The examination of a stopped server's data folder: what is intact, what a start will repair, what is damaged.
//!
//! An examination is a start that writes nowhere: the journal's own recovery runs over a disk that forgets what is
//! written (`disk/overlay.rs`), and what it finds and would do is the report. So only one piece of code reads damage.
//! Transcripts are compared with the journal as it would be then, and counted. A repair is the same on the real disk,
//! with the transcripts' own replay. Memory grows with the names in a folder and not with the content of the files; of
//! each weight only the first findings are listed and the others counted.
//!
//! | file | what |
//! |---|---|
//! | `examine.rs` | the examination |
//! | `environment.rs` | what surrounds the data: modes, free space, quarantines, dead letters |
//! | `orphans.rs` | messages that are in the journal's quarantine and nowhere else |
//! | `repair.rs` | what a start would do, and what it would not |
//! | `place.rs` | where the data is, and why it cannot be examined |
//! | `findings.rs` | the findings, by weight |
//! | `words.rs` | faults and figures in words |
//! | `report.rs` | the report, for people and for scripts |
//!
//! Knows nothing of arguments, exit codes or streams.

mod environment;
mod examine;
mod findings;
mod orphans;
mod place;
mod repair;
mod report;
#[cfg(test)]
mod tests;
mod words;

use std::path::Path;

use crate::disk::RealDisk;
use crate::journal::{Lock, OpenError};
use crate::layout;
use crate::message::Clock;

use examine::examine;

pub use examine::{Compared, Report};
pub use findings::{Finding, Findings, Weight};
pub use place::{DataLocation, DoctorError};
pub(crate) use words::{size, some};

/// Examine or repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Change nothing.
    Look,
    /// Do what a start would do, and what it would not.
    Repair,
}

/// Examines the data, and repairs it if asked to.
///
/// # Errors
/// [`DoctorError`]: nothing was changed, unless it says so.
pub fn run(place: &DataLocation, task: Task) -> Result<Report, DoctorError> {
    let gone = |path: &Path| !path.exists();
    if gone(&place.data) && gone(place.journal()) && gone(place.transcripts()) {
        return Err(DoctorError::Missing(place.data.clone()));
    }
    let hold = if gone(place.journal()) { None } else { Some(hold(place)?) };
    let clock = Clock::system();
    let mut report = examine(&RealDisk, place, &clock)?;
    if task == Task::Repair && (report.journal.is_some() || report.transcripts.is_some()) {
        repair::refuse_what_is_newer(&report)?;
        repair::refuse_another_user(&layout::lock(place.journal()), rustix::process::geteuid().as_raw())?;
        repair::keep_first(&RealDisk, place)?;
        // The journal takes the lock itself; if a server starts in between, the server goes on and the repair fails.
        drop(hold);
        let done = repair::run(&RealDisk, place, &clock, &report)?;
        let _hold = self::hold(place)?;
        report = examine(&RealDisk, place, &clock)?;
        report.done = Some(done);
    } else if task == Task::Repair {
        report.done = Some(Vec::new());
    }
    report.environment = environment::look(place, &mut report.findings);
    Ok(report)
}

fn hold(place: &DataLocation) -> Result<Lock, DoctorError> {
    let path = place.journal();
    Lock::look(path).map_err(|e| match e {
        OpenError::Locked { holder, .. } => DoctorError::InUse { path: path.to_owned(), holder },
        OpenError::Io { path, source } => DoctorError::Io { path, source },
        newer @ OpenError::Newer { .. } => DoctorError::Unrepairable(newer.to_string()),
    })
}

/// A repair on any disk.
#[cfg(test)]
pub(crate) fn repair_on<D: crate::disk::Disk>(
    disk: &D,
    place: &DataLocation,
    clock: &Clock,
) -> Result<Report, DoctorError> {
    let before = examine(disk, place, clock)?;
    repair::keep_first(disk, place)?;
    repair::run(disk, place, clock, &before)?;
    examine(disk, place, clock)
}
