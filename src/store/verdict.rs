//! What an error of the driver means for us: the only module that knows MongoDB's codes.
//!
//! Error texts may quote documents and texts of hosts, so only a server's code and its name are shown. The numbers come
//! from the server's `error_codes.yml`.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use super::StoreError;

/// The longest reason that comes from the driver, in characters.
const REASON_CHARS: usize = 300;

/// The longest text about one server, in characters.
const PROBE_CHARS: usize = 100;

/// The longest address, in bytes: a host name and a port.
const ADDRESS_BYTES_MAX: usize = 260;

/// The key exists in a unique index.
pub const DUPLICATE_KEY: i32 = 11_000;

/// `NamespaceNotFound`: the collection does not exist yet.
pub const NAMESPACE_NOT_FOUND: i32 = 26;

/// `Unauthorized`: the user, or no user, has no right to do that.
pub const UNAUTHORIZED: i32 = 13;

/// `BadValue`: of a question of ours the server refuses only an index that is not there.
const BAD_VALUE: i32 = 2;

/// `CommandNotSupportedOnView`: of our commands only a view refuses one so.
const ON_VIEW: i32 = 166;

/// `NotWritablePrimary`, `NotPrimaryNoSecondaryOk` and `NotPrimaryOrSecondary`.
const NOT_PRIMARY: [i32; 3] = [10_107, 13_435, 13_436];

/// Codes for a document that a server will refuse for ever, with their names.
const PERMANENT: [(i32, &str); 15] = [
    (BAD_VALUE, "BadValue"),
    (9, "FailedToParse"),
    (14, "TypeMismatch"),
    (15, "Overflow"),
    (16, "InvalidLength"),
    (22, "InvalidBSON"),
    (52, "DollarPrefixedFieldName"),
    (53, "InvalidIdField"),
    (55, "InvalidDBRef"),
    (56, "EmptyFieldName"),
    (57, "DottedFieldName"),
    (121, "DocumentValidationFailure"),
    (171, "CannotIndexParallelArrays"),
    (10_334, "BSONObjectTooLarge"),
    (17_280, "KeyTooLong"),
];

/// Codes of a server that is not, or not yet, the one to ask: failover, shutdown, the network between servers.
const UNREACHABLE: [i32; 12] = [6, 7, 89, 91, 189, 262, 9001, 10_058, 11_600, 11_602, 50, 112];

/// Codes of an unmet write concern, if they are the error of the whole command.
const WRITE_CONCERN: [i32; 3] = [64, 79, 100];

/// `Unauthorized`, `AuthenticationFailed`, and Atlas' own code.
const CREDENTIALS: [i32; 3] = [UNAUTHORIZED, 18, 8000];

/// Why a document is refused for ever; `None` if it may be accepted later.
pub fn permanent(code: i32) -> Option<String> {
    let (_, name) = PERMANENT.iter().find(|(known, _)| *known == code)?;
    Some(format!("MongoDB refuses the document: code {code}, {name}"))
}

/// Whether a duplicate key was found in the index of `_id`; only the server's text tells. It quotes the document after
/// `dup key:`.
pub fn is_in_id_index(message: &str) -> bool {
    let head = message.split(" dup key:").next().unwrap_or_default();
    head.rsplit_once("index: ").is_some_and(|(_, index)| index == "_id_")
}

/// Whether a question was refused because the index that it names is not there.
pub fn is_bad_hint(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == BAD_VALUE)
}

/// The meaning of a server's code for a whole command.
pub fn of_code(code: i32, name: &str) -> StoreError {
    // The name comes from the server too, but never from data; its form is checked all the same.
    let is_name = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    let reason = if is_name { format!("code {code}, {name}") } else { format!("code {code}") };
    if code == ON_VIEW {
        StoreError::Configuration("mongo.chat_collection is a view, which takes no documents".to_owned())
    } else if NOT_PRIMARY.contains(&code) {
        let why = "it is not the primary, and with directConnection=true no other server is asked";
        StoreError::Unreachable(format!("{reason}: {why}"))
    } else if CREDENTIALS.contains(&code) {
        StoreError::Credentials(reason)
    } else if WRITE_CONCERN.contains(&code) {
        StoreError::WriteConcern(reason)
    } else if UNREACHABLE.contains(&code) {
        StoreError::Unreachable(reason)
    } else {
        StoreError::Server(reason)
    }
}

