//! In place of MongoDB in a build without the cargo feature `mongo`: nothing can be opened, and the error says why.

use std::sync::Arc;

use crate::config::MongoConfig;

use super::interface::RULE;
use super::{Store, StoreError};

/// No hosts, or the rule that the connection string breaks.
///
/// # Errors
/// The rule. The same string fails again.
pub fn hosts(uri: &str) -> Result<Vec<String>, &'static str> {
    if uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://") { Ok(Vec::new()) } else { Err(RULE) }
}

/// Opens no store: this build has none.
///
/// # Errors
/// [`StoreError::Configuration`], always.
pub fn open(_: &MongoConfig) -> Result<Arc<dyn Store>, StoreError> {
    let reason = "this build has no MongoDB, it was made without the cargo feature `mongo`".to_owned();
    Err(StoreError::Configuration(reason))
}

/// Sets no dates: this build has no store.
///
/// # Errors
/// [`StoreError::Configuration`], always.
pub fn apply_ttl(config: &MongoConfig, _: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
    open(config).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_not_built_in_says_so() {
        let config = crate::config::Config::defaults(None).unwrap();
        let error = open(&config.mongo).err().unwrap();
        assert!(!error.is_passing() && error.to_string().contains("cargo feature `mongo`"), "{error}");
    }
}
