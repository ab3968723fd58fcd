//! Erasures as the journal's callers see them: readers, keys, restarts, damage, and every file scrubbed.
//!
//! Compiled under `#[cfg(test)]` only. Power cuts and faults at every call are tested with the whole path (janitor/).

use std::path::PathBuf;

use super::testing::{Fixture, fill, say, texts};
use super::*;
use crate::config::Fsync;
use crate::disk::sim::{Op, SimDisk};
use crate::layout;
use crate::message::{self, Id, Metadata, SessionId};

fn erase(journal: &Journal<SimDisk>) -> Result<Id, AppendError> {
    let (ticket, kept) = journal.append(vec![NewRecord::Erasure { session: SessionId::new("s").unwrap() }])?;
    journal.commit(ticket).map(|()| kept[0].id())
}

fn keyed(text: &str) -> NewRecord {
    let session = SessionId::new("s").unwrap();
    let (metadata, vector_ids) = (Metadata::default(), [].as_slice());
    let line = message::Draft { session: &session, role: "user", text, metadata, vector_ids }.prepare();
    NewRecord::Message {
        line,
        key: Some(IdempotencyKey::new(&session, text, &[text.as_bytes()])),
        reply_to: ReplyTo::Nothing,
    }
}

fn other(text: &str) -> NewRecord {
    let session = SessionId::new("other").unwrap();
    let (metadata, vector_ids) = (Metadata::default(), [].as_slice());
    let line = message::Draft { session: &session, role: "user", text, metadata, vector_ids }.prepare();
    NewRecord::Message { line, key: None, reply_to: ReplyTo::Nothing }
}

/// The texts of all messages, erasures passed over.
fn read(journal: &Journal<SimDisk>) -> Vec<String> {
    let (mut texts, mut reader) = (Vec::new(), journal.reader(0));
    let mut take = |record: Record| texts.extend(record.entry.message().map(|message| message.text()));
    while reader.read(4096, &mut take).unwrap() == ReadProgress::More {}
    texts
}

fn scrub(journal: &Journal<SimDisk>) -> Scrubbed {
    let wanted = journal.unscrubbed();
    let scrubbed = journal.scrub(&wanted, &|| true).unwrap();
    journal.scrubbed(&wanted);
    scrubbed
}

fn holding(disk: &SimDisk, text: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| memchr::memmem::find(&disk.peek(path).unwrap(), text.as_bytes()).is_some();
    disk.paths().into_iter().filter(holds).collect()
}

#[test]
fn a_key_waits_for_an_erasure_under_way_and_is_new_when_it_came_true() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    say(&journal, &["a!", "b!"]).unwrap();
    let (erasure, _) = journal.append(vec![NewRecord::Erasure { session: SessionId::new("s").unwrap() }]).unwrap();
    // The erasure is not committed yet; an append with the key commits it.
    let kept = say(&journal, &["a!"]).unwrap();
    assert!(matches!(kept[0], Appended::New(_)));
    journal.commit(erasure).unwrap();
    assert_eq!(say(&journal, &["a!"]).unwrap()[0].id(), kept[0].id());
    drop(journal);
    let journal = fixture.open();
    assert_eq!(say(&journal, &["a!"]).unwrap()[0].id(), kept[0].id());
    assert!(matches!(say(&journal, &["b!"]).unwrap()[0], Appended::New(_)));
    assert_eq!(read(&journal), ["a!", "b!"]);
}

#[test]
fn an_erasure_that_was_refused_erases_nothing_and_forgets_no_key() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let kept = say(&journal, &["a!"]).unwrap();
    fixture.disk.fail_every(Op::Sync, ".segment", io::ErrorKind::Other);
    let (erasure, _) = journal.append(vec![NewRecord::Erasure { session: SessionId::new("s").unwrap() }]).unwrap();
    assert!(matches!(journal.append(vec![keyed("a!")]), Err(AppendError::Unavailable(_))));
    journal.commit(erasure).unwrap_err();
    fixture.disk.heal();
    journal.a_moment_later();
    assert_eq!(say(&journal, &["a!"]).unwrap()[0].id(), kept[0].id());
    assert_eq!((texts(&journal), journal.erasures_pending()), (vec!["a!".to_owned()], 0));
}

