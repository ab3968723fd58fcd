//! A message as MongoDB keeps it, and back.
//!
//! | field | BSON | |
//! |---|---|---|
//! | `_id` | string | the message's id, lower-case with hyphens: strings of ids order as the ids do |
//! | `session_id`, `role`, `text` | string | |
//! | `metadata` | document | the object as it was sent, see below |
//! | `vector_ids` | array | empty when there are none |
//! | `created_at` | string | ISO 8601 with microseconds and `+00:00`: orders as the ids do |
//! | `expires_at` | date | `created_at` and `mongo.ttl_days`; missing when that is 0 |
//!
//! Both ways are in one file because they must match exactly: a message that comes back has the line it went with.
//! `bson.rs` turns JSON into BSON.
//!
//! What was never JSON (other programs may add to `metadata` and `vector_ids`) is read as the text it is commonly shown as,
//! else as null, so that it hides no message. Knows nothing of servers.

use std::fmt;
use std::time::Duration;

use mongodb::bson::DateTime;
use mongodb::bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::message::{Id, Message, Timestamp};

use super::bson::{BsonType, Elements, Unfit};

/// The document of a message.
///
/// # Errors
/// Why there is none; the same message fails again.
pub fn to_document(message: &Message, ttl: Option<Duration>) -> Result<RawDocumentBuf, Unfit> {
    let time = message.id().time();
    let mut document = Elements::new(message.line().len() + 160);
    document.string("_id", ascii(&message.id().to_text()));
    document.string("session_id", message.session().as_str());
    document.string("role", message.role());
    let mut line = serde_json::Deserializer::from_slice(message.line());
    line.deserialize_map(DocumentFields { to: &mut document }).and_then(|()| line.end()).map_err(|_| Unfit::Line)?;
    document.string("created_at", ascii(&time.to_text()));
    if let Some(ttl) = ttl {
        document.date("expires_at", expiry(time, ttl));
    }
    Ok(RawDocumentBuf::from_bytes(document.finish()?).expect("its length stands before it and a zero behind"))
}

fn ascii(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("ids and times are ASCII")
}

/// The fields that a document takes from a line, in the order of both.
const WANTED: [(&str, BsonType); 3] =
    [("text", BsonType::String), ("metadata", BsonType::Document), ("vector_ids", BsonType::Array)];

/// Takes these fields.
struct DocumentFields<'a> {
    to: &'a mut Elements,
}

impl<'de> Visitor<'de> for DocumentFields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the line of a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut line: A) -> Result<(), A::Error> {
        let mut wanted = WANTED.into_iter().peekable();
        while let Some(name) = line.next_key::<&str>()? {
            if let Some((key, kind)) = wanted.next_if(|(key, _)| *key == name) {
                line.next_value_seed(self.to.json(key, kind))?;
            } else if WANTED.iter().any(|(key, _)| *key == name) {
                return Err(A::Error::custom("a field stands at another place than in any line of ours"));
            } else {
                line.next_value::<IgnoredAny>()?;
            }
        }
        match wanted.next() {
            None => Ok(()),
            // A line without `vector_ids` has none.
            Some(("vector_ids", _)) => {
                self.to.empty_array("vector_ids");
                Ok(())
            }
            Some((missing, _)) => Err(A::Error::missing_field(missing)),
        }
    }
}

/// A date has milliseconds; rounded up, so that no message expires early.
fn expiry(time: Timestamp, ttl: Duration) -> DateTime {
    let micros = u128::from(time.micros()) + ttl.as_micros();
    DateTime::from_millis(i64::try_from(micros.div_ceil(1000)).unwrap_or(i64::MAX))
}

/// The id of a document; `None` if it is not one of ours.
#[must_use]
pub fn id_of(document: &RawDocument) -> Option<Id> {
    document.get_str("_id").ok()?.parse().ok()
}

/// A document as JSON.
pub fn from_object(document: &RawDocument) -> Map<String, Value> {
    document.iter().flatten().map(|(key, value)| (key.as_str().to_owned(), from_bson(value))).collect()
}

