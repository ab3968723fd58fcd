//! The journal as its callers see it: real files in a temporary folder, tiny segments so that rolling is cheap. This is what
//! those tests share.
//!
//! Compiled under `#[cfg(test)]` only.

mod disk_space;
mod keys;
mod order;
mod start;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::config::Fsync;
use crate::message::{self, Metadata, SessionId, Timestamp};

fn config(folder: &Path) -> JournalConfig {
    JournalConfig {
        path: folder.join("journal"),
        fsync: Fsync::Always,
        fsync_interval: Duration::from_millis(5),
        segment_bytes: 8 * 1024,
        max_bytes: 1 << 30,
        retain: Duration::from_secs(3600),
        max_keys: 1000,
        checkpoint_interval: Duration::from_secs(1),
    }
}

fn draft(text: &str) -> NewRecord {
    let session = SessionId::new("s").unwrap();
    let line = message::Draft { session: &session, role: "user", text, metadata: Metadata::default(), vector_ids: &[] };
    NewRecord::Message { line: line.prepare(), key: None, reply_to: ReplyTo::Nothing }
}

fn text(record: &Record) -> String {
    record.entry.message().unwrap().text()
}

type Published = Arc<Mutex<Vec<Record>>>;

fn open(config: &JournalConfig) -> (Journal, Published) {
    let published = Published::default();
    let sink = published.clone();
    let publish = Box::new(move |records: &[Record]| sink.lock().unwrap().extend_from_slice(records));
    (Journal::open(config, Clock::system(), publish, Box::new(|| ())).unwrap(), published)
}

fn record(journal: &Journal, texts: &[&str]) -> Vec<Record> {
    let (ticket, kept) = journal.append(texts.iter().map(|text| draft(text)).collect()).unwrap();
    journal.commit(ticket).unwrap();
    let records = kept.into_iter().map(|kept| match kept {
        Appended::New(record) => record,
        Appended::Before { .. } => panic!("it has no key"),
    });
    records.collect()
}

fn read_all(journal: &Journal, after: u64) -> Vec<Record> {
    let mut reader = journal.reader(after);
    let mut records = Vec::new();
    while reader.read(4096, |record| records.push(record)).unwrap() == ReadProgress::More {}
    records
}

fn keyed(key: &str, text: &str) -> NewRecord {
    let session = SessionId::new("s").unwrap();
    let line = message::Draft { session: &session, role: "user", text, metadata: Metadata::default(), vector_ids: &[] };
    let key = Some(IdempotencyKey::new(&session, key, &[text.as_bytes()]));
    NewRecord::Message { line: line.prepare(), key, reply_to: ReplyTo::Nothing }
}

/// A keyed message and the reply to it.
fn turn(key: &str, text: &str) -> Vec<NewRecord> {
    let user = keyed(key, text);
    let key = user.key().copied();
    let NewRecord::Message { line, .. } = draft("reply") else { unreachable!() };
    vec![user, NewRecord::Message { line, key, reply_to: ReplyTo::Previous }]
}

fn keep(journal: &Journal, drafts: Vec<NewRecord>) -> Vec<Appended> {
    let (ticket, kept) = journal.append(drafts).unwrap();
    journal.commit(ticket).unwrap();
    kept
}
