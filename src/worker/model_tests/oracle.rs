//! The oracle: remembers what was sent and what was answered, and knows what must be found afterwards.
//!
//! * What was acknowledged is in its session's history once, in the one order; in the journal too while its segment is
//!   kept.
//! * What was refused is there once or not at all, and never while the process that refused it lives. Nothing else is
//!   there.
//! * What the checkpoint passed is in its transcript, whatever happened to the journal. It passes nothing unpublished.
//! * A key finds its message as long as the journal has the message.
//!
//! What a user took out of a transcript by hand may be gone.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{Live, Saying, World};
use crate::config::Fsync;
use crate::history::HistoryQuery;
use crate::import::ImportOutcome;
use crate::journal::testing::stored_checkpoint;
use crate::journal::{Appended, ReadProgress};
use crate::listing::ListQuery;
use crate::message::{Id, Message, SessionId};

/// What is known of one text.
#[derive(Debug)]
struct Told {
    saying: Saying,
    /// Its id and sequence, once known.
    place: Option<(Id, u64)>,
    /// It must be found.
    kept: bool,
    /// A power cut may take it: it was acknowledged and not synced (`interval`, `never`).
    loose: bool,
    /// It must be in the journal while its segment is.
    journalled: bool,
    /// A user or a power cut took it out of its transcript: it may be found or not.
    taken_out: bool,
    /// It was once, and is again if a power cut takes the import that put it back.
    was_taken_out: bool,
}

#[derive(Debug, Default)]
pub struct Oracle {
    told: BTreeMap<String, Told>,
    refused_here: BTreeSet<String>,
    /// Sessions whose transcript a user changed, until the worker has repaired it.
    blurred: BTreeSet<SessionId>,
    /// Sessions whose transcript a user changed: what was lost there the journal may not have any more, and pages tell it.
    by_hand: BTreeSet<SessionId>,
    largest: Option<(Id, u64)>,
    pub published: u64,
}

/// What a reader finds: each text with its session and id.
type View = BTreeMap<String, (SessionId, Id)>;

impl Oracle {
    /// Notes the outcome of a request.
    pub fn note(&mut self, world: &World, sayings: &[Saying], outcome: Option<&[Appended]>) {
        let loose = world.config.journal.fsync != Fsync::Always;
        for (index, saying) in sayings.iter().enumerate() {
            let place = outcome.map(|kept| {
                let Appended::New(record) = &kept[index] else { panic!("the key of {:.20} is new", saying.text) };
                (record.entry.id().unwrap(), record.sequence)
            });
            if let Some(place) = place {
                assert!(self.largest.is_none_or(|largest| place.0 > largest.0 && place.1 > largest.1), "it runs back");
                self.largest = Some(place);
            } else {
                self.refused_here.insert(saying.text.clone());
            }
            let (kept, saying) = (place.is_some(), saying.clone());
            let told = Told {
                saying,
                place,
                kept,
                loose: kept && loose,
                journalled: kept,
                taken_out: false,
                was_taken_out: false,
            };
            self.told.insert(told.saying.text.clone(), told);
        }
    }

