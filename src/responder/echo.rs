//! The responder of the default: proves the way there and back without anything to set up.

use super::Responder;

/// `ping` gives `pong!`, any other text comes back as it is.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

impl Responder for Echo {
    fn reply(&self, text: &str) -> String {
        if text.trim().eq_ignore_ascii_case("ping") { "pong!".into() } else { text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_gives_pong_and_other_text_comes_back() {
        for ping in ["ping", " Ping\n", "PING"] {
            assert_eq!(Echo.reply(ping), "pong!");
        }
        assert_eq!(Echo.reply("ping from rest"), "ping from rest");
    }
}
