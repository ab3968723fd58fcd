//! The form of a body, and the JSON in it.
//!
//! JSON may come with its own media type, with that of a form, or with none, so that `curl -d '{…}'` works; a form has
//! the same names as the JSON. Host, Origin and `Sec-Fetch-Site` decide what web pages may do (server/guard.rs), not
//! the type.
//!
//! Knows nothing of what the fields mean, except how each is written in a form.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::http::NDJSON;
use super::shape::{FieldKind, Shape};
use super::{Problem, RequestHead};
use crate::message::whole_characters;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Refuses by the head alone what cannot be read: a content coding, or another media type (415).
pub(super) fn check(head: &RequestHead<'_>) -> Result<(), Problem> {
    check_coding(head)?;
    match media_type(head) {
        None => Ok(()),
        Some(kind) if kind.eq_ignore_ascii_case(JSON) || kind.eq_ignore_ascii_case(FORM) => Ok(()),
        Some(kind) => Err(unsupported(&format!("not as {kind}"))),
    }
}

/// The same for a body of a JSON object a line.
pub(super) fn check_lines(head: &RequestHead<'_>) -> Result<(), Problem> {
    check_coding(head)?;
    let kind = media_type(head);
    if kind.is_some_and(|kind| kind.eq_ignore_ascii_case(NDJSON)) {
        return Ok(());
    }
    let instead = kind.map_or_else(|| "without a type".to_owned(), |kind| format!("as {kind}"));
    let detail = format!("the body is taken as {NDJSON}, a JSON object a line, not {instead}: Content-Type: {NDJSON}");
    Err(Problem::new(415, "unsupported_media_type", detail))
}

fn check_coding(head: &RequestHead<'_>) -> Result<(), Problem> {
    let is_identity = |coding: &str| coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    if let Some(coding) = head.elements("Content-Encoding").find(|coding| !is_identity(coding)) {
        let detail = format!("Content-Encoding {coding} is not taken; send the body as it is");
        let header = Some(("Accept-Encoding", "identity".to_owned()));
        return Err(Problem { header, ..Problem::new(415, "unsupported_encoding", detail) });
    }
    Ok(())
}

fn unsupported(instead: &str) -> Problem {
    let detail = format!("the body is taken as {JSON}, or as {FORM} with the same names, {instead}");
    Problem::new(415, "unsupported_media_type", detail)
}

fn media_type<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    head.header("Content-Type").map(|value| value.split(';').next().unwrap_or_default().trim())
}

/// The JSON of a body whose head was checked: without a byte order mark, without unpaired surrogates, and converted if
/// it is a form. Borrowed unless something was changed.
///
/// # Errors
/// 400 or 415: it is neither JSON nor a form, or not UTF-8. The same body fails again.
pub(super) fn json<'b>(head: &RequestHead<'_>, body: &'b [u8], shape: &Shape) -> Result<Cow<'b, [u8]>, Problem> {
    let body = plain_text(body)?;
    match (media_type(head), body.trim_ascii_start().first()) {
        (Some(kind), first) if !kind.eq_ignore_ascii_case(JSON) && !matches!(first, Some(b'{' | b'[')) => {
            form(body, shape).map(Cow::Owned)
        }
        (None, Some(b'{' | b'[')) | (Some(_), _) => Ok(whole_characters(body)),
        (None, None) => Err(Problem::new(400, "malformed_json", "the body is empty; send a JSON object")),
        (None, Some(_)) => Err(unsupported("and this one begins like neither")),
    }
}

/// The same of a call that takes no form.
///
/// # Errors
/// 400 or 415: it is not JSON, or not UTF-8. The same body fails again.
pub(super) fn json_only<'b>(head: &RequestHead<'_>, body: &'b [u8]) -> Result<Cow<'b, [u8]>, Problem> {
    let body = plain_text(body)?;
    let is_json = media_type(head).is_some_and(|kind| kind.eq_ignore_ascii_case(JSON));
    match body.trim_ascii_start().first() {
        Some(b'{' | b'[') => Ok(whole_characters(body)),
        _ if is_json => Ok(Cow::Borrowed(body)),
        _ => Err(Problem::new(415, "unsupported_media_type", format!("the body is taken as {JSON}: a JSON object"))),
    }
}

/// A body without its byte order mark, unless it can be seen at its beginning to be neither JSON nor a form.
///
/// # Errors
/// 400 or 415, naming what it is. The same body fails again.
pub(super) fn plain_text(body: &[u8]) -> Result<&[u8], Problem> {
    let body = without_bom(body);
    // Neither JSON nor a form begins with any of these.
    match body {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            Err(Problem::new(400, "malformed_json", "the body is UTF-16 or UTF-32; send it as UTF-8"))
        }
        [0x1f, 0x8b, ..] => Err(Problem::new(415, "unsupported_encoding", "the body is gzip; send it unpacked")),
        [b'P', b'K', 3, 4, ..] => Err(Problem::new(415, "unsupported_encoding", "the body is a ZIP; send it unpacked")),
        _ => Ok(body),
    }
}

fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// The JSON of a UTF-8 text, made as [`json`] makes that of a body.
pub(super) fn text(text: &[u8]) -> Cow<'_, [u8]> {
    whole_characters(without_bom(text))
}

