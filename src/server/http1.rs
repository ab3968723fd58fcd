//! The head of an HTTP/1.x request: where it ends, what it says, and whether it is valid.
//!
//! Requests are smuggled when two readers of one byte stream disagree on where a request ends. So everything that RFC
//! 9112 allows a receiver to tolerate is refused here: bare CR or LF, folded lines, control bytes, a second
//! `Content-Length`, any coding but `chunked`. `httparse` parses; it tolerates some of these, so [`Scan`] checks the
//! bytes first.
//!
//! Invariants: a head longer than [`HEAD_BYTES_MAX`] is refused without being stored; nothing is allocated for a number
//! that the client names. Pure: knows no socket, no clock, and no policy on Host or Origin (guard.rs).

use std::mem::MaybeUninit;

use tiny_http::{Header, Method};

use crate::access::Principal;
use crate::api::{Presence, Problem, RequestHead, Transport};

/// The longest head, in bytes, from the request line to the empty line. Longer: 431, close.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest request target, in bytes. Longer: 414, close.
const TARGET_BYTES_MAX: usize = 8 * 1024;
/// The most header fields. More: 431, close.
const FIELDS_MAX: usize = 100;
/// Empty lines tolerated before a request line (RFC 9112, 2.2). More: 400, close.
const BLANK_LINES_MAX: usize = 2;
/// Space for the method and the version next to the longest target.
const REQUEST_LINE_BYTES_MAX: usize = TARGET_BYTES_MAX + 64;
/// The longest `X-ParsedRequest-ID` of a client that is used as it is.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Fields that the service must not miss: without them a request would be another one.
const MEANT: [&str; 8] = [
    "Idempotency-Key",
    "Last-Event-ID",
    "Content-Encoding",
    "X-Chatkeep-On-Disconnect",
    "X-Chatkeep-Record",
    "X-Conversation-Id",
    "X-Session-Id",
    "X-OpenWebUI-Chat-Id",
];

/// A request that cannot be read: 400.
pub(super) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(400, "malformed_request", detail)
}

/// Finds the end of a head in bytes that arrive piece by piece; reads each byte once.
#[derive(Default)]
pub(super) struct Scan {
    /// The next byte to be read.
    at: usize,
    /// Where its line begins.
    line: usize,
    /// Complete lines that were not empty.
    lines: usize,
    /// Empty lines before the first one.
    blank: usize,
    /// Where the request line begins.
    start: usize,
}

impl Scan {
    /// Scans the new bytes of `bytes`, which only ever grows. `Some`: where the head begins and ends.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<(usize, usize)>, Problem> {
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'\r' => match bytes.get(self.at + 1) {
                    None => break,
                    Some(b'\n') => {
                        if let Some(end) = self.line_ended()? {
                            return Ok(Some((self.start, end)));
                        }
                        continue;
                    }
                    Some(_) => return Err(malformed("a bare CR stands in the head")),
                },
                b'\n' => return Err(malformed("a bare LF stands in the head; lines end with CR LF")),
                b' ' | b'\t' if self.at == self.line => {
                    return Err(malformed("a line of the head begins with white space"));
                }
                b'\t' if self.lines > 0 => {}
                0..=0x1f | 0x7f => return Err(malformed("a control byte stands in the head")),
                _ => {}
            }
            self.at += 1;
        }
        self.check_size()?;
        Ok(None)
    }

    /// Takes the CR LF at `at`; `Some`: it is the empty line that ends the head, whose end is returned.
    fn line_ended(&mut self) -> Result<Option<usize>, Problem> {
        let empty = self.at == self.line;
        self.check_size()?;
        self.at += 2;
        self.line = self.at;
        match (empty, self.lines) {
            (true, 0) if self.blank == BLANK_LINES_MAX => Err(malformed("empty lines stand before the request line")),
            (true, 0) => {
                self.blank += 1;
                self.start = self.at;
                Ok(None)
            }
            (true, _) => Ok(Some(self.at)),
            (false, lines) if lines > FIELDS_MAX => Err(too_many_fields()),
            (false, _) => {
                self.lines += 1;
                Ok(None)
            }
        }
    }

    fn check_size(&self) -> Result<(), Problem> {
        if self.lines == 0 && self.at - self.line > REQUEST_LINE_BYTES_MAX {
            return Err(target_too_long());
        }
        if self.at - self.start > HEAD_BYTES_MAX - 2 {
            return Err(Problem::new(431, "head_too_large", format!("a head may have {HEAD_BYTES_MAX} bytes")));
        }
        Ok(())
    }
}

