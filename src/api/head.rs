//! A request without its body, as listeners hand it to routes, and how its fields are read.
//!
//! The types are tiny_http's, as in `http.rs`. Knows nothing of what is asked.

use tiny_http::{Header, Method};

use crate::access::Principal;
use crate::chat::{Presence, Transport};

use super::problem::ErrorFormat;
use super::{Problem, Reply};

/// A request without its body.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target's path as sent: starts with `/`, still percent-encoded.
    pub path: &'a str,
    /// The target's query as sent, without the `?`; empty when there is none.
    pub query: &'a str,
    /// The header fields, in order. Values that are not ASCII are left out by the listener.
    pub headers: &'a [Header],
    /// A field that matters here and was left out because it is not ASCII.
    pub left_out: Option<&'static str>,
    /// The listener.
    pub transport: Transport,
    /// The sender, and what it may do.
    pub caller: &'a Principal,
    /// Whether the sender is still there.
    pub presence: Presence<'a>,
    /// The id of this request in logs and replies.
    pub request_id: &'a str,
}

impl<'a> RequestHead<'a> {
    /// The value of the first field of that name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<&'a str> {
        self.headers.iter().find(|h| h.field.equiv(name)).map(|h| h.value.as_str())
    }

    /// The reply with a problem, in the shape that its path has.
    #[must_use]
    pub fn refusal(&self, problem: &Problem) -> Reply {
        problem.reply(ErrorFormat::of(self.path), self.request_id)
    }

    /// The value of a field that may occur once.
    ///
    /// # Errors
    /// 422: it occurs more than once, so its value is unclear.
    pub(super) fn single(&self, name: &'static str) -> Result<Option<&'a str>, Problem> {
        let mut values = self.headers.iter().filter(|h| h.field.equiv(name)).map(|h| h.value.as_str());
        let first = values.next();
        if values.next().is_some() { Err(Problem::field(name, "must be given once")) } else { Ok(first) }
    }

    /// The elements of a field that is a list, over all fields of that name.
    pub(super) fn elements(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let values = self.headers.iter().filter(move |h| h.field.equiv(name)).map(|h| h.value.as_str());
        values.flat_map(|value| value.split(',')).map(str::trim)
    }

    /// The media type that the client prefers (RFC 9110, 12.5.1): of several with equal weight the first, and the first
    /// of all if it accepts none.
    pub(super) fn preferred<T: Copy>(&self, offered: &[(&str, T)]) -> T {
        let mut best = (0, offered[0].1);
        for (kind, form) in offered {
            let quality = self.quality(kind);
            if quality > best.0 {
                best = (quality, *form);
            }
        }
        best.1
    }

    /// The weight of a media type, in thousandths; 0 for a type that `Accept` does not mention while it mentions
    /// others.
    fn quality(&self, kind: &str) -> u16 {
        let ranges = self.elements("Accept").filter(|range| !range.is_empty());
        let fitting = ranges.map(|range| fit(range, kind));
        // The most specific range decides.
        let Some(fit) = fitting.max() else { return 1000 };
        if fit.0 > 0 { fit.1 } else { 0 }
    }

    /// Whether the client would rather have a reply gzipped than as it is (RFC 9110, 12.5.3). One that does not say what it
    /// takes gets it as it is: most such clients cannot inflate.
    pub(super) fn prefers_gzip(&self) -> bool {
        let weight = |names: &[&str]| {
            let codings = self.elements("Accept-Encoding").map(weighted);
            let fitting = codings.filter(|(coding, _)| names.iter().any(|name| coding.eq_ignore_ascii_case(name)));
            fitting.map(|(_, weight)| weight).max()
        };
        let gzip = weight(&["gzip", "x-gzip"]).or_else(|| weight(&["*"])).unwrap_or(0);
        gzip > 0 && gzip >= weight(&["identity"]).unwrap_or(0)
    }
}

