//! Slow turns, and what clients send in the middle of them: stops, new contexts, erasures.

use super::*;

fn slow() -> (World, Sender<&'static str>) {
    let (send, pieces) = bounded(16);
    (World::new(Box::new(Slow(pieces))), send)
}

#[test]
fn a_turn_is_told_as_it_goes_and_a_late_joiner_gets_the_text_so_far() {
    let (mut world, pieces) = slow();
    let (one, other) = (world.open("s", None), world.open("s", None));
    assert_eq!(kinds(&world.next(one, 2)), ["system", "idle"]);
    assert_eq!(kinds(&world.next(other, 2)), ["system", "idle"]);
    world.send(one, &json!({"message": "why", "client_id": "c"}));
    pieces.send("because ").unwrap();
    assert_eq!(kinds(&world.next(one, 3)), ["ack", "processing", "+because "]);
    assert_eq!(kinds(&world.next(other, 3)), ["message", "processing", "+because "]);
    world.send(other, &json!({"message": "me too", "client_id": "d"}));
    let busy = world.next(other, 1);
    assert_eq!((kinds(&busy), &busy[0]["client_id"]), (vec!["busy".to_owned()], &json!("d")));
    let late = world.open("s", None);
    assert_eq!(kinds(&world.next(late, 3)), ["system", "processing", "+because "]);
    pieces.send("of that").unwrap();
    for socket in [one, other, late] {
        assert_eq!(kinds(&world.next(socket, 1)), ["+of that"]);
    }
    pieces.send("").unwrap();
    for socket in [one, other, late] {
        let end = world.next(socket, 2);
        assert_eq!(kinds(&end), ["=because of that completed", "idle"]);
        assert_eq!(end[0]["reply_to"], end[1]["reply_to"]);
    }
    assert_eq!(world.all_ids("s").len(), 2, "what found it busy is not recorded");
}

#[test]
fn a_stop_takes_effect_within_100_ms_and_what_was_said_is_kept() {
    let (mut world, pieces) = slow();
    let (one, other) = (world.open("s", None), world.open("s", None));
    for socket in [one, other] {
        assert_eq!(kinds(&world.next(socket, 2)), ["system", "idle"]);
    }
    // The fastest of some runs, as other tests may use the processors and the disk.
    let (mut fastest, most, until) = (Duration::MAX, Duration::from_millis(100), Instant::now() + 2 * WAIT_TIMEOUT);
    while fastest >= most && Instant::now() < until {
        world.send(one, &json!({"message": "why"}));
        pieces.send("because").unwrap();
        assert_eq!(kinds(&world.next(one, 3)), ["ack", "processing", "+because"]);
        world.next(other, 3);
        let began = Instant::now();
        // Any client of the session may stop the answer.
        world.send(other, &json!({"command": "stop"}));
        for socket in [one, other] {
            assert_eq!(kinds(&world.next(socket, 4)), ["cancelling", "=because cancelled", "cancelled", "idle"]);
        }
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest < most, "{fastest:?}");
    world.send(one, &json!({"command": "stop"}));
    assert_eq!(kinds(&world.next(one, 1)), ["idle"]);
}

#[test]
fn a_new_context_in_the_middle_of_a_turn_stops_it_and_begins_behind_it() {
    let (mut world, pieces) = slow();
    let one = world.open("s", None);
    world.send(one, &json!({"message": "why"}));
    pieces.send("because").unwrap();
    assert_eq!(kinds(&world.next(one, 5)), ["system", "idle", "ack", "processing", "+because"]);
    world.send(one, &json!({"message": "/clear", "client_id": "c"}));
    let events = world.next(one, 6);
    assert_eq!(kinds(&events), ["cancelling", "=because cancelled", "cancelled", "idle", "ack", "clear"]);
    assert_eq!((&events[4]["client_id"], &events[4]["id"]), (&json!("c"), &events[5]["id"]));
}

