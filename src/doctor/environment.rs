//! What surrounds the data: file modes, free space, copies that were set aside, dead letters. On the real file system
//! only.
//!
//! Reads names and sizes, and the lines of the dead letters; changes nothing. What cannot be read here is no damage of
//! the data and is skipped.

use std::fs::{self, File, Metadata};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;

use crate::layout;

use super::findings::{Findings, Weight};
use super::place::DataLocation;

/// Files with too open modes that are named; the others are counted.
const NAMED_MAX: usize = 3;
/// The disk counts as low with less free space than this many segments.
const SEGMENTS_FREE_MIN: u64 = 4;

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FolderSize {
    /// Their number.
    #[serde(rename = "files")]
    pub count: u64,
    /// Their total length.
    pub bytes: u64,
}

/// The surroundings of the data.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// The journal's quarantine.
    pub journal_quarantine: FolderSize,
    /// The transcripts' quarantine.
    pub transcripts_quarantine: FolderSize,
    /// Messages that a repair took out of the journal's quarantine.
    pub recovered: u64,
    /// Messages that MongoDB can never store, if there is a file of them.
    pub dead_letters: Option<u64>,
    /// Free bytes of the file system, for users other than root.
    pub free_bytes: Option<u64>,
    /// Whether the free space is low.
    pub low: bool,
    /// Files and folders that other users may read or enter.
    pub open_to_others: u64,
}

/// Examines the surroundings.
pub fn look(place: &DataLocation, findings: &mut Findings) -> Around {
    let mut environment = Around {
        journal_quarantine: files(&layout::quarantine(place.journal())),
        transcripts_quarantine: files(&layout::quarantine(place.transcripts())),
        recovered: lines(&place.recovered()).unwrap_or(0),
        dead_letters: lines(&place.config.mongo.dead_letter_path),
        ..Around::default()
    };
    let on = [place.journal(), &place.data].into_iter().find(|path| path.exists());
    if let Some(stat) = on.and_then(|path| rustix::fs::statvfs(path).ok()) {
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        environment.free_bytes = Some(free);
        environment.low = free < SEGMENTS_FREE_MIN * place.config.journal.segment_bytes;
        if environment.low {
            let what = "the disk is nearly full: new messages will be refused";
            findings.add(Weight::Warning, &place.data, what);
        }
    }
    let mut named = Vec::new();
    // Its content is private, so others may list the data folder itself; but they must not replace our files.
    modes(&place.data, (0o022, 0), &mut environment.open_to_others, &mut named);
    modes(&place.config.mongo.dead_letter_path, (0o077, 0), &mut environment.open_to_others, &mut named);
    for folder in [place.journal(), place.transcripts()] {
        modes(folder, (0o077, 2), &mut environment.open_to_others, &mut named);
    }
    if environment.open_to_others > 0 {
        let more = environment.open_to_others - named.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let what = format!("others may read, enter or write to {}{more}: chmod go= them", named.join(", "));
        findings.add(Weight::Warning, &place.data, what);
    }
    environment
}

fn files(folder: &Path) -> FolderSize {
    let mut files = FolderSize::default();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        files.count += 1;
        files.bytes += entry.metadata().map_or(0, |metadata| metadata.len());
    }
    files
}

fn lines(path: &Path) -> Option<u64> {
    let mut reader = BufReader::new(File::open(path).ok()?);
    let (mut lines, mut has_text) = (0, false);
    loop {
        let block = reader.fill_buf().ok()?;
        if block.is_empty() {
            return Some(lines);
        }
        for &byte in block {
            // Erasures and retries leave blank lines.
            lines += u64::from(byte == b'\n' && has_text);
            has_text = byte != b'\n' && (has_text || byte != b' ');
        }
        let read = block.len();
        reader.consume(read);
    }
}

/// Counts what gives other users one of the rights `open`: the folder, its files, and those of its folders down to
/// `depth`.
fn modes(path: &Path, (open, depth): (u32, usize), count: &mut u64, named: &mut Vec<String>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if is_open(&metadata, open) {
        *count += 1;
        if named.len() < NAMED_MAX {
            named.push(path.display().to_string());
        }
    }
    if depth > 0 && metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            modes(&entry.path(), (open, depth - 1), count, named);
        }
    }
}

fn is_open(metadata: &Metadata, open: u32) -> bool {
    !metadata.is_symlink() && metadata.permissions().mode() & open != 0
}
