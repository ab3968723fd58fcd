//! How turns end: whole, failed, late, stopped, too long, in a panic, erased, and with the server.

use super::*;
use crate::logging;

#[test]
fn an_answer_is_recorded_after_its_question_with_its_metadata() {
    let world = World::new();
    let outcome = world.say("say a b");
    assert_eq!(
        (outcome.status, outcome.text.as_deref(), outcome.duplicate),
        (TurnStatus::Completed, Some("a b"), false)
    );
    let messages = world.messages("s");
    assert_eq!(messages.iter().map(|m| m.role()).collect::<Vec<_>>(), ["user", "assistant"]);
    assert_eq!((messages[0].id(), Some(messages[1].id())), (outcome.user, outcome.reply));
    let expected = json!({"model": "scripted", "transport": "rest", "status": "completed"});
    assert_eq!(world.last_metadata("s"), expected, "a responder does not say how its turn ended");
    let stats = world.chat.stats();
    assert_eq!((stats.completed, stats.running, stats.waiting), (1, 0, 0));
}

#[test]
fn a_failure_becomes_the_reply_and_what_was_said_before_is_kept_with_it() {
    let world = World::new();
    let outcome = world.say("fail");
    assert_eq!((outcome.status, outcome.text.as_deref()), (TurnStatus::Error, Some("it did not work")));
    assert_eq!(world.told("s")[1], ("assistant".into(), "it did not work".into()));
    assert_eq!(world.last_metadata("s"), json!({"partial": "half", "transport": "rest", "status": "error"}));
    assert_eq!(world.chat.stats().errors, 1);
}

#[test]
fn a_panic_is_a_failure_and_the_next_turn_is_answered_on_the_same_thread() {
    let world = World::sized(Sizes { max_concurrent: 1, ..Sizes::default() });
    let entered = logging::enter(Some("r-1.7".into()));
    let outcome = world.say("panic");
    drop(entered);
    // The thread that answers has worked under the id that the reply names.
    let named = outcome.text.unwrap();
    assert!(outcome.status == TurnStatus::Error && named.ends_with("the details under request r-1.7"), "{named}");
    assert_eq!(world.last_metadata("s")["partial"], "half");
    let stats = world.chat.stats();
    assert_eq!((stats.panics, stats.errors), (1, 1));
    assert_eq!(world.say("say on").text.as_deref(), Some("on"));
}

#[test]
fn a_turn_past_its_time_is_an_error() {
    let world = World::sized(Sizes { timeout: Duration::from_secs(2), ..Sizes::default() });
    let outcome = world.say("hang");
    assert_eq!((outcome.status, outcome.text.unwrap().contains("in time")), (TurnStatus::Error, true));
    assert_eq!(world.last_metadata("s")["partial"], "so far");
}

#[test]
fn a_turn_that_is_stopped_while_it_begins_ends_and_the_next_one_does_not() {
    let world = World::new();
    let (said, until) = (turn("s", "hang"), Instant::now() + WAIT_TIMEOUT);
    let begin = || {
        let client = TurnClient::unseen(WhenBusy::Queue);
        match world.chat.queues.enter(&said.session, Holder::Beginning(None), &client, until).unwrap() {
            Entered::TurnPermit(place) => place,
            Entered::Same(_) => panic!("there is no other"),
        }
    };
    let place = begin();
    assert!(world.chat.stop(&said.session) && !world.chat.stop(&said.session), "once");
    drop(place);
    assert!(!world.chat.stop(&said.session), "it never ran");
    let place = begin();
    assert!(world.chat.stop(&said.session));
    let StartedTurn::Follow(follow) =
        world.chat.begin_at(place, &said.as_turn(), None, (None, OnDisconnect::Finish)).unwrap()
    else {
        panic!("it takes its time")
    };
    assert_eq!(ended(&follow).status, TurnStatus::Cancelled);
    assert_eq!(world.say("say on").text.as_deref(), Some("on"));
}

#[test]
fn a_stopped_turn_keeps_what_was_said() {
    let world = World::new();
    let follow = world.begin("s", "hang");
    assert_eq!(follow.running().wait_for_text(0, Instant::now() + WAIT_TIMEOUT), TurnProgress::Text("so far".into()));
    // The stop and the pieces are told by different threads.
    wait_until("the piece is told", || world.diary.lines().len() == 2);
    assert!(world.chat.stop(&turn("s", "").session));
    let outcome = ended(&follow);
    assert_eq!((outcome.status, outcome.text.as_deref()), (TurnStatus::Cancelled, Some("so far")));
    assert_eq!(world.told("s")[1], ("assistant".into(), "so far".into()));
    assert_eq!(world.last_metadata("s"), json!({"transport": "rest", "status": "cancelled", "cancelled_by": "client"}));
    assert!(!world.chat.stop(&turn("s", "").session) && !follow.running().stop(), "it is over");
    let told = ["s started", "s 0 \"so far\"", "s stopping", "s cancelled kept \"so far\""];
    assert_eq!(world.diary.lines(), told);
}

