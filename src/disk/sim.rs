//! A disk in memory that keeps only what was synced: for tests of what a power cut, a full disk or a failing disk
//! leaves.
//!
//! Compiled under `#[cfg(test)]` only. It is harsher than a real disk where the rules allow it: after a power cut every
//! unsynced write is there, torn or lost, each independently; a name is what it was at the folder's last sync or
//! anything that it became since; and a failed sync drops what it should have written, as Linux does. `sim/faults.rs`
//! decides what goes wrong, and when.

mod faults;
mod random;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::{Disk, DiskFile};
use faults::{Extent, Faults};

pub use faults::{Fault, Op};
pub use random::Random;

/// A write may be torn at multiples of this, in bytes.
const SECTOR_BYTES: usize = 64;

/// How many cases a test has run, told at its end: `scripts/faults` shows it.
#[derive(Debug, Default)]
pub struct Cases(pub u64);

#[allow(clippy::print_stderr, reason = "it is for whoever runs the test")]
impl Drop for Cases {
    fn drop(&mut self) {
        eprintln!("{} cases", self.0);
    }
}

/// The simulated disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Platter>);

#[derive(Debug, Default)]
struct Platter {
    world: Mutex<World>,
    /// A call began to hang, or hanging calls were released.
    stalls: Condvar,
}

#[derive(Debug, Default)]
struct World {
    names: BTreeMap<PathBuf, usize>,
    /// The names at each folder's last sync.
    synced_names: BTreeMap<PathBuf, usize>,
    inodes: Vec<Inode>,
    calls: u64,
    faults: Faults,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What readers see.
    now: Vec<u8>,
    /// What a power cut leaves.
    synced: Vec<u8>,
    /// What happened since the last sync.
    pending: Vec<Change>,
    /// How often a sync of the whole disk lost pending writes: each file that was open then is told once.
    losses: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, new) => {
                if bytes.len() < at + new.len() {
                    bytes.resize(at + new.len(), 0);
                }
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
            Self::Len(len) => bytes.resize(*len, 0),
        }
    }
}

/// An open file.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: usize,
    append: bool,
    /// The losses that it was told of, or that came before it was opened.
    told: AtomicU64,
}

impl SimDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().expect("no holder panics")
    }

    /// How many calls there have been.
    pub fn calls(&self) -> u64 {
        self.world().calls
    }

    /// The bytes all files take.
    pub fn used(&self) -> usize {
        let world = self.world();
        world.names.values().map(|&inode| world.inodes[inode].now.len()).sum()
    }

    /// Cuts the power: everything unsynced is there, torn or lost, as `random` decides. Open files are invalid
    /// afterwards.
    pub fn power_cut(&self, random: &mut Random) {
        let mut world = self.world();
        let names = world.names_after_cut(random);
        for inode in &mut world.inodes {
            let mut bytes = std::mem::take(&mut inode.synced);
            for change in std::mem::take(&mut inode.pending) {
                match (random.below(3), change) {
                    (0, _) => {}
                    (1, Change::Write(at, mut new)) => {
                        new.truncate(random.below(new.len() as u64 / SECTOR_BYTES as u64 + 1) as usize * SECTOR_BYTES);
                        Change::Write(at, new).apply(&mut bytes);
                    }
                    (_, change) => change.apply(&mut bytes),
                }
            }
            inode.now.clone_from(&bytes);
            inode.synced = bytes;
        }
        world.synced_names.clone_from(&names);
        world.names = names;
        world.faults.planned.clear();
        world.faults.off = false;
    }

    /// Another disk with the same content.
    pub fn fork(&self) -> Self {
        let world = self.world();
        let (names, inodes) = (world.names.clone(), world.inodes.clone());
        let world = World { synced_names: names.clone(), names, inodes, ..World::default() };
        Self(Arc::new(Platter { world: Mutex::new(world), stalls: Condvar::new() }))
    }

    /// Changes a file directly.
    pub fn damage(&self, path: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let inode = world.names[path];
        let inode = &mut world.inodes[inode];
        damage(&mut inode.now);
        inode.sync();
    }

    /// What readers see of a file, without a counted call.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world();
        world.names.get(path).map(|&inode| world.inodes[inode].now.clone())
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world().names.keys().cloned().collect()
    }

    /// Removes a file directly and durably.
    pub fn unlink(&self, path: &Path) {
        let mut world = self.world();
        world.names.remove(path);
        world.synced_names.remove(path);
    }

    /// A call that cannot be half done.
    fn whole_call(&self, op: Op, target: Target<'_>) -> io::Result<MutexGuard<'_, World>> {
        match self.call(op, target)? {
            (world, Extent::Done) => Ok(world),
            (_, Extent::Half) => Err(io::Error::other("a simulated fault")),
        }
    }

    fn open_inode(&self, path: &Path, append: bool) -> io::Result<SimFile> {
        let world = self.whole_call(Op::Name, Target::Path(path))?;
        let inode = *world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(&world, inode, append))
    }

    fn file(&self, world: &World, inode: usize, append: bool) -> SimFile {
        let told = AtomicU64::new(world.inodes[inode].losses);
        SimFile { disk: self.clone(), inode, append, told }
    }
}

/// The object of a call.
#[derive(Clone, Copy)]
enum Target<'a> {
    Path(&'a Path),
    Inode(usize),
}

