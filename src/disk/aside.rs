//! Setting aside: copies and moved files in a folder, each under a name that no other file there has.
//!
//! If other bytes have the name, it gets `.2`, `.3` and so on: no copy ever replaces another, and none is stored twice.

use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, ReadFn, copy_from, make_folder};

/// Bytes compared at once.
const BLOCK_BYTES: usize = 256 * 1024;

/// Copies the first `len` bytes of `source` into `folder`, unless a copy exists. It is durable when this returns;
/// returns its path.
///
/// # Errors
/// The source could not be read, or the copy not written. A copy may remain, perhaps unfinished or not yet durable.
pub fn keep<D: Disk>(disk: &D, folder: &Path, name: &str, source: ReadFn<'_>, len: u64) -> io::Result<PathBuf> {
    make_folder(disk, folder)?;
    let cut = |to: &mut [u8], at: u64| {
        let wanted = to.len().min(usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX));
        source(&mut to[..wanted], at)
    };
    let (path, is_there) = place(disk, folder, name, &|there| same_bytes(there, &cut))?;
    if !is_there {
        let temporary = folder.join(format!("{name}.tmp"));
        let copy = disk.create(&temporary)?;
        copy_from(source, len, &copy, 0)?;
        copy.sync()?;
        disk.rename(&temporary, &path)?;
    }
    // Also for an existing copy: it may be from a try that failed here.
    disk.sync_dir(folder)?;
    Ok(path)
}

/// Moves a whole file into `folder`, durably; returns its path.
///
/// # Errors
/// The file could not be moved; or the move was not made durable, and the file is in `folder` already.
pub fn take<D: Disk>(disk: &D, folder: &Path, name: &str, from: &Path) -> io::Result<PathBuf> {
    make_folder(disk, folder)?;
    let (path, _) = place(disk, folder, name, &|_| Ok(false))?;
    disk.rename(from, &path)?;
    disk.sync_dir(folder)?;
    disk.sync_dir(from.parent().unwrap_or(Path::new(".")))?;
    Ok(path)
}

/// The first name that is free, or that a copy already has; and whether one has.
fn place<D: Disk>(
    disk: &D,
    folder: &Path,
    name: &str,
    is_copy: &dyn Fn(&D::File) -> io::Result<bool>,
) -> io::Result<(PathBuf, bool)> {
    let mut path = folder.join(name);
    for number in 2_u64.. {
        match disk.open_read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Ok(there) if is_copy(&there)? => return Ok((path, true)),
            Ok(_) => path = folder.join(format!("{name}.{number}")),
            Err(e) => return Err(e),
        }
    }
    Ok((path, false))
}

fn same_bytes<F: DiskFile>(there: &F, source: ReadFn<'_>) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut at = 0;
    loop {
        let (read, other_read) = (there.read_at(&mut left, at)?, source(&mut right, at)?);
        if left[..read] != right[..other_read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Fault, Random, SimDisk};
    use crate::disk::{self};

    #[test]
    fn a_copy_is_kept_once_and_other_bytes_of_its_name_stand_beside_it() {
        let (disk, folder) = (SimDisk::default(), Path::new("/aside"));
        let keep = |bytes: &[u8], len: usize| {
            let source = |to: &mut [u8], at: u64| {
                let left = &bytes[(at as usize).min(bytes.len())..];
                let read = left.len().min(to.len());
                to[..read].copy_from_slice(&left[..read]);
                Ok(read)
            };
            keep(&disk, folder, "tail", &source, len as u64).unwrap()
        };
        let long = vec![7; BLOCK_BYTES + 1];
        for (bytes, len, name) in [
            (&long[..], long.len(), "tail"),
            (&long, long.len(), "tail"),
            (&long, BLOCK_BYTES, "tail.2"),
            (b"", 0, "tail.3"),
            (&long, BLOCK_BYTES, "tail.2"),
        ] {
            assert_eq!(keep(bytes, len), folder.join(name));
            assert!(disk::read(&disk, &folder.join(name)).unwrap() == bytes[..len]);
        }
        let file = Path::new("/other/file");
        disk.create(file).unwrap();
        assert_eq!(take(&disk, folder, "tail", file).unwrap(), folder.join("tail.4"));
        assert_eq!(disk.paths().len(), 4);
    }

    #[test]
    fn a_copy_kept_at_the_second_try_outlives_a_power_cut() {
        for (call, seed) in (1..20).flat_map(|call| (0..8).map(move |seed| (call, seed))) {
            let (disk, folder) = (SimDisk::default(), Path::new("/aside"));
            let source = |to: &mut [u8], at: u64| {
                let read = to.len().min(9 - (at as usize).min(9));
                to[..read].copy_from_slice(&b"123456789"[at as usize..at as usize + read]);
                Ok(read)
            };
            disk.fault_at(call, Fault::Fail(io::ErrorKind::Other));
            let _ = keep(&disk, folder, "tail", &source, 9);
            disk.heal();
            let path = keep(&disk, folder, "tail", &source, 9).unwrap();
            disk.power_cut(&mut Random(seed));
            assert_eq!(disk.peek(&path).as_deref(), Some(&b"123456789"[..]), "call {call}, seed {seed}");
        }
    }
}
