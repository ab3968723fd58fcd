//! Packs the files of `src/console/` into the binary: each is gzipped once, here, and a table of them is written that
//! `src/api/console.rs` includes. The folder is the list, and nothing else names its files.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use flate2::Compression;
use flate2::write::GzEncoder;

/// The most that all files may take together, gzipped, in bytes: the page is to open at once on a slow line too.
pub const GZIPPED_BYTES_MAX: usize = 100_000;

/// The file that is served at `/`; the others are served below `/console/`.
const INDEX: &str = "index.html";

/// The media type of each ending.
const TYPES: [(&str, &str); 4] = [
    ("css", "text/css; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("svg", "image/svg+xml"),
];

/// Packs `src/console/` for the compiler.
///
/// # Errors
/// What is wrong with a file, or with all of them.
pub fn make() -> Result<(), String> {
    println!("cargo::rerun-if-changed=src/console");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: cargo runs this")?);
    pack(Path::new("src/console"), &out)
}

/// Writes `console.rs` into `out`, the table of the files in `folder`, and the gzipped files beside it.
///
/// # Errors
/// What is wrong with a file, or with all of them.
pub fn pack(folder: &Path, out: &Path) -> Result<(), String> {
    let (mut table, mut sum) = ("[\n".to_owned(), 0);
    let names = names(folder)?;
    if !names.iter().any(|name| name == INDEX) {
        return Err(format!("{}: {INDEX} is missing, the page itself", folder.display()));
    }
    for name in &names {
        let path = folder.join(name);
        let content_type = content_type(&path)?;
        let content = fs::read(&path).map_err(|fault| format!("{}: {fault}", path.display()))?;
        let gzipped = gzip(&content).map_err(|fault| format!("{}: {fault}", path.display()))?;
        sum += gzipped.len();
        let to = out.join(format!("{name}.gz"));
        fs::write(&to, gzipped).map_err(|fault| format!("{}: {fault}", to.display()))?;
        let served_at = if name == INDEX { "/".to_owned() } else { format!("/console/{name}") };
        let (bytes, digest) = (content.len(), digest(&content));
        let gzipped = format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.gz\"))");
        let _ = writeln!(
            table,
            "    ConsoleFile {{ path: {served_at:?}, content_type: {content_type:?}, digest: {digest:?}, bytes: {bytes}, \
             gzipped: {gzipped} }},"
        );
    }
    if sum > GZIPPED_BYTES_MAX {
        let folder = folder.display();
        return Err(format!("{folder}: all files take {sum} bytes gzipped; at most {GZIPPED_BYTES_MAX} are allowed"));
    }
    table.push_str("]\n");
    let to = out.join("console.rs");
    fs::write(&to, table).map_err(|fault| format!("{}: {fault}", to.display()))
}

/// The names of the files, in order; hidden ones are those of editors.
fn names(folder: &Path) -> Result<Vec<String>, String> {
    let fault = |fault| format!("{}: {fault}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The media type of a file, if it may be served: its name must be one for a path as it is.
fn content_type(path: &Path) -> Result<&'static str, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    let ending = path.extension().unwrap_or_default();
    let known = TYPES.iter().find(|(known, _)| ending == *known && is_plain && path.is_file());
    let endings = TYPES.map(|(ending, _)| format!(".{ending}")).join(", ");
    known.map(|(_, content_type)| *content_type).ok_or_else(|| {
        format!("{}: the console takes files named in a-z 0-9 . _ - that end in {endings}", path.display())
    })
}

fn gzip(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    encoder.finish()
}

/// Tells one content of a file from another. Another compiler may give another digest of the same content: then clients
/// fetch the file once more.
fn digest(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
