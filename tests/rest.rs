//! The REST contract from outside: the seed's checks, every field, every limit and every refusal of the API itself, over
//! TCP and over the Unix socket.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use support::{Client, Options, Reply, Server, walk};

fn start() -> Server {
    Server::start(Options::default())
}

/// `2025-11-28T01:23:45.123456+00:00`, and nothing else.
fn is_timestamp(value: &Value) -> bool {
    let shape = "dddd-dd-ddTdd:dd:dd.dddddd+00:00";
    value.as_str().is_some_and(|text| {
        text.len() == shape.len()
            && text.chars().zip(shape.chars()).all(|(c, s)| if s == 'd' { c.is_ascii_digit() } else { c == s })
    })
}

/// A UUID of version 7 in its usual form.
fn is_uuid_v7(value: &Value) -> bool {
    let shape = "xxxxxxxx-xxxx-7xxx-vxxx-xxxxxxxxxxxx";
    value.as_str().is_some_and(|text| {
        text.len() == shape.len()
            && text.chars().zip(shape.chars()).all(|(c, s)| match s {
                'x' => c.is_ascii_digit() || ('a'..='f').contains(&c),
                'v' => "89ab".contains(c),
                _ => c == s,
            })
    })
}

fn texts(page: &Value) -> Vec<&str> {
    page["messages"].as_array().expect("messages").iter().map(|m| m["text"].as_str().expect("text")).collect()
}

/// Stores `count` messages `m0`, `m1`, … and gives their ids and times.
fn fill(client: &mut Client, session: &str, count: usize) -> Vec<(String, String)> {
    let role = |n: usize| if n.is_multiple_of(2) { "user" } else { "assistant" };
    let messages: Vec<Value> =
        (0..count).map(|n| json!({"session_id": session, "role": role(n), "text": format!("m{n}")})).collect();
    let reply = client.post("/api/chat/messages", &Value::from(messages)).expect(201);
    let field = |m: &Value, f: &str| m[f].as_str().expect("a string").to_owned();
    reply["messages"].as_array().expect("messages").iter().map(|m| (field(m, "id"), field(m, "created_at"))).collect()
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("m{n}")).collect()
}

#[test]
fn the_seeds_rest_check_records_both_lines_and_answers_with_every_field() {
    let server = start();
    let mut client = server.client();
    let body = br#"{"message":"ping from rest","session_id":"verifier"}"#;
    let reply = client.post_bytes("/api/chat", body);
    assert_eq!(reply.header("content-type").map(|v| v.starts_with("application/json")), Some(true), "{reply}");
    let answer = reply.expect(200);
    assert_eq!(answer["response"], "ping from rest");
    assert_eq!(answer["status"], "completed");
    assert_eq!(answer["session_id"], "verifier");
    assert_eq!(answer["durable"], "disk");
    assert!(is_timestamp(&answer["timestamp"]), "{answer}");
    assert!(is_uuid_v7(&answer["user_message_id"]), "{answer}");
    assert!(is_uuid_v7(&answer["assistant_message_id"]), "{answer}");
    assert!(answer["user_message_id"].as_str() < answer["assistant_message_id"].as_str(), "{answer}");

    let lines = server.transcript_of("verifier", 2);
    for (line, role, id) in
        [(&lines[0], "user", &answer["user_message_id"]), (&lines[1], "assistant", &answer["assistant_message_id"])]
    {
        assert_eq!(&line["id"], id);
        assert_eq!(line["session_id"], "verifier");
        assert_eq!(line["role"], role);
        assert_eq!(line["text"], "ping from rest");
        assert!(is_timestamp(&line["created_at"]), "{line}");
        assert_eq!(line["metadata"]["transport"], "rest");
    }
    assert_eq!(lines[0]["metadata"], json!({"transport": "rest"}));
    let metadata = &lines[1]["metadata"];
    assert_eq!((&metadata["transport"], &metadata["status"]), (&json!("rest"), &json!("completed")));
    assert!(lines[0]["created_at"].as_str() <= lines[1]["created_at"].as_str());
}

#[test]
fn ping_is_answered_with_pong() {
    let server = start();
    assert_eq!(server.client().chat("default", "ping")["response"], "pong!");
}

#[test]
fn without_a_session_the_message_goes_to_default() {
    let server = start();
    let mut client = server.client();
    let answer = client.post("/api/chat", &json!({"message": "hello"})).expect(200);
    assert_eq!(answer["session_id"], "default");
    let page = client.get("/api/chat/history").expect(200);
    assert_eq!(page["session_id"], "default");
    assert_eq!(texts(&page), ["hello", "hello"]);
    client.post("/api/chat/messages", &json!({"role": "user", "text": "third"})).expect(201);
    assert_eq!(texts(&client.get("/api/chat/history").expect(200)), ["hello", "hello", "third"]);
}

#[test]
fn history_has_the_seeds_shape() {
    let server = start();
    let mut client = server.client();
    let answer = client.chat("shape", "ping");
    let page = client.history("shape", "&limit=50");
    assert_eq!(page["session_id"], "shape");
    assert_eq!(texts(&page), ["ping", "pong!"]);
    assert_eq!(page["has_more"], false);
    assert_eq!(page["complete"], true);
    let messages = page["messages"].as_array().unwrap();
    assert_eq!(messages[0]["id"], answer["user_message_id"]);
    assert_eq!(messages[1]["id"], answer["assistant_message_id"]);
    for (message, role) in messages.iter().zip(["user", "assistant"]) {
        assert_eq!(message["session_id"], "shape");
        assert_eq!(message["role"], role);
        assert!(is_timestamp(&message["created_at"]), "{message}");
        assert_eq!(message["metadata"]["transport"], "rest");
        assert!(["cache", "disk", "mongo"].contains(&message["source"].as_str().unwrap()), "{message}");
    }
    for source in ["cache", "mongo", "disk"] {
        let of_it = messages.iter().filter(|m| m["source"] == source).count();
        assert_eq!(page["counts"][source], of_it, "counts.{source}: {page}");
    }
    let persisted = page.get("last_persisted_at").expect("last_persisted_at is always there");
    assert!(persisted.is_null() || is_timestamp(persisted), "{persisted}");
}

