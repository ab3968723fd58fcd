//! MongoDB, by its own driver, blocking.
//!
//! The client is made at the first call: resolving a `mongodb+srv` name asks the network, and a start must not wait for
//! that. The driver has its own threads (`tokio-runtime-worker`, one for each processor) that probe the servers.
//!
//! Invariants: whatever the connection string says, writes ask for a majority with its journals, and reads go to the
//! primary, so that a page shows every message whose insert succeeded. A duplicate key is a success only if the
//! document with our id is this message, and only once the majority has confirmed it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use mongodb::error::{Error, ErrorKind, IndexedWriteError, InsertManyError};
use mongodb::options::{Acknowledgment, ClientOptions, ConnectionString, HostInfo, ServerAddress, WriteConcern};
use mongodb::sync::{Client, Collection, Database};

use crate::config::{MongoConfig, Secret};
use crate::message::{Id, Message, SessionId};

use super::document::{id_of, to_document};
use super::erasures::{ErasureCollection, primary};
use super::foreign::{place_of, to_message};
use super::indexes::Ensured;
use super::interface::{ENCODE, RULE, UNACKNOWLEDGED};
use super::{
    Connected, ErasurePlace, Inserted, OutgoingMessage, Refused, Store, StoreError, StorePage, StoreQuery,
    StoredErasure, TtlDifference, batched, indexes, page, ttl, verdict,
};

/// How long connecting to a server and waiting for a writable one may take: with the driver's own 10 and 30 s a stopped
/// server would hold each call for half a minute.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval between two probes of a server; a frozen one is noticed after two of them.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two counts of the documents that expire otherwise than `mongo.ttl_days` says.
const COUNT_INTERVAL: Duration = Duration::from_secs(300);

/// The most of a replica set's name that is shown, in characters.
const SET_NAME_CHARS: usize = 64;

/// What ids of ours look like.
const ID_PATTERN: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$";

/// The hosts a connection string names, `HOST:PORT` each; for `mongodb+srv` the name that is looked up.
///
/// # Errors
/// The rule that it breaks, without quoting it. A build without MongoDB checks the scheme only and names no hosts.
pub fn hosts(uri: &str) -> Result<Vec<String>, &'static str> {
    // The driver panics on some of them.
    if user_info(uri.split('?').next().unwrap_or(uri)).is_some_and(has_bare_percent) {
        return Err(ENCODE);
    }
    let parsed = ConnectionString::parse(uri).map_err(|_| if is_unencoded(uri) { ENCODE } else { RULE })?;
    if parsed.write_concern.is_some_and(|concern| concern.w == Some(Acknowledgment::Nodes(0))) {
        return Err(UNACKNOWLEDGED);
    }
    Ok(match parsed.host_info {
        HostInfo::HostIdentifiers(hosts) => hosts.iter().map(host).collect(),
        HostInfo::DnsRecord(name) => vec![name],
        // Later versions of the driver may add kinds; none is secret, and none can be named yet.
        _ => Vec::new(),
    })
}

/// What stands before the last `@`: the name and the password.
fn user_info(uri: &str) -> Option<&str> {
    uri.split_once("://")?.1.rsplit_once('@').map(|(user, _)| user)
}

fn has_bare_percent(user: &str) -> bool {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    user.split('%').skip(1).any(|rest| !is_escape(rest))
}

/// Whether the name and the password have what they may not have, so that the rest was misread.
fn is_unencoded(uri: &str) -> bool {
    let is_reserved = |user: &str| user.matches(':').count() > 1 || user.contains(['@', '/', '?', '#', '[', ']']);
    user_info(uri).is_some_and(is_reserved)
}

fn host(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Tcp { host, port } => format!("{host}:{}", port.unwrap_or(27017)),
        other => other.to_string(),
    }
}

/// Makes the configured store. It connects only at the first call.
///
/// # Errors
/// [`StoreError::Configuration`]: the connection string is invalid, or this build has no MongoDB.
pub fn open(config: &MongoConfig) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(store(config)?))
}

/// Sets when documents expire to what `mongo.ttl_days` says, in batches; `told` gets the number of documents of each.
///
/// # Errors
/// Any [`StoreError`]. What was told is set; a retry sets the rest.
pub fn apply_ttl(config: &MongoConfig, told: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
    let store = store(config)?;
    store.ask(|opened| {
        // First: a document that lives longer needs its erasure for longer.
        opened.erasures.as_ref().map_or(Ok(()), ErasureCollection::lengthen)?;
        ttl::apply(&opened.messages, store.ttl, &opened.write_concern, told)
    })
}

