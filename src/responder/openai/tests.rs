//! Servers that answer, servers that fail, and servers that hang.
//!
//! Compiled under `#[cfg(test)]` only.

use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};

use super::testing::*;
use super::*;
use crate::responder::testing::{Heard, STOP_TIMEOUT, WAIT_TIMEOUT, ask, ask_and_stop, question};

fn heard(upstream: &Upstream) -> Heard {
    ask(&OpenAi::new(&upstream.config()), &question(&[("user", "hi")]))
}

fn answers(manner: Manner) -> Heard {
    heard(&Upstream::new(vec![manner]))
}

fn failed(heard: &Heard) -> &str {
    match &heard.end {
        Err(ResponderError::Failed(why)) => {
            assert!(!why.contains("hunter2"), "{why}");
            why
        }
        end => panic!("{end:?}, {:?}", heard.text),
    }
}

#[test]
fn the_request_is_what_the_protocol_asks_for_and_the_answer_is_said() {
    let upstream = Upstream::new(vec![send(stream("hi ü"))]);
    let asked = question(&[("user", "one"), ("assistant", "two"), ("user", "three")]);
    let heard = ask(&OpenAi::new(&upstream.config()), &asked);
    let metadata = json!({"model": "m-1", "finish_reason": "stop"});
    assert_eq!(heard.text, "hi ü");
    assert_eq!(Value::Object(heard.end.unwrap().metadata), metadata);
    let (head, body) = upstream.requests().remove(0);
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{head}");
    for line in [&format!("authorization: bearer {KEY}"), "content-type: application/json"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&body["model"], &body["stream"], &body["messages"][2]["content"]),
        (&"m".into(), &true.into(), &"three".into())
    );
}

#[test]
fn without_a_key_none_is_sent() {
    let upstream = Upstream::new(vec![send(stream("x"))]);
    let config = OpenAiConfig { api_key: None, ..upstream.config() };
    assert_eq!(ask(&OpenAi::new(&config), &question(&[("user", "hi")])).text, "x");
    assert!(!upstream.requests()[0].0.to_ascii_lowercase().contains("authorization"));
}

#[test]
fn text_is_said_as_it_comes_however_it_is_framed() {
    // The server continues only when the first piece has been passed on.
    for framing in ["Connection: close", "Transfer-Encoding: chunked"] {
        let (heard, waits) = crossbeam_channel::bounded(1);
        let is_chunked = framing.starts_with('T');
        let frame =
            move |text: &str| if is_chunked { format!("{:x}\r\n{text}\r\n", text.len()) } else { text.to_owned() };
        let manner: Manner = Box::new(move |stream| {
            use std::io::Write;
            let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
            stream.write_all(format!("{head}{}", frame(&event("one"))).as_bytes()).unwrap();
            waits.recv_timeout(WAIT_TIMEOUT).unwrap();
            // Byte by byte, so that nothing is ever whole.
            for byte in frame(&format!("{}data: [DONE]\n", event(" €"))).as_bytes() {
                stream.write_all(&[*byte]).unwrap();
            }
        });
        let upstream = Upstream::new(vec![manner]);
        let mut said = Vec::new();
        let end = OpenAi::new(&upstream.config()).answer(&question(&[("user", "hi")]), &mut |text| {
            said.push(text.to_owned());
            let _ = heard.try_send(());
        });
        assert!(end.is_ok(), "{end:?}");
        assert_eq!(said, ["one", " €"], "{framing}");
    }
}

#[test]
fn an_answer_that_is_not_streamed_is_taken() {
    let object = json!({"model": "m-2", "choices": [{"message": {"content": "all"}, "finish_reason": "stop"}]});
    let heard = answers(send(status("200 OK", "Content-Type: application/json\r\n", &object.to_string())));
    assert_eq!((heard.text.as_str(), &heard.end.unwrap().metadata["model"]), ("all", &"m-2".into()));
}

#[test]
fn an_answer_is_cut_when_the_connection_is() {
    let said = format!("{}{}", event("half"), "data: {\"choi");
    let declared = format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{said}");
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{said}", said.len() + 9);
    for bytes in [format!("{STREAM}{said}"), declared, chunked, format!("{STREAM}{}", event("half"))] {
        let heard = answers(send(bytes.clone()));
        let why = failed(&heard);
        assert!(
            why == "the model's server ended the answer in the middle" || why.contains("broke off in the answer"),
            "{why}"
        );
        assert_eq!(heard.text, "half", "{bytes}");
    }
}

