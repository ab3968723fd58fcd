//! Puts a transcript in order: sets aside what is no line of the session, moves lines to where their ids belong,
//! removes second copies.
//!
//! For the repair of a stopped server: a running one does not touch a transcript while it agrees with the journal. A
//! line out of place can hide its neighbours from readers. As in a merge the old file stays untouched until the new one
//! is whole, and everything that is not taken over is first copied to `quarantine/`, unless the same bytes stay.

use std::collections::HashSet;
use std::io;
use std::ops::Range;

use crate::disk::{Disk, DiskFile, copy};
use crate::message::{Id, SessionId};

use super::Transcripts;
use super::merge::next_line;
use super::read::Lines;

/// Lines out of place that one pass moves; more need more passes.
const STRAYS_MAX: usize = 1 << 16;

/// Lines out of place.
struct Strays {
    /// By id; for one id in the order of the file.
    by_id: Vec<(Id, Range<u64>)>,
    starts: HashSet<u64>,
}

/// A transcript that is being put in order.
struct Ordered<'a, D: Disk> {
    transcripts: &'a Transcripts<D>,
    session: &'a SessionId,
    old: &'a D::File,
    new: D::File,
    bytes: u64,
    last: Option<(Id, Range<u64>)>,
}

impl<D: Disk> Transcripts<D> {
    /// Puts a session's transcript in order. No append to it may run meanwhile.
    ///
    /// # Errors
    /// The disk failed. The transcript is whole, as before or in better order; another call goes on. Copies of lines
    /// that were set aside and an unfinished new file may remain.
    pub fn put_in_order(&self, session: &SessionId) -> io::Result<()> {
        while self.order_some(session)? {}
        self.disk.sync_dir(&self.folder)
    }

    /// One pass; returns whether another is needed.
    fn order_some(&self, session: &SessionId) -> io::Result<bool> {
        let Some(old) = self.old_file(session)? else { return Ok(false) };
        let strays = strays(&old, session)?;
        self.make_again(&self.staging())?;
        let path = self.staging().join(session.file_name());
        let new = self.disk.create(&path)?;
        let mut ordered = Ordered { transcripts: self, session, old: &old, new, bytes: 0, last: None };
        ordered.write(&strays)?;
        ordered.new.sync()?;
        self.note_lengths([(session, 0)].into_iter())?;
        self.disk.rename(&path, &self.path(session))?;
        Ok(strays.by_id.len() == STRAYS_MAX)
    }
}

/// The session's lines that come after a line with the same or a later id.
fn strays<F: DiskFile>(file: &F, session: &SessionId) -> io::Result<Strays> {
    let mut lines = Lines::new(file, u64::MAX)?;
    let mut strays = Strays { by_id: Vec::new(), starts: HashSet::new() };
    let (mut at, mut largest) = (0, None);
    while let Some((range, id)) = next_line(&mut lines, at, session)? {
        at = range.end;
        if Some(id) > largest {
            largest = Some(id);
        } else if strays.by_id.len() < STRAYS_MAX {
            strays.starts.insert(range.start);
            strays.by_id.push((id, range));
        }
    }
    strays.by_id.sort_by_key(|(id, range)| (*id, range.start));
    Ok(strays)
}

impl<D: Disk> Ordered<'_, D> {
    fn write(&mut self, strays: &Strays) -> io::Result<()> {
        let mut lines = Lines::new(self.old, u64::MAX)?;
        let mut strays_left = strays.by_id.iter().peekable();
        let mut at = 0;
        loop {
            let line = next_line(&mut lines, at, self.session)?;
            let garbage_end = line.as_ref().map_or(self.old.byte_len()?, |(range, _)| range.start);
            if garbage_end > at {
                self.transcripts.set_aside(self.session, self.old, at..garbage_end)?;
            }
            let Some((range, id)) = line else { break };
            at = range.end;
            if strays.starts.contains(&range.start) {
                continue;
            }
            while let Some((stray, place)) = strays_left.next_if(|(stray, _)| *stray < id) {
                self.put(*stray, place.clone())?;
            }
            self.put(id, range)?;
        }
        for (stray, place) in strays_left {
            self.put(*stray, place.clone())?;
        }
        Ok(())
    }

    /// Takes a line over. A second line with the same id is dropped, and set aside if it differs.
    fn put(&mut self, id: Id, range: Range<u64>) -> io::Result<()> {
        match &self.last {
            Some((last, kept)) if *last == id => {
                if self.bytes_of(kept)? != self.bytes_of(&range)? {
                    self.transcripts.set_aside(self.session, self.old, range)?;
                }
            }
            _ => {
                self.bytes += copy(self.old, range.clone(), &self.new, self.bytes)?;
                self.last = Some((id, range));
            }
        }
        Ok(())
    }

    fn bytes_of(&self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        let read = self.old.read_at(&mut bytes, range.start)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}
