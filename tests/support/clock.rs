//! A clock of the server's own, that a test sets: a small library in front of the system's `clock_gettime`, made by the C
//! compiler that links every Rust program.
//!
//! Only the time of day is moved; deadlines and waits go on as they are.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::Options;

/// Adds the seconds that the file of this name says.
const SOURCE: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    const char *path = getenv("CLOCK_SHIFT");
    if (failed || id != CLOCK_REALTIME || !path) return failed;
    int before = errno, file = open(path, O_RDONLY | O_CLOEXEC);
    char text[32] = {0};
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atoll(text);
        close(file);
    }
    errno = before;
    return 0;
}
"#;

/// How far a server's clock is from the system's.
pub struct ClockShift(TempDir);

impl ClockShift {
    /// A clock that goes right.
    ///
    /// # Panics
    /// When the C compiler cannot be run.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("chatkeep-clock-").tempdir().expect("a temporary folder");
        let shift = Self(folder);
        shift.set(0);
        fs::write(shift.path("clock.c"), SOURCE).expect("the source can be written");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(shift.path("clock.so")).arg(shift.path("clock.c"));
        assert!(compiler.status().expect("cc can be run").success());
        shift
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Sets the clock so many seconds ahead, or behind, also that of a running server.
    pub fn set(&self, seconds: i64) {
        // In one step: nobody sees a half.
        fs::write(self.path("next"), seconds.to_string()).expect("the file can be written");
        fs::rename(self.path("next"), self.path("seconds")).expect("the file can be renamed");
    }

    /// Options by which a server has this clock.
    pub fn of(&self, options: Options) -> Options {
        let (library, seconds) = (self.path("clock.so"), self.path("seconds"));
        let text = |path: &PathBuf| path.to_str().expect("a temporary folder has a plain name").to_owned();
        options.environment("LD_PRELOAD", &text(&library)).environment("CLOCK_SHIFT", &text(&seconds))
    }
}
