//! Commands that behave and commands that misbehave, each a real program run by `sh`.
//!
//! Compiled under `#[cfg(test)]` only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::responder::testing::{Heard, STOP_TIMEOUT, WAIT_TIMEOUT, ask, ask_and_stop, question};

fn command(argv: &[&str]) -> CommandResponder {
    let config = crate::config::Config::defaults(None).unwrap().responder;
    CommandResponder::new(&ResponderConfig { command: argv.iter().map(|item| (*item).to_owned()).collect(), ..config })
}

fn sh(script: &str) -> CommandResponder {
    command(&["sh", "-c", script])
}

fn heard(script: &str) -> Heard {
    ask(&sh(script), &question(&[("user", "hi")]))
}

fn failed(heard: &Heard) -> &str {
    match &heard.end {
        Err(ResponderError::Failed(why)) => why,
        end => panic!("{end:?}, {:?}", heard.text),
    }
}

/// Whether that process runs. One that has ended may wait for its new parent to reap it.
fn runs(pid: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.trim())) else { return false };
    !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X'])
}

#[track_caller]
fn assert_ends(pid: &str) {
    let until = Instant::now() + WAIT_TIMEOUT;
    while runs(pid) {
        assert!(Instant::now() < until, "process {pid} still runs");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn what_a_program_writes_is_the_answer_without_the_newlines_at_its_end() {
    for (script, text) in [
        ("echo hi", "hi"),
        ("printf 'a\\n\\nb\\n\\n\\n'", "a\n\nb"),
        ("printf '\\n\\n'; sleep 0.05; printf 'x'", "\n\nx"),
        ("echo complaint >&2; echo fine", "fine"),
        ("printf 'a\\r\\n\\r\\nb\\rc\\r\\n\\r\\n'", "a\n\nb\rc"),
        (
            "printf 'a\\r'; sleep 0.05; printf '\\nb\\r'; sleep 0.05; printf 'c\\r\\r'; sleep 0.05; printf '\\n'",
            "a\nb\rc\r",
        ),
    ] {
        let heard = heard(script);
        assert_eq!((heard.text.as_str(), &heard.end), (text, &Ok(Answer::default())), "{script}");
    }
}

#[test]
fn the_conversation_and_the_ids_are_given_to_the_program() {
    let question = question(&[("user", "one"), ("assistant", "two"), ("user", "drei ü")]);
    let heard = ask(&sh("echo $CHATKEEP_SESSION_ID $CHATKEEP_MESSAGE_ID; cat"), &question);
    let (ids, object) = heard.text.split_once('\n').unwrap();
    assert_eq!(ids, format!("s {}", question.user));
    let object: Value = serde_json::from_str(object).unwrap();
    assert_eq!(object["messages"][2]["text"], "drei ü");
    assert_eq!(object["messages"].as_array().unwrap().len(), 3);
}

#[test]
fn text_is_said_as_it_comes_and_no_character_in_parts() {
    let question = question(&[("user", "hi")]);
    let mut pieces = Vec::new();
    // The program continues only when its output has been passed on; else it hangs until the deadline.
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let script = format!(
        "printf 'one \\342\\202'; until [ -e {0} ]; do sleep 0.01; done; printf '\\254 two\\377'; printf '\\303'",
        go.display()
    );
    let end = sh(&script).answer(&question, &mut |piece| {
        pieces.push(piece.to_owned());
        fs::write(&go, "").unwrap();
    });
    assert_eq!(end, Ok(Answer::default()));
    assert_eq!(pieces[0], "one ");
    assert_eq!(pieces.concat(), "one € two\u{fffd}\u{fffd}");
}

#[test]
fn a_failure_names_the_code_or_the_signal_and_the_end_of_the_error_output() {
    for (script, why) in [
        ("exit 3", "the command failed with exit code 3"),
        ("true", "the command wrote no text"),
        ("echo; echo ' '; echo why >&2", "the command wrote no text: why"),
        ("printf 'a\\033[31m\\nb\\n\\n' >&2; exit 3", "the command failed with exit code 3: a\\u{1b}[31m\\nb"),
        ("kill -9 $$", "the command was ended by signal 9 (SIGKILL)"),
        ("echo half; echo why >&2; kill -TERM $$", "the command was ended by signal 15 (SIGTERM): why"),
    ] {
        assert_eq!(failed(&heard(script)), why, "{script}");
    }
    let long = heard("head -c 5000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1");
    let why = failed(&long);
    assert!(why.ends_with("xxthe end") && why.contains(": …x") && why.len() < 2200, "{why}");
    assert_eq!(heard("echo half; exit 1").text, "half");
}

#[test]
fn what_cannot_be_run_is_told_with_its_reason_before_and_when_it_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let plain = file("plain", 0o644, b"#!/bin/sh\n");
    for (program, why) in [
        ("/nowhere/at all".to_owned(), "there is no such file".to_owned()),
        ("no-such-program-at-all".to_owned(), "there is no such program on the PATH".to_owned()),
        (String::new(), "there is no such program on the PATH".to_owned()),
        (plain.clone(), format!("it is not executable: chmod +x {plain}")),
        (folder.path().display().to_string(), "it is a folder".to_owned()),
        (file("none", 0o755, b"#!/nowhere/sh -e\n"), "its interpreter /nowhere/sh does not exist".to_owned()),
        (file("crlf", 0o755, b"#!/bin/sh\r\necho hi\r\n"), "its lines end with CRLF".to_owned()),
        (file("env-crlf", 0o755, b"#!/usr/bin/env sh\r\necho hi\r\n"), "its lines end with CRLF".to_owned()),
        (
            file("env", 0o755, b"#!/usr/bin/env -S A=b no-such\n"),
            "its interpreter no-such is not on the PATH".to_owned(),
        ),
        (file("mark", 0o755, b"\xef\xbb\xbf#!/bin/sh\necho hi\n"), "it begins with a byte order mark".to_owned()),
    ] {
        let command = command(&[&program]);
        let heard = ask(&command, &question(&[("user", "hi")]));
        let told = format!("the command {program} cannot be run: {why}");
        // A shell may run a script that has no #! line.
        if !program.ends_with("mark") {
            assert!(failed(&heard).starts_with(&told), "{told}: {}", failed(&heard));
        }
        assert!(command.fault().unwrap().starts_with(&told), "{told}: {:?}", command.fault());
    }
    for sound in ["sh", "/bin/sh", &file("sound", 0o755, b"#! /usr/bin/env -S sh -e\necho hi\n")] {
        assert_eq!(command(&[sound]).fault(), None, "{sound}");
    }
    // The program's own exit code 127 is not taken for a missing program.
    assert_eq!(failed(&heard("echo why >&2; exit 127")), "the command failed with exit code 127: why");
}

#[test]
fn a_program_that_does_not_read_a_long_conversation_answers_all_the_same() {
    let long = "x".repeat(1 << 20);
    let question = question(&[("user", &long), ("user", "hi")]);
    for script in [
        "echo fine",
        "exec <&-; sleep 0.05; echo fine",
        "head -c 9 >/dev/null; echo fine",
        "cat | tail -c 0; echo fine",
    ] {
        let heard = ask(&sh(script), &question);
        assert_eq!((heard.text.as_str(), heard.end), ("fine", Ok(Answer::default())), "{script}");
    }
    // It writes before it reads, more than the pipe holds.
    let heard = ask(&sh("head -c 300000 /dev/zero | tr '\\0' y; wc -c"), &question);
    assert!(heard.end.is_ok() && heard.text.starts_with("yyy"), "{:?}", heard.end);
    let read: usize = heard.text.trim_start_matches('y').trim().parse().unwrap();
    assert_eq!(read, conversation::pieces(&question).map(|piece| piece.len()).sum::<usize>());
}

#[test]
fn a_stop_ends_a_program_wherever_it_hangs() {
    for script in ["sleep 600", "cat >/dev/null; sleep 600", "exec >&- 2>&-; sleep 600", "sleep 600 & wait"] {
        let heard = ask_and_stop(&sh(script), &question(&[("user", "hi")]), Some(Duration::from_millis(50)));
        assert_eq!(heard.end, Err(ResponderError::Stopped), "{script}");
        assert!(heard.took < STOP_TIMEOUT, "{script}: {:?}", heard.took);
    }
}

#[test]
fn a_stop_before_the_start_and_a_stop_in_the_answer_are_heard() {
    let heard = ask_and_stop(&sh("echo $$; sleep 600"), &question(&[("user", "hi")]), None);
    assert_eq!(heard.end, Err(ResponderError::Stopped));
    assert!(heard.took < STOP_TIMEOUT, "{:?}", heard.took);
    assert_ends(&heard.text);
    let stopped = question(&[("user", "hi")]);
    stopped.stop.set();
    assert_eq!(ask(&sh("echo hi"), &stopped).end, Err(ResponderError::Stopped));
}

#[test]
fn the_deadline_ends_a_program() {
    // On a busy machine a shell may not start in time.
    let tries = [1, 4, 16].map(Duration::from_secs).into_iter();
    let mut texts = tries.map(|most| {
        let mut question = question(&[("user", "hi")]);
        question.until = Instant::now() + most;
        let heard = ask(&sh("echo $$; sleep 600"), &question);
        assert_eq!(heard.end, Err(ResponderError::Late));
        assert!(Instant::now() >= question.until && heard.took < most + STOP_TIMEOUT, "{:?}", heard.took);
        heard.text
    });
    assert_ends(&texts.find(|pid| !pid.is_empty()).expect("a shell started"));
}

#[test]
fn who_does_not_hear_is_killed_after_the_grace_with_its_whole_group() {
    // The shell and its child ignore SIGTERM; the last one is stopped besides.
    let script = "trap '' TERM; sleep 600 & echo $!; sleep 600 & kill -STOP $!; echo $!; echo $$; wait";
    let question = question(&[("user", "hi")]);
    let (mut pids, mut stopped) = (String::new(), None);
    let end = sh(script).answer(&question, &mut |piece| {
        pids.push_str(piece);
        if pids.lines().count() == 3 {
            stopped = Some(Instant::now());
            question.stop.set();
        }
    });
    let took = stopped.unwrap().elapsed();
    assert_eq!(end, Err(ResponderError::Stopped));
    assert!(took >= Duration::from_millis(300) && took < STOP_TIMEOUT, "{took:?}");
    pids.lines().for_each(assert_ends);
}

#[test]
fn who_hears_may_put_things_away() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let script = format!("trap 'echo gone > {}; exit 0' TERM; echo up; while :; do sleep 0.01; done", note.display());
    // On a busy machine it may get no processor within the grace.
    assert!((0..10).any(|_| {
        let heard = ask_and_stop(&sh(&script), &question(&[("user", "hi")]), None);
        assert_eq!(heard.end, Err(ResponderError::Stopped));
        fs::read_to_string(&note).is_ok_and(|note| note == "gone\n")
    }));
}

