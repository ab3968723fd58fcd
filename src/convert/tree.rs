//! A conversation with branches, as messages and rewinds.
//!
//! Messages stand in the order of their times, each behind the one that it answers. Where the next one answers another than
//! the last, a rewind stands between; and if the last is not the one that the other system shows, a rewind to that one
//! follows. So `view=current` shows the branch that is shown there, and a rewind to a message of another brings that back.
//!
//! Ids are derived from the time, the session and the key of a message. Times rise by a microsecond at least, so the order
//! stays where times are equal or missing, and a later export of the same conversation gives the same ids to what both have.

use std::collections::HashMap;
use std::io;

use serde_json::{Value, json};

use crate::listing::STATE_TEXT;
use crate::message::{Id, SessionId, SessionState, Timestamp};

use super::line::{ForeignMessage, LineSink, Placing};

/// A conversation of another system.
#[derive(Debug, Default)]
pub(super) struct ForeignConversation {
    pub session: Option<SessionId>,
    pub state: SessionState,
    /// When it began.
    pub created: Option<Timestamp>,
    /// When it changed last.
    pub updated: Option<Timestamp>,
    pub nodes: Vec<BranchNode>,
    /// The key of the last message that is shown; `None`: of the newest.
    pub current: Option<String>,
}

/// A message of it.
#[derive(Debug, Default)]
pub(super) struct BranchNode {
    pub key: String,
    pub parent: Option<String>,
    pub time: Option<Timestamp>,
    /// `None`: it is not shown.
    pub said: Option<ForeignMessage>,
}

/// The nodes and how they hang together.
struct BranchTree {
    nodes: Vec<BranchNode>,
    parents: Vec<Option<usize>>,
    /// From the roots on, of branches the current one last.
    order: Vec<usize>,
    current: Option<usize>,
}

/// Where the next line stands.
struct ConversationWriter<'a> {
    session: SessionId,
    unit: u64,
    last: Option<Timestamp>,
    to: &'a mut dyn LineSink,
}

impl ForeignConversation {
    /// Writes its lines.
    pub(super) fn write(self, unit: u64, placing: &Placing, to: &mut dyn LineSink) -> io::Result<()> {
        let Self { session, state, created, updated, nodes, current } = self;
        let session = placing.session.clone().or(session).unwrap_or_default();
        let tree = BranchTree::of(nodes, current.as_deref());
        let known = tree.nodes.iter().filter_map(|node| node.time).min();
        let times = tree.times(created.or(known).unwrap_or_else(|| placing.time()));
        let mut shown: Vec<usize> = tree.order.iter().copied().filter(|at| tree.nodes[*at].said.is_some()).collect();
        shown.sort_by_key(|at| times[*at]);
        let mut writer = ConversationWriter { session, unit, last: None, to };
        let (mut ids, mut last): (HashMap<usize, Id>, Option<usize>) = (HashMap::new(), None);
        for at in shown {
            let before = tree.shown_from(tree.parents[at]);
            if before != last {
                writer.rewind(before.and_then(|before| ids.get(&before)).copied())?;
            }
            let BranchNode { key, said: Some(said), .. } = &tree.nodes[at] else { continue };
            ids.insert(at, writer.message(times[at], key, said)?);
            last = Some(at);
        }
        let current = tree.shown_from(tree.current);
        if current.is_some() && current != last {
            writer.rewind(current.and_then(|current| ids.get(&current)).copied())?;
        }
        // All into one session: none of their titles is its title.
        if last.is_some() && placing.session.is_none() && state != SessionState::default() {
            let said = ForeignMessage {
                role: "system".into(),
                text: STATE_TEXT.into(),
                metadata: state.to_metadata(),
                vector_ids: vec![],
            };
            let name = Value::Object(said.metadata.clone()).to_string();
            writer.message(updated.unwrap_or(Timestamp::from_micros(0)), &name, &said)?;
        }
        Ok(())
    }
}

