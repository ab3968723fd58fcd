//! The database behind the worker and the history: one small trait, and MongoDB as its one implementation.
//!
//! ```text
//! interface.rs the trait, what goes in and out, its errors by remedy
//! document.rs  a message <-> its BSON document, and what can be none
//! foreign.rs  documents of other programs, as messages
//! page.rs     a page of a session, out of both
//! bson.rs      JSON text into BSON bytes
//! batched.rs   what a cursor finds, in batches
//! mongo.rs     connect, insert, erase and read by the driver
//! indexes.rs   the indexes: made when missing, reported when they differ or cannot be made
//! ttl.rs       documents that expire otherwise than mongo.ttl_days says
//! verdict.rs   what an error of the driver means for us
//! erasures.rs  what is erased, told to the other servers of a shared database
//! calls.rs     threads for calls that may get stuck, with deadlines
//! without.rs   what stands in for mongo.rs in a build without the cargo feature `mongo`
//! ```
//!
//! Every call blocks and may hang as long as a server does: callers with a deadline use [`Calls`]. The cargo
//! feature is asked for here and nowhere else below `src/store`.
//!
//! Invariant: nothing here quotes a connection string, a credential, or the text of a message, in no error and no reason.
//! What a server says may quote any of them, so its codes are reported and its words are not. Knows nothing of the
//! journal, of transcripts or of who calls.

#[cfg(feature = "mongo")]
mod batched;
#[cfg(feature = "mongo")]
mod bson;
mod calls;
#[cfg(feature = "mongo")]
mod document;
#[cfg(feature = "mongo")]
mod erasures;
#[cfg(feature = "mongo")]
mod foreign;
#[cfg(feature = "mongo")]
mod indexes;
mod interface;
#[cfg_attr(not(feature = "mongo"), path = "store/without.rs")]
mod mongo;
#[cfg(feature = "mongo")]
mod page;
#[cfg(feature = "mongo")]
mod ttl;
#[cfg(feature = "mongo")]
mod verdict;

pub use calls::{Call, CallError, Calls, Mark};
pub use interface::{
    Connected, ERASURES_MAX, ErasurePlace, Inserted, OutgoingMessage, Refused, SESSIONS_MAX, Store, StoreError,
    StorePage, StoreQuery, StoredErasure, TtlDifference,
};
pub use mongo::{apply_ttl, hosts, open};

#[cfg(test)]
mod tests {
    use super::hosts;
    use super::interface::RULE;

    #[test]
    fn a_connection_string_that_is_none_is_refused_without_being_quoted() {
        for uri in ["", "http://user:secret@host", "127.0.0.1:27017"] {
            assert_eq!(hosts(uri), Err(RULE), "{uri}");
        }
        assert!(hosts("mongodb://user:secret@one:27017,two:27018/db").is_ok());
    }
}
