//! Words that were given up stay given up: one word for one thing, and the field's own where it has one (CONTRIBUTING.md has
//! the glossary).

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// Names of types, functions and fields, with what took their place.
const RETIRED: &[(&str, &str)] = &[
    ("Lobby", "SocketHandler"),
    ("Rooms", "SocketService"),
    ("Guest", "Subscriber"),
    ("Desk", "Services"),
    ("Tray", "Completions"),
    ("Errands", "JobQueue"),
    ("Errand", "a type for each queue"),
    ("Arrivals", "PublishNotifier"),
    ("Onlooker", "the hub is told directly"),
    ("NoTurn", "TurnError"),
    ("Begun", "StartedTurn"),
    ("News", "TurnProgress"),
    ("Occupant", "Holder"),
    ("WaitingRoom", "Semaphore"),
    ("Refusal", "AppendError"),
    ("Dial", "WatchedConnector"),
    ("Offer", "WebSocketOptions"),
    ("Endings", "ExpectedTails"),
    ("distrusted", "suspect"),
    ("settle", "reconcile"),
    ("workshop", "staging"),
    ("let_go", "evicted_through"),
    ("Stay", "generation, Follow"),
    ("tend", "maintain"),
    ("owes_mongo", "mongo_lacks_some"),
    ("room_tests", "subscribers_tests"),
    ("owed_to_mongo", "undelivered_to_mongo"),
    ("erasures_to_repeat", "erasures_to_confirm"),
    ("mark_behind", "mark_stale"),
    ("ForeignErasure", "RemoteErasure"),
    ("ENDINGS_MAX", "EXPECTED_TAILS_MAX"),
    ("clear_workshop", "clear_staging"),
    ("count_apart", "count_orphans"),
    ("recover_apart", "recover_orphans"),
    ("next_stay", "next_generation"),
    ("GLANCE", "…_POLL_INTERVAL"),
    ("SLICE", "…_POLL_INTERVAL"),
    ("PATIENCE", "…_TIMEOUT"),
    ("LINGER", "…_INTERVAL"),
    ("SOON", "…_INTERVAL or …_TIMEOUT"),
];

/// Words that no sentence needs, in any case, and no name made of several words.
const IN_PROSE: &[&str] = &["guest", "lobby", "errand", "tray", "bell", "lane", "owed", "endings"];

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // A script may have no extension.
        let is_text = path.extension().is_none_or(|end| ["rs", "md", "json", "yaml", "sh"].iter().any(|e| end == *e));
        match path.is_dir() {
            true if !path.ends_with("node_modules") => files(&path, into),
            false if is_text && !path.ends_with("tests/words.rs") => into.push(path),
            _ => {}
        }
    }
}

/// A word, and the words that it is made of: `TestLog` is also `Test` and `Log`.
fn parts(word: &str) -> Vec<&str> {
    let starts: Vec<usize> = word.char_indices().filter(|(_, c)| c.is_ascii_uppercase()).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([word.len()]);
    [word].into_iter().chain(starts.iter().zip(ends).map(|(start, end)| &word[*start..end])).collect()
}

fn is_one_of(words: &[&str], word: &str) -> bool {
    let small = word.to_ascii_lowercase();
    words.iter().any(|old| small == *old || small.strip_suffix('s') == Some(old))
}

#[test]
fn no_word_that_was_given_up_is_used() {
    let mut texts = Vec::new();
    for folder in ["src", "tests", "benches", "docs", "scripts"] {
        files(Path::new(folder), &mut texts);
    }
    texts.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "config.yaml"].map(PathBuf::from));
    let mut faults = Vec::new();
    for path in texts {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            for word in line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                let retired = RETIRED.iter().find(|(old, _)| *old == word);
                let is_in_prose = parts(word).iter().any(|part| is_one_of(IN_PROSE, part));
                if let Some((_, new)) = retired {
                    faults.push(format!("{}:{number}: {word}, now: {new}", path.display()));
                } else if is_in_prose {
                    faults.push(format!("{}:{number}: {word}", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The longest name of a test, in characters: it fits on a line of a terminal with what became of it.
const TEST_NAME_MAX: usize = 72;

/// The name of the function that a line defines.
fn function(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("fn ")?.split('(').next()
}

#[test]
fn the_name_of_a_test_is_a_sentence_that_fits_on_a_line() {
    let mut texts = Vec::new();
    for folder in ["src", "tests", "benches"] {
        files(Path::new(folder), &mut texts);
    }
    let (mut names, mut faults) = (0, Vec::new());
    for path in texts.iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        while lines.any(|line| line.trim() == "#[test]") {
            let name =
                lines.by_ref().find_map(function).unwrap_or_else(|| panic!("{}: a test is named", path.display()));
            names += 1;
            if name.len() > TEST_NAME_MAX {
                faults.push(format!("{}: {name} has {} characters", path.display(), name.len()));
            }
        }
    }
    assert!(names > 500, "the tests are found");
    assert!(faults.is_empty(), "longer than {TEST_NAME_MAX}:\n{}", faults.join("\n"));
}
