//! Whole numbers beyond 64 bits: the JSON reader would round them silently.
//!
//! A large fraction is fine. Only the body tells how a number was written; it is read again, but only after a number
//! that large was found.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::Problem;

/// Every whole number this far from zero or further is read as a fraction, unless it fits into 64 bits.
const FRACTION_MIN: f64 = 9e18;

/// Checks the metadata that was read from `body`, an object with metadata or an array of such.
///
/// # Errors
/// 422 that names the place of a whole number beyond 64 bits. The same body fails again.
pub fn check_whole_numbers<'m>(
    metadata: impl Iterator<Item = &'m Map<String, Value>>,
    body: &[u8],
) -> Result<(), Problem> {
    match metadata.flat_map(Map::values).any(is_large) {
        true => first_beyond(body).map_or(Ok(()), Err),
        false => Ok(()),
    }
}

/// 422 that names the first such number in the metadata of a body.
pub(super) fn first_beyond(body: &[u8]) -> Option<Problem> {
    let is_array = body.trim_ascii_start().starts_with(b"[");
    let bodies: serde_json::Result<Vec<Body<'_>>> =
        if is_array { serde_json::from_slice(body) } else { serde_json::from_slice(body).map(|body| vec![body]) };
    let found = bodies.unwrap_or_default().iter().enumerate().find_map(|(index, body)| {
        let path = if is_array { format!("[{index}].metadata") } else { "metadata".to_owned() };
        find(body.metadata?.get(), path)
    });
    let rule = "is a whole number beyond 64 bits, which would be rounded: send it as a string";
    found.map(|place| Problem::field(&place, rule))
}

fn is_large(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64() && number.as_f64().is_some_and(|number| number.abs() >= FRACTION_MIN),
        Value::Array(items) => items.iter().any(is_large),
        Value::Object(map) => map.values().any(is_large),
        _ => false,
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

/// The place of the first such number.
fn find(json: &str, path: String) -> Option<String> {
    match json.bytes().next()? {
        b'{' => {
            let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json).ok()?;
            fields.into_iter().find_map(|(name, value)| find(value.get(), format!("{path}.{name}")))
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            items.into_iter().enumerate().find_map(|(index, item)| find(item.get(), format!("{path}[{index}]")))
        }
        b'-' | b'0'..=b'9' => {
            let is_whole = !json.contains(['.', 'e', 'E']);
            (is_whole && json.parse::<u64>().is_err() && json.parse::<i64>().is_err()).then_some(path)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(body: &str) -> Option<String> {
        let value: Value = serde_json::from_str(body).unwrap();
        let bodies = value.as_array().cloned().unwrap_or_else(|| vec![value]);
        let metadata = bodies.iter().filter_map(|body| body["metadata"].as_object());
        check_whole_numbers(metadata, body.as_bytes()).err().and_then(|problem| problem.field)
    }

    #[test]
    fn a_whole_number_beyond_64_bits_is_named_by_its_place() {
        for (body, wanted) in [
            (r#"{"metadata":{"a":18446744073709551615,"b":-9223372036854775808,"c":1e300,"d":1.5e20}}"#, None),
            (r#"{"metadata":{"a":18446744073709551616}}"#, Some("metadata.a")),
            (r#"{"metadata":{"a":-9223372036854775809}}"#, Some("metadata.a")),
            (r#" {"x":1,"metadata":{"a":[1,{"b":[ 99999999999999999999999 ]}]}}"#, Some("metadata.a[1].b[0]")),
            (r#"[{"metadata":null},{"metadata":{"a":1e300,"b":100000000000000000000}}]"#, Some("[1].metadata.b")),
            (r#"{"metadata":{"a":"100000000000000000000","b":1e20},"other":100000000000000000000}"#, None),
        ] {
            assert_eq!(place(body).as_deref(), wanted, "{body}");
        }
    }
}
