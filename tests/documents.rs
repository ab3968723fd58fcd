//! The documents hold: every block of commands works with the real binary and prints what is shown, every example of a
//! configuration is one that is taken, every relative link leads somewhere, and README and ARCHITECTURE keep their bounds.
//!
//! A document is played from top to bottom in a folder of its own beside a running server (`documents/play.rs` says what
//! the words behind a fence's `sh` and `yaml` mean). A block `json` or `text` right behind commands is what they print; it
//! is compared without ids, numbers and white space, and `…` stands for anything.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

#[path = "documents/markdown.rs"]
mod markdown;
#[path = "documents/play.rs"]
mod play;
#[path = "documents/services.rs"]
mod services;
#[path = "documents/shape.rs"]
mod shape;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use play::Stage;
use serde_json::Value;
use support::server::{BINARY, run};
use support::socket::Socket;
use support::{Options, Server, WAIT_TIMEOUT, wait_until};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of a folder's Markdown files, relative to the repository.
fn documents_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<_> = names.filter(|name| name.ends_with(".md")).map(|name| format!("{folder}/{name}")).collect();
    found.sort();
    found
}

/// The documents whose commands are run.
fn manuals() -> Vec<String> {
    let mut found = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    found.extend(documents_in("docs"));
    found
}

fn everything() -> Vec<String> {
    let mut found = manuals();
    found.extend(["ARCHITECTURE.md".to_owned(), "CHANGELOG.md".to_owned()]);
    found.extend(documents_in("docs/decisions"));
    found
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What is wrong with a document's blocks, each with its place.
fn faults_of(name: &str) -> Vec<String> {
    let blocks = markdown::blocks(&text(name));
    if !blocks.iter().any(|block| matches!(block.language.as_str(), "sh" | "yaml" | "json" | "bash" | "console")) {
        return Vec::new();
    }
    let mut stage = Stage::new();
    let mut faults = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let next = blocks.get(index + 1);
        let shown = next.filter(|next| next.follows && matches!(next.language.as_str(), "json" | "text"));
        if let Err(fault) = stage.play(block, shown) {
            faults.push(format!("{name}:{}: {fault}", block.line));
        }
    }
    faults
}

