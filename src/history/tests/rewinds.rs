//! `view=current` over random histories, compared with a plain walk over a list of all messages: every page size, every
//! place to begin, filters, small caches and pages, before and after a warm-up.

use serde_json::{Value, json};

use super::*;
use crate::disk::sim::Random;
use crate::message::Marker;

/// Histories, each of a seed.
const SEEDS: u64 = 60;
const MESSAGES_MAX: u64 = 40;

/// What a message is to the walk.
#[derive(Clone, Debug)]
struct Said {
    id: Id,
    role: &'static str,
    marker: Option<Marker>,
}

/// The specification: from the newest below `before` backward; at a rewind on at the newest that is not newer than its
/// target.
fn path(all: &[Said], before: Option<Id>) -> Vec<&Said> {
    let mut shown = Vec::new();
    let mut below = before;
    while let Some(said) = all.iter().rev().find(|said| below.is_none_or(|below| said.id < below)) {
        below = Some(said.id);
        match &said.marker {
            Some(Marker::Rewind(None)) => break,
            Some(Marker::Rewind(Some(to))) => below = Some(to.just_after().min(said.id)),
            Some(Marker::Session(_)) => {}
            Some(Marker::Clear) | None => shown.push(said),
        }
    }
    shown.reverse();
    shown
}

fn random_history(fixture: &Fixture, random: &mut Random) -> Vec<Said> {
    let mut all: Vec<Said> = Vec::new();
    for _ in 0..random.below(MESSAGES_MAX) {
        say_any(fixture, random, &mut all);
    }
    all
}

/// Records any message or marker.
fn say_any(fixture: &Fixture, random: &mut Random, all: &mut Vec<Said>) {
    let any = |random: &mut Random| Some(all[usize::try_from(random.below(all.len() as u64)).unwrap()].id);
    let metadata = match random.below(10) {
        0 => json!({"type": "clear"}),
        1 => json!({"type": "session", "title": "t"}),
        2 => json!({"type": "rewind", "to": null}),
        // A target may be no message any more, or never have been one.
        3 => json!({"type": "rewind", "to": start().unwrap().to_string()}),
        4 if !all.is_empty() => json!({"type": "rewind", "to": any(random).unwrap().just_before().to_string()}),
        5..=6 if !all.is_empty() => json!({"type": "rewind", "to": any(random).unwrap().to_string()}),
        _ => json!({}),
    };
    let is_marker = metadata != json!({});
    // Some that only look like a marker.
    let role = if is_marker && !random.one_in(8) { "system" } else { ["user", "assistant"][all.len() % 2] };
    let given = Metadata { given: metadata.as_object(), defaults: &[] };
    let id = fixture.say_with("s", role, usize::try_from(random.below(300)).unwrap(), given);
    let marker = match metadata["type"].as_str().filter(|_| role == "system") {
        Some("rewind") => Some(Marker::Rewind(metadata["to"].as_str().map(|to| to.parse().unwrap()))),
        Some("clear") => Some(Marker::Clear),
        Some(_) => {
            Some(Marker::Session(crate::message::SessionState { title: Some("t".into()), ..Default::default() }))
        }
        None => None,
    };
    all.push(Said { id, role, marker });
}

fn ids(shown: Vec<&Said>) -> Vec<Id> {
    shown.into_iter().map(|said| said.id).collect()
}

fn current(ask: HistoryQuery) -> HistoryQuery {
    HistoryQuery { current: true, ..ask }
}

#[test]
fn a_page_of_the_current_view_is_what_the_specification_shows() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let cached = [3, 10, 1000][usize::try_from(seed % 3).unwrap()];
        let fixture = Fixture::new(|config| config.mongo.cache.max_messages_per_session = cached);
        let all = random_history(&fixture, &mut random);
        let mut places = vec![None];
        places.extend(all.iter().flat_map(|said| [Some(said.id), Some(said.id.just_after())]));
        for before in places {
            let whole = path(&all, before);
            for limit in [1, 2, 5, 500] {
                let page_bytes_max = if random.one_in(3) { 700 } else { PAGE_BYTES_MAX };
                let page = HistoryQuery { limit, before, page_bytes_max, ..ask(None, None) };
                let mut paged = fixture.all_pages(current(page));
                paged.reverse();
                assert_eq!(paged, ids(whole.clone()), "seed {seed}, below {before:?}, {limit} a page");
            }
            for role in ["user", "assistant", "system"] {
                let until = all.get(all.len() / 2).map(|said| said.id.time());
                let since = all.get(all.len() / 4).map(|said| said.id.time());
                let filtered = HistoryQuery { limit: 3, before, until, since, ..ask(Some(role), None) };
                let mut paged = fixture.all_pages(current(filtered));
                paged.reverse();
                let is_wanted = |said: &&Said| {
                    said.role == role
                        && until.is_none_or(|until| said.id < Id::least_of(until))
                        && since.is_none_or(|since| said.id >= Id::least_of(since))
                };
                let wanted = whole.iter().copied().filter(is_wanted).collect();
                assert_eq!(paged, ids(wanted), "seed {seed}, below {before:?}, only {role}");
            }
        }
    }
}

