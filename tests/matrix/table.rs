//! The table of the fault matrix: runs rows, and tells of each how many messages were acknowledged, lost and there twice, and how
//! long the server took to recover. `scripts/faults` prints it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use crate::support::Trial;

/// One fault.
pub struct Row {
    /// What happens.
    pub fault: &'static str,
    /// What the row needs of this machine.
    pub needs: &'static [Need],
    /// What is run.
    pub run: Run,
}

/// A name, and a shell command that succeeds where it is there.
pub type Need = (&'static str, &'static str);

/// What a row runs.
pub enum Run {
    /// The real binary under load, with an oracle.
    Real(fn(&Trial)),
    /// A test of the real binary, by its program and name.
    Test(&'static str, &'static str),
    /// A test of the library, by its name: the real code on a disk in memory. It tells how many cases it ran.
    Simulated(&'static str),
}

/// What came of a row.
#[derive(Default)]
pub struct Line {
    fault: &'static str,
    how: &'static str,
    rounds: usize,
    acknowledged: usize,
    lost: usize,
    twice: usize,
    times: [Option<Duration>; 2],
    is_simulated: bool,
    /// Why it did not pass.
    fault_found: Option<String>,
}

/// The heading.
pub const HEAD: &str = "\
| fault | how | rounds | acknowledged | lost | twice | write after, s | drained after, s | |\n\
|---|---|---:|---:|---:|---:|---:|---:|---|";

impl Row {
    /// Runs it so many times, up to its first failure.
    pub fn run(&self, rounds: usize) -> Line {
        let mut line = Line { fault: self.fault, ..Line::default() };
        line.how = match self.run {
            Run::Real(_) => "real binary",
            Run::Test(..) => "its test",
            Run::Simulated(_) => "simulated disk",
        };
        if let Some((name, probe)) = self.needs.iter().find(|(_, probe)| !succeeds(probe)) {
            line.fault_found = Some(format!("not run: it needs {name}, and `{probe}` fails"));
            return line;
        }
        match self.run {
            Run::Real(row) => (0..rounds).all(|_| line.add_round(self.fault, row)),
            Run::Test(program, name) => line.add_test(&["--test", program], name, rounds),
            Run::Simulated(name) => line.add_test(&["--lib"], name, rounds),
        };
        line
    }
}

fn succeeds(probe: &str) -> bool {
    Command::new("sh").arg("-c").arg(probe).output().is_ok_and(|output| output.status.success())
}

impl Line {
    /// Whether nothing is lost or there twice, and everything was run and as it should be.
    pub fn is_passed(&self) -> bool {
        self.lost + self.twice == 0 && self.fault_found.is_none()
    }

    /// Whether it passed.
    fn add_round(&mut self, name: &str, row: fn(&Trial)) -> bool {
        let trial = Trial::new(name);
        let ended = catch_unwind(AssertUnwindSafe(|| row(&trial)));
        let (lost, twice) = trial.oracle.lost_and_twice();
        self.rounds += 1;
        self.acknowledged += trial.oracle.acknowledged();
        self.lost += lost;
        self.twice += twice;
        for (longest, time) in self.times.iter_mut().zip(trial.times()) {
            *longest = (*longest).max(time);
        }
        if let Err(panic) = ended {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
            self.fault_found = Some(format!("failed: {}", said.unwrap_or_default()));
        }
        self.is_passed()
    }

    /// Whether it passed.
    fn add_test(&mut self, program: &[&str], name: &str, rounds: usize) -> bool {
        self.is_simulated = true;
        self.rounds = rounds;
        let mut cargo = Command::new(env!("CARGO"));
        // Optimised a little: the models take an eighth of the time, and every assertion stays.
        cargo.args(["test", "--locked", "--profile", "models", "--no-default-features"]).args(program);
        cargo.args(["--", "--nocapture", "--exact", name]).env("CHATKEEP_TEST_SCALE", rounds.to_string());
        let output = cargo.output().expect("cargo can be run");
        let said = crate::support::server::said(&output);
        let cases = said.lines().filter_map(|line| line.trim().strip_suffix(" cases")?.parse::<usize>().ok());
        self.acknowledged = cases.sum();
        if !output.status.success() || !said.contains("1 passed") {
            let is_reason = |line: &&str| line.contains("panicked at") || line.starts_with("error");
            let reason = said.lines().find(is_reason).unwrap_or("it did not run");
            self.fault_found = Some(format!("failed: {name}: {reason}"));
        }
        self.is_passed()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds =
            |time: Option<Duration>| time.map_or("–".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
        let [recovered, drained] = self.times.map(seconds);
        let acknowledged = match (self.is_simulated, self.acknowledged) {
            (true, 0) => "–".to_owned(),
            (true, cases) => format!("{cases} cases"),
            (_, messages) => messages.to_string(),
        };
        let (fault, how, rounds, lost, twice) = (self.fault, self.how, self.rounds, self.lost, self.twice);
        let end = self.fault_found.as_ref().map_or("", |reason| reason.lines().next().unwrap_or_default());
        let end: String = end.replace('|', "/").chars().take(300).collect();
        let end = if self.is_passed() { "ok".to_owned() } else { format!("**{end}**") };
        write!(
            f,
            "| {fault} | {how} | {rounds} | {acknowledged} | {lost} | {twice} | {recovered} | {drained} | {end} |"
        )
    }
}

/// The last line, and the exit code: 0 only if every row passed.
pub fn end(lines: &[Line]) -> (String, u8) {
    let passed = lines.iter().filter(|line| line.is_passed()).count();
    let sum = |what: fn(&Line) -> usize| lines.iter().filter(|line| !line.is_simulated).map(what).sum::<usize>();
    let (acknowledged, lost, twice) = (sum(|line| line.acknowledged), sum(|line| line.lost), sum(|line| line.twice));
    let told = format!(
        "{passed} of {} rows passed; {acknowledged} messages acknowledged, {lost} lost, {twice} there twice",
        lines.len()
    );
    (told, u8::from(passed < lines.len() || passed == 0))
}
