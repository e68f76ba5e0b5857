"""Any node answers for the whole cluster, and tells the truth while one of them is down."""

import time

import pika
import pytest
from harness.cluster import Cluster, name_of
from harness.management import DEADLINE_S, Api, Managed, q
from harness.options import kind
from harness.servers import free_port
from prometheus_client.parser import text_string_to_metric_families

GROUPS = 16


class Three(Cluster):
    """A cluster whose nodes serve HTTP; `apis[n]` is node n's API, `metrics[n]` its metrics."""

    def __init__(self, binary, base):
        self.apis, self.metrics = [], []
        super().__init__(binary, base)

    def make(self, port, lists):
        ports = free_port(), free_port()
        self.apis.append(Api(ports[0]))
        self.metrics.append(Api(ports[1], None))
        http = {
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": ports[0],
            "prometheus.tcp.ip": "127.0.0.1",
            "prometheus.tcp.port": ports[1],
        }
        return super().make(port, {**lists, **http})

    def managed(self, at):
        return Managed(self.nodes[at], self.apis[at], self.metrics[at])

    def whole(self):
        """All nodes hear each other, and know who leads what."""
        for api in self.apis:
            api.eventually("/nodes", lambda nodes: len(nodes) == 3 and all(is_whole(n) for n in nodes))


def is_whole(node):
    groups = node.get("raft_groups", [])
    leaders = {group["leader"] for group in groups}
    # Leaderships spread by themselves.
    return node["running"] and len(groups) == 1 + GROUPS and None not in leaders and len(leaders) > 1


@pytest.fixture(scope="module")
def three(pytestconfig, tmp_path_factory):
    if kind(pytestconfig) != "leveret" or pytestconfig.getoption("--broker"):
        pytest.skip("a cluster is made of the leveret binary")
    made = Three(pytestconfig.getoption("--binary"), tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        made.whole()
        yield made
    finally:
        for at, node in enumerate(made.nodes):
            if node.log_path.exists():
                print(f"--- node {at + 1}\n" + node.log_path.read_text(errors="replace")[-3000:])
        made.close()


def is_served(queue):
    return queue["state"] == "running"


def names(items):
    return [item["name"] for item in items]


def exposed(three, api):
    """The metrics of the node that has this API."""
    metrics = three.metrics[three.apis.index(api)]
    return text_string_to_metric_families(metrics.send("GET", "/metrics").body.decode())


def value(families, family, sample):
    """The only value of a series without labels."""
    (only,) = [s.value for s in families[family] if s.name == sample]
    return only


def members(three):
    return sorted(name_of(node) for node in three.nodes)


def test_every_node_tells_the_same_of_queues_wherever_they_are_led(three, name):
    assert three.apis[0].put(f"/vhosts/{name}").status == 201
    queues = [f"q{n:02}" for n in range(40)]
    for at, queue in enumerate(queues):
        # Made at any node, known at all of them at once.
        assert three.apis[at % 3].put(f"/queues/{name}/{queue}", {"durable": at % 2 == 0}).status == 201
        assert three.apis[(at + 1) % 3].get(f"/queues/{name}/{queue}").status == 200
    body = {"routing_key": queues[7], "properties": {}, "payload": "x", "payload_encoding": "string"}
    for api in three.apis:
        assert api.post(f"/exchanges/{name}/amq.default/publish", body).json == {"routed": True}
    seen = []
    for api in three.apis:
        listed = api.eventually(
            f"/queues/{name}", lambda found: found[7].get("messages") == 3 and all(is_served(x) for x in found)
        )
        assert names(listed) == queues
        for queue in listed:
            assert queue["leader"] == queue["node"]
            assert sorted(queue["members"]) == sorted(queue["online"]) == members(three)
            others = sorted(set(members(three)) - {queue["node"]})
            assert sorted(queue["slave_nodes"]) == sorted(queue["synchronised_slave_nodes"]) == others
        seen.append([(queue["name"], queue["node"], queue["messages"]) for queue in listed])
    assert seen[0] == seen[1] == seen[2]
    assert len({node for _, node, _ in seen[0]}) > 1, "all is led by one node"
    page = three.apis[1].get(f"/queues/{name}?page=2&page_size=15").json
    assert (names(page["items"]), page["total_count"]) == (queues[15:30], 40)
    for api in three.apis:
        assert api.eventually("/overview", lambda o: o["queue_totals"].get("messages", 0) >= 3)
    assert three.apis[2].delete(f"/vhosts/{name}").status == 204


def test_connections_of_every_node_are_listed_and_closed_from_any(three, name):
    connections = [three.managed(at).connect() for at in range(3)]
    for at, connection in enumerate(connections):
        channel = connection.channel()
        channel.queue_declare(f"{name}-{at}", auto_delete=True)
        channel.basic_consume(f"{name}-{at}", lambda *_: None, consumer_tag=f"tag-{name}-{at}")
    tags = {f"tag-{name}-{at}" for at in range(3)}
    for api in three.apis:
        found = api.eventually("/consumers", lambda all: tags <= {c["consumer_tag"] for c in all})
        own = {c["channel_details"]["node"] for c in found if c["consumer_tag"] in tags}
        assert sorted(own) == members(three)
        assert len(api.get("/connections").json) >= 3
        assert len(api.get("/channels").json) >= 3
        totals = api.get("/overview").json["object_totals"]
        assert totals["connections"] >= 3 and totals["consumers"] >= 3
    (third,) = [
        c["channel_details"]["connection_name"] for c in found if c["consumer_tag"] == f"tag-{name}-2"
    ]
    assert three.apis[0].get(f"/connections/{q(third)}").json["node"] == name_of(three.nodes[2])
    assert three.apis[0].delete(f"/connections/{q(third)}", **{"X-Reason": "from afar"}).status == 204
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="from afar"):
        while True:
            connections[2].process_data_events(0.1)
    for connection in connections[:2]:
        connection.close()


