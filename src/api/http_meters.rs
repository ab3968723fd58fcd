//! What is counted of requests, whichever listener they came by.
//!
//! Every combination of route, method and status has a counter of its own in one array, so that counting finds its place
//! by arithmetic. Knows nothing of how requests are read.

use std::time::Duration;

use tiny_http::Method;

use crate::metrics::{Counter, FamilyText, Histogram, family};

use super::Route;
use super::route::TABLE;

/// The label of requests without a route: unknown paths, and heads that could not be read.
const NO_ROUTE: &str = "other";
/// The methods that are counted by name; the last stands for all others.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "other"];
/// The statuses that we answer with. A test finds those that are missing; at run time they count as the last.
const CODES: [&str; 28] = [
    "101", "200", "201", "202", "204", "304", "400", "401", "403", "404", "405", "408", "409", "410", "413", "414",
    "415", "417", "422", "426", "429", "431", "500", "501", "502", "503", "505", "507",
];
const CODES_AND_OTHER: usize = CODES.len() + 1;

/// One answered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its route, if one was found.
    pub route: Option<Route>,
    /// Its method, see [`method_index`].
    pub method: usize,
    /// The status of the reply.
    pub status: u16,
    /// From the whole request to its reply; `None` if no route got it, or the reply lasts as long as its client stays.
    pub took: Option<Duration>,
}

/// A method as [`Answered`] has it.
#[must_use]
pub fn method_index(method: &Method) -> usize {
    match method {
        Method::Get => 0,
        Method::Head => 1,
        Method::Post => 2,
        Method::Patch => 3,
        Method::Delete => 4,
        Method::Options => 5,
        _ => METHOD_UNKNOWN,
    }
}

/// The method of a request that could not be read.
pub const METHOD_UNKNOWN: usize = METHODS.len() - 1;

/// Counters of requests since the start.
pub struct HttpMeters {
    /// By route, method and status, in this order.
    answered: Box<[Counter]>,
    /// By route.
    seconds: Box<[Histogram]>,
}

impl HttpMeters {
    /// Nothing was answered.
    #[must_use]
    pub fn new() -> Self {
        let counters = (TABLE.len() + 1) * METHODS.len() * CODES_AND_OTHER;
        Self {
            answered: (0..counters).map(|_| Counter::default()).collect(),
            seconds: TABLE.iter().map(|_| Histogram::of_seconds(&family::HTTP_REQUEST_SECONDS)).collect(),
        }
    }

    /// Counts a request.
    pub(super) fn count(&self, answered: &Answered) {
        let route = answered.route.map_or(TABLE.len(), label_of);
        let code = CODE_INDEXES.get(usize::from(answered.status)).map_or(CODES.len(), |index| usize::from(*index));
        self.answered[(route * METHODS.len() + answered.method) * CODES_AND_OTHER + code].add(1);
        if let (Some(took), Some(seconds)) = (answered.took, self.seconds.get(route)) {
            seconds.observe(took);
        }
    }

    /// Adds what was answered; what never was is left out, since it would be thousands of series.
    pub(super) fn write_answered(&self, text: &mut FamilyText<'_>) {
        let routes = TABLE.iter().map(|(path, ..)| *path).chain([NO_ROUTE]);
        let labels = routes.flat_map(|route| METHODS.map(|method| (route, method)));
        let labels = labels
            .flat_map(|(route, method)| CODES.into_iter().chain(["other"]).map(move |code| [route, method, code]));
        for (labels, counter) in labels.zip(&self.answered).filter(|(_, counter)| counter.get() > 0) {
            text.count(&labels, counter.get());
        }
    }

    /// Adds how long the routes took.
    pub(super) fn write_seconds(&self, text: &mut FamilyText<'_>) {
        let has_label = |(index, (.., route)): &(usize, &(_, _, _, Route))| label_of(*route) == *index;
        let rows = TABLE.iter().enumerate().filter(has_label);
        for ((_, (path, ..)), seconds) in rows.map(|row| (row, &self.seconds[row.0])) {
            text.histogram(&[path], seconds);
        }
    }
}

/// The row of the table under whose path a route is counted: the first of its path.
fn label_of(route: Route) -> usize {
    let mut row = route as usize;
    while row > 0 && TABLE[row - 1].0 == TABLE[row].0 {
        row -= 1;
    }
    row
}

impl Default for HttpMeters {
    fn default() -> Self {
        Self::new()
    }
}

/// The index of each status up to 599 in [`CODES`], or that behind its end.
const CODE_INDEXES: [u8; 600] = {
    let mut indexes = [CODES.len() as u8; 600];
    let mut at = 0;
    while at < CODES.len() {
        let digits = CODES[at].as_bytes();
        let code = (digits[0] - b'0') as usize * 100 + (digits[1] - b'0') as usize * 10 + (digits[2] - b'0') as usize;
        indexes[code] = at as u8;
        at += 1;
    }
    indexes
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;
    use crate::metrics::MetricsText;

    #[test]
    fn the_table_of_routes_is_in_the_order_of_the_enum() {
        for (index, (path, .., route)) in TABLE.iter().enumerate() {
            assert_eq!(*route as usize, index, "{path}");
        }
    }

    #[test]
    fn every_request_is_counted_once_under_its_labels() {
        let meters = HttpMeters::new();
        let seen = [
            (Some(Route::Chat), Method::Post, 200),
            (Some(Route::Chat), Method::Post, 200),
            (Some(Route::Metrics), Method::Head, 507),
            (None, Method::Trace, 599),
            (None, Method::Get, 700),
        ];
        for (route, method, status) in seen {
            let took = Some(Duration::from_millis(1));
            meters.count(&Answered { route, method: method_index(&method), status, took });
        }
        let mut text = MetricsText::new();
        meters.write_answered(&mut text.family(&family::HTTP_REQUESTS));
        let text = String::from_utf8(text.into_bytes()).unwrap();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                r#"chatkeep_http_requests_total{route="/api/chat",method="POST",code="200"} 2"#,
                r#"chatkeep_http_requests_total{route="/metrics",method="HEAD",code="507"} 1"#,
                r#"chatkeep_http_requests_total{route="other",method="GET",code="other"} 1"#,
                r#"chatkeep_http_requests_total{route="other",method="other",code="other"} 1"#,
            ]
        );
        assert_eq!(meters.seconds[Route::Chat as usize].count(), 2);
    }

    #[test]
    fn every_status_in_the_sources_is_counted_by_name() {
        let mut open = vec![PathBuf::from("src/api"), PathBuf::from("src/server")];
        let mut found = BTreeSet::new();
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for before in ["Problem::new(", "StatusCode(", "json(", "json_bytes(", "full("] {
                let rest = text.match_indices(before).map(|(at, _)| text[at + before.len()..].trim_start());
                let digits = rest.filter_map(|rest| rest.get(..3).filter(|code| code.parse::<u16>().is_ok()));
                found.extend(digits.map(str::to_owned));
            }
        }
        assert!(found.len() > 15, "{found:?}");
        let missing: Vec<_> = found.iter().filter(|code| !CODES.contains(&code.as_str())).collect();
        assert!(missing.is_empty(), "not in CODES: {missing:?}");
    }
}
