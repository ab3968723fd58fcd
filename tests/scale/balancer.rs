//! haproxy before four servers, as docs/scaling.md shows it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use super::support::proxy::{self, Running, snippet};
use super::support::{Client, Reply, Server, WAIT_TIMEOUT, free_port, wait_until};

/// The names of the servers, in their order.
pub const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// The proxy, which ends with this.
pub struct Balancer {
    address: SocketAddr,
    _running: Running,
    _folder: TempDir,
}

impl Balancer {
    /// Starts it before these servers, whose addresses stay the same over their restarts.
    #[track_caller]
    pub fn start(servers: &[Server]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let admin = folder.path().join("admin.sock");
        let bind = format!("bind {address}");
        let mut replaced = vec![
            ("bind :443 ssl crt /etc/ssl/chat.example.org.both.pem".to_owned(), bind),
            ("/run/haproxy/admin.sock".to_owned(), admin.display().to_string()),
        ];
        let shown = |(n, server): (usize, &Server)| (format!("10.0.0.{}:8000", n + 1), server.address().to_string());
        replaced.extend(servers.iter().enumerate().map(shown));
        let replaced: Vec<_> = replaced.iter().map(|(shown, here)| (shown.as_str(), here.as_str())).collect();
        let config = folder.path().join("haproxy.cfg");
        fs::write(&config, snippet("docs/scaling.md", "haproxy", &replaced)).expect("the configuration can be written");
        let log = folder.path().join("log");
        let output = || File::options().create(true).append(true).open(&log).expect("a log can be opened");
        let mut command = Command::new("haproxy");
        command.arg("-f").arg(&config).stdout(output()).stderr(output());
        let child = proxy::with_system_programs(&mut command).spawn().expect("Debian's package haproxy is installed");
        let mut running = Running(child);
        wait_until("the balancer listens", WAIT_TIMEOUT, || {
            let has_ended = running.0.try_wait().expect("a child can be asked").is_some();
            assert!(!has_ended, "{}", fs::read_to_string(&log).unwrap_or_default());
            TcpStream::connect(address).is_ok()
        });
        Self { address, _running: running, _folder: folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client that keeps its connection to it.
    pub fn client(&self) -> Client {
        Client::tcp(self.address)
    }
}

/// The number of the server that answered; `None` if it was the balancer itself.
pub fn server_of(reply: &Reply) -> Option<usize> {
    let name = reply.header("x-chatkeep-server")?;
    NAMES.iter().position(|known| *known == name)
}
