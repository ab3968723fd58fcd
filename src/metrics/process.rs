//! Figures of the process, as every Prometheus client gives them. They come from the kernel, by calls and `/proc`, which
//! is no disk; where there is no `/proc`, some are missing.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::{MetricsText, family};

/// What the kernel says of this process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct ProcessFigures {
    cpu_seconds: f64,
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl ProcessFigures {
    /// Asks the kernel.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a time to 15 digits is enough")]
    pub fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let pages = || fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse::<u64>().ok();
        // The listing itself opens one.
        let fds = fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1));
        Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: pages().map(|pages| pages * rustix::param::page_size() as u64),
            open_fds: fds,
            max_fds: getrlimit(Resource::Nofile).current,
        }
    }

    /// Adds them to the text.
    pub fn write(&self, text: &mut MetricsText) {
        text.value(&family::PROCESS_CPU_SECONDS, self.cpu_seconds);
        for (family, figure) in [
            (&family::PROCESS_RESIDENT_MEMORY, self.resident_bytes),
            (&family::PROCESS_OPEN_FDS, self.open_fds),
            (&family::PROCESS_MAX_FDS, self.max_fds),
        ] {
            figure.into_iter().for_each(|figure| text.number(family, figure));
        }
    }
}
