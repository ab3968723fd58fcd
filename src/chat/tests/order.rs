//! The order of turns, keys while turns run, the context of a responder, and refusals.

use super::*;

fn texts(world: &World, session: &str) -> Vec<String> {
    world.told(session).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn turns_of_a_session_are_answered_in_order_and_sessions_side_by_side() {
    let world = World::new();
    let first = world.begin("s", "gate");
    let mut queued = Vec::new();
    for (n, text) in ["say 1", "/clear", "say 2"].into_iter().enumerate() {
        let (chat, said) = (world.chat.clone(), turn("s", text));
        queued.push(std::thread::spawn(move || chat.say(&said.as_turn())));
        wait_until("it stands in line", || world.chat.queues.waiting(&turn("s", "").session) == n + 1);
    }
    assert_eq!(world.chat.say(&turn("other", "say x").as_turn()).unwrap().text.as_deref(), Some("x"));
    world.open_gate();
    for thread in queued {
        thread.join().unwrap().unwrap();
    }
    assert_eq!(ended(&first).text.as_deref(), Some("one two"));
    assert_eq!(texts(&world, "s"), ["gate", "one two", "say 1", "1", CLEARED, "say 2", "2"]);
    assert_eq!(world.chat.stats().waiting, 1, "the first still has its follower's");
}

#[test]
fn a_turn_that_waits_too_long_for_those_before_it_is_not_begun() {
    let world = World::new();
    let first = world.begin("s", "hang");
    let late = world.chat.queues.enter(
        &turn("s", "").session,
        Holder::Beginning(None),
        &TurnClient::unseen(WhenBusy::Queue),
        Instant::now() + Duration::from_millis(20),
    );
    assert!(matches!(late, Err(TurnError::Late)));
    assert!(world.chat.stop(&turn("s", "").session));
    assert_eq!(ended(&first).status, TurnStatus::Cancelled);
    assert_eq!(world.chat.queues.waiting(&turn("s", "").session), 0);
}

#[test]
fn while_one_is_answered_who_does_not_queue_is_refused_and_unrecorded() {
    let world = World::new();
    let first = world.begin("s", "gate");
    for text in ["say x", "/clear"] {
        assert!(matches!(world.try_begin("s", text), Err(TurnError::Busy)), "{text}");
    }
    assert_eq!(texts(&world, "s"), ["gate"]);
    world.open_gate();
    ended(&first);
    // A client that has read the reply may send again at once.
    assert!(matches!(world.try_begin("s", "say x"), Ok(StartedTurn::Follow(_))));
}

#[test]
fn a_retry_that_does_not_queue_joins_waiting_ones_with_its_key() {
    let world = World::new();
    let key = Some(IdempotencyKey::new(&turn("s", "").session, "k", &[b"x"]));
    let session = turn("s", "").session;
    let until = Instant::now() + WAIT_TIMEOUT;
    let enter = |key| {
        let (queues, session) = (world.chat.queues.clone(), session.clone());
        std::thread::spawn(move || {
            queues.enter(&session, Holder::Beginning(key), &TurnClient::unseen(WhenBusy::Refuse), until).is_ok()
        })
    };
    let Ok(Entered::TurnPermit(place)) =
        world.chat.queues.enter(&session, Holder::Brief, &TurnClient::unseen(WhenBusy::Queue), until)
    else {
        panic!("it is free");
    };
    let first = enter(key);
    wait_until("it stands in line", || world.chat.queues.waiting(&session) == 1);
    let second = enter(key);
    wait_until("both stand in line", || world.chat.queues.waiting(&session) == 2);
    let other = Some(IdempotencyKey::new(&session, "other", &[b"x"]));
    assert!(!enter(other).join().unwrap(), "another message is not let behind them");
    drop(place);
    assert!(first.join().unwrap() && second.join().unwrap());
}

#[test]
fn a_turn_beyond_the_limits_is_refused_and_nothing_of_it_is_recorded() {
    let world = World::sized(Sizes { max_concurrent: 2, waiting_max: 3, ..Sizes::default() });
    let running = [world.begin("a", "gate"), world.begin("b", "gate")];
    assert!(matches!(world.try_begin("c", "say x"), Err(TurnError::AtCap)));
    let queued = {
        let (chat, said) = (world.chat.clone(), turn("a", "say y"));
        std::thread::spawn(move || chat.say(&said.as_turn()))
    };
    wait_until("it waits", || world.chat.stats().waiting == 3);
    assert_eq!(world.chat.say(&turn("c", "say x").as_turn()), Err(TurnError::Crowded));
    assert!(world.told("c").is_empty());
    // An earlier answer takes no slot, and a message without an answer takes nothing at all.
    world.open_gate();
    world.open_gate();
    for follow in running {
        assert_eq!(ended(&follow).status, TurnStatus::Completed);
    }
    assert_eq!(queued.join().unwrap().unwrap().text.as_deref(), Some("y"));
    assert_eq!(world.chat.stats().waiting, 0);
}

#[test]
fn a_place_is_free_for_whoever_has_read_the_answer() {
    let world = World::sized(Sizes { max_concurrent: 1, ..Sizes::default() });
    for n in 0..200 {
        let text = format!("say {n}");
        match world.try_begin("s", &text).unwrap_or_else(|e| panic!("{n}: {e}")) {
            StartedTurn::Follow(follow) => assert_eq!(ended(&follow).text, Some(n.to_string())),
            StartedTurn::Done(outcome) => panic!("{outcome:?}"),
        }
    }
}

#[test]
fn one_key_sent_by_many_at_once_is_answered_once_and_to_all() {
    let world = World::new();
    let first = world.begin_keyed("s", "gate", Some("k"));
    let said = TurnResult { key: Some("k"), ..turn("s", "gate") };
    let others: Vec<_> = (0..4)
        .map(|_| {
            let (chat, said) = (world.chat.clone(), said.clone());
            std::thread::spawn(move || chat.say(&said.as_turn()))
        })
        .collect();
    wait_until("they follow", || world.chat.stats().waiting == 5);
    let other = TurnResult { key: Some("k"), ..turn("s", "something else") };
    assert_eq!(world.chat.say(&other.as_turn()), Err(TurnError::Refused(AppendError::KeyConflict(0))));
    world.open_gate();
    let outcome = ended(&first);
    let again = TurnOutcome { duplicate: true, ..outcome.clone() };
    for other in others {
        assert_eq!(other.join().unwrap().unwrap(), again);
    }
    assert_eq!(world.chat.say(&said.as_turn()).unwrap(), again, "and later");
    assert_eq!(texts(&world, "s"), ["gate", "one two"]);
}

#[test]
fn a_failed_answer_that_something_followed_is_what_its_key_stands_for() {
    let world = World::new();
    let said = TurnResult { key: Some("k"), ..turn("s", "fail") };
    let outcome = world.chat.say(&said.as_turn()).unwrap();
    let again = world.chat.say(&said.as_turn()).unwrap();
    assert!(again.user == outcome.user && again.reply > outcome.reply && again.duplicate, "answered anew: {again:?}");
    world.chat.say(&turn("s", "say on").as_turn()).unwrap();
    assert_eq!(world.chat.say(&said.as_turn()).unwrap(), again);
    assert_eq!(world.asked.lock().unwrap().len(), 3);
}

#[test]
fn what_is_recorded_while_a_failed_answer_is_judged_is_not_rewound() {
    for (followed, is_rewound) in [("other", true), ("s", false)] {
        let world = World::new();
        let said = TurnResult { key: Some("k"), ..turn("s", "fail") };
        let outcome = world.chat.say(&said.as_turn()).unwrap();
        let before = world.chat.before(&said.as_turn()).unwrap();
        let judged = || world.chat.retry(&said.session, before.as_ref()).unwrap();
        let Retry::Failed { watch, reply } = judged() else { panic!("it failed, and nothing followed") };
        assert_eq!(Some(reply), outcome.reply);
        let session = SessionId::new(followed).unwrap();
        let (role, text, metadata, vector_ids, key) = ("user", "noted", None, &[][..], None);
        let noted = NewMessage { session: &session, role, text, metadata, vector_ids, key };
        world.chat.record(&[noted], Transport::Tcp).unwrap();
        assert_eq!(world.chat.rewind_behind(&watch, &said.as_turn(), outcome.user), Ok(is_rewound), "{followed}");
        let now = judged();
        assert_eq!(matches!(now, Retry::Rewound), is_rewound, "{now:?}");
        assert_eq!(matches!(now, Retry::Answered { .. }), !is_rewound, "{now:?}");
    }
}

#[test]
fn a_rewind_of_a_given_turn_is_planned_anew_if_something_was_recorded() {
    let world = World::new();
    let outcome = world.chat.say(&turn("s", "say one").as_turn()).unwrap();
    let session = turn("s", "").session;
    let user = world.chat.history.find(&session, outcome.user).unwrap().unwrap();
    let mut plans = Vec::new();
    let plan = || {
        let newest = world.told("s").len();
        plans.push(newest);
        // Behind the look that counts.
        if plans.len() == 2 {
            let (role, text, metadata, vector_ids, key) = ("user", "noted", None, &[][..], None);
            let noted = NewMessage { session: &session, role, text, metadata, vector_ids, key };
            world.chat.record(&[noted], Transport::Tcp).unwrap();
        }
        Ok(Some(TurnPlan {
            state: None,
            rewind_to: Some(Some(outcome.user)),
            messages: Vec::new(),
            stands: Some(outcome.user),
            context: vec![user.clone()],
            replied: Box::new(|_, _| ()),
        }))
    };
    let given = GivenTurn { session: &session, transport: Transport::Tcp, key: None, body: Arc::default() };
    let begun = world.chat.begin_given(&given, &TurnClient::unseen(WhenBusy::Refuse), plan).unwrap().unwrap();
    let StartedTurn::Follow(follow) = &begun.started else { panic!("it is answered anew: {begun:?}") };
    assert_eq!(ended(follow).text.as_deref(), Some("one"));
    assert_eq!(plans, [2, 2, 3, 3], "the rewind that was made knows what was recorded");
    assert_eq!(texts(&world, "s"), ["say one", "one", "noted", records::REWOUND, "one"]);
}

#[test]
fn a_message_without_reply_is_answered_when_its_key_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let session = turn("s", "").session;
    let given = |text, key| NewMessage {
        session: &session,
        role: "user",
        text,
        metadata: None,
        vector_ids: &[],
        key: Some(key),
    };
    let mut ids = Vec::new();
    for restarted in [false, true] {
        let world = World::at(folder.path(), Sizes::default());
        if !restarted {
            // As after a crash between the two records.
            ids = world.chat.record(&[given("say a", "a"), given("say b", "b")], Transport::Tcp).unwrap();
        }
        let key = if restarted { "b" } else { "a" };
        let said = TurnResult { key: Some(key), ..turn("s", &format!("say {key}")) };
        let outcome = world.chat.say(&said.as_turn()).unwrap();
        assert_eq!((outcome.text.as_deref(), outcome.duplicate), (Some(key), true));
        assert_eq!(outcome.user, ids[usize::from(restarted)].0);
        assert_eq!(world.chat.say(&said.as_turn()).unwrap(), outcome, "once");
    }
    let world = World::at(folder.path(), Sizes::default());
    assert_eq!(texts(&world, "s"), ["say a", "say b", "a", "b"]);
}