    /// Notes the outcome of an import; `last` is the sequence of its last record. What is there is never imported again.
    pub fn note_import(
        &mut self,
        world: &World,
        sayings: &[(Saying, Id)],
        outcomes: Option<&[ImportOutcome]>,
        last: u64,
    ) {
        let loose = world.config.journal.fsync != Fsync::Always;
        let is_new = |outcome: &ImportOutcome| *outcome == ImportOutcome::Imported;
        let new = outcomes.map_or(0, |outcomes| outcomes.iter().filter(|outcome| is_new(outcome)).count() as u64);
        let mut sequence = last - new;
        for (index, (saying, id)) in sayings.iter().enumerate() {
            let outcome = outcomes.map(|outcomes| outcomes[index]);
            let before = self.told.get(&saying.text);
            let is_sure = before.is_some_and(|told| told.kept && !told.taken_out)
                && !self.blurred.contains(&saying.session)
                && !self.by_hand.contains(&saying.session);
            match outcome {
                Some(ImportOutcome::Imported) => {
                    assert!(!is_sure, "{:.20} is there and was imported again", saying.text);
                    sequence += 1;
                    let largest = self.largest.map_or(*id, |(largest, _)| largest.max(*id));
                    self.largest = Some((largest, sequence));
                    self.refused_here.remove(&saying.text);
                    let told = Told {
                        saying: Saying { keyed: false, ..saying.clone() },
                        place: Some((*id, sequence)),
                        kept: true,
                        loose,
                        journalled: true,
                        taken_out: false,
                        was_taken_out: before.is_some_and(|told| told.was_taken_out),
                    };
                    self.told.insert(saying.text.clone(), told);
                }
                Some(ImportOutcome::AlreadyThere) => {
                    let told = self.told.get_mut(&saying.text);
                    let told = told.unwrap_or_else(|| panic!("{:.20} was never there", saying.text));
                    if !told.kept {
                        (told.kept, told.loose, told.place) = (true, loose, told.place.or(Some((*id, u64::MAX))));
                        told.journalled = false;
                    }
                }
                Some(other) => panic!("{:.20}: {other:?}", saying.text),
                None if before.is_some() => {}
                None => {
                    self.refused_here.insert(saying.text.clone());
                    let saying = saying.clone();
                    let (kept, loose, journalled, taken_out) = (false, false, false, false);
                    let told = Told { saying, place: None, kept, loose, journalled, taken_out, was_taken_out: false };
                    self.told.insert(told.saying.text.clone(), told);
                }
            }
        }
    }

    /// What may be imported again: of a session everything that has an id.
    pub fn known(&self, session: &SessionId) -> Vec<(Saying, Id)> {
        let of_session = self.told.values().filter(|told| told.saying.session == *session);
        of_session.filter_map(|told| Some((told.saying.clone(), told.place?.0))).collect()
    }

    /// The journal was synced.
    pub fn synced(&mut self) {
        self.told.values_mut().for_each(|told| told.loose = false);
    }

    /// The worker is done: it has repaired what a user changed by hand.
    pub fn clear_up(&mut self, live: &Live) {
        if live.transcripts.first_lacking().is_none() && live.worker.checkpoint.drained == live.journal.published() {
            self.blurred.clear();
        }
    }

    /// A user changes a transcript.
    pub fn by_hand(&mut self, world: &World, session: &SessionId, change: impl FnOnce()) {
        let before = lines(world, session);
        change();
        let after: BTreeSet<Id> = lines(world, session).iter().map(Message::id).collect();
        for message in before.iter().filter(|message| !after.contains(&message.id())) {
            let told = self.told.get_mut(&message.text()).expect("only what was said stands there");
            (told.taken_out, told.was_taken_out) = (true, true);
        }
        self.blurred.insert(session.clone());
        self.by_hand.insert(session.clone());
    }

    /// The process is gone, and with `cut` the power failed.
    pub fn after_end(&mut self, cut: bool) {
        self.refused_here.clear();
        self.blurred.clear();
        for told in self.told.values_mut().filter(|told| cut && told.loose) {
            (told.kept, told.loose, told.journalled) = (false, false, false);
            told.taken_out |= told.was_taken_out;
        }
    }

    /// What the stored checkpoint claims is in the transcripts. Reads the disk only.
    pub fn check_checkpoint(&self, world: &World) {
        let checkpoint = stored_checkpoint(&world.disk, &world.config.journal.path);
        let claimed = checkpoint.drained.max(checkpoint.transcribed);
        assert!(claimed <= self.published, "the checkpoint says {claimed}, {} is published", self.published);
        let lines: BTreeMap<&SessionId, BTreeSet<Id>> =
            world.sessions.iter().map(|s| (s, lines(world, s).iter().map(Message::id).collect())).collect();
        for (text, told) in &self.told {
            let Some((id, sequence)) = told.place.filter(|(_, sequence)| *sequence <= claimed) else { continue };
            let there = told.taken_out || lines[&told.saying.session].contains(&id);
            assert!(there, "{text:.20} ({sequence}) is not in its transcript, the checkpoint says {claimed}");
        }
    }