fn too_many_fields() -> Problem {
    Problem::new(431, "head_too_large", format!("a head may have {FIELDS_MAX} fields"))
}

fn target_too_long() -> Problem {
    Problem::new(414, "target_too_long", format!("a request target may have {TARGET_BYTES_MAX} bytes"))
}

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// That many bytes, never zero.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A parsed head.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    pub(super) method: Method,
    /// Path and query.
    target: String,
    /// Where in it the path ends.
    path_end: usize,
    /// All fields whose values are ASCII.
    pub(super) headers: Vec<Header>,
    /// A field of [`MEANT`] that is not among them, as its value is not ASCII.
    left_out: Option<&'static str>,
    /// HTTP/1.1, else 1.0.
    pub(super) is_http11: bool,
    pub(super) framing: Framing,
    /// The client waits for `100 Continue`.
    pub(super) expects_continue: bool,
    /// The client expects something else: 417.
    pub(super) expects_unknown: bool,
    /// The connection may serve another request after this one.
    pub(super) keep_alive: bool,
}

impl ParsedRequest {
    /// A request that another parser has read, checked by the same rules of framing.
    pub(super) fn new(method: Method, target: String, headers: Vec<Header>, is_http11: bool) -> Result<Self, Problem> {
        let mut fields = FramingFields::default();
        for Header { field, value } in &headers {
            fields.add(field.as_str().as_str(), value.as_str().as_bytes());
        }
        let request = fields.request(method, target, is_http11)?;
        Ok(Self { headers, ..request })
    }

    /// The head without its framing.
    pub(super) fn head<'a>(
        &'a self,
        transport: Transport,
        caller: &'a Principal,
        presence: Presence<'a>,
        request_id: &'a str,
    ) -> RequestHead<'a> {
        let (path, query, headers, left_out) = (self.path(), self.query(), &self.headers, self.left_out);
        RequestHead { method: &self.method, path, query, headers, left_out, transport, caller, presence, request_id }
    }

    pub(super) fn path(&self) -> &str {
        &self.target[..self.path_end]
    }

    pub(super) fn query(&self) -> &str {
        self.target.get(self.path_end + 1..).unwrap_or_default()
    }
}

/// What guard.rs checks, as sent: fields with bytes beyond ASCII are included.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AccessFields<'b> {
    /// The host the request is for, with its port: that of an absolute target, else `Host`; valid by its grammar.
    /// `None` only for HTTP/1.0.
    pub(super) host: Option<&'b str>,
    /// `Origin`.
    pub(super) origin: Once<'b>,
    /// `Sec-Fetch-Site`.
    pub(super) fetch_site: Once<'b>,
    /// `Sec-Fetch-Mode`.
    pub(super) fetch_mode: Once<'b>,
    /// `Sec-Fetch-Dest`.
    pub(super) fetch_dest: Once<'b>,
    /// `Authorization`.
    pub(super) authorization: Once<'b>,
    /// `Sec-WebSocket-Protocol`, which may carry a token.
    pub(super) protocols: Once<'b>,
    /// `Access-Control-ParsedRequest-Method` is there.
    pub(super) is_preflight: bool,
}

/// A field that may occur once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Once<'b> {
    #[default]
    Absent,
    Given(&'b [u8]),
    Repeated,
}

impl<'b> Once<'b> {
    fn add(&mut self, value: &'b [u8]) {
        *self = if matches!(self, Self::Absent) { Self::Given(value) } else { Self::Repeated };
    }
}

