//! The status of a server as lines for people: what `GET /api/storage/status` says, counted and in units.
//!
//! Pure. A field that a server of another version does not send reads as zero or `unknown`.

use serde_json::Value;

use crate::doctor::{size, some};

use super::screen::{number, word};

/// A line for each part of the server, and one for each warning.
pub(super) fn status_lines(status: &Value) -> String {
    let journal = &status["journal"];
    let mut lines = vec![
        ("server", format!("{}, up {}", word(&status["version"]), span(number(&status["uptime_seconds"])))),
        ("mongo", mongo_line(&status["mongo"])),
        ("cache", cache_line(&status["cache"])),
        ("queue", queue_line(&status["queue"])),
        ("journal", journal_line(journal, number(&status["queue"]["pending"]) > 0)),
    ];
    let undelivered = number(&journal["undelivered_to_mongo"]);
    if undelivered > 0 {
        lines.push(("backlog", format!("{} that MongoDB lacks, which is switched off", some(undelivered, "record"))));
    }
    let warnings = status["warnings"].as_array().into_iter().flatten();
    lines.extend(warnings.map(|warning| ("warning", warning_line(&word(warning), status))));
    lines.iter().map(|(label, what)| format!("{label:<9}{what}\n")).collect()
}

fn mongo_line(mongo: &Value) -> String {
    if mongo["enabled"] != true {
        return "disabled".to_owned();
    }
    let hosts: Vec<String> = mongo["hosts"].as_array().into_iter().flatten().map(word).collect();
    let reason = if mongo["reason"].is_string() { format!(": {}", word(&mongo["reason"])) } else { String::new() };
    format!(
        "{} since {}{reason}; {}.{} on {}",
        word(&mongo["status"]),
        word(&mongo["since"]),
        word(&mongo["database"]),
        word(&mongo["chat_collection"]),
        hosts.join(", ")
    )
}

fn cache_line(cache: &Value) -> String {
    format!(
        "{} of {}, {} of {}, up to {} a session; transcripts in {}",
        some(number(&cache["messages"]), "message"),
        some(number(&cache["sessions"]), "session"),
        size(number(&cache["bytes"])),
        size(number(&cache["max_bytes"])),
        number(&cache["max_messages_per_session"]),
        word(&cache["disk_path"]),
    )
}

fn queue_line(queue: &Value) -> String {
    let mut told = match number(&queue["pending"]) {
        0 => "nothing is pending".to_owned(),
        pending => {
            let oldest = queue["oldest_pending_seconds"].as_f64().unwrap_or_default();
            format!("{pending} pending, the oldest for {oldest:.1} s")
        }
    };
    let stored = number(&queue["stored"]) + number(&queue["already_stored"]);
    let (letters, failures, skipped) =
        (number(&queue["dead_letters"]), number(&queue["failures"]), number(&queue["skipped"]));
    for (count, what) in [
        (stored, format!("{stored} stored since the start")),
        (letters, some(letters, "dead letter")),
        (failures, some(failures, "failed call")),
        (skipped, format!("{skipped} skipped")),
    ] {
        if count > 0 {
            told.push_str(&format!(", {what}"));
        }
    }
    told
}

/// Drained records take space in the journal until a checkpoint is stored.
fn journal_line(journal: &Value, is_pending: bool) -> String {
    let undrained = number(&journal["undrained_bytes"]);
    let waiting = match (undrained, is_pending) {
        (1.., false) => format!("{} waiting for the next checkpoint", size(undrained)),
        _ => format!("{} to be drained", size(undrained)),
    };
    format!(
        "{}, fsync {}, {} of {} in {}, {waiting}, records {} to {}",
        word(&journal["status"]),
        word(&journal["fsync"]),
        size(number(&journal["bytes"])),
        size(number(&journal["max_bytes"])),
        some(number(&journal["segments"]), "segment"),
        number(&journal["first_sequence"]),
        number(&journal["last_sequence"]),
    )
}

fn warning_line(warning: &str, status: &Value) -> String {
    let (journal, mongo, transcripts) = (&status["journal"], &status["mongo"], &status["transcripts"]);
    let what = match warning {
        "ids_ahead" => {
            let ahead = span(number(&journal["ids_ahead_seconds"]));
            format!("new messages are dated {ahead} ahead of the clock, which was set back")
        }
        "clock_before_2020" => "set the clock of this machine".to_owned(),
        "journal_full" | "journal_error" => format!("messages are refused: {}", word(&journal["reason"])),
        "damaged_at_start" => "run chatkeep doctor while the server is stopped".to_owned(),
        "stale" => format!("of {}, the journal has more", some(number(&transcripts["stale"]), "transcript")),
        "lost" => format!("a part of {} is gone", some(number(&transcripts["lost"]), "transcript")),
        "first_sweep_due" => {
            let due = word(&transcripts["first_sweep_at"]);
            format!("what is older than mongo.ttl_days is removed for the first time at {due}")
        }
        "ttl_differs" => "documents expire otherwise than mongo.ttl_days says; chatkeep apply-ttl sets them".to_owned(),
        "indexes_made_again" => format!("at {}: was the collection dropped?", word(&mongo["indexes_made_again"])),
        "cannot_share" => word(&mongo["shared_reason"]),
        _ => return warning.to_owned(),
    };
    format!("{warning}: {what}")
}

/// A duration in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_counts_one_thing_as_one_and_tells_what_mongodb_is_owed() {
        let status = |count: u64| {
            status_lines(&json!({
                "cache": {"messages": count, "sessions": count},
                "queue": {"dead_letters": count, "failures": count},
                "journal": {"segments": count, "undelivered_to_mongo": count},
            }))
        };
        let one = status(1);
        for words in
            ["1 message of 1 session,", "1 dead letter, 1 failed call", " in 1 segment,", "1 record that MongoDB lacks"]
        {
            assert!(one.contains(words), "{words} is not in {one}");
        }
        assert!(status(2).contains("2 messages of 2 sessions,") && status(2).contains("2 records that MongoDB lacks"));
        assert!(!status(0).contains("MongoDB lacks"));
    }

    #[test]
    fn a_warning_that_words_help_with_has_words() {
        let status = json!({"warnings": ["disk_low", "ids_ahead"], "journal": {"ids_ahead_seconds": 3700}});
        let lines = status_lines(&status);
        let ahead = "warning  ids_ahead: new messages are dated 1 h 1 min ahead of the clock, which was set back\n";
        assert!(lines.ends_with(&format!("warning  disk_low\n{ahead}")), "{lines}");
    }

    #[test]
    fn what_is_pending_and_what_is_to_be_drained_agree() {
        let lines = |pending: u64| {
            status_lines(&json!({"queue": {"pending": pending}, "journal": {"undrained_bytes": 1 << 20}}))
        };
        assert!(lines(1).contains("1 pending,") && lines(1).contains("1.0 MiB to be drained"));
        let drained = lines(0);
        assert!(drained.contains("nothing is pending") && !drained.contains("to be drained"), "{drained}");
        assert!(drained.contains("1.0 MiB waiting for the next checkpoint"), "{drained}");
    }

    #[test]
    fn spans_and_sizes_are_told_in_their_units() {
        assert_eq!([0, 59, 61, 3661, 90_000].map(span), ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([0, 1023, 1536, 5 << 20, 4 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "4.0 GiB"]);
    }
}
