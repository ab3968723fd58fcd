//! Tables of configurations with their results, and the test that compares the shipped file with the table of keys.
//!
//! Compiled under `#[cfg(test)]` only.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::table::KEYS;
use super::*;
use crate::access::Access;

const SHIPPED: &str = include_str!("../../config.yaml");
const SECRET: &str = "hunter2hunter2";

fn env(name: &str) -> Option<OsString> {
    match name {
        "TTL" => Some("7".into()),
        "YES" => Some("True".into()),
        "SHOUTED" => Some("DEBUG".into()),
        "WORD" => Some("lots".into()),
        "LIST" => Some("https://a.example, http://b.example:8080,".into()),
        "TOKEN" => Some(SECRET.into()),
        _ => None,
    }
}

/// Files with a token, by name.
fn file(path: &Path) -> Result<String, String> {
    match path.to_str() {
        Some("token") => Ok(format!("{SECRET}\r\n")),
        Some("two") => Ok(format!("{SECRET}\n{SECRET}\n")),
        Some("empty") => Ok("\n".to_owned()),
        _ => Err("there is no such file".to_owned()),
    }
}

fn load(text: &str) -> Result<Settings, ConfigErrors> {
    Settings::load(text, &env, &file, &Overrides::default())
}

fn config(text: &str) -> Config {
    load(text).unwrap_or_else(|faults| panic!("{text}\n{faults}")).config()
}

fn faults(text: &str) -> String {
    match load(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(faults) => faults.to_string(),
    }
}

/// YAML for one key.
fn one(path: &str, value: &str) -> String {
    let mut text = String::new();
    let names: Vec<&str> = path.split('.').collect();
    for (depth, name) in names.iter().enumerate() {
        text += &format!("{}{name}:{}", "  ".repeat(depth), if depth + 1 < names.len() { "\n" } else { " " });
    }
    text + value + "\n"
}

#[test]
fn the_shipped_file_says_the_built_in_defaults() {
    let nothing = |_: &str| None;
    let shipped = Settings::load(SHIPPED, &nothing, &file, &Overrides::default()).unwrap();
    assert_eq!(shipped.config(), Config::defaults(None).unwrap());
    assert_eq!(shipped.to_yaml(), load("").unwrap().to_yaml());
}

#[test]
fn the_shipped_file_has_every_key_with_a_comment_and_no_other() {
    let (mut blocks, mut keys, mut commented): (Vec<&str>, Vec<String>, bool) = (Vec::new(), Vec::new(), false);
    for line in SHIPPED.lines() {
        let content = line.trim_start();
        if content.starts_with('#') || content.is_empty() {
            commented = content.starts_with('#');
            continue;
        }
        let (name, value) = content.split_once(':').unwrap();
        blocks.truncate((line.len() - content.len()) / 2);
        blocks.push(name);
        if !value.is_empty() {
            assert!(commented, "{line} has no comment");
            keys.push(blocks.join("."));
        }
        commented = false;
    }
    assert_eq!(keys, KEYS.iter().map(|key| key.path).collect::<Vec<_>>());
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let config = Config::defaults(None).unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:8000");
    assert_eq!(config.server.local_socket, Some(PathBuf::from("data/chatkeep.sock")));
    assert_eq!(config.server.auth.auth_token, None);
    assert_eq!(config.server.max_connections, 1024);
    assert_eq!(config.server.max_body_bytes, 1 << 20);
    assert_eq!(config.server.drain, Duration::from_secs(10));
    assert_eq!(config.journal.fsync, Fsync::Always);
    assert_eq!(config.journal.fsync_interval, Duration::from_millis(100));
    assert_eq!(config.journal.max_bytes, 4 << 30);
    assert_eq!(config.journal.retain, Duration::from_secs(24 * 3600));
    assert_eq!(config.mongo.ttl, Some(Duration::from_secs(30 * 24 * 3600)));
    assert_eq!(config.mongo.uri.expose(), "mongodb://127.0.0.1:27017");
    assert_eq!(config.mongo.batch.max_messages, 1000);
    assert_eq!(config.mongo.batch.max_bytes, 8 << 20);
    assert_eq!(config.mongo.batch.max_age, Duration::from_millis(200));
    assert_eq!(config.mongo.call_timeout, Duration::from_secs(10));
    assert_eq!(config.mongo.backoff_max, Duration::from_secs(5));
    assert!(!config.mongo.shared);
    assert_eq!(config.history.mongo_timeout, Duration::from_millis(1500));
    assert_eq!(config.mongo.cache.max_messages_per_session, 75);
    assert_eq!(config.mongo.cache.disk_path, PathBuf::from("data/cache/chat_sessions"));
    assert_eq!(config.responder.kind, ResponderKind::Echo);
    assert_eq!(config.log.level, log::LevelFilter::Info);
}

