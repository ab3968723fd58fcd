//! Transcripts that differ from the journal, become stale, fail or vanish, and how they come back.
//!
//! Compiled under `#[cfg(test)]` only.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::tests::*;
use super::*;
use crate::message::{Direction, Draft, Metadata};

/// A journal that has every message up to `published`.
fn journal(published: u64) -> impl FnMut(u64, Take<'_>) -> io::Result<u64> {
    move |after, take| {
        (after + 1..=published).for_each(|number| take(number, &message(number), Provenance::Recorded));
        Ok(published)
    }
}

fn of_session(name: &str, number: u64) -> Arc<Message> {
    let session = SessionId::new(name).unwrap();
    let draft = Draft { session: &session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] };
    Arc::new(draft.prepare().seal(id(number)))
}

fn numbers(transcripts: &Transcripts<impl Disk>, session: &SessionId) -> Vec<u64> {
    let page = transcripts.read(session, &query(Direction::Oldest, 500)).unwrap();
    page.messages.iter().map(|message| number(message)).collect()
}

#[test]
fn a_replay_leaves_a_right_transcript_alone_and_mends_every_other() {
    let fixture = Fixture::new();
    fixture.fill(1..=6);
    let whole = fs::read(fixture.path()).unwrap();
    let starts: Vec<usize> =
        std::iter::once(0).chain(whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1)).collect();
    let mut cases = vec![whole.clone()];
    // Cut anywhere in what the replay covers (4 to 6), or with zeros or garbage in it, as a power cut leaves it.
    cases.extend((starts[3]..whole.len()).step_by(11).map(|end| whole[..end].to_vec()));
    cases.extend((starts[3]..whole.len()).step_by(43).map(|at| {
        let mut zeroed = whole.clone();
        zeroed[at..].fill(0);
        zeroed
    }));
    for (index, case) in cases.iter().enumerate() {
        fs::write(fixture.path(), case).unwrap();
        let transcripts = Fixture::reopen(&fixture);
        let mut replay = transcripts.replay();
        for number in 4..=6 {
            replay.message(number, &message(number));
        }
        assert_eq!(replay.end() == 0, index == 0, "case {index}");
        assert_eq!(fs::read(fixture.path()).unwrap(), whole, "case {index}");
    }
}

#[test]
fn a_transcript_that_cannot_be_written_becomes_stale_and_is_rebuilt() {
    let fixture = Fixture::new();
    fixture.fill(1..=3);
    // A folder in its place: no user can open it as a file, not even root.
    let away = fixture.folder.path().join("away");
    fs::rename(fixture.path(), &away).unwrap();
    fs::create_dir(fixture.path()).unwrap();
    let transcripts = Fixture::reopen(&fixture);
    assert_eq!(transcripts.append(&fixture.session, &[(4, &message(4)), (5, &message(5))]), AppendOutcome::Stale);
    assert_eq!(transcripts.append(&fixture.session, &[(6, &message(6))]), AppendOutcome::Stale);
    assert_eq!(
        transcripts.stale(&fixture.session).unwrap(),
        Some(Stale { first: 4, last: 6, suspect: false, erased: None })
    );
    assert_eq!(transcripts.first_lacking(), Some(4));
    let rebuilt = transcripts.rebuild(journal(6)).unwrap();
    assert!((rebuilt.mended, rebuilt.lacking) == (0, 1) && rebuilt.fault.is_some(), "it still cannot be written");
    fs::remove_dir(fixture.path()).unwrap();
    fs::rename(&away, fixture.path()).unwrap();
    assert_eq!(transcripts.rebuild(journal(6)).unwrap().mended, 1);
    assert_eq!(transcripts.first_lacking(), None);
    transcripts.append(&fixture.session, &[(7, &message(7))]);
    assert_eq!(fixture.read(&query(Direction::Newest, 50)).0, (1..=7).collect::<Vec<_>>());
}

