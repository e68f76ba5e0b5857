//! What is said before a result.

use super::protocol::Request;

/// What is said before the result, in rabbitmqctl's words; `node` is the node's name.
pub fn banner(request: &Request, node: &str) -> Option<String> {
    let arg = |at: usize| request.arg(at).unwrap_or_default();
    let (first, second, third) = (arg(0), arg(1), arg(2));
    let vhost = request.vhost();
    let policy = |what: &str| {
        let priority = request.option("priority").unwrap_or("0");
        format!(
            "Setting {what} \"{first}\" for pattern \"{second}\" to \"{third}\" with priority \
             \"{priority}\" for vhost \"{vhost}\" ..."
        )
    };
    Some(match request.verb.as_str() {
        "add_user" => format!("Adding user \"{first}\" ..."),
        "delete_user" => format!("Deleting user \"{first}\" ..."),
        "change_password" => format!("Changing password for user \"{first}\" ..."),
        "clear_password" => format!("Clearing password for user \"{first}\" ..."),
        "authenticate_user" => format!("Authenticating user \"{first}\" ..."),
        "set_user_tags" => {
            let tags = request.args.get(1..).unwrap_or_default().join(", ");
            format!("Setting tags for user \"{first}\" to [{tags}] ...")
        }
        "list_users" => "Listing users ...".to_owned(),
        "set_user_limits" => {
            format!("Setting user limits to \"{second}\" for user \"{first}\" ...")
        }
        "clear_user_limits" if second == "all" => {
            format!("Clearing all limits for user \"{first}\" ...")
        }
        "clear_user_limits" => format!("Clearing \"{second}\" limit for user \"{first}\" ..."),
        "list_user_limits" if request.flag("global") => {
            "Listing limits for all users ...".to_owned()
        }
        "list_user_limits" => {
            let user = request.option("user").unwrap_or("guest");
            format!("Listing limits for user \"{user}\" ...")
        }
        "add_vhost" => format!("Adding vhost \"{first}\" ..."),
        "delete_vhost" => format!("Deleting vhost \"{first}\" ..."),
        "list_vhosts" => "Listing vhosts ...".to_owned(),
        "set_vhost_tags" => {
            let tags = request.args.get(1..).unwrap_or_default().join(", ");
            format!("Setting tags for vhost \"{first}\" to [{tags}] ...")
        }
        "set_vhost_limits" => {
            format!("Setting vhost limits to \"{first}\" for vhost \"{vhost}\" ...")
        }
        "clear_vhost_limits" => format!("Clearing vhost \"{vhost}\" limits ..."),
        "list_vhost_limits" if request.flag("global") => {
            "Listing limits for all vhosts ...".to_owned()
        }
        "list_vhost_limits" => format!("Listing limits for vhost \"{vhost}\" ..."),
        "set_permissions" => {
            format!("Setting permissions for user \"{first}\" in vhost \"{vhost}\" ...")
        }
        "clear_permissions" => {
            format!("Clearing permissions for user \"{first}\" in vhost \"{vhost}\" ...")
        }
        "list_permissions" => format!("Listing permissions for vhost \"{vhost}\" ..."),
        "list_user_permissions" => format!("Listing permissions for user \"{first}\" ..."),
        "set_topic_permissions" => format!(
            "Setting topic permissions on \"{second}\" for user \"{first}\" in vhost \"{vhost}\" \
             ..."
        ),
        "clear_topic_permissions" if request.args.len() > 1 => format!(
            "Clearing topic permissions on \"{second}\" for user \"{first}\" in vhost \"{vhost}\" \
             ..."
        ),
        "clear_topic_permissions" => {
            format!("Clearing topic permissions for user \"{first}\" in vhost \"{vhost}\" ...")
        }
        "list_topic_permissions" => format!("Listing topic permissions for vhost \"{vhost}\" ..."),
        "list_user_topic_permissions" => {
            format!("Listing topic permissions for user \"{first}\" ...")
        }
        "set_policy" => policy("policy"),
        "set_operator_policy" => policy("operator policy override"),
        "clear_policy" => format!("Clearing policy \"{first}\" on vhost \"{vhost}\" ..."),
        "clear_operator_policy" => {
            format!("Clearing operator policy \"{first}\" on vhost \"{vhost}\" ...")
        }
        "list_policies" => format!("Listing policies for vhost \"{vhost}\" ..."),
        "list_operator_policies" => {
            format!("Listing operator policy overrides for vhost \"{vhost}\" ...")
        }
        "set_parameter" => format!(
            "Setting runtime parameter \"{second}\" for component \"{first}\" to \"{third}\" in \
             vhost \"{vhost}\" ..."
        ),
        "clear_parameter" => format!(
            "Clearing runtime parameter \"{second}\" for component \"{first}\" on vhost \
             \"{vhost}\" ..."
        ),
        "list_parameters" => format!("Listing runtime parameters for vhost \"{vhost}\" ..."),
        "set_global_parameter" => {
            format!("Setting global runtime parameter \"{first}\" to \"{second}\" ...")
        }
        "clear_global_parameter" => format!("Clearing global runtime parameter \"{first}\" ..."),
        "list_global_parameters" => "Listing global runtime parameters ...".to_owned(),
        "list_queues" => {
            let timeout = request.option("timeout").unwrap_or("60");
            format!("Timeout: {timeout}.0 seconds ...\nListing queues for vhost {vhost} ...")
        }
        "list_exchanges" => format!("Listing exchanges for vhost {vhost} ..."),
        "list_bindings" => format!("Listing bindings for vhost {vhost}..."),
        "list_connections" => "Listing connections ...".to_owned(),
        "list_channels" => "Listing channels ...".to_owned(),
        "list_consumers" => format!("Listing consumers in vhost {vhost} ..."),
        "purge_queue" => format!("Purging queue '{first}' in vhost '{vhost}' ..."),
        "delete_queue" => {
            let mut when = Vec::new();
            if request.flag("if-empty") {
                when.push("if queue is empty ");
            }
            if request.flag("if-unused") {
                when.push("if queue is unused ");
            }
            let when = when.join("and ");
            format!("Deleting queue '{first}' on vhost '{vhost}' {when}...")
        }
        "close_connection" => format!("Closing connection {first}, reason: {second}..."),
        "close_all_connections" if request.flag("global") => {
            format!("Closing all connections to node {node} (global), reason: {first}...")
        }
        "close_all_connections" => {
            format!("Closing all connections in vhost {vhost}, reason: {first}...")
        }
        "close_all_user_connections" => {
            format!("Closing connections of user {first}, reason: {second}...")
        }
        "import_definitions" if matches!(first, "" | "-") => {
            "Importing definitions in JSON from standard input ...".to_owned()
        }
        "import_definitions" => {
            format!("Importing definitions in JSON from a file at \"{first}\" ...")
        }
        "export_definitions" if first != "-" => {
            format!("Exporting definitions in JSON to a file at \"{first}\" ...")
        }
        "set_vm_memory_high_watermark" if first == "absolute" => {
            format!("Setting memory threshold on {node} to {second} bytes ...")
        }
        "set_vm_memory_high_watermark" => {
            format!("Setting memory threshold on {node} to {first} ...")
        }
        "set_disk_free_limit" if first == "mem_relative" => {
            format!("Setting disk free limit on {node} to {second} times the total RAM ...")
        }
        "set_disk_free_limit" => {
            format!("Setting disk free limit on {node} to {first} bytes ...")
        }
        "set_cluster_name" => format!("Setting cluster name to {first} ..."),
        "list_feature_flags" => "Listing feature flags ...".to_owned(),
        "enable_feature_flag" if first == "all" => "Enabling all feature flags ...".to_owned(),
        "enable_feature_flag" => format!("Enabling feature flag \"{first}\" ..."),
        "status" => format!("Status of node {node} ..."),
        "await_online_nodes" => format!(
            "Will wait for at least {first} nodes to join the cluster of {node}. Timeout: {} seconds.",
            request.option("timeout").unwrap_or("300")
        ),
        "join_cluster" => format!("Clustering node {node} with {first}"),
        "drain" => format!(
            "Will put node {node} into maintenance mode. The node will no longer serve any client traffic!"
        ),
        "revive" => format!(
            "Will put node {node} back into regular operating mode. The node will again serve client traffic and host primary queue replicas."
        ),
        "forget_cluster_node" => format!("Removing node {first} from the cluster"),
        "cluster_status" => format!("Cluster status of node {node} ..."),
        "ping" => format!(
            "Will ping {node}. This only checks if the node process is running and answers. \
             Timeout: {}000 ms.",
            request.option("timeout").unwrap_or("60")
        ),
        "stop" => format!("Stopping and halting node {node} ..."),
        "shutdown" => format!("Shutting down node {node} ..."),
        _ => return banner_of_check(request, node),
    })
}

