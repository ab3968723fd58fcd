//! WebSockets beside REST, in one run: turns a second over 32 of each, how soon the others of a session see a message, and
//! what an idle socket costs.
//!
//! `cargo bench --no-default-features --bench sockets`; `-- --check` fails beyond the bounds: 0.85 of the turns by REST (the
//! goal is as many; the machines are noisy), 5 ms to the others at the median, 10 KiB for an idle socket, and no thread.
//! The same generator drives both kinds of turns, one thread that polls; where wrk is there, it drives REST beside it.
//! Medians of three rounds, taken in turn.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says where it failed, and what it found")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use serde_json::json;
use support::goal::{Goal, ratio, result};
use support::socket::Socket;
use support::{Options, Server, WAIT_TIMEOUT, wait_until};

const CLIENTS: usize = 32;
const SESSIONS: usize = 100;
const ROUNDS: usize = 3;
const WARM: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(4);
/// Of the turns by REST.
const RATIO_MIN: f64 = 0.85;
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and then again.";
const LATENCIES: usize = 400;
const LATENCY_MAX: Duration = Duration::from_millis(5);
const IDLE: usize = 10_000;
const IDLE_BYTES_MAX: u64 = 10 * 1024;

/// One client of either kind: sends, waits for the answer, sends again.
struct Client {
    stream: mio::net::TcpStream,
    request: Vec<u8>,
    inbox: Vec<u8>,
    is_socket: bool,
}

fn rest(server: &Server, n: usize) -> Client {
    let body = json!({"message": TEXT, "session_id": format!("bench-{:02}", n % SESSIONS)}).to_string();
    let request = format!(
        "POST /api/chat HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        server.address(),
        body.len()
    );
    client(TcpStream::connect(server.address()).unwrap(), request.into_bytes(), false)
}

fn socket(server: &Server, n: usize) -> Client {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    shake_hands(&mut stream, server, &format!("bench-{:02}", n % SESSIONS));
    // Reads the whole welcome.
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[1], 126);
    stream.read_exact(&mut head).unwrap();
    let mut welcome = vec![0; usize::from(u16::from_be_bytes(head))];
    stream.read_exact(&mut welcome).unwrap();
    client(stream, masked(&json!({"message": TEXT}).to_string()), true)
}

