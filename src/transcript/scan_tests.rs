//! A pass over a transcript: every place to begin and to end, foreign lines, lines out of order, and
//! passes that end early.

use std::fs;
use std::ops::Range;

use super::tests::{Fixture, id, message, number};
use super::*;
use crate::disk::sim::Random;
use crate::message::{Id, Message};

/// Takes some lines, and knows which.
struct Collector {
    /// Only numbers that this divides.
    every: u64,
    taken: Vec<u64>,
    /// After the message of the first number it goes on below the second.
    jump: Option<(u64, u64)>,
}

impl Seeker for Collector {
    fn pick(&mut self, block: &[u8], picked: &mut Vec<Range<usize>>) {
        assert!(block.is_empty() || block.ends_with(b"\n"));
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', block) {
            picked.push(start..end);
            start = end + 1;
        }
    }

    fn wants(&mut self, message: &Message) -> bool {
        number(message).is_multiple_of(self.every)
    }

    fn take(&mut self, message: Message) -> ScanStep {
        let number = number(&message);
        self.taken.push(number);
        match self.jump {
            Some((from, to)) if from == number => ScanStep::Below(id(to)),
            _ => ScanStep::On,
        }
    }
}

fn collector(every: u64) -> Collector {
    Collector { every, taken: Vec::new(), jump: None }
}

fn bounds(before: Option<Id>, after: Option<Id>) -> ScanBounds {
    ScanBounds { before, after, bytes_max: u64::MAX }
}

/// A transcript of 60 messages with lines of others between, a copy of an older line, and an unfinished last line.
fn disturbed(random: &mut Random) -> Fixture {
    let fixture = Fixture::new();
    let mut file: Vec<u8> = Vec::new();
    let copied = 1 + random.below(30);
    let copied_after = copied + 1 + random.below(29);
    for number in 1..=60 {
        match random.below(12) {
            0 => file.extend_from_slice(b"no message\n"),
            1 => file.extend_from_slice(b"\n\n"),
            2 => file.extend_from_slice(&[b"{\"id\":\"".as_slice(), &[b'x'; 3000], b"\n"].concat()),
            _ => {}
        }
        file.extend_from_slice(message(number).line());
        file.push(b'\n');
        if number == copied_after {
            file.extend_from_slice(message(copied).line());
            file.push(b'\n');
        }
    }
    file.extend_from_slice(&message(61).line()[..100]);
    fs::write(fixture.path(), file).unwrap();
    fixture
}

#[test]
fn a_pass_takes_each_message_once_from_any_place_to_any_other() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let fixture = disturbed(&mut random);
        let mut buffers = ScanBuffers::default();
        for every in [1, 7] {
            for _ in 0..20 {
                let before = Some(id(1 + random.below(62))).filter(|_| !random.one_in(4));
                let after = Some(id(random.below(62))).filter(|_| !random.one_in(4));
                let mut seeker = collector(every);
                let range = bounds(before, after);
                let end = fixture.transcripts.scan(&fixture.session, range, &mut buffers, &mut seeker).unwrap();
                assert_eq!(end, ScanEnd::Finished);
                let is_shown = |number: &u64| {
                    number.is_multiple_of(every)
                        && before.is_none_or(|before| id(*number) < before)
                        && after.is_none_or(|after| id(*number) > after)
                };
                let shown: Vec<u64> = (1..=60).rev().filter(is_shown).collect();
                assert_eq!(seeker.taken, shown, "seed {seed}, {range:?}");
            }
        }
    }
}

#[test]
fn passes_that_end_early_show_everything_once() {
    for seed in 0..40 {
        let fixture = disturbed(&mut Random(seed));
        for (bytes_max, every) in [(0, 1), (1500, 1), (0, 60), (1500, 60)] {
            let (mut before, mut taken, mut passes) = (None, Vec::new(), 0);
            loop {
                let (mut seeker, mut buffers) = (collector(every), ScanBuffers::default());
                let range = ScanBounds { bytes_max, ..bounds(before, None) };
                let end = fixture.transcripts.scan(&fixture.session, range, &mut buffers, &mut seeker).unwrap();
                taken.extend(seeker.taken);
                passes += 1;
                match end {
                    ScanEnd::Finished => break,
                    ScanEnd::At(reached) => assert!(before.replace(reached).is_none_or(|last| reached < last)),
                }
            }
            let wanted: Vec<u64> = (1..=60u64).rev().filter(|number| number.is_multiple_of(every)).collect();
            assert_eq!(taken, wanted, "seed {seed}, {bytes_max} bytes");
            assert!(passes > 3, "{passes}");
        }
    }
}

#[test]
fn a_pass_goes_on_where_it_is_told() {
    let fixture = Fixture::new();
    fixture.fill(1..=60);
    for (jump, rest) in [((50, 20), 1..20), ((50, 49), 1..49), ((60, 1), 1..1), ((58, 58), 1..58)] {
        let mut seeker = Collector { jump: Some(jump), ..collector(1) };
        let mut buffers = ScanBuffers::default();
        fixture.transcripts.scan(&fixture.session, bounds(None, None), &mut buffers, &mut seeker).unwrap();
        let wanted: Vec<u64> = (jump.0..=60).rev().chain(rest.rev()).collect();
        assert_eq!(seeker.taken, wanted, "{jump:?}");
    }
    let mut seeker = collector(1);
    let nobody = SessionId::new("nobody").unwrap();
    let end = fixture.transcripts.scan(&nobody, bounds(None, None), &mut ScanBuffers::default(), &mut seeker).unwrap();
    assert!(end == ScanEnd::Finished && seeker.taken.is_empty());
}
