"""Metrics: what dashboards and alerts ask for, in a form that Prometheus' own parser reads."""

import json
import re
import time
from pathlib import Path

import pytest
from harness.management import DEADLINE_S, q
from prometheus_client.parser import text_string_to_metric_families

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana" / "leveret.json"

# What the Overview dashboard of RabbitMQ asks for, and what alerts use.
SERIES = """
rabbitmq_build_info rabbitmq_identity_info rabbitmq_connections rabbitmq_channels rabbitmq_queues rabbitmq_consumers
rabbitmq_connections_opened_total rabbitmq_connections_closed_total rabbitmq_channels_opened_total
rabbitmq_channels_closed_total rabbitmq_queues_declared_total rabbitmq_queues_created_total rabbitmq_queues_deleted_total
rabbitmq_process_open_fds rabbitmq_process_max_fds rabbitmq_process_open_tcp_sockets rabbitmq_process_max_tcp_sockets
rabbitmq_process_resident_memory_bytes rabbitmq_resident_memory_limit_bytes rabbitmq_disk_space_available_bytes
rabbitmq_disk_space_available_limit_bytes rabbitmq_queue_messages_ready rabbitmq_queue_messages_unacked
rabbitmq_queue_messages rabbitmq_queue_consumers rabbitmq_erlang_uptime_seconds rabbitmq_global_publishers
rabbitmq_global_consumers rabbitmq_global_messages_received_total rabbitmq_global_messages_received_confirm_total
rabbitmq_global_messages_confirmed_total rabbitmq_global_messages_routed_total
rabbitmq_global_messages_unroutable_dropped_total rabbitmq_global_messages_unroutable_returned_total
rabbitmq_global_messages_delivered_total rabbitmq_global_messages_delivered_consume_auto_ack_total
rabbitmq_global_messages_delivered_consume_manual_ack_total rabbitmq_global_messages_delivered_get_auto_ack_total
rabbitmq_global_messages_delivered_get_manual_ack_total rabbitmq_global_messages_redelivered_total
rabbitmq_global_messages_acknowledged_total rabbitmq_global_messages_get_empty_total rabbitmq_raft_term_total
rabbitmq_raft_log_commit_index rabbitmq_raft_log_last_written_index rabbitmq_raft_log_snapshot_index
rabbitmq_alarms_memory_used_watermark rabbitmq_alarms_free_disk_space_watermark
""".split()