#[test]
fn a_text_that_is_whole_needs_no_further_word() {
    let whole = stream("all").replace("data: [DONE]\n\n", "");
    assert!(answers(send(whole.clone())).end.is_ok());
    // Silence or comments without end: comments are no sign of more text.
    for manner in [hang(whole.clone()), flood(&whole, ": still here\n\n")] {
        let (upstream, silence) = (Upstream::new(vec![manner]), Duration::from_secs(1));
        let mut openai = OpenAi::new(&upstream.config());
        assert_eq!(openai.silence, Duration::from_secs(10));
        openai.silence = silence;
        let heard = ask(&openai, &question(&[("user", "hi")]));
        assert!(
            heard.end.is_ok() && heard.took >= silence && heard.took < STOP_TIMEOUT,
            "{:?} {:?}",
            heard.end,
            heard.took
        );
    }
    // A deadline during the silence does not make the answer late.
    let mut tries = [2, 8].into_iter().map(|seconds| {
        let upstream = Upstream::new(vec![hang(whole.clone())]);
        let mut asked = question(&[("user", "hi")]);
        asked.until = Instant::now() + Duration::from_secs(seconds);
        ask(&OpenAi::new(&upstream.config()), &asked)
    });
    let heard = tries.find(|heard| !heard.text.is_empty()).expect("text comes before the deadline");
    assert_eq!((heard.text.as_str(), heard.end.is_ok()), ("all", true), "{:?}", heard.end);
}

#[test]
fn pauses_between_pieces_that_each_tell_a_reason_cost_no_text() {
    let piece = |text: &str, reason: &str| {
        let choice = json!({"delta": {"content": text}, "finish_reason": reason});
        format!("data: {}\n\n", json!({"model": "m-1", "choices": [choice]}))
    };
    for (reason, pause) in [("", Duration::from_millis(400)), ("stop", Duration::from_millis(400))] {
        let pieces = [piece("a", reason), piece("b", reason), piece("c", "stop")];
        let manner: Manner = Box::new(move |stream| {
            use std::io::Write;
            stream.write_all(STREAM.as_bytes()).unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
                std::thread::park_timeout(pause);
            }
        });
        let upstream = Upstream::new(vec![manner]);
        let mut openai = OpenAi::new(&upstream.config());
        openai.silence = WAIT_TIMEOUT;
        let heard = ask(&openai, &question(&[("user", "hi")]));
        assert_eq!((heard.text.as_str(), heard.end.is_ok()), ("abc", true), "{reason:?}: {:?}", heard.end);
    }
    // The connection breaks off: finish reasons of a server that sends several do not show that the text was whole.
    let cut = format!("{}{}", piece("a", "stop"), piece("b", "stop"));
    let declared = |said: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{said}");
    assert!(failed(&answers(send(declared(&cut)))).contains("broke off in the answer"));
    assert!(answers(send(declared(&piece("a", "stop")))).end.is_ok());
}

#[test]
fn what_is_no_answer_is_told() {
    for (manner, told) in [
        (send("HTTP/1.1 200 OK\r\n\r\n<html>no</html>\n"), "sent a web page and no answer (asked: http://127.0.0.1:"),
        (send(format!("{STREAM}data: {{\"a\": {KEY}\n\n")), "no answer: {\"a\": [redacted]"),
        (
            send(format!("{STREAM}data: {{\"error\":{{\"message\":\"boom {KEY}\"}}}}\n\n")),
            "broke off with an error: boom [redacted]",
        ),
        (send("SSH-2.0-OpenSSH\r\n"), "the model's server did not answer the request"),
        (send(""), "the model's server did not answer the request"),
        (flood("HTTP/1.1 200 OK\r\n", "X-Long: yes\r\n"), "the model's server did not answer the request"),
        (flood(STREAM, "x".repeat(9999)), "more than 1048576 bytes in one piece"),
        (flood(STREAM, event(&"y".repeat(9999))), "the answer is longer than 1048576 bytes"),
        (flood("HTTP/1.1 200 OK\r\n\r\n{", "x".repeat(9999)), "more than 8388608 bytes in one piece"),
    ] {
        let heard = answers(manner);
        assert!(failed(&heard).contains(told), "{told}: {}", failed(&heard));
    }
}

