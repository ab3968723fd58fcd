//! The shapes of requests: fields and their types.

use serde_json::Value;

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// A required string.
    Text,
    /// A string, `null` or nothing.
    MaybeText,
    /// The same, where `null` says something that nothing does not say. In a form the word `null` is that.
    NullableText,
    /// An object, `null` or nothing.
    MaybeObject,
    /// An array, `null` or nothing.
    MaybeArray,
    /// A boolean, `null` or nothing.
    MaybeBool,
}

/// The fields of an object and their types.
pub(super) type Shape = [(&'static str, FieldKind)];

impl FieldKind {
    /// Whether a value has this type.
    pub(super) fn fits(self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Text, value) => value.is_some_and(Value::is_string),
            (_, None | Some(Value::Null)) => true,
            (Self::MaybeText | Self::NullableText, Some(value)) => value.is_string(),
            (Self::MaybeObject, Some(value)) => value.is_object(),
            (Self::MaybeArray, Some(value)) => value.is_array(),
            (Self::MaybeBool, Some(value)) => value.is_boolean(),
        }
    }

    /// The rule for a problem, after the field's name.
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Text | Self::MaybeText | Self::NullableText => "must be a string",
            Self::MaybeObject => "must be an object",
            Self::MaybeArray => "must be an array",
            Self::MaybeBool => "must be true or false",
        }
    }
}
