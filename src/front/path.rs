//! A conversation on record beside the messages of a request: which of these are known, and where the new ones go.
//!
//! What was rewound is on record too, so a conversation is a tree: each message has the one that preceded it on the path
//! that led to it (`history/current.rs`). The *anchor* is the request's last message of the assistant that is a reply on
//! record, or begins one that was cut off for its client. What precedes it counts as known; what follows it is compared one
//! by one. A client that goes back to a branch that it left thus finds it again. Instructions of either side are passed
//! over.
//!
//! Knows nothing of how a conversation is found and recorded.

use serde_json::{Map, Value};

use crate::message::{Id, Marker, Message};

use super::message::{Essence, OPENAI, is_instruction};

/// So many messages before the anchor must be the same, as far as both sides have them, for a conversation that is found
/// by what it says.
pub(super) const LINEAGE_MAX: usize = 64;

/// A request that lacks the beginning of its conversation must share at least so many characters with it: what is shorter is
/// said in many.
const COMMON_CHARS_MIN: usize = 80;

/// A reply of so many characters is an anchor in a conversation that its client names, whatever precedes it.
const ANCHOR_CHARS_MIN: usize = 40;

/// A message on record.
#[derive(Clone, Debug)]
struct Recorded {
    id: Id,
    essence: Essence,
    /// Its client did not get all of it.
    is_cut_off: bool,
    /// It is a reply that counts: one that failed is none, nor one that was cut off though no client asked for that.
    is_reply: bool,
    /// The one before it.
    before: Option<usize>,
    /// How many precede it on its path.
    depth: usize,
}

/// Where a conversation stands after a record.
#[derive(Clone, Debug, Default)]
struct State {
    /// The last message.
    tip: Option<usize>,
    /// What stands for the instructions that hold.
    instructions: Option<String>,
}

/// A conversation, as far as it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    /// Without instructions and markers, in the order of their ids.
    spoken: Vec<Recorded>,
    /// After each record, in the order of their ids.
    states: Vec<(Id, State)>,
    /// Whether nothing precedes what was read.
    pub is_whole: bool,
}

/// Where a request stands in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    /// The number of the request's messages up to the anchor; 0 without one.
    pub anchored: usize,
    /// So many of the request's messages are known.
    pub known: usize,
    /// The last of these on record; `None`: the conversation begins with the new ones.
    pub stands: Option<Id>,
    /// Nothing follows that one, so nothing is rewound.
    pub is_tip: bool,
    /// Nothing follows it but replies that failed.
    pub is_last: bool,
    /// The anchor is the newest reply.
    pub is_at_end: bool,
    /// How many messages before the anchor are the same on both sides, and whether all are that both have.
    pub lineage: usize,
    /// See [`Alignment::lineage`].
    pub is_common: bool,
    /// They are the same from the beginning of both.
    pub is_whole: bool,
}

/// What a conversation must share with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// An anchor: the client named the conversation.
    Anchor,
    /// The same messages before the anchor, too.
    Lineage,
}

