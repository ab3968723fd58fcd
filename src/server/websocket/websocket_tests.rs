//! The pool behind the real listener, with a handler that echoes: panics, order, many sockets, and on request a
//! conformance suite.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tungstenite::Message;
use tungstenite::protocol::WebSocket;

use crate::access::{Access, Principal};
use crate::api::{
    Exposure, Joining, Outbox, Payload, Problem, Reply, RequestHead, Route, Service, SocketCounters, SocketHandler,
    SocketId, Sockets, Wake,
};
use crate::config::{Config, WebsocketConfig};
use crate::message::SessionId;
use crate::permit::HeldBytes;
use crate::permit::Semaphore;
use crate::server::WebSocketOptions;
use crate::server::tcp::{self, Connections, Listening};

/// Every request becomes a WebSocket, and every message comes back.
struct Echo;

impl Service for Echo {
    fn admit(&self, _: &RequestHead<'_>) -> Result<Route, Reply> {
        Ok(Route::Socket)
    }

    fn is_probe(&self, _: &str) -> bool {
        false
    }

    fn exposure(&self, _: &str) -> Exposure {
        Exposure::Callers
    }

    fn handle(&self, head: &RequestHead<'_>, _: Route, _: &mut HeldBytes) -> Reply {
        head.refusal(&Problem::not_found(head.path))
    }
}

impl Sockets for Echo {
    fn join(&self, _: &RequestHead<'_>) -> Result<Joining, Problem> {
        Ok(Joining {
            session: SessionId::new("echo").unwrap(),
            after: None,
            caller: Principal::without_token(Access::Admin),
            on_disconnect: None,
            request: "r".into(),
        })
    }

    fn handler(&self, _: Arc<dyn Wake>) -> Box<dyn SocketHandler> {
        Box::new(Self)
    }
}

impl SocketHandler for Echo {
    fn opened(&mut self, _: SocketId, _: Joining, _: &mut dyn Outbox) {}

    fn received(&mut self, socket: SocketId, payload: Payload, bytes: Vec<u8>, outbox: &mut dyn Outbox) {
        match &bytes[..] {
            b"panic" => panic!("asked to"),
            b"close" => outbox.close(socket, 1013, "try again later"),
            _ => outbox.send(socket, payload, &bytes.into()),
        }
    }
}

fn listen(change: impl FnOnce(&mut WebsocketConfig)) -> (Listening, Arc<SocketCounters>) {
    listen_with(Duration::from_secs(30), change)
}

fn listen_with(body_timeout: Duration, change: impl FnOnce(&mut WebsocketConfig)) -> (Listening, Arc<SocketCounters>) {
    let mut config = Config::defaults(None).unwrap();
    config.server.timeouts.body = body_timeout;
    config.server.listen = "127.0.0.1:0".into();
    config.websocket.max_message_bytes = 32 << 20;
    config.websocket.max_outgoing_bytes = 64 << 20;
    change(&mut config.websocket);
    let counters = Arc::new(SocketCounters::default());
    let (counted, sockets) = (counters.clone(), Arc::new(Echo));
    let websockets = WebSocketOptions {
        config: config.websocket,
        open: Semaphore::new(1000),
        counters: counted,
        sockets,
        outgoing: Semaphore::new(1 << 30),
    };
    (tcp::start(&config.server, Connections::at_most(64), Arc::new(Echo), Some(websockets)).unwrap(), counters)
}

/// The first frame of a text message, which says that more frames follow.
fn fragment(bytes: usize) -> Vec<u8> {
    [&[0x01, 0x80 | 127][..], &(bytes as u64).to_be_bytes(), &[0; 4], &vec![b'x'; bytes]].concat()
}

fn connect(listening: &Listening) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(listening.local_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    tungstenite::client(format!("ws://{}/", listening.local_addr()), stream).unwrap().0
}

#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn close_code(socket: &mut WebSocket<TcpStream>) -> u16 {
    loop {
        if let Message::Close(frame) = socket.read().unwrap() {
            return frame.unwrap().code.into();
        }
    }
}

#[test]
fn messages_come_back_in_order_and_a_panic_closes_its_socket_only() {
    let (listening, counters) = listen(|config| config.threads = 1);
    let (mut one, mut other) = (connect(&listening), connect(&listening));
    for n in 0..200 {
        one.write(Message::text(format!("{n}"))).unwrap();
    }
    one.flush().unwrap();
    for n in 0..200 {
        assert_eq!(one.read().unwrap(), Message::text(format!("{n}")));
    }
    one.send(Message::text("panic")).unwrap();
    assert_eq!(close_code(&mut one), 1011);
    other.send(Message::binary(vec![7; 3_000_000])).unwrap();
    assert_eq!(other.read().unwrap(), Message::binary(vec![7; 3_000_000]));
    other.send(Message::text("close")).unwrap();
    assert_eq!(close_code(&mut other), 1013);
    assert!(counters.opened.load(std::sync::atomic::Ordering::SeqCst) == 2);
    assert_eq!(listening.stop(Instant::now() + Duration::from_secs(60)), 0);
}

