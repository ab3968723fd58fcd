//! Idempotency keys: finds the message that was recorded with a client's key, as long as the journal keeps it.
//!
//! Keys belong to a session and are kept as hashes. Their number is limited by `journal.max_keys`, beyond which the
//! oldest is forgotten, and by the segments kept: a key is forgotten with the segment of its message. A message that
//! carries a key and answers another message is the reply to it; of several the last one.
//!
//! Knows nothing of batches; the holder of the queue's lock holds the keys.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest as _, Sha256};

use crate::message::{Id, SessionId};

use super::record::{IdempotencyKey, Record};

/// The message that a key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The message.
    pub id: Id,
    /// The hash of the content sent with the key.
    pub content: [u8; 8],
    /// The message's sequence.
    pub sequence: u64,
    /// The reply to it, once there is one.
    pub reply: Option<Id>,
}

/// The known keys of all sessions.
#[derive(Debug)]
pub struct Keys {
    known: HashMap<[u8; 16], KnownKey>,
    /// By age: sequences rise. A key that was inserted again has another sequence in `known`.
    order: VecDeque<(u64, [u8; 16])>,
    max: usize,
}

impl IdempotencyKey {
    /// The key that a client sent in a session with `content`, the parts of what is to be recorded.
    #[must_use]
    pub fn new(session: &SessionId, key: &str, content: &[&[u8]]) -> Self {
        let content = first_bytes(content);
        Self { hash: hash_of(session, key), content, as_sent: content }
    }

    /// The same key, with the same content, in another session.
    #[must_use]
    pub fn in_session(self, session: &SessionId, key: &str) -> Self {
        Self { hash: hash_of(session, key), ..self }
    }

    /// The same, whose content was sent as something else that is the same by value.
    #[must_use]
    pub fn sent_as(self, content: &[&[u8]]) -> Self {
        Self { as_sent: first_bytes(content), ..self }
    }

    /// Whether that is the hash of its content.
    #[must_use]
    pub fn is_of(&self, content: [u8; 8]) -> bool {
        content == self.content || content == self.as_sent
    }
}

fn hash_of(session: &SessionId, key: &str) -> [u8; 16] {
    // A session id has no NUL, so the two cannot run into each other.
    first_bytes(&[session.as_str().as_bytes(), b"\0", key.as_bytes()])
}

fn first_bytes<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()[..N].try_into().expect("the digest is longer")
}

