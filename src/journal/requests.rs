//! Which requests are whole, from segment to segment: what a start has to know.
//!
//! A digest tells of the requests within its segment; one may begin in a segment and end in the next, and its beginning may
//! stand in a segment that was dropped. Knows nothing of what becomes of those that are not whole.

use super::digest::Digest;
use super::segment::SegmentInfo;

/// The requests of the segments followed so far, oldest first.
#[derive(Debug, Default)]
pub struct Requests {
    /// The first and last record of a request whose end has not been seen yet.
    unfinished: Option<(u64, u64)>,
    /// What is left of requests that are not whole.
    remains: Vec<(u64, u64)>,
}

impl Requests {
    /// Goes on with the next segment, which counts up to `bound`. `passed` is what the checkpoint has passed; `is_first` when
    /// no segment before it is kept.
    pub fn follow(&mut self, info: &SegmentInfo, digest: &Digest, bound: u64, passed: u64, is_first: bool) {
        if is_first || info.header.first_sequence <= passed + 1 {
            self.follow_dropped(info, digest);
        }
        // What stands behind the bound was refused whole, or is whole in the segment that begins there.
        let counts = |(first, _): &(u64, u64)| *first < bound;
        self.remains.extend(digest.remains.iter().copied().filter(counts));
        match (self.unfinished, digest.head) {
            (Some((first, last)), Some((next, end, ends))) if next == last + 1 => {
                self.unfinished = (!ends).then_some((first, end));
            }
            (_, head) if digest.records > 0 => {
                self.remains.extend(self.unfinished.take());
                self.remains.extend(head.map(|(first, last, _)| (first, last)).filter(counts));
            }
            _ => {}
        }
        if let Some(unfinished) = digest.unfinished.filter(counts) {
            self.unfinished = Some(unfinished);
        }
        // What begins at or before it was acknowledged.
        self.remains.retain(|(first, _)| *first > passed);
    }

    /// A request may have begun in a segment that was dropped. The checkpoint had passed that part, so all of it was
    /// acknowledged: the segment behind goes on with it as if the part were there.
    fn follow_dropped(&mut self, behind: &SegmentInfo, digest: &Digest) {
        let first = behind.header.first_sequence;
        let is_there = self.unfinished.is_some_and(|(_, last)| last + 1 == first);
        if !is_there && digest.head.is_some_and(|(head, ..)| head == first) {
            self.remains.extend(self.unfinished.replace((first.saturating_sub(1), first.saturating_sub(1))));
        }
    }

    /// All that is left of requests that are not whole, now that no segment follows.
    pub fn end(mut self) -> Vec<(u64, u64)> {
        self.remains.extend(self.unfinished.take());
        self.remains
    }
}
