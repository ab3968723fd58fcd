//! What a guest asks for, and what comes of it: something said, an answer stopped, help.

use crate::api::{Payload, Problem};
use crate::chat::{NoTurn, Outcome};
use crate::message::Id;

use super::super::desk::Said;
use super::super::wire::{self, Asked, Say};
use super::own::Saying;
use super::{Guest, Phase, Way};

impl Guest {
    pub(super) fn take(&mut self, payload: Payload, bytes: &[u8], way: &mut Way<'_>) {
        if payload == Payload::Binary {
            let problem = Problem::new(415, "not_text", "messages are JSON in text frames");
            return way.send(&wire::error(&problem, None));
        }
        match wire::read(bytes) {
            Err(fault) => way.send(&fault),
            Ok(Asked::Say(say)) => self.say(say, way),
            Ok(Asked::Stop) => self.stop(way),
            Ok(Asked::Help) => way.send(&wire::help(&self.session, way.desk.now())),
            Ok(Asked::Ping) => way.send(&wire::heartbeat(way.desk.now())),
        }
    }

    fn say(&mut self, say: Say, way: &mut Way<'_>) {
        if self.own.is_waiting() || self.own.parked.is_some() {
            return way.send(&wire::busy(&self.session, say.client_id.as_deref()));
        }
        // A new context ends the answer that is being given, and begins behind it.
        if say.is_clear()
            && let Some(running) = way.desk.chat.current(&self.session)
        {
            running.stop();
            // Its end may have come by already, and then nobody would wake what is parked.
            if !running.is_over() {
                self.own.parked = Some(say);
                return;
            }
        }
        match self.phase {
            Phase::Live if self.own.saying.is_none() => self.submit(say, way),
            _ => self.own.parked = Some(say),
        }
    }

    fn submit(&mut self, say: Say, way: &Way<'_>) {
        let origin = way.desk.next_origin();
        self.own.begin(origin, say.client_id.clone(), self.told);
        let said = Said { session: self.session.clone(), say, origin };
        way.desk.turns.leave((way.desk.recipient(way.socket), said));
    }

    pub(super) fn submit_parked(&mut self, way: &Way<'_>) {
        if self.own.saying.is_none()
            && matches!(self.phase, Phase::Live)
            && let Some(say) = self.own.parked.take()
        {
            // The end of that turn, which it may have stopped itself, is still to come and wakes it.
            if say.is_clear() && way.desk.chat.current(&self.session).is_some() {
                self.own.parked = Some(say);
                return;
            }
            self.submit(say, way);
        }
    }

    fn stop(&mut self, way: &mut Way<'_>) {
        if way.desk.chat.stop(&self.session) {
            // Everybody hears of it, this one too.
            return;
        }
        let has_own = self.own.saying.is_some() || self.own.parked.is_some();
        if has_own && way.desk.chat.current(&self.session).is_none() {
            // It means the answer to what it said itself.
            self.own.is_unwanted = true;
            return;
        }
        self.tell_status(way);
    }

    fn tell_status(&self, way: &mut Way<'_>) {
        let running = way.desk.chat.current(&self.session);
        let word = match &running {
            Some(running) if running.is_stopping() => "cancelling",
            Some(_) => "processing",
            None => "idle",
        };
        way.send(&wire::status(&self.session, word, running.map(|running| running.user())));
    }

    /// What it said came to this. Its event, if it has one, has come by.
    pub(in super::super) fn said(&mut self, outcome: Result<Outcome, NoTurn>, way: &mut Way<'_>) {
        let Some(saying) = self.own.saying.take() else { return };
        let begun = outcome.as_ref().ok().map(|outcome| outcome.user);
        match outcome {
            Ok(outcome) if outcome.duplicate => self.repeat(&outcome, &saying, way),
            Ok(outcome) if !saying.is_acked => {
                let ack = wire::ack(saying.client_id.as_deref(), outcome.user, way.desk.durable, false);
                self.own.owed = Some((outcome.user, ack));
            }
            Ok(_) => {}
            Err(NoTurn::Busy) => way.send(&wire::busy(&self.session, saying.client_id.as_deref())),
            Err(no_turn) => way.send(&wire::error(&no_turn.into(), saying.client_id.as_deref())),
        }
        // What a full mailbox lost is read now, or there is nothing to be read.
        match self.phase {
            Phase::Live => self.send_owed(way),
            _ => self.pump(way),
        }
        if std::mem::take(&mut self.own.is_unwanted) {
            self.stop_own(begun, way);
        }
        if let Some(say) = self.own.parked.take() {
            self.say(say, way);
        }
    }

    /// Stops the answer to what it said, if one is being given.
    fn stop_own(&self, begun: Option<Id>, way: &mut Way<'_>) {
        let own = way.desk.chat.current(&self.session).filter(|running| Some(running.user()) == begun);
        if !own.is_some_and(|running| running.stop()) {
            self.tell_status(way);
        }
    }

    /// Acknowledges what came before, with the reply it was given unless that came by just now.
    fn repeat(&self, outcome: &Outcome, saying: &Saying, way: &mut Way<'_>) {
        way.send(&wire::ack(saying.client_id.as_deref(), outcome.user, way.desk.durable, true));
        let came_by = saying.since < outcome.reply && outcome.reply <= self.told;
        if let (false, Some(reply), Some(text)) = (came_by, outcome.reply, &outcome.text) {
            way.send(&wire::response(&self.session, text, outcome.status.as_str(), reply, outcome.user));
        }
    }
}