#[test]
fn a_failure_told_in_a_good_reply_is_a_failure() {
    let outcome =
        json!({"choices": null, "base_resp": {"status_code": 1004, "status_msg": format!("login fail: {KEY}")}});
    let whole = status("200 OK", "Content-Type: application/json\r\n", &outcome.to_string());
    let streamed = format!("{STREAM}{}data: {outcome}\n\ndata: [DONE]\n\n", event("half"));
    let refused = status("401 Unauthorized", "", &outcome.to_string());
    for (bytes, text, told) in [
        (whole, "", "broke off with an error: login fail: [redacted]"),
        (streamed, "half", "broke off with an error: login fail: [redacted]"),
        (refused, "", "does not accept the key (401): login fail: [redacted]"),
    ] {
        let heard = answers(send(bytes));
        assert_eq!((failed(&heard), heard.text.as_str()), (format!("the model's server {told}").as_str(), text));
    }
}

#[test]
fn a_version_in_the_address_stays_after_the_call() {
    for base in ["/openai/deployments/d", "/openai/deployments/d/"] {
        let upstream = Upstream::new(vec![send(stream("hi")), send(status("404 Not Found", "", ""))]);
        let responder = OpenAi::new(&config(&format!("http://{}{base}?api-version=2024-10-21", upstream.address)));
        assert_eq!(ask(&responder, &question(&[("user", "hi")])).text, "hi");
        let head = upstream.requests().remove(0).0.to_ascii_lowercase();
        let asked = "/openai/deployments/d/chat/completions?api-version=2024-10-21";
        assert!(head.starts_with(&format!("post {asked} http/1.1\r\n")), "{head}");
        assert!(head.contains(&format!("\r\napi-key: {KEY}\r\n")) && !head.contains("authorization"), "{head}");
        let heard = ask(&responder, &question(&[("user", "hi")]));
        let place = format!("(asked: http://{}{asked}; see responder.openai.base_url)", upstream.address);
        assert!(failed(&heard).ends_with(&place), "{}", failed(&heard));
    }
}

#[test]
fn a_refusal_is_told_at_once_and_never_with_the_key() {
    for (line, head, told) in [
        ("401 Unauthorized", "", "does not accept the key (401): no [redacted] here"),
        ("403 Forbidden", "", "does not allow it (403): no [redacted]"),
        ("404 Not Found", "", "does not know the address or the model (404): no"),
        ("418 Teapot", "", "refuses the request (418): no"),
        ("429 Too Many", "Retry-After: 3600\r\n", "is asked too much (429): no"),
        ("101 Switching", "", "failed (101)"),
    ] {
        let echo = status(line, head, &json!({"error": {"message": format!("no {KEY} here")}}).to_string());
        let upstream = Upstream::new(vec![send(echo), send(stream("it was asked again"))]);
        let heard = heard(&upstream);
        assert!(failed(&heard).contains(told), "{told}: {}", failed(&heard));
        assert_eq!(upstream.requests().len(), 1, "{line}");
    }
    // An error whose body never ends is reported too.
    let heard = answers(hang("HTTP/1.1 404 Not Found\r\nContent-Length: 999\r\n\r\nno such model"));
    assert!(failed(&heard).contains("(404): no such model (asked: ") && heard.took < WAIT_TIMEOUT / 2, "{heard:?}");
    let heard = answers(flood("HTTP/1.1 404 Not Found\r\n\r\nxxx", "x".repeat(999)));
    assert!(failed(&heard).contains("(404): xxx"), "{heard:?}");
}

