//! The walk behind the survey: headers, every frame of every segment, digests beside them.
//!
//! It follows the rules recovery follows and mends nothing. A fault is told when it is met; what is kept is one digest at a
//! time, the voided ranges, and the remains of requests behind the checkpoint.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::disk::{Disk, DiskFile};
use crate::message::{Clock, Id};

use super::super::checkpoint::{Checkpoint, Standing};
use super::super::digest::{self, Before, Digest};
use super::super::frame::{FrameHeader, HeaderError, Kind, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::super::reader;
use super::super::record::{self, Entry};
use super::super::requests::Requests;
use super::super::scan::{Found, Scanner};
use super::super::segment::{self, SegmentInfo};
use super::super::{inventory, salvage};
use super::{Fault, Survey};

/// Erasures of sessions that are remembered; of sessions beyond, what was erased may be called missing.
const ERASED_MAX: usize = 100_000;
/// Bytes read at once where only zeros are looked for.
const BLOCK_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct Walk<'a, D: Disk> {
    disk: &'a D,
    folder: &'a Path,
    tell: &'a mut dyn FnMut(&str, Fault),
    survey: Survey,
    /// The checkpoint has passed everything up to here.
    passed: u64,
    requests: Requests,
}

impl<'a, D: Disk> Walk<'a, D> {
    /// A walk through `folder` that nothing was seen of yet.
    pub(super) fn new(disk: &'a D, folder: &'a Path, tell: &'a mut dyn FnMut(&str, Fault), survey: Survey) -> Self {
        Self { disk, folder, tell, survey, passed: 0, requests: Requests::default() }
    }

    /// Walks to the end; `names` are those in the folder.
    pub(super) fn run(mut self, names: &[String]) -> Survey {
        self.headers(names);
        self.checkpoint();
        for index in 0..self.survey.infos.len() {
            self.segment(index);
        }
        self.end(names);
        self.survey
    }

    fn headers(&mut self, names: &[String]) {
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
        numbers.sort_unstable();
        let mut damaged = Vec::new();
        for number in numbers {
            let name = name_of(number);
            match self.header(&name) {
                Ok(Ok(header)) if header.number != number => {
                    self.set_aside(&name, |messages| Fault::OtherNumber { messages });
                }
                Ok(Ok(header)) => self.list(&name, header),
                Ok(Err(newer @ HeaderError::Newer(_))) => {
                    self.survey.newer.get_or_insert((name.clone(), newer));
                    (self.tell)(&name, Fault::Newer(newer));
                }
                Ok(Err(HeaderError::Damaged)) => damaged.push(number),
                Err(e) => (self.tell)(&name, Fault::Io(e)),
            }
        }
        let ours = inventory::epoch(self.disk, self.folder, &self.survey.infos);
        let (infos, foreign) = std::mem::take(&mut self.survey.infos)
            .into_iter()
            .partition(|info| ours.is_none_or(|ours| info.header.epoch == ours));
        self.survey.infos = infos;
        let foreign: Vec<SegmentInfo> = foreign;
        for info in foreign {
            self.survey.bytes -= info.file_bytes;
            self.set_aside(&name_of(info.header.number), |messages| Fault::OtherEpoch { messages });
        }
        for number in damaged {
            self.headless(number);
        }
        self.survey.infos.sort_by_key(|info| info.header.number);
        self.survey.segments = self.survey.infos.len();
        self.survey.first_sequence = self.survey.infos.first().map_or(0, |info| info.header.first_sequence);
    }

