//! Files of every system, made after its documented export, and what becomes of them.
//!
//! Compiled under `#[cfg(test)]` only.

use std::io;
use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::message::{Id, Marker, Message, SessionId, Timestamp};

/// What a sink was given.
#[derive(Default, Debug, PartialEq)]
struct Collected {
    format: Option<ImportFormat>,
    lines: Vec<(u64, String)>,
    passed_on: Vec<u8>,
    failed: Vec<(u64, String)>,
}

impl LineSink for Collected {
    fn is(&mut self, format: ImportFormat) {
        self.format = Some(format);
    }

    fn line(&mut self, unit: u64, line: &[u8]) -> io::Result<()> {
        self.lines.push((unit, String::from_utf8(line.to_vec()).unwrap()));
        Ok(())
    }

    fn lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.passed_on.extend_from_slice(bytes);
        Ok(())
    }

    fn failed(&mut self, unit: u64, why: String) -> io::Result<()> {
        self.failed.push((unit, why));
        Ok(())
    }
}

fn placing() -> Placing {
    Placing::new(None, Timestamp::parse("2024-01-01T00:00:00Z").unwrap())
}

fn file(name: &str) -> Collected {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/import").join(name);
    let mut found = Collected::default();
    convert_file(File::open(path).unwrap(), None, &placing(), &mut found).unwrap();
    found
}

fn text(text: &str) -> Result<Collected, ConvertError> {
    let mut found = Collected::default();
    convert(text.as_bytes(), None, &placing(), &mut found).map(|()| found)
}

impl Collected {
    fn session(&self, session: &str) -> Vec<Message> {
        let all = self.lines.iter().map(|(_, line)| Message::from_line(line.as_bytes()).unwrap());
        all.filter(|message| message.session().as_str() == session).collect()
    }
}

/// The texts on the path after the rewinds, from below that id.
fn shown(all: &[Message], mut below: Option<Id>) -> Vec<String> {
    let mut shown = Vec::new();
    while let Some(message) = all.iter().rev().find(|message| below.is_none_or(|below| message.id() < below)) {
        below = Some(message.id());
        match message.marker() {
            Some(Marker::Rewind(None)) => break,
            Some(Marker::Rewind(Some(to))) => below = Some(to.just_after().min(message.id())),
            Some(_) => {}
            None => shown.push(message.text()),
        }
    }
    shown.reverse();
    shown
}

fn id_of(all: &[Message], text: &str) -> Id {
    all.iter().find(|message| message.text() == text).unwrap_or_else(|| panic!("{text}")).id()
}

fn state(all: &[Message]) -> crate::message::SessionState {
    let state = |message: &Message| match message.marker() {
        Some(Marker::Session(state)) => Some(state),
        _ => None,
    };
    all.iter().filter_map(state).next_back().unwrap_or_default()
}

#[test]
fn every_file_is_recognised_and_gives_the_same_lines_every_time() {
    for (name, format, sessions) in [
        ("chatgpt.json", ImportFormat::ChatGpt, 2),
        ("openwebui.json", ImportFormat::OpenWebUi, 2),
        ("librechat.json", ImportFormat::LibreChat, 1),
        ("librechat-recursive.json", ImportFormat::LibreChat, 1),
        ("langchain.json", ImportFormat::LangChain, 1),
        ("python.jsonl", ImportFormat::Python, 1),
        ("openai.jsonl", ImportFormat::OpenAi, 2),
    ] {
        let found = file(name);
        assert_eq!((found.format, &found), (Some(format), &file(name)), "{name}");
        let value = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let named: Vec<Value> = found.lines.iter().map(|(_, line)| value(line)["session_id"].clone()).collect();
        let distinct: std::collections::BTreeSet<&str> = named.iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(distinct.len(), sessions, "{name}: {distinct:?}");
        for session in distinct.into_iter().filter(|_| name != "python.jsonl") {
            let ids: Vec<Id> = found.session(session).iter().map(Message::id).collect();
            assert!(ids.is_sorted() && ids.windows(2).all(|two| two[0] != two[1]), "{name} {session}: {ids:?}");
        }
    }
}

