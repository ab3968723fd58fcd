//! The indexes of the collections. A missing one is made. One that differs is reported and left as it is, since an
//! administrator made it so and dropping it can overload a busy database. If the server refuses to list or make one (no
//! rights, another index in the way, no disk), that is reported too: messages do not wait for an index. They are looked for
//! again after every outage and every ten minutes.
//!
//! | of | name | key | serves |
//! |---|---|---|---|
//! | messages | `session_ts_idx` | `{session_id: 1, created_at: -1}` | pages of a session, and erasing one |
//! | erasures | `erased_at_idx` | `{erased_at: 1, _id: 1}` | recent erasures |
//! | both | `expires_at_idx` | `{expires_at: 1}`, `expireAfterSeconds: 0` | the server removes what has expired |

use mongodb::IndexModel;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, ErrorKind, Result};
use mongodb::options::IndexOptions;
use mongodb::sync::{Collection, Database};
use std::time::Duration;

use super::verdict::{self, NAMESPACE_NOT_FOUND};

/// An index as it should be.
pub struct Wanted {
    name: &'static str,
    key: Document,
    expire_after_seconds: Option<i64>,
}

/// The indexes of the messages.
pub fn of_messages() -> [Wanted; 2] {
    let key = doc! { "session_id": 1, "created_at": -1 };
    [Wanted { name: "session_ts_idx", key, expire_after_seconds: None }, expires_at()]
}

/// The indexes of the erasures.
pub fn of_erasures() -> [Wanted; 2] {
    let key = doc! { "erased_at": 1, "_id": 1 };
    [Wanted { name: "erased_at_idx", key, expire_after_seconds: None }, expires_at()]
}

fn expires_at() -> Wanted {
    Wanted { name: "expires_at_idx", key: doc! { "expires_at": 1 }, expire_after_seconds: Some(0) }
}

/// What became of the indexes.
#[derive(Default)]
pub struct Ensured {
    /// Those that differ or are refused, each with how.
    pub differing: Vec<String>,
    /// Those that were missing and are made.
    pub made: Vec<&'static str>,
}

/// Makes missing indexes.
///
/// # Errors
/// The driver's error, unless the server refuses. Some indexes may exist; a retry is safe.
pub fn ensure<T: Send + Sync>(database: &Database, collection: &Collection<T>, all: [Wanted; 2]) -> Result<Ensured> {
    let present = match list(database, collection.name()) {
        // Making an index that exists changes nothing.
        Err(error) if verdict::refusal(&error).is_some() && !is_nobody(database, &error) => Vec::new(),
        present => present?,
    };
    let mut ensured = Ensured::default();
    for index in all {
        let name = index.name;
        match present.iter().find_map(|found| difference(&index, found)) {
            Some(None) => {}
            Some(Some(how)) => ensured.differing.push(format!("{name}: {how}")),
            None => match create(collection, index) {
                Ok(()) => ensured.made.push(name),
                Err(error) => match verdict::refusal(&error) {
                    Some(reason) => ensured.differing.push(format!("{name}: MongoDB refuses to make it ({reason})")),
                    None => return Err(error),
                },
            },
        }
    }
    Ok(ensured)
}

/// By the plain command: the driver's own call fails on an option that it does not know.
fn list(database: &Database, collection: &str) -> Result<Vec<Document>> {
    match database.run_cursor_command(doc! { "listIndexes": collection }).run() {
        Ok(cursor) => cursor.collect(),
        Err(error) if code(&error) == Some(NAMESPACE_NOT_FOUND) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether it is refused because no user is given: then every call will be refused, not just this one.
fn is_nobody(database: &Database, error: &Error) -> bool {
    if code(error) != Some(verdict::UNAUTHORIZED) {
        return false;
    }
    let status = database.run_command(doc! { "connectionStatus": 1 }).run();
    let users = status.as_ref().ok().and_then(|status| status.get_document("authInfo").ok());
    users.and_then(|info| info.get_array("authenticatedUsers").ok()).is_some_and(Vec::is_empty)
}

fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

fn create<T: Send + Sync>(collection: &Collection<T>, index: Wanted) -> Result<()> {
    let expire_after = index.expire_after_seconds.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    let options = IndexOptions::builder().name(index.name.to_owned()).expire_after(expire_after).build();
    collection.create_index(IndexModel::builder().keys(index.key).options(options).build()).run().map(|_| ())
}

/// `None` if `found` is another index; else how it differs from the wanted one, if it does.
fn difference(wanted: &Wanted, found: &Document) -> Option<Option<String>> {
    let name = found.get_str("name").unwrap_or_default();
    let same_key = found.get_document("key").is_ok_and(|key| is_same_key(&wanted.key, key));
    if name != wanted.name && !same_key {
        return None;
    }
    let key = found.get_document("key").map(ToString::to_string).unwrap_or_default();
    let mut how = Vec::new();
    if name != wanted.name {
        how.push(format!("it is there under the name {name:?}"));
    }
    if !same_key {
        how.push(format!("its key is {key}"));
    }
    if whole(found.get("expireAfterSeconds")) != wanted.expire_after_seconds {
        let told = found.get("expireAfterSeconds").map_or_else(|| "missing".to_owned(), ToString::to_string);
        how.push(format!("its expireAfterSeconds is {told}"));
    }
    let known = ["v", "ns", "key", "name", "background", "expireAfterSeconds"];
    let others: Vec<&str> = found.keys().map(String::as_str).filter(|option| !known.contains(option)).collect();
    if !others.is_empty() {
        how.push(format!("it has options of its own ({})", others.join(", ")));
    }
    Some((!how.is_empty()).then(|| how.join("; ")))
}

fn is_same_key(wanted: &Document, found: &Document) -> bool {
    let same = |((name, direction), (found_name, found_direction)): ((&String, &Bson), (&String, &Bson))| {
        name == found_name && whole(Some(direction)) == whole(Some(found_direction))
    };
    wanted.len() == found.len() && wanted.iter().zip(found).all(same)
}

/// Programs in other languages write whole numbers as doubles.
#[allow(clippy::cast_possible_truncation, reason = "only whole doubles within the range are taken")]
fn whole(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_differs_by_name_key_expiry_or_options() {
        let [session, expiry] = of_messages();
        let same = doc! { "v": 2, "key": { "session_id": 1.0, "created_at": -1_i64 }, "name": "session_ts_idx" };
        assert_eq!(difference(&session, &same), Some(None));
        assert_eq!(difference(&expiry, &same), None);
        for (found, told) in [
            (doc! { "key": { "session_id": 1 }, "name": "session_ts_idx" }, "its key is"),
            (doc! { "key": { "created_at": -1, "session_id": 1 }, "name": "session_ts_idx" }, "its key is"),
            (doc! { "key": { "session_id": 1, "created_at": -1 }, "name": "other" }, "under the name \"other\""),
            (doc! { "key": { "session_id": 1, "created_at": -1 }, "name": "session_ts_idx", "sparse": true }, "sparse"),
        ] {
            let how = difference(&session, &found).flatten().unwrap();
            assert!(how.contains(told), "{how}");
        }
        let never = doc! { "key": { "expires_at": 1 }, "name": "expires_at_idx" };
        assert_eq!(difference(&expiry, &never).flatten().unwrap(), "its expireAfterSeconds is missing");
        let at_once = doc! { "key": { "expires_at": 1 }, "name": "expires_at_idx", "expireAfterSeconds": 0.0 };
        assert_eq!(difference(&expiry, &at_once), Some(None));
    }
}
