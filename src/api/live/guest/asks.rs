//! What a guest asks for, and what comes of it: something said, an answer stopped, help.
//!
//! One thing it said is on its way at a time. It is *parked* while it cannot go yet: before the guest is told what happens, or
//! behind an answer that a new context ends.

use crate::api::{Payload, Problem};
use crate::chat::{NoTurn, Outcome};
use crate::message::Id;

use super::super::Errand;
use super::super::wire::{self, Asked, Say};
use super::{Guest, Phase, Saying, Way};

impl Guest {
    pub(super) fn take(&mut self, payload: Payload, bytes: &[u8], way: &mut Way<'_>) {
        if payload == Payload::Binary {
            let problem = Problem::new(415, "not_text", "messages are JSON in text frames");
            return way.send(&wire::error(&problem, None));
        }
        match wire::read(bytes) {
            Err((problem, client_id)) => way.send(&wire::error(&problem, client_id.as_deref())),
            Ok(Asked::Say(say)) => self.say(say, way),
            Ok(Asked::Stop) => self.stop(way),
            Ok(Asked::Help) => way.send(&wire::help(&self.session, way.desk.now())),
            Ok(Asked::Ping) => way.send(&wire::heartbeat(way.desk.now())),
        }
    }

    fn say(&mut self, say: Say, way: &mut Way<'_>) {
        if self.is_waiting() || self.parked.is_some() {
            return way.send(&wire::busy(&self.session, say.client_id.as_deref()));
        }
        // A new context ends the answer that is being given, and begins behind it.
        if say.is_clear()
            && let Some(running) = way.desk.chat.current(&self.session)
        {
            running.stop();
            // Its end may have come by already, and then nobody would wake what is parked.
            if !running.is_over() {
                self.parked = Some(say);
                return;
            }
        }
        match self.phase {
            Phase::Live => self.submit(say, way),
            _ => self.parked = Some(say),
        }
    }

    fn submit(&mut self, say: Say, way: &Way<'_>) {
        self.saying = Some(Saying { client_id: say.client_id.clone() });
        way.leave(&self.presence, Errand::Say { session: self.session.clone(), say });
    }

    pub(super) fn submit_parked(&mut self, way: &Way<'_>) {
        if self.saying.is_none()
            && matches!(self.phase, Phase::Live)
            && let Some(say) = self.parked.take()
        {
            // The end of that turn, which it may have stopped itself, is still to come and wakes it.
            if say.is_clear() && way.desk.chat.current(&self.session).is_some() {
                self.parked = Some(say);
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
        if way.desk.chat.current(&self.session).is_none() && (self.saying.is_some() || self.parked.is_some()) {
            // It means the answer to what it said itself.
            self.is_unwanted = true;
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

    /// What it said came to this.
    pub(in super::super) fn said(&mut self, outcome: Result<Outcome, NoTurn>, way: &mut Way<'_>) {
        let Some(Saying { client_id }) = self.saying.take() else { return };
        let client_id = client_id.as_deref();
        let is_live = matches!(self.phase, Phase::Live);
        let begun = outcome.as_ref().ok().map(|outcome| outcome.user);
        match outcome {
            Ok(outcome) => self.acknowledge(&outcome, client_id, way),
            Err(NoTurn::Busy) => way.send(&wire::busy(&self.session, client_id)),
            Err(no_turn) => way.send(&wire::error(&no_turn.into(), client_id)),
        }
        if is_live {
            self.flush(way);
        }
        if matches!(self.phase, Phase::Live) {
            // Held back while it spoke, or begun by what it said.
            self.show_turn(way);
            self.submit_parked(way);
        }
        if std::mem::take(&mut self.is_unwanted) {
            self.stop_own(begun, way);
        }
    }

    /// Stops the answer to what it said, if one is being given.
    fn stop_own(&self, begun: Option<Id>, way: &mut Way<'_>) {
        let own = way.desk.chat.current(&self.session).filter(|running| Some(running.user()) == begun);
        if !own.is_some_and(|running| running.stop()) {
            self.tell_status(way);
        }
    }

    /// Tells what was held up to its own message, and in the place of that the ack.
    fn acknowledge(&mut self, outcome: &Outcome, client_id: Option<&str>, way: &mut Way<'_>) {
        let ack = wire::ack(client_id, outcome.user, way.desk.durable, outcome.duplicate);
        let is_reply_held =
            self.held.iter().any(|notice| outcome.reply.is_some() && notice.recorded() == outcome.reply);
        let is_whole = matches!(self.phase, Phase::Live) && self.lost.is_none();
        if !is_whole && !outcome.duplicate {
            self.owed = Some((outcome.user, ack));
            return;
        }
        if is_whole && let Some(place) = self.held.iter().position(|notice| notice.recorded() == Some(outcome.user)) {
            for notice in self.held.drain(..place).collect::<Vec<_>>() {
                self.tell(&notice, way);
            }
        }
        way.send(&ack);
        // Its record is the next that is held, or was told long ago.
        self.acked = Some(outcome.user);
        if let (true, false, Some(reply), Some(text)) = (outcome.duplicate, is_reply_held, outcome.reply, &outcome.text)
        {
            way.send(&wire::response(&self.session, text, outcome.status.as_str(), reply, outcome.user));
        }
    }
}
