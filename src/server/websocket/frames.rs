//! WebSocket frames (RFC 6455, 5): what clients send as messages, and the headers of what we send.
//!
//! It stands alone, in place of a library's codec, for the memory of a socket at rest: nothing is kept between two messages,
//! whatever their size (tungstenite keeps 68 kB after one message of 32 KiB), nothing is allocated from a length that a client
//! names, and a frame for many sockets is made once. Its judgement is held to tungstenite's, byte by byte, by a test.
//!
//! Invariants: a message beyond the limit is refused at the header that makes it too long; text is UTF-8 when it is handed
//! out, and text that cannot become UTF-8 is refused at its first wrong byte. Pure: knows no socket and no clock.

use crate::api::Payload;

/// The longest header of a frame we send.
const HEADER_BYTES_MAX: usize = 10;
/// The longest payload of a control frame (RFC 6455, 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Message(Payload, Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    /// The code to answer with: the client's, or none if it gave none.
    Close(Option<u16>),
}

/// Why a connection ends, by its close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// 1002
    Protocol(&'static str),
    /// 1007
    NotUtf8,
    /// 1009
    TooBig,
}

impl Violation {
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Protocol(reason) => reason,
            Self::NotUtf8 => "text must be UTF-8",
            Self::TooBig => "the message is too big",
        }
    }
}

/// A frame whose header was read.
#[derive(Clone, Copy)]
struct Frame {
    opcode: u8,
    is_last: bool,
    mask: [u8; 4],
    /// Bytes of its payload that were taken.
    taken: u64,
    length: u64,
}

/// Reads one client's bytes, however they are cut.
pub(super) struct Decoder {
    message_bytes_max: usize,
    header: [u8; 14],
    header_bytes: u8,
    frame: Option<Frame>,
    /// Of what kind the message is that has begun.
    payload: Option<Payload>,
    message: Vec<u8>,
    /// So much of a text is known to be UTF-8.
    checked: usize,
    /// The payload of the control frame under way, which may stand between the frames of a message.
    control: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max,
            header: [0; 14],
            header_bytes: 0,
            frame: None,
            payload: None,
            message: Vec::new(),
            checked: 0,
            control: Vec::new(),
        }
    }

    /// Takes bytes from the front of `bytes` until something is whole, or none are left.
    ///
    /// # Errors
    /// The client broke a rule; nothing more of it can be understood.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<Heard>, Violation> {
        loop {
            let Some(mut frame) = self.frame else {
                if !self.take_header(bytes)? {
                    return Ok(None);
                }
                continue;
            };
            let left = usize::try_from(frame.length - frame.taken).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            *bytes = later;
            let into = if frame.opcode >= CLOSE { &mut self.control } else { &mut self.message };
            unmask(into, now, frame.mask, frame.taken);
            frame.taken += now.len() as u64;
            self.frame = Some(frame);
            if frame.opcode < CLOSE {
                self.check_text()?;
            }
            if frame.taken < frame.length {
                return Ok(None);
            }
            self.frame = None;
            if let Some(heard) = self.end_frame(frame)? {
                return Ok(Some(heard));
            }
        }
    }

    /// Whether nothing is under way: what comes next is the first byte of a frame.
    #[cfg(test)]
    fn is_at_rest(&self) -> bool {
        self.header_bytes == 0 && self.frame.is_none() && self.payload.is_none()
    }

    /// `false`: the header is not whole.
    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<bool, Violation> {
        loop {
            let have = usize::from(self.header_bytes);
            let wanted = if have < 2 { 2 } else { header_bytes(self.header[1]) };
            if have == wanted {
                break;
            }
            let Some((first, rest)) = bytes.split_first() else { return Ok(false) };
            (self.header[have], *bytes) = (*first, rest);
            self.header_bytes += 1;
            if have + 1 == 2 {
                self.check_start()?;
            }
        }
        let all = self.header_bytes as usize;
        let length = match self.header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => u64::from_be_bytes(self.header[2..10].try_into().expect("they are eight")),
            short => u64::from(short),
        };
        let mask = self.header[all - 4..all].try_into().expect("they are four");
        let (is_last, opcode) = (self.header[0] & 0x80 != 0, self.header[0] & 0x0f);
        self.header_bytes = 0;
        if length >> 63 != 0 {
            return Err(Violation::Protocol("a length has its highest bit set"));
        }
        if opcode < CLOSE {
            let room = self.message_bytes_max - self.message.len().min(self.message_bytes_max);
            if length > room as u64 {
                return Err(Violation::TooBig);
            }
            match opcode {
                TEXT => self.payload = Some(Payload::Text),
                BINARY => self.payload = Some(Payload::Binary),
                _ => {}
            }
        }
        self.frame = Some(Frame { opcode, is_last, mask, taken: 0, length });
        Ok(true)
    }

    /// Judges the first two bytes of a header.
    fn check_start(&self) -> Result<(), Violation> {
        let [first, second, ..] = self.header;
        let wrong = |reason| Err(Violation::Protocol(reason));
        if first & 0x70 != 0 {
            return wrong("a reserved bit is set");
        }
        if second & 0x80 == 0 {
            return wrong("frames of clients must be masked");
        }
        match (first & 0x0f, self.payload) {
            (CLOSE | PING | PONG, _) if first & 0x80 == 0 => wrong("a control frame must not be fragmented"),
            (CLOSE | PING | PONG, _) if usize::from(second & 0x7f) > CONTROL_BYTES_MAX => {
                wrong("a control frame may have 125 bytes")
            }
            (CLOSE | PING | PONG, _) | (CONTINUATION, Some(_)) | (TEXT | BINARY, None) => Ok(()),
            (CONTINUATION, None) => wrong("a continuation continues nothing"),
            (TEXT | BINARY, Some(_)) => wrong("a message began within another"),
            _ => wrong("the opcode is reserved"),
        }
    }

    /// Looks at what is new of a text.
    fn check_text(&mut self) -> Result<(), Violation> {
        if self.payload != Some(Payload::Text) {
            return Ok(());
        }
        match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(_) => self.checked = self.message.len(),
            // A character whose end has not come yet.
            Err(fault) if fault.error_len().is_none() => self.checked += fault.valid_up_to(),
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }

    fn end_frame(&mut self, frame: Frame) -> Result<Option<Heard>, Violation> {
        match frame.opcode {
            PING => Ok(Some(Heard::Ping(std::mem::take(&mut self.control)))),
            PONG => {
                self.control = Vec::new();
                Ok(Some(Heard::Pong))
            }
            CLOSE => close_code(&std::mem::take(&mut self.control)).map(|code| Some(Heard::Close(code))),
            _ if !frame.is_last => Ok(None),
            _ => {
                let payload = self.payload.take().unwrap_or(Payload::Binary);
                if payload == Payload::Text && self.checked < self.message.len() {
                    return Err(Violation::NotUtf8);
                }
                self.checked = 0;
                Ok(Some(Heard::Message(payload, std::mem::take(&mut self.message))))
            }
        }
    }
}

