//! Threads that work for the sockets: they may wait for a sync or a disk, and put their results into the completions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use crate::chat::{Chat, StartedTurn, TurnClient, TurnError, TurnOutcome, TurnStatus, WhenBusy};
use crate::history::History;
use crate::journal::AppendError;
use crate::logging;
use crate::thread;

use super::job_queue::JobQueue;
use super::replay;
use super::services::{Done, Missed, Recipient, SentMessage};

/// Turns taken from the queue at once.
const TURNS_AT_ONCE: usize = 256;

/// The thread that takes turns; ends when the queue is closed and empty.
pub(super) fn take_turns(turns: &JobQueue<(Recipient, SentMessage)>, chat: &Arc<Chat>, alive: Sender<()>) {
    let mut clearing = Vec::new();
    while let Some(batch) = turns.take(TURNS_AT_ONCE) {
        let (mut appended, mut others) = (Vec::new(), Vec::new());
        for (to, said) in batch {
            let entered = said.enter();
            let begun = guarded(|| Ok(chat.append(&said.turn()).transpose()?));
            let begun = begun.inspect_err(|why| chat.log_refused(&said.session, why));
            drop(entered);
            match begun {
                Ok(Some(one)) => appended.push((to, said, one)),
                Ok(None) => others.push((to, said)),
                Err(no_turn) => to.put(Done::SentMessage(Err(no_turn))),
            }
        }
        // The first waits for the sync, the others find it done.
        for (to, said, one) in appended {
            let _entered = said.enter();
            let outcome = guarded(|| Ok(chat.finish(&said.session, one)?));
            to.put(Done::SentMessage(outcome.inspect_err(|why| chat.log_refused(&said.session, why))));
        }
        for (to, said) in others {
            match begin(chat, &said, WhenBusy::Refuse) {
                Err(TurnError::Busy) if said.say.is_clear() => clear_in_line(to, said, chat, &mut clearing),
                outcome => to.put(Done::SentMessage(outcome)),
            }
        }
    }
    // The turns have ended before this, so none waits in a queue any more.
    for thread in clearing {
        let _ = thread.join();
    }
    drop(alive);
}

/// Waits in the session's turn queue with a new context, on a thread of its own: it has stopped an answer and must not
/// be refused for that. [`Chat`] limits how many wait; beyond, the client gets an error.
fn clear_in_line(to: Recipient, said: SentMessage, chat: &Arc<Chat>, clearing: &mut Vec<JoinHandle<()>>) {
    clearing.retain(|thread| !thread.is_finished());
    let (to, chat) = (Arc::new(to), chat.clone());
    let recipient = to.clone();
    let wait = move || recipient.put(Done::SentMessage(begin(&chat, &said, WhenBusy::Queue)));
    match thread::spawn("ws-clear", wait) {
        Ok(thread) => clearing.push(thread),
        Err(fault) => {
            log::error!("cannot start a thread for a /clear that waits: {fault}");
            to.put(Done::SentMessage(Err(TurnError::Crowded)));
        }
    }
}

/// Begins a turn and returns its outcome so far. The rest of a running turn arrives as events.
fn begin(chat: &Chat, said: &SentMessage, when_busy: WhenBusy) -> Result<TurnOutcome, TurnError> {
    let _entered = said.enter();
    let client = TurnClient { on_disconnect: said.on_disconnect, ..TurnClient::unseen(when_busy) };
    // The client follows its turn as a subscriber of the session.
    Ok(match guarded(|| chat.begin(&said.turn(), &client))? {
        StartedTurn::Done(outcome) => outcome,
        StartedTurn::Follow(follow) => TurnOutcome {
            user: follow.running().user(),
            reply: None,
            text: None,
            status: TurnStatus::Recorded,
            duplicate: follow.is_duplicate(),
        },
    })
}

/// Turns a panic into this subscriber's error.
fn guarded<T>(call: impl FnOnce() -> Result<T, TurnError>) -> Result<T, TurnError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(AppendError::Unavailable(format!("a fault in the server; {}", logging::in_the_log())).into())
    })
}

/// The thread that reads pages.
pub(super) fn read_pages(pages: &JobQueue<(Recipient, Missed)>, history: &History, _alive: &Sender<()>) {
    while let Some(batch) = pages.take(1) {
        for (to, Missed { session, after, is_new, presence, request }) in batch {
            // Skips clients that have gone meanwhile, as in a storm of reconnects.
            if presence.strong_count() == 0 {
                continue;
            }
            let _entered = logging::enter(Some(request));
            logging::about_session(session.as_str());
            let read = || match is_new {
                true => replay::first(history, &session, after),
                false => replay::next(history, &session, after),
            };
            let page = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
                let gap = format!("a fault in the server; {}", logging::in_the_log());
                replay::ReplayPage { gap: Some(gap.into()), ..replay::ReplayPage::default() }
            });
            to.put(Done::Page(page));
        }
    }
}