def test_what_one_node_changes_all_know(three, name):
    first, second, third = three.apis
    assert first.put(f"/users/{name}", {"password": "secret", "tags": "management"}).status == 201
    assert second.put(f"/permissions/%2F/{name}", {"configure": ".*", "write": ".*", "read": ".*"}).status == 201
    assert third.user(name).get("/whoami").json["name"] == name
    assert third.put(f"/policies/%2F/{name}", {"pattern": "^nothing", "definition": {"max-length": 5}}).status == 201
    assert first.get(f"/policies/%2F/{name}").json["definition"] == {"max-length": 5}
    exported = second.get("/definitions").json
    assert name in names(exported["users"]) and name in names(exported["policies"])
    assert third.post("/definitions", {"queues": [{"name": name, "vhost": "/", "durable": True}]}).status in (201, 204)
    assert first.get(f"/queues/%2F/{name}").status == 200
    assert second.delete(f"/queues/%2F/{name}").status == 204
    assert third.delete(f"/policies/%2F/{name}").status == 204
    assert first.delete(f"/users/{name}").status == 204
    assert second.user(name).get("/whoami").status == 401


def test_every_group_is_led_once_and_metrics_say_by_whom(three):
    three.whole()
    deadline = time.monotonic() + DEADLINE_S
    while True:
        led = []
        for metrics in three.metrics:
            for line in metrics.send("GET", "/metrics").body.decode().splitlines():
                if line.startswith("leveret_group_leader{") and line.endswith(" 1"):
                    led.append(line.split('"')[1])
        if len(led) == len(set(led)) == 1 + GROUPS:
            return
        # A leadership may just be on its way.
        assert time.monotonic() < deadline, led
        time.sleep(0.2)


