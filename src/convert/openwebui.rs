//! Open WebUI's export of chats: an array of objects with `chat.history.messages`, a tree by id, and `currentId`.

use serde_json::{Map, Value};

use super::line::{ForeignMessage, keep, role_named, session_named, text_of, time_of, under};
use super::tree::{BranchNode, ForeignConversation};
use crate::message::SessionState;

const SYSTEM: &str = "openwebui";

/// What is kept of a message beside its text.
const FIELDS: [&str; 6] = ["model", "files", "error", "sources", "usage", "output"];

/// Reads one.
pub(super) fn conversation(from: &Value) -> Result<ForeignConversation, String> {
    // Older exports have the chat itself.
    let chat = from.get("chat").unwrap_or(from);
    let id = from["id"].as_str().or_else(|| chat["id"].as_str()).filter(|id| !id.is_empty());
    let id = id.ok_or("it is no chat of Open WebUI: it has no `id`")?;
    let title = from["title"].as_str().or_else(|| chat["title"].as_str()).filter(|title| !title.is_empty());
    let nodes = match (chat["history"]["messages"].as_object(), chat["messages"].as_array()) {
        (Some(messages), _) if !messages.is_empty() => {
            messages.iter().map(|(key, message)| node(key, message)).collect()
        }
        (_, Some(messages)) => messages.iter().enumerate().map(|(at, message)| listed(at, message)).collect(),
        (Some(_), None) => Vec::new(),
        (None, None) => return Err("it is no chat of Open WebUI: it has no `chat.history.messages`".into()),
    };
    Ok(ForeignConversation {
        session: Some(session_named(SYSTEM, id)),
        state: SessionState {
            title: title.map(str::to_owned),
            archived: from["archived"] == true,
            pinned: from["pinned"] == true,
            ..SessionState::default()
        },
        created: time_of(&from["created_at"]).or_else(|| time_of(&chat["timestamp"])),
        updated: time_of(&from["updated_at"]),
        nodes,
        current: chat["history"]["currentId"].as_str().map(str::to_owned),
    })
}

fn node(key: &str, message: &Value) -> BranchNode {
    let parent = message["parentId"].as_str().map(str::to_owned);
    BranchNode { key: key.to_owned(), parent, time: time_of(&message["timestamp"]), said: said(message) }
}

/// A message of a list without a tree.
fn listed(at: usize, message: &Value) -> BranchNode {
    let parent = at.checked_sub(1).map(|before| format!("#{before}"));
    BranchNode { key: format!("#{at}"), parent, time: time_of(&message["timestamp"]), said: said(message) }
}

fn said(message: &Value) -> Option<ForeignMessage> {
    let role = role_named(message["role"].as_str()?);
    let mut fields = Map::new();
    FIELDS.iter().for_each(|name| keep(&mut fields, name, message.get(*name)));
    let content = &message["content"];
    keep(&mut fields, "content", Some(content).filter(|content| content.is_array()));
    let (mut text, mut metadata) = (text_of(content), Map::new());
    if let Some(why) = message["error"]["content"].as_str().filter(|_| text.is_empty()) {
        text = why.to_owned();
        metadata.insert("status".into(), "error".into());
    }
    if text.is_empty() && !fields.contains_key("files") && !fields.contains_key("output") {
        return None;
    }
    metadata.extend(under(SYSTEM, fields));
    Some(ForeignMessage { role, text, metadata, vector_ids: vec![] })
}