impl World {
    /// The names after a power cut: each change since the folder's sync has happened or not, independently. A rename is
    /// one change: a file has its old name or its new one, and a replaced file exists as long as it is not.
    fn names_after_cut(&self, random: &mut Random) -> BTreeMap<PathBuf, usize> {
        let mut names = BTreeMap::new();
        for (path, inode) in &self.names {
            let before = self.synced_names.iter().find(|(_, synced)| *synced == inode).map(|(path, _)| path);
            let kept = match before {
                Some(before) if before != path && random.one_in(2) => Some(before),
                None if random.one_in(2) => None,
                _ => Some(path),
            };
            if let Some(path) = kept {
                names.entry(path.clone()).or_insert(*inode);
            }
        }
        for (path, inode) in &self.synced_names {
            let is_gone = !self.names.values().any(|now| now == inode);
            let was_removed = is_gone && !self.names.contains_key(path);
            if is_gone && !names.contains_key(path) && !(was_removed && random.one_in(2)) {
                names.insert(path.clone(), *inode);
            }
        }
        names
    }

    /// The free space, in bytes.
    fn room_left(&self) -> usize {
        let used: usize = self.names.values().map(|&inode| self.inodes[inode].now.len()).sum();
        self.faults.space.map_or(usize::MAX, |space| space.saturating_sub(used))
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let world = self.whole_call(Op::Name, Target::Path(path))?;
        let names = world.names.keys().filter(|name| name.parent() == Some(path));
        Ok(names.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut world = self.whole_call(Op::Name, Target::Path(path))?;
        if let Some(&inode) = world.names.get(path) {
            world.inodes[inode].change(Change::Len(0));
            return Ok(self.file(&world, inode, false));
        }
        world.inodes.push(Inode::default());
        let inode = world.inodes.len() - 1;
        world.names.insert(path.to_owned(), inode);
        Ok(self.file(&world, inode, false))
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        self.open_inode(path, false)
    }

    fn open_read(&self, path: &Path) -> io::Result<SimFile> {
        self.open_inode(path, false)
    }

    fn open_append(&self, path: &Path) -> io::Result<SimFile> {
        let mut file = match self.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.create(path)?,
            opened => opened?,
        };
        file.append = true;
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.whole_call(Op::Name, Target::Path(to))?;
        let inode = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.whole_call(Op::Name, Target::Path(path))?.names.remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.whole_call(Op::Sync, Target::Path(path))?;
        let world = &mut *world;
        world.synced_names.retain(|name, _| name.parent() != Some(path));
        let names = world.names.iter().filter(|(name, _)| name.parent() == Some(path));
        world.synced_names.extend(names.map(|(name, &inode)| (name.clone(), inode)));
        Ok(())
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        match self.whole_call(Op::Sync, Target::Path(path)) {
            Ok(mut world) => {
                world.synced_names = world.names.clone();
                world.inodes.iter_mut().for_each(Inode::sync);
                Ok(())
            }
            Err(e) => {
                let mut world = self.world();
                if !world.faults.off {
                    world.inodes.iter_mut().for_each(Inode::lose);
                }
                Err(e)
            }
        }
    }
}

impl Inode {
    fn sync(&mut self) {
        self.pending.clear();
        self.synced.clone_from(&self.now);
    }

    /// What a failed sync of the whole disk does to a file with pending writes.
    fn lose(&mut self) {
        if !self.pending.is_empty() {
            self.pending.clear();
            self.losses += 1;
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }
}

impl DiskFile for SimFile {
    fn byte_len(&self) -> io::Result<u64> {
        let world = self.disk.whole_call(Op::Name, Target::Inode(self.inode))?;
        Ok(world.inodes[self.inode].now.len() as u64)
    }

    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.disk.whole_call(Op::Read, Target::Inode(self.inode))?;
        let from = world.inodes[self.inode].now.get(offset as usize..).unwrap_or_default();
        let count = from.len().min(to.len());
        world.readable(self.inode, offset as usize..offset as usize + count)?;
        to[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut world, outcome) = self.disk.call(Op::Write, Target::Inode(self.inode))?;
        let now = world.inodes[self.inode].now.len();
        let at = if self.append { now } else { offset as usize };
        let grows = (at + bytes.len()).saturating_sub(now);
        let fits = bytes.len() - grows.saturating_sub(world.room_left());
        let written = if outcome == Extent::Half { fits / 2 } else { fits };
        world.inodes[self.inode].change(Change::Write(at, bytes[..written].to_vec()));
        match (written == bytes.len(), outcome) {
            (true, Extent::Done) => Ok(()),
            (_, Extent::Half) => Err(io::Error::other("a simulated short write")),
            (false, Extent::Done) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let outcome = self.disk.whole_call(Op::Sync, Target::Inode(self.inode)).map(drop);
        let mut world = self.disk.world();
        let inode = &mut world.inodes[self.inode];
        let untold = self.told.swap(inode.losses, Ordering::Relaxed) < inode.losses;
        match outcome {
            Ok(()) => {
                inode.sync();
                if untold { Err(io::Error::other("a sync of the whole disk lost what was written")) } else { Ok(()) }
            }
            Err(e) => {
                if !world.faults.off {
                    // What a failed sync should have written may be lost, and the next sync does not report it.
                    world.inodes[self.inode].pending.clear();
                }
                Err(e)
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.whole_call(Op::Write, Target::Inode(self.inode))?;
        world.inodes[self.inode].change(Change::Len(len as usize));
        Ok(())
    }

    fn is_same(&self, other: &Self) -> io::Result<bool> {
        Ok(self.inode == other.inode)
    }
}
