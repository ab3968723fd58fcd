//! The subscribers of one socket thread, by session, and which of them receives an event.
//!
//! One subscription to the hub serves all subscribers of a session in this thread, and an event is serialised once for
//! all of them.
//!
//! Order: results of workers are taken before the hub's events, but handled after them. So the records that an outcome
//! or a page refers to have been handled before it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::{Joining, Outbox, Payload, SocketHandler, SocketId};
use crate::hub::{Listener, Mail};
use crate::logging;
use crate::message::SessionId;

use super::services::{Done, Services};
use super::subscriber::{Subscriber, SubscriberContext};
use super::wire::{self, Notice};

/// All subscribers of one socket thread.
pub(super) struct Subscribers {
    services: Services,
    listener: Listener,
    subscribers: HashMap<SocketId, Subscriber>,
    sessions: HashMap<SessionId, Vec<SocketId>>,
}

impl Subscribers {
    pub(super) fn new(services: Services, listener: Listener) -> Self {
        Self { services, listener, subscribers: HashMap::new(), sessions: HashMap::new() }
    }

    /// Calls a subscriber, if it is still there.
    fn with(
        &mut self,
        socket: SocketId,
        outbox: &mut dyn Outbox,
        call: impl FnOnce(&mut Subscriber, &mut SubscriberContext<'_>),
    ) {
        if let Some(subscriber) = self.subscribers.get_mut(&socket) {
            let _entered = logging::enter(Some(subscriber.request().clone()));
            call(subscriber, &mut SubscriberContext { socket, services: &self.services, outbox });
        }
    }

    fn spread(&mut self, mail: Mail, outbox: &mut dyn Outbox) {
        for event in mail.events {
            let notice = Arc::new(Notice::new(event));
            let Some(sockets) = notice.event.session().and_then(|session| self.sessions.get(session)) else { continue };
            for socket in sockets {
                if let Some(subscriber) = self.subscribers.get_mut(socket) {
                    subscriber.hear(
                        &notice,
                        &mut SubscriberContext { socket: *socket, services: &self.services, outbox: &mut *outbox },
                    );
                }
            }
        }
        for (session, erasure) in mail.lost {
            for socket in self.sessions.get(&session).cloned().unwrap_or_default() {
                self.with(socket, outbox, |subscriber, context| subscriber.missed(erasure, context));
            }
        }
    }
}

impl SocketHandler for Subscribers {
    fn opened(&mut self, socket: SocketId, joining: Joining, outbox: &mut dyn Outbox) {
        let here = self.sessions.entry(joining.session.clone()).or_default();
        here.push(socket);
        if here.len() == 1 {
            // Before anything is read for it, so that nothing falls between the read and the subscription.
            self.listener.subscribe(&joining.session);
        }
        let subscriber = Subscriber::join(joining, &SubscriberContext { socket, services: &self.services, outbox });
        self.subscribers.insert(socket, subscriber);
    }

    fn received(&mut self, socket: SocketId, payload: Payload, bytes: Vec<u8>, outbox: &mut dyn Outbox) {
        self.with(socket, outbox, |subscriber, context| subscriber.received(payload, bytes, context));
    }

    fn drained(&mut self, socket: SocketId, outbox: &mut dyn Outbox) {
        self.with(socket, outbox, Subscriber::pump);
    }

    fn beat(&mut self, socket: SocketId, outbox: &mut dyn Outbox) {
        outbox.send(socket, Payload::Text, &wire::heartbeat(self.services.now(), None));
    }

    fn closed(&mut self, socket: SocketId) {
        let Some(subscriber) = self.subscribers.remove(&socket) else { return };
        let session = subscriber.session();
        let Some(here) = self.sessions.get_mut(session) else { return };
        here.retain(|other| *other != socket);
        if here.is_empty() {
            self.sessions.remove(session);
            self.listener.unsubscribe(session);
            self.services.chat.unfollowed(session);
        }
        if self.subscribers.is_empty() {
            // Gives back the memory of a crowd.
            self.subscribers = HashMap::new();
            self.sessions = HashMap::new();
        }
    }

    fn has_mail(&self) -> bool {
        !self.services.completions.is_empty() || self.listener.has_mail()
    }

    fn woken(&mut self, outbox: &mut dyn Outbox) {
        let done = self.services.completions.take();
        let mail = self.listener.take();
        self.spread(mail, outbox);
        for (socket, done) in done {
            self.with(socket, outbox, |subscriber, context| match done {
                Done::Page(page) => subscriber.paged(page, context),
                Done::SentMessage(outcome) => subscriber.said(outcome, context),
            });
        }
    }

    fn is_revoked(&self, socket: SocketId) -> bool {
        self.subscribers.get(&socket).is_some_and(Subscriber::is_revoked)
    }

    fn awaits_answer(&self, socket: SocketId) -> bool {
        self.subscribers.get(&socket).is_some_and(Subscriber::awaits_answer)
    }
}
