//! The shape of `src/`: imports go down only and in no circle, every file says what it is, no struct holds more than one
//! concern, and nothing unwraps outside tests.
//!
//! The layers stand in DESIGN and at the top of `src/lib.rs`; a new module is entered in [`LAYERS`] first. What a test
//! module does is its own affair and is not looked at.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

#[path = "layers/graph.rs"]
mod graph;
#[path = "layers/tokens.rs"]
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use graph::Graph;

/// From the bottom up. Siblings in L1 do not import each other; elsewhere they may.
const LAYERS: [&[&str]; 5] = [
    &[
        "access",
        "message",
        "backoff",
        "config",
        "descriptors",
        "disk",
        "layout",
        "permit",
        "swap",
        "thread",
        "signals",
        "logging",
        "liveness",
        "metrics",
    ],
    &["journal", "cache", "transcript", "sessions", "store", "responder"],
    &[
        "backup", "chat", "recorder", "history", "import", "listing", "search", "feed", "export", "convert", "front",
        "worker", "janitor", "doctor", "hub",
    ],
    &["server", "api"],
    &["main", "cli", "app", "lib", "systemd"],
];

/// Fields a struct may have: beyond, the state of one concern becomes a struct of its own.
const FIELDS_MAX: usize = 12;

/// Lines of code that `src/` may have; docs/decisions/0028 says what they are for.
const LINES_MAX: usize = 41_350;

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

/// The code of a file as it is counted, with comments blanked and test modules left out, line by line with its number.
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
fn the_file_of_a_module_stands_beside_its_folder() {
    // Cargo would take `tests/support.rs` for a test program.
    let allowed = Path::new("tests/support/mod.rs");
    let (mut open, mut found) = (vec![PathBuf::from("src"), PathBuf::from("tests")], Vec::new());
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => open.push(path),
                false if path.ends_with("mod.rs") && path != allowed => found.push(path),
                false => {}
            }
        }
    }
    assert!(found.is_empty(), "x/mod.rs, instead of x.rs: {found:?}");
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

fn named(path: &Path) -> &str {
    path.strip_prefix("src").unwrap().to_str().unwrap()
}

#[test]
fn no_file_needs_one_that_needs_it() {
    let sources = sources();
    let graph = Graph::read(sources.iter().map(|(path, _, text)| (named(path), text.as_str())));
    assert!(graph.faults.is_empty(), "\n{}", graph.faults.join("\n"));
    let circles = graph.circles();
    let inside: Vec<String> = circles.iter().map(|circle| graph.inside(circle)).collect();
    assert!(circles.is_empty(), "circles:\n{}\n\n{}", circles.join("\n"), inside.join("\n"));
}

/// The name of the type that a line defines for its module.
fn type_name(line: &str) -> Option<String> {
    let item = match line.strip_prefix("pub") {
        Some(public) if public.starts_with('(') => public.split_once(") ")?.1,
        Some(public) => public.trim_start(),
        None => line,
    };
    let (kind, name) = item.split_once(' ')?;
    ["struct", "enum", "union", "trait", "type"].contains(&kind).then(|| first_word(name))
}

#[test]
fn a_type_name_stands_for_one_thing() {
    let mut files = BTreeMap::<String, BTreeSet<String>>::new();
    // A `without.rs` repeats the types of the file that it replaces.
    for (path, _, text) in sources().iter().filter(|(path, ..)| !path.ends_with("without.rs")) {
        for name in code_lines(text).iter().filter_map(|(_, line)| type_name(line)) {
            files.entry(name).or_default().insert(named(path).to_owned());
        }
    }
    assert!(files.len() > 300, "types are found");
    let faults: Vec<_> = files.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(faults.is_empty(), "defined more than once: {faults:#?}");
}

#[test]
fn a_struct_holds_the_state_of_one_concern() {
    let mut large = Vec::new();
    for (path, _, text) in sources() {
        for (name, count) in tokens::fields(&text).into_iter().filter(|(_, count)| *count > FIELDS_MAX) {
            large.push(format!("{} {name} has {count} fields", named(&path)));
        }
    }
    assert!(large.is_empty(), "more than {FIELDS_MAX}: {large:#?}");
}

#[test]
#[allow(clippy::print_stdout, reason = "the count is asked for with --nocapture")]
fn the_code_stays_small_enough_to_be_read() {
    let count = |text: &str| code_lines(text).iter().filter(|(_, line)| !line.trim().is_empty()).count();
    let lines: usize = sources().iter().map(|(_, _, text)| count(text)).sum();
    println!("src/ has {lines} lines of code without tests, comments and blank lines");
    assert!(lines <= LINES_MAX, "{lines} lines of code, more than {LINES_MAX}");
}