#[test]
fn a_session_nobody_knows_is_empty_and_leaves_no_file() {
    let server = start();
    let page = server.client().history("nobody", "");
    assert_eq!(page["session_id"], "nobody");
    assert_eq!(page["messages"], json!([]));
    assert_eq!(page["counts"], json!({"cache": 0, "mongo": 0, "disk": 0}));
    assert_eq!((&page["has_more"], &page["complete"]), (&json!(false), &json!(true)));
    assert_eq!(page.get("last_persisted_at"), Some(&Value::Null));
    assert!(!server.transcript_path("nobody").exists());
}

#[test]
fn history_gives_the_newest_and_pages_both_ways_through_hundreds() {
    let server = start();
    let mut client = server.client();
    let stored = fill(&mut client, "pages", 300);
    assert_eq!(texts(&client.history("pages", "")), names(250..300), "50 is the default");
    let newest = client.history("pages", "&limit=10");
    assert_eq!(texts(&newest), names(290..300));
    assert_eq!(newest["has_more"], true);
    assert_eq!(texts(&client.history("pages", "&limit=1")), names(299..300));

    let all = client.history("pages", "&limit=500");
    assert_eq!(texts(&all), names(0..300));
    assert_eq!(all["has_more"], false);
    assert_eq!(texts(&client.history("pages", "&limit=300")), names(0..300));

    for limit in [7_usize, 50, 75, 100, 299] {
        let mut seen = Vec::new();
        let mut before = String::new();
        loop {
            let page = client.history("pages", &format!("&limit={limit}{before}"));
            let messages = page["messages"].as_array().unwrap();
            assert!(messages.len() <= limit);
            before = format!("&before={}", messages[0]["id"].as_str().unwrap());
            let mut front: Vec<String> = texts(&page).into_iter().map(str::to_owned).collect();
            let left = 300 - seen.len();
            assert_eq!(page["has_more"], left > front.len(), "limit {limit}, {left} left");
            front.append(&mut seen);
            seen = front;
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(seen, names(0..300), "backward by {limit}");

        let mut seen = names(0..1);
        let mut after = stored[0].0.clone();
        loop {
            let page = client.history("pages", &format!("&limit={limit}&after={after}"));
            let messages = page["messages"].as_array().unwrap();
            after = messages.last().unwrap()["id"].as_str().unwrap().to_owned();
            seen.extend(texts(&page).into_iter().map(str::to_owned));
            assert_eq!(page["has_more"], seen.len() < 300, "limit {limit}, after {}", seen.len());
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(seen, names(0..300), "forward by {limit}");
    }
    let last = &stored[299].0;
    assert_eq!(client.history("pages", &format!("&after={last}"))["messages"], json!([]));
    let first = &stored[0].0;
    let nothing = client.history("pages", &format!("&before={first}"));
    assert_eq!((&nothing["messages"], &nothing["has_more"]), (&json!([]), &json!(false)));
}

#[test]
fn history_filters_by_role_and_by_time() {
    let server = start();
    let mut client = server.client();
    let mut stored = Vec::new();
    for n in 0..120 {
        let role = if n % 2 == 0 { "user" } else { "assistant" };
        let body = json!({"session_id": "filters", "role": role, "text": format!("m{n}")});
        let reply = client.post("/api/chat/messages", &body).expect(201);
        stored.push(reply["messages"][0]["created_at"].as_str().unwrap().to_owned());
    }
    let users = client.history("filters", "&role=user&limit=500");
    assert_eq!(texts(&users), (0..120).step_by(2).map(|n| format!("m{n}")).collect::<Vec<_>>());
    let some = client.history("filters", "&role=assistant&limit=5");
    assert_eq!(texts(&some), ["m111", "m113", "m115", "m117", "m119"]);
    assert_eq!(some["has_more"], true);

    // Two messages may have the same time, so only what lies clearly within or beyond the bounds is checked.
    let check = |query: &str, page: &Value, within: &dyn Fn(&str) -> bool, beyond: &dyn Fn(&str) -> bool| {
        let found = texts(page);
        for (n, time) in stored.iter().enumerate() {
            let is_there = found.contains(&format!("m{n}").as_str());
            assert!(is_there || !within(time), "{query}: m{n} is missing in {found:?}");
            assert!(!is_there || !beyond(time), "{query}: m{n} does not belong in {found:?}");
        }
    };
    let (low, high) = (stored[40].as_str(), stored[80].as_str());
    for form in ["%2B00:00", "Z"] {
        let (since, until) = (low.replace("+00:00", form), high.replace("+00:00", form));
        let query = format!("&since={since}&limit=500");
        check(&query, &client.history("filters", &query), &|t| t > low, &|t| t < low);
        let query = format!("&until={until}&limit=500");
        check(&query, &client.history("filters", &query), &|t| t < high, &|t| t > high);
        let query = format!("&since={since}&until={until}&limit=500");
        check(&query, &client.history("filters", &query), &|t| t > low && t < high, &|t| t < low || t > high);
    }
    let both = client.history("filters", &format!("&since={}&role=user&limit=500", low.replace("+00:00", "Z")));
    assert!(both["messages"].as_array().unwrap().iter().all(|m| m["role"] == "user"), "{both}");
    assert!(texts(&both).contains(&"m118"), "{both}");
}

#[test]
fn a_query_that_cannot_be_served_is_422_and_names_its_field() {
    let server = start();
    let mut client = server.client();
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=abc", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("before=yesterday", "before"),
        ("after=1", "after"),
        ("since=yesterday", "since"),
        ("until=2025-13-45", "until"),
        ("session_id=", "session_id"),
        ("session_id=a%2Fb", "session_id"),
        ("session_id=..", "session_id"),
        ("session_id=a%00b", "session_id"),
    ] {
        let detail = client.get(&format!("/api/chat/history?{query}")).problem(422);
        assert!(detail.contains(field), "{query}: {detail}");
    }
    for limit in ["1", "500"] {
        client.get(&format!("/api/chat/history?limit={limit}")).expect(200);
    }
}

#[test]
fn history_as_ndjson_is_one_message_a_line() {
    let server = start();
    let mut client = server.client();
    fill(&mut client, "lines", 100);
    let target = "/api/chat/history?session_id=lines&limit=90";
    let reply = client.request("GET", target, &[("Accept", "application/x-ndjson")], None);
    assert_eq!(reply.status, 200, "{reply}");
    assert!(reply.header("content-type").is_some_and(|v| v.starts_with("application/x-ndjson")), "{reply}");
    let text = reply.text();
    assert!(text.ends_with('\n'));
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let page = client.get(target).expect(200);
    assert_eq!(lines.len(), 90);
    let same = |a: &Value, b: &Value| {
        ["id", "session_id", "role", "text", "created_at", "metadata"].iter().all(|f| a[*f] == b[*f])
    };
    assert!(lines.iter().zip(page["messages"].as_array().unwrap()).all(|(a, b)| same(a, b)));
    let empty = client.request("GET", "/api/chat/history?session_id=none", &[("Accept", "application/x-ndjson")], None);
    assert_eq!((empty.status, empty.text().as_str()), (200, ""));
}

#[test]
fn messages_are_recorded_without_a_responder_one_or_many_in_order() {
    let server = start();
    let mut client = server.client();
    let one = json!({"session_id": "own", "role": "user", "text": "one", "metadata": {"k": [1, {"z": null}]}});
    let reply = client.post("/api/chat/messages", &one).expect(201);
    assert_eq!(reply["durable"], "disk");
    let stored = reply["messages"].as_array().unwrap();
    assert_eq!(stored.len(), 1);
    assert!(is_uuid_v7(&stored[0]["id"]) && is_timestamp(&stored[0]["created_at"]), "{reply}");
    assert_eq!(stored[0]["duplicate"], false);

    let many = json!([
        {"session_id": "own", "role": "assistant", "text": "two"},
        {"session_id": "other", "role": "user", "text": "elsewhere"},
        {"session_id": "own", "role": "system", "text": "three"},
    ]);
    let reply = client.post("/api/chat/messages", &many).expect(201);
    let ids: Vec<&str> = reply["messages"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.is_sorted() && ids[0] > stored[0]["id"].as_str().unwrap(), "{ids:?}");

    let page = client.history("own", "");
    assert_eq!(texts(&page), ["one", "two", "three"]);
    assert_eq!(page["messages"][0]["metadata"]["k"], json!([1, {"z": null}]));
    assert_eq!(page["messages"][2]["role"], "system");
    assert_eq!(page["messages"][2]["id"], ids[2]);
    assert_eq!(texts(&client.history("other", "")), ["elsewhere"]);
    server.transcript_of("own", 3);
}

#[test]
fn an_array_in_an_objects_place_is_no_object_however_well_its_items_fit() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let turn = client.post("/api/chat", &json!(["hi", "arr", null, null, null])).problem(422);
    assert!(turn.contains("must be a JSON object"), "{turn}");
    let message = json!([["user", "x", "arr", null, null, null]]);
    let message = client.post("/api/chat/messages", &message).problem(422);
    assert!(message.contains("[0] must be a JSON object"), "{message}");
    assert_eq!(client.history("arr", "")["messages"], json!([]));
}