def test_the_truth_while_a_node_is_down(three, name):
    three.whole()
    survivors, lost = three.apis[:2], name_of(three.nodes[2])
    queues = [f"{name}-{n}" for n in range(20)]
    for queue in queues:
        assert survivors[0].put(f"/queues/%2F/{queue}", {"durable": True}).status == 201
    for path in ("node-is-quorum-critical", "reached-target-cluster-size", "ready-to-serve-clients"):
        survivors[0].eventually(f"/health/checks/{path}", lambda _: True)
    three.nodes[2].kill()
    rest = sorted(set(members(three)) - {lost})
    for api in survivors:
        nodes = api.eventually("/nodes", lambda all: not all[2]["running"])
        assert names(nodes) == members(three)
        assert [node["running"] for node in nodes] == [True, True, False]
        assert "mem_used" not in nodes[2]
        assert api.get(f"/nodes/{q(lost)}").json["running"] is False

        def led_by_survivors(found):
            own = [queue for queue in found if queue["name"] in queues]
            return len(own) == 20 and all(is_served(queue) and queue["node"] in rest for queue in own)

        for queue in api.eventually("/queues/%2F", led_by_survivors):
            if queue["name"] in queues:
                assert sorted(queue["members"]) == members(three)
                assert sorted(queue["online"]) == rest
                assert lost not in queue["synchronised_slave_nodes"]
                assert lost in queue["slave_nodes"]
        # One more, and nothing would be served.
        critical = api.get("/health/checks/node-is-quorum-critical")
        assert (critical.status, critical.json["status"]) == (503, "failed")
        assert api.get("/health/checks/reached-target-cluster-size").status == 503
        assert api.get("/health/checks/ready-to-serve-clients").status == 200
        assert api.get("/health/checks/alarms").status == 200
        leaders = "/health/checks/quorum-queues-without-elected-leaders/all-vhosts"
        api.eventually(leaders, lambda check: check["status"] == "ok")
        # It serves, and changes.
        body = {"routing_key": queues[0], "properties": {"delivery_mode": 2}, "payload": "x", "payload_encoding": "string"}
        assert api.post("/exchanges/%2F/amq.default/publish", body).json == {"routed": True}
        assert api.get("/aliveness-test/%2F").json == {"status": "ok"}
        # It saw that others lead now, and how long nobody did.
        seen = {family.name: family.samples for family in exposed(three, api)}
        assert value(seen, "leveret_failovers", "leveret_failovers_total") > 0
        assert value(seen, "leveret_failover_pause_seconds", "leveret_failover_pause_seconds_count") > 0
        assert value(seen, "leveret_commit_seconds", "leveret_commit_seconds_count") > 0
        assert {s.value for s in seen["leveret_group_spare_members"]} == {0}
        assert {s.labels["member"] for s in seen["leveret_replication_lag_entries"]} <= set(members(three))
        assert value(seen, "rabbitmq_raft_log_commit_index", "rabbitmq_raft_log_commit_index") > 0
    three.nodes[2].start()
    three.whole()
    for api in three.apis:
        api.eventually(f"/queues/%2F/{queues[0]}", lambda queue: queue.get("messages") == 2)
        api.eventually("/health/checks/node-is-quorum-critical", lambda check: check["status"] == "ok")
    for queue in queues:
        assert three.apis[2].delete(f"/queues/%2F/{queue}").status == 204


def test_a_minority_says_so(three):
    """One node of three that runs answers, and says what it cannot do."""
    three.whole()
    for node in three.nodes[1:]:
        node.kill()
    api = three.apis[0]
    deadline = time.monotonic() + DEADLINE_S
    while api.get("/health/checks/ready-to-serve-clients").status != 503:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    nodes = api.eventually("/nodes", lambda all: sum(node["running"] for node in all) == 1)
    (own,) = [node for node in nodes if node["running"]]
    assert own["being_in_minority"] is True
    assert api.get("/health/checks/is-in-service").status == 503
    assert api.get("/overview").status == 200
    three.start()
    three.whole()
    api.eventually("/health/checks/ready-to-serve-clients", lambda check: check["status"] == "ok")
