//! When a data folder's first sweep may remove something: an hour after it was announced.
//!
//! Old transcripts that a user puts into the folder, or a forgotten `mongo.ttl_days`, must not vanish before anybody
//! could read that they will. So the first sweep that would remove something is announced, and its due time is stored in a
//! small file next to the journal: a restart neither begins the hour again nor forgets it. Once a sweep has removed
//! something that is noted there too, and no later sweep waits. Numbers are little-endian. Format version 1:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CKSWEEP1` |
//! | 8 | 4 | format version |
//! | 12 | 1 | 1: a sweep has removed something; else 0 |
//! | 13 | 8 | when the first one is due, in microseconds since 1970 |
//! | 21 | 8 | the TTL it was announced with, in microseconds |
//! | 29 | 4 | CRC-32 of bytes 0..29 |
//!
//! A file that is missing, damaged or of another version means that nothing was announced: the worst is another hour. Knows
//! nothing of what is removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::disk::{self, Disk, RealDisk};
use crate::journal::codec::{Encoded, sealed, vouched_for};
use crate::message::Timestamp;

/// The time from the announcement to the sweep.
pub const NOTICE: Duration = Duration::from_secs(3600);

const LETTERS: &[u8; 8] = b"CKSWEEP1";
const VERSION: u32 = 1;

/// The state of the first sweep. One thread changes it and any may ask when the sweep is due; its lock is held for
/// memory access only.
pub struct FirstSweep<D: Disk = RealDisk> {
    disk: D,
    path: PathBuf,
    standing: Mutex<Standing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing was announced, or something else than would be removed now.
    Unannounced,
    /// Messages older than this TTL are removed from this moment on.
    Due { at: Timestamp, ttl: Duration },
    /// A sweep has removed something.
    Done,
}