#[test]
fn every_command_block_does_what_the_document_shows() {
    let only = std::env::var("CHATKEEP_DOCUMENT").ok();
    let names = manuals().into_iter().filter(|name| only.as_ref().is_none_or(|only| name.ends_with(only.as_str())));
    let running: Vec<_> = names.map(|name| std::thread::spawn(move || faults_of(&name))).collect();
    let faults: Vec<String> = running.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn the_frames_of_a_websocket_are_those_that_are_shown() {
    let server = Server::start(Options::default());
    server.client().chat("verifier", "ping");
    let mut socket = Socket::open(&server, "session_id=verifier");
    let blocks = markdown::blocks(&text("docs/websocket.md"));
    let exchange = blocks.iter().find(|block| block.text.starts_with("< ")).unwrap();
    for line in exchange.text.lines() {
        let (direction, shown) = line.split_once(' ').unwrap();
        let frame: Value = serde_json::from_str(shown).unwrap();
        let came = match (direction, frame["type"].as_str()) {
            (">", _) => {
                socket.send(&frame);
                continue;
            }
            // The client read this frame when it connected.
            (_, Some("status")) => continue,
            (_, Some("system")) => socket.welcome.clone(),
            _ => socket.next(),
        };
        assert_eq!(shape::difference(shown, &came.to_string(), true), None);
    }
}

#[test]
fn a_block_that_stopped_working_is_noticed() {
    let works = |document: &str| {
        let blocks = markdown::blocks(document);
        Stage::new().play(&blocks[0], blocks.get(1)).is_ok()
    };
    assert!(works("```sh\nchatkeep say ping\n```\n```text\npong!\n```\n"));
    assert!(!works("```sh\nchatkeep say ping\n```\n```text\npang!\n```\n"), "other output");
    assert!(!works("```sh\nchatkeep sing ping\n```\n"), "a command that fails");
    assert!(!works("```sh\nchatkeep sing ping | true; exit 0\n```\n"), "a command that fails within a pipe");
    assert!(!works("```sh fails\nchatkeep say ping\n```\n"), "a command that no longer fails");
    assert!(!works("```sh needs=a-rest\nif\n```\n"), "a slip of syntax in what is not run");
    assert!(!works("```sh sometimes\ntrue\n```\n") && !works("```bash\ntrue\n```\n"), "a block that nobody would run");
    assert!(!works("```yaml\nserver: {lisen: x}\n```\n"), "a key that is gone");
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut faults = Vec::new();
    for name in everything() {
        let folder = root().join(&name).parent().unwrap().to_path_buf();
        for link in markdown::links(&text(&name)) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target: PathBuf = if file.is_empty() { root().join(&name) } else { folder.join(file) };
            let there = target.exists()
                && anchor.is_none_or(|anchor| {
                    markdown::anchors(&fs::read_to_string(&target).unwrap()).iter().any(|found| found == anchor)
                });
            if !there {
                faults.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(faults.is_empty(), "links that lead nowhere:\n{}", faults.join("\n"));
}

/// Whether what stands in backquotes is a path, from the repository or from `src/`.
fn is_path(code: &str) -> bool {
    let folders = ["src/", "tests/", "scripts/", "benches/", "docs/"];
    let is_ours = folders.iter().any(|folder| code.starts_with(folder)) && !code.contains([' ', '*']);
    is_ours || (code.contains('/') && code.ends_with(".rs"))
}

#[test]
fn every_file_that_is_named_is_there() {
    let mut faults = Vec::new();
    for name in everything().iter().filter(|name| *name != "CHANGELOG.md") {
        for path in markdown::codes(&text(name)).into_iter().filter(|code| is_path(code)) {
            if !root().join(path).exists() && !root().join("src").join(path).exists() {
                faults.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(faults.is_empty(), "files that are not there:\n{}", faults.join("\n"));
}

/// The paths of a JSON object, with dots between.
fn paths(prefix: &str, value: &Value, found: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{prefix}{key}");
        paths(&format!("{path}."), value, found);
        found.insert(path);
    }
}

#[test]
fn every_key_and_every_field_of_the_status_that_is_named_is_there() {
    let server = Server::start(Options::default());
    let mut known = BTreeSet::new();
    paths("", &server.client().get("/api/storage/status").expect(200), &mut known);
    let configuration = run(Command::new(BINARY).arg("check-config").current_dir(server.folder()));
    paths("", &serde_yaml::from_slice(&configuration.stdout).unwrap(), &mut known);
    let blocks: BTreeSet<_> = known.iter().filter(|path| !path.contains('.')).cloned().collect();
    let mut faults = Vec::new();
    for name in everything().iter().filter(|name| *name != "CHANGELOG.md") {
        for code in markdown::codes(&text(name)) {
            let word = code.split([':', ' ']).next().unwrap();
            let is_ours = word.split_once('.').is_some_and(|(block, _)| blocks.contains(block));
            if is_ours && !word.ends_with(".rs") && !known.contains(word) {
                faults.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(faults.is_empty(), "neither keys nor fields of the status:\n{}", faults.join("\n"));
}

#[test]
fn every_document_is_reached_from_the_readme() {
    let mut reached = BTreeSet::new();
    let mut open = vec![PathBuf::from("README.md")];
    while let Some(name) = open.pop() {
        if !reached.insert(name.clone()) || name.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for link in markdown::links(&text(name.to_str().unwrap())) {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") {
                let target = root().join(&name).parent().unwrap().join(file).canonicalize().unwrap();
                open.push(target.strip_prefix(root().canonicalize().unwrap()).unwrap().to_path_buf());
            }
        }
    }
    let missing: Vec<_> = everything().into_iter().filter(|name| !reached.contains(Path::new(name))).collect();
    assert!(missing.is_empty(), "nothing leads to {missing:?}");
}

#[test]
fn the_readme_and_the_architecture_stay_short() {
    for (name, words_max, lines_max) in [("README.md", 1300, 150), ("ARCHITECTURE.md", 1500, usize::MAX)] {
        let text = text(name);
        let (words, lines) = (text.split_whitespace().count(), text.lines().count());
        assert!(words <= words_max, "{name} has {words} words; {words_max} are enough");
        assert!(lines <= lines_max, "{name} has {lines} lines; {lines_max} are enough");
    }
}

#[test]
fn a_difference_from_what_is_shown_is_noticed() {
    let json = |shown, printed| shape::difference(shown, printed, true).is_none();
    assert!(json(r#"{"a":1,"b":"x 12"}"#, r#"{"b":"x 7","a":2}"#));
    assert!(!json(r#"{"a":1}"#, r#"{"a":1,"b":2}"#), "a key that is not shown");
    assert!(!json(r#"{"a":1,"b":2}"#, r#"{"a":1}"#), "a key that is gone");
    assert!(!json(r#"{"a":"completed"}"#, r#"{"a":"failed"}"#));
    assert!(!json(r#"{"a":1}"#, "") && !json("", r#"{"a":1}"#));
    assert!(json("1\n…", "1 2 3") && !json("1", "1 2 3"));
    let text = |shown, printed| shape::difference(shown, printed, false).is_none();
    assert!(text("place 3f0a51c2b77d9e04-1f", "place 11115555aaaa0000-7"));
    assert!(text(
        "id 01a20601-93d2-72c9-821c-1e21069f654f  at 12 s",
        "id 01a2147c-96c0-71e8-8d68-e38eb7ed22c8 at 3 s\n"
    ));
    assert!(text("a … z", "a b c z") && text("a\n…", "a\nb\n") && !text("a", "a b") && !text("b", "a b"));
}

/// The codes of problems that the sources make, each with its status.
fn problem_codes(folder: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            problem_codes(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("testing.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for (start, status) in
                [("Problem::new(", None), ("unavailable(\"", Some("503")), ("refused(\"", Some("503"))]
            {
                for (_, rest) in code.match_indices(start).map(|(at, _)| code.split_at(at + start.len())) {
                    let words: Vec<&str> = rest.splitn(4, [',', '"']).map(str::trim).collect();
                    match (status, words.as_slice()) {
                        (Some(status), [word, ..]) => found.insert((status.to_owned(), (*word).to_owned())),
                        (None, [status, "", word, ..]) if status.parse::<u16>().is_ok() => {
                            found.insert(((*status).to_owned(), (*word).to_owned()))
                        }
                        _ => false,
                    };
                }
            }
        }
    }
}

#[test]
fn the_description_of_the_api_names_every_error_and_close_code() {
    let document: Value = serde_json::from_str(&text("src/api/openapi.json")).unwrap();
    let mut codes = BTreeSet::new();
    problem_codes(&root().join("src/api"), &mut codes);
    problem_codes(&root().join("src/server"), &mut codes);
    assert!(codes.len() > 30, "{codes:?}");
    let socket = &document["paths"]["/ws/chat"]["get"];
    let frames = socket["description"].as_str().unwrap();
    let mut all: Vec<(&String, &Value)> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| {
            let methods = path.as_object().unwrap().values().filter_map(|method| method["responses"].as_object());
            methods.flatten().collect::<Vec<_>>()
        })
        .collect();
    all.sort_by_key(|(status, _)| status.as_str());
    let told = |status: &str, code: &str| {
        let code = format!("`{code}`");
        frames.contains(&code)
            || all.iter().filter(|(of, _)| *of == status).any(|(_, response)| {
                let named = response["$ref"].as_str().and_then(|name| document.pointer(&name[1..])).unwrap_or(response);
                named["description"].as_str().unwrap().contains(&code)
            })
    };
    let missing: Vec<_> = codes.iter().filter(|(status, code)| !told(status, code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let manual = text("docs/websocket.md");
    let (_, closes) = manual.split_once("## Close codes").unwrap();
    for code in markdown_codes(closes) {
        assert!(frames.contains(&code), "{code} is not in the description of /ws/chat");
    }
    assert!(frames.contains("`erased` (session_id, erasure_id)"));
    let feed = document["paths"]["/api/chat/feed"]["get"]["description"].as_str().unwrap();
    assert!(feed.contains(&format!(" {} KiB,", chatkeep::feed::PAGE_BYTES_MAX >> 10)), "{feed}");
    for (path, status) in [("/api/chat/feed", "410"), ("/api/chat/feed", "422"), ("/ws/chat", "426")] {
        assert!(document["paths"][path]["get"]["responses"][status].is_object(), "{path} {status}");
    }
}

#[test]
fn every_error_code_in_the_manual_is_one_that_the_api_describes() {
    let document = text("src/api/openapi.json");
    let manual = text("docs/http-api.md");
    let (_, errors) = manual.split_once("## Errors").unwrap();
    let (errors, _) = errors.split_once("## Limits").unwrap();
    let is_code = |word: &&str| word.contains('_') && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let codes: Vec<_> = markdown::codes(errors).into_iter().filter(is_code).collect();
    assert!(codes.len() >= 2, "{codes:?}");
    let unknown: Vec<_> = codes.iter().filter(|code| !document.contains(&format!("`{code}`"))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn an_idle_server_has_as_many_threads_as_the_manual_says() {
    let server = Server::start(Options::default());
    let manual = text("docs/operations.md");
    let (_, rest) = manual.split_once("* **Threads**: ").unwrap();
    let said: usize = rest.split(' ').next().unwrap().parse().unwrap();
    wait_until(&format!("it has {said} threads"), WAIT_TIMEOUT, || {
        fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count() == said
    });
}

/// The numbers at the beginning of the rows of a table.
fn markdown_codes(table: &str) -> Vec<String> {
    let firsts = table.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let codes = firsts.flat_map(|first| first.split(", ").map(str::trim));
    let found: Vec<_> = codes.filter(|code| code.parse::<u16>().is_ok()).map(str::to_owned).collect();
    assert!(found.len() > 5, "{found:?}");
    found
}

#[test]
fn the_benchmark_has_a_row_for_every_goal() {
    let listed = run(Command::new(root().join("scripts/bench")).arg("--list"));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let has_row = |goal: &u32| listed.lines().any(|line| line.starts_with(&format!("P{goal} ")));
    let missing: Vec<_> = (1..=16).filter(|goal| !has_row(goal)).collect();
    assert!(missing.is_empty(), "{missing:?} of {listed}");
}

#[test]
fn a_browser_is_told_what_can_send_a_token() {
    for (name, words) in [
        ("docs/feed.md", ["`EventSource`", "`fetch`", "WebSocket", "subprotocol"]),
        ("docs/websocket.md", ["`EventSource`", "`fetch`", "feed.md#a-stream", "subprotocol"]),
    ] {
        let text = text(name);
        assert!(words.iter().all(|word| text.contains(word)), "{name}: {words:?}");
    }
}
