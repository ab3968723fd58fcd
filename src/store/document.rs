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
//! It stands alone because both ways must fit each other exactly: a message that comes back has the line it went with.
//!
//! JSON numbers become the narrowest of int32, int64 and double that holds them, as every driver writes them; a whole number
//! beyond int64, which BSON has no integer for, becomes a decimal128. Keys stay as they are, dots and dollars included.
//! What was never JSON (other programs may add to `metadata` and `vector_ids`) is read as the text it is commonly shown as,
//! else as null, so that it hides no message. Knows nothing of servers.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::raw::{CString, RawArray, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use mongodb::bson::{DateTime, Decimal128};
use serde_json::{Map, Number, Value};

use crate::message::{Draft, Id, Message, Metadata, SessionId, Timestamp, is_role};

/// The largest document a server takes, in bytes (`maxBsonObjectSize` of every version so far).
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Why a message can be no document. Its text is a reason of [`super::Refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The line is no JSON behind its layout.
    #[error("the line is not the JSON of a message")]
    Line,
    /// BSON ends a key there.
    #[error("a key of the metadata holds a NUL")]
    Key,
    /// Beyond [`DOCUMENT_BYTES_MAX`].
    #[error("as a BSON document it has more than 16 MiB")]
    Size,
}

/// The document of a message.
///
/// # Errors
/// Why there is none.
pub fn to_document(message: &Message, ttl: Option<Duration>) -> Result<RawDocumentBuf, Unfit> {
    let parts = message.parts().ok_or(Unfit::Line)?;
    let time = message.id().time();
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), ascii(&message.id().to_text()));
    document.append(cstr!("session_id"), message.session().as_str());
    document.append(cstr!("role"), message.role());
    document.append(cstr!("text"), parts.text);
    document.append(cstr!("metadata"), to_object(parts.metadata)?);
    document.append(cstr!("vector_ids"), to_array(parts.vector_ids)?);
    document.append(cstr!("created_at"), ascii(&time.to_text()));
    if let Some(ttl) = ttl {
        document.append(cstr!("expires_at"), expiry(time, ttl));
    }
    if document.as_bytes().len() > DOCUMENT_BYTES_MAX { Err(Unfit::Size) } else { Ok(document) }
}

fn ascii(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("ids and times are ASCII")
}

fn to_object(fields: Map<String, Value>) -> Result<RawDocumentBuf, Unfit> {
    let mut document = RawDocumentBuf::new();
    for (key, value) in fields {
        document.append(CString::try_from(key).map_err(|_| Unfit::Key)?, to_bson(value)?);
    }
    Ok(document)
}

fn to_array(values: Vec<Value>) -> Result<RawArrayBuf, Unfit> {
    let mut array = RawArrayBuf::new();
    for value in values {
        array.push(to_bson(value)?);
    }
    Ok(array)
}

fn to_bson(value: Value) -> Result<RawBson, Unfit> {
    Ok(match value {
        Value::Null => RawBson::Null,
        Value::Bool(flag) => flag.into(),
        Value::Number(number) => to_number(&number),
        Value::String(text) => text.into(),
        Value::Array(values) => RawBson::Array(to_array(values)?),
        Value::Object(fields) => RawBson::Document(to_object(fields)?),
    })
}

fn to_number(number: &Number) -> RawBson {
    match (number.as_i64(), number.as_u64()) {
        (Some(whole), _) => i32::try_from(whole).map_or(RawBson::Int64(whole), RawBson::Int32),
        (None, Some(_)) => {
            let decimal = number.to_string().parse::<Decimal128>();
            RawBson::Decimal128(decimal.expect("twenty digits fit a decimal128"))
        }
        (None, None) => RawBson::Double(number.as_f64().expect("every number has one, of this crate's features")),
    }
}

/// A date has milliseconds; rounded up, so that nothing goes before its time.
fn expiry(time: Timestamp, ttl: Duration) -> DateTime {
    let micros = u128::from(time.micros()) + ttl.as_micros();
    DateTime::from_millis(i64::try_from(micros.div_ceil(1000)).unwrap_or(i64::MAX))
}

/// The id of a document; `None` when it is not one of ours.
#[must_use]
pub fn id_of(document: &RawDocument) -> Option<Id> {
    document.get_str("_id").ok()?.parse().ok()
}

/// The message of a document; `None` when it is none.
#[must_use]
pub fn to_message(document: &RawDocument) -> Option<Arc<Message>> {
    let session = SessionId::new(document.get_str("session_id").ok()?).ok()?;
    let metadata = document.get_document("metadata").map(from_object).unwrap_or_default();
    let vector_ids = document.get_array("vector_ids").map(from_array).unwrap_or_default();
    let draft = Draft {
        session: &session,
        role: Some(document.get_str("role").ok()?).filter(|role| is_role(role))?,
        text: document.get_str("text").ok()?,
        metadata: Metadata { given: Some(&metadata), defaults: &[] },
        vector_ids: &vector_ids,
    };
    Some(Arc::new(draft.prepare().seal(id_of(document)?)))
}

fn from_object(document: &RawDocument) -> Map<String, Value> {
    document.iter().flatten().map(|(key, value)| (key.as_str().to_owned(), from_bson(value))).collect()
}

fn from_array(array: &RawArray) -> Vec<Value> {
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
    use super::*;

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
    fn a_message_expires_its_days_after_its_own_time_and_never_when_they_are_none() {
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
