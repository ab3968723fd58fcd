//! WebSocket frames (RFC 6455, 5): the messages of clients, and the headers of frames that we send.
//!
//! Headers, opcodes and close codes come from tungstenite's frame codec. The buffers are ours, to keep an idle socket
//! small: no buffer outlives its message, whatever its size (tungstenite's own socket keeps 68 kB after one message of
//! 32 KiB), nothing is allocated for a length that a client only announces, and a frame for many sockets is made once.
//! A test compares every verdict with that of tungstenite's socket, byte by byte.
//!
//! Invariants: a message beyond the limit is refused at the header that makes it too long; text is UTF-8 when it is
//! handed out, and text that cannot become UTF-8 is refused at its first wrong byte. Pure: knows no socket and no
//! clock.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::api::Payload;

/// The longest header of a frame that we send, in bytes.
const HEADER_BYTES_MAX: usize = 10;
/// The longest header of a client's frame, which has a mask, in bytes.
const MASKED_HEADER_BYTES_MAX: usize = HEADER_BYTES_MAX + 4;
/// The longest payload of a control frame, in bytes (RFC 6455, 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// One message or control frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Message(Payload, Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    /// The code to answer with: the client's, or none if it sent none.
    Close(Option<u16>),
}

/// The rule that a client broke; the connection ends with its close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// Close code 1002.
    Protocol(&'static str),
    /// Close code 1007.
    NotUtf8,
    /// Close code 1009.
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

/// A frame whose header was read and whose payload is being read.
#[derive(Clone, Copy)]
struct Frame {
    opcode: OpCode,
    is_last: bool,
    mask: [u8; 4],
    /// Bytes of the payload read so far.
    taken: u64,
    length: u64,
}

/// Reads one client's bytes, in pieces of any size.
pub(super) struct FrameDecoder {
    message_bytes_max: usize,
    /// The first bytes of an unfinished header.
    header: [u8; MASKED_HEADER_BYTES_MAX],
    header_bytes: u8,
    frame: Option<Frame>,
    /// The kind of the unfinished message.
    payload: Option<Payload>,
    message: Vec<u8>,
    /// How many bytes of an unfinished text are known to be UTF-8.
    checked: usize,
    /// The payload of an unfinished control frame, which may come between the frames of a message.
    control: Vec<u8>,
}

impl FrameDecoder {
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

    /// Sets the longest message, of frames whose header is still to come.
    pub(super) fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    /// Takes bytes from the front of `bytes` until a message or control frame is whole, or none are left.
    ///
    /// # Errors
    /// The client broke a rule. The rest of its bytes cannot be read: the connection must be closed.
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

    /// Bytes held of an unfinished message.
    pub(super) fn gathered(&self) -> usize {
        self.message.len()
    }

    /// Whether the next byte begins a new frame and a new message.
    pub(super) fn is_at_rest(&self) -> bool {
        self.header_bytes == 0 && self.frame.is_none() && self.payload.is_none()
    }

    /// Reads a header. `false`: the header is unfinished.
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

    /// Checks a header against the state of the message. Returns its mask.
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

    /// Checks the new bytes of a text.
    fn check_text(&mut self) -> Result<(), Violation> {
        if self.payload != Some(Payload::Text) {
            return Ok(());
        }
        match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(_) => self.checked = self.message.len(),
            // The last character is unfinished.
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
                    // A reserved opcode fails at its header.
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
    // In whole words, which compilers vectorise.
    for chunk in into[at..].chunks_mut(4) {
        for (byte, mask) in chunk.iter_mut().zip(turned) {
            *byte ^= mask;
        }
    }
}

/// The code of a close frame (RFC 6455, 5.5.1 and 7.4).
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

/// The header of a frame that we send, and its length in bytes.
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

    /// The header of a message in one frame.
    pub(super) fn message(payload: Payload, payload_bytes: usize) -> Self {
        let kind = if payload == Payload::Text { Data::Text } else { Data::Binary };
        Self::new(OpCode::Data(kind), payload_bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A control frame; its payload has at most [`CONTROL_BYTES_MAX`] bytes.
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

/// A close frame, with or without a code.
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
