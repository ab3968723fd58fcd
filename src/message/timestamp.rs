//! Times in microseconds since 1970, and their one textual form.
//!
//! The clock is passed as a value, so that a test can turn it back, far forward or stop it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The last microsecond of the year 9999: later times have no RFC 3339 form.
const MICROS_MAX: u64 = 253_402_300_799_999_999;

/// A time: whole microseconds since 1970-01-01T00:00:00Z, up to the year 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The length of the textual form, in bytes: `2025-11-28T01:23:45.123456+00:00`.
    pub const TEXT_BYTES: usize = 32;

    /// The time `micros` after 1970; at most the end of the year 9999.
    #[must_use]
    pub fn from_micros(micros: u64) -> Self {
        Self(micros.min(MICROS_MAX))
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn micros(self) -> u64 {
        self.0
    }

    /// Reads any RFC 3339 time; times before 1970 become 1970, and digits beyond microseconds are dropped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
        Some(Self::from_micros(u64::try_from(nanos / 1000).unwrap_or(0)))
    }

    /// Reads a day, which means its beginning in UTC, or any RFC 3339 time.
    #[must_use]
    pub fn parse_day_or_time(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| Self::parse(&format!("{text}T00:00:00Z")))
    }

    /// Reads a time as other programs write it: a space for the `T`, no seconds, an offset of any form, or none, which means
    /// UTC. `None` for what is no such time of the years 1970 to 2099, or more than 15 hours from UTC.
    #[must_use]
    pub fn parse_any(text: &str) -> Option<Self> {
        let (date, rest) = text.trim_end().split_at_checked(10)?;
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let rest = ["UTC", "GMT"].iter().find_map(|name| rest.strip_suffix(name)).unwrap_or(rest);
        let (time, offset) = rest.split_at(rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len()));
        let time = time.trim_end().replace(',', ".");
        let seconds = if time.len() == 5 { ":00" } else { "" };
        let offset = offset_minutes(offset)?;
        let utc = Self::parse(&format!("{date}T{time}{seconds}Z"))?;
        let micros = i64::try_from(utc.0).ok()? - offset * 60_000_000;
        let holds = ("1970".."2100").contains(&date.get(..4)?);
        holds.then(|| Self::from_micros(u64::try_from(micros).unwrap_or(0)))
    }

    /// Writes the textual form.
    ///
    /// By hand, since this runs for every message and a format description costs several times as much.
    #[must_use]
    pub fn to_text(self) -> [u8; Self::TEXT_BYTES] {
        let seconds = i64::try_from(self.0 / 1_000_000).expect("a capped time fits");
        let date = OffsetDateTime::from_unix_timestamp(seconds).expect("a capped time has a date");
        let mut text = *b"0000-00-00T00:00:00.000000+00:00";
        let year = u64::try_from(date.year()).expect("years since 1970 are positive");
        for (at, width, value) in [
            (0, 4, year),
            (5, 2, u64::from(u8::from(date.month()))),
            (8, 2, u64::from(date.day())),
            (11, 2, u64::from(date.hour())),
            (14, 2, u64::from(date.minute())),
            (17, 2, u64::from(date.second())),
            (20, 6, self.0 % 1_000_000),
        ] {
            digits(&mut text[at..at + width], value);
        }
        text
    }
}

/// `Z`, `±HH`, `±HHMM`, `±HH:MM` or nothing.
fn offset_minutes(text: &str) -> Option<i64> {
    let sign = match text.chars().next() {
        None | Some('Z' | 'z') => return (text.len() <= 1).then_some(0),
        Some('-') => -1,
        Some(_) => 1,
    };
    let digits = text[1..].replacen(':', "", 1);
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i64>().ok()).flatten();
    let (hours, minutes) = match digits.len() {
        2 => (number(&digits)?, 0),
        4 => (number(&digits[..2])?, number(&digits[2..])?),
        _ => return None,
    };
    (hours * 60 + minutes <= 15 * 60 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

/// Writes `value` right-aligned with leading zeros.
fn digits(to: &mut [u8], mut value: u64) {
    for place in to.iter_mut().rev() {
        *place = b'0' + u8::try_from(value % 10).expect("one digit");
        value /= 10;
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.to_text()).expect("digits are ASCII"))
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.to_text()).expect("digits are ASCII"))
    }
}

/// Tells the time of day: the system's, or one a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that shows the microseconds in `micros`.
    #[must_use]
    pub fn fixed(micros: Arc<AtomicU64>) -> Self {
        Self(Some(micros))
    }

    /// Now. A system clock before 1970 reads as 1970.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(match &self.0 {
            Some(micros) => micros.load(Ordering::Relaxed),
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_printed_with_microseconds_and_an_offset() {
        let time = Timestamp::parse("2025-11-28T01:23:45.123456Z").unwrap();
        assert_eq!(time.to_string(), "2025-11-28T01:23:45.123456+00:00");
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000+00:00");
    }

    #[test]
    fn every_offset_and_precision_reads_as_the_same_moment() {
        let wanted = Timestamp::parse("2025-11-28T01:23:45+00:00");
        assert!(wanted.is_some());
        for text in ["2025-11-28T02:23:45+01:00", "2025-11-28T01:23:45.000000Z", "2025-11-28T01:23:45.0000009Z"] {
            assert_eq!(Timestamp::parse(text), wanted, "{text}");
        }
        for text in ["", "yesterday", "2025-11-28", "2025-13-01T00:00:00Z"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_is_its_beginning_and_a_time_is_itself() {
        let day = Timestamp::parse("2025-11-28T00:00:00Z");
        assert_eq!(Timestamp::parse_day_or_time("2025-11-28"), day);
        assert_eq!(Timestamp::parse_day_or_time("2025-11-28T01:00:00+01:00"), day);
        for text in ["", "yesterday", "2025-11-31", "2025-11", "2025-11-28T01:00"] {
            assert_eq!(Timestamp::parse_day_or_time(text), None, "{text}");
        }
    }

    #[test]
    fn times_of_other_programs_are_read_in_their_forms() {
        let wanted = Timestamp::parse("2025-11-28T01:23:45.5Z");
        for text in [
            "2025-11-28T01:23:45.5",
            "2025-11-28 01:23:45.500000",
            "2025-11-28 01:23:45.5 UTC",
            "2025-11-28 03:23:45.5+0200",
            "2025-11-28T03:23:45,5+02",
            "2025-11-27T21:23:45.5-04:00",
            "2025-11-28t01:23:45.5z",
        ] {
            assert_eq!(Timestamp::parse_any(text), wanted, "{text}");
        }
        assert_eq!(Timestamp::parse_any("2025-11-28 01:23"), Timestamp::parse("2025-11-28T01:23:00Z"));
        for text in [
            "",
            "2025-11-28",
            "yesterday at noon",
            "28.11.2025 01:23:45",
            "2025-11-28T01:23:45+16:00",
            "2025-11-28T25:23:45",
            "2025-11-28T01:23:45+1",
            "2025-11-28T01:23:45Zulu",
            "2025-11-28T01:23:45+\u{e4}",
            "2100-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(Timestamp::parse_any(text), None, "{text}");
        }
    }

    #[test]
    fn the_far_future_is_capped_and_not_a_panic() {
        assert_eq!(Timestamp::from_micros(u64::MAX).to_string(), "9999-12-31T23:59:59.999999+00:00");
    }
}
