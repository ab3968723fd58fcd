//! The words of a search: reading them, finding them in a text, and the piece of the text around them.
//!
//! A word is a part of the text, in any case, taken literally. Knows nothing of lines and messages.

use std::ops::Range;

use crate::listing::{folded, folded_char};

/// The most words.
const WORDS_MAX: usize = 16;
/// The longest query, in characters.
const QUERY_CHARS_MAX: usize = 1000;
/// Characters of a snippet, unless a word is longer, and those before the first word found.
const SNIPPET_CHARS: usize = 160;
const BEFORE_CHARS: usize = 40;

/// The words, folded; at least one, if they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchWords(Vec<String>);

/// A piece of a snippet.
#[derive(Debug, PartialEq, Eq)]
pub struct SnippetPiece<'t> {
    /// A part of the message's text.
    pub text: &'t str,
    /// It is one of the words, or several that touch.
    pub is_hit: bool,
}

impl SearchWords {
    /// Reads words between white space.
    ///
    /// # Errors
    /// The rule that the words break.
    pub fn parse(query: &str) -> Result<Self, String> {
        if query.chars().nth(QUERY_CHARS_MAX).is_some() {
            return Err(format!("must have at most {QUERY_CHARS_MAX} characters"));
        }
        let words: Vec<String> = query.split_whitespace().map(folded).collect();
        match words.len() {
            1..=WORDS_MAX => Ok(Self(words)),
            _ => Err(format!("must have 1 to {WORDS_MAX} words, with white space between")),
        }
    }

    /// The words, folded.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Whether a text has all of them.
    #[must_use]
    pub fn are_in(&self, text: &str) -> bool {
        let text = folded(text);
        self.0.iter().all(|word| text.contains(word.as_str()))
    }

    /// About 160 characters of a text round the first word found in it; its pieces together are a part of the text.
    #[must_use]
    pub fn snippet<'t>(&self, text: &'t str) -> Vec<SnippetPiece<'t>> {
        let whole = folded(text);
        let found = self.0.iter().filter_map(|word| Some((whole.find(word.as_str())?, word.len())));
        let (at, bytes) = found.min().unwrap_or_default();
        let hit = char_at(text, at).start..char_at(text, (at + bytes).saturating_sub(1)).end;
        let start = text[..hit.start].char_indices().rev().take(BEFORE_CHARS).last().map_or(hit.start, |(at, _)| at);
        let end = text[start..].char_indices().nth(SNIPPET_CHARS).map_or(text.len(), |(at, _)| start + at);
        self.pieces(&text[start..end.max(hit.end)])
    }

    fn pieces<'t>(&self, part: &'t str) -> Vec<SnippetPiece<'t>> {
        let whole = folded(part);
        let mut is_hit = vec![false; whole.len()];
        for word in &self.0 {
            whole.match_indices(word.as_str()).for_each(|(at, word)| is_hit[at..at + word.len()].fill(true));
        }
        let mut pieces: Vec<SnippetPiece<'t>> = Vec::new();
        let (mut begun, mut folded_at) = (0, 0);
        for (at, letter) in part.char_indices() {
            let folded_end = folded_at + folded_char(letter).map(char::len_utf8).sum::<usize>();
            let is_hit = is_hit[folded_at..folded_end].contains(&true);
            folded_at = folded_end;
            if pieces.last().is_none_or(|piece| piece.is_hit != is_hit) {
                begun = at;
                pieces.push(SnippetPiece { text: "", is_hit });
            }
            if let Some(piece) = pieces.last_mut() {
                piece.text = &part[begun..at + letter.len_utf8()];
            }
        }
        pieces
    }
}

/// The character to which a byte of the folded text belongs.
fn char_at(text: &str, folded_at: usize) -> Range<usize> {
    let mut folded_end = 0;
    let found = text.char_indices().find(|(_, letter)| {
        folded_end += folded_char(*letter).map(char::len_utf8).sum::<usize>();
        folded_end > folded_at
    });
    found.map_or(0..0, |(at, letter)| at..at + letter.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The snippet with its hits in brackets.
    fn shown(words: &str, text: &str) -> String {
        let words = SearchWords::parse(words).unwrap();
        assert!(words.are_in(text), "{words:?} {text}");
        let snippet = words.snippet(text);
        assert!(text.contains(&snippet.iter().map(|piece| piece.text).collect::<String>()));
        let mark =
            |piece: &SnippetPiece<'_>| if piece.is_hit { format!("[{}]", piece.text) } else { piece.text.into() };
        snippet.iter().map(mark).collect()
    }

    #[test]
    fn a_snippet_marks_the_words_as_they_stand_in_the_text() {
        for (words, text, snippet) in [
            ("plan", "Plans  and\n PLANS", "[Plan]s  and\n [PLAN]S"),
            ("b a", "abc", "[ab]c"),
            ("οδος", "η ΟΔΟΣ", "η [ΟΔΟΣ]"),
            ("i", "x\u{130}x", "x[\u{130}]x"),
            ("k", "5 \u{212a}", "5 [\u{212a}]"),
            ("日本", "東日本大", "東[日本]大"),
            ("a.c", "abc a.c", "abc [a.c]"),
        ] {
            assert_eq!(shown(words, text), snippet);
        }
    }

    #[test]
    fn a_snippet_of_a_long_text_is_cut_at_characters_round_the_first_word() {
        let text = format!("{}WORD{}word", "ü".repeat(500), "\u{130}".repeat(500));
        let snippet = shown("word", &text);
        assert_eq!(snippet, format!("{}[WORD]{}", "ü".repeat(40), "\u{130}".repeat(116)));
        let long = "x".repeat(300);
        assert_eq!(shown(&long, &format!("a{long}b")), format!("a[{long}]"));
    }

    #[test]
    fn words_are_counted_and_measured() {
        assert_eq!(SearchWords::parse(" A  b\u{a0}c\n").unwrap().as_slice(), ["a", "b", "c"]);
        assert!(SearchWords::parse(&"a ".repeat(16)).is_ok() && SearchWords::parse(&"ä".repeat(1000)).is_ok());
        for query in ["", " \t\n", &"a ".repeat(17), &"ä".repeat(1001)] {
            assert!(SearchWords::parse(query).is_err(), "{query}");
        }
    }
}
