//! Frames: each rule by itself, and the decoder against tungstenite's socket, over bytes that are valid, damaged and
//! cut anywhere.

use std::io::{self, Read, Write};

use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::*;

const MESSAGE_BYTES_MAX: usize = 70_000;

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0xa2, 0x33, 0xc4];
    let mut bytes = Header::new(OpCode::from(first & 0x0f), payload.len()).bytes().to_vec();
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

/// Feeds `bytes` in pieces of `step`; returns what was read, up to a close, and how it ended.
fn heard(bytes: &[u8], step: usize) -> (Vec<Heard>, Option<Violation>) {
    let mut decoder = FrameDecoder::new(MESSAGE_BYTES_MAX);
    let mut all = Vec::new();
    for mut piece in bytes.chunks(step.max(1)) {
        loop {
            match decoder.take(&mut piece) {
                Ok(Some(one)) => {
                    let is_last = matches!(one, Heard::Close(_));
                    all.push(one);
                    if is_last {
                        return (all, None);
                    }
                }
                Ok(None) => break,
                Err(violation) => return (all, Some(violation)),
            }
        }
        assert!(piece.is_empty());
    }
    (all, None)
}

fn text(text: &str) -> Heard {
    Heard::Message(Payload::Text, text.as_bytes().to_vec())
}

#[test]
fn messages_come_out_whole_however_they_are_cut() {
    let mut bytes = frame(0x81, "grüße".as_bytes());
    bytes.extend(frame(0x02, &[1; 200]));
    bytes.extend(frame(0x89, b"are you there"));
    bytes.extend(frame(0x00, &[]));
    bytes.extend(frame(0x8a, b""));
    bytes.extend(frame(0x80, &[2; 66_000]));
    bytes.extend(frame(0x81, b""));
    bytes.extend(frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']));
    let mut binary = vec![1; 200];
    binary.extend([2; 66_000]);
    let expected = vec![
        text("grüße"),
        Heard::Ping(b"are you there".to_vec()),
        Heard::Pong,
        Heard::Message(Payload::Binary, binary),
        text(""),
        Heard::Close(Some(1000)),
    ];
    for step in [1, 2, 3, 7, 1000, usize::MAX >> 1] {
        assert_eq!(heard(&bytes, step), (expected.clone(), None), "{step}");
    }
}

#[test]
fn every_broken_rule_has_its_code() {
    let mut unmasked = frame(0x81, b"x");
    unmasked[1] &= 0x7f;
    let long_control = frame(0x89, &[b'x'; 126]);
    let twice = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
    let mut huge = frame(0x82, b"");
    huge.splice(1..2, [0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a reserved bit", frame(0xc1, b"x"), 1002),
        ("no mask", unmasked, 1002),
        ("a reserved opcode", frame(0x83, b"x"), 1002),
        ("a reserved control opcode", frame(0x8b, b"x"), 1002),
        ("a fragmented ping", frame(0x09, b"x"), 1002),
        ("a long ping", long_control, 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a message within another", twice, 1002),
        ("a length with its highest bit set", huge, 1002),
        ("a close of one byte", frame(0x88, b"x"), 1002),
        ("a close code that is only for us", frame(0x88, &1006_u16.to_be_bytes()), 1002),
        ("a close code of nobody", frame(0x88, &999_u16.to_be_bytes()), 1002),
        ("a close reason that is not UTF-8", frame(0x88, &[0x03, 0xe8, 0xff]), 1007),
        ("text that is not UTF-8", frame(0x81, &[0xce, 0xba, 0xff]), 1007),
        ("text that ends within a character", frame(0x81, &[0xce]), 1007),
        ("a surrogate", frame(0x81, &[0xed, 0xa0, 0x80]), 1007),
        ("too much in one frame", frame(0x82, &[0; MESSAGE_BYTES_MAX + 1]), 1009),
        ("too much in two", [frame(0x02, &[0; MESSAGE_BYTES_MAX]), frame(0x80, b"x")].concat(), 1009),
    ];
    for (what, bytes, code) in cases {
        for step in [1, 5, usize::MAX >> 1] {
            let (all, violation) = heard(&bytes, step);
            assert_eq!((all, violation.map(Violation::code)), (Vec::new(), Some(code)), "{what}, {step}");
        }
    }
    assert_eq!(heard(&frame(0x82, &[0; MESSAGE_BYTES_MAX]), 4096).1, None);
}

#[test]
fn bad_text_is_refused_at_its_first_byte_and_lengths_reserve_nothing() {
    let mut decoder = FrameDecoder::new(1 << 20);
    let mut start = &frame(0x81, &[[b'x'; 1000].as_slice(), &[0xff], &[b'x'; 60_000]].concat())[..1100];
    assert_eq!(decoder.take(&mut start), Err(Violation::NotUtf8));
    let mut decoder = FrameDecoder::new(1 << 20);
    let mut start = &frame(0x82, &[0; 1 << 20])[..100];
    assert_eq!(decoder.take(&mut start), Ok(None));
    assert!(decoder.message.capacity() < 1000, "{}", decoder.message.capacity());
}

#[test]
fn at_rest_nothing_is_kept() {
    let mut decoder = FrameDecoder::new(1 << 20);
    let bytes = [frame(0x82, &[0; 1 << 20]), frame(0x89, &[1; 125]), frame(0x8a, &[1; 125])].concat();
    let mut bytes = &bytes[..];
    while decoder.take(&mut bytes).unwrap().is_some() {}
    assert!(decoder.is_at_rest());
    assert_eq!(decoder.message.capacity() + decoder.control.capacity(), 0);
}

#[test]
fn headers_say_lengths_in_the_shortest_form() {
    for (length, expected) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10), (usize::from(u16::MAX) * 9, 10)] {
        assert_eq!(Header::message(Payload::Text, length).bytes().len(), expected, "{length}");
    }
    assert_eq!(close(None, "ignored"), [0x88, 0]);
    let long = "ü".repeat(100);
    let frame = close(Some(1001), &long);
    assert_eq!((frame[1], frame.len()), (124, 126));
    assert!(std::str::from_utf8(&frame[4..]).is_ok());
}

/// A stream that gives its bytes and then would block.
struct Given<'a>(&'a [u8], usize);