#[test]
fn the_current_branch_of_chatgpt_is_shown_and_others_can_be_brought_back() {
    let found = file("chatgpt.json");
    let all = found.session("chatgpt-6740a1b2-0000-8000-9000-000000000001");
    let current = ["Where is Lisbon?", "In Portugal.", "[image]\nWhat is this?", "print(1)", "1", "A bridge."];
    assert_eq!(shown(&all, None), current);
    let other = id_of(&all, "Are you sure?").just_after();
    assert_eq!(shown(&all, Some(other)), ["Where is Lisbon?", "In Spain.", "Are you sure?"]);
    let (state, time) = (state(&all), all[0].id().time());
    assert_eq!((state.title.as_deref(), state.pinned, state.archived), (Some("Lisbon"), true, false));
    assert_eq!(time, Timestamp::from_micros(1_732_000_001_000_000));
    let tool = all.iter().find(|message| message.text() == "1").unwrap();
    assert_eq!((tool.role(), &tool.parts().unwrap().metadata["chatgpt"]["name"]), ("tool", &json!("python")));
    // The older answer is the current one: it is rewound to.
    let second = found.lines.iter().find(|(_, line)| line.contains("Pick a colour")).unwrap();
    let all = found.session(Message::from_line(second.1.as_bytes()).unwrap().session().as_str());
    assert_eq!(shown(&all, None), ["Pick a colour", "red"]);
    assert_eq!(shown(&all, Some(id_of(&all, "blue").just_after())), ["Pick a colour", "blue"]);
    assert!(self::state(&all).archived && second.0 == 2);
    // The ZIP has the same in two files.
    assert_eq!(file("chatgpt.zip").lines, found.lines);
}

#[test]
fn the_exports_of_openwebui_and_librechat_become_branches() {
    let found = file("openwebui.json");
    let all = found.session("openwebui-0b2c5d1e-1111-4222-8333-444455556666");
    assert_eq!(shown(&all, None), ["Capital of France?", "Paris", "Thanks", "no model"]);
    assert_eq!(shown(&all, Some(id_of(&all, "Lyon").just_after())), ["Capital of France?", "Lyon"]);
    let last = all.iter().find(|message| message.text() == "no model").unwrap().parts().unwrap();
    assert_eq!((&last.metadata["status"], state(&all).pinned), (&json!("error"), true));
    assert_eq!(shown(&found.session("openwebui-list-only"), None), ["hi", "hello"]);
    let flat = file("librechat.json");
    let all = flat.session("librechat-lc-1");
    assert_eq!(shown(&all, None), ["One plus one?", "2"]);
    assert_eq!(shown(&all, Some(id_of(&all, "3").just_after())), ["One plus one?", "3"]);
    assert_eq!(state(&all).title.as_deref(), Some("Sums"));
    assert_eq!(file("librechat-recursive.json").lines, flat.lines);
}

