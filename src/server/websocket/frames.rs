//! WebSocket frames (RFC 6455, 5): what clients send as messages, and the headers of what we send.
//!
//! Headers, opcodes and close codes are tungstenite's (its frame codec). The buffers are ours, for the memory of a socket at
//! rest: nothing is kept between two messages, whatever their size (tungstenite's own socket keeps 68 kB after one message of
//! 32 KiB), nothing is allocated from a length that a client names, and a frame for many sockets is made once. The whole is
//! held to the judgement of tungstenite's socket, byte by byte, by a test.
//!
//! Invariants: a message beyond the limit is refused at the header that makes it too long; text is UTF-8 when it is handed
//! out, and text that cannot become UTF-8 is refused at its first wrong byte. Pure: knows no socket and no clock.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::api::Payload;

/// The longest header of a frame we send.
const HEADER_BYTES_MAX: usize = 10;
/// The longest header of a frame of a client's, which is masked.
const MASKED_HEADER_BYTES_MAX: usize = HEADER_BYTES_MAX + 4;
/// The longest payload of a control frame (RFC 6455, 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

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
    opcode: OpCode,
    is_last: bool,
    mask: [u8; 4],
    /// Bytes of its payload that were taken.
    taken: u64,
    length: u64,
}

/// Reads one client's bytes, however they are cut.
pub(super) struct Decoder {
    message_bytes_max: usize,
    /// The beginning of a header that is not whole.
    header: [u8; MASKED_HEADER_BYTES_MAX],
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
            header: [0; MASKED_HEADER_BYTES_MAX],
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
            let is_control = matches!(frame.opcode, OpCode::Control(_));
            let into = if is_control { &mut self.control } else { &mut self.message };
            unmask(into, now, frame.mask, frame.taken);
            frame.taken += now.len() as u64;
            self.frame = Some(frame);
            if !is_control {
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

    /// Bytes of the message that is not whole.
    pub(super) fn gathered(&self) -> usize {
        self.message.len()
    }

    /// Whether nothing is under way: what comes next is the first byte of a frame.
    pub(super) fn is_at_rest(&self) -> bool {
        self.header_bytes == 0 && self.frame.is_none() && self.payload.is_none()
    }

    /// `false`: the header is not whole.
    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<bool, Violation> {
        let have = usize::from(self.header_bytes);
        let more = bytes.len().min(MASKED_HEADER_BYTES_MAX - have);
        self.header[have..have + more].copy_from_slice(&bytes[..more]);
        let mut cursor = Cursor::new(&self.header[..have + more]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Protocol("the opcode is reserved"))?;
        let Some((header, length)) = parsed else {
            self.header_bytes = (have + more) as u8;
            *bytes = &bytes[more..];
            return Ok(false);
        };
        *bytes = &bytes[cursor.position() as usize - have..];
        self.header_bytes = 0;
        let mask = self.judge(&header, length)?;
        match header.opcode {
            OpCode::Data(Data::Text) => self.payload = Some(Payload::Text),
            OpCode::Data(Data::Binary) => self.payload = Some(Payload::Binary),
            _ => {}
        }
        self.frame = Some(Frame { opcode: header.opcode, is_last: header.is_final, mask, taken: 0, length });
        Ok(true)
    }

    /// Judges a header by what came before it. Returns its mask.
    fn judge(&self, header: &FrameHeader, length: u64) -> Result<[u8; 4], Violation> {
        let wrong = |reason| Err(Violation::Protocol(reason));
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return wrong("a reserved bit is set");
        }
        let Some(mask) = header.mask else { return wrong("frames of clients must be masked") };
        if length >> 63 != 0 {
            return wrong("a length has its highest bit set");
        }
        let room = self.message_bytes_max.saturating_sub(self.message.len());
        match (header.opcode, self.payload) {
            (OpCode::Control(_), _) if !header.is_final => wrong("a control frame must not be fragmented"),
            (OpCode::Control(_), _) if length > CONTROL_BYTES_MAX as u64 => wrong("a control frame may have 125 bytes"),
            (OpCode::Control(_), _) => Ok(mask),
            (OpCode::Data(Data::Continue), None) => wrong("a continuation continues nothing"),
            (OpCode::Data(Data::Text | Data::Binary), Some(_)) => wrong("a message began within another"),
            (OpCode::Data(_), _) if length > room as u64 => Err(Violation::TooBig),
            (OpCode::Data(_), _) => Ok(mask),
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
            OpCode::Control(control) => {
                let payload = std::mem::take(&mut self.control);
                match control {
                    Control::Ping => Ok(Some(Heard::Ping(payload))),
                    Control::Close => close_code(&payload).map(|code| Some(Heard::Close(code))),
                    // A reserved one has no header.
                    Control::Pong | Control::Reserved(_) => Ok(Some(Heard::Pong)),
                }
            }
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
    if !CloseCode::from(code).is_allowed() {
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
    fn new(opcode: OpCode, payload_bytes: usize) -> Self {
        let mut bytes = [0; HEADER_BYTES_MAX];
        let mut free = &mut bytes[..];
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        header.format(payload_bytes as u64, &mut free).expect("an unmasked header has ten bytes at most");
        let length = (HEADER_BYTES_MAX - free.len()) as u8;
        Self { bytes, length }
    }

    /// Of a whole message.
    pub(super) fn message(payload: Payload, payload_bytes: usize) -> Self {
        let kind = if payload == Payload::Text { Data::Text } else { Data::Binary };
        Self::new(OpCode::Data(kind), payload_bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A whole control frame: its payload is at most [`CONTROL_BYTES_MAX`].
fn control(opcode: Control, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    let mut frame = Header::new(OpCode::Control(opcode), payload.len()).bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// A ping without payload.
pub(super) fn ping() -> Vec<u8> {
    control(Control::Ping, &[])
}

/// The answer to a ping.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    control(Control::Pong, payload)
}

/// A close frame; without a code it says none.
pub(super) fn close(code: Option<u16>, reason: &str) -> Vec<u8> {
    let Some(code) = code else { return control(Control::Close, &[]) };
    let room = CONTROL_BYTES_MAX - 2;
    let end = (0..=room.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    control(Control::Close, &payload)
}

#[cfg(test)]
mod tests;