fn store(config: &MongoConfig) -> Result<MongoStore, StoreError> {
    let hosts = hosts(config.uri.expose()).map_err(|rule| StoreError::Configuration(format!("mongo.uri {rule}")))?;
    Ok(MongoStore {
        hosts: hosts.into(),
        uri: config.uri.clone(),
        database: config.database.clone(),
        collection: config.chat_collection.clone(),
        ttl: config.ttl,
        shared: config.shared,
        confirm_within: config.call_timeout / 2,
        opened: Mutex::new(None),
        count_at: Mutex::new(Some(Instant::now())),
    })
}

struct MongoStore {
    /// The hosts of the connection string, in its order.
    hosts: Arc<[String]>,
    uri: Secret,
    database: String,
    collection: String,
    ttl: Option<Duration>,
    shared: bool,
    /// How long the primary waits for the majority: less than the caller's deadline, or the call would be abandoned
    /// before its error arrives.
    confirm_within: Duration,
    opened: Mutex<Option<OpenedDatabase>>,
    /// When to count the documents that expire otherwise than by `ttl`; `None` once none was found, since what comes from
    /// here is right.
    count_at: Mutex<Option<Instant>>,
}

/// A client and its collections; clones share the connections.
#[derive(Clone)]
struct OpenedDatabase {
    database: Database,
    messages: Collection<RawDocumentBuf>,
    /// Erasures for other servers, if the database is shared.
    erasures: Option<ErasureCollection>,
    write_concern: WriteConcern,
    hosts: Arc<[String]>,
}

impl MongoStore {
    /// The lock is held for a look only, because making a client may ask the network. Two calls at once may make one
    /// too many, which is dropped.
    fn opened(&self) -> Result<OpenedDatabase, StoreError> {
        let lock = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = lock().clone() {
            return Ok(opened);
        }
        let made = self.open().map_err(|error| verdict::of(&error, &self.hosts))?;
        Ok(lock().get_or_insert(made).clone())
    }

    fn ask<T>(&self, ask: impl FnOnce(&OpenedDatabase) -> Result<T, Error>) -> Result<T, StoreError> {
        ask(&self.opened()?).map_err(|error| verdict::of(&error, &self.hosts))
    }

    fn look(&self, opened: &OpenedDatabase) -> Result<Connected, Error> {
        let Ensured { mut differing, mut made } =
            indexes::ensure(&opened.database, &opened.messages, indexes::of_messages())?;
        if let Some(erasures) = &opened.erasures {
            let theirs = erasures.connect(&opened.database)?;
            differing.extend(theirs.differing);
            made.extend(theirs.made);
        }
        Ok(Connected { differing_indexes: differing, made_indexes: made, ttl_differs: self.ttl_differs(opened) })
    }

    fn ttl_differs(&self, opened: &OpenedDatabase) -> Option<TtlDifference> {
        let mut count_at = self.count_at.lock().unwrap_or_else(PoisonError::into_inner);
        count_at.filter(|at| *at <= Instant::now())?;
        // It is for a warning only: without the right, the index or the time for it the connection is good all the same.
        let found = ttl::count(&opened.messages, self.ttl).ok();
        *count_at = (found != Some(TtlDifference::default())).then(|| Instant::now() + COUNT_INTERVAL);
        found
    }

    /// That the server is in another replica set than the connection string says, if that is why none was selected. The
    /// driver forgets such a server, and its set's name: so it is asked here, and the client is made anew for the next try.
    fn other_set(&self, error: &Error) -> Option<StoreError> {
        let ErrorKind::ServerSelection { message, .. } = error.kind.as_ref() else { return None };
        if message.contains("Address: ") && !message.contains("does not match actual name") {
            return None;
        }
        let mut options = ClientOptions::parse(self.uri.expose()).run().ok()?;
        let wanted = options.repl_set_name.take()?;
        options.hosts.truncate(1);
        let asked = host(options.hosts.first()?);
        options.direct_connection = Some(true);
        (options.server_selection_timeout, options.connect_timeout) = (Some(CONNECT_TIMEOUT), Some(CONNECT_TIMEOUT));
        let database = Client::with_options(options).ok()?.database("admin");
        let hello = database.run_command(doc! { "hello": 1 }).run().ok()?;
        let found = hello.get_str("setName").ok().filter(|name| *name != wanted);
        let found = match found {
            Some(name) => format!("the replica set of {asked} is {:?}", verdict::cut(name, SET_NAME_CHARS)),
            None if hello.contains_key("setName") => return None,
            None => format!("{asked} is in no replica set"),
        };
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Some(StoreError::Configuration(format!("mongo.uri says replicaSet {wanted:?}, and {found}")))
    }