#[test]
fn documents_have_the_ids_that_the_history_gives_them() {
    let found = file("python.jsonl");
    let line = |at: usize| serde_json::from_str::<Value>(&found.lines[at].1).unwrap();
    let time = Timestamp::parse("2024-11-19T10:00:00.5Z").unwrap();
    let derived = Id::derived(time, r#"{"$oid":"673c2e000000000000000001"}"#);
    assert_eq!((&line(0)["id"], &line(0)["role"]), (&json!(derived), &json!("user")));
    assert_eq!(line(0)["metadata"], json!({"n": 5, "at": "2024-11-19T10:00:00Z"}));
    assert_eq!(line(0)["vector_ids"], json!(["v"]));
    let time = Timestamp::from_micros(1_732_000_010_123_000);
    let derived = Id::derived(time, r#""01994c6f-0000-7000-8000-000000000000""#);
    assert_eq!((&line(1)["id"], &line(1)["role"]), (&json!(derived), &json!("assistant")));
    // The server derives the id of one without `_id`.
    assert_eq!((line(2).get("id"), &line(2)["created_at"]), (None, &json!("2024-11-19T11:00:00.000000+00:00")));
    let failed: Vec<u64> = found.failed.iter().map(|(line, _)| *line).collect();
    assert_eq!(failed, [3, 5], "{:?}", found.failed);
    let own = "01994c6f-0000-7000-8000-000000000000".parse::<Id>().unwrap();
    let ours = json!({"_id": own, "session_id": "s", "role": "user", "text": "x", "created_at": own.time()});
    assert!(text(&ours.to_string()).unwrap().lines[0].1.contains(&format!("\"id\":\"{own}\"")));
    let found = file("langchain.json");
    let all = found.session(Message::from_line(found.lines[0].1.as_bytes()).unwrap().session().as_str());
    assert_eq!(shown(&all, None), ["hi", "hello", "more"]);
    assert_eq!(all[0].id().time(), Timestamp::from_micros(0x673c_2e00 * 1_000_000));
    assert_eq!((found.failed[0].0, found.failed.len()), (4, 1));
}

#[test]
fn conversations_of_openai_keep_what_is_no_text() {
    let found = file("openai.jsonl");
    assert_eq!((found.failed.len(), found.failed[0].0), (1, 3));
    assert!(found.failed[0].1.contains("messages[0].content"), "{:?}", found.failed);
    let all = found.session(Message::from_line(found.lines[0].1.as_bytes()).unwrap().session().as_str());
    assert_eq!(shown(&all, None), ["Be brief.", "Look", "", "12", "Done."]);
    assert_eq!(all[2].parts().unwrap().metadata["openai"]["tool_calls"][0]["id"], "c");
    assert_eq!(found.session("named").len(), 1);
    // The body of a request, over several lines.
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let found = text(&format!("\u{feff}{body:#}")).unwrap();
    assert_eq!((found.format, found.lines.len()), (Some(ImportFormat::OpenAi), 1));
}

#[test]
fn our_own_lines_are_passed_on_as_they_are() {
    let line = json!({"id": "01994c6f-0000-7000-8000-000000000000", "session_id": "s", "role": "user", "text": "x"});
    for file in [format!("{line}\nbroken\n\n{line}"), format!("\nbroken\n{line}\n")] {
        let found = text(&file).unwrap();
        assert_eq!((found.format, found.passed_on), (Some(ImportFormat::Chatkeep), file.into_bytes()));
    }
}

#[test]
fn what_is_not_understood_says_what_can_be_imported() {
    for unknown in ["", "  \n", "hello\nworld\n", "{\"a\": 1}\n", "[{\"a\": 1}]", "[1]", "PK", "a,b\n1,2\n"] {
        let fault = text(unknown).map(|_| ()).unwrap_err();
        let told = fault.to_string();
        assert!(matches!(fault, ConvertError::Unknown(_)) && told.contains("openwebui"), "{unknown}: {told}");
    }
    let whole = std::fs::read_to_string("tests/data/import/chatgpt.json").unwrap();
    let cut = &whole[..whole.len() - 100];
    let mut found = Collected::default();
    let fault = convert(cut.as_bytes(), None, &placing(), &mut found).unwrap_err();
    assert!(matches!(fault, ConvertError::Damaged(2, _)), "{fault}");
    assert!(!found.lines.is_empty(), "what stands before it is handed on");
    assert_eq!(text("[]").unwrap(), Collected::default());
}

#[test]
fn a_longer_export_of_the_same_conversation_keeps_its_ids() {
    let node = |id: &str, parent: Option<&str>, time: Option<f64>| {
        let message = json!({"author": {"role": "user"}, "create_time": time, "content": {"parts": [id]}});
        (id.to_owned(), json!({"parent": parent, "message": message}))
    };
    let export = |nodes: Vec<(String, Value)>, current: &str| {
        let mapping: Value = nodes.into_iter().collect::<serde_json::Map<_, _>>().into();
        text(&json!([{"id": "c", "mapping": mapping, "current_node": current}]).to_string())
            .unwrap()
            .session("chatgpt-c")
    };
    let t = |n: f64| Some(1.7e9 + n);
    let early = vec![node("a", None, t(1.0)), node("b", Some("a"), t(2.0)), node("c", Some("a"), t(3.0))];
    let mut late = early.clone();
    late.push(node("d", Some("b"), t(4.0)));
    let (early, late) = (export(early, "b"), export(late, "d"));
    assert_eq!(
        (shown(&early, None), shown(&late, None)),
        (vec!["a".into(), "b".into()], vec!["a".into(), "b".into(), "d".into()])
    );
    let ids = |all: &[Message]| all.iter().map(Message::id).collect::<std::collections::BTreeSet<_>>();
    assert!(ids(&early).is_subset(&ids(&late)), "{early:?} {late:?}");
    // Both imported, one after the other.
    let both: std::collections::BTreeMap<Id, Message> = early.into_iter().chain(late).map(|m| (m.id(), m)).collect();
    assert_eq!(shown(&both.into_values().collect::<Vec<_>>(), None), ["a", "b", "d"]);
    // Without any time, and in a circle.
    let none = vec![node("a", None, None), node("b", Some("a"), None), node("c", Some("a"), None)];
    assert_eq!(shown(&export(none, "b"), None), ["a", "b"]);
    let circle = vec![node("x", Some("y"), t(1.0)), node("y", Some("x"), t(2.0))];
    assert_eq!(export(circle, "y").len(), 2);
}

#[test]
fn everything_goes_into_the_session_that_is_named() {
    let session = SessionId::new("all").unwrap();
    let placing = Placing::new(Some(session.clone()), Timestamp::from_micros(1_700_000_000_000_000));
    for name in ["chatgpt.json", "python.jsonl", "langchain.json"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/import").join(name);
        let mut found = Collected::default();
        convert_file(File::open(path).unwrap(), None, &placing, &mut found).unwrap();
        assert!(found.lines.iter().all(|(_, line)| line.contains("\"session_id\":\"all\"")), "{name}");
        let titles = found.lines.iter().filter(|(_, line)| line.contains("\"type\":\"session\"")).count();
        assert_eq!(titles, 0, "{name}");
    }
}
