//! Copies an open journal for a backup, while it is written to.
//!
//! The order of a backup makes it a state that a power cut could have left: first the checkpoint, then the transcripts, then
//! the segments up to what is published by then. So the copy has every record that its transcripts may lack, and every
//! record of which they may have a line. Until then [`Journal::pin`] keeps the segments after that checkpoint.
//!
//! A segment is copied from the file that is open, whatever happens to its name. The newest comes first: should an old
//! one be dropped before its turn, so were all before it, and none is missing between two. Knows nothing of transcripts.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{self, Disk, DiskFile};
use crate::layout;

use super::Journal;
use super::checkpoint::Checkpoint;
use super::frame::SEGMENT_HEADER_BYTES;
use super::scan::{Scanned, Scanner};
use super::segment::{self, SegmentInfo};

/// Keeps the segments that a backup needs until it is dropped. There is one at a time.
pub struct Pin<'a, D: Disk>(&'a Journal<D>);

impl<D: Disk> Drop for Pin<'_, D> {
    fn drop(&mut self) {
        self.0.pinned.store(u64::MAX, Ordering::SeqCst);
    }
}

impl<D: Disk> Journal<D> {
    /// From now on no segment is dropped, and after `Pin::checkpoint` none with records after that. Meanwhile the journal may
    /// grow, as if they were not drained.
    pub fn pin(&self) -> Pin<'_, D> {
        self.pinned.store(0, Ordering::SeqCst);
        Pin(self)
    }
}

impl<D: Disk> Pin<'_, D> {
    /// Copies the checkpoint to the folder `to`, if there is one.
    ///
    /// # Errors
    /// It could not be read or written.
    pub fn checkpoint(&self, to: &Path) -> io::Result<()> {
        let (disk, folder) = (&self.0.shared.disk, &self.0.shared.config.path);
        let bytes = match disk::read(disk, &layout::checkpoint(folder)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            bytes => bytes?,
        };
        if let Some((_, checkpoint)) = Checkpoint::decode(&bytes) {
            self.0.pinned.store(checkpoint.drained.min(checkpoint.transcribed), Ordering::SeqCst);
        }
        disk.create(&layout::checkpoint(to))?.write_all_at(&bytes, 0)
    }

    /// Copies everything that is published now to the folder `to`, whole requests only. Returns the number of segments and
    /// their bytes. Nothing is synced.
    ///
    /// # Errors
    /// A segment could not be read or written.
    pub fn segments(&self, to: &Path) -> io::Result<(u64, u64)> {
        let shared = &self.0.shared;
        // In this order: what is published stands in a segment that is listed.
        let published = self.0.published();
        let listed = shared.segments.lock().expect("no holder panics").clone();
        let mut copied = (0, 0);
        for info in listed.iter().rev() {
            let path = segment::path(&shared.config.path, info.header.number);
            let file = match shared.disk.open_read(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                file => Arc::new(file?),
            };
            let end = match segment::bound(&listed, info.header.number) > published + 1 {
                true => end_of_published(file.clone(), info, published)?,
                false => file.byte_len()?,
            };
            let target = shared.disk.create(&layout::segment(to, info.header.number))?;
            copied = (copied.0 + 1, copied.1 + disk::copy(&*file, 0..end, &target, 0)?);
        }
        Ok(copied)
    }
}

/// Where the last published record of a segment ends.
fn end_of_published<F: DiskFile>(file: Arc<F>, info: &SegmentInfo, published: u64) -> io::Result<u64> {
    let (mut scanner, mut end) = (Scanner::new(file, info.header.salt)?, SEGMENT_HEADER_BYTES as u64);
    loop {
        match scanner.next()? {
            Scanned::Frame(frame) if frame.sequence <= published => end = scanner.offset(),
            Scanned::Gap(_) => {}
            Scanned::Frame(_) | Scanned::End { .. } => return Ok(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, fill, say, texts};
    use super::*;
    use crate::message::Clock;

    #[test]
    fn a_copy_has_what_is_published_and_whole_requests_only() {
        let fixture = Fixture::new();
        let journal = fixture.open();
        let mut sent = fill(&journal, 4);
        let pin = journal.pin();
        let mut copy = Fixture::new();
        copy.disk = fixture.disk.clone();
        fixture.disk.create_dir_all(&copy.config.path).unwrap();
        pin.checkpoint(&copy.config.path).unwrap();
        sent.extend(["one", "of two", "requests"].map(str::to_owned));
        say(&journal, &["one", "of two", "requests"]).unwrap();
        // What a later request has written, and is not published.
        let published = journal.published();
        say(&journal, &["later"]).unwrap();
        let listed = journal.shared.segments.lock().unwrap().clone();
        let last = listed.last().unwrap();
        let file = Arc::new(fixture.disk.open_read(&fixture.segment(last.header.number)).unwrap());
        let end = end_of_published(file.clone(), last, published).unwrap();
        assert!(end < end_of_published(file, last, published + 1).unwrap());
        let (segments, _) = pin.segments(&copy.config.path).unwrap();
        sent.push("later".to_owned());
        assert_eq!((segments as usize, texts(&copy.open())), (listed.len(), sent));
    }

    #[test]
    fn what_a_backup_needs_is_kept_and_what_is_older_may_go() {
        let mut fixture = Fixture::new();
        fixture.config.retain = std::time::Duration::ZERO;
        let journal = fixture.open();
        let sent = fill(&journal, 5);
        let first_of_third = journal.shared.segments.lock().unwrap()[2].header.first_sequence;
        let checkpoint =
            Checkpoint { drained: first_of_third - 1, transcribed: first_of_third + 1, ..Checkpoint::default() };
        journal.store_checkpoint(&checkpoint).unwrap();
        let now = Clock::system().now();
        let pin = journal.pin();
        assert_eq!(journal.prune(journal.published(), now).unwrap(), 0, "nothing goes before the checkpoint is copied");
        let mut copy = Fixture::new();
        copy.disk = fixture.disk.clone();
        fixture.disk.create_dir_all(&copy.config.path).unwrap();
        pin.checkpoint(&copy.config.path).unwrap();
        assert_eq!(journal.prune(journal.published(), now).unwrap(), 2);
        assert_eq!(pin.segments(&copy.config.path).unwrap().0, 3);
        drop(pin);
        assert_eq!(journal.prune(journal.published(), now).unwrap(), 2);
        let found = texts(&copy.open());
        assert!(sent.ends_with(&found) && found.len() as u64 == sent.len() as u64 - (first_of_third - 1));
        assert_eq!(copy.open().start(), checkpoint);
    }
}
