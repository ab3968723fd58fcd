//! Those who work for the sockets: they may wait for a sync or a disk, and put what came of it into the tray.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use crate::chat::{Begun, Chat, NoTurn, Outcome, Status, Turn, WhenBusy};
use crate::history::History;
use crate::journal::Refusal;
use crate::thread;

use super::desk::{Done, Errand, Left};
use super::errands::Errands;
use super::replay;
use super::wire::Say;

/// What the metadata says of messages that came by WebSocket.
const TRANSPORT: &str = "websocket";
/// Turns taken at once.
const TURNS_AT_ONCE: usize = 256;

/// The life of a thread that takes turns.
pub(super) fn take_turns(turns: &Errands<Left>, chat: &Arc<Chat>, alive: Sender<()>) {
    let mut clearing = Vec::new();
    while let Some(batch) = turns.take(TURNS_AT_ONCE) {
        let mut appended = Vec::new();
        let mut others = Vec::new();
        for left in batch {
            match guarded(|| with_turn(&left, |turn| chat.append(turn))) {
                Ok(Some(Ok(one))) => appended.push((left, one)),
                Ok(Some(Err(refusal))) => put(&left, Err(refusal.into())),
                Ok(None) => others.push(left),
                Err(no_turn) => put(&left, Err(no_turn)),
            }
        }
        // The first waits for the sync, the others find it done.
        for (left, one) in appended {
            let Errand::Say { session, .. } = &left.errand else { continue };
            let outcome = guarded(|| chat.settle(session, one));
            put(&left, outcome.and_then(|outcome| outcome.map_err(NoTurn::from)));
        }
        for left in others {
            let begun = guarded(|| with_turn(&left, |turn| Some(chat.begin(turn, WhenBusy::Refuse))));
            let outcome = begun.and_then(|begun| begun.unwrap_or(Err(NoTurn::Stopping)));
            match outcome {
                Err(NoTurn::Busy) if left.is_clear() => clear_in_line(left, chat, &mut clearing),
                outcome => put(&left, outcome.map(|begun| outcome_of(&begun))),
            }
        }
    }
    // Those who stand in line have been sent away: the turns have ended before this.
    for thread in clearing {
        let _ = thread.join();
    }
    drop(alive);
}

/// Has a new context wait behind the turns that stand in line, on a thread of its own: it has stopped an answer, and must not
/// be refused for that. So many may wait as [`Chat`] lets wait; beyond it the client is told.
fn clear_in_line(left: Left, chat: &Arc<Chat>, clearing: &mut Vec<JoinHandle<()>>) {
    clearing.retain(|thread| !thread.is_finished());
    let (tray, socket, chat) = (left.tray.clone(), left.socket, chat.clone());
    let spawned = thread::spawn("ws-clear".to_owned(), move || {
        let begun = guarded(|| with_turn(&left, |turn| Some(chat.begin(turn, WhenBusy::Queue))));
        let outcome = begun.and_then(|begun| begun.unwrap_or(Err(NoTurn::Stopping)));
        put(&left, outcome.map(|begun| outcome_of(&begun)));
    });
    match spawned {
        Ok(thread) => clearing.push(thread),
        Err(fault) => {
            log::error!("no thread can be had for a new context that waits: {fault}");
            tray.put(socket, Done::Said(Err(NoTurn::Crowded)));
        }
    }
}

fn with_turn<T>(left: &Left, call: impl FnOnce(&Turn<'_>) -> Option<T>) -> Option<T> {
    let Errand::Say { session, say, origin } = &left.errand else { return None };
    let Say { text, key, metadata, .. } = say;
    let (metadata, key, origin) = (metadata.as_ref(), key.as_deref(), Some(*origin));
    call(&Turn { session, text, metadata, transport: TRANSPORT, key, origin })
}

/// What a turn came to so far; of one that is being answered the rest is told as it comes.
fn outcome_of(begun: &Begun) -> Outcome {
    match begun {
        Begun::Done(outcome) => outcome.clone(),
        Begun::Follow(follow) => Outcome {
            user: follow.running().user(),
            reply: None,
            text: None,
            status: Status::Recorded,
            duplicate: follow.is_duplicate(),
        },
    }
}

fn put(left: &Left, outcome: Result<Outcome, NoTurn>) {
    left.tray.put(left.socket, Done::Said(outcome));
}

/// A panic is that guest's error and nobody else's.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, NoTurn> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| {
        log::error!("a turn that came by WebSocket panicked");
        NoTurn::Refused(Refusal::Unavailable("the server met a fault of its own; it is in its log".into()))
    })
}

/// The life of the thread that reads.
pub(super) fn read_pages(pages: &Errands<Left>, history: &History, _alive: &Sender<()>) {
    while let Some(batch) = pages.take(1) {
        for Left { tray, socket, presence, errand } in batch {
            // In a storm of clients that come and go, only those that stayed.
            if presence.strong_count() == 0 {
                continue;
            }
            let read = || match &errand {
                Errand::Join { session, after } => replay::first(history, session, *after),
                Errand::Page { session, after } => replay::next(history, session, *after),
                Errand::Say { .. } => replay::Page::default(),
            };
            let page = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
                log::error!("reading what a client missed panicked");
                replay::Page { gap: Some("the server met a fault of its own"), ..replay::Page::default() }
            });
            tray.put(socket, Done::Page(page));
        }
    }
}
