//! Starts every thread of the process, so that each has a name in `top -H`, in a debugger and in a panic message.
//!
//! The code that starts a thread keeps its handle and joins it, except for `log` and `signals-blocked`, which end with the
//! process, and `responder-dns`, which ends with the system's lookup. A thread that hangs is abandoned at a deadline. Knows
//! nothing of what the threads do.

use std::io;
use std::panic::resume_unwind;
use std::thread::{Builder, JoinHandle, scope};

/// The stack of our threads, in bytes. Deep enough for the JSON parser's limit of 128 levels, small enough for
/// thousands of connections (it is address space; only touched pages take memory).
const STACK_BYTES: usize = 512 * 1024;

/// Starts a named thread.
///
/// # Errors
/// The system gives no more threads. `run` was not called; the caller decides whether to retry.
pub fn spawn<T, F>(name: impl Into<String>, run: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run)
}

/// Runs on a thread with a stack of that many bytes, and waits for it.
///
/// # Errors
/// The system gives no such thread; `run` was not called.
pub fn run_deep<T: Send>(stack_bytes: usize, run: impl FnOnce() -> T + Send) -> io::Result<T> {
    scope(|threads| {
        let thread = Builder::new().name("deep".into()).stack_size(stack_bytes).spawn_scoped(threads, run)?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
