//! The cheap test of a search: which lines of a block may have all the words in their text.
//!
//! A word is looked for in the bytes of the lines as JSON escapes them, in lower case as far as it is ASCII. What folds to a
//! letter from elsewhere (`K`, the sign of kelvin) and what may be escaped in two ways (`/`) makes several needles of one
//! word, of which a line must have one; where these would be many, a part of the word is looked for. A line with an escape
//! by number may hide any letter, so it is always one of them. Where the text stands in a line is known for lines of our own
//! layout; of others the whole line counts.
//!
//! Invariant: no line is left out whose text has all the words. Those that are in it for nothing are told from the others
//! once they are parsed.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::listing::folded_char;
use crate::message::{MessageView, text_range};

/// The most needles of a word.
const NEEDLES_MAX: usize = 8;
/// What no needle has: `İ` folds to an i and this, so that it may be without bytes of its own.
const DOT_ABOVE: char = '\u{307}';
/// Beyond it no letter has a case.
const CASED_MAX: char = '\u{1ffff}';

/// Letters that fold to a character, itself aside.
static FOLDING: LazyLock<HashMap<char, Vec<char>>> = LazyLock::new(|| {
    let mut folding = HashMap::<char, Vec<char>>::new();
    for letter in '\u{80}'..=CASED_MAX {
        for to in folded_char(letter).filter(|to| *to != letter) {
            folding.entry(to).or_default().push(letter);
        }
    }
    folding
});

/// What to look for in the bytes of lines.
pub(super) struct Needles {
    /// Of each word, the one first that is likely to be rare.
    words: Vec<WordNeedles>,
    escape: Finder<'static>,
    /// Messages of the role `system` are also wanted: some are rewinds.
    system: Option<Finder<'static>>,
    lower: Vec<u8>,
}

struct WordNeedles {
    finders: Vec<Finder<'static>>,
    /// Of a word without any.
    is_anywhere: bool,
}

impl Needles {
    /// For words that are folded.
    pub(super) fn new(words: &[String], with_markers: bool) -> Self {
        let mut words: Vec<WordNeedles> = words.iter().map(|word| WordNeedles::of(word)).collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.finders.first().map_or(0, |finder| finder.needle().len())));
        let system = with_markers.then(|| Finder::new(b"system"));
        Self { words, escape: Finder::new(b"\\u"), system, lower: Vec::new() }
    }

    /// Adds the lines of a block that may be wanted, in their order.
    pub(super) fn pick(&mut self, block: &[u8], picked: &mut Vec<Range<usize>>) {
        let mut lower = std::mem::take(&mut self.lower);
        lower.clear();
        lower.extend(block.iter().map(u8::to_ascii_lowercase));
        let is_ascii = block.is_ascii();
        let everywhere = Finder::new(b"\n");
        let rarest = self.words.first();
        let marks = match rarest.filter(|word| !word.is_anywhere) {
            Some(word) => word.finders.iter().chain([&self.escape]).chain(&self.system).collect(),
            None => vec![&everywhere],
        };
        for mark in marks.into_iter().filter(|mark| !is_ascii || mark.needle().is_ascii()) {
            let mut at = 0;
            while let Some(found) = mark.find(&lower[at..]) {
                let found = at + found;
                let start = memchr::memrchr(b'\n', &block[..found]).map_or(0, |newline| newline + 1);
                let end = memchr::memchr(b'\n', &block[found..]).map_or(block.len(), |newline| found + newline);
                if self.may_be_wanted(&block[start..end], &lower[start..end]) {
                    picked.push(start..end);
                }
                at = (end + 1).min(block.len());
            }
        }
        picked.sort_unstable_by_key(|range| range.start);
        picked.dedup();
        self.lower = lower;
    }

    /// Whether a single line may be wanted.
    pub(super) fn may_pick(&mut self, line: &[u8]) -> bool {
        self.may_be_wanted(line, &line.to_ascii_lowercase())
    }

    fn may_be_wanted(&self, line: &[u8], lower: &[u8]) -> bool {
        let Some(text) = text_range(line).map(|range| &lower[range]) else { return true };
        self.words.iter().all(|word| word.may_be_in(text))
            || self.has_hidden_letters(text)
            || (self.system.is_some() && MessageView::from_trusted(line).is_none_or(|view| view.role() == "system"))
    }

    /// Whether a text has an escape that may stand for a letter: those of control characters, which our own lines have, do
    /// not.
    fn has_hidden_letters(&self, text: &[u8]) -> bool {
        self.escape.find_iter(text).any(|at| !matches!(text.get(at + 2..at + 5), Some(b"000" | b"001")))
    }
}

