//! What several tests share: a journal on a simulated disk, and what tests outside the journal may do to it.
//!
//! Compiled under `#[cfg(test)]` only.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::Fsync;
use crate::disk::sim::SimDisk;
use crate::message::{self, Metadata, SessionId};

impl<D: Disk> Journal<D> {
    /// The moment is over for which appends are refused at once after a refusal.
    pub(crate) fn a_moment_later(&self) {
        self.shared.queue.lock().unwrap().refusing = None;
    }

    /// What `journal-sync` does every interval.
    pub(crate) fn sync_now(&self) {
        self.sync_outside();
    }
}

/// The checkpoint that stands on the disk, for the epoch of the segments that stand there.
pub(crate) fn stored_checkpoint<D: Disk>(disk: &D, folder: &std::path::Path) -> Checkpoint {
    let names = disk.list(folder).unwrap();
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    let epoch = numbers.iter().find_map(|number| {
        let bytes = crate::disk::read(disk, &segment::path(folder, *number)).unwrap();
        frame::SegmentHeader::decode(&bytes).ok().map(|header| header.epoch)
    });
    epoch.map_or_else(Checkpoint::default, |epoch| StoredCheckpoint::of(disk, folder, epoch).checkpoint())
}

/// A journal's folder on a simulated disk, and the clock of its users.
pub(crate) struct Fixture {
    pub disk: SimDisk,
    pub config: JournalConfig,
    pub clock: Clock,
    _folder: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The lock is the kernel's and stands on the real disk.
        std::fs::create_dir(folder.path().join("journal")).unwrap();
        let config = JournalConfig {
            path: folder.path().join("journal"),
            fsync: Fsync::Always,
            fsync_interval: Duration::from_secs(1),
            segment_bytes: 2048,
            max_bytes: 1 << 30,
            retain: Duration::ZERO,
            max_keys: 1000,
            checkpoint_interval: Duration::from_secs(1),
        };
        Self { disk: SimDisk::default(), config, clock: Clock::system(), _folder: folder }
    }

    pub fn open(&self) -> Journal<SimDisk> {
        let clock = self.clock.clone();
        Journal::open_on(self.disk.clone(), &self.config, clock, Box::new(|_| ()), Box::new(|| ())).unwrap()
    }

    pub fn segment(&self, number: u64) -> PathBuf {
        segment::path(&self.config.path, number)
    }
}

/// One request. A text of `text!` is sent with itself as its key.
pub(crate) fn say(journal: &Journal<SimDisk>, texts: &[&str]) -> Result<Vec<Appended>, AppendError> {
    let session = SessionId::new("s").unwrap();
    let drafts = texts.iter().map(|text| {
        let (metadata, vector_ids) = (Metadata::default(), [].as_slice());
        let line = message::Draft { session: &session, role: "user", text, metadata, vector_ids }.prepare();
        let key = text.ends_with('!').then(|| IdempotencyKey::new(&session, text, &[text.as_bytes()]));
        NewRecord::Message { line, key, reply_to: ReplyTo::Nothing }
    });
    let (ticket, kept) = journal.append(drafts.collect())?;
    journal.commit(ticket).map(|()| kept)
}

/// The texts of all records.
pub(crate) fn texts(journal: &Journal<SimDisk>) -> Vec<String> {
    let mut texts = Vec::new();
    let mut reader = journal.reader(0);
    while reader.read(4096, |record| texts.push(record.entry.message().unwrap().text())).unwrap() == ReadProgress::More
    {
    }
    texts
}

/// Fills segments until there are that many.
pub(crate) fn fill(journal: &Journal<SimDisk>, segments: usize) -> Vec<String> {
    let mut sent = Vec::new();
    while journal.stats().segments < segments {
        let text = format!("{} {}", sent.len(), "x".repeat(300));
        say(journal, &[&text]).unwrap();
        sent.push(text);
    }
    sent
}
