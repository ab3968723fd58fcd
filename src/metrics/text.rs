//! The text format of Prometheus, version 0.0.4.
//!
//! Only values of labels are escaped; everything else comes from the table. Knows nothing of requests.

use std::fmt::Write as _;

use super::{Family, Histogram};

/// The media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Builds the text, family by family.
#[derive(Debug, Default)]
pub struct MetricsText {
    out: String,
}

/// Adds the series of one family.
#[derive(Debug)]
pub struct FamilyText<'a> {
    out: &'a mut String,
    family: &'static Family,
}

impl MetricsText {
    /// An empty text.
    #[must_use]
    pub fn new() -> Self {
        Self { out: String::with_capacity(32 << 10) }
    }

    /// Begins a family: its help and its kind. A family is begun once.
    pub fn family(&mut self, family: &'static Family) -> FamilyText<'_> {
        let Family { name, help, kind, .. } = family;
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        FamilyText { out: &mut self.out, family }
    }

    /// A family with one series and no labels.
    pub fn value(&mut self, family: &'static Family, value: f64) {
        self.family(family).series(&[], value);
    }

    /// The same for a counter or a whole number.
    pub fn number(&mut self, family: &'static Family, value: u64) {
        self.family(family).count(&[], value);
    }

    /// The whole text.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.out.into_bytes()
    }
}

impl FamilyText<'_> {
    /// Adds a series; `labels` are values in the order of the table.
    pub fn series(&mut self, labels: &[&str], value: f64) -> &mut Self {
        self.out.push_str(self.family.name);
        self.labels(labels, None);
        let _ = writeln!(self.out, " {value}");
        self
    }

    /// The same for a counter or a whole number.
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    pub fn count(&mut self, labels: &[&str], value: u64) -> &mut Self {
        self.series(labels, value as f64)
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, labels: &[&str], histogram: &Histogram) -> &mut Self {
        let name = self.family.name;
        let bounds = self.family.buckets.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let mut all = 0;
        for (bound, count) in bounds.zip(histogram.cumulative()) {
            let _ = write!(self.out, "{name}_bucket");
            self.labels(labels, Some(&bound));
            let _ = writeln!(self.out, " {count}");
            all = count;
        }
        for (end, value) in [("_sum", histogram.sum().to_string()), ("_count", all.to_string())] {
            let _ = write!(self.out, "{name}{end}");
            self.labels(labels, None);
            let _ = writeln!(self.out, " {value}");
        }
        self
    }

    fn labels(&mut self, values: &[&str], bound: Option<&str>) {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        let labels = self.family.labels.iter().copied().zip(values.iter().copied());
        let mut separator = '{';
        for (label, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            let _ = write!(self.out, "{separator}{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str(r"\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    c => self.out.push(c),
                }
            }
            self.out.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::family;
    use super::*;

    #[test]
    fn a_family_is_its_help_its_kind_and_its_series() {
        let mut text = MetricsText::new();
        text.family(&family::WARNINGS).series(&["a\"b\\c\nd"], 1.0).series(&["e"], 0.5);
        text.number(&family::JOURNAL_BYTES, 1 << 40);
        let histogram = Histogram::of_numbers(&family::JOURNAL_BATCH_RECORDS);
        histogram.observe_number(2);
        text.family(&family::JOURNAL_BATCH_RECORDS).histogram(&[], &histogram);
        let text = String::from_utf8(text.into_bytes()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("# HELP chatkeep_warnings 1 for each"), "{text}");
        assert_eq!(
            lines[1..4],
            [
                "# TYPE chatkeep_warnings gauge",
                r#"chatkeep_warnings{kind="a\"b\\c\nd"} 1"#,
                r#"chatkeep_warnings{kind="e"} 0.5"#
            ]
        );
        assert_eq!(lines[6], "chatkeep_journal_bytes 1099511627776");
        assert_eq!(lines[9], r#"chatkeep_journal_batch_records_bucket{le="1"} 0"#);
        assert_eq!(lines[10], r#"chatkeep_journal_batch_records_bucket{le="2"} 1"#);
        let end = &lines[lines.len() - 3..];
        assert_eq!(end[0], r#"chatkeep_journal_batch_records_bucket{le="+Inf"} 1"#);
        assert_eq!(end[1..], ["chatkeep_journal_batch_records_sum 2", "chatkeep_journal_batch_records_count 1"]);
    }
}
