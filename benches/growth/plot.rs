//! The two curves of `growth.rs` as SVG, in colours for light and dark pages: each time as a multiple of the panel's first, over
//! a logarithmic axis, with the band in which the goal allows it to be.

use std::fmt::Write as _;

/// One curve.
pub struct Panel<'a> {
    /// What the horizontal axis counts.
    pub title: &'a str,
    /// Where its points are.
    pub counts: &'a [u64],
    /// Their times in microseconds.
    pub times: &'a [f64],
}

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
/// The goal: at most so many times the first.
const GOAL: f64 = 1.3;

const STYLE: &str = "<style>\
rect.page{fill:#fff}text{fill:#24292f;font:12px system-ui,sans-serif}.title{font-weight:600}\
.axis{stroke:#57606a}.grid{stroke:#d0d7de}.band{fill:#2da44e;opacity:.14}.curve{stroke:#0969da;fill:none;stroke-width:2}\
.point{fill:#0969da}@media(prefers-color-scheme:dark){rect.page{fill:#0d1117}text{fill:#e6edf3}.axis{stroke:#8b949e}\
.grid{stroke:#30363d}.curve{stroke:#58a6ff}.point{fill:#58a6ff}}</style>";

/// The panels side by side.
pub fn svg(panels: &[Panel<'_>]) -> String {
    let (width, height) = (WIDTH * panels.len() as f64, HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\"><title>Time of a POST beside many sessions, and in a long one</title>{STYLE}\n\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    let most = panels.iter().flat_map(|panel| panel.times.iter().map(|time| time / panel.times[0]));
    let top = (most.fold(1.5_f64, f64::max) * 2.0 + 0.4).ceil() / 2.0;
    for (n, panel) in panels.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate({},0)\">", WIDTH * n as f64);
        draw(&mut out, panel, top);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel<'_>, top: f64) {
    let decades = (*panel.counts.last().unwrap_or(&10) as f64 / panel.counts[0] as f64).log10();
    let x = |count: u64| {
        LEFT + 24.0 + (WIDTH - LEFT - RIGHT - 46.0) * (count as f64 / panel.counts[0] as f64).log10() / decades
    };
    let y = |times: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * times / top;
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut line = |class: &str, x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(out, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
    };
    let steps = (0..=(top * 2.0) as u32).map(|half| f64::from(half) / 2.0);
    steps.clone().skip(1).for_each(|step| line("grid", LEFT, y(step), right, y(step)));
    line("axis", LEFT, TOP, LEFT, bottom);
    line("axis", LEFT, bottom, right, bottom);
    let _ = writeln!(
        out,
        "<rect class=\"band\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        y(GOAL),
        right - LEFT,
        y(0.0) - y(GOAL)
    );
    let points: Vec<_> =
        panel.counts.iter().zip(panel.times).map(|(count, time)| (x(*count), y(time / panel.times[0]))).collect();
    let list: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(out, "<polyline class=\"curve\" points=\"{}\"/>", list.join(" "));
    let mut text = |x: f64, y: f64, anchor: &str, class: &str, says: &str| {
        let _ =
            writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{says}</text>");
    };
    steps.for_each(|step| text(LEFT - 8.0, y(step) + 4.0, "end", "", &format!("{step}")));
    text(LEFT - 40.0, 20.0, "start", "title", "time of a POST, as a multiple of the first");
    text((LEFT + right) / 2.0, HEIGHT - 14.0, "middle", "", panel.title);
    text(right - 6.0, y(0.1), "end", "", &format!("green: the goal, at most {GOAL}"));
    for ((count, time), (x, y)) in panel.counts.iter().zip(panel.times).zip(&points) {
        text(*x, bottom + 18.0, "middle", "", &grouped(*count));
        text(*x, y - 10.0, "middle", "", &format!("{time:.0} us"));
    }
    points.iter().for_each(|(x, y)| {
        let _ = writeln!(out, "<circle class=\"point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
    });
}

/// With spaces between thousands.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}
