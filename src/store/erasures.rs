//! Tells the other servers of a shared database what is erased: one document for each session, next to the messages in
//! `<chat_collection>_erasures`.
//!
//! | field | BSON | |
//! |---|---|---|
//! | `_id` | string | the session |
//! | `erased_to` | string | every message of it up to this id is erased; it only rises |
//! | `erased_at` | date | when it was last raised, by the server's own clock |
//! | `expires_at` | date | a day after the last message it covers has expired; missing when messages do not |
//!
//! It stands alone because here, and only here, a document is changed. The server's clock gives `erased_at`, so that whoever
//! reads in its order misses nothing that comes late from a server whose clock is behind or that was cut off for long.
//!
//! Knows nothing of who is told.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::{ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::sync::{Collection, Database};

use crate::message::{Id, SessionId};

use super::indexes::{self, Ensured};
use super::{ERASURES_MAX, ErasurePlace, StoredErasure, verdict};

/// An erasure is kept this much longer than what it covers: clocks differ, and the server removes expired documents
/// once a minute.
const RETENTION_MARGIN: Duration = Duration::from_secs(86_400);

/// The collection of erasures.
#[derive(Clone)]
pub struct ErasureCollection {
    documents: Collection<Document>,
    ttl: Option<Duration>,
    write_concern: WriteConcern,
}

impl ErasureCollection {
    /// The erasures of the messages in `collection`.
    pub fn beside(database: &Database, collection: &str, ttl: Option<Duration>, write_concern: WriteConcern) -> Self {
        Self { documents: database.collection(&format!("{collection}_erasures")), ttl, write_concern }
    }

    /// Makes the indexes.
    ///
    /// # Errors
    /// The driver's error. Some indexes may exist; a retry is safe.
    pub fn connect(&self, database: &Database) -> Result<Ensured, Error> {
        let mut ensured = indexes::ensure(database, &self.documents, indexes::of_erasures())?;
        ensured.differing.iter_mut().for_each(|how| *how = format!("{}.{how}", self.documents.name()));
        Ok(ensured)
    }

    /// Lets every erasure stay for as long as messages may live now. None is shortened: a server may have been away since
    /// messages lived longer.
    ///
    /// # Errors
    /// The driver's error. Some may be lengthened; a retry is safe.
    pub fn lengthen(&self) -> Result<(), Error> {
        let has_date = doc! { "expires_at": { "$type": "date" }, "erased_at": { "$type": "date" } };
        let update = match self.ttl {
            None => self.documents.update_many(has_date, doc! { "$unset": { "expires_at": "" } }),
            Some(ttl) => {
                let due = doc! { "$add": ["$erased_at", millis(ttl + RETENTION_MARGIN)] };
                let longer = doc! { "$max": ["$expires_at", due] };
                self.documents.update_many(has_date, vec![doc! { "$set": { "expires_at": longer } }])
            }
        };
        update.write_concern(self.write_concern.clone()).run().map(drop)
    }

    /// Tells the other servers that everything of the session up to that id is erased.
    ///
    /// # Errors
    /// The driver's error. The others may know already; a retry is safe.
    pub fn tell(&self, session: &SessionId, up_to: Id) -> Result<(), Error> {
        let up_to_text = up_to.to_string();
        let mut set = doc! { "erased_to": &up_to_text };
        if let Some(ttl) = self.ttl {
            let micros = u128::from(up_to.time().micros()) + (ttl + RETENTION_MARGIN).as_micros();
            set.insert("expires_at", DateTime::from_millis(i64::try_from(micros / 1000).unwrap_or(i64::MAX)));
        }
        let lower = doc! { "_id": session.as_str(), "erased_to": { "$lt": &up_to_text } };
        let raise = doc! { "$set": set, "$currentDate": { "erased_at": true } };
        let once = || {
            let raised = self.documents.update_one(lower.clone(), raise.clone()).upsert(true);
            raised.write_concern(self.write_concern.clone()).run()
        };
        // The first time, another server may insert between the update and the insert, with a lower id.
        match once().or_else(|error| if is_duplicate(&error) { once() } else { Err(error) }) {
            // No document is lower, and one exists: at least as much is told already.
            Err(error) if is_duplicate(&error) => Ok(()),
            raised => raised.map(drop),
        }
    }

    /// See [`super::Store::erasures`].
    ///
    /// # Errors
    /// The driver's error; a retry is safe.
    pub fn read(&self, after: Option<&ErasurePlace>) -> Result<Vec<StoredErasure>, Error> {
        let filter = after.map_or_else(Document::new, |ErasurePlace { millis, id }| {
            let at = DateTime::from_millis(*millis);
            doc! { "erased_at": { "$gte": at }, "$or": [{ "erased_at": { "$gt": at } }, { "_id": { "$gt": id } }] }
        });
        let limit = i64::try_from(ERASURES_MAX).unwrap_or(i64::MAX);
        let found = self.documents.find(filter).sort(doc! { "erased_at": 1, "_id": 1 }).limit(limit);
        found.selection_criteria(primary()).run()?.map(|document| document.map(|found| read_one(&found))).collect()
    }
}

/// Whatever the connection string says: only the primary has everything that was confirmed.
pub fn primary() -> SelectionCriteria {
    SelectionCriteria::ReadPreference(ReadPreference::Primary)
}

/// A duration in the server's unit.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A document that is no erasure still has a place, so that a reader gets past it.
fn read_one(document: &Document) -> StoredErasure {
    let millis = document.get_datetime("erased_at").map_or(0, |at| at.timestamp_millis());
    let id = document.get_str("_id").unwrap_or_default();
    let up_to = document.get_str("erased_to").ok().and_then(|id| id.parse().ok());
    let erasure = SessionId::new(id).ok().zip(up_to);
    StoredErasure { place: ErasurePlace { millis, id: id.to_owned() }, erasure }
}

fn is_duplicate(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(write)) => write.code == verdict::DUPLICATE_KEY,
        ErrorKind::Command(command) => command.code == verdict::DUPLICATE_KEY,
        _ => false,
    }
}
