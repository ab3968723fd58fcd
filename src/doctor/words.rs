//! Faults and figures in words.

use std::path::Path;

use crate::journal::StoredCheckpoint;
use crate::journal::survey as journal;
use crate::message::SessionId;
use crate::transcript::survey as transcript;

use super::findings::{Findings, Weight};

/// Adds a fault of the journal.
pub fn journal_fault(findings: &mut Findings, path: &Path, fault: journal::JournalFault) {
    let what = match fault {
        journal::JournalFault::Newer(why) => why.to_string(),
        journal::JournalFault::Header => "its header is damaged; a start rebuilds it".to_owned(),
        journal::JournalFault::NoHeader(messages) => {
            format!("its header is damaged and cannot be rebuilt; intact messages found in it: {messages}")
        }
        journal::JournalFault::OtherEpoch(messages) => {
            format!("it is a segment of another journal; intact messages found in it: {messages}")
        }
        journal::JournalFault::OtherNumber(messages) => {
            format!("its header has another number than its name; intact messages found in it: {messages}")
        }
        journal::JournalFault::Damaged { bytes, records } => {
            let lost = if records.is_empty() {
                String::new()
            } else {
                format!(", and with them records {} to {}", records.start(), records.end())
            };
            format!("bytes {} to {} are damaged{lost}", bytes.start, bytes.end)
        }
        journal::JournalFault::FewerThanDigest { known, found } => {
            format!("it had {known} records, and {found} are left")
        }
        journal::JournalFault::Unreadable(sequence) => {
            format!("record {sequence} is intact and yet cannot be read: a fault in chatkeep")
        }
        journal::JournalFault::Io(e) => format!("it cannot be read: {e}"),
        journal::JournalFault::EndsBefore(sequence) => {
            format!("it has passed record {sequence}, and the journal ends before: its last records are gone")
        }
    };
    findings.add(Weight::Damage, path, what);
}

/// Adds the findings that follow from the journal's figures.
pub fn journal_figures(findings: &mut Findings, folder: &Path, survey: &journal::JournalSurvey) {
    let journal::Digests { missing, damaged, outdated, .. } = survey.digests;
    let mut pending = |what: String| findings.add(Weight::Pending, folder, what);
    if missing + damaged > 0 {
        let missing = are(missing, "digest");
        pending(format!("{missing} missing and {damaged} damaged: a start walks those segments instead"));
    }
    if survey.findings.tail_bytes > 0 {
        let bytes = some(survey.findings.tail_bytes, "byte");
        pending(format!("{bytes} behind the last record, of a write that was cut off or of damage"));
    }
    if survey.torn > 0 {
        pending(format!(
            "{} of requests that were cut off: never acknowledged, a start voids what there is of those",
            some(survey.torn, "record")
        ));
    }
    if survey.files.leftovers > 0 {
        pending(format!("{} ({})", some(survey.files.leftovers, "unfinished file"), size(survey.files.leftover_bytes)));
    }
    if outdated > 0 {
        findings.add(Weight::Warning, folder, format!("{} not what the segments say", are(outdated, "digest")));
    }
    match survey.checkpoint {
        StoredCheckpoint::Foreign { .. } => {
            findings.add(
                Weight::Warning,
                folder,
                "the checkpoint is of another journal: a start reads everything again",
            );
        }
        StoredCheckpoint::Damaged => {
            findings.add(Weight::Warning, folder, "the checkpoint is damaged: a start reads everything again");
        }
        StoredCheckpoint::Missing if survey.files.segments > 0 => {
            findings.add(Weight::Pending, folder, "there is no checkpoint: a start reads everything again");
        }
        StoredCheckpoint::Missing | StoredCheckpoint::Ours(_) => {}
    }
}

/// Adds a fault of a transcript.
pub fn transcript_fault(
    findings: &mut Findings,
    folder: &Path,
    session: &SessionId,
    fault: &transcript::TranscriptFault,
) {
    let what = match fault {
        transcript::TranscriptFault::Foreign { bad, others, first } => format!(
            "{} no message and {others} of another session, the first at byte {}: readers skip them",
            are(*bad, "line"),
            first.start
        ),
        transcript::TranscriptFault::OutOfOrder(lines) => {
            format!("{} out of place and may hide others from readers", are(*lines, "line"))
        }
        transcript::TranscriptFault::Torn(bytes) => format!("its last line is cut off ({bytes} bytes)"),
        transcript::TranscriptFault::Io(e) => format!("it cannot be read: {e}"),
    };
    findings.add(Weight::Damage, folder.join(session.file_name()), what);
}

/// The finding for a transcript that lost a part and has `left` bytes.
pub fn shortened(part: transcript::Part, left: u64) -> (Weight, String) {
    match part {
        transcript::Part::InTheJournal => (
            Weight::Pending,
            format!("it is gone or was cut, {left} bytes are left: a start writes it again from the journal"),
        ),
        transcript::Part::Nowhere => {
            (Weight::Damage, format!("a part of it is gone that the journal no longer has, {left} bytes are left"))
        }
        transcript::Part::KnownToBeGone => {
            (Weight::Warning, "a part of it is gone for good, and pages that reach it say so".to_owned())
        }
    }
}

/// Adds the findings that follow from the transcripts' figures.
pub fn transcript_figures(findings: &mut Findings, folder: &Path, survey: &transcript::TranscriptSurvey) {
    if survey.repeated > 0 {
        let what = match survey.repeated {
            1 => "1 line repeats the one before it: readers skip it".to_owned(),
            lines => format!("{lines} lines repeat the one before them: readers skip them"),
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

/// A number with its noun.
pub fn some(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number with its noun and verb.
pub fn are(count: u64, what: &str) -> String {
    format!("{} {}", some(count, what), if count == 1 { "is" } else { "are" })
}

/// Bytes for people, to one decimal place.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let Some(unit) = (0..4).rev().find(|unit| bytes >> (10 * (unit + 1)) > 0) else { return format!("{bytes} B") };
    let tenths = (u128::from(bytes) * 10) >> (10 * (unit + 1));
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}
