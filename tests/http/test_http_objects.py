"""Queues, exchanges, bindings, messages, policies, parameters, definitions."""

import base64

import pytest
from harness.management import q

NOT_FOUND = (404, "Object Not Found", "Not Found")


def test_queues_come_and_go(api, vhost, name):
    path = f"/queues/{vhost}/{q('a/b ü#?%')}"
    assert api.get(path).refusal == NOT_FOUND
    assert api.put(path, {"durable": True, "arguments": {"x-max-length": 7}}).status == 201
    assert api.put(path, {"durable": "true", "arguments": {"x-max-length": 7}}).status == 204
    queue = api.get(path).json
    assert queue["name"] == "a/b ü#?%"
    assert (queue["vhost"], queue["durable"], queue["auto_delete"]) == (name, True, False)
    assert queue["arguments"] == {"x-max-length": 7}
    assert api.get(f"/queues/{vhost}").json[0]["name"] == "a/b ü#?%"
    assert api.delete(path).status == 204
    assert api.delete(path).refusal == NOT_FOUND


def test_what_queues_are_refused(api, vhost, name):
    path = f"/queues/{vhost}/it"
    assert api.put(path, {"durable": True}).status == 201
    inequivalent = (
        f"inequivalent arg 'durable' for queue 'it' in vhost '{name}': received 'false' but current is 'true'"
    )
    assert api.put(path, {"durable": False}).refusal == (400, "bad_request", inequivalent)
    bad = api.put(f"/queues/{vhost}/other", {"arguments": {"x-max-length": "a"}})
    assert (bad.status, bad.json["error"]) == (400, "bad_request")
    assert bad.json["reason"].startswith(f"invalid arg 'x-max-length' for queue 'other' in vhost '{name}'")
    for body in ("x", "[]", "1"):
        assert api.put(path, body).refusal == (400, "bad_request", "not_json")
    assert api.put(path, '"a"').status == 400
    assert api.put("/queues/no-such/it").refusal == (404, "not_found", "vhost_not_found")
    assert api.put(f"/queues/{vhost}/amq.mine").refusal == (401, "not_authorised", "Access refused.")
    assert api.post(f"/queues/{vhost}/it/contents").status == 405
    assert api.delete(f"/queues/{vhost}/none/contents").refusal == NOT_FOUND
    assert api.post(f"/queues/{vhost}/it/actions", {"action": "sync"}).status == 204
    assert api.post(f"/queues/{vhost}/it/actions", {"action": "bogus"}).refusal == (
        400,
        "bad_request",
        ["unknown", "bogus"],
    )


def test_verbs_that_are_not_allowed_are_told_which_are(api, vhost):
    answer = api.post("/overview")
    assert (answer.status, answer.headers["allow"]) == (405, "HEAD, GET, OPTIONS")
    answer = api.user(None).send("OPTIONS", f"/api/queues/{vhost}/it")
    assert (answer.status, answer.headers["allow"]) == (200, "HEAD, GET, PUT, DELETE, OPTIONS")
    head = api.send("HEAD", "/api/whoami")
    assert (head.status, head.body) == (200, b"")
    assert api.get("/no-such").refusal == NOT_FOUND


