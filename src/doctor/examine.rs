//! The examination: runs the journal's own recovery, observed, on a disk that forgets what is written; then reads the
//! transcripts and compares them with the journal as it would be after that.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::disk::overlay::Overlay;
use crate::journal::{Journal, StoredCheckpoint as Checkpointed, survey as journal};
use crate::layout;
use crate::message::{Clock, SessionId, Timestamp};
use crate::transcript::survey::{self as transcript, Comparison, MessageStanding, Shortened};

use super::findings::{Findings, LISTED_MAX, Weight};
use super::place::{DataLocation, DoctorError, messages};
use super::{environment, orphans, words};

/// Sessions with a torn last line that are remembered; the journal usually has that message.
const TORN_MAX: usize = 10_000;

/// The transcripts compared with the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Messages of the journal that were looked up.
    pub looked_for: u64,
    /// Missing messages that the next start writes.
    pub stale: u64,
    /// Missing messages that no start writes any more.
    pub lost: u64,
    /// Messages with other bytes.
    pub differing: u64,
}

/// The report.
#[derive(Debug)]
pub struct Report {
    pub(super) place: DataLocation,
    pub(super) journal: Option<journal::JournalSurvey>,
    pub(super) transcripts: Option<transcript::TranscriptSurvey>,
    pub(super) compared: Compared,
    pub(super) environment: environment::Around,
    /// Messages that are in the journal's quarantine only.
    pub(super) orphans: u64,
    pub(super) findings: Findings,
    /// What the repair did, one line each; `None` without a repair.
    pub(super) done: Option<Vec<String>>,
    pub(super) now: Timestamp,
}

impl Report {
    /// How many things are damaged, or could not be read.
    #[must_use]
    pub fn damage(&self) -> u64 {
        self.findings.count(Weight::Damage)
    }
}

/// Examines everything but the surroundings, on any disk.
pub(super) fn examine<D: Disk>(disk: &D, place: &DataLocation, clock: &Clock) -> Result<Report, DoctorError> {
    let mut findings = Findings::default();
    let (survey, journal) = match there(place.journal(), disk.list(place.journal()))? {
        None => (None, None),
        Some(_) => {
            let overlay = Overlay::new(disk.clone(), layout::quarantine(place.journal()));
            let mut tell = |path: &Path, fault| words::journal_fault(&mut findings, path, fault);
            let (survey, journal) = Journal::look(overlay, &place.config.journal, clock.clone(), &mut tell);
            (Some(survey), journal)
        }
    };
    let (transcripts, mut torn) = read_transcripts(disk, place, &mut findings)?;
    let mut report = Report {
        place: place.clone(),
        journal: survey,
        transcripts,
        compared: Compared::default(),
        environment: environment::Around::default(),
        orphans: 0,
        findings,
        done: None,
        now: clock.now(),
    };
    if let Some(journal) = &journal {
        report.compare(disk, journal, &mut torn);
        report.count_orphans(disk, journal);
    }
    for (session, bytes) in torn {
        let what = format!("its last line is cut off ({bytes} bytes), and the journal no longer has it");
        report.findings.add(Weight::Damage, transcript_path(place, &session), what);
    }
    report.judge(disk.open_read(&layout::transcript_lengths(place.journal())).is_ok());
    Ok(report)
}

/// Reads the transcripts. A torn last line is no finding yet: returns the sessions with one, and its length.
fn read_transcripts<D: Disk>(
    disk: &D,
    place: &DataLocation,
    findings: &mut Findings,
) -> Result<(Option<transcript::TranscriptSurvey>, HashMap<SessionId, u64>), DoctorError> {
    let mut torn = HashMap::new();
    let mut tell = |session: &SessionId, fault| match fault {
        transcript::TranscriptFault::Torn(bytes) if torn.len() < TORN_MAX => {
            torn.insert(session.clone(), bytes);
        }
        fault => words::transcript_fault(findings, place.transcripts(), session, &fault),
    };
    let survey = there(place.transcripts(), transcript::TranscriptSurvey::of(disk, place.transcripts(), &mut tell))?;
    Ok((survey, torn))
}

/// The result, or `None` if there is no such folder.
fn there<T>(path: &Path, outcome: io::Result<T>) -> Result<Option<T>, DoctorError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DoctorError::Io { path: path.to_owned(), source }),
    }
}

fn shortened<D: Disk>(disk: &D, place: &DataLocation, findings: &mut Findings) -> Shortened {
    let path = layout::transcript_lengths(place.journal());
    Shortened::of(disk, place.transcripts(), &path).unwrap_or_else(|e| {
        match e.kind() {
            io::ErrorKind::InvalidData => {
                let what = "it is damaged: how long transcripts were is not known, and a start begins it anew";
                findings.add(Weight::Warning, &path, what);
            }
            _ => findings.add(Weight::Damage, &path, format!("it cannot be read: {e}")),
        }
        Shortened::default()
    })
}

