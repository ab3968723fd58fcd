//! The configuration for the options: finds and reads the file, the environment and the overrides.
//!
//! It keeps `config` free of I/O. Every fault is one line with the file, and exit code 2. Knows nothing of what the
//! configuration is for.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, Overrides, Settings, UsesSecret};
use crate::{logging, store};

use super::args::Options;
use super::screen::CommandError;

/// The config file without `--config`; it may be missing.
const DEFAULT_CONFIG: &str = "config.yaml";

/// The largest config file, in bytes; a larger one is most likely the wrong file.
const CONFIG_BYTES: u64 = 1 << 20;

/// The largest file of a token, in bytes.
const TOKEN_FILE_BYTES: u64 = 4096;

/// Bits of a mode that let others read a token, or change it.
const OPEN_TO_OTHERS: u32 = 0o026;

/// Whether a secret is a token of the server: the only ones that a command sends.
pub(super) fn is_token(key: &str) -> bool {
    key.starts_with("server.auth_token")
}

/// The key of the secret that `apply-ttl` needs.
pub(super) const MONGO_URI: &str = "mongo.uri";

/// The configuration and its file.
pub(super) struct Loaded {
    /// The file that was read, if one was.
    pub(super) path: Option<PathBuf>,
    /// The same, to be shown.
    pub(super) file: Option<String>,
    /// The effective settings.
    pub(super) settings: Settings,
}

/// Loads the configuration for the options.
pub(super) fn load(options: &Options) -> Result<Loaded, CommandError> {
    sound(load_with(options, None, options.config.as_deref(), &token_file)?)
}

/// Loads it again for a server that began with that one: a file that is gone by now is a fault, and not the defaults.
///
/// # Errors
/// Every fault.
pub(super) fn load_again(options: &Options, path: Option<&Path>) -> Result<Settings, Vec<String>> {
    let file = path.unwrap_or(Path::new(DEFAULT_CONFIG));
    let token_again = |path: &Path| readable_again(path).and_then(|()| token_file(path));
    let loaded = readable_again(file)
        .map_err(|why| CommandError::asked(format!("cannot read the config file {}: {why}", file.display())))
        .and_then(|()| load_with(options, None, path, &token_again))
        .and_then(sound);
    loaded.map(|loaded| loaded.settings).map_err(CommandError::into_lines)
}

/// A pipe that was read at the start is empty by now, or would be waited for without end.
fn readable_again(path: &Path) -> Result<(), String> {
    match path.metadata() {
        Ok(found) if !found.is_file() => Err("it is no regular file, and can be read only at a start".to_owned()),
        _ => Ok(()),
    }
}

fn sound(loaded: Loaded) -> Result<Loaded, CommandError> {
    match store::hosts(loaded.settings.config().mongo.uri.expose()) {
        Ok(_) => Ok(loaded),
        Err(rule) => {
            Err(CommandError::asked(in_file(loaded.file.as_deref(), &format!("mongo.uri: [redacted]: {rule}"))))
        }
    }
}

/// Loads the configuration for a command that uses only these secrets: the variables of the others may be unset.
pub(super) fn load_using(options: &Options, uses_secret: UsesSecret) -> Result<Config, CommandError> {
    load_with(options, Some(uses_secret), options.config.as_deref(), &token_file).map(|loaded| loaded.settings.config())
}

fn load_with(
    options: &Options,
    uses_secret: Option<UsesSecret>,
    path: Option<&Path>,
    token_file: &dyn Fn(&Path) -> Result<String, String>,
) -> Result<Loaded, CommandError> {
    let (path, text) = match path {
        Some(path) => (Some(path), read(path)?),
        None => match read_if_there(Path::new(DEFAULT_CONFIG))? {
            Some(text) => (Some(Path::new(DEFAULT_CONFIG)), text),
            None => (None, String::new()),
        },
    };
    let file = path.map(|path| path.display().to_string());
    let overrides = Overrides { listen: options.listen.as_deref(), data: options.data.as_deref(), uses_secret };
    match Settings::load(&text, &|name| std::env::var_os(name), token_file, &overrides) {
        Ok(settings) => Ok(Loaded { path: path.map(Path::to_owned), file, settings }),
        Err(faults) => Err(CommandError::Asked(
            faults
                .iter()
                .map(|fault| in_file(file.as_deref().filter(|_| fault.is_in_file()), &fault.to_string()))
                .collect(),
        )),
    }
}

/// The text of a token's file.
fn token_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(TOKEN_FILE_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(error.to_string()),
        Ok(bytes) if bytes as u64 > TOKEN_FILE_BYTES => Err(format!("it is larger than {TOKEN_FILE_BYTES} bytes")),
        Ok(_) => Ok(text),
    }
}

/// A warning about a token's file that others may read or change, if so.
pub(super) fn token_file_warning(config: &Config) -> Option<String> {
    let path = config.server.auth.auth_token_file.as_ref()?;
    let mode = path.metadata().ok()?.mode();
    (mode & OPEN_TO_OTHERS != 0).then(|| {
        let (path, mode) = (logging::escaped(&path.display().to_string()), mode & 0o7777);
        format!(
            "server.auth_token_file: others may read or change {path} (mode {mode:o}); chmod 600 keeps the token secret"
        )
    })
}

/// A fault with its file.
fn in_file(file: Option<&str>, fault: &str) -> String {
    file.map_or_else(|| fault.to_owned(), |file| format!("{file}: {fault}"))
}

fn read(path: &Path) -> Result<String, CommandError> {
    read_if_there(path)?.ok_or_else(|| {
        CommandError::asked(format!("cannot read the config file {}: there is no such file", path.display()))
    })
}

fn read_if_there(path: &Path) -> Result<Option<String>, CommandError> {
    let refuse = |why: String| CommandError::asked(format!("cannot read the config file {}: {why}", path.display()));
    let mut bytes = Vec::new();
    // One byte more than allowed, to see whether there is one.
    match File::open(path).and_then(|file| file.take(CONFIG_BYTES + 1).read_to_end(&mut bytes)) {
        // A dangling link is a mistake, and no request for the defaults.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(None),
        Err(error) => Err(refuse(error.to_string())),
        Ok(_) if bytes.len() as u64 > CONFIG_BYTES => Err(refuse(format!("it is larger than {CONFIG_BYTES} bytes"))),
        Ok(_) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(refuse(format!("byte {} is not UTF-8 text", error.utf8_error().valid_up_to() + 1))),
        },
    }
}