#[test]
fn a_rebuild_advances_under_load_and_ends_when_messages_pause() {
    let fixture = Fixture::new();
    let Fixture { transcripts, session, .. } = &fixture;
    fixture.fill(1..=3);
    transcripts.mark_stale(session, 4, 4);
    let (mut published, mut fed, mut pause_at) = (4, Vec::new(), u64::MAX);
    let mut feed = |after: u64, take: Take<'_>| {
        (after + 1..=published).for_each(|number| take(number, &message(number), Provenance::Recorded));
        fed.push(published - after);
        let reached = published;
        // One more is published before the rebuild can look again.
        if published < pause_at {
            transcripts.append(session, &[(published + 1, &message(published + 1))]);
            published += 1;
        }
        Ok(reached)
    };
    assert_eq!(transcripts.rebuild(&mut feed).unwrap().lacking, 1);
    let first = transcripts.stale(session).unwrap().unwrap();
    assert!(first.first == 5 && !first.suspect, "{first:?}: what was synced is not looked at again");
    pause_at = 80;
    let mut feed = |after: u64, take: Take<'_>| {
        (after + 1..=published).for_each(|number| take(number, &message(number), Provenance::Recorded));
        let reached = published;
        if published < pause_at {
            transcripts.append(session, &[(published + 1, &message(published + 1))]);
            published += 1;
        }
        Ok(reached)
    };
    assert_eq!(transcripts.rebuild(&mut feed).unwrap().lacking, 0);
    assert!(fed[1..].iter().all(|&count| count == 1), "each round reads only what is new: {fed:?}");
    assert_eq!(numbers(transcripts, session), (1..=80).collect::<Vec<_>>());
}

#[test]
fn one_transcript_that_cannot_be_written_holds_up_no_other() {
    let fixture = Fixture::new();
    let (bad, good) = (SessionId::new("bad").unwrap(), SessionId::new("good").unwrap());
    fs::create_dir(fixture.folder.path().join("bad.jsonl")).unwrap();
    let feed = |_: u64, take: Take<'_>| {
        for number in 1..=4 {
            take(number, &of_session(if number % 2 == 1 { "bad" } else { "good" }, number), Provenance::Recorded);
        }
        Ok(4)
    };
    for (session, first) in [(&bad, 1), (&good, 2)] {
        fixture.transcripts.mark_stale(session, first, 4);
    }
    let rebuilt = fixture.transcripts.rebuild(feed).unwrap();
    assert_eq!((rebuilt.mended, rebuilt.lacking), (1, 1));
    assert_eq!(fixture.transcripts.stale(&good).unwrap(), None);
    assert_eq!(fixture.transcripts.first_lacking(), Some(1));
    assert_eq!(numbers(&fixture.transcripts, &good), [2, 4]);
}

#[test]
fn at_the_start_an_unwritable_transcript_is_stale_and_the_others_right() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.folder.path().join("bad.jsonl")).unwrap();
    let mut replay = fixture.transcripts.replay();
    for number in 1..=4 {
        replay.message(number, &of_session(if number == 3 { "bad" } else { "s" }, number));
    }
    replay.end();
    assert_eq!(fixture.transcripts.first_lacking(), Some(3));
    assert_eq!(numbers(&fixture.transcripts, &fixture.session), [1, 2, 4]);
}

#[test]
fn a_line_that_the_journal_lost_stays_in_the_transcript() {
    let fixture = Fixture::new();
    fixture.fill(1..=6);
    for kept in [vec![4, 6], vec![6], vec![4], vec![3, 5]] {
        let transcripts = Fixture::reopen(&fixture);
        let mut replay = transcripts.replay();
        kept.iter().for_each(|&number| replay.message(number, &message(number)));
        assert_eq!(replay.end(), 0, "{kept:?}");
        assert_eq!(fixture.read(&query(Direction::Newest, 50)).0, (1..=6).collect::<Vec<_>>(), "{kept:?}");
    }
}

#[test]
fn a_missing_line_goes_where_it_belongs_and_only_garbage_leaves() {
    let fixture = Fixture::new();
    fixture.fill(1..=3);
    let mut text = fs::read(fixture.path()).unwrap();
    text.extend_from_slice(b"no message\n");
    fs::write(fixture.path(), &text).unwrap();
    let transcripts = Fixture::reopen(&fixture);
    for number in [6, 7] {
        transcripts.append(&fixture.session, &[(number, &message(number))]);
    }
    let mut replay = Fixture::reopen(&fixture).replay_of(&[3, 4, 5, 6]);
    assert_eq!(replay.pop(), Some(3));
    assert_eq!(fixture.read(&query(Direction::Newest, 50)).0, (1..=7).collect::<Vec<_>>());
    assert!(!String::from_utf8(fs::read(fixture.path()).unwrap()).unwrap().contains("no message"));
    let aside = fs::read_dir(fixture.folder.path().join("quarantine")).unwrap().next().unwrap().unwrap();
    assert_eq!(fs::read(aside.path()).unwrap(), b"no message\n");
}

impl Transcripts {
    /// Replays these and returns how many lines were written.
    fn replay_of(&self, numbers: &[u64]) -> Vec<u64> {
        let mut replay = self.replay();
        numbers.iter().for_each(|&number| replay.message(number, &message(number)));
        vec![replay.end()]
    }
}