#[test]
fn a_new_context_waits_behind_the_turns_in_line_and_is_not_lost() {
    let (mut world, pieces) = slow();
    let one = world.open("s", None);
    world.send(one, &json!({"message": "why"}));
    pieces.send("because").unwrap();
    assert_eq!(kinds(&world.next(one, 5)), ["system", "idle", "ack", "processing", "+because"]);
    let chat = world.chat.clone();
    let queued = std::thread::spawn(move || {
        let turn = Turn {
            session: &session_of("s"),
            text: "next",
            metadata: None,
            transport: Transport::Tcp,
            key: None,
            origin: None,
            rewind_to: None,
        };
        chat.say(&turn).unwrap()
    });
    // The first is followed over REST, so the second waits in the queue.
    world.until_chat("it stands in line", |chat| chat.waiting_in_line(&session_of("s")) == 1);
    world.send(one, &json!({"command": "clear", "client_id": "c"}));
    world.until_chat("the next is answered", |chat| {
        chat.current(&session_of("s")).is_some_and(|running| !running.is_stopping())
    });
    pieces.send("so").unwrap();
    pieces.send("").unwrap();
    assert_eq!(queued.join().unwrap().text.as_deref(), Some("so"));
    world.until("the context begins", |clients| kinds(&clients.0[&one].events).contains(&"clear".to_owned()));
    let all = kinds(&std::mem::take(&mut world.clients.0.get_mut(&one).unwrap().events));
    assert!(all.ends_with(&["ack".to_owned(), "clear".to_owned()]), "{all:?}");
    assert!(!all.contains(&"busy".to_owned()) && all.contains(&"=so completed".to_owned()), "{all:?}");
}

#[test]
fn a_new_context_that_finds_the_session_taken_stands_in_its_line() {
    let (mut world, pieces) = slow();
    let one = world.open("s", None);
    world.send(one, &json!({"message": "why"}));
    world.next(one, 4);
    // As if another turn began right after the stopped one ended.
    let say = Say { text: "/clear".into(), client_id: None, key: None, metadata: None, rewind_to: None };
    let recipient = Recipient { completions: Completions::new(Arc::new(TestWaker::default())), socket: SocketId(0) };
    let said =
        SentMessage { session: session_of("s"), say, origin: Origin(1), on_disconnect: None, request: "r".into() };
    world.service.turns.leave((recipient, said));
    world.until_chat("it stands in line", |chat| chat.stats().waiting == 1);
    pieces.send("").unwrap();
    assert_eq!(kinds(&world.next(one, 3)), ["= completed", "idle", "clear"]);
}

#[test]
fn a_new_context_asked_for_amid_a_replay_waits_for_the_answers_end() {
    let (pieces, given) = bounded(16);
    let mut world = World::new(Box::new(Stubborn(given)));
    let (session, text) = (session_of("s"), "x".repeat(500));
    let old = NewMessage { session: &session, role: "tool", text: &text, metadata: None, vector_ids: &[], key: None };
    world.chat.record(&[old; 30], Transport::Tcp).unwrap();
    let first = world.all_ids("s")[0];
    let one = world.open("s", None);
    world.send(one, &json!({"message": "why"}));
    world.next(one, 4);
    let late = world.open("s", Some(first));
    world.clients.0.get_mut(&late).unwrap().is_slow = true;
    world.until("it is given some", |clients| kinds(&clients.0[&late].events).contains(&"message".to_owned()));
    world.send(late, &json!({"command": "clear"}));
    assert_eq!(kinds(&world.next(one, 1)), ["cancelling"]);
    world.clients.0.get_mut(&late).unwrap().is_slow = false;
    world.until("it is live", |clients| kinds(&clients.0[&late].events).contains(&"cancelling".to_owned()));
    pieces.send("").unwrap();
    world.until("the context begins", |clients| kinds(&clients.0[&late].events).contains(&"clear".to_owned()));
    let all = kinds(&world.close(late).events);
    assert!(all.ends_with(&["idle".to_owned(), "ack".to_owned(), "clear".to_owned()]), "{all:?}");
}