#[test]
fn a_reply_recorded_after_an_erasure_belongs_to_the_new_life() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let asked = say(&journal, &["question!"]).unwrap()[0].id();
    erase(&journal).unwrap();
    let NewRecord::Message { line, key, .. } = keyed("question!") else { unreachable!() };
    let reply = NewRecord::Message { line, key, reply_to: ReplyTo::Message(asked) };
    // It carries the question's key, which was erased, so it counts as an ordinary message.
    let (ticket, kept) = journal.append(vec![reply]).unwrap();
    journal.commit(ticket).unwrap();
    assert!(matches!(kept[0], Appended::New(_)));
    assert_eq!(read(&journal), ["question!"]);
    assert_eq!(scrub(&journal).blanks, 1);
    drop(journal);
    assert_eq!(read(&fixture.open()), ["question!"]);
}

#[test]
fn segments_are_scrubbed_frame_by_frame_and_digests_with_them() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let sent = fill(&journal, 4);
    journal.maintain().unwrap();
    let bytes_before = journal.stats().bytes;
    let reading = &mut journal.reader(0);
    let mut seen = 0;
    reading.read(1, |_| seen += 1).unwrap();
    erase(&journal).unwrap();
    say(&journal, &["new!"]).unwrap();
    assert_eq!((read(&journal), journal.erasures_pending()), (vec!["new!".to_owned()], 1));
    let scrubbed = scrub(&journal);
    assert_eq!((scrubbed.blanks, journal.erasures_pending()), (sent.len(), 0));
    // A reader in the middle of the scrubbed part continues.
    let mut left = Vec::new();
    while reading.read(700, |record| left.push(record.sequence)).unwrap() == ReadProgress::More {}
    assert_eq!(left, [sent.len() as u64 + 1, sent.len() as u64 + 2]);
    assert!(holding(&fixture.disk, "xxx").is_empty());
    assert!(journal.stats().bytes <= bytes_before + 2 * 2048, "a sealed segment is as long as what it holds");
    for without_digests in [false, true] {
        let disk = fixture.disk.fork();
        for path in disk.paths().iter().filter(|path| without_digests && path.extension() == Some("digest".as_ref())) {
            disk.unlink(path);
        }
        let mut faults = Vec::new();
        let overlay = Overlay::new(disk.clone(), layout::quarantine(&fixture.config.path));
        let (survey, _) = Journal::look(overlay, &fixture.config, fixture.clock.clone(), &mut |path, fault| {
            faults.push(format!("{}: {fault:?}", path.display()));
        });
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!((survey.records.scrubbed, survey.records.messages), (sent.len() as u64, 1));
        assert_eq!((survey.records.keys, survey.digests.outdated), (1, 0));
    }
    drop(journal);
    let journal = fixture.open();
    assert_eq!(read(&journal), ["new!"]);
    assert!(matches!(say(&journal, &["new!"]).unwrap()[0], Appended::Before { .. }));
    // A start does not know that the scrub is done, but the next pass finds nothing to do.
    assert_eq!((journal.erasures_pending(), scrub(&journal)), (1, Scrubbed::default()));
}

#[test]
fn other_records_of_a_segment_and_a_request_stay_byte_for_byte() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    // One request that continues in the next segment.
    let long = "y".repeat(900);
    let drafts = vec![keyed("secret one"), other(&long), keyed("secret two"), other(&long), keyed("secret three")];
    let (ticket, kept) = journal.append(drafts).unwrap();
    journal.commit(ticket).unwrap();
    let stays: Vec<Record> = [&kept[1], &kept[3]]
        .into_iter()
        .map(|kept| match kept {
            Appended::New(record) => record.clone(),
            Appended::Before { .. } => unreachable!(),
        })
        .collect();
    erase(&journal).unwrap();
    scrub(&journal);
    assert!(holding(&fixture.disk, "secret").is_empty());
    // The request is whole for a start without a checkpoint.
    drop(journal);
    let journal = fixture.open();
    let mut found = Vec::new();
    journal.reader(0).read(1 << 20, |record| found.extend(record.entry.message().is_some().then_some(record))).unwrap();
    assert_eq!(found, stays);
}