#[test]
fn one_bad_message_refuses_the_whole_array_and_nothing_is_stored() {
    let server = start();
    let mut client = server.client();
    let good = json!({"session_id": "whole", "role": "user", "text": "UNSTORED-MARKER"});
    for (bad, field) in [
        (json!({"session_id": "whole", "text": "no role"}), "role"),
        (json!({"session_id": "whole", "role": "user"}), "text"),
        (json!({"session_id": "whole", "role": 5, "text": "x"}), "role"),
        (json!({"session_id": "whole", "role": "user", "text": 5}), "text"),
        (json!({"session_id": "../whole", "role": "user", "text": "x"}), "session_id"),
        (json!({"session_id": "whole", "role": "user", "text": "x", "metadata": "none"}), "metadata"),
    ] {
        let detail = client.post("/api/chat/messages", &bad).problem(422);
        assert!(detail.contains(field), "{bad}: {detail}");
        let detail = client.post("/api/chat/messages", &json!([good, good, bad, good])).problem(422);
        assert!(detail.contains(field), "{bad}: {detail}");
    }
    for not_messages in [json!("text"), json!(5), json!(null), json!([5]), json!([[good]])] {
        client.post("/api/chat/messages", &not_messages).problem(422);
    }
    assert_eq!(client.history("whole", "")["messages"], json!([]));
    assert!(!server.transcript_path("whole").exists());
    assert!(support::files_holding(&server.data(), "UNSTORED-MARKER").is_empty());
}

