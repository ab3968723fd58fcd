//! The look at the data folder of a stopped server: what is intact, what a start will mend, what is damaged.
//!
//! It stands beside the server and shares its readers, so that both mean the same by "intact". Looking changes nothing on
//! disk; only `repair.rs` writes, and it does what a start does, with the journal's own recovery and the transcripts' own
//! replay. Everything is streamed: memory grows with the names in a folder and not with what is in the files, and of each
//! weight only the first findings are listed and the others counted.
//!
//! | file | what |
//! |---|---|
//! | `doctor.rs` | the examination |
//! | `around.rs` | what lies around the data: modes, free space, quarantines, dead letters |
//! | `apart.rs` | messages that stand in the journal's quarantine and nowhere else |
//! | `repair.rs` | what a start would do, and what it would not |
//! | `tell.rs` | the report, for people and for scripts |
//!
//! Knows nothing of arguments, exit codes or streams.

mod apart;
mod around;
mod repair;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::Config;
use crate::disk::{Disk, RealDisk};
use crate::journal::{self, Standing};
use crate::layout;
use crate::message::{Clock, Expiry, Id, Message, SessionId, Timestamp};
use crate::transcript;

use transcript::survey::{Comparison, Found};

/// Findings of one weight that are listed; the others are counted.
const LISTED_MAX: usize = 30;
/// Sessions with a torn last line that are followed; the journal usually has what their line was.
const TORN_MAX: usize = 10_000;

/// Where the data is.
#[derive(Clone, Debug)]
pub struct Place {
    /// What `data/` means.
    pub data: PathBuf,
    /// The configuration.
    pub config: Config,
}

impl Place {
    fn journal(&self) -> &Path {
        &self.config.journal.path
    }

    fn transcripts(&self) -> &Path {
        &self.config.mongo.cache.disk_path
    }

    /// What a repair took out of the quarantine stands here.
    fn recovered(&self) -> PathBuf {
        layout::recovered(self.journal())
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing is changed.
    Look,
    /// What a start would do, and what lies out of its reach.
    Repair,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A server runs.
    #[error("{} is in use by process {holder}; stop it first", path.display())]
    InUse {
        /// The journal's folder.
        path: PathBuf,
        /// What the lock says of its holder.
        holder: String,
    },
    /// There is no data.
    #[error("there is no data folder {}: name it with --data or --config", .0.display())]
    Missing(PathBuf),
    /// The disk refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A repair would touch what it does not understand.
    #[error("nothing was changed: {0}")]
    Unrepairable(String),
    /// A repair ended before it was done; what it had done stays done, and it can be run again.
    #[error("the repair could not go on, and can be run again: {0}")]
    Unfinished(String),
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Something that was kept cannot be read any more, or could not be looked at.
    Damage,
    /// The next start mends it.
    Pending,
    /// Nothing is lost, and yet somebody should know.
    Warning,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    listed: Vec<Finding>,
    counts: [u64; 3],
}

impl Findings {
    fn add(&mut self, weight: Weight, place: impl Into<String>, what: impl Into<String>) {
        let count = &mut self.counts[weight as usize];
        *count += 1;
        if *count <= LISTED_MAX as u64 {
            self.listed.push(Finding { weight, place: place.into(), what: what.into() });
        }
    }

    /// How many there are of a weight.
    #[must_use]
    pub fn count(&self, weight: Weight) -> u64 {
        self.counts[weight as usize]
    }
}

/// How the transcripts stand against the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Messages of the journal that were looked for.
    pub looked_for: u64,
    /// They lack so many that the next start puts back.
    pub behind: u64,
    /// They lack so many that no start looks for any more.
    pub lost: u64,
    /// They hold so many with other bytes.
    pub differing: u64,
}

/// The report.
#[derive(Debug)]
pub struct Report {
    place: Place,
    journal: Option<journal::survey::Survey>,
    transcripts: Option<transcript::survey::Survey>,
    compared: Compared,
    around: around::Around,
    /// Messages that stand in the journal's quarantine only.
    apart: u64,
    findings: Findings,
    /// What the repair did, a line each; none when it was not asked for.
    done: Option<Vec<String>>,
    now: Timestamp,
}

