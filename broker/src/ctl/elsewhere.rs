//! Commands for another node of the cluster: the node whose socket they came over asks that one.

use std::time::{Duration, Instant};

use leveret_storage::Location;

use super::handlers::{self, Handled};
use super::protocol::{Answer, Failure, Request, exit};
use crate::mirror::remote::Matter;
use crate::node::Node;

/// Verbs that end the process, or need its files: they are for the machine that it runs on.
const ONLY_HERE: &[&str] = &["stop", "shutdown", "join_cluster", "wait", "await_startup"];
/// How long another node may take if `--timeout` does not say.
const PATIENCE: Duration = Duration::from_secs(300);

/// What another node says to a request that names it, and its name; `None`: the request is for this one.
///
/// # Errors
/// There is no such node, it does not answer, or it refuses.
pub fn passed_on(node: &Node, request: &Request) -> Result<Option<(String, Handled)>, Failure> {
    let Some(wanted) = request.option("node") else {
        return Ok(None);
    };
    if is_called(node.name(), wanted) {
        return Ok(None);
    }
    let found = node.mirror().and_then(|mirror| {
        let topology = node.topology();
        let found = topology.nodes().find(|n| is_called(&n.name, wanted))?;
        Some((mirror, found.id, found.name.to_string()))
    });
    let Some((mirror, id, name)) = found else {
        return Err(unreachable(
            wanted,
            node.name(),
            "it is no node of this cluster",
        ));
    };
    if ONLY_HERE.contains(&request.verb.as_str()) {
        let text = format!(
            "'{}' is for the machine that node {name} runs on",
            request.verb
        );
        return Err(Failure::new(exit::UNAVAILABLE, text));
    }
    let mut request = request.clone();
    request.options.remove("node");
    let body = serde_json::to_vec(&request).unwrap_or_default();
    let seconds = request.option("timeout").and_then(|t| t.parse().ok());
    let patience = seconds
        .filter(|s| *s > 0)
        .map_or(PATIENCE, Duration::from_secs);
    let answer = mirror.ask_and_wait(id, Matter::Command, &body, patience);
    let answer = answer.and_then(|bytes| serde_json::from_slice::<Answer>(&bytes).ok());
    match answer {
        Some(Answer::Ok(output)) => Ok(Some((name, output.into()))),
        Some(Answer::Error(failure)) => Err(failure),
        None => Err(unreachable(&name, node.name(), "it does not answer")),
    }
}

/// Whether a node is meant by a name: the whole one, or the part before the `@`.
fn is_called(name: &str, wanted: &str) -> bool {
    name == wanted
        || name
            .split_once('@')
            .is_some_and(|(short, _)| short == wanted)
}

fn unreachable(wanted: &str, asked: &str, why: &str) -> Failure {
    let text = format!(
        "Error: unable to perform an operation on node '{wanted}'. Please see diagnostics information and suggestions below.\n\n\
         Most common reasons for this are:\n\n \
         * Target node is not running, or not reachable from node {asked}, which was asked\n \
         * It has another name: see 'cluster_status'\n\n\
         DIAGNOSTICS\n===========\n\nattempted to contact: [{wanted}]\n\n{wanted}:\n  * node {asked} says: {why}"
    );
    Failure::plain(exit::UNAVAILABLE, text)
}

/// Does a command that another node passes on, and answers when it is durable. `None`: it cannot be read.
pub fn answer_command(node: &Node, request: &[u8]) -> Option<Vec<u8>> {
    let request: Request = serde_json::from_slice(request).ok()?;
    if ONLY_HERE.contains(&request.verb.as_str()) || request.flag("node") {
        return None;
    }
    tracing::info!(verb = request.verb, "control command of another node");
    let answer = match handlers::handle(node, &request) {
        Ok(handled) => match handled.durable {
            Some(at) if !becomes_durable(node, at) => Answer::Error(Failure::new(
                exit::TEMPORARY,
                "the change was made but is not on disk yet",
            )),
            _ => Answer::Ok(handled.output),
        },
        Err(failure) => Answer::Error(failure),
    };
    serde_json::to_vec(&answer).ok()
}

fn becomes_durable(node: &Node, at: Location) -> bool {
    const LOOK: Duration = Duration::from_millis(5);
    const LIMIT: Duration = Duration::from_secs(120);
    let until = Instant::now() + LIMIT;
    while node.durable() <= at {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_whole_or_by_its_first_part() {
        for (wanted, is) in [
            ("rabbit@host1", true),
            ("rabbit", true),
            ("rabbit@host", false),
            ("rabbit@", false),
            ("host1", false),
            ("", false),
        ] {
            assert_eq!(is_called("rabbit@host1", wanted), is, "{wanted}");
        }
    }
}
