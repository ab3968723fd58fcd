//! The guests of one thread of sockets, by session: who hears what.
//!
//! One subscription serves all guests of a session in this thread, and an event is put into bytes once for all of them.
//!
//! Order of the mail: what workers have done is taken before what the hub has brought, and seen to after it. So the records a
//! guest's outcome or page speaks of have come by when it is seen to.

use std::collections::HashMap;
use std::sync::Arc;

use crate::api::{Joining, Lines, Lobby, Payload, SocketId};
use crate::hub::{Listener, Mail};
use crate::message::SessionId;

use super::desk::{Desk, Done};
use super::guest::{Guest, Way};
use super::wire::{self, Notice};

/// See the module.
pub(super) struct Room {
    desk: Desk,
    listener: Listener,
    guests: HashMap<SocketId, Guest>,
    sessions: HashMap<SessionId, Vec<SocketId>>,
}

impl Room {
    pub(super) fn new(desk: Desk, listener: Listener) -> Self {
        Self { desk, listener, guests: HashMap::new(), sessions: HashMap::new() }
    }

    /// Calls a guest, if it is still there.
    fn with(&mut self, socket: SocketId, lines: &mut dyn Lines, call: impl FnOnce(&mut Guest, &mut Way<'_>)) {
        if let Some(guest) = self.guests.get_mut(&socket) {
            call(guest, &mut Way { socket, desk: &self.desk, lines });
        }
    }

    fn spread(&mut self, mail: Mail, lines: &mut dyn Lines) {
        for event in mail.events {
            let notice = Arc::new(Notice::new(event));
            let Some(sockets) = notice.event.session().and_then(|session| self.sessions.get(session)) else { continue };
            for socket in sockets {
                if let Some(guest) = self.guests.get_mut(socket) {
                    guest.hear(&notice, &mut Way { socket: *socket, desk: &self.desk, lines: &mut *lines });
                }
            }
        }
        for (session, erasure) in mail.lost {
            for socket in self.sessions.get(&session).cloned().unwrap_or_default() {
                self.with(socket, lines, |guest, way| guest.missed(erasure, way));
            }
        }
    }
}

impl Lobby for Room {
    fn opened(&mut self, socket: SocketId, joining: Joining, lines: &mut dyn Lines) {
        let here = self.sessions.entry(joining.session.clone()).or_default();
        here.push(socket);
        if here.len() == 1 {
            // Before anything is read for it: what is published from here on comes by.
            self.listener.subscribe(&joining.session);
        }
        let guest = Guest::join(joining, &Way { socket, desk: &self.desk, lines });
        self.guests.insert(socket, guest);
    }

    fn received(&mut self, socket: SocketId, payload: Payload, bytes: Vec<u8>, lines: &mut dyn Lines) {
        self.with(socket, lines, |guest, way| guest.received(payload, bytes, way));
    }

    fn drained(&mut self, socket: SocketId, lines: &mut dyn Lines) {
        self.with(socket, lines, Guest::pump);
    }

    fn beat(&mut self, socket: SocketId, lines: &mut dyn Lines) {
        lines.send(socket, Payload::Text, &wire::heartbeat(self.desk.now()));
    }

    fn closed(&mut self, socket: SocketId) {
        let Some(guest) = self.guests.remove(&socket) else { return };
        let session = guest.session();
        let Some(here) = self.sessions.get_mut(session) else { return };
        here.retain(|other| *other != socket);
        if here.is_empty() {
            self.sessions.remove(session);
            self.listener.unsubscribe(session);
        }
        if self.guests.is_empty() {
            // After a crowd.
            self.guests = HashMap::new();
            self.sessions = HashMap::new();
        }
    }

    fn has_mail(&self) -> bool {
        !self.desk.tray.is_empty() || self.listener.has_mail()
    }

    fn rung(&mut self, lines: &mut dyn Lines) {
        let done = self.desk.tray.take();
        let mail = self.listener.take();
        self.spread(mail, lines);
        for (socket, done) in done {
            self.with(socket, lines, |guest, way| match done {
                Done::Page(page) => guest.paged(page, way),
                Done::Said(outcome) => guest.said(outcome, way),
            });
        }
    }

    fn is_owed(&self, socket: SocketId) -> bool {
        self.guests.get(&socket).is_some_and(Guest::is_owed)
    }
}