impl Report {
    /// How many things are damaged, or could not be looked at.
    #[must_use]
    pub fn damage(&self) -> u64 {
        self.findings.count(Weight::Damage)
    }
}

/// Looks at the data, and repairs it when it was asked for.
///
/// # Errors
/// [`Failure`]; nothing was changed then, unless it says so.
pub fn run(place: &Place, task: Task) -> Result<Report, Failure> {
    let gone = |path: &Path| !path.exists();
    if gone(&place.data) && gone(place.journal()) && gone(place.transcripts()) {
        return Err(Failure::Missing(place.data.clone()));
    }
    let hold = if gone(place.journal()) { None } else { Some(hold(place)?) };
    let clock = Clock::system();
    let mut report = examine(&RealDisk, place, &clock)?;
    if task == Task::Repair && (report.journal.is_some() || report.transcripts.is_some()) {
        repair::refuse_what_is_newer(&report)?;
        repair::keep_first(&RealDisk, place)?;
        // The journal takes the lock itself; should a server come between, it is the one to go on.
        drop(hold);
        let done = repair::run(&RealDisk, place, &clock, &report)?;
        let _hold = self::hold(place)?;
        report = examine(&RealDisk, place, &clock)?;
        report.done = Some(done);
    } else if task == Task::Repair {
        report.done = Some(Vec::new());
    }
    report.around = around::look(place, &mut report.findings);
    Ok(report)
}

fn hold(place: &Place) -> Result<journal::survey::Hold, Failure> {
    let path = place.journal();
    match journal::survey::hold(path) {
        Ok(Ok(hold)) => Ok(hold),
        Ok(Err(holder)) => Err(Failure::InUse { path: path.to_owned(), holder }),
        Err(source) => Err(Failure::Io { path: path.to_owned(), source }),
    }
}

/// A repair on any disk.
#[cfg(test)]
pub(crate) fn repair_on<D: Disk>(disk: &D, place: &Place, clock: &Clock) -> Result<Report, Failure> {
    let before = examine(disk, place, clock)?;
    repair::keep_first(disk, place)?;
    repair::run(disk, place, clock, &before)?;
    examine(disk, place, clock)
}

/// Everything but what lies around the data, on any disk.
fn examine<D: Disk>(disk: &D, place: &Place, clock: &Clock) -> Result<Report, Failure> {
    let mut findings = Findings::default();
    let journal = {
        let mut tell = |name: &str, fault| tell::journal_fault(&mut findings, place.journal(), name, fault);
        there(place.journal(), journal::survey::Survey::of(disk, place.journal(), &mut tell))?
    };
    let mut torn = HashMap::new();
    let transcripts = {
        let mut tell = |session: &SessionId, fault| match fault {
            transcript::survey::Fault::Torn(bytes) if torn.len() < TORN_MAX => {
                torn.insert(session.clone(), bytes);
            }
            fault => tell::transcript_fault(&mut findings, place.transcripts(), session, &fault),
        };
        there(place.transcripts(), transcript::survey::Survey::of(disk, place.transcripts(), &mut tell))?
    };
    let now = clock.now();
    let mut report = Report {
        place: place.clone(),
        journal,
        transcripts,
        compared: Compared::default(),
        around: around::Around::default(),
        apart: 0,
        findings,
        done: None,
        now,
    };
    report.compare(disk, &mut torn);
    for (session, bytes) in torn {
        let what = format!("its last line is cut off ({bytes} bytes), and the journal no longer has it");
        report.findings.add(Weight::Damage, transcript_name(place, &session), what);
    }
    report.apart = report.count_apart(disk);
    report.judge();
    Ok(report)
}

/// What was read, or none where there is no such folder.
fn there<T>(path: &Path, outcome: io::Result<T>) -> Result<Option<T>, Failure> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Failure::Io { path: path.to_owned(), source }),
    }
}

fn transcript_name(place: &Place, session: &SessionId) -> String {
    place.transcripts().join(session.file_name()).display().to_string()
}

/// Whether a message is to be shown at all: it is neither expired nor erased.
fn is_wanted(message: &Message, oldest: Option<Id>, erased: &HashMap<SessionId, Id>) -> bool {
    oldest.is_none_or(|oldest| message.id() >= oldest)
        && erased.get(message.session()).is_none_or(|erased| message.id() > *erased)
}

