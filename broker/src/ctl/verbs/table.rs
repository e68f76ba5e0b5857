//! Users, permissions, policies, lists, the cluster: what `rabbitmqctl` has above all.

use super::super::args::{Switch, Takes, switch};
use super::{ANY, Verb, verb, with};

const POLICY: &[Switch] = &[
    switch("priority", None, Takes::Integer),
    switch("apply-to", None, Takes::Text),
];
const VHOST: &[Switch] = &[
    switch("description", None, Takes::Text),
    switch("tags", None, Takes::Text),
    switch("default-queue-type", None, Takes::Text),
];
const GLOBAL: &[Switch] = &[switch("global", None, Takes::Nothing)];
const USER_LIMITS: &[Switch] = &[
    switch("global", None, Takes::Nothing),
    switch("user", None, Takes::Text),
];
const QUEUES: &[Switch] = &[
    switch("online", None, Takes::Nothing),
    switch("offline", None, Takes::Nothing),
    switch("local", None, Takes::Nothing),
];
const DELETE_QUEUE: &[Switch] = &[
    switch("if-empty", Some('e'), Takes::Nothing),
    switch("if-unused", Some('u'), Takes::Nothing),
];
const CLOSE_ALL: &[Switch] = &[
    switch("global", None, Takes::Nothing),
    switch("limit", None, Takes::Integer),
    switch("per-connection-delay", None, Takes::Integer),
];
const DEFINITIONS: &[Switch] = &[
    switch("format", None, Takes::Text),
    switch("skip-if-unchanged", None, Takes::Nothing),
];
const STATUS: &[Switch] = &[switch("unit", None, Takes::Text)];
const FORGET: &[Switch] = &[switch("offline", None, Takes::Nothing)];
const STOP: &[Switch] = &[switch("idempotent", None, Takes::Nothing)];
const SHUTDOWN: &[Switch] = &[
    switch("wait", None, Takes::Nothing),
    switch("no-wait", None, Takes::Nothing),
];