#[test]
fn an_array_holds_a_thousand_messages_and_not_one_more() {
    let server = start();
    let mut client = server.client();
    assert_eq!(fill(&mut client, "thousand", 1_000).len(), 1_000);
    let one = json!({"session_id": "more", "role": "user", "text": "x"});
    client.post("/api/chat/messages", &Value::from(vec![one; 1_001])).problem(422);
    assert_eq!(client.history("more", "")["messages"], json!([]));
    assert_eq!(client.whole_history("thousand").len(), 1_000);
}

#[test]
fn a_session_id_outside_the_rules_is_422_and_makes_no_file() {
    let server = start();
    let mut client = server.client();
    client.chat("known", "hello");
    server.transcript_of("known", 2);
    let files = |server: &Server| walk(&server.data().join("cache"));
    let before = files(&server);
    let long = "x".repeat(129);
    for id in ["", ".", "..", "a/b", "../../escape", "/etc/passwd", "a b", "a\\b", "ü", "a\u{0}b", "a\n", "a%2f", &long]
    {
        let detail = client.post("/api/chat", &json!({"message": "x", "session_id": id})).problem(422);
        assert!(detail.contains("session_id"), "{id:?}: {detail}");
    }
    assert_eq!(files(&server), before);
    assert!(!server.folder().join("escape.jsonl").exists());
}

#[test]
fn every_session_id_within_the_rules_keeps_its_own_messages() {
    let server = start();
    let mut client = server.client();
    let long = "y".repeat(128);
    let ids = ["a", "A", "a.b_c-d", "user:42", "me@example.org", "...", ".hidden", "-", "_", "a..", "con", &long];
    for id in ids {
        client.chat(id, &format!("in {id}"));
    }
    for id in ids {
        assert_eq!(texts(&client.history(id, "")), [format!("in {id}"), format!("in {id}")], "{id}");
    }
    let transcripts = || {
        walk(&server.data().join("cache/chat_sessions"))
            .iter()
            .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
            .count()
    };
    support::wait_until("each has a transcript", support::WAIT_TIMEOUT, || transcripts() >= ids.len());
    assert_eq!(transcripts(), ids.len());
    assert!(server.transcript_path("a.b_c-d").exists(), "a usual id is the file's plain name");
}

