//! Those who work for the sockets: they may wait for a sync or a disk, and put what came of it into the completions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use crate::chat::{Chat, StartedTurn, Status, TurnError, TurnOutcome, WhenBusy};
use crate::history::History;
use crate::journal::AppendError;
use crate::thread;

use super::job_queue::JobQueue;
use super::replay;
use super::services::{Done, Missed, Recipient, SentMessage};

/// Turns taken at once.
const TURNS_AT_ONCE: usize = 256;

/// The life of a thread that takes turns.
pub(super) fn take_turns(turns: &JobQueue<(Recipient, SentMessage)>, chat: &Arc<Chat>, alive: Sender<()>) {
    let mut clearing = Vec::new();
    while let Some(batch) = turns.take(TURNS_AT_ONCE) {
        let (mut appended, mut others) = (Vec::new(), Vec::new());
        for (to, said) in batch {
            match guarded(|| Ok(chat.append(&said.turn()).transpose()?)) {
                Ok(Some(one)) => appended.push((to, said, one)),
                Ok(None) => others.push((to, said)),
                Err(no_turn) => to.put(Done::SentMessage(Err(no_turn))),
            }
        }
        // The first waits for the sync, the others find it done.
        for (to, said, one) in appended {
            to.put(Done::SentMessage(guarded(|| Ok(chat.settle(&said.session, one)?))));
        }
        for (to, said) in others {
            match begin(chat, &said, WhenBusy::Refuse) {
                Err(TurnError::Busy) if said.say.is_clear() => clear_in_line(to, said, chat, &mut clearing),
                outcome => to.put(Done::SentMessage(outcome)),
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
fn clear_in_line(to: Recipient, said: SentMessage, chat: &Arc<Chat>, clearing: &mut Vec<JoinHandle<()>>) {
    clearing.retain(|thread| !thread.is_finished());
    let (to, chat) = (Arc::new(to), chat.clone());
    let recipient = to.clone();
    let wait = move || recipient.put(Done::SentMessage(begin(&chat, &said, WhenBusy::Queue)));
    match thread::spawn("ws-clear", wait) {
        Ok(thread) => clearing.push(thread),
        Err(fault) => {
            log::error!("no thread can be had for a new context that waits: {fault}");
            to.put(Done::SentMessage(Err(TurnError::Crowded)));
        }
    }
}

/// Begins a turn: what it came to so far. Of one that is being answered the rest is told as it comes.
fn begin(chat: &Chat, said: &SentMessage, when_busy: WhenBusy) -> Result<TurnOutcome, TurnError> {
    Ok(match guarded(|| chat.begin(&said.turn(), when_busy))? {
        StartedTurn::Done(outcome) => outcome,
        StartedTurn::Follow(follow) => TurnOutcome {
            user: follow.running().user(),
            reply: None,
            text: None,
            status: Status::Recorded,
            duplicate: follow.is_duplicate(),
        },
    })
}

/// A panic is that subscriber's error and nobody else's.
fn guarded<T>(call: impl FnOnce() -> Result<T, TurnError>) -> Result<T, TurnError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        log::error!("a turn that came by WebSocket panicked");
        Err(AppendError::Unavailable("the server met a fault of its own; it is in its log".into()).into())
    })
}

/// The life of the thread that reads.
pub(super) fn read_pages(pages: &JobQueue<(Recipient, Missed)>, history: &History, _alive: &Sender<()>) {
    while let Some(batch) = pages.take(1) {
        for (to, Missed { session, after, is_new, presence }) in batch {
            // In a storm of clients that come and go, only those that stayed.
            if presence.strong_count() == 0 {
                continue;
            }
            let read = || match is_new {
                true => replay::first(history, &session, after),
                false => replay::next(history, &session, after),
            };
            let page = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
                log::error!("reading what a client missed panicked");
                replay::Page { gap: Some("the server met a fault of its own".into()), ..replay::Page::default() }
            });
            to.put(Done::Page(page));
        }
    }
}
