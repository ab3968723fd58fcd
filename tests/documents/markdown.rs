//! What the tests need of Markdown: fenced blocks with their place, relative links, and the anchors of headings.

use std::ops::Range;

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// The first word of its info string; empty when there is none.
    pub language: String,
    /// The other words.
    pub words: Vec<String>,
    /// What stands in it.
    pub text: String,
    /// Whether only blank lines stand between the block before and this one.
    pub follows: bool,
}

/// The fenced blocks of a document, in order.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    let mut follows = false;
    for (number, line) in document.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            open = !open;
            if open {
                let mut words = info.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                found.push(Block { line: number + 1, language, words: words.collect(), text: String::new(), follows });
            } else {
                follows = true;
            }
        } else if open {
            let block = found.last_mut().unwrap();
            block.text.push_str(line);
            block.text.push('\n');
        } else if !line.trim().is_empty() {
            follows = false;
        }
    }
    assert!(!open, "a fence is not closed");
    found
}

/// The lines outside fenced blocks.
fn lines(document: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in document.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.push(line);
        }
    }
    found
}

/// What stands in backquotes.
pub fn codes(document: &str) -> Vec<&str> {
    lines(document).iter().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The targets of inline links.
pub fn links(document: &str) -> Vec<String> {
    let without_code = |line: &&str| line.split('`').step_by(2).collect::<String>();
    let target = |part: &str| part.find(')').map(|end| part[..end].to_owned());
    let of_line = |line: String| line.split("](").skip(1).filter_map(target).collect::<Vec<_>>();
    lines(document).iter().map(without_code).flat_map(of_line).collect()
}

/// The anchors that a hosting site makes of the headings.
pub fn anchors(document: &str) -> Vec<String> {
    let headings = lines(document).into_iter().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// A text in which everything that differs from run to run is the same: ids become `ID`, numbers `0`, white space one space.
pub fn normal(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let part: Range<usize> =
            if is_word(first) { 0..rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { 0..first.len_utf8() };
        let word = &rest[part.clone()];
        if is_id(word) {
            out.push_str("ID");
        } else if first.is_whitespace() {
            if !out.ends_with(' ') {
                out.push(' ');
            }
        } else {
            push_without_numbers(&mut out, word);
        }
        rest = &rest[part.end..];
    }
    out.trim().to_owned()
}

/// An id of a message, a request or a place in the feed: hexadecimal digits, with a hyphen behind the eighth or a later one.
fn is_id(word: &str) -> bool {
    let first = word.split_once('-').map_or("", |(first, _)| first);
    first.len() >= 8 && first.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn push_without_numbers(out: &mut String, word: &str) {
    for c in word.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !out.ends_with('0') {
            out.push('0');
        }
    }
}
