//! A service manager's view: what it is told on its socket, when the watchdog is fed, and the unit that is shipped.

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

mod support;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use support::faults::Injection;
use support::{Options, Server, WAIT_TIMEOUT, server, wait_until};

/// A service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        Self(UnixDatagram::bind(path).unwrap())
    }

    /// The next message within the time.
    fn next_within(&self, within: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(within)).unwrap();
        let mut bytes = [0; 4096];
        let read = self.0.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..read].to_vec()).unwrap())
    }

    /// The next message with `text`; those before it are passed over.
    #[track_caller]
    fn next_with(&self, text: &str) -> String {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            assert!(Instant::now() < deadline, "never told: {text}");
            if let Some(told) = self.next_within(Duration::from_secs(1)).filter(|told| told.contains(text)) {
                return told;
            }
        }
    }

    /// How often the watchdog is fed within the time.
    fn fed_within(&self, within: Duration) -> usize {
        // What was told before does not count.
        while self.next_within(Duration::from_millis(1)).is_some() {}
        let until = Instant::now() + within;
        let mut fed = 0;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            fed += usize::from(self.next_within(left).is_some_and(|told| told.contains("WATCHDOG=1")));
        }
        fed
    }
}

/// A server whose manager watches it with that limit, or does not.
fn managed(folder: &Path, options: Options, watchdog: Option<Duration>) -> (Manager, Server) {
    let path = folder.join("notify");
    let manager = Manager::at(&path);
    let mut options = options.environment("NOTIFY_SOCKET", path.to_str().unwrap());
    if let Some(watchdog) = watchdog {
        options = options.environment("WATCHDOG_USEC", &watchdog.as_micros().to_string());
    }
    (manager, Server::start(options))
}

#[test]
fn a_manager_is_told_of_readiness_status_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let program = json!(["sh", "-c", "cat >/dev/null; echo \"[$NOTIFY_SOCKET]\""]);
    let options = Options::default().set("responder.kind", "command").set("responder.command", program);
    let (manager, mut server) = managed(folder.path(), options, None);
    let ready = manager.next_with("READY=1");
    assert_eq!(ready, "READY=1\nSTATUS=0 records, 0 pending; MongoDB is off\n");
    // It was told first, since the server is asked only once it listens.
    let reply = server.client().chat("s", "hi");
    assert_eq!(reply["response"], "[]", "a program has nothing to say to the manager");
    let status = manager.next_with("STATUS=2 records, ");
    assert!(!status.contains("WATCHDOG"), "nobody watches: {status}");
    for config in [None, Some("nonsense: 1\n")] {
        config.iter().for_each(|text| std::fs::write(server.config_path(), text).unwrap());
        server.signal(Signal::HUP);
        let reloading = manager.next_with("RELOADING=1");
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        assert_eq!(manager.next_with("READY=1"), "READY=1\n", "also when nothing can be changed");
    }
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    assert_eq!(manager.next_with("STOPPING=1"), "STOPPING=1\nSTATUS=SIGTERM\n");
}

#[test]
fn an_abstract_socket_is_told_too() {
    let name = format!("chatkeep-test-{}", std::process::id());
    let manager = Manager(UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap());
    let _server = Server::start(Options::default().environment("NOTIFY_SOCKET", &format!("@{name}")));
    manager.next_with("READY=1");
}

#[test]
fn a_manager_that_is_gone_or_does_not_read_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let mut server = Server::start(Options::default().environment("NOTIFY_SOCKET", path.to_str().unwrap()));
    server.client().chat("s", "hi");
    let warned = || server.log().contains("[WARN ] (main) the service manager cannot be told at NOTIFY_SOCKET");
    wait_until("it warns", WAIT_TIMEOUT, warned);
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    // Its queue is full.
    let manager = Manager::at(&path);
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"x", &path).is_ok() {}
    server.start_again();
    server.client().chat("s", "hi");
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
    drop(manager);
}

