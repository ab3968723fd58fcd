//! Clients that go away: what their turns do, who gives way to whom, and what is left of them.

use std::cell::Cell;

use super::*;

fn stopping() -> World {
    World::sized(Sizes { on_disconnect: OnDisconnect::Stop, ..Sizes::default() })
}

/// Who wanted the last turn of a session to stop.
fn cancelled_by(world: &World, session: &str) -> Value {
    world.last_metadata(session)["cancelled_by"].clone()
}

#[test]
fn a_turn_goes_on_without_its_clients() {
    let world = World::new();
    drop(world.begin("a", "gate"));
    let running = world.chat.current(&turn("a", "").session).unwrap();
    assert!(!running.is_stopping());
    world.open_gate();
    wait_until("the reply is recorded", || world.told("a").len() == 2);
    assert_eq!(world.last_metadata("a")["status"], "completed");
}

#[test]
fn where_it_is_to_stop_the_last_follower_that_leaves_stops_it_and_no_other() {
    let world = stopping();
    let first = world.begin_keyed("a", "gate", Some("k"));
    let second = world.begin_keyed("a", "gate", Some("k"));
    assert!(!first.is_duplicate() && second.is_duplicate());
    drop(first);
    assert!(!second.running().is_stopping());
    drop(second);
    wait_until("the reply is recorded", || world.told("a").len() == 2);
    assert_eq!(cancelled_by(&world, "a"), "disconnect");
}

#[test]
fn a_listener_of_the_session_follows_its_turn_too() {
    let world = stopping();
    let listener = world.chat.hub.listener(Box::new(|| ()));
    let session = turn("a", "").session;
    listener.subscribe(&session);
    drop(world.begin("a", "hang"));
    let running = world.chat.current(&session).unwrap();
    assert!(!running.is_stopping() && running.abandoned_since().is_none());
    listener.unsubscribe(&session);
    world.chat.unfollowed(&session);
    wait_until("the reply is recorded", || world.told("a").len() == 2);
    assert_eq!(cancelled_by(&world, "a"), "disconnect");
}

#[test]
fn a_request_says_itself_what_becomes_of_its_turn() {
    for (world, own) in [(World::new(), OnDisconnect::Stop), (stopping(), OnDisconnect::Finish)] {
        let client = TurnClient { on_disconnect: Some(own), ..TurnClient::unseen(WhenBusy::Queue) };
        drop(world.chat.begin(&turn("a", "gate").as_turn(), &client).unwrap());
        if own == OnDisconnect::Finish {
            world.open_gate();
        }
        wait_until("the reply is recorded", || world.told("a").len() == 2);
        let status = if own == OnDisconnect::Finish { "completed" } else { "cancelled" };
        assert_eq!(world.last_metadata("a")["status"], status);
    }
}

#[test]
fn the_longest_abandoned_turn_gives_way_and_followed_ones_do_not() {
    let world = World::sized(Sizes { max_concurrent: 3, ..Sizes::default() });
    let followed = world.begin("a", "hang");
    let (later, first) = (world.begin("b", "hang"), world.begin("c", "hang"));
    let ended = [later.running().clone(), first.running().clone()];
    wait_until("all have begun", || ended.iter().chain([followed.running()]).all(|running| running.text() == "so far"));
    drop(first);
    drop(later);
    let began = Instant::now();
    let new = world.begin("d", "say new");
    assert_eq!((super::ended(&new).text.as_deref(), new.running().is_stopping()), (Some("new"), false));
    wait_until("the first reply is recorded", || world.told("c").len() == 2);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!((world.told("c")[1].1.as_str(), cancelled_by(&world, "c")), ("so far", json!("capacity")));
    assert!(!followed.running().is_stopping() && !ended[0].is_stopping());
    // The new one has freed its slot, so the next needs no other's.
    assert_eq!(world.chat.say(&turn("d", "say on").as_turn()).unwrap().text.as_deref(), Some("on"));
    assert!(!ended[0].is_stopping());
    drop(world.begin("e", "hang"));
    assert_eq!(world.chat.say(&turn("d", "say on").as_turn()).unwrap().text.as_deref(), Some("on"));
    wait_until("the second reply is recorded", || world.told("b").len() == 2);
    assert!(!followed.running().is_stopping());
}

#[test]
fn a_responder_that_does_not_heed_its_stop_keeps_no_new_turn_waiting() {
    let world = World::sized(Sizes { max_concurrent: 1, ..Sizes::default() });
    drop(world.begin("a", "deaf"));
    wait_until("it has begun", || world.chat.current(&turn("a", "").session).unwrap().text() == "one");
    assert_eq!(world.chat.say(&turn("b", "say new").as_turn()).unwrap().text.as_deref(), Some("new"));
    assert_eq!(world.told("a").len(), 1, "the deaf one is still there");
    // There are no more threads than twice the slots.
    drop(world.begin("b", "deaf"));
    assert!(matches!(world.try_begin("c", "say x"), Err(TurnError::AtCap)));
    assert!(world.told("c").is_empty());
    world.open_gate();
    world.open_gate();
    wait_until("both replies are recorded", || world.told("a").len() == 2 && world.told("b").len() == 4);
    assert_eq!(world.last_metadata("b")["status"], "completed", "nothing was cancelled in vain");
    assert_eq!(world.chat.stats().running, 0);
}

#[test]
fn a_client_that_is_gone_while_its_turn_queues_leaves_no_record() {
    let world = World::new();
    let first = world.begin("a", "gate");
    let (is_gone, looked) = (Cell::new(false), Cell::new(0));
    let look = || {
        looked.set(looked.get() + 1);
        // It goes away only once it has waited.
        if looked.get() == 2 {
            is_gone.set(true);
        }
        is_gone.get()
    };
    let client = TurnClient { presence: Presence::seen_by(&look), ..TurnClient::unseen(WhenBusy::Queue) };
    let begun = world.chat.begin(&turn("a", "say late").as_turn(), &client);
    assert!(matches!(begun, Err(TurnError::Gone)));
    assert_eq!((world.told("a").len(), world.chat.queues.waiting(&turn("a", "").session)), (1, 0));
    assert_eq!(world.chat.stats().waiting, 1, "that of the first");
    world.open_gate();
    ended(&first);
    // One whose turn comes at once is served, though it may have closed its sending side.
    assert!(matches!(world.chat.begin(&turn("a", "say x").as_turn(), &client), Ok(StartedTurn::Follow(_))));
}

#[test]
fn one_that_waits_for_an_answer_is_let_go_when_its_client_is_gone() {
    let world = World::new();
    let follow = world.begin("a", "gate");
    assert!(follow.wait(Presence::seen_by(&|| true)).is_none());
    assert!(!follow.running().is_stopping());
    world.open_gate();
    assert_eq!(ended(&follow).status, TurnStatus::Completed);
}

#[test]
fn a_key_that_comes_again_after_its_client_left_has_all_of_the_text() {
    let world = World::new();
    drop(world.begin_keyed("a", "gate", Some("k")));
    let again = world.begin_keyed("a", "gate", Some("k"));
    let until = Instant::now() + WAIT_TIMEOUT;
    assert_eq!(again.running().wait_for_text(0, until), TurnProgress::Text("one".into()));
    assert!(again.running().abandoned_since().is_none(), "it is followed again");
    world.open_gate();
    assert_eq!(again.running().wait_for_text(3, until), TurnProgress::Text(" two".into()));
    assert!(again.is_duplicate() && ended(&again).status == TurnStatus::Completed);
    assert_eq!(world.told("a").len(), 2);
}
