//! What disk failures and edits by hand do beyond the journal: to checkpoints, transcripts and readers, one by one on
//! the simulated disk. Compiled under `#[cfg(test)]` only.

use std::io;

use super::model_tests::world::{Live, Saying, World};
use super::*;
use crate::config::Fsync;
use crate::disk::sim::{Fault, Op, Random, SimDisk};
use crate::history::{History, HistoryQuery};
use crate::import::ImportOutcome;
use crate::journal::testing::stored_checkpoint;
use crate::message::{self, Id, Metadata, SessionId, Timestamp};

const FULL: io::ErrorKind = io::ErrorKind::StorageFull;

/// A world that keeps drained segments for an hour and has room for ten transcripts.
fn world() -> World {
    let mut world = World::new(&mut Random(1), Fsync::Always);
    world.config.journal.retain = Duration::from_secs(3600);
    world.config.journal.max_bytes = 1 << 30;
    world.config.mongo.queue_capacity = 100;
    world.open().unwrap();
    world
}

fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

fn say(live: &Live, name: &str, text: &str) {
    let saying = Saying { session: session(name), text: text.to_owned(), keyed: false };
    live.say(&[saying]).unwrap();
}

/// What a reader of the session finds.
fn texts(history: &History<SimDisk>, name: &str) -> Vec<String> {
    let ask = HistoryQuery::newest(session(name), 500);
    history.read(&ask).unwrap().messages.iter().map(|(message, _)| message.text()).collect()
}

/// The texts of whole lines of a transcript, as they stand on the disk.
fn transcript(world: &World, name: &str) -> Vec<String> {
    let bytes = world.disk.peek(&world.transcript(&session(name))).unwrap_or_default();
    let whole = bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    whole.filter_map(message::Message::from_line).map(|message| message.text()).collect()
}

fn drained(world: &World) -> u64 {
    stored_checkpoint(&world.disk, &world.config.journal.path).drained
}

#[test]
fn a_line_after_a_torn_one_is_rewritten_before_the_checkpoint_passes() {
    let torn: fn(&mut Vec<u8>) = |bytes| bytes.extend_from_slice(b"a user's word");
    let cut: fn(&mut Vec<u8>) = |bytes| bytes.truncate(bytes.len() - 5);
    // The part cut off is written again from the journal, unless the transcript was closed before anyone read it.
    let cases = [(torn, false, 2), (torn, true, 2), (cut, false, 2), (cut, true, 1)];
    for (damage, closed, kept) in cases {
        let mut world = world();
        say(world.live.as_ref().unwrap(), "s", "one");
        world.live.as_mut().unwrap().drain();
        let path = world.transcript(&session("s"));
        world.disk.damage(&path, damage);
        let live = world.live.as_mut().unwrap();
        say(live, "s", "two");
        if closed {
            // More sessions than transcripts are kept open.
            (0..4).for_each(|n| say(live, &format!("other{n}"), "hi"));
        }
        live.drain();
        assert_eq!(transcript(&world, "s"), ["one", "two"][2 - kept..], "closed in between: {closed}");
        assert_eq!(drained(&world), world.live.as_ref().unwrap().journal.published());
    }
}

#[test]
fn a_failed_write_after_a_users_line_takes_nothing_acknowledged() {
    for theirs in ["what a user writes\n", "x"] {
        let mut world = world();
        say(world.live.as_ref().unwrap(), "s", "one");
        world.live.as_mut().unwrap().drain();
        let path = world.transcript(&session("s"));
        world.disk.damage(&path, |bytes| bytes.extend_from_slice(theirs.as_bytes()));
        // Longer than their line, so that a cut by our own length would go through it.
        say(world.live.as_ref().unwrap(), "s", &format!("two {}", "x".repeat(100)));
        world.disk.limit_room(world.disk.used());
        say(world.live.as_ref().unwrap(), "s", "three");
        world.disk.limit_room(usize::MAX);
        let live = world.live.as_mut().unwrap();
        live.a_moment_later();
        live.drain();
        live.a_moment_later();
        live.drain();
        assert_eq!(drained(&world), world.live.as_ref().unwrap().journal.published());
        let there = transcript(&world, "s");
        assert_eq!(there.len(), 3, "beside {theirs:?}: {there:?}");
    }
}