#[test]
fn what_a_program_leaves_behind_keeps_no_turn_and_does_not_stay() {
    let heard = heard("sleep 600 & echo $!");
    assert_eq!(heard.end, Ok(Answer::default()));
    assert!(heard.took < STOP_TIMEOUT, "{:?}", heard.took);
    assert_ends(&heard.text);
}

#[test]
fn what_has_left_the_group_keeps_no_turn() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate").display().to_string();
    for rest in ["", "exit 3", "sleep 600"] {
        let script = format!(
            "rm -f {gate}; mkfifo {gate}; setsid sh -c 'trap \"\" PIPE; echo $$; echo go >{gate}; exec sleep 600' & \
             read word <{gate}; {rest}"
        );
        let heard = ask_and_stop(&sh(&script), &question(&[("user", "hi")]), Some(WAIT_TIMEOUT));
        assert!(heard.took < STOP_TIMEOUT, "{:?}", heard.took);
        assert!(
            runs(&heard.text),
            "it is out of reach, and the test would show nothing if it were not: {:?}",
            heard.end
        );
        let pid = heard.text.trim().parse().ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

#[test]
fn what_a_program_leaves_behind_may_talk_and_keeps_its_answer_no_longer() {
    // One inside its process group and one outside; each ends when nobody reads, or soon by itself.
    for rest in ["", "setsid "] {
        let talk = "for n in $(seq 6000); do echo . >&2 || exit; sleep 0.01; done";
        let heard = ask(&sh(&format!("{rest}sh -c '{talk}' & echo done")), &question(&[("user", "hi")]));
        assert_eq!((heard.text.as_str(), heard.end.is_ok()), ("done", true), "{rest:?}");
        assert!(heard.took < DRAIN_TIMEOUT + STOP_TIMEOUT, "{rest:?}: {:?}", heard.took);
    }
}

#[test]
fn a_flood_is_cut_at_the_limit() {
    let heard = heard("head -c 100000000 /dev/zero | tr '\\0' x");
    assert_eq!(failed(&heard), "the answer is longer than 1048576 bytes");
    assert_eq!(heard.text.len(), 1 << 20);
    let errors = heard_errors();
    assert!(errors.end.is_ok() && errors.text == "fine", "{:?}", errors.end);
}

/// A flood where nothing is kept of it.
fn heard_errors() -> Heard {
    heard("head -c 100000000 /dev/zero >&2; head -c 100000000 /dev/zero | tr '\\0' '\\n' | head -c 0; echo fine")
}

#[test]
fn a_panic_of_who_listens_leaves_nothing_running() {
    let pid = std::sync::Mutex::new(String::new());
    let question = question(&[("user", "hi")]);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        sh("echo $$; sleep 600").answer(&question, &mut |piece| {
            pid.lock().unwrap().push_str(piece);
            std::panic::resume_unwind(Box::new("he has had enough"));
        })
    }));
    assert!(caught.is_err());
    assert_ends(&pid.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
}

#[test]
fn a_program_inherits_three_descriptors_and_no_signal_setting() {
    // The standard library and our code open everything close-on-exec; descriptors from the tests' parent are not ours.
    let ours = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{name}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        (u32::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000 == 0).then_some(name)
    });
    let inherited: Vec<String> = ours.collect();
    let _open = (fs::File::open("/dev/null").unwrap(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let heard = heard("ls -l /proc/$$/fd");
    assert!(heard.text.lines().count() > 3, "{}", heard.text);
    for fd in heard.text.lines().filter_map(|line| line.split_once(" -> ")?.0.split(' ').next_back()) {
        assert!(["0", "1", "2"].contains(&fd) || inherited.iter().any(|name| name == fd), "{}", heard.text);
    }
    // The program looks at itself: a shell blocks all signals while it starts another program, which would see that.
    let look = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    let heard = ask(&command(&look), &question(&[("user", "hi")]));
    assert_eq!(heard.text.lines().count(), 2, "{}", heard.text);
    let broken_pipe = 1 << (13 - 1);
    for (line, mask) in heard.text.lines().zip([u64::MAX, broken_pipe]) {
        let set = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        assert_eq!(set & mask, 0, "{line}");
    }
}
