//! The cluster and its nodes: overview, names, flags.

use leveret_topology::ExchangeType;
use serde_json::{Map, Value, json};

use super::vhosts::with_samples;
use crate::broker::{NodeReport, Reach};
use crate::call::Call;
use crate::json;
use crate::rates;
use crate::reply::{Failure, Reply, Result};
use crate::stats::{Churn, MessageStats};

/// The version of RabbitMQ whose API this is: tools look at it.
pub const RABBITMQ_VERSION: &str = "3.13.7";

fn exchange_types() -> Value {
    let one = |kind: ExchangeType| {
        let about = match kind {
            ExchangeType::Direct => "AMQP direct exchange, as per the AMQP specification",
            ExchangeType::Fanout => "AMQP fanout exchange, as per the AMQP specification",
            ExchangeType::Headers => "AMQP headers exchange, as per the AMQP specification",
            ExchangeType::Topic => "AMQP topic exchange, as per the AMQP specification",
            ExchangeType::ConsistentHash => "Consistent Hashing Exchange",
            _ => "RabbitMQ extension",
        };
        json!({"name": kind.as_str(), "description": about, "enabled": true})
    };
    ExchangeType::ALL.into_iter().map(one).collect()
}

fn listeners(nodes: &[NodeReport]) -> Value {
    let mut all = Vec::new();
    for node in nodes {
        all.extend(node.listeners.iter().map(|l| {
            json!({
                "node": node.name, "protocol": l.protocol, "port": l.address.port(),
                "ip_address": l.address.ip().to_canonical(), "socket_opts": [],
            })
        }));
    }
    Value::Array(all)
}

fn contexts(nodes: &[NodeReport]) -> Value {
    let mut all = Vec::new();
    for node in nodes {
        let http = node
            .listeners
            .iter()
            .filter(|l| l.protocol.starts_with("http"));
        all.extend(http.map(|l| {
            let about = match l.protocol.ends_with("prometheus") {
                true => "RabbitMQ Prometheus",
                false => "RabbitMQ Management",
            };
            json!({
                "node": node.name, "description": about, "path": "/", "ssl_opts": [],
                "ip": l.address.ip().to_canonical(), "port": l.address.port().to_string(),
            })
        }));
    }
    Value::Array(all)
}

pub fn overview(call: &Call) -> Result {
    let range = call.range()?;
    let broker = call.broker();
    let (nodes, queues) = (broker.nodes(), broker.queues(Reach::Everywhere));
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    set("management_version", json!(RABBITMQ_VERSION));
    set("rates_mode", json!("basic"));
    let policies = json!({"global": [600], "basic": [600], "detailed": [600]});
    set("sample_retention_policies", policies);
    set("exchange_types", exchange_types());
    set("product_name", json!("Leveret"));
    set("product_version", json!(env!("CARGO_PKG_VERSION")));
    set("rabbitmq_version", json!(RABBITMQ_VERSION));
    set("cluster_name", json!(broker.cluster_name()));
    set("erlang_version", json!(""));
    set("erlang_full_version", json!(""));
    set("release_series_support_status", json!("supported"));
    set("disable_stats", json!(false));
    set("is_op_policy_updating_enabled", json!(true));
    set("enable_queue_totals", json!(false));
    set("cluster_tags", json!([]));
    set("node_tags", json!([]));
    set("default_queue_type", json!("classic"));
    set("statistics_db_event_queue", json!(0));
    set("node", json!(broker.node_name()));
    if call.caller.is_monitor() {
        set("listeners", listeners(&nodes));
        set("contexts", contexts(&nodes));
    }
    // Who may not see everything is shown what the own virtual hosts come to.
    let topology = call.topology();
    let seen = call.seen(&topology);
    let (mut exchanges, mut queue_count, mut own) = (0, 0, Vec::new());
    for vhost in topology.vhosts() {
        if seen.contains(vhost.name().as_str()) {
            exchanges += vhost.exchanges().len();
            queue_count += vhost.queue_count();
            if !call.caller.is_monitor() {
                own.extend(vhost.queues().iter().map(|queue| queue.id.0));
            }
        }
    }
    drop(topology);
    let all = call.caller.is_monitor();
    let (connections, channels) = match all {
        true => {
            let sum = |of: fn(&NodeReport) -> u64| nodes.iter().map(of).sum::<u64>();
            (sum(|node| node.connections), sum(|node| node.channels))
        }
        false => {
            let mut own = broker.connections(Reach::Everywhere);
            own.retain(|c| c.user == call.caller.name);
            let channels = own.iter().map(|c| c.channels as u64).sum();
            (own.len() as u64, channels)
        }
    };
    let reports: Vec<_> = match all {
        true => queues.values().collect(),
        false => own.iter().filter_map(|id| queues.get(id)).collect(),
    };
    let consumers: u64 = reports.iter().map(|q| u64::from(q.consumers)).sum();
    set(
        "object_totals",
        json!({
            "channels": channels, "connections": connections, "consumers": consumers,
            "exchanges": exchanges, "queues": queue_count,
        }),
    );
    let depths = rates::depths(reports.iter().copied());
    let mut stats = MessageStats::default();
    let mut churn = Churn::default();
    for node in &nodes {
        churn.add(&node.churn);
        if all {
            stats.add(&node.stats);
        }
    }
    if !all {
        reports.iter().for_each(|queue| stats.add(&queue.stats));
    }
    with_samples(call, |samples| {
        let series = all.then_some(&samples.messages);
        let mut totals = Map::new();
        rates::put_depths(&mut totals, depths, series, range);
        set("queue_totals", Value::Object(totals));
        let mut of_messages = Map::new();
        if stats != MessageStats::default() {
            let names = MessageStats::NAMES;
            rates::put_stats(&mut of_messages, &stats, series, range, names);
        }
        set("message_stats", Value::Object(of_messages));
        let mut of_churn = Map::new();
        samples.put_churn(&mut of_churn, &churn, range);
        set("churn_rates", Value::Object(of_churn));
    });
    call.one(Value::Object(out))
}

