//! Health checks, with RabbitMQ's words: what is wrong makes an exit code, and in JSON an object with the reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::node::{self as this_node, Listener};
use super::{Result, arg};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

/// How long a port may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// It is well: `text` for people, for programs `ok`.
fn passed(text: String) -> Result {
    let text = format!("{text}\n");
    let value = json!({"result": "ok"});
    Ok(Output::Report { text, value }.into())
}

fn failed(text: impl AsRef<str>, value: Value) -> Failure {
    Failure::new(exit::UNAVAILABLE, text).with_value(value)
}

/// `check_if_node_is_quorum_critical`, and the same of mirrors: each queue is on all nodes.
pub fn critical(node: &Node) -> Result {
    let name = node.name();
    let alone = |text: String| {
        let message = "Target node seems to be the only one in a single node cluster, the check does not apply";
        let value = json!({"result": "ok", "message": message});
        Ok(Output::Report { text, value }.into())
    };
    let Some(mirror) = node.mirror().filter(|mirror| mirror.voters().len() > 1) else {
        return alone(format!(
            "Node {name} seems to be the only one in a single node cluster, the check does not apply\n"
        ));
    };
    match mirror.critical() {
        None => passed(format!(
            "Node {name} reported no quorum queues with minimum quorum"
        )),
        Some(reason) => {
            let message = format!("Node {name} reported local queues with minimum online quorum");
            let queues: Vec<Value> = {
                let topology = node.topology();
                let one = |queue: &std::sync::Arc<leveret_topology::QueueInfo>| {
                    json!({
                        "name": queue.name,
                        "virtual_host": queue.vhost,
                        "type": queue.kind.as_str(),
                        "readable_name": format!("queue '{}' in vhost '{}'", queue.name, queue.vhost),
                    })
                };
                topology.queues().take(NAMED_MAX).map(one).collect()
            };
            let value =
                json!({"result": "error", "queues": queues, "message": message, "reason": reason});
            Err(failed(
                format!("all queues would lose quorum if node {name} is stopped: {reason}"),
                value,
            ))
        }
    }
}

/// Queues that a failed check names; it concerns all of them.
const NAMED_MAX: usize = 100;

/// `await_online_quorum_plus_one`: done if the node can be spared; the client asks again.
pub fn await_spare(node: &Node) -> Result {
    let Some(mirror) = node.mirror().filter(|mirror| mirror.voters().len() > 1) else {
        let text = "Target node seems to be the only one in a single node cluster, the command does not apply\n";
        let message = "Target node seems to be the only one in a single node cluster, the check does not apply";
        let value = json!({"result": "ok", "message": message});
        let text = text.to_owned();
        return Ok(Output::Report { text, value }.into());
    };
    match mirror.critical() {
        None => Ok(Output::Done.into()),
        Some(reason) => Err(Failure::new(exit::TEMPORARY, reason)),
    }
}

