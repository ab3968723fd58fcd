//! `GET /` and `GET /console/{file}`: the console, a page for people, built in.
//!
//! Its files are those of `src/console/`; `build/console.rs` makes the table of them. They are the same for everybody and
//! hold no data, so they need no token: what the page shows it asks of the other routes, with the user's.
//!
//! A file is kept gzipped. A client that takes no gzip gets it inflated, anew for each request: that is rare, and at most
//! some hundred kilobytes.

use std::io::{Cursor, Read as _};

use flate2::read::GzDecoder;
use tiny_http::{Header, Response, StatusCode};

use super::http::full;
use super::{Problem, Reply, RequestHead, header};

/// A file of the console.
struct ConsoleFile {
    /// Where it is served.
    path: &'static str,
    content_type: &'static str,
    /// Tells its content from that of other versions.
    digest: &'static str,
    /// The length of its content.
    bytes: usize,
    gzipped: &'static [u8],
}

static FILES: &[ConsoleFile] = &include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// What the page may do: run its own scripts and styles, and talk to its own server. Text can become neither markup nor
/// script, whatever stands in a message, and no other page can frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// `GET /` and `GET /console/{file}`; `is_on`: `server.console`.
///
/// # Errors
/// 404: there is no such file, or the console is switched off.
pub(super) fn read(head: &RequestHead<'_>, is_on: bool) -> Result<Reply, Problem> {
    if !is_on {
        return Err(Problem::new(404, "not_found", "the console is switched off: server.console is false"));
    }
    let file = FILES.iter().find(|file| file.path == head.path).ok_or_else(|| Problem::not_found(head.path))?;
    let is_gzipped = head.prefers_gzip();
    // Of two codings of a file each has a tag of its own (RFC 9110, 8.8.3.3).
    let tag = format!("\"{}{}\"", file.digest, if is_gzipped { "-gzip" } else { "" });
    let is_known = head.elements("If-None-Match").any(|known| known == "*" || opaque(known) == tag);
    let headers = file.headers(&tag, is_gzipped);
    if is_known {
        // With the length that 200 would have (RFC 9110, 8.6).
        let length = if is_gzipped { file.gzipped.len() } else { file.bytes };
        return Ok(Reply::Full(Response::new(StatusCode(304), headers, Cursor::default(), Some(length), None)));
    }
    let body = if is_gzipped { file.gzipped.to_vec() } else { file.inflated() };
    Ok(full(200, headers, body))
}

impl ConsoleFile {
    fn headers(&self, tag: &str, is_gzipped: bool) -> Vec<Header> {
        let mut headers = vec![
            header("Content-Type", self.content_type),
            header("Vary", "Accept-Encoding"),
            header("ETag", tag),
            // Asked for anew each time, so that a page never runs with the scripts of another version.
            header("Cache-Control", "no-cache"),
            header("Content-Security-Policy", CONTENT_SECURITY_POLICY),
            header("Referrer-Policy", "no-referrer"),
            header("Cross-Origin-Opener-Policy", "same-origin"),
            header("Cross-Origin-Resource-Policy", "same-origin"),
        ];
        if is_gzipped {
            headers.push(header("Content-Encoding", "gzip"));
        }
        headers
    }

    fn inflated(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.bytes);
        GzDecoder::new(self.gzipped).read_to_end(&mut content).expect("the build has gzipped it");
        content
    }
}

/// A tag without what marks it as weak: `If-None-Match` compares so (RFC 9110, 13.1.2).
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}