#[test]
fn the_current_view_is_right_after_erasures_expiry_and_restarts() {
    const DAY: u64 = 86_400_000_000;
    let adapt = |config: &mut Config| {
        config.mongo.ttl = Some(Duration::from_micros(DAY));
        config.mongo.cache.max_messages_per_session = 7;
    };
    let (mut erased, mut expired, mut compared) = (0, 0, 0);
    for seed in 0..SEEDS / 3 {
        let (mut random, now) = (Random(seed), Arc::new(AtomicU64::new(1_790_000_000_000_000)));
        let clock = Clock::fixed(now.clone());
        let mut fixture = Fixture::at(clock.clone(), adapt);
        let mut all = Vec::new();
        for _ in 0..150 {
            match random.below(40) {
                0 => {
                    erased += all.len();
                    fixture.recorder.erase(&SessionId::new("s").unwrap()).unwrap();
                    all.clear();
                }
                1..=3 => {
                    now.fetch_add(random.below(DAY / 3), Ordering::SeqCst);
                    let bound = now.load(Ordering::SeqCst) - DAY;
                    let before = all.len();
                    all.retain(|said: &Said| said.id.time().micros() >= bound);
                    expired += before - all.len();
                }
                4 => {
                    let Fixture { folder, recorder, cache, transcripts, history } = fixture;
                    drop((recorder, cache, transcripts, history));
                    fixture = Fixture::open(folder, clock.clone(), adapt);
                }
                _ => say_any(&fixture, &mut random, &mut all),
            }
            if random.one_in(4) {
                let before =
                    all.get(usize::try_from(random.below(1 + 2 * all.len() as u64)).unwrap()).map(|said| said.id);
                let limit = [1, 3, 500][usize::try_from(random.below(3)).unwrap()];
                let mut paged = fixture.all_pages(current(HistoryQuery { limit, before, ..ask(None, None) }));
                paged.reverse();
                assert_eq!(paged, ids(path(&all, before)), "seed {seed}, below {before:?}");
                compared += usize::from(paged.len() > 1);
            }
        }
    }
    assert!(erased > 50 && expired > 50 && compared > 200, "{erased} {expired} {compared}");
}

#[test]
fn a_walk_that_ends_early_says_where_to_go_on() {
    let fixture = Fixture::new(|config| {
        config.history.max_scan_bytes = 16 * 1024;
        config.mongo.cache.max_messages_per_session = 5;
    });
    let kept: Vec<Id> = (0..30).map(|_| fixture.say("s", "user", 1500)).collect();
    let nowhere = |to: Id| {
        let metadata: Value = json!({"type": "rewind", "to": to.to_string()});
        fixture.say_with("s", "system", 10, Metadata { given: metadata.as_object(), defaults: &[] })
    };
    // Each takes back nothing but the one before it.
    let mut last = kept[29];
    for _ in 0..200 {
        nowhere(last);
        last = fixture.say("s", "user", 500);
        nowhere(kept[29]);
    }
    let first = fixture.history.read(&current(HistoryQuery { limit: 5, ..ask(None, None) })).unwrap();
    assert!(first.incomplete.is_none() && !first.messages.is_empty(), "one jump leads to what is left");
    let rare = fixture.history.read(&current(HistoryQuery { limit: 10, ..ask(Some("tool"), None) })).unwrap();
    assert!(rare.messages.is_empty() && rare.has_more && rare.next.is_some());
    assert!(rare.incomplete.is_some_and(|reason| reason.contains("history.max_scan_bytes")));
    assert!(fixture.all_pages(current(ask(Some("tool"), None))).is_empty());
    let mut paged = fixture.all_pages(current(ask(None, None)));
    paged.reverse();
    assert_eq!(paged, kept);
}
