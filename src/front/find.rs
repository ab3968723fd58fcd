//! Which conversation a request goes on.
//!
//! A conversation that the client names is that session, or one that branched from it. Otherwise it is, among those of the
//! same token, the one that ends in the request's anchor (`path.rs`) with the same past; else the only one that has it;
//! else a new one. So a client never sees or changes the conversation of another of which it does not have the messages.
//!
//! Knows nothing of what is recorded.

use std::io;
use std::time::Duration;

use uuid::Uuid;

use crate::access::Principal;
use crate::history::{History, HistoryQuery};
use crate::message::{Message, SessionId};

use super::index::{ConversationIndex, Fingerprint};
use super::message::{Essence, GivenMessage, seed_of};
use super::path::{Alignment, LINEAGE_MAX, Likeness, Tree};

/// Conversations that are compared with a request. If more begin alike, a request that goes back in one of them begins a new
/// one.
const COMPARED_MAX: usize = 16;
/// The same for a request without a reply.
const UNANSWERED_MAX: usize = 4;
/// Messages of a conversation that are read first, and at most: of one whose anchor lies deeper, the client begins a new one.
const READ_FIRST: usize = LINEAGE_MAX + 32;
const READ_MAX: usize = 4000;
/// The longest wait for what only MongoDB has.
const MONGO_WAIT: Duration = Duration::from_millis(200);

/// Whose request it is, and what it says, as it is compared.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    caller: &'a Principal,
    /// As they came.
    pub messages: &'a [GivenMessage],
    /// The session that the client names.
    pub named: Option<SessionId>,
    /// The messages without instructions.
    pub spoken: Vec<Essence>,
    /// Where each of these stands in the request.
    pub places: Vec<usize>,
    /// The texts of the instructions, and what stands for them.
    pub instructions: Option<(String, String)>,
    /// Distinguishes the conversations of tokens and names.
    pub seed: u64,
}

/// A session that may be meant.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub session: SessionId,
    /// The id in its name, if this server named it for such a client.
    pub id: Option<Uuid>,
    pub likeness: Likeness,
}

/// The sessions that may be meant.
#[derive(Debug)]
pub(super) struct Proposal {
    /// The named one first, then those that the index has, newest first.
    pub candidates: Vec<Candidate>,
    /// There are more.
    are_more: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(caller: &'a Principal, name: Option<&str>, messages: &'a [GivenMessage]) -> Self {
        let mut places: Vec<usize> = (0..messages.len()).filter(|at| !messages[*at].is_instruction()).collect();
        let mut instructing = messages.iter().filter(|message| message.is_instruction()).peekable();
        let instructions = instructing.peek().is_some().then(|| {
            let texts: Vec<&str> = instructing.map(|message| &*message.text).collect();
            (texts.join("\n\n"), format!("{:016x}", seed_of(&texts)))
        });
        if places.is_empty() {
            // Instructions alone are what is answered.
            places.push(messages.len() - 1);
        }
        let spoken = places.iter().map(|at| messages[*at].essence()).collect();
        let seed = seed_of(&[caller.token().unwrap_or_default(), name.unwrap_or_default()]);
        let named = name.map(|name| session_of(caller, name));
        Self { caller, messages, named, spoken, places, instructions, seed }
    }

    /// Where its last message of the assistant stands that precedes another.
    fn last_reply(&self) -> Option<usize> {
        (0..self.spoken.len().saturating_sub(1)).rev().find(|at| self.spoken[*at].role == "assistant")
    }

    /// The number of the first message.
    pub(super) fn opening(&self) -> u64 {
        self.spoken.first().map_or(0, |first| first.hash(self.seed, None))
    }

    /// A session that this server names.
    pub(super) fn made(&self, id: Uuid) -> Candidate {
        let prefix = self.caller.sessions().map_or("", crate::access::SessionPrefix::as_str);
        let session = SessionId::new(&format!("{prefix}{id}")).expect("a prefix leaves space for a UUID");
        Candidate { session, id: Some(id), likeness: Likeness::Lineage }
    }

    /// The sessions that may be meant.
    pub(super) fn propose(&self, index: &ConversationIndex) -> Proposal {
        let reply = self.last_reply();
        let tail = reply.map(|at| self.spoken[at].hash(self.seed, at.checked_sub(1).map(|at| &self.spoken[at])));
        // Without a reply only one can be meant that was begun just now and has none either.
        let max = if reply.is_some() { COMPARED_MAX } else { UNANSWERED_MAX };
        let mut found = index.find(self.opening(), tail, max + 1);
        let are_more = found.len() > max;
        found.truncate(max);
        let named = self.named.clone().map(|session| Candidate { session, id: None, likeness: Likeness::Anchor });
        Proposal { candidates: named.into_iter().chain(found.into_iter().map(|id| self.made(id))).collect(), are_more }
    }