#[test]
fn nothing_and_empty_blocks_and_empty_keys_mean_defaults() {
    for text in ["", "\n# a comment\n", "---\n", "server:\n", "server: {}\nmongo:\n  cache:\n", "log:\n  level:\n", "~"]
    {
        assert_eq!(config(text), Config::defaults(None).unwrap(), "{text:?}");
    }
}

#[test]
fn a_value_given_by_a_variable_takes_the_type_of_its_key() {
    assert_eq!(config(&one("mongo.ttl_days", "\"${TTL:-30}\"")).mongo.ttl, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(config(&one("mongo.ttl_days", "${NONE:-0}")).mongo.ttl, None);
    assert!(config(&one("server.allow_open_listen", "${YES}")).server.auth.allow_open_listen);
    assert_eq!(config(&one("log.level", "${SHOUTED}")).log.level, log::LevelFilter::Debug);
    assert_eq!(config(&one("server.auth_token", "${TTL}")).server.auth.auth_token, Some(Secret::new("7")));
    assert_eq!(
        config(&one("server.allowed_origins", "${LIST}")).server.auth.allowed_origins,
        ["https://a.example", "http://b.example:8080"]
    );
    assert_eq!(
        config(&one("server.allowed_hosts", "[\"${NONE:-a.example}\"]")).server.auth.allowed_hosts,
        ["a.example"]
    );
}

#[test]
fn each_impossible_value_is_refused_with_its_path_value_and_rule() {
    for (path, value, told) in [
        ("server.max_connections", "0", "server.max_connections: 0: must be a whole number from 1 to 100000"),
        ("server.max_connections", "\"5\"", "server.max_connections: \"5\": must be a whole number from 1 to 100000"),
        ("server.max_connections", "-1", "server.max_connections: -1: must be a whole"),
        ("server.max_connections", "1.5", "server.max_connections: 1.5: must be a whole"),
        ("server.max_connections", "${WORD}", "server.max_connections: \"lots\": must be a whole"),
        ("server.max_connections", "[1]", "server.max_connections: a list: must be a whole"),
        ("server.max_connections", "340282366920938463463374607431768211455", "must be a whole"),
        ("server.max_body_bytes", "8388609", "from 1024 to 8388608"),
        ("server.allow_open_listen", "\"true\"", "server.allow_open_listen: \"true\": must be true or false"),
        ("server.allow_open_listen", "yes", "server.allow_open_listen: \"yes\": must be true or false"),
        ("server.listen", "8000", "server.listen: 8000: must be text (in quotes): must be HOST:PORT"),
        ("server.listen", "\"localhost\"", "server.listen: \"localhost\": must be HOST:PORT"),
        ("server.listen", "\":8000\"", "must be HOST:PORT"),
        ("server.listen", "\"::1:80\"", "must be HOST:PORT"),
        ("server.listen", "\"localhost:65536\"", "must be HOST:PORT"),
        ("server.listen", "\"localhost:+1\"", "must be HOST:PORT"),
        ("server.allowed_origins", "https://a", "server.allowed_origins: \"https://a\": must be a list"),
        ("server.allowed_origins", "[https://a/]", "server.allowed_origins[0]: \"https://a/\": must be an origin"),
        ("server.allowed_origins", "[null]", "server.allowed_origins[0]: nothing: must be text"),
        ("server.allowed_origins", "[\"*\"]", "must be an origin"),
        ("server.allowed_origins", "[\"https://a:443\"]", "must be an origin"),
        ("server.allowed_origins", "[\"https://A\"]", "must be an origin"),
        ("server.allowed_hosts", "[\"a:80\"]", "server.allowed_hosts[0]: \"a:80\": must be a host name"),
        ("server.allowed_hosts", "[\"${GONE}\"]", "server.allowed_hosts[0]: ${GONE} is not set"),
        ("journal.path", "\"\"", "journal.path: \"\": must be a path"),
        ("journal.path", "\"a\\x1b[31mb\"", "journal.path: \"a\\u{1b}[31mb\": must be a path"),
        ("journal.fsync", "sometimes", "journal.fsync: \"sometimes\": must be one of always, interval, never"),
        ("journal.segment_bytes", "2097152", "journal.segment_bytes: 2097152: must be at least 2162688"),
        ("journal.max_bytes", "67108863", "journal.max_bytes: 67108863: must be at least 67108864, four times"),
        ("mongo.database", "\"a/b\"", "mongo.database: \"a/b\": must be 1 to 63 bytes"),
        ("mongo.database", "${GONE}", "mongo.database: ${GONE} is not set: set it, or write ${GONE:-default}"),
        ("mongo.chat_collection", "system.users", "mongo.chat_collection: \"system.users\": must be 1 to 120"),
        (
            "mongo.batch_max_bytes",
            "41943041",
            "mongo.batch_max_bytes: 41943041: must be a whole number from 65536 to 41943040",
        ),
        ("mongo.batch_max_messages", "0", "mongo.batch_max_messages: 0: must be a whole number from 1 to 10000"),
        ("history.mongo_timeout_ms", "49", "history.mongo_timeout_ms: 49: must be a whole number from 50 to 60000"),
        ("mongo.cache.disk_path", "data/journal", "must be another folder than journal.path"),
        ("mongo.cache", "5", "mongo.cache: [redacted]: must be a block of keys"),
        ("responder.kind", "telepathy", "responder.kind: \"telepathy\": must be one of echo, command, openai, none"),
        (
            "responder.kind",
            "command",
            "responder.command: []: must begin with the program to run while responder.kind is",
        ),
        (
            "responder.openai.base_url",
            "\"localhost:1/v1\"",
            "\"localhost:1/v1\": must be http://HOST[:PORT][/PATH] or https",
        ),
        ("responder.openai.base_url", "\"http://h/v1?key=1\"", "must be http://HOST"),
        ("responder.openai.base_url", "\"http://h/v1?api-version=1&key=1\"", "must be http://HOST"),
        ("responder.openai.base_url", "\"http://h/v1?api-version=\"", "must be http://HOST"),
        ("responder.openai.base_url", "\"http://h/v1/chat/completions?api-version=1\"", "without /chat/completions"),
        ("responder.openai.base_url", "\"http://h:99999/v1\"", "must be http://HOST"),
        ("responder.openai.base_url", "\"http://u:p@h/v1\"", "\"http://[redacted]@h/v1\": must be http://HOST"),
        ("responder.openai.base_url", "\"http:///v1\"", "must be http://HOST"),
        ("responder.openai.base_url", "\"http://h/v1/chat/completions/\"", "up to /v1, without /chat/completions"),
        ("responder.openai.base_url", "\"http://h:11434/api/chat\"", "up to /v1, without /chat/completions"),
        ("responder.openai.base_url", "\"http://h/a b\"", "must be http://HOST"),
        ("responder.openai.model", "\"a\\nb\"", "responder.openai.model: \"a\\nb\": must be the name of a model"),
        ("responder.openai.api_key", "\"a b\"", "responder.openai.api_key: [redacted]: must be at most 1024 visible"),
        (
            "responder.openai.context_messages",
            "0",
            "responder.openai.context_messages: 0: must be a whole number from 1",
        ),
        ("responder.command", "cat", "responder.command: \"cat\": must be a list"),
        ("responder.command", "[cat, 5]", "responder.command[1]: 5: must be text (in quotes): must be an argument"),
        ("responder.command", "[\"a\\0b\"]", "responder.command[0]: \"a\\0b\": must be an argument"),
        ("log.level", "loud", "log.level: \"loud\": must be one of off, error, warn, info, debug, trace"),
    ] {
        let told_instead = faults(&one(path, value));
        assert!(told_instead.contains(told), "{path}: {value}:\n{told_instead}");
        assert_eq!(told_instead.lines().count(), 1, "{told_instead}");
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let told = faults("server: {lisen: x, max_connections: 0}\njournal: {fsync: no}\nlog: {level: loud}\nextra: 1\n");
    assert_eq!(told.lines().count(), 5, "{told}");
}

#[test]
fn a_rule_between_keys_is_not_told_on_top_of_a_fault_of_one_of_them() {
    let told = faults("server: {max_body_bytes: 0}\njournal: {segment_bytes: 65536}\n");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    for (text, told) in [
        ("server: {lisen: a}", "server.lisen: unknown key; did you mean server.listen?"),
        ("srever: {listen: a}", "srever: unknown key; did you mean server?"),
        ("listen: a", "listen: unknown key; did you mean server.listen?"),
        ("mongo: {max_messages_per_session: 1}", "did you mean mongo.cache.max_messages_per_session?"),
        ("mongo: {cahce: {}}", "mongo.cahce: unknown key; did you mean mongo.cache?"),
        ("mongo: {ttl: 1}", "mongo.ttl: unknown key"),
        ("zebra: 1", "zebra: unknown key"),
        ("\"a\\x1bb\": 1", "a\\u{1b}b: unknown key"),
    ] {
        assert!(faults(text).ends_with(told), "{text}: {}", faults(text));
    }
}

#[test]
fn a_repeated_key_and_a_slip_of_syntax_are_told_with_their_place() {
    for (text, told) in [
        ("server:\n  listen: a\n  listen: b\n", "line 3, column 3: this key stands in its block a second time"),
        ("server:\n\tlisten: x\n", "line 2, column 1: a tab stands here; YAML is indented with spaces"),
        ("server:\n  listen: x\n\tmax_body_bytes: 1\n", "line 3, column 1: a tab stands here; YAML is"),
        ("log: {}\nlog: {}\n", "line 2, column 1: this key stands in its block a second time"),
        ("server:\n  - [\n", "line 3, column 1: "),
        ("server: {listen: 'a}\n", "line 2, column 1: "),
        ("a: *b\n", "line 1, column 4: unknown anchor"),
        ("1: 2\n", "line 1, column 1: a key must be plain text"),
        ("log: !loud {}\n", "line 1, column 6: tags"),
        ("- a\n", "the whole file: [redacted]: must be a block of keys"),
        ("a: 1\n---\nb: 2\n", "deserializing from YAML containing more than one document"),
    ] {
        assert!(faults(text).starts_with(told), "{text:?}: {}", faults(text));
    }
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    assert_eq!(config("\u{feff}server: {listen: \"127.0.0.1:1\"}").server.listen, "127.0.0.1:1");
}

#[test]
fn a_secret_is_in_no_fault() {
    let s = SECRET;
    for text in [
        format!("server: {{auth_token: \"{s} {s}\"}}"),
        format!("server: {{auth_token: [{s}]}}"),
        format!("server: {{auth_token: {{{s}: {s}}}}}"),
        format!("server: {{auth_token: \"{s}${{GONE}}\"}}"),
        format!("server: {{auth_token: \"{s}${{GONE\"}}"),
        format!("server: {{auth_token: {{{s}: 1, {s}: 2}}}}"),
        format!("server: {{auth_token: *{s}}}"),
        format!("server: {{auth_token: !{s} x}}"),
        format!("server: {{auth_token: {s}: x}}"),
        format!("server: {{auth_token: !!int {s}}}"),
        format!("server: {{auth_token: \"{s}}}"),
        format!("server: {{auth_tokn: {s}}}"),
        format!("server: {s}"),
        format!("auth_token: {s}"),
        format!("server: {{auth_tokens: {s}}}"),
        format!("server: {{auth_tokens: [{s}]}}"),
        format!("server: {{auth_tokens: [{{name: a, token: \"{s} \", access: read}}]}}"),
        format!("server: {{auth_tokens: [{{name: a, token: [{s}], access: read}}]}}"),
        format!("server: {{auth_tokens: [{{name: a, tokens: {s}, access: read}}]}}"),
        format!("server: {{auth_tokens: [{{name: a, token: \"{s}${{GONE}}\", access: read}}]}}"),
        format!("server: {{auth_token: {s}, auth_tokens: [{{name: a, token: {s}, access: read}}]}}"),
        "server: {auth_token_file: two}".to_owned(),
        s.to_owned(),
        format!("- {s}"),
        "server: {auth_token: \"${TOKEN} ${TOKEN}\"}".to_owned(),
        format!("mongo: {{uri: \"postgres://u:{s}@h\"}}"),
        format!("mongo: {{uri: [\"mongodb://u:{s}@h\"]}}"),
        format!("mongo: {{database: \"mongodb://u:{s}@h\"}}"),
        format!("mongo: {{enabled: 1, uri: \"mongodb://u:{s}@h\"}}"),
        format!("server: {{listen: \"0.0.0.0:1\", auth_token: \"{s} \"}}"),
    ] {
        assert!(!faults(&text).contains(s), "{text}: {}", faults(&text));
    }
}

#[test]
fn a_secret_is_in_no_debug_output_and_not_in_the_effective_configuration() {
    let text = "server: {auth_token: \"${TOKEN}\"}\nmongo: {uri: \"mongodb://u:hunter2hunter2@h:1/?w=1\"}\n";
    let settings = load(text).unwrap();
    let config = settings.config();
    assert_eq!(config.server.auth.auth_token.as_ref().map(Secret::expose), Some(SECRET));
    assert!(!format!("{config:?}").contains(SECRET));
    let shown = settings.to_yaml();
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.contains("  auth_token: \"[redacted]\"\n"), "{shown}");
    assert!(shown.contains("  uri: \"mongodb://[redacted]@h:1/?w=1\"\n"), "{shown}");
    // The placeholder is not accepted as a token.
    assert!(faults(&shown).contains("server.auth_token"), "{shown}");
}

#[test]
fn a_connection_string_is_shown_without_what_may_be_secret() {
    for (uri, shown) in [
        ("mongodb://h:1", "mongodb://h:1"),
        ("mongodb+srv://u:p@h/db", "mongodb+srv://[redacted]@h/db"),
        ("mongodb://u:p@ss/w@h1,h2/db?replicaSet=rs", "mongodb://[redacted]@h1,h2/db?replicaSet=rs"),
        (
            "mongodb://h/?tlsCertificateKeyFilePassword=x&TLS=true&y",
            "mongodb://h/?tlsCertificateKeyFilePassword=[redacted]&TLS=true&[redacted]",
        ),
        ("mongodb://u:p?@h", "mongodb://[redacted]@h"),
        ("u:p@h", "[redacted]"),
        ("u:p@h?x=://", "[redacted]"),
    ] {
        assert_eq!(redact_uri(uri), shown);
    }
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let text = "server: {listen: \"[::1]:0\", local_socket: \"\", allowed_origins: [\"http://[::1]:9\"]}\n\
                journal: {path: \"/a $${HOME} \\\"b\\\"\", fsync: never}\n\
                mongo: {ttl_days: 0, database: \"ü\"}\n\
                log: {level: off}\n";
    let settings = load(text).unwrap();
    assert_eq!(settings.config().journal.path, PathBuf::from("/a ${HOME} \"b\""));
    let mut again = config(&settings.to_yaml());
    // Secrets are printed without the variables that they come from.
    again.responder.secret_variables = settings.config().responder.secret_variables;
    assert_eq!(again, settings.config(), "{}", settings.to_yaml());
}

#[test]
fn the_data_folder_stands_in_for_data_in_default_paths_only() {
    let data = Some(Path::new("/srv/keep"));
    let overrides = Overrides { data, ..Overrides::default() };
    for text in ["", SHIPPED] {
        let config = Settings::load(text, &env, &file, &overrides).unwrap().config();
        assert_eq!(config.journal.path, PathBuf::from("/srv/keep/journal"));
        assert_eq!(config.server.local_socket, Some(PathBuf::from("/srv/keep/chatkeep.sock")));
        assert_eq!(config.mongo.cache.disk_path, PathBuf::from("/srv/keep/cache/chat_sessions"));
    }
    let config = Settings::load(&one("journal.path", "data/elsewhere"), &env, &file, &overrides).unwrap().config();
    assert_eq!(config.journal.path, PathBuf::from("data/elsewhere"));
}

#[test]
fn a_data_folder_whose_name_is_not_utf_8_is_taken_byte_by_byte() {
    let data = Path::new(OsStr::from_bytes(b"/srv/\xff"));
    let config = Config::defaults(Some(data)).unwrap();
    assert_eq!(config.journal.path, data.join("journal"));
    assert_eq!(config.server.local_socket, Some(data.join("chatkeep.sock")));
    assert_eq!(config.mongo.dead_letter_path.parent(), Some(data));
    assert_eq!(config.mongo.cache.disk_path, data.join("cache/chat_sessions"));
}

#[test]
fn a_data_folder_too_deep_for_a_socket_is_a_fault() {
    let deep = "d".repeat(100);
    let told = Config::defaults(Some(Path::new(&deep))).unwrap_err().to_string();
    assert!(told.contains("server.local_socket: ") && told.contains("107 bytes"), "{told}");
}

#[test]
fn listen_on_the_command_line_is_checked_as_in_the_file() {
    let with = |listen| {
        Settings::load(
            "server: {listen: broken}",
            &env,
            &file,
            &Overrides { listen: Some(listen), ..Overrides::default() },
        )
    };
    assert_eq!(with("127.0.0.1:0").unwrap().config().server.listen, "127.0.0.1:0");
    for listen in ["127", "${TOKEN}", "0.0.0.0:80"] {
        let faults = with(listen).unwrap_err();
        assert!(faults.to_string().starts_with(&format!("--listen: {listen:?}: must be ")), "{faults}");
        assert!(faults.iter().all(|fault| !fault.is_in_file()));
    }
}

#[test]
fn a_listen_address_beyond_loopback_needs_a_token_or_the_override() {
    for listen in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1", "LOCALHOST:1"] {
        assert_eq!(config(&one("server.listen", &format!("\"{listen}\""))).server.listen, listen);
    }
    for listen in ["0.0.0.0:1", "[::]:1", "192.168.0.2:1", "localhost.example:1", "127.1:1", "a:1"] {
        let told = faults(&one("server.listen", &format!("\"{listen}\"")));
        assert!(told.starts_with(&format!("server.listen: {listen:?}: ")), "{told}");
        assert!(told.contains("server.auth_token") && told.contains("server.allow_open_listen: true"), "{told}");
        config(&format!("server: {{listen: \"{listen}\", auth_token: t}}"));
        config(&format!("server: {{listen: \"{listen}\", allow_open_listen: true}}"));
    }
}

