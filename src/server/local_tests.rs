//! The local server as its clients meet it, and what tiny_http would do if it were let.
//!
//! Compiled under `#[cfg(test)]` only.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use tempfile::TempDir;

use super::*;
use crate::server::testing::{Client, Odd, eventually};

struct Fixture {
    local: Local,
    service: Arc<Odd>,
    path: PathBuf,
    _folder: TempDir,
}

fn serve() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chatkeep.sock");
    let service = Arc::new(Odd::default());
    let local = start(&path, 1 << 20, Arc::clone(&service)).unwrap();
    Fixture { local, service, path, _folder: folder }
}

impl Fixture {
    fn client(&self, bytes: impl AsRef<[u8]>) -> Client<UnixStream> {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut client = Client { stream, bytes: Vec::new() };
        client.send(bytes);
        client
    }

    fn lanes(&self) -> usize {
        self.local.state.lanes().running()
    }
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: any.test\r\nX-Request-ID: my-id\r\n\r\n")
}

#[test]
fn the_socket_belongs_to_its_user_and_goes_with_the_server() {
    let fixture = serve();
    assert_eq!(std::fs::metadata(&fixture.path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fixture.local.stop(Instant::now() + Duration::from_secs(60)), 0);
    assert!(!fixture.path.exists());
}

#[test]
fn a_stale_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(start(&path, 1, Arc::new(Odd::default())).unwrap());
    assert!(!path.exists());
}

#[test]
fn a_path_too_long_is_refused_by_its_length() {
    let path = Path::new("/tmp").join("x".repeat(120));
    let fault = start(&path, 1, Arc::new(Odd::default())).err().unwrap();
    assert!(fault.to_string().contains("125 bytes") && fault.to_string().contains("107"), "{fault}");
}

#[test]
fn bodies_short_long_and_chunked_come_back() {
    let fixture = serve();
    let long = "y".repeat(100_000);
    let mut client = fixture.client(post("/echo", "short"));
    assert_eq!(client.answer().unwrap().body, b"short");
    client.send(post("/echo", &long));
    assert_eq!(client.answer().unwrap().body, long.as_bytes());
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"abc".as_slice()));
    assert!(answer.field("X-Request-ID").is_some());
    client.send(get("/query?a=b"));
    let answer = client.answer().unwrap();
    assert_eq!((answer.body.as_slice(), answer.field("X-Request-ID")), (b"/query?a=b".as_slice(), Some("my-id")));
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 100);
    client.send("abc");
    assert_eq!(client.answer().unwrap().body, b"abc");
}

#[test]
fn a_body_over_the_limit_is_drained_and_refused() {
    let fixture = serve();
    let mut client = fixture.client("");
    client.send(post("/echo", &"z".repeat(3 << 20)));
    assert_eq!(client.answer().unwrap().status, 413);
    client.send(get("/echo"));
    assert_eq!(client.answer().unwrap().status, 200, "the connection goes on");
    assert_eq!(fixture.service.handled.load(Ordering::SeqCst), 1);
}

#[test]
fn a_monstrous_declared_length_does_not_end_the_process() {
    let fixture = serve();
    for method in ["POST", "HEAD"] {
        drop(
            fixture.client(format!("{method} /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000000\r\n\r\nab")),
        );
    }
    drop(fixture.client("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\nab"));
    assert_eq!(fixture.client(get("/echo")).answer().unwrap().status, 200);
    eventually("all lanes end", || fixture.lanes() == 0);
}

#[test]
fn streams_and_slow_bodies_do_not_keep_others_from_being_answered() {
    let fixture = serve();
    // One after the other: tiny_http may queue the connections of a burst behind busy ones.
    let mut streams = Vec::new();
    for _ in 0..LANES / 2 {
        let mut client = fixture.client(get("/stream-gate"));
        assert_eq!(client.head().unwrap().status, 200);
        assert_eq!(client.chunk().unwrap(), b"first");
        streams.push(client);
    }
    let mut slow = Vec::new();
    for i in 0..LANES / 2 {
        slow.push(fixture.client("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"));
        eventually("a lane", || fixture.lanes() == LANES / 2 + 1 + i);
    }
    assert_eq!(fixture.client(post("/echo", "quick")).answer().unwrap().body, b"quick");
    let refused = fixture.client(get("/stream")).answer().unwrap();
    assert_eq!((refused.status, refused.field("Retry-After")), (503, Some("1")));
    fixture.service.gate.open();
    for client in &mut streams {
        assert_eq!((client.chunk().unwrap(), client.chunk().unwrap()), (b"second".to_vec(), Vec::new()));
    }
    drop(slow);
    eventually("all lanes are free", || fixture.lanes() == 0);
    assert_eq!(fixture.client(get("/stream")).answer().unwrap().body, b"firstsecond");
}