/// An array as JSON.
pub fn from_array(array: &mongodb::bson::raw::RawArray) -> Vec<Value> {
    array.into_iter().flatten().map(from_bson).collect()
}

fn from_bson(value: RawBsonRef<'_>) -> Value {
    match value {
        RawBsonRef::Boolean(flag) => flag.into(),
        RawBsonRef::Int32(number) => number.into(),
        RawBsonRef::Int64(number) => number.into(),
        // JSON has neither infinities nor NaN: null, as JSON.stringify has it.
        RawBsonRef::Double(number) => number.into(),
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) | RawBsonRef::JavaScriptCode(text) => text.into(),
        RawBsonRef::Document(document) => from_object(document).into(),
        RawBsonRef::Array(array) => from_array(array).into(),
        RawBsonRef::Decimal128(decimal) => {
            let text = decimal.to_string();
            text.parse::<u64>().map_or_else(|_| Value::String(text), Value::from)
        }
        RawBsonRef::ObjectId(id) => id.to_hex().into(),
        RawBsonRef::DateTime(date) => date.try_to_rfc3339_string().map_or(Value::Null, Value::String),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::raw::{RawArrayBuf, cstr};

    use super::super::foreign;
    use super::*;
    use crate::message::{Draft, Metadata, SessionId};

    fn to_message(document: &RawDocument) -> Option<std::sync::Arc<Message>> {
        foreign::to_message(document, id_of(document)?)
    }

    fn message(text: &str, metadata: &str, vector_ids: &str) -> Message {
        let session = SessionId::new("default").unwrap();
        let given: Map<String, Value> = serde_json::from_str(metadata).unwrap();
        let vector_ids: Vec<Value> = serde_json::from_str(vector_ids).unwrap();
        let id = Id::from_parts(Timestamp::parse("2025-11-28T01:23:45.123456Z").unwrap(), 42);
        let metadata = Metadata { given: Some(&given), defaults: &[] };
        Draft { session: &session, role: "user", text, metadata, vector_ids: &vector_ids }.prepare().seal(id)
    }

    #[track_caller]
    fn there_and_back(message: &Message) {
        let document = to_document(message, None).unwrap();
        let back = to_message(&document).unwrap();
        assert_eq!(str::from_utf8(back.line()), str::from_utf8(message.line()));
    }

    #[test]
    fn a_message_comes_back_with_the_line_it_went_with() {
        for metadata in [
            "{}",
            r#"{"z":1,"a":[true,null,"",{}],"n":{"deep":{"er":[[[]]]}}}"#,
            r#"{"a.b":1,"$set":2,"":3,"$ref":"x","$id":"y","$db":"z","_id":4,".":5,"$":6}"#,
            r#"{"i":[0,-1,2147483647,2147483648,-2147483649,9223372036854775807,-9223372036854775808]}"#,
            r#"{"u":[9223372036854775808,18446744073709551615]}"#,
            r#"{"f":[0.1,-0.0,1.0,5e-324,1.7976931348623157e308,123456789.12345679,8.41e21,0.30000000000000004]}"#,
            "{\"text\":\"line\\nnul \\u0000 \u{1F600} \\ud83d\\ude00\"}",
        ] {
            there_and_back(&message("hi \"you\"\n\u{0}", metadata, "[]"));
            there_and_back(&message("", metadata, r#"["one",2,{"three":3}]"#));
        }
    }

    /// splitmix64, enough for shapes of JSON.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % end
        }

        fn text(&mut self) -> String {
            let pool = ['a', '.', '$', '"', '\\', '\n', 'é', '\u{1F600}', '_', ' ', '\u{7f}', '\u{2028}', '0'];
            (0..self.below(6)).map(|_| pool[usize::try_from(self.below(13)).unwrap()]).collect()
        }

        fn value(&mut self, depth: u32) -> Value {
            match self.below(if depth == 0 { 6 } else { 8 }) {
                0 => Value::Null,
                1 => (self.below(2) == 0).into(),
                2 => self.below(u64::MAX).into(),
                3 => i64::from_ne_bytes(self.below(u64::MAX).to_ne_bytes()).into(),
                4 => f64::from_bits(self.below(u64::MAX)).into(),
                5 => self.text().into(),
                6 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect::<Vec<_>>().into(),
                _ => (0..self.below(4)).map(|_| (self.text(), self.value(depth - 1))).collect::<Map<_, _>>().into(),
            }
        }
    }

    #[test]
    fn any_json_comes_back_as_it_went() {
        for seed in 0..2000 {
            let mut random = Random(seed);
            let metadata: Map<_, _> = (0..random.below(5)).map(|_| (random.text(), random.value(4))).collect();
            let vector_ids: Vec<_> = (0..random.below(3)).map(|_| random.value(1)).collect();
            let metadata = Value::from(metadata).to_string();
            there_and_back(&message(&random.text(), &metadata, &Value::from(vector_ids).to_string()));
        }
    }

    #[test]
    fn whole_numbers_are_as_narrow_as_they_can_be() {
        let document =
            to_document(&message("", r#"{"a":7,"b":2147483648,"c":1.0,"d":18446744073709551615}"#, "[]"), None);
        let document = document.unwrap();
        let metadata = document.get_document("metadata").unwrap();
        assert_eq!(metadata.get_i32("a").unwrap(), 7);
        assert_eq!(metadata.get_i64("b").unwrap(), 2_147_483_648);
        assert!(metadata.get_f64("c").is_ok());
        assert!(matches!(metadata.get("d"), Ok(Some(RawBsonRef::Decimal128(_)))));
    }

    #[test]
    fn a_message_expires_its_days_after_its_time_and_never_without_a_ttl() {
        let message = message("", "{}", "[]");
        let kept = to_document(&message, Some(Duration::from_secs(86_400))).unwrap();
        assert_eq!(kept.get_str("created_at").unwrap(), "2025-11-28T01:23:45.123456+00:00");
        let expires = kept.get_datetime("expires_at").unwrap();
        assert_eq!(expires.try_to_rfc3339_string().unwrap(), "2025-11-29T01:23:45.124Z");
        assert!(to_document(&message, None).unwrap().get("expires_at").unwrap().is_none());
    }

    #[test]
    fn what_can_be_no_document_says_why() {
        let zeros = format!("{{\"many\":[0{}]}}", ",0".repeat(2_000_000));
        assert_eq!(to_document(&message("", &zeros, "[]"), None), Err(Unfit::Size));
        let texts = format!("{{\"a\":\"{0}\",\"b\":\"{0}\"}}", "x".repeat(9 << 20));
        assert_eq!(to_document(&message("", &texts, "[]"), None), Err(Unfit::Size));
        assert_eq!(to_document(&message("", "{\"a\":{\"b\\u0000c\":1}}", "[]"), None), Err(Unfit::Key));
        let line = message("", "{}", "[]").line().to_vec();
        let broken = Message::from_trusted(&[&line[..line.len() - 2], b"}"].concat()).unwrap();
        assert_eq!(to_document(&broken, None), Err(Unfit::Line));
    }

    #[test]
    fn what_other_programs_added_hides_no_message() {
        let mut document = to_document(&message("hi", "{}", "[]"), None).unwrap();
        document.append(cstr!("embedding"), RawArrayBuf::new());
        assert_eq!(to_message(&document).unwrap().text(), "hi");
        let mut foreign = RawDocumentBuf::new();
        for field in document.iter_elements().flatten().filter(|field| field.key().as_str() != "metadata") {
            foreign.append(field.key(), RawBsonRef::try_from(field).unwrap());
        }
        foreign.append(cstr!("metadata"), mongodb::bson::rawdoc! { "at": DateTime::from_millis(0), "nan": f64::NAN });
        let parts = to_message(&foreign).unwrap().parts().unwrap();
        assert_eq!(Value::from(parts.metadata).to_string(), r#"{"at":"1970-01-01T00:00:00Z","nan":null}"#);
    }
}
