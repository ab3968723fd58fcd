//! What the runbook names exists: alerts, metrics, warnings, fields of the status, keys of the configuration, and the lines of
//! the log, which it quotes with an ellipsis or a capital in place of what varies.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

#[allow(dead_code, reason = "another test program uses the rest")]
#[path = "documents/markdown.rs"]
mod markdown;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chatkeep::metrics::{FamilyKind, family};
use serde_json::Value;

const MANUALS: [&str; 2] = ["docs/runbook.md", "docs/operations.md"];

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The words of a text that begin so, of letters, digits and underscores.
fn words<'a>(text: &'a str, begins: &str) -> BTreeSet<&'a str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with(begins) && word.len() > begins.len()).collect()
}

fn status() -> Value {
    let document: Value = serde_json::from_str(&text("src/api/openapi.json")).unwrap();
    document["components"]["schemas"]["Status"]["properties"].clone()
}

#[test]
fn every_alert_has_its_row_and_no_other_is_named() {
    let rules = text("packaging/prometheus/chatkeep.rules.yml");
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let runbook = text("docs/runbook.md");
    let rows = runbook.lines().filter(|line| line.starts_with('|') && line.contains("](")).collect::<String>();
    assert_eq!(words(&rows, "Chatkeep"), alerts);
    for name in MANUALS {
        assert!(words(&text(name), "Chatkeep").is_subset(&alerts), "{name}");
    }
}

#[test]
fn every_warning_has_its_row() {
    let kinds = status()["warnings"]["items"]["enum"].clone();
    let runbook = text("docs/runbook.md");
    let (table, _) = runbook.split_once("\n## ").unwrap();
    let missing: Vec<_> = kinds
        .as_array()
        .unwrap()
        .iter()
        .filter(|kind| !table.contains(&format!("`{}`", kind.as_str().unwrap())))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_metric_exists() {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for family in family::ALL {
        names.insert(family.name.to_owned());
        if family.kind == FamilyKind::Histogram {
            names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", family.name)));
        }
    }
    for name in MANUALS {
        let text = text(name);
        let named = &words(&text, "chatkeep_") | &words(&text, "process_");
        let unknown: Vec<_> = named.into_iter().filter(|word| !names.contains(*word)).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

/// The keys of the configuration and the fields of the status, each with its block.
fn known_paths() -> BTreeSet<String> {
    let manual = text("docs/configuration.md");
    let keys = manual.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut known: BTreeSet<String> = keys.map(str::to_owned).collect();
    for (block, fields) in status().as_object().unwrap() {
        for field in fields["properties"].as_object().into_iter().flatten() {
            known.insert(format!("{block}.{}", field.0));
        }
    }
    known
}

#[test]
fn every_field_of_the_status_and_every_key_exists() {
    let known = known_paths();
    let blocks: BTreeSet<&str> = known.iter().filter_map(|path| path.split('.').next()).collect();
    for name in MANUALS {
        let text = text(name);
        let is_path = |code: &&str| {
            let path = code.split(':').next().unwrap();
            let is_name = path.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'.'));
            is_name && path.split_once('.').is_some_and(|(block, _)| blocks.contains(block))
        };
        let named: Vec<&str> = markdown::codes(&text).into_iter().filter(is_path).collect();
        assert!(named.len() > 10, "{name}: {named:?}");
        let unknown: Vec<_> = named.iter().filter(|code| !known.contains(code.split(':').next().unwrap())).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}

/// All sources as one text, with texts over several lines as one line.
fn sources() -> String {
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut all = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                all.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let lines = all.split("\\\n").enumerate().map(|(n, part)| if n == 0 { part } else { part.trim_start() });
    lines.collect()
}

/// The parts of a quoted line that do not vary: what stands between ellipses and capitals, and has several words.
fn fixed_parts(quoted: &str) -> Vec<String> {
    let is_number = |word: &str| matches!(word.trim_matches(|c: char| c.is_ascii_punctuation()), "N" | "M");
    let varies = |word: &str| word.contains('…') || is_number(word);
    let mut parts = vec![String::new()];
    for word in quoted.split(' ') {
        match varies(word) {
            true => parts.push(String::new()),
            false => {
                let part = parts.last_mut().unwrap();
                part.push_str(if part.is_empty() { "" } else { " " });
                part.push_str(word);
            }
        }
    }
    parts.into_iter().filter(|part| part.split(' ').count() > 1).collect()
}

#[test]
fn every_line_of_the_log_that_is_quoted_is_one_that_is_written() {
    let (sources, runbook) = (sources(), text("docs/runbook.md"));
    let quoted = markdown::codes(&runbook).into_iter().filter(|code| code.contains('…') && code.contains(' '));
    let parts: Vec<String> = quoted.flat_map(fixed_parts).collect();
    assert!(parts.len() > 20, "{parts:#?}");
    let unknown: Vec<_> = parts.iter().filter(|part| !sources.contains(*part)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(!sources.contains(&fixed_parts("the disk of … is nearly empty: N MiB are free")[1]), "it can fail");
}
