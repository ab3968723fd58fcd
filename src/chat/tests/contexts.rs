//! What a responder is told, over random histories, compared with a plain walk: the path to the message, back to the first
//! new context on it.

use serde_json::{Map, json};

use super::super::context;
use super::*;
use crate::disk::sim::Random;
use crate::message::Marker;

/// The specification.
fn told(all: &[Arc<Message>], user: Id, most: usize) -> Vec<Id> {
    let (mut path, mut below) = (Vec::new(), Some(user.just_after()));
    while let Some(message) = all.iter().rev().find(|message| below.is_some_and(|below| message.id() < below)) {
        below = Some(message.id());
        match message.marker() {
            Some(Marker::Clear | Marker::Rewind(None)) => break,
            Some(Marker::Rewind(Some(to))) => below = Some(to.just_after().min(message.id())),
            Some(Marker::Session(_)) => {}
            None => path.push(message.id()),
        }
    }
    path.truncate(most);
    path.reverse();
    path
}

#[test]
fn a_responder_is_told_the_path_to_the_message_back_to_a_new_context() {
    let (mut longest, mut cut) = (0, 0);
    for seed in 0..20 {
        let (world, mut random) = (World::new(), Random(seed));
        let session = turn("s", "").session;
        let mut said: Vec<Id> = Vec::new();
        for n in 0..60_u64 {
            let any = |random: &mut Random| said[usize::try_from(random.below(said.len() as u64)).unwrap()].to_string();
            let marker = match random.below(12) {
                0 => json!({"type": "clear"}),
                1 => json!({"type": "session", "title": "t"}),
                2 => json!({"type": "rewind", "to": null}),
                3..=5 if !said.is_empty() => json!({"type": "rewind", "to": any(&mut random)}),
                _ => json!({}),
            };
            let metadata: Map<String, Value> = marker.as_object().unwrap().clone();
            let role = if metadata.is_empty() { ["user", "assistant"][(n % 2) as usize] } else { "system" };
            let text = "x".repeat(usize::try_from(random.below(50)).unwrap());
            let (metadata, session) = (Some(&metadata), &session);
            let one = NewMessage { session, role, text: &text, metadata, vector_ids: &[], key: None };
            said.push(world.chat.record(&[one], Transport::Tcp).unwrap()[0].0);
        }
        let all = world.messages("s");
        assert_eq!(all.len(), said.len());
        for user in all.iter().filter(|message| message.marker().is_none()) {
            for messages in [1, 4, 500] {
                let limit = ContextLimit { messages, bytes: 1 << 20 };
                let context = context::up_to(&world.history, &session, user.id(), limit).unwrap().unwrap();
                let found: Vec<Id> = context.messages.iter().map(|message| message.id()).collect();
                assert_eq!(found, told(&all, user.id(), messages), "seed {seed}, {messages} messages");
                assert!(!context.is_partial);
                longest = longest.max(found.len());
                cut += usize::from(messages == 4 && found.len() < 4);
            }
        }
    }
    assert!(longest > 10 && cut > 50, "{longest} {cut}");
}
