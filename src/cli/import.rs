//! `chatkeep import`: converts a file to lines and sends them to a running server, which records what it has not yet.
//!
//! Lines are sent as they are made, so a file of any length takes no memory; the server says at the end what became of them.
//! After an error or a kill the same again goes on, since nothing is recorded twice. What cannot be imported is told by its
//! number in the file. Knows nothing of the forms of files (`convert.rs`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::convert::{ConvertError, ImportFormat, LineSink, Placing, STACK_BYTES, convert, convert_file};
use crate::doctor::some;
use crate::message::{Clock, SessionId, Timestamp};
use crate::thread::run_deep;

use super::args::{Options, ReportFormat};
use super::client::{Client, Upload};
use super::progress::ProgressLine;
use super::screen::{CommandError, note, number, print};
use super::show::{client, encoded};

/// The longest that the server may take no line, or give no reply: it waits for a drain, and sorts transcripts at the end.
const SERVER_TIMEOUT: Duration = Duration::from_secs(1800);
/// Bytes of one chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// So many reasons why something could not be imported are told, and so many numbers of lines for each.
const TOLD_MAX: usize = 20;
/// Reasons for which the server leaves a good line out.
const LEFT_OUT: [&str; 2] = ["expired", "erased"];
/// The reason of what this command could not read.
const UNREADABLE: &str = "unreadable";

/// Imports a file.
pub(super) fn import(options: &Options) -> Result<(), CommandError> {
    run_deep(STACK_BYTES, || import_deep(options))
        .unwrap_or_else(|fault| Err(CommandError::Other(format!("no thread can be started: {fault}"))))
}

fn import_deep(options: &Options) -> Result<(), CommandError> {
    let Some(path) = &options.transfer.file else { return Ok(()) };
    let is_stdin = path == Path::new("-");
    let file = if is_stdin { None } else { Some(open(path)?) };
    let file_time = file.as_ref().and_then(|file| file.metadata().ok()?.modified().ok());
    let file_time = file_time.and_then(|time| u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok());
    let told_time = options.transfer.time.or(file_time.map(Timestamp::from_micros));
    let is_now = told_time.is_none();
    let time = told_time.unwrap_or_else(|| Clock::system().now());
    let placing = Placing::new(options.transfer.rename.clone(), time);
    let mut sender = Sender::new(client(options)?, options, time);
    if is_stdin && io::stdin().is_terminal() {
        note("reading stdin");
    }
    let converted = match file {
        Some(file) => convert_file(file, options.transfer.from, &placing, &mut sender),
        None => convert(io::stdin().lock(), options.transfer.from, &placing, &mut sender),
    };
    if is_now && placing.is_time_used() {
        note("some messages tell no time and have that of now; the same again would import them anew: give --time");
    }
    let report = match &converted {
        Err(ConvertError::Unknown(_)) => return Err(CommandError::Other(told(&converted))),
        // The server has ended it, and says why.
        Err(ConvertError::Sink(fault)) => return Err(sender.refused(fault)),
        _ => sender.finish()?,
    };
    report.tell(options.form)?;
    match converted {
        Ok(()) => report.verdict(),
        Err(_) => Err(CommandError::Other(told(&converted))),
    }
}

fn told(converted: &Result<(), ConvertError>) -> String {
    converted.as_ref().err().map(ToString::to_string).unwrap_or_default()
}

fn open(path: &Path) -> Result<File, CommandError> {
    let fault = |fault: io::Error| CommandError::Other(format!("{} cannot be read: {fault}", path.display()));
    let file = File::open(path).map_err(fault)?;
    if file.metadata().map_err(fault)?.is_dir() {
        return Err(CommandError::Other(format!("{} is a folder; name a file in it", path.display())));
    }
    Ok(file)
}

/// Sends lines, and remembers which unit of the file each came from.
struct Sender {
    client: Client,
    target: String,
    /// The session that lines are to be in which are passed on as they are; until the first.
    rename: Option<SessionId>,
    upload: Option<BufWriter<Upload>>,
    format: ImportFormat,
    sent: u64,
    /// The first line of each unit, once units are not lines.
    starts: Option<Vec<u64>>,
    failed: Vec<(u64, String)>,
    failed_count: u64,
    progress: ProgressLine,
}

