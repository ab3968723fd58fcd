//! The checks that need only HTTP and the file system, in the order of the checklist.
//!
//! Each check reads the status again, so that one fault shows in its own check and hides no other. Facts of the log are
//! taken from the status, which a program can read from outside. Messages of other sessions may arrive meanwhile: no
//! check waits for the server to be idle. Knows nothing of how the lines are printed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::client::{Request, Wait};
use crate::cli::show::encoded;
use crate::message::{Id, Timestamp};

use super::run::{CheckResult, Run, Sent};

/// How long a reply may take: a model may have to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long any other answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long messages may take to arrive, in addition to `journal.checkpoint_seconds`.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval between two reads of the status.
const STATUS_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How much of a transcript's end is read, in bytes.
const TRANSCRIPT_BYTES: u64 = 1 << 20;

/// A message over REST is answered, and both are durable; without a responder the message is.
pub(super) fn rest(run: &mut Run<'_>) -> CheckResult {
    let body = json!({"message": "ping from rest", "session_id": run.session.as_str()});
    let wait = Wait::Whole(REPLY_TIMEOUT);
    let request = Request { target: "/api/chat", accept: "application/json", method: "POST", body: Some(&body), wait };
    let reply = run.client.send(&request).and_then(|reply| reply.accepted()?.json()).map_err(|e| e.to_string())?;
    let user = id_of(&reply, "user_message_id")?;
    run.sent.push(Sent { id: user, role: "user" });
    if run.is_answered() {
        answer(run, &reply)?;
    }
    if reply["session_id"] != run.session.as_str() {
        return Err(format!("the reply is of the session {}", reply["session_id"]));
    }
    if reply["timestamp"].as_str().is_none_or(|time| Timestamp::parse(time).is_none()) {
        return Err(format!("the timestamp of the reply is {}", reply["timestamp"]));
    }
    let durable = match run.before["journal"]["fsync"] == "always" {
        true => "disk",
        false => "os",
    };
    if reply["durable"] != durable {
        return Err(format!("the reply is durable as {}, and journal.fsync wants \"{durable}\"", reply["durable"]));
    }
    Ok(match run.is_answered() {
        true => format!("POST /api/chat is answered, both messages are recorded, durable: {durable}"),
        false => format!(
            "POST /api/chat: the message is recorded, durable: {durable}; there is no responder (responder.kind is none)"
        ),
    })
}

/// The reply has an answer, which is complete.
fn answer(run: &mut Run<'_>, reply: &Value) -> Result<(), String> {
    let Some(response) = reply["response"].as_str().filter(|response| !response.is_empty()) else {
        return Err("the message is recorded, and there is no answer (the log says why)".to_owned());
    };
    run.sent.push(Sent { id: id_of(reply, "assistant_message_id")?, role: "assistant" });
    if reply["status"] != "completed" {
        return Err(format!("the status of the reply is {}, not completed: {response}", reply["status"]));
    }
    Ok(())
}

fn id_of(reply: &Value, field: &str) -> Result<String, String> {
    let id = reply[field].as_str().filter(|id| id.parse::<Id>().is_ok());
    id.map(str::to_owned).ok_or_else(|| format!("{field} of the reply is {} and no id", reply[field]))
}

/// The history has what was recorded so far.
pub(super) fn history(run: &Run<'_>) -> CheckResult {
    let page = page(run)?;
    let messages = page["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for Sent { id, role } in &run.sent {
        match messages.iter().find(|message| message["id"] == id.as_str()) {
            None => return Err(format!("the {role} message {id} is not in the newest {} messages", messages.len())),
            Some(message) if message["role"] != *role => {
                return Err(format!("the {role} message {id} has the role {}", message["role"]));
            }
            Some(_) => {}
        }
    }
    let roles: Vec<&str> = run.sent.iter().map(|sent| sent.role).collect();
    match (roles.contains(&"user"), roles.contains(&"assistant")) {
        (true, true) => Ok(format!("GET /api/chat/history shows them, of the roles {}", roles.join(" and "))),
        (true, false) if !run.is_answered() => Ok("GET /api/chat/history shows it, of the role user".to_owned()),
        (true, false) => Err("only a user message is there, no assistant has answered (see REST)".to_owned()),
        _ => Err("nothing was recorded that could be looked for (see REST)".to_owned()),
    }
}

fn page(run: &Run<'_>) -> Result<Value, String> {
    let target = format!("/api/chat/history?session_id={}&limit=50", encoded(run.session));
    run.client.get(&target, ANSWER_TIMEOUT).map_err(|e| e.to_string())
}

