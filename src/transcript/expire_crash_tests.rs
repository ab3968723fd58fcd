//! Sweeps on a disk that fails or loses power at any call, and beside appends and syncs until it does.
//!
//! Compiled under `#[cfg(test)]` only. Checked each time: every line that was synced and has not expired is there once,
//! in order.

use crate::message::Direction;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;

use super::expire_tests::{expire_before, one_day, short, sweep};
use super::tests::*;
use super::*;
use crate::disk::sim::{Fault, Random, SimDisk, SimFile};

const FOLDER: &str = "/chats";

fn open(disk: &SimDisk, now: &Arc<AtomicU64>) -> Transcripts<SimDisk> {
    let open_max = NonZeroUsize::new(2).unwrap();
    Transcripts::open(disk.clone(), Path::new(FOLDER), open_max).unwrap().expiring(one_day(now))
}

fn fill(transcripts: &Transcripts<SimDisk>, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        transcripts.append(&SessionId::new("s").unwrap(), &[(number, &short("s", number))]);
    }
}

fn feed(published: u64) -> impl FnMut(u64, Take<'_>) -> io::Result<u64> {
    move |after, take| {
        (after + 1..=published).for_each(|number| take(number, &short("s", number), Provenance::Recorded));
        Ok(published)
    }
}

/// What the worker does until everything that was appended, from `first` on, is safe.
fn flush(transcripts: &Transcripts<SimDisk>, first: u64, last: u64) {
    let session = SessionId::new("s").unwrap();
    if !transcripts.sync([&session].into_iter()).unwrap().is_empty() {
        transcripts.mark_stale(&session, first, last);
    }
    transcripts.rebuild(feed(last)).unwrap();
    assert_eq!(transcripts.first_lacking(), None);
}

/// The numbers that a reader finds from `bound` on.
fn numbers(transcripts: &Transcripts<SimDisk>, name: &str, bound: u64) -> Vec<u64> {
    let page = transcripts.read(&SessionId::new(name).unwrap(), &query(Direction::Oldest, 100_000)).unwrap();
    page.messages.iter().map(|message| number(message)).filter(|number| *number >= bound).collect()
}

/// A disk with a synced transcript of 1 to 20 and lines up to 23 that are not synced, and what has expired of it.
fn before_the_sweep(bound: u64) -> (SimDisk, Arc<AtomicU64>, Transcripts<SimDisk>) {
    let (disk, now) = (SimDisk::default(), Arc::new(AtomicU64::new(0)));
    let transcripts = open(&disk, &now);
    fill(&transcripts, 1..=20);
    flush(&transcripts, 1, 20);
    fill(&transcripts, 21..=23);
    expire_before(&now, bound);
    (disk, now, transcripts)
}

/// Which calls of the disk a sweep makes.
fn calls_of_a_sweep(bound: u64) -> std::ops::RangeInclusive<u64> {
    let (disk, _now, transcripts) = before_the_sweep(bound);
    let first = disk.calls() + 1;
    let swept = sweep(&transcripts).0;
    assert_eq!((swept.rewritten, swept.removed), if bound > 23 { (0, 1) } else { (1, 0) });
    first..=disk.calls()
}