impl WordNeedles {
    fn of(word: &str) -> Self {
        let letters: Vec<(char, Vec<String>)> = word.chars().map(|letter| (letter, spellings(letter))).collect();
        let mut best = 0..0;
        let mut best_bytes = 0;
        for start in 0..letters.len() {
            let (mut product, mut bytes) = (1, 0);
            for (end, (letter, spellings)) in letters.iter().enumerate().skip(start) {
                product *= spellings.len();
                if product == 0 || product > NEEDLES_MAX {
                    break;
                }
                bytes += letter.len_utf8();
                if bytes > best_bytes {
                    (best, best_bytes) = (start..end + 1, bytes);
                }
            }
        }
        let mut needles = vec![String::new()];
        for (_, spellings) in &letters[best] {
            needles =
                needles.iter().flat_map(|begun| spellings.iter().map(move |next| format!("{begun}{next}"))).collect();
        }
        let is_anywhere = best_bytes == 0;
        let finders = needles.iter().map(|needle| Finder::new(needle.as_bytes()).into_owned()).collect();
        Self { finders, is_anywhere }
    }

    fn may_be_in(&self, text: &[u8]) -> bool {
        self.is_anywhere || self.finders.iter().any(|finder| finder.find(text).is_some())
    }
}

/// How a folded character may stand in a line; none if that cannot be told.
fn spellings(letter: char) -> Vec<String> {
    match letter {
        '"' | '\\' => vec![format!("\\{letter}")],
        '/' => vec!["/".to_owned(), "\\/".to_owned()],
        DOT_ABOVE => Vec::new(),
        // Always escaped, in one of several ways.
        '\0'..='\x1f' => Vec::new(),
        letter => {
            let others = FOLDING.get(&letter).into_iter().flatten();
            std::iter::once(&letter).chain(others).map(char::to_string).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::folded;

    #[test]
    fn every_letter_that_folds_to_another_is_known() {
        for letter in '\0'..=char::MAX {
            for to in folded_char(letter).filter(|to| *to != letter && !letter.is_ascii()) {
                assert!(FOLDING[&to].contains(&letter), "{letter:?} {to:?}");
            }
        }
    }

    fn line(text: &str) -> Vec<u8> {
        let id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        let start =
            format!(r#"{{"id":"{id}","session_id":"s","role":"user","created_at":"2025-11-28T01:23:45.123456+00:00","#);
        format!("{start}\"text\":\"{text}\",\"metadata\":{{\"note\":\"plane\"}}}}\n").into_bytes()
    }

    fn picks(words: &str, block: &[u8]) -> usize {
        let words: Vec<String> = words.split(' ').map(folded).collect();
        let mut picked = Vec::new();
        Needles::new(&words, false).pick(block, &mut picked);
        picked.len()
    }

    #[test]
    fn a_line_is_picked_for_its_text_alone_and_for_what_may_hide_in_it() {
        for (words, text, count) in [
            ("hello", "Say HELLO", 1),
            ("hello there", "hello", 0),
            ("plane", "by train", 0),
            ("kelvin", "5 \u{212a}elvin", 1),
            ("ΜS", "12 \u{b5}s", 1),
            ("mess", "in olde Meſſe", 1),
            ("isik", "ışık", 0),
            ("istanbul", "\u{130}stanbul", 1),
            ("ОДИН", "один", 1),
            ("один", "два", 0),
            ("οδος", "ΟΔΟΣ", 1),
            ("straße", "STRA\u{1e9e}E", 1),
            ("a/b", r"a\/b", 1),
            ("\"x", r#"\"x"#, 1),
            (r"c:\users", r"C:\\Users", 1),
            ("hello", r"h\u0065llo", 1),
            ("hello", r"\u001b[1m", 0),
            ("user", "none", 0),
        ] {
            assert_eq!(picks(words, &line(text)), count, "{words} in {text}");
        }
        let other = br#"{"text": "hello", "id": "x"}"#;
        assert_eq!((picks("hello", other), picks("other", other)), (1, 0));
        let block = [line("one"), line("two one"), b"\n".to_vec(), line("three"), line("one")].concat();
        assert_eq!((picks("one", &block), picks("\u{1}", &block)), (3, 5));
    }
}
