//! The forms of files, how each is recognised, and why one is not converted.

use std::io;
use std::str::FromStr;

use serde_json::Value;

use crate::message::Id;

/// The formats in words, for errors and help.
const FORMATS: &str = "chatkeep, python, openai, chatgpt, openwebui, librechat and langchain";

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportFormat {
    /// Our own lines.
    Chatkeep,
    /// Documents of messages.
    Python,
    /// Conversations as OpenAI's protocol has them.
    OpenAi,
    /// ChatGPT's export.
    ChatGpt,
    /// Open WebUI's export.
    OpenWebUi,
    /// LibreChat's export.
    LibreChat,
    /// Documents of LangChain's message history.
    LangChain,
}

impl ImportFormat {
    const NAMES: [(&str, Self, &str); 7] = [
        ("chatkeep", Self::Chatkeep, "lines of chatkeep"),
        ("python", Self::Python, "messages, a document a line"),
        ("openai", Self::OpenAi, "conversations in OpenAI's form"),
        ("chatgpt", Self::ChatGpt, "an export of ChatGPT"),
        ("openwebui", Self::OpenWebUi, "an export of Open WebUI"),
        ("librechat", Self::LibreChat, "an export of LibreChat"),
        ("langchain", Self::LangChain, "LangChain's message history"),
    ];

    /// Its name in `--from`, and what it is.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str) {
        Self::NAMES.iter().find(|(_, format, _)| *format == self).map_or(("", ""), |(name, _, what)| (name, what))
    }

    /// What a unit of it is called: a line, or a conversation.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Chatkeep | Self::Python | Self::LangChain => "line",
            Self::OpenAi | Self::ChatGpt | Self::OpenWebUi | Self::LibreChat => "conversation",
        }
    }

    /// The format of a file with that value.
    pub(super) fn of(value: &Value) -> Option<Self> {
        let has = |name: &str| value.get(name).is_some();
        let of_chat = |chat: &Value| chat["history"]["messages"].is_object();
        let is_ours = || value["id"].as_str().is_some_and(|id| id.parse::<Id>().is_ok());
        match () {
            () if value["mapping"].is_object() => Some(Self::ChatGpt),
            () if of_chat(value)
                || (has("chat") && (of_chat(&value["chat"]) || value["chat"]["messages"].is_array())) =>
            {
                Some(Self::OpenWebUi)
            }
            () if has("conversationId") && (has("messages") || has("messagesTree")) => Some(Self::LibreChat),
            () if has("SessionId") && has("History") => Some(Self::LangChain),
            () if value["messages"].is_array() => Some(Self::OpenAi),
            () if has("role") && has("text") && !has("_id") && (is_ours() || !has("id")) => Some(Self::Chatkeep),
            () if has("role") && (has("text") || has("content")) && has("session_id") => Some(Self::Python),
            // The last line of an export that is not whole.
            () if has("incomplete") => Some(Self::Chatkeep),
            () => None,
        }
    }
}

/// The text names no format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be chatkeep, python, openai, chatgpt, openwebui, librechat or langchain")]
pub struct UnknownImportFormat;

impl FromStr for ImportFormat {
    type Err = UnknownImportFormat;

    fn from_str(name: &str) -> Result<Self, UnknownImportFormat> {
        Self::NAMES.iter().find(|(known, ..)| *known == name).map(|(_, format, _)| *format).ok_or(UnknownImportFormat)
    }
}

/// Why a file was not converted to its end. What was handed on before is whole.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// It is none of the formats.
    #[error("the file is not understood: {0}; what can be imported: {FORMATS}")]
    Unknown(String),
    /// What follows cannot be read.
    #[error("the file is damaged at conversation or line {0}: {1}")]
    Damaged(u64, String),
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Read(io::Error),
    /// The lines cannot be passed on.
    #[error("{0}")]
    Sink(io::Error),
}