#[test]
fn a_new_context_asked_for_before_the_welcome_amid_a_turn_is_not_lost() {
    let (mut world, pieces) = slow();
    let one = world.open("s", None);
    world.send(one, &json!({"message": "why"}));
    pieces.send("because").unwrap();
    let begun = world.next(one, 5);
    let user: Id = begun[2]["id"].as_str().unwrap().parse().unwrap();
    for after in [None, Some(user)] {
        let late = world.open("s", after);
        world.send(late, &json!({"command": "clear", "client_id": "c"}));
        world.until("the context begins", |clients| kinds(&clients.0[&late].events).contains(&"clear".to_owned()));
        let events = world.close(late).events;
        assert!(!kinds(&events).contains(&"busy".to_owned()), "{events:?}");
        world.send(one, &json!({"message": "why"}));
        world.until_chat("it is answered again", |chat| chat.current(&session_of("s")).is_some());
    }
    drop(pieces);
}

#[test]
fn a_stop_right_behind_a_message_stops_the_answer_to_it() {
    let (mut world, pieces) = slow();
    let one = world.open("s", None);
    // The first time before the welcome and the status are sent, the second time after them.
    for first in [2, 0] {
        world.send(one, &json!({"message": "why", "client_id": "c"}));
        world.send(one, &json!({"command": "stop"}));
        let events = world.next(one, first + 6);
        assert_eq!(kinds(&events[first..]), ["ack", "processing", "cancelling", "= cancelled", "cancelled", "idle"]);
    }
    drop(pieces);
}

#[test]
fn nothing_is_said_before_the_welcome_and_what_came_before_it_is_bounded() {
    let mut world = World::new(Box::new(Echo));
    let one = world.open("s", None);
    for event in [json!({"command": "ping"}), json!({}), json!({"command": "help"}), json!({"command": "stop"})] {
        world.send(one, &event);
    }
    assert!(world.clients.0[&one].events.is_empty());
    let events = world.next(one, 6);
    assert_eq!(kinds(&events), ["system", "idle", "heartbeat", "error", "system", "idle"]);
    let other = world.open("s", None);
    for _ in 0..64 {
        world.send(other, &json!({"command": "ping"}));
    }
    assert_eq!(world.clients.0[&other].closed, None);
    world.send(other, &json!({"command": "ping"}));
    assert_eq!(world.close(other).closed, Some(1013));
}

#[test]
fn an_erasure_in_the_middle_of_a_turn_ends_it() {
    let (mut world, pieces) = slow();
    let one = world.open("s", None);
    world.send(one, &json!({"message": "why"}));
    pieces.send("because").unwrap();
    assert_eq!(kinds(&world.next(one, 5)), ["system", "idle", "ack", "processing", "+because"]);
    world.chat.erase(&session_of("s")).unwrap();
    let events = world.next(one, 2);
    // The id of an erasure is no message's, and no client may resume from it.
    assert!(events.iter().all(|event| event.get("id").is_none()), "{events:?}");
    let mut last = kinds(&events);
    last.sort();
    assert_eq!(last, ["erased", "idle"]);
    world.send(one, &json!({"message": "a new life"}));
    assert_eq!(kinds(&world.next(one, 2)), ["ack", "processing"]);
    drop(pieces);
    assert_eq!(kinds(&world.next(one, 2)), ["= completed", "idle"]);
}

/// Is asked nothing before the sender is gone; then it echoes at once.
struct Gated(Receiver<()>);

impl Responder for Gated {
    fn at_once(&self, text: &str) -> Option<String> {
        assert!(self.0.recv_timeout(WAIT_TIMEOUT).is_err_and(|e| e == RecvTimeoutError::Disconnected));
        Some(text.to_owned())
    }

    fn answer(&self, _: &Question, _: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        unreachable!("it answers at once")
    }
}

#[test]
fn others_are_heard_while_ones_own_is_under_way_and_its_event_is_its_ack() {
    let (gate, gated) = bounded(1);
    let mut world = World::new(Box::new(Gated(gated)));
    let one = world.open("s", None);
    world.next(one, 2);
    world.send(one, &json!({"message": "mine", "client_id": "c"}));
    let session = session_of("s");
    for _ in 0..3 {
        let theirs =
            NewMessage { session: &session, role: "tool", text: "theirs", metadata: None, vector_ids: &[], key: None };
        world.chat.record(&[theirs], Transport::Tcp).unwrap();
        assert_eq!(world.next(one, 1)[0]["text"], "theirs", "nothing is held back");
    }
    drop(gate);
    let events = world.next(one, 2);
    assert_eq!(kinds(&events), ["ack", "=mine completed"]);
    assert_eq!((&events[0]["client_id"], &events[0]["duplicate"]), (&json!("c"), &json!(false)));
    assert_eq!(events[0]["id"], world.all_ids("s")[3].to_string());
}

