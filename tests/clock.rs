//! A server whose clock jumps: what is recorded stays in order, and whoever looks is told while ids are ahead of the clock,
//! or the clock was never set.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::clock::ClockShift;
use support::server::{BINARY, run};
use support::{Options, Server, WAIT_TIMEOUT, wait_until};

const HOUR: i64 = 3600;

/// What the status says of the journal, whatever room the disk of the tests has.
fn journal(server: &Server) -> Value {
    let mut journal = server.client().get("/api/storage/status").expect(200)["journal"].take();
    journal["warnings"].as_array_mut().unwrap().retain(|warning| warning != "disk_low");
    journal
}

fn record(server: &Server) -> (String, String) {
    let body = json!({"session_id": "s", "role": "user", "text": "hi"});
    let message = server.client().post("/api/chat/messages", &body).expect(201)["messages"][0].clone();
    let field = |name: &str| message[name].as_str().unwrap().to_owned();
    (field("id"), field("created_at"))
}

/// What `chatkeep status` says to people.
fn shown(server: &Server) -> String {
    let mut command = Command::new(BINARY);
    command.arg("status").arg("--config").arg(server.config_path()).arg("--data").arg(server.data());
    String::from_utf8(run(command.current_dir(server.folder())).stdout).unwrap()
}

fn waits_for(server: &Server, line: &str) {
    wait_until(line, WAIT_TIMEOUT, || server.log().contains(line));
}

fn count(server: &Server, line: &str) -> usize {
    server.log().matches(line).count()
}

#[test]
fn ids_ahead_of_a_clock_that_was_set_back_are_a_warning_until_it_is_over() {
    let clock = ClockShift::new();
    let mut server = Server::start(clock.of(Options::default()));
    let first = record(&server);
    assert_eq!((&journal(&server)["warnings"], &journal(&server)["ids_ahead_seconds"]), (&json!([]), &json!(0)));
    // It runs ahead, which nobody can know, and is set right.
    clock.set(2 * HOUR);
    let ahead = record(&server);
    assert_eq!(journal(&server)["warnings"], json!([]));
    clock.set(0);
    let later = record(&server);
    assert!(first < ahead && ahead < later, "{first:?} {ahead:?} {later:?}");
    let line = "the clock was set back";
    for _ in 0..2 {
        let told = journal(&server);
        assert_eq!((&told["warnings"], &told["status"]), (&json!(["ids_ahead"]), &json!("ok")));
        let seconds = told["ids_ahead_seconds"].as_i64().unwrap();
        assert!((HOUR..=2 * HOUR).contains(&seconds), "{seconds}");
        let words = shown(&server);
        assert!(words.contains("warning  ids_ahead: new messages are dated 1 h 5"), "{words}");
        waits_for(&server, line);
        assert_eq!(count(&server, line), 1, "once for all the time it lasts");
        // A start knows it too.
        server.restart();
    }
    waits_for(&server, line);
    // The clock catches up, and is set back by less than a minute: as clocks are by those who set them.
    clock.set(2 * HOUR + 60);
    assert_eq!(journal(&server)["warnings"], json!([]));
    waits_for(&server, "no longer: ids_ahead");
    record(&server);
    clock.set(2 * HOUR + 30);
    assert_eq!(journal(&server)["warnings"], json!([]));
    assert_eq!(count(&server, line), 1);
}

#[test]
fn a_clock_before_2020_is_a_warning_until_it_is_set() {
    let clock = ClockShift::new();
    // A minute after the beginning of 1970: a machine without a battery.
    let back = 60 - i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    clock.set(back);
    let server = Server::start(clock.of(Options::default()));
    let (id, created_at) = record(&server);
    assert!(created_at.starts_with("1970-01-01T00:0"), "{created_at}");
    assert_eq!(journal(&server)["warnings"], json!(["clock_before_2020"]));
    assert!(shown(&server).contains("warning  clock_before_2020: set the clock of this machine"), "{}", shown(&server));
    waits_for(&server, "before 2020");
    clock.set(0);
    assert!(record(&server).0 > id);
    assert_eq!(journal(&server)["warnings"], json!([]));
    waits_for(&server, "no longer: clock_before_2020");
    // Set back to where it was: new messages are dated as the last one was.
    clock.set(back);
    assert_eq!(journal(&server)["warnings"], json!(["ids_ahead", "clock_before_2020"]));
    wait_until("both are logged", WAIT_TIMEOUT, || {
        count(&server, "the clock was set back") == 1 && count(&server, "before 2020") == 2
    });
}

#[test]
fn before_1970_both_listeners_answer_and_say_1970() {
    let clock = ClockShift::new();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // No system lets itself be set to that; a library in front of its clock does, and a fault of the clock may.
    clock.set(-i64::try_from(since_1970.as_secs()).unwrap() - 1000);
    let server = Server::start(clock.of(Options::default()));
    for mut client in [server.client(), server.local_client()] {
        for (path, status) in [("/livez", 200), ("/nowhere", 404), ("/api/chat/history", 200)] {
            let reply = client.get(path);
            let date = reply.header("date").map(str::to_owned);
            assert_eq!((reply.status, date.as_deref()), (status, Some("Thu, 01 Jan 1970 00:00:00 GMT")), "{path}");
        }
        client.chat("s", "hi");
    }
    assert_eq!(server.client().whole_history("s").len(), 4);
    assert_eq!(journal(&server)["warnings"], json!(["clock_before_2020"]));
    assert!(!server.log().contains("panic"), "{}", server.log());
}