/// The same for checks, for what a node tells of itself, and for members of queues.
fn banner_of_check(request: &Request, node: &str) -> Option<String> {
    let arg = |at: usize| request.arg(at).unwrap_or_default();
    let (first, second) = (arg(0), arg(1));
    let vhost = request.vhost();
    Some(match request.verb.as_str() {
        "stop_app" => format!("Stopping rabbit application on node {node} ..."),
        "start_app" => format!("Starting node {node} ..."),
        "environment" => format!("Application environment of node {node} ..."),
        "report" => format!("Reporting server status of node {node} ..."),
        "sync_queue" => format!("Synchronising queue '{first}' in vhost '{vhost}' ..."),
        "cancel_sync_queue" => {
            format!("Stopping synchronising queue '{first}' in vhost '{vhost}' ...")
        }
        "list_deprecated_features" if request.flag("used") => {
            "Listing deprecated features in use ...".to_owned()
        }
        "list_deprecated_features" => "Listing deprecated features ...".to_owned(),
        "list_unresponsive_queues" => {
            format!("Listing unresponsive queues for vhost {vhost} ...")
        }
        "remove_classic_queue_mirroring_from_policies" => {
            "Will remove all classic queue mirroring policies and operator policies".to_owned()
        }
        "node_health_check" => {
            let timeout = request.option("timeout").unwrap_or("70");
            format!("Timeout: {timeout} seconds ...\nChecking health of node {node} ...")
        }
        "server_version" => format!("Asking node {node} for its version..."),
        "is_running" => format!("Asking node {node} for its status ..."),
        "is_booting" => format!("Asking node {node} for its boot status ..."),
        "check_running" => format!("Checking if RabbitMQ is running on node {node} ..."),
        "check_local_alarms" | "check_alarms" => {
            format!("Asking node {node} to report any local resource alarms ...")
        }
        "alarms" => format!("Asking node {node} to report any known resource alarms ..."),
        "listeners" => format!("Asking node {node} to report its protocol listeners ..."),
        "check_port_connectivity" => {
            format!("Testing TCP connections to all active listeners on node {node} ...")
        }
        "check_port_listener" => {
            format!("Asking node {node} if there's an active listener on port {first} ...")
        }
        "check_protocol_listener" => {
            format!("Asking node {node} if there's an active listener for protocol {first} ...")
        }
        "check_virtual_hosts" => {
            format!("Checking if all vhosts are running on node {node} ...")
        }
        "check_if_node_is_quorum_critical" => {
            format!("Checking if node {node} is critical for quorum of any quorum queues ...")
        }
        "check_if_node_is_mirror_sync_critical" => format!(
            "Checking if node {node} is critical for data safety of any classic mirrored queues ..."
        ),
        "check_if_any_deprecated_features_are_used" => {
            "Checking if any deprecated features are used ...".to_owned()
        }
        "check_certificate_expiration" => {
            format!("Checking certificate expiration on node {node} ...")
        }
        "memory_breakdown" => format!("Reporting memory breakdown on node {node}..."),
        "os_env" => {
            format!("Listing RabbitMQ-specific environment variables defined on node {node}...")
        }
        "log_location" => format!("Log file location(s) on node {node} ..."),
        "quorum_status" => format!("Status of quorum queue {first} on node {node} ..."),
        "rebalance" => format!("Re-balancing leaders of {first} queues..."),
        "grow" => format!("Growing {second} quorum queues on {first}..."),
        "shrink" => format!("Shrinking quorum queues on {first}..."),
        "add_member" => format!("Adding a replica for queue {first} on node {second}..."),
        "delete_member" => format!("Removing a replica of queue {first} on node {second}..."),
        "post_upgrade" => "Executing post upgrade tasks...".to_owned(),
        "await_online_quorum_plus_one" => format!(
            "Will wait for a quorum + 1 of nodes to be online for all quorum queues for {} seconds...",
            request.option("timeout").unwrap_or("120")
        ),
        "await_online_synchronized_mirror" => format!(
            "Will wait for a synchronised mirror be online for all classic mirrored queues for {} seconds...",
            request.option("timeout").unwrap_or("120")
        ),
        "list" => {
            let pattern = if first.is_empty() { ".*" } else { first };
            format!("Listing plugins with pattern \"{pattern}\" ...")
        }
        "is_enabled" => match request.args.as_slice() {
            [one] => format!("Asking node {node} if plugin {one} is enabled..."),
            many => format!(
                "Asking node {node} if plugins {} are enabled...",
                many.join(", ")
            ),
        },
        "enable" => format!(
            "Enabling plugins on node {node}:\n{}",
            request.args.join("\n")
        ),
        "disable" => format!(
            "Disabling plugins on node {node}:\n{}",
            request.args.join("\n")
        ),
        "directories" => format!("Listing plugin directories used by node {node}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::verbs::{PASSWORD_VERBS, find};
    use super::*;

    #[test]
    fn no_banner_holds_a_password() {
        for name in PASSWORD_VERBS {
            let verb = find(name).unwrap();
            let mut args = vec!["ann".to_owned(); verb.args_max];
            args[verb.args_max - 1] = "s3cret".to_owned();
            let request = Request {
                verb: (*name).to_owned(),
                args,
                ..Request::default()
            };
            let banner = banner(&request, "n").unwrap_or_default();
            assert!(!banner.contains("s3cret"), "{banner}");
        }
    }
}
