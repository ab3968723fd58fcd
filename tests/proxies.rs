//! Behind a proxy with TLS, each as docs/operations.md shows it: event streams come at once, WebSockets pass, and one that is
//! idle stays open.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::json;
use support::proxy::{self, Running, snippet};
use support::{Options, Server, WAIT_TIMEOUT, server, socket, wait_until};

const HOST: &str = "chat.example.org";

/// Where the proxies are shown.
const OPERATIONS: &str = "docs/operations.md";

/// Longer than the time after which common proxies close what is silent.
const IDLE: Duration = Duration::from_secs(100);

/// A proxy on a Unix socket in front of a server.
struct Proxy {
    server: Server,
    socket: PathBuf,
    _running: Running,
    folder: tempfile::TempDir,
}

impl Proxy {
    /// `configure` gets the folder (with `cert.pem`, `key.pem` and both in `both.pem`), the socket to listen on and the
    /// server's address; it gives the command.
    fn start(configure: impl FnOnce(&Path, &str, &str) -> Command) -> Self {
        let program = json!(["sh", "-c", "printf one; while [ ! -e open ]; do sleep 0.02; done; printf ' two'"]);
        let options = Options::default().set("responder.kind", "command").set("responder.command", program);
        let server = Server::start(options.set("server.allowed_hosts", json!([HOST])));
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=chat".split(' '));
        openssl.args(["-addext", &format!("subjectAltName=DNS:{HOST}"), "-keyout"]).arg(at("key.pem"));
        let made = server::run(openssl.arg("-out").arg(at("cert.pem")));
        assert!(made.status.success(), "{}", server::said(&made));
        let both = [fs::read(at("cert.pem")).unwrap(), fs::read(at("key.pem")).unwrap()].concat();
        fs::write(at("both.pem"), both).unwrap();
        let socket = at("proxy.sock");
        let mut command = configure(folder.path(), socket.to_str().unwrap(), &server.address().to_string());
        let output = || fs::File::options().create(true).append(true).open(at("proxy.log")).unwrap();
        let child = proxy::with_system_programs(&mut command).stdout(output()).stderr(output()).spawn();
        let child = child.expect("the proxy is installed");
        let running = Running(child);
        let said = at("proxy.log");
        wait_until("the proxy listens", WAIT_TIMEOUT, || {
            let listens = std::os::unix::net::UnixStream::connect(&socket).is_ok();
            assert!(
                listens || !fs::read_to_string(&said).unwrap().contains("rror"),
                "{}",
                fs::read_to_string(&said).unwrap()
            );
            listens
        });
        Self { server, socket, _running: running, folder }
    }

    fn connect(&self) -> Tls {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-verify_return_error", "-servername", HOST, "-verify_hostname", HOST]);
        openssl.arg("-CAfile").arg(self.folder.path().join("cert.pem")).arg("-unix").arg(&self.socket);
        let mut child = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, received) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read) = output.read(&mut bytes) {
                if read == 0 || send.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Tls { _running: Running(child), input, received, inbox: Vec::new() }
    }
}

/// A connection through the proxy, by `openssl s_client`.
struct Tls {
    _running: Running,
    input: ChildStdin,
    received: Receiver<Vec<u8>>,
    inbox: Vec<u8>,
}

impl Tls {
    fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).and_then(|()| self.input.flush()).unwrap();
    }

    /// Does for a while what a browser does for an idle WebSocket.
    fn only_answers_pings(&mut self, idle: Duration) {
        let until = Instant::now() + idle;
        let mut pings = 0;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            match self.received.recv_timeout(left) {
                Ok(bytes) => self.inbox.extend(bytes),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("the connection was closed"),
            }
            // Between texts, which are UTF-8 and no frames of this length.
            if let Some(at) = self.inbox.windows(2).position(|bytes| bytes == [0x89, 0]) {
                self.inbox.drain(..at + 2);
                self.send(&socket::frame(0x8a, b""));
                pings += 1;
            }
        }
        // So it was idle, and the server's pings came through.
        assert!(idle.is_zero() || pings >= 4, "{pings} pings came");
    }

    /// Reads on until `text` has come, and takes everything up to there.
    #[track_caller]
    fn until(&mut self, text: &str) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let so_far = String::from_utf8_lossy(&self.inbox).into_owned();
            if let Some(at) = self.inbox.windows(text.len()).position(|bytes| bytes == text.as_bytes()) {
                self.inbox.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.received.recv_timeout(left).unwrap_or_else(|e| panic!("{e} before {text}: {so_far}"));
            self.inbox.extend(more);
        }
    }
}

