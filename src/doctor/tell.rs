//! The report in words: a few aligned lines when all is well, a line more for each thing that is wrong; and as one JSON
//! object with the same facts.
//!
//! Plain text without colours. What stands in files is never quoted, only where it stands.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::journal::survey as journal;
use crate::journal::{Checkpoint, Standing};
use crate::message::{SessionId, Timestamp};
use crate::transcript::survey as transcript;

use super::around::Files;
use super::{Finding, Findings, Report, Weight};

/// Puts a fault of the journal into words.
pub fn journal_fault(findings: &mut Findings, folder: &Path, name: &str, fault: journal::Fault) {
    let what = match fault {
        journal::Fault::Newer(why) => why.to_string(),
        journal::Fault::Header { messages: None } => "its header is damaged; a start rebuilds it".to_owned(),
        journal::Fault::Header { messages: Some(messages) } => {
            format!("its header is damaged and cannot be rebuilt; intact messages found in it: {messages}")
        }
        journal::Fault::OtherEpoch { messages } => {
            format!("it is a segment of another journal; intact messages found in it: {messages}")
        }
        journal::Fault::OtherNumber { messages } => {
            format!("its header has another number than its name; intact messages found in it: {messages}")
        }
        journal::Fault::Damaged { bytes, records } => {
            let lost = if records.is_empty() {
                String::new()
            } else {
                format!(", and with them records {} to {}", records.start(), records.end())
            };
            format!("bytes {} to {} are damaged{lost}", bytes.start, bytes.end)
        }
        journal::Fault::FewerThanDigest { known, found } => {
            format!("it had {known} records, and {found} are left")
        }
        journal::Fault::Unreadable(sequence) => {
            format!("record {sequence} is intact and yet cannot be read: a fault in chatkeep")
        }
        journal::Fault::Io(e) => format!("it cannot be read: {e}"),
        journal::Fault::EndsBefore(sequence) => {
            format!("it has passed record {sequence}, and the journal ends before: its last records are gone")
        }
    };
    findings.add(Weight::Damage, folder.join(name).display().to_string(), what);
}

/// What the journal's figures mean.
pub fn journal_figures(findings: &mut Findings, folder: &str, survey: &journal::Survey) {
    let journal::Digests { missing, damaged, outdated, .. } = survey.digests;
    let mut pending = |what: String| findings.add(Weight::Pending, folder, what);
    if missing + damaged > 0 {
        let missing = are(missing, "digest");
        pending(format!("{missing} missing and {damaged} damaged: a start walks those segments instead"));
    }
    if survey.tail_bytes > 0 {
        let bytes = some(survey.tail_bytes, "byte");
        pending(format!("{bytes} behind the last record, of a write that was cut off or of damage"));
    }
    if survey.torn > 0 {
        pending(format!(
            "{} of requests that were cut off: never acknowledged, a start voids what there is of those",
            some(survey.torn, "record")
        ));
    }
    if survey.leftovers.0 > 0 {
        pending(format!("{} ({})", some(survey.leftovers.0, "unfinished file"), size(survey.leftovers.1)));
    }
    if outdated > 0 {
        findings.add(Weight::Warning, folder, format!("{} not what the segments say", are(outdated, "digest")));
    }
    match survey.checkpoint {
        Standing::Foreign => {
            findings.add(
                Weight::Warning,
                folder,
                "the checkpoint is of another journal: a start looks at everything again",
            );
        }
        Standing::Missing if survey.segments > 0 => {
            findings.add(Weight::Pending, folder, "there is no checkpoint: a start looks at everything again");
        }
        _ => {}
    }
}

/// Puts a fault of a transcript into words.
pub fn transcript_fault(findings: &mut Findings, folder: &Path, session: &SessionId, fault: &transcript::Fault) {
    let what = match fault {
        transcript::Fault::Foreign { bad, others, first } => format!(
            "{} no message and {others} of another session, the first at byte {}: readers pass over them",
            are(*bad, "line"),
            first.start
        ),
        transcript::Fault::OutOfOrder(lines) => {
            format!("{} out of place and may hide others from readers", are(*lines, "line"))
        }
        transcript::Fault::Torn(bytes) => format!("its last line is cut off ({bytes} bytes)"),
        transcript::Fault::Io(e) => format!("it cannot be read: {e}"),
    };
    findings.add(Weight::Damage, folder.join(session.file_name()).display().to_string(), what);
}

