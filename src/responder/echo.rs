//! The default responder: shows that messages and replies arrive, without any setup.

use super::{Answer, Question, Responder, ResponderError};

/// Answers `ping` with `pong!` and any other text with itself.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

impl Responder for Echo {
    fn at_once(&self, text: &str) -> Option<String> {
        Some(if text.trim().eq_ignore_ascii_case("ping") { "pong!".into() } else { text.into() })
    }

    fn answer(&self, question: &Question, say: &mut dyn FnMut(&str)) -> Result<Answer, ResponderError> {
        let text = question.messages.last().map(|message| message.text()).unwrap_or_default();
        self.at_once(&text).iter().for_each(|text| say(text));
        Ok(Answer::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::responder::testing::{ask, question};

    #[test]
    fn the_last_message_comes_back_whoever_said_it() {
        for role in ["user", "tool", "assistant"] {
            let heard = ask(&Echo, &question(&[("user", "a"), ("assistant", "b"), (role, "c")]));
            assert_eq!((heard.text.as_str(), heard.end.is_ok()), ("c", true));
        }
    }

    #[test]
    fn ping_gives_pong_and_other_text_comes_back() {
        for ping in ["ping", " Ping\n", "PING"] {
            assert_eq!(Echo.at_once(ping).as_deref(), Some("pong!"));
        }
        assert_eq!(Echo.at_once("ping from rest").as_deref(), Some("ping from rest"));
    }
}
