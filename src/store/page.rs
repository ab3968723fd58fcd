//! A page of a session, out of documents of ours and of other programs.
//!
//! `session_ts_idx` has the documents of a session by `created_at`, texts by their characters and dates after all
//! texts. So there are four kinds of time, each read along the index by itself:
//!
//! | kind | order in the index |
//! |---|---|
//! | ours: `2025-11-28T01:23:45.123456+00:00` | that of the times |
//! | other texts of UTC, or without an offset | that of the times, to the second |
//! | dates | that of the times, to the millisecond |
//! | all other texts | by day, and up to 15 hours off |
//!
//! Reading along one of them, what is still to come is older than the place that was reached by no more than that; so a page
//! is full once its last message is beyond it. Ours are read first, and one look tells whether there is anything else where
//! they reach: a session without foreign documents costs two questions, and documents as many as the page holds and one.
//!
//! A document without any time has no place and is counted with every page. Knows nothing of who asks.

use std::sync::Arc;
use std::time::Duration;

use mongodb::action::{Action as _, Find};
use mongodb::bson::raw::{RawBsonRef, RawDocument};
use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use mongodb::error::Error;
use mongodb::options::Hint;
use mongodb::sync::Collection;

use crate::message::{Direction, Id, Message, SessionId, Timestamp};

use super::erasures::primary;
use super::foreign::{place_of, role_pattern, time_of, to_message};
use super::{SESSIONS_MAX, StorePage, StoreQuery, verdict};

/// The texts that we write.
const OURS: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}\+00:00$";
/// Those, and all others that order as their times do, to the second.
const UTC: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.,][0-9]+)?(Z|[+-]00(:?00)?)?$";
/// The years of texts that can be times: `Timestamp::parse_any` takes these.
const YEARS: (&str, &str) = ("1970", "2100");
/// Behind every text that begins with the same day or second.
const BEHIND: char = '~';
/// The farthest offset from UTC, in microseconds.
const OFFSET_MICROS: u64 = 15 * 3600 * 1_000_000;
/// Types of `created_at` that are no time; in addition to null, or nothing.
const NO_TIME: [&str; 9] = ["double", "int", "long", "decimal", "object", "objectId", "bool", "binData", "timestamp"];
/// The most documents without a time that are counted.
const COUNTED_MAX: u64 = 1000;

/// A kind of time, see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Ours,
    Utc,
    Dates,
    Others,
}

/// Reads a page: our documents and those of other programs, in the order of their times.
///
/// # Errors
/// The driver's error. Nothing was changed; a retry is safe.
pub fn read(messages: &Collection<RawDocumentBuf>, query: &StoreQuery) -> Result<StorePage, Error> {
    let search = PageSearch { messages, query };
    let mut page = search.along(Times::Ours, query)?;
    let mut uncounted = 0;
    if search.has_others(&page.narrowed(query))? {
        for times in [Times::Utc, Times::Dates, Times::Others] {
            let found = search.along(times, &page.narrowed(query))?;
            page = page.merged(found, query);
        }
        uncounted = search.without_time()?;
    }
    Ok(page.into_page(query.direction, uncounted))
}

/// Names of sessions after that one, and where to go on if there may be more. `session_ts_idx` has them in this order, so the
/// server looks at one key for each.
///
/// # Errors
/// The driver's error. A retry is safe.
pub fn sessions(
    messages: &Collection<RawDocumentBuf>,
    after: &str,
    time_max: Duration,
) -> Result<(Vec<SessionId>, Option<String>), Error> {
    let limit = i64::try_from(SESSIONS_MAX).unwrap_or(i64::MAX);
    let stages = [
        doc! { "$match": { "session_id": { "$gt": after } } },
        doc! { "$sort": { "session_id": 1 } },
        doc! { "$group": { "_id": "$session_id" } },
        doc! { "$sort": { "_id": 1 } },
        doc! { "$limit": limit },
    ];
    let mut cursor = messages.aggregate(stages).selection_criteria(primary()).max_time(time_max).run()?;
    let (mut found, mut last, mut count) = (Vec::new(), None, 0);
    while cursor.advance()? {
        let Ok(name) = cursor.current().get_str("_id") else { continue };
        // What is no session's name has no message that could be shown.
        found.extend(SessionId::new(name).ok());
        (last, count) = (Some(name.to_owned()), count + 1);
    }
    Ok((found, last.filter(|_| count == SESSIONS_MAX)))
}

/// Reads for one page.
struct PageSearch<'a> {
    messages: &'a Collection<RawDocumentBuf>,
    query: &'a StoreQuery,
}