impl Standing {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (_, mut fields) = vouched_for(LETTERS, bytes).filter(|(version, _)| *version == VERSION)?;
        let (done, at, ttl): (bool, u64, u64) = Encoded::take(&mut fields)?;
        Some(if done {
            Self::Done
        } else {
            Self::Due { at: Timestamp::from_micros(at), ttl: Duration::from_micros(ttl) }
        })
    }

    /// The file's bytes; `None` if there should be no file.
    fn encode(self) -> Option<Vec<u8>> {
        let fields = match self {
            Self::Unannounced => return None,
            Self::Due { at, ttl } => (false, at.micros(), micros(ttl)),
            Self::Done => (true, 0, 0),
        };
        Some(sealed(LETTERS, VERSION, 0, |to| fields.put(to)))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl<D: Disk> FirstSweep<D> {
    /// Reads the state from the file at `path`.
    pub fn load(disk: D, path: &Path) -> Self {
        let standing = match disk::read(&disk, path) {
            Ok(bytes) => Standing::decode(&bytes).ok_or_else(|| "it is damaged".to_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Standing::Unannounced),
            Err(e) => Err(e.to_string()),
        };
        let standing = standing.unwrap_or_else(|why| {
            log::warn!("{} cannot be read ({why}): the first sweep is announced again", path.display());
            Standing::Unannounced
        });
        Self { disk, path: path.to_owned(), standing: Mutex::new(standing) }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the announced sweep is due, until it has run.
    pub fn due(&self) -> Option<Timestamp> {
        match *self.standing() {
            Standing::Due { at, .. } => Some(at),
            Standing::Unannounced | Standing::Done => None,
        }
    }

    /// Whether a sweep may remove what is older than `ttl`.
    pub fn may_run(&self, now: Timestamp, ttl: Duration) -> bool {
        match *self.standing() {
            Standing::Unannounced => false,
            Standing::Due { at, ttl: announced } => announced == ttl && at <= now,
            Standing::Done => true,
        }
    }

    /// Announces that messages older than `ttl` will be removed, and returns when: an hour from now, or as announced
    /// before. Never fails: if the file cannot be written, a restart announces it again.
    pub fn announce(&self, now: Timestamp, ttl: Duration) -> Timestamp {
        let latest = Timestamp::from_micros(now.micros().saturating_add(micros(NOTICE)));
        match *self.standing() {
            // A later time was set by a clock that was turned back since.
            Standing::Due { at, ttl: announced } if announced == ttl && at <= latest => return at,
            _ => {}
        }
        self.change(Standing::Due { at: latest, ttl });
        latest
    }

    /// Nothing would be removed any more; a later sweep that would is announced again.
    pub fn forget(&self) {
        if self.due().is_some() {
            self.change(Standing::Unannounced);
        }
    }

    /// Notes that a sweep has removed something.
    pub fn done(&self) {
        if *self.standing() != Standing::Done {
            self.change(Standing::Done);
        }
    }

    fn change(&self, to: Standing) {
        *self.standing() = to;
        let written = match to.encode() {
            Some(bytes) => disk::replace(&self.disk, &self.path, &bytes),
            None => self.remove(),
        };
        if let Err(e) = written {
            log::warn!("{} cannot be written, so a restart may announce a sweep again: {e}", self.path.display());
        }
    }

    fn remove(&self) -> io::Result<()> {
        self.disk.remove(&self.path)?;
        self.disk.sync_dir(self.path.parent().unwrap_or(Path::new(".")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Fault, Random, SimDisk};

    const PATH: &str = "/journal/first_sweep";
    const DAY: Duration = Duration::from_secs(86_400);

    fn load(disk: &SimDisk) -> FirstSweep<SimDisk> {
        FirstSweep::load(disk.clone(), Path::new(PATH))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_hour_is_that_of_the_first_announcement_over_restarts() {
        let disk = SimDisk::default();
        assert!(!load(&disk).may_run(at(u64::MAX >> 20), DAY));
        assert_eq!(load(&disk).announce(at(1000), DAY), at(4600));
        for now in [1000, 2000, 4599] {
            let first = load(&disk);
            assert_eq!((first.due(), first.may_run(at(now), DAY)), (Some(at(4600)), false));
            assert_eq!(first.announce(at(now), DAY), at(4600));
        }
        assert!(load(&disk).may_run(at(4600), DAY));
        load(&disk).done();
        assert!(load(&disk).may_run(at(0), DAY) && load(&disk).may_run(at(0), DAY / 2));
        assert_eq!(load(&disk).due(), None);
    }

    #[test]
    fn another_ttl_or_a_clock_turned_back_is_announced_anew() {
        let disk = SimDisk::default();
        load(&disk).announce(at(100_000), 30 * DAY);
        assert!(!load(&disk).may_run(at(200_000), DAY), "nobody was told that a day is kept");
        assert_eq!(load(&disk).announce(at(200_000), DAY), at(203_600));
        assert_eq!(load(&disk).announce(at(1000), DAY), at(4600), "an hour, and not days");
        load(&disk).forget();
        assert_eq!((load(&disk).due(), disk.peek(Path::new(PATH))), (None, None));
    }

    #[test]
    fn a_damaged_cut_or_newer_file_announces_nothing() {
        let due = Standing::Due { at: at(7), ttl: DAY };
        for standing in [due, Standing::Done] {
            let bytes = standing.encode().unwrap();
            assert_eq!(Standing::decode(&bytes), Some(standing));
            for place in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1;
                assert_eq!(Standing::decode(&damaged), None, "byte {place}");
                assert_eq!(Standing::decode(&bytes[..place]), None, "cut at {place}");
            }
        }
        assert_eq!(Standing::decode(&sealed(LETTERS, 2, 0, |to| (true, 0_u64, 0_u64).put(to))), None);
    }

    #[test]
    fn a_crash_at_any_call_leaves_what_was_announced_or_nothing() {
        type Change = fn(&FirstSweep<SimDisk>);
        let changes: [(Change, &[Option<Timestamp>]); 4] = [
            (|first| _ = first.announce(at(5000), 2 * DAY), &[Some(at(4600)), Some(at(8600))]),
            (FirstSweep::done, &[Some(at(4600)), None]),
            (FirstSweep::forget, &[Some(at(4600)), None]),
            (|first| _ = first.announce(at(2000), DAY), &[Some(at(4600))]),
        ];
        for (change, dues) in changes {
            for (call, seed) in (0..10).flat_map(|call| (0..20).map(move |seed| (call, seed))) {
                let disk = SimDisk::default();
                load(&disk).announce(at(1000), DAY);
                let first = load(&disk);
                disk.fault_at(disk.calls() + call, Fault::PowerOff);
                change(&first);
                disk.power_cut(&mut Random(seed));
                let first = load(&disk);
                assert!(dues.contains(&first.due()), "call {call}, seed {seed}: {:?}", first.due());
                assert!(!first.may_run(at(2000), DAY) || first.due().is_none(), "call {call}, seed {seed}");
            }
        }
    }
}
