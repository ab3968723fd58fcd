//! Single cases, each with what a client would see.

use super::*;

fn world() -> (tempfile::TempDir, World) {
    let folder = tempfile::tempdir().unwrap();
    let world = World::at(folder.path());
    (folder, world)
}

/// A client that has asked these, one after the other.
fn having_asked(world: &World, token: &str, texts: &[&str]) -> Client {
    let mut client = Client::new(token, None);
    for text in texts {
        client.says(text);
        client.asks(world);
    }
    client
}

#[test]
fn a_conversation_goes_on_in_its_session_also_after_a_restart() {
    let (folder, world) = world();
    let mut client = having_asked(&world, "ann", &["hi", "ok"]);
    let session = client.session.clone();
    drop(world);
    let world = World::at(folder.path());
    client.says("and now?");
    client.asks(&world);
    assert_eq!(client.session, session);
    client.is_shown(&world);
}

#[test]
fn twins_with_one_opening_stay_apart() {
    let (_folder, world) = world();
    let mut twins = [having_asked(&world, "ann", &["hi"]), having_asked(&world, "ann", &["hi"])];
    assert_ne!(twins[0].session, twins[1].session);
    for (at, text) in [(0, "unique a"), (1, "unique b"), (0, "unique c")] {
        let client = &mut twins[at];
        client.says(text);
        client.asks(&world);
        client.is_shown(&world);
        client.is_there_once(&world);
    }
    assert_ne!(twins[0].session, twins[1].session);
}

#[test]
fn another_token_never_finds_the_conversation() {
    let (_folder, world) = world();
    let mut ann = having_asked(&world, "ann", &["unique a"]);
    let mut bob = Client::new("bob", None);
    bob.messages.clone_from(&ann.messages);
    for client in [&mut ann, &mut bob] {
        client.says("go on");
        client.asks(&world);
    }
    assert_ne!(ann.session, bob.session);
    bob.is_shown(&world);
    let given = world.all(bob.session.as_ref().unwrap());
    assert_eq!(given[1].parts().unwrap().metadata["given"], true, "it was not answered here");
}

#[test]
fn a_branch_that_was_left_is_found_again() {
    let (_folder, world) = world();
    let mut client = having_asked(&world, "ann", &["unique a", "unique b"]);
    let first = client.messages.clone();
    client.messages.truncate(2);
    client.says("unique c");
    client.asks(&world);
    client.is_shown(&world);
    client.messages = first;
    client.says("unique d");
    client.asks(&world);
    client.is_shown(&world);
    client.is_there_once(&world);
    assert_eq!(world.all(client.session.as_ref().unwrap()).len(), 8, "four messages, each with its answer");
}

#[test]
fn a_named_session_with_other_replies_is_branched_from() {
    let (_folder, world) = world();
    let mut client = Client::new("ann", Some("my chat"));
    client.says("unique a");
    client.asks(&world);
    let named = client.session.clone().unwrap();
    let mut edited = Client::new("ann", Some("my chat"));
    edited.says("unique b");
    edited.asks(&world);
    let branch = edited.session.clone().unwrap();
    assert_ne!(named, branch);
    let ask = HistoryQuery::newest(branch.clone(), 500);
    let first = world.history.read(&ask).unwrap().messages[0].0.clone();
    let Some(Marker::Session(state)) = first.marker() else { panic!("{first:?}") };
    assert_eq!(state.metadata["branched_from"], named.as_str());
    for (client, session) in [(&mut client, named), (&mut edited, branch)] {
        client.says("unique c");
        client.asks(&world);
        assert_eq!(client.session, Some(session));
        client.is_shown(&world);
    }
}