impl BranchTree {
    fn of(nodes: Vec<BranchNode>, current: Option<&str>) -> Self {
        let places: HashMap<&str, usize> = nodes.iter().enumerate().map(|(at, node)| (&*node.key, at)).collect();
        let found = |key: &Option<String>| key.as_deref().and_then(|key| places.get(key)).copied();
        let parents: Vec<Option<usize>> =
            nodes.iter().enumerate().map(|(at, node)| found(&node.parent).filter(|parent| *parent != at)).collect();
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (at, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(at);
            }
        }
        let newest_leaf =
            || (0..nodes.len()).filter(|at| children[*at].is_empty()).max_by_key(|at| (nodes[*at].time, *at));
        let current = current.and_then(|key| places.get(key)).copied().or_else(newest_leaf);
        let mut tree = Self { parents, order: Vec::new(), current, nodes };
        let mut is_current = vec![false; tree.nodes.len()];
        let mut step = current;
        while let Some(at) = step.filter(|at| !is_current[*at]) {
            is_current[at] = true;
            step = tree.parents[at];
        }
        let mut is_met = vec![false; tree.nodes.len()];
        let roots: Vec<usize> = (0..tree.nodes.len()).filter(|at| tree.parents[*at].is_none()).collect();
        // What no root leads to is a circle, which is cut at its first.
        for root in sorted(roots, &is_current).into_iter().chain(0..tree.nodes.len()) {
            if is_met[root] {
                continue;
            }
            if tree.parents[root].is_some_and(|parent| !is_met[parent]) {
                tree.parents[root] = None;
            }
            let mut left = vec![root];
            while let Some(at) = left.pop() {
                if std::mem::replace(&mut is_met[at], true) {
                    continue;
                }
                tree.order.push(at);
                left.extend(sorted(children[at].clone(), &is_current).into_iter().rev());
            }
        }
        tree
    }

    /// When each was said: none before what it answers.
    fn times(&self, beginning: Timestamp) -> Vec<Timestamp> {
        let mut times = vec![beginning; self.nodes.len()];
        for at in &self.order {
            let before = self.parents[*at].map(|parent| times[parent]);
            let own = self.nodes[*at].time;
            times[*at] = own.max(before).unwrap_or(beginning);
        }
        times
    }

    /// The nearest that is shown, from there upward.
    fn shown_from(&self, mut at: Option<usize>) -> Option<usize> {
        while let Some(here) = at.filter(|here| self.nodes[*here].said.is_none()) {
            at = self.parents[here];
        }
        at
    }
}

/// The current one last.
fn sorted(mut places: Vec<usize>, is_current: &[bool]) -> Vec<usize> {
    places.sort_by_key(|at| is_current[*at]);
    places
}

impl ConversationWriter<'_> {
    fn rewind(&mut self, to: Option<Id>) -> io::Result<()> {
        let metadata = json!({"type": "rewind", "to": to});
        let name = format!("rewind {}", metadata["to"]);
        let metadata = metadata.as_object().cloned().unwrap_or_default();
        let said = ForeignMessage { role: "system".into(), text: "Rewind.".into(), metadata, vector_ids: vec![] };
        self.message(Timestamp::from_micros(0), &name, &said).map(drop)
    }

    /// Writes a message of that time, or just after the last one.
    fn message(&mut self, time: Timestamp, key: &str, said: &ForeignMessage) -> io::Result<Id> {
        let next = self.last.map(|last| Timestamp::from_micros(last.micros() + 1));
        let time = next.map_or(time, |next| time.max(next));
        self.last = Some(time);
        let id = Id::derived(time, &format!("{}\n{key}", self.session));
        match said.line(&self.session, id) {
            Ok(line) => self.to.line(self.unit, &line)?,
            Err(why) => self.to.failed(self.unit, why)?,
        }
        Ok(id)
    }
}
