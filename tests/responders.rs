//! Commands that answer, as a user has them: the example scripts, run as they are shipped, and what a program finds when the
//! real binary runs it.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chatkeep::config::{Config, ResponderConfig};
use chatkeep::message::{Clock, Draft, IdGenerator, Metadata, SessionId};
use chatkeep::responder::{Answer, CommandResponder, Question, Responder, ResponderError, Stop};
use serde_json::json;
use support::{Options, SLACK, Server};

/// A question of these messages, by role, text and the status in their metadata.
fn question(messages: &[(&str, &str, &str)]) -> Question {
    let session = SessionId::new("s1").unwrap();
    let mut ids = IdGenerator::new(Clock::system(), None);
    let mut made = Vec::new();
    for (role, text, status) in messages {
        let given = json!({ "status": status });
        let metadata = Metadata { given: given.as_object(), defaults: &[] };
        let draft = Draft { session: &session, role, text, metadata, vector_ids: &[] };
        made.push(Arc::new(draft.prepare().seal(ids.next_id())));
    }
    let user = made.last().unwrap().id();
    Question {
        session,
        user,
        messages: made,
        stop: Stop::default(),
        until: Instant::now() + Duration::from_secs(30),
        given: None,
    }
}

fn ask(responder: &dyn Responder, question: &Question) -> (String, Result<Answer, ResponderError>) {
    let mut text = String::new();
    let end = responder.answer(question, &mut |more| text.push_str(more));
    (text, end)
}

/// The example of that name with these arguments.
fn example(name: &str, arguments: &[&str]) -> CommandResponder {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/responders").join(name);
    let argv = std::iter::once(script.display().to_string()).chain(arguments.iter().map(|s| (*s).to_owned()));
    let config = Config::defaults(None).unwrap().responder;
    CommandResponder::new(&ResponderConfig { command: argv.collect(), ..config })
}

#[test]
fn the_example_in_sh_answers_its_words_and_runs_nothing_of_a_message() {
    let machine = example("machine.sh", &[]);
    let ask =
        |text: &str| ask(&machine, &question(&[("user", "disk", ""), ("assistant", "…", ""), ("user", text, "")]));
    let (text, end) = ask("WHO");
    assert!(text.starts_with("session s1, message 0") && end.is_ok(), "{text} {end:?}");
    assert!(ask("disk").0.contains('%'));
    assert!(ask("time").0.contains(':'));
    for other in ["hello", "\"; echo gone", "$(echo gone)", "disk\nload", "a \\\" b", "'", ""] {
        let (text, end) = ask(other);
        assert_eq!(
            (text.as_str(), end.is_ok()),
            ("I know these words: disk, memory, load, time, who, fail", true),
            "{other}"
        );
    }
    let (_, end) = ask("fail");
    assert_eq!(end.unwrap_err().to_string(), "the command failed with exit code 3: this is how a failure looks");
}

#[test]
fn the_example_in_python_gives_a_program_the_conversation_as_a_prompt() {
    let asked = question(&[
        ("user", "one", ""),
        ("assistant", "two", ""),
        ("assistant", "it failed", "error"),
        ("user", "drei ü", ""),
    ]);
    let (text, end) = ask(&example("prompt.py", &["cat"]), &asked);
    assert_eq!((text.as_str(), end), ("User: one\nAssistant: two\nUser: drei ü\nAssistant:", Ok(Answer::default())));
    let (text, end) = ask(&example("prompt.py", &["sh", "-c", "echo half; echo no model >&2; exit 7"]), &asked);
    assert_eq!(text, "half");
    assert_eq!(end.unwrap_err().to_string(), "the command failed with exit code 7: no model");
    let (_, end) = ask(&example("prompt.py", &["/nowhere/llm"]), &asked);
    assert!(end.unwrap_err().to_string().contains("/nowhere/llm: No such file"));
}

#[test]
fn a_program_behind_the_example_in_python_streams_and_ends_with_it() {
    let asked = question(&[("user", "hi", "")]);
    let mut first = None;
    let end = example("prompt.py", &["sh", "-c", "echo $$; exec sleep 600"]).answer(&asked, &mut |piece| {
        first = Some((piece.to_owned(), Instant::now()));
        asked.stop.set();
    });
    let (pid, stopped) = first.unwrap();
    assert_eq!(end, Err(ResponderError::Stopped));
    assert!(stopped.elapsed() < SLACK, "{:?}", stopped.elapsed());
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
}

#[test]
fn a_program_has_no_file_and_no_socket_of_the_server() {
    let command = json!(["sh", "-c", "ls -l /proc/$$/fd; pwd; kill -0 $PPID && echo $PPID"]);
    let server = Server::start(Options::default().set("responder.kind", "command").set("responder.command", command));
    // So that many descriptors are open: an idle connection, the journal, transcripts.
    let _idle = server.connect();
    let mut client = server.client();
    for session in ["a", "b"] {
        let reply = client.chat(session, "what do you have?");
        let text = reply["response"].as_str().unwrap();
        assert_eq!(reply["status"], "completed", "{text}");
        for of_ours in ["socket:", "journal", "jsonl", "anon_inode", "chatkeep.sock"] {
            assert!(!text.contains(of_ours), "{text}");
        }
        let folder = server.folder().canonicalize().unwrap();
        assert!(text.lines().any(|line| Path::new(line) == folder), "{text}");
    }
}

#[test]
fn a_program_sees_no_secret_of_the_server_unless_it_is_given_one() {
    let options = |names: serde_json::Value| {
        let options = Options::default().set("responder.kind", "command").set("responder.command", json!(["env"]));
        let options = options.set("responder.openai.api_key", "${THE_MODELS}").set("responder.command_env", names);
        ["THE_MODELS", "DB_PASSWORD", "MONGO_URI", "GITHUB_TOKEN", "PLAIN"]
            .iter()
            .fold(options, |options, name| options.environment(name, "mongodb://hunter2"))
    };
    for (given, seen) in [(json!([]), vec!["PLAIN"]), (json!(["THE_MODELS"]), vec!["THE_MODELS"])] {
        let server = Server::start(options(given));
        let reply = server.client().chat("s", "what do you see?");
        let text = reply["response"].as_str().unwrap();
        let names = text.lines().filter(|line| line.ends_with("hunter2")).map(|line| line.split('=').next().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), seen, "{text}");
        for name in ["PATH=", "CHATKEEP_SESSION_ID=s", "CHATKEEP_MESSAGE_ID=0"] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
        }
    }
}

#[test]
fn a_program_that_is_missing_is_told_at_the_start_and_by_check_config() {
    let options = Options::default().set("responder.kind", "command").set("responder.command", json!(["/nowhere/bot"]));
    let server = Server::start(options);
    let told = "the command /nowhere/bot cannot be run: there is no such file";
    server.wait_for_log(told);
    assert!(server.log().lines().any(|line| line.contains("[WARN") && line.contains(told)), "{}", server.log());
    let reply = server.client().chat("s", "hi");
    assert_eq!((&reply["status"], &reply["response"]), (&json!("error"), &json!(told)));
    let mut check = std::process::Command::new(support::server::BINARY);
    let output = support::server::run(check.args(["check-config", "--config"]).arg(server.config_path()));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), errors), (Some(0), format!("warning: responder.command: {told}\n")));
}
