//! The parameters of a query: each at most once, and what several routes ask of their values.

use crate::message::Id;

use super::Problem;

/// Hands each parameter to `take`, which says whether it is one of the route's: other programs' are none of ours.
pub(super) fn each(query: &str, mut take: impl FnMut(&str, &str) -> Result<bool, Problem>) -> Result<(), Problem> {
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !take(&name, &value)? {
            continue;
        }
        if seen.contains(&name) {
            return Err(Problem::field(&name, "must be given once"));
        }
        seen.push(name);
    }
    Ok(())
}

/// A whole number within bounds.
pub(super) fn whole_number(field: &str, value: &str, least: usize, most: usize) -> Result<usize, Problem> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Problem::field(field, &format!("must be a whole number from {least} to {most}")))
}

/// The id of a message.
pub(super) fn id(field: &str, value: &str) -> Result<Id, Problem> {
    value.parse().map_err(|_| Problem::field(field, "must be the id of a message (a UUIDv7)"))
}
