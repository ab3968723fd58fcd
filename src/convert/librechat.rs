//! LibreChat's export of a conversation as JSON: `messages` in a list, or, when it is exported recursively, each with its
//! answers in `children`. LibreChat shows the newest branch.

use serde_json::{Map, Value};

use super::line::{ForeignMessage, keep, session_named, text_of, time_of, under};
use super::tree::{BranchNode, ForeignConversation};
use crate::message::SessionState;

const SYSTEM: &str = "librechat";

/// What is kept of a message beside its text.
const FIELDS: [&str; 6] = ["model", "endpoint", "sender", "files", "attachments", "finish_reason"];

/// Reads one.
pub(super) fn conversation(from: &Value) -> Result<ForeignConversation, String> {
    let id = from["conversationId"].as_str().filter(|id| !id.is_empty());
    let id = id.ok_or("it is no conversation of LibreChat: it has no `conversationId`")?;
    // Of one without branches the list is called otherwise by some versions.
    let messages = from["messages"].as_array().or_else(|| from["messagesTree"].as_array());
    let messages = messages.ok_or("it is no conversation of LibreChat: it has no `messages`")?;
    let title = from["title"].as_str().filter(|title| !title.is_empty());
    let mut nodes = Vec::new();
    let mut left: Vec<(&Value, Option<String>)> = messages.iter().rev().map(|message| (message, None)).collect();
    while let Some((message, above)) = left.pop() {
        let key = message["messageId"].as_str().map_or_else(|| format!("#{}", nodes.len()), str::to_owned);
        let children = message["children"].as_array().into_iter().flatten();
        left.extend(children.rev().map(|child| (child, Some(key.clone()))));
        let parent = message["parentMessageId"].as_str().map(str::to_owned).or(above);
        nodes.push(BranchNode { key, parent, time: time_of(&message["createdAt"]), said: said(message) });
    }
    Ok(ForeignConversation {
        session: Some(session_named(SYSTEM, id)),
        state: SessionState { title: title.map(str::to_owned), ..SessionState::default() },
        created: time_of(&from["createdAt"]),
        updated: time_of(&from["updatedAt"]).or_else(|| time_of(&from["exportAt"])),
        nodes,
        current: None,
    })
}

fn said(message: &Value) -> Option<ForeignMessage> {
    let is_user = match (message["isCreatedByUser"].as_bool(), message["sender"].as_str()) {
        (Some(is_user), _) => is_user,
        (None, sender) => sender.is_some_and(|sender| sender.eq_ignore_ascii_case("user")),
    };
    let text = match message["text"].as_str().filter(|text| !text.is_empty()) {
        Some(text) => text.to_owned(),
        None => text_of(&message["content"]),
    };
    let (mut fields, mut metadata) = (Map::new(), Map::new());
    FIELDS.iter().for_each(|name| keep(&mut fields, name, message.get(*name)));
    keep(&mut fields, "content", message.get("content").filter(|content| content.is_array()));
    if text.is_empty() && !["files", "attachments", "content"].iter().any(|name| fields.contains_key(*name)) {
        return None;
    }
    if message["error"] == true {
        metadata.insert("status".into(), "error".into());
    }
    metadata.extend(under(SYSTEM, fields));
    let role = if is_user { "user" } else { "assistant" };
    Some(ForeignMessage { role: role.to_owned(), text, metadata, vector_ids: vec![] })
}
