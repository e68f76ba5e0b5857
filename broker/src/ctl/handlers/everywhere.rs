//! Verbs about connections, and members of groups: each node does them for its own, and what they show is put together.

use crate::ctl::protocol::{Output, Request};
use crate::mirror::Mirror;
use crate::mirror::remote::Matter;

use super::{Handled, Result};

/// What [`super::connections::close_all`] says, around the number.
const CLOSED: (&str, &str) = ("Closed ", " connections");

/// Whether a verb concerns what each node has for itself.
pub fn concerns(verb: &str) -> bool {
    matches!(
        verb,
        "list_connections"
            | "list_channels"
            | "list_consumers"
            | "close_connection"
            | "close_all_connections"
            | "close_all_user_connections"
            | "quorum_status"
    )
}

/// Adds to what this node has done and shows what the others do and show. Those that do not answer are left out, as those that are down
/// are.
pub fn gather(mirror: &Mirror, request: &Request, own: Handled) -> Result {
    let mut request = request.clone();
    let mut output = own.output;
    if let Some(limit) = request.options.get_mut("limit")
        && let Ok(wanted @ 1..) = limit.parse::<usize>()
    {
        match wanted - closed(&output).min(wanted) {
            // 0 would mean all.
            0 => return Ok(output.into()),
            left => *limit = left.to_string(),
        }
    }
    let asked = serde_json::to_vec(&request).unwrap_or_default();
    for (_, bytes) in mirror.ask_others(Matter::Verb, &asked) {
        if let Ok(other) = serde_json::from_slice::<Output>(&bytes) {
            output = merge(output, other);
        }
    }
    Ok(output.into())
}

fn closed(output: &Output) -> usize {
    let Output::Message(text) = output else {
        return 0;
    };
    let number = text.strip_prefix(CLOSED.0);
    let number = number.and_then(|text| text.strip_suffix(CLOSED.1));
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn merge(own: Output, other: Output) -> Output {
    match (own, other) {
        (Output::Rows { columns, mut rows }, Output::Rows { rows: more, .. }) => {
            rows.extend(more.into_iter().filter(|row| row.len() == columns.len()));
            Output::Rows { columns, rows }
        }
        (own @ Output::Message(_), other @ Output::Message(_)) => {
            let sum = closed(&own) + closed(&other);
            Output::Message(format!("{}{sum}{}", CLOSED.0, CLOSED.1))
        }
        (own, _) => own,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_come_together_and_numbers_are_added() {
        let rows = |rows: &[&str]| Output::Rows {
            columns: vec!["name".to_owned()],
            rows: rows.iter().map(|name| vec![json!(name)]).collect(),
        };
        assert_eq!(
            merge(rows(&["a"]), rows(&["b", "c"])),
            rows(&["a", "b", "c"])
        );
        let message = |n| Output::Message(format!("Closed {n} connections"));
        assert_eq!(merge(message(2), message(5)), message(7));
        assert_eq!(merge(rows(&["a"]), Output::Done), rows(&["a"]));
    }
}
