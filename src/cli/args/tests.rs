//! Every call as a table, and what a mistake is told.
//!
//! Compiled under `#[cfg(test)]` only.

use super::*;

fn parsed(args: &str) -> Result<Invocation, String> {
    parse(args.split_whitespace().map(OsString::from)).map_err(|failure| match failure {
        CommandError::Asked(lines) => lines.join("\n"),
        other => panic!("{other:?}"),
    })
}

fn named(name: &str) -> Option<SessionId> {
    Some(SessionId::new(name).unwrap())
}

#[test]
fn the_command_may_stand_anywhere_and_is_serve_without_one() {
    let config = || Options { config: Some("a.yaml".into()), ..Options::default() };
    for (args, command, options) in [
        ("", Command::Serve, Options::default()),
        ("serve", Command::Serve, Options::default()),
        ("--config a.yaml", Command::Serve, config()),
        ("--config=a.yaml check-config", Command::CheckConfig, config()),
        ("check-config --config a.yaml", Command::CheckConfig, config()),
        (
            "serve --listen 127.0.0.1:0 --data d",
            Command::Serve,
            Options { listen: Some("127.0.0.1:0".to_owned()), data: Some("d".into()), ..Options::default() },
        ),
        (
            "doctor --json --repair",
            Command::Doctor,
            Options { task: Some(doctor::Task::Repair), form: ReportFormat::Json, ..Options::default() },
        ),
        ("help", Command::Help, Options::default()),
        ("serve --help", Command::Help, Options::default()),
        ("help say", Command::Help, Options::default()),
        ("-h", Command::Help, Options::default()),
        ("-V", Command::Version, Options::default()),
        ("--version", Command::Version, Options::default()),
    ] {
        assert_eq!(parsed(args), Ok(Invocation { command, options }), "{args}");
    }
}

#[test]
fn commands_for_a_running_server_take_a_text_or_a_session() {
    let say = |text: &str| Options { text: Some(text.to_owned()), ..Options::default() };
    for (args, command, options) in [
        ("say hi", Command::Say, say("hi")),
        ("say -", Command::Say, say("-")),
        ("say --role tool hi", Command::Say, Options { role: Some("tool".into()), ..say("hi") }),
        ("stop s", Command::Stop, Options { session: named("s"), ..Options::default() }),
        ("say -- --json", Command::Say, say("--json")),
        (
            "history --limit 5 -- -100200300",
            Command::History,
            Options { session: named("-100200300"), limit: Some(5), ..Options::default() },
        ),
        ("tail -- -a", Command::Tail, Options { session: named("-a"), ..Options::default() }),
        ("say --session=-1 -- -5", Command::Say, Options { session: named("-1"), ..say("-5") }),
        ("say --session -1 hi", Command::Say, Options { session: named("-1"), ..say("hi") }),
        (
            "say --session s hi --json",
            Command::Say,
            Options { session: named("s"), form: ReportFormat::Json, ..say("hi") },
        ),
        (
            "history a:b --limit 500",
            Command::History,
            Options { session: named("a:b"), limit: Some(500), ..Options::default() },
        ),
        ("tail", Command::Tail, Options::default()),
        ("sessions", Command::Sessions, Options::default()),
        ("search plans", Command::Search, say("plans")),
        (
            "search two --limit 3 words --session s",
            Command::Search,
            Options { session: named("s"), limit: Some(3), ..say("two words") },
        ),
        ("search -- -x --json", Command::Search, say("-x --json")),
        ("sessions --limit 3 --search=plans", Command::Sessions, Options { limit: Some(3), ..say("plans") }),
        (
            "erase s --yes",
            Command::Erase,
            Options { session: named("s"), consent: Consent::Given, ..Options::default() },
        ),
        ("tail s --limit=1", Command::Tail, Options { session: named("s"), limit: Some(1), ..Options::default() }),
        (
            "resend-to-mongo --since 2025-11-28 --json",
            Command::ResendToMongo,
            Options { since: Timestamp::parse("2025-11-28T00:00:00Z"), form: ReportFormat::Json, ..Options::default() },
        ),
        ("retry-dead-letters", Command::RetryDeadLetters, Options::default()),
        (
            "export --session s --format openai",
            Command::Export,
            Options {
                session: named("s"),
                transfer: Transfer { format: Some(ExportFormat::OpenAi), ..Transfer::default() },
                ..Options::default()
            },
        ),
        ("status --data d", Command::Status, Options { data: Some("d".into()), ..Options::default() }),
        ("verify --session v", Command::Verify, Options { session: named("v"), ..Options::default() }),
    ] {
        assert_eq!(parsed(args), Ok(Invocation { command, options }), "{args}");
    }
}

