//! A disk whose writes stay in memory, over the real files, and vanish with it: to see what an operation would do
//! without doing it.
//!
//! The writes to each file are kept in order, zeros as a length only. Copies that are set aside are never read again,
//! so below the *sink* only the files' lengths are kept. Beyond [`HELD_BYTES_MAX`] a write fails.
//!
//! Invariant: nothing on the disk below is ever written, made, renamed or removed. No other program may write there
//! meanwhile. Operations that a recovery does not need (appending, cutting) are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile, DiskSpace};

/// The most memory of all writes, in bytes.
pub const HELD_BYTES_MAX: usize = 64 << 20;
/// The memory of a write without its bytes, in bytes, roughly.
const WRITE_BYTES: usize = 64;

/// The overlay. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Overlay<D> {
    below: D,
    sink: PathBuf,
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
struct World {
    /// Names that differ from those below: another file, or none any more.
    names: BTreeMap<PathBuf, Option<usize>>,
    files: Vec<OverlayContent>,
    held_bytes: usize,
}

/// A file that was made, renamed or opened for writing.
#[derive(Debug, Default)]
struct OverlayContent {
    /// The file below that it was, and its length.
    origin: Option<PathBuf>,
    origin_bytes: u64,
    bytes: u64,
    /// In order.
    writes: Vec<Write>,
    is_sunk: bool,
}

/// The range that was written, and its bytes; without bytes, zeros.
type Write = (Range<u64>, Option<Box<[u8]>>);

/// An open file.
#[derive(Debug)]
pub struct OverlayFile<D: Disk> {
    world: Arc<Mutex<World>>,
    below: Option<D::File>,
    /// `None` if it is as below.
    file: Option<usize>,
}

fn locked(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().expect("no holder panics")
}

impl<D: Disk> Overlay<D> {
    /// A disk over `below`; bytes written below `sink` are not kept.
    pub fn new(below: D, sink: PathBuf) -> Self {
        Self { below, sink, world: Arc::default() }
    }

    /// The file of that name, in a form that can be written.
    fn own(&self, path: &Path) -> io::Result<usize> {
        let mut world = locked(&self.world);
        match world.names.get(path) {
            Some(file) => file.ok_or_else(|| io::ErrorKind::NotFound.into()),
            None => {
                let bytes = self.below.open_read(path)?.byte_len()?;
                let origin = Some(path.to_owned());
                Ok(world.add(path, OverlayContent { origin, origin_bytes: bytes, bytes, ..OverlayContent::default() }))
            }
        }
    }

    fn handle(&self, file: usize) -> io::Result<OverlayFile<D>> {
        let origin = locked(&self.world).files[file].origin.clone();
        let below = origin.map(|path| self.below.open_read(&path)).transpose()?;
        Ok(OverlayFile { world: self.world.clone(), below, file: Some(file) })
    }
}

impl World {
    fn add(&mut self, path: &Path, content: OverlayContent) -> usize {
        self.files.push(content);
        self.names.insert(path.to_owned(), Some(self.files.len() - 1));
        self.files.len() - 1
    }
}

impl<D: Disk> Disk for Overlay<D> {
    type File = OverlayFile<D>;

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.below.list(path)?.into_iter().collect();
        for (path, file) in locked(&self.world).names.iter().filter(|(name, _)| name.parent() == Some(path)) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let _ = if file.is_some() { names.insert(name) } else { names.remove(&name) };
        }
        Ok(names.into_iter().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Self::File> {
        let content = OverlayContent { is_sunk: path.starts_with(&self.sink), ..OverlayContent::default() };
        let file = locked(&self.world).add(path, content);
        self.handle(file)
    }

    fn open(&self, path: &Path) -> io::Result<Self::File> {
        self.handle(self.own(path)?)
    }

    fn open_read(&self, path: &Path) -> io::Result<Self::File> {
        let known = locked(&self.world).names.get(path).copied();
        match known {
            Some(file) => self.handle(file.ok_or(io::ErrorKind::NotFound)?),
            None => {
                let below = Some(self.below.open_read(path)?);
                Ok(OverlayFile { world: self.world.clone(), below, file: None })
            }
        }
    }

    fn open_append(&self, _path: &Path) -> io::Result<Self::File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.own(from)?;
        let mut world = locked(&self.world);
        world.names.insert(from.to_owned(), None);
        world.names.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.own(path)?;
        locked(&self.world).names.insert(path.to_owned(), None);
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.below.space(path)
    }
}

impl OverlayContent {
    /// Adds a write. Returns the memory that it takes.
    fn write(&mut self, bytes: &[u8], offset: u64) -> usize {
        let range = offset..offset + bytes.len() as u64;
        let ends = (self.origin_bytes, self.bytes);
        self.bytes = self.bytes.max(range.end);
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        match self.writes.last_mut() {
            // Nothing is there yet.
            _ if self.is_sunk || is_zero && offset >= ends.0.max(ends.1) => 0,
            Some((last, None)) if is_zero && last.end == offset => {
                last.end = range.end;
                0
            }
            _ => {
                self.writes.push((range, (!is_zero).then(|| bytes.into())));
                WRITE_BYTES + if is_zero { 0 } else { bytes.len() }
            }
        }
    }

