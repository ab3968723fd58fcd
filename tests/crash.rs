//! The server's own process ends under load, again and again on the same data folder, with an oracle that remembers what was
//! acknowledged (`matrix/process.rs`).
//!
//! A failing run prints its seed; `CHATKEEP_TEST_SEED=… cargo test --test crash` draws the same moments and settings again
//! (the machine's own timing still differs).

#![allow(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

#[path = "matrix/process.rs"]
mod process;
mod support;

use support::Trial;

#[test]
fn twenty_kills_under_load_lose_and_double_nothing_with_fsync_always() {
    process::killed(&Trial::new("always"), "always", 20);
}

#[test]
fn five_kills_under_load_lose_and_double_nothing_with_fsync_interval() {
    process::killed(&Trial::new("interval"), "interval", 5);
}

#[test]
fn five_kills_under_load_lose_and_double_nothing_with_fsync_never() {
    process::killed(&Trial::new("never"), "never", 5);
}

#[test]
#[ignore = "minutes long: scripts/check --long"]
fn a_hundred_kills_under_load_lose_and_double_nothing() {
    process::killed(&Trial::new("hundred"), "always", 100);
}

#[test]
fn an_ordered_stop_under_load_keeps_all_that_was_acknowledged() {
    process::stopped(&Trial::new("ordered"));
}

#[test]
fn a_kill_during_recovery_loses_nothing_either() {
    process::killed_in_recovery(&Trial::new("recovery"));
}

#[test]
fn a_second_server_on_the_same_data_exits_1_and_harms_nothing() {
    process::second_instance(&Trial::new("second"));
}