/// The edges between these files, `from -> to`.
fn edges(files: &[(&str, &str)]) -> Vec<String> {
    let graph = Graph::read(files.iter().copied());
    assert!(graph.faults.is_empty(), "{:?}", graph.faults);
    graph.edges.iter().flat_map(|(from, to)| to.iter().map(move |to| format!("{from} -> {to}"))).collect()
}

const LIB: (&str, &str) = ("lib.rs", "pub mod a;\npub mod b;\n");

#[test]
fn a_path_counts_to_the_file_that_defines_what_it_names() {
    let b = [
        (
            "b.rs",
            "mod leaf;\nmod other;\npub use leaf::{Leaf, make as made};\npub use other::*;\nconst LIMIT: u8 = 1;\n",
        ),
        ("b/leaf.rs", "pub struct Leaf;\npub enum Kind { Leaf }\npub const fn make() {}\n"),
        ("b/other.rs", "pub trait Other {}\n"),
    ];
    for (a, to) in [
        ("use crate::b::Leaf;", "b/leaf.rs"),
        ("use crate::b::{self};\nfn f(_: b::Leaf) {}", "b/leaf.rs"),
        ("use crate::b as c;\nfn f() { let x: Vec<c::Leaf> = c::made(); }", "b/leaf.rs"),
        ("use super::b::{\n    Other as _,\n};", "b/other.rs"),
        ("fn f() { use crate::b::leaf::Kind::*; }", "b/leaf.rs"),
        ("fn f() -> Vec<crate::b::leaf::Kind> { r#\"\"crate::b::Leaf\"\"#; '\\''; '\"'; &'static str }", "b/leaf.rs"),
        ("/* use crate::b::Other; */\nuse crate::b::LIMIT; // crate::b::Leaf", "b.rs"),
        (
            "pub(crate) use crate::b::Leaf;\npub use crate::b::Other;\nfn f() -> impl Sized { Leaf { x: 1 } }",
            "b/leaf.rs",
        ),
    ] {
        let found = edges(&[&[LIB, ("a.rs", a)], &b[..]].concat());
        assert_eq!(found, [format!("a.rs -> {to}")], "{a}");
    }
    let nowhere = Graph::read([LIB, ("a.rs", "use crate::b::Nothing;"), ("b.rs", "")]);
    assert_eq!(nowhere.faults, ["a.rs: crate::b::Nothing leads nowhere"]);
}

#[test]
fn modules_reexports_tests_and_other_crates_make_no_edge() {
    let b = ("b.rs", "pub struct B;\n");
    for a in [
        "pub use crate::b::B;",
        "pub(super) use crate::b::{B, B as C};\nfn f() { x.b.B; \"B::new()\"; }",
        "use crate::b;",
        "use b::B;\nuse std::b::B as C;\nfn f() { other::b::B }",
        "#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}",
        "#[cfg(test)]\n#[allow(x)]\nuse crate::{b::B};\nstruct A {\n    #[cfg(test)]\n    b: Vec<crate::b::B>,\n}",
        "#[cfg(test)]\npub fn f(b: crate::b::B) -> (u8, u8) { crate::b::B }\nmacro!(($crate::b::B));",
    ] {
        assert_eq!(edges(&[LIB, ("a.rs", a), b]), [""; 0], "{a}");
    }
}

#[test]
fn a_circle_is_told_with_all_its_files_those_of_another_build_too() {
    let circle = [
        ("a.rs", "#[cfg_attr(not(feature = \"x\"), path = \"a/without.rs\")]\nmod real;\npub struct A(real::R);\n"),
        ("a/real.rs", "use super::super::b::B;\npub struct R;\n"),
        ("a/without.rs", "use super::A;\npub struct R;\n"),
        ("b.rs", "mod c;\npub use c::C;\npub struct B;\nfn f() { crate::a::A }\n"),
        ("b/c.rs", "pub struct C(super::B);\n"),
    ];
    let graph = Graph::read([LIB].into_iter().chain(circle));
    assert_eq!(graph.circles(), ["a.rs a/real.rs a/without.rs b.rs"]);
    assert!(graph.inside(&graph.circles()[0]).contains("a.rs needs a/real.rs, a/without.rs\n"));
}

#[test]
fn fields_are_counted_whatever_their_types() {
    let text = "struct A<T: Copy> where T: Send {\n    /// a: b\n    pub a: Vec<std::io::Error>,\n    \
                b: Box<dyn Fn(x: u8) -> u8>,\n    #[cfg(test)]\n    c: u8,\n}\nstruct B(u8);\nstruct C;\n\
                fn f() { let x: u8 = S { a: 1 }; }\nstruct D { d: [u8; 2] }\n";
    let found = tokens::fields(text);
    assert_eq!(found, [("A".to_owned(), 2), ("D".to_owned(), 1)]);
}
