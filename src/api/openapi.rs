//! `GET /openapi.json`: the API in OpenAPI 3.1, for client generators and automatic tests.
//!
//! The document is a hand-written file beside this one, built in. Tests compare it with the table of routes and with
//! the version, so a change of the API must change it too.

use super::{Reply, json_bytes};

/// The document, as JSON.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`
#[must_use]
pub fn document() -> Reply {
    json_bytes(200, DOCUMENT.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::route::TABLE;
    use super::*;
    use crate::access::Access;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// Every object below `value`, itself included.
    fn objects<'a>(value: &'a Value, found: &mut Vec<&'a serde_json::Map<String, Value>>) {
        match value {
            Value::Object(map) => {
                found.push(map);
                map.values().for_each(|inner| objects(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| objects(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let document = document();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            described.extend(methods.map(|method| (path.clone(), method.to_ascii_uppercase())));
        }
        // HEAD is described wherever GET is served.
        let served = TABLE.iter().flat_map(|(path, allow, ..)| {
            let methods = allow.split(", ").filter(|method| *method != "HEAD");
            methods.map(|method| ((*path).to_owned(), method.to_owned()))
        });
        assert_eq!(described, served.collect());
    }

    #[test]
    fn the_document_says_what_access_each_route_needs() {
        let document = document();
        for (path, allow, access, _) in TABLE {
            let operation = &document["paths"][path][&allow.to_ascii_lowercase().split(',').next().unwrap()];
            assert_eq!(operation["x-access"], access.as_str(), "{path}");
            let (asks, refuses) = (operation["security"].is_null(), &operation["responses"]["401"]);
            assert_eq!((asks, refuses.is_object()), (*access != Access::None, *access != Access::None), "{path}");
        }
    }

    #[test]
    fn the_document_has_the_version_of_the_package() {
        let document = document();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"), "change it in src/api/openapi.json");
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut all = Vec::new();
        objects(&document, &mut all);
        let references: Vec<&str> = all.iter().filter_map(|object| object.get("$ref")?.as_str()).collect();
        assert!(references.len() > 100);
        for reference in references {
            let place = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
            assert!(place.is_some(), "{reference}");
        }
    }
}