/// Converts a form into a JSON object.
fn form(body: &[u8], shape: &Shape) -> Result<Vec<u8>, Problem> {
    let mut object = Vec::with_capacity(body.len() + 16);
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        // Most likely an & of the text: going on would silently keep only a part of it.
        let Some(end) = pair.iter().position(|byte| *byte == b'=') else {
            let detail = "the form has a field without `=`; an & within a value is written %26 (curl --data-urlencode)";
            return Err(Problem::new(400, "malformed_form", detail));
        };
        let (name, value) = (decoded(&pair[..end])?, decoded(&pair[end + 1..])?);
        object.push(if object.is_empty() { b'{' } else { b',' });
        push_string(&mut object, &name);
        object.push(b':');
        let kind = shape.iter().find(|(known, _)| *known == name).map(|(_, kind)| kind);
        let is_json = match kind {
            Some(FieldKind::MaybeBool) => value == "true" || value == "false",
            Some(FieldKind::NullableText) => value == "null",
            Some(FieldKind::MaybeObject | FieldKind::MaybeArray) => serde_json::from_str::<IgnoredAny>(&value).is_ok(),
            _ => false,
        };
        match is_json {
            true => object.extend_from_slice(&whole_characters(value.as_bytes())),
            false => push_string(&mut object, &value),
        }
    }
    if object.is_empty() {
        object.push(b'{');
    }
    object.push(b'}');
    Ok(object)
}

fn push_string(to: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(to, text).expect("strings always serialise into memory");
}

/// A name or a value of a form.
fn decoded(encoded: &[u8]) -> Result<String, Problem> {
    let spaced: Vec<u8> = encoded.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let decoded = percent_encoding::percent_decode(&spaced).decode_utf8().map(Cow::into_owned);
    decoded.map_err(|_| Problem::new(400, "malformed_form", "the form is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use tiny_http::Method;

    use super::super::{Presence, Transport, header};
    use super::*;
    use crate::access::{Access, Principal};

    const SHAPE: &Shape = &[
        ("message", FieldKind::Text),
        ("metadata", FieldKind::MaybeObject),
        ("vector_ids", FieldKind::MaybeArray),
        ("stream", FieldKind::MaybeBool),
        ("session_id", FieldKind::MaybeText),
        ("rewind_to", FieldKind::NullableText),
    ];

    fn read(fields: &[(&str, &str)], body: &[u8]) -> Result<String, (u16, &'static str)> {
        let headers: Vec<_> = fields.iter().map(|(name, value)| header(name, value)).collect();
        let (method, path, query, left_out) = (&Method::Post, "/api/chat", "", None);
        let presence = Presence::UNSEEN;
        let (transport, request_id) = (Transport::Tcp, "r");
        let caller = &Principal::without_token(Access::Admin);
        let head =
            RequestHead { method, path, query, headers: &headers, left_out, transport, caller, presence, request_id };
        let read = check(&head).and_then(|()| json(&head, body, SHAPE));
        read.map(|json| String::from_utf8(json.into_owned()).unwrap()).map_err(|problem| (problem.status, problem.code))
    }

    const AS_FORM: &[(&str, &str)] = &[("Content-Type", "application/x-www-form-urlencoded")];
    const AS_JSON: &[(&str, &str)] = &[("Content-Type", "Application/JSON; charset=utf-8")];

    #[test]
    fn json_is_taken_as_a_form_or_as_nothing_and_forms_become_json() {
        let object = r#" {"message":"hi"}"#;
        for fields in [AS_JSON, AS_FORM, &[]] {
            assert_eq!(read(fields, object.as_bytes()).as_deref(), Ok(object));
            assert_eq!(read(fields, format!("\u{feff}{object}").as_bytes()).as_deref(), Ok(object));
        }
        for (form, json) in [
            ("message=hi", r#"{"message":"hi"}"#),
            ("message=a+b%26%C3%BC%0A\u{fc}&stream=true", "{\"message\":\"a b&\u{fc}\\n\u{fc}\",\"stream\":true}"),
            (r#"metadata={"a":1}&vector_ids=["x"]"#, r#"{"metadata":{"a":1},"vector_ids":["x"]}"#),
            ("metadata=x&stream=yes&message=50%+off", r#"{"metadata":"x","stream":"yes","message":"50% off"}"#),
            ("rewind_to=null&session_id=null", r#"{"rewind_to":null,"session_id":"null"}"#),
            ("rewind_to=&metadata=null", r#"{"rewind_to":"","metadata":null}"#),
            ("message==&x=", r#"{"message":"=","x":""}"#),
            ("", "{}"),
        ] {
            assert_eq!(read(AS_FORM, form.as_bytes()).as_deref(), Ok(json), "{form}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_by_its_name() {
        for (fields, body, refusal) in [
            (&[][..], &b""[..], (400, "malformed_json")),
            (&[], b"hi", (415, "unsupported_media_type")),
            (&[("Content-Type", "text/plain")], b"{}", (415, "unsupported_media_type")),
            (&[("Content-Encoding", "gzip")], b"{}", (415, "unsupported_encoding")),
            (&[("Content-Encoding", "identity, br")], b"{}", (415, "unsupported_encoding")),
            (AS_JSON, b"\x1f\x8b\x08", (415, "unsupported_encoding")),
            (AS_JSON, b"PK\x03\x04", (415, "unsupported_encoding")),
            (AS_JSON, b"\xff\xfe{\0}\0", (400, "malformed_json")),
            (AS_JSON, b"{\0}\0", (400, "malformed_json")),
            (AS_JSON, b"\0\0\0{\0\0\0}", (400, "malformed_json")),
            (AS_FORM, b"message=Q&A", (400, "malformed_form")),
            (AS_FORM, b"message=%ff", (400, "malformed_form")),
        ] {
            assert_eq!(read(fields, body), Err(refusal), "{body:?}");
        }
        assert_eq!(read(&[("Content-Encoding", "Identity")], b"{}").as_deref(), Ok("{}"));
    }
}