    fn open(&self) -> Result<OpenedDatabase, Error> {
        let mut options = ClientOptions::parse(self.uri.expose()).run()?;
        options.app_name.get_or_insert_with(|| "chatkeep".to_owned());
        options.server_selection_timeout.get_or_insert(CONNECT_TIMEOUT);
        options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        options.heartbeat_freq.get_or_insert(HEARTBEAT_INTERVAL);
        let given = options.write_concern.as_ref().and_then(|concern| concern.w_timeout);
        let write_concern = WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .w_timeout(given.unwrap_or(self.confirm_within))
            .build();
        let database = Client::with_options(options)?.database(&self.database);
        let messages = database.collection(&self.collection);
        let erasures = || ErasureCollection::beside(&database, &self.collection, self.ttl, write_concern.clone());
        let erasures = self.shared.then(erasures);
        Ok(OpenedDatabase { database, messages, erasures, write_concern, hosts: Arc::clone(&self.hosts) })
    }
}

impl Store for MongoStore {
    fn connect(&self) -> Result<Connected, StoreError> {
        self.look(&self.opened()?)
            .map_err(|error| self.other_set(&error).unwrap_or_else(|| verdict::of(&error, &self.hosts)))
    }

    fn prepare(&self, message: &Arc<Message>) -> OutgoingMessage {
        let document = to_document(message, self.ttl).map_err(|unfit| unfit.to_string());
        OutgoingMessage { message: Arc::clone(message), document: Some(document) }
    }

    fn send(&self, batch: &[OutgoingMessage]) -> Result<Inserted, StoreError> {
        let opened = self.opened()?;
        let mut inserted = Inserted::default();
        let mut fit = Vec::with_capacity(batch.len());
        for (index, OutgoingMessage { message, document }) in batch.iter().enumerate() {
            match document.as_ref().expect("it was prepared by this store") {
                Ok(document) => fit.push((index, message, document)),
                Err(reason) => inserted.refused.push(Refused { index, reason: reason.clone() }),
            }
        }
        if !fit.is_empty() {
            opened.insert(&fit, &mut inserted)?;
        }
        inserted.refused.sort_by_key(|refused| refused.index);
        Ok(inserted)
    }

    fn erase(&self, session: &SessionId, up_to: Id) -> Result<u64, StoreError> {
        self.ask(|opened| {
            if let Some(erasures) = &opened.erasures {
                erasures.tell(session, up_to)?;
            }
            let ours = doc! { "$regex": ID_PATTERN, "$lte": up_to.to_string() };
            let ours = opened.delete(doc! { "session_id": session.as_str(), "_id": ours })?;
            Ok(ours + opened.erase_foreign(session, up_to)?)
        })
    }

    fn read(&self, query: &StoreQuery) -> Result<StorePage, StoreError> {
        self.ask(|opened| page::read(&opened.messages, query))
    }

    fn sessions(&self, after: &str, time_max: Duration) -> Result<(Vec<SessionId>, Option<String>), StoreError> {
        self.ask(|opened| page::sessions(&opened.messages, after, time_max))
    }

    fn erasures(&self, after: Option<&ErasurePlace>) -> Result<Vec<StoredErasure>, StoreError> {
        self.ask(|opened| opened.erasures.as_ref().map_or_else(|| Ok(Vec::new()), |erasures| erasures.read(after)))
    }
}

/// A message of a batch that has a document: its index, the message and the document.
type Fit<'a> = (usize, &'a Arc<Message>, &'a RawDocumentBuf);

