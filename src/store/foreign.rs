//! Documents that another program wrote into the collection, as messages.
//!
//! | field | what is read |
//! |---|---|
//! | `_id` | anything; where it is no id of ours of that time, an id is derived from `created_at` and `_id` |
//! | `created_at` | a date, or a text as [`Timestamp::parse_any`] reads it |
//! | `role` | in any case; `human` is `user`, `ai` is `assistant` |
//! | `text` | else `content` |
//! | `metadata`, `vector_ids` | as in ours |
//!
//! It stands alone because erasing and reading must place a document alike. Knows nothing of how documents are found.

use std::sync::Arc;

use data_encoding::BASE64;
use mongodb::bson::raw::{RawBsonRef, RawDocument};

use crate::message::{Draft, Id, Message, Metadata, SessionId, Timestamp, is_role};

use super::document::{from_array, from_object, id_of};

/// The time a document says; `None` when it says none.
pub fn time_of(document: &RawDocument) -> Option<Timestamp> {
    match document.get("created_at").ok()?? {
        RawBsonRef::String(text) => time_of_text(text),
        RawBsonRef::DateTime(date) => {
            let millis = u64::try_from(date.timestamp_millis()).unwrap_or(0);
            Some(Timestamp::from_micros(millis.saturating_mul(1000)))
        }
        _ => None,
    }
}

fn time_of_text(text: &str) -> Option<Timestamp> {
    // Ours may be of any year.
    let ours = Some(text).filter(|text| text.len() == Timestamp::TEXT_BYTES).and_then(Timestamp::parse);
    ours.filter(|time| time.to_text() == text.as_bytes()).or_else(|| Timestamp::parse_any(text))
}

/// The place of a document among the messages of its session; `None` if it has no time.
pub fn place_of(document: &RawDocument) -> Option<Id> {
    let time = time_of(document)?;
    // A program that turned our texts into dates has cut them to milliseconds.
    let is_date = matches!(document.get("created_at"), Ok(Some(RawBsonRef::DateTime(_))));
    let cut = |micros: u64| if is_date { micros / 1000 } else { micros };
    match id_of(document) {
        Some(id) if cut(id.time().micros()) == cut(time.micros()) => Some(id),
        _ => Some(Id::derived(time, &name_of(document))),
    }
}

/// An `_id` as MongoDB's tools export it in their relaxed JSON, so that what is imported from there gets the same id.
fn name_of(document: &RawDocument) -> String {
    match document.get("_id") {
        Ok(Some(RawBsonRef::String(text))) => serde_json::Value::from(text).to_string(),
        Ok(Some(RawBsonRef::Int32(number))) => number.to_string(),
        Ok(Some(RawBsonRef::Int64(number))) => number.to_string(),
        Ok(Some(RawBsonRef::Double(number))) => serde_json::Value::from(number).to_string(),
        Ok(Some(RawBsonRef::ObjectId(id))) => format!("{{\"$oid\":\"{}\"}}", id.to_hex()),
        Ok(Some(RawBsonRef::Binary(binary))) => {
            let (bytes, kind) = (BASE64.encode(binary.bytes), u8::from(binary.subtype));
            format!("{{\"$binary\":{{\"base64\":\"{bytes}\",\"subType\":\"{kind:02x}\"}}}}")
        }
        Ok(Some(other)) => format!("{other:?}"),
        _ => String::new(),
    }
}

/// The message of a document whose place is `id`; `None` if it is not a message.
pub fn to_message(document: &RawDocument, id: Id) -> Option<Arc<Message>> {
    let session = SessionId::new(document.get_str("session_id").ok()?).ok()?;
    let metadata = document.get_document("metadata").map(from_object).unwrap_or_default();
    let vector_ids = document.get_array("vector_ids").map(from_array).unwrap_or_default();
    let role = role_of(document.get_str("role").ok()?);
    let draft = Draft {
        session: &session,
        role: Some(&*role).filter(|role| is_role(role))?,
        text: document.get_str("text").or_else(|_| document.get_str("content")).ok()?,
        metadata: Metadata { given: Some(&metadata), defaults: &[] },
        vector_ids: &vector_ids,
    };
    Some(Arc::new(draft.prepare().seal(id)))
}