    /// Finds the conversation among those proposed. `None`: the request begins one.
    ///
    /// # Errors
    /// A conversation cannot be read; a retry may help.
    pub(super) fn find(&self, proposed: Proposal, history: &History) -> io::Result<Option<Candidate>> {
        let Proposal { candidates, are_more } = proposed;
        let (mut placed, mut free) = (Vec::new(), None);
        for candidate in candidates {
            let (tree, place) = look(history, &candidate, &self.spoken)?;
            match place {
                Some(place) => placed.push((candidate, place)),
                // One that has no reply yet is begun anew; of others' only one that begins with the same messages.
                None if tree.has_replies() => {}
                None if candidate.id.is_none() => free = free.or(Some(candidate)),
                None => {
                    let place = tree.place_at_beginning(&self.spoken);
                    if place.stands.is_some() && place.is_last {
                        free = free.or(Some(candidate));
                    }
                }
            }
        }
        let is_unknown = placed.is_empty();
        let found = match self.named {
            Some(_) => nearest(&placed),
            None => only(placed, are_more),
        };
        Ok(found.or_else(|| free.filter(|_| is_unknown)))
    }

    /// Whether the request's last reply is the beginning of this one, which is being given there.
    pub(super) fn goes_on_from(&self, history: &History, candidate: &Candidate, reply: &str) -> io::Result<bool> {
        let Some(at) = self.last_reply() else { return Ok(false) };
        if !self.spoken[at].begins(&Essence::of("assistant", reply, &serde_json::Map::new())) {
            return Ok(false);
        }
        let before = &self.spoken[..at];
        let (tree, alignment) = look(history, candidate, before)?;
        let alignment = alignment.unwrap_or_else(|| tree.place_at_beginning(before));
        Ok(alignment.known == at && alignment.is_tip)
    }
}

/// Reads as much of a conversation as is needed to see where messages stand in it.
pub(super) fn look(
    history: &History,
    candidate: &Candidate,
    spoken: &[Essence],
) -> io::Result<(Tree, Option<Alignment>)> {
    let mut limit = READ_FIRST;
    loop {
        let ask = HistoryQuery::newest(candidate.session.clone(), limit);
        let page = history.read_within(&ask, MONGO_WAIT)?;
        let messages: Vec<&Message> = page.messages.iter().map(|(message, _)| &**message).collect();
        let tree = Tree::of(messages.into_iter(), !page.has_more);
        let place = tree.place(spoken, candidate.likeness);
        let is_seen = place.is_some_and(|place| match candidate.likeness {
            Likeness::Anchor => true,
            // As many before the anchor as count.
            Likeness::Lineage => place.lineage >= (place.anchored - 1).min(LINEAGE_MAX),
        });
        if is_seen || tree.is_whole || limit == READ_MAX {
            return Ok((tree, place));
        }
        limit = READ_MAX;
    }
}

/// Of the named session and its branches the one that contradicts a request least; the named one, of equals.
fn nearest(placed: &[(Candidate, Alignment)]) -> Option<Candidate> {
    let likeness = |place: &Alignment| {
        let Alignment { is_common, anchored, is_whole, is_at_end, known, lineage, .. } = *place;
        (is_common, anchored, is_whole, is_at_end, known, lineage)
    };
    let nearest = placed.iter().rev().max_by_key(|(_, place)| likeness(place))?;
    Some(nearest.0.clone())
}

/// The only conversation that ends in the anchor and knows the most of the request; else the only one that has the anchor,
/// if these are all.
fn only(mut placed: Vec<(Candidate, Alignment)>, are_more: bool) -> Option<Candidate> {
    let furthest = placed.iter().map(|(_, place)| place.anchored).max()?;
    placed.retain(|(_, place)| place.anchored == furthest);
    // One that begins as the request does wins over those of which the request may be the end.
    let is_whole = placed.iter().any(|(_, place)| place.is_whole);
    placed.retain(|(_, place)| place.is_whole == is_whole);
    let ends = placed.iter().any(|(_, place)| place.is_at_end);
    let known = placed.iter().filter(|(_, place)| place.is_at_end).map(|(_, place)| place.known).max();
    placed.retain(|(_, place)| !ends || place.is_at_end && Some(place.known) == known);
    let is_only = placed.len() == 1 && (ends || !are_more);
    placed.pop().filter(|_| is_only).map(|(candidate, _)| candidate)
}

/// The session of a name that a client gives its conversation: the name itself, if it is a session id that the caller may
/// name; else behind the caller's prefix; else a hash of it.
pub(super) fn session_of(caller: &Principal, name: &str) -> SessionId {
    let prefix = caller.sessions().map_or("", crate::access::SessionPrefix::as_str);
    let named = SessionId::new(name).ok();
    let prefixed = || SessionId::new(&format!("{prefix}{name}")).ok();
    let hashed = || {
        let numbers = [seed_of(&[name]), seed_of(&["", name])];
        SessionId::new(&format!("{prefix}{:016x}{:016x}", numbers[0], numbers[1])).expect("hexadecimal digits")
    };
    match named {
        Some(session) if caller.covers(&session) => session,
        Some(_) => prefixed().unwrap_or_else(hashed),
        None => hashed(),
    }
}

/// What the index is told of a conversation.
pub(super) fn fingerprint(asked: &Asked<'_>, id: Uuid, tail: u64) -> Fingerprint {
    Fingerprint { id, opening: asked.opening(), tail }
}
