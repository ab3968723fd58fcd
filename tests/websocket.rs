//! WebSockets as clients meet them: the handshake, turns, fan-out, resuming, limits, the end.
//!
//! Most of it by tungstenite's client; what no client would send, by raw bytes.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use serde_json::{Value, json};
use support::socket::Socket;
use support::{Options, PATIENCE, Server, wait_until};

#[test]
fn a_turn_is_acknowledged_and_answered_and_the_others_see_it() {
    let server = Server::start(Options::default());
    let mut one = Socket::open(&server, "session_id=s");
    let mut other = Socket::open(&server, "session_id=s");
    assert_eq!((&one.welcome["session_status"], &one.welcome["session_id"]), (&json!("new"), &json!("s")));
    one.send(&json!({"message": "ping", "client_id": "c1", "metadata": {"a": 1}}));
    let ack = one.next();
    assert_eq!((&ack["type"], &ack["client_id"], &ack["durable"]), (&json!("ack"), &json!("c1"), &json!("disk")));
    let response = one.next();
    assert_eq!((&response["type"], &response["message"]), (&json!("response"), &json!("pong!")));
    assert_eq!((&response["status"], &response["reply_to"]), (&json!("completed"), &ack["id"]));
    let message = other.next();
    assert_eq!((&message["type"], &message["id"], &message["text"]), (&json!("message"), &ack["id"], &json!("ping")));
    assert_eq!((&message["replayed"], &message["metadata"]["a"]), (&json!(false), &json!(1)));
    assert_eq!(other.next(), response);
    let history = server.client().history("s", "");
    assert_eq!(history["messages"][0]["metadata"], json!({"a": 1, "transport": "websocket"}));
}