/// How specifically a range of `Accept` matches a media type (3: by name, 0: not at all), and its weight.
fn fit(range: &str, kind: &str) -> (u8, u16) {
    let (name, weight) = weighted(range);
    let (group, _) = kind.split_once('/').unwrap_or((kind, ""));
    let closeness = match name.split_once('/') {
        Some(("*", "*")) => 1,
        Some((of, "*")) if of.eq_ignore_ascii_case(group) => 2,
        _ if name.eq_ignore_ascii_case(kind) => 3,
        _ => 0,
    };
    (closeness, weight)
}

/// An element of a list of what is accepted, and its weight.
fn weighted(element: &str) -> (&str, u16) {
    let mut parts = element.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let weights = parts.filter_map(|part| part.split_once('='));
    let mut weight = weights.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q")).map(|(_, weight)| weight.trim());
    (name, weight.next_back().map_or(1000, thousandths))
}

/// A weight, `0.` with up to three digits or `1`; an invalid one counts as the least.
fn thousandths(weight: &str) -> u16 {
    let weight: f32 = weight.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0);
    (weight * 1000.0).round() as u16
}

#[cfg(test)]
mod tests {
    use super::super::header;
    use super::*;
    use crate::access::Access;

    /// What `read` makes of a head with these fields.
    fn with<T>(name: &str, values: &[&str], read: impl Fn(&RequestHead<'_>) -> T) -> T {
        let headers: Vec<Header> = values.iter().map(|value| header(name, value)).collect();
        let (method, path, query, headers) = (&Method::Get, "/", "", &headers);
        let (transport, request_id, left_out) = (Transport::Tcp, "r", None);
        let (caller, presence) = (&Principal::without_token(Access::Admin), Presence::UNSEEN);
        read(&RequestHead { method, path, query, headers, left_out, transport, caller, presence, request_id })
    }

    #[test]
    fn what_is_accepted_is_read_by_weight_and_by_closeness() {
        let forms = [("application/json", 'j'), ("application/x-ndjson", 'n'), ("text/event-stream", 's')];
        for (accepts, wanted) in [
            (&[][..], 'j'),
            (&[""], 'j'),
            (&["*/*"], 'j'),
            (&["text/event-stream"], 's'),
            (&["Text/Event-Stream"], 's'),
            (&["text/*"], 's'),
            (&["application/json, text/event-stream"], 'j'),
            (&["text/event-stream", "application/json;q=0.9"], 's'),
            (&["application/json ; q=0.5,application/x-ndjson;Q=0.6", "text/event-stream;q=0.55"], 'n'),
            (&["text/event-stream;q=0, */*"], 'j'),
            (&["application/json;q=0, */*;q=0.1"], 'n'),
            (&["application/*;q=0.2, application/x-ndjson;q=0.1, text/event-stream;q=0.15"], 'j'),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], 'j'),
            (&["text/event-streams"], 'j'),
            (&["text/event-stream;q=x"], 'j'),
            (&["text/event-stream;charset=utf-8"], 's'),
        ] {
            let preferred = with("Accept", accepts, |head| head.preferred(&forms));
            assert_eq!(preferred, wanted, "{accepts:?}");
        }
    }

    #[test]
    fn gzip_is_taken_where_it_is_named_and_nothing_weighs_more() {
        for (accepts, wanted) in [
            (&[][..], false),
            (&[""], false),
            (&["gzip"], true),
            (&["GZip"], true),
            (&["x-gzip"], true),
            (&["*"], true),
            (&["gzip, deflate, br, zstd"], true),
            (&["br", "deflate, gzip;q=0.1"], true),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000, *"], false),
            (&["*;q=0"], false),
            (&["br, deflate"], false),
            (&["identity"], false),
            (&["identity, gzip"], true),
            (&["identity, gzip;q=0.5"], false),
            (&["identity;q=0.5, gzip;q=1.0"], true),
            (&["identity;q=0"], false),
            (&["identity;q=0, *;q=0.1"], true),
            (&["gzip;q=x"], false),
            (&["gzipped"], false),
        ] {
            assert!(with("Accept-Encoding", accepts, |head| head.prefers_gzip() == wanted), "{accepts:?}");
        }
    }
}
