//! Documents found by a cursor, handed on by `_id` in batches: each is one command of a bounded size, whatever there is.

use mongodb::bson::{Bson, RawDocument, RawDocumentBuf};
use mongodb::error::Result;
use mongodb::sync::Cursor;

/// The most documents of one command.
const BATCH_MAX: usize = 1000;

/// Hands on the `_id`s of the wanted documents.
///
/// # Errors
/// The first error of the cursor or of `each`. The batches before it are done.
pub fn ids(
    mut found: Cursor<RawDocumentBuf>,
    wanted: impl Fn(&RawDocument) -> bool,
    mut each: impl FnMut(Vec<Bson>) -> Result<()>,
) -> Result<()> {
    let mut ids = Vec::new();
    loop {
        let more = found.advance()?;
        if more && wanted(found.current()) {
            ids.extend(found.current().get("_id")?.map(Bson::try_from).transpose()?);
        }
        if ids.len() >= BATCH_MAX || (!more && !ids.is_empty()) {
            each(std::mem::take(&mut ids))?;
        }
        if !more {
            return Ok(());
        }
    }
}
