//! The queue to the thread `log`, which writes the lines: a reader of stderr may stop reading.
//!
//! Invariant: nothing waits for that thread but a flush, at most a second. Knows nothing of what a line looks like.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::thread;

use super::format::LineStyle;

/// Lines that wait for the thread `log`; beyond, lines are lost and counted.
pub(super) const QUEUE_LINES: usize = 1024;

/// The longest that a flush waits for a blocked stderr.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// Lines for the thread that writes them.
pub(super) struct LogQueue {
    lines: Sender<Line>,
    lost: Arc<AtomicU64>,
}

enum Line {
    Text(Vec<u8>),
    /// Its drop tells that everything before it was written.
    Flush(#[allow(dead_code, reason = "its end is the message")] Sender<()>),
}

impl LogQueue {
    /// Starts the thread `log`, which is never joined: it ends with the process. If it cannot be started, every line is
    /// lost.
    pub(super) fn new(out: impl Write + Send + 'static, style: LineStyle) -> Self {
        let (lines, queue) = bounded(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let _ = thread::spawn("log", move || write_lines(&queue, &counted, out, style));
        Self { lines, lost }
    }
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Line::Text(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    /// Waits until everything logged so far is written, at most a second.
    fn flush(&mut self) -> io::Result<()> {
        let (written, wait) = bounded::<()>(0);
        let deadline = Instant::now() + FLUSH_WAIT;
        if self.lines.send_deadline(Line::Flush(written), deadline).is_ok() {
            // Nothing is sent: the channel closes when the thread comes to it.
            let _ = wait.recv_deadline(deadline);
        }
        Ok(())
    }
}

fn write_lines(queue: &Receiver<Line>, lost: &AtomicU64, mut out: impl Write, style: LineStyle) {
    for line in queue {
        let Line::Text(line) = line else { continue };
        // A write that fails cannot be reported: the line is lost, the next one is tried.
        let _ = out.write_all(&line);
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = out.write_all(&style.lost(count));
        }
    }
}
