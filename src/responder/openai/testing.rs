//! A server that behaves as told, however badly: each connection gets the next behaviour.
//!
//! Compiled under `#[cfg(test)]` only.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::config::{Config, OpenAiConfig, Secret};
use crate::thread;

/// The behaviour of a connection after its request was read.
pub(super) type Manner = Box<dyn FnOnce(&mut TcpStream) + Send>;

/// The key that no text may contain.
pub(super) const KEY: &str = "sk-hunter2hunter2";

/// The server; its thread ends with the test program at the latest.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Upstream {
    pub(super) fn new(manners: Vec<Manner>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        thread::spawn("upstream", move || {
            for manner in manners {
                let (mut stream, _) = listener.accept().unwrap();
                seen.lock().unwrap().push(read_request(&stream));
                manner(&mut stream);
            }
        })
        .unwrap();
        Self { address, requests }
    }

    /// The head and the body of every request so far.
    pub(super) fn requests(&self) -> Vec<(String, String)> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn config(&self) -> OpenAiConfig {
        config(&format!("http://{}/v1", self.address))
    }
}

pub(super) fn config(base_url: &str) -> OpenAiConfig {
    let defaults = Config::defaults(None).unwrap().responder.openai;
    OpenAiConfig { base_url: base_url.into(), model: "m".into(), api_key: Some(Secret::new(KEY)), ..defaults }
}

/// The address of a port that is bound and not listening: it refuses connections, and nobody else gets it meanwhile.
pub(super) fn closed() -> (TcpStream, String) {
    // The port of a connection would not do: a client may get the same one, and then connects to itself.
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let bound = TcpStream::from(socket);
    let address = bound.local_addr().unwrap();
    (bound, format!("http://{address}/v1"))
}

fn read_request(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        if let Some((_, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    (head, String::from_utf8_lossy(&body).into_owned())
}

/// What openssl makes a certificate by: of this machine, and nobody's authority.
const CERTIFICATE: &str = "\
[req]
distinguished_name = name
x509_extensions = v3
prompt = no
[name]
CN = localhost
[v3]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
";

/// A key and a certificate of its own, made by openssl for one test.
pub(super) struct Identity(tempfile::TempDir);

impl Identity {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config"), CERTIFICATE).unwrap();
        let args =
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -config config -keyout key -out cert";
        let made = Command::new("openssl").args(args.split(' ')).current_dir(&folder).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(folder)
    }

    /// The certificate, as PEM.
    pub(super) fn certificate(&self) -> Vec<u8> {
        std::fs::read(self.0.path().join("cert")).unwrap()
    }
}

/// A server behind TLS, by python3: it says that to everyone, and then nothing until the other side closes.
pub(super) struct Encrypted {
    child: Child,
    pub(super) port: u16,
}

impl Encrypted {
    pub(super) fn new(identity: &Identity, says: &str) -> Self {
        let script = r"
import os, socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('cert', 'key')
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True:
    plain = listener.accept()[0]
    try:
        stream = context.wrap_socket(plain, server_side=True)
        stream.recv(65536)
        stream.sendall(sys.argv[1].encode())
        stream.recv(65536)
    except OSError:
        pass
";
        let mut command = Command::new("python3");
        command.args(["-c", script, says]).current_dir(&identity.0).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends these bytes and closes.
pub(super) fn send(bytes: impl Into<Vec<u8>>) -> Manner {
    let bytes = bytes.into();
    Box::new(move |stream| {
        // The client may have closed already.
        let _ = stream.write_all(&bytes);
    })
}

/// Sends these bytes and then nothing, until the other side closes.
pub(super) fn hang(bytes: impl Into<Vec<u8>>) -> Manner {
    let bytes = bytes.into();
    Box::new(move |stream| {
        let _ = stream.write_all(&bytes);
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// Sends the same again and again, until the other side closes.
pub(super) fn flood(head: &str, again: impl Into<Vec<u8>>) -> Manner {
    let (head, again) = (head.as_bytes().to_vec(), again.into());
    Box::new(move |stream| {
        let mut sent = stream.write_all(&head);
        while sent.is_ok() {
            sent = stream.write_all(&again);
        }
    })
}

/// The head of a stream that ends with its connection.
pub(super) const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// One event with that text.
pub(super) fn event(text: &str) -> String {
    format!("data: {}\n\n", serde_json::json!({"model": "m-1", "choices": [{"delta": {"content": text}}]}))
}

/// A whole stream with that text.
pub(super) fn stream(text: &str) -> String {
    let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    format!("{STREAM}{}{finish}data: [DONE]\n\n", event(text))
}

/// An answer of that status; `head` are more lines of the head.
pub(super) fn status(status: &str, head: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
