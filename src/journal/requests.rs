//! Which requests are whole, within a segment and over several segments.
//!
//! A request is whole when its records follow each other from one that continues nothing to one that nothing continues.
//! It may begin in a segment and end in the next, and its beginning may have been in a segment that was dropped. Knows
//! nothing of what happens to requests that are not whole.

use super::frame::RequestPart;

/// The parts of requests that are not whole within a segment, each a run of records with its first and last sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragments {
    /// The request that has not ended when the segment ends.
    pub unfinished: Option<(u64, u64)>,
    /// The request that began before the segment, and whether it ends here.
    pub head: Option<(u64, u64, bool)>,
    /// Parts of other requests.
    pub remains: Vec<(u64, u64)>,
}

impl Fragments {
    /// Adds the next record; `is_first` if it is the first of the segment.
    ///
    /// Records next to damage of the medium are not parts of a torn write: they were acknowledged.
    pub fn note(&mut self, sequence: u64, group: RequestPart, is_first: bool, beside_damage: bool) {
        if let Some((first, last)) = self.unfinished.take() {
            if group.continues && sequence == last + 1 {
                self.unfinished = group.more.then_some((first, sequence));
                return;
            }
            if !beside_damage {
                self.remains.push((first, last));
            }
        }
        if beside_damage || !group.continues {
            self.unfinished = group.more.then_some((sequence, sequence));
            return;
        }
        match &mut self.head {
            // The segment's first records may continue a request of the segment before.
            Some((_, last, ends @ false)) if sequence == *last + 1 => (*last, *ends) = (sequence, !group.more),
            None if is_first => self.head = Some((sequence, sequence, !group.more)),
            _ => self.remains.push((sequence, sequence)),
        }
    }
}

/// The requests of the segments read so far, oldest first.
#[derive(Debug, Default)]
pub struct Requests {
    /// The first and last record of a request whose end has not been seen yet.
    unfinished: Option<(u64, u64)>,
    /// Parts of requests that are not whole.
    remains: Vec<(u64, u64)>,
}

impl Requests {
    /// Adds the next segment that holds records; it begins with `first_sequence` and counts up to `bound`. The
    /// checkpoint has passed `passed`; `is_first` if no segment before it is kept.
    pub fn follow(&mut self, first_sequence: u64, segment: &Fragments, bound: u64, passed: u64, is_first: bool) {
        if is_first || first_sequence <= passed + 1 {
            self.follow_dropped(first_sequence, segment);
        }
        // Records after the bound were refused, or are whole in the segment that begins there.
        let counts = |(first, _): &(u64, u64)| *first < bound;
        self.remains.extend(segment.remains.iter().copied().filter(counts));
        match (self.unfinished, segment.head) {
            (Some((first, last)), Some((next, end, ends))) if next == last + 1 => {
                self.unfinished = (!ends).then_some((first, end));
            }
            (_, head) => {
                self.remains.extend(self.unfinished.take());
                self.remains.extend(head.map(|(first, last, _)| (first, last)).filter(counts));
            }
        }
        if let Some(unfinished) = segment.unfinished.filter(counts) {
            self.unfinished = Some(unfinished);
        }
        // Records up to the checkpoint were acknowledged.
        self.remains.retain(|(first, _)| *first > passed);
    }

    /// Handles a request that began in a dropped segment. The checkpoint had passed that part, so all of it was
    /// acknowledged: the rest, which begins at `first`, counts as if the part were there.
    fn follow_dropped(&mut self, first: u64, segment: &Fragments) {
        let is_there = self.unfinished.is_some_and(|(_, last)| last + 1 == first);
        if !is_there && segment.head.is_some_and(|(head, ..)| head == first) {
            self.remains.extend(self.unfinished.replace((first.saturating_sub(1), first.saturating_sub(1))));
        }
    }

    /// Returns the parts of requests that are not whole, after the last segment.
    pub fn end(mut self) -> Vec<(u64, u64)> {
        self.remains.extend(self.unfinished.take());
        self.remains
    }
}

/// Whether a sequence is in one of those ranges.
pub fn is_in(ranges: &[(u64, u64)], sequence: u64) -> bool {
    ranges.iter().any(|(first, last)| (first..=last).contains(&&sequence))
}