/// Alarms as lines: of this node only, or of all.
fn lines(alarms: &[(String, &'static str)]) -> String {
    let line = |(name, resource): &(String, &str)| match *resource {
        "memory" => format!("Memory alarm on node {name}"),
        _ => format!("Free disk space alarm on node {name}"),
    };
    let lines: Vec<String> = alarms.iter().map(line).collect();
    lines.join("\n")
}

fn check(node: &Node, alarms: &[(String, &'static str)], what: &str, none: String) -> Result {
    if alarms.is_empty() {
        return passed(none);
    }
    let one = |(name, resource): &(String, &str)| json!({"node": name, "resource": resource});
    let value = json!({
        "result": "error",
        "node": node.name(),
        what: alarms.iter().map(one).collect::<Vec<_>>(),
        "message": format!("Node {} reported alarms", node.name()),
    });
    let text = lines(alarms);
    Err(failed(text, value))
}

/// `check_local_alarms`.
pub fn local_alarms(node: &Node) -> Result {
    let name = node.name();
    let mut alarms = this_node::alarms(node);
    alarms.retain(|(of, _)| of == name);
    let none = format!("Node {name} reported no local alarms");
    check(node, &alarms, "alarms", none)
}

/// `check_alarms`.
pub fn all_alarms(node: &Node) -> Result {
    let none = format!(
        "Node {} reported no alarms, local or clusterwide",
        node.name()
    );
    check(node, &this_node::alarms(node), "alarms", none)
}

/// `alarms`: that there are some is no failure.
pub fn alarms(node: &Node) -> Result {
    let on = this_node::alarms(node);
    let text = match on.is_empty() {
        true => format!(
            "Node {} reported no alarms, local or clusterwide\n",
            node.name()
        ),
        false => format!("Node {} reported alarms:\n\n{}\n", node.name(), lines(&on)),
    };
    let value =
        json!({"result": "ok", "node": node.name(), "alarms": this_node::alarms_value(node)});
    Ok(Output::Report { text, value }.into())
}

/// `listeners`.
pub fn listeners(node: &Node) -> Result {
    let value =
        json!({"result": "ok", "node": node.name(), "listeners": this_node::listeners_value(node)});
    let text = this_node::listener_lines(node);
    Ok(Output::Report { text, value }.into())
}

fn ports(all: &[Listener]) -> Vec<u16> {
    let mut ports: Vec<u16> = all.iter().map(|listener| listener.port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn joined<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(T::to_string).collect();
    all.join(", ")
}

/// Where a listener is reached from the machine itself.
fn reached(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// `check_port_connectivity`: the node connects to each of its own ports.
pub fn connectivity(node: &Node) -> Result {
    let name = node.name();
    let all = this_node::listeners(node);
    let refuses = |listener: &&Listener| {
        TcpStream::connect_timeout(&reached(listener.address), CONNECT).is_err()
    };
    let refusing: Vec<u16> = all.iter().filter(refuses).map(|l| l.port).collect();
    let listeners = this_node::listeners_value(node);
    if refusing.is_empty() {
        let ports = joined(&ports(&all));
        let text = format!("Successfully connected to ports {ports} on node {name}.\n");
        let value = json!({"result": "ok", "node": name, "listeners": listeners});
        return Ok(Output::Report { text, value }.into());
    }
    let value = json!({"result": "error", "node": name, "failures": refusing});
    Err(failed(
        format!(
            "Connection to ports of the following listeners on node {name} failed: {}",
            joined(&refusing)
        ),
        value,
    ))
}

/// `check_port_listener PORT`.
pub fn port(node: &Node, request: &Request) -> Result {
    let (name, port) = (node.name(), arg(request, 0)?);
    let ports = ports(&this_node::listeners(node));
    if port.parse().is_ok_and(|port: u16| ports.contains(&port)) {
        let text = format!("A listener for port {port} is running on node {name}.\n");
        let value = json!({"result": "ok", "node": name, "port": port});
        return Ok(Output::Report { text, value }.into());
    }
    let value = json!({"result": "error", "missing": port, "ports": ports, "listeners": this_node::listeners_value(node)});
    let text = format!(
        "No listener for port {port} is active on node {name}. Found listeners that use the following ports: {}",
        joined(&ports)
    );
    Err(Failure::plain(exit::UNAVAILABLE, text).with_value(value))
}

/// `check_protocol_listener PROTOCOL`, by RabbitMQ's names and the ones that people use.
pub fn protocol(node: &Node, request: &Request) -> Result {
    let (name, asked) = (node.name(), arg(request, 0)?);
    let meant = match asked {
        "amqp091" | "amqp0.9.1" | "amqp09" | "amqp0-9-1" => "amqp",
        "amqps" | "amqp/tls" | "amqp091/ssl" => "amqp/ssl",
        "management" | "http_api" => "http",
        "prometheus" => "http/prometheus",
        other => other,
    };
    let mut protocols: Vec<String> = this_node::listeners(node)
        .into_iter()
        .map(|listener| listener.protocol)
        .collect();
    protocols.sort_unstable();
    protocols.dedup();
    if protocols.iter().any(|protocol| protocol == meant) {
        let text = format!("A listener for protocol {asked} is running on node {name}.\n");
        let value = json!({"result": "ok", "node": name, "protocol": asked});
        return Ok(Output::Report { text, value }.into());
    }
    let text = format!(
        "No listener for protocol {asked} is active on node {name}. Found listeners for the following protocols: {}",
        joined(&protocols)
    );
    let value = json!({"result": "error", "missing": asked, "protocols": protocols, "listeners": this_node::listeners_value(node)});
    Err(failed(text, value))
}

/// `check_virtual_hosts`: a virtual host is there on all nodes or on none, and one whose queues nobody leads cannot be used.
pub fn virtual_hosts(node: &Node) -> Result {
    let name = node.name();
    let mut down: Vec<String> = Vec::new();
    if node
        .mirror()
        .is_some_and(|mirror| mirror.minority().is_some())
    {
        let topology = node.topology();
        down.extend(topology.vhosts().map(|vhost| vhost.name().to_string()));
    }
    if down.is_empty() {
        return passed(format!("Node {name} reported all vhosts as running"));
    }
    let value = json!({"result": "error", "node": name, "down_vhosts": down});
    Err(failed(
        format!(
            "Some virtual hosts on node {name} are down:\n{}",
            down.join("\n")
        ),
        value,
    ))
}

/// `check_any_deprecated_features_are_used`.
pub fn deprecated() -> Result {
    passed("Cluster reported no deprecated features in use".to_owned())
}

/// Seconds in each unit of `check_certificate_expiration`.
const UNITS: &[(&str, u64)] = &[
    ("days", 86_400),
    ("weeks", 7 * 86_400),
    ("months", 30 * 86_400),
    ("years", 365 * 86_400),
];

/// `check_certificate_expiration --within N --unit UNIT`: four weeks if it is not said.
pub fn certificates(node: &Node, request: &Request) -> Result {
    let name = node.name();
    let unit = request.option("unit").unwrap_or("weeks");
    let seconds = UNITS.iter().find(|(name, _)| *name == unit);
    let within = request.option("within").unwrap_or("4");
    let period = match (within.parse::<u64>(), seconds) {
        (Ok(within @ 1..), Some((_, seconds))) => within.saturating_mul(*seconds),
        (_, None) => {
            let text = format!("unit '{unit}' is not supported");
            return Err(Failure::new(exit::DATA_ERROR, text));
        }
        _ => {
            let text = "period must be a positive integer";
            return Err(Failure::new(exit::DATA_ERROR, text));
        }
    };
    let until_ms = node.now_ms().saturating_add(period.saturating_mul(1000));
    let mut ending = crate::management::certificate_ends(node);
    // One that cannot be read is no better than one that has ended.
    ending.retain(|(_, _, ends_ms)| ends_ms.is_none_or(|ends_ms| ends_ms <= until_ms));
    if ending.is_empty() {
        return passed(format!(
            "No certificates are expiring within {within} {unit}."
        ));
    }
    let line = |(port, file, ends_ms): &(u16, String, Option<u64>)| match ends_ms {
        Some(ends_ms) => format!("port {port}: {file} ends {} s after 1970", ends_ms / 1000),
        None => format!("port {port}: {file} cannot be read"),
    };
    let one = |(port, file, ends_ms): &(u16, String, Option<u64>)| {
        json!({"node": name, "port": port, "certfile": file,
               "ends": ends_ms.map(|ms| ms / 1000)})
    };
    let lines: Vec<String> = ending.iter().map(line).collect();
    let value = json!({"result": "error", "expired": ending.iter().map(one).collect::<Vec<_>>()});
    Err(failed(
        format!(
            "Certificates expiring within {within} {unit}:\n{}",
            lines.join("\n")
        ),
        value,
    ))
}