/// The worker has taken everything that was recorded so far.
pub(super) fn flush(run: &Run<'_>) -> CheckResult {
    let began = Instant::now();
    let number = |status: &Value, field: &str| status["journal"][field].as_u64().unwrap_or_default();
    let wanted = number(&status(run)?, "last_sequence");
    let status = wait(run, |status| number(status, "checkpoint") >= wanted)?;
    let (waited, queue) = (began.elapsed().as_secs_f64(), &status["queue"]);
    if number(&status, "checkpoint") >= wanted {
        return Ok(format!("all {wanted} records have arrived after {waited:.1} s, {} are pending", queue["pending"]));
    }
    let why = match (&status["mongo"]["status"], number(&status, "transcribed") < wanted) {
        (Value::String(word), _) if word == "error" => format!("MongoDB: {}", reason(&status)),
        (_, true) => {
            format!("is {} writable, and has the disk room? the log says", status["cache"]["disk_path"])
        }
        _ => "the log says".to_owned(),
    };
    Err(format!("{} records are pending after {waited:.1} s (why: {why})", queue["pending"]))
}

/// The transcript has what was recorded.
pub(super) fn transcript(run: &Run<'_>) -> CheckResult {
    let folder = PathBuf::from(run.before["cache"]["disk_path"].as_str().unwrap_or_default());
    let shown = folder.join(run.session.file_name());
    if run.client.socket().is_none() && !is_here(&run.config.server.listen) {
        return Ok(format!("{} is not on this machine and not looked at", shown.display()));
    }
    let path = run.client.servers_folder().unwrap_or_default().join(&shown);
    let told = |fault: io::Error| {
        format!("{}: {fault} (is its folder writable for the server? its log says)", shown.display())
    };
    let text = end_of(&path).map_err(told)?;
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for Sent { id, role } in &run.sent {
        let is_it = |line: &Value| line["id"] == id.as_str() && line["role"] == *role;
        if !lines.iter().any(is_it) {
            let what = format!("{} has no line of the {role} message {id}", shown.display());
            return Err(format!("{what} (is its folder writable for the server? its log says)"));
        }
    }
    if run.sent.is_empty() {
        return Err("nothing was recorded that could be looked for (see REST)".to_owned());
    }
    Ok(match run.sent.len() {
        1 => format!("{} has the message", shown.display()),
        count => format!("{} has all {count} messages", shown.display()),
    })
}

/// Whether a listener is reachable from this machine only.
fn is_here(listen: &str) -> bool {
    listen.to_socket_addrs().is_ok_and(|mut found| found.all(|at| at.ip().is_loopback() || at.ip().is_unspecified()))
}

