//! The no-op peer of `scripts/bench`: takes `POST /api/chat`, parses the JSON, answers a fixed JSON of the size of
//! chatkeep's own reply, and keeps nothing. What a POST costs here is the price of HTTP and JSON alone. `GET
//! /api/chat/history` answers with the bytes of the file that the first argument names, a page that chatkeep gave.
//!
//! Prints `listening on http://ADDR:PORT` as chatkeep does, so that the script can start both in one way.

use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

/// What wrk sends.
#[derive(Deserialize)]
struct Chat {
    message: String,
    session_id: String,
}

/// chatkeep's reply, field for field.
#[derive(Serialize)]
struct Answer {
    response: String,
    status: &'static str,
    timestamp: &'static str,
    session_id: String,
    user_message_id: &'static str,
    assistant_message_id: &'static str,
    durable: &'static str,
}

/// Echoes the text, so that the reply's length follows the request's as chatkeep's does; everything else is fixed.
async fn chat(Json(chat): Json<Chat>) -> Json<Answer> {
    Json(Answer {
        response: chat.message,
        status: "completed",
        timestamp: "2025-11-28T01:23:45.678901+00:00",
        session_id: chat.session_id,
        user_message_id: "019ac8a5-7f41-7123-8abc-0123456789ab",
        assistant_message_id: "019ac8a5-7f41-7124-8abc-0123456789ac",
        durable: "os",
    })
}

fn main() -> std::io::Result<()> {
    let page: &'static [u8] = match std::env::args().nth(1) {
        Some(file) => std::fs::read(file)?.leak(),
        None => b"{}",
    };
    let history = move || async move { ([(CONTENT_TYPE, "application/json")], page) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on http://{}", listener.local_addr()?);
        let routes = Router::new().route("/api/chat", post(chat)).route("/api/chat/history", get(history));
        axum::serve(listener, routes).await
    })
}
