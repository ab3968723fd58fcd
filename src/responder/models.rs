//! The list of models, as the protocol has it.
//!
//! Knows nothing of responders.

use serde_json::{Value, json};

/// The body of `GET /v1/models` for models of these names.
#[must_use]
pub fn model_list(names: &[&str]) -> Vec<u8> {
    let model = |name: &&str| json!({"id": name, "object": "model", "created": 0, "owned_by": "chatkeep"});
    let models: Vec<Value> = names.iter().map(model).collect();
    json!({"object": "list", "data": models}).to_string().into_bytes()
}
