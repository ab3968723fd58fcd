//! The real binary's face: what it prints, on which stream, and what it exits with.

// Clippy allows `unwrap` in functions marked `#[test]` only, and not in their helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Output, Stdio};

use support::server::run;
use support::{Limit, Options, Server};
use tempfile::TempDir;

fn chatkeep(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatkeep"));
    command.current_dir(folder.path()).env_clear().stdin(Stdio::null());
    command
}

fn ran(folder: &TempDir, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = run(chatkeep(folder).args(args));
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_and_version_go_to_stdout_with_exit_code_0() {
    for (args, begins) in [(["help"], "chatkeep keeps"), (["--help"], "chatkeep keeps"), (["--version"], "chatkeep 0.")]
    {
        let (code, out, err) = ran(&folder(), &args);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.starts_with(begins), "{out}");
    }
}

#[test]
fn a_slip_on_the_command_line_is_one_line_with_exit_code_2() {
    let (code, out, err) = ran(&folder(), &["chekc-config"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert_eq!(err, "error: unknown command `chekc-config`; did you mean check-config?\n");
    let (code, _, err) = ran(&folder(), &["a\nerror: b\x1b[31m"]);
    assert_eq!(code, Some(2));
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(!err.contains('\x1b'), "{err}");
}

#[test]
fn check_config_prints_what_is_in_effect_without_secrets() {
    let folder = folder();
    let (code, out, err) = ran(&folder, &["check-config"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.starts_with("# In effect, from the built-in defaults.\nserver:\n  listen: \"127.0.0.1:8000\"\n"),
        "{out}"
    );

    fs::write(folder.path().join("config.yaml"), "server: {auth_token: \"${TOKEN}\"}\n").unwrap();
    let args = ["check-config", "--data", "/srv/d", "--listen", "[::]:0"];
    let Output { status, stdout, stderr } = run(chatkeep(&folder).args(args).env("TOKEN", "hunter2"));
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!((status.code(), err.as_str()), (Some(0), ""));
    assert!(out.starts_with("# In effect, from config.yaml.\n"), "{out}");
    assert!(out.contains("listen: \"[::]:0\"\n") && out.contains("path: \"/srv/d/journal\"\n"), "{out}");
    assert!(out.contains("auth_token: \"[redacted]\"\n") && !out.contains("hunter2"), "{out}");
}

#[test]
fn every_fault_of_a_config_is_a_line_with_the_file_and_exit_code_2() {
    let folder = folder();
    fs::write(folder.path().join("a.yaml"), "server: {lisen: x, max_connections: 0, auth_token: \"${T}\"}\n").unwrap();
    for command in ["check-config", "serve"] {
        let (code, out, err) = ran(&folder, &[command, "--config", "a.yaml", "--listen", "nowhere"]);
        assert_eq!((code, out.as_str()), (Some(2), ""));
        let lines: Vec<&str> = err.lines().collect();
        assert_eq!(lines[0], "error: a.yaml: server.lisen: unknown key; did you mean server.listen?");
        assert_eq!(lines[1], "error: --listen: \"nowhere\": must be HOST:PORT ([HOST]:PORT for IPv6)");
        assert_eq!(lines[2], "error: a.yaml: server.auth_token: ${T} is not set: set it, or write ${T:-default}");
        assert_eq!(lines[3], "error: a.yaml: server.max_connections: 0: must be a whole number from 1 to 100000");
        assert_eq!(lines.len(), 4);
    }
}

#[test]
fn a_named_config_must_be_readable_and_the_default_may_be_missing() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("latin1.yaml"), b"log:\n  level: \xe4\n").unwrap();
    fs::write(at("large.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    for (name, why) in [
        ("gone.yaml", "there is no such file"),
        (".", "Is a directory"),
        ("latin1.yaml", "byte 15 is not UTF-8 text"),
        ("large.yaml", "it is larger than 1048576 bytes"),
    ] {
        let (code, _, err) = ran(&folder, &["check-config", "--config", name]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.starts_with(&format!("error: cannot read the config file {name}: {why}")), "{err}");
    }
    // A broken link or a folder under the default name is an error, not a missing file.
    std::os::unix::fs::symlink("gone.yaml", at("config.yaml")).unwrap();
    assert_eq!(ran(&folder, &["check-config"]).0, Some(2));
    fs::remove_file(at("config.yaml")).unwrap();
    fs::create_dir(at("config.yaml")).unwrap();
    assert_eq!(ran(&folder, &["check-config"]).0, Some(2));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault_and_a_full_disk_is_one() {
    let folder = folder();
    let mut child =
        chatkeep(&folder).arg("check-config").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _limit = Limit::on(&child);
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));

    let full = File::options().write(true).open("/dev/full").unwrap();
    let child = chatkeep(&folder).arg("check-config").stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let _limit = Limit::on(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: cannot write to stdout: "));
}

#[test]
fn a_release_is_built_with_the_commit_of_its_own_repository() {
    let folder = folder();
    let (script, package) = (folder.path().join("build"), folder.path().join("package"));
    fs::create_dir(&package).unwrap();
    let source = folder.path().join("build.rs");
    let module = concat!("#[path = \"", env!("CARGO_MANIFEST_DIR"), "/build/commit.rs\"]");
    fs::write(&source, format!("{module}\nmod commit;\nfn main() {{\n    commit::tell();\n}}\n")).unwrap();
    let built = run(Command::new("rustc").args(["--edition=2024", "-o"]).arg(&script).arg(source));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"];
        let output = run(Command::new("git").args(identity).args(arguments).current_dir(folder.path()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    git(&["init", "-q"]);
    git(&["commit", "-q", "--allow-empty", "-m", "one"]);
    let told = |at: &std::path::Path, profile: &str, given: Option<&str>| {
        let mut command = Command::new(&script);
        command.current_dir(at).env("PROFILE", profile).env_remove("CHATKEEP_COMMIT");
        command.envs(given.map(|commit| ("CHATKEEP_COMMIT", commit)));
        let said = String::from_utf8(run(&mut command).stdout).unwrap();
        said.lines().find_map(|line| Some(line.strip_prefix("cargo::rustc-env=CHATKEEP_COMMIT=")?.to_owned()))
    };
    assert_eq!(told(folder.path(), "release", None), Some(git(&["rev-parse", "--short", "HEAD"])));
    assert_eq!(told(folder.path(), "debug", None), None);
    assert_eq!(told(folder.path(), "release", Some("given")), None);
    assert_eq!(told(&package, "release", None), None, "that repository is another's");
}

/// What a server logs first, without time, level and thread.
fn first_lines(options: Options) -> (Server, Vec<String>) {
    let server = Server::start(options);
    server.wait_for_log("is ready after");
    let lines = server.log().lines().map(|line| line.split_once(") ").unwrap_or(("", line)).1.to_owned()).collect();
    (server, lines)
}

#[test]
fn a_server_says_first_what_it_is_and_what_it_was_told() {
    let (server, lines) = first_lines(Options::default());
    assert!(lines[0].starts_with(concat!("chatkeep ", env!("CARGO_PKG_VERSION"))), "{lines:?}");
    assert_eq!(lines[1], format!("config file: {}", server.config_path().display()));
    assert_eq!(lines[2], format!("data folder: {}", server.data().display()));
    assert_eq!(
        lines[3..6],
        ["responder: echo", "MongoDB: disabled", "retention: messages are removed after 30 days (mongo.ttl_days)"]
    );
    let (_server, lines) = first_lines(Options::default().set("mongo.ttl_days", 0).set("responder.kind", "none"));
    assert_eq!(lines[3], "responder: none");
    assert_eq!(lines[5], "retention: messages are kept for ever (mongo.ttl_days)");
}

#[test]
fn a_server_says_where_its_console_is_unless_it_is_switched_off() {
    let (server, _) = first_lines(Options::default());
    server.wait_for_log(&format!("console: http://{}/ (server.console)", server.address()));
    let (mut server, _) = first_lines(Options::default().set("server.console", false));
    server.sigterm_and_wait();
    assert!(!server.log().contains("console"), "{}", server.log());
}

#[cfg(feature = "mongo")]
#[test]
fn a_server_says_where_mongodb_is_and_not_the_password() {
    let options = Options::default().set("mongo.enabled", true);
    let (server, lines) = first_lines(options.set("mongo.uri", "mongodb://me:hunter2@127.0.0.1:1/?appName=x"));
    assert_eq!(lines[4], "MongoDB: enabled, 127.0.0.1:1");
    assert!(!server.log().contains("hunter2"));
}
