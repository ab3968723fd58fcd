//! Faults of a simulated disk: at one call, at every call of a kind on some files until it is healed, on an unreadable
//! range of a file, for lack of space, or a hang until it is released.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use super::{SimDisk, Target, World};

/// How long a test waits for a call to hang before it has failed.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// What goes wrong at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and nothing of it happens.
    Fail(io::ErrorKind),
    /// A write is half done, then fails; any other call fails.
    Short,
    /// The power fails: this call and all later ones fail until [`SimDisk::power_cut`] or [`SimDisk::heal`].
    PowerOff,
}

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read of a file's bytes.
    Read,
    /// A write, or a change of a file's length.
    Write,
    /// A sync of a file, a folder or the disk.
    Sync,
    /// A change of names or lengths.
    Name,
}

/// How much of a call is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Done,
    /// A half of a write.
    Half,
}

/// Calls of that kind on files whose path contains that.
#[derive(Clone, Debug)]
struct Filter(Op, String);

impl Filter {
    fn fits(&self, op: Op, paths: &[PathBuf]) -> bool {
        self.0 == op && paths.iter().any(|path| path.to_string_lossy().contains(&self.1))
    }
}

/// All that goes wrong.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// By the number of the call.
    pub(super) planned: Vec<(u64, Fault)>,
    pub(super) off: bool,
    /// The most all files may take, in bytes.
    pub(super) space: Option<usize>,
    lasting: Vec<(Filter, io::ErrorKind)>,
    unreadable: Vec<(usize, Range<usize>)>,
    stall: Option<Filter>,
    /// Calls that hang.
    hanging: usize,
}

impl SimDisk {
    /// Lets `fault` happen at the `call`-th call from the start, in addition to others that are planned.
    pub fn fault_at(&self, call: u64, fault: Fault) {
        self.world().faults.planned.push((call, fault));
    }

    /// Lets every call of that kind fail on files whose path contains `part`, until it is healed.
    pub fn fail_every(&self, op: Op, part: &str, kind: io::ErrorKind) {
        self.world().faults.lasting.push((Filter(op, part.to_owned()), kind));
    }

    /// Lets every read that touches that stretch of a file fail with EIO, until it is healed.
    pub fn lose_sectors(&self, path: &Path, range: Range<usize>) {
        let mut world = self.world();
        let inode = world.names[path];
        world.faults.unreadable.push((inode, range));
    }

    /// The most all files may take from now on, in bytes.
    pub fn limit_room(&self, bytes: usize) {
        self.world().faults.space = Some(bytes);
    }

    /// Lets every call of that kind hang on files whose path contains `part`, until [`SimDisk::release`].
    pub fn stall(&self, op: Op, part: &str) {
        self.world().faults.stall = Some(Filter(op, part.to_owned()));
    }

    /// Waits until a call hangs.
    pub fn wait_until_stalled(&self) {
        let waited = self.0.stalls.wait_timeout_while(self.world(), WAIT_TIMEOUT, |world| world.faults.hanging == 0);
        assert!(!waited.expect("no holder panics").1.timed_out(), "nothing hangs");
    }

    /// Lets what hangs go on; nothing hangs from here on.
    pub fn release(&self) {
        self.world().faults.stall = None;
        self.0.stalls.notify_all();
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.world().faults = Faults::default();
        self.0.stalls.notify_all();
    }

    /// Counts a call, makes it hang or fail as planned, and returns how much of it is carried out.
    pub(super) fn call(&self, op: Op, target: Target<'_>) -> io::Result<(MutexGuard<'_, World>, Extent)> {
        let mut world = self.world();
        world.calls += 1;
        while world.stalls(op, target) {
            world.faults.hanging += 1;
            self.0.stalls.notify_all();
            world = self.0.stalls.wait(world).expect("no holder panics");
            world.faults.hanging = world.faults.hanging.saturating_sub(1);
        }
        let calls = world.calls;
        let planned = world.faults.planned.iter().position(|(at, _)| *at == calls);
        let planned = planned.map(|index| world.faults.planned.swap_remove(index).1);
        world.faults.off |= planned == Some(Fault::PowerOff);
        if world.faults.off {
            return Err(io::Error::other("the power is off"));
        }
        if let Some(kind) = world.lasting(op, target) {
            return Err(kind.into());
        }
        match planned {
            Some(Fault::Fail(kind)) => Err(kind.into()),
            Some(Fault::Short) => Ok((world, Extent::Half)),
            Some(Fault::PowerOff) | None => Ok((world, Extent::Done)),
        }
    }
}

impl World {
    /// The names of a call's objects.
    fn paths_of(&self, target: Target<'_>) -> Vec<PathBuf> {
        match target {
            Target::Path(path) => vec![path.to_owned()],
            Target::Inode(inode) => {
                self.names.iter().filter(|(_, named)| **named == inode).map(|(path, _)| path.clone()).collect()
            }
        }
    }

    fn stalls(&self, op: Op, target: Target<'_>) -> bool {
        self.faults.stall.as_ref().is_some_and(|filter| filter.fits(op, &self.paths_of(target)))
    }

    fn lasting(&self, op: Op, target: Target<'_>) -> Option<io::ErrorKind> {
        if self.faults.lasting.is_empty() {
            return None;
        }
        let paths = self.paths_of(target);
        self.faults.lasting.iter().find(|(filter, _)| filter.fits(op, &paths)).map(|(_, kind)| *kind)
    }

    /// Whether all of a stretch can be read.
    pub(super) fn readable(&self, inode: usize, range: Range<usize>) -> io::Result<()> {
        let lost =
            |(of, lost): &(usize, Range<usize>)| *of == inode && lost.start < range.end && range.start < lost.end;
        if self.faults.unreadable.iter().any(lost) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        Ok(())
    }
}
