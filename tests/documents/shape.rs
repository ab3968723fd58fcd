//! Whether what a command printed has the shape of what the document shows.

use serde_json::Value;

use super::markdown::normal;

/// What stands for anything in shown text.
const ANYTHING: &str = "…";

/// Why `printed` is not what is shown; `json` says that both are JSON values, one after the other.
pub fn difference(shown: &str, printed: &str, json: bool) -> Option<String> {
    if json { json_difference(shown, printed) } else { text_difference(shown, printed) }
}

/// Text agrees when it is the same but for ids, numbers and white space, and for what `…` stands for.
fn text_difference(shown: &str, printed: &str) -> Option<String> {
    let (shown, printed) = (normal(shown), normal(printed));
    let mut rest = printed.as_str();
    for (index, part) in shown.split(ANYTHING).map(str::trim).enumerate() {
        match rest.find(part) {
            Some(at) if index > 0 || at == 0 => rest = &rest[at + part.len()..],
            _ => return Some(format!("shown:   {shown}\nprinted: {printed}\nfirst missing: {part}")),
        }
    }
    let whole = shown.ends_with(ANYTHING) || rest.trim().is_empty();
    (!whole).then(|| format!("more was printed than is shown: {rest}"))
}

/// JSON agrees when the values have the same keys, types and, but for ids and numbers, texts. A last line `…` says that more
/// may follow.
fn json_difference(shown: &str, printed: &str) -> Option<String> {
    let open = shown.trim_end().ends_with(ANYTHING);
    let (shown, printed) = (values(shown.trim_end().trim_end_matches(ANYTHING)), values(printed));
    let (shown, printed) = match (shown, printed) {
        (Ok(shown), Ok(printed)) => (shown, printed),
        (Err(e), _) => return Some(format!("what is shown is no JSON: {e}")),
        (_, Err(e)) => return Some(format!("what was printed is no JSON: {e}")),
    };
    if printed.len() < shown.len() || (!open && printed.len() > shown.len()) {
        return Some(format!("{} values are shown, {} were printed: {printed:?}", shown.len(), printed.len()));
    }
    shown.iter().zip(&printed).find_map(|(shown, printed)| value_difference("", shown, printed))
}

fn values(text: &str) -> Result<Vec<Value>, serde_json::Error> {
    serde_json::Deserializer::from_str(text).into_iter().collect()
}

fn value_difference(path: &str, shown: &Value, printed: &Value) -> Option<String> {
    match (shown, printed) {
        (Value::Null, _) | (_, Value::Null) | (Value::Number(_), Value::Number(_)) => None,
        (Value::Object(shown), Value::Object(printed)) => {
            let keys = |object: &serde_json::Map<String, Value>| {
                let mut keys: Vec<_> = object.keys().cloned().collect();
                keys.sort();
                keys
            };
            if keys(shown) != keys(printed) {
                return Some(format!("{path}: keys {:?} are shown, {:?} were printed", keys(shown), keys(printed)));
            }
            shown.iter().find_map(|(key, value)| value_difference(&format!("{path}.{key}"), value, &printed[key]))
        }
        (Value::Array(shown), Value::Array(printed)) => {
            let mut pairs = shown.iter().zip(printed);
            pairs.find_map(|(shown, printed)| value_difference(&format!("{path}[]"), shown, printed))
        }
        (Value::String(shown), Value::String(printed)) => {
            let (shown, printed) = (normal(shown), normal(printed));
            (shown != printed).then(|| format!("{path}: {shown:?} is shown, {printed:?} was printed"))
        }
        _ => (shown != printed).then(|| format!("{path}: {shown} is shown, {printed} was printed")),
    }
}