#[test]
fn a_slip_is_told_with_its_fix() {
    let session_rule = "must be 1 to 128 characters of A-Z a-z 0-9 . _ - : @, and not . or ..";
    for (args, told) in [
        ("sevre", "unknown command `sevre`; did you mean serve?"),
        ("stauts", "unknown command `stauts`; did you mean status?"),
        ("hsitory s", "unknown command `hsitory`; did you mean history?"),
        ("frobnicate", "unknown command `frobnicate`; chatkeep --help lists every command"),
        ("version", "unknown command `version`; did you mean --version?"),
        ("say -5", "unknown option `-5`; put -- before a text that begins with -: chatkeep say -- TEXT"),
        (
            "history -100200300",
            "unknown option `-1`; put -- before a session that begins with -: chatkeep history -- SESSION",
        ),
        ("--confg x", "unknown option `--confg`; did you mean --config?"),
        ("say --sesion x hi", "unknown option `--sesion`; did you mean --session?"),
        ("-x", "unknown option `-x`; chatkeep --help lists every option"),
        ("serve now", "unexpected argument `now` after the command"),
        ("serve --repair", "--repair belongs to doctor: chatkeep doctor --repair"),
        (
            "--json",
            "--json belongs to doctor, backup, say, stop, history, tail, search, sessions, erase, import, status, verify, \
             retry-dead-letters and resend-to-mongo: chatkeep doctor --json",
        ),
        ("tail --since 2025-11-28", "--since belongs to resend-to-mongo: chatkeep resend-to-mongo --since"),
        (
            "resend-to-mongo",
            "resend-to-mongo needs --since: chatkeep resend-to-mongo --since 2025-11-28 sends what was recorded from \
             that day on",
        ),
        (
            "resend-to-mongo --since yesterday",
            "--since must be a day (2025-11-28) or an RFC 3339 time (2025-11-28T01:23:45Z)",
        ),
        ("import", "import needs a file: chatkeep import FILE, or chatkeep import - to read stdin"),
        ("say hi --from openai", "--from belongs to import: chatkeep import --from"),
        ("export --format csv", "--format must be ndjson, markdown or openai"),
        ("tail --search x", "--search belongs to sessions: chatkeep sessions --search"),
        ("search", "search needs words: chatkeep search WORDS"),
        ("search -x", "unknown option `-x`; put -- before words that begin with -: chatkeep search -- WORDS"),
        ("tail --yes", "--yes belongs to erase: chatkeep erase --yes"),
        ("erase", "erase needs a session: chatkeep erase SESSION"),
        ("sessions now", "unexpected argument `now` after the command"),
        ("history s --session t", "--session belongs to say, search, verify and export: chatkeep say --session"),
        ("say hi --limit 3", "--limit belongs to history, tail, search and sessions: chatkeep history --limit"),
        ("history s --limit 501", "--limit must be a whole number from 1 to 500"),
        ("tail --limit -1", "--limit must be a whole number from 1 to 500"),
        ("--config", "--config needs a value: --config VALUE"),
        ("--data=", "--data needs a value that is not empty"),
        ("--data a --data b", "--data is given twice: give it once"),
        ("say", "say needs a text: chatkeep say TEXT, or chatkeep say - to read it from stdin"),
        ("say two words", "unexpected argument `words` after the text: put quotes around a text of several words"),
        ("stop", "stop needs a session: chatkeep stop SESSION"),
        ("history s --role user", "--role belongs to say: chatkeep say --role"),
        ("say --role Tool hi", "--role must be 1 to 32 characters of a-z 0-9 _ -, starting with a letter"),
        ("history", "history needs a session: chatkeep history SESSION"),
        ("tail a b", "unexpected argument `b` after the session"),
        ("verify now", "unexpected argument `now` after the command"),
        ("tail a/b", &format!("session `a/b` {session_rule}")),
        ("say --session .. hi", &format!("--session {session_rule}")),
    ] {
        assert_eq!(parsed(args), Err(told.to_owned()), "{args}");
    }
    let word = std::os::unix::ffi::OsStringExt::from_vec(b"a\xff".to_vec());
    let failure = parse(["say".into(), word]).unwrap_err();
    assert_eq!(failure, CommandError::asked("`a\u{fffd}` is not UTF-8 text"));
}

#[test]
fn help_tells_of_every_command_and_option() {
    for (word, _) in COMMANDS {
        let line = HELP.lines().any(|line| {
            line.strip_prefix("  chatkeep ").is_some_and(|rest| rest.trim_start_matches('[').starts_with(word))
        });
        assert!(line, "{word}");
    }
    for option in OPTIONS {
        assert!(
            HELP.lines().any(|line| line.trim_start().replace("-h, ", "").replace("-V, ", "").starts_with(option)),
            "{option}"
        );
    }
}