#[test]
fn damaged_bytes_and_the_copies_of_them_lose_an_erased_line_and_no_other() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    say(&journal, &["first"]).unwrap();
    say(&journal, &["secret words"]).unwrap();
    say(&journal, &["last"]).unwrap();
    drop(journal);
    let path = fixture.segment(1);
    fixture.disk.damage(&path, |bytes| {
        let at = memchr::memmem::find(bytes, b"secret").unwrap();
        bytes[at + 20] ^= 1;
        // A tail without a whole frame as well.
        let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 40;
        let line: Vec<u8> = bytes[at - 160..at + 6].to_vec();
        bytes[end..end + line.len()].copy_from_slice(&line);
    });
    let journal = fixture.open();
    assert_eq!(journal.findings().gaps, 1);
    assert_eq!(holding(&fixture.disk, "secret").len(), 3, "the segment, the gap, the tail");
    erase(&journal).unwrap();
    say(&journal, &["new"]).unwrap();
    scrub(&journal);
    assert!(holding(&fixture.disk, "secret").is_empty());
    assert_eq!(read(&journal), ["new"]);
    drop(journal);
    assert_eq!(read(&fixture.open()), ["new"]);
}

#[test]
fn a_segment_not_scrubbed_yet_stays_unless_space_is_needed() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    say(&journal, &["a"]).unwrap();
    erase(&journal).unwrap();
    fill(&journal, 3);
    let published = journal.published();
    let everything = Checkpoint { drained: published, transcribed: published, ..Checkpoint::default() };
    journal.store_checkpoint(&everything).unwrap();
    assert_eq!(journal.prune(published, Clock::system().now()).unwrap(), 0);
    journal.want_room();
    assert!(journal.prune(published, Clock::system().now()).unwrap() >= 1);
    assert_eq!(journal.erasures_pending(), 0, "it went with its segment");
}

#[test]
fn after_a_restart_a_reused_key_has_no_reply_of_its_former_life() {
    let fixture = Fixture::new();
    let journal = fixture.open();
    let turn = || {
        let NewRecord::Message { line, key, .. } = keyed("question!") else { unreachable!() };
        vec![keyed("question!"), NewRecord::Message { line, key, reply_to: ReplyTo::Previous }]
    };
    let (ticket, _) = journal.append(turn()).unwrap();
    journal.commit(ticket).unwrap();
    erase(&journal).unwrap();
    let asked = say(&journal, &["question!"]).unwrap()[0].id();
    drop(journal);
    let journal = fixture.open();
    let (ticket, kept) = journal.append(turn()).unwrap();
    journal.commit(ticket).unwrap();
    assert_eq!(kept[0], Appended::Before { id: asked, reply: None });
    assert!(matches!(kept[1], Appended::New(_)), "the turn had no reply yet");
}

#[test]
fn records_held_to_be_rewritten_delay_no_scrub_and_bring_nothing_back() {
    for fsync in [Fsync::Never, Fsync::Interval] {
        let mut fixture = Fixture::new();
        fixture.config.fsync = fsync;
        let journal = fixture.open();
        let sent = fill(&journal, 2);
        // The erasure is in a later segment than the messages.
        while journal.stats().segments < 4 {
            let (ticket, _) = journal.append(vec![other("plain")]).unwrap();
            journal.commit(ticket).unwrap();
        }
        erase(&journal).unwrap();
        assert_eq!(scrub(&journal).blanks, sent.len());
        fixture.disk.fail_every(Op::Write, ".segment", io::ErrorKind::Other);
        say(&journal, &["refused"]).unwrap_err();
        fixture.disk.heal();
        journal.a_moment_later();
        say(&journal, &["new"]).unwrap();
        assert!(holding(&fixture.disk, "xxx").is_empty(), "{fsync:?}");
    }
}