#[test]
fn an_import_ends_for_no_transcript_of_another_session() {
    let mut world = world();
    let (disk, clock) = (world.disk.clone(), world.clock.clone());
    let live = world.live.as_mut().unwrap();
    ["s", "whole", "other"].into_iter().for_each(|name| say(live, name, "one"));
    live.drain();
    // Two lack a line, and one of them goes on failing.
    for name in ["s", "other"] {
        disk.heal();
        disk.fail_every(Op::Write, &format!("/{name}.jsonl"), io::ErrorKind::Other);
        say(live, name, "two");
    }
    let (importer, journal, transcripts) = (&live.importer, &live.journal, &live.transcripts);
    let id = Id::least_of(Timestamp::from_micros(clock.now().micros() - 10_000_000));
    let older = |name| {
        let (session, metadata) = (session(name), Metadata::default());
        let draft = message::Draft { session: &session, role: "user", text: "older", metadata, vector_ids: &[] };
        Arc::new(draft.prepare().seal(id))
    };
    let messages = ["s", "whole"].map(older);
    disk.stall(Op::Read, ".segment");
    let (mended, outcome) = std::thread::scope(|scope| {
        let worker = scope.spawn(|| rebuild(transcripts, journal));
        disk.wait_until_stalled();
        let (calls, until) = (disk.calls(), Instant::now() + Duration::from_secs(30));
        let importing = scope.spawn(|| importer.import(&messages, &|| true));
        // It finds one transcript stale, opens the other and asks for its length, and waits for the worker.
        while disk.calls() < calls + 2 && !importing.is_finished() && Instant::now() < until {
            std::thread::yield_now();
        }
        disk.release();
        (worker.join().unwrap().unwrap().mended, importing.join().unwrap())
    });
    assert_eq!((mended, outcome.unwrap()), (1, vec![ImportOutcome::Imported; 2]));
    assert_eq!(transcripts.all_stale().len(), 3, "the other still; what was imported is not merged yet");
}

#[test]
fn a_full_disk_at_the_checkpoint_drops_a_drained_segment_to_store_it() {
    let mut world = world();
    let live = world.live.as_mut().unwrap();
    (0..20).for_each(|n| say(live, "s", &format!("{n} {}", "x".repeat(300))));
    live.drain();
    say(live, "s", "the last");
    let segments = live.journal.stats().segments;
    let before = drained(&world);
    world.disk.limit_room(world.disk.used());
    world.live.as_mut().unwrap().drain();
    let live = world.live.as_ref().unwrap();
    assert_eq!(live.journal.stats().segments, segments - 1, "one was given up");
    assert_eq!(drained(&world), before, "the old checkpoint stands");
    let live = world.live.as_mut().unwrap();
    live.drain();
    assert_eq!(drained(&world), world.live.as_ref().unwrap().journal.published());
}

#[test]
fn a_transcript_without_space_holds_the_checkpoint_but_no_reader() {
    let mut world = world();
    let live = world.live.as_mut().unwrap();
    say(live, "s", "one");
    say(live, "t", "one");
    live.drain();
    let before = drained(&world);
    world.disk.fail_every(Op::Write, "s.jsonl", FULL);
    let live = world.live.as_mut().unwrap();
    (2..6).for_each(|n| say(live, "s", &format!("{n}")));
    say(live, "t", "two");
    for _ in 0..3 {
        live.a_moment_later();
        live.drain();
        assert_eq!(texts(&live.history, "s"), ["one", "2", "3", "4", "5"]);
        assert_eq!(texts(&live.history, "t"), ["one", "two"]);
    }
    assert_eq!(transcript(&world, "t"), ["one", "two"], "one that cannot be written holds up no other");
    assert_eq!((drained(&world), transcript(&world, "s").len()), (before, 1));
    world.disk.heal();
    let live = world.live.as_mut().unwrap();
    live.a_moment_later();
    live.drain();
    assert_eq!(transcript(&world, "s"), ["one", "2", "3", "4", "5"]);
    assert_eq!(drained(&world), world.live.as_ref().unwrap().journal.published());
}

