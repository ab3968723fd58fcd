//! Why a program cannot be run, in words: the system says "No such file" of a script whose interpreter is missing, too.
//!
//! Looks at files only, and runs nothing. Knows nothing of processes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::responder::excerpt::escaped;

/// What is read of a script's beginning, in bytes; the system takes as much for its first line.
const HEAD_BYTES: u64 = 256;

/// What is wrong with `program`, a path or a name that is looked up on `path` as `PATH` has it; `None` when nothing can be
/// seen from here.
pub(super) fn fault(program: &str, path: Option<&OsStr>) -> Option<String> {
    let Some(file) = find(program, path) else {
        let missing =
            if program.contains('/') { "there is no such file" } else { "there is no such program on the PATH" };
        return Some(missing.to_owned());
    };
    if file.is_dir() {
        return Some("it is a folder".to_owned());
    }
    if access(&file, Access::EXEC_OK).is_err() {
        return Some(format!("it is not executable: chmod +x {}", escaped(&file.to_string_lossy())));
    }
    // What cannot be read can be run all the same.
    let mut head = Vec::new();
    File::open(&file).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    if head.starts_with(b"\xef\xbb\xbf#!") {
        return Some("it begins with a byte order mark in front of its #! line".to_owned());
    }
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    if line.ends_with(b"\r") {
        return Some("its lines end with CRLF, so that its interpreter is not found: save it with LF".to_owned());
    }
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let interpreter = Path::new(OsStr::from_bytes(words.next()?));
    let shown = |name: &[u8]| escaped(&String::from_utf8_lossy(name));
    if !interpreter.exists() {
        return Some(format!("its interpreter {} does not exist", shown(interpreter.as_os_str().as_bytes())));
    }
    if interpreter.file_name() != Some(OsStr::new("env")) {
        return None;
    }
    let name = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
    let is_there = find(str::from_utf8(name).ok()?, path).is_some();
    (!is_there).then(|| format!("its interpreter {} is not on the PATH", shown(name)))
}

/// The file that is meant: a path is taken unchanged; a name is the first on the `PATH` that may be run, or the first
/// at all.
fn find(program: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|file| file.exists());
    }
    let found: Vec<PathBuf> = std::env::split_paths(path?)
        .map(|folder| folder.join(program))
        .filter(|file| fs::metadata(file).is_ok_and(|metadata| metadata.is_file()))
        .collect();
    let runs = found.iter().find(|file| access(*file, Access::EXEC_OK).is_ok());
    runs.or(found.first()).cloned()
}
