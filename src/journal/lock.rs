//! The lock: one process at a time has a journal's folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::layout;

use super::error::{OpenError, at};

/// How long a lock is tried: a process that is just ending, or a child it has just started and that has not become another
/// program yet, gives it back in a moment.
const PATIENCE: Duration = Duration::from_millis(200);

/// The lock's file, and the folder itself, which stays locked when the file is removed. Some network file systems cannot
/// lock folders; the file alone counts there.
pub struct Lock {
    _file: File,
    _folder: Option<File>,
}

impl Lock {
    /// Takes the lock of that folder; the kernel gives it back when the process ends, however it ends.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another process has it.
    pub fn take(folder: &Path) -> Result<Self, OpenError> {
        let path = layout::lock(folder);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(at(&path))?;
        let itself = File::open(folder).map_err(at(folder))?;
        let patient_until = Instant::now() + PATIENCE;
        let is_taken = |tried: &Result<(), TryLockError>| matches!(tried, Err(TryLockError::WouldBlock));
        let (mut of_file, mut of_folder) = (file.try_lock(), itself.try_lock());
        while (is_taken(&of_file) || is_taken(&of_folder)) && Instant::now() < patient_until {
            std::thread::park_timeout(PATIENCE / 20);
            (of_file, of_folder) = (file.try_lock(), itself.try_lock());
        }
        if is_taken(&of_file) || is_taken(&of_folder) {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let holder = if holder.is_empty() { "unknown".into() } else { holder.trim().into() };
            return Err(OpenError::Locked { holder, path });
        }
        if let Err(TryLockError::Error(e)) = of_file {
            return Err(at(&path)(e));
        }
        let _folder = of_folder.is_ok().then_some(itself);
        // For people and for the message above; the lock itself is the kernel's, and a full disk does not undo it.
        if let Err(e) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
            log::warn!("{} does not name this process: {e}", path.display());
        }
        Ok(Self { _file: file, _folder })
    }
}