/// The meaning of an error for the whole call. `hosts` are those of the connection string: the text names servers in
/// that order.
pub fn of(error: &Error, hosts: &[String]) -> StoreError {
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => StoreError::Credentials("authentication failed".to_owned()),
        ErrorKind::Command(command) => of_code(command.code, &command.code_name),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => write_concern(concern.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => of_code(write.code, ""),
        ErrorKind::InsertMany(failure) => match (&failure.write_concern_error, &failure.write_errors) {
            (Some(concern), _) => write_concern(concern.code),
            (None, errors) => of_code(errors.iter().flatten().next().map_or(0, |error| error.code), ""),
        },
        ErrorKind::Io(io) => StoreError::BrokenOff(io.to_string()),
        ErrorKind::ConnectionPoolCleared { .. } => {
            StoreError::BrokenOff("the connection was given up with its server".to_owned())
        }
        ErrorKind::ServerSelection { message, .. } => StoreError::Unreachable(unselected(message, hosts)),
        ErrorKind::DnsResolve { .. } => StoreError::Unreachable("a name could not be resolved".to_owned()),
        ErrorKind::InvalidTlsConfig { .. } => StoreError::Configuration("the TLS options cannot be used".to_owned()),
        ErrorKind::InvalidArgument { .. } => StoreError::Configuration("the driver refuses the options".to_owned()),
        ErrorKind::IncompatibleServer { .. } => {
            StoreError::Configuration("the server and this driver do not fit together".to_owned())
        }
        _ => StoreError::Server("an answer that was not understood".to_owned()),
    }
}

/// Why a reachable server refuses a command; `None` for other errors and those that pass by themselves.
pub fn refusal(error: &Error) -> Option<String> {
    let ErrorKind::Command(command) = error.kind.as_ref() else { return None };
    match of_code(command.code, &command.code_name) {
        StoreError::Credentials(reason) | StoreError::Server(reason) => Some(reason),
        _ => None,
    }
}

fn write_concern(code: i32) -> StoreError {
    StoreError::WriteConcern(format!("code {code}"))
}

/// Why no server was selected, host by host. The driver's text is a dump of its state, in no fixed order: each address
/// and the failure of its last probe are taken from it, so that the same outage always reads the same.
fn unselected(message: &str, hosts: &[String]) -> String {
    let mut told: Vec<(usize, &str, String)> = Vec::new();
    for server in message.split("{ Address: ").skip(1) {
        let Some((address, rest)) = server.split_once(", Type: ").filter(|(address, _)| is_address(address)) else {
            continue;
        };
        let place = hosts.iter().position(|host| host == address).unwrap_or(usize::MAX);
        told.push((place, address, probed(rest)));
    }
    told.sort();
    told.dedup();
    if told.is_empty() {
        return shown(&format!("{}: server selection timed out", hosts.join(", ")));
    }
    let told: Vec<_> = told.into_iter().map(|(_, address, why)| format!("{address}: {why}")).collect();
    shown(&told.join("; "))
}

fn is_address(text: &str) -> bool {
    text.len() <= ADDRESS_BYTES_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-_[]/%".contains(&b))
}

/// The result of a server's last probe, from the dump after `Type: `. Only connection errors are quoted, whose text
/// comes from this machine.
fn probed(rest: &str) -> String {
    let kind = rest.split([',', ' ']).next().unwrap_or_default();
    match rest.strip_prefix(kind).and_then(|rest| rest.strip_prefix(", Error: ")) {
        Some(error) => {
            let io = error.strip_prefix("Kind: I/O error: ").and_then(|io| io.split(", labels: ").next());
            io.map_or_else(|| "its answer was not understood".to_owned(), |io| cut(io, PROBE_CHARS))
        }
        None => match kind {
            "RsSecondary" => "a secondary".to_owned(),
            "RsArbiter" => "an arbiter".to_owned(),
            "RsGhost" => "its replica set is not initiated, or does not include it".to_owned(),
            "Unknown" => "no answer yet".to_owned(),
            _ => "it cannot be written to".to_owned(),
        },
    }
}

