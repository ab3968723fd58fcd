//! The local server as its clients see it, and the faults of tiny_http that it avoids.
//!
//! Compiled under `#[cfg(test)]` only.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::server::testing::{Odd, StreamClient, eventually};

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
    fn client(&self, bytes: impl AsRef<[u8]>) -> StreamClient<UnixStream> {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut client = StreamClient { stream, bytes: Vec::new() };
        client.send(bytes);
        client
    }

    fn ask(&self, bytes: impl AsRef<[u8]>) -> u16 {
        self.client(bytes).answer().unwrap().status
    }

    fn handled(&self) -> usize {
        self.service.handled.load(Ordering::SeqCst)
    }

    /// A probe is answered. The thread of an earlier one may hold its place yet, although its answer was read.
    fn probe(&self) {
        eventually("a probe is answered", || self.ask(get("/probe")) == 200);
    }

    /// Fills that many of the requests served at once, with requests that wait.
    fn wait(&self, requests: usize) -> Vec<StreamClient<UnixStream>> {
        let mut waiting = Vec::new();
        for _ in 0..requests {
            // One after the other: tiny_http may queue the connections of a burst behind busy ones.
            let before = self.handled();
            waiting.push(self.client(get("/gate")));
            eventually("a request waits", || self.handled() == before + 1);
        }
        waiting
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
fn who_sends_a_bad_chunk_and_waits_is_told_and_holds_no_thread() {
    let fixture = serve();
    for bad in ["zz\r\n", "3\r\nabcd\r\n", "-1\r\n"] {
        let mut client =
            fixture.client(format!("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{bad}"));
        let answer = client.answer().expect("it is told at once");
        assert_eq!(answer.status, 400, "{bad:?}");
        // It still holds its connection.
        assert_eq!(fixture.ask(get("/")), 200);
    }
    assert_eq!(fixture.local.stop(Instant::now() + Duration::from_secs(60)), 0);
}

#[test]
fn each_of_a_hundred_connections_made_at_once_and_kept_is_answered() {
    let fixture = serve();
    for _ in 0..3 {
        let mut clients: Vec<_> = (0..100).map(|_| fixture.client(get("/"))).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let answer = client.answer().unwrap_or_else(|| panic!("number {number} waits"));
            assert!([200, 503].contains(&answer.status), "{}", answer.status);
        }
    }
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
    assert_eq!(fixture.ask(get("/echo")), 200);
}

#[test]
fn beyond_as_many_requests_as_are_served_at_once_only_probes_are_answered() {
    let fixture = serve();
    let mut waiting = fixture.wait(REQUESTS - 1);
    let slow = fixture.client("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n");
    // Asking until one is refused would not do: an earlier request could have kept the slow one out.
    eventually("it is in hand, too", || fixture.service.admitted.load(Ordering::SeqCst) == REQUESTS);
    for _ in 0..48 {
        let refused = fixture.client(post("/echo", &"x".repeat(5000))).answer().unwrap();
        assert_eq!((refused.status, refused.field("Retry-After")), (503, Some("1")));
        assert!(String::from_utf8(refused.body).unwrap().contains("requests_at_cap"));
        fixture.probe();
    }
    assert_eq!(fixture.ask(post("/probe", "x")), 503, "a body may be waited for");
    drop(slow);
    eventually("its place is free", || fixture.ask(get("/echo")) == 200);
    fixture.service.gate.open();
    assert!(waiting.iter_mut().all(|client| client.answer().unwrap().status == 200));
}

#[test]
fn who_reads_no_refusal_keeps_nobody_from_probes() {
    let fixture = serve();
    let mut waiting = fixture.wait(REQUESTS);
    // A reply that waits for an earlier one on its connection cannot be written.
    waiting.iter_mut().for_each(|client| client.send(get("/echo")));
    for _ in 0..10 {
        fixture.probe();
    }
    fixture.service.gate.open();
    for client in &mut waiting {
        assert_eq!(client.answer().unwrap().status, 200);
        assert!(matches!(client.answer().unwrap().status, 200 | 503), "one of many that were refused meanwhile");
    }
}

#[test]
fn what_cannot_be_understood_is_answered_with_a_reason() {
    let fixture = serve();
    let long = format!("Content-Length: 5000\r\n\r\n{}", "x".repeat(4000));
    for (fields, status, code) in [
        ("Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", 400, "malformed_request"),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400, "malformed_request"),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", 400, "malformed_request"),
        ("Transfer-Encoding: chunked\r\nConnection: upgrade\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400, "malformed_request"),
        ("Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 501, "transfer_coding"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, "malformed_request"),
        ("Content-Length: abc\r\n\r\n", 400, "malformed_request"),
        ("Content-Length: +3\r\n\r\nabc", 400, "malformed_request"),
        ("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, "malformed_request"),
        (&long, 408, "body_cut_short"),
    ] {
        let mut client = fixture.client(format!("POST /echo HTTP/1.1\r\nHost: x\r\n{fields}"));
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = client.answer().unwrap();
        let body = String::from_utf8(answer.body).unwrap();
        assert!(answer.status == status && body.contains(code), "{fields:?}: {} {body}", answer.status);
    }
    assert_eq!(fixture.handled(), 0);
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
    let _unread = fixture.wait(1);
    eventually("none of them ends", || (fixture.handled(), fixture.service.admitted.load(Ordering::SeqCst)) == (2, 3));
    // Time for `local-nudge` to end, which counts as well.
    assert_eq!(fixture.local.stop(Instant::now() + Duration::from_secs(3)), 3);
    assert!(!fixture.path.exists());
    fixture.service.gate.open();
}

#[test]
fn a_stop_waits_for_requests_in_hand_and_joins_their_threads() {
    let fixture = serve();
    let mut waiting = fixture.wait(3);
    let service = fixture.service.clone();
    let opening = std::thread::spawn(move || service.gate.open());
    assert_eq!(fixture.local.stop(Instant::now() + Duration::from_secs(60)), 0);
    opening.join().unwrap();
    assert!(waiting.iter_mut().all(|client| client.answer().unwrap().status == 200));
}

#[test]
fn a_panic_is_answered() {
    let fixture = serve();
    for _ in 0..8 {
        assert_eq!(fixture.client(post("/panic", "x")).answer().unwrap().status, 500);
    }
    assert_eq!(fixture.client(get("/echo")).answer().unwrap().status, 200);
}

#[test]
fn a_listener_that_died_is_bound_anew() {
    let fixture = serve();
    let first = Arc::clone(fixture.local.current.lock().as_ref().unwrap());
    // An unblock outside a stop looks like tiny_http's accept error.
    first.unblock();
    eventually("a new server", || !Arc::ptr_eq(fixture.local.current.lock().as_ref().unwrap(), &first));
    eventually("an answer", || UnixStream::connect(&fixture.path).is_ok());
    assert_eq!(fixture.client(get("/echo")).answer().unwrap().status, 200);
}
