//! The parameters of a query: each at most once; and checks of values that several routes need.

use crate::message::Id;

use super::shape::Shape;
use super::{Problem, names};

/// Hands each parameter to `take`, which gets only known names. Unknown ones are ignored, unless one is misspelled.
pub(super) fn each(
    query: &str,
    known: &[&str],
    mut take: impl FnMut(&str, &str) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !known.contains(&&*name) {
            match names::meant(&name, known.iter().copied()) {
                Some(meant) => return Err(Problem::misspelt(&name, "parameter", meant)),
                None => continue,
            }
        }
        take(&name, &value)?;
        if seen.contains(&name) {
            return Err(Problem::field(&name, "must be given once"));
        }
        seen.push(name);
    }
    Ok(())
}

/// Refuses a field of the body in the query, where it would have no effect.
pub(super) fn none_of(query: &str, shape: &Shape) -> Result<(), Problem> {
    for (name, _) in form_urlencoded::parse(query.as_bytes()) {
        if let Some(meant) = names::meant(&name, shape.iter().map(|(known, _)| *known)) {
            return Err(Problem::field(&name, &format!("is no parameter of this call; `{meant}` stands in the body")));
        }
    }
    Ok(())
}

/// A positive number; above `most` it counts as `most`.
pub(super) fn at_most(field: &str, value: &str, most: usize) -> Result<usize, Problem> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    // An overflow counts as `most`, too.
    let number = if is_number { value.parse().unwrap_or(most) } else { 0 };
    match number {
        0 => Err(Problem::field(field, "must be a whole number from 1 up")),
        number => Ok(number.min(most)),
    }
}

/// A whole number within bounds.
pub(super) fn whole_number(field: &str, value: &str, least: usize, most: usize) -> Result<usize, Problem> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| Problem::field(field, &format!("must be a whole number from {least} to {most}")))
}

/// true or false.
pub(super) fn flag(field: &str, value: &str) -> Result<bool, Problem> {
    value.parse().map_err(|_| Problem::field(field, "must be true or false"))
}

/// The id of a message.
pub(super) fn id(field: &str, value: &str) -> Result<Id, Problem> {
    value.parse().map_err(|_| Problem::field(field, "must be the id of a message (a UUIDv7)"))
}
