//! What lies around the data: file modes, free space, what was set aside, dead letters. On the real file system only.
//!
//! Reads names and sizes, and of the dead letters their lines; changes nothing. What cannot be read here is no damage of the
//! data and is passed over.

use std::fs::{self, File, Metadata};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;

use crate::layout;

use super::findings::{Findings, Weight};
use super::place::DataLocation;

/// Files that are named as too open; the others are counted.
const NAMED_MAX: usize = 3;
/// Below so many segments' worth of free space the disk is called low.
const SEGMENTS_FREE_MIN: u64 = 4;

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    /// How many.
    #[serde(rename = "files")]
    pub count: u64,
    /// Their bytes together.
    pub bytes: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// The journal's quarantine.
    pub journal_quarantine: Files,
    /// The transcripts' quarantine.
    pub transcripts_quarantine: Files,
    /// Messages a repair took out of the journal's quarantine.
    pub recovered: u64,
    /// Messages that a database refused for good, when there is a file of them.
    pub dead_letters: Option<u64>,
    /// Free bytes of the file system, for those who are not root.
    pub free_bytes: Option<u64>,
    /// Whether that is low.
    pub low: bool,
    /// Files and folders that others may read or enter.
    pub open_to_others: u64,
}

/// Looks around.
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
    // What is in it is private, so others may look at the data folder itself; they may not put files in the place of ours.
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

fn files(folder: &Path) -> Files {
    let mut files = Files::default();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        files.count += 1;
        files.bytes += entry.metadata().map_or(0, |metadata| metadata.len());
    }
    files
}

fn lines(path: &Path) -> Option<u64> {
    let mut reader = BufReader::new(File::open(path).ok()?);
    let mut lines = 0;
    loop {
        let block = reader.fill_buf().ok()?;
        if block.is_empty() {
            return Some(lines);
        }
        lines += memchr::memchr_iter(b'\n', block).count() as u64;
        let read = block.len();
        reader.consume(read);
    }
}

/// Counts what gives others one of the rights `open`: the folder, what is in it, and what is in the folders in it, down to
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
