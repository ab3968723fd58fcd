//! Documents whose `expires_at` is not what `mongo.ttl_days` says: counted for a warning, and set on request. A document
//! keeps the date it was given, also when the days change.
//!
//! The server decides for both, by one expression ([`difference`]). What says no time, or no time that the server can
//! read, has no date that it should have, and is left as it is.
//!
//! A count must not read a large collection at every start. It looks at some that expire first (what never does comes
//! before them) and last, along `expires_at_idx`, and at more only if one of them differs. So it finds a change of the
//! days, and perhaps not each single document.
//!
//! Knows nothing of who is told.

use std::time::Duration;

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::error::Result;
use mongodb::options::{Hint, WriteConcern};
use mongodb::sync::Collection;

use super::erasures::{millis, primary};
use super::{TtlDifference, batched};

/// The most by which a date may differ, in milliseconds: ours are rounded up, and other programs round otherwise.
const TOLERANCE_MILLIS: i64 = 2000;
/// The most time for each of the two counts.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of documents that are looked at first, from either end.
const LOOKED_AT: u32 = 10_000;

/// What [`difference`] says of a document that should expire earlier than it does.
const LATER: i32 = 1;
/// And of one that should expire later.
const SOONER: i32 = -1;

/// How many expire otherwise.
///
/// # Errors
/// The driver's error, also when it takes too long or there is no index on `expires_at`. A retry is safe.
pub fn count(messages: &Collection<RawDocumentBuf>, ttl: Option<Duration>) -> Result<TtlDifference> {
    match count_among(messages, ttl, LOOKED_AT)? {
        none if none == TtlDifference::default() => Ok(none),
        _ => count_among(messages, ttl, TtlDifference::COUNTED_MAX),
    }
}

fn count_among(messages: &Collection<RawDocumentBuf>, ttl: Option<Duration>, most: u32) -> Result<TtlDifference> {
    let (first, last) = (count_from(messages, ttl, most, 1)?, count_from(messages, ttl, most, -1)?);
    // In a small collection both see the same documents.
    Ok(TtlDifference { later: first.later.max(last.later), sooner: first.sooner.max(last.sooner) })
}

fn count_from(
    messages: &Collection<RawDocumentBuf>,
    ttl: Option<Duration>,
    most: u32,
    direction: i32,
) -> Result<TtlDifference> {
    let sum = |difference: i32| doc! { "$sum": { "$cond": [{ "$eq": ["$difference", difference] }, 1, 0] } };
    let pipeline = [
        doc! { "$sort": { "expires_at": direction } },
        doc! { "$limit": i64::from(most) },
        doc! { "$project": { "_id": 0, "difference": difference(ttl) } },
        doc! { "$group": { "_id": Bson::Null, "later": sum(LATER), "sooner": sum(SOONER) } },
    ];
    // Without the index the whole collection would be sorted.
    let found = messages.aggregate(pipeline).hint(Hint::Keys(doc! { "expires_at": 1 })).max_time(COUNT_TIMEOUT);
    let counts = found.selection_criteria(primary()).run()?.next().transpose()?.unwrap_or_default();
    let count = |name| counts.get_i32(name).map_or(0, i32::unsigned_abs);
    Ok(TtlDifference { later: count("later"), sooner: count("sooner") })
}

/// Sets the dates of those that expire otherwise, batch by batch; `told` gets the number of documents of each.
///
/// # Errors
/// The driver's error. What was told is set; a retry sets the rest.
pub fn apply(
    messages: &Collection<RawDocumentBuf>,
    ttl: Option<Duration>,
    write_concern: &WriteConcern,
    told: &mut dyn FnMut(u64),
) -> Result<()> {
    let set = match ttl {
        Some(ttl) => doc! { "$set": { "expires_at": due(ttl) } },
        None => doc! { "$unset": "expires_at" },
    };
    let differs = doc! { "$expr": { "$ne": [difference(ttl), 0] } };
    let found = messages.find(differs.clone()).projection(doc! { "_id": 1 }).selection_criteria(primary()).run()?;
    batched::ids(
        found,
        |_| true,
        |ids| {
            let mut filter = differs.clone();
            filter.insert("_id", doc! { "$in": ids });
            let update = messages.update_many(filter, vec![set.clone()]).write_concern(write_concern.clone());
            told(update.run()?.modified_count);
            Ok(())
        },
    )
}

/// [`LATER`] or [`SOONER`] if the document expires so compared with what it should, else 0.
fn difference(ttl: Option<Duration>) -> Document {
    let expires = doc! { "$eq": [{ "$type": "$expires_at" }, "date"] };
    let Some(ttl) = ttl else { return doc! { "$cond": [expires, SOONER, 0] } };
    let beyond = |millis: i64| doc! { "$add": ["$$due", millis] };
    let differs = doc! { "$switch": { "default": 0, "branches": [
        { "case": { "$eq": ["$$due", Bson::Null] }, "then": 0 },
        { "case": { "$not": [expires] }, "then": LATER },
        { "case": { "$gt": ["$expires_at", beyond(TOLERANCE_MILLIS)] }, "then": LATER },
        { "case": { "$lt": ["$expires_at", beyond(-TOLERANCE_MILLIS)] }, "then": SOONER },
    ] } };
    // Reading a time is what takes long.
    doc! { "$let": { "vars": { "due": due(ttl) }, "in": differs } }
}

/// When the document was made; null if it says no time. A number says none: seconds and milliseconds look alike.
fn created() -> Document {
    let read = doc! { "$convert": { "input": "$created_at", "to": "date", "onError": Bson::Null } };
    doc! { "$cond": [{ "$in": [{ "$type": "$created_at" }, ["date", "string"]] }, read, Bson::Null] }
}

/// When it is to expire; null if it says no time. The server cuts a text to milliseconds, and nothing goes before its time.
fn due(ttl: Duration) -> Document {
    doc! { "$add": [created(), millis(ttl).saturating_add(1)] }
}