impl Read for Given<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = self.0.len().min(self.1).min(into.len());
        into[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

impl Write for Given<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same by tungstenite, with code 0 for errors that it gives no code.
fn heard_by_tungstenite(bytes: &[u8], step: usize) -> (Vec<Heard>, Option<u16>) {
    use tungstenite::{Error, Message};
    let limit = Some(MESSAGE_BYTES_MAX);
    let config = WebSocketConfig::default().read_buffer_size(512).max_message_size(limit).max_frame_size(limit);
    let mut socket = WebSocket::from_raw_socket(Given(bytes, step.max(1)), Role::Server, Some(config));
    let mut all = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => all.push(Heard::Message(Payload::Text, text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => all.push(Heard::Message(Payload::Binary, bytes.to_vec())),
            Ok(Message::Ping(bytes)) => all.push(Heard::Ping(bytes.to_vec())),
            Ok(Message::Pong(_)) => all.push(Heard::Pong),
            Ok(Message::Close(frame)) => {
                all.push(Heard::Close(frame.map(|frame| frame.code.into())));
                return (all, None);
            }
            Ok(Message::Frame(_)) => unreachable!("only for writing"),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return (all, None),
            Err(Error::Protocol(_)) => return (all, Some(1002)),
            Err(Error::Utf8(_)) => return (all, Some(1007)),
            Err(Error::Capacity(_)) => return (all, Some(1009)),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Frames that mostly follow the rules, some damaged, from a small generator.
fn stream_of(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % below
    };
    let mut bytes = Vec::new();
    let mut within = false;
    for _ in 0..next(8) + 1 {
        let length = [0, 1, 5, 125, 126, 127, 300, 66_000][next(8) as usize];
        let is_text = next(2) == 0;
        let alphabet = ["a", "ü", "€", "😀", "\0"];
        let mut payload = Vec::new();
        while payload.len() < length {
            match is_text {
                true => payload.extend_from_slice(alphabet[next(5) as usize].as_bytes()),
                false => payload.push(next(256) as u8),
            }
        }
        let is_last = next(3) > 0;
        let first = match next(8) {
            0 if payload.len() <= 125 => 0x89,
            1 if payload.len() <= 125 => 0x8a,
            2 if payload.is_empty() => 0x88,
            _ => {
                let opcode = if within { Data::Continue } else { [Data::Binary, Data::Text][usize::from(is_text)] };
                let opcode = u8::from(OpCode::Data(opcode));
                within = !is_last;
                opcode | if is_last { 0x80 } else { 0 }
            }
        };
        bytes.extend(frame(first, &payload));
    }
    for _ in 0..next(3) {
        let at = next(bytes.len().min(40) as u64) as usize;
        bytes[at] ^= 1 << next(8);
    }
    bytes.truncate((bytes.len() as u64 - next(3).min(bytes.len() as u64 - 1)) as usize);
    bytes
}

#[test]
fn any_bytes_are_understood_as_tungstenite_understands_them() {
    let scale: u64 = std::env::var("CHATKEEP_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut ends = [0; 2];
    for seed in 1..=600 * scale {
        let bytes = stream_of(seed);
        let step = [1, 2, 3, 100, 5000, usize::MAX >> 1][(seed % 6) as usize];
        let (ours, violation) = heard(&bytes, step);
        let (theirs, code) = heard_by_tungstenite(&bytes, step);
        let ours_code = violation.map(Violation::code);
        ends[usize::from(code.is_some())] += 1;
        // We check text as it arrives and a length at its header; tungstenite checks both at a frame's end. So we may
        // refuse what it still waits for, and of several faults each may find a different one first.
        match (ours_code, code) {
            (Some(1007 | 1009 | 1002), None) => assert!(theirs.len() <= ours.len() + 1, "{seed}"),
            (Some(_), Some(_)) => assert_eq!(ours, theirs, "{seed}"),
            (ours_code, code) => assert_eq!((&ours, ours_code), (&theirs, code), "{seed}"),
        }
    }
    assert!(ends.iter().all(|count| *count > 50), "both ends are met: {ends:?}");
}
