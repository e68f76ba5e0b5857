"""What is going on: overview, nodes, connections, channels, consumers, rates, health checks."""

import socket
import threading
import time

import pika
import pytest
from harness.management import DEADLINE_S, q


def test_overview(api, managed):
    overview = api.eventually("/overview", lambda o: o["object_totals"]["exchanges"] >= 7)
    for key in ("management_version", "rabbitmq_version", "cluster_name", "node", "rates_mode", "exchange_types"):
        assert overview[key], key
    assert overview["node"] in [node["name"] for node in api.get("/nodes").json]
    ports = {(listener["protocol"], listener["port"]) for listener in overview["listeners"]}
    assert {("amqp", managed.server.port), ("http", managed.api.port)} <= ports
    assert {"channel_created", "connection_created", "queue_declared"} <= overview["churn_rates"].keys()


def test_nodes(api):
    def complete(nodes):
        return all(node["running"] and node.get("mem_used") and node["uptime"] for node in nodes)

    (node,) = api.eventually("/nodes", complete)
    for key in ("mem_limit", "disk_free", "disk_free_limit", "fd_used", "fd_total", "uptime", "processors"):
        assert node[key] > 0, key
    assert (node["mem_alarm"], node["disk_free_alarm"], node["partitions"]) == (False, False, [])
    assert api.get(f"/nodes/{q(node['name'])}").json["name"] == node["name"]


def test_cluster_name(api):
    before = api.get("/cluster-name").json["name"]
    assert api.put("/cluster-name", {"name": "another"}).status == 204
    assert api.get("/cluster-name").json == {"name": "another"}
    assert api.get("/overview").json["cluster_name"] == "another"
    assert api.put("/cluster-name", {"name": before}).status == 204


def test_connections_channels_and_consumers(api, connection, name):
    channel = connection.channel()
    channel.queue_declare(name, exclusive=True)
    channel.basic_qos(prefetch_count=5)
    channel.confirm_delivery()
    channel.basic_consume(name, lambda *_: None, consumer_tag="tag")
    (consumer,) = api.eventually(
        "/consumers", lambda all: any(c["queue"]["name"] == name for c in all) and all
    ) and [c for c in api.get("/consumers").json if c["queue"]["name"] == name]
    assert (consumer["consumer_tag"], consumer["ack_required"], consumer["prefetch_count"]) == ("tag", True, 5)
    details = consumer["channel_details"]
    own = q(details["connection_name"])
    found = api.eventually(f"/connections/{own}", lambda c: c.get("channels") == 1)
    assert (found["user"], found["vhost"], found["state"]) == ("guest", "/", "running")
    assert (found["protocol"], found["ssl"], found["peer_host"]) == ("AMQP 0-9-1", False, "127.0.0.1")
    assert found["client_properties"]["product"] == "Pika Python Client Library"
    assert found["client_properties"]["capabilities"]["consumer_cancel_notify"] is True
    assert (found["auth_mechanism"], found["recv_oct_details"]["rate"] >= 0) == ("PLAIN", True)
    for key in ("recv_oct", "recv_cnt", "send_oct", "send_cnt"):
        assert found[key] > 0, key
    assert found["name"] in [c["name"] for c in api.get("/connections").json]
    (of_connection,) = api.get(f"/connections/{own}/channels").json
    assert of_connection["name"] == details["name"]
    found = api.get(f"/channels/{q(details['name'])}").json
    assert (found["number"], found["confirm"], found["prefetch_count"]) == (channel.channel_number, True, 5)
    assert [c["consumer_tag"] for c in found["consumer_details"]] == ["tag"]
    queue = api.eventually(f"/queues/%2F/{name}", lambda queue: queue.get("consumers") == 1)
    assert queue["exclusive"] is True
    assert [c["consumer_tag"] for c in queue["consumer_details"]] == ["tag"]
    assert api.delete(f"/connections/{own}", **{"X-Reason": "because"}).status == 204
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="because"):
        while True:
            connection.process_data_events(0.1)
    assert api.get("/connections/none").status == 404
    assert api.get("/channels/none").status == 404


