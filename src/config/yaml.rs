//! Text to plain YAML values, strictly: a repeated key is a fault, and so is a key that is no text.
//!
//! `serde_yaml`'s own `Value` reports a repeated key at the place of its block, and its messages quote values, which
//! may be secrets. Here every message is our own, or one of libyaml's fixed texts. Knows nothing of which keys exist.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

use super::fault::ConfigError;

/// Reads one document; an empty one is `Null`.
pub(super) fn parse(text: &str) -> Result<Value, ConfigError> {
    // libyaml takes a byte order mark within UTF-8 for a separate document.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let said = RefCell::new(None);
    Node(&said).deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        let there =
            text.lines().nth(line.saturating_sub(1)).and_then(|line| line.chars().nth(column.saturating_sub(1)));
        let told = said.take().unwrap_or_else(|| reason(&error));
        // libyaml calls it a character that cannot start any token, and an editor shows it as spaces.
        let is_tab = line > 0 && there == Some('\t') && told.starts_with("found ");
        let reason = if is_tab { "a tab stands here; YAML is indented with spaces".to_owned() } else { told };
        ConfigError::Syntax { line, column, reason }
    })
}

/// The parser's message, unless it may quote a value.
fn reason(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    if text.contains("invalid type") || text.contains("invalid value") {
        return "a value does not fit its tag".to_owned();
    }
    // The place is reported once, before the reason.
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// A value; its fault is left in the cell, because serde's errors cannot carry it separately.
#[derive(Clone, Copy)]
struct Node<'a>(&'a RefCell<Option<String>>);

impl Node<'_> {
    fn fail<E: serde::de::Error>(self, reason: String) -> E {
        *self.0.borrow_mut() = Some(reason);
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    // No key takes a number beyond 64 bits; as a float its key's rule refuses it.
    fn visit_i128<E>(self, number: i128) -> Result<Value, E> {
        Ok(Value::Number((number as f64).into()))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Value, E> {
        Ok(Value::Number((number as f64).into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut block = Mapping::new();
        while let Some(key) = entries.next_key_seed(BlockKey { node: self, seen: &block })? {
            let value = entries.next_value_seed(self)?;
            block.insert(Value::String(key), value);
        }
        Ok(Value::Mapping(block))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self.fail("tags (!name) have no meaning here".to_owned()))
    }
}

/// A key of a block. It fails while the parser is at the key, so that the fault has the key's own place.
struct BlockKey<'a> {
    node: Node<'a>,
    seen: &'a Mapping,
}

impl<'de> DeserializeSeed<'de> for BlockKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        struct Any<'a>(BlockKey<'a>);

        impl<'de> Visitor<'de> for Any<'_> {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
                if self.0.seen.contains_key(key) {
                    // The place identifies it. Its name could be a token that was written as a block by mistake.
                    return Err(self.0.node.fail("this key stands in its block a second time".to_owned()));
                }
                Ok(key.to_owned())
            }
        }

        // Otherwise the visitor's own error would quote the key's value.
        let node = self.node;
        deserializer.deserialize_any(Any(self)).map_err(|error| {
            if node.0.borrow().is_some() {
                return error;
            }
            *node.0.borrow_mut() = Some("a key must be plain text".to_owned());
            D::Error::custom("refused")
        })
    }
}
