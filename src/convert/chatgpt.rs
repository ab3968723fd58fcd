//! ChatGPT's export: `conversations.json`, or several `conversations-….json`, in its ZIP or beside it.
//!
//! A conversation is a `mapping` of nodes by id; `current_node` is the last one that is shown. Passed over are nodes without
//! a message, of role `system`, hidden ones, and what the model thought.

use serde_json::{Map, Value};

use super::line::{ForeignMessage, keep, session_named, time_of, under};
use super::tree::{BranchNode, ForeignConversation};
use crate::message::SessionState;

const SYSTEM: &str = "chatgpt";

/// Kinds of content that ChatGPT does not show.
const HIDDEN: [&str; 4] = ["user_editable_context", "model_editable_context", "thoughts", "reasoning_recap"];

/// Reads one.
pub(super) fn conversation(from: &Value) -> Result<ForeignConversation, String> {
    let mapping = from["mapping"].as_object().ok_or("it is no conversation of ChatGPT: it has no `mapping`")?;
    let text = |name: &str| from[name].as_str().filter(|text| !text.is_empty());
    let id = text("conversation_id").or_else(|| text("id"));
    let id = id.ok_or("it is no conversation of ChatGPT: it has neither `conversation_id` nor `id`")?;
    let is = |name: &str| from[name] == true;
    Ok(ForeignConversation {
        session: Some(session_named(SYSTEM, id)),
        state: SessionState {
            title: text("title").map(str::to_owned),
            archived: is("is_archived"),
            pinned: is("is_starred"),
            ..SessionState::default()
        },
        created: time_of(&from["create_time"]),
        updated: time_of(&from["update_time"]),
        nodes: mapping.iter().map(|(key, node)| self::node(key, node)).collect(),
        current: text("current_node").map(str::to_owned),
    })
}

fn node(key: &str, node: &Value) -> BranchNode {
    let message = &node["message"];
    BranchNode {
        key: key.to_owned(),
        parent: node["parent"].as_str().map(str::to_owned),
        time: time_of(&message["create_time"]),
        said: said(message),
    }
}

fn said(message: &Value) -> Option<ForeignMessage> {
    let (content, metadata) = (&message["content"], &message["metadata"]);
    let kind = content["content_type"].as_str().unwrap_or("text");
    let role = message["author"]["role"].as_str()?;
    if role == "system" || metadata["is_visually_hidden_from_conversation"] == true || HIDDEN.contains(&kind) {
        return None;
    }
    let mut fields = Map::new();
    let text = text(kind, content);
    if kind != "text" {
        fields.insert("content".into(), content.clone());
    }
    keep(&mut fields, "model", metadata.get("model_slug"));
    keep(&mut fields, "attachments", metadata.get("attachments"));
    keep(&mut fields, "name", message["author"].get("name"));
    keep(&mut fields, "recipient", message.get("recipient").filter(|recipient| *recipient != "all"));
    let is_said = !text.is_empty() || fields.contains_key("attachments");
    is_said.then(|| ForeignMessage {
        role: role.to_ascii_lowercase(),
        text,
        metadata: under(SYSTEM, fields),
        vector_ids: vec![],
    })
}

/// What of it is text; a picture or sound is named in its place.
fn text(kind: &str, content: &Value) -> String {
    let field = |name: &str| content[name].as_str().unwrap_or_default();
    let parts = content["parts"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|part| match part {
        Value::String(text) => text.clone(),
        part => match (part["text"].as_str(), part["content_type"].as_str()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(kind)) => format!("[{}]", kind.trim_end_matches("_asset_pointer").replace('_', " ")),
            (None, None) => String::new(),
        },
    });
    let parts: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
    match kind {
        _ if !parts.is_empty() => parts.join("\n"),
        "tether_quote" => [field("title"), field("url"), field("text")].join("\n").trim().to_owned(),
        "tether_browsing_display" => field("result").to_owned(),
        _ => field("text").to_owned(),
    }
}