fn shake_hands(stream: &mut TcpStream, server: &Server, session: &str) {
    let address = server.address();
    write!(
        stream,
        "GET /ws/chat?session_id={session} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    .unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
}

/// A client's text frame of 126 to 65535 bytes, or less than 126.
fn masked(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    let mask = [7, 11, 13, 17];
    frame.extend(mask);
    frame.extend(text.bytes().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

fn client(stream: TcpStream, request: Vec<u8>, is_socket: bool) -> Client {
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    Client { stream: mio::net::TcpStream::from_std(stream), request, inbox: Vec::new(), is_socket }
}

impl Client {
    fn ask(&mut self) {
        assert_eq!(self.stream.write(&self.request).unwrap(), self.request.len());
    }

    /// Takes what came; whether the answer is among it.
    fn is_answered(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("the server closed"),
                Ok(read) => self.inbox.extend_from_slice(&chunk[..read]),
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => break,
                Err(fault) => panic!("{fault}"),
            }
        }
        if self.is_socket { self.has_response() } else { self.has_reply() }
    }

    fn has_reply(&mut self) -> bool {
        let Some(end) = self.inbox.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
        let head = std::str::from_utf8(&self.inbox[..end]).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
        let whole = end + 4 + length.parse::<usize>().unwrap();
        let is_whole = self.inbox.len() >= whole;
        if is_whole {
            self.inbox.drain(..whole);
        }
        is_whole
    }

    fn has_response(&mut self) -> bool {
        loop {
            let (header, length) = match self.inbox[..] {
                [_, short, ..] if short < 126 => (2, usize::from(short)),
                [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
                _ => return false,
            };
            if self.inbox.len() < header + length {
                return false;
            }
            let event: Vec<u8> = self.inbox.drain(..header + length).skip(header).collect();
            if event.starts_with(b"{\"type\":\"response\"") {
                return true;
            }
            assert!(!event.starts_with(b"{\"type\":\"error\""), "{}", String::from_utf8_lossy(&event));
        }
    }
}

/// Turns a second by these clients.
fn turns(mut clients: Vec<Client>) -> f64 {
    let mut poll = Poll::new().unwrap();
    for (n, client) in clients.iter_mut().enumerate() {
        poll.registry().register(&mut client.stream, Token(n), Interest::READABLE).unwrap();
        client.ask();
    }
    let mut events = Events::with_capacity(CLIENTS);
    let (mut answered, mut counted_from) = (0_u32, None);
    let began = Instant::now();
    loop {
        poll.poll(&mut events, Some(WAIT_TIMEOUT)).unwrap();
        assert!(!events.is_empty(), "nobody was answered");
        for event in &events {
            let client = &mut clients[event.token().0];
            if client.is_answered() {
                answered += 1;
                client.ask();
            }
        }
        match counted_from {
            None if began.elapsed() >= WARM => {
                answered = 0;
                counted_from = Some(Instant::now());
            }
            Some(from) if from.elapsed() >= MEASURED => return f64::from(answered) / from.elapsed().as_secs_f64(),
            _ => {}
        }
    }
}

/// The same by wrk, in requests a second, and what it says of the slowest hundredth in milliseconds.
fn by_wrk(server: &Server) -> Option<f64> {
    let run = |seconds: u64| {
        let url = format!("http://{}/api/chat", server.address());
        let seconds = format!("-d{seconds}s");
        Command::new("wrk").args(["-t1", "-c32", &seconds, "-s", "scripts/bench.lua", &url]).output().ok()
    };
    run(WARM.as_secs())?;
    let said = String::from_utf8(run(MEASURED.as_secs())?.stdout).ok()?;
    let line = said.lines().find(|line| line.starts_with("WRK "))?;
    line.split(' ').nth(1)?.parse().ok()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Milliseconds from sending to the event at another client of the session: the median and the slowest of a hundred.
fn latency(server: &Server, by_rest: bool) -> (f64, f64) {
    let session = if by_rest { "seen-rest" } else { "seen-socket" };
    let mut other = Socket::open(server, &format!("session_id={session}"));
    let mut sender = Socket::open(server, &format!("session_id={session}-elsewhere"));
    if !by_rest {
        sender = Socket::open(server, &format!("session_id={session}"));
    }
    let mut client = server.client();
    let mut took = Vec::new();
    for n in 0..LATENCIES {
        let message = json!({"message": format!("{TEXT} {n}"), "session_id": session});
        let began = Instant::now();
        if by_rest {
            let one = json!({"role": "user", "text": TEXT, "session_id": session});
            client.post("/api/chat/messages", &one).expect(201);
            other.next_of("message");
        } else {
            sender.send(&json!({"message": message["message"]}));
            other.next_of("message");
            took.push(began.elapsed().as_secs_f64() * 1e3);
            sender.next_of("response");
            continue;
        }
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Resident bytes and threads for each of [`IDLE`] sockets, each of which has said something once.
fn idle_cost() -> (u64, u64) {
    // Heartbeats would wake the connections up and be measured with them.
    let options =
        Options::default().set("websocket.heartbeat_seconds", 3600).set("websocket.idle_timeout_seconds", 7200);
    let server =
        Server::start(options.set("websocket.max_connections", IDLE as u64).set("mongo.cache.max_bytes", 65_536));
    // The first connections also cost what is made only once, so they are not measured.
    let first: Vec<Socket> = (0..100).map(|n| talked(&server, &format!("first-{n}"))).collect();
    let (memory, threads) = (server.process_status("VmRSS:"), server.process_status("Threads:"));
    drop(first);
    let sockets: Vec<Socket> = (0..IDLE).map(|n| talked(&server, &format!("idle-{n}"))).collect();
    wait_until("they are open", WAIT_TIMEOUT, || {
        server.client().get("/api/storage/status").json()["websocket"]["open"] == sockets.len()
    });
    let grown = server.process_status("VmRSS:").saturating_sub(memory) * 1024 / IDLE as u64;
    // The connections that asked for the status still have their threads for a moment.
    let more_threads = || server.process_status("Threads:").saturating_sub(threads);
    let deadline = Instant::now() + WAIT_TIMEOUT / 20;
    while more_threads() > 0 && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    (grown, more_threads())
}

fn talked(server: &Server, session: &str) -> Socket {
    let mut socket = Socket::open(server, &format!("session_id={session}"));
    socket.send(&json!({"message": TEXT}));
    socket.next_of("response");
    socket
}

fn main() {
    let check = std::env::args().any(|argument| argument == "--check");
    let _ = chatkeep::descriptors::raise();
    let (mut rests, mut sockets, mut wrks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let server = Server::start(Options::default());
        rests.push(turns((0..CLIENTS).map(|n| rest(&server, n)).collect()));
        sockets.push(turns((0..CLIENTS).map(|n| socket(&server, n)).collect()));
        wrks.extend(by_wrk(&server));
    }
    let (rest, sockets) = (median(rests), median(sockets));
    if !wrks.is_empty() {
        println!("turns a second: {sockets:.0} by WebSocket, {rest:.0} by REST, {:.0} by REST and wrk", median(wrks));
    }
    let peer = ("POST by the same client", rest);
    ratio("P7", "turns by WebSocket, 32 clients, always", Goal::AtLeast(1.0), sockets, "/s", sockets / rest, peer);
    let server = Server::start(Options::default());
    let (by_socket, by_rest) = (latency(&server, false), latency(&server, true));
    println!("to the others of a session: median {:.2} ms, 99 of 100 within {:.2} ms", by_socket.0, by_socket.1);
    println!("the same after a POST:      median {:.2} ms, 99 of 100 within {:.2} ms", by_rest.0, by_rest.1);
    let (bytes, threads) = idle_cost();
    result("P7", "memory of one of 10 000 idle sockets", Goal::AtMost(10.0), bytes as f64 / 1024.0, "KiB");
    result("P7", "more threads for 10 000 idle sockets", Goal::AtMost(0.0), threads as f64, "");
    let limit = LATENCY_MAX.as_secs_f64() * 1e3;
    if check
        && (sockets < rest * RATIO_MIN
            || by_socket.0 > limit
            || by_rest.0 > limit
            || bytes > IDLE_BYTES_MAX
            || threads > 2)
    {
        println!("FAILED: a bound is not kept");
        std::process::exit(1);
    }
}