#[test]
fn a_stop_ends_sockets_whose_clients_say_nothing() {
    let (listening, counters) = listen(|_| ());
    let mut sockets: Vec<_> = (0..50).map(|_| connect(&listening)).collect();
    // One client does not read either, and still has to send its own close.
    let mut silent = sockets.pop().unwrap();
    wait_until("all are in the pool", || counters.open.load(std::sync::atomic::Ordering::SeqCst) == 50);
    let began = Instant::now();
    assert_eq!(listening.stop(began + Duration::from_secs(60)), 0);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(counters.open.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(close_code(&mut silent), 1001);
}

#[test]
fn a_client_that_pings_and_never_reads_is_cut() {
    let (listening, counters) = listen(|config| config.max_outgoing_bytes = 64 << 10);
    let mut socket = connect(&listening);
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[7; 125]].concat().repeat(500);
    let stream = socket.get_mut();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    while stream.write_all(&ping).is_ok() {}
    wait_until("it is counted", || counters.cut.load(std::sync::atomic::Ordering::SeqCst) == 1);
    // The client reads what was sent before the cut; then the stream ends.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

#[test]
fn a_message_not_whole_in_time_closes_its_socket_whatever_comes() {
    let timeout = Duration::from_millis(300);
    let (listening, counters) = listen_with(timeout, |_| ());
    let (mut slow, mut quick) = (connect(&listening), connect(&listening));
    let began = Instant::now();
    slow.get_mut().write_all(&fragment(1000)).unwrap();
    // A sign of life, and a second frame of the same message.
    slow.get_mut().write_all(&[0x8a, 0x80, 0, 0, 0, 0, 0x00, 0x81, 0, 0, 0, 0, b'x']).unwrap();
    // A client that finishes its messages may stay for as long as it likes.
    while began.elapsed() < 2 * timeout {
        // In one write: between two, a busy machine may pause for longer than the timeout.
        let end = [0x80, 0x81, 0, 0, 0, 0, b'x'];
        quick.get_mut().write_all(&[&fragment(10)[..], &end].concat()).unwrap();
        assert_eq!(quick.read().unwrap(), Message::text("xxxxxxxxxxx"));
    }
    assert_eq!(close_code(&mut slow), 1008);
    assert!(began.elapsed() >= timeout);
    drop(slow);
    wait_until("nothing is held", || counters.unfinished_bytes.load(std::sync::atomic::Ordering::SeqCst) == 0);
}

#[test]
fn unfinished_messages_of_all_sockets_together_are_bounded() {
    let (listening, counters) = listen(|config| config.max_incoming_bytes = 1_000_000);
    let held = || counters.unfinished_bytes.load(std::sync::atomic::Ordering::SeqCst);
    let mut sockets: Vec<_> = (0..4).map(|_| connect(&listening)).collect();
    for (n, socket) in sockets.iter_mut().take(3).enumerate() {
        socket.get_mut().write_all(&fragment(300_000)).unwrap();
        wait_until("it is held", || held() == (n + 1) * 300_000);
    }
    sockets[3].get_mut().write_all(&fragment(300_000)).unwrap();
    assert_eq!(close_code(&mut sockets.pop().unwrap()), 1013);
    // The client that came first goes on, and its memory is given back.
    wait_until("it is gone", || held() == 900_000);
    sockets[0].get_mut().write_all(&[0x80, 0x80, 0, 0, 0, 0]).unwrap();
    assert_eq!(sockets[0].read().unwrap().len(), 300_000);
    sockets.truncate(1);
    wait_until("all is given back", || held() == 0);
}

/// `KOSOKU=path cargo test --lib conformance -- --ignored`: the conformance suite of that name against our pool.
#[test]
#[ignore = "needs kosoku; scripts/ws-clients.sh fetches it and runs this"]
fn conformance() {
    let kosoku = std::env::var("KOSOKU").expect("KOSOKU names the suite");
    let (listening, _) = listen(|_| ());
    let url = format!("ws://{}", listening.local_addr());
    let reports = tempfile::tempdir().unwrap();
    let mut suite = std::process::Command::new(kosoku);
    // Without the cases of compression, which the server does not offer.
    suite.args(["-m", "fuzzingclient", "-x", "12.*", "-x", "13.*", &url]).current_dir(reports.path());
    let ran = suite.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains("301 cases passed"), "{said}");
}