fn role_of(role: &str) -> String {
    match role.to_ascii_lowercase() {
        role if role == "human" => "user".to_owned(),
        role if role == "ai" => "assistant".to_owned(),
        role => role,
    }
}

/// What `role` has to match in a document to be read as that role.
pub fn role_pattern(role: &str) -> String {
    match role {
        "user" => "^(user|human)$".to_owned(),
        "assistant" => "^(assistant|ai)$".to_owned(),
        // A role has no character that means something in a pattern.
        other => format!("^{other}$"),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::{Binary, DateTime, Document, RawDocumentBuf, doc, spec::BinarySubtype};

    use super::*;

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).unwrap()
    }

    fn place(document: &Document) -> Option<Id> {
        place_of(&raw(document))
    }

    #[test]
    fn an_id_of_ours_stays_and_any_other_gets_one_of_its_time() {
        let id = Id::from_parts(Timestamp::parse("2025-11-28T01:23:45.123456Z").unwrap(), 42);
        let text = "2025-11-28T01:23:45.123456+00:00";
        assert_eq!(place(&doc! { "_id": id.to_string(), "created_at": text }), Some(id));
        let date = DateTime::from_millis(1_764_293_025_123);
        assert_eq!(
            place(&doc! { "_id": id.to_string(), "created_at": date }),
            Some(id),
            "cut to a date it is the same"
        );
        let later = place(&doc! { "_id": id.to_string(), "created_at": "2025-11-28T02:00:00Z" }).unwrap();
        assert_eq!(later.time(), Timestamp::parse("2025-11-28T02:00:00Z").unwrap());
        let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] };
        let mut seen = Vec::new();
        for name in [
            doc! { "_id": ObjectId::from_bytes([1; 12]) },
            doc! { "_id": "0190a5b2-0000-4000-8000-000000000000" },
            doc! { "_id": "any" },
            doc! { "_id": 7 },
            doc! { "_id": 7.5 },
            doc! { "_id": uuid },
            doc! { "_id": { "a": 1 } },
        ] {
            let mut document = name;
            document.insert("created_at", text);
            let found = place(&document).unwrap();
            assert_eq!((found.time(), Some(found)), (id.time(), place(&document)), "{document}");
            assert!(!seen.contains(&found), "{document}");
            seen.push(found);
        }
    }

    #[test]
    fn ids_are_derived_as_from_an_export_of_the_documents() {
        let time = Timestamp::parse("2025-11-28T01:23:45Z").unwrap();
        let document =
            doc! { "_id": ObjectId::parse_str("0123456789abcdef01234567").unwrap(), "created_at": time.to_string() };
        assert_eq!(place(&document), Some(Id::derived(time, r#"{"$oid":"0123456789abcdef01234567"}"#)));
    }

    #[test]
    fn roles_and_texts_are_read_as_other_programs_name_them() {
        let said = |document: Document| {
            let mut document = document;
            document.insert("session_id", "s");
            let message = to_message(&raw(&document), Id::least_of(Timestamp::from_micros(0)))?;
            Some((message.role().to_owned(), message.text()))
        };
        let both = |role: &str, text: &str| Some((role.to_owned(), text.to_owned()));
        assert_eq!(said(doc! { "role": "Human", "content": "hi" }), both("user", "hi"));
        assert_eq!(said(doc! { "role": "AI", "text": "yes", "content": "no" }), both("assistant", "yes"));
        assert_eq!(said(doc! { "role": "SYSTEM", "text": "" }), both("system", ""));
        for none in [doc! { "role": "user" }, doc! { "text": "hi" }, doc! { "role": "a b", "text": "hi" }] {
            assert_eq!(said(none.clone()), None, "{none}");
        }
    }
}