def test_exchanges_come_and_go(api, vhost, name):
    path = f"/exchanges/{vhost}/x"
    assert api.put(path, {"type": "topic", "durable": True}).status == 201
    assert api.put(path, {"type": "topic", "durable": True}).status == 204
    exchange = api.get(path).json
    assert (exchange["type"], exchange["durable"], exchange["internal"]) == ("topic", True, False)
    refusal = f"inequivalent arg 'type' for exchange 'x' in vhost '{name}': received 'direct' but current is 'topic'"
    assert api.put(path, {"type": "direct", "durable": True}).refusal == (400, "bad_request", refusal)
    assert api.put(f"/exchanges/{vhost}/y", {"type": "nope"}).refusal == (
        400,
        "bad_request",
        "unknown exchange type 'nope'",
    )
    names = [exchange["name"] for exchange in api.get(f"/exchanges/{vhost}").json]
    assert names == ["", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.rabbitmq.trace", "amq.topic", "x"]
    assert api.delete(f"/exchanges/{vhost}/amq.topic").refusal == (401, "not_authorised", "Access refused.")
    assert api.delete(path).status == 204
    assert api.delete(path).refusal == NOT_FOUND


def test_bindings_come_and_go(api, vhost, name):
    for queue in ("q", "other"):
        assert api.put(f"/queues/{vhost}/{queue}").status == 201
    assert api.put(f"/exchanges/{vhost}/x", {"type": "topic"}).status == 201
    pair = f"/bindings/{vhost}/e/x/q/q"
    assert api.post(pair, {"routing_key": "a.b"}).headers["location"] == "q/a.b"
    assert api.post(pair).headers["location"] == "q/~"
    odd = api.post(pair, {"routing_key": "a b/~c%"})
    assert (odd.status, odd.headers["location"]) == (201, "q/a%2Bb%252F%257Ec%2525")
    with_arguments = api.post(pair, {"routing_key": "a.b", "arguments": {"k": "v"}})
    assert with_arguments.headers["location"].startswith("q/a.b~")
    assert api.post(f"/bindings/{vhost}/e/x/e/amq.fanout", {"routing_key": "r"}).status == 201
    found = api.get(pair).json
    assert {(b["routing_key"], str(b["arguments"])) for b in found} == {
        ("", "{}"),
        ("a.b", "{}"),
        ("a b/~c%", "{}"),
        ("a.b", "{'k': 'v'}"),
    }
    for binding in found:
        one = f"{pair}/{q(binding['properties_key'])}"
        assert api.get(one).json == binding
    implicit = {"source": "", "destination": "q", "routing_key": "q"}
    of_queue = api.get(f"/queues/{vhost}/q/bindings").json
    assert len(of_queue) == 5
    assert any(implicit.items() <= binding.items() for binding in of_queue)
    assert len(api.get(f"/exchanges/{vhost}/x/bindings/source").json) == 5
    assert len(api.get(f"/exchanges/{vhost}/amq.fanout/bindings/destination").json) == 1
    assert len(api.get(f"/bindings/{vhost}").json) == 7
    for binding in found:
        assert api.delete(f"{pair}/{q(binding['properties_key'])}").status == 204
    assert api.get(pair).json == []
    assert api.get(f"{pair}/a.b").refusal == NOT_FOUND
    assert api.post(f"/bindings/{vhost}/e/x/q/none").refusal == (
        404,
        "not_found",
        f"no queue 'none' in vhost '{name}'",
    )


def message(key, payload="hi", encoding="string", **properties):
    return {"routing_key": key, "properties": properties, "payload": payload, "payload_encoding": encoding}


def fetch(mode, count=5, **more):
    return {"count": count, "ackmode": mode, "encoding": "auto", **more}


def test_messages_are_published_and_fetched(api, vhost):
    assert api.put(f"/queues/{vhost}/q").status == 201
    publish = f"/exchanges/{vhost}/amq.default/publish"
    assert api.post(publish, message("nobody")).json == {"routed": False}
    properties = {"delivery_mode": 2, "headers": {"a": 1, "b": {"c": [True, "x"]}}, "content_type": "t", "priority": 3}
    assert api.post(publish, message("q", "hi ü", **properties)).json == {"routed": True}
    binary = base64.b64encode(b"\xff\x00").decode()
    assert api.post(publish, message("q", binary, "base64")).json == {"routed": True}
    path = f"/queues/{vhost}/q/get"
    for mode, redelivered in (("ack_requeue_true", False), ("reject_requeue_true", True)):
        first, second = api.post(path, fetch(mode)).json
        assert (first["payload"], first["payload_encoding"], first["payload_bytes"]) == ("hi ü", "string", 5)
        assert first["properties"] == properties
        assert (first["exchange"], first["routing_key"], first["message_count"]) == ("", "q", 1)
        assert (second["payload"], second["payload_encoding"]) == (binary, "base64")
        assert second["properties"] == []
        assert first["redelivered"] is redelivered
    assert api.post(path, fetch("reject_requeue_false", 1)).json[0]["payload"] == "hi ü"
    left = api.post(path, fetch("ack_requeue_false", truncate=1)).json
    assert [(m["payload"], m["payload_bytes"]) for m in left] == [("/w==", 2)]
    assert api.post(path, fetch("ack_requeue_false")).json == []


def test_bodies_larger_than_frames(api, vhost):
    assert api.put(f"/queues/{vhost}/q").status == 201
    payload = "0123456789abcdef" * 40_000
    assert api.post(f"/exchanges/{vhost}/amq.default/publish", message("q", payload)).json == {"routed": True}
    (got,) = api.post(f"/queues/{vhost}/q/get", fetch("ack_requeue_false", 1)).json
    assert got["payload"] == payload


def test_what_messages_are_refused(api, vhost, name):
    assert api.put(f"/queues/{vhost}/q", {"arguments": {"x-max-length": 0, "x-overflow": "reject-publish"}}).status == 201
    publish = f"/exchanges/{vhost}/amq.default/publish"
    refused = api.post(publish, message("q"))
    assert (refused.status, refused.json["error"]) == (400, "bad_request")
    assert "Unable to publish message. Check queue limits." in refused.json["reason"]
    assert api.post(publish, message("q", 1)).refusal == (400, "bad_request", "payload_not_string")
    assert api.post(publish, message("q", "a", "nope")).refusal == (
        400,
        "bad_request",
        ["unsupported_encoding", "nope"],
    )
    missing = api.post(publish, {"routing_key": "q"})
    assert missing.status == 400
    for key in ("properties", "payload", "payload_encoding"):
        assert f"{{key_missing,{key}}}" in missing.json["reason"]
    none = api.post(f"/exchanges/{vhost}/none/publish", message("q"))
    assert none.refusal == (400, "bad_request", f"404 NOT_FOUND - no exchange 'none' in vhost '{name}'")
    get = f"/queues/{vhost}/q/get"
    assert api.post(get, {"count": 5}).refusal == (400, "bad_request", "[{key_missing,ackmode},{key_missing,encoding}]")
    assert api.post(get, fetch("ack_requeue_true", "x")).refusal == (400, "bad_request", ["not_integer", "x"])


@pytest.mark.leveret_only
def test_unknown_ways_to_acknowledge_are_refused(api, vhost):
    """RabbitMQ answers 500."""
    assert api.put(f"/queues/{vhost}/q").status == 201
    answer = api.post(f"/queues/{vhost}/q/get", fetch("bogus"))
    assert answer.refusal == (400, "bad_request", ["unknown_ackmode", "bogus"])


def test_purging(api, vhost):
    assert api.put(f"/queues/{vhost}/q").status == 201
    for _ in range(3):
        assert api.post(f"/exchanges/{vhost}/amq.default/publish", message("q")).json == {"routed": True}
    assert api.delete(f"/queues/{vhost}/q?if-empty=true").status == 400
    assert api.delete(f"/queues/{vhost}/q/contents").status == 204
    assert api.delete(f"/queues/{vhost}/q?if-empty=true").status == 204


def test_policies_come_and_go(api, vhost, name):
    path = f"/policies/{vhost}/p"
    policy = {"pattern": "^q", "definition": {"max-length": 3}, "priority": 2, "apply-to": "queues"}
    assert api.put(path, policy).status == 201
    assert api.put(path, policy).status == 204
    assert api.get(path).json == {"vhost": name, "name": "p", **policy}
    assert api.get(f"/policies/{vhost}").json == [{"vhost": name, "name": "p", **policy}]
    assert api.put(f"/queues/{vhost}/q").status == 201
    api.eventually(f"/queues/{vhost}/q", lambda queue: queue.get("policy") == "p")
    assert api.put(path, {"pattern": "^q"}).refusal == (400, "bad_request", "[{key_missing,definition}]")
    invalid = api.put(path, {"pattern": "(", "definition": {"max-length": 1}})
    assert (invalid.status, invalid.json["error"]) == (400, "bad_request")
    assert invalid.json["reason"].startswith("Validation failed\n\npattern should be regular expression but is invalid")
    unknown = api.put(path, {"pattern": "^q", "definition": {"bogus": 1}})
    assert "are not recognised policy settings" in unknown.json["reason"]
    assert api.put(path, {**policy, "apply-to": "x"}).status == 400
    assert api.put("/policies/no-such/p", policy).status in (401, 404)
    assert api.delete(path).status == 204
    assert api.delete(path).refusal == NOT_FOUND


def test_operator_policies(api, vhost, name):
    path = f"/operator-policies/{vhost}/p"
    policy = {"pattern": "^q", "definition": {"max-length": 3}, "priority": 0, "apply-to": "queues"}
    assert api.put(path, policy).status == 201
    assert api.get(path).json == {"vhost": name, "name": "p", **policy}
    assert len(api.get(f"/operator-policies/{vhost}").json) == 1
    (parameter,) = api.get(f"/parameters/operator_policy/{vhost}").json
    assert (parameter["component"], parameter["name"]) == ("operator_policy", "p")
    assert api.delete(path).status == 204


def test_parameters(api, vhost, name):
    refusal = (400, "bad_request", "Validation failed\n\ncomponent bogus not found\n")
    assert api.put(f"/parameters/bogus/{vhost}/a", {"value": {}}).refusal == refusal
    path = f"/global-parameters/{name}"
    assert api.put(path, {"value": {"a": [1]}}).status == 201
    assert api.put(path, {"value": {"a": [2]}}).status == 204
    assert api.get(path).json == {"name": name, "value": {"a": [2]}}
    assert api.delete(path).status == 204
    assert api.get(path).refusal == NOT_FOUND


def test_virtual_hosts_come_and_go(api, name):
    path = f"/vhosts/{q(name)}"
    assert api.get(path).refusal == NOT_FOUND
    assert api.put(path, {"description": "d", "tags": "a,b", "tracing": "true"}).status == 201
    found = api.get(path).json
    assert (found["name"], found["description"], found["tags"], found["tracing"]) == (name, "d", ["a", "b"], True)
    assert set(found["cluster_state"].values()) == {"running"}
    assert api.delete(path).status == 204
    assert api.delete(path).refusal == NOT_FOUND


def test_definitions_go_round(api, vhost, name):
    assert api.put(f"/queues/{vhost}/q", {"durable": True, "arguments": {"x-max-length": 5}}).status == 201
    assert api.put(f"/exchanges/{vhost}/x", {"type": "topic", "durable": True}).status == 201
    assert api.post(f"/bindings/{vhost}/e/x/q/q", {"routing_key": "a.#", "arguments": {"k": 1}}).status == 201
    assert api.put(f"/policies/{vhost}/p", {"pattern": "^q", "definition": {"max-length": 3}}).status == 201
    whole = api.get("/definitions").json
    assert "guest" in [user["name"] for user in whole["users"]]
    assert {"name": "q", "vhost": name, "durable": True}.items() <= whole["queues"][-1].items() or any(
        queue["name"] == "q" and queue["vhost"] == name for queue in whole["queues"]
    )
    own = api.get(f"/definitions/{vhost}").json
    assert [queue["name"] for queue in own["queues"]] == ["q"]
    assert api.delete(f"/vhosts/{vhost}").status == 204
    assert api.put(f"/vhosts/{vhost}").status == 201
    assert api.post(f"/definitions/{vhost}", own).status in (201, 204)
    again = api.get(f"/definitions/{vhost}").json
    for section in ("queues", "exchanges", "bindings", "policies"):
        assert again[section] == own[section], section
    assert api.delete(f"/vhosts/{vhost}").status == 204
    assert api.post("/definitions", whole).status in (201, 204)
    assert api.get(f"/definitions/{vhost}").json["queues"] == own["queues"]
    assert api.post("/definitions", "x").status == 400
    assert api.post("/definitions/no-such", {}).status == 404
    download = api.get("/definitions?download=d.json")
    assert download.headers["content-disposition"] == "attachment; filename=d.json"


@pytest.fixture
def many(api, vhost):
    for name in ("qb", "qa", "other", "Qc"):
        assert api.put(f"/queues/{vhost}/{name}").status == 201
    return f"/queues/{vhost}"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["Qc", "other", "qa", "qb"]),
        ("?sort=name&sort_reverse=true", ["qb", "qa", "other", "Qc"]),
        ("?page=1", ["Qc", "other", "qa", "qb"]),
        ("?page=2&page_size=3", ["qb"]),
        ("?page=1&name=Q", ["Qc", "qa", "qb"]),
        ("?page=1&name=%5Eq(?!a)&use_regex=true", ["Qc", "qb"]),
        ("?page=1&name=nothing", []),
    ],
)
def test_pages_of_queues(api, many, query, names):
    found = api.get(many + query).json
    items = found["items"] if isinstance(found, dict) else found
    assert [queue["name"] for queue in items] == names
    if "page" in query:
        assert (found["total_count"], found["item_count"]) == (4, len(names))


def test_columns(api, many):
    assert api.get(many + "?columns=name").json == [{"name": n} for n in ("Qc", "other", "qa", "qb")]
    (first,) = api.get(many + "?columns=name,durable&page=1&page_size=1").json["items"]
    assert first == {"name": "Qc", "durable": False}


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("page=0", "invalid_pagination_parameters"),
        ("page=1&page_size=501", "invalid_pagination_parameters"),
        ("page=x", "bad_request"),
        ("page=9&page_size=1", "page_out_of_range"),
        ("page=1&name=(&use_regex=true", "bad_request"),
    ],
)
def test_pages_that_make_no_sense(api, many, query, error):
    answer = api.get(f"{many}?{query}")
    assert (answer.status, answer.json["error"]) == (400, error)
