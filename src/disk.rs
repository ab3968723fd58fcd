//! The interface to the file system: journal, checkpoint and transcripts reach files only through [`Disk`].
//!
//! A test replaces it by a disk that forgets what was not synced, fails the n-th call or runs out of space. The real
//! one is a thin layer over the system's calls, chosen at compile time, so that the interface costs nothing.
//!
//! Knows nothing of what the files mean. Files are made 0600 and folders 0700: conversations are private.

pub mod aside;
pub mod overlay;
#[cfg(test)]
pub mod sim;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::{layout, liveness};

/// Bytes copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// A file system, as far as we use one.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Makes a folder and its parents; an existing one is fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes a file, or empties an existing one, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens an existing file for reading.
    fn open_read(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for appending and reading; makes it if it does not exist.
    fn open_append(&self, path: &Path) -> io::Result<Self::File>;
    /// Whether the file has that name and that many bytes.
    fn is_named(&self, path: &Path, file: &Self::File, bytes: u64) -> io::Result<bool> {
        let named = self.open_read(path)?;
        Ok(named.is_same(file)? && named.byte_len()? == bytes)
    }
    /// Renames a file, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes everything on the file system that holds `path` durable; fails if some of it was lost.
    fn sync_all(&self, path: &Path) -> io::Result<()>;
    /// The space of the file system that holds `path`. A disk without limits need not implement it.
    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        Ok(DiskSpace { free_bytes: u64::MAX, total_bytes: u64::MAX })
    }
}

/// The space of a file system, as far as this user may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes altogether, used ones included.
    pub total_bytes: u64,
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync + 'static {
    /// Its length, in bytes.
    fn byte_len(&self) -> io::Result<u64>;
    /// Reads at an offset; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at an offset. A file opened for appending takes them at its end instead.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the content durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Whether both are the same file, whatever its name is by now. A disk whose files no other program renames need
    /// not implement it.
    fn is_same(&self, _other: &Self) -> io::Result<bool> {
        Ok(true)
    }
    /// When it was last written to. A disk without times returns now: nothing on it is old.
    fn modified(&self) -> io::Result<SystemTime> {
        Ok(SystemTime::now())
    }
}

/// The system's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Opening a FIFO would wait for its other end, while locks are held; a symbolic link may lead to another's file.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    options
        .read(true)
        .mode(0o600)
        .custom_flags(i32::try_from(flags.bits()).expect("flags of the system fit their type"));
    options
}

/// Opens a regular file. Other files cannot be read at an offset and keep nothing; symbolic links are not followed.
fn open_regular(options: &OpenOptions, path: &Path) -> io::Result<File> {
    liveness::beat();
    match options.open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(io::Error::other("it is no regular file")),
        Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Err(io::Error::other("it is a symbolic link, which is not followed"))
        }
        Err(e) => Err(e),
    }
}

