//! The shape of `src/`: imports go down only, every file says what it is, and nothing unwraps outside tests.
//!
//! The layers stand in DESIGN and at the top of `src/lib.rs`; a new module is entered in [`LAYERS`] first. What a test
//! module does is its own affair and is not looked at.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. Siblings in L1 do not import each other; elsewhere they may.
const LAYERS: [&[&str]; 5] = [
    &["message", "config", "descriptors", "disk", "thread", "signals", "logging"],
    &["journal", "cache", "transcript", "store", "responder", "metrics"],
    &["chat", "recorder", "history", "feed", "worker", "janitor", "doctor", "hub"],
    &["server", "api"],
    &["main", "cli", "app", "lib"],
];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Whether `from` may import `to`, both named by their top module.
fn may_import(from: &str, to: &str) -> bool {
    match (layer_of(from), layer_of(to)) {
        (Some(from_layer), Some(to_layer)) if from_layer == to_layer => from == to || from_layer != 1,
        (Some(from_layer), Some(to_layer)) => to_layer < from_layer,
        _ => false,
    }
}

/// The code of a file with comments blanked and test modules left out, line by line with its number.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut skip_until: Option<String> = None;
    let mut after_test_mark = false;
    for (number, line) in text.lines().enumerate() {
        if let Some(end) = &skip_until {
            if line == end {
                skip_until = None;
            }
            continue;
        }
        let trimmed = line.trim_start();
        let indent = &line[..line.len() - trimmed.len()];
        if trimmed.starts_with("#[cfg(test)]") {
            after_test_mark = true;
            continue;
        }
        if after_test_mark && !trimmed.starts_with('#') {
            after_test_mark = false;
            if trimmed.ends_with('{') {
                skip_until = Some(format!("{indent}}}"));
            }
            continue;
        }
        if !trimmed.starts_with("//") {
            lines.push((number + 1, line.to_owned()));
        }
    }
    lines
}

/// Every top module named after `crate::`, also in groups over several lines.
fn imports(code: &[(usize, String)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, (number, line)) in code.iter().enumerate() {
        for (from, mark) in line.match_indices("crate::") {
            if line[..from].ends_with('$') {
                continue;
            }
            let rest = &line[from + mark.len()..];
            if !rest.starts_with('{') {
                found.push((*number, first_word(rest)));
                continue;
            }
            let joined: String = code[at + 1..].iter().map(|(_, l)| l.trim()).collect();
            for name in top_of_group(&format!("{rest}{joined}")) {
                found.push((*number, name));
            }
        }
    }
    found.retain(|(_, name)| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first words of a `{a, b::c, d::{e, f}}`, of its own level only.
fn top_of_group(text: &str) -> Vec<String> {
    let (mut names, mut depth, mut word) = (Vec::new(), 0, String::new());
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 1 && c != ',' => word.push(c),
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            let name = first_word(word.trim());
            if !name.is_empty() {
                names.push(name);
            }
            word.clear();
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Whether a file or folder of that name is the tests' own.
fn is_test_name(name: &std::ffi::OsStr) -> bool {
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    ["tests", "testing", "sim"].contains(&&*stem) || stem.ends_with("_tests")
}

/// The files below `src`, tests' own files left out, each with its top module.
fn sources() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let inner = path.strip_prefix(&root).unwrap().to_owned();
            let is_test = inner.iter().any(is_test_name);
            if is_test || path.extension().is_none_or(|e| e != "rs") {
                continue;
            }
            let top = inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            found.push((Path::new("src").join(inner), top, text));
        }
    }
    found.sort();
    assert!(found.len() >= 3, "src is found");
    found
}

#[test]
fn imports_go_down_only() {
    let mut faults = Vec::new();
    for (path, module, text) in sources() {
        if layer_of(&module).is_none() {
            faults.push(format!("{}: the module {module} stands in no layer of tests/layers.rs", path.display()));
            continue;
        }
        for (line, imported) in imports(&code_lines(&text)) {
            if !may_import(&module, &imported) {
                faults.push(format!("{}:{line}: {module} may not import {imported}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_source_file_opens_with_what_it_is() {
    let bare: Vec<_> = sources().into_iter().filter(|(_, _, t)| !t.starts_with("//! ")).map(|(p, _, _)| p).collect();
    assert!(bare.is_empty(), "no //! at the top: {bare:?}");
}

#[test]
fn nothing_unwraps_outside_tests() {
    let mut faults = Vec::new();
    for (path, _, text) in sources() {
        for (line, code) in code_lines(&text) {
            if code.contains(".unwrap()") {
                faults.push(format!("{}:{line}: {}", path.display(), code.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_groups_paths_and_no_comments_or_tests() {
    let text = "//! crate::doc\nuse crate::config::Config;\nuse crate::{\n    cache::{self, Cache},\n    message,\n};\n\
                fn f() -> crate::journal::Ticket {}\n// use crate::worker;\n    $crate::hub!();\n#[cfg(test)]\nmod tests {\n    \
                use crate::app;\n}\nuse crate::chat;\n";
    let found: Vec<String> = imports(&code_lines(text)).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["config", "cache", "message", "journal", "chat"]);
    assert!(may_import("app", "journal") && may_import("server", "api") && may_import("journal", "config"));
    assert!(!may_import("journal", "cache") && !may_import("cache", "chat") && !may_import("chat", "api"));
    assert!(!may_import("config", "unheard_of"));
}
