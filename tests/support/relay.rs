//! A slow link: a relay before a server of any protocol that passes so many bytes a second in each direction, over all its
//! connections together, and may cut a connection that sends for too long without a pause.
//!
//! Its buffers are small, so that what waits waits at the sender, as before a modem.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

/// What is passed on at once, in bytes: connections share the link in such pieces.
const PIECE: usize = 1024;
/// After such a pause a connection begins to send anew.
const PAUSE: Duration = Duration::from_millis(300);

/// See the module. Ends with the process.
pub struct Relay {
    port: u16,
}

/// One direction of the link.
struct Direction {
    bytes_per_second: u32,
    /// When it has passed all that it was given.
    free: Mutex<Instant>,
    /// How long a connection may send on end.
    cut_after: Option<Duration>,
}

impl Relay {
    /// A link to that port of this machine.
    pub fn before(port: u16, bytes_per_second: u32, cut_after: Option<Duration>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        // Accepted sockets inherit this size.
        set_socket_recv_buffer_size(&listener, 4096).expect("a small buffer");
        let relay = Self { port: listener.local_addr().expect("it is bound").port() };
        let direction =
            |cut_after| Arc::new(Direction { bytes_per_second, free: Mutex::new(Instant::now()), cut_after });
        let (up, down) = (direction(cut_after), direction(None));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                set_socket_recv_buffer_size(&server, 4096).expect("a small buffer");
                let ends = |from: &TcpStream, to: &TcpStream| Some((from.try_clone().ok()?, to.try_clone().ok()?));
                for (ends, direction) in [(ends(&client, &server), &up), (ends(&server, &client), &down)] {
                    let (Some((from, to)), direction) = (ends, direction.clone()) else { continue };
                    thread::spawn(move || direction.pass(from, to));
                }
            }
        });
        relay
    }

    /// The connection string of a mongod behind it.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/", self.port)
    }
}

impl Direction {
    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let (mut piece, mut began, mut last) = ([0; PIECE], Instant::now(), Instant::now());
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if last.elapsed() > PAUSE {
                began = Instant::now();
            }
            if self.cut_after.is_some_and(|most| began.elapsed() > most) {
                break;
            }
            let turn = {
                let mut free = self.free.lock().expect("nobody panics with it");
                *free = (*free).max(Instant::now()) + Duration::from_secs(1) * count as u32 / self.bytes_per_second;
                *free
            };
            thread::sleep(turn.saturating_duration_since(Instant::now()));
            if to.write_all(&piece[..count]).is_err() {
                break;
            }
            last = Instant::now();
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
