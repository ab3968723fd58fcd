//! Faults from outside: a small file system that fills up, and system calls that fail or take long (strace's injection).

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::Limit;

/// A file system in memory of a certain size, mounted on a folder as long as this lives.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts it on `folder`, which is made. Needs root, as a container or a build machine gives.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[track_caller]
    pub fn mount(folder: &Path, mebibytes: u32) -> Self {
        std::fs::create_dir_all(folder).expect("the folder can be made");
        let options = format!("size={mebibytes}m,mode=700");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a tmpfs can be mounted, which only root may");
        Self(folder.to_owned())
    }

    /// Makes it read-only (`ro`), or not (`rw`).
    #[track_caller]
    pub fn remount(&self, how: &str) {
        let remounted = Command::new("mount").arg("-o").arg(format!("remount,{how}")).arg(&self.0).status();
        assert!(remounted.is_ok_and(|status| status.success()), "it can be mounted anew: {how}");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, because a server that is just ending may still use it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// System calls of a process go wrong as long as this lives.
pub struct Injection(Child);

impl Injection {
    /// Injects, for instance `fdatasync,fsync:error=EIO`, into every thread of the process.
    ///
    /// # Panics
    /// When strace is not there; `scripts/check` installs it.
    #[track_caller]
    pub fn start(pid: u32, inject: &str) -> Self {
        let calls = inject.split(':').next().expect("the calls come first");
        let mut strace = Command::new("strace");
        strace.arg("-f").arg("-e").arg(format!("trace={calls}")).arg("-e").arg(format!("inject={inject}"));
        strace.arg("-p").arg(pid.to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = strace.spawn().expect("strace is installed");
        let limit = Limit::on(&child);
        let mut said = BufReader::new(child.stderr.take().expect("its stderr is piped"));
        let mut line = String::new();
        // strace says so once it traces all threads.
        while !line.contains("attached") {
            line.clear();
            let read = said.read_line(&mut line).expect("strace can be read");
            assert!(read > 0, "strace ended before it was attached: may this user trace processes?");
        }
        drop(limit);
        // Its output is not needed, but it must not block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self(child)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}