impl Keys {
    /// No keys yet, at most `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), max }
    }

    /// The message that a key stands for.
    #[must_use]
    pub fn get(&self, key: &IdempotencyKey) -> Option<KnownKey> {
        self.known.get(&key.hash).copied()
    }

    /// Notes a record's key, if it has one.
    pub fn note(&mut self, record: &Record) {
        let links = record.entry.links();
        let (Some(id), Some(key)) = (record.entry.id(), links.key) else { return };
        if let Some(to) = links.reply_to {
            // The key may stand for another message by now, if its first message was erased.
            if self.known.get(&key.hash).is_some_and(|known| known.id == to) {
                self.note_reply(&key.hash, record.sequence, id);
            }
        } else {
            self.insert(key.hash, KnownKey { id, content: key.content, sequence: record.sequence, reply: None });
        }
    }

    /// Notes the reply to the message of a key. A reply with an earlier sequence answers another message, which was
    /// erased.
    pub fn note_reply(&mut self, hash: &[u8; 16], sequence: u64, id: Id) {
        if let Some(known) = self.known.get_mut(hash)
            && known.sequence < sequence
        {
            known.reply = Some(id);
        }
    }

    /// Notes the message of a key; sequences must rise.
    pub fn insert(&mut self, hash: [u8; 16], known: KnownKey) {
        self.known.insert(hash, known);
        self.order.push_back((known.sequence, hash));
        while self.known.len() > self.max {
            self.forget_oldest();
        }
    }

    /// Forgets the keys of messages before that sequence.
    pub fn forget_before(&mut self, sequence: u64) {
        while self.order.front().is_some_and(|(oldest, _)| *oldest < sequence) {
            self.forget_oldest();
        }
    }

    /// Forgets the keys of voided messages, and the voided replies.
    pub fn forget_voided(&mut self, is_void: impl Fn(u64) -> bool) {
        self.known.retain(|_, known| !is_void(known.sequence));
        let known = &self.known;
        self.order.retain(|(sequence, hash)| known.get(hash).is_some_and(|known| known.sequence == *sequence));
    }

    /// Forgets what refused records added: a key's message, or the reply to it. The cost depends on what was refused
    /// and what came since, not on how many keys are known.
    pub fn forget(&mut self, refused: &[Record]) {
        let (Some(first), Some(last)) = (refused.first(), refused.last()) else { return };
        let span = first.sequence..=last.sequence;
        for record in refused {
            let Some(key) = record.entry.links().key else { continue };
            match self.known.get_mut(&key.hash) {
                Some(known) if span.contains(&known.sequence) => drop(self.known.remove(&key.hash)),
                Some(known) if known.reply == record.entry.id() => known.reply = None,
                _ => {}
            }
        }
        let from = self.order.partition_point(|(sequence, _)| *sequence < *span.start());
        let to = self.order.partition_point(|(sequence, _)| sequence <= span.end());
        self.order.drain(from..to);
    }

    /// Forgets the keys of erased messages, given the hashes and the messages' sequences.
    pub fn forget_erased(&mut self, erased: &[([u8; 16], u64)]) {
        for (hash, sequence) in erased {
            if self.known.get(hash).is_some_and(|known| known.sequence == *sequence) {
                self.known.remove(hash);
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((sequence, hash)) = self.order.pop_front()
            && self.known.get(&hash).is_some_and(|known| known.sequence == sequence)
        {
            self.known.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::record::{Entry, Links};
    use super::*;
    use crate::message::{Draft, Metadata, Timestamp};

    fn hash(n: u64) -> [u8; 16] {
        u128::from(n).to_le_bytes()
    }

    fn known(sequence: u64) -> KnownKey {
        let id = Id::from_parts(Timestamp::from_micros(sequence), 0);
        KnownKey { id, content: [0; 8], sequence, reply: None }
    }

    fn key(n: u64) -> IdempotencyKey {
        IdempotencyKey { hash: hash(n), content: [0; 8], as_sent: [0; 8] }
    }

    fn filled(count: u64, max: usize) -> Keys {
        let mut keys = Keys::new(max);
        (1..=count).for_each(|n| keys.insert(hash(n), known(n)));
        keys
    }

    fn held(keys: &Keys) -> Vec<u64> {
        (1..=20).filter(|&n| keys.get(&key(n)).is_some()).collect()
    }

    #[test]
    fn the_oldest_key_goes_first_at_the_limit_and_with_its_segment() {
        let mut keys = filled(10, 4);
        assert_eq!(held(&keys), [7, 8, 9, 10]);
        keys.forget_before(9);
        assert_eq!(held(&keys), [9, 10]);
    }

    #[test]
    fn a_voided_key_is_forgotten_and_may_come_again() {
        let mut keys = filled(5, 100);
        keys.forget_voided(|sequence| sequence == 2);
        assert_eq!(held(&keys), [1, 3, 4, 5]);
        keys.insert(hash(2), known(6));
        keys.forget_before(3);
        assert_eq!(held(&keys), [2, 3, 4, 5], "its new message is the sixth");
    }

    #[test]
    fn refused_records_take_their_keys_and_replies_with_them_and_nothing_else() {
        let session = SessionId::new("s").unwrap();
        let record = |sequence, of, reply_to| {
            let line =
                Draft { session: &session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] };
            let message = Arc::new(line.prepare().seal(known(sequence).id));
            let key = Some(key(of));
            Record { sequence, entry: Entry::Message(message, Links { key, reply_to }), origin: None, request: None }
        };
        let mut keys = filled(5, 100);
        // The reply to 5, a new key 6 with its reply; then key 9, which waits for another batch.
        let refused = [record(6, 5, Some(known(5).id)), record(7, 6, None), record(8, 6, Some(known(7).id))];
        refused.iter().for_each(|record| keys.note(record));
        keys.note(&record(9, 9, None));
        assert_eq!(held(&keys), [1, 2, 3, 4, 5, 6, 9]);
        keys.forget(&refused);
        assert_eq!(held(&keys), [1, 2, 3, 4, 5, 9]);
        assert_eq!(keys.get(&key(5)).unwrap().reply, None);
        keys.forget_before(10);
        assert_eq!(held(&keys), [0_u64; 0]);
        assert!(keys.order.is_empty());
    }

    #[test]
    fn a_key_belongs_to_its_session_and_to_what_came_with_it() {
        let (a, b) = (SessionId::new("a").unwrap(), SessionId::new("b").unwrap());
        let key = IdempotencyKey::new(&a, "k", &[b"text"]);
        assert_eq!(key, IdempotencyKey::new(&a, "k", &[b"text"]));
        assert_ne!(key.hash, IdempotencyKey::new(&b, "k", &[b"text"]).hash);
        assert_ne!(key.hash, IdempotencyKey::new(&a, "l", &[b"text"]).hash);
        assert_ne!(key.content, IdempotencyKey::new(&a, "k", &[b"other"]).content);
    }
}