    fn header(&self, name: &str) -> io::Result<Result<SegmentHeader, HeaderError>> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = self.disk.open_read(&self.folder.join(name))?.read_at(&mut bytes, 0)?;
        Ok(SegmentHeader::decode(&bytes[..read]))
    }

    fn len(&self, name: &str) -> u64 {
        self.disk.open_read(&self.folder.join(name)).and_then(|file| file.byte_len()).unwrap_or(0)
    }

    fn list(&mut self, name: &str, header: SegmentHeader) {
        let file_bytes = self.len(name);
        self.survey.bytes += file_bytes;
        self.survey.infos.push(SegmentInfo { header, file_bytes });
    }

    /// A damaged header: the segment is looked at as a start would see it.
    fn headless(&mut self, number: u64) {
        let name = name_of(number);
        match inventory::rebuilt(self.disk, self.folder, number, &self.survey.infos, &Clock::system()) {
            Ok(Some(header)) => {
                (self.tell)(&name, Fault::Header { messages: None });
                self.list(&name, header);
            }
            Ok(None) => self.set_aside(&name, |messages| Fault::Header { messages: Some(messages) }),
            Err(e) => (self.tell)(&name, Fault::Io(e)),
        }
    }

    /// A file that a start sets aside.
    fn set_aside(&mut self, name: &str, fault: impl FnOnce(u64) -> Fault) {
        self.survey.bytes += self.len(name);
        let mut messages = 0;
        match salvage::messages(self.disk, &self.folder.join(name), &mut |_, _| messages += 1) {
            Ok(()) => (self.tell)(name, fault(messages)),
            Err(e) => (self.tell)(name, Fault::Io(e)),
        }
    }

    fn checkpoint(&mut self) {
        let epoch = self.survey.infos.first().map_or(0, |info| info.header.epoch);
        self.survey.checkpoint = Checkpoint::standing(self.disk, self.folder, epoch);
        if let Standing::Ours(checkpoint) = self.survey.checkpoint {
            self.passed = checkpoint.drained.max(checkpoint.transcribed);
        }
    }

    fn segment(&mut self, index: usize) {
        let info = self.survey.infos[index].clone();
        let name = name_of(info.header.number);
        let bound = segment::bound(&self.survey.infos, info.header.number);
        let is_last = index + 1 == self.survey.infos.len();
        let walked = reader::open(self.disk, self.folder, &info)
            .and_then(|mut scanner| self.frames(&name, &mut scanner, info.header.first_sequence..bound, is_last));
        match walked {
            Ok((digest, faults)) => {
                if !is_last {
                    self.compare_digest(&name, &info, &digest, faults);
                }
                self.requests.follow(&info, &digest, bound, self.passed, index == 0);
                // What was found whole, voided or acknowledged need not be remembered any longer.
                self.requests.forget_passed(self.passed);
                self.take_in(&digest, bound);
            }
            Err(e) => (self.tell)(&name, Fault::Io(e)),
        }
        self.survey.last_sequence = self.survey.last_sequence.max(info.header.first_sequence.saturating_sub(1));
    }

    /// Walks one segment's frames; returns their digest and how many faults were told.
    fn frames(
        &mut self,
        name: &str,
        scanner: &mut Scanner<D::File>,
        sequences: Range<u64>,
        is_last: bool,
    ) -> io::Result<(Digest, u64)> {
        let Range { start: first_sequence, end: bound } = sequences;
        let (mut digest, mut faults, mut gap, mut before_next) = (Digest::default(), 0, None, Before::Nothing);
        // What was given before the segment's first frame stands in the ones before.
        let before = first_sequence.saturating_sub(1);
        loop {
            match scanner.next()? {
                Found::Frame(header) => {
                    // Between the last record that counts and a later segment's first there was nothing that counted.
                    let beyond = header.sequence >= bound && digest.last_sequence + 1 >= bound;
                    if let Some(bytes) = gap.take().filter(|_| !beyond) {
                        faults += 1;
                        let records = digest.last_sequence.max(before) + 1..=header.sequence.min(bound) - 1;
                        (self.tell)(name, Fault::Damaged { bytes, records });
                    }
                    let entry = digest.take(&header, scanner.payload(), std::mem::take(&mut before_next));
                    let scrubbed = record::is_scrubbed(header.kind, scanner.payload());
                    if scrubbed && header.sequence < bound {
                        self.survey.records.scrubbed += 1;
                    } else {
                        self.note(name, &header, entry.as_ref(), bound);
                    }
                }
                Found::Gap(range) => {
                    digest.gaps.push((range.start, range.end));
                    before_next = Before::of_gap(scanner, range.clone())?;
                    gap = Some(range);
                }
                Found::End { dirty: false } => return Ok((digest, faults)),
                Found::End { dirty: true } => {
                    digest.torn = true;
                    let end = scanner.offset();
                    if let Some(to) = digest.damaged_end(scanner)? {
                        let records = digest.last_sequence.max(before) + 1..=digest.last_sequence.max(before) + 1;
                        (self.tell)(name, Fault::Damaged { bytes: end..to, records });
                        return Ok((digest, faults + 1));
                    }
                    let tail = end..self.end_of_bytes(name, end)?;
                    if !is_last && bound > digest.last_sequence + 1 {
                        faults += 1;
                        let records = digest.last_sequence.max(before) + 1..=bound - 1;
                        (self.tell)(name, Fault::Damaged { bytes: tail, records });
                    } else if is_last {
                        self.survey.tail_bytes = tail.end - tail.start;
                    }
                    return Ok((digest, faults));
                }
            }
        }
    }

    fn note(&mut self, name: &str, header: &FrameHeader, entry: Option<&Entry>, bound: u64) {
        if header.sequence >= bound {
            self.survey.refused += 1;
            return;
        }
        let records = &mut self.survey.records;
        match header.kind {
            Kind::Message => records.messages += 1,
            Kind::ContextClear => records.context_clears += 1,
            Kind::Erasure => records.erasures += 1,
            Kind::Abort => records.aborts += 1,
        }
        let Some(entry) = entry else {
            (self.tell)(name, Fault::Unreadable(header.sequence));
            return;
        };
        let links = entry.links();
        self.survey.keys += u64::from(links.key.is_some() && links.reply_to.is_none());
        if let Entry::Erasure { id, session } = entry
            && (self.survey.erased.len() < ERASED_MAX || self.survey.erased.contains_key(session))
        {
            let erased = self.survey.erased.entry(session.clone()).or_insert(*id);
            *erased = (*erased).max(*id);
        }
        let drained = if let Standing::Ours(checkpoint) = self.survey.checkpoint { checkpoint.drained } else { 0 };
        if header.sequence > drained && header.kind != Kind::Abort {
            self.survey.pending += 1;
            self.survey.oldest_pending = self.survey.oldest_pending.or_else(|| entry.id().map(Id::time));
        }
    }

    /// Where the last byte that is not zero ends, from `from` on.
    fn end_of_bytes(&self, name: &str, from: u64) -> io::Result<u64> {
        let file = self.disk.open_read(&self.folder.join(name))?;
        let (mut block, mut at, mut end) = (vec![0; BLOCK_BYTES], from, from);
        loop {
            // What the medium cannot read may be anything.
            let Ok(read) = file.read_at(&mut block, at) else { return file.byte_len() };
            if read == 0 {
                return Ok(end);
            }
            if let Some(last) = block[..read].iter().rposition(|&byte| byte != 0) {
                end = at + last as u64 + 1;
            }
            at += read as u64;
        }
    }

    fn compare_digest(&mut self, name: &str, info: &SegmentInfo, walked: &Digest, faults: u64) {
        let digests = &mut self.survey.digests;
        match Digest::stored(self.disk, self.folder, &info.header) {
            Some(stored) if stored == *walked => digests.good += 1,
            Some(stored) => {
                digests.outdated += 1;
                if stored.records > walked.records && faults == 0 {
                    (self.tell)(name, Fault::FewerThanDigest { known: stored.records, found: walked.records });
                }
            }
            None if self.disk.open_read(&digest::path(self.folder, info.header.number)).is_ok() => digests.damaged += 1,
            None => digests.missing += 1,
        }
    }

    /// What a digest tells of the whole.
    fn take_in(&mut self, digest: &Digest, bound: u64) {
        self.survey.last_sequence = self.survey.last_sequence.max(digest.last_sequence.min(bound - 1));
        self.survey.voids.extend_from_slice(&digest.aborted);
    }

    fn end(&mut self, names: &[String]) {
        let (passed, requests) = (self.passed, std::mem::take(&mut self.requests));
        let remains = requests.end().into_iter().filter(|(first, _)| *first > passed);
        let survey = &mut self.survey;
        let torn = remains.filter(|(first, _)| !survey.is_void(*first)).map(|(first, last)| last - first + 1);
        survey.torn = torn.sum();
        if self.passed > survey.last_sequence {
            (self.tell)("checkpoint", Fault::EndsBefore(self.passed));
        }
        for name in names.iter().filter(|name| name.ends_with(".tmp")) {
            self.survey.leftovers.0 += 1;
            self.survey.leftovers.1 += self.len(name);
        }
    }
}

fn name_of(number: u64) -> String {
    segment::path(Path::new(""), number).display().to_string()
}
