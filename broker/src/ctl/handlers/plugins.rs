//! What RabbitMQ has as plugins. Here it is built in: on as long as settings do not turn it off, and nothing else can be added.

use leveret_topology::Pattern;
use serde_json::{Value, json};

use super::{Result, arg};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

/// RabbitMQ's plugins that are built in.
pub const BUILT_IN: &[&str] = &[
    "rabbitmq_auth_mechanism_ssl",
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_management",
    "rabbitmq_management_agent",
    "rabbitmq_peer_discovery_common",
    "rabbitmq_prometheus",
    "rabbitmq_web_dispatch",
];

/// Whether one is on: what is served over HTTP, if somebody listens for it.
fn is_on(node: &Node, name: &str) -> bool {
    let serves = |plain: &str| {
        let listeners = node.http_listeners();
        listeners.iter().any(|(_, protocol)| {
            protocol == plain || protocol.strip_prefix("https") == plain.strip_prefix("http")
        })
    };
    match name {
        "rabbitmq_management" => serves("http"),
        "rabbitmq_prometheus" => serves("http/prometheus"),
        "rabbitmq_web_dispatch" => !node.http_listeners().is_empty(),
        _ => true,
    }
}

fn unknown(names: &[String]) -> Failure {
    let names: Vec<String> = names.iter().map(|name| format!(":{name}")).collect();
    let text = format!("{{:plugins_not_found, [{}]}}", names.join(", "));
    Failure::new(exit::SOFTWARE, text)
}

/// The names of a request, all of them built in.
///
/// # Errors
/// The others, in RabbitMQ's words.
pub fn known(names: &[String]) -> Result<()> {
    let missing = names
        .iter()
        .filter(|name| !BUILT_IN.contains(&name.as_str()));
    let missing: Vec<String> = missing.cloned().collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(unknown(&missing)),
    }
}

/// `list [PATTERN] [-e] [-E] [-m] [-v]`.
pub fn list(node: &Node, request: &Request) -> Result {
    let pattern = request.arg(0).unwrap_or(".*");
    let pattern = Pattern::new(pattern).map_err(|_| {
        let text = format!("pattern '{pattern}' is no regular expression");
        Failure::new(exit::DATA_ERROR, text)
    })?;
    let only_on = request.flag("enabled") || request.flag("implicitly-enabled");
    let version = env!("CARGO_PKG_VERSION");
    let shown: Vec<(&str, bool)> = BUILT_IN
        .iter()
        .filter(|name| pattern.is_match(name))
        .map(|name| (*name, is_on(node, name)))
        .filter(|(_, on)| *on || !only_on)
        .collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let minimal = request.flag("minimal");
    let mut text = String::new();
    if !minimal && !request.flag("silent") && !request.flag("quiet") {
        text.push_str(&format!(
            " Configured: E = explicitly enabled; e = implicitly enabled\n | Status: * = running on {}\n |/\n",
            node.name()
        ));
    }
    for (name, on) in &shown {
        let line = match (minimal, on) {
            (true, _) => format!("{name}\n"),
            (false, true) => format!("[E*] {name:width$} {version}\n"),
            (false, false) => format!("[  ] {name:width$} {version}\n"),
        };
        text.push_str(&line);
    }
    let one = |(name, on): &(&str, bool)| {
        json!({
            "name": name,
            "enabled": if *on { "enabled" } else { "not_enabled" },
            "running": on,
            "version": version,
            "running_version": on.then_some(version),
        })
    };
    let format = if minimal { "minimal" } else { "normal" };
    let plugins: Vec<Value> = shown.iter().map(one).collect();
    let value = json!({"format": format, "plugins": plugins});
    Ok(Output::Report { text, value }.into())
}

/// `is_enabled NAME...`.
pub fn is_enabled(node: &Node, request: &Request) -> Result {
    let name = node.name();
    let is_off = |plugin: &&String| !BUILT_IN.contains(&plugin.as_str()) || !is_on(node, plugin);
    let off: Vec<&str> = request
        .args
        .iter()
        .filter(is_off)
        .map(String::as_str)
        .collect();
    if off.is_empty() {
        let plugins = request.args.join(", ");
        let text = match request.args.len() {
            1 => format!("Plugin {plugins} is enabled on node {name}"),
            _ => format!("Plugins {plugins} are enabled on node {name}"),
        };
        return Ok(Output::Message(text).into());
    }
    let on = BUILT_IN.iter().filter(|plugin| is_on(node, plugin));
    let on: Vec<&str> = on.copied().collect();
    let (off, verb) = match off.as_slice() {
        [one] => (format!("Plugin {one}"), "is"),
        many => (format!("Plugins {}", many.join(", ")), "are"),
    };
    let text = format!(
        "{off} {verb} not enabled on node {name}. Enabled plugins and dependencies: {}",
        on.join(", ")
    );
    Err(Failure::new(exit::UNAVAILABLE, text))
}

/// `enable NAME...`: built in and on, or refused.
pub fn enable(node: &Node, request: &Request) -> Result {
    arg(request, 0)?;
    known(&request.args)?;
    let off: Vec<&str> = request
        .args
        .iter()
        .map(String::as_str)
        .filter(|name| !is_on(node, name))
        .collect();
    if off.is_empty() {
        let text = "Plugin configuration unchanged.";
        return Ok(Output::Message(text.to_owned()).into());
    }
    Err(Failure::new(
        exit::UNAVAILABLE,
        format!(
            "built in, but nothing listens for it: {}. The settings management.tcp.port and prometheus.tcp.port, and a restart, turn it on",
            off.join(", ")
        ),
    ))
}

/// `disable NAME...`: what is not on is not turned off again.
pub fn disable(node: &Node, request: &Request) -> Result {
    arg(request, 0)?;
    known(&request.args)?;
    match request.args.iter().find(|name| is_on(node, name)) {
        None => Ok(Output::Message("Plugin configuration unchanged.".to_owned()).into()),
        Some(on) => Err(Failure::new(
            exit::UNAVAILABLE,
            format!(
                "nothing was done: {on} is built in. The settings management.tcp = none and prometheus.tcp = none, and a restart, turn off what is served over HTTP"
            ),
        )),
    }
}

/// `directories`.
pub fn directories() -> Result {
    let text = "Plugin archives directory: (none: what there is is built in)\nPlugin expansion directory: (none)\nEnabled plugins file: (none)\n";
    let value = json!({"result": "ok", "plugins_dir": Value::Null, "plugins_expand_dir": Value::Null, "enabled_plugins_file": Value::Null});
    let text = text.to_owned();
    Ok(Output::Report { text, value }.into())
}