#[test]
fn what_a_failed_sync_covered_is_written_anew_and_not_compared() {
    let fixture = Fixture::new();
    fixture.fill(1..=6);
    let before = fs::metadata(fixture.path()).unwrap();
    let content = fs::read(fixture.path()).unwrap();
    fixture.transcripts.mark_stale(&fixture.session, 4, 6);
    assert_eq!(fixture.transcripts.rebuild(journal(6)).unwrap().mended, 1);
    assert_ne!(fs::metadata(fixture.path()).unwrap().ino(), before.ino(), "it is the same file");
    assert_eq!(fs::read(fixture.path()).unwrap(), content);
    fixture.fill(7..=7);
    assert_eq!(numbers(&fixture.transcripts, &fixture.session), (1..=7).collect::<Vec<_>>());
}

#[test]
fn a_rewrite_keeps_what_the_journal_lost() {
    let fixture = Fixture::new();
    fixture.fill(1..=8);
    fixture.transcripts.mark_stale(&fixture.session, 4, 8);
    let feed = |_: u64, take: Take<'_>| {
        [4, 6].into_iter().for_each(|number| take(number, &message(number), Provenance::Recorded));
        Ok(8)
    };
    assert_eq!(fixture.transcripts.rebuild(feed).unwrap().mended, 1);
    assert_eq!(numbers(&fixture.transcripts, &fixture.session), (1..=8).collect::<Vec<_>>());
}

#[test]
fn a_transcript_that_was_removed_or_replaced_is_missed_at_the_next_sync() {
    for others in [0, 20] {
        for replaced in [false, true] {
            let fixture = Fixture::new();
            let Fixture { transcripts, session, .. } = &fixture;
            fixture.fill(1..=3);
            let mut touched = vec![session.clone()];
            fs::remove_file(fixture.path()).unwrap();
            if replaced {
                fs::write(fixture.path(), b"").unwrap();
            }
            fixture.fill(4..=6);
            // Enough other files, so that the removed one is closed and the whole file system is synced.
            for other in 1..=others {
                let name = format!("other-{other}");
                transcripts.append(&SessionId::new(&name).unwrap(), &[(6 + other, &of_session(&name, other))]);
                touched.push(SessionId::new(&name).unwrap());
            }
            assert_eq!(
                transcripts.sync(touched.iter()).unwrap(),
                std::slice::from_ref(session),
                "{others}, {replaced}"
            );
            transcripts.mark_stale(session, 4, 6);
            fixture.fill(7..=7);
            assert_eq!(transcripts.rebuild(journal(7)).unwrap().mended, 1);
            assert_eq!(numbers(transcripts, session), [4, 5, 6, 7], "{others}, {replaced}");
            assert!(transcripts.sync([session].into_iter()).unwrap().is_empty());
        }
    }
}

#[test]
fn a_folder_that_was_removed_is_made_again() {
    let fixture = Fixture::new();
    fixture.fill(1..=2);
    fs::remove_dir_all(fixture.folder.path()).unwrap();
    fixture.fill(3..=3);
    assert_eq!(
        fixture.transcripts.sync([&fixture.session].into_iter()).unwrap(),
        std::slice::from_ref(&fixture.session)
    );
    fixture.transcripts.mark_stale(&fixture.session, 1, 3);
    assert_eq!(fixture.transcripts.rebuild(journal(3)).unwrap().mended, 1);
    assert_eq!(numbers(&fixture.transcripts, &fixture.session), [1, 2, 3]);
    fs::remove_dir_all(fixture.folder.path()).unwrap();
    let appended = fixture.transcripts.append(&SessionId::new("new").unwrap(), &[(4, &of_session("new", 4))]);
    assert_eq!(appended, AppendOutcome::Written { first_ever: true });
}

/// The real disk, whose files can be made to fail their syncs, and which notes the folders it synced.
#[derive(Clone, Default)]
struct Watched {
    fails: Arc<AtomicBool>,
    synced: Arc<Mutex<Vec<PathBuf>>>,
}

struct WatchedFile(File, Arc<AtomicBool>);

impl Watched {
    fn file(&self, file: io::Result<File>) -> io::Result<WatchedFile> {
        Ok(WatchedFile(file?, self.fails.clone()))
    }
}