#[test]
fn a_body_that_is_not_json_is_400_and_stores_nothing() {
    let server = start();
    let mut client = server.client();
    for body in [
        &b""[..],
        b" ",
        b"{",
        b"}",
        b"hello",
        br#"{"message":"x""#,
        br#"{"message":"x",}"#,
        br#"{"message":"x"} trailing"#,
        br#"{'message':'x'}"#,
        br#"{"message":NaN}"#,
        b"{\"message\":\"a raw \x00 byte\"}",
        b"{\"message\":\"a raw \n line\"}",
        b"{\"message\":\"not UTF-8 \xff\xfe\"}",
        b"{\"message\":\"cut short \xe2\x82\"}",
        br#"{"message":"\ud80"}"#,
        br#"{"message":"\x41"}"#,
    ] {
        client.post_bytes("/api/chat", body).problem(400);
        client.post_bytes("/api/chat/messages", body).problem(400);
    }
    let deep = format!(r#"{{"message":"x","metadata":{{"a":{}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let reply = client.post_bytes("/api/chat", deep.as_bytes());
    reply.problem(reply.status);
    assert!([400, 422].contains(&reply.status), "{reply}");
    assert_eq!(client.history("default", "")["messages"], json!([]));
}

#[test]
fn a_field_of_the_wrong_type_or_missing_is_422_and_named() {
    let server = start();
    let mut client = server.client();
    for (body, field) in [
        (json!({}), "message"),
        (json!({"session_id": "x"}), "message"),
        (json!({"message": ""}), "message"),
        (json!({"message": 5}), "message"),
        (json!({"message": null}), "message"),
        (json!({"message": ["x"]}), "message"),
        (json!({"message": "x", "session_id": 7}), "session_id"),
        (json!({"message": "x", "session_id": ["x"]}), "session_id"),
        (json!({"message": "x", "metadata": "none"}), "metadata"),
        (json!({"message": "x", "metadata": [1]}), "metadata"),
        (json!({"message": "x", "stream": "yes"}), "stream"),
    ] {
        let detail = client.post("/api/chat", &body).problem(422);
        assert!(detail.contains(field), "{body}: {detail}");
    }
    for not_an_object in [json!([]), json!("text"), json!(5), json!(null), json!(true)] {
        client.post("/api/chat", &not_an_object).problem(422);
    }
    assert_eq!(client.history("default", "")["messages"], json!([]));
}

#[test]
fn any_text_comes_back_as_it_was_sent() {
    let server = start();
    let mut client = server.client();
    let all_escapes = "\"\\/\u{8}\u{c}\n\r\t\u{1}\u{1f}\u{7f}\u{2028}\u{2029}\u{feff}";
    let texts = [
        "héllo wörld — 你好, мир, שלום, 👩‍👩‍👧‍👦 \u{10ffff}",
        "a\u{0}b",
        all_escapes,
        "{\"not\": \"a record\"}\n{\"nor\": \"this\"}",
        &"x".repeat(200_000),
        &"𝄞".repeat(50_000),
        " ",
    ];
    for (n, text) in texts.iter().enumerate() {
        let session = format!("unicode-{n}");
        assert_eq!(client.chat(&session, text)["response"].as_str(), Some(*text));
        let page = client.history(&session, "");
        assert_eq!(page["messages"][0]["text"].as_str(), Some(*text));
        let lines = server.transcript_of(&session, 2);
        assert_eq!(lines[0]["text"].as_str(), Some(*text));
    }
    let reply = client.post_bytes("/api/chat", br#"{"message":"\ud834\udd1e \u0000","session_id":"pair"}"#);
    assert_eq!(reply.expect(200)["response"], "𝄞 \u{0}");
}

#[test]
fn metadata_is_kept_beside_the_transport() {
    let server = start();
    let mut client = server.client();
    let metadata = json!({"z": 1, "a": {"deep": [true, null, 1.5, "ü"]}, "big": 12_345_678_901_234_u64});
    client.post("/api/chat", &json!({"message": "x", "session_id": "meta", "metadata": metadata})).expect(200);
    let kept = &client.history("meta", "")["messages"][0]["metadata"];
    for key in ["z", "a", "big"] {
        assert_eq!(kept[key], metadata[key], "{kept}");
    }
    assert_eq!(kept["transport"], "rest");
}

#[test]
fn clear_is_200_and_keeps_the_history() {
    let server = start();
    let mut client = server.client();
    client.chat("cleared", "before");
    let reply = client.chat("cleared", "/clear");
    assert_eq!(reply["session_id"], "cleared");
    client.chat("cleared", "after");
    let page = client.history("cleared", "");
    let found = texts(&page);
    assert_eq!(found.iter().filter(|t| **t == "before").count(), 2, "{found:?}");
    assert_eq!(found.iter().filter(|t| **t == "after").count(), 2, "{found:?}");
}

#[test]
fn bare_clear_and_help_do_what_they_do_with_a_slash() {
    let slow = json!(["sh", "-c", "sleep 0.1; printf answered"]);
    let server = Server::start(Options::default().set("responder.kind", "command").set("responder.command", slow));
    for (name, mut client) in [("tcp", server.client()), ("local", server.local_client())] {
        for text in ["clear", " /clear\n"] {
            let reply = client.chat(name, text);
            assert_eq!(
                (&reply["response"], &reply["assistant_message_id"]),
                (&json!("A new context begins here."), &json!(null))
            );
        }
        for text in ["help", "/help"] {
            let reply = client.chat(name, text);
            assert!(reply["response"].as_str().unwrap().contains("/clear (or clear)"), "{reply}");
            assert!(is_uuid_v7(&reply["user_message_id"]) && is_uuid_v7(&reply["assistant_message_id"]), "{reply}");
        }
        assert_eq!(client.chat(name, "clear it")["response"], "answered");
        let roles: Vec<Value> = client.whole_history(name).iter().map(|message| message["role"].clone()).collect();
        assert_eq!(roles, ["system", "system", "user", "assistant", "user", "assistant", "user", "assistant"]);
    }
    let server = Server::start(Options::default().set("responder.kind", "none"));
    server.client().post("/api/chat", &json!({"message": "help"})).expect(202);
    assert_eq!(texts(&server.client().history("default", "")), ["help"]);
}

#[test]
fn storage_status_has_the_seeds_fields_and_tells_no_secret() {
    let options = Options::default()
        .set("mongo.uri", "mongodb://someone:pa55word@db.example:27017")
        .set("server.auth_token", "a-token-nobody-guesses");
    let server = Server::start(options);
    let mut client = server.client().with_header("Authorization", "Bearer a-token-nobody-guesses");
    client.chat("counted", "hello");
    let reply = client.get("/api/storage/status");
    let status = reply.expect(200);
    assert_eq!(status["mongo"]["enabled"], false);
    assert_eq!(status["mongo"]["status"], "disabled");
    assert_eq!(status["mongo"]["collection"], status["mongo"]["chat_collection"]);
    assert_eq!(status["mongo"]["collection"], "chat_messages");
    assert_eq!(status["cache"]["max_messages_per_session"], 75);
    let disk_path = status["cache"]["disk_path"].as_str().unwrap();
    assert!(disk_path.ends_with("cache/chat_sessions"), "{disk_path}");
    assert!(status["cache"]["flush_enabled"].is_boolean(), "{status}");
    for part in ["queue", "journal"] {
        assert!(status[part].is_object(), "{part}: {status}");
    }
    for field in ["pending", "oldest_pending_seconds", "last_flush", "skipped"] {
        assert!(status["queue"].get(field).is_some(), "queue.{field}: {status}");
    }
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptime_seconds"].as_f64().is_some_and(|s| (0.0..600.0).contains(&s)), "{status}");
    for secret in ["pa55word", "someone", "a-token-nobody-guesses"] {
        assert!(!reply.text().contains(secret), "{secret} in the status");
        assert!(!server.log().contains(secret), "{secret} in the log");
    }
}

#[test]
fn the_three_health_calls_answer_with_get_and_head() {
    let server = start();
    let mut client = server.client();
    for path in ["/livez", "/readyz", "/health"] {
        client.get(path).expect(200);
        let head = client.request("HEAD", path, &[], None);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
}

/// Checks a 422 in the shape that its path has.
#[track_caller]
fn refused(reply: &Reply, path: &str) {
    if path.starts_with("/v1/") {
        reply.openai_error(422);
    } else {
        reply.problem(422);
    }
}

#[test]
fn the_description_of_the_api_is_served_and_describes_what_answers() {
    let server = start();
    for mut client in [server.client(), server.local_client()] {
        let reply = client.get("/openapi.json");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let document = reply.expect(200);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let head = client.request("HEAD", "/openapi.json", &[], None);
        assert_eq!((head.status, head.body.len()), (200, 0));
        client.request("POST", "/openapi.json", &[], None).problem(405);
        for (path, item) in document["paths"].as_object().expect("paths") {
            if item["get"]["responses"].get("101").is_some() {
                // A plain GET where a WebSocket is expected; the Unix socket serves none.
                assert!(matches!(client.get(path).status, 426 | 501), "{path}");
            } else if path.contains("{id}") {
                let described = |(key, method): (&str, _)| item.get(key).map(|_| method);
                let methods =
                    [("get", "GET"), ("get", "HEAD"), ("post", "POST"), ("patch", "PATCH"), ("delete", "DELETE")];
                let methods: Vec<&str> = methods.into_iter().filter_map(described).collect();
                let allowed = client.request("PUT", path, &[], None);
                assert_eq!(allowed.header("allow"), Some(methods.join(", ").as_str()), "{path}");
                for method in methods {
                    assert_eq!(client.request(method, path, &[], None).status, 422, "{method} {path}");
                }
            } else if item.get("get").is_some() {
                let path = &path.replace("{model}", "chatkeep").replace("{file}", "main.js");
                let path = &if path.ends_with("/search") { format!("{path}?q=words") } else { path.clone() };
                assert_eq!(client.get(path).status, 200, "{path}");
                let head = client.request("HEAD", path, &[], None);
                assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
            } else {
                assert_eq!(client.get(path).header("allow"), Some("POST"), "{path}");
                let reply = match path.as_str() {
                    // Lines, each with its own outcome.
                    "/api/chat/import" => continue,
                    path => client.post(path, &json!({})),
                };
                refused(&reply, path);
            }
        }
    }
}

#[test]
fn a_form_has_the_fields_of_the_object_and_is_described_without_null() {
    let server = start();
    let mut client = server.client();
    let document = client.get("/openapi.json").expect(200);
    let resolved = |schema: &Value| match schema["$ref"].as_str() {
        Some(place) => document.pointer(&place[1..]).expect("a schema").clone(),
        None => schema.clone(),
    };
    let mut forms = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, call) in item.as_object().expect("calls") {
            let content = &call["requestBody"]["content"];
            let form = resolved(&content["application/x-www-form-urlencoded"]["schema"]);
            let Some(fields) = form["properties"].as_object() else { continue };
            let object = resolved(&content["application/json"]["schema"]);
            let object = if object["oneOf"][1]["type"] == "array" { resolved(&object["oneOf"][0]) } else { object };
            assert_eq!(
                fields.keys().collect::<Vec<_>>(),
                object["properties"].as_object().unwrap().keys().collect::<Vec<_>>()
            );
            for (name, field) in fields {
                let (field, null) = (resolved(field), json!({"type": "null"}));
                let choices = field["oneOf"].as_array().cloned().unwrap_or_default();
                assert!(field["type"] != "null" && !field["type"].is_array(), "{method} {path} {name}");
                assert!(!choices.contains(&null), "{method} {path} {name}");
            }
            forms += 1;
        }
    }
    assert_eq!(forms, 6);
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    client.chat("form", "ping");
    for (method, path, body, field) in [
        ("POST", "/api/chat", "message=hi&stream=null", "stream"),
        ("POST", "/api/chat", "message=hi&rewind_to=", "rewind_to"),
        ("POST", "/api/chat", "message=hi&session_id=", "session_id"),
        ("POST", "/api/chat/messages", "role=user&text=hi&vector_ids=", "vector_ids"),
        ("PATCH", "/api/chat/sessions/form", "archived=null", "archived"),
        ("POST", "/api/chat/sessions/form/rewind", "to=", "to"),
        ("PATCH", "/api/chat/sessions/form", "title=", "title"),
        ("POST", "/api/storage/resend", "dead_letters=null", "dead_letters"),
    ] {
        let reply = client.request(method, path, &form, Some(body.as_bytes()));
        reply.problem(422);
        assert_eq!(reply.json()["field"], field, "{path} {body}");
    }
    // The word is null where null says something that nothing does not say, and nowhere else.
    let mut send = |method, path: &str, body: &str| client.request(method, path, &form, Some(body.as_bytes()));
    let session = "/api/chat/sessions/form";
    assert_eq!(send("PATCH", session, "title=plans").expect(200)["title"], "plans");
    assert_eq!(send("PATCH", session, "title=null").expect(200)["title"], json!(null));
    let rewound = send("POST", "/api/chat/sessions/form/rewind", "to=null").expect(201);
    assert_eq!(rewound["messages"].as_array().map(Vec::len), Some(1));
    let turn = "message=anew&session_id=form&rewind_to=null";
    assert_eq!(send("POST", "/api/chat", turn).expect(200)["response"], "anew");
    assert_eq!(send("POST", "/api/chat", "message=hi&session_id=null").expect(200)["session_id"], "null");
    let current = client.get("/api/chat/history?session_id=form&view=current").expect(200);
    let texts: Vec<_> = current["messages"].as_array().unwrap().iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts, ["anew", "anew"]);
}

