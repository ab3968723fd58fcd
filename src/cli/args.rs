//! Arguments into a [`Invocation`]: the command and its options; a mistake becomes one line that says how to correct it.
//!
//! Pure: it reads no file, so a table in its test covers every call. Invariant: a call holds what its command needs and
//! nothing that the command would ignore.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg;

use crate::config::closest;
use crate::convert::{ImportFormat, UnknownImportFormat};
use crate::doctor;
use crate::export::{ExportFormat, UnknownFormat};
use crate::message::{InvalidSession, ROLE_BYTES_MAX, SessionId, Timestamp, is_role};

use super::screen::CommandError;

/// What `--help` prints.
pub(super) const HELP: &str = "\
chatkeep keeps chat conversations: durable on disk before it answers, recent history from memory.

Usage:
  chatkeep [serve] [OPTIONS]       run the server until SIGTERM or SIGINT; SIGHUP reloads
  chatkeep check-config [OPTIONS]  print the effective configuration without secrets, or every fault of it
  chatkeep doctor [OPTIONS]        report what is intact, pending or damaged in a stopped server's data; changes nothing
  chatkeep backup [OPTIONS] DIR    copy the data of a running or a stopped server to a new folder, and examine the copy
  chatkeep apply-ttl [OPTIONS]     give the documents in MongoDB the dates of expiry that mongo.ttl_days says
  chatkeep help                    print this

Of a running server, over its local socket:
  chatkeep say [OPTIONS] TEXT         send one message and print the reply as it comes; TEXT - reads it from stdin
  chatkeep stop [OPTIONS] SESSION     end the answer that is being given in a session; what was said is kept
  chatkeep history [OPTIONS] SESSION  print the newest messages of a session
  chatkeep tail [OPTIONS] [SESSION]   print the newest messages, of one session or of all, and then new ones
  chatkeep search [OPTIONS] WORDS…    find the messages that have all these words, newest activity first
  chatkeep sessions [OPTIONS]         list the sessions, newest activity first
  chatkeep erase [OPTIONS] SESSION    erase a session everywhere and for good; asks first on a terminal
  chatkeep export [OPTIONS]           write all messages to stdout, by session and in order
  chatkeep import [OPTIONS] FILE      record what an export has; what is there already is passed over; FILE - reads stdin
  chatkeep status [OPTIONS]           print what is stored where and what is pending
  chatkeep verify [OPTIONS]           record a few messages and check that they arrive everywhere, a line for each check
  chatkeep retry-dead-letters [OPTIONS]            offer to MongoDB again what it refused
  chatkeep resend-to-mongo --since TIME [OPTIONS]  send to MongoDB what was recorded before it was enabled

Options:
  --config FILE   the configuration (default: ./config.yaml, or built-in defaults without one)
  --listen ADDR   HOST:PORT in place of server.listen; port 0 takes a free one; a client asks there
  --data DIR      the folder that data/ means in the default paths
  --session S     say, verify, export, search: the session (default: default, a new one, all, all)
  --role R        say: record the text as a message of that role, without a reply, and print its id
  --limit N       history, tail, search, sessions: how many, 1 to 500 (default: 50; tail: 10)
  --search WORDS  sessions: only those whose title has all these words
  --yes           erase: without a question
  --since TIME    resend-to-mongo: from that day (2025-11-28) or time (2025-11-28T01:23:45Z) on
  --format F      export: ndjson (all of every message), markdown (to read) or openai (a conversation a line)
  --from F        import: the form of FILE, which is found out without: chatkeep, python, openai, chatgpt, openwebui,
                  librechat or langchain
  --as S          import: everything into this session
  --time TIME     import: the time of messages that tell none (default: that of FILE)
  --repair        doctor: do what a start would do, and take intact messages out of the quarantine
  --json          JSON in place of readable lines: one object; tail: one a line
  -h, --help      print this
  -V, --version   print the version
  --              end of the options: what follows is a TEXT, a SESSION or WORDS, also if it begins with -

Exit codes: 0 done, 2 a fault in the arguments or the configuration, 1 anything else. doctor: 0 nothing is damaged, 1
something is, or it could not look. backup: the same of the copy. verify: 0 every check passed. say: 1 also when the
reply is an error; an interrupt (Ctrl-C) stops the reply first. retry-dead-letters, resend-to-mongo: 1 also when not
everything is in MongoDB.
";

