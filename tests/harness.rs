//! The harness examined: the client against a toy server, and the oracle against stories that must fail. A check that
//! cannot fail is worth nothing.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

#[path = "matrix/disk.rs"]
#[allow(dead_code, reason = "one of its rows is enough here")]
mod disk;
mod support;
#[path = "matrix/table.rs"]
#[allow(dead_code, reason = "the others are scripts/faults'")]
mod table;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{Client, Connection, Limit, Random};

/// Answers each connection with the next of `replies`, a part at a time, and closes.
fn toy_server(replies: Vec<Vec<&'static [u8]>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for parts in replies {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            for part in parts {
                stream.write_all(part).unwrap();
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    });
    address
}

#[test]
fn the_client_reads_replies_of_a_declared_length_in_chunks_and_to_the_end() {
    let address = toy_server(vec![
        vec![b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 5\r\nConnection: close\r\n\r\nhel", b"lo"],
        vec![
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nhel\r",
            b"\n2;x=y\r\nlo\r\n0\r\n\r\n",
        ],
        vec![b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhel", b"lo"],
        vec![b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX-Request-ID: a\r\nConnection: close\r\n\r\n"],
    ]);
    let mut client = Client::tcp(address);
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "hello");
    }
    let reply = client.get("/");
    assert_eq!((reply.status, reply.header("x-request-id")), (204, Some("a")));
}

#[test]
fn the_client_keeps_a_connection_and_reads_two_replies_from_one_packet() {
    let address = toy_server(vec![vec![
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\ntwo",
    ]]);
    let mut connection = Connection::tcp(address).unwrap();
    connection.send(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(connection.reply().unwrap().text(), "one");
    assert_eq!(connection.reply().unwrap().status, 404);
    assert_eq!(connection.rest_within(support::WAIT_TIMEOUT), Some(Vec::new()));
}

#[test]
fn a_reply_cut_short_is_an_error_and_a_silent_server_is_a_timeout() {
    let cut = toy_server(vec![vec![b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"]]);
    let error = Client::tcp(cut).try_request("GET", "/", &[], None).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut connection = Connection::tcp(silent.local_addr().unwrap()).unwrap();
    connection.send(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let error = connection.reply_within(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(connection.rest_within(Duration::from_millis(50)), None);
}

#[test]
fn the_generator_repeats_itself_from_its_seed_and_stays_within_bounds() {
    let (mut a, mut b) = (Random::new(7), Random::new(7));
    let drawn: Vec<u64> = (0..1_000).map(|_| a.between(3, 9)).collect();
    assert_eq!(drawn, (0..1_000).map(|_| b.between(3, 9)).collect::<Vec<_>>());
    assert!((3..=9).all(|n| drawn.contains(&n)));
    assert!(drawn.iter().all(|n| (3..=9).contains(n)));
}

#[test]
fn options_are_written_as_a_nested_config() {
    let options = support::Options::default().set("mongo.cache.max_bytes", 5).set("journal.fsync", "never");
    let written: serde_json::Value = serde_json::from_str(&options.config_text()).unwrap();
    assert_eq!(written, json!({"mongo": {"enabled": false, "cache": {"max_bytes": 5}}, "journal": {"fsync": "never"}}));
}

/// One story for the oracle: what was sent and acknowledged is fixed, what is found varies.
fn verdict(found: &[serde_json::Value]) -> std::thread::Result<()> {
    let oracle = support::Oracle::default();
    oracle.attempt("s", "user", "acknowledged");
    oracle.attempt("s", "user", "unknown");
    oracle.acknowledge("s", "user", "acknowledged", &json!("a1"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| oracle.compare("the story", "s", found)))
}

#[test]
fn the_oracle_accepts_what_is_right_and_refuses_each_kind_of_wrong() {
    let message = |id: &str, text: &str| json!({"id": id, "session_id": "s", "role": "user", "text": text});
    let right = message("a1", "acknowledged");
    assert!(verdict(std::slice::from_ref(&right)).is_ok());
    assert!(verdict(&[right.clone(), message("a2", "unknown")]).is_ok());
    for (wrong, found) in [
        ("lost", vec![]),
        ("twice", vec![right.clone(), message("a2", "acknowledged")]),
        ("the same line twice", vec![right.clone(), right.clone()]),
        ("never sent", vec![right.clone(), message("a2", "invented")]),
        ("another id", vec![message("a9", "acknowledged")]),
        ("ids that fall", vec![right.clone(), message("a0", "unknown")]),
        ("an unacknowledged one twice", vec![right.clone(), message("a2", "unknown"), message("a3", "unknown")]),
        ("another session's", vec![json!({"id": "a1", "session_id": "t", "role": "user", "text": "acknowledged"})]),
    ] {
        assert!(verdict(&found).is_err(), "the oracle must refuse: {wrong}");
    }
}

#[test]
fn the_table_of_faults_fails_by_a_row_that_loses_messages_or_cannot_be_run() {
    use table::{Row, Run};
    let kept = Row { fault: "nothing is damaged", needs: &[], run: Run::Real(disk::undamaged) };
    let lost = Row { fault: "the data folder is removed", needs: &[], run: Run::Real(disk::removed_data) };
    let not_run =
        Row { fault: "never", needs: &[("the impossible", "false")], run: Run::Real(|_| panic!("it is run")) };
    let lines = [kept, lost, not_run].map(|row| row.run(1));
    let told = lines.each_ref().map(ToString::to_string);
    assert_eq!(lines.each_ref().map(table::Line::is_passed), [true, false, false], "{told:?}");
    let cell = |line: usize, column: usize| told[line].split(" | ").nth(column).unwrap().to_owned();
    assert_ne!((cell(1, 3), cell(1, 4)), ("0".to_owned(), "0".to_owned()), "some are acknowledged and lost: {told:?}");
    assert!(told[2].contains("not run: it needs the impossible"), "{told:?}");
    assert_eq!(table::end(&lines).1, 1);
    assert_eq!([&lines[..1], &lines[1..2], &[]].map(|lines| table::end(lines).1), [0, 1, 1]);
}

#[test]
fn the_search_for_stored_bytes_finds_them_between_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("with"), [&[0; 5_000][..], b"\xff-NEEDLE-\x00", &[0; 100]].concat()).unwrap();
    std::fs::write(inner.join("without"), [0; 5_000]).unwrap();
    assert_eq!(support::files_holding(folder.path(), "-NEEDLE-"), [inner.join("with")]);
    assert!(support::files_holding(folder.path(), "-STRAW-").is_empty());
}

#[test]
fn a_search_for_stored_bytes_outlives_files_that_are_renamed_under_it() {
    let folder = tempfile::tempdir().unwrap();
    let (temporary, name) = (folder.path().join("checkpoint.tmp"), folder.path().join("checkpoint"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                std::fs::write(&temporary, "-NEEDLE-").unwrap();
                std::fs::rename(&temporary, &name).unwrap();
                std::thread::park_timeout(Duration::from_micros(200));
            }
        });
        support::wait_until("it is there", support::WAIT_TIMEOUT, || name.exists());
        for _ in 0..30 {
            assert!(!support::files_holding(folder.path(), "-NEEDLE-").is_empty());
            assert!(support::files_holding(folder.path(), "-STRAW-").is_empty());
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_slow_child_is_killed_and_one_that_has_ended_is_left_alone() {
    let mut slow = Command::new("sleep").arg("600").spawn().unwrap();
    let limit = Limit::within(&slow, Duration::from_millis(10));
    assert_eq!(slow.wait().unwrap().signal(), Some(9));
    drop(limit);
    let mut quick = Command::new("true").spawn().unwrap();
    let _limit = Limit::on(&quick);
    assert_eq!(quick.wait().unwrap().code(), Some(0));
}