/// What every proxy must let through. `idle`: how long a WebSocket is silent.
fn passes(proxy: &Proxy, idle: Duration) {
    let mut feed = proxy.connect();
    let accept = "Accept: text/event-stream";
    feed.send(format!("GET /api/chat/feed HTTP/1.1\r\nHost: {HOST}\r\n{accept}\r\n\r\n").as_bytes());
    feed.until("HTTP/1.1 200 ");
    let mut turn = proxy.connect();
    let body = r#"{"message":"hi","stream":true}"#;
    let length = body.len();
    turn.send(format!("POST /api/chat HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
    // The answer cannot end before the gate is open.
    turn.until(r#""text":"one""#);
    feed.until(r#""text":"hi""#);
    fs::write(proxy.server.folder().join("open"), "").unwrap();
    turn.until("event: response");
    let mut socket = proxy.connect();
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    socket.send(format!("GET /ws/chat?session_id=w HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{key}\r\n\r\n").as_bytes());
    socket.until("HTTP/1.1 101 ");
    for round in 0..2 {
        socket.send(&socket::frame(0x81, br#"{"message":"hi"}"#));
        socket.until(r#""type":"response""#);
        if round == 0 {
            socket.only_answers_pings(idle);
        }
    }
}

fn nginx() -> Proxy {
    Proxy::start(|folder, socket, address| {
        let at = |name: &str| folder.join(name).display().to_string();
        let site = snippet(
            OPERATIONS,
            "nginx",
            &[
                ("listen 443 ssl;", &format!("listen unix:{socket} ssl;")),
                ("/etc/ssl/chat.example.org.pem", &at("cert.pem")),
                ("/etc/ssl/chat.example.org.key", &at("key.pem")),
                ("127.0.0.1:8000", address),
            ],
        );
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|p| format!("{p}_temp_path {p};"));
        let events = "daemon off; master_process off; pid nginx.pid; error_log stderr; events {}";
        let http = format!("{events}\nhttp {{ access_log off; {}\n{site} }}", temporary.concat());
        fs::write(folder.join("nginx.conf"), http).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf"));
        command
    })
}

fn haproxy() -> Proxy {
    Proxy::start(|folder, socket, address| {
        let bind = format!("bind {socket} ssl crt {}", folder.join("both.pem").display());
        let shown = "bind :443 ssl crt /etc/ssl/chat.example.org.both.pem";
        fs::write(
            folder.join("haproxy.cfg"),
            snippet(OPERATIONS, "haproxy", &[(shown, &bind), ("127.0.0.1:8000", address)]),
        )
        .unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-f").arg(folder.join("haproxy.cfg"));
        command
    })
}

fn caddy() -> Proxy {
    Proxy::start(|folder, socket, address| {
        let at = |name: &str| folder.join(name).display().to_string();
        let site =
            format!("chat.example.org {{\n    bind unix/{socket}\n    tls {} {}\n", at("cert.pem"), at("key.pem"));
        let file = snippet(OPERATIONS, "caddy", &[("chat.example.org {\n", &site), ("127.0.0.1:8000", address)]);
        fs::write(folder.join("Caddyfile"), format!("{{\n    admin off\n}}\n{file}")).unwrap();
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.join("Caddyfile"));
        command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
        command
    })
}

#[test]
fn events_and_websockets_pass_nginx_as_it_is_documented() {
    passes(&nginx(), Duration::ZERO);
}

#[test]
#[ignore = "takes 100 s; needs Debian's packages haproxy and caddy"]
fn an_idle_websocket_stays_open_behind_each_documented_proxy() {
    std::thread::scope(|scope| {
        scope.spawn(|| passes(&nginx(), IDLE));
        scope.spawn(|| passes(&haproxy(), IDLE));
        scope.spawn(|| passes(&caddy(), IDLE));
    });
}