fn end_of(path: &Path) -> io::Result<String> {
    // Opening a FIFO in its place would hang.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TRANSCRIPT_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TRANSCRIPT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// MongoDB is as configured.
pub(super) fn mongo(run: &Run<'_>) -> CheckResult {
    let wanted = run.config.mongo.enabled;
    let status = wait(run, |status| status["mongo"]["status"] != "connecting")?;
    let mongo = &status["mongo"];
    let text = |field: &str| mongo[field].as_str().unwrap_or_default();
    match (mongo["enabled"] == true, wanted, text("status")) {
        (true, false, _) | (false, true, _) => Err(format!(
            "mongo.enabled is {} in the running server and {wanted} in this configuration (restart it, or name its \
             configuration with --config)",
            mongo["enabled"]
        )),
        (false, false, "disabled") => Ok("disabled, as configured".to_owned()),
        (true, true, "ok") => {
            let hosts = mongo["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let hosts = hosts.collect::<Vec<_>>().join(", ");
            let differing = match mongo["differing_indexes"].as_array().map_or(0, Vec::len) {
                0 => String::new(),
                count => format!("; {count} of its indexes differ, which is left alone"),
            };
            Ok(format!("ok, {}.{} on {hosts}{differing}", text("database"), text("chat_collection")))
        }
        (_, _, word) => Err(format!(
            "its status is {word} since {}: {} (start MongoDB, or put mongo.uri right; messages wait in the journal)",
            text("since"),
            reason(&status)
        )),
    }
}

/// MongoDB has the documents.
pub(super) fn documents(run: &Run<'_>) -> CheckResult {
    if run.before["mongo"]["enabled"] != true {
        return Ok("none are wanted, MongoDB is not enabled".to_owned());
    }
    let count = |status: &Value, field: &str| status["queue"][field].as_u64().unwrap_or_default();
    let (refused, sent) = (count(&run.before, "dead_letters"), run.sent.len() as u64);
    let arrived = |status: &Value| count(status, "stored") + count(status, "already_stored");
    let target = arrived(&run.before) + sent;
    let is_done = |status: &Value| arrived(status) >= target || count(status, "dead_letters") > refused;
    let status = wait(run, is_done)?;
    if count(&status, "dead_letters") > refused {
        return Err("MongoDB refuses messages for good (dead_letter.jsonl in the data folder says why)".to_owned());
    }
    if arrived(&status) < target {
        return Err(format!("MongoDB has not got {} (why: {})", all(sent), reason(&status)));
    }
    let newest = run.sent.iter().map(|sent| sent.id.as_str()).max().and_then(|id| id.parse::<Id>().ok());
    let persisted = |page: &Value| page["last_persisted_at"].as_str().and_then(Timestamp::parse);
    // Messages of others count as well, and may have come first.
    let has_all = |page: &Value| newest.is_none_or(|newest| persisted(page).is_some_and(|time| time >= newest.time()));
    let page = once(run, page, has_all)?;
    let persisted = persisted(&page);
    match (newest, persisted) {
        _ if page["complete"] != true => {
            let why = page["reason"].as_str().unwrap_or("no reason is given");
            Err(format!("the history could not ask MongoDB ({why})"))
        }
        (Some(newest), Some(persisted)) if persisted >= newest.time() => {
            let are = if sent == 1 { "is" } else { "are" };
            Ok(format!("{} {are} stored, last_persisted_at is {persisted}", all(sent)))
        }
        (Some(newest), _) => Err(format!(
            "last_persisted_at is {}, and the newest message is of {}",
            page["last_persisted_at"],
            newest.time()
        )),
        (None, _) => Err("nothing was recorded that could be looked for (see REST)".to_owned()),
    }
}

fn all(sent: u64) -> String {
    if sent == 1 { "the message".to_owned() } else { format!("all {sent} messages") }
}

/// The cache is as configured.
pub(super) fn cache(run: &Run<'_>) -> CheckResult {
    let (found, wanted) = (&run.before["cache"], &run.config.mongo.cache);
    let base = run.client.servers_folder().unwrap_or_default();
    let folder = found["disk_path"].as_str().unwrap_or_default();
    let mut differing = Vec::new();
    let mut compare = |key: &str, is_same: bool, wanted: String| {
        if !is_same {
            differing.push(format!("{key} is {} and not {wanted}", found[key]));
        }
    };
    let (most, bytes, flush) = (wanted.max_messages_per_session, wanted.max_bytes, run.config.mongo.enabled);
    compare("max_messages_per_session", found["max_messages_per_session"] == most, most.to_string());
    compare("max_bytes", found["max_bytes"] == bytes, bytes.to_string());
    compare("disk_path", is_same(&base.join(folder), &wanted.disk_path), wanted.disk_path.display().to_string());
    compare("flush_enabled", found["flush_enabled"] == flush, flush.to_string());
    if differing.is_empty() {
        return Ok(format!("{most} messages a session, {bytes} bytes, {folder}, as configured"));
    }
    Err(format!("{} (restart the server, or name its configuration with --config)", differing.join("; ")))
}

/// Whether two paths are the same file, as far as that can be seen.
fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other || one.ends_with(other),
    }
}

/// The journal takes messages.
pub(super) fn journal(run: &Run<'_>) -> CheckResult {
    let status = status(run)?;
    let journal = &status["journal"];
    let warnings: Vec<&str> = journal["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let warned = if warnings.is_empty() { String::new() } else { format!("; warnings: {}", warnings.join(", ")) };
    match journal["status"].as_str().unwrap_or("unknown") {
        "ok" => Ok(format!("ok, fsync {}{warned}", journal["fsync"].as_str().unwrap_or("unknown"))),
        word => Err(format!("its status is {word} (make room, or mend its disk; it goes on by itself){warned}")),
    }
}

fn reason(status: &Value) -> &str {
    status["mongo"]["reason"].as_str().unwrap_or("no reason is given")
}

fn status(run: &Run<'_>) -> Result<Value, String> {
    run.status().map_err(|e| e.to_string())
}

/// The status once it `holds`, or the last one before the time is over.
fn wait(run: &Run<'_>, holds: impl Fn(&Value) -> bool) -> Result<Value, String> {
    once(run, status, holds)
}

/// The same for any answer.
fn once(
    run: &Run<'_>,
    ask: impl Fn(&Run<'_>) -> Result<Value, String>,
    holds: impl Fn(&Value) -> bool,
) -> Result<Value, String> {
    let until = Instant::now() + FLUSH_TIMEOUT + run.config.journal.checkpoint_interval;
    loop {
        let answer = ask(run)?;
        if holds(&answer) || Instant::now() >= until {
            return Ok(answer);
        }
        // The condition is another process's, so nothing can wake us.
        std::thread::park_timeout(STATUS_POLL_INTERVAL);
    }
}
