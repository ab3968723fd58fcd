//! A backup: a copy of the data of a server that runs or is stopped, with which another can start.
//!
//! The copy is a state that a power cut could have left (`journal/copy.rs` says why), so a start does with it what it does after
//! one: transcripts get the lines that they lack from the journal. It has everything that was acknowledged before it began.
//! What is derived and would not fit is left out, and what was set aside (`quarantine/`), too.
//!
//! It is written to a folder beside its own, and gets its name once all of it is synced: a folder of that name is whole.
//! Knows nothing of HTTP.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::config::Config;
use crate::disk::{self, Disk, DiskFile, RealDisk};
use crate::journal::{Journal, Lock};
use crate::layout;
use crate::transcript::{self, Transcripts};

/// What was copied.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BackupReport {
    /// Sessions with a transcript.
    pub transcripts: u64,
    /// Segments of the journal.
    pub segments: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// Why there is no backup. The folder does not exist, or is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder cannot be one.
    #[error("{0}")]
    Folder(String),
    /// Another backup is being made.
    #[error("another backup is being made; ask again when that has ended")]
    Busy,
    /// The disk failed, or is full.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Where the data of a server is.
struct DataFolders {
    journal: PathBuf,
    transcripts: PathBuf,
    dead_letters: PathBuf,
}

impl DataFolders {
    fn of(config: &Config) -> Self {
        let (journal, mongo) = (config.journal.path.clone(), &config.mongo);
        Self { journal, transcripts: mongo.cache.disk_path.clone(), dead_letters: mongo.dead_letter_path.clone() }
    }

    /// The folder that has all of it, if it is laid out as below `--data`: a copy in it would go where the data go.
    fn data(&self) -> Option<PathBuf> {
        let data = self.journal.parent()?;
        let Self { journal, transcripts, .. } = Self::below(data);
        (journal == self.journal && transcripts == self.transcripts).then(|| data.to_owned())
    }

    /// Where a server looks for it that has only `--data`.
    fn below(data: &Path) -> Self {
        let below = |default: &str| data.join(Path::new(default).strip_prefix("data").expect("a path below data/"));
        let (journal, transcripts) = (below(layout::JOURNAL), below(layout::TRANSCRIPTS));
        Self { journal, transcripts, dead_letters: below(layout::DEAD_LETTERS) }
    }
}

/// The configuration for the copy in that folder.
#[must_use]
pub fn moved(mut config: Config, folder: &Path) -> Config {
    let DataFolders { journal, transcripts, dead_letters } = DataFolders::below(folder);
    config.journal.path = journal;
    (config.mongo.cache.disk_path, config.mongo.dead_letter_path) = (transcripts, dead_letters);
    config
}

/// Makes the backups of a running server.
pub struct Backups {
    config: Config,
    journal: Arc<Journal>,
    transcripts: Arc<Transcripts>,
    /// Held while one is made.
    making: Mutex<()>,
}

impl Backups {
    /// For the data of this configuration.
    #[must_use]
    pub fn new(config: &Config, journal: Arc<Journal>, transcripts: Arc<Transcripts>) -> Self {
        Self { config: config.clone(), journal, transcripts, making: Mutex::new(()) }
    }

    /// Copies the data to `folder`, which must not exist or be empty, with everything that is acknowledged by now.
    ///
    /// # Errors
    /// [`BackupError`]
    pub fn make(&self, folder: &Path) -> Result<BackupReport, BackupError> {
        let _alone = self.making.try_lock().map_err(|_| BackupError::Busy)?;
        let pin = self.journal.pin();
        let (checkpoint, segments) = (|to: &Path| pin.checkpoint(to), |to: &Path| pin.segments(to));
        // Its error may be that of a transcript, which no other sync is told of.
        let sync = |copy: &Path| RealDisk.sync_all(copy).inspect_err(|_| self.transcripts.suspect_unsynced());
        write(&DataFolders::of(&self.config), folder, &checkpoint, &segments, &sync)
    }
}

/// Copies the data of a stopped server to `folder`, which must not exist or be empty.
///
/// # Errors
/// [`BackupError`]: a server uses the data, too.
pub fn of_stopped(config: &Config, folder: &Path) -> Result<BackupReport, BackupError> {
    let journal = &config.journal.path;
    let _hold = Lock::look(journal).map_err(|e| BackupError::Folder(e.to_string()))?;
    let checkpoint = |to: &Path| copy(&layout::checkpoint(journal), &layout::checkpoint(to));
    write(&DataFolders::of(config), folder, &checkpoint, &|to| all_segments(journal, to), &|copy| {
        RealDisk.sync_all(copy)
    })
}