#[test]
fn a_reply_beyond_the_bound_ends_as_an_error_and_its_beginning_is_kept() {
    let world = World::new();
    let outcome = world.say("flood");
    assert_eq!(outcome.status, TurnStatus::Error);
    let metadata = world.last_metadata("s");
    let partial = metadata["partial"].as_str().unwrap();
    let in_line = serde_json::to_string(partial).unwrap().len() - 2;
    assert!((REPLY_BYTES_MAX - 6..=REPLY_BYTES_MAX).contains(&in_line), "{in_line}");
    assert!("\u{1}é".repeat(partial.len()).starts_with(partial));
}

#[test]
fn an_erased_session_s_turn_ends_and_leaves_nothing() {
    let world = World::new();
    let follow = world.begin("s", "hang");
    world.chat.erase(&turn("s", "").session).unwrap();
    let outcome = ended(&follow);
    assert_eq!((outcome.status, outcome.reply), (TurnStatus::Cancelled, None));
    wait_until("the turn is over", || world.chat.current(&turn("s", "").session).is_none());
    assert_eq!(world.told("s"), []);
    assert_eq!(world.say("say new life").text.as_deref(), Some("new life"));
    assert_eq!(world.asked.lock().unwrap().last().unwrap(), &["say new life"]);
}

#[test]
fn a_key_of_an_erased_message_is_new_even_while_its_old_turn_ends() {
    let world = World::new();
    let erased = world.begin_keyed("s", "deaf", Some("k"));
    wait_until("the responder is asked", || erased.running().text() == "one");
    world.chat.erase(&turn("s", "").session).unwrap();
    let (chat, said) = (world.chat.clone(), TurnResult { key: Some("k"), ..turn("s", "deaf") });
    let new = std::thread::spawn(move || chat.say(&said.as_turn()));
    wait_until("it waits", || world.chat.queues.waiting(&turn("s", "").session) == 1);
    world.open_gate();
    world.open_gate();
    assert_eq!(ended(&erased).reply, None);
    let new = new.join().unwrap().unwrap();
    assert_eq!((new.status, new.duplicate), (TurnStatus::Completed, false));
    assert_eq!(world.told("s").len(), 2);
}

#[test]
fn an_erasure_amid_a_turn_leaves_the_whole_turn_or_no_reply() {
    let world = World::new();
    for round in 0..60 {
        let session = format!("r{round}");
        let name = turn(&session, "").session;
        let (chat, said) = (world.chat.clone(), turn(&session, "say it"));
        let sayer = std::thread::spawn(move || chat.say(&said.as_turn()));
        // The stop comes anywhere between before the message is recorded and after its reply is.
        for _ in 0..round * 40 {
            std::thread::yield_now();
        }
        world.chat.erase(&name).unwrap();
        sayer.join().unwrap().unwrap();
        let roles: Vec<String> = world.told(&session).into_iter().map(|(role, _)| role).collect();
        assert!(roles.is_empty() || roles == ["user", "assistant"], "round {round}: {roles:?}");
    }
}

#[test]
fn a_close_stops_what_is_answered_and_refuses_what_comes() {
    let world = World::new();
    let follow = world.begin("s", "hang");
    let (chat, queued) = (world.chat.clone(), turn("s", "say later"));
    let queued = std::thread::spawn(move || chat.say(&queued.as_turn()));
    wait_until("it queues", || world.chat.stats().waiting == 2);
    let soon = Instant::now() + Duration::from_millis(50);
    assert!(world.chat.close(soon, soon + WAIT_TIMEOUT));
    assert!(Instant::now() >= soon, "it was given its time");
    assert_eq!(queued.join().unwrap(), Err(TurnError::Stopping));
    assert_eq!(ended(&follow).status, TurnStatus::Cancelled);
    assert_eq!((world.told("s").len(), &world.last_metadata("s")["cancelled_by"]), (2, &json!("shutdown")));
    assert!(matches!(world.try_begin("s", "say x"), Err(TurnError::Stopping)));
}