def series(text):
    """Names, labels and values of a text of metrics; a line that is none fails."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            float(value)
            found[name] = value
    return found


def names(found):
    return {name.split("{")[0] for name in found}


def test_metrics_have_what_dashboards_ask_for(managed):
    answer = managed.metrics.send("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = series(answer.body.decode())
    assert not set(SERIES) - names(found)
    (identity,) = [name for name in found if name.startswith("rabbitmq_identity_info")]
    for label in ("rabbitmq_node", "rabbitmq_cluster", "rabbitmq_cluster_permanent_id"):
        assert f'{label}="' in identity


def eventually_metric(managed, path, line):
    deadline = time.monotonic() + DEADLINE_S
    while True:
        text = managed.metrics.send("GET", path).body.decode()
        if line in text.splitlines():
            return text
        assert time.monotonic() < deadline, (line, text[-3000:])
        time.sleep(0.2)


def test_metrics_of_queues(managed, api, vhost, name):
    assert api.put(f"/queues/{vhost}/a-b").status == 201
    body = {"routing_key": "a-b", "properties": {}, "payload": "x", "payload_encoding": "string"}
    assert api.post(f"/exchanges/{vhost}/amq.default/publish", body).json == {"routed": True}
    labels = f'vhost="{name}",queue="a-b"'
    eventually_metric(managed, "/metrics/per-object", f"rabbitmq_queue_messages_ready{{{labels}}} 1")
    detailed = f"/metrics/detailed?family=queue_coarse_metrics&vhost={vhost}"
    text = eventually_metric(managed, detailed, f"rabbitmq_detailed_queue_messages_ready{{{labels}}} 1")
    assert {name.split("{")[1] for name in series(text) if "queue_messages" in name} == {labels + "}"}
    assert "rabbitmq_cluster_vhost_status" in managed.metrics.send(
        "GET", "/metrics/detailed?family=vhost_status"
    ).body.decode()


@pytest.mark.leveret_only
def test_hostile_names_stay_within_their_labels(managed, api, vhost, name):
    """RabbitMQ 3.10 writes them as they are, which nothing can read."""
    # A line break is none of them: it is left out of a queue's name.
    hostile = 'a"} 1 rabbitmq_queue_messages{x="b\\c'
    assert api.put(f"/queues/{vhost}/{q(hostile)}").status == 201
    escaped = hostile.replace("\\", "\\\\").replace('"', '\\"')
    line = f'rabbitmq_queue_messages_ready{{vhost="{name}",queue="{escaped}"}} 0'
    text = eventually_metric(managed, "/metrics/per-object", line)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    own = [s.labels["queue"] for s in families["rabbitmq_queue_messages"].samples if s.labels["vhost"] == name]
    assert own == [hostile]


# What later dashboards of RabbitMQ ask for, those of quorum queues, and ones before 3.9.
MORE_SERIES = """
rabbitmq_raft_entry_commit_latency_seconds rabbitmq_raft_commit_latency_seconds rabbitmq_raft_term rabbitmq_raft_commit_index
rabbitmq_raft_last_written_index rabbitmq_raft_snapshot_index rabbitmq_channel_consumers
rabbitmq_channel_messages_published_total rabbitmq_channel_messages_confirmed_total
rabbitmq_channel_messages_unroutable_dropped_total rabbitmq_channel_messages_unroutable_returned_total
rabbitmq_channel_messages_delivered_total rabbitmq_channel_messages_delivered_ack_total
rabbitmq_channel_messages_redelivered_total rabbitmq_channel_messages_acked_total rabbitmq_channel_get_total
rabbitmq_channel_get_ack_total rabbitmq_channel_get_empty_total rabbitmq_queue_messages_published_total
rabbitmq_global_messages_dead_lettered_expired_total rabbitmq_global_messages_dead_lettered_maxlen_total
leveret_journal_fsync_seconds_bucket leveret_journal_batch_records_bucket leveret_commit_seconds_bucket
leveret_failovers_total leveret_failover_pause_seconds_bucket leveret_alarms_minority
""".split()


@pytest.mark.leveret_only
@pytest.mark.parametrize(
    "path", ("", "/per-object", "/memory-breakdown", "/detailed?family=queue_metrics&family=vhost_status")
)
def test_what_prometheus_reads(managed, path):
    """Each family once, with a type, and no series twice."""
    text = managed.metrics.send("GET", "/metrics" + path).body.decode()
    samples = []
    for family in text_string_to_metric_families(text):
        assert family.type in ("counter", "gauge", "histogram", "unknown", "untyped"), family.name
        samples += [(s.name, tuple(sorted(s.labels.items()))) for s in family.samples]
    assert samples
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(families) == len(set(families))
    assert len(samples) == len(set(samples))


@pytest.mark.leveret_only
def test_metrics_have_what_other_dashboards_ask_for(managed):
    found = names(series(managed.metrics.send("GET", "/metrics").body.decode()))
    assert not set(MORE_SERIES) - found


@pytest.mark.leveret_only
def test_the_own_dashboard_asks_for_what_there_is(managed):
    """But for what a node alone has not: its groups."""
    found = names(series(managed.metrics.send("GET", "/metrics").body.decode()))
    dashboard = json.loads(DASHBOARD.read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            asked |= set(re.findall(r"\b(?:rabbitmq|leveret)_[a-z_]+\b(?=[\[{ ])", target["expr"]))
    of_groups = {name for name in asked if name.startswith("leveret_group_") or "replication_lag" in name}
    assert len(asked) > 15 and of_groups
    assert not asked - of_groups - found


@pytest.mark.leveret_only
def test_metrics_of_its_own(managed):
    found = series(managed.metrics.send("GET", "/metrics").body.decode())
    assert {"leveret_journal_fsync_seconds_count", "leveret_journal_batch_records_sum"} <= names(found)
    assert float(found["leveret_journal_fsync_seconds_count"]) > 0
