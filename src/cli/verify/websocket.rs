//! The check of `/ws/chat`: welcome and status, a message, its ack and its response, both in the history.
//!
//! It speaks another protocol than the other checks, over TCP only. A server that answers 404 and does not claim
//! WebSockets in its status has none; that is reported and is no fault. One deadline covers every wait. Knows nothing
//! of the other checks.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::http::Uri;
use tungstenite::{ClientRequestBuilder, Error, HandshakeError, Message, WebSocket};

use crate::cli::client::{ClientSocket, Wait, reachable};
use crate::cli::show::encoded;

use super::checks;
use super::run::{CheckResult, Run, Sent};

/// From the connection to the response: a model may have to answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// From the response to a status, if none came before.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// The `client_id` of the message.
const CLIENT_ID: &str = "verify";

/// What has arrived so far.
#[derive(Debug, Default)]
struct ReceivedFrames {
    welcome: bool,
    status: bool,
    ack: Option<Value>,
    response: Option<Value>,
}

/// Runs the check.
pub(super) fn check(run: &mut Run<'_>) -> CheckResult {
    let address = reachable(&run.config.server.listen);
    if address.ends_with(":0") {
        return Err("server.listen has port 0 (give the server's address with --listen HOST:PORT)".to_owned());
    }
    let mut socket = match connect(run, &address) {
        Ok(socket) => socket,
        Err(Error::Http(reply)) if reply.status() == 404 && !run.before["websocket"].is_object() => {
            return Ok("/ws/chat is not served by this version (404)".to_owned());
        }
        Err(Error::Http(reply)) if reply.status() == 401 => {
            return Err(format!(
                "ws://{address}/ws/chat is refused with 401: the token here is not one of the server's; give its --config"
            ));
        }
        Err(Error::Http(reply)) => {
            return Err(format!("ws://{address}/ws/chat is refused with {}", reply.status().as_u16()));
        }
        Err(fault) => return Err(format!("ws://{address}/ws/chat: {}", told(fault))),
    };
    let seen = talk(run, &mut socket)?;
    // Everything has arrived; a server that does not answer the close is no fault of this check.
    let _ = socket.close(None);
    let came = recorded(run, &seen)?;
    checks::history(run)?;
    Ok(format!("ws://{address}/ws/chat: {came}"))
}

/// Sends a message and reads until everything has arrived.
fn talk(run: &Run<'_>, socket: &mut WebSocket<ClientSocket>) -> Result<ReceivedFrames, String> {
    let (mut seen, session) = (ReceivedFrames::default(), run.session.as_str());
    while !seen.welcome {
        take(socket, &mut seen, session)?;
    }
    let message = json!({"message": "ping from websocket", "client_id": CLIENT_ID});
    socket.send(Message::text(message.to_string())).map_err(|fault| format!("sending: {}", told(fault)))?;
    while seen.ack.is_none() || (run.is_answered() && seen.response.is_none()) {
        take(socket, &mut seen, session)?;
    }
    // A status may follow the response; it does not wait for a model.
    socket.get_mut().end_within(STATUS_TIMEOUT);
    while !seen.status {
        take(socket, &mut seen, session)?;
    }
    Ok(seen)
}

/// Notes what was recorded, and reports what arrived.
fn recorded(run: &mut Run<'_>, seen: &ReceivedFrames) -> CheckResult {
    let id = |frame: &Option<Value>| Some(frame.as_ref()?["id"].as_str()?.to_owned());
    let user = id(&seen.ack).ok_or("the ack has no id")?;
    if !run.is_answered() {
        run.sent.push(Sent { id: user, role: "user" });
        return Ok("welcome, status and ack came; there is no responder (responder.kind is none)".to_owned());
    }
    let reply = id(&seen.response).ok_or("the response has no id")?;
    if seen.response.as_ref().is_some_and(|response| response["reply_to"] != user.as_str()) {
        return Err("the response is to another message".to_owned());
    }
    run.sent.extend([Sent { id: user, role: "user" }, Sent { id: reply, role: "assistant" }]);
    Ok("welcome, status, ack and response came, both messages are in the history".to_owned())
}

fn connect(run: &Run<'_>, address: &str) -> Result<WebSocket<ClientSocket>, Error> {
    let uri: Uri = format!("ws://{address}/ws/chat?session_id={}", encoded(run.session)).parse()?;
    let mut request = ClientRequestBuilder::new(uri);
    if let Some(token) = run.config.server.auth.widest_token() {
        request = request.with_header("Authorization", format!("Bearer {}", token.expose()));
    }
    match tungstenite::client(request, ClientSocket::tcp(address, Wait::Whole(TIMEOUT))?) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(fault)) => Err(fault),
        Err(HandshakeError::Interrupted(_)) => Err(Error::Io(ErrorKind::TimedOut.into())),
    }
}

/// Reads one frame and notes what it is.
fn take(socket: &mut WebSocket<ClientSocket>, seen: &mut ReceivedFrames, session: &str) -> Result<(), String> {
    let missing = || {
        let wanted = [
            (seen.welcome, "a welcome"),
            (seen.status, "a status"),
            (seen.ack.is_some(), "an ack"),
            (seen.response.is_some(), "a response"),
        ];
        let missing = wanted.into_iter().filter(|(is_there, _)| !is_there).map(|(_, what)| what);
        format!("waiting for {}", missing.collect::<Vec<_>>().join(", "))
    };
    let frame = match socket.read() {
        Ok(Message::Text(text)) => text,
        Ok(Message::Close(frame)) => {
            let code = frame.map_or_else(|| "without a code".to_owned(), |frame| format!("with {}", frame.code));
            return Err(format!("{}: the server closes {code}", missing()));
        }
        Ok(_) => return Ok(()),
        Err(fault) => return Err(format!("{}: {}", missing(), told(fault))),
    };
    let frame: Value = serde_json::from_str(&frame).map_err(|fault| format!("a frame is no JSON ({fault})"))?;
    note(seen, frame, session)
}

/// Notes a frame, if this check waits for its type.
fn note(seen: &mut ReceivedFrames, frame: Value, session: &str) -> Result<(), String> {
    match frame["type"].as_str().unwrap_or_default() {
        "system" if frame["session_id"] != session => {
            return Err(format!("the welcome is to the session {}", frame["session_id"]));
        }
        "system" => seen.welcome = true,
        "status" if frame["status"] == "busy" => {
            return Err("the session is busy with another message (name another with --session)".to_owned());
        }
        "status" => seen.status = true,
        "ack" if frame["client_id"] == CLIENT_ID => seen.ack = Some(frame),
        "response" if frame["status"] == "completed" => seen.response = Some(frame),
        "response" => return Err(format!("the response is {}: {}", frame["status"], frame["message"])),
        "error" => return Err(format!("the server says {}: {}", frame["code"], frame["detail"])),
        _ => {}
    }
    Ok(())
}

fn told(fault: Error) -> String {
    match fault {
        Error::Io(fault) => match fault.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "nothing came in time".to_owned(),
            ErrorKind::ConnectionRefused => {
                "no server listens there (give its address with --listen HOST:PORT)".to_owned()
            }
            _ => fault.to_string(),
        },
        fault => fault.to_string(),
    }
}
