//! The shapes of what clients send: fields and what each holds.

use serde_json::Value;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A string that must be there.
    Text,
    /// A string, `null` or nothing.
    MaybeText,
    /// An object, `null` or nothing.
    MaybeObject,
    /// An array, `null` or nothing.
    MaybeArray,
    /// A boolean, `null` or nothing.
    MaybeBool,
}

/// The fields of an object and what they hold.
pub(super) type Shape = [(&'static str, Kind)];

impl Kind {
    /// Whether a value is one of these.
    pub(super) fn fits(self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Text, value) => value.is_some_and(Value::is_string),
            (_, None | Some(Value::Null)) => true,
            (Self::MaybeText, Some(value)) => value.is_string(),
            (Self::MaybeObject, Some(value)) => value.is_object(),
            (Self::MaybeArray, Some(value)) => value.is_array(),
            (Self::MaybeBool, Some(value)) => value.is_boolean(),
        }
    }

    /// What is told where it is not.
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Text | Self::MaybeText => "must be a string",
            Self::MaybeObject => "must be an object",
            Self::MaybeArray => "must be an array",
            Self::MaybeBool => "must be true or false",
        }
    }
}
