//! `${VAR}` and `${VAR:-default}` in the strings of the configuration.
//!
//! The rules are those of a shell: `${VAR}` must be set (it may be empty); `${VAR:-default}` takes the default if the
//! variable is unset or empty; `$$` is one `$`; any other `$` is itself. A default ends at the first `}` and contains
//! no reference. The value of a variable is not expanded again. Knows nothing of keys or types.

use std::ffi::OsString;

/// Looks up a variable of the environment.
pub(super) type Env<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// A string with its references filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// The text.
    pub text: String,
    /// Whether it contains a variable's value: then the text takes the type of its key.
    pub by_variable: bool,
}

/// Fills in every reference, or returns what is wrong with each. A reason names the variable and quotes nothing else of
/// the string, which may be a secret.
pub(super) fn expand(text: &str, env: &Env<'_>) -> Result<Expanded, Vec<String>> {
    let mut expanded = Expanded { text: String::with_capacity(text.len()), by_variable: false };
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.text.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some(end) = after.find('}') else {
                faults.push("a \"${\" has no \"}\" (write $$ for a plain $)".to_owned());
                break;
            };
            expanded.by_variable = true;
            match reference(&after[..end], env) {
                Ok(value) => expanded.text.push_str(&value),
                Err(fault) => faults.push(fault),
            }
            rest = &after[end + 1..];
        } else {
            expanded.text.push('$');
        }
    }
    expanded.text.push_str(rest);
    if faults.is_empty() { Ok(expanded) } else { Err(faults) }
}

/// The variables that a string names.
pub(super) fn variables(text: &str) -> impl Iterator<Item = &str> {
    let insides = text.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
    insides.map(|(inside, _)| inside.split_once(":-").map_or(inside, |(name, _)| name))
}

/// The value of the text between the braces.
fn reference(inside: &str, env: &Env<'_>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        return Err("only ${VAR} and ${VAR:-default} are understood (write $$ for a plain $)".to_owned());
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!("the default of ${{{name}}} holds another reference, which is not understood"));
    }
    match (env(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.replace("$$", "$")),
        (Some(value), _) => {
            value.into_string().map_err(|_| format!("the variable of ${{{name}}} is set, but not to UTF-8 text"))
        }
        (None, Some(default)) => Ok(default.replace("$$", "$")),
        (None, None) => Err(format!("${{{name}}} is not set: set it, or write ${{{name}:-default}}")),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<OsString> {
        match name {
            "SET" => Some("value".into()),
            "EMPTY" => Some("".into()),
            "RAW" => Some("${SET}$$".into()),
            _ => None,
        }
    }

    #[test]
    fn references_are_filled_in_as_a_shell_does() {
        for (text, expected, by_variable) in [
            ("plain", "plain", false),
            ("", "", false),
            ("${SET}", "value", true),
            ("a${SET}b${SET}c", "avaluebvaluec", true),
            ("${EMPTY}", "", true),
            ("${EMPTY:-d}", "d", true),
            ("${UNSET:-d}", "d", true),
            ("${UNSET:-}", "", true),
            ("${SET:-d}", "value", true),
            ("${UNSET:-mongodb://h:1/?a=b}", "mongodb://h:1/?a=b", true),
            ("$$", "$", false),
            ("$${SET}", "${SET}", false),
            ("$SET costs 5$", "$SET costs 5$", false),
            ("${UNSET:-5$$}", "5$", true),
            ("${RAW}", "${SET}$$", true),
        ] {
            let expected = Expanded { text: expected.to_owned(), by_variable };
            assert_eq!(expand(text, &env), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_told_without_quoting_the_text() {
        for (text, says) in [
            ("secret${UNSET}", "${UNSET} is not set"),
            ("secret${SET", "no \"}\""),
            ("${}secret", "only ${VAR}"),
            ("${1secret}", "only ${VAR}"),
            ("${secret!}", "only ${VAR}"),
            ("${UNSET:-secret${SET}}", "another reference"),
        ] {
            let faults = expand(text, &env).unwrap_err();
            assert!(faults[0].contains(says), "{text}: {faults:?}");
            assert!(!faults[0].contains("secret"), "{text}: {faults:?}");
        }
    }

    #[test]
    fn every_unset_variable_is_told() {
        assert_eq!(expand("${A}${B}", &env).unwrap_err().len(), 2);
    }
}