#[test]
fn a_transcript_not_synced_is_rewritten_before_the_checkpoint_passes() {
    let mut world = world();
    let live = world.live.as_mut().unwrap();
    say(live, "s", "one");
    live.drain();
    say(live, "s", "two");
    let before = drained(&world);
    world.disk.fail_every(Op::Sync, "s.jsonl", io::ErrorKind::Other);
    world.live.as_mut().unwrap().drain();
    assert_eq!(drained(&world), before);
    world.disk.heal();
    let live = world.live.as_mut().unwrap();
    live.a_moment_later();
    live.drain();
    assert_eq!(drained(&world), world.live.as_ref().unwrap().journal.published());
    // The journal is gone: what the checkpoint passed must still be in the transcript.
    world.kill(Some(&mut Random(5)));
    assert_eq!(transcript(&world, "s"), ["one", "two"]);
}

#[test]
fn what_a_transcript_took_before_it_became_stale_is_not_passed_unsynced() {
    for seed in 0..8 {
        let mut world = world();
        let live = world.live.as_mut().unwrap();
        say(live, "t", "one");
        live.work();
        say(live, "s", "two");
        world.disk.fail_every(Op::Write, "s.jsonl", FULL);
        let live = world.live.as_mut().unwrap();
        say(live, "s", "three");
        // The worker has not taken the second yet. The third cannot be put in its place: the file must be written anew.
        live.worker.flush();
        world.disk.heal();
        let live = world.live.as_mut().unwrap();
        live.work();
        live.worker.flush();
        world.kill(Some(&mut Random(seed)));
        let (drained, left) = (drained(&world), transcript(&world, "s"));
        assert!(drained < 2 || left.contains(&"two".to_owned()), "the checkpoint says {drained}, {left:?} is there");
    }
}

#[test]
fn history_waits_for_no_hanging_sync_of_journal_or_transcript() {
    for part in [".segment", ".jsonl"] {
        let mut world = world();
        let live = world.live.as_mut().unwrap();
        say(live, "s", "one");
        live.drain();
        say(live, "s", "two");
        let disk = world.disk.clone();
        disk.stall(Op::Sync, part);
        let Live { recorder, history, worker, journal, .. } = world.live.as_mut().unwrap();
        let read = |name: &str| texts(history, name).len();
        let saying = Saying { session: session("s"), text: "three".into(), keyed: false };
        std::thread::scope(|scope| {
            let hangs = scope.spawn(|| {
                if part == ".segment" {
                    recorder.record(vec![saying.draft()]).unwrap();
                } else {
                    worker.take_offered();
                    worker.flush();
                }
            });
            disk.wait_until_stalled();
            assert_eq!((read("s"), read("nobody")), (2, 0), "{part}");
            assert!(journal.is_writable() && journal.stats().published == 2, "{part}");
            if part == ".jsonl" {
                recorder.record(vec![saying.draft()]).unwrap();
                assert_eq!(read("s"), 3, "a transcript's sync holds up nobody who sends");
            }
            assert!(!hangs.is_finished());
            disk.release();
            hangs.join().unwrap();
        });
        let live = world.live.as_mut().unwrap();
        live.drain();
        assert_eq!((texts(&live.history, "s").len(), drained(&world)), (3, 3), "{part}");
    }
}

#[test]
fn a_page_whose_transcript_cannot_be_looked_at_is_refused_and_not_empty() {
    let beginning = Id::from_parts(Timestamp::from_micros(0), 0);
    for after in [None, Some(beginning)] {
        for call in 0.. {
            let mut world = world();
            say(world.live.as_ref().unwrap(), "s", "one");
            world.stop();
            world.open().unwrap();
            let live = world.live.as_ref().unwrap();
            // Compared once since the start, without bringing it into the cache.
            live.transcripts.stale(&session("s")).unwrap();
            world.disk.unlink(&world.transcript(&session("s")));
            let at = world.disk.calls() + call;
            world.disk.fault_at(at, Fault::Fail(io::ErrorKind::Other));
            let query = HistoryQuery { after, ..HistoryQuery::newest(session("s"), 10) };
            if let Ok(answer) = live.history.read(&query) {
                let found: Vec<String> = answer.messages.iter().map(|(message, _)| message.text()).collect();
                assert_eq!(found, ["one"], "after {after:?}, call {call}: {:?}", answer.incomplete);
            }
            if world.disk.calls() < at {
                break;
            }
        }
    }
}
