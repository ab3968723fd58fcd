//! What a subscriber asks for, and the outcome: a message, a stop, help.

use crate::access::Access;
use crate::api::{Payload, Problem};
use crate::chat::{TurnError, TurnOutcome};
use crate::message::Id;

use super::super::client_request::{self, ClientRequest, Say};
use super::super::services::SentMessage;
use super::super::wire::{self, Activity};
use super::own::Saying;
use super::{Subscriber, SubscriberContext, SubscriberPhase};

impl Subscriber {
    pub(super) fn take(&mut self, payload: Payload, bytes: &[u8], context: &mut SubscriberContext<'_>) {
        if payload == Payload::Binary {
            let problem = Problem::new(415, "not_text", "messages are JSON in text frames");
            return context.send(&wire::error(&problem, None));
        }
        let may_write = self.caller.access() >= Access::Write;
        match client_request::read(bytes) {
            Err(fault) => context.send(&fault),
            Ok(ClientRequest::Say(say)) if may_write => self.say(say, context),
            Ok(ClientRequest::Stop(client_id)) if may_write => self.stop(client_id.as_deref(), context),
            Ok(ClientRequest::Say(Say { client_id, .. }) | ClientRequest::Stop(client_id)) => {
                self.forbid(client_id.as_deref(), context);
            }
            Ok(ClientRequest::Help(client_id)) => {
                context.send(&wire::help(&self.session, context.services.now(), client_id.as_deref()));
            }
            Ok(ClientRequest::Ping(client_id)) => {
                context.send(&wire::heartbeat(context.services.now(), client_id.as_deref()));
            }
        }
    }

    fn forbid(&self, client_id: Option<&str>, context: &mut SubscriberContext<'_>) {
        let problem = Problem::insufficient_access(&self.caller, Access::Write);
        context.send(&wire::error(&problem, client_id));
    }

    fn say(&mut self, say: Say, context: &mut SubscriberContext<'_>) {
        if self.own.is_waiting() || self.own.parked.is_some() {
            return context.send(&wire::busy(&self.session, say.client_id.as_deref()));
        }
        // A new context ends the running answer and begins after it.
        if say.is_clear()
            && let Some(running) = context.services.chat.current(&self.session)
        {
            running.stop();
            // If its end was already handled, nothing would wake the parked message.
            if !running.is_over() {
                self.own.parked = Some(say);
                return;
            }
        }
        match self.phase {
            SubscriberPhase::Live if self.own.saying.is_none() => self.submit(say, context),
            _ => self.own.parked = Some(say),
        }
    }

    fn submit(&mut self, say: Say, context: &SubscriberContext<'_>) {
        let origin = context.services.next_origin();
        self.own.begin(origin, say.client_id.clone(), self.told);
        let request = self.request.next();
        let (session, on_disconnect) = (self.session.clone(), self.request.on_disconnect);
        let said = SentMessage { session, say, origin, on_disconnect, request };
        context.services.turns.leave((context.services.recipient(context.socket), said));
    }

    pub(super) fn submit_parked(&mut self, context: &SubscriberContext<'_>) {
        if self.own.saying.is_none()
            && matches!(self.phase, SubscriberPhase::Live)
            && let Some(say) = self.own.parked.take()
        {
            // The end of that turn, perhaps stopped by this client, is still to come and wakes the parked message.
            if say.is_clear() && context.services.chat.current(&self.session).is_some() {
                self.own.parked = Some(say);
                return;
            }
            self.submit(say, context);
        }
    }

    fn stop(&mut self, client_id: Option<&str>, context: &mut SubscriberContext<'_>) {
        let is_stopped = context.services.chat.stop(&self.session);
        let has_own = self.own.saying.is_some() || self.own.parked.is_some();
        // It means the answer to its own message.
        let is_early = !is_stopped && has_own && context.services.chat.current(&self.session).is_none();
        self.own.is_unwanted |= is_early;
        // The hub tells every subscriber of a stop, this one too, but it does not know whom it answers.
        if client_id.is_some() || !(is_stopped || is_early) {
            self.tell_status(client_id, context);
        }
    }

    fn tell_status(&self, client_id: Option<&str>, context: &mut SubscriberContext<'_>) {
        let running = context.services.chat.current(&self.session);
        let word = match &running {
            Some(running) if running.is_stopping() => Activity::Cancelling,
            Some(_) => Activity::Processing,
            None => Activity::Idle,
        };
        context.send(&wire::status_for(client_id, &self.session, word, running.map(|running| running.user())));
    }

    /// Takes the outcome of its message. The event of the record, if there is one, was handled before.
    pub(in super::super) fn said(
        &mut self,
        outcome: Result<TurnOutcome, TurnError>,
        context: &mut SubscriberContext<'_>,
    ) {
        let Some(saying) = self.own.saying.take() else { return };
        let begun = outcome.as_ref().ok().map(|outcome| outcome.user);
        match outcome {
            Ok(outcome) if outcome.duplicate => self.repeat(&outcome, &saying, context),
            Ok(outcome) if !saying.is_acked => {
                let ack = wire::ack(saying.client_id.as_deref(), outcome.user, context.services.durable, false);
                self.own.pending_ack = Some((outcome.user, ack));
            }
            Ok(_) => {}
            Err(TurnError::Busy) => context.send(&wire::busy(&self.session, saying.client_id.as_deref())),
            Err(no_turn) => context.send(&wire::error(&no_turn.into(), saying.client_id.as_deref())),
        }
        // What a full mailbox lost is being replayed, or there is nothing to replay.
        match self.phase {
            SubscriberPhase::Live => self.send_pending_ack(context),
            _ => self.pump(context),
        }
        if std::mem::take(&mut self.own.is_unwanted) {
            self.stop_own(begun, context);
        }
        if let Some(say) = self.own.parked.take() {
            self.say(say, context);
        }
    }

    /// Stops the answer to its own message, if it is running.
    fn stop_own(&self, begun: Option<Id>, context: &mut SubscriberContext<'_>) {
        let own = context.services.chat.current(&self.session).filter(|running| Some(running.user()) == begun);
        if !own.is_some_and(|running| running.stop()) {
            self.tell_status(None, context);
        }
    }

    /// Acknowledges a repeated message, with its reply unless that was sent just now.
    fn repeat(&self, outcome: &TurnOutcome, saying: &Saying, context: &mut SubscriberContext<'_>) {
        context.send(&wire::ack(saying.client_id.as_deref(), outcome.user, context.services.durable, true));
        let came_by = saying.since < outcome.reply && outcome.reply <= self.told;
        if let (false, Some(reply), Some(text)) = (came_by, outcome.reply, &outcome.text) {
            context.send(&wire::response(&self.session, text, outcome.status.as_str(), reply, outcome.user));
        }
    }
}