#[test]
fn a_session_whose_turn_is_followed_is_never_waited_for() {
    let (_folder, world) = world();
    let mut client = Client::new("ann", Some("chat"));
    client.says("hang");
    let running = world.begin(&client).unwrap();
    running.passed.as_ref().unwrap().recv_timeout(WAIT_TIMEOUT).unwrap();
    let mut meanwhile = Client::new("ann", Some("chat"));
    meanwhile.says("hi");
    meanwhile.asks(&world);
    assert_ne!(meanwhile.session.as_ref(), Some(&running.session));
    assert!(world.chat.stop(&running.session));
    ended(&running);
}

#[test]
fn a_turn_that_nobody_follows_gives_way_and_keeps_what_was_said() {
    let (_folder, world) = world();
    let mut client = Client::new("ann", Some("chat"));
    client.says("hang");
    let running = world.begin(&client).unwrap();
    running.passed.as_ref().unwrap().recv_timeout(WAIT_TIMEOUT).unwrap();
    let session = running.session.clone();
    drop(running);
    client.messages.push(("assistant", "hello,".into()));
    client.says("unique");
    client.asks(&world);
    assert_eq!(client.session, Some(session.clone()));
    client.is_shown(&world);
    assert_eq!(world.all(&session)[1].parts().unwrap().metadata["status"], "cancelled");
}

#[test]
fn who_goes_on_before_its_connection_is_seen_closed_keeps_its_session() {
    let (_folder, world) = world();
    let mut client = having_asked(&world, "ann", &["unique a"]);
    client.says("hang unique b");
    let running = world.begin(&client).unwrap();
    running.passed.as_ref().unwrap().recv_timeout(WAIT_TIMEOUT).unwrap();
    client.messages.push(("assistant", "hello,".into()));
    client.says("unique c");
    std::thread::scope(|scope| {
        // Nothing tells when the request waits; before that, too, it is right to go.
        scope.spawn(move || drop(running));
        client.asks(&world);
    });
    client.is_shown(&world);
    assert_eq!(world.all(client.session.as_ref().unwrap()).len(), 6);
}

#[test]
fn of_two_cut_off_answers_alike_the_one_left_just_now_is_gone_on_with() {
    let (_folder, world) = world();
    let mut sessions = Vec::new();
    for text in ["unique a", "unique b"] {
        let mut client = Client::new("ann", None);
        client.says("hang");
        let running = world.begin(&client).unwrap();
        running.passed.as_ref().unwrap().recv_timeout(WAIT_TIMEOUT).unwrap();
        let session = running.session.clone();
        drop(running);
        client.messages.push(("assistant", "hello,".into()));
        client.says(text);
        client.asks(&world);
        assert_eq!(client.session.as_ref(), Some(&session), "{text}");
        client.is_shown(&world);
        assert_eq!(world.all(&session).len(), 4);
        sessions.push(session);
    }
    assert_ne!(sessions[0], sessions[1]);
}

#[test]
fn a_key_that_comes_again_gets_the_first_answer() {
    let (_folder, world) = world();
    let mut client = Client::new("ann", None);
    client.key = Some("k".into());
    client.says("hi");
    let first = world.ask(&client);
    assert_eq!(world.ask(&client), first);
    assert_eq!(world.all(&first.0).len(), 2);
    client.says("other");
    let refused = world.begin(&client).unwrap_err();
    assert!(matches!(refused, FrontError::Turn(TurnError::Refused(AppendError::KeyConflict(_)))), "{refused:?}");
}

#[test]
fn a_key_that_comes_again_follows_the_answer_that_nobody_follows() {
    let (_folder, world) = world();
    let mut client = Client::new("ann", None);
    client.key = Some("k".into());
    client.says("hang");
    let first = world.begin(&client).unwrap();
    first.passed.as_ref().unwrap().recv_timeout(WAIT_TIMEOUT).unwrap();
    let session = first.session.clone();
    drop(first);
    let again = world.begin(&client).unwrap();
    assert_eq!((&again.session, again.passed.is_none()), (&session, true));
    let StartedTurn::Follow(follow) = &again.started else { panic!("it is over") };
    assert!(!follow.running().is_stopping());
    assert!(world.chat.stop(&session));
    ended(&again);
}

