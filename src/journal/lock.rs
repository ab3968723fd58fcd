//! The lock: only one process at a time uses a journal's folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::layout;

use super::error::{OpenError, at};

/// How long a lock is tried: a process that is about to end, or a child between fork and exec, releases it in a moment.
/// Tests beside others that start programs meet many such children.
const LOCK_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 5_000 } else { 200 });

/// Locks on the lock's file and on the folder itself, which stays locked if the file is removed. Some network file
/// systems cannot lock folders; there the file alone counts.
pub struct Lock {
    file: Option<File>,
    folder: Option<File>,
}

impl Lock {
    /// Takes the lock of that folder; the kernel releases it when the process ends, however it ends.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it.
    pub fn take(folder: &Path) -> Result<Self, OpenError> {
        let path = layout::lock(folder);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = Self::hold(folder, Some(open.map_err(at(&path))?), File::try_lock)?;
        // The process id is for people and for the error below; the lock itself is the kernel's, and a full disk does
        // not undo it.
        let name = |mut file: &File| file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(e) = lock.file.as_ref().map_or(Ok(()), name) {
            log::warn!("{} does not name this process: {e}", path.display());
        }
        Ok(lock)
    }

    /// Keeps every server from starting there while this lives, but no other reader. Writes nothing.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if a server has it.
    pub fn look(folder: &Path) -> Result<Self, OpenError> {
        let path = layout::lock(folder);
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::hold(folder, None, File::try_lock_shared),
            file => Self::hold(folder, Some(file.map_err(at(&path))?), File::try_lock_shared),
        }
    }

    /// Whether what is locked still has that path. `true` when it cannot be told.
    pub fn is_in_place(&self, folder: &Path) -> bool {
        let path = if self.folder.is_some() { folder.to_owned() } else { layout::lock(folder) };
        let Some(Ok(held)) = self.folder.as_ref().or(self.file.as_ref()).map(File::metadata) else { return true };
        match std::fs::metadata(path) {
            Ok(named) => (named.dev(), named.ino()) == (held.dev(), held.ino()),
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        }
    }

    fn hold(folder: &Path, file: Option<File>, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Self, OpenError> {
        let path = layout::lock(folder);
        let itself = File::open(folder).map_err(at(folder))?;
        let patient_until = Instant::now() + LOCK_TIMEOUT;
        let is_taken = |tried: &Result<(), TryLockError>| matches!(tried, Err(TryLockError::WouldBlock));
        let tried = || (file.as_ref().map_or(Ok(()), lock), lock(&itself));
        let (mut of_file, mut of_folder) = tried();
        while (is_taken(&of_file) || is_taken(&of_folder)) && Instant::now() < patient_until {
            std::thread::park_timeout(Duration::from_millis(10));
            (of_file, of_folder) = tried();
        }
        if is_taken(&of_file) || is_taken(&of_folder) {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let holder = if holder.is_empty() { "unknown".into() } else { holder.trim().into() };
            return Err(OpenError::Locked { holder, path });
        }
        if let Err(TryLockError::Error(e)) = of_file {
            return Err(at(&path)(e));
        }
        Ok(Self { file, folder: of_folder.is_ok().then_some(itself) })
    }
}
