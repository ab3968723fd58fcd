//! Unknown names in requests: ignored, unless one is so similar to a known name that it is most likely misspelled.
//!
//! Allocates nothing: a body may have as many names as it has bytes for.

/// The most edits of a misspelled name: a letter inserted, deleted, replaced, or swapped with its neighbour.
const EDITS_MAX: usize = 2;
/// Longer than any name of ours, in bytes.
const NAME_BYTES_MAX: usize = 24;

/// The known name that an unknown one most likely means.
pub(super) fn meant<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let distances = known.into_iter().filter_map(|known| Some((distance(name.as_bytes(), known.as_bytes())?, known)));
    distances.min_by_key(|(edits, _)| *edits).map(|(_, known)| known)
}

/// The edits between two names (optimal string alignment), if they are no more than [`EDITS_MAX`].
fn distance(a: &[u8], b: &[u8]) -> Option<usize> {
    if a.len().abs_diff(b.len()) > EDITS_MAX || a.len().max(b.len()) > NAME_BYTES_MAX {
        return None;
    }
    let (mut before, mut last, mut row) = ([0; NAME_BYTES_MAX + 1], [0; NAME_BYTES_MAX + 1], [0; NAME_BYTES_MAX + 1]);
    for (column, edits) in last.iter_mut().enumerate() {
        *edits = column;
    }
    for i in 1..=a.len() {
        row[0] = i;
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        (before, last) = (last, row);
    }
    Some(last[b.len()]).filter(|edits| *edits <= EDITS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_within_two_edits_is_meant_and_a_further_one_is_not() {
        let known = ["message", "session_id", "metadata", "stream"];
        for (name, wanted) in [
            ("mesage", Some("message")),
            ("messages", Some("message")),
            ("Message", Some("message")),
            ("emssaeg", Some("message")),
            ("sessionId", Some("session_id")),
            ("session-id", Some("session_id")),
            ("steam", Some("stream")),
            ("session", None),
            ("meta", None),
            ("temperature", None),
            ("", None),
            ("msg", None),
        ] {
            assert_eq!(meant(name, known), wanted, "{name}");
        }
        assert_eq!(meant(&"m".repeat(4000), known), None);
        assert_eq!(meant("limt", ["limit", "list"]), Some("limit"));
    }
}