/// The commands by name.
const COMMANDS: [(&str, Command); 19] = [
    ("serve", Command::Serve),
    ("check-config", Command::CheckConfig),
    ("doctor", Command::Doctor),
    ("backup", Command::Backup),
    ("apply-ttl", Command::ApplyTtl),
    ("retry-dead-letters", Command::RetryDeadLetters),
    ("resend-to-mongo", Command::ResendToMongo),
    ("say", Command::Say),
    ("stop", Command::Stop),
    ("history", Command::History),
    ("tail", Command::Tail),
    ("search", Command::Search),
    ("sessions", Command::Sessions),
    ("erase", Command::Erase),
    ("export", Command::Export),
    ("import", Command::Import),
    ("status", Command::Status),
    ("verify", Command::Verify),
    ("help", Command::Help),
];
/// The options, for suggestions.
const OPTIONS: &[&str] = &[
    "--config",
    "--listen",
    "--data",
    "--session",
    "--role",
    "--limit",
    "--search",
    "--since",
    "--format",
    "--from",
    "--as",
    "--time",
    "--repair",
    "--yes",
    "--json",
    "--help",
    "--version",
];
/// The most that `--limit` may ask for: messages of one page of the server.
const LIMIT_MAX: usize = 500;

/// The command to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Serve,
    CheckConfig,
    Doctor,
    Backup,
    ApplyTtl,
    RetryDeadLetters,
    ResendToMongo,
    Say,
    Stop,
    History,
    Tail,
    Search,
    Sessions,
    Erase,
    Export,
    Import,
    Status,
    Verify,
    Help,
    Version,
}

/// The options of a command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `--config`
    pub(super) config: Option<PathBuf>,
    /// `--listen`
    pub(super) listen: Option<String>,
    /// `--data`
    pub(super) data: Option<PathBuf>,
    /// `--session`, or the session after the command.
    pub(super) session: Option<SessionId>,
    /// The text of `say`, the words of `search`, the folder of `backup`, or `--search`.
    pub(super) text: Option<String>,
    /// `--role`
    pub(super) role: Option<String>,
    /// `--limit`
    pub(super) limit: Option<usize>,
    /// `--since`
    pub(super) since: Option<Timestamp>,
    /// What `export` and `import` are told.
    pub(super) transfer: Transfer,
    /// `--repair`
    pub(super) task: Option<doctor::Task>,
    /// `--yes`
    pub(super) consent: Consent,
    /// `--json`
    pub(super) form: ReportFormat,
}

/// How messages go out and in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Transfer {
    /// `--format`
    pub(super) format: Option<ExportFormat>,
    /// `--from`
    pub(super) from: Option<ImportFormat>,
    /// `--as`
    pub(super) rename: Option<SessionId>,
    /// `--time`
    pub(super) time: Option<Timestamp>,
    /// The file; `-` is stdin.
    pub(super) file: Option<PathBuf>,
}

/// Whether to ask before something is erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Consent {
    #[default]
    Ask,
    Given,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReportFormat {
    #[default]
    Lines,
    Json,
}

/// A command with its options.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invocation {
    pub(super) command: Command,
    pub(super) options: Options,
}

/// Reads the arguments (without the program's name).
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, CommandError> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut command, mut words, mut options) = (None, Vec::new(), Options::default());
    while let Some(arg) = parser.next().map_err(|error| CommandError::asked(error.to_string()))? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Invocation { command: Command::Help, options }),
            Arg::Short('V') | Arg::Long("version") => return Ok(Invocation { command: Command::Version, options }),
            Arg::Long("config") => set("--config", &mut options.config, &mut parser, |file| Ok(file.into()))?,
            Arg::Long("data") => set("--data", &mut options.data, &mut parser, |folder| Ok(folder.into()))?,
            Arg::Long("listen") => set("--listen", &mut options.listen, &mut parser, text)?,
            Arg::Long("session") => set("--session", &mut options.session, &mut parser, |word| session(&text(word)?))?,
            Arg::Long("role") => set("--role", &mut options.role, &mut parser, role)?,
            Arg::Long("limit") => set("--limit", &mut options.limit, &mut parser, limit)?,
            Arg::Long("since") => set("--since", &mut options.since, &mut parser, since)?,
            Arg::Long("format") => set("--format", &mut options.transfer.format, &mut parser, format)?,
            Arg::Long("from") => set("--from", &mut options.transfer.from, &mut parser, from)?,
            Arg::Long("as") => set("--as", &mut options.transfer.rename, &mut parser, |word| session(&text(word)?))?,
            Arg::Long("time") => set("--time", &mut options.transfer.time, &mut parser, since)?,
            Arg::Long("search") => set("--search", &mut options.text, &mut parser, text)?,
            Arg::Long("yes") => options.consent = Consent::Given,
            Arg::Long("repair") => options.task = Some(doctor::Task::Repair),
            Arg::Long("json") => options.form = ReportFormat::Json,
            Arg::Long(name) => return Err(unknown_option(&format!("--{name}"), command)),
            Arg::Short(name) => return Err(unknown_option(&format!("-{name}"), command)),
            Arg::Value(word) if command.is_none() => match command_of(&word.to_string_lossy())? {
                // One help text for every command.
                Command::Help => return Ok(Invocation { command: Command::Help, options }),
                named => command = Some(named),
            },
            Arg::Value(word) => words.push(word),
        }
    }
    let command = command.unwrap_or(Command::Serve);
    check(command, &options)?;
    place(command, words, &mut options)?;
    Ok(Invocation { command, options })
}

