//! What is shipped beside the binary agrees with it and with each other: manual, completions, unit, Debian package, container.
//!
//! Nothing is installed here; scripts/packages/test does that, and tries the completions of other shells.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::server::{BINARY, run, said};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn yaml(name: &str) -> Value {
    serde_yaml::from_str(&text(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The value of an option that has one, any.
const VALUES: [(&str, &str); 12] = [
    ("--config", "config.yaml"),
    ("--listen", "127.0.0.1:0"),
    ("--data", "data"),
    ("--session", "s"),
    ("--role", "user"),
    ("--limit", "1"),
    ("--search", "x"),
    ("--since", "2025-11-28"),
    ("--format", "ndjson"),
    ("--from", "python"),
    ("--as", "s"),
    ("--time", "2025-11-28"),
];

struct Usage {
    commands: BTreeSet<String>,
    options: BTreeSet<String>,
}

/// What `--help` prints.
fn usage() -> Usage {
    let help = said(&run(Command::new(BINARY).arg("--help")));
    let calls = help.lines().filter_map(|line| line.strip_prefix("  chatkeep ")?.split(' ').next());
    let commands: BTreeSet<_> = calls.map(|word| word.trim_matches(['[', ']']).to_owned()).collect();
    let (_, options) = help.split_once("\nOptions:\n").unwrap();
    let (options, _) = options.split_once("\n\n").unwrap();
    let options = long_options(options);
    assert!(commands.len() > 15 && options.len() > 15, "{commands:?} {options:?}");
    Usage { commands, options }
}

/// Every `--word` of a text.
fn long_options(text: &str) -> BTreeSet<String> {
    let is_of_word = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c: char| !is_of_word(c)).map(|word| word.trim_end_matches('-'));
    words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

fn set<'a>(words: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    words.map(str::to_owned).collect()
}

#[test]
fn the_manual_names_every_command_and_option_and_no_others() {
    let usage = usage();
    let manual = text("packaging/chatkeep.1").replace("\\-", "-");
    assert_eq!(long_options(&manual), usage.options);
    let (_, commands) = manual.split_once("\n.SH COMMANDS\n").unwrap();
    let (commands, _) = commands.split_once("\n.SH ").unwrap();
    let headings = commands.split(".TP\n.B").skip(1).map(|rest| {
        let words = rest.trim_start_matches(['I', 'R', ' ']);
        words.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap()
    });
    assert_eq!(set(headings), usage.commands);
}

#[test]
fn the_completions_name_every_command_and_option_and_no_others() {
    let usage = usage();
    let zsh = text("packaging/completions/_chatkeep");
    assert_eq!(long_options(&zsh), usage.options);
    let (_, commands) = zsh.split_once("commands=(\n").unwrap();
    let (commands, _) = commands.split_once("\n    )").unwrap();
    let named = commands.lines().map(|line| line.trim().trim_matches('\'').split(':').next().unwrap());
    assert_eq!(set(named), usage.commands);
    let fish = text("packaging/completions/chatkeep.fish");
    let after = |mark: &'static str| {
        fish.lines().filter_map(move |line| line.split_once(mark)?.1.split(' ').next().map(str::to_owned))
    };
    assert_eq!(after(" -l ").map(|name| format!("--{name}")).collect::<BTreeSet<_>>(), usage.options);
    assert_eq!(after("__fish_use_subcommand -a ").collect::<BTreeSet<_>>(), usage.commands);
    let seen = fish.lines().filter_map(|line| line.split_once("'__fish_seen_subcommand_from ")?.1.split('\'').next());
    let unknown: Vec<_> =
        seen.flat_map(|names| names.split(' ')).filter(|name| !usage.commands.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// What bash offers for the last of the words.
fn bash_offers(words: &[&str]) -> BTreeSet<String> {
    let script =
        r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _chatkeep; printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    bash.args(["-uc", script, "bash"]).arg(root().join("packaging/completions/chatkeep.bash")).args(words);
    let output = run(bash.current_dir(root().join("packaging")));
    assert!(output.status.success(), "{words:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_offers_each_command_just_the_options_that_it_takes() {
    let usage = usage();
    assert_eq!(bash_offers(&["chatkeep", ""]), usage.commands);
    let empty = tempfile::tempdir().unwrap();
    // `help` takes nothing more, whatever it is.
    for command in usage.commands.iter().filter(|command| *command != "help") {
        let takes = |option: &&String| {
            let mut call = Command::new(BINARY);
            call.arg(command).arg(option);
            call.args(VALUES.iter().filter(|(name, _)| name == option).map(|(_, value)| value));
            if command == "resend-to-mongo" && *option != "--since" {
                call.args(["--since", "2025-11-28"]);
            }
            // Most commands take no such words, so that none is carried out; `search` finds no server here.
            let output = run(call.args(["too", "many"]).current_dir(empty.path()));
            !said(&output).contains(" belongs to ")
        };
        let wanted: BTreeSet<_> = usage.options.iter().filter(takes).cloned().collect();
        assert_eq!(bash_offers(&["chatkeep", command, "-"]), wanted, "{command}");
    }
    assert!(fs::read_dir(empty.path()).unwrap().next().is_none(), "nothing was carried out");
}

#[test]
fn bash_offers_values_files_and_folders() {
    let offers = |line: &str| Vec::from_iter(bash_offers(&line.split(' ').collect::<Vec<_>>()));
    for (line, wanted) in [
        ("chatkeep exp", vec!["export"]),
        ("chatkeep --data d st", vec!["status", "stop"]),
        ("chatkeep --data=d exp", vec!["export"]),
        ("chatkeep --data = d exp", vec!["export"]),
        ("chatkeep export --format ", vec!["markdown", "ndjson", "openai"]),
        ("chatkeep export --format =", vec!["markdown", "ndjson", "openai"]),
        ("chatkeep export --format = mark", vec!["markdown"]),
        ("chatkeep import --from chat", vec!["chatgpt", "chatkeep"]),
        ("chatkeep doctor --re", vec!["--repair"]),
        ("chatkeep --config chatkeep", vec!["chatkeep.1"]),
        ("chatkeep import chatkeep", vec!["chatkeep.1"]),
        ("chatkeep backup com", vec!["completions"]),
        ("chatkeep history ", vec![]),
        ("chatkeep history --limit ", vec![]),
        ("chatkeep say -- --", vec![]),
    ] {
        assert_eq!(offers(line), wanted, "{line}");
    }
}

/// The table `package.metadata.deb`.
fn debian_package() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1"]).current_dir(root());
    let output = run(&mut cargo);
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
    metadata["packages"][0]["metadata"]["deb"].clone()
}

#[test]
fn the_paths_of_package_unit_and_image_agree() {
    let package = debian_package();
    let assets: Vec<(&str, &str)> = package["assets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|asset| (asset[0].as_str().unwrap(), asset[1].as_str().unwrap()))
        .collect();
    for (source, _) in assets.iter().filter(|(source, _)| !source.starts_with("target/")) {
        let folder = source.strip_suffix("/*").or_else(|| source.strip_suffix("/*.md")).unwrap_or(source);
        assert!(root().join(folder).exists(), "{source}");
    }
    assert!(
        assets.contains(&("config.yaml", "etc/chatkeep/")) && assets.contains(&("target/release/chatkeep", "usr/bin/"))
    );
    let unit = text("packaging/systemd/chatkeep.service");
    assert!(unit.contains("\nExecStart=chatkeep --config /etc/chatkeep/config.yaml\n"));
    assert!(unit.contains("\nEnvironmentFile=-/etc/chatkeep/env\n"));
    assert!(unit.contains("\nWorkingDirectory=/var/lib/chatkeep\n"));
    let purge = text("packaging/debian/postrm");
    assert!(purge.contains("rm -rf /var/lib/chatkeep/data\n") && purge.contains("rm -f /etc/chatkeep/env\n"));
    let image = text("Dockerfile");
    assert!(image.contains("\nWORKDIR /var/lib/chatkeep\n") && image.contains(" /etc/chatkeep/config.yaml\n"));
}

/// The instructions of the Dockerfile, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = text("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect()
}

#[test]
fn the_image_has_what_is_there_and_runs_without_rights() {
    let all = instructions();
    let ignored = text(".dockerignore");
    let ignored: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('/')).collect();
    let of = |name: &str| all.iter().filter(|(of, _)| of == name).map(|(_, rest)| rest.as_str()).collect::<Vec<_>>();
    for copy in of("COPY").into_iter().filter(|copy| !copy.starts_with("--from=build")) {
        let mut sources: Vec<_> = copy.split(' ').collect();
        sources.pop();
        for source in sources {
            assert!(root().join(source).exists(), "{copy}");
            assert!(!ignored.iter().any(|folder| source.starts_with(folder)), "{copy}");
        }
    }
    // Cargo reads these before it builds.
    for needed in ["Cargo.toml", "Cargo.lock", "build.rs", "src", "tests", "benches", "scripts/licences"] {
        assert!(!ignored.contains(&needed), "{needed}");
    }
    assert_eq!(of("FROM").last(), Some(&"scratch"));
    let user = of("USER")[0].split(':').next().unwrap().parse::<u32>().unwrap();
    assert!(user > 999, "no name: there is no /etc/passwd");
    for command in [
        of("ENTRYPOINT"),
        of("CMD"),
        of("HEALTHCHECK").iter().filter_map(|check| check.split_once("CMD ")).map(|(_, rest)| rest).collect(),
    ] {
        let words: Vec<String> = serde_json::from_str(command[0]).expect("the exec form: there is no shell");
        assert!(!words.is_empty());
    }
}

#[test]
fn the_image_needs_a_token_and_takes_it_from_a_variable_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "t0ken-of-a-file\n").unwrap();
    let check = |variables: &[(&str, &str)]| {
        let mut call = Command::new(BINARY);
        call.arg("check-config").arg("--config").arg(root().join("packaging/container/config.yaml"));
        call.envs(variables.iter().copied()).current_dir(folder.path());
        let output = run(&mut call);
        (output.status.code(), said(&output))
    };
    let (code, told) = check(&[]);
    assert!(code == Some(2) && told.contains("server.listen") && told.contains("set a token"), "{told}");
    for token in [("CHATKEEP_TOKEN", "t0ken"), ("CHATKEEP_TOKEN_FILE", file.to_str().unwrap())] {
        let (code, told) = check(&[token]);
        assert!(code == Some(0) && told.contains("enabled: false"), "{told}");
    }
}

