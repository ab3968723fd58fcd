//! Conversations in the form of OpenAI's protocol: `{"messages":[…]}` on a line each, or the body of a request.
//!
//! What is no text goes where the front keeps it (`front/message.rs`), so the export in that form gives it back. A line that
//! names no conversation gets a session by its content.

use serde_json::{Map, Value};

use crate::front::{GivenMessage, OPENAI};

use super::line::{ForeignMessage, session_named, short_digest, time_of, under};
use super::tree::{BranchNode, ForeignConversation};

/// Fields that may name the conversation.
const NAMES: [&str; 3] = ["session_id", "conversation_id", "litellm_session_id"];

/// Reads one.
pub(super) fn conversation(from: &Value) -> Result<ForeignConversation, String> {
    let messages = from["messages"].as_array().ok_or("it has no `messages`")?;
    let named = |from: &Value| NAMES.iter().find_map(|name| from[*name].as_str().map(str::to_owned));
    let session = match named(from).or_else(|| named(&from["metadata"])) {
        Some(name) => session_named("", &name),
        None => session_named("openai", &short_digest(&from["messages"].to_string())),
    };
    let mut nodes = Vec::new();
    let mut before: Option<String> = None;
    for (at, message) in messages.iter().enumerate() {
        let given = GivenMessage::read(at, message).map_err(|fault| fault.to_string())?;
        let key = format!("{at}\n{}\n{}", given.role, given.text);
        let parent = before.replace(key.clone());
        let time = time_of(&message["created_at"]).or_else(|| time_of(&message["timestamp"]));
        let said =
            ForeignMessage { role: given.role, text: given.text, metadata: metadata(given.openai), vector_ids: vec![] };
        nodes.push(BranchNode { key, parent, time, said: Some(said) });
    }
    let created = time_of(&from["created_at"]).or_else(|| time_of(&from["created"]));
    Ok(ForeignConversation { session: Some(session), created, nodes, ..ForeignConversation::default() })
}

fn metadata(openai: Map<String, Value>) -> Map<String, Value> {
    under(OPENAI, openai)
}