#[test]
fn replies_that_come_later_wait_in_lanes_and_leave_some_to_others() {
    let fixture = serve();
    let mut waiting = Vec::new();
    for i in 0..LATER {
        waiting.push(fixture.client(post(if i == 0 { "/later-stream" } else { "/later" }, "x")));
        eventually("a lane", || fixture.lanes() == i + 1);
    }
    let refused = fixture.client(post("/later", "x")).answer().unwrap();
    assert_eq!((refused.status, refused.field("Retry-After")), (503, Some("1")));
    assert_eq!(fixture.client(post("/echo", "quick")).answer().unwrap().body, b"quick");
    assert_eq!(fixture.client(post("/echo", &"x".repeat(5000))).answer().unwrap().body.len(), 5000);
    assert_eq!(fixture.client(get("/stream")).answer().unwrap().body, b"firstsecond");
    fixture.service.gate.open();
    for (i, client) in waiting.iter_mut().enumerate() {
        let expected: &[u8] = if i == 0 { b"firstsecond" } else { b"later" };
        assert_eq!(client.answer().unwrap().body, expected);
    }
    eventually("all lanes are free", || fixture.lanes() == 0);
    assert_eq!(fixture.client(post("/later", &"x".repeat(5000))).answer().unwrap().body, b"later", "from a lane");
    assert_eq!(fixture.client(post("/later-panic", "x")).answer().unwrap().status, 500);
    assert_eq!(fixture.local.panics(), 1);
}

#[test]
fn a_stream_that_fails_cannot_be_taken_for_whole() {
    let fixture = serve();
    for path in ["/stream-cut", "/stream-panic"] {
        let mut client = fixture.client(get(path));
        assert_eq!(client.head().unwrap().status, 200);
        assert_eq!(client.chunk().unwrap(), b"first");
        assert_eq!(client.chunk(), None, "no chunk, and not the last one");
    }
}

#[test]
fn a_stream_to_http_1_0_ends_with_the_connection_or_is_refused() {
    let fixture = serve();
    let mut client = fixture.client("GET /stream HTTP/1.0\r\n\r\n");
    assert_eq!(client.head().unwrap().field("Transfer-Encoding"), None);
    assert_eq!(client.exactly(11).unwrap(), b"firstsecond");
    assert!(client.is_closed());
    let mut kept = fixture.client("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(kept.answer().unwrap().status, 505);
}

#[test]
fn a_stop_does_not_wait_for_clients() {
    let fixture = serve();
    let mut stream = fixture.client(get("/stream-gate"));
    assert_eq!(stream.head().unwrap().status, 200);
    let _slow = fixture.client("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n");
    eventually("two lanes", || fixture.lanes() == 2);
    assert_eq!(fixture.local.stop(Instant::now() + Duration::from_millis(50)), 2);
    assert!(!fixture.path.exists());
    fixture.service.gate.open();
}

#[test]
fn a_panic_is_answered_and_counted() {
    let fixture = serve();
    for _ in 0..2 * HANDLERS {
        assert_eq!(fixture.client(post("/panic", "x")).answer().unwrap().status, 500);
    }
    assert_eq!(fixture.local.panics(), 2 * HANDLERS);
    assert_eq!(fixture.client(get("/echo")).answer().unwrap().status, 200);
}

#[test]
fn a_listener_that_died_is_bound_anew() {
    let fixture = serve();
    let first = Arc::clone(fixture.local.state.server().as_ref().unwrap());
    // To the handlers an unblock outside a stop looks like tiny_http's accept error.
    first.unblock();
    eventually("a new server", || !Arc::ptr_eq(fixture.local.state.server().as_ref().unwrap(), &first));
    eventually("an answer", || UnixStream::connect(&fixture.path).is_ok());
    assert_eq!(fixture.client(get("/echo")).answer().unwrap().status, 200);
}