#[test]
fn a_first_message_that_comes_again_stays_in_its_named_session() {
    let (_folder, world) = world();
    let mut client = Client::new("ann", Some("chat"));
    client.says("hang unique");
    let first = world.begin(&client).unwrap();
    first.passed.as_ref().unwrap().recv_timeout(WAIT_TIMEOUT).unwrap();
    let session = first.session.clone();
    drop(first);
    let again = world.begin(&client).unwrap();
    assert_eq!(again.session, session);
    again.passed.as_ref().unwrap().recv_timeout(WAIT_TIMEOUT).unwrap();
    assert!(world.chat.stop(&session));
    ended(&again);
    client.session = Some(session);
    client.is_there_once(&world);
}

#[test]
fn instructions_are_recorded_when_they_change_and_are_no_departure() {
    let (_folder, world) = world();
    let mut client = Client::new("ann", None);
    for instructions in ["be kind", "be kind", "be brief"] {
        client.instructions = Some(instructions.into());
        client.says("hi");
        client.asks(&world);
    }
    let all = world.all(client.session.as_ref().unwrap());
    let system: Vec<_> =
        all.iter().filter(|message| message.role() == "system").map(|message| message.text()).collect();
    assert_eq!(system, ["be kind", "be brief"]);
    client.is_shown(&world);
}

#[test]
fn a_message_beyond_its_limit_is_refused_by_name_and_nothing_is_recorded() {
    let (_folder, world) = world();
    let image = format!("data:image/png;base64,{}", "A".repeat(1 << 20));
    let parts = json!([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": image}}]);
    let messages = [GivenMessage::read(0, &json!({"role": "user", "content": parts})).unwrap()];
    let caller = Principal::with_token("ann", Access::Write, None);
    let request = FrontRequest {
        caller: &caller,
        name: Some("s"),
        messages: &messages,
        body: Arc::new(b"{}".to_vec().into()),
        key: None,
        transport: Transport::Tcp,
    };
    let refused = world.front.begin(&request, &TurnClient::unseen(WhenBusy::Refuse)).unwrap_err();
    let FrontError::Message(InvalidMessage { place, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(place, "messages[0].content[1].image_url");
    assert!(world.all(&SessionId::new("s").unwrap()).is_empty());
}

#[test]
fn a_long_conversation_of_messages_alike_is_compared_in_time() {
    let (_folder, world) = world();
    let mut sessions = Vec::new();
    for text in ["ping", "peng"] {
        let mut client = Client::new("ann", Some("monitor"));
        for _ in 0..1000 {
            client.says(text);
            client.messages.push(("assistant", "hello, 4".into()));
        }
        client.says("unique");
        // Of this thread only, which makes the comparison.
        let seconds = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec;
        let began = seconds();
        client.asks(&world);
        // With a cubic comparison the second one took half a minute.
        assert!(seconds() - began < 15, "{text}: {} s", seconds() - began);
        sessions.push(client.session);
    }
    assert_ne!(sessions[0], sessions[1]);
}

#[test]
fn names_that_are_no_session_ids_become_some_with_the_callers_prefix() {
    let anyone = Principal::with_token("t", Access::Write, None);
    let alice = Principal::with_token("t", Access::Write, crate::access::SessionPrefix::parse("alice-*"));
    let of = |caller, name| find::session_of(caller, name).as_str().to_owned();
    assert_eq!(of(&anyone, "chat-1"), "chat-1");
    assert_eq!((of(&alice, "alice-1"), of(&alice, "chat-1")), ("alice-1".into(), "alice-chat-1".into()));
    let odd = of(&alice, "a name / with spaces");
    assert!(odd.starts_with("alice-") && odd.len() == 38 && odd != of(&alice, "another name"), "{odd}");
    assert!(of(&alice, &"x".repeat(128)).len() <= 128);
}