#[test]
fn what_a_resend_and_a_resumed_stream_may_name_is_described() {
    let server = start();
    let mut client = server.client();
    let document = client.get("/openapi.json").expect(200);
    // One of the two: neither and both are refused, each alone gets as far as MongoDB, which is not in use.
    assert_eq!(document["components"]["schemas"]["NewResend"]["oneOf"].as_array().map(Vec::len), Some(2));
    for body in
        [json!({}), json!({"since": null, "dead_letters": false}), json!({"since": "2025-11-28", "dead_letters": true})]
    {
        client.post("/api/storage/resend", &body).problem(422);
    }
    for body in [json!({"since": "2025-11-28", "dead_letters": false}), json!({"since": null, "dead_letters": true})] {
        client.post("/api/storage/resend", &body).problem(409);
    }
    for (path, call) in [("/api/chat/sessions/s/events", "/api/chat/sessions/{id}/events"), ("/ws/chat", "/ws/chat")] {
        let parameters = document["paths"][call]["get"]["parameters"].as_array().expect("parameters");
        let after = parameters.iter().find(|parameter| parameter["name"] == "after").expect("after");
        assert_eq!(after["schema"]["$ref"], "#/components/schemas/LastId", "{call}");
        if path != call {
            client.get(&format!("{path}?after=x")).problem(422);
            assert_eq!(client.request("HEAD", &format!("{path}?after="), &[], None).status, 200);
        }
    }
}

