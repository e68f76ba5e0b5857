//! What the node tells of itself: version, memory, settings, environment, log.

use serde_json::{Map, Value, json};

use super::Result;
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::{Node, process_memory};

/// `server_version`.
pub fn version() -> Result {
    let text = format!("{}\n", env!("CARGO_PKG_VERSION"));
    let value = json!({"result": "ok", "value": env!("CARGO_PKG_VERSION")});
    Ok(Output::Report { text, value }.into())
}

/// `memory_breakdown`: each part with its bytes, the largest first. Together they are what is resident.
fn parts(node: &Node) -> Vec<(&'static str, u64)> {
    let memory = process_memory();
    let bodies = u64::try_from(node.bodies().gauge().bytes()).unwrap_or(0);
    let bodies = bodies.min(memory.anonymous_bytes);
    let mut parts = vec![
        ("message_bodies", bodies),
        ("other", memory.anonymous_bytes - bodies),
        (
            "mapped_files",
            memory.resident_bytes.saturating_sub(memory.anonymous_bytes),
        ),
    ];
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    parts
}

/// `memory_breakdown [--unit UNIT]`.
pub fn memory(node: &Node, request: &Request) -> Result {
    let unit = request.option("unit").unwrap_or("gb").to_lowercase();
    let bytes_of_unit = match unit.as_str() {
        "bytes" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => {
            let text = format!("unit '{unit}' is not supported");
            return Err(Failure::new(exit::DATA_ERROR, text));
        }
    };
    let parts = parts(node);
    let total = parts.iter().map(|(_, bytes)| *bytes).sum::<u64>().max(1);
    let share = |bytes: u64| (bytes as f64 * 1e4 / total as f64).round() / 1e2;
    let mut text = String::new();
    let mut value = Map::new();
    for (name, bytes) in parts {
        let amount = (bytes as f64 / bytes_of_unit * 1e4).round() / 1e4;
        text.push_str(&format!("{name}: {amount} {unit} ({}%)\n", share(bytes)));
        let part = json!({"bytes": bytes, "percentage": share(bytes)});
        value.insert(name.to_owned(), part);
    }
    let value = Value::Object(value);
    Ok(Output::Report { text, value }.into())
}

/// Whether a setting or variable of this name holds what nobody else must know.
fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "secret", "cookie", "credential", "token"]
        .iter()
        .any(|word| name.contains(word) && !name.ends_with("_file"))
}

/// `environment`: every setting that was given, and the defaults of the others.
pub fn environment(node: &Node) -> Result {
    let mut all: Vec<(String, String)> = node.config().effective();
    for (name, value) in &mut all {
        if is_secret(name) {
            "********".clone_into(value);
        }
    }
    let lines = all
        .iter()
        .map(|(name, value)| format!("{name} = {value}\n"));
    let text: String = lines.collect();
    let settings: Map<String, Value> = all
        .into_iter()
        .map(|(name, value)| (name, Value::from(value)))
        .collect();
    let value = json!({"leveret": settings});
    Ok(Output::Report { text, value }.into())
}

/// `os_env`: the variables that concern the node.
pub fn variables() -> Result {
    let mut all: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("RABBITMQ_") || name.starts_with("LEVERET_"))
        .collect();
    all.sort_unstable();
    for (name, value) in &mut all {
        if is_secret(name) {
            "********".clone_into(value);
        }
    }
    let lines = all.iter().map(|(name, value)| format!("{name}={value}\n"));
    let text: String = lines.collect();
    let value: Map<String, Value> = all
        .into_iter()
        .map(|(name, value)| (name, Value::from(value)))
        .collect();
    let value = Value::Object(value);
    Ok(Output::Report { text, value }.into())
}

/// `log_location`.
pub fn log(node: &Node) -> Result {
    let log = &node.config().log;
    let mut paths: Vec<String> = Vec::new();
    if let Some(file) = &log.file {
        let path = log
            .dir
            .as_ref()
            .map_or_else(|| file.clone(), |d| d.join(file));
        paths.push(path.display().to_string());
    }
    if log.console {
        let console = if log.console_stderr {
            "<stderr>"
        } else {
            "<stdout>"
        };
        paths.push(console.to_owned());
    }
    let text: String = paths.iter().map(|path| format!("{path}\n")).collect();
    let value = json!({"result": "ok", "node_name": node.name(), "paths": paths});
    Ok(Output::Report { text, value }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for (name, secret) in [
            ("default_pass", true),
            ("RABBITMQ_DEFAULT_PASS", true),
            ("RABBITMQ_ERLANG_COOKIE", true),
            ("ssl_options.password", true),
            ("cluster.cookie_file", false),
            ("default_user", false),
        ] {
            assert_eq!(is_secret(name), secret, "{name}");
        }
    }
}