/// The fields that frame a request, while they are read.
#[derive(Default)]
struct FramingFields<'b> {
    asked: AccessFields<'b>,
    host: Once<'b>,
    content_length: Once<'b>,
    transfer_encoding: Once<'b>,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    expects_unknown: bool,
}

impl<'b> FramingFields<'b> {
    fn add(&mut self, name: &str, value: &'b [u8]) {
        // By length first: most fields of most requests are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => self.host.add(value),
            6 if name.eq_ignore_ascii_case("origin") => self.asked.origin.add(value),
            6 if name.eq_ignore_ascii_case("expect") => match value.eq_ignore_ascii_case(b"100-continue") {
                true => self.expects_continue = true,
                false => self.expects_unknown = true,
            },
            10 if name.eq_ignore_ascii_case("connection") => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            13 if name.eq_ignore_ascii_case("authorization") => self.asked.authorization.add(value),
            14 if name.eq_ignore_ascii_case("content-length") => self.content_length.add(value),
            14 if name.eq_ignore_ascii_case("sec-fetch-site") => self.asked.fetch_site.add(value),
            14 if name.eq_ignore_ascii_case("sec-fetch-mode") => self.asked.fetch_mode.add(value),
            14 if name.eq_ignore_ascii_case("sec-fetch-dest") => self.asked.fetch_dest.add(value),
            17 if name.eq_ignore_ascii_case("transfer-encoding") => self.transfer_encoding.add(value),
            22 if name.eq_ignore_ascii_case("sec-websocket-protocol") => self.asked.protocols.add(value),
            29 if name.eq_ignore_ascii_case("access-control-request-method") => self.asked.is_preflight = true,
            _ => {}
        }
    }

    /// RFC 9112, 6.3, without its leniency.
    fn framing(&self, is_http11: bool) -> Result<Framing, Problem> {
        match (self.transfer_encoding, self.content_length) {
            (Once::Absent, Once::Absent) => Ok(Framing::None),
            (Once::Absent, Once::Given(value)) => Ok(match content_length(value)? {
                0 => Framing::None,
                length => Framing::Length(length),
            }),
            (Once::Absent, Once::Repeated) => Err(malformed("Content-Length may stand once")),
            (_, Once::Given(_) | Once::Repeated) => {
                Err(malformed("Content-Length and Transfer-Encoding exclude each other"))
            }
            _ if !is_http11 => Err(malformed("HTTP/1.0 has no Transfer-Encoding")),
            (Once::Given(value), _) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            _ => Err(Problem::new(501, "transfer_coding", "the only transfer coding served is: chunked")),
        }
    }

    fn host(&self, is_http11: bool) -> Result<Option<&'b str>, Problem> {
        match self.host {
            Once::Absent if is_http11 => Err(malformed("Host is missing")),
            Once::Absent => Ok(None),
            Once::Given(value) => valid_host(value).map(Some).ok_or_else(|| malformed("Host is not a host")),
            Once::Repeated => Err(malformed("Host may stand once")),
        }
    }

    /// The request with that target and these fields, without its headers.
    fn request(&self, method: Method, target: String, is_http11: bool) -> Result<ParsedRequest, Problem> {
        Ok(ParsedRequest {
            path_end: target.find('?').unwrap_or(target.len()),
            framing: self.framing(is_http11)?,
            // RFC 9110, 10.1.1: an expectation in HTTP/1.0 is ignored.
            expects_continue: is_http11 && self.expects_continue,
            expects_unknown: is_http11 && self.expects_unknown,
            keep_alive: !self.close && (is_http11 || self.keep_alive),
            method,
            target,
            headers: Vec::new(),
            left_out: None,
            is_http11,
        })
    }
}