#[test]
fn small_segments_are_fine_when_bodies_are_small() {
    let config = config("server: {max_body_bytes: 1024}\njournal: {segment_bytes: 67584, max_bytes: 270336}\n");
    assert_eq!(config.journal.segment_bytes, 67_584);
}

#[test]
fn bodies_that_are_held_together_leave_room_for_the_longest() {
    let told = faults("openai_front: {max_request_bytes: 8192, max_held_bytes: 8191}");
    assert!(told.starts_with("openai_front.max_held_bytes: 8191: must be at least 8192, so that one"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    let config = config("openai_front: {max_request_bytes: 8192, max_held_bytes: 8192}").openai_front;
    assert_eq!((config.max_request_bytes, config.max_held_bytes), (8192, 8192));
}

#[test]
fn a_command_is_taken_as_it_stands_and_needs_a_program() {
    let with = |command: &str| format!("responder: {{kind: command, command: {command}}}");
    let config = config(&with("[sh, -c, \"echo $HOME $${HOME} ${TTL}\", \"\"]"));
    assert_eq!(config.responder.kind, ResponderKind::Command);
    assert_eq!(config.responder.command, ["sh", "-c", "echo $HOME ${HOME} 7", ""]);
    let told = faults(&with("[\"\", x]"));
    assert!(told.starts_with("responder.command: [\"\", …]: must begin with the program to run"), "{told}");
    // Reported once, and not in addition to the key's own fault.
    assert_eq!(faults(&with("[5]")).lines().count(), 1);
}

#[test]
fn a_server_that_answers_needs_a_build_that_can_ask_it_and_no_model() {
    let missing = "this build has no client for it, it was made without the cargo feature `openai`";
    assert!(together::openai_refusal(false).is_some_and(|rule| rule.ends_with(missing)));
    assert_eq!(together::openai_refusal(true), None);
    let text = "responder: {kind: openai, openai: {base_url: \"HTTPS\", model: gpt, api_key: \"${TOKEN}\"}}"
        .replace("HTTPS", "https://[::1]:8080/a/v1/");
    if cfg!(not(feature = "openai")) {
        assert_eq!(faults(&text), format!("responder.kind: openai: must be another: {missing}"));
        return;
    }
    let config = config(&text).responder;
    assert_eq!((config.kind, config.openai.base_url.as_str()), (ResponderKind::OpenAi, "https://[::1]:8080/a/v1"));
    assert_eq!(config.openai.api_key.as_ref().map(Secret::expose), Some(SECRET));
    assert!(!format!("{config:?}").contains(SECRET) && !load(&text).unwrap().to_yaml().contains(SECRET));
    let azure = "https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21";
    let version = self::config(&text.replace("https://[::1]:8080/a/v1/", azure)).responder.openai.base_url;
    assert_eq!(version, azure);
    // Clients of the OpenAI front name the model themselves.
    assert_eq!(self::config("responder: {kind: openai}").responder.openai.model, "");
}

#[test]
fn a_build_without_mongo_refuses_it_and_names_the_feature() {
    let missing = "this build has no MongoDB, it was made without the cargo feature `mongo`";
    assert!(together::mongo_refusal(false).is_some_and(|rule| rule.ends_with(missing)));
    assert_eq!(together::mongo_refusal(true), None);
    if cfg!(feature = "mongo") {
        assert!(config("mongo: {enabled: true}").mongo.enabled);
    } else {
        assert_eq!(faults("mongo: {enabled: true}"), format!("mongo.enabled: true: must be false: {missing}"));
    }
}

#[test]
fn a_long_value_is_quoted_short() {
    assert!(faults(&one("log.level", &"x".repeat(5000))).len() < 300);
}

#[test]
fn the_closest_word_is_found_only_when_it_is_close() {
    let words = ["serve", "check-config", "help"];
    for (word, meant) in [
        ("serv", Some("serve")),
        ("sevre", Some("serve")),
        ("check_config", Some("check-config")),
        ("hlep", Some("help")),
        ("status", None),
        ("", None),
    ] {
        assert_eq!(closest(word, words), meant, "{word}");
    }
}

#[test]
fn the_variables_that_secrets_come_from_are_known() {
    let variables = |text: &str| config(text).responder.secret_variables;
    assert_eq!(variables(""), ["MONGO_URI"]);
    let text = "server: {auth_token: \"${TOKEN}\"}\nmongo: {uri: \"mongodb://${SECRET:-u}:${TOKEN}@h\"}\n\
                responder: {openai: {api_key: \"plain$${NONE}\", model: \"${TTL:-m}\"}}";
    let mut found = variables(text);
    found.sort();
    found.dedup();
    assert_eq!(found, ["NONE", "SECRET", "TOKEN"]);
}

#[test]
fn further_tokens_are_read_with_access_and_sessions() {
    let text = "server:\n  auth_tokens:\n    - {name: dash, token: \"${TOKEN}\", access: read}\n\
                \u{20}   - {name: bot, token: t2, access: Write, sessions: \"bot-*\"}\n";
    let auth = config(text).server.auth;
    let [dash, bot] = &auth.auth_tokens[..] else { panic!("{auth:?}") };
    assert_eq!((dash.name.as_str(), dash.token.expose(), dash.access), ("dash", SECRET, Access::Read));
    assert_eq!((bot.access, bot.sessions.as_ref().unwrap().as_str()), (Access::Write, "bot-"));
    assert!(dash.sessions.is_none() && auth.asks_for_token());
    assert_eq!(auth.widest_token().unwrap().expose(), SECRET, "one for all sessions before one for some");
    let settings = load(text).unwrap();
    let shown = "auth_tokens: [{name: \"dash\", token: \"[redacted]\", access: read}, {name: \"bot\", \
                 token: \"[redacted]\", access: write, sessions: \"bot-*\"}]\n";
    assert!(settings.to_yaml().contains(shown), "{}", settings.to_yaml());
    assert_eq!(settings.config().responder.secret_variables, ["TOKEN", "MONGO_URI"]);
    config("server: {listen: \"0.0.0.0:1\", auth_tokens: [{name: a, token: t, access: read}]}");
}

#[test]
fn every_fault_of_the_tokens_is_told_at_once() {
    let text = "server:\n  auth_token: main\n  auth_tokens:\n\
                \u{20}   - {name: a, token: t, access: read}\n    - {name: a, token: t, access: read}\n\
                \u{20}   - {name: b, token: main, access: root}\n    - {nam: c, sessions: \"*\"}\n    - text\n\
                \u{20}   - {name: auth_token, token: \"${GONE}\", access: admin, sessions: \"x/*\"}\n";
    let told = faults(text);
    for fault in [
        "server.auth_tokens[1].name: \"a\": must be another than that of server.auth_tokens[0]",
        "server.auth_tokens[1].token: [redacted]: must be another than that of server.auth_tokens[0]",
        "server.auth_tokens[2].access: \"root\": must be one of read, write, admin",
        "server.auth_tokens[2].token: [redacted]: must be another than that of server.auth_token or its file",
        "server.auth_tokens[3].nam: unknown key; did you mean name?",
        "server.auth_tokens[3].name: nothing: must be text (in quotes): must be 1 to 64 characters",
        "server.auth_tokens[3].token: [redacted]: must be text (in quotes): must be 1 to 1024 visible",
        "server.auth_tokens[3].access: nothing: must be one of read, write, admin",
        "server.auth_tokens[3].sessions: \"*\": must be the beginning of session ids and a *",
        "server.auth_tokens[4]: [redacted]: must be a block of keys",
        "server.auth_tokens[5].name: \"auth_token\": must be 1 to 64 characters",
        "server.auth_tokens[5].token: ${GONE} is not set",
        "server.auth_tokens[5].sessions: \"x/*\": must be the beginning",
    ] {
        assert!(told.contains(fault), "{fault}\n{told}");
    }
    assert_eq!(told.lines().count(), 13, "{told}");
}

#[test]
fn a_token_in_a_file_counts_like_one_in_the_configuration() {
    let auth = config("server: {listen: \"0.0.0.0:1\", auth_token_file: token}").server.auth;
    assert_eq!(auth.auth_token, Some(Secret::new(SECRET)), "the end of the line is cut");
    for (text, told) in [
        ("auth_token_file: none", "\"none\": must be a file that can be read: there is no such file"),
        ("auth_token_file: two", "\"two\": must be a file with one token in it"),
        ("auth_token_file: empty", "\"empty\": must be a file with one token in it"),
        ("auth_token_file: token, auth_token: t", "must be empty while server.auth_token is set"),
    ] {
        assert!(faults(&format!("server: {{{text}}}")).contains(told), "{text}");
    }
    let uses_secret: Option<UsesSecret> = Some(|_, _| false);
    let unused = Overrides { uses_secret, ..Overrides::default() };
    for text in [
        "{auth_token_file: none, listen: \"0.0.0.0:1\"}",
        "{auth_tokens: [{name: a, token: \"${GONE}\", access: read}]}",
    ] {
        assert!(Settings::load(&format!("server: {text}"), &env, &file, &unused).is_ok(), "{text}");
    }
}

/// Another value than the default of each key, and what it needs beside it.
fn other_value(key: &table::ConfigKey) -> String {
    use table::{Given, KeyKind};
    match (&key.kind, &key.default) {
        (KeyKind::Bool, Given::Bool(default)) => (!default).to_string(),
        // A message above server.max_body_bytes counts as one of that length.
        (KeyKind::Integer(bounds), Given::Integer(default))
            if default == bounds.end() || key.path == "websocket.max_message_bytes" =>
        {
            (default - 1).to_string()
        }
        (KeyKind::Integer(_), Given::Integer(default)) => (default + 1).to_string(),
        (KeyKind::Choice(words), Given::Text(default)) => words
            .iter()
            .find(|word| **word != *default && **word != "openai" && **word != "command")
            .unwrap()
            .to_string(),
        (KeyKind::Blocks(_), _) => "[{name: a, token: t, access: read}]".to_owned(),
        _ => match key.path {
            "server.listen" => "\"127.0.0.1:9\"",
            "server.allowed_origins" => "[\"https://a.example\"]",
            "server.allowed_hosts" => "[\"a.example\"]",
            "mongo.uri" => "\"mongodb://b.example\"",
            "responder.command" | "responder.command_env" => "[\"ls\"]",
            "responder.openai.base_url" => "\"http://b.example/v1\"",
            "server.auth_token_file" => "token",
            _ => "\"another\"",
        }
        .to_owned(),
    }
}

#[test]
fn each_key_is_reloaded_or_named_as_waiting_for_a_restart() {
    let running = load("").unwrap();
    for key in KEYS {
        if key.path == "mongo.enabled" && !cfg!(feature = "mongo") {
            continue;
        }
        let new = load(&one(key.path, &other_value(key))).unwrap_or_else(|faults| panic!("{}: {faults}", key.path));
        let Reload { settings, changed, needs_restart } = running.reload(&new).unwrap();
        match key.reloads {
            true => assert_eq!((&changed[..], &needs_restart[..]), (&[key.path][..], &[][..])),
            false => assert_eq!((&changed[..], &needs_restart[..]), (&[][..], &[key.path][..])),
        }
        assert_eq!(settings.to_yaml() == running.to_yaml(), !key.reloads, "{}", key.path);
        assert_eq!(settings.config() == running.config(), !key.reloads, "{}", key.path);
        // What waits is named again the next time, what is in effect is not.
        assert_eq!(settings.reload(&new).unwrap().changed, [""; 0], "{}", key.path);
        assert_eq!(settings.reload(&new).unwrap().needs_restart, needs_restart);
    }
}

#[test]
fn a_reload_takes_the_new_text_of_a_tokens_file() {
    let with = |said: &'static str| {
        let file = move |_: &Path| Ok(said.to_owned());
        Settings::load("server: {auth_token_file: f}", &env, &file, &Overrides::default()).unwrap()
    };
    let (running, new) = (with("one\n"), with("two\n"));
    assert_eq!(running.reload(&with("one")).unwrap().changed, [""; 0]);
    let reload = running.reload(&new).unwrap();
    assert_eq!(reload.changed, ["server.auth_token_file"]);
    assert_eq!(reload.settings.config().server.auth.auth_token, Some(Secret::new("two")));
    assert_eq!(reload.settings.reload(&new).unwrap().changed, [""; 0]);
}

#[test]
fn a_reload_knows_the_variables_of_old_and_new_secrets() {
    let running = load("server: {auth_token: \"${TOKEN}\"}").unwrap();
    let new = load("server: {auth_tokens: [{name: a, token: \"${OTHER:-t}\", access: read}]}").unwrap();
    let settings = running.reload(&new).unwrap().settings;
    assert_eq!(settings.config().responder.secret_variables, ["TOKEN", "MONGO_URI", "OTHER"]);
    assert_eq!(settings.reload(&new).unwrap().settings.config(), settings.config());
}

#[test]
fn a_reload_refuses_what_only_a_restart_would_make_right() {
    let running = load("").unwrap();
    // Larger bodies need larger segments, which the running journal does not have.
    let new = load("server: {max_body_bytes: 8388608}\njournal: {segment_bytes: 33554432}").unwrap();
    let told = running.reload(&new).unwrap_err().to_string();
    assert!(told.contains("journal.segment_bytes: 16777216: must be at least 16842752"), "{told}");
    let open = load("server: {listen: \"0.0.0.0:1\", auth_token: t}").unwrap();
    let told = open.reload(&load("").unwrap()).unwrap_err().to_string();
    assert!(told.contains("server.listen: \"0.0.0.0:1\": must be a loopback address"), "{told}");
}
