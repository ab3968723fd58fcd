//! `POST /api/storage/backup`: has the server write a copy of its data.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use crate::backup::{BackupError, Backups};
use crate::chat::Transport;

use super::body::{self, Text};
use super::shape::{FieldKind, Shape};
use super::{Problem, Reply, RequestHead, content, query};

const BACKUP: &Shape = &[("folder", FieldKind::Text)];

/// Seconds after which another backup may be asked for.
const RETRY_SECONDS: u32 = 5;

#[derive(Deserialize)]
struct BackupBody<'a> {
    #[serde(borrow)]
    folder: Text<'a>,
}

/// `POST /api/storage/backup` with `{"folder":"/backups/2025-11-28"}`, which must not exist or be empty. Only over the local
/// socket: whoever may use it may write to the server's disk anyway. Replies when the copy is whole and synced:
///
/// ```json
/// {"folder":"/backups/2025-11-28","transcripts":3,"segments":1,"bytes":4711}
/// ```
pub fn make(backups: &Backups, head: &RequestHead<'_>, body: &[u8]) -> Result<Reply, Problem> {
    query::none_of(head.query, BACKUP)?;
    let body = content::json(head, body, BACKUP)?;
    let asked: BackupBody<'_> = body::object(&body, BACKUP)?;
    if head.transport != Transport::Local {
        let detail = "a backup writes to the server's disk: ask there, over the local socket, with chatkeep backup DIR";
        return Err(Problem::new(403, "local_only", detail));
    }
    let report = backups.make(Path::new(&*asked.folder)).map_err(|error| match error {
        BackupError::Folder(why) => Problem::field("folder", &why),
        BackupError::Busy => Problem::unavailable("backup_running", error.to_string(), RETRY_SECONDS),
        BackupError::Io { .. } => Problem::new(507, "backup_failed", format!("{error}; nothing is left of the copy")),
    })?;
    let (folder, of) = (&*asked.folder, report);
    Ok(super::json(
        200,
        &json!({"folder": folder, "transcripts": of.transcripts, "segments": of.segments, "bytes": of.bytes}),
    ))
}
