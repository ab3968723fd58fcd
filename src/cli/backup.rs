//! `chatkeep backup`: a copy of the data of a running or a stopped server, examined as `doctor` does it.
//!
//! A running server writes the copy, since it alone knows what is acknowledged, and goes on if this command is interrupted.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::backup::{self, BackupError};
use crate::doctor::{self, DataLocation, Task, size, some};

use super::args::{Options, ReportFormat};
use super::client::{Client, ClientError, Request, Wait};
use super::load::load_using;
use super::screen::{CommandError, number, print};
use super::show::client;

/// How long a server may take: a terabyte on a slow disk.
const COPY_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Copies the data, and examines the copy.
pub(super) fn backup(options: &Options) -> Result<(), CommandError> {
    let folder = options.text.as_deref().unwrap_or_default();
    let folder = std::path::absolute(folder)
        .map_err(|error| CommandError::asked(format!("`{folder}` is no folder: {error}")))?;
    let config = load_using(options, |_, _| false)?;
    // The copy is private, as a server's data are.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let made = match of_running(&client(options)?, &folder) {
        Err(ClientError::Absent(_)) => json!(backup::of_stopped(&config, &folder).map_err(|error| failed(&error))?),
        made => made?,
    };
    let place = DataLocation { data: folder.clone(), config: backup::moved(config, &folder) };
    let found = doctor::run(&place, Task::Look).map_err(|failure| CommandError::Other(failure.to_string()))?;
    print(&match options.form {
        ReportFormat::Json => {
            format!("{}\n", json!({"folder": folder, "copied": made, "examined": found.to_json()}))
        }
        ReportFormat::Lines => format!("{}\n{}\n", told(&folder, &made), found.verdict()),
    })?;
    match found.damage() {
        0 => Ok(()),
        _ => Err(CommandError::Other(format!(
            "something in the copy is damaged, most likely as in the data; chatkeep doctor --data {} tells what",
            folder.display()
        ))),
    }
}

fn of_running(client: &Client, folder: &Path) -> Result<Value, ClientError> {
    let (target, accept, wait) = ("/api/storage/backup", "application/json", Wait::Whole(COPY_TIMEOUT));
    let body = json!({"folder": folder});
    client.send(&Request { target, accept, method: "POST", body: Some(&body), wait })?.accepted()?.json()
}

fn told(folder: &Path, made: &Value) -> String {
    let of = |name: &str| number(&made[name]);
    let (transcripts, segments) = (some(of("transcripts"), "transcript"), some(of("segments"), "segment"));
    format!("{}: {transcripts}, {segments} of the journal, {}", folder.display(), size(of("bytes")))
}

fn failed(error: &BackupError) -> CommandError {
    match error {
        BackupError::Folder(_) => CommandError::asked(error.to_string()),
        BackupError::Busy | BackupError::Io { .. } => CommandError::Other(error.to_string()),
    }
}