/// See the module.
pub const VERBS: &[Verb] = &[
    verb(
        "help",
        "[<command>]",
        (0, 1),
        "Displays usage information for a command",
    ),
    verb("version", "", (0, 0), "Displays the version"),
    verb(
        "await_startup",
        "",
        (0, 0),
        "Waits for the node to have started",
    ),
    with(
        verb(
            "stop",
            "[--idempotent] [<pidfile>]",
            (0, 1),
            "Stops the node, and waits until it is down",
        ),
        STOP,
    ),
    with(
        verb(
            "shutdown",
            "[--wait] [--timeout <timeout>]",
            (0, 0),
            "Stops the node, and waits until it is down",
        ),
        SHUTDOWN,
    ),
    verb(
        "cluster_status",
        "[--timeout <timeout>]",
        (0, 0),
        "Displays the nodes of the cluster",
    ),
    verb(
        "await_online_nodes",
        "<count> [--timeout <timeout>]",
        (1, 1),
        "Waits for so many nodes of the cluster to be online",
    ),
    verb(
        "join_cluster",
        "<existing_cluster_member_node>",
        (1, 1),
        "Makes this node, which has nothing yet, a member of a cluster; it starts again",
    ),
    verb(
        "drain",
        "[--timeout <timeout>]",
        (0, 0),
        "Sends clients away and hands over what the node leads, so that it is safe to stop",
    ),
    verb("revive", "", (0, 0), "Lets a drained node serve again"),
    with(
        verb(
            "forget_cluster_node",
            "[--offline] <existing_cluster_member_node>",
            (1, 1),
            "Removes a node from the cluster for good",
        ),
        FORGET,
    ),
    verb(
        "add_user",
        "<username> <password>",
        (1, 2),
        "Creates a new user, without permissions for any virtual host",
    ),
    verb(
        "authenticate_user",
        "<username> <password>",
        (1, 2),
        "Tries to authenticate a user",
    ),
    verb(
        "change_password",
        "<username> <password>",
        (1, 2),
        "Changes the password of a user",
    ),
    verb(
        "clear_password",
        "<username>",
        (1, 1),
        "Clears a password and disables login with it",
    ),
    verb(
        "clear_user_limits",
        "<username> <limit_type> | all",
        (2, 2),
        "Clears limits of a user",
    ),
    verb("delete_user", "<username>", (1, 1), "Removes a user"),
    verb(
        "hash_password",
        "<cleartext_password>",
        (0, 1),
        "Hashes a password as definitions have it",
    ),
    with(
        verb(
            "list_user_limits",
            "[--user <username>] [--global]",
            (0, 0),
            "Displays limits of users",
        ),
        USER_LIMITS,
    ),
    verb(
        "list_users",
        "[--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Lists users and their tags",
    ),
    verb(
        "set_user_limits",
        "<username> <definition>",
        (2, 2),
        "Sets limits of a user",
    ),
    verb(
        "set_user_tags",
        "<username> <tag> [...]",
        (1, ANY),
        "Sets the tags of a user",
    ),
    verb(
        "clear_permissions",
        "[--vhost <vhost>] <username>",
        (1, 1),
        "Revokes the permissions of a user in a virtual host",
    ),
    verb(
        "clear_topic_permissions",
        "[--vhost <vhost>] <username> [<exchange>]",
        (1, 2),
        "Clears the topic permissions of a user in a virtual host or for an exchange",
    ),
    verb(
        "list_permissions",
        "[--vhost <vhost>] [--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Lists permissions in a virtual host",
    ),
    verb(
        "list_topic_permissions",
        "[--vhost <vhost>] [--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Lists topic permissions in a virtual host",
    ),
    verb(
        "list_user_permissions",
        "[--no-table-headers] <username> [--timeout <timeout>]",
        (1, 1),
        "Lists permissions of a user in all virtual hosts",
    ),
    verb(
        "list_user_topic_permissions",
        "[--no-table-headers] <username> [--timeout <timeout>]",
        (1, 1),
        "Lists topic permissions of a user",
    ),
    verb(
        "list_vhosts",
        "[--no-table-headers] [<column> ...] [--timeout <timeout>]",
        (0, ANY),
        "Lists virtual hosts",
    ),
    verb(
        "set_permissions",
        "[--vhost <vhost>] <username> <conf> <write> <read>",
        (4, 4),
        "Sets the permissions of a user in a virtual host",
    ),
    verb(
        "set_topic_permissions",
        "[--vhost <vhost>] <username> <exchange> <write> <read>",
        (4, 4),
        "Sets the topic permissions of a user for an exchange",
    ),
    verb(
        "list_bindings",
        "[--vhost <vhost>] [--no-table-headers] [<column> ...] [--timeout <timeout>]",
        (0, ANY),
        "Lists the bindings in a virtual host",
    ),
    verb(
        "list_channels",
        "[--no-table-headers] [<column> ...]",
        (0, ANY),
        "Lists the channels of the node",
    ),
    verb(
        "list_connections",
        "[--no-table-headers] [<column> ...] [--timeout <timeout>]",
        (0, ANY),
        "Lists the connections of the node",
    ),
    verb(
        "list_consumers",
        "[--vhost <vhost>] [--no-table-headers] [<column> ...] [--timeout <timeout>]",
        (0, ANY),
        "Lists the consumers in a virtual host",
    ),
    verb(
        "list_exchanges",
        "[--vhost <vhost>] [--no-table-headers] [<column> ...] [--timeout <timeout>]",
        (0, ANY),
        "Lists exchanges",
    ),
    with(
        verb(
            "list_queues",
            "[--vhost <vhost>] [--online] [--offline] [--local] [--no-table-headers] \
             [<column>, ...] [--timeout <timeout>]",
            (0, ANY),
            "Lists queues and their properties",
        ),
        QUEUES,
    ),
    verb(
        "ping",
        "[--timeout <timeout>]",
        (0, 0),
        "Checks that the node runs and answers",
    ),
    with(
        verb(
            "status",
            "[--unit <unit>] [--timeout <timeout>]",
            (0, 0),
            "Displays the status of the node",
        ),
        STATUS,
    ),
    verb(
        "clear_global_parameter",
        "<name>",
        (1, 1),
        "Clears a global runtime parameter",
    ),
    verb(
        "clear_parameter",
        "[--vhost <vhost>] <component_name> <name>",
        (2, 2),
        "Clears a runtime parameter",
    ),
    verb(
        "list_global_parameters",
        "[--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Lists global runtime parameters",
    ),
    verb(
        "list_parameters",
        "[--vhost <vhost>] [--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Lists the runtime parameters of a virtual host",
    ),
    verb(
        "set_global_parameter",
        "<name> <value>",
        (2, 2),
        "Sets a global runtime parameter",
    ),
    verb(
        "set_parameter",
        "[--vhost <vhost>] <component_name> <name> <value>",
        (3, 3),
        "Sets a runtime parameter",
    ),
    verb(
        "clear_operator_policy",
        "[--vhost <vhost>] <name>",
        (1, 1),
        "Clears an operator policy",
    ),
    verb(
        "clear_policy",
        "[--vhost <vhost>] <name>",
        (1, 1),
        "Clears a policy",
    ),
    verb(
        "list_operator_policies",
        "[--vhost <vhost>] [--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Lists the operator policies of a virtual host",
    ),
    verb(
        "list_policies",
        "[--vhost <vhost>] [--no-table-headers] [--timeout <timeout>]",
        (0, 0),
        "Lists the policies of a virtual host",
    ),
    with(
        verb(
            "set_operator_policy",
            "[--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>] <name> <pattern> \
             <definition>",
            (3, 3),
            "Sets an operator policy",
        ),
        POLICY,
    ),
    with(
        verb(
            "set_policy",
            "[--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>] <name> <pattern> \
             <definition>",
            (3, 3),
            "Sets a policy",
        ),
        POLICY,
    ),
    with(
        verb(
            "add_vhost",
            "<vhost> [--description <description> --tags \"<tag1>,<tag2>,<...>\" \
             --default-queue-type <quorum|classic|stream>]",
            (1, 1),
            "Creates a virtual host",
        ),
        VHOST,
    ),
    verb(
        "clear_vhost_limits",
        "[--vhost <vhost>]",
        (0, 0),
        "Clears the limits of a virtual host",
    ),
    verb("delete_vhost", "<vhost>", (1, 1), "Deletes a virtual host"),
    with(
        verb(
            "list_vhost_limits",
            "[--vhost <vhost>] [--global] [--no-table-headers]",
            (0, 0),
            "Displays limits of virtual hosts",
        ),
        GLOBAL,
    ),
    verb(
        "set_vhost_limits",
        "[--vhost <vhost>] <definition>",
        (1, 1),
        "Sets the limits of a virtual host",
    ),
    verb(
        "set_vhost_tags",
        "<vhost> <tag> [...]",
        (1, ANY),
        "Sets the tags of a virtual host",
    ),
    verb(
        "set_cluster_name",
        "<name>",
        (1, 1),
        "Sets the name of the cluster",
    ),
    verb(
        "set_disk_free_limit",
        "<disk_limit> | mem_relative <fraction>",
        (1, 2),
        "Sets the free disk space under which publishers are blocked",
    ),
    verb(
        "set_vm_memory_high_watermark",
        "<fraction> | absolute <value>",
        (1, 2),
        "Sets the memory above which publishers are blocked",
    ),
    with(
        verb(
            "export_definitions",
            "<file_path | \"-\"> [--format <json>] [--timeout <timeout>]",
            (1, 1),
            "Exports definitions as JSON",
        ),
        DEFINITIONS,
    ),
    with(
        verb(
            "import_definitions",
            "<file_path | \"-\"> [--format <json>] [--timeout <timeout>]",
            (0, 1),
            "Imports definitions from JSON",
        ),
        DEFINITIONS,
    ),
    verb(
        "enable_feature_flag",
        "<all | feature_flag>",
        (1, 1),
        "Enables a feature flag, or all",
    ),
    verb(
        "list_feature_flags",
        "[<column> ...] [--timeout <timeout>]",
        (0, ANY),
        "Lists feature flags",
    ),
    with(
        verb(
            "close_all_connections",
            "[--vhost <vhost> --limit <limit>] [-n <node> --global] [--per-connection-delay \
             <delay>] <explanation>",
            (1, 1),
            "Closes all connections to a virtual host or to the node",
        ),
        CLOSE_ALL,
    ),
    verb(
        "close_all_user_connections",
        "<username> <explanation>",
        (2, 2),
        "Closes all connections of a user",
    ),
    verb(
        "close_connection",
        "<connection pid> <explanation>",
        (2, 2),
        "Closes a connection",
    ),
    with(
        verb(
            "delete_queue",
            "<queue_name> [--if-empty|-e] [--if-unused|-u] [--timeout <timeout>]",
            (1, 1),
            "Deletes a queue",
        ),
        DELETE_QUEUE,
    ),
    verb(
        "purge_queue",
        "<queue> [--timeout <timeout>]",
        (1, 1),
        "Removes the messages that wait in a queue",
    ),
];