#[test]
fn a_power_cut_amid_a_sweep_leaves_every_synced_unexpired_line() {
    for bound in [11, 22, 24] {
        for call in calls_of_a_sweep(bound) {
            for seed in 0..12 {
                let (disk, now, transcripts) = before_the_sweep(bound);
                disk.fault_at(call, Fault::PowerOff);
                sweep(&transcripts);
                disk.power_cut(&mut Random(seed));
                let transcripts = open(&disk, &now);
                let found = numbers(&transcripts, "s", bound);
                let wanted: Vec<u64> = (bound..=20).collect();
                assert!(found.starts_with(&wanted), "before {bound}, call {call}, seed {seed}: {found:?}");
                assert!(disk.paths().iter().all(|path| !path.starts_with("/chats/rewriting")), "{:?}", disk.paths());
                // The journal has the others.
                let mut replay = transcripts.replay();
                (21..=23).for_each(|number| replay.message(number, &short("s", number)));
                replay.end();
                assert_eq!(transcripts.first_lacking(), None);
                assert_eq!(numbers(&transcripts, "s", bound), (bound..=23).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_sweep_with_any_failing_call_loses_nothing_the_worker_takes() {
    let faults = [Fault::Fail(io::ErrorKind::Other), Fault::Fail(io::ErrorKind::StorageFull), Fault::Short];
    for bound in [11, 22, 24] {
        for call in calls_of_a_sweep(bound) {
            for (fault, seed) in faults.iter().flat_map(|fault| (0..4).map(move |seed| (*fault, seed))) {
                let (disk, now, transcripts) = before_the_sweep(bound);
                disk.fault_at(call, fault);
                sweep(&transcripts);
                disk.heal();
                fill(&transcripts, 24..=25);
                let case = format!("before {bound}, call {call}, {fault:?}, seed {seed}");
                assert_eq!(numbers(&transcripts, "s", bound), (bound..=25).collect::<Vec<_>>(), "{case}");
                flush(&transcripts, 21, 25);
                // A second sweep does what the first could not; the lines must be safe without it.
                if seed % 2 == 0 {
                    sweep(&transcripts);
                }
                disk.power_cut(&mut Random(seed));
                let transcripts = open(&disk, &now);
                assert_eq!(numbers(&transcripts, "s", bound), (bound..=25).collect::<Vec<_>>(), "{case}");
            }
        }
    }
}

#[test]
fn what_was_appended_behind_a_rewrite_is_safe_once_the_worker_says_so() {
    for (bound, seed) in [11, 22, 24].into_iter().flat_map(|bound| (0..40).map(move |seed| (bound, seed))) {
        let (disk, now, transcripts) = before_the_sweep(bound);
        sweep(&transcripts);
        fill(&transcripts, 24..=26);
        flush(&transcripts, 21, 26);
        fill(&transcripts, 27..=27);
        disk.power_cut(&mut Random(seed));
        let found = numbers(&open(&disk, &now), "s", bound);
        assert!(found.starts_with(&(bound..=26).collect::<Vec<_>>()), "before {bound}, seed {seed}: {found:?}");
    }
}

/// Appends, syncs and sweeps side by side until the power fails at that call. Returns what the last good sync covers,
/// and the first number that had not expired by then.
fn until_the_power_goes(disk: &SimDisk, now: &Arc<AtomicU64>, call: u64) -> (u64, u64) {
    let transcripts = open(disk, now);
    disk.fault_at(call, Fault::PowerOff);
    let names = ["a", "b"];
    let sessions = names.map(|name| SessionId::new(name).unwrap());
    let (newest, durable, bound) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let off = AtomicBool::new(false);
    // Each thread waits for new work, so that few calls of the disk are wasted.
    let waits_for = |number: u64| {
        while newest.load(Ordering::Acquire) < number && !off.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        newest.load(Ordering::Acquire)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                let which = number as usize % 2;
                let appended = transcripts.append(&sessions[which], &[(number, &short(names[which], number))]);
                if appended == AppendOutcome::Stale {
                    break;
                }
                newest.store(number, Ordering::Release);
                // Neither of the others falls behind, however seldom it gets a processor.
                let is_ahead = |of: &AtomicU64, by| number > of.load(Ordering::Acquire) + by;
                while (is_ahead(&durable, 40) || is_ahead(&bound, 60)) && !off.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
            }
            off.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !off.load(Ordering::Acquire) {
                let taken = waits_for(durable.load(Ordering::Acquire) + 5);
                if !transcripts.sync(sessions.iter()).is_ok_and(|unsafe_ones| unsafe_ones.is_empty()) {
                    break;
                }
                durable.store(taken, Ordering::Release);
            }
            off.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !off.load(Ordering::Acquire) {
                let before = bound.load(Ordering::Acquire);
                let living = waits_for(before + 12).saturating_sub(8).max(before);
                bound.store(living, Ordering::Release);
                expire_before(now, living);
                sweep(&transcripts);
            }
        });
    });
    (durable.into_inner(), bound.into_inner())
}

#[test]
fn a_sync_beside_appends_and_sweeps_claims_no_line_that_a_power_cut_takes() {
    let mut swept_before = 0;
    for round in 0..300 {
        let (disk, now) = (SimDisk::default(), Arc::new(AtomicU64::new(0)));
        let (durable, bound) = until_the_power_goes(&disk, &now, 300 + round * 7);
        disk.power_cut(&mut Random(round));
        let transcripts = open(&disk, &now);
        for (which, name) in ["a", "b"].iter().enumerate() {
            let found = numbers(&transcripts, name, 1);
            swept_before += u64::from(found.first().is_some_and(|first| *first > 2));
            let wanted: Vec<u64> = (bound.max(1)..=durable).filter(|number| *number as usize % 2 == which).collect();
            let there: Vec<u64> = found.iter().copied().filter(|number| (bound..=durable).contains(number)).collect();
            assert_eq!(there, wanted, "round {round}, {name}: {found:?}");
        }
    }
    assert!(swept_before > 100, "{swept_before} transcripts were ever written anew");
}

/// A disk whose file syncs call back, with their thread, before they happen and after.
#[derive(Clone)]
struct Hooked(SimDisk, Hook);

type Hook = Arc<dyn Fn(When) + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    BeforeSync,
    AfterSync,
}