/// Parses the head in `bytes`, which [`Scan`] has found whole. `request_id` is set as soon as a valid one is read, so
/// that a refusal carries it too.
pub(super) fn parse<'b>(
    bytes: &'b [u8],
    request_id: &mut Option<String>,
) -> Result<(ParsedRequest, AccessFields<'b>), Problem> {
    let (target, is_http11) = request_line(bytes)?;
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, &mut room) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(malformed("the head is not whole")),
        Err(httparse::Error::TooManyHeaders) => return Err(too_many_fields()),
        Err(fault) => return Err(malformed(format!("the head cannot be read: {fault}"))),
    }
    let mut fields = FramingFields::default();
    let (mut headers, mut left_out) = (Vec::with_capacity(parsed.headers.len()), None);
    for field in parsed.headers.iter() {
        fields.add(field.name, field.value);
        if request_id.is_none() && field.name.eq_ignore_ascii_case("x-request-id") && is_sane_id(field.value) {
            *request_id = std::str::from_utf8(field.value).ok().map(str::to_owned);
        }
        match Header::from_bytes(field.name, field.value) {
            Ok(header) => headers.push(header),
            Err(()) => left_out = left_out.or(MEANT.into_iter().find(|name| name.eq_ignore_ascii_case(field.name))),
        }
    }
    let method = parsed.method.unwrap_or_default().parse().map_err(|()| malformed("the method cannot be read"))?;
    let mut asked = fields.asked;
    asked.host = fields.host(is_http11)?;
    let target = split_target(target, &mut asked)?;
    let request = fields.request(method, target, is_http11)?;
    Ok((ParsedRequest { headers, left_out, ..request }, asked))
}

/// Splits `METHOD SP TARGET SP VERSION`; the version is checked before anything else.
fn request_line(bytes: &[u8]) -> Result<(&str, bool), Problem> {
    let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("a request line is: METHOD target HTTP/1.1"));
    };
    let is_http11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Problem::new(505, "http_version", "only HTTP/1.1 and HTTP/1.0 are served"));
        }
        _ => return Err(malformed("a request line is: METHOD target HTTP/1.1")),
    };
    if target.len() > TARGET_BYTES_MAX {
        return Err(target_too_long());
    }
    let is_visible = |b: &u8| b.is_ascii_graphic() && *b != b'#';
    if method.is_empty() || target.is_empty() || !target.iter().all(is_visible) {
        return Err(malformed("the request target may have visible ASCII characters only, and no fragment"));
    }
    let target = std::str::from_utf8(target).map_err(|_| malformed("the request target is not ASCII"))?;
    Ok((target, is_http11))
}

/// Path and query of a target in origin or absolute form; the latter's host replaces `Host` (RFC 9112, 3.2.2).
fn split_target<'b>(target: &'b str, asked: &mut AccessFields<'b>) -> Result<String, Problem> {
    if target.starts_with('/') {
        return Ok(target.to_owned());
    }
    let wrong = || malformed("a request target is a path, or http://host/path");
    let (scheme, rest) = target.split_once("://").ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(wrong());
    }
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    asked.host = Some(valid_host(host.as_bytes()).ok_or_else(wrong)?);
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// A decimal number and nothing else: no sign, no list, no space, no overflow.
fn content_length(value: &[u8]) -> Result<u64, Problem> {
    let digits = std::str::from_utf8(value).ok().filter(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|d| d.parse().ok()).ok_or_else(|| malformed("Content-Length is not a decimal number of bytes"))
}

/// `host [":" port]` by RFC 3986, without user information; never empty.
fn valid_host(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let (host, port) = split_port(text)?;
    let is_port = port.is_none_or(|p| p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()));
    let is_host = match host.strip_prefix('[') {
        Some(literal) => {
            let inner = literal.strip_suffix(']')?;
            !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.')
        }
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&b)),
    };
    (is_port && is_host && text.len() <= 255 + 6).then_some(text)
}

/// Splits the port from a host. `None`: the brackets of a literal do not close.
pub(super) fn split_port(host: &str) -> Option<(&str, Option<&str>)> {
    let name_end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(name_end);
    match port.strip_prefix(':') {
        Some(port) => Some((name, Some(port))),
        None => port.is_empty().then_some((name, None)),
    }
}

/// Whether a client's `X-ParsedRequest-ID` may be used in our log and reply.
pub(super) fn is_sane_id(value: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
        && value.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

#[cfg(test)]
mod tests;