    /// What readers of a living process see. `None` when the disk could not be read.
    pub fn look(&self, live: &Live, world: &World, limit: usize) -> Option<View> {
        let mut view = View::new();
        for session in &world.sessions {
            let by_hand = self.by_hand.contains(session);
            let forward = pages(live, session, limit, true, by_hand)?;
            let backward = pages(live, session, limit, false, by_hand)?;
            assert_eq!(forward, backward, "{session} reads otherwise from its other end");
            assert!(forward.windows(2).all(|pair| pair[0].1 < pair[1].1), "{session} is out of order");
            for (text, id) in forward {
                let again = view.insert(text.clone(), (session.clone(), id));
                assert!(again.is_none(), "{text:.20} is there twice");
            }
        }
        for (text, (session, id)) in &view {
            let told = self.told.get(text).unwrap_or_else(|| panic!("{text:.20} was never said"));
            assert!(!self.refused_here.contains(text), "{text:.20} was refused by this very process");
            assert_eq!(&told.saying.session, session);
            assert!(told.place.is_none_or(|place| place.0 == *id), "{text:.20} has another id");
        }
        for (text, told) in self.told.iter().filter(|(_, told)| told.kept && !told.taken_out) {
            let there = view.contains_key(text) || self.blurred.contains(&told.saying.session);
            assert!(there, "{text:.20} ({:?}) was acknowledged and is gone", told.place);
        }
        Some(view)
    }

    /// Checks a process that has just opened, on a disk that works. What is there now must stay.
    pub fn check(&mut self, world: &World, cut: bool) {
        let live = world.live.as_ref().unwrap();
        let view = self.look(live, world, 7).expect("the disk works");
        self.check_list(live, world, &view);
        let journal = self.check_journal(live, cut);
        let loose = world.config.journal.fsync != Fsync::Always;
        // After a power cut, sequences that only transcripts remember are given again.
        self.largest = journal.values().max().copied();
        for (text, told) in &mut self.told {
            let (seen, sequence) = (view.get(text), journal.get(text));
            told.journalled = sequence.is_some();
            match (seen, sequence) {
                (None, None) => {
                    // The power cut took it, except perhaps a line without its end, which the next line would bring
                    // back.
                    told.taken_out |= told.place.is_some();
                    told.kept = false;
                }
                (seen, sequence) => {
                    let id = seen.map(|(_, id)| *id).or(sequence.map(|place| place.0)).expect("one of them has it");
                    let sequence = sequence.map(|place| place.1).or(told.place.map(|place| place.1));
                    told.kept = seen.is_some() && !told.taken_out;
                    told.loose = told.kept && loose;
                    told.place = sequence.map(|sequence| (id, sequence));
                }
            }
        }
        self.published = live.journal.published();
    }

    /// The list, brought up as after a start, says of each session what its history holds. Returns whether it is whole.
    pub fn check_list(&self, live: &Live, world: &World, view: &View) -> bool {
        if !live.list.load() {
            return false;
        }
        if world.config.journal.fsync != Fsync::Always || !self.by_hand.is_empty() {
            live.list.compare_all(&|| true);
        }
        let mut wanted: BTreeMap<&SessionId, Vec<Id>> = BTreeMap::new();
        view.values().for_each(|(session, id)| wanted.entry(session).or_default().push(*id));
        let mut passed: BTreeSet<SessionId> =
            live.transcripts.all_stale().into_iter().map(|(session, _)| session).collect();
        // What a user has changed, and left as long as it was, is not noticed.
        for session in wanted.keys().filter(|session| live.list.is_miscounted(session)) {
            assert!(self.by_hand.contains(*session) || passed.contains(*session), "{session} is miscounted");
            passed.insert((*session).clone());
        }
        wanted.retain(|session, _| !passed.contains(*session));
        let time = |id: Option<&Id>| id.map(|id| id.time());
        let wanted = wanted
            .iter()
            .map(|(session, ids)| ((*session).clone(), (ids.len(), time(ids.iter().min()), time(ids.iter().max()))));
        let (mut found, mut ask, mut last) = (BTreeMap::new(), ListQuery { limit: 2, ..ListQuery::default() }, None);
        loop {
            let page = live.list.page(&ask);
            assert_eq!(page.incomplete, None);
            for one in page.sessions {
                assert!(last.is_none_or(|last| one.updated_at <= last), "{} is out of order", one.session);
                last = Some(one.updated_at);
                let told = (one.messages as usize, Some(one.created_at), Some(one.updated_at));
                assert!(found.insert(one.session.clone(), told).is_none(), "{} is listed twice", one.session);
            }
            match page.next {
                Some(next) => ask.after = Some(next),
                None => break,
            }
        }
        found.retain(|session, _| !passed.contains(session));
        assert_eq!(found, wanted.collect());
        true
    }