impl Sender {
    fn new(client: Client, options: &Options, time: Timestamp) -> Self {
        let format = options.transfer.from.unwrap_or(ImportFormat::Chatkeep);
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("time", &time.to_string());
        Self {
            client,
            target: format!("/api/chat/import?{}", query.finish()),
            rename: options.transfer.rename.clone(),
            upload: None,
            format,
            sent: 0,
            starts: None,
            failed: Vec::new(),
            failed_count: 0,
            progress: ProgressLine::on_stderr(),
        }
    }

    fn uploading(&mut self) -> io::Result<&mut BufWriter<Upload>> {
        if self.upload.is_none() {
            let upload = self.client.upload(&self.target, SERVER_TIMEOUT).map_err(io::Error::other)?;
            self.upload = Some(BufWriter::with_capacity(CHUNK_BYTES, upload));
        }
        Ok(self.upload.as_mut().expect("it was just made"))
    }

    /// Notes where a unit begins.
    fn begin(&mut self, unit: u64) -> io::Result<()> {
        match &mut self.starts {
            Some(starts) => {
                while (starts.len() as u64) < unit {
                    starts.push(self.sent + 1);
                }
            }
            // An empty line stands for a unit without one, so that the server counts as the file does.
            None if unit > self.sent => {
                for _ in self.sent + 1..unit {
                    self.uploading()?.write_all(b"\n")?;
                }
                self.sent = unit - 1;
            }
            None => self.starts = Some((1..=self.sent).collect()),
        }
        Ok(())
    }

    fn unit_of(&self, line: u64) -> u64 {
        self.starts.as_ref().map_or(line, |starts| starts.partition_point(|start| *start <= line) as u64)
    }

    /// Ends the body, and reads what became of it.
    fn finish(&mut self) -> Result<ImportReport, CommandError> {
        let reply = match self.upload.take() {
            None => json!({"imported": 0, "already_there": 0, "skipped": [], "skipped_count": 0}),
            Some(mut upload) => {
                let flushed = upload.flush();
                let upload = upload.into_parts().0;
                let reply = if flushed.is_ok() { upload.finish() } else { upload.reply() };
                reply?.accepted()?.json()?
            }
        };
        let mut skipped = BTreeMap::new();
        for line in reply["skipped"].as_array().into_iter().flatten() {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let unit = self.unit_of(number(&line["line"]));
            skipped.entry(unit).or_insert_with(Vec::new).push((text("reason"), text("detail")));
        }
        for (unit, why) in std::mem::take(&mut self.failed) {
            skipped.entry(unit).or_default().push((UNREADABLE.to_owned(), why));
        }
        let counts = reply["skipped_by_reason"].as_object().into_iter().flatten();
        let mut counts: BTreeMap<String, u64> = counts.map(|(reason, count)| (reason.clone(), number(count))).collect();
        if self.failed_count > 0 {
            counts.insert(UNREADABLE.to_owned(), self.failed_count);
        }
        Ok(ImportReport {
            imported: number(&reply["imported"]),
            already_there: number(&reply["already_there"]),
            skipped_count: number(&reply["skipped_count"]) + self.failed_count,
            counts,
            skipped,
            unit: self.format.unit(),
        })
    }

    /// Why the server takes no more.
    fn refused(&mut self, fault: &io::Error) -> CommandError {
        let Some(upload) = self.upload.take() else { return CommandError::Other(fault.to_string()) };
        match upload.into_parts().0.reply().and_then(super::client::Response::accepted) {
            Err(refusal) => refusal.into(),
            Ok(_) => CommandError::Other(format!("the server takes no more lines: {fault}")),
        }
    }
}

impl LineSink for Sender {
    fn is(&mut self, format: ImportFormat) {
        self.format = format;
        let (name, what) = format.names();
        note(&format!("it has {what} (--from {name})"));
    }

    fn line(&mut self, unit: u64, line: &[u8]) -> io::Result<()> {
        self.begin(unit)?;
        self.sent += 1;
        let to = self.uploading()?;
        to.write_all(line)?;
        to.write_all(b"\n")?;
        let sent = self.sent;
        self.progress.tell(|| format!("{} sent", some(sent, "line")));
        Ok(())
    }

