//! The command line: exit codes, the commands, and the one line that says what went wrong.
//!
//! The face of the program to people and scripts: nothing outside of it prints to stdout or
//! chooses an exit code. Below it stand its parts:
//!
//! ```text
//! args.rs     arguments -> a call
//! screen.rs   stdout, stderr, and how a command ends
//! load.rs     the config file, found and read
//! client.rs   asks a running server, over its Unix socket or TCP
//! say.rs      one message, the reply as it comes
//! stop.rs     ends the answer in a session
//! show.rs     status, history, tail
//! status_lines.rs  a status for people
//! backup.rs   copies the data
//! resend.rs   has a server send to MongoDB again
//! search.rs   finds messages by their words
//! sessions.rs the list of sessions; erases one
//! export.rs   what a server exports, on stdout
//! import.rs   sends a file to a server, line by line
//! progress.rs how far a long command is, on a terminal
//! start_lines.rs  the first lines of a server's log
//! verify.rs   the checklist against a running server
//! ```
//!
//! Exit codes: 0 done, 2 a fault in the arguments or the configuration, 1 anything else. Each fault is one line on
//! stderr that begins with `error:`. A reader of stdout that has seen enough (`| head`) is no fault.

mod args;
mod backup;
mod client;
mod export;
mod import;
mod load;
mod progress;
mod resend;
mod say;
mod screen;
mod search;
mod sessions;
mod show;
mod start_lines;
mod status_lines;
mod stop;
mod verify;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use args::{Command, HELP, Options, ReportFormat};
use load::{MONGO_URI, load, load_again, load_using, token_file_warning};
use screen::{CommandError, note, print, warn};

use crate::logging::LineStyle;
use crate::store::{self, StoreError};
use crate::{app, doctor, logging, responder, signals};

/// What `data/` in the default paths means without `--data`.
const DEFAULT_DATA: &str = "data";

/// The number of documents after which `apply-ttl` tells how far it is.
const TOLD_EVERY: u64 = 100_000;

/// Runs the command that `args` (without the program's name) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = args::parse(args).and_then(|call| match call.command {
        Command::Serve => serve(&call.options),
        Command::CheckConfig => check_config(&call.options),
        Command::Doctor => doctor(&call.options),
        Command::Backup => backup::backup(&call.options),
        Command::ApplyTtl => apply_ttl(&call.options),
        Command::RetryDeadLetters => resend::retry_dead_letters(&call.options),
        Command::ResendToMongo => resend::resend_to_mongo(&call.options),
        Command::Say => say::say(&call.options),
        Command::Stop => stop::stop(&call.options),
        Command::History => show::history(&call.options),
        Command::Tail => show::tail(&call.options),
        Command::Search => search::search(&call.options),
        Command::Sessions => sessions::list(&call.options),
        Command::Erase => sessions::erase(&call.options),
        Command::Export => export::export(&call.options),
        Command::Import => import::import(&call.options),
        Command::Status => show::status(&call.options),
        Command::Verify => verify::verify(&call.options),
        Command::Help => print(HELP),
        Command::Version => print(&format!("{}\n", start_lines::version())),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn serve(options: &Options) -> Result<(), CommandError> {
    // First of all: a SIGHUP that comes before would end the process.
    let ends = signals::install()
        .map_err(|error| CommandError::Other(format!("the signals cannot be taken over: {error}")))?;
    let loaded = load(options)?;
    let config = loaded.settings.config();
    let style = logging::init(&config.log).map_err(|error| CommandError::Other(error.to_string()))?;
    let data = options.data.as_deref().unwrap_or(DEFAULT_DATA.as_ref());
    start_lines::log(&config, loaded.file.as_deref(), &data.display().to_string());
    if let Some(warning) = token_file_warning(&config) {
        log::warn!("{warning}");
    }
    let again = || {
        let settings = load_again(options, loaded.path.as_deref())?;
        if let Some(warning) = token_file_warning(&settings.config()) {
            log::warn!("{warning}");
        }
        Ok(settings)
    };
    // The panic hook has logged a panic; this turns it into our exit code instead of Rust's 101.
    let done = catch_unwind(AssertUnwindSafe(|| app::run(loaded.settings.clone(), &again, ends)));
    let fault = match done {
        Ok(done) => done.err().map(|error| told(&error)),
        Err(_) => Some("the server panicked; the log says where".to_owned()),
    };
    // A reader of JSON or of priorities gets this line in the same form.
    let is_logged = style != LineStyle::Plain;
    fault.iter().filter(|_| is_logged).for_each(|fault| log::error!("{fault}"));
    log::logger().flush();
    match fault {
        Some(_) if is_logged => Err(CommandError::Logged),
        Some(fault) => Err(CommandError::Other(fault)),
        None => Ok(()),
    }
}

/// A failure and its causes in one line. Some errors include their cause's text; it is printed once.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |told, cause| if told.ends_with(&cause) { told } else { format!("{told}: {cause}") })
}

fn check_config(options: &Options) -> Result<(), CommandError> {
    let loaded = load(options)?;
    let from = loaded.file.as_deref().map_or_else(|| "the built-in defaults".to_owned(), logging::escaped);
    let config = loaded.settings.config();
    if let Some(warning) = responder::warning(&config.responder) {
        warn(&format!("responder.command: {warning}"));
    }
    if let Some(warning) = token_file_warning(&config) {
        warn(&warning);
    }
    print(&format!("# In effect, from {from}.\n{}", loaded.settings.to_yaml()))
}

fn doctor(options: &Options) -> Result<(), CommandError> {
    let config = load_using(options, |_, _| false)?;
    // A repair makes private files, as a server does.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let data = options.data.clone().unwrap_or_else(|| DEFAULT_DATA.into());
    let task = options.task.unwrap_or(doctor::Task::Look);
    let place = doctor::DataLocation { data, config };
    let report = doctor::run(&place, task).map_err(|failure| CommandError::Other(failure.to_string()))?;
    print(&match options.form {
        ReportFormat::Lines => report.to_text(),
        ReportFormat::Json => format!("{}\n", report.to_json()),
    })?;
    // The report has named it.
    if report.damage() > 0 { Err(CommandError::Other("something is damaged".to_owned())) } else { Ok(()) }
}

fn apply_ttl(options: &Options) -> Result<(), CommandError> {
    let config = load_using(options, |_, secret| secret == MONGO_URI)?.mongo;
    if !config.enabled {
        return Err(CommandError::asked("apply-ttl is for MongoDB, and mongo.enabled is false"));
    }
    let mut count = 0;
    let done = store::apply_ttl(&config, &mut |more| {
        if count / TOLD_EVERY < (count + more) / TOLD_EVERY {
            note(&format!("{} documents so far", count + more));
        }
        count += more;
    });
    done.map_err(|error| match error {
        StoreError::Configuration(_) => CommandError::asked(error.to_string()),
        _ => CommandError::Other(format!("{error}; {count} documents are set, the same again sets the rest")),
    })?;
    let rule = match config.ttl {
        Some(ttl) => match ttl.as_secs() / 86_400 {
            1 => "expire a day after they were made".to_owned(),
            days => format!("expire {days} days after they were made"),
        },
        None => "never expire".to_owned(),
    };
    print(&format!("{count} documents of {}.{} now {rule}\n", config.database, config.chat_collection))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let inner = anyhow::anyhow!("no such file");
        assert_eq!(
            told(&inner.context("data/x: no such file").context("cannot start")),
            "cannot start: data/x: no such file"
        );
        assert_eq!(told(&anyhow::anyhow!("why").context("what")), "what: why");
    }
}
