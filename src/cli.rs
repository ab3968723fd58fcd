//! The command line: arguments, exit codes, and the one line that says what went wrong.
//!
//! It stands alone because it is the face of the program to people and scripts: nothing below it prints to stdout or
//! chooses an exit code. It reads the config file, too, so that `config` stays free of I/O.
//!
//! Exit codes: 0 done, 2 a fault in the arguments or the configuration, 1 anything else. Each fault is one line on
//! stderr that begins with `error:`. A reader of stdout that has seen enough (`| head`) is no fault.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::Arg;

use crate::config::{Overrides, Settings, closest};
use crate::{app, doctor, logging, store};

/// The config file that is read when none is named, and may be missing.
const DEFAULT_CONFIG: &str = "config.yaml";

/// What `data/` means in the default paths when nothing else is said.
const DEFAULT_DATA: &str = "data";

/// The largest config file, in bytes; beyond it the wrong file was named.
const CONFIG_BYTES: u64 = 1 << 20;

const HELP: &str = "\
chatkeep keeps chat conversations: durable on disk before it answers, recent history from memory.

Usage:
  chatkeep [serve] [OPTIONS]       serve until SIGTERM or SIGINT
  chatkeep check-config [OPTIONS]  print the effective configuration without secrets, or every fault of it
  chatkeep doctor [OPTIONS]        say what of a stopped server's data is intact, pending or damaged; changes nothing
  chatkeep help                    print this

Options:
  --config FILE   the configuration (default: ./config.yaml, or built-in defaults without one)
  --listen ADDR   HOST:PORT in place of server.listen; port 0 takes a free one
  --data DIR      what data/ means in the default paths
  --repair        doctor: do what a start would do, and take what is intact out of the quarantine
  --json          doctor: one JSON object in place of the lines
  -h, --help      print this
  -V, --version   print the version

Exit codes: 0 done, 2 a fault in the arguments or the configuration, 1 anything else. doctor: 0 nothing is damaged, 1
something is, or it could not look.
";

/// The commands, as they are suggested.
const COMMANDS: &[&str] = &["serve", "check-config", "doctor", "help"];
/// The options, as they are suggested.
const OPTIONS: &[&str] = &["--config", "--listen", "--data", "--repair", "--json", "--help", "--version"];

/// Runs the command that `args` (without the program's name) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = parse(args).and_then(|call| match call.command {
        Command::Serve => serve(&call.options),
        Command::CheckConfig => check_config(&call.options),
        Command::Doctor => doctor(&call.options),
        Command::Help => print(HELP),
        Command::Version => print(concat!("chatkeep ", env!("CARGO_PKG_VERSION"), "\n")),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What a command ends with when it does not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The arguments or the configuration are at fault, once for each line.
    Asked(Vec<String>),
    /// Anything else.
    Other(String),
}

impl Failure {
    fn asked(line: impl Into<String>) -> Self {
        Self::Asked(vec![line.into()])
    }

    fn report(self) -> ExitCode {
        let (lines, code) = match self {
            Self::Asked(lines) => (lines, 2),
            Self::Other(line) => (vec![line], 1),
        };
        let report: String = lines.iter().map(|line| format!("error: {}\n", logging::escaped(line))).collect();
        // The exit code still tells what stderr cannot.
        let _ = io::stderr().write_all(report.as_bytes());
        ExitCode::from(code)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Serve,
    CheckConfig,
    Doctor,
    Help,
    Version,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    config: Option<PathBuf>,
    listen: Option<String>,
    data: Option<PathBuf>,
    task: Option<doctor::Task>,
    form: Form,
}

/// What a report is printed as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Lines,
    Json,
}