/// What the transcripts' figures mean.
pub fn transcript_figures(findings: &mut Findings, folder: &str, survey: &transcript::Survey) {
    if survey.repeated > 0 {
        let what = match survey.repeated {
            1 => "1 line repeats the one before it: nobody sees it".to_owned(),
            lines => format!("{lines} lines repeat the one before them: nobody sees them"),
        };
        findings.add(Weight::Warning, folder, what);
    }
    if survey.leftovers.0 > 0 {
        let what = format!(
            "{} ({}): a start removes that",
            some(survey.leftovers.0, "unfinished file"),
            size(survey.leftovers.1)
        );
        findings.add(Weight::Pending, folder, what);
    }
}

impl Report {
    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, what: &str| {
            let _ = writeln!(text, "{label:<13}{what}");
        };
        line("data", &self.place.data.display().to_string());
        line("journal", &self.journal.as_ref().map_or_else(|| "none".to_owned(), in_words));
        if let Some(journal) = &self.journal {
            line("checkpoint", &checkpoint(journal, self.now));
            if journal.keys > 0 {
                line("keys", &some(journal.keys, "idempotency key"));
            }
        }
        let transcripts = self.transcripts.map_or_else(
            || "none".to_owned(),
            |found| {
                format!("{}, {}, {}", some(found.files, "file"), size(found.bytes), some(found.messages, "message"))
            },
        );
        line("transcripts", &transcripts);
        let around = &self.around;
        for (name, files) in [("journal", around.journal_quarantine), ("transcripts", around.transcripts_quarantine)] {
            if files.count > 0 {
                let files = format!("{}, {}, set aside from the {name}", some(files.count, "file"), size(files.bytes));
                line("quarantine", &files);
            }
        }
        if around.recovered > 0 {
            let path = self.place.recovered();
            line("recovered", &format!("{}, one a line, in {}", some(around.recovered, "message"), path.display()));
        }
        if let Some(letters) = around.dead_letters {
            line("dead letters", &some(letters, "message"));
        }
        if let Some(free) = around.free_bytes {
            line("disk", &format!("{} free", size(free)));
        }
        for finding in self.in_order() {
            let label = match finding.weight {
                Weight::Damage => "DAMAGED",
                Weight::Pending => "pending",
                Weight::Warning => "warning",
            };
            line(label, &format!("{}: {}", finding.place, finding.what));
        }
        for weight in [Weight::Damage, Weight::Pending, Weight::Warning] {
            let listed = self.findings.listed.iter().filter(|finding| finding.weight == weight).count() as u64;
            if self.findings.count(weight) > listed {
                line("", &format!("and {} more like these", self.findings.count(weight) - listed));
            }
        }
        for done in self.done.iter().flatten() {
            line("repaired", done);
        }
        let _ = writeln!(text, "{}", self.verdict());
        text
    }

    fn in_order(&self) -> Vec<&Finding> {
        let mut findings: Vec<&Finding> = self.findings.listed.iter().collect();
        findings.sort_by_key(|finding| finding.weight);
        findings
    }

    /// One sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        let nothing_done = self.done.as_ref().is_some_and(Vec::is_empty);
        let repaired = if nothing_done { "There was nothing to repair. " } else { "" };
        let pending = self.findings.count(Weight::Pending);
        match (self.damage(), pending) {
            (0, 0) => format!("{repaired}Nothing is damaged."),
            (0, _) => format!("{repaired}Nothing is damaged; what is pending the next start does by itself."),
            (damage, _) => format!("{repaired}Damaged, or not to be read: {}.", some(damage, "thing")),
        }
    }

    /// For scripts: the same facts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let verdict = match (self.damage(), self.findings.count(Weight::Pending)) {
            (0, 0) => "intact",
            (0, _) => "pending",
            _ => "damaged",
        };
        let count = |weight| self.findings.count(weight);
        let around = &self.around;
        json!({
            "verdict": verdict,
            "damaged": count(Weight::Damage),
            "pending": count(Weight::Pending),
            "warnings": count(Weight::Warning),
            "data": self.place.data.display().to_string(),
            "journal": self.journal.as_ref().map(|journal| journal_json(journal, self.now)),
            "transcripts": self.transcripts.map(|found| json!({
                "files": found.files,
                "bytes": found.bytes,
                "messages": found.messages,
                "repeated_lines": found.repeated,
                "leftovers": found.leftovers.0,
                "looked_for": self.compared.looked_for,
                "lacking_put_back_by_a_start": self.compared.behind,
                "lacking_put_back_by_repair": self.compared.lost,
                "differing": self.compared.differing,
            })),
            "quarantine": {
                "journal": files_json(around.journal_quarantine),
                "transcripts": files_json(around.transcripts_quarantine),
                "messages_nowhere_else": self.apart,
            },
            "recovered": around.recovered,
            "dead_letters": around.dead_letters,
            "disk": { "free_bytes": around.free_bytes, "low": around.low },
            "open_to_others": around.open_to_others,
            "findings": self.in_order().into_iter().map(|finding| json!({
                "weight": match finding.weight {
                    Weight::Damage => "damaged",
                    Weight::Pending => "pending",
                    Weight::Warning => "warning",
                },
                "place": finding.place,
                "what": finding.what,
            })).collect::<Vec<_>>(),
            "repaired": self.done,
        })
    }
}