/// The id that everything unexpired is at or behind.
fn oldest_shown(place: &Place, now: Timestamp) -> Option<Id> {
    Expiry::new(place.config.mongo.ttl, Clock::fixed(Arc::new(AtomicU64::new(now.micros())))).bound()
}

impl Report {
    /// Looks for every message of the journal in its transcript. Takes those out of `torn` whose line is put back.
    fn compare<D: Disk>(&mut self, disk: &D, torn: &mut HashMap<SessionId, u64>) {
        let Some(journal) = &self.journal else { return };
        let mut comparison = Comparison::new(disk, self.place.transcripts());
        let (compared, findings) = (&mut self.compared, &mut self.findings);
        let transcribed = journal.transcribed();
        let oldest = oldest_shown(&self.place, self.now);
        let mut named = HashSet::new();
        let mut fault = None;
        let walked = journal.records(disk, self.place.journal(), 1..=u64::MAX, &mut |record| {
            let Some(message) = record.entry.message().filter(|m| is_wanted(m, oldest, &journal.erased)) else {
                return;
            };
            compared.looked_for += 1;
            let found = comparison.look(message).unwrap_or_else(|e| {
                fault.get_or_insert((message.session().clone(), e));
                Found::Same
            });
            let what = match found {
                Found::Same => return,
                Found::Differs => {
                    compared.differing += 1;
                    "holds messages with other bytes than the journal; --repair takes the journal's"
                }
                Found::Lacking if record.sequence > transcribed => {
                    compared.behind += 1;
                    torn.remove(message.session());
                    return;
                }
                Found::Lacking => {
                    compared.lost += 1;
                    "lacks messages the journal still has, and no start looks for them; --repair puts them back"
                }
            };
            if named.len() < LISTED_MAX && named.insert(message.session().clone()) {
                findings.add(Weight::Damage, transcript_name(&self.place, message.session()), what);
            }
        });
        if let Some((session, e)) = fault {
            findings.add(Weight::Damage, transcript_name(&self.place, &session), format!("cannot be read: {e}"));
        }
        if let Err(e) = walked {
            findings.add(Weight::Damage, self.place.journal().display().to_string(), format!("cannot be read: {e}"));
        }
    }

    fn count_apart<D: Disk>(&mut self, disk: &D) -> u64 {
        let Some(journal) = &self.journal else { return 0 };
        let mut count = 0;
        if let Err(e) = apart::find(disk, &self.place, journal, self.now, &mut |_| {
            count += 1;
            Ok(())
        }) {
            let place = layout::quarantine(self.place.journal()).display().to_string();
            self.findings.add(Weight::Damage, place, format!("cannot be read: {e}"));
        }
        count
    }

    /// What the figures mean.
    fn judge(&mut self) {
        let folder = self.place.journal().display().to_string();
        let (findings, compared) = (&mut self.findings, self.compared);
        if let Some(journal) = &self.journal {
            tell::journal_figures(findings, &folder, journal);
        } else if self.transcripts.is_some_and(|transcripts| transcripts.files > 0) {
            findings.add(Weight::Damage, folder.clone(), "there is no journal, although there are transcripts");
        }
        if let Some(transcripts) = &self.transcripts {
            tell::transcript_figures(findings, &self.place.transcripts().display().to_string(), transcripts);
        }
        if compared.behind > 0 {
            let what = format!("{} messages of the journal are not in the transcripts yet", compared.behind);
            findings.add(Weight::Pending, self.place.transcripts().display().to_string(), what);
        }
        if self.apart > 0 {
            let quarantine = layout::quarantine(self.place.journal()).display().to_string();
            let what =
                format!("{} intact messages stand here only; --repair writes them to recovered.jsonl", self.apart);
            findings.add(Weight::Damage, quarantine, what);
        }
        if self.journal.as_ref().is_some_and(|journal| journal.checkpoint == Standing::Damaged) {
            findings.add(
                Weight::Warning,
                format!("{folder}/checkpoint"),
                "it is damaged: a start looks at everything again",
            );
        }
    }
}