/// The length of a client's header whose second byte is this one.
fn header_bytes(second: u8) -> usize {
    match second & 0x7f {
        126 => 2 + 2 + 4,
        127 => 2 + 8 + 4,
        _ => 2 + 4,
    }
}

fn unmask(into: &mut Vec<u8>, masked: &[u8], mask: [u8; 4], taken: u64) {
    let mut turned = mask;
    turned.rotate_left((taken % 4) as usize);
    let at = into.len();
    into.extend_from_slice(masked);
    // Whole words of it, which compilers make quick.
    for chunk in into[at..].chunks_mut(4) {
        for (byte, mask) in chunk.iter_mut().zip(turned) {
            *byte ^= mask;
        }
    }
}

/// What a close frame says (RFC 6455, 5.5.1 and 7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(Violation::Protocol("a close frame of one byte")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol("the close code is not one to send"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation::NotUtf8);
    }
    Ok(Some(code))
}

/// The header of a frame we send, and how many bytes of it count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    length: u8,
}

impl Header {
    fn new(opcode: u8, payload_bytes: usize) -> Self {
        let mut bytes = [0; HEADER_BYTES_MAX];
        bytes[0] = 0x80 | opcode;
        let length = match payload_bytes {
            0..=125 => {
                bytes[1] = payload_bytes as u8;
                2
            }
            126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
                10
            }
        };
        Self { bytes, length }
    }

    /// Of a whole message.
    pub(super) fn message(payload: Payload, payload_bytes: usize) -> Self {
        Self::new(if payload == Payload::Text { TEXT } else { BINARY }, payload_bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A whole control frame: its payload is at most [`CONTROL_BYTES_MAX`].
fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    let mut frame = Header::new(opcode, payload.len()).bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// A ping without payload.
pub(super) fn ping() -> Vec<u8> {
    control(PING, &[])
}

/// The answer to a ping.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    control(PONG, payload)
}

/// A close frame; without a code it says none.
pub(super) fn close(code: Option<u16>, reason: &str) -> Vec<u8> {
    let Some(code) = code else { return control(CLOSE, &[]) };
    let room = CONTROL_BYTES_MAX - 2;
    let end = (0..=room.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    control(CLOSE, &payload)
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
