//! What `GET /metrics` says, as a scraper reads it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{Client, Limit};

/// One scrape: the kind of each family by its name, and the value of each series as it is written.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The text.
    pub text: String,
    /// `counter`, `gauge` or `histogram`, by family.
    pub kinds: BTreeMap<String, String>,
    /// By name with labels, such as `a_total{b="c"}`.
    pub series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Scrapes, and reads what came, line by line.
    ///
    /// # Panics
    /// When a line is not of the format, a series stands twice or outside of its family.
    #[track_caller]
    pub fn of(client: &mut Client) -> Self {
        let reply = client.get("/metrics");
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"), "{reply}");
        let (mut kinds, mut series, mut family) = (BTreeMap::new(), BTreeMap::new(), String::new());
        let text = reply.text();
        assert!(text.ends_with('\n'), "{text}");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(words.len() > 10 && !kinds.contains_key(name), "{line}");
                name.clone_into(&mut family);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap_or_else(|| panic!("no kind: {line}"));
                assert_eq!(name, family, "{line}");
                kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
                assert!(name.starts_with(&family), "{line} stands in {family}");
                let value: f64 = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
                assert!(series.insert(name.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        Self { text, kinds, series }
    }

    /// The value of a series.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("{series} is not there:\n{}", self.text))
    }

    /// The sum of all series that begin so.
    pub fn sum(&self, begins: &str) -> f64 {
        self.series.iter().filter(|(name, _)| name.starts_with(begins)).map(|(_, value)| value).sum()
    }

    /// What rose since an earlier scrape, by series; what stayed is left out.
    pub fn since(&self, before: &Self, begins: &str) -> BTreeMap<String, f64> {
        let these = self.series.iter().filter(|(name, _)| name.starts_with(begins));
        let rose = these.map(|(name, value)| (name.clone(), value - before.series.get(name).unwrap_or(&0.0)));
        rose.filter(|(_, by)| *by != 0.0).collect()
    }
}

/// Runs promtool; returns what it said on both outputs and whether it was content. `scripts/check` installs it.
#[track_caller]
pub fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is installed (Debian: prometheus)");
    let _limit = Limit::on(&child);
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("promtool reads its input");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
