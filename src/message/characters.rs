//! JSON of programs that cut texts in the middle of a character.

use std::borrow::Cow;

/// JSON in which unpaired surrogates are replaced by U+FFFD. Both escapes have the same length, so offsets stay valid.
#[must_use]
pub fn whole_characters(json: &[u8]) -> Cow<'_, [u8]> {
    let mut whole = Cow::Borrowed(json);
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &json[at..]) {
        at += found;
        let unit = escaped_unit(&json[at..]);
        at += match unit {
            Some(0xd800..=0xdbff) if matches!(escaped_unit(&json[at + 6..]), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                whole.to_mut()[at + 2..at + 6].copy_from_slice(b"FFFD");
                6
            }
            Some(_) => 6,
            None => 2,
        };
        if at >= json.len() {
            break;
        }
    }
    whole
}

/// The UTF-16 unit of the escape at the beginning.
fn escaped_unit(json: &[u8]) -> Option<u16> {
    let [b'\\', b'u', digits @ ..] = json else { return None };
    let digits = str::from_utf8(digits.get(..4)?).ok().filter(|digits| !digits.starts_with('+'))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_of_a_character_that_stands_alone_is_replaced_and_nothing_else() {
        for (sent, kept) in [
            (r#""a\ud83d""#, r#""a\uFFFD""#),
            (r#""\ude00\ud83d""#, r#""\uFFFD\uFFFD""#),
            (r#""\uD83D\uDE00""#, r#""\uD83D\uDE00""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\uFFFD\ud83d\ude00""#),
            (r#""\\ud83d \n \u00e4""#, r#""\\ud83d \n \u00e4""#),
            (r#""\\\ud83d""#, r#""\\\uFFFD""#),
            (r#""\ud83"#, r#""\ud83"#),
            (r#""\"#, r#""\"#),
            (r#""\ud83d"#, r#""\uFFFD"#),
        ] {
            assert_eq!(String::from_utf8_lossy(&whole_characters(sent.as_bytes())), kept, "{sent}");
        }
    }
}
