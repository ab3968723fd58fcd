//! `chatkeep retry-dead-letters` and `resend-to-mongo`: has a running server send to MongoDB again, and reports what came of it.
//!
//! The server does it, since it alone writes to its data folder, and goes on if this command is interrupted; asked for the same
//! meanwhile, it reports the same. Standard output has the report and nothing else.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::doctor::some;

use super::args::{Options, ReportFormat};
use super::client::{Client, Request, Wait};
use super::screen::{CommandError, note, number, print, visible, word};
use super::show::{client, status_of};

/// How long the server may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Between two notes of how far it is.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);

/// Has the dead letters sent again.
pub(super) fn retry_dead_letters(options: &Options) -> Result<(), CommandError> {
    run(options, &json!({"dead_letters": true}))
}

/// Has sent again what was recorded since a time.
pub(super) fn resend_to_mongo(options: &Options) -> Result<(), CommandError> {
    run(options, &json!({"since": options.since}))
}

fn run(options: &Options, asked: &Value) -> Result<(), CommandError> {
    let client = client(options)?;
    let (target, accept, wait) = ("/api/storage/resend", "application/json", Wait::Whole(BEGIN_TIMEOUT));
    let begun =
        client.send(&Request { target, accept, method: "POST", body: Some(asked), wait })?.accepted()?.json()?;
    let ended = follow(&client, begun)?;
    print(&match options.form {
        ReportFormat::Json => format!("{ended}\n"),
        ReportFormat::Lines => report(&ended),
    })?;
    let is_short = ["refused", "unreadable", "lost"].iter().any(|count| number(&ended[*count]) > 0);
    match is_short || ended["reason"].is_string() {
        true => Err(CommandError::Other("not everything is in MongoDB".to_owned())),
        false => Ok(()),
    }
}

/// Waits until it has ended, and returns the last that was told of it.
fn follow(client: &Client, begun: Value) -> Result<Value, CommandError> {
    let (mut last, mut told, mut fault) = (begun, Instant::now(), Value::Null);
    while last["running"] == true {
        std::thread::sleep(LOOK_INTERVAL);
        let mut mongo = status_of(client).map_err(|fault| interrupted(&fault))?["mongo"].take();
        let now = mongo["resend"].take();
        if now["began_at"] != last["began_at"] {
            return Err(interrupted(&"it was started again"));
        }
        last = now;
        if mongo["reason"] != fault {
            fault = mongo["reason"].take();
            note(&match fault.is_null() {
                true => "MongoDB works again".to_owned(),
                false => format!("{}; the server goes on when MongoDB works", word(&fault)),
            });
        } else if told.elapsed() >= NOTE_INTERVAL {
            told = Instant::now();
            let sent = number(&last["stored"]) + number(&last["already_stored"]);
            note(&format!("{} so far", some(sent, "message")));
        }
    }
    Ok(last)
}

fn interrupted(why: &dyn std::fmt::Display) -> CommandError {
    let what = "the server stopped before it had sent all of it; nothing is lost, the same again sends the rest";
    CommandError::Other(format!("{what} ({why})"))
}

/// What came of it, for people.
fn report(ended: &Value) -> String {
    let of = |name: &str| number(&ended[name]);
    let (stored, already, refused) = (of("stored"), of("already_stored"), of("refused"));
    let what = if ended["task"] == "dead_letters" { "dead letter" } else { "message" };
    let mut lines = vec![format!(
        "{} sent again: {stored} stored, {already} there already, {refused} refused",
        some(stored + already + refused, what)
    )];
    if let Some(reason) = ended["reason"].as_str() {
        lines.push(format!("reason: {}", visible(reason)));
    }
    for (name, told) in [
        ("expired", "expired by mongo.ttl_days, not sent"),
        ("unreadable", "could not be read, the server's log says which"),
        ("lost", "lost a part that is nowhere here: chatkeep doctor"),
    ] {
        let what = if name == "lost" { "transcript" } else { what };
        lines.extend(Some(of(name)).filter(|count| *count > 0).map(|count| format!("{}: {told}", some(count, what))));
    }
    if ended["sent_all"] == true {
        lines.push("MongoDB has everything that was ever recorded here".to_owned());
    }
    lines.join("\n") + "\n"
}