#[test]
fn a_key_that_is_not_ascii_is_refused_by_every_call_as_described() {
    let server = start();
    let mut client = server.client();
    let document = client.get("/openapi.json").expect(200);
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, call) in item.as_object().expect("calls").iter().filter(|(name, _)| *name != "parameters") {
            refused(&client.request(&method.to_uppercase(), path, &[("Idempotency-Key", "é")], None), path);
            assert!(call["responses"]["422"].is_object(), "{method} {path}");
        }
    }
}

#[test]
fn every_described_parameter_is_read_and_keys_have_the_described_form() {
    let server = start();
    for mut client in [server.client(), server.local_client()] {
        let document = client.get("/openapi.json").expect(200);
        let mut read = 0;
        for path in ["/api/chat/history", "/api/chat/feed"] {
            for parameter in document["paths"][path]["get"]["parameters"].as_array().expect("parameters") {
                let name = parameter["name"].as_str().expect("a name");
                if parameter["in"] == "query" {
                    // A parameter that is known, with an impossible value, is refused.
                    let reply = client.get(&format!("{path}?{name}=%20/&{name}=%20/"));
                    reply.problem(422);
                    assert_eq!(reply.json()["field"], name, "{path}");
                    read += 1;
                }
            }
        }
        assert_eq!(read, 11);
        let cursor = &document["components"]["schemas"]["Cursor"]["pattern"];
        assert_eq!(cursor, "^[0-9a-f]{16}-(0|[1-9a-f][0-9a-f]{0,15})$");
        let high = "f".repeat(16);
        for (cursor, status) in [(format!("{high}-0"), 410), (format!("{high}-{high}"), 410)] {
            client.get(&format!("/api/chat/feed?after={cursor}")).problem(status);
        }
        for cursor in ["9C", "0-1", &format!("{high}-01"), &format!("{high}-{high}0"), &format!("{high}-A")] {
            client.get(&format!("/api/chat/feed?after={cursor}")).problem(422);
        }
        let key = &document["components"]["parameters"]["IdempotencyKey"]["schema"]["pattern"];
        assert_eq!(key, r"^[!-~]([\t -~]{0,126}[!-~])?$");
        let longest = "k".repeat(128);
        for (key, status) in [("!", 200), ("a b\tc~", 200), (&longest, 200), (&format!("{longest}k"), 422)] {
            let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
            let body = json!({"message": "ping", "session_id": "keys"}).to_string();
            let reply = client.request("POST", "/api/chat", &headers, Some(body.as_bytes()));
            assert_eq!(reply.status, status, "{key}: {reply}");
        }
    }
}

#[test]
fn a_sane_request_id_is_echoed_and_any_other_is_replaced() {
    let server = start();
    let mut client = server.client();
    let mut with = |id: &str| -> Reply { client.request("GET", "/livez", &[("X-Request-ID", id)], None) };
    assert_eq!(with("abc-123").header("x-request-id"), Some("abc-123"));
    for insane in [&"x".repeat(1_000), "a b\tc"] {
        let reply = with(insane);
        let given = reply.header("x-request-id").expect("every reply has one").to_owned();
        assert!(given != *insane && !given.is_empty(), "{insane}: {given}");
    }
    let (one, two) = (client.get("/livez"), client.get("/livez"));
    assert!(one.header("x-request-id").is_some());
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    let refused = client.request("GET", "/nowhere", &[("X-Request-ID", "abc-124")], None);
    refused.problem(404);
    assert_eq!(refused.json()["request_id"], "abc-124");
}

#[test]
fn what_is_not_served_is_404_405_with_allow_or_415() {
    let server = start();
    for mut client in [server.client(), server.local_client()] {
        for path in ["/nowhere", "/api", "/api/chat/", "/api/chat/history/x", "/api/chat/../chat"] {
            client.get(path).problem(404);
        }
        for (method, path, allow) in [
            ("GET", "/api/chat", "POST"),
            ("DELETE", "/api/chat", "POST"),
            ("GET", "/api/chat/messages", "POST"),
            ("DELETE", "/api/chat/history", "GET, HEAD"),
            ("PUT", "/livez", "GET, HEAD"),
        ] {
            let reply = client.request(method, path, &[], None);
            reply.problem(405);
            assert_eq!(reply.header("allow"), Some(allow), "{method} {path}");
        }
        let body = br#"{"message":"x"}"#;
        for kind in ["text/plain", "application/jsonish", "multipart/form-data"] {
            client.request("POST", "/api/chat", &[("Content-Type", kind)], Some(body)).problem(415);
        }
        client.request("POST", "/api/chat", &[], Some(b"hello")).problem(415);
        for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
            client.request("POST", "/api/chat", &[("Content-Type", kind)], Some(body)).expect(200);
        }
    }
}