    /// Applies the writes from `offset` on to `to`, which holds the bytes below.
    fn lay_over(&self, to: &mut [u8], offset: u64) {
        let len = |from: u64, to: u64| usize::try_from(to - from).expect("within a buffer or a write");
        let end = offset + to.len() as u64;
        for (range, bytes) in self.writes.iter().filter(|(range, _)| range.start < end && range.end > offset) {
            let (from, until) = (range.start.max(offset), range.end.min(end));
            let to = &mut to[len(offset, from)..len(offset, until)];
            match bytes {
                Some(bytes) => to.copy_from_slice(&bytes[len(range.start, from)..len(range.start, until)]),
                None => to.fill(0),
            }
        }
    }
}

impl<D: Disk> DiskFile for OverlayFile<D> {
    fn byte_len(&self) -> io::Result<u64> {
        match (self.file, &self.below) {
            (None, Some(below)) => below.byte_len(),
            (file, _) => Ok(file.map_or(0, |file| locked(&self.world).files[file].bytes)),
        }
    }

    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.below.as_ref().map_or(Ok(0), |below| below.read_at(to, offset))?;
        let Some(file) = self.file else { return Ok(read) };
        let content = &locked(&self.world).files[file];
        let left = usize::try_from(content.bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(to.len());
        to[read.min(left)..left].fill(0);
        content.lay_over(&mut to[..left], offset);
        Ok(left)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let file = self.file.ok_or(io::ErrorKind::PermissionDenied)?;
        let world = &mut *locked(&self.world);
        if world.held_bytes + bytes.len() > HELD_BYTES_MAX {
            return Err(io::Error::other("too much would be written there to tell what comes of it without doing it"));
        }
        world.held_bytes += world.files[file].write(bytes, offset);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Random, SimDisk};
    use crate::disk::{self};

    #[test]
    fn what_is_written_is_read_back_as_from_a_disk_and_nothing_below_changes() {
        let (below, folder) = (SimDisk::default(), Path::new("/folder"));
        disk::replace(&below, &folder.join("old"), &[1; 5000]).unwrap();
        disk::replace(&below, &folder.join("gone"), b"gone").unwrap();
        let other = below.fork();
        let overlay = Overlay::new(below.clone(), folder.join("sink"));
        overlay.create_dir_all(folder).unwrap();
        overlay.remove(&folder.join("gone")).unwrap();
        other.remove(&folder.join("gone")).unwrap();
        let mut random = Random(7);
        for (n, name) in ["old", "new", "old", "new"].into_iter().enumerate() {
            let path = folder.join(name);
            if n == 1 {
                drop((overlay.create(&path).unwrap(), other.create(&path).unwrap()));
            }
            let (mine, real) = (overlay.open(&path).unwrap(), other.open(&path).unwrap());
            for _ in 0..100 {
                let bytes = vec![u8::try_from(random.below(3)).unwrap(); random.below(700) as usize];
                let at = random.below(9000);
                mine.write_all_at(&bytes, at).unwrap();
                real.write_all_at(&bytes, at).unwrap();
                let (mut one, mut two) = (vec![9; 300], vec![9; 300]);
                let at = random.below(9500);
                assert_eq!(mine.read_at(&mut one, at).unwrap(), real.read_at(&mut two, at).unwrap());
                assert_eq!(one, two);
            }
        }
        overlay.rename(&folder.join("old"), &folder.join("named")).unwrap();
        other.rename(&folder.join("old"), &folder.join("named")).unwrap();
        for name in ["old", "named", "new", "gone"] {
            let (mine, real) = (disk::read(&overlay, &folder.join(name)), disk::read(&other, &folder.join(name)));
            assert_eq!(mine.ok(), real.ok(), "{name}");
        }
        assert_eq!(overlay.list(folder).unwrap(), ["named", "new"]);
        assert_eq!(disk::read(&below, &folder.join("old")).unwrap(), [1; 5000]);
        assert_eq!(below.paths(), [folder.join("gone"), folder.join("old")]);
    }

    #[test]
    fn zeros_and_the_sink_take_no_room_and_beyond_the_limit_writes_fail() {
        let folder = Path::new("/folder");
        let overlay = Overlay::new(SimDisk::default(), folder.join("sink"));
        let (new, sunk) =
            (overlay.create(&folder.join("new")).unwrap(), overlay.create(&folder.join("sink/copy")).unwrap());
        let block = vec![1; 1 << 20];
        for n in 0..100 {
            sunk.write_all_at(&block, n << 20).unwrap();
            new.write_all_at(&vec![0; 1 << 20], n << 20).unwrap();
        }
        assert_eq!((sunk.byte_len().unwrap(), new.byte_len().unwrap()), (100 << 20, 100 << 20));
        assert_eq!(locked(&overlay.world).held_bytes, 0);
        let written = (0..100).take_while(|n| new.write_all_at(&block, n << 20).is_ok()).count();
        assert!((60..64).contains(&written), "{written}");
    }
}