impl PageSearch<'_> {
    /// Those of one kind of time, as many as the page takes.
    fn along(&self, times: Times, query: &StoreQuery) -> Result<Found, Error> {
        let order = if query.direction == Direction::Newest { -1 } else { 1 };
        let mut filter = doc! { "session_id": query.session.as_str(), "created_at": times.filter(query) };
        if let Some(role) = &query.role {
            filter.insert("role", doc! { "$regex": role_pattern(role), "$options": "i" });
        }
        let mut limit = i64::try_from(query.limit.max(1)).unwrap_or(i64::MAX / 8) + 1;
        loop {
            let find = self.messages.find(filter.clone()).sort(doc! { "created_at": order }).limit(limit);
            let mut cursor = find.selection_criteria(primary()).max_time(query.time_max).run()?;
            let (mut found, mut read) = (Found::default(), 0);
            while cursor.advance()? {
                read += 1;
                if found.take(cursor.current(), times, query) {
                    return Ok(found);
                }
            }
            if read < limit {
                return Ok(found);
            }
            // So many are of nearly one time that their order is not known yet.
            limit = limit.saturating_mul(4);
        }
    }

    /// Whether there is anything of another kind.
    fn has_others(&self, query: &StoreQuery) -> Result<bool, Error> {
        let mut texts = Times::Others.filter(query);
        texts.insert("$regex", not(OURS));
        let filter = self.any([texts, Times::Dates.filter(query)].into_iter().map(Bson::from).chain(no_time()));
        let look = |hint: Option<Hint>| {
            let find = self.messages.find(filter.clone()).projection(doc! { "_id": 1 }).limit(1);
            let find = find.optional(hint, Find::hint);
            find.selection_criteria(primary()).max_time(query.time_max).run()?.advance()
        };
        // Along another index on the session, such as a hashed shard key's, the server would read each document of it.
        let ours = Hint::Keys(doc! { "session_id": 1, "created_at": -1 });
        look(Some(ours)).or_else(|error| if verdict::is_bad_hint(&error) { look(None) } else { Err(error) })
    }

    /// How many there are that say no time.
    fn without_time(&self) -> Result<usize, Error> {
        let count = self.messages.count_documents(self.any(no_time())).limit(COUNTED_MAX).max_time(self.query.time_max);
        count.selection_criteria(primary()).run().map(|count| usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// The session in each branch: then the server looks into a part of the index for each, else into all of it once.
    fn any(&self, times: impl IntoIterator<Item = Bson>) -> Document {
        let session = self.query.session.as_str();
        let branch = |times: Bson| doc! { "session_id": session, "created_at": times };
        doc! { "$or": times.into_iter().map(branch).collect::<Vec<_>>() }
    }
}

/// What says no time: each a part of the index, so that a session without such documents costs a look.
fn no_time() -> Vec<Bson> {
    let not_ours = not(OURS);
    // Several types in one would be looked for among all.
    let types = NO_TIME.map(|kind| doc! { "$type": kind }.into());
    // `20.11.2025` stands between the last day of 1999 and the first of 2000.
    let between = doc! { "$gte": "1999-99", "$lt": "2000-", "$regex": &not_ours };
    let before = doc! { "$gte": "", "$lt": YEARS.0, "$regex": &not_ours };
    let behind = doc! { "$gte": YEARS.1, "$regex": &not_ours };
    let texts = [before, between, behind].map(Bson::from);
    [Bson::Null].into_iter().chain(types).chain(texts).collect()
}

/// A pattern of what another one, which begins with `^`, does not match. (`$not` would cost a look at each document.)
fn not(pattern: &str) -> String {
    format!("^(?!{})", &pattern[1..])
}

impl Times {
    /// What `created_at` must match: this kind, between two places in the index that enclose all wanted documents.
    fn filter(self, query: &StoreQuery) -> Document {
        let mut filter = match self {
            Self::Ours => doc! { "$regex": OURS },
            Self::Utc => doc! { "$regex": format!("{}{}", not(OURS), &UTC[1..]) },
            Self::Dates => doc! { "$type": "date" },
            Self::Others => doc! { "$gte": YEARS.0, "$lt": YEARS.1, "$regex": not(UTC) },
        };
        if let Some(after) = query.after {
            filter.insert("$gte", self.bound(after.time(), false));
        }
        if let Some(before) = query.before {
            let name = if self == Self::Others { "$lt" } else { "$lte" };
            filter.insert(name, self.bound(before.time(), true));
        }
        filter
    }

    fn bound(self, time: Timestamp, is_upper: bool) -> Bson {
        let text = |time: Timestamp, length: usize| {
            let mut text = time.to_string();
            text.truncate(length);
            text.extend(is_upper.then_some(BEHIND));
            text
        };
        let micros = time.micros();
        match self {
            Self::Ours => time.to_string().into(),
            Self::Utc => text(time, "2025-11-28T01:23:45".len()).into(),
            Self::Dates => DateTime::from_millis(i64::try_from(micros / 1000).unwrap_or(i64::MAX)).into(),
            Self::Others if is_upper => {
                let latest = text(Timestamp::from_micros(micros + OFFSET_MICROS), "2025-11-28".len());
                latest.min(YEARS.1.to_owned()).into()
            }
            Self::Others => {
                let earliest = text(Timestamp::from_micros(micros.saturating_sub(OFFSET_MICROS)), "2025-11-28".len());
                earliest.max(YEARS.0.to_owned()).into()
            }
        }
    }

    /// The farthest time, against the direction of reading, that a later document of the index may have.
    fn frontier(self, document: &RawDocument, direction: Direction) -> Option<Timestamp> {
        let is_newest = direction == Direction::Newest;
        let widened = |time: Timestamp, unit: u64, off: u64| {
            let start = time.micros() / unit * unit;
            Timestamp::from_micros(if is_newest { start + unit - 1 + off } else { start.saturating_sub(off) })
        };
        match self {
            Self::Ours => time_of(document),
            Self::Utc => Some(widened(time_of(document)?, 1_000_000, 0)),
            Self::Dates => Some(widened(time_of(document)?, 1000, 0)),
            Self::Others => {
                let Ok(Some(RawBsonRef::String(text))) = document.get("created_at") else { return None };
                let day = Timestamp::parse(&format!("{}T00:00:00Z", text.get(..10)?))?;
                Some(widened(day, 86_400_000_000, OFFSET_MICROS))
            }
        }
    }
}

/// What a search found, the nearest to the side of reading first.
#[derive(Default)]
struct Found {
    /// Each with its message; `None` for a document that is none.
    documents: Vec<(Id, Option<Arc<Message>>)>,
    bytes: usize,
    /// Nothing beyond the last one fits.
    is_full: bool,
    /// There are more beyond the last one.
    more: bool,
    /// Documents that stand nowhere.
    misplaced: usize,
}

impl Found {
    /// Takes the next document of the index. Whether everything is known by it that fits.
    fn take(&mut self, document: &RawDocument, times: Times, query: &StoreQuery) -> bool {
        let Some(id) = place_of(document) else {
            self.misplaced += 1;
            return false;
        };
        if query.after.is_some_and(|after| id <= after) || query.before.is_some_and(|before| id >= before) {
            return false;
        }
        let is_beyond = |last: Id, frontier: Timestamp| match query.direction {
            Direction::Newest => last.time() > frontier,
            Direction::Oldest => last.time() < frontier,
        };
        let last = self.documents.last().filter(|_| self.is_full).map(|(id, _)| *id);
        let frontier = times.frontier(document, query.direction);
        if last.zip(frontier).is_some_and(|(last, frontier)| is_beyond(last, frontier)) {
            self.more = true;
            return true;
        }
        self.insert(id, || to_message(document, id), query);
        false
    }

    /// Puts it where it belongs, if it fits.
    fn insert(&mut self, id: Id, message: impl FnOnce() -> Option<Arc<Message>>, query: &StoreQuery) {
        let is_nearer = |other: &Id| match query.direction {
            Direction::Newest => *other > id,
            Direction::Oldest => *other < id,
        };
        let at = self.documents.partition_point(|(other, _)| is_nearer(other));
        if self.is_full && at == self.documents.len() {
            self.more = true;
            return;
        }
        let message = message();
        self.bytes += bytes_of(message.as_ref());
        self.documents.insert(at, (id, message));
        while self.documents.len() > query.limit.max(1) || (self.bytes > query.bytes_max && self.documents.len() > 1) {
            let dropped = self.documents.pop();
            self.bytes -= dropped.map_or(0, |(_, message)| bytes_of(message.as_ref()));
            (self.is_full, self.more) = (true, true);
        }
        self.is_full |= self.documents.len() >= query.limit.max(1);
    }

    /// The same question, no farther than this reaches.
    fn narrowed(&self, query: &StoreQuery) -> StoreQuery {
        let mut narrowed = query.clone();
        if let Some((end, _)) = self.documents.last().filter(|_| self.more) {
            match query.direction {
                Direction::Newest => narrowed.after = Some(end.just_before()),
                Direction::Oldest => narrowed.before = Some(end.just_after()),
            }
        }
        narrowed
    }

    /// Both in one, as far as both reach.
    fn merged(mut self, other: Self, query: &StoreQuery) -> Self {
        let reach = other.narrowed(query);
        let before = self.documents.len();
        self.documents.retain(|(id, _)| {
            reach.after.is_none_or(|after| *id > after) && reach.before.is_none_or(|before| *id < before)
        });
        self.bytes = self.documents.iter().map(|(_, message)| bytes_of(message.as_ref())).sum();
        self.is_full &= self.documents.len() == before;
        for (id, message) in other.documents {
            self.insert(id, || message, query);
        }
        self.more |= other.more;
        self.misplaced += other.misplaced;
        self
    }

    fn into_page(mut self, direction: Direction, uncounted: usize) -> StorePage {
        let searched = self.documents.last().map(|(id, _)| *id);
        if direction == Direction::Newest {
            self.documents.reverse();
        }
        let all = self.documents.len();
        let messages: Vec<_> = self.documents.into_iter().filter_map(|(_, message)| message).collect();
        let passed_over = all - messages.len() + self.misplaced + uncounted;
        StorePage { messages, more: self.more, searched, passed_over }
    }
}

fn bytes_of(message: Option<&Arc<Message>>) -> usize {
    message.map_or(0, |message| message.line().len())
}