fn node_value(call: &Call, node: &NodeReport) -> Result<Value> {
    let range = call.range()?;
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    set("name", json!(node.name));
    set("type", json!("disc"));
    set("running", json!(node.running));
    if !node.running {
        return Ok(Value::Object(out));
    }
    set("partitions", json!([]));
    set("os_pid", json!(node.os_pid.to_string()));
    set("uptime", json!(node.uptime_ms));
    set("mem_used", json!(node.mem_used));
    set("mem_limit", json!(node.mem_limit));
    set("mem_alarm", json!(node.alarms.memory));
    set("mem_calculation_strategy", json!("anonymous"));
    set("disk_free", json!(node.disk_free));
    set("disk_free_limit", json!(node.disk_free_limit));
    set("disk_free_alarm", json!(node.alarms.disk));
    set("fd_used", json!(node.fd_used));
    set("fd_total", json!(node.fd_total));
    set("sockets_used", json!(node.connections));
    set("sockets_total", json!(node.fd_total));
    set("proc_used", json!(0));
    set("proc_total", json!(0));
    set("run_queue", json!(0));
    set("processors", json!(node.processors));
    set("rates_mode", json!("basic"));
    set("net_ticktime", json!(1));
    set("db_dir", json!(node.db_dir));
    set("config_files", json!([]));
    set("log_files", json!([]));
    set(
        "enabled_plugins",
        json!(["rabbitmq_management", "rabbitmq_prometheus"]),
    );
    let application = json!({
        "name": "leveret", "description": "Leveret", "version": env!("CARGO_PKG_VERSION"),
    });
    set("applications", json!([application]));
    set("exchange_types", exchange_types());
    let mechanism = |name: &str| json!({"name": name, "description": "", "enabled": true});
    set(
        "auth_mechanisms",
        json!([mechanism("PLAIN"), mechanism("AMQPLAIN")]),
    );
    set("contexts", contexts(std::slice::from_ref(node)));
    set("cluster_links", json!([]));
    set("being_drained", json!(node.maintenance));
    set("being_in_minority", json!(node.alarms.minority));
    let groups: Value = node
        .groups
        .iter()
        .map(|g| {
            let lags = g.lags.iter();
            let lags: Map<String, Value> = lags.map(|(n, lag)| (n.clone(), json!(lag))).collect();
            json!({
                "group": g.group, "leader": g.leader, "leads": g.leads, "term": g.term,
                "last_log_index": g.last_log_index, "commit_index": g.commit_index,
                "applied_index": g.applied_index, "snapshot_index": g.snapshot_index,
                "lags": lags,
            })
        })
        .collect();
    set("raft_groups", groups);
    for ((name, value), _) in Churn::NAMES.iter().zip(node.churn.values()).zip(0..) {
        set(name, json!(value));
    }
    with_samples(call, |samples| {
        samples.put_node(&mut out, &node.name, range)
    });
    Ok(Value::Object(out))
}

