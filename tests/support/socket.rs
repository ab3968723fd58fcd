//! A WebSocket client: tungstenite over a blocking socket with deadlines, and a look at how it ends.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::WebSocket;
use tungstenite::{Error, Message};

use super::{Connection, Server, WAIT_TIMEOUT};

/// One client.
pub struct Socket {
    inner: WebSocket<TcpStream>,
    /// The first event.
    pub welcome: Value,
    /// What was read and not asked for yet.
    peeked: Option<Value>,
}

impl Socket {
    /// Connects and takes the welcome.
    #[track_caller]
    pub fn open(server: &Server, query: &str) -> Self {
        Self::try_open(server, query).unwrap_or_else(|e| panic!("a WebSocket to {query}: {e}"))
    }

    /// The same, where it may fail.
    pub fn try_open(server: &Server, query: &str) -> Result<Self, Error> {
        Self::try_open_with(server, query, &[])
    }

    /// The same with header fields.
    pub fn try_open_with(server: &Server, query: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let stream = TcpStream::connect(server.address())?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://{}/ws/chat?{query}", server.address()).into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header's value"));
        }
        let (inner, _) = tungstenite::client(request, stream).map_err(|fault| match fault {
            tungstenite::HandshakeError::Failure(error) => error,
            tungstenite::HandshakeError::Interrupted(_) => panic!("the socket blocks"),
        })?;
        let mut socket = Self { inner, welcome: Value::Null, peeked: None };
        socket.welcome = socket.try_next()?;
        assert_eq!(socket.welcome["type"], "system", "the welcome comes first: {}", socket.welcome);
        // The session's status follows; `idle` is what tests expect, so it is dropped.
        socket.peeked = Some(socket.try_next()?).filter(|event| event["status"] != "idle");
        Ok(socket)
    }

    /// Sends an event.
    #[track_caller]
    pub fn send(&mut self, event: &Value) {
        self.try_send(event).expect("the socket takes it");
    }

    /// The same, where it may fail.
    pub fn try_send(&mut self, event: &Value) -> Result<(), Error> {
        self.send_raw(Message::text(event.to_string()))
    }

    /// Sends any message.
    pub fn send_raw(&mut self, message: Message) -> Result<(), Error> {
        self.inner.send(message)
    }

    /// The next event that is no heartbeat.
    #[track_caller]
    pub fn next(&mut self) -> Value {
        self.try_next().unwrap_or_else(|e| panic!("an event was to come: {e}"))
    }

    /// The same, where it may fail.
    pub fn try_next(&mut self) -> Result<Value, Error> {
        let began = Instant::now();
        loop {
            let event = self.try_next_frame()?;
            if event["type"] != "heartbeat" {
                return Ok(event);
            }
            if began.elapsed() > WAIT_TIMEOUT {
                return Err(Error::Io(std::io::ErrorKind::TimedOut.into()));
            }
        }
    }

    /// The next event, heartbeats among them.
    #[track_caller]
    pub fn next_frame(&mut self) -> Value {
        self.try_next_frame().unwrap_or_else(|e| panic!("an event was to come: {e}"))
    }

    fn try_next_frame(&mut self) -> Result<Value, Error> {
        if let Some(event) = self.peeked.take() {
            return Ok(event);
        }
        loop {
            let message = match self.inner.read() {
                // A process that is stopped and goes on is told so by each read that has a timeout.
                Err(Error::Io(e)) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            match message {
                Message::Text(text) => return Ok(serde_json::from_str(&text).expect("an event is JSON")),
                Message::Close(_) => {
                    // Completes the close handshake.
                    let _ = self.inner.flush();
                    return Err(Error::ConnectionClosed);
                }
                _ => {}
            }
        }
    }

    /// The next event of that type; others before it are passed over.
    #[track_caller]
    pub fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next();
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Whether nothing comes within `within`.
    #[track_caller]
    pub fn is_silent(&mut self, within: Duration) -> bool {
        self.inner.get_ref().set_read_timeout(Some(within)).expect("a socket takes a timeout");
        let came = self.try_next();
        self.inner.get_ref().set_read_timeout(Some(WAIT_TIMEOUT)).expect("a socket takes a timeout");
        matches!(came, Err(Error::Io(e)) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut))
    }

    /// Reads to the end and says by which code the server closed.
    #[track_caller]
    pub fn close_code(&mut self) -> u16 {
        loop {
            match self.inner.read() {
                Ok(Message::Close(frame)) => {
                    let _ = self.inner.flush();
                    return frame.map_or(1005, |frame| frame.code.into());
                }
                Ok(_) => {}
                Err(e) => panic!("it ended without a close frame: {e}"),
            }
        }
    }

    /// The stream below.
    pub fn stream(&self) -> &TcpStream {
        self.inner.get_ref()
    }

    /// Closes in order.
    #[track_caller]
    pub fn close(mut self) {
        self.inner.close(None).expect("a close can be sent");
        while self.inner.read().is_ok() {}
    }
}

/// A client's frame with that first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    let mask = [0x11, 0x22, 0x33, 0x44];
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    frame
}

/// The next frame of a server: its first byte and its payload.
#[track_caller]
pub fn read_frame(connection: &mut Connection) -> (u8, Vec<u8>) {
    let head = connection.exactly(2).expect("a frame's header");
    let length = match head[1] {
        126 => u64::from(u16::from_be_bytes(connection.exactly(2).expect("its length").try_into().expect("two"))),
        127 => u64::from_be_bytes(connection.exactly(8).expect("its length").try_into().expect("eight")),
        short => u64::from(short),
    };
    (head[0], connection.exactly(length as usize).expect("its payload"))
}
