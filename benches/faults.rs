//! The fault matrix as a table: every fault under load, with the real binary where it can be and a disk in memory where it must.
//!
//! `scripts/faults [ROUNDS] [WORD…]`: each row so many times (once without), and of the rows only those with one of the words.
//! Exit code 1 when anything is lost or there twice, or a row failed or could not be run. `--lose` adds a row that loses
//! messages, to see that.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a row says where it failed by panicking there")]
#![allow(missing_docs, dead_code, reason = "the rows are documented where they stand")]

#[path = "../tests/matrix/clock.rs"]
mod clock;
#[path = "../tests/matrix/database.rs"]
mod database;
#[path = "../tests/matrix/disk.rs"]
mod disk;
#[path = "../tests/matrix/limits.rs"]
mod limits;
#[path = "../tests/matrix/process.rs"]
mod process;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/matrix/table.rs"]
mod table;

use std::process::ExitCode;
use std::time::Duration;

use table::Run::{Real, Simulated, Test};
use table::{Need, Row, Run};

const STRACE: Need = ("strace", "strace -o /dev/null true");
const TMPFS: Need = ("root", "d=$(mktemp -d) && mount -t tmpfs tmpfs $d && umount $d");
const PRLIMIT: Need = ("prlimit", "prlimit --version");
const CC: Need = ("a C compiler", "cc --version");
const MONGOD: Need = ("a mongod", "scripts/mongod.sh find");

const fn row(fault: &'static str, needs: &'static [Need], run: Run) -> Row {
    Row { fault, needs, run }
}

const HOUR: i64 = 3600;

