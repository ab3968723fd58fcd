//! The rows of the fault matrix in which something runs short, or clients take and do not give: descriptors, threads, memory for
//! replies, connections. Nothing is lost, and whoever posts is served, meanwhile or as soon as it is over.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::faults::Injection;
use crate::support::{Connection, Load, Options, Server, Trial, WAIT_TIMEOUT, wait_until};

fn started(options: Options) -> Server {
    Server::start(Trial::lasting(options))
}

/// Ends as every row here does: the load goes on, and all is there.
fn end(trial: &Trial, mut server: Server, load: Load) {
    load.wait_for_more(200);
    load.end();
    server.assert_running();
    trial.all_is_there(&mut server, 1);
}

/// Connections that say so much and wait.
fn crowd(server: &Server, many: usize, said: &str) -> Vec<Connection> {
    let one = |_| {
        let mut connection = server.connect();
        // Beyond a limit the oldest connections are closed, so a write may fail.
        let _ = connection.send(said.as_bytes());
        connection
    };
    (0..many).map(one).collect()
}

/// Connections and transcripts for which there are no descriptors (EMFILE).
pub fn few_descriptors(trial: &Trial) {
    let server = started(Options::default().descriptors(64));
    let load = trial.load(&server);
    load.wait_for(200);
    let half = crowd(&server, 200, "GET /livez HTTP/1.1\r\nHost: lo");
    trial.recovers(&load, || drop(half));
    for n in 0..100 {
        server.client().chat(&format!("s{n}"), "each session has a file");
    }
    end(trial, server, load);
}

/// No thread can be started (EAGAIN): whoever is connected is served.
pub fn no_threads(trial: &Trial) {
    let server = started(Options::default());
    let load = trial.load(&server);
    load.wait_for(200);
    let fault = Injection::start(server.pid(), "clone,clone3:error=EAGAIN");
    let refused = crowd(&server, 50, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    load.wait_for_more(200);
    drop(refused);
    trial.recovers(&load, || drop(fault));
    wait_until("a new client is served", WAIT_TIMEOUT, || {
        server.client().try_request("GET", "/readyz", &[], None).is_ok_and(|reply| reply.status == 200)
    });
    end(trial, server, load);
}

/// Clients that ask for 8 MiB each and read nothing.
pub fn slow_readers(trial: &Trial) {
    let server = started(Options::default());
    let one = json!({"session_id": "big", "role": "user", "text": "x".repeat(15_000)});
    let many = Value::from(vec![one; 60]);
    (0..10).for_each(|_| drop(server.client().post("/api/chat/messages", &many).expect(201)));
    let load = trial.load(&server);
    load.wait_for(200);
    let page = "/api/chat/history?session_id=big&limit=500";
    let silent = crowd(&server, 100, &format!("GET {page} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"));
    wait_until("the budget is used up", WAIT_TIMEOUT, || server.client().get(page).status == 503);
    load.wait_for_more(200);
    drop(silent);
    wait_until("it is given back", WAIT_TIMEOUT, || server.client().get(page).status == 200);
    end(trial, server, load);
}

/// Connections that end in the middle of a head.
pub fn half_sent(trial: &Trial) {
    let server = started(Options::default());
    let load = trial.load(&server);
    load.wait_for(200);
    let half = crowd(&server, 1_500, "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Half: sent");
    load.wait_for_more(200);
    drop(half);
    end(trial, server, load);
}

/// Connections that were used once and stay open, while the load goes on.
pub fn idle(trial: &Trial) {
    let server = started(Options::default().set("server.max_connections", 4_000));
    let load = trial.load(&server);
    load.wait_for(200);
    let mut idle = crowd(&server, 2_000, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    idle.iter_mut().for_each(|connection| drop(connection.reply().unwrap().expect(200)));
    let (began, before) = (Instant::now(), load.acknowledged());
    load.wait_for_more(500);
    assert!(began.elapsed() < Duration::from_secs(30), "{before} and 500 more took {:?}", began.elapsed());
    // They still answer.
    for connection in idle.iter_mut().step_by(100) {
        connection.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        connection.reply().unwrap().expect(200);
    }
    drop(idle);
    end(trial, server, load);
}
