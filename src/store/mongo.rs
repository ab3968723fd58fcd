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
use std::time::Duration;

use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::error::{Error, ErrorKind, IndexedWriteError, InsertManyError};
use mongodb::options::{Acknowledgment, ClientOptions, ConnectionString, HostInfo, ServerAddress, WriteConcern};
use mongodb::sync::{Client, Collection, Database};

use crate::config::{MongoConfig, Secret};
use crate::message::{Id, Message, SessionId};

use super::document::{id_of, to_document};
use super::erasures::{ErasureCollection, primary};
use super::foreign::{place_of, to_message};
use super::interface::RULE;
use super::{
    Connected, ErasurePlace, Inserted, OutgoingMessage, Refused, Store, StoreError, StorePage, StoreQuery,
    StoredErasure, indexes, page, verdict,
};

/// How long connecting to a server and waiting for a writable one may take: with the driver's own 10 and 30 s a stopped
/// server would hold each call for half a minute.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval between two probes of a server; a frozen one is noticed after two of them.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What ids of ours look like.
const ID_PATTERN: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$";

/// The most documents of other programs that are deleted by one command.
const DELETED_AT_ONCE: usize = 1000;

/// The hosts a connection string names, `HOST:PORT` each; for `mongodb+srv` the name that is looked up.
///
/// # Errors
/// The rule that it breaks, without quoting it. A build without MongoDB checks the scheme only and names no hosts.
pub fn hosts(uri: &str) -> Result<Vec<String>, &'static str> {
    let parsed = ConnectionString::parse(uri).map_err(|_| RULE)?;
    Ok(match parsed.host_info {
        HostInfo::HostIdentifiers(hosts) => hosts.iter().map(host).collect(),
        HostInfo::DnsRecord(name) => vec![name],
        // Later versions of the driver may add kinds; none is secret, and none can be named yet.
        _ => Vec::new(),
    })
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
    let hosts = hosts(config.uri.expose()).map_err(|rule| StoreError::Configuration(format!("mongo.uri {rule}")))?;
    Ok(Arc::new(MongoStore {
        hosts: hosts.into(),
        uri: config.uri.clone(),
        database: config.database.clone(),
        collection: config.chat_collection.clone(),
        ttl: config.ttl,
        shared: config.shared,
        confirm_within: config.call_timeout / 2,
        opened: Mutex::new(None),
    }))
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
        self.ask(|opened| {
            let mut differing = indexes::ensure(&opened.database, &opened.messages, indexes::of_messages())?;
            if let Some(erasures) = &opened.erasures {
                differing.extend(erasures.connect(&opened.database)?);
            }
            Ok(Connected { differing_indexes: differing })
        })
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
        let mut cursor = found.selection_criteria(primary()).run()?;
        let (mut ids, mut count) = (Vec::new(), 0);
        loop {
            let more = cursor.advance()?;
            if more && is_no_newer(cursor.current(), up_to) {
                ids.extend(cursor.current().get("_id")?.map(Bson::try_from).transpose()?);
            }
            if ids.len() >= DELETED_AT_ONCE || (!more && !ids.is_empty()) {
                let ids = std::mem::take(&mut ids);
                count += self.delete(doc! { "session_id": session.as_str(), "_id": { "$in": ids } })?;
            }
            if !more {
                return Ok(count);
            }
        }
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
        assert_eq!(hosts("mongodb://host/?maxPoolSize=many"), Err(RULE));
    }
}
