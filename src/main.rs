//! The entry of the process: hands the arguments to `cli` and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    chatkeep::cli::run(std::env::args_os().skip(1))
}