    fn lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(session) = self.rename.take() {
            self.target = format!("{}&as={}", self.target, encoded(&session));
        }
        self.sent += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.uploading()?.write_all(bytes)?;
        let sent = self.sent;
        self.progress.tell(|| format!("{} sent", some(sent, "line")));
        Ok(())
    }

    fn failed(&mut self, unit: u64, why: String) -> io::Result<()> {
        self.failed_count += 1;
        if self.failed.len() < TOLD_MAX {
            self.failed.push((unit, why));
        }
        Ok(())
    }
}

/// What became of a file.
struct ImportReport {
    imported: u64,
    already_there: u64,
    skipped_count: u64,
    /// How many for each reason.
    counts: BTreeMap<String, u64>,
    /// The first of them by unit: the reason for programs and for people.
    skipped: BTreeMap<u64, Vec<(String, String)>>,
    unit: &'static str,
}

impl ImportReport {
    fn each_skipped(&self) -> impl Iterator<Item = (u64, &(String, String))> {
        self.skipped.iter().flat_map(|(unit, reasons)| reasons.iter().map(|reason| (*unit, reason)))
    }

    fn tell(&self, form: ReportFormat) -> Result<(), CommandError> {
        if form == ReportFormat::Json {
            let skipped = self.each_skipped().map(|(unit, (reason, detail))| {
                let mut one = json!({"reason": reason, "detail": detail});
                one[self.unit] = unit.into();
                one
            });
            let skipped: Value = skipped.collect();
            let Self { imported, already_there, skipped_count, counts, .. } = self;
            let report = json!({
                "imported": imported, "already_there": already_there, "skipped": skipped,
                "skipped_count": skipped_count, "skipped_by_reason": counts
            });
            return print(&format!("{report}\n"));
        }
        self.notes().iter().for_each(|told| note(told));
        print(&format!("{}\n", self.last_line()))
    }

    /// What is skipped and why: a line for each reason, with the first numbers.
    fn notes(&self) -> Vec<String> {
        let mut by_detail: Vec<(&str, Vec<u64>)> = Vec::new();
        for (unit, (_, detail)) in self.each_skipped() {
            let known = by_detail.iter().position(|(known, _)| known == detail);
            if known.is_none() && by_detail.len() < TOLD_MAX {
                by_detail.push((detail, vec![unit]));
            } else if let Some((_, units)) = known.and_then(|at| by_detail.get_mut(at))
                && units.last() != Some(&unit)
            {
                units.push(unit);
            }
        }
        let told = |(detail, units): (&str, Vec<u64>)| {
            let numbers: Vec<String> = units.iter().take(TOLD_MAX).map(u64::to_string).collect();
            let (numbers, more) = (numbers.join(", "), if units.len() > TOLD_MAX { " and others" } else { "" });
            match units.len() {
                1 => format!("{} {numbers} is skipped: {detail}", self.unit),
                _ => format!("{}s {numbers}{more} are skipped: {detail}", self.unit),
            }
        };
        by_detail.into_iter().map(told).collect()
    }

    fn last_line(&self) -> String {
        let Self { imported, already_there, skipped_count, counts, .. } = self;
        let why: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
        format!("imported {imported}, already there {already_there}, skipped {skipped_count}{why}")
    }

    /// Whether a line failed, or nothing could be imported.
    fn verdict(&self) -> Result<(), CommandError> {
        if self.imported + self.already_there == 0 {
            return Err(CommandError::Other("nothing could be imported".to_owned()));
        }
        // What a server does not give a reason for counts as failed.
        let left_out: u64 = LEFT_OUT.iter().filter_map(|reason| self.counts.get(*reason)).sum();
        match self.skipped_count > left_out {
            true => Err(CommandError::Other("not everything could be imported".to_owned())),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_for_no_known_reason_is_a_failure() {
        let report = |skipped_count, counts: &[(&str, u64)]| ImportReport {
            imported: 1,
            already_there: 0,
            skipped_count,
            counts: counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            skipped: BTreeMap::new(),
            unit: "line",
        };
        assert!(report(0, &[]).verdict().is_ok());
        assert!(report(3, &[("expired", 2), ("erased", 1)]).verdict().is_ok());
        assert!(report(3, &[("expired", 2), ("invalid_field", 1)]).verdict().is_err());
        // A server of an earlier version tells no reasons.
        assert!(report(3, &[]).verdict().is_err());
    }
}
