//! An answer piece by piece, and how it ended: of a turn whose client gets it as it comes, of one that is over or was begun by
//! another request, or of a request that is not recorded.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::{Map, Value};

use crate::api::{Presence, Problem};
use crate::chat::{StartedTurn, TurnOutcome, TurnProgress, TurnResult, TurnStatus, Unrecorded};
use crate::front::{Front, FrontTurn};
use crate::message::{Id, SessionId};
use crate::responder::{PassedOn, ResponderError, without_quotation};

use super::chunks::Ending;

/// An answer that is being given.
pub(super) struct Source {
    answer: SourceKind,
    /// Where there is no answer as it comes, how much of its text was read, in bytes.
    seen: usize,
}

enum SourceKind {
    Recorded(Arc<Front>, Box<FrontTurn>),
    Unrecorded(Unrecorded),
}

/// What came next.
pub(super) enum Next {
    Piece(PassedOn),
    /// Nothing until the deadline.
    Nothing,
    /// Nothing more will come.
    End,
}

/// An answer that did not fail. It is recorded, if it is to be.
pub(super) struct FinalAnswer {
    /// Its text, where that is known otherwise than by the pieces.
    pub(super) text: Option<String>,
    /// It was stopped; what was said stands.
    pub(super) is_cut: bool,
    /// That of its reply on record, where its client does not get it as it comes.
    pub(super) metadata: Map<String, Value>,
}

impl FinalAnswer {
    pub(super) fn ending(&self) -> Ending {
        if self.is_cut { Ending::stop() } else { Ending::of(&self.metadata) }
    }
}

impl Source {
    pub(super) fn recorded(front: Arc<Front>, turn: FrontTurn) -> Self {
        Self { answer: SourceKind::Recorded(front, Box::new(turn)), seen: 0 }
    }

    pub(super) fn unrecorded(answer: Unrecorded) -> Self {
        Self { answer: SourceKind::Unrecorded(answer), seen: 0 }
    }

    /// The metadata of the reply, if the turn was over when it was asked for.
    pub(super) fn earlier_reply(&self) -> Option<Map<String, Value>> {
        let SourceKind::Recorded(front, turn) = &self.answer else { return None };
        let StartedTurn::Done(TurnOutcome { reply: Some(reply), .. }) = &turn.started else { return None };
        Some(front.reply(&turn.session, *reply)?.metadata)
    }

    /// The answer as it comes, if this request gets it so.
    fn passed(&self) -> Option<&Receiver<PassedOn>> {
        match &self.answer {
            SourceKind::Recorded(_, turn) => turn.passed.as_ref(),
            SourceKind::Unrecorded(answer) => Some(&answer.passed),
        }
    }

    /// Waits for the next piece, at most until `until`.
    pub(super) fn next(&mut self, until: Instant) -> Next {
        if let Some(passed) = self.passed() {
            return match passed.recv_deadline(until) {
                // It only asks whether somebody reads.
                Ok(PassedOn::Text(text)) if text.is_empty() => self.next(until),
                Ok(piece) => Next::Piece(piece),
                Err(RecvTimeoutError::Timeout) => Next::Nothing,
                Err(RecvTimeoutError::Disconnected) => Next::End,
            };
        }
        let progress = match &self.answer {
            SourceKind::Recorded(_, turn) => match &turn.started {
                StartedTurn::Done(outcome) => said_at_once(outcome, self.seen),
                StartedTurn::Follow(follow) => follow.running().wait_for_text(self.seen, until),
            },
            SourceKind::Unrecorded(_) => return Next::End,
        };
        match progress {
            TurnProgress::Text(text) => {
                self.seen += text.len();
                Next::Piece(PassedOn::Text(text))
            }
            TurnProgress::End(_) => Next::End,
            TurnProgress::Nothing => Next::Nothing,
        }
    }

    /// Waits for the end, which is recorded then; call it once, after [`Next::End`]. `None`: the client is gone.
    ///
    /// # Errors
    /// Why there is no whole answer, or that it cannot be recorded.
    pub(super) fn end(&self, client: Presence<'_>) -> Option<Result<FinalAnswer, Problem>> {
        match &self.answer {
            SourceKind::Recorded(front, turn) => {
                let outcome = match &turn.started {
                    StartedTurn::Done(outcome) => Ok(outcome.clone()),
                    StartedTurn::Follow(follow) => follow.wait(client)?,
                };
                let found = turn.passed.is_none().then_some(&**front);
                Some(outcome.map_err(Problem::from).and_then(|outcome| given(found, &turn.session, outcome)))
            }
            SourceKind::Unrecorded(answer) => Some(match answer.wait(client)? {
                Ok(_) => Ok(FinalAnswer { text: None, is_cut: false, metadata: Map::new() }),
                Err(ResponderError::Stopped) => Err(Problem::unavailable("stopping", "the server is stopping", 5)),
                Err(failure) => {
                    let reason = failure.to_string();
                    log::warn!("[CHAT TURN] An answer that is not recorded failed: {}", without_quotation(&reason));
                    Err(failed(&reason))
                }
            }),
        }
    }
}

/// The text of a turn that is over, from a position on.
fn said_at_once(outcome: &TurnOutcome, seen: usize) -> TurnProgress {
    let is_said = matches!(outcome.status, TurnStatus::Completed | TurnStatus::Cancelled);
    match outcome.text.as_ref().filter(|_| is_said).and_then(|text| text.get(seen..)) {
        Some(text) if !text.is_empty() => TurnProgress::Text(text.to_owned()),
        _ => TurnProgress::End(Ok(TurnResult { reply: outcome.reply, text: String::new(), status: outcome.status })),
    }
}

/// What an outcome means; `front` has what its reply holds besides text, for a client that did not get it as it came.
fn given(front: Option<&Front>, session: &SessionId, outcome: TurnOutcome) -> Result<FinalAnswer, Problem> {
    let is_cut = match outcome.status {
        TurnStatus::Completed => false,
        TurnStatus::Cancelled => true,
        TurnStatus::Error => return Err(failed(outcome.text.as_deref().unwrap_or("the responder failed"))),
        TurnStatus::Recorded => {
            let detail = "the message was recorded and answered before, and its answer is not kept any more";
            return Err(Problem::new(410, "reply_gone", detail));
        }
    };
    let reply = |id: Id| front?.reply(session, id);
    let metadata = outcome.reply.and_then(reply).map(|parts| parts.metadata).unwrap_or_default();
    Ok(FinalAnswer { text: outcome.text, is_cut, metadata })
}

/// 502: the responder failed, for that reason.
fn failed(reason: &str) -> Problem {
    Problem::new(502, "responder_failed", reason)
}
