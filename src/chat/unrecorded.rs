//! An answer that belongs to no conversation: nothing of it is recorded, and it ends with its client.
//!
//! It takes a slot as any turn does, and a thread of the same pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::message::{Clock, Id, Message, SessionId};
use crate::permit::HeldBytes;
use crate::responder::{Answer, GivenRequest, PassedOn, Question, ResponderError, Stop};

use super::pool::ResponderSlot;
use super::turn::{Presence, TurnError};
use super::{Chat, PASSED_MAX};

/// An answer that is being given; its client's end is its own.
#[derive(Debug)]
pub struct Unrecorded {
    /// The answer as it comes.
    pub passed: Receiver<PassedOn>,
    end: Receiver<Result<Answer, ResponderError>>,
    stop: Stop,
}

impl Chat {
    /// Has a request answered whose messages are these.
    ///
    /// # Errors
    /// [`TurnError`]: it cannot begin now.
    pub fn ask_unrecorded(&self, body: Arc<HeldBytes>, messages: Vec<Arc<Message>>) -> Result<Unrecorded, TurnError> {
        let responder = self.responder.clone().ok_or(TurnError::AtCap)?;
        let ResponderSlot { place, seat, turns } = self.pool.reserve(|| self.make_way())?;
        let ((to, passed), (tell, end), stop) = (bounded(PASSED_MAX), bounded(1), Stop::default());
        let question = Question {
            session: SessionId::default(),
            user: messages.last().map_or_else(|| Id::least_of(Clock::system().now()), |message| message.id()),
            messages,
            stop: stop.clone(),
            until: Instant::now() + self.timeout,
            given: Some(GivenRequest { body, to }),
        };
        let ask = move || {
            let answer = catch_unwind(AssertUnwindSafe(|| super::answering::ask(&*responder, &question, &mut |_| ())));
            drop((place, seat));
            let failed = |_| Err(ResponderError::Failed("a fault in the responder".into()));
            let _ = tell.send(answer.unwrap_or_else(failed));
        };
        // The slot guarantees space and a thread.
        let _ = turns.send(Box::new(ask));
        Ok(Unrecorded { passed, end, stop })
    }
}

impl Unrecorded {
    /// Waits for the end, once all that was passed on is read. `None`: the client is gone.
    ///
    /// # Errors
    /// Why the answer is not whole.
    pub fn wait(&self, client: Presence<'_>) -> Option<Result<Answer, ResponderError>> {
        let far = Duration::from_secs(3600);
        loop {
            match self.end.recv_deadline(client.next_look(Instant::now() + far)) {
                Ok(end) => return Some(end),
                Err(RecvTimeoutError::Disconnected) => return Some(Err(ResponderError::Stopped)),
                Err(RecvTimeoutError::Timeout) if client.is_gone() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Unrecorded {
    fn drop(&mut self) {
        self.stop.set();
    }
}
