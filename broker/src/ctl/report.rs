//! `report`: one verb after another, for whoever looks for a fault from afar.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::banner::banner;
use super::client::{Console, no_answer, print};
use super::columns::columns;
use super::dial::ask;
use super::format::{Format, Style, render};
use super::protocol::{Answer, Failure, Output, Reply, Request, VERSION};

/// How long each verb may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is shown once.
const OF_NODE: &[&str] = &[
    "status",
    "cluster_status",
    "environment",
    "log_location",
    "alarms",
    "memory_breakdown",
    "list_connections",
    "list_channels",
    "list_users",
    "list_vhosts",
    "list_global_parameters",
];

/// What is shown of each virtual host.
const OF_VHOST: &[&str] = &[
    "list_queues",
    "list_exchanges",
    "list_bindings",
    "list_consumers",
    "list_permissions",
    "list_topic_permissions",
    "list_policies",
    "list_operator_policies",
    "list_parameters",
    "list_vhost_limits",
];

/// Shows everything. What a verb is refused is shown too, and no reason to end.
///
/// # Errors
/// The node does not answer.
pub fn run(socket: &Path, request: &Request, console: &mut Console<'_>) -> Result<(), Failure> {
    let ask_for = |verb: &str, vhost: Option<&str>| {
        let mut options = BTreeMap::new();
        if let Some(node) = request.option("node") {
            options.insert("node".to_owned(), node.to_owned());
        }
        if let Some(vhost) = vhost {
            options.insert("vhost".to_owned(), vhost.to_owned());
        }
        let all = columns(verb).map_or(&[][..], |(all, _)| all);
        let request = Request {
            v: VERSION,
            verb: verb.to_owned(),
            args: all.iter().map(|column| (*column).to_owned()).collect(),
            options,
        };
        let reply = ask(socket, &request, TIMEOUT).map_err(|none| no_answer(&request, none))?;
        Ok::<(Request, Reply), Failure>((request, reply))
    };
    let (_, first) = ask_for("ping", None)?;
    print(
        console,
        &format!("Reporting server status of node {} ...\n\n", first.node),
    )?;
    for verb in OF_NODE {
        let (request, reply) = ask_for(verb, None)?;
        show(&request, reply, console)?;
    }
    let (_, vhosts) = ask_for("list_vhosts", None)?;
    for vhost in names(vhosts) {
        for verb in OF_VHOST {
            let (request, reply) = ask_for(verb, Some(&vhost))?;
            show(&request, reply, console)?;
        }
    }
    Ok(())
}

/// The first column.
fn names(reply: Reply) -> Vec<String> {
    let Answer::Ok(Output::Rows { rows, .. }) = reply.result else {
        return Vec::new();
    };
    let name = |row: &Vec<serde_json::Value>| row.first()?.as_str().map(str::to_owned);
    rows.iter().filter_map(name).collect()
}

fn show(request: &Request, reply: Reply, console: &mut Console<'_>) -> Result<(), Failure> {
    let banner = banner(request, &reply.node).unwrap_or_default();
    let style = Style {
        format: Format::Table,
        headers: true,
        line_when_empty: false,
        node: &reply.node,
    };
    let text = match &reply.result {
        Answer::Ok(output) => render(output, style),
        Answer::Error(failure) => format!("{}\n", failure.text),
    };
    print(console, &format!("{banner}\n{text}\n"))
}
