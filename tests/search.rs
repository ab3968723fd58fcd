//! The search by the real binary: words, snippets, filters, pages, tokens, what a transcript lacks, and the command.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::server::{BINARY, run};
use support::{Client, Options, Server, WAIT_TIMEOUT, wait_until};

fn record(client: &mut Client, session: &str, role: &str, text: &str) -> Value {
    let body = json!({"session_id": session, "role": role, "text": text, "metadata": {"note": "hidden"}});
    client.post("/api/chat/messages", &body).expect(201)["messages"][0].clone()
}

fn search(client: &mut Client, query: &str) -> Value {
    client.get(&format!("/api/chat/search?{query}")).expect(200)
}

fn texts(page: &Value) -> Vec<&str> {
    page["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap()).collect()
}

#[test]
fn words_are_found_in_the_texts_of_all_sessions_newest_activity_first() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    assert_eq!(search(&mut client, "q=plans"), json!({"messages": [], "complete": true, "next": null}));
    record(&mut client, "a", "user", "Plans for\nthe \"summer\"");
    record(&mut client, "b", "assistant", "no such word");
    record(&mut client, "b", "user", "PLANS, \u{1} and \u{212a}iwis");
    let last = record(&mut client, "a", "assistant", "the plans are made");
    client.chat("a", "/clear");
    let page = search(&mut client, "q=plans");
    assert_eq!((&page["complete"], &page["next"]), (&json!(true), &Value::Null));
    assert_eq!(
        texts(&page),
        ["the plans are made", "Plans for\nthe \"summer\"", "PLANS, \u{1} and \u{212a}iwis"],
        "{page}"
    );
    // A message of the history, and its snippet.
    let mut first = page["messages"][0].clone();
    let snippet = first.as_object_mut().unwrap().remove("snippet").unwrap();
    assert_eq!(snippet, json!([{"text": "the "}, {"text": "plans", "hit": true}, {"text": " are made"}]));
    let mut known = client.whole_history("a")[1].clone();
    known["source"] = json!("disk");
    assert_eq!((&first, &first["id"]), (&known, &last["id"]));
    for (query, count) in [
        ("q=the+PLANS", 2),
        ("q=the%0Aplans%09made", 1),
        ("q=%22summer%22", 1),
        ("q=kiwi", 1),
        ("q=plans.", 0),
        ("q=hidden", 0),
        ("q=rest", 0),
        ("q=new+context", 0),
        ("q=plans&session_id=b", 1),
        ("q=plans&session_id=nobody", 0),
        ("q=plans&role=user", 2),
        (&format!("q=plans&since={}", last["created_at"].as_str().unwrap().replace('+', "%2B")), 1),
        (&format!("q=plans&until={}", last["created_at"].as_str().unwrap().replace('+', "%2B")), 2),
    ] {
        assert_eq!(texts(&search(&mut client, query)).len(), count, "{query}");
        assert_eq!(search(&mut server.local_client(), query), search(&mut client, query), "{query}");
    }
    let detail = client.get(&format!("/api/chat/search?q={}", "a+".repeat(17))).problem(422);
    assert!(detail.contains("1 to 16 words"), "{detail}");
    let detail = client.get("/api/chat/search?query=a").problem(422);
    assert!(detail.contains("`q`"), "{detail}");
}

#[test]
fn what_was_rewound_or_erased_is_left_out() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    let kept = client.chat("a", "alpha one")["assistant_message_id"].clone();
    client.chat("a", "alpha two");
    client.post("/api/chat/sessions/a/rewind", &json!({"to": kept})).expect(201);
    client.chat("a", "alpha three");
    record(&mut client, "b", "user", "alpha four");
    assert_eq!(
        texts(&search(&mut client, "q=alpha&role=user")),
        ["alpha four", "alpha three", "alpha two", "alpha one"]
    );
    let current = search(&mut client, "q=alpha&role=user&view=current");
    assert_eq!(texts(&current), ["alpha four", "alpha three", "alpha one"]);
    client.request("DELETE", "/api/chat/sessions/a", &[], None).expect(200);
    assert_eq!(texts(&search(&mut client, "q=alpha")), ["alpha four"]);
}