impl Tree {
    /// Of records, oldest first.
    pub(super) fn of<'a>(messages: impl Iterator<Item = &'a Message>, is_whole: bool) -> Self {
        let mut tree = Self { is_whole, ..Self::default() };
        for message in messages {
            let mut state = tree.state();
            match message.marker() {
                Some(Marker::Rewind(None)) => state = State::default(),
                // One that names a later message than itself jumps over nothing.
                Some(Marker::Rewind(Some(to))) => state = tree.state_at(to),
                Some(Marker::Clear | Marker::Session(_)) => {}
                None => tree.add(message, &mut state),
            }
            tree.states.push((message.id(), state));
        }
        tree
    }

    fn add(&mut self, message: &Message, state: &mut State) {
        let Some(parts) = message.parts() else { return };
        let (openai, none) = (parts.metadata.get(OPENAI).and_then(Value::as_object), Map::new());
        let openai = openai.unwrap_or(&none);
        if let Some(mark) = openai.get("instructions").and_then(Value::as_str) {
            state.instructions = Some(mark.to_owned());
        }
        if is_instruction(message.role()) {
            return;
        }
        let text_of = |name| parts.metadata.get(name).and_then(Value::as_str);
        let status = text_of("status");
        let is_unread = openai.get("unread").is_some_and(|unread| unread == true);
        let is_cut_off = matches!(status, Some("cancelled" | "error")) || is_unread;
        // The text of a failed reply is the reason; its client got the part before.
        let text = if status == Some("error") { text_of("partial").unwrap_or_default() } else { &parts.text };
        let essence = Essence::of(message.role(), text, openai);
        let is_unwanted = status == Some("cancelled") && text_of("cancelled_by").is_some_and(|by| by != "client");
        let is_reply = message.role() == "assistant" && status != Some("error") && !is_unwanted;
        let depth = state.tip.map_or(0, |at| self.spoken[at].depth + 1);
        self.spoken.push(Recorded { id: message.id(), essence, is_cut_off, is_reply, before: state.tip, depth });
        state.tip = Some(self.spoken.len() - 1);
    }

    fn state(&self) -> State {
        self.states.last().map(|(_, state)| state.clone()).unwrap_or_default()
    }

    /// The state after the newest record that is not newer than `id`.
    fn state_at(&self, id: Id) -> State {
        let after = self.states.partition_point(|(record, _)| *record <= id);
        self.states[..after].last().map(|(_, state)| state.clone()).unwrap_or_default()
    }

    /// A message and those that led to it, newest first.
    fn back_from(&self, from: Option<usize>) -> impl Iterator<Item = usize> {
        std::iter::successors(from, |at| self.spoken[*at].before)
    }

    /// Of each message, whether it is on the path that was not rewound.
    fn current(&self) -> Vec<bool> {
        let mut current = vec![false; self.spoken.len()];
        self.back_from(self.state().tip).for_each(|at| current[at] = true);
        current
    }

    /// Whether a path that was not rewound has a reply.
    pub(super) fn has_replies(&self) -> bool {
        self.back_from(self.state().tip).any(|at| self.spoken[at].is_reply)
    }

    /// Whether it has no message.
    pub(super) fn is_empty(&self) -> bool {
        self.spoken.is_empty()
    }

    /// What stands for the instructions that hold after that message; `None`: at the beginning.
    pub(super) fn instructions_at(&self, place: &Alignment) -> Option<String> {
        if place.is_tip { self.state().instructions } else { self.state_at(place.stands?).instructions }
    }

    /// Where a request stands; its last message is the one to answer. `None`: it has no anchor here.
    pub(super) fn place(&self, request: &[Essence], likeness: Likeness) -> Option<Alignment> {
        let replies = (0..request.len().checked_sub(1)?).rev().filter(|at| request[*at].role == "assistant");
        let current = self.current();
        for at in replies {
            let here = (0..self.spoken.len()).rev().filter(|here| self.is_same(&request[at], *here));
            let compared = here.map(|here| (self.lineage(request, at, here), current[here], here));
            // A client that names its conversation may have rewritten what precedes; but short replies are given often.
            let is_known = likeness == Likeness::Anchor && request[at].text.chars().count() >= ANCHOR_CHARS_MIN;
            let fitting = compared.filter(|(past, ..)| is_known || past.is_common());
            // Of several the one with the longest common past, then one that begins where the request begins, then one
            // that was not rewound, then the newest.
            let best = fitting.max_by_key(|(past, is_current, here)| (past.same, past.is_whole, *is_current, *here));
            if let Some((past, is_current, here)) = best {
                // Of a conversation that is named all that the client sends may be the end.
                let is_enough = likeness == Likeness::Anchor && (is_known || past.same == at);
                if !is_enough && !past.is_proof() {
                    return None;
                }
                let mut later = self.back_from(self.state().tip).take_while(|at| *at != here);
                let is_at_end = is_current && later.all(|at| !self.spoken[at].is_reply);
                return Some(self.after(request, at + 1, Some(here), (is_at_end, past)));
            }
        }
        None
    }

    /// Where a request without an anchor stands, in a conversation that has no reply.
    pub(super) fn place_at_beginning(&self, request: &[Essence]) -> Alignment {
        self.after(request, 0, None, (true, Past { same: 0, both: 0, chars: 0, is_whole: true }))
    }

    /// Passes over what follows on both sides alike.
    fn after(
        &self,
        request: &[Essence],
        anchored: usize,
        anchor: Option<usize>,
        (is_at_end, past): (bool, Past),
    ) -> Alignment {
        let tip = self.state().tip;
        let current = self.current();
        let (mut known, mut last) = (anchored, anchor);
        while let Some(sent) = request.get(known) {
            let following = (0..self.spoken.len()).filter(|at| self.spoken[*at].before == last);
            let same = following.filter(|at| self.spoken[*at].essence == *sent);
            let Some(next) = same.max_by_key(|at| (current[*at], *at)) else { break };
            (known, last) = (known + 1, Some(next));
        }
        let stands = last.map(|at| self.spoken[at].id);
        let has_failed = |at: &usize| self.spoken[*at].essence.role == "assistant" && !self.spoken[*at].is_reply;
        let is_last = self.back_from(tip).find(|at| !has_failed(at)) == last;
        Alignment {
            anchored,
            known,
            stands,
            is_tip: last == tip,
            is_last,
            is_at_end,
            lineage: past.same,
            is_common: past.is_common(),
            is_whole: past.is_whole,
        }
    }

    fn is_same(&self, sent: &Essence, here: usize) -> bool {
        let recorded = &self.spoken[here];
        *sent == recorded.essence || recorded.is_cut_off && sent.begins(&recorded.essence)
    }

    /// What precedes a message on both sides.
    fn lineage(&self, request: &[Essence], at: usize, here: usize) -> Past {
        let pairs = request[..at].iter().rev().zip(self.back_from(self.spoken[here].before));
        let same = pairs.take_while(|(sent, recorded)| self.is_same(sent, *recorded)).count();
        let depth = self.spoken[here].depth;
        let is_whole = self.is_whole && same == at && depth == at;
        let chars = request[at - same..=at].iter().map(|message| message.text.chars().count()).sum();
        Past { same, both: depth.min(at), chars, is_whole }
    }
}

/// What precedes a message in a request and on record.
#[derive(Clone, Copy, Debug)]
struct Past {
    /// How many messages before it are the same.
    same: usize,
    /// How many both sides have.
    both: usize,
    /// The characters of these, and of the message.
    chars: usize,
    /// They are the same up to the beginning of both.
    is_whole: bool,
}

impl Past {
    /// Whether it is the same as far as both sides have it.
    fn is_common(self) -> bool {
        self.same >= self.both.min(LINEAGE_MAX)
    }

    /// Whether it shows that it is the same conversation, though a client that sends its newest messages only may have
    /// said as much in another.
    fn is_proof(self) -> bool {
        self.is_common() && (self.is_whole || self.chars >= COMMON_CHARS_MIN)
    }
}
