//! One line of a message: its bytes, and what is read back from bytes of any kind.
//!
//! Compiled under `#[cfg(test)]` only.

use serde_json::{Map, Value};

use super::draft::{SCRATCH, SCRATCH_BYTES};
use super::*;

fn id() -> Id {
    Id::from_parts(Timestamp::parse("2025-11-28T01:23:45.123456Z").unwrap(), 42)
}

fn sample(text: &str) -> Message {
    let session = SessionId::new("default").unwrap();
    let given: Map<String, Value> = serde_json::from_str(r#"{"z":1,"a":[true]}"#).unwrap();
    let metadata =
        Metadata { given: Some(&given), defaults: &[("transport", "rest".into()), ("z", "not this".into())] };
    Draft { session: &session, role: "user", text, metadata, vector_ids: &[] }.prepare().seal(id())
}

#[test]
fn a_message_counts_for_the_memory_that_its_allocations_take() {
    let message = sample("hi");
    // A word before each allocation, the reference counts, and two places in a queue with spare capacity.
    let least = message.line().len() + 8 + size_of::<Message>() + 24 + "default".len() + 24 + 16;
    assert!((least..least + 3 * 16).contains(&message.memory_bytes()), "{} of {least}", message.memory_bytes());
}

#[test]
fn a_thread_keeps_no_room_of_a_long_line() {
    sample(&"x".repeat(100_000));
    assert!(SCRATCH.with_borrow(Vec::capacity) <= SCRATCH_BYTES);
    assert!(sample("hi").line().len() < SCRATCH_BYTES);
}

#[test]
fn a_line_is_the_json_of_its_fields_in_order() {
    let line = String::from_utf8(sample("hi \"you\"\n\u{1F600}").line().to_vec()).unwrap();
    assert_eq!(
        line,
        format!(
            "{{\"id\":\"{}\",\"session_id\":\"default\",\"role\":\"user\",\
             \"created_at\":\"2025-11-28T01:23:45.123456+00:00\",\"text\":\"hi \\\"you\\\"\\n\u{1F600}\",\
             \"metadata\":{{\"z\":1,\"a\":[true],\"transport\":\"rest\"}}}}",
            id()
        )
    );
}

#[test]
fn a_line_reads_back_as_the_same_message() {
    let message = sample("round trip \u{0}\u{7f}");
    assert_eq!(Message::from_trusted(message.line()), Some(message.clone()));
    assert_eq!(Message::from_line(message.line()), Some(message.clone()));
    assert_eq!(Message::id_of_line(message.line()), Some(message.id()));
    assert_eq!((message.role(), message.text().as_str()), ("user", "round trip \u{0}\u{7f}"));
}

#[test]
fn a_line_of_another_layout_is_brought_into_ours() {
    let foreign = format!(
        r#"{{ "text": "hi", "role": "user", "session_id": "s", "id": "{}", "metadata": {{}}, "extra": 1 }}"#,
        id()
    );
    let message = Message::from_line(foreign.as_bytes()).unwrap();
    assert_eq!((message.id(), message.text().as_str()), (id(), "hi"));
    assert_eq!(Message::from_trusted(message.line()), Some(message));
}

#[test]
fn no_prefix_of_a_line_is_a_message() {
    let message = sample("cut");
    for end in 0..message.line().len() {
        assert_eq!(Message::from_line(&message.line()[..end]), None, "{end}");
    }
    assert_eq!(Message::from_line(b"[]"), None);
}

#[test]
fn a_line_that_is_not_utf_8_is_no_message() {
    let mut line = sample("plain").line().to_vec();
    let at = line.windows(5).position(|bytes| bytes == b"plain").unwrap();
    line[at] = 0xf8;
    assert_eq!(Message::from_line(&line), None);
}

#[test]
fn the_text_is_not_in_the_debug_form() {
    assert!(!format!("{:?}", sample("secret words")).contains("secret"));
}
