//! `chatkeep stop`: ends the answer that a running server is giving in a session.
//!
//! `say` asks for the same when it is interrupted. Knows nothing of turns.

use std::time::Duration;

use serde_json::{Value, json};

use super::args::{Options, ReportFormat};
use super::client::{Client, ClientError, Request, Wait};
use super::screen::{CommandError, print};
use super::show::client;

/// How long the server may take: it waits for nothing.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Stops the answer in a session, and says whether there was one.
pub(super) fn stop(options: &Options) -> Result<(), CommandError> {
    let Some(session) = &options.session else { return Ok(()) };
    let reply = ask(&client(options)?, session.as_str())?;
    print(&match (options.form, reply["stopped"] == true) {
        (ReportFormat::Json, _) => format!("{reply}\n"),
        (ReportFormat::Lines, true) => "stopped\n".to_owned(),
        (ReportFormat::Lines, false) => format!("no answer is being given in {session}\n"),
    })
}

/// Asks the server to end the answer in a session; its reply.
pub(super) fn ask(client: &Client, session: &str) -> Result<Value, ClientError> {
    // A session id has no character that a path must encode.
    let target = format!("/api/chat/sessions/{session}/stop");
    let (body, wait) = (json!({}), Wait::Whole(STOP_TIMEOUT));
    client
        .send(&Request { target: &target, accept: "application/json", method: "POST", body: Some(&body), wait })?
        .accepted()?
        .json()
}
