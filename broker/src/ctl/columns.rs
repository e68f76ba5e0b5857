//! The columns that lists can show, by RabbitMQ's names.

use super::protocol::Request;

/// The columns of a list: first those that there are, then those that are shown if none is asked for.
type Columns = (&'static [&'static str], &'static [&'static str]);

const QUEUE_COLUMNS: &[&str] = &[
    "arguments",
    "auto_delete",
    "consumer_capacity",
    "consumer_utilisation",
    "consumers",
    "disk_reads",
    "disk_writes",
    "durable",
    "effective_policy_definition",
    "exclusive",
    "exclusive_consumer_pid",
    "exclusive_consumer_tag",
    "head_message_timestamp",
    "leader",
    "members",
    "memory",
    "message_bytes",
    "message_bytes_persistent",
    "message_bytes_ram",
    "message_bytes_ready",
    "message_bytes_unacknowledged",
    "messages",
    "messages_persistent",
    "messages_ram",
    "messages_ready",
    "messages_ready_ram",
    "messages_unacknowledged",
    "messages_unacknowledged_ram",
    "name",
    "online",
    "operator_policy",
    "owner_pid",
    "pid",
    "policy",
    "slave_pids",
    "state",
    "synchronised_slave_pids",
    "type",
    "vhost",
];

const CONNECTION_COLUMNS: &[&str] = &[
    "auth_mechanism",
    "channel_max",
    "channels",
    "client_properties",
    "connected_at",
    "frame_max",
    "host",
    "name",
    "peer_cert_issuer",
    "peer_cert_subject",
    "peer_cert_validity",
    "peer_host",
    "peer_port",
    "pid",
    "port",
    "protocol",
    "recv_cnt",
    "recv_oct",
    "send_cnt",
    "send_oct",
    "send_pend",
    "ssl",
    "ssl_cipher",
    "ssl_hash",
    "ssl_key_exchange",
    "ssl_protocol",
    "state",
    "timeout",
    "user",
    "user_provided_name",
    "vhost",
];

const CHANNEL_COLUMNS: &[&str] = &[
    "acks_uncommitted",
    "confirm",
    "connection",
    "consumer_count",
    "global_prefetch_count",
    "messages_unacknowledged",
    "messages_uncommitted",
    "messages_unconfirmed",
    "name",
    "number",
    "pid",
    "prefetch_count",
    "transactional",
    "user",
    "vhost",
];

const CONSUMER_COLUMNS: &[&str] = &[
    "ack_required",
    "active",
    "activity_status",
    "arguments",
    "channel_pid",
    "consumer_tag",
    "prefetch_count",
    "queue_name",
];

/// The columns that a list takes as its arguments; `None` for other verbs.
pub fn columns(verb: &str) -> Option<Columns> {
    Some(match verb {
        "list_vhosts" => (
            &[
                "name",
                "description",
                "tags",
                "default_queue_type",
                "tracing",
                "cluster_state",
            ],
            &["name"],
        ),
        "list_queues" => (QUEUE_COLUMNS, &["name", "messages"]),
        "list_unresponsive_queues" => (
            &[
                "name",
                "durable",
                "auto_delete",
                "arguments",
                "pid",
                "recoverable_slaves",
                "type",
                "state",
            ],
            &["name"],
        ),
        "list_deprecated_features" => (
            &[
                "name",
                "deprecation_phase",
                "provided_by",
                "desc",
                "doc_url",
            ],
            &["name", "deprecation_phase"],
        ),
        "list_exchanges" => (
            &[
                "name",
                "type",
                "durable",
                "auto_delete",
                "internal",
                "arguments",
                "policy",
            ],
            &["name", "type"],
        ),
        "list_bindings" => {
            const ALL: &[&str] = &[
                "source_name",
                "source_kind",
                "destination_name",
                "destination_kind",
                "routing_key",
                "arguments",
            ];
            (ALL, ALL)
        }
        "list_connections" => (
            CONNECTION_COLUMNS,
            &["user", "peer_host", "peer_port", "state"],
        ),
        "list_channels" => (
            CHANNEL_COLUMNS,
            &["pid", "user", "consumer_count", "messages_unacknowledged"],
        ),
        "list_consumers" => (
            CONSUMER_COLUMNS,
            &[
                "queue_name",
                "channel_pid",
                "consumer_tag",
                "ack_required",
                "prefetch_count",
                "active",
                "arguments",
            ],
        ),
        "list_feature_flags" => (
            &[
                "name",
                "state",
                "stability",
                "provided_by",
                "desc",
                "doc_url",
            ],
            &["name", "state"],
        ),
        _ => return None,
    })
}

/// The columns that a list is asked for: its arguments, or its defaults.
///
/// # Errors
/// The names that are no columns, in the order of the alphabet.
pub fn columns_of(request: &Request) -> Result<Vec<String>, Vec<String>> {
    let Some((all, default)) = columns(&request.verb) else {
        return Ok(Vec::new());
    };
    let given = request.args.iter().flat_map(|arg| arg.split(','));
    let given: Vec<String> = given
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if given.is_empty() {
        return Ok(default.iter().map(|name| (*name).to_owned()).collect());
    }
    let is_column = |name: &String| all.contains(&name.as_str());
    let mut unknown: Vec<String> = given.iter().filter(|n| !is_column(n)).cloned().collect();
    unknown.sort();
    unknown.dedup();
    match unknown.is_empty() {
        true => Ok(given),
        false => Err(unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::super::verbs;
    use super::*;

    #[test]
    fn columns_are_words_or_a_list_with_commas() {
        let asked = |args: &[&str]| {
            columns_of(&Request {
                verb: "list_queues".to_owned(),
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                ..Request::default()
            })
        };
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(asked(&[]), Ok(names(&["name", "messages"])));
        assert_eq!(asked(&["type", "name"]), Ok(names(&["type", "name"])));
        assert_eq!(asked(&["type,", "name"]), Ok(names(&["type", "name"])));
        let unknown = asked(&["name", "x", "bogus"]);
        assert_eq!(unknown, Err(names(&["bogus", "x"])));
        for verb in verbs::all() {
            if let Some((all, default)) = columns(verb.name) {
                assert!(default.iter().all(|name| all.contains(name)), "{verb:?}");
                assert_eq!(verb.args_max, usize::MAX, "{verb:?}");
            }
        }
    }
}
