//! The rows of the fault matrix in which the clock jumps under load.

use crate::support::clock::ClockShift;
use crate::support::{Options, Server, Trial, WAIT_TIMEOUT, wait_until};

/// The clock is set to each of these, in seconds from the right time; the status warns of the last by this name. Then it is set
/// right, and the server is killed.
pub fn jumps(trial: &Trial, seconds: &[i64], warning: &str) {
    let clock = ClockShift::new();
    let mut server = Server::start(Trial::lasting(clock.of(Options::default())));
    let load = trial.load(&server);
    load.wait_for(200);
    for seconds in seconds {
        trial.recovers(&load, || clock.set(*seconds));
        load.wait_for_more(200);
    }
    let warnings = || server.client().get("/api/storage/status").expect(200)["journal"]["warnings"].to_string();
    wait_until("the status warns", WAIT_TIMEOUT, || warnings().contains(warning));
    server.kill9();
    trial.recovers(&load, || server.start_again());
    clock.set(0);
    load.wait_for_more(200);
    load.end();
    trial.all_is_there(&mut server, 1);
}

/// A minute after the beginning of 1970, in seconds from the right time.
pub fn in_1970() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    60 - now.as_secs() as i64
}