#[derive(Debug, PartialEq, Eq)]
struct Call {
    command: Command,
    options: Options,
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Call, Failure> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut command, mut options) = (None, Options::default());
    while let Some(arg) = parser.next().map_err(|error| Failure::asked(error.to_string()))? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Call { command: Command::Help, options }),
            Arg::Short('V') | Arg::Long("version") => return Ok(Call { command: Command::Version, options }),
            Arg::Long("config") => set("--config", &mut options.config, &mut parser, |file| Ok(file.into()))?,
            Arg::Long("data") => set("--data", &mut options.data, &mut parser, |folder| Ok(folder.into()))?,
            Arg::Long("listen") => set("--listen", &mut options.listen, &mut parser, OsString::into_string)?,
            Arg::Long("repair") => options.task = Some(doctor::Task::Repair),
            Arg::Long("json") => options.form = Form::Json,
            Arg::Long(name) => return Err(unknown("option", &format!("--{name}"), OPTIONS)),
            Arg::Short(name) => return Err(unknown("option", &format!("-{name}"), OPTIONS)),
            Arg::Value(word) if command.is_none() => command = Some(command_of(&word.to_string_lossy())?),
            Arg::Value(word) => {
                return Err(Failure::asked(format!(
                    "unexpected argument `{}` after the command",
                    word.to_string_lossy()
                )));
            }
        }
    }
    let command = command.unwrap_or(Command::Serve);
    for (name, given) in [("--repair", options.task.is_some()), ("--json", options.form == Form::Json)] {
        if given && command != Command::Doctor {
            return Err(Failure::asked(format!("{name} belongs to doctor: chatkeep doctor {name}")));
        }
    }
    Ok(Call { command, options })
}

fn command_of(word: &str) -> Result<Command, Failure> {
    match word {
        "serve" => Ok(Command::Serve),
        "check-config" => Ok(Command::CheckConfig),
        "doctor" => Ok(Command::Doctor),
        "help" => Ok(Command::Help),
        _ => Err(unknown("command", word, COMMANDS)),
    }
}

/// Takes the option's value; a second one is refused, because one of the two would be ignored in silence.
fn set<T>(
    name: &str,
    place: &mut Option<T>,
    parser: &mut lexopt::Parser,
    convert: impl FnOnce(OsString) -> Result<T, OsString>,
) -> Result<(), Failure> {
    let value = parser.value().map_err(|_| Failure::asked(format!("{name} needs a value: {name} VALUE")))?;
    if value.is_empty() {
        return Err(Failure::asked(format!("{name} needs a value that is not empty")));
    }
    let value = convert(value).map_err(|_| Failure::asked(format!("{name} needs a value that is UTF-8 text")))?;
    if place.replace(value).is_some() {
        return Err(Failure::asked(format!("{name} is given twice: give it once")));
    }
    Ok(())
}

fn unknown(what: &str, word: &str, known: &[&str]) -> Failure {
    let fix = match closest(word, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("chatkeep --help lists every {what}"),
    };
    Failure::asked(format!("unknown {what} `{word}`; {fix}"))
}

fn serve(options: &Options) -> Result<(), Failure> {
    let config = load(options)?.settings.config();
    logging::init(config.log.level).map_err(|error| Failure::Other(error.to_string()))?;
    // The panic hook has logged a panic by then; this makes it an exit code of ours and not Rust's 101.
    let done = catch_unwind(AssertUnwindSafe(|| app::run(&config)));
    log::logger().flush();
    match done {
        Ok(done) => done.map_err(|error| Failure::Other(told(&error))),
        Err(_) => Err(Failure::Other("the server panicked; the log says where".to_owned())),
    }
}

/// A failure and its causes in one line. Some errors hold their cause's words already: those are told once.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |told, cause| if told.ends_with(&cause) { told } else { format!("{told}: {cause}") })
}

fn check_config(options: &Options) -> Result<(), Failure> {
    let loaded = load(options)?;
    let from = loaded.file.as_deref().map_or_else(|| "the built-in defaults".to_owned(), logging::escaped);
    print(&format!("# In effect, from {from}.\n{}", loaded.settings.to_yaml()))
}

fn doctor(options: &Options) -> Result<(), Failure> {
    let config = load(options)?.settings.config();
    // What a repair makes is private, as what a server makes.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let data = options.data.clone().unwrap_or_else(|| DEFAULT_DATA.into());
    let task = options.task.unwrap_or(doctor::Task::Look);
    let place = doctor::Place { data, config };
    let report = doctor::run(&place, task).map_err(|failure| Failure::Other(failure.to_string()))?;
    print(&match options.form {
        Form::Lines => report.to_text(),
        Form::Json => format!("{}\n", report.to_json()),
    })?;
    if report.damage() > 0 { Err(Failure::Other(report.verdict())) } else { Ok(()) }
}