fn command_of(word: &str) -> Result<Command, CommandError> {
    match COMMANDS.iter().find(|(name, _)| *name == word) {
        Some((_, command)) => Ok(*command),
        None => Err(unknown_command(word)),
    }
}

/// Refuses options that the command would ignore.
fn check(command: Command, options: &Options) -> Result<(), CommandError> {
    use Command::{
        Backup, Doctor, Erase, Export, History, Import, ResendToMongo, RetryDeadLetters, Say, Search, Sessions, Status,
        Stop, Tail, Verify,
    };
    let rules: [(&str, bool, &[Command], &str); 12] = [
        ("--repair", options.task.is_some(), &[Doctor], "doctor"),
        (
            "--json",
            options.form == ReportFormat::Json,
            &[
                Doctor,
                Backup,
                Say,
                Stop,
                History,
                Tail,
                Search,
                Sessions,
                Erase,
                Import,
                Status,
                Verify,
                RetryDeadLetters,
                ResendToMongo,
            ],
            "doctor, backup, say, stop, history, tail, search, sessions, erase, import, status, verify, \
             retry-dead-letters and resend-to-mongo",
        ),
        ("--session", options.session.is_some(), &[Say, Search, Verify, Export], "say, search, verify and export"),
        ("--format", options.transfer.format.is_some(), &[Export], "export"),
        ("--from", options.transfer.from.is_some(), &[Import], "import"),
        ("--as", options.transfer.rename.is_some(), &[Import], "import"),
        ("--time", options.transfer.time.is_some(), &[Import], "import"),
        ("--role", options.role.is_some(), &[Say], "say"),
        ("--limit", options.limit.is_some(), &[History, Tail, Search, Sessions], "history, tail, search and sessions"),
        // The texts of `say` and `search` are set later.
        ("--search", options.text.is_some(), &[Sessions], "sessions"),
        ("--yes", options.consent == Consent::Given, &[Erase], "erase"),
        ("--since", options.since.is_some(), &[ResendToMongo], "resend-to-mongo"),
    ];
    if command == ResendToMongo && options.since.is_none() {
        let fix = "chatkeep resend-to-mongo --since 2025-11-28 sends what was recorded from that day on";
        return Err(CommandError::asked(format!("resend-to-mongo needs --since: {fix}")));
    }
    match rules.into_iter().find(|(_, given, commands, _)| *given && !commands.contains(&command)) {
        Some((name, .., whose)) => {
            let one = whose.split([',', ' ']).next().unwrap_or(whose);
            Err(CommandError::asked(format!("{name} belongs to {whose}: chatkeep {one} {name}")))
        }
        None => Ok(()),
    }
}

/// Takes the words after the command.
fn place(command: Command, words: Vec<OsString>, options: &mut Options) -> Result<(), CommandError> {
    let (most, last) = match command {
        Command::Search => (usize::MAX, "words"),
        Command::Say => (1, "text: put quotes around a text of several words"),
        Command::Stop | Command::History | Command::Tail | Command::Erase => (1, "session"),
        Command::Backup => (1, "folder"),
        Command::Import => (1, "file"),
        _ => (0, "command"),
    };
    if let Some(word) = words.get(most) {
        let word = word.to_string_lossy();
        return Err(CommandError::asked(format!("unexpected argument `{word}` after the {last}")));
    }
    // Of one command only there may be several.
    let word = words.into_iter().reduce(|mut words, word| {
        words.push(" ");
        words.push(word);
        words
    });
    let word = word.map(OsString::into_string).transpose();
    let word = word.map_err(|word| CommandError::asked(format!("`{}` is not UTF-8 text", word.to_string_lossy())))?;
    match (command, word) {
        (Command::Say, None) => {
            return Err(CommandError::asked(
                "say needs a text: chatkeep say TEXT, or chatkeep say - to read it from stdin",
            ));
        }
        (Command::History, None) => {
            return Err(CommandError::asked("history needs a session: chatkeep history SESSION"));
        }
        (Command::Stop, None) => return Err(CommandError::asked("stop needs a session: chatkeep stop SESSION")),
        (Command::Erase, None) => return Err(CommandError::asked("erase needs a session: chatkeep erase SESSION")),
        (Command::Backup, None) => return Err(CommandError::asked("backup needs a folder: chatkeep backup DIR")),
        (Command::Search, None) => return Err(CommandError::asked("search needs words: chatkeep search WORDS")),
        (Command::Import, None) => {
            return Err(CommandError::asked(
                "import needs a file: chatkeep import FILE, or chatkeep import - to read stdin",
            ));
        }
        (Command::Import, file) => options.transfer.file = file.map(PathBuf::from),
        (Command::Say | Command::Search | Command::Backup, text) => options.text = text,
        (_, Some(word)) => {
            let named = session(&word).map_err(|rule| CommandError::asked(format!("session `{word}` {rule}")))?;
            options.session = Some(named);
        }
        (_, None) => {}
    }
    Ok(())
}

