//! The canonical bytes of a message's metadata and references: equal values give equal bytes, whatever the order of
//! keys, whether `{}` or nothing, `1` or `1.0`.
//!
//! The journal stores digests of these bytes with idempotency keys, so the form must never change.

use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::{Map, Number, Value};

/// The canonical form of metadata and references.
#[must_use]
pub fn by_value(metadata: Option<&Map<String, Value>>, vector_ids: &[Value]) -> Vec<u8> {
    let metadata = metadata.filter(|metadata| !metadata.is_empty()).map(SortedFields);
    serde_json::to_vec(&(metadata, vector_ids)).expect("JSON values always serialise")
}

struct SortedFields<'v>(&'v Map<String, Value>);

impl Serialize for SortedFields<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields: Vec<(&String, &Value)> = self.0.iter().collect();
        fields.sort_unstable_by_key(|(name, _)| *name);
        let mut map = to.serialize_map(Some(fields.len()))?;
        fields.into_iter().try_for_each(|(name, value)| map.serialize_entry(name, &ByValue(value)))?;
        map.end()
    }
}

struct ByValue<'v>(&'v Value);

impl Serialize for ByValue<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => SortedFields(map).serialize(to),
            Value::Array(items) => {
                let mut seq = to.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| seq.serialize_element(&ByValue(item)))?;
                seq.end()
            }
            Value::Number(number) => whole(number).unwrap_or_else(|| number.clone()).serialize(to),
            value => value.serialize(to),
        }
    }
}

/// The 64-bit whole number that a fraction equals.
fn whole(number: &Number) -> Option<Number> {
    let fraction = number.as_f64().filter(|fraction| number.is_f64() && fraction.fract() == 0.0)?;
    // The cast saturates, and no 64-bit number is that large.
    Number::from_i128(fraction as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(metadata: &str) -> String {
        let metadata: Option<Map<String, Value>> = serde_json::from_str(metadata).unwrap();
        String::from_utf8(by_value(metadata.as_ref(), &[])).unwrap()
    }

    #[test]
    fn what_is_the_same_by_value_has_the_same_bytes() {
        for (one, other) in [
            ("null", "{}"),
            (r#"{"a":1,"b":{"c":[1,{"x":1,"y":2}]}}"#, r#"{"b":{"c":[1.0,{"y":2e0,"x":10e-1}]},"a":1}"#),
            (r#"{"a":-0.0}"#, r#"{"a":0}"#),
            (r#"{"a":18446744073709549568}"#, r#"{"a":1.8446744073709549568e19}"#),
            (r#"{"a":1e300}"#, r#"{"a":10e299}"#),
        ] {
            assert_eq!(form(one), form(other), "{one}");
        }
        for (one, other) in [
            ("{}", r#"{"a":null}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":1}"#, r#"{"a":true}"#),
            (r#"{"a":1.5}"#, r#"{"a":1.25}"#),
            (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992.0}"#),
            (r#"{"a":{}}"#, r#"{"a":null}"#),
        ] {
            assert_ne!(form(one), form(other), "{one}");
        }
        // Equal to what earlier versions stored for metadata sent in this form.
        assert_eq!(
            (form("null"), form(r#"{"a":1,"b":[2.5,"x"]}"#)),
            ("[null,[]]".into(), r#"[{"a":1,"b":[2.5,"x"]},[]]"#.into())
        );
    }
}