fn journal_json(survey: &journal::Survey, now: Timestamp) -> Value {
    let (state, drained, transcribed) = match survey.checkpoint {
        Standing::Missing => ("missing", None, None),
        Standing::Damaged => ("damaged", None, None),
        Standing::Foreign => ("foreign", None, None),
        Standing::Ours(Checkpoint { drained, transcribed, .. }) => ("ok", Some(drained), Some(transcribed)),
    };
    json!({
        "segments": survey.segments,
        "bytes": survey.bytes,
        "first_sequence": survey.first_sequence,
        "last_sequence": survey.last_sequence,
        "messages": survey.records.messages,
        "context_clears": survey.records.context_clears,
        "erasures": survey.records.erasures,
        "aborts": survey.records.aborts,
        "scrubbed": survey.records.scrubbed,
        "refused": survey.refused,
        "keys": survey.keys,
        "tail_bytes": survey.tail_bytes,
        "torn_records": survey.torn,
        "leftovers": survey.leftovers.0,
        "digests": {
            "good": survey.digests.good,
            "missing": survey.digests.missing,
            "damaged": survey.digests.damaged,
            "outdated": survey.digests.outdated,
        },
        "checkpoint": { "state": state, "drained": drained, "transcribed": transcribed },
        "pending": survey.pending,
        "oldest_pending_seconds": survey.oldest_pending.map(|oldest| seconds(oldest, now)),
    })
}

fn files_json(files: Files) -> Value {
    json!({ "files": files.count, "bytes": files.bytes })
}

fn in_words(survey: &journal::Survey) -> String {
    let mut text = format!(
        "{}, {}, records {} to {}: {}",
        some(survey.segments as u64, "segment"),
        size(survey.bytes),
        survey.first_sequence,
        survey.last_sequence,
        some(survey.records.messages, "message")
    );
    for (count, what) in [
        (survey.records.context_clears, "context-clear"),
        (survey.records.erasures, "erasure"),
        (survey.records.aborts, "abort"),
        (survey.records.scrubbed, "scrubbed message"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {}", some(count, what));
        }
    }
    if survey.refused > 0 {
        let _ = write!(text, ", {} refused", survey.refused);
    }
    text
}

fn checkpoint(survey: &journal::Survey, now: Timestamp) -> String {
    let at = match survey.checkpoint {
        Standing::Missing => "none".to_owned(),
        Standing::Damaged => "damaged".to_owned(),
        Standing::Foreign => "of another journal".to_owned(),
        Standing::Ours(checkpoint) => format!("everything up to record {} has arrived", checkpoint.drained),
    };
    match survey.oldest_pending {
        _ if survey.pending == 0 => format!("{at}, nothing is pending"),
        Some(oldest) => {
            format!("{at}, {} pending, the oldest for {} s", some(survey.pending, "record"), seconds(oldest, now))
        }
        None => format!("{at}, {} pending", some(survey.pending, "record")),
    }
}

fn seconds(since: Timestamp, now: Timestamp) -> u64 {
    now.micros().saturating_sub(since.micros()) / 1_000_000
}

/// A number and what it counts.
fn some(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The same, with its verb.
fn are(count: u64, what: &str) -> String {
    format!("{} {}", some(count, what), if count == 1 { "is" } else { "are" })
}

/// Bytes for people, to one place.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let Some(unit) = (0..4).rev().find(|unit| bytes >> (10 * (unit + 1)) > 0) else { return format!("{bytes} B") };
    let tenths = (u128::from(bytes) * 10) >> (10 * (unit + 1));
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}