fn text(word: OsString) -> Result<String, String> {
    word.into_string().map_err(|_| "needs a value that is UTF-8 text".to_owned())
}

fn session(word: &str) -> Result<SessionId, String> {
    SessionId::new(word).map_err(|rule: InvalidSession| rule.to_string())
}

fn since(word: OsString) -> Result<Timestamp, String> {
    let time = word.into_string().ok().and_then(|word| Timestamp::parse_day_or_time(&word));
    time.ok_or_else(|| "must be a day (2025-11-28) or an RFC 3339 time (2025-11-28T01:23:45Z)".to_owned())
}

fn from(word: OsString) -> Result<ImportFormat, String> {
    text(word)?.parse().map_err(|rule: UnknownImportFormat| rule.to_string())
}

fn format(word: OsString) -> Result<ExportFormat, String> {
    text(word)?.parse().map_err(|rule: UnknownFormat| rule.to_string())
}

fn role(word: OsString) -> Result<String, String> {
    let role = text(word)?;
    let rule = || format!("must be 1 to {ROLE_BYTES_MAX} characters of a-z 0-9 _ -, starting with a letter");
    is_role(&role).then_some(role).ok_or_else(rule)
}

fn limit(word: OsString) -> Result<usize, String> {
    let number = word.into_string().ok().and_then(|word| word.parse().ok());
    let number = number.filter(|number| (1..=LIMIT_MAX).contains(number));
    number.ok_or_else(|| format!("must be a whole number from 1 to {LIMIT_MAX}"))
}

/// Sets an option; a second value is refused, because one of the two would be silently ignored.
fn set<T>(
    name: &str,
    place: &mut Option<T>,
    parser: &mut lexopt::Parser,
    convert: impl FnOnce(OsString) -> Result<T, String>,
) -> Result<(), CommandError> {
    let value = parser.value().map_err(|_| CommandError::asked(format!("{name} needs a value: {name} VALUE")))?;
    if value.is_empty() {
        return Err(CommandError::asked(format!("{name} needs a value that is not empty")));
    }
    let value = convert(value).map_err(|rule| CommandError::asked(format!("{name} {rule}")))?;
    if place.replace(value).is_some() {
        return Err(CommandError::asked(format!("{name} is given twice: give it once")));
    }
    Ok(())
}

fn unknown_command(word: &str) -> CommandError {
    let option = OPTIONS.iter().copied().find(|option| option.strip_prefix("--") == Some(word));
    match option.or_else(|| closest(word, COMMANDS.iter().map(|(name, _)| *name))) {
        Some(meant) => CommandError::asked(format!("unknown command `{word}`; did you mean {meant}?")),
        None => CommandError::asked(format!("unknown command `{word}`; chatkeep --help lists every command")),
    }
}

fn unknown_option(word: &str, command: Option<Command>) -> CommandError {
    let fix = match closest(word, OPTIONS.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None if command == Some(Command::Say) => {
            "put -- before a text that begins with -: chatkeep say -- TEXT".to_owned()
        }
        None if command == Some(Command::Search) => {
            "put -- before words that begin with -: chatkeep search -- WORDS".to_owned()
        }
        None if matches!(command, Some(Command::Stop | Command::History | Command::Tail | Command::Erase)) => {
            "put -- before a session that begins with -: chatkeep history -- SESSION".to_owned()
        }
        None => "chatkeep --help lists every option".to_owned(),
    };
    CommandError::asked(format!("unknown option `{word}`; {fix}"))
}