    /// The journal has, in order and once, what was acknowledged and not dropped; returns where each text is.
    fn check_journal(&self, live: &Live, cut: bool) -> BTreeMap<String, (Id, u64)> {
        // A power cut may bring back the older of two segments that were dropped.
        let first = live.journal.stats().first_sequence;
        let from = if cut { first.max(live.journal.start().drained + 1) } else { first };
        let mut reader = live.journal.reader(0);
        let (mut found, mut last) = (BTreeMap::new(), None);
        let mut progress = ReadProgress::More;
        while progress == ReadProgress::More {
            let read = reader.read(700, |record| {
                let message = record.entry.message().expect("only messages were sent");
                let place = (message.id(), record.sequence);
                let is_import = record.entry.is_import();
                let follows = |last: (Id, u64)| (is_import || place.0 > last.0) && place.1 > last.1;
                assert!(last.is_none_or(follows), "out of order");
                last = Some((last.map_or(place.0, |(id, _)| place.0.max(id)), place.1));
                // One that was refused may have come again.
                let again = found.insert(message.text(), place);
                assert!(again.is_none() || is_import, "{place:?} is there twice");
            });
            progress = read.unwrap();
        }
        for (text, told) in self.told.iter().filter(|(_, told)| told.journalled) {
            let place = told.place.filter(|place| place.1 >= from);
            assert!(
                place.is_none() || place == found.get(text).copied(),
                "{text:.20} is not where it was: {place:?} {:?} first {first} {last:?}",
                found.get(text)
            );
        }
        found
    }

    /// What was sent with a key and may be sent again, with its place by now: in the journal, or nowhere.
    pub fn retries(&self) -> Vec<(Saying, Option<(Id, u64)>)> {
        let keyed = self.told.values().filter(|told| told.saying.keyed && !told.taken_out);
        let known = keyed.filter(|told| told.journalled || !told.kept);
        known.map(|told| (told.saying.clone(), told.place.filter(|_| told.journalled))).collect()
    }
}

/// The whole lines of a transcript, as any program reads them.
fn lines(world: &World, session: &SessionId) -> Vec<Message> {
    let bytes = world.disk.peek(&world.transcript(session)).unwrap_or_default();
    let whole = bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    whole.filter_map(Message::from_line).collect()
}

/// Every message of a session, page by page from one of its ends. Only of one that a user changed by hand may a page say that
/// it is not whole.
fn pages(live: &Live, session: &SessionId, limit: usize, forward: bool, by_hand: bool) -> Option<Vec<(String, Id)>> {
    let after = forward.then(|| Id::from_parts(crate::message::Timestamp::from_micros(0), 0));
    let mut ask = HistoryQuery { after, ..HistoryQuery::newest(session.clone(), limit) };
    let mut all = Vec::new();
    loop {
        let answer = live.history.read(&ask).ok()?;
        assert!(by_hand || answer.incomplete.is_none(), "{:?}", answer.incomplete);
        let mut page: Vec<(String, Id)> = answer.messages.iter().map(|(m, _)| (m.text(), m.id())).collect();
        if forward {
            ask.after = page.last().map(|(_, id)| *id);
            all.append(&mut page);
        } else {
            ask.before = page.first().map(|(_, id)| *id);
            page.append(&mut all);
            all = page;
        }
        if !answer.has_more {
            return Some(all);
        }
    }
}