impl OpenedDatabase {
    fn insert(&self, batch: &[Fit<'_>], inserted: &mut Inserted) -> Result<(), StoreError> {
        let insert = self.messages.insert_many(batch.iter().map(|(.., document)| *document));
        let Err(error) = insert.ordered(false).write_concern(self.write_concern.clone()).run() else {
            inserted.stored = batch.len();
            return Ok(());
        };
        let ErrorKind::InsertMany(InsertManyError { write_errors: Some(failed), write_concern_error: None, .. }) =
            error.kind.as_ref()
        else {
            return Err(verdict::of(&error, &self.hosts));
        };
        let mut duplicates = Vec::new();
        for failure in failed {
            match verdict::permanent(failure.code) {
                Some(reason) => inserted.refused.push(Refused { index: batch[failure.index].0, reason }),
                None if failure.code == verdict::DUPLICATE_KEY => duplicates.push(failure),
                None => return Err(verdict::of_code(failure.code, "")),
            }
        }
        inserted.stored = batch.len() - failed.len();
        self.compare(batch, &duplicates, inserted)
    }

    /// Compares the documents that were there already. The insert has waited for the majority, so what the primary has
    /// under these ids is permanent.
    fn compare(
        &self,
        batch: &[Fit<'_>],
        duplicates: &[&IndexedWriteError],
        inserted: &mut Inserted,
    ) -> Result<(), StoreError> {
        if duplicates.is_empty() {
            return Ok(());
        }
        let ids = duplicates.iter().map(|failure| batch[failure.index].1.id().to_string()).collect();
        let known = self.documents(ids).map_err(|error| verdict::of(&error, &self.hosts))?;
        for failure in duplicates {
            let (index, message, _) = batch[failure.index];
            let reason = match known.get(&message.id()) {
                Some(document) if is_stored_as(message, document) => {
                    inserted.already += 1;
                    continue;
                }
                Some(_) => "another document has its _id",
                // Erased or expired meanwhile: sending the batch again decides.
                None if verdict::is_in_id_index(&failure.message) => {
                    return Err(verdict::of_code(verdict::DUPLICATE_KEY, "DuplicateKey"));
                }
                None => "a unique index of the collection has such an entry already",
            };
            inserted.refused.push(Refused { index, reason: reason.to_owned() });
        }
        Ok(())
    }

    fn delete(&self, filter: Document) -> Result<u64, Error> {
        let deleted = self.messages.delete_many(filter).write_concern(self.write_concern.clone()).run()?;
        Ok(deleted.deleted_count)
    }

    /// Deletes the session's documents that have no id of ours, as far as they say that they are no newer. What says no time
    /// goes, too: nothing tells that it is newer.
    fn erase_foreign(&self, session: &SessionId, up_to: Id) -> Result<u64, Error> {
        let foreign = doc! { "session_id": session.as_str(), "_id": { "$not": { "$regex": ID_PATTERN } } };
        let found = self.messages.find(foreign).projection(doc! { "created_at": 1 });
        let found = found.selection_criteria(primary()).run()?;
        let mut count = 0;
        let wanted = |document: &RawDocument| is_no_newer(document, up_to);
        batched::ids(found, wanted, |ids| {
            count += self.delete(doc! { "session_id": session.as_str(), "_id": { "$in": ids } })?;
            Ok(())
        })?;
        Ok(count)
    }

    /// Those under these ids, with what tells whether they are ours.
    fn documents(&self, ids: Vec<String>) -> Result<HashMap<Id, RawDocumentBuf>, Error> {
        let fields = doc! { "session_id": 1, "role": 1, "text": 1, "created_at": 1 };
        let found = self.messages.find(doc! { "_id": { "$in": ids } }).projection(fields);
        let with_id = |document: RawDocumentBuf| id_of(&document).map(|id| (id, document));
        found.selection_criteria(primary()).run()?.filter_map(|found| found.map(with_id).transpose()).collect()
    }
}

/// Whether a document of another program is to go with an erasure up to that id.
fn is_no_newer(document: &RawDocument, up_to: Id) -> bool {
    match (place_of(document), document.get_object_id("_id")) {
        (Some(id), _) => id <= up_to,
        // An object id has the second in which it was made.
        (None, Ok(id)) => {
            id.timestamp().timestamp_millis() <= i64::try_from(up_to.time().micros() / 1000).unwrap_or(i64::MAX)
        }
        (None, Err(_)) => true,
    }
}

/// Whether the document is that message, whatever other programs added to it.
fn is_stored_as(message: &Message, document: &RawDocument) -> bool {
    let said = |message: &Message| (message.session().clone(), message.role().to_owned(), message.text());
    let time = message.id().time().to_string();
    document.get_str("created_at").is_ok_and(|created_at| created_at == time)
        && to_message(document, message.id()).is_some_and(|theirs| said(&theirs) == said(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_and_passwords_are_not() {
        let told = hosts("mongodb://user:secret@one,two:27018/db?replicaSet=rs").unwrap();
        assert_eq!(told, ["one:27017", "two:27018"]);
        assert_eq!(hosts("mongodb+srv://user:secret@cluster.example.org/db").unwrap(), ["cluster.example.org"]);
        for uri in ["mongodb://host/?maxPoolSize=many", "mongodb://user:secret@host/?maxPoolSize=many"] {
            assert_eq!(hosts(uri), Err(RULE), "{uri}");
        }
    }

    #[test]
    fn a_password_as_it_is_typed_and_writes_without_an_answer_are_refused() {
        for password in ["p@ss", "p:ss", "p/ss", "p%ss", "p%", "p?ss", "p#ss", "p[s", "p%4", "p%\u{20ac}"] {
            assert_eq!(hosts(&format!("mongodb://user:{password}@host/")), Err(ENCODE), "{password}");
        }
        assert!(hosts("mongodb://user:p%40%3a%2F%25@host/").is_ok());
        assert_eq!(hosts("mongodb://host/?w=0"), Err(UNACKNOWLEDGED));
        assert!(hosts("mongodb://host/?w=1").is_ok());
    }
}
