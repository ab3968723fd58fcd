//! What a request for a completion asks of chatkeep itself. All other fields are for the model.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::body;
use crate::api::chat::{KEY_HEADER, check_key};
use crate::api::shape::{FieldKind, Shape};
use crate::api::turn::on_disconnect;
use crate::api::{Problem, RequestHead, content};
use crate::config::OnDisconnect;
use crate::front::GivenMessage;
use crate::permit::HeldBytes;

/// The headers that name a conversation; the first that is there counts.
const NAME_HEADERS: [&str; 3] = ["X-Conversation-Id", "X-Session-Id", "X-OpenWebUI-Chat-Id"];
/// The header that keeps a request from being recorded.
const RECORD_HEADER: &str = "X-Chatkeep-Record";
/// The header by which Open WebUI says what a request of its own is for, such as a title; empty for a user's.
const TASK_HEADER: &str = "X-OpenWebUI-Task";
/// The model of a request that names none.
const NO_MODEL: &str = "chatkeep";

const REQUEST: &Shape = &[
    ("messages", FieldKind::MaybeArray),
    ("model", FieldKind::MaybeText),
    ("stream", FieldKind::MaybeBool),
    ("store", FieldKind::MaybeBool),
];

#[derive(Deserialize)]
struct RequestBody {
    messages: Option<Messages>,
    model: Option<String>,
    stream: Option<bool>,
    store: Option<bool>,
    stream_options: Option<Value>,
    n: Option<Value>,
    metadata: Option<Value>,
    litellm_session_id: Option<Value>,
}

/// Messages, of which one at a time is held as JSON: a request may have 16 MiB.
struct Messages(Vec<GivenMessage>);

/// A request for a completion.
#[derive(Debug)]
pub(super) struct CompletionRequest<'a> {
    /// At least one.
    pub(super) messages: Vec<GivenMessage>,
    pub(super) model: String,
    pub(super) stream: bool,
    /// A stream is to tell its usage.
    pub(super) with_usage: bool,
    pub(super) is_recorded: bool,
    /// The conversation's name.
    pub(super) name: Option<String>,
    pub(super) key: Option<&'a str>,
    pub(super) on_disconnect: Option<OnDisconnect>,
}

impl<'a> CompletionRequest<'a> {
    /// Reads a request. Where `body` is not JSON as it stands, for a byte order mark or half a character, it is made so.
    ///
    /// # Errors
    /// 400, 415 or 422, naming the field. The same request fails again.
    pub(super) fn read(head: &RequestHead<'a>, body: &mut HeldBytes) -> Result<Self, Problem> {
        let mended = match content::json_only(head, body)? {
            Cow::Borrowed(json) if json.len() == body.len() => None,
            json => Some(json.into_owned()),
        };
        if let Some(json) = mended {
            *body.bytes() = json;
        }
        let invalid = |at, message: &Value| GivenMessage::read(at, message).err();
        let read: RequestBody = body::open_object(body, REQUEST, |map| {
            let mut messages = map.get("messages")?.as_array()?.iter().enumerate();
            messages.find_map(|(at, message)| invalid(at, message)).map(Problem::from)
        })?;
        let messages = read.messages.map(|messages| messages.0).unwrap_or_default();
        if messages.is_empty() {
            return Err(Problem::field("messages", "must be an array of at least one message"));
        }
        if read.n.is_some_and(|n| n.as_f64() != Some(1.0)) {
            return Err(Problem::field("n", "must be 1: a conversation goes on with one answer"));
        }
        let key = head.single(KEY_HEADER)?;
        check_key(key, KEY_HEADER)?;
        Ok(Self {
            messages,
            model: read.model.unwrap_or_else(|| NO_MODEL.to_owned()),
            stream: read.stream.unwrap_or(false),
            with_usage: read.stream_options.is_some_and(|options| options["include_usage"] == true),
            is_recorded: is_recorded(head)? && read.store != Some(false) && !is_temporary(head),
            name: name(head, read.metadata.as_ref(), read.litellm_session_id.as_ref())?,
            key,
            on_disconnect: on_disconnect(head)?,
        })
    }
}

