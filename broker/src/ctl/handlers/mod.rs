//! The verbs, done. Called on a blocking thread; each answers what to show, and what must be durable before it is shown.
//!
//! The words of refusals and their codes are rabbitmqctl's of RabbitMQ 3.10.8, oddities included: tools match on them.

mod access;
mod app;
mod checks;
mod cluster;
mod connections;
mod definitions;
pub(super) mod everywhere;
mod listing;
pub(super) mod node;
mod parameters;
mod plugins;
mod policies;
mod queues;
mod replicas;
mod report;
mod users;
mod vhosts;

pub use plugins::known as known_plugins;

use leveret_protocol::ReplyCode;
use leveret_storage::Location;
use leveret_topology::{Command, Refusal, Topology};
use serde_json::{Map, Value};

use super::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

/// What a verb comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Handled {
    /// To be shown.
    pub output: Output,
    /// What must be durable first.
    pub durable: Option<Location>,
    /// The node is to stop.
    pub stop: bool,
}

impl From<Output> for Handled {
    fn from(output: Output) -> Self {
        Handled {
            output,
            durable: None,
            stop: false,
        }
    }
}

type Result<T = Handled> = std::result::Result<T, Failure>;

/// What a node does that does not serve yet.
const WHILE_WAITING: &[&str] = &[
    "stop",
    "shutdown",
    "is_running",
    "is_booting",
    "check_running",
    "server_version",
    "environment",
    "os_env",
    "log_location",
];

/// Does what a request asks for, on all nodes of the cluster where that concerns all.
///
/// # Errors
/// What the client shows, and its exit code.
pub fn handle(node: &Node, request: &Request) -> Result {
    if let Some(why) = node.waiting()
        && !WHILE_WAITING.contains(&request.verb.as_str())
    {
        let text = format!("node {} does not serve yet: {why}", node.name());
        return Err(Failure::new(exit::UNAVAILABLE, text));
    }
    let own = handle_here(node, request)?;
    match node.mirror() {
        Some(mirror) if everywhere::concerns(&request.verb) => {
            let all = everywhere::gather(mirror, request, own)?;
            Ok(match request.verb.as_str() {
                "quorum_status" => replicas::complete(node, request, all.output).into(),
                _ => all,
            })
        }
        _ => Ok(own),
    }
}

/// Does what a request asks for, of what this node itself has.
///
/// # Errors
/// What the client shows, and its exit code.
pub fn handle_here(node: &Node, request: &Request) -> Result {
    match request.verb.as_str() {
        "add_user" => users::add(node, request),
        "delete_user" => users::delete(node, request),
        "change_password" => users::change_password(node, request),
        "clear_password" => users::clear_password(node, request),
        "authenticate_user" => users::authenticate(node, request),
        "set_user_tags" => users::set_tags(node, request),
        "list_users" => users::list(node),
        "set_user_limits" => users::set_limits(node, request),
        "clear_user_limits" => users::clear_limits(node, request),
        "list_user_limits" => users::list_limits(node, request),
        "add_vhost" => vhosts::add(node, request),
        "delete_vhost" => vhosts::delete(node, request),
        "list_vhosts" => vhosts::list(node, request),
        "set_vhost_tags" => vhosts::set_tags(node, request),
        "set_vhost_limits" => vhosts::set_limits(node, request),
        "clear_vhost_limits" => vhosts::clear_limits(node, request),
        "list_vhost_limits" => vhosts::list_limits(node, request),
        "set_permissions" => access::set(node, request),
        "clear_permissions" => access::clear(node, request),
        "list_permissions" => access::list(node, request),
        "list_user_permissions" => access::list_of_user(node, request),
        "set_topic_permissions" => access::set_topic(node, request),
        "clear_topic_permissions" => access::clear_topic(node, request),
        "list_topic_permissions" => access::list_topic(node, request),
        "list_user_topic_permissions" => access::list_topic_of_user(node, request),
        "set_policy" => policies::set(node, request, false),
        "set_operator_policy" => policies::set(node, request, true),
        "clear_policy" => policies::clear(node, request, false),
        "clear_operator_policy" => policies::clear(node, request, true),
        "list_policies" => policies::list(node, request, false),
        "list_operator_policies" => policies::list(node, request, true),
        "set_parameter" => parameters::set(node, request),
        "clear_parameter" => parameters::clear(node, request),
        "list_parameters" => parameters::list(node, request),
        "set_global_parameter" => parameters::set_global(node, request),
        "clear_global_parameter" => parameters::clear_global(node, request),
        "list_global_parameters" => parameters::list_global(node),
        "set_cluster_name" => parameters::set_cluster_name(node, request),
        "list_queues" => listing::queues(node, request),
        "list_exchanges" => listing::exchanges(node, request),
        "list_bindings" => listing::bindings(node, request),
        "list_connections" => connections::list(node, request),
        "list_channels" => connections::list_channels(node, request),
        "list_consumers" => connections::list_consumers(node, request),
        "close_connection" => connections::close(node, request),
        "close_all_connections" => connections::close_all(node, request),
        "close_all_user_connections" => connections::close_all_of_user(node, request),
        "delete_queue" => queues::delete(node, request),
        "purge_queue" => queues::purge(node, request),
        "export_definitions" => definitions::export(node),
        "import_definitions" => definitions::import(node, request),
        "set_vm_memory_high_watermark" | "set_disk_free_limit" => node::set_limit(node, request),
        "status" => node::status(node),
        "cluster_status" => cluster::status(node),
        "join_cluster" => cluster::join(node, request),
        "drain" => app::drain(node),
        "revive" => app::revive(node),
        "stop_app" => app::stop(node),
        "start_app" => app::start(node),
        "is_running" => app::is_running(node),
        "is_booting" => app::is_booting(node),
        "check_running" => app::check_running(node),
        "node_health_check" => app::health_check(node),
        "wait" => app::waited_for(node),
        "forget_cluster_node" => cluster::forget(node, request),
        "await_online_nodes" => cluster::await_online_nodes(node, request),
        "await_online_quorum_plus_one" | "await_online_synchronized_mirror" => {
            checks::await_spare(node)
        }
        "check_if_node_is_quorum_critical" | "check_if_node_is_mirror_sync_critical" => {
            checks::critical(node)
        }
        "check_local_alarms" => checks::local_alarms(node),
        "check_alarms" => checks::all_alarms(node),
        "alarms" => checks::alarms(node),
        "listeners" => checks::listeners(node),
        "check_port_connectivity" => checks::connectivity(node),
        "check_port_listener" => checks::port(node, request),
        "check_protocol_listener" => checks::protocol(node, request),
        "check_virtual_hosts" => checks::virtual_hosts(node),
        "check_certificate_expiration" => checks::certificates(node, request),
        "check_if_any_deprecated_features_are_used" => checks::deprecated(),
        "list_deprecated_features" => listing::pick(request, Vec::<()>::new(), |(), _| Value::Null),
        "list_unresponsive_queues" => listing::unresponsive(node, request),
        "remove_classic_queue_mirroring_from_policies" => policies::remove_mirroring(node),
        "server_version" => report::version(),
        "memory_breakdown" => report::memory(node, request),
        "environment" => report::environment(node),
        "os_env" => report::variables(),
        "log_location" => report::log(node),
        "sync_queue" | "cancel_sync_queue" => replicas::sync(node, request),
        "quorum_status" => replicas::status(node, request),
        "rebalance" => replicas::rebalance(request),
        "post_upgrade" => Ok(Output::Done.into()),
        "grow" => replicas::grow(node, request),
        "shrink" => replicas::shrink(node, request),
        "add_member" => replicas::add_member(node, request),
        "delete_member" => replicas::delete_member(node, request),
        "list" => plugins::list(node, request),
        "is_enabled" => plugins::is_enabled(node, request),
        "enable" => plugins::enable(node, request),
        "disable" => plugins::disable(node, request),
        "directories" => plugins::directories(),
        "list_feature_flags" => node::list_feature_flags(request),
        "enable_feature_flag" => node::enable_feature_flag(node, request),
        "ping" => Ok(Output::Message("Ping succeeded".to_owned()).into()),
        "await_startup" => Ok(Output::Done.into()),
        "stop" | "shutdown" => Ok(Handled {
            stop: true,
            ..Output::Done.into()
        }),
        other => Err(Failure::plain(
            exit::USAGE,
            format!("\nCommand '{other}' not found. \n"),
        )),
    }
}