impl Disk for RealDisk {
    type File = File;

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.file_name().into_string()));
        // A name that is not UTF-8 is not one of ours.
        names.filter_map(|name| name.map(Result::ok).transpose()).collect()
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        open_regular(options().write(true).create(true).truncate(true), path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        open_regular(options().write(true), path)
    }

    fn open_read(&self, path: &Path) -> io::Result<File> {
        open_regular(&options(), path)
    }

    fn open_append(&self, path: &Path) -> io::Result<File> {
        open_regular(options().append(true).create(true), path)
    }

    fn is_named(&self, path: &Path, file: &File, bytes: u64) -> io::Result<bool> {
        // Nothing is opened: a stat costs a quarter of that.
        let (named, file) = (std::fs::symlink_metadata(path)?, file.metadata()?);
        Ok((named.dev(), named.ino(), named.len()) == (file.dev(), file.ino(), bytes))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        liveness::beat();
        File::open(path)?.sync_all()
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        liveness::beat();
        Ok(rustix::fs::syncfs(File::open(path)?)?)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let found = rustix::fs::statvfs(path)?;
        Ok(DiskSpace {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

impl DiskFile for File {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        liveness::beat();
        let mut done = 0;
        while done < to.len() {
            match FileExt::read_at(self, &mut to[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        liveness::beat();
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        liveness::beat();
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn is_same(&self, other: &Self) -> io::Result<bool> {
        let (this, other) = (self.metadata()?, other.metadata()?);
        Ok((this.dev(), this.ino()) == (other.dev(), other.ino()))
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.metadata()?.modified()
    }
}

/// Makes a folder and its parents, and their names durable.
///
/// # Errors
/// The folder could not be made. Some parents may exist now. A parent that cannot be synced is no error.
pub fn make_folder<D: Disk>(disk: &D, path: &Path) -> io::Result<()> {
    disk.create_dir_all(path)?;
    for parent in path.ancestors().skip(1).take(3) {
        let _ = disk.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    }
    Ok(())
}

/// Replaces a file whole: temporary name, write, sync, rename, sync of the folder. After a crash the file has either
/// the old or the new content.
///
/// # Errors
/// The disk failed. The old content is unchanged, unless only the folder's sync failed; a retry is safe. The temporary
/// file may remain.
pub fn replace<D: Disk>(disk: &D, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = layout::unfinished(path);
    let file = disk.create(&temporary)?;
    file.write_all_at(content, 0)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Reads a file whole.
///
/// # Errors
/// The file could not be opened or read; [`io::ErrorKind::NotFound`] if there is none. A retry is safe.
pub fn read<D: Disk>(disk: &D, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open_read(path)?;
    let mut content = vec![0; usize::try_from(file.byte_len()?).map_err(io::Error::other)?];
    let read = file.read_at(&mut content, 0)?;
    content.truncate(read);
    Ok(content)
}

/// Copies a range, or as much of it as exists; returns how many bytes.
///
/// # Errors
/// See [`copy_from`].
pub fn copy<F: DiskFile>(from: &F, what: Range<u64>, to: &F, to_at: u64) -> io::Result<u64> {
    let source = |to: &mut [u8], at: u64| from.read_at(to, what.start + at);
    copy_from(&source, what.end - what.start, to, to_at)
}

/// Copies a file that others append lines to, up to the end of its last whole line; returns how many bytes.
///
/// # Errors
/// A file could not be opened, read or written; [`io::ErrorKind::NotFound`] if there is none to copy.
pub fn copy_lines<D: Disk>(disk: &D, from: &Path, to: &Path) -> io::Result<u64> {
    let source = disk.open_read(from)?;
    let target = disk.create(to)?;
    let mut end = copy(&source, 0..source.byte_len()?, &target, 0)?;
    let mut block = vec![0; usize::try_from(COPY_BYTES).expect("a block fits")];
    while end > 0 {
        let begin = end.saturating_sub(COPY_BYTES);
        let read = target.read_at(&mut block[..(end - begin) as usize], begin)?;
        if let Some(at) = memchr::memrchr(b'\n', &block[..read]) {
            end = begin + at as u64 + 1;
            break;
        }
        end = begin;
    }
    target.set_len(end)?;
    Ok(end)
}

/// Reads from an offset; fewer bytes than asked for only at the end.
pub type ReadFn<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<usize>;

/// The same from any source.
///
/// # Errors
/// A read or a write failed. A part may have been copied; another call starts over.
pub fn copy_from<F: DiskFile>(from: ReadFn<'_>, len: u64, to: &F, to_at: u64) -> io::Result<u64> {
    let (mut block, mut at) = (Vec::new(), 0);
    while at < len {
        block.resize(usize::try_from((len - at).min(COPY_BYTES)).expect("a block fits"), 0);
        let read = from(&mut block, at)?;
        if read == 0 {
            break;
        }
        to.write_all_at(&block[..read], to_at + at)?;
        at += read as u64;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_removed_replaced_or_cut_no_longer_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        let file = RealDisk.open_append(&path).unwrap();
        DiskFile::write_all_at(&file, b"1234", 0).unwrap();
        assert!(RealDisk.is_named(&path, &file, 4).unwrap());
        // Longer or shorter than expected.
        assert!(!RealDisk.is_named(&path, &file, 3).unwrap() && !RealDisk.is_named(&path, &file, 5).unwrap());
        std::fs::write(&other, "1234").unwrap();
        RealDisk.rename(&other, &path).unwrap();
        assert!(!RealDisk.is_named(&path, &file, 4).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(RealDisk.is_named(&path, &file, 4).unwrap_err().kind(), io::ErrorKind::NotFound);
        // A folder or a FIFO with its name is another file, and opening it does not block.
        std::fs::create_dir(&path).unwrap();
        assert!(!RealDisk.is_named(&path, &file, 4).unwrap());
    }

    #[test]
    fn a_symbolic_link_is_neither_followed_nor_the_file_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        std::fs::write(&path, "1234").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let file = RealDisk.open(&path).unwrap();
        assert!(!RealDisk.is_named(&link, &file, 4).unwrap());
        let opened =
            [RealDisk.open(&link), RealDisk.open_read(&link), RealDisk.open_append(&link), RealDisk.create(&link)];
        for refused in opened {
            assert_eq!(refused.unwrap_err().to_string(), "it is a symbolic link, which is not followed");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"1234");
    }
}