def test_depth_and_rates(api, connection, name):
    channel = connection.channel()
    channel.queue_declare(name)
    channel.confirm_delivery()
    for _ in range(5):
        channel.basic_publish("", name, b"12345")
    path = f"/queues/%2F/{name}"
    queue = api.eventually(path, lambda queue: queue.get("messages") == 5)
    assert (queue["messages_ready"], queue["messages_unacknowledged"], queue["message_bytes"]) == (5, 0, 25)
    assert api.eventually(path, lambda queue: queue.get("message_stats", {}).get("publish") == 5)
    deadline = time.monotonic() + DEADLINE_S
    rated = False
    while not rated and time.monotonic() < deadline:
        channel.basic_publish("", name, b"12345")
        queue = api.get(path + "?msg_rates_age=60&msg_rates_incr=5&lengths_age=60&lengths_incr=5").json
        details = queue["message_stats"]["publish_details"]
        rated = details["rate"] > 0 and len(details["samples"]) > 1
    assert rated, queue
    assert {"sample", "timestamp"} == details["samples"][0].keys()
    totals = api.get("/overview").json["queue_totals"]
    assert totals["messages"] >= 5
    assert api.get(path + "?msg_rates_age=10&msg_rates_incr=0").status == 400
    channel.queue_delete(name)


def test_health_checks(api, managed, vhost):
    ok = [
        "/aliveness-test/%2F",
        "/healthchecks/node",
        "/health/checks/alarms",
        "/health/checks/local-alarms",
        "/health/checks/virtual-hosts",
        "/health/checks/node-is-quorum-critical",
        "/health/checks/node-is-mirror-sync-critical",
        "/health/checks/certificate-expiration/1/weeks",
        f"/health/checks/port-listener/{managed.server.port}",
        "/health/checks/protocol-listener/amqp091",
    ]
    for path in ok:
        answer = api.get(path)
        assert (answer.status, answer.json["status"]) == (200, "ok"), path
    answer = api.get("/health/checks/port-listener/1")
    assert (answer.status, answer.json["reason"], answer.json["missing"]) == (503, "No active listener", 1)
    answer = api.get("/health/checks/protocol-listener/mqtt")
    assert (answer.status, answer.json["missing"]) == (503, "mqtt")
    assert api.get("/health/checks/port-listener/x").refusal == (400, "bad_request", "Invalid port")
    assert api.get("/health/checks/certificate-expiration/1/foo").status == 400
    assert api.get("/aliveness-test/no-such").status == 404


@pytest.mark.leveret_only
def test_health_checks_of_later_versions(api):
    for path in ("is-in-service", "ready-to-serve-clients", "reached-target-cluster-size"):
        assert api.get(f"/health/checks/{path}").json == {"status": "ok"}
    assert api.get("/health/checks/quorum-queues-without-elected-leaders/all-vhosts").status == 200


@pytest.mark.leveret_only
def test_it_describes_itself(api):
    description = api.user(None).get("/openapi.json").json
    assert description["openapi"] == "3.1.0"
    assert {"get", "put", "delete"} <= description["paths"]["/api/queues/{vhost}/{queue}"].keys()


@pytest.mark.leveret_only
def test_bounds(managed, api):
    assert api.put("/queues/%2F/q", b"x" * 20_000_001).refusal == (
        400,
        "bad_request",
        "Exceeded HTTP request body size limit",
    )
    # Half a request holds up nobody else, however many there are.
    slow = []
    for _ in range(50):
        sock = socket.create_connection(("127.0.0.1", managed.api.port))
        sock.sendall(b"GET /api/whoami HTTP/1.1\r\nHo")
        slow.append(sock)
    assert api.get("/whoami").status == 200
    for sock in slow:
        sock.close()
    with socket.create_connection(("127.0.0.1", managed.api.port)) as sock:
        sock.sendall(b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n")
        sock.settimeout(DEADLINE_S)
        try:
            assert sock.recv(12) in (b"HTTP/1.1 414", b"HTTP/1.1 431", b"HTTP/1.1 400", b"")
        except ConnectionResetError:
            pass
    assert api.get("/whoami").status == 200


def test_many_ask_at_once(api, vhost):
    statuses = []

    def ask(number):
        statuses.append(api.put(f"/queues/{vhost}/q{number % 5}").status)
        statuses.append(api.get(f"/queues/{vhost}").status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 40
    assert set(statuses) <= {200, 201, 204}
