//! `docs/configuration.md` holds the table of keys, made from `table.rs` and from the comments of the shipped file.
//!
//! The test fails when the file is stale. To make it anew:
//! `CHATKEEP_RENEW_DOCS=1 cargo test --no-default-features --lib config::manual`.

use std::fmt::Write as _;
use std::fs;

use super::table::{ConfigKey, KEYS, KeyKind};

const SHIPPED: &str = include_str!("../../config.yaml");
const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
/// The lines of the manual between which the tables stand.
const BEGIN: &str = "<!-- made from src/config/table.rs and config.yaml: begin -->\n";
const END: &str = "<!-- made from src/config/table.rs and config.yaml: end -->\n";

/// A key as the shipped file has it: its path, its default as it is written there, and its comment as one line.
struct Shipped {
    path: String,
    default: String,
    comment: String,
}

fn shipped() -> Vec<Shipped> {
    let mut found = Vec::new();
    let (mut blocks, mut comment): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for line in SHIPPED.lines() {
        let content = line.trim_start();
        if let Some(words) = content.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        if let Some((name, value)) = content.split_once(':') {
            blocks.truncate((line.len() - content.len()) / 2);
            blocks.push(name);
            if !value.is_empty() {
                let (path, default) = (blocks.join("."), value.trim().to_owned());
                found.push(Shipped { path, default, comment: comment.join(" ") });
            }
        }
        comment.clear();
    }
    found
}

/// What a key takes, in a few words.
fn takes(key: &ConfigKey) -> String {
    match &key.kind {
        KeyKind::Text(_) => "text".to_owned(),
        KeyKind::Path(_) => "path".to_owned(),
        KeyKind::List(_) => "list".to_owned(),
        KeyKind::Blocks(_) => "list of blocks".to_owned(),
        KeyKind::Bool => "`true`, `false`".to_owned(),
        KeyKind::Integer(bounds) => format!("{} to {}", bounds.start(), bounds.end()),
        KeyKind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
    }
}

/// Text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

/// The tables, one for each block of the file.
fn tables() -> String {
    let mut out = String::new();
    let mut block = "";
    for (key, shipped) in KEYS.iter().zip(shipped()) {
        assert_eq!(key.path, shipped.path, "the shipped file has the keys in the order of the table");
        let first = key.path.split('.').next().unwrap();
        if first != block {
            block = first;
            write!(out, "\n## {block}\n\n| key | default | takes | |\n|---|---|---|---|\n").unwrap();
        }
        let secret = if key.redact.is_some() { " Secret: shown redacted." } else { "" };
        let reloads = if key.reloads { " Reloaded." } else { "" };
        let words = cell(&shipped.comment);
        writeln!(out, "| `{}` | `{}` | {} | {words}{secret}{reloads} |", key.path, shipped.default, takes(key))
            .unwrap();
    }
    out.push('\n');
    out
}

#[test]
fn the_manual_has_the_table_of_keys_as_it_is() {
    let manual = fs::read_to_string(MANUAL).unwrap();
    let (head, rest) = manual.split_once(BEGIN).unwrap();
    let (stands, tail) = rest.split_once(END).unwrap();
    let wanted = tables();
    if std::env::var_os("CHATKEEP_RENEW_DOCS").is_some() {
        fs::write(MANUAL, [head, BEGIN, &wanted, END, tail].concat()).unwrap();
    } else {
        assert!(stands == wanted, "docs/configuration.md is stale; the head of {} says how to renew it", file!());
    }
}
