//! The report in words: a few aligned lines if all is well, one more line for each fault; and the same facts as one
//! JSON object.
//!
//! Plain text without colours. The content of files is never quoted, only its place.

use serde_json::{Value, json};

use crate::journal::survey as journal;
use crate::journal::{Checkpoint, StoredCheckpoint};
use crate::message::Timestamp;
use crate::transcript::survey as transcript;

use super::examine::Report;
use super::findings::{Finding, Weight};
use super::words::{size, some};

impl Report {
    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let done = self.done.iter().flatten().map(|done| ("repaired", done.clone()));
        let lines = self.facts().into_iter().chain(self.faults()).chain(done);
        let lines: String = lines.map(|(label, what)| format!("{label:<13}{what}\n")).collect();
        format!("{lines}{}\n", self.verdict())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let none = || "none".to_owned();
        let mut facts = vec![
            ("data", self.place.data.display().to_string()),
            ("journal", self.journal.as_ref().map_or_else(none, in_words)),
        ];
        if let Some(journal) = &self.journal {
            facts.push(("checkpoint", checkpoint(journal, self.now)));
            if journal.records.keys > 0 {
                facts.push(("keys", some(journal.records.keys, "idempotency key")));
            }
        }
        let transcripts = |found: transcript::TranscriptSurvey| {
            format!("{}, {}, {}", some(found.files, "file"), size(found.bytes), some(found.messages, "message"))
        };
        facts.push(("transcripts", self.transcripts.map_or_else(none, transcripts)));
        let environment = &self.environment;
        for (name, files) in
            [("journal", environment.journal_quarantine), ("transcripts", environment.transcripts_quarantine)]
        {
            if files.count > 0 {
                let files = format!("{}, {}, set aside from the {name}", some(files.count, "file"), size(files.bytes));
                facts.push(("quarantine", files));
            }
        }
        if environment.recovered > 0 {
            let path = self.place.recovered();
            let what = format!("{}, one a line, in {}", some(environment.recovered, "message"), path.display());
            facts.push(("recovered", what));
        }
        facts.extend(environment.dead_letters.map(|letters| ("dead letters", some(letters, "message"))));
        facts.extend(environment.free_bytes.map(|free| ("disk", format!("{} free", size(free)))));
        facts
    }

    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults: Vec<_> = self
            .in_order()
            .into_iter()
            .map(|finding| {
                let label = match finding.weight {
                    Weight::Damage => "DAMAGED",
                    Weight::Pending => "pending",
                    Weight::Warning => "warning",
                };
                (label, format!("{}: {}", finding.place, finding.what))
            })
            .collect();
        for weight in [Weight::Damage, Weight::Pending, Weight::Warning] {
            let more = self.findings.unlisted(weight);
            if more > 0 {
                faults.push(("", format!("and {more} more like these")));
            }
        }
        faults
    }

    fn in_order(&self) -> Vec<&Finding> {
        let mut findings: Vec<&Finding> = self.findings.listed.iter().collect();
        findings.sort_by_key(|finding| finding.weight);
        findings
    }

    /// The result in one sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        let nothing_done = self.done.as_ref().is_some_and(Vec::is_empty);
        let repaired = if nothing_done { "There was nothing to repair. " } else { "" };
        let pending = self.findings.count(Weight::Pending);
        match (self.damage(), pending) {
            (0, 0) => format!("{repaired}Nothing is damaged."),
            (0, _) => format!("{repaired}Nothing is damaged; the next start does what is pending."),
            (damage, _) => format!("{repaired}Damaged or unreadable: {}.", some(damage, "thing")),
        }
    }

    /// For scripts (`doctor --json`): the same facts as one object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let verdict = match (self.damage(), self.findings.count(Weight::Pending)) {
            (0, 0) => "intact",
            (0, _) => "pending",
            _ => "damaged",
        };
        let count = |weight| self.findings.count(weight);
        let environment = &self.environment;
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
                "lacking_put_back_by_a_start": self.compared.stale,
                "lacking_put_back_by_repair": self.compared.lost,
                "differing": self.compared.differing,
            })),
            "quarantine": {
                "journal": environment.journal_quarantine,
                "transcripts": environment.transcripts_quarantine,
                "messages_nowhere_else": self.orphans,
            },
            "recovered": environment.recovered,
            "dead_letters": environment.dead_letters,
            "disk": { "free_bytes": environment.free_bytes, "low": environment.low },
            "open_to_others": environment.open_to_others,
            "findings": self.in_order(),
            "repaired": self.done,
        })
    }
}

fn journal_json(survey: &journal::JournalSurvey, now: Timestamp) -> Value {
    let (state, drained, transcribed) = match survey.checkpoint {
        StoredCheckpoint::Missing => ("missing", None, None),
        StoredCheckpoint::Damaged => ("damaged", None, None),
        StoredCheckpoint::Foreign { .. } => ("foreign", None, None),
        StoredCheckpoint::Ours(Checkpoint { drained, transcribed, .. }) => ("ok", Some(drained), Some(transcribed)),
    };
    json!({
        "segments": survey.files.segments,
        "bytes": survey.files.bytes,
        "first_sequence": survey.first_sequence,
        "last_sequence": survey.last_sequence,
        "messages": survey.records.messages,
        "imported": survey.records.imported,
        "context_clears": survey.records.context_clears,
        "erasures": survey.records.erasures,
        "aborts": survey.records.aborts,
        "scrubbed": survey.records.scrubbed,
        "refused": survey.records.refused,
        "keys": survey.records.keys,
        "tail_bytes": survey.findings.tail_bytes,
        "torn_records": survey.torn,
        "leftovers": survey.files.leftovers,
        "digests": survey.digests,
        "checkpoint": { "state": state, "drained": drained, "transcribed": transcribed },
        "pending": survey.pending,
        "oldest_pending_seconds": survey.oldest_pending.map(|oldest| seconds(oldest, now)),
    })
}

fn in_words(survey: &journal::JournalSurvey) -> String {
    let mut text = format!(
        "{}, {}, records {} to {}: {}",
        some(survey.files.segments as u64, "segment"),
        size(survey.files.bytes),
        survey.first_sequence,
        survey.last_sequence,
        some(survey.records.messages, "message")
    );
    for (count, what) in [
        (survey.records.imported, "imported message"),
        (survey.records.context_clears, "context-clear"),
        (survey.records.erasures, "erasure"),
        (survey.records.aborts, "abort"),
        (survey.records.scrubbed, "scrubbed message"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {}", some(count, what)));
        }
    }
    if survey.records.refused > 0 {
        text.push_str(&format!(", {} refused", survey.records.refused));
    }
    text
}

fn checkpoint(survey: &journal::JournalSurvey, now: Timestamp) -> String {
    let at = match survey.checkpoint {
        StoredCheckpoint::Missing => "none".to_owned(),
        StoredCheckpoint::Damaged => "damaged".to_owned(),
        StoredCheckpoint::Foreign { .. } => "of another journal".to_owned(),
        StoredCheckpoint::Ours(checkpoint) => format!("everything up to record {} has arrived", checkpoint.drained),
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
