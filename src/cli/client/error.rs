//! Why there is no reply, in sentences.

use std::io;

/// Why there is no reply, by remedy.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ClientError {
    /// No server is there.
    #[error("no server is listening on {0}: start it with `chatkeep serve`, or name its data folder with --data")]
    Absent(String),
    /// The socket's mode forbids it.
    #[error("{0} belongs to another user: run this as the user that runs the server")]
    Forbidden(String),
    /// The configuration does not tell the port.
    #[error("server.listen has port 0, so the port is not known: give it with --listen HOST:PORT")]
    NoPort,
    /// The server does not answer in time.
    #[error("{place} does not answer within {seconds} s")]
    Late {
        /// The server's address or socket.
        place: String,
        /// The time waited, in seconds.
        seconds: u64,
    },
    /// The connection ended in the middle of a reply: the server was killed, or stops.
    #[error("{0} closed the connection before the reply was whole")]
    Cut(String),
    /// Another program listens there.
    #[error("{place} does not answer as a chatkeep server does: {what}")]
    Malformed {
        /// The server's address or socket.
        place: String,
        /// What is wrong with the reply.
        what: String,
    },
    /// The system's reason.
    #[error("cannot talk to {place}: {source}")]
    Io {
        /// The server's address or socket.
        place: String,
        /// The reason.
        source: io::Error,
    },
    /// The server refused.
    #[error("the server refuses with {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The `detail` of its problem.
        detail: String,
        /// The field at fault.
        field: Option<String>,
    },
}

impl ClientError {
    /// Whether it is over once a server that stops or restarts is there again.
    pub(in crate::cli) fn may_pass(&self) -> bool {
        match self {
            Self::Absent(_) | Self::Late { .. } | Self::Cut(_) | Self::Io { .. } => true,
            // tiny_http answers 500 to what it drops at a stop; the others are of proxies whose server is away.
            Self::Refused { status, .. } => matches!(status, 500 | 502..=504),
            Self::Forbidden(_) | Self::NoPort | Self::Malformed { .. } => false,
        }
    }
}
