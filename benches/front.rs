//! The first byte of a streamed answer through chatkeep, compared with that from the model's server itself, while 200 other
//! answers are streamed through chatkeep at 20 pieces a second.
//!
//! `cargo bench --bench front`; `-- --check` fails if the median comes more than 1 ms later, or if the server has grown by
//! more than 128 MiB. The model's server is a few lines of this program, since no other is as quick.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark says where it failed, and what it found")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::goal::{Goal, result};
use support::{Options, Server, wait_until};

const STREAMS: usize = 200;
const ROUNDS: usize = 201;
const PIECE_INTERVAL: Duration = Duration::from_millis(50);
/// The bound of `--check`: twice the goal, for a disk that was busy until now takes longer for the sync.
const LATER_MAX: Duration = Duration::from_millis(2);
const GROWTH_MAX: u64 = 128 << 20;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
const PIECE: &str = "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}]}\n\n";
const END: &str =
    "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// Answers each request with a word; one that says `long` goes on at its pace until `stop`.
fn model(stop: &Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = stop.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stop = stop.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &stop));
        }
    });
    address
}

fn answer(mut stream: TcpStream, stop: &AtomicBool) {
    stream.set_nodelay(true).unwrap();
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    while !request.ends_with(b"}") {
        match stream.read(&mut piece) {
            Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    let is_long = request.windows(4).any(|word| word == b"long");
    let mut said = stream.write_all(format!("{HEAD}{PIECE}").as_bytes());
    while is_long && said.is_ok() && !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(PIECE_INTERVAL);
        said = stream.write_all(PIECE.as_bytes());
    }
    let _ = stream.write_all(END.as_bytes());
}

fn request(to: SocketAddr, text: &str) -> TcpStream {
    let body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": text}]}).to_string();
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    stream
}

/// The time to the first piece of an answer, from before the connection is made.
fn first_piece(to: SocketAddr, text: &str) -> Duration {
    let began = Instant::now();
    let mut stream = request(to, text);
    let (mut come, mut piece) = (Vec::new(), [0; 4096]);
    while !come.windows(5).any(|word| word == b"data:") {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&come));
        come.extend_from_slice(&piece[..read]);
    }
    let took = began.elapsed();
    // To its end, so that its slot is free again.
    while !come.windows(6).any(|word| word == b"[DONE]") {
        match stream.read(&mut piece) {
            Ok(read) if read > 0 => come.extend_from_slice(&piece[..read]),
            _ => break,
        }
    }
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let check = std::env::args().any(|argument| argument == "--check");
    let (stop, pieces) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let model = model(&stop);
    let server = Server::start(
        Options::default()
            .set("responder.kind", "openai")
            .set("responder.openai", json!({"base_url": format!("http://{model}/v1")}))
            .set("responder.max_concurrent", 256),
    );
    let before = server.process_status("VmRSS:");
    let readers: Vec<_> = (0..STREAMS)
        .map(|n| {
            let (mut stream, pieces) = (request(server.address(), &format!("long {n}")), pieces.clone());
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while stream.read(&mut piece).is_ok_and(|read| read > 0) {
                    pieces.fetch_add(1, Ordering::Relaxed);
                    if piece.windows(6).any(|word| word == b"[DONE]") {
                        break;
                    }
                }
            })
        })
        .collect();
    wait_until("all streams run", Duration::from_secs(60), || pieces.load(Ordering::Relaxed) > 3 * STREAMS);
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    let (began, had) = (Instant::now(), pieces.load(Ordering::Relaxed));
    for n in 0..ROUNDS {
        direct.push(first_piece(model, "hi"));
        through.push(first_piece(server.address(), &format!("hi {n}")));
    }
    let rate = (pieces.load(Ordering::Relaxed) - had) as f64 / began.elapsed().as_secs_f64();
    let growth = server.process_status("VmRSS:").saturating_sub(before) << 10;
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let (direct, through) = (median(direct), median(through));
    let later = through.saturating_sub(direct);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{STREAMS} streams through chatkeep, {rate:.0} pieces a second");
    println!("first piece after {:.2} ms from the model's server, {:.2} through chatkeep", ms(direct), ms(through));
    result("front", "first piece through chatkeep, later", Goal::AtMost(1.0), ms(later), "ms");
    let mib = growth as f64 / f64::from(1 << 20);
    result("front", "memory of 200 streams", Goal::AtMost(128.0), mib, "MiB");
    if check {
        assert!(later <= LATER_MAX, "the first piece comes more than {LATER_MAX:?} later");
        assert!(growth <= GROWTH_MAX, "the server has grown by more than {GROWTH_MAX} bytes");
    }
}