/// Whether the headers let the request be recorded.
fn is_recorded(head: &RequestHead<'_>) -> Result<bool, Problem> {
    match head.single(RECORD_HEADER)? {
        Some(word) if word.eq_ignore_ascii_case("no") => Ok(false),
        Some(word) if word.eq_ignore_ascii_case("yes") => Ok(true),
        None => Ok(head.header(TASK_HEADER).is_none_or(str::is_empty)),
        Some(_) => Err(Problem::field(RECORD_HEADER, "must be yes or no")),
    }
}

/// Whether Open WebUI says that the chat is a temporary one, of which it keeps nothing itself.
fn is_temporary(head: &RequestHead<'_>) -> bool {
    let id = head.header(NAME_HEADERS[2]).unwrap_or_default();
    ["local:", "temporary:"].iter().any(|begin| id.starts_with(begin))
}

/// The name of the conversation: by a header, else by a field. Empty ones, and fields that are no strings, name none.
fn name(
    head: &RequestHead<'_>,
    metadata: Option<&Value>,
    litellm_session: Option<&Value>,
) -> Result<Option<String>, Problem> {
    for header in NAME_HEADERS {
        if let Some(name) = head.single(header)?.filter(|name| !name.is_empty()) {
            return Ok(Some(name.to_owned()));
        }
    }
    let of_metadata = |field: &str| metadata.and_then(|metadata| metadata.get(field));
    let fields = [of_metadata("session_id"), of_metadata("conversation_id"), litellm_session];
    let mut names = fields.into_iter().flatten().filter_map(Value::as_str).filter(|name| !name.is_empty());
    Ok(names.next().map(str::to_owned))
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(OneByOne)
    }
}

struct OneByOne;

impl<'de> Visitor<'de> for OneByOne {
    type Value = Messages;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an array of messages")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Messages, S::Error> {
        let mut read = Vec::new();
        while let Some(message) = items.next_element::<Value>()? {
            read.push(GivenMessage::read(read.len(), &message).map_err(S::Error::custom)?);
        }
        Ok(Messages(read))
    }
}

#[cfg(test)]
mod tests {
    use tiny_http::Method;

    use super::*;
    use crate::access::{Access, Principal};
    use crate::api::{Presence, Transport, header};

    const HI: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

