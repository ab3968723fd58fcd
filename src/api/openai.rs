//! `POST /v1/chat/completions`, `GET /v1/models` and `GET /v1/models/{model}`: chatkeep for clients of OpenAI's protocol.
//!
//! ```text
//! request.rs   what is asked: headers and body
//! source.rs    an answer piece by piece, and its end, however it was begun
//! chunks.rs    the protocol's objects for text that chatkeep has itself
//! reply.rs     from an answer to a reply, whole or streamed
//! ```
//!
//! What a model server sends goes on as it came. Nothing final leaves before the answer is durable: neither `[DONE]` nor a
//! whole body. Knows nothing of how a conversation is found and recorded (`front`).

mod chunks;
mod reply;
mod request;
mod source;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::chat::{Chat, GivenKey, TurnClient, WhenBusy};
use crate::front::{Front, FrontRequest};
use crate::logging;
use crate::message::Clock;
use crate::permit::HeldBytes;

use super::{Problem, Reply, RequestHead, header, json_bytes};
use chunks::Completion;
use reply::CompletionReply;
use request::CompletionRequest;
use source::Source;

/// What precedes the name of a model.
const MODELS: &str = "/v1/models/";

/// How long a model server may take to tell its models.
const MODELS_TIMEOUT: Duration = Duration::from_secs(5);

/// `POST /v1/chat/completions`: an answer in the protocol's shape, one object or a stream of chunks. Takes the body.
pub fn complete(
    (front, chat): (&Arc<Front>, &Chat),
    head: &RequestHead<'_>,
    body: &mut HeldBytes,
) -> Result<Reply, Problem> {
    if !chat.has_responder() {
        return Err(no_responder());
    }
    let asked = CompletionRequest::read(head, body)?;
    let stream = asked.stream;
    let answer = begin(front, head, asked, Arc::new(std::mem::take(body)))?;
    Ok(answer.reply(stream, head))
}

/// Has a request answered; if it is to be recorded, what is new in it is.
fn begin(
    front: &Arc<Front>,
    head: &RequestHead<'_>,
    asked: CompletionRequest<'_>,
    body: Arc<HeldBytes>,
) -> Result<CompletionReply, Problem> {
    let (name, messages, transport) = (asked.name.as_deref(), &asked.messages[..], head.transport);
    let key = asked.key.map(|key| GivenKey::new(key, &body));
    let request = FrontRequest { caller: head.caller, name, messages, body, key, transport };
    if !asked.is_recorded {
        let unrecorded = front.begin_unrecorded(&request)?;
        let completion = Completion::new(head.request_id, Clock::system().now(), asked.model, asked.with_usage);
        return Ok(CompletionReply::new(Source::unrecorded(unrecorded), completion, Vec::new()));
    }
    let (when_busy, on_disconnect, presence) = (WhenBusy::Queue, asked.on_disconnect, head.presence);
    let turn = front.begin(&request, &TurnClient { when_busy, on_disconnect, presence })?;
    logging::about_session(turn.session.as_str());
    let user = turn.user.to_string();
    let headers = vec![header("X-Chatkeep-Session", turn.session.as_str()), header("X-Chatkeep-Message-Id", &user)];
    let completion = Completion::new(&user, turn.user.time(), asked.model, asked.with_usage);
    Ok(CompletionReply::new(Source::recorded(front.clone(), turn), completion, headers))
}

/// `GET /v1/models`.
pub fn models(chat: &Chat) -> Result<Reply, Problem> {
    Ok(json_bytes(200, list(chat)?))
}

/// `GET /v1/models/{model}`: that of the list.
pub fn model(chat: &Chat, path: &str) -> Result<Reply, Problem> {
    let name = path.strip_prefix(MODELS).unwrap_or_default();
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    let list: Value = serde_json::from_slice(&list(chat)?).unwrap_or_default();
    let mut models = list["data"].as_array().into_iter().flatten();
    let model = models.find(|model| model["id"] == *name).ok_or_else(|| {
        Problem::new(404, "model_not_found", format!("there is no model {name}: GET /v1/models has them all"))
    })?;
    Ok(json_bytes(200, model.to_string().into_bytes()))
}

fn list(chat: &Chat) -> Result<Vec<u8>, Problem> {
    let told = chat.models(Instant::now() + MODELS_TIMEOUT).ok_or_else(no_responder)?;
    told.map_err(|e| Problem::new(502, "responder_failed", format!("the models cannot be told: {e}")))
}

fn no_responder() -> Problem {
    Problem::new(501, "no_responder", "nothing answers here: responder.kind is none")
}