pub fn nodes(call: &Call) -> Result {
    let nodes = call.broker().nodes();
    let items: Result<Vec<Value>> = nodes.iter().map(|node| node_value(call, node)).collect();
    call.list(items?, &["name"])
}

fn find(call: &Call) -> Result<NodeReport> {
    let mut all = call.broker().nodes().into_iter();
    let found = all.find(|node| node.name == call.param("node"));
    found.ok_or_else(Failure::missing)
}

pub fn node(call: &Call) -> Result {
    let node = find(call)?;
    call.one(node_value(call, &node)?)
}

pub fn memory(call: &Call) -> Result {
    let node = find(call)?;
    let total = json!({"rss": node.mem_used, "allocated": node.mem_used, "erlang": 0});
    call.one(json!({"memory": {"total": total, "strategy": "anonymous"}}))
}

pub fn cluster_name(call: &Call) -> Result {
    call.one(json!({"name": call.broker().cluster_name()}))
}

pub fn set_cluster_name(call: &Call) -> Result {
    let body = call.json()?;
    let [name] = json::fields(&body, ["name"])?;
    let name = json::text(name, "name")?;
    call.propose(leveret_topology::Command::SetGlobalParameter(
        leveret_topology::SetGlobalParameter {
            name: leveret_topology::Name::from("cluster_name"),
            value: json!(name),
        },
    ))?;
    Ok(Reply::Done)
}

pub fn extensions(_: &Call) -> Result {
    Ok(Reply::Json(json!([])))
}

pub fn version(_: &Call) -> Result {
    Ok(Reply::Json(json!(RABBITMQ_VERSION)))
}

pub fn whoami(call: &Call) -> Result {
    let caller = &call.caller;
    call.one(json!({
        "name": caller.name, "tags": caller.tags, "is_internal_user": true,
    }))
}

pub fn feature_flags(call: &Call) -> Result {
    let flags = call.broker().feature_flags().iter();
    let items = flags.map(|(name, about)| {
        json!({
            "name": name, "state": "enabled", "stability": "stable", "desc": about,
            "provided_by": "leveret", "doc_url": "",
        })
    });
    call.list(items.collect(), &["name"])
}

pub fn enable_feature_flag(call: &Call) -> Result {
    let name = call.param("name");
    let known = call.broker().feature_flags();
    match name == "all" || known.iter().any(|(flag, _)| *flag == name) {
        true => Ok(Reply::Done),
        false => Err(Failure::bad_request("unsupported")),
    }
}

pub fn deprecated_features(call: &Call) -> Result {
    call.list(Vec::new(), &["name"])
}

/// Leaders spread by themselves, all the time.
pub fn rebalance(_: &Call) -> Result {
    Ok(Reply::Done)
}

pub fn auth(_: &Call) -> Result {
    Ok(Reply::Json(json!({"oauth_enabled": false})))
}

/// Only the node that answers knows of its own logins.
fn expect_this(call: &Call) -> Result<()> {
    match call.broker().node_name() == call.param("node") {
        true => Ok(()),
        false => Err(Failure::missing()),
    }
}

pub fn attempts(call: &Call) -> Result {
    expect_this(call)?;
    call.one(call.api.attempts().value())
}

pub fn attempts_by_source(call: &Call) -> Result {
    expect_this(call)?;
    call.one(call.api.attempts().value_by_source())
}

pub fn reset_attempts(call: &Call) -> Result {
    expect_this(call)?;
    call.api.attempts().reset();
    Ok(Reply::Done)
}