#[test]
fn the_services_of_compose_agree_with_each_other_and_the_image() {
    let compose = yaml("compose.yaml");
    let (server, mongo) = (&compose["services"]["chatkeep"], &compose["services"]["mongo"]);
    let environment = &server["environment"];
    let image = text("packaging/container/config.yaml");
    for (name, _) in environment.as_object().unwrap() {
        let is_default = text("config.yaml").contains(&format!("${{{name}:-"));
        assert!(is_default || image.contains(&format!("${{{name}:-")), "{name}");
    }
    assert!(environment["CHATKEEP_TOKEN"].as_str().unwrap().starts_with("${CHATKEEP_TOKEN:?"), "no default");
    // One name for the set: in the command, where it is initiated, and in the URI.
    let command: Vec<_> = mongo["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let set = command.iter().skip_while(|word| **word != "--replSet").nth(1).unwrap();
    let check = mongo["healthcheck"]["test"].as_array().unwrap().last().unwrap().as_str().unwrap();
    assert!(
        check.contains(&format!("rs.initiate({{_id: \"{set}\", members: [{{_id: 0, host: \"mongo:27017\"}}]}})")),
        "{check}"
    );
    assert_eq!(environment["MONGO_URI"], format!("mongodb://mongo:27017/?replicaSet={set}"));
    let all = instructions();
    let of = |name: &str| all.iter().find(|(of, _)| of == name).map(|(_, rest)| rest.as_str()).unwrap();
    assert_eq!(server["volumes"][0], format!("data:{}", of("VOLUME")));
    assert_eq!(server["ports"][0], format!("127.0.0.1:{0}:{0}", of("EXPOSE")), "on the host's loopback only");
    let grace = server["stop_grace_period"].as_str().unwrap().trim_end_matches('s').parse::<u64>().unwrap();
    let drain = yaml("config.yaml")["server"]["drain_seconds"].as_u64().unwrap();
    assert!(grace > drain + 10);
    for volume in ["data", "mongo"] {
        assert!(compose["volumes"].as_object().unwrap().contains_key(volume), "{volume}");
    }
}
