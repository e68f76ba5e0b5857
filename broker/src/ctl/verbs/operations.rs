//! Starting, stopping, upgrades, members of queues, plugins.

use super::super::args::{Switch, Takes, switch};
use super::{ANY, Verb, verb, with};

const WAIT: &[Switch] = &[switch("pid", Some('P'), Takes::Integer)];
const USED: &[Switch] = &[switch("used", None, Takes::Nothing)];
const UNRESPONSIVE: &[Switch] = &[
    switch("local", None, Takes::Nothing),
    switch("queue-timeout", None, Takes::Integer),
];
const REPLICAS: &[Switch] = &[
    switch("vhost-pattern", None, Takes::Text),
    switch("queue-pattern", None, Takes::Text),
    switch("errors-only", None, Takes::Nothing),
    switch("membership", None, Takes::Text),
];
const PLUGIN_LIST: &[Switch] = &[
    switch("verbose", Some('v'), Takes::Nothing),
    switch("minimal", Some('m'), Takes::Nothing),
    switch("enabled", Some('E'), Takes::Nothing),
    switch("implicitly-enabled", Some('e'), Takes::Nothing),
];
const PLUGINS: &[Switch] = &[
    switch("offline", None, Takes::Nothing),
    switch("online", None, Takes::Nothing),
    switch("all", None, Takes::Nothing),
];

/// See the module.
pub const VERBS: &[Verb] = &[
    with(
        verb(
            "wait",
            "[<pidfile>] [--pid|-P <pid>] [--timeout <timeout>]",
            (0, 1),
            "Waits for the node whose process is named by a pid file to have started",
        ),
        WAIT,
    ),
    verb(
        "stop_app",
        "",
        (0, 0),
        "Sends clients away and hands over what the node leads, and leaves the process running",
    ),
    verb(
        "start_app",
        "",
        (0, 0),
        "Lets a node serve again after stop_app",
    ),
    verb(
        "force_boot",
        "",
        (0, 0),
        "Does nothing: a node starts without waiting for the one that stopped last",
    ),
    verb(
        "environment",
        "",
        (0, 0),
        "Displays the settings of the node, those that were given and the defaults",
    ),
    verb(
        "report",
        "[--timeout <timeout>]",
        (0, 0),
        "Displays status, settings and all lists, to be passed on to whoever looks for a fault",
    ),
    verb(
        "sync_queue",
        "[--vhost <vhost>] <queue>",
        (1, 1),
        "Does nothing: mirrors of a queue always have what was confirmed",
    ),
    verb(
        "cancel_sync_queue",
        "[--vhost <vhost>] <queue>",
        (1, 1),
        "Does nothing: mirrors of a queue are not synchronised by command",
    ),
    with(
        verb(
            "list_deprecated_features",
            "[--used] [<column> ...]",
            (0, ANY),
            "Lists deprecated features: there are none",
        ),
        USED,
    ),
    with(
        verb(
            "list_unresponsive_queues",
            "[--vhost <vhost>] [--local] [--queue-timeout <milliseconds>] [<column> ...]",
            (0, ANY),
            "Lists queues that nobody leads at the moment",
        ),
        UNRESPONSIVE,
    ),
    verb(
        "remove_classic_queue_mirroring_from_policies",
        "",
        (0, 0),
        "Takes the ha- keys, which change nothing, out of all policies",
    ),
    verb(
        "post_upgrade",
        "[--timeout <timeout>]",
        (0, 0),
        "Does what is to be done once all nodes run a new version",
    ),
    verb(
        "await_online_quorum_plus_one",
        "[--timeout <timeout>]",
        (0, 0),
        "Waits until the node can be stopped without the loss of a majority",
    ),
    verb(
        "await_online_synchronized_mirror",
        "[--timeout <timeout>]",
        (0, 0),
        "Waits until the node can be stopped without the loss of a majority",
    ),
    verb(
        "quorum_status",
        "[--vhost <vhost>] <queue>",
        (1, 1),
        "Displays the members of the Raft group that a queue is in",
    ),
    with(
        verb(
            "rebalance",
            "<classic|quorum|stream|all> [--vhost-pattern <pattern>] [--queue-pattern <pattern>]",
            (1, 1),
            "Does nothing: leaders are spread over the nodes by themselves",
        ),
        REPLICAS,
    ),
    with(
        verb(
            "grow",
            "<node> <all|even> [--vhost-pattern <pattern>] [--queue-pattern <pattern>]",
            (2, 2),
            "Every node has every queue: says whether this one has",
        ),
        REPLICAS,
    ),
    with(
        verb(
            "shrink",
            "<node> [--errors-only]",
            (1, 1),
            "Refused: every node has every queue",
        ),
        REPLICAS,
    ),
    with(
        verb(
            "add_member",
            "[--vhost <vhost>] <queue> <node>",
            (2, 2),
            "Every node has every queue: says whether this one has",
        ),
        REPLICAS,
    ),
    verb(
        "delete_member",
        "[--vhost <vhost>] <queue> <node>",
        (2, 2),
        "Refused: every node has every queue",
    ),
    with(
        verb(
            "list",
            "[pattern] [--verbose] [--minimal] [--enabled] [--implicitly-enabled]",
            (0, 1),
            "Lists what RabbitMQ has as plugins and is built in here",
        ),
        PLUGIN_LIST,
    ),
    with(
        verb(
            "is_enabled",
            "<plugin1> [ <plugin2>]",
            (1, ANY),
            "Exits with a non-zero code if a plugin is not there",
        ),
        PLUGINS,
    ),
    with(
        verb(
            "enable",
            "<plugin1> [ <plugin2>] [--offline]",
            (1, ANY),
            "Says whether a plugin is built in; it is on then",
        ),
        PLUGINS,
    ),
    with(
        verb(
            "disable",
            "<plugin1> [ <plugin2>] [--offline]",
            (1, ANY),
            "Refused for what is built in: settings turn it off",
        ),
        PLUGINS,
    ),
    verb(
        "directories",
        "",
        (0, 0),
        "Says that there are no directories of plugins",
    ),
];
