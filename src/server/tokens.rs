//! The tokens that are known, as digests, and the caller that each stands for.
//!
//! A token is looked for among all of them, each compared whole: how long it takes tells neither which one it is nor how
//! much of it is right, and a digest gives nothing of its token away. Nothing here is ever logged.
//!
//! Pure: knows nothing of requests.

use std::hint::black_box;

use sha2::{Digest, Sha256};

use crate::access::{Access, MAIN_TOKEN, Principal};
use crate::config::AuthConfig;

type TokenDigest = [u8; 32];

/// The tokens of one configuration.
pub(super) struct TokenTable {
    known: Vec<(TokenDigest, Principal)>,
    /// Whoever sends no token, or one that is not known.
    others: Principal,
}

impl TokenTable {
    pub(super) fn new(config: &AuthConfig) -> Self {
        let digest = |token: &str| Sha256::digest(token).into();
        let main = config.auth_token.iter();
        let main = main.map(|token| (digest(token.expose()), Principal::with_token(MAIN_TOKEN, Access::Admin, None)));
        let further = config.auth_tokens.iter().map(|one| {
            (digest(one.token.expose()), Principal::with_token(&one.name, one.access, one.sessions.clone()))
        });
        let access = if config.asks_for_token() { Access::None } else { Access::Admin };
        Self { known: main.chain(further).collect(), others: Principal::without_token(access) }
    }

    /// The same, in which whoever has the same token as before, and may do the same, is the same caller.
    pub(super) fn after(mut self, before: &Self) -> Self {
        for (digest, caller) in &mut self.known {
            let same = before.known.iter().find(|(known, old)| known == digest && old.is_like(caller));
            if let Some((_, old)) = same {
                *caller = old.clone();
            }
        }
        if self.others.is_like(&before.others) {
            self.others = before.others.clone();
        }
        self
    }

    /// Revokes the callers that `after` has no more.
    pub(super) fn revoke_all_but(&self, after: &Self) {
        for caller in self.callers().filter(|caller| !after.callers().any(|kept| kept.is(caller))) {
            caller.revoke();
        }
    }

    fn callers(&self) -> impl Iterator<Item = &Principal> {
        self.known.iter().map(|(_, caller)| caller).chain([&self.others])
    }

    /// The caller with that token, if it is known.
    pub(super) fn find(&self, token: &[u8]) -> Option<&Principal> {
        let given: TokenDigest = Sha256::digest(token).into();
        let mut found = 0;
        for (number, (known, _)) in (1..).zip(&self.known) {
            let difference = known.iter().zip(&given).fold(0, |all, (a, b)| all | (a ^ b));
            // No branch: a number for the one that is equal, nothing for the others.
            found |= number * usize::from(black_box(difference) == 0);
        }
        self.known.get(black_box(found).wrapping_sub(1)).map(|(_, caller)| caller)
    }

    /// The caller without a token.
    pub(super) fn others(&self) -> &Principal {
        &self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, TokenConfig};

    fn one(name: &str, token: &str) -> TokenConfig {
        TokenConfig { name: name.into(), token: Secret::new(token), access: Access::Read, sessions: None }
    }

    #[test]
    fn a_token_is_found_whole_wherever_it_stands_and_no_other() {
        let auth_tokens = vec![one("a", "first"), one("b", "second"), one("c", "third")];
        let table = TokenTable::new(&AuthConfig {
            auth_token: Some(Secret::new("main")),
            auth_tokens,
            ..AuthConfig::default()
        });
        let name = |token: &str| table.find(token.as_bytes()).and_then(|caller| caller.token().map(str::to_owned));
        for (token, wanted) in [("main", "auth_token"), ("first", "a"), ("second", "b"), ("third", "c")] {
            assert_eq!(name(token).as_deref(), Some(wanted));
        }
        for wrong in ["", "mai", "mains", "Main", "firstsecond", "fourth"] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
        assert_eq!(table.others().access(), Access::None);
    }

    #[test]
    fn where_no_token_is_asked_for_everyone_may_do_everything() {
        let table = TokenTable::new(&AuthConfig::default());
        assert!(table.find(b"").is_none() && table.find(b"any").is_none());
        assert_eq!((table.others().access(), table.others().token()), (Access::Admin, None));
    }

    #[test]
    fn who_keeps_a_token_and_its_access_stays_and_all_others_are_revoked() {
        let table =
            |auth_tokens: Vec<TokenConfig>| TokenTable::new(&AuthConfig { auth_tokens, ..AuthConfig::default() });
        let before = table(vec![one("kept", "1"), one("gone", "2"), one("raised", "3"), one("renewed", "4")]);
        let held = |token: &str| before.find(token.as_bytes()).unwrap().clone();
        let (kept, gone, raised, renewed) = (held("1"), held("2"), held("3"), held("4"));
        let higher = TokenConfig { access: Access::Write, ..one("raised", "3") };
        let after = table(vec![one("new", "5"), higher, one("renewed", "6"), one("kept", "1")]).after(&before);
        before.revoke_all_but(&after);
        assert!(!kept.is_revoked() && after.find(b"1").unwrap().is(&kept));
        assert!(gone.is_revoked() && raised.is_revoked() && renewed.is_revoked());
        assert_eq!((after.find(b"3").unwrap().access(), after.find(b"4").is_none()), (Access::Write, true));
        // Where none was asked for, those without one go when there is one.
        let open = table(Vec::new());
        let nobody = open.others().clone();
        open.revoke_all_but(&table(Vec::new()).after(&open));
        assert!(!nobody.is_revoked());
        open.revoke_all_but(&table(vec![one("a", "1")]).after(&open));
        assert!(nobody.is_revoked());
    }
}