#[test]
fn no_redirect_is_followed() {
    let elsewhere = Upstream::new(vec![send(stream("stolen"))]);
    for line in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let place = format!("Location: http://{}/{KEY}\r\n", elsewhere.address);
        let heard = answers(send(status(line, &place, "")));
        let told = format!("is not followed: http://{}/[redacted] (asked: http://127.0.0.1:", elsewhere.address);
        assert!(failed(&heard).contains(&told), "{}", failed(&heard));
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[test]
fn what_may_pass_is_tried_again_before_the_first_byte_of_an_answer() {
    let busy = || send(status("503 Busy", "", "later"));
    let upstream =
        Upstream::new(vec![busy(), send(status("429 Slow", "Retry-After: 1\r\n", "")), send(stream("at last"))]);
    let heard_last = heard(&upstream);
    assert_eq!((heard_last.text.as_str(), heard_last.end.is_ok()), ("at last", true));
    assert!(heard_last.took >= PAUSES[0] + Duration::from_secs(1), "{:?}", heard_last.took);
    let upstream = Upstream::new(vec![busy(), busy(), busy(), send(stream("too late"))]);
    assert!(failed(&heard(&upstream)).ends_with("failed (503): later"));
    assert_eq!(upstream.requests().len(), 3);
    // Once an answer has begun, or may have begun, the request is not repeated.
    for begun in [send(format!("{STREAM}{}", event("half"))), send("")] {
        let upstream = Upstream::new(vec![begun, send(stream("again"))]);
        failed(&heard(&upstream));
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[test]
fn an_unreachable_server_is_told_and_asked_once_it_is_back() {
    let (_bound, closed) = closed();
    let openai = OpenAi::new(&config(&closed));
    let heard = ask(&openai, &question(&[("user", "hi")]));
    assert!(failed(&heard).starts_with("the model's server cannot be reached: Connection refused"), "{heard:?}");
    assert!(heard.took >= PAUSES[0] + PAUSES[1], "{:?}", heard.took);
    let mut short = question(&[("user", "hi")]);
    // There is no time for a pause, so the error is the reason and not the deadline, if the machine is quick enough.
    let mut tries = (0..20).map(|_| {
        short.until = Instant::now() + PAUSES[0] / 2;
        ask(&openai, &short)
    });
    let heard = tries.find(|heard| heard.end != Err(ResponderError::Late)).expect("no pause is waited for");
    assert!(failed(&heard).contains("cannot be reached"));
    let nobody = OpenAi::new(&config("http://name.invalid/v1"));
    short.until = Instant::now() + Duration::from_secs(20);
    // Without a name server the lookup takes longer than the deadline.
    let heard = ask(&nobody, &short);
    assert!(heard.end == Err(ResponderError::Late) || failed(&heard).contains("cannot be reached"), "{heard:?}");
}

#[test]
fn a_server_that_refuses_to_count_is_asked_without_counts_from_then_on() {
    let refusal = || send(status("400 Bad Request", "", "{\"error\":\"unknown: stream_options\"}"));
    let upstream = Upstream::new(vec![refusal(), send(stream("a")), send(stream("b")), refusal()]);
    let openai = OpenAi::new(&upstream.config());
    for text in ["a", "b"] {
        assert_eq!(ask(&openai, &question(&[("user", "hi")])).text, text);
    }
    let with_wish: Vec<bool> = upstream.requests().iter().map(|(_, body)| body.contains("stream_options")).collect();
    assert_eq!(with_wish, [true, false, false]);
    assert!(
        failed(&ask(&openai, &question(&[("user", "hi")])))
            .ends_with("refuses the request (400): unknown: stream_options")
    );
    // A request refused both with and without `stream_options` is an error, and the next one asks for usage again.
    let upstream = Upstream::new(vec![refusal(), refusal(), send(stream("c"))]);
    let openai = OpenAi::new(&upstream.config());
    failed(&ask(&openai, &question(&[("user", "hi")])));
    assert_eq!(ask(&openai, &question(&[("user", "hi")])).text, "c");
    assert!(upstream.requests()[2].1.contains("stream_options"));
}

/// A listener that takes no more connections, and those that fill it.
fn full() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fillers.push(filler);
    }
    (listener, fillers)
}

/// Every place where an answer can hang, with what makes it hang there.
fn hanging() -> Vec<(&'static str, String, Box<dyn std::any::Any>)> {
    let upstream = |manners: Vec<Manner>| {
        let upstream = Upstream::new(manners);
        (format!("http://{}/v1", upstream.address), upstream)
    };
    let (full, fillers) = full();
    // It accepts connections and never reads; the request is longer than all buffers on the way.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent, silent_one) = upstream(vec![hang("")]);
    let (head, head_one) = upstream(vec![hang("HTTP/1.1 200 OK\r\nContent-")]);
    let (body, body_one) = upstream(vec![hang(format!("{STREAM}: wait\n"))]);
    // Some more for each further try, should the stop come late.
    let (error, error_one) = upstream([(); 3].map(|()| hang("HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n")).into());
    let (comments, comments_one) = upstream(vec![flood(STREAM, ": still here\n\n")]);
    let (pause, pause_one) = upstream([(); 3].map(|()| send(status("429 Slow", "Retry-After: 5\r\n", ""))).into());
    vec![
        ("connect", format!("http://{}/v1", full.local_addr().unwrap()), Box::new((full, fillers))),
        ("tls", format!("https://{}/v1", deaf.local_addr().unwrap()), Box::new(deaf.try_clone().unwrap())),
        ("request", format!("http://{}/v1", deaf.local_addr().unwrap()), Box::new(deaf)),
        ("before the head", silent, Box::new(silent_one)),
        ("head", head, Box::new(head_one)),
        ("body", body, Box::new(body_one)),
        ("error body", error, Box::new(error_one)),
        ("endless comments", comments, Box::new(comments_one)),
        ("pause", pause, Box::new(pause_one)),
    ]
}

/// A question that hangs there, and after what time it does so for sure: a long one takes long to write in a test's build.
fn asked_at(place: &str) -> (Question, Duration) {
    match place {
        "request" => (question(&[("user", &"x".repeat(8 << 20))]), Duration::from_secs(4)),
        _ => (question(&[("user", "hi")]), Duration::from_millis(300)),
    }
}

#[test]
fn a_stop_is_heard_wherever_an_answer_hangs() {
    for (place, url, _upstream) in hanging() {
        let (asked, after) = asked_at(place);
        let heard = ask_and_stop(&OpenAi::new(&config(&url)), &asked, Some(after));
        assert_eq!(heard.end, Err(ResponderError::Stopped), "{place}");
        assert!(heard.took < STOP_TIMEOUT, "{place}: {:?}", heard.took);
    }
    let stopped = question(&[("user", "hi")]);
    stopped.stop.set();
    let upstream = Upstream::new(vec![send(stream("x"))]);
    assert_eq!(ask(&OpenAi::new(&upstream.config()), &stopped).end, Err(ResponderError::Stopped));
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn a_stop_in_the_answer_is_heard_and_the_server_sees_it() {
    let (tell, told) = crossbeam_channel::bounded(1);
    let manner: Manner = Box::new(move |stream| {
        hang(format!("{STREAM}{}", event("half")))(stream);
        let _ = tell.send(());
    });
    let upstream = Upstream::new(vec![manner]);
    let heard = ask_and_stop(&OpenAi::new(&upstream.config()), &question(&[("user", "hi")]), None);
    assert_eq!((heard.text.as_str(), heard.end), ("half", Err(ResponderError::Stopped)));
    assert!(heard.took < STOP_TIMEOUT, "{:?}", heard.took);
    // Its connection was closed, so the server can stop.
    told.recv_timeout(WAIT_TIMEOUT).unwrap();
}

#[test]
fn over_tls_only_trusted_servers_answer_and_a_stop_is_heard() {
    use ureq::tls::{Certificate, RootCerts, TlsConfig};
    let identity = Identity::new();
    let roots = RootCerts::new_with_certs(&[Certificate::from_pem(&identity.certificate()).unwrap()]);
    let ask_at = |server: &Encrypted, host: &str| {
        let mut openai = OpenAi::new(&config(&format!("https://{host}:{}/v1", server.port)));
        openai.server.tls = TlsConfig::builder().root_certs(roots.clone()).build();
        openai
    };
    let whole = Encrypted::new(&identity, &stream("hi ü"));
    for host in ["127.0.0.1", "localhost"] {
        let heard = ask(&ask_at(&whole, host), &question(&[("user", "hi")]));
        assert_eq!((heard.text.as_str(), heard.end.is_ok()), ("hi ü", true), "{host}");
    }
    // Its certificate is not signed by any of Mozilla's roots.
    let stranger = OpenAi::new(&config(&format!("https://127.0.0.1:{}/v1", whole.port)));
    let heard = ask(&stranger, &question(&[("user", "hi")]));
    assert!(failed(&heard).contains("did not answer the request: invalid peer certificate"), "{heard:?}");
    let half = Encrypted::new(&identity, &format!("{STREAM}{}", event("half")));
    let heard = ask_and_stop(&ask_at(&half, "127.0.0.1"), &question(&[("user", "hi")]), None);
    assert_eq!((heard.text.as_str(), heard.end), ("half", Err(ResponderError::Stopped)));
    assert!(heard.took < STOP_TIMEOUT, "{:?}", heard.took);
}

#[test]
fn the_deadline_is_heard_wherever_an_answer_hangs() {
    for (place, url, _upstream) in hanging() {
        if place == "pause" {
            continue;
        }
        let (mut asked, after) = asked_at(place);
        // Nothing is heard while the request is made, which takes long beside other work.
        let making = Instant::now();
        let _ = request::body(&config(&url), &asked, true);
        let making = 3 * making.elapsed();
        asked.until = Instant::now() + after;
        let heard = ask(&OpenAi::new(&config(&url)), &asked);
        assert_eq!(heard.end, Err(ResponderError::Late), "{place}");
        assert!(heard.took < after + making + STOP_TIMEOUT, "{place}: {:?}", heard.took);
    }
}