fn shown(text: &str) -> String {
    cut(text, REASON_CHARS)
}

/// The beginning of a text, without control characters.
pub fn cut(text: &str, chars: usize) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(chars).collect();
    if text.chars().nth(chars).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_is_one_of_id_only_in_the_index_of_id() {
        for (message, of_id) in [
            (r#"E11000 duplicate key error collection: a.b index: _id_ dup key: { _id: "x" }"#, true),
            (
                r#"E11000 duplicate key error collection: a.b index: one_text dup key: { text: "index: _id_ dup key:" }"#,
                false,
            ),
            (r#"E11000 duplicate key error collection: a.index: _id_ index: text_1 dup key: { text: "x" }"#, false),
            ("", false),
        ] {
            assert_eq!(is_in_id_index(message), of_id, "{message}");
        }
    }

    #[test]
    fn unreachable_servers_are_told_in_the_order_of_the_configuration() {
        let refused = |address: &str, labels: &str| {
            format!(
                "{{ Address: {address}, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: \
                 {{{labels}}}, source: None, server response: None }}"
            )
        };
        let dump = |servers: &[String]| {
            let servers = servers.join(", ");
            format!(
                "Server selection timeout: No available servers. Topology: {{ Type: Unknown, Set Name: secret, Servers: [ \
                 {servers} ] }}"
            )
        };
        let hosts = ["b:27017".to_owned(), "a:27017".to_owned()];
        let (one, other) =
            (r#""SystemOverloadedError", "RetryableError""#, r#""RetryableError", "SystemOverloadedError""#);
        let told = "b:27017: Connection refused (os error 111); a:27017: Connection refused (os error 111)";
        assert_eq!(unselected(&dump(&[refused("a:27017", one), refused("b:27017", other)]), &hosts), told);
        assert_eq!(unselected(&dump(&[refused("b:27017", other), refused("a:27017", one)]), &hosts), told);
        let words = "{ Address: a:27017, Type: Unknown, Error: Kind: Command failed: secret, labels: {} }";
        assert_eq!(unselected(&dump(&[words.to_owned()]), &hosts), "a:27017: its answer was not understood");
        let follower = "{ Address: c:1, Type: RsSecondary, Average RTT: 1ms, Tags: {\"a\": \"secret\"} }";
        assert_eq!(unselected(&dump(&[follower.to_owned()]), &hosts), "c:1: a secondary");
        let ghost = "{ Address: c:1, Type: RsGhost, Average RTT: 1ms }";
        assert!(unselected(&dump(&[ghost.to_owned()]), &hosts).starts_with("c:1: its replica set is not initiated"));
        for odd in ["secret", "{ Address: user:secret@a, Type: Unknown }", "{ Address: "] {
            assert_eq!(unselected(odd, &hosts), "b:27017, a:27017: server selection timed out");
        }
        let many: Vec<_> = (0..50).map(|n| refused(&format!("h{n}:1"), one)).collect();
        assert_eq!(unselected(&dump(&many), &hosts).chars().count(), REASON_CHARS + 1);
    }

    #[test]
    fn errors_are_told_by_their_remedy() {
        assert!(matches!(of_code(10_107, "NotWritablePrimary"), StoreError::Unreachable(_)));
        assert!(matches!(of_code(166, "CommandNotSupportedOnView"), StoreError::Configuration(_)));
        assert!(matches!(of_code(64, "WriteConcernFailed"), StoreError::WriteConcern(_)));
        assert!(matches!(of_code(18, "AuthenticationFailed"), StoreError::Credentials(_)));
        assert!(matches!(of_code(8, "UnknownError"), StoreError::Server(_)));
        assert!(!of_code(13, "Unauthorized").is_passing() && of_code(11_602, "").is_passing());
        assert_eq!(of_code(1, "user:secret").to_string(), "MongoDB answered with an error (code 1)");
        assert!(permanent(121).is_some() && permanent(DUPLICATE_KEY).is_none() && permanent(10_107).is_none());
    }
}