fn transcript_path(place: &DataLocation, session: &SessionId) -> PathBuf {
    place.transcripts().join(session.file_name())
}

impl Report {
    /// Looks up every message of the journal in its transcript. Removes sessions from `torn` whose line will be written
    /// again.
    fn compare<D: Disk, J: Disk>(&mut self, disk: &D, journal: &Journal<J>, torn: &mut HashMap<SessionId, u64>) {
        let mut comparison = Comparison::new(disk, self.place.transcripts());
        let (compared, findings) = (&mut self.compared, &mut self.findings);
        let transcribed = self.journal.as_ref().map_or(0, journal::JournalSurvey::transcribed);
        let oldest = self.place.oldest_shown(self.now);
        let mut named = HashSet::new();
        let mut fault = None;
        let mut shortened = shortened(disk, &self.place, findings);
        journal.erasures_after(transcribed).iter().for_each(|(session, _)| shortened.forget(session));
        let walked = messages(journal, &(1..=u64::MAX), None, &mut |sequence, message, provenance| {
            if oldest.is_some_and(|oldest| message.id() < oldest) {
                shortened.meet(message, provenance, false);
                return;
            }
            compared.looked_for += 1;
            let found = comparison.look(message, provenance).unwrap_or_else(|e| {
                fault.get_or_insert((message.session().clone(), e));
                MessageStanding::Same
            });
            let is_rewritten = shortened.meet(message, provenance, found == MessageStanding::Lacking);
            let what = match found {
                MessageStanding::Same => return,
                MessageStanding::Differs => {
                    compared.differing += 1;
                    "holds messages with other bytes than the journal; --repair takes the journal's"
                }
                MessageStanding::Lacking if sequence > transcribed || is_rewritten => {
                    compared.stale += 1;
                    torn.remove(message.session());
                    return;
                }
                MessageStanding::Lacking => {
                    compared.lost += 1;
                    "lacks messages the journal still has, and no start looks for them; --repair puts them back"
                }
            };
            if named.len() < LISTED_MAX && named.insert(message.session().clone()) {
                findings.add(Weight::Damage, transcript_path(&self.place, message.session()), what);
            }
        });
        if let Some((session, e)) = fault {
            findings.add(Weight::Damage, transcript_path(&self.place, &session), format!("cannot be read: {e}"));
        }
        for (session, part, left) in shortened.judge(oldest) {
            let (weight, what) = words::shortened(part, left);
            findings.add(weight, transcript_path(&self.place, session), what);
        }
        if let Err(e) = walked {
            findings.add(Weight::Damage, self.place.journal(), format!("cannot be read: {e}"));
        }
    }

    fn count_orphans<D: Disk, J: Disk>(&mut self, disk: &D, journal: &Journal<J>) {
        let found = orphans::find(disk, &self.place, journal, self.now, &mut |_| {
            self.orphans += 1;
            Ok(())
        });
        if let Err(e) = found {
            let quarantine = layout::quarantine(self.place.journal());
            self.findings.add(Weight::Damage, quarantine, format!("cannot be read: {e}"));
        }
    }

    /// Derives findings from the figures.
    fn judge(&mut self, has_lengths: bool) {
        let (journal, transcripts) = (self.place.journal(), self.place.transcripts());
        let (findings, stale) = (&mut self.findings, self.compared.stale);
        if let Some(survey) = &self.journal {
            words::journal_figures(findings, journal, survey);
        }
        let has_segments = self.journal.as_ref().is_some_and(|survey| survey.files.bytes > 0);
        let traces = [
            (self.transcripts.is_some_and(|transcripts| transcripts.files > 0), "transcripts"),
            (has_lengths, "lengths of transcripts"),
            (
                self.journal.as_ref().is_some_and(|survey| survey.checkpoint != Checkpointed::Missing),
                "traces of a checkpoint",
            ),
        ];
        if let Some((_, trace)) = traces.iter().find(|(is_there, _)| *is_there && !has_segments) {
            findings.add(Weight::Damage, journal, format!("there is no journal, although there are {trace}"));
        }
        if let Some(survey) = &self.transcripts {
            words::transcript_figures(findings, transcripts, survey);
        }
        if stale > 0 {
            let what = format!("{stale} messages of the journal are not in the transcripts yet");
            findings.add(Weight::Pending, transcripts, what);
        }
        if self.orphans > 0 {
            let what =
                format!("{} intact messages are here only; --repair writes them to recovered.jsonl", self.orphans);
            findings.add(Weight::Damage, layout::quarantine(journal), what);
        }
    }
}
