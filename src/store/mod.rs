//! MongoDB, seen from the rest: so far its connection string, which is checked whether or not it is used.
//!
//! The cargo feature `mongo` is asked for here and nowhere else. A connection string may hold a password: nothing here
//! quotes one.

#[cfg(feature = "mongo")]
mod mongo;

/// The hosts a connection string names, `HOST:PORT` each; for `mongodb+srv` the name that is looked up.
///
/// # Errors
/// The rule it breaks, in words that quote nothing of it. A build without MongoDB looks at the scheme only and names no
/// hosts.
pub fn hosts(uri: &str) -> Result<Vec<String>, &'static str> {
    #[cfg(feature = "mongo")]
    return mongo::hosts(uri);
    #[cfg(not(feature = "mongo"))]
    if uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://") { Ok(Vec::new()) } else { Err(RULE) }
}

/// The rule of a connection string.
const RULE: &str =
    "must be a MongoDB connection string, mongodb://[user:password@]host[:port][,…][/database][?options]";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_that_is_none_is_refused_without_being_quoted() {
        for uri in ["", "http://user:secret@host", "127.0.0.1:27017"] {
            assert_eq!(hosts(uri), Err(RULE), "{uri}");
        }
        assert!(hosts("mongodb://user:secret@one:27017,two:27018/db").is_ok());
    }

    #[cfg(feature = "mongo")]
    #[test]
    fn hosts_are_told_and_passwords_are_not() {
        let told = hosts("mongodb://user:secret@one,two:27018/db?replicaSet=rs").unwrap();
        assert_eq!(told, ["one:27017", "two:27018"]);
        assert_eq!(hosts("mongodb+srv://user:secret@cluster.example.org/db").unwrap(), ["cluster.example.org"]);
        assert_eq!(hosts("mongodb://host/?maxPoolSize=many"), Err(RULE));
    }
}