#[test]
fn the_unix_socket_serves_the_same_and_only_to_its_owner() {
    let server = start();
    let socket = server.data().join("chatkeep.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut local = server.local_client();
    let answer = local.chat("both", "from the socket");
    assert_eq!(answer["response"], "from the socket");
    assert_eq!(answer["durable"], "disk");
    server.client().chat("both", "from the net");
    let everything = ["from the socket", "from the socket", "from the net", "from the net"];
    assert_eq!(texts(&local.history("both", "")), everything);
    assert_eq!(texts(&server.client().history("both", "")), everything);
    local.post_bytes("/api/chat", b"{").problem(400);
    local.post("/api/chat", &json!({"message": ""})).problem(422);
    local.get("/livez").expect(200);
    local.get("/api/storage/status").expect(200);
    let named = local.request("GET", "/readyz", &[("X-Request-ID", "local-1")], None);
    assert_eq!(named.header("x-request-id"), Some("local-1"));
    fill(&mut local, "long", 400);
    assert_eq!(local.whole_history("long").len(), 400, "a reply of many kilobytes arrives whole");
}

#[test]
fn without_a_responder_a_message_is_202_and_stands_alone() {
    let server = Server::start(Options::default().set("responder.kind", "none"));
    let mut client = server.client();
    let answer = client.post("/api/chat", &json!({"message": "only me", "session_id": "alone"})).expect(202);
    assert!(is_uuid_v7(&answer["user_message_id"]), "{answer}");
    assert_eq!((&answer["session_id"], &answer["durable"]), (&json!("alone"), &json!("disk")));
    assert!(answer.get("response").is_none_or(Value::is_null), "{answer}");
    assert_eq!(texts(&client.history("alone", "")), ["only me"]);
    server.transcript_of("alone", 1);
}

#[test]
fn the_level_of_durability_is_the_one_configured() {
    for (fsync, durable) in [("always", "disk"), ("interval", "os"), ("never", "os")] {
        let server = Server::start(Options::default().set("journal.fsync", fsync));
        let mut client = server.client();
        assert_eq!(client.chat("level", "x")["durable"], durable, "{fsync}");
        let stored = client.post("/api/chat/messages", &json!({"role": "user", "text": "x"})).expect(201);
        assert_eq!(stored["durable"], durable, "{fsync}");
    }
}

#[test]
fn turns_of_many_clients_in_one_session_are_all_there_in_pairs() {
    let server = start();
    std::thread::scope(|scope| {
        for who in 0..8 {
            let mut client = server.client();
            scope.spawn(move || {
                for n in 0..25 {
                    let text = format!("{who}/{n}");
                    assert_eq!(client.chat("shared", &text)["response"].as_str(), Some(text.as_str()));
                }
            });
        }
    });
    let all = server.client().whole_history("shared");
    assert_eq!(all.len(), 400);
    for turn in all.chunks(2) {
        assert_eq!((&turn[0]["role"], &turn[1]["role"]), (&json!("user"), &json!("assistant")));
        assert_eq!(turn[0]["text"], turn[1]["text"], "turns of one session do not mix");
    }
    for who in 0..8 {
        let prefix = format!("{who}/");
        let own = all.iter().filter(|m| m["role"] == "user").filter_map(|m| m["text"].as_str());
        let own: Vec<&str> = own.filter(|t| t.starts_with(&prefix)).collect();
        assert_eq!(own, (0..25).map(|n| format!("{who}/{n}")).collect::<Vec<_>>(), "each in its own order");
    }
}

#[test]
fn a_retry_with_its_key_is_answered_as_the_first_was_also_after_a_restart() {
    let mut server = start();
    let turn = br#"{"message":"once","session_id":"keyed","message_id":"my key"}"#;
    let first = server.client().post_bytes("/api/chat", turn).expect(200);
    assert_eq!(first["duplicate"], false);
    let pair = br#"[{"session_id":"keyed","role":"user","text":"a","message_id":"k1"},
        {"session_id":"keyed","role":"user","text":"b"}]"#;
    let recorded = server.client().post_bytes("/api/chat/messages", &pair[..]).expect(201);
    for round in ["before", "after"] {
        let mut client = server.client();
        let again = client.post_bytes("/api/chat", turn).expect(200);
        for field in ["response", "timestamp", "user_message_id", "assistant_message_id"] {
            assert_eq!(again[field], first[field], "{round}: {field}");
        }
        assert_eq!(again["duplicate"], true, "{round}");
        let other = br#"{"message":"something else","session_id":"keyed","message_id":"my key"}"#;
        client.post_bytes("/api/chat", other).problem(409);
        let conflict = br#"[{"session_id":"keyed","role":"user","text":"new"},
            {"session_id":"keyed","role":"user","text":"c","message_id":"k1"}]"#;
        client.post_bytes("/api/chat/messages", &conflict[..]).problem(409);
        let elsewhere = format!(r#"{{"message":"once","session_id":"{round}","message_id":"my key"}}"#);
        assert_eq!(client.post_bytes("/api/chat", elsewhere.as_bytes()).expect(200)["duplicate"], false, "{round}");
        let single = br#"{"session_id":"keyed","role":"user","text":"a","message_id":"k1"}"#;
        let kept = client.post_bytes("/api/chat/messages", single).expect(201);
        assert_eq!(kept["messages"][0]["id"], recorded["messages"][0]["id"], "{round}");
        assert_eq!(kept["messages"][0]["duplicate"], true, "{round}");
        assert_eq!(texts(&client.history("keyed", "")), ["once", "once", "a", "b"], "{round}");
        server.restart();
    }
}

#[test]
fn a_key_out_of_bounds_is_422() {
    let server = start();
    let mut client = server.client();
    for key in [String::new(), "k".repeat(129)] {
        let body = format!(r#"{{"message":"x","message_id":"{key}"}}"#);
        client.post_bytes("/api/chat", body.as_bytes()).problem(422);
        let body = format!(r#"[{{"role":"user","text":"x","message_id":"{key}"}}]"#);
        client.post_bytes("/api/chat/messages", body.as_bytes()).problem(422);
    }
    let longest = format!(r#"{{"message":"x","message_id":"{}"}}"#, "é".repeat(128));
    client.post_bytes("/api/chat", longest.as_bytes()).expect(200);
}