#[test]
fn a_responder_is_given_what_fits_from_the_last_new_context_on() {
    let asked = |context: ContextLimit, said: &[&str]| {
        let world = World::sized(Sizes { context, ..Sizes::default() });
        said.iter().for_each(|text| drop(world.say(text)));
        world.asked.lock().unwrap().last().unwrap().clone()
    };
    let all = ContextLimit { messages: 100, bytes: 1000 };
    assert_eq!(asked(all, &["say a", "say b"]), ["say a", "a", "say b"]);
    assert_eq!(asked(all, &["say a", "/clear", "say b", "say c"]), ["say b", "b", "say c"]);
    assert_eq!(asked(ContextLimit { messages: 2, ..all }, &["say a", "say b"]), ["a", "say b"]);
    assert_eq!(asked(ContextLimit { messages: 0, ..all }, &["say a", "say b"]), ["say b"]);
    assert_eq!(asked(ContextLimit { bytes: 6, ..all }, &["say a", "say b"]), ["a", "say b"]);
    assert_eq!(asked(ContextLimit { bytes: 10, ..all }, &["say a", "say b"]), ["a", "say b"]);
    assert_eq!(asked(ContextLimit { bytes: 11, ..all }, &["say a", "say b"]), ["say a", "a", "say b"]);
    assert_eq!(asked(ContextLimit { bytes: 0, ..all }, &["say a", "say b"]), ["say b"]);
}

#[test]
fn a_late_follower_has_the_text_so_far_and_then_every_piece() {
    let world = World::new();
    let follow = world.begin("s", "gate");
    wait_until("it has begun", || !follow.running().text().is_empty());
    let current = world.chat.current(follow.running().session()).unwrap();
    let mut text = current.text();
    assert_eq!((text.as_str(), current.user()), ("one", follow.running().user()));
    world.open_gate();
    loop {
        match current.wait_for_text(text.len(), Instant::now() + WAIT_TIMEOUT) {
            TurnProgress::Text(more) => text.push_str(&more),
            TurnProgress::End(end) => break assert_eq!(end.unwrap().text, text),
            TurnProgress::Nothing => panic!("it does not end"),
        }
    }
    assert_eq!(text, "one two");
    assert!(world.chat.current(current.session()).is_none());
    let told = ["s started", "s 0 \"one\"", "s 3 \" two\"", "s completed kept \"one two\""];
    assert_eq!(world.diary.lines(), told);
}
