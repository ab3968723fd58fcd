//! The process's entry: hands the arguments to `cli` and turns its answer into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    chatkeep::cli::run(std::env::args_os().skip(1))
}
