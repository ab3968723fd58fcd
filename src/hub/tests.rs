//! Listeners, with records made by hand.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::journal::Links;
use crate::message::{self, Clock, IdGenerator, Metadata};

fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

fn message(ids: &mut IdGenerator, name: &str, text: &str) -> Record {
    let session = session(name);
    let metadata = Metadata::default();
    let draft = message::Draft { session: &session, role: "user", text, metadata, vector_ids: &[] };
    let sealed = Arc::new(draft.prepare().seal(ids.next_id()));
    Record { sequence: 1, entry: Entry::Message(sealed, Links::default()), origin: None, request: None }
}

fn ids() -> IdGenerator {
    IdGenerator::new(Clock::fixed(Arc::new(AtomicU64::new(1_790_000_000_000_000))), None)
}

fn texts(mail: &Mail) -> Vec<String> {
    let told = |event: &SessionEvent| match event {
        SessionEvent::Recorded(record) => {
            record.entry.message().map_or_else(|| "erased".to_owned(), |message| message.text())
        }
        SessionEvent::Imported(_) => "imported".to_owned(),
        SessionEvent::Live(live) => format!("{:?}", live.what),
    };
    mail.events.iter().map(told).collect()
}

#[test]
fn a_listener_hears_of_its_sessions_once_and_in_order() {
    let (hub, woken) = (Arc::new(Hub::default()), Arc::new(AtomicUsize::new(0)));
    let count = woken.clone();
    let listener = hub.listener(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let mut ids = ids();
    hub.publish(&[message(&mut ids, "a", "too early")]);
    listener.subscribe(&session("a"));
    listener.subscribe(&session("a"));
    hub.publish(&[message(&mut ids, "a", "1"), message(&mut ids, "b", "not ours"), message(&mut ids, "a", "2")]);
    hub.tell(TurnEvent { session: session("a"), user: ids.next_id(), what: TurnEventKind::Started });
    hub.tell(TurnEvent { session: session("b"), user: ids.next_id(), what: TurnEventKind::Started });
    let erasure = Entry::Erasure { id: ids.next_id(), session: session("a") };
    hub.publish(&[Record { sequence: 9, entry: erasure, origin: None, request: None }]);
    assert_eq!(woken.load(Ordering::SeqCst), 3, "once for each publication");
    assert!(listener.has_mail());
    assert_eq!(texts(&listener.take()), ["1", "2", "Started", "erased"]);
    assert!(!listener.has_mail());
    listener.unsubscribe(&session("a"));
    hub.publish(&[message(&mut ids, "a", "too late")]);
    assert!(!listener.has_mail());
    assert_eq!(hub.subscriptions.load(Ordering::SeqCst), 0);
}

#[test]
fn a_full_mailbox_says_which_sessions_lost_something_and_keeps_order() {
    let hub = Arc::new(Hub::default());
    let listener = hub.listener(Box::new(|| ()));
    for name in ["full", "other"] {
        listener.subscribe(&session(name));
    }
    let mut ids = ids();
    let long = "x".repeat(MAILBOX_BYTES_MAX / 4);
    for _ in 0..4 {
        hub.publish(&[message(&mut ids, "full", &long)]);
    }
    hub.publish(&[message(&mut ids, "full", "small, behind what was lost")]);
    hub.publish(&[message(&mut ids, "other", "small")]);
    let erasure = ids.next_id();
    hub.publish(&[Record {
        sequence: 9,
        entry: Entry::Erasure { id: erasure, session: session("full") },
        origin: None,
        request: None,
    }]);
    let mail = listener.take();
    assert_eq!(mail.events.len(), 4);
    assert_eq!(mail.events.last().unwrap().session(), Some(&session("other")));
    assert_eq!(mail.lost, HashMap::from([(session("full"), Some(erasure))]));
    hub.publish(&[message(&mut ids, "full", "again")]);
    assert_eq!(texts(&listener.take()), ["again"]);
}

#[test]
fn a_listener_that_is_gone_leaves_nothing_behind() {
    let hub = Arc::new(Hub::default());
    let listeners = [hub.listener(Box::new(|| ())), hub.listener(Box::new(|| ()))];
    for listener in &listeners {
        listener.subscribe(&session("a"));
        listener.subscribe(&session("b"));
    }
    let [one, two] = listeners;
    drop(one);
    hub.publish(&[message(&mut ids(), "a", "heard")]);
    assert_eq!(two.take().events.len(), 1);
    drop(two);
    assert!(hub.sessions().is_empty());
    assert_eq!(hub.subscriptions.load(Ordering::SeqCst), 0);
}
