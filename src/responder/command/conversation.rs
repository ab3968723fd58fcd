//! What a command is given on its standard input: one JSON object on one line, with this order of its fields.
//!
//! | field | is |
//! |---|---|
//! | `session_id` | the session |
//! | `message_id` | the id of the message to answer |
//! | `text` | its text: in front, so that a shell finds it without a JSON parser |
//! | `messages` | the conversation, oldest first; the last one is the message to answer |
//! | `messages[].id`, `.role`, `.text`, `.created_at`, `.metadata` | as in the history |
//!
//! Of a request with OpenAI's protocol the messages are the client's. `id` and `created_at` are `null` there, but for the last
//! one: which of the others are on record, and when they were said, nobody knows.
//!
//! Fields may be added at the end, none is renamed. Invariant: one message at a time is serialised in memory, in
//! addition to those of the question. Knows nothing of pipes.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::message::{Id, Message};
use crate::responder::Question;

/// The fields of one message.
#[derive(Serialize)]
struct MessageFields<'a> {
    id: Option<Id>,
    role: &'a str,
    text: &'a str,
    created_at: Option<String>,
    metadata: &'a Map<String, Value>,
}

/// The pieces of the object, in order.
pub(super) fn pieces(question: &Question) -> impl Iterator<Item = Vec<u8>> + '_ {
    let text = question.messages.last().map(|message| message.text()).unwrap_or_default();
    let head = format!(
        "{{\"session_id\":{},\"message_id\":{},\"text\":{},\"messages\":[",
        Value::from(question.session.as_str()),
        Value::from(question.user.to_string()),
        Value::from(text),
    );
    let last = question.messages.len().saturating_sub(1);
    let id = move |at: usize, message: &Message| match &question.given {
        None => Some(message.id()),
        Some(_) => (at == last).then_some(question.user),
    };
    let messages = question.messages.iter().enumerate().map(move |(at, message)| {
        let mut piece = if at > 0 { vec![b','] } else { Vec::new() };
        push(&mut piece, message, id(at, message));
        piece
    });
    std::iter::once(head.into_bytes()).chain(messages).chain(std::iter::once(b"]}\n".to_vec()))
}

fn push(to: &mut Vec<u8>, message: &Message, id: Option<Id>) {
    // A line that is no JSON cannot be passed on; no reader shows it either.
    let (text, metadata) = message.parts().map(|parts| (parts.text, parts.metadata)).unwrap_or_default();
    let fields = MessageFields {
        id,
        role: message.role(),
        text: &text,
        created_at: id.map(|id| id.time().to_string()),
        metadata: &metadata,
    };
    serde_json::to_writer(to, &fields).expect("strings and JSON values always serialise into memory");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::message::{Clock, Draft, IdGenerator, Metadata, SessionId};
    use crate::responder::GivenRequest;
    use crate::responder::testing::question;

    #[test]
    fn the_messages_of_a_given_request_are_told_with_what_is_no_text_and_one_id() {
        let (session, mut ids) = (SessionId::new("s").unwrap(), IdGenerator::new(Clock::system(), None));
        let messages = [
            ("assistant", "", json!({"openai": {"tool_calls": [{"id": "c"}]}})),
            ("tool", "5", json!({"openai": {"tool_call_id": "c"}})),
        ];
        let messages = messages.map(|(role, text, given)| {
            let metadata = Metadata { given: given.as_object(), defaults: &[] };
            let draft = Draft { session: &session, role, text, metadata, vector_ids: &[] };
            Arc::new(draft.prepare().seal(ids.next_id()))
        });
        let user = ids.next_id();
        let given = Some(GivenRequest { body: Arc::default(), to: crossbeam_channel::bounded(1).0 });
        let question = Question { messages: messages.to_vec(), user, given, ..question(&[("user", "x")]) };
        let object: Value = serde_json::from_slice(&pieces(&question).flatten().collect::<Vec<_>>()).unwrap();
        assert_eq!((&object["text"], &object["messages"][1]["role"]), (&"5".into(), &"tool".into()));
        let (first, last) = (&object["messages"][0], &object["messages"][1]);
        assert_eq!((&first["id"], &first["created_at"]), (&Value::Null, &Value::Null), "nobody knows");
        assert_eq!((&last["id"], &last["created_at"]), (&user.to_string().into(), &user.time().to_string().into()));
        assert_eq!(object["messages"][0]["metadata"]["openai"]["tool_calls"][0]["id"], "c");
        assert_eq!(object["messages"][1]["metadata"]["openai"]["tool_call_id"], "c");
    }

    #[test]
    fn the_object_has_the_message_first_and_the_conversation_after_it() {
        let question = question(&[("user", "hi \"you\"\n"), ("assistant", "yes?"), ("user", "ü\u{1b}")]);
        let bytes: Vec<u8> = pieces(&question).flatten().collect();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with("]}\n") && text.lines().count() == 1, "{text}");
        let beginning =
            format!("{{\"session_id\":\"s\",\"message_id\":\"{}\",\"text\":\"ü\\u001b\",\"messages\":[", question.user);
        assert!(text.starts_with(&beginning), "{text}");
        let object: Value = serde_json::from_str(&text).unwrap();
        let first = &object["messages"][0];
        assert_eq!(first["text"], "hi \"you\"\n");
        assert_eq!(first["created_at"], question.messages[0].id().time().to_string());
        assert_eq!(first["metadata"]["mood"], "fine");
        assert_eq!(object["messages"][1]["role"], "assistant");
        assert_eq!(object["messages"][2]["id"], question.user.to_string());
        assert_eq!(object["messages"].as_array().unwrap().len(), 3);
    }
}