const ROWS: &[Row] = &[
    row("`kill -9`, ten times", &[], Real(|trial| process::killed(trial, "always", 10))),
    row("`kill -9`, ten times, `fsync: never`", &[], Real(|trial| process::killed(trial, "never", 10))),
    row("`kill -9`, then ten times while it starts", &[], Real(process::killed_in_recovery)),
    row(
        "kill at every call of the write path",
        &[],
        Simulated("worker::model_tests::after_a_kill_at_any_call_nothing_is_lost_or_there_twice"),
    ),
    row("SIGTERM", &[], Real(process::stopped)),
    row("a second server on the same data", &[], Real(process::second_instance)),
    row(
        "power cut at every call of the journal",
        &[],
        Simulated("journal::crash_tests::a_power_cut_at_every_call_loses_nothing_that_was_synced"),
    ),
    row(
        "power cut at every call of an erasure",
        &[],
        Simulated("janitor::erasure_tests::a_power_cut_at_any_call_brings_nothing_erased_back_and_loses_nothing"),
    ),
    row(
        "every byte of a small data folder flipped",
        &[],
        Simulated("doctor::tests::whatever_byte_is_flipped_a_repair_reaches_what_a_start_reaches"),
    ),
    row("a byte of the last segment flipped, ten times", &[], Real(disk::flipped_byte)),
    row("the last segment cut anywhere, ten times", &[], Real(disk::cut_segment)),
    row(
        "a fault at every call of the write path",
        &[],
        Simulated("worker::model_tests::a_fault_at_every_call_costs_nothing_that_was_acknowledged"),
    ),
    row("the disk is full", &[TMPFS], Real(disk::full)),
    row("a session erased on a full disk", &[TMPFS], Real(disk::erasure_on_full)),
    row("writes fail: ENOSPC", &[STRACE], Real(|trial| disk::failed_write(trial, "always", &[("ENOSPC", 507)]))),
    row("writes fail: EIO", &[STRACE], Real(|trial| disk::failed_write(trial, "always", &[("EIO", 503)]))),
    row("syncs fail: ENOSPC", &[STRACE], Real(|trial| disk::failed_sync(trial, "always", "ENOSPC", 507))),
    row("syncs fail: EIO", &[STRACE], Real(|trial| disk::failed_sync(trial, "always", "EIO", 503))),
    row("syncs take 1.5 s", &[STRACE], Real(disk::slow)),
    row("short writes: a limit of file size", &[PRLIMIT], Real(disk::size_limit)),
    row("a read-only file system at the start", &[TMPFS], Real(disk::read_only)),
    row("the next segment cannot be made", &[STRACE], Real(disk::no_new_name)),
    row("one transcript cannot be written", &[], Real(disk::unwritable_transcript)),
    row(
        "a symbolic link in a transcript's place",
        &[],
        Test("faults", "a_symbolic_link_in_a_transcripts_place_is_not_followed"),
    ),
    row("the data folder renamed", &[], Real(disk::moved_away)),
    row("all transcripts removed while stopped", &[], Real(disk::removed_transcripts)),
    row(
        "data folders of earlier versions",
        &[],
        Test("upgrade", "a_folder_of_every_version_is_answered_as_it_was_now_and_in_years"),
    ),
    row("the clock back by one hour", &[CC], Real(|trial| clock::jumps(trial, &[-HOUR], "ids_ahead"))),
    row(
        "the clock ten years ahead and right again",
        &[CC],
        Real(|trial| clock::jumps(trial, &[87_600 * HOUR, 0], "ids_ahead")),
    ),
    row("the clock at 1970", &[CC], Real(|trial| clock::jumps(trial, &[clock::in_1970()], "clock_before_2020"))),
    row("MongoDB absent at the start", &[MONGOD], Real(database::absent)),
    row("mongod killed in a batch, four times", &[MONGOD], Real(database::killed)),
    row("chatkeep killed in a batch, six times", &[MONGOD], Real(|trial| database::server_killed(trial, 6))),
    row("mongod stands still for 12 s", &[MONGOD], Real(|trial| database::frozen(trial, Duration::from_secs(12)))),
    row("primary killed, stepped down, no majority", &[MONGOD], Real(database::failover)),
    row("a validator refuses some for ever", &[MONGOD], Real(database::poison)),
    row("another document has a message's `_id`", &[MONGOD], Real(database::collision)),
    row("wrong password", &[MONGOD], Real(database::wrong_password)),
    row("write concern and six other errors", &[MONGOD], Real(database::errors)),
    row("the database is dropped", &[MONGOD], Real(database::dropped)),
    row("a link too slow for a batch", &[MONGOD], Real(database::slow_link)),
    row("SIGTERM with 100 000 pending", &[MONGOD], Real(|trial| database::stopped_with_backlog(trial, 100_000))),
    row("a session erased in an outage", &[MONGOD], Real(database::erased_in_outage)),
    row("64 descriptors and 200 connections", &[], Real(limits::few_descriptors)),
    row("no thread can be started", &[STRACE], Real(limits::no_threads)),
    row("100 clients that do not read 8 MiB each", &[], Real(limits::slow_readers)),
    row("1 500 connections that send half a head", &[], Real(limits::half_sent)),
    row("2 000 idle connections", &[], Real(limits::idle)),
    row(
        "replies on the Unix socket that nobody reads",
        &[],
        Test("local", "replies_that_nobody_reads_keep_neither_status_nor_writers_waiting"),
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1);
    let words: Vec<&String> =
        arguments.iter().filter(|word| word.parse::<usize>().is_err() && !word.starts_with('-')).collect();
    let lost = [row("for a test: the data folder removed", &[], Real(disk::removed_data))];
    let is_lost_run = arguments.iter().any(|argument| argument == "--lose");
    let rows = ROWS.iter().filter(|row| words.is_empty() || words.iter().any(|word| row.fault.contains(*word)));
    // The crowds are connections of this process.
    chatkeep::descriptors::raise().unwrap();
    println!("{}", table::HEAD);
    let mut lines = Vec::new();
    for row in rows.chain(lost.iter().filter(|_| is_lost_run)) {
        lines.push(row.run(rounds));
        println!("{}", lines[lines.len() - 1]);
    }
    let (told, code) = table::end(&lines);
    println!("\n{told}");
    ExitCode::from(code)
}