type CopyCheckpoint<'a> = &'a dyn Fn(&Path) -> io::Result<()>;
type CopySegments<'a> = &'a dyn Fn(&Path) -> io::Result<(u64, u64)>;

fn write(
    from: &DataFolders,
    folder: &Path,
    checkpoint: CopyCheckpoint<'_>,
    segments: CopySegments<'_>,
    sync: &dyn Fn(&Path) -> io::Result<()>,
) -> Result<BackupReport, BackupError> {
    let unfinished = place(from, folder)?;
    let made = fill(from, &unfinished, checkpoint, segments).and_then(|report| {
        sync(&unfinished)?;
        fs::rename(&unfinished, folder)?;
        RealDisk.sync_dir(folder.parent().unwrap_or(Path::new("/"))).map(|()| report)
    });
    made.map_err(|source| {
        // What is left of it would only take space.
        let _ = fs::remove_dir_all(&unfinished);
        BackupError::Io { path: folder.to_owned(), source }
    })
}

/// Makes the folder that gets the name of `folder` at the end.
fn place(from: &DataFolders, folder: &Path) -> Result<PathBuf, BackupError> {
    let refused = |why: &str| BackupError::Folder(format!("{} {why}", folder.display()));
    if !folder.is_absolute() || folder.file_name().is_none() {
        return Err(refused("must be the whole path of a folder, from / on"));
    }
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(refused("is not empty; name a folder that does not exist")),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(refused(&format!("cannot be used: {e}"))),
        Ok(false) | Err(_) => {}
    }
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let parent = folder.parent().map(real).unwrap_or_default();
    let data = from.data();
    if let Some(of) = data.iter().chain([&from.journal, &from.transcripts]).find(|of| parent.starts_with(real(of))) {
        return Err(refused(&format!("is inside of the data; name a folder outside of {}", real(of).display())));
    }
    let unfinished = layout::unfinished(folder);
    DirBuilder::new().mode(0o700).create(&unfinished).map_err(|e| {
        let path = unfinished.display();
        BackupError::Folder(match e.kind() {
            io::ErrorKind::AlreadyExists => format!("{path} is left of a backup that did not end: remove it first"),
            io::ErrorKind::NotFound => format!("{} does not exist: make it first", parent.display()),
            _ => format!("{path} cannot be made by the server's user: {e}"),
        })
    })?;
    Ok(unfinished)
}

fn fill(
    from: &DataFolders,
    to: &Path,
    checkpoint: CopyCheckpoint<'_>,
    segments: CopySegments<'_>,
) -> io::Result<BackupReport> {
    let DataFolders { journal, transcripts, dead_letters } = DataFolders::below(to);
    RealDisk.create_dir_all(&journal)?;
    RealDisk.create_dir_all(&transcripts)?;
    // An erasure is noted before the checkpoint passes it.
    checkpoint(&journal)?;
    for of in [layout::pending_erasures_file, layout::first_sweep] {
        copy(&of(&from.journal), &of(&journal))?;
    }
    let noted = [&from.journal, &journal].map(|folder| layout::transcript_lengths(folder));
    let (files, bytes) = transcript::copy_all(&RealDisk, (&from.transcripts, &noted[0]), (&transcripts, &noted[1]))?;
    copy_lines(&from.dead_letters, &dead_letters)?;
    copy_lines(&layout::recovered(&from.journal), &layout::recovered(&journal))?;
    for of in [layout::session_index, layout::conversations] {
        copy(&of(&from.journal), &of(&journal))?;
    }
    let (segments, segment_bytes) = segments(&journal)?;
    Ok(BackupReport { transcripts: files, segments, bytes: bytes + segment_bytes })
}

/// Copies the segments of a stopped server as they are.
fn all_segments(journal: &Path, to: &Path) -> io::Result<(u64, u64)> {
    let mut copied = (0, 0);
    for number in RealDisk.list(journal)?.iter().filter_map(|name| layout::number_of_segment(name)) {
        let from = RealDisk.open_read(&layout::segment(journal, number))?;
        let target = RealDisk.create(&layout::segment(to, number))?;
        copied = (copied.0 + 1, copied.1 + disk::copy(&from, 0..from.byte_len()?, &target, 0)?);
    }
    Ok(copied)
}

/// Copies a file that is replaced whole, if there is one.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match disk::read(&RealDisk, from) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        bytes => RealDisk.create(to)?.write_all_at(&bytes?, 0),
    }
}

/// Copies a file to which lines are appended, if there is one.
fn copy_lines(from: &Path, to: &Path) -> io::Result<()> {
    match disk::copy_lines(&RealDisk, from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(drop),
    }
}
