//! Markers: messages of role `system` that say something of their session instead of in it.
//!
//! | `metadata` | means |
//! |---|---|
//! | `{"type":"clear"}` | a new context begins |
//! | `{"type":"rewind","to":ID or null}` | the conversation goes on from that message, or from its beginning |
//! | `{"type":"session","title":…,"pinned":…,"archived":…,"metadata":{…}}` | what users set, whole; the newest counts |
//!
//! A message of another shape is plain text, also one of a client. Markers are no activity of a session.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::id::Id;
use super::line::{Message, MessageView};
use super::session::SessionId;

/// What users set for a session.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SessionState {
    /// The title; without one the list shows the oldest text of a user.
    #[serde(default)]
    pub title: Option<String>,
    /// It is pinned.
    #[serde(default)]
    pub pinned: bool,
    /// It is archived.
    #[serde(default)]
    pub archived: bool,
    /// Fields of clients.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// What a marker says.
#[derive(Clone, Debug, PartialEq)]
pub enum Marker {
    /// A new context begins.
    Clear,
    /// The conversation goes on from the newest message that is not newer than this one; `None`: from its beginning.
    Rewind(Option<Id>),
    /// What users set for the session.
    Session(SessionState),
}

impl Message {
    /// What the message says as a marker; `None`: it is a message like any other.
    #[must_use]
    pub fn marker(&self) -> Option<Marker> {
        self.view().marker()
    }
}

impl MessageView<'_> {
    /// See [`Message::marker`].
    #[must_use]
    pub fn marker(&self) -> Option<Marker> {
        // Most messages are of other roles, and are not parsed.
        let metadata = (self.role() == "system").then(|| self.parts())??.metadata;
        match metadata.get("type")?.as_str()? {
            "clear" => Some(Marker::Clear),
            "rewind" => match metadata.get("to")? {
                Value::Null => Some(Marker::Rewind(None)),
                to => to.as_str()?.parse().ok().map(|to| Marker::Rewind(Some(to))),
            },
            "session" => serde_json::from_value(Value::Object(metadata)).ok().map(Marker::Session),
            _ => None,
        }
    }
}

/// The metadata of a rewind whose target is imported into another session with it; `None` for any other message.
#[must_use]
pub fn with_target_in(session: &SessionId, role: &str, metadata: &Map<String, Value>) -> Option<Map<String, Value>> {
    let is_rewind = role == "system" && metadata.get("type")? == "rewind";
    let to: Id = metadata.get("to")?.as_str().filter(|_| is_rewind)?.parse().ok()?;
    let mut moved = metadata.clone();
    moved.insert("to".into(), to.in_session(session).to_string().into());
    Some(moved)
}

impl SessionState {
    /// The metadata of the marker that says this.
    #[must_use]
    pub fn to_metadata(&self) -> Map<String, Value> {
        let Self { title, pinned, archived, metadata } = self;
        let whole = json!({
            "type": "session", "title": title, "pinned": pinned, "archived": archived, "metadata": metadata
        });
        match whole {
            Value::Object(whole) => whole,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Draft, Id, Metadata, SessionId};
    use super::*;

    fn marker(role: &str, metadata: &Value) -> Option<Marker> {
        let metadata = Metadata { given: metadata.as_object(), defaults: &[] };
        let session = SessionId::default();
        let draft = Draft { session: &session, role, text: "", metadata, vector_ids: &[] };
        draft.prepare().seal(Id::BEGINNING).marker()
    }

    #[test]
    fn a_system_message_of_the_right_shape_is_a_marker_and_no_other() {
        assert_eq!(marker("system", &json!({"type": "clear", "transport": "rest"})), Some(Marker::Clear));
        let to: Id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        assert_eq!(marker("system", &json!({"type": "rewind", "to": to.to_string()})), Some(Marker::Rewind(Some(to))));
        assert_eq!(marker("system", &json!({"type": "rewind", "to": null})), Some(Marker::Rewind(None)));
        let state = SessionState { title: Some("t".into()), pinned: true, ..SessionState::default() };
        let whole = Value::Object(state.to_metadata());
        assert_eq!(marker("system", &whole), Some(Marker::Session(state)));
        assert_eq!(marker("system", &json!({"type": "session"})), Some(Marker::Session(SessionState::default())));
        for (role, metadata) in [
            ("user", whole),
            ("assistant", json!({"type": "clear"})),
            ("system", json!({})),
            ("system", json!({"type": 1})),
            ("system", json!({"type": "note"})),
            ("user", json!({"type": "rewind", "to": null})),
            ("system", json!({"type": "rewind"})),
            ("system", json!({"type": "rewind", "to": 1})),
            ("system", json!({"type": "rewind", "to": "first"})),
            ("system", json!({"type": "session", "pinned": "yes"})),
            ("system", json!({"type": "session", "title": 5})),
            ("system", json!({"type": "session", "metadata": []})),
        ] {
            assert_eq!(marker(role, &metadata), None, "{role} {metadata}");
        }
    }
}