    fn read<T>(fields: &[(&str, &str)], body: &str, told: impl Fn(CompletionRequest<'_>) -> T) -> Result<T, String> {
        let headers: Vec<_> = fields.iter().map(|(name, value)| header(name, value)).collect();
        let (method, path, query, headers) = (&Method::Post, "/v1/chat/completions", "", &headers);
        let (transport, request_id, left_out, presence) = (Transport::Tcp, "r", None, Presence::UNSEEN);
        let caller = &Principal::without_token(Access::Admin);
        let head = RequestHead { method, path, query, headers, left_out, transport, caller, presence, request_id };
        let mut body = HeldBytes::from(body.as_bytes().to_vec());
        let refused = |p: Problem| format!("{} {} {}", p.status, p.code, p.field.unwrap_or_default());
        CompletionRequest::read(&head, &mut body).map(told).map_err(refused)
    }

    #[test]
    fn a_conversation_is_named_by_the_first_header_or_else_the_first_field() {
        let fields = r#""metadata":{"session_id":"s","conversation_id":"c"},"litellm_session_id":"l""#;
        for (headers, fields, name) in [
            (&[][..], "\"user\":\"u\"", None),
            (&[("X-OpenWebUI-Chat-Id", "o"), ("X-Conversation-Id", "a"), ("X-Session-Id", "b")], fields, Some("a")),
            (&[("X-OpenWebUI-Chat-Id", "o"), ("x-session-id", "b")], fields, Some("b")),
            (&[("X-OpenWebUI-Chat-Id", "o"), ("X-Session-Id", "")], fields, Some("o")),
            (&[], fields, Some("s")),
            (&[], r#""metadata":{"session_id":"","conversation_id":"c"},"litellm_session_id":"l""#, Some("c")),
            (&[], r#""metadata":{"session_id":7},"litellm_session_id":"l""#, Some("l")),
            (&[], r#""metadata":null,"litellm_session_id":["l"]"#, None),
        ] {
            let body = format!("{{{HI},{fields}}}");
            assert_eq!(read(headers, &body, |asked| asked.name).unwrap().as_deref(), name, "{headers:?} {fields}");
        }
        let twice = [("X-Session-Id", "a"), ("X-Session-Id", "b")];
        let refused = read(&twice, &format!("{{{HI}}}"), |_| ()).unwrap_err();
        assert_eq!(refused, "422 invalid_field X-Session-Id");
    }

    #[test]
    fn what_is_recorded_and_streamed_is_read_and_other_fields_pass() {
        let told = |asked: CompletionRequest<'_>| (asked.is_recorded, asked.stream, asked.model);
        for (headers, fields, wanted) in [
            (&[][..], r#""stop":["x"],"seed":1,"n":1,"tools":[{}]"#, (true, false, "chatkeep")),
            (&[], r#""store":null,"stream":true,"model":"m""#, (true, true, "m")),
            (&[], r#""store":false"#, (false, false, "chatkeep")),
            (&[("X-Chatkeep-Record", "No")], r#""store":true"#, (false, false, "chatkeep")),
            (&[("X-OpenWebUI-Task", "title_generation")], "\"seed\":1", (false, false, "chatkeep")),
            (&[("X-OpenWebUI-Chat-Id", "local:abc")], "\"seed\":1", (false, false, "chatkeep")),
            (&[("X-OpenWebUI-Task", "")], "\"seed\":1", (true, false, "chatkeep")),
            (&[("X-Chatkeep-Record", "yes")], r#""store":true"#, (true, false, "chatkeep")),
        ] {
            let (is_recorded, stream, model) = wanted;
            let read = read(headers, &format!("\u{feff}{{{HI},{fields}}}"), told);
            assert_eq!(read, Ok((is_recorded, stream, model.to_owned())), "{fields}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_read_is_refused_by_the_name_of_its_field() {
        const AS_FORM: &[(&str, &str)] = &[("Content-Type", "application/x-www-form-urlencoded")];
        let hi = |more: &str| format!("{{{HI}{more}}}");
        for (headers, body, refusal) in [
            (&[][..], "{}".to_owned(), "422 invalid_field messages"),
            (&[], r#"{"messages":null}"#.to_owned(), "422 invalid_field messages"),
            (&[], r#"{"messages":[]}"#.to_owned(), "422 invalid_field messages"),
            (&[], r#"{"messages":"hi"}"#.to_owned(), "422 invalid_field messages"),
            (&[], r#"{"messages":[{"role":"user","content":"a"},7]}"#.to_owned(), "422 invalid_field messages[1]"),
            (&[], r#"{"messages":[{"content":"a"}]}"#.to_owned(), "422 invalid_field messages[0].role"),
            (&[], hi(r#","stream":"yes""#), "422 invalid_field stream"),
            (&[], hi(r#","model":7"#), "422 invalid_field model"),
            (&[], hi(r#","n":2"#), "422 invalid_field n"),
            (&[], hi(r#","n":"1""#), "422 invalid_field n"),
            (&[], hi(r#","messages":[]"#), "422 invalid_body "),
            (&[], "[1]".to_owned(), "422 invalid_body "),
            (&[], "{".to_owned(), "400 malformed_json "),
            (&[], String::new(), "415 unsupported_media_type "),
            (AS_FORM, "messages=hi".to_owned(), "415 unsupported_media_type "),
            (&[("X-Chatkeep-Record", "maybe")], hi(""), "422 invalid_field X-Chatkeep-Record"),
            (&[("Idempotency-Key", "")], hi(""), "422 invalid_field Idempotency-Key"),
            (&[("X-Chatkeep-On-Disconnect", "go")], hi(""), "422 invalid_field X-Chatkeep-On-Disconnect"),
        ] {
            assert_eq!(read(headers, &body, |_| ()), Err(refusal.to_owned()), "{body}");
        }
        assert_eq!(read(AS_FORM, &hi(""), |asked| asked.messages.len()), Ok(1));
    }
}
