//! The TCP listener as its clients see it; this file holds what those tests share.
//!
//! Compiled under `#[cfg(test)]` only.

mod cap;
mod deadlines;
mod refusals;
mod requests;
mod stop;
mod streams;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::tcp::{Connections, Listening, start};
use super::testing::{Answer, Odd, StreamClient, config, send};
use crate::config::ServerConfig;

struct Server {
    listening: Listening,
    service: Arc<Odd>,
}

fn serve_with(config: &ServerConfig, cap: usize) -> Server {
    let service = Arc::new(Odd::default());
    Server { listening: start(config, Connections::at_most(cap), Arc::clone(&service), None).unwrap(), service }
}

fn serve() -> Server {
    serve_with(&config(), 64)
}

impl Server {
    fn ask(&self, bytes: impl AsRef<[u8]>) -> Answer {
        send(self.listening.local_addr(), bytes).answer().expect("an answer")
    }

    fn client(&self, bytes: impl AsRef<[u8]>) -> StreamClient<TcpStream> {
        send(self.listening.local_addr(), bytes)
    }

    fn handled(&self) -> usize {
        self.service.handled.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.listening.open()
    }
}

const GET: &str = "GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}
