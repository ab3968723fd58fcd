//! chatkeep keeps chat conversations: durable on local disk before it answers, recent history from memory.
//!
//! The binary is the product; this library is its code, public for its tests and benchmarks. ARCHITECTURE.md has the
//! way of a message. Imports go down only:
//!
//! ```text
//! L4 main cli app systemd
//! L3 server api
//! L2 backup chat recorder history import listing search feed export convert front hub worker janitor doctor
//! L1 journal cache transcript sessions store responder
//! L0 access message backoff config descriptors disk layout liveness permit swap thread signals logging metrics
//! ```

pub mod access;
pub mod api;
pub mod app;
pub mod backoff;
pub mod backup;
pub mod cache;
pub mod chat;
pub mod cli;
pub mod config;
pub mod convert;
pub mod descriptors;
pub mod disk;
pub mod doctor;
pub mod export;
pub mod feed;
pub mod front;
pub mod history;
pub mod hub;
pub mod import;
pub mod janitor;
pub mod journal;
pub mod layout;
pub mod listing;
pub mod liveness;
pub mod logging;
pub mod message;
pub mod metrics;
pub mod permit;
pub mod recorder;
pub mod responder;
pub mod search;
pub mod server;
pub mod sessions;
pub mod signals;
pub mod store;
pub mod swap;
pub mod systemd;
pub mod thread;
pub mod transcript;
pub mod worker;