/// Four octets that nobody can foresee.
pub fn salt() -> [u8; 4] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u8(0);
    (hasher.finish() as u32).to_le_bytes()
}

/// An argument that the client has made sure is there.
fn arg(request: &Request, at: usize) -> Result<&str> {
    request
        .arg(at)
        .ok_or_else(|| Failure::plain(exit::USAGE, "not enough arguments."))
}

/// Applies a command, and answers nothing but when it is durable.
fn propose(node: &Node, command: Command) -> Result {
    propose_or(node, command, refused)
}

/// The same, with refusals in other words.
fn propose_or(node: &Node, command: Command, refused: impl FnOnce(Refusal) -> Failure) -> Result {
    let (_, durable) = node.propose_and_wait(&command).map_err(refused)?;
    Ok(Handled {
        durable,
        ..Output::Done.into()
    })
}

/// A refusal of the metadata machine, as rabbitmqctl shows most of them.
fn refused(refusal: Refusal) -> Failure {
    let code = match refusal.reply_code {
        ReplyCode::InternalError => exit::SOFTWARE,
        _ => exit::UNAVAILABLE,
    };
    Failure::new(code, refusal.text)
}

/// The virtual host of a request must be there, in the words of most lists and of policies.
fn expect_vhost<'a>(topology: &'a Topology, name: &str) -> Result<&'a leveret_topology::VHost> {
    let missing = || {
        let text = format!("Virtual host '{name}' does not exist");
        Failure::plain(exit::DATA_ERROR, text)
    };
    topology.vhost(name).ok_or_else(missing)
}

/// JSON from the command line.
fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|_| {
        let text = "JSON decoding error. Reason: badarg";
        Failure::new(exit::UNAVAILABLE, text)
    })
}

/// A JSON object from the command line; `otherwise` is what is wrong with anything else.
fn json_object(text: &str, otherwise: &str) -> Result<Map<String, Value>> {
    match json(text)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(Failure::new(
            exit::UNAVAILABLE,
            format!("Validation failed\n\n{otherwise}\n"),
        )),
    }
}

/// A table with all of its columns.
fn rows(columns: &[&str], rows: Vec<Vec<Value>>) -> Result {
    let columns = columns.iter().map(|c| (*c).to_owned()).collect();
    Ok(Output::Rows { columns, rows }.into())
}