#[test]
fn the_watchdog_is_fed_on_a_full_disk_and_not_while_a_sync_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, server) = managed(folder.path(), Options::default(), Some(Duration::from_secs(4)));
    let feeds = |manager: &Manager| manager.fed_within(Duration::from_secs(6)) >= 3;
    assert!(feeds(&manager), "all loops wait");
    {
        let _full = Injection::start(server.pid(), "pwrite64,fallocate,ftruncate:error=ENOSPC");
        server.client().post("/api/chat", &json!({"message": "hi"})).problem(507);
        assert!(feeds(&manager), "a full disk stops no loop");
        // It is tried again once a second.
        let tries = server.log().matches("next segment cannot be made").count();
        assert!((1..100).contains(&tries), "{tries} tries in 6 s");
    }
    {
        let _stuck = Injection::start(server.pid(), "fdatasync,fsync:delay_enter=14000000");
        let mut client = server.client();
        std::thread::scope(|scope| {
            scope.spawn(move || client.try_post("/api/chat", &json!({"message": "hi"})));
            let stood = || server.log().contains("the loop journal has stood still for ");
            wait_until("it is noticed", WAIT_TIMEOUT, stood);
            assert_eq!(manager.fed_within(Duration::from_secs(4)), 0);
        });
    }
    manager.next_with("WATCHDOG=1");
}

#[test]
fn the_watchdog_is_not_fed_while_the_listener_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, server) = managed(folder.path(), Options::default(), Some(Duration::from_secs(4)));
    manager.next_with("WATCHDOG=1");
    // To start a thread for a connection takes the accept thread as long.
    let _stuck = Injection::start(server.pid(), "clone,clone3:delay_enter=14000000");
    let _waiting = server.connect();
    let stood = || server.log().contains("the loop http-accept has stood still for ");
    wait_until("it is noticed", WAIT_TIMEOUT, stood);
    assert_eq!(manager.fed_within(Duration::from_secs(4)), 0);
}

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/chatkeep.service");

/// The values of a setting of the unit.
fn unit(setting: &str) -> Vec<String> {
    let unit = std::fs::read_to_string(UNIT).unwrap();
    unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).map(str::to_owned).collect()
}

#[test]
fn the_unit_says_why_of_each_line_and_gives_a_stop_its_time() {
    let text = std::fs::read_to_string(UNIT).unwrap();
    let (mut settings, mut told) = (0, 0);
    let mut explained = false;
    for line in text.lines() {
        match line {
            line if line.starts_with('#') => explained = true,
            "" => explained = false,
            line if line.starts_with('[') => {}
            _ => {
                settings += 1;
                told += usize::from(explained);
            }
        }
    }
    assert!(settings > 30 && told * 10 >= settings * 9, "{told} of {settings} are explained");
    assert_eq!(unit("Type"), ["notify"]);
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.yaml")).unwrap();
    let drain: u64 =
        shipped.lines().find_map(|line| line.trim().strip_prefix("drain_seconds: ")).unwrap().parse().unwrap();
    assert!(unit("TimeoutStopSec")[0].parse::<u64>().unwrap() > drain + 10);
}

/// systemd's own view of the unit, where Debian's package `systemd` is installed (`scripts/check` sees to it).
#[test]
fn systemd_finds_no_fault_in_the_unit_and_little_exposure() {
    let folder = tempfile::tempdir().unwrap();
    // The unit names a program that this machine has.
    let text =
        std::fs::read_to_string(UNIT).unwrap().replace("ExecStart=chatkeep", &format!("ExecStart={}", server::BINARY));
    let unit = folder.path().join("chatkeep.service");
    std::fs::write(&unit, text).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = server::run(Command::new("systemd-analyze").args(arguments).arg(&unit));
        (output.status.success(), server::said(&output))
    };
    let (is_well, said) = analyze(&["verify", "--man=no"]);
    assert!(is_well && !said.contains("chatkeep.service"), "{said}");
    let (_, said) = analyze(&["security", "--offline=true", "--no-pager"]);
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{said}"));
    let exposure = overall.split_whitespace().find_map(|word| word.parse::<f64>().ok()).unwrap();
    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    assert!(documented.contains(&format!("exposure of {exposure:.1}")), "{overall}");
}