impl Disk for Watched {
    type File = WatchedFile;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<WatchedFile> {
        self.file(RealDisk.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<WatchedFile> {
        self.file(RealDisk.open(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<WatchedFile> {
        self.file(RealDisk.open_read(path))
    }
    fn open_append(&self, path: &Path) -> io::Result<WatchedFile> {
        self.file(RealDisk.open_append(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.synced.lock().unwrap().push(path.to_owned());
        RealDisk.sync_dir(path)
    }
    fn sync_all(&self, _: &Path) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) { Err(io::Error::other("lost")) } else { Ok(()) }
    }
}

impl DiskFile for WatchedFile {
    fn byte_len(&self) -> io::Result<u64> {
        self.0.byte_len()
    }
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        DiskFile::read_at(&self.0, to, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        DiskFile::write_all_at(&self.0, bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) { Err(io::Error::other("lost")) } else { Ok(()) }
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        DiskFile::set_len(&self.0, len)
    }
    fn is_same(&self, other: &Self) -> io::Result<bool> {
        self.0.is_same(&other.0)
    }
}

#[test]
fn a_failed_sync_is_told_and_an_unsynced_rewrite_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Watched::default();
    let transcripts = Transcripts::open(disk.clone(), folder.path(), NonZeroUsize::new(2).unwrap()).unwrap();
    let session = SessionId::new("s").unwrap();
    for number in 1..=3 {
        transcripts.append(&session, &[(number, &message(number))]);
    }
    let inode = || fs::metadata(folder.path().join("s.jsonl")).unwrap().ino();
    let before = inode();
    disk.fails.store(true, Ordering::Relaxed);
    assert_eq!(transcripts.sync([&session].into_iter()).unwrap(), std::slice::from_ref(&session));
    transcripts.mark_stale(&session, 1, 3);
    assert_eq!(transcripts.rebuild(journal(3)).unwrap().lacking, 1);
    assert_eq!((inode(), transcripts.first_lacking()), (before, Some(1)));
    disk.fails.store(false, Ordering::Relaxed);
    assert_eq!(transcripts.rebuild(journal(3)).unwrap().lacking, 0);
    assert_ne!(inode(), before);
    assert_eq!(numbers(&transcripts, &session), [1, 2, 3]);
}

#[test]
fn the_names_of_new_folders_are_durable() {
    let above = tempfile::tempdir().unwrap();
    let disk = Watched::default();
    let folder = above.path().join("cache/chat_sessions");
    Transcripts::open(disk.clone(), &folder, NonZeroUsize::new(2).unwrap()).unwrap();
    let synced = disk.synced.lock().unwrap();
    for parent in [above.path().join("cache"), above.path().to_owned()] {
        assert!(synced.contains(&parent), "{synced:?}");
    }
}

#[test]
fn a_sweep_that_cannot_sync_its_source_leaves_it_to_a_rebuild() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, now) = (Watched::default(), Arc::default());
    let transcripts = Transcripts::open(disk.clone(), folder.path(), NonZeroUsize::new(2).unwrap()).unwrap();
    let transcripts = transcripts.expiring(expire_tests::one_day(&now));
    let session = SessionId::new("s").unwrap();
    for number in 1..=9 {
        transcripts.append(&session, &[(number, &message(number))]);
    }
    expire_tests::expire_before(&now, 7);
    disk.fails.store(true, Ordering::Relaxed);
    assert!(expire_tests::sweep(&transcripts).1.is_some());
    disk.fails.store(false, Ordering::Relaxed);
    let swept = expire_tests::sweep(&transcripts).0;
    assert_eq!(swept.rewritten, 0, "a second sync says nothing of what the first one lost");
    assert_eq!(transcripts.sync([&session].into_iter()).unwrap(), std::slice::from_ref(&session));
    transcripts.mark_stale(&session, 1, 9);
    assert_eq!(transcripts.rebuild(journal(9)).unwrap().mended, 1);
    assert_eq!(expire_tests::sweep(&transcripts).0.rewritten, 1);
    assert_eq!(numbers(&transcripts, &session), [7, 8, 9]);
}

#[test]
fn what_is_imported_while_a_rebuild_goes_on_stands_in_its_place() {
    for suspect in [false, true] {
        let fixture = Fixture::new();
        let Fixture { transcripts, session, .. } = &fixture;
        fixture.fill(9..=9);
        if suspect {
            transcripts.mark_stale(session, 9, 9);
        }
        transcripts.imported(session, 10, 11);
        // Each round finds two more, older than the line that the file ends with.
        let mut published = 9;
        let mut feed = |after: u64, take: Take<'_>| {
            published = (published + 2).min(15);
            for sequence in after + 1..=published {
                match sequence {
                    9 => take(9, &message(9), Provenance::Recorded),
                    _ => take(sequence, &message(sequence - 9), Provenance::Imported),
                }
            }
            let next = (published + 1).min(15);
            transcripts.imported(session, next, next);
            Ok(published)
        };
        while transcripts.first_lacking().is_some() {
            transcripts.rebuild(&mut feed).unwrap();
        }
        let lines = fs::read_to_string(fixture.path()).unwrap();
        let ids: Vec<Id> = lines.lines().map(|line| Message::id_of_line(line.as_bytes()).unwrap()).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6, 9].map(id), "suspect: {suspect}");
    }
}