struct Loaded {
    /// The file that was read, if one was.
    file: Option<String>,
    settings: Settings,
}

/// The configuration the options ask for.
fn load(options: &Options) -> Result<Loaded, Failure> {
    let (file, text) = match &options.config {
        Some(path) => (Some(path.as_path()), read(path)?),
        None => match read_if_there(Path::new(DEFAULT_CONFIG))? {
            Some(text) => (Some(Path::new(DEFAULT_CONFIG)), text),
            None => (None, String::new()),
        },
    };
    let file = file.map(|path| path.display().to_string());
    let overrides = Overrides { listen: options.listen.as_deref(), data: options.data.as_deref() };
    match Settings::load(&text, &|name| std::env::var_os(name), &overrides) {
        Ok(settings) => match store::hosts(settings.config().mongo.uri.expose()) {
            Ok(_) => Ok(Loaded { file, settings }),
            Err(rule) => Err(Failure::asked(format!("mongo.uri: [redacted]: {rule}"))),
        },
        Err(faults) => Err(Failure::Asked(
            faults
                .iter()
                .map(|fault| match &file {
                    Some(file) if fault.is_in_file() => format!("{file}: {fault}"),
                    _ => fault.to_string(),
                })
                .collect(),
        )),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    read_if_there(path)?
        .ok_or_else(|| Failure::asked(format!("cannot read the config file {}: there is no such file", path.display())))
}

fn read_if_there(path: &Path) -> Result<Option<String>, Failure> {
    let refuse = |why: String| Failure::asked(format!("cannot read the config file {}: {why}", path.display()));
    let mut bytes = Vec::new();
    // One byte more than allowed, to see whether there is one.
    match File::open(path).and_then(|file| file.take(CONFIG_BYTES + 1).read_to_end(&mut bytes)) {
        // A link to nowhere is a slip, and no wish for the defaults.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(None),
        Err(error) => Err(refuse(error.to_string())),
        Ok(_) if bytes.len() as u64 > CONFIG_BYTES => Err(refuse(format!("it is larger than {CONFIG_BYTES} bytes"))),
        Ok(_) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(refuse(format!("byte {} is not UTF-8 text", error.utf8_error().valid_up_to() + 1))),
        },
    }
}

/// Writes to stdout. Whoever closed it has what it wanted.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Other(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &str) -> Result<Call, String> {
        parse(args.split_whitespace().map(OsString::from)).map_err(|failure| match failure {
            Failure::Asked(lines) => lines.join("\n"),
            Failure::Other(line) => panic!("{line}"),
        })
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
                Options { task: Some(doctor::Task::Repair), form: Form::Json, ..Options::default() },
            ),
            ("help", Command::Help, Options::default()),
            ("serve --help", Command::Help, Options::default()),
            ("-h", Command::Help, Options::default()),
            ("-V", Command::Version, Options::default()),
            ("--version", Command::Version, Options::default()),
        ] {
            assert_eq!(parsed(args), Ok(Call { command, options }), "{args}");
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = anyhow::anyhow!("no such file");
        assert_eq!(
            told(&inner.context("data/x: no such file").context("cannot start")),
            "cannot start: data/x: no such file"
        );
        assert_eq!(told(&anyhow::anyhow!("why").context("what")), "what: why");
    }

    #[test]
    fn a_slip_is_told_with_its_fix() {
        for (args, told) in [
            ("sevre", "unknown command `sevre`; did you mean serve?"),
            ("frobnicate", "unknown command `frobnicate`; chatkeep --help lists every command"),
            ("--confg x", "unknown option `--confg`; did you mean --config?"),
            ("-x", "unknown option `-x`; chatkeep --help lists every option"),
            ("serve now", "unexpected argument `now` after the command"),
            ("serve --repair", "--repair belongs to doctor: chatkeep doctor --repair"),
            ("--json", "--json belongs to doctor: chatkeep doctor --json"),
            ("--config", "--config needs a value: --config VALUE"),
            ("--data=", "--data needs a value that is not empty"),
            ("--data a --data b", "--data is given twice: give it once"),
        ] {
            assert_eq!(parsed(args), Err(told.to_owned()), "{args}");
        }
    }
}
