//! Whether the node serves: `stop_app`, `start_app`, `drain`, `revive`, and who asks whether it does.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Result, node as this_node};
use crate::ctl::protocol::{Failure, Output, exit};
use crate::node::{Node, Presence};

/// How long clients may take to go, groups to find other leaders, and listeners to open again.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

fn refused(reason: impl AsRef<str>) -> Failure {
    Failure::new(exit::UNAVAILABLE, reason)
}

/// Waits until `done`; false: it is not.
fn until(done: impl Fn() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

fn clients_go(node: &Node) -> Result<()> {
    match until(|| !node.away().is_listening() && node.connections().is_empty()) {
        true => Ok(()),
        false => Err(refused(format!(
            "{} clients are still there",
            node.connections().len()
        ))),
    }
}

/// `drain`: the node may be stopped then.
pub fn drain(node: &Node) -> Result {
    let text = match node.mirror() {
        Some(mirror) => {
            mirror.drain(PATIENCE).map_err(refused)?;
            "it serves no clients and leads nothing, and is safe to stop"
        }
        None => {
            node.away().set(Presence::Drained);
            clients_go(node)?;
            "it serves no clients, and is safe to stop"
        }
    };
    let text = format!("Node {} is drained: {text}", node.name());
    Ok(Output::Message(text).into())
}

/// `revive`, `start_app`: it serves again.
pub fn revive(node: &Node) -> Result {
    if let Some(mirror) = node.mirror()
        && mirror.is_drained()
    {
        mirror.revive().map_err(refused)?;
    }
    node.away().set(Presence::Here);
    // A node that hears no majority serves once it does.
    let away = |mirror: &std::sync::Arc<crate::mirror::Mirror>| mirror.minority().is_some();
    match until(|| node.away().is_listening() || node.mirror().is_some_and(away)) {
        true => Ok(Output::Done.into()),
        false => Err(refused("the node does not listen again yet")),
    }
}

/// `stop_app`: it is as if stopped, and its process goes on.
pub fn stop(node: &Node) -> Result {
    node.away().set(Presence::Stopped);
    if let Some(mirror) = node.mirror() {
        mirror.stand_down(PATIENCE).map_err(refused)?;
    }
    clients_go(node)?;
    Ok(Output::Done.into())
}

/// `start_app`.
pub fn start(node: &Node) -> Result {
    revive(node)
}

/// It has found its place, and nobody has stopped it.
fn runs(node: &Node) -> bool {
    node.waiting().is_none() && node.away().presence() != Presence::Stopped
}

/// `is_running`: the answer is no failure.
pub fn is_running(node: &Node) -> Result {
    let (name, runs) = (node.name(), runs(node));
    let text = match runs {
        true => format!("RabbitMQ on node {name} is fully booted and running"),
        false => format!("RabbitMQ on node {name} is not running or has not fully booted yet"),
    };
    let value = json!({"result": runs, "message": text});
    let text = format!("{text}\n");
    Ok(Output::Report { text, value }.into())
}

/// `is_booting`: the answer is no failure.
pub fn is_booting(node: &Node) -> Result {
    let (name, boots) = (node.name(), node.waiting().is_some());
    let text = match boots {
        true => format!("RabbitMQ on node {name} is booting"),
        false => format!(
            "RabbitMQ on node {name} is fully booted (check with is_running), stopped or has not started booting yet"
        ),
    };
    let value = json!({"result": boots, "message": text});
    let text = format!("{text}\n");
    Ok(Output::Report { text, value }.into())
}

/// `check_running`.
pub fn check_running(node: &Node) -> Result {
    let name = node.name();
    if runs(node) {
        let text = format!("RabbitMQ on node {name} is fully booted and running");
        return Ok(Output::Message(text).into());
    }
    let text = format!(
        "RabbitMQ on node {name} is not running or has not fully booted yet (check with is_booting)"
    );
    let value = json!({"result": "error", "node": name, "message": text});
    Err(refused(text).with_value(value))
}

/// `node_health_check`: it runs, and has no alarms.
pub fn health_check(node: &Node) -> Result {
    check_running(node)?;
    if let Some((name, resource)) = this_node::alarms(node).first() {
        let text = format!("health check failed. Message: {resource} alarm on node {name}");
        return Err(Failure::new(exit::SOFTWARE, text));
    }
    Ok(Output::Message("Health check passed".to_owned()).into())
}

/// `wait`, once its process is there: done when it runs; the client asks again.
pub fn waited_for(node: &Node) -> Result {
    match runs(node) {
        true => Ok(Output::Done.into()),
        false => Err(Failure::new(exit::TEMPORARY, "the node does not run yet")),
    }
}