#[test]
fn pages_that_end_early_lead_to_everything() {
    let server = Server::start(Options::default().set("history.max_scan_bytes", 65_536));
    let mut client = server.client();
    let filler = "nothing to be found in here ".repeat(50);
    let one = |n: u64| {
        let text = if n.is_multiple_of(100) { format!("needle {n}") } else { filler.clone() };
        json!({"session_id": format!("s{}", n / 300), "role": "user", "text": text})
    };
    for first in (0..900).step_by(300) {
        client.post("/api/chat/messages", &(first..first + 300).map(one).collect::<Value>()).expect(201);
    }
    for limit in [1, 2, 500] {
        let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let page = search(&mut client, &format!("q=needle&limit={limit}{cursor}"));
            assert_eq!(page["complete"], true, "{page}");
            found.extend(texts(&page).into_iter().map(str::to_owned));
            pages += 1;
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let wanted: Vec<String> = (0..9).rev().map(|n| format!("needle {}", n * 100)).collect();
        assert_eq!(found, wanted);
        // 1.2 MB, of which a page reads two blocks at most.
        assert!(pages > 4, "{pages}");
    }
}

#[test]
fn what_only_the_journal_has_is_found() {
    let server = Server::start(Options::default().set("journal.checkpoint_seconds", 1));
    let mut client = server.client();
    // No transcript can be made in its place.
    fs::create_dir(server.transcript_path("bad")).unwrap();
    record(&mut client, "bad", "user", "alpha one");
    record(&mut client, "good", "user", "alpha two");
    record(&mut client, "bad", "user", "alpha three");
    let page = search(&mut client, "q=alpha");
    assert_eq!(texts(&page), ["alpha three", "alpha one", "alpha two"]);
    assert_eq!(page["complete"], false);
    assert!(page["reason"].as_str().unwrap().contains("cannot be read"), "{page}");
    fs::remove_dir(server.transcript_path("bad")).unwrap();
    // Its lines are there before it counts as whole.
    server.transcript_of("bad", 2);
    wait_until("the transcript is written", WAIT_TIMEOUT, || search(&mut client, "q=alpha")["complete"] == true);
    assert_eq!(texts(&search(&mut client, "q=alpha")), ["alpha three", "alpha one", "alpha two"]);
}

#[test]
fn a_token_for_some_sessions_finds_nothing_in_others() {
    let token = json!([{"name": "bot", "token": "bot-token", "access": "read", "sessions": "bot-*"}]);
    let options = Options::default().set("server.auth_token", "main-token").set("server.auth_tokens", token);
    let server = Server::start(options);
    let mut local = server.local_client();
    for session in ["bot-1", "other", "bot-2"] {
        record(&mut local, session, "user", &format!("alpha {session}"));
    }
    let bot = |query: &str| {
        let target = format!("/api/chat/search?q=alpha{query}");
        server.client().request("GET", &target, &[("Authorization", "Bearer bot-token")], None)
    };
    let page = bot("&limit=1").expect(200);
    assert_eq!(texts(&page), ["alpha bot-2"]);
    let page = bot(&format!("&cursor={}", page["next"].as_str().unwrap())).expect(200);
    assert_eq!((texts(&page), &page["next"]), (vec!["alpha bot-1"], &Value::Null));
    let foreign = search(&mut local, "q=alpha&session_id=other&limit=1")["next"].clone();
    bot(&format!("&cursor={}", foreign.as_str().unwrap())).problem(403);
    bot("&session_id=other").problem(403);
}

#[test]
fn the_command_prints_what_it_finds() {
    let server = Server::start(Options::default().set("history.max_scan_bytes", 65_536));
    let mut client = server.client();
    let filler = "x".repeat(3000);
    for n in 0..40 {
        record(&mut client, "long", "user", if n == 0 { "the first plan" } else { &filler });
    }
    record(&mut client, "a", "user", "Plans\nfor \u{1b}[2J");
    let chatkeep = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        let output = run(command.args(args).current_dir(server.folder()).stdin(Stdio::null()));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = chatkeep(&["search", "plan"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let shown: Vec<&str> = out.lines().map(|line| line.split_once("Z  ").unwrap().1).collect();
    assert_eq!(shown, ["a  user: Plans for \\u{1b}[2J", "long  user: the first plan"]);
    let (_, out, _) = chatkeep(&["search", "FIRST", "plan", "--session", "long", "--json"]);
    let page: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((texts(&page), &page["complete"]), (vec!["the first plan"], &json!(true)));
    assert_eq!(chatkeep(&["search", "nowhere"]), (Some(0), String::new(), "note: nothing is found\n".to_owned()));
    let (code, _, err) = chatkeep(&["search", &"a ".repeat(17)]);
    assert_eq!(code, Some(1));
    assert!(err.starts_with("error: ") && err.contains("1 to 16 words"), "{err}");
}
