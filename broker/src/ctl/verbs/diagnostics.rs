//! Health checks, and what a node tells of itself.

use super::super::args::{Switch, Takes, switch};
use super::{Verb, verb, with};

const UNIT: &[Switch] = &[switch("unit", None, Takes::Text)];
const EXPIRY: &[Switch] = &[
    switch("within", None, Takes::Integer),
    switch("unit", None, Takes::Text),
];

/// See the module.
pub const VERBS: &[Verb] = &[
    verb(
        "server_version",
        "[--timeout <timeout>]",
        (0, 0),
        "Displays the version of the node",
    ),
    verb(
        "is_running",
        "[--timeout <timeout>]",
        (0, 0),
        "Says whether the node has started and serves clients",
    ),
    verb(
        "is_booting",
        "[--timeout <timeout>]",
        (0, 0),
        "Says whether the node is still starting",
    ),
    verb(
        "check_running",
        "[--timeout <timeout>]",
        (0, 0),
        "Exits with a non-zero code if the node has not started, or does not serve clients",
    ),
    verb(
        "check_local_alarms",
        "[--timeout <timeout>]",
        (0, 0),
        "Exits with a non-zero code if the node has alarms",
    ),
    verb(
        "check_alarms",
        "[--timeout <timeout>]",
        (0, 0),
        "Exits with a non-zero code if any node has alarms",
    ),
    verb(
        "alarms",
        "[--timeout <timeout>]",
        (0, 0),
        "Lists the alarms of all nodes",
    ),
    verb(
        "listeners",
        "[--timeout <timeout>]",
        (0, 0),
        "Lists what the node listens on",
    ),
    verb(
        "check_port_connectivity",
        "[--timeout <timeout>]",
        (0, 0),
        "Exits with a non-zero code if a port that the node listens on takes no connection",
    ),
    verb(
        "check_port_listener",
        "<port> [--timeout <timeout>]",
        (1, 1),
        "Exits with a non-zero code if the node does not listen on a port",
    ),
    verb(
        "check_protocol_listener",
        "<protocol> [--timeout <timeout>]",
        (1, 1),
        "Exits with a non-zero code if the node does not listen for a protocol",
    ),
    verb(
        "check_virtual_hosts",
        "[--timeout <timeout>]",
        (0, 0),
        "Exits with a non-zero code if a virtual host cannot be used",
    ),
    verb(
        "check_if_node_is_quorum_critical",
        "",
        (0, 0),
        "Exits with a non-zero code if queues would lose their majority without this node",
    ),
    verb(
        "check_if_node_is_mirror_sync_critical",
        "",
        (0, 0),
        "Exits with a non-zero code if queues would lose their majority without this node",
    ),
    verb(
        "check_if_any_deprecated_features_are_used",
        "",
        (0, 0),
        "Exits with a non-zero code if deprecated features are used: there are none",
    ),
    with(
        verb(
            "check_certificate_expiration",
            "[--within <period>] [--unit <unit>]",
            (0, 0),
            "Exits with a non-zero code if a certificate ends soon",
        ),
        EXPIRY,
    ),
    with(
        verb(
            "memory_breakdown",
            "[--unit <unit>] [--timeout <timeout>]",
            (0, 0),
            "Displays what the memory of the node is used for",
        ),
        UNIT,
    ),
    verb(
        "node_health_check",
        "[--timeout <timeout>]",
        (0, 0),
        "Exits with a non-zero code if the node does not serve, or has alarms",
    ),
    verb(
        "os_env",
        "[--timeout <timeout>]",
        (0, 0),
        "Lists RABBITMQ_ and LEVERET_ variables of the node's environment",
    ),
    verb(
        "log_location",
        "[--timeout <timeout>]",
        (0, 0),
        "Says where the node's log goes",
    ),
];