#[test]
fn a_socket_of_another_thread_that_has_the_same_number_is_somebody_else() {
    let mut world = World::new(Box::new(Echo));
    let one = world.open("s", None);
    world.next(one, 2);
    let (mut other, mut clients) = (world.service.handler(Arc::new(TestWaker::default())), Clients::default());
    clients.0.insert(one, StreamClient::default());
    other.opened(
        one,
        Joining {
            session: session_of("s"),
            after: None,
            caller: Principal::without_token(Access::Admin),
            on_disconnect: None,
            request: "r".into(),
        },
        &mut clients,
    );
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let has = |other: &mut Box<dyn SocketHandler>, clients: &mut Clients, count: usize| {
        while clients.0[&one].events.len() < count {
            assert!(Instant::now() < deadline, "{:?}", clients.0[&one].events);
            other.woken(clients);
            std::thread::yield_now();
        }
    };
    has(&mut other, &mut clients, 2);
    world.send(one, &json!({"message": "mine", "client_id": "1"}));
    world.next(one, 2);
    // The other thread has not yet handled the event when its own client sends.
    other.received(one, Payload::Text, br#"{"message": "theirs", "client_id": "2"}"#.to_vec(), &mut clients);
    has(&mut other, &mut clients, 6);
    let events = &clients.0[&one].events[2..];
    assert_eq!(told(events), world.all_ids("s"));
    assert_eq!((&events[0]["type"], &events[0]["text"]), (&json!("message"), &json!("mine")));
    assert_eq!((&events[2]["type"], &events[2]["client_id"]), (&json!("ack"), &json!("2")));
}

#[test]
fn ones_own_message_lost_by_a_full_mailbox_is_acknowledged_in_place() {
    let mut world = World::new(Box::new(Echo));
    let one = world.open("s", None);
    world.next(one, 2);
    let (session, text) = (session_of("s"), "x".repeat(2000));
    let theirs =
        NewMessage { session: &session, role: "tool", text: &text, metadata: None, vector_ids: &[], key: None };
    // More than a mailbox holds, then the client's own message, then others again.
    world.chat.record(&[theirs; 20], Transport::Tcp).unwrap();
    world.send(one, &json!({"message": "mine", "client_id": "c"}));
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while world.all_ids("s").len() < 22 {
        assert!(Instant::now() < deadline, "it is not recorded");
        std::thread::yield_now();
    }
    world.chat.record(&[theirs; 3], Transport::Tcp).unwrap();
    let events = world.next(one, 25);
    assert_eq!(told(&events), world.all_ids("s"));
    let ack = &events[20];
    assert_eq!((&ack["type"], &ack["client_id"], &ack["duplicate"]), (&json!("ack"), &json!("c"), &json!(false)));
    assert!(events.iter().filter(|event| event["replayed"] == true).count() > 4, "some were lost");
    world.send(one, &json!({"message": "more"}));
    assert_eq!(kinds(&world.next(one, 2)), ["ack", "=more completed"]);
}

#[test]
fn whoever_has_the_ack_may_go_on_before_the_outcome_is_there() {
    let mut world = World::new(Box::new(Echo));
    let one = world.open("s", None);
    world.next(one, 2);
    for n in 0..50 {
        world.send(one, &json!({"message": format!("{n}")}));
        world.until("the ack", |clients| kinds(&clients.0[&one].events).contains(&"ack".to_owned()));
        world.send(one, &json!({"message": format!("{n}, and more")}));
        let events = world.next(one, 4);
        let reply = |text: String| format!("={text} completed");
        assert_eq!(kinds(&events), ["ack".into(), reply(n.to_string()), "ack".into(), reply(format!("{n}, and more"))]);
    }
}
