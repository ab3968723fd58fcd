//! What a benchmark found, beside its goal: one line each, which `scripts/bench` gathers into its table.
//!
//! A line has the word RESULT and, with tabs before each: the row of the table, what was measured, `>=` or `<=`, the goal,
//! the figure and its unit; where the goal is a ratio also that ratio, and the name and the figure of what it is a ratio to.

#![allow(clippy::print_stdout, reason = "it says what it found")]

/// The goal that a figure or a ratio is compared with.
#[derive(Clone, Copy)]
pub enum Goal {
    /// So much, or more.
    AtLeast(f64),
    /// So much, or less.
    AtMost(f64),
}

impl Goal {
    fn fields(self) -> String {
        match self {
            Self::AtLeast(goal) => format!(">=\t{goal}"),
            Self::AtMost(goal) => format!("<=\t{goal}"),
        }
    }
}

/// A figure whose goal is a figure.
pub fn result(row: &str, what: &str, goal: Goal, figure: f64, unit: &str) {
    println!("RESULT\t{row}\t{what}\t{}\t{figure}\t{unit}", goal.fields());
}

/// A figure whose goal is its `ratio` to another figure, that of `peer`, from the same run.
pub fn ratio(row: &str, what: &str, goal: Goal, figure: f64, unit: &str, ratio: f64, peer: (&str, f64)) {
    let (name, other) = peer;
    println!("RESULT\t{row}\t{what}\t{}\t{figure}\t{unit}\t{ratio}\t{name}\t{other}", goal.fields());
}

/// `whole` or, for a trial, a part of it: divided by the variable `BENCH_DIVIDE`, and never 0.
///
/// # Panics
/// When the variable is no number.
pub fn size(whole: u64) -> u64 {
    let divide = std::env::var("BENCH_DIVIDE").map_or(1, |text| text.parse().expect("BENCH_DIVIDE is a number"));
    (whole / divide).max(1)
}