struct HookedFile(SimFile, Hook);

impl Hooked {
    fn file(&self, file: io::Result<SimFile>) -> io::Result<HookedFile> {
        Ok(HookedFile(file?, self.1.clone()))
    }
}

impl Disk for Hooked {
    type File = HookedFile;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<HookedFile> {
        self.file(self.0.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<HookedFile> {
        self.file(self.0.open(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<HookedFile> {
        self.file(self.0.open_read(path))
    }
    fn open_append(&self, path: &Path) -> io::Result<HookedFile> {
        self.file(self.0.open_append(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.0.sync_all(path)
    }
}

impl DiskFile for HookedFile {
    fn byte_len(&self) -> io::Result<u64> {
        self.0.byte_len()
    }
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(to, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        (self.1)(When::BeforeSync);
        self.0.sync()?;
        (self.1)(When::AfterSync);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

/// Appends a line right after the new file was synced; then the worker's sync opens the old file, and only then the
/// files are swapped: the moment in which a sync could vouch for a line that is durable nowhere.
fn sync_in_the_middle_of_a_sweep(disk: &SimDisk) -> (Arc<AtomicU64>, Vec<SessionId>) {
    const WAIT_TIMEOUT: Duration = Duration::from_millis(100);
    let (to_worker, told) = bounded::<()>(1);
    let (to_sweep, worker_is_in) = bounded::<()>(1);
    let (to_sync, swept) = bounded::<()>(1);
    let the_transcripts: Arc<OnceLock<Transcripts<Hooked>>> = Arc::default();
    let (hook_transcripts, sweeper, syncs) =
        (the_transcripts.clone(), Arc::new(OnceLock::new()), Arc::new(AtomicU64::new(0)));
    let hook_sweeper = sweeper.clone();
    let hook: Hook = Arc::new(move |when| {
        let Some(sweeper) = hook_sweeper.get() else { return };
        if *sweeper != std::thread::current().id() {
            if when == When::BeforeSync {
                let _ = to_sweep.send(());
                // With one lock for both, this wait times out.
                let _ = swept.recv_timeout(WAIT_TIMEOUT);
            }
        } else if when == When::AfterSync && syncs.fetch_add(1, Ordering::Relaxed) == 1 {
            let transcripts = hook_transcripts.get().unwrap();
            transcripts.append(&SessionId::new("s").unwrap(), &[(24, &short("s", 24))]);
            to_worker.send(()).unwrap();
            let _ = worker_is_in.recv_timeout(WAIT_TIMEOUT);
        }
    });
    let (now, open_max) = (Arc::new(AtomicU64::new(0)), NonZeroUsize::new(2).unwrap());
    let transcripts = Transcripts::open(Hooked(disk.clone(), hook), Path::new(FOLDER), open_max).unwrap();
    let transcripts = the_transcripts.get_or_init(|| transcripts.expiring(one_day(&now)));
    let session = SessionId::new("s").unwrap();
    (1..=23).for_each(|number| _ = transcripts.append(&session, &[(number, &short("s", number))]));
    expire_before(&now, 11);
    let unsafe_ones = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            told.recv().unwrap();
            transcripts.sync([&session].into_iter()).unwrap()
        });
        sweeper.set(std::thread::current().id()).unwrap();
        assert_eq!(sweep(transcripts).0.rewritten, 1);
        let _ = to_sync.send(());
        worker.join().unwrap()
    });
    (now, unsafe_ones)
}

#[test]
fn a_sync_amid_a_sweep_covers_the_file_that_has_the_name_in_the_end() {
    for seed in 0..8 {
        let disk = SimDisk::default();
        let (now, unsafe_ones) = sync_in_the_middle_of_a_sweep(&disk);
        assert_eq!(unsafe_ones, []);
        disk.power_cut(&mut Random(seed));
        assert_eq!(numbers(&open(&disk, &now), "s", 11), (11..=24).collect::<Vec<_>>(), "seed {seed}");
    }
}
