//! What a program finds in its environment: ours without secrets, or what the configuration names.
//!
//! It keeps a program that prints or forwards its environment from giving a secret away. It is no wall: a program that runs as
//! the server's user can read what the server can read. Knows nothing of processes.

use std::ffi::OsString;

use crate::config::ResponderConfig;

/// Variables that every program may have, in addition to `LC_*`.
const PLAIN: [&str; 9] = ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"];

/// Ends of names whose values are secrets.
const SECRET_ENDS: [&str; 4] = ["_TOKEN", "_KEY", "_SECRET", "_PASSWORD"];

/// Of `all`, what a program gets: with `responder.command_env` those names and the plain ones, else all but secrets.
pub(super) fn passed(
    config: &ResponderConfig,
    all: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let is_passed = |name: &str| {
        let is_given = config.command_env.iter().any(|given| given == name);
        let is_plain = || PLAIN.contains(&name) || name.starts_with("LC_");
        is_given
            || if config.command_env.is_empty() {
                !is_secret(config, name) && !OF_THE_SERVER.contains(&name)
            } else {
                is_plain()
            }
    };
    all.filter(|(name, _)| is_passed(&name.to_string_lossy())).collect()
}

/// How a service manager is told of the server; a program has nothing to say there.
const OF_THE_SERVER: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

fn is_secret(config: &ResponderConfig, name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    upper == "MONGO_URI"
        || SECRET_ENDS.iter().any(|end| upper.ends_with(end))
        || config.secret_variables.iter().any(|secret| secret == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_program_gets_no_secret_and_with_names_only_those_and_the_plain_ones() {
        let names = [
            "PATH",
            "LC_ALL",
            "MINE",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "MONGO_URI",
            "OPENAI_API_KEY",
            "my_token",
            "DB_PASSWORD",
            "A_SECRET",
            "KEYBOARD",
            "DATABASE_DSN",
            "TOKENS",
        ];
        let all = || names.iter().map(|name| (OsString::from(name), OsString::from("v")));
        let mut config = Config::defaults(None).unwrap().responder;
        config.secret_variables = vec!["DATABASE_DSN".into()];
        let passed = |config: &ResponderConfig| -> Vec<String> {
            passed(config, all()).into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
        };
        assert_eq!(passed(&config), ["PATH", "LC_ALL", "MINE", "KEYBOARD", "TOKENS"]);
        config.command_env = vec!["OPENAI_API_KEY".into(), "UNSET".into()];
        assert_eq!(passed(&config), ["PATH", "LC_ALL", "OPENAI_API_KEY"]);
    }
}
