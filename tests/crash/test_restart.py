"""Users, permissions and policies outlive a kill, as queues and exchanges do (test_kill.py)."""

import json
import time

import pytest
from harness.options import address
from wire import Refused, Silence, Wire

pytestmark = pytest.mark.leveret_only

DEFINITIONS = {
    "users": [
        {
            "name": "worker",
            # "test12", salted, as RabbitMQ's rabbit_password_hashing_sha256 has it.
            "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        }
    ],
    "vhosts": [{"name": "/"}, {"name": "side"}],
    "permissions": [{"user": "worker", "vhost": "side", "configure": ".*", "write": ".*", "read": "^mine"}],
    "policies": [
        {
            "vhost": "side",
            "name": "short",
            "pattern": "^mine",
            "apply-to": "queues",
            "definition": {"max-length": 2},
            "priority": 1,
        }
    ],
    "queues": [{"name": "mine", "vhost": "side", "durable": True, "auto_delete": False, "arguments": {}}],
    "exchanges": [],
    "bindings": [],
}


def test_imported_definitions_outlive_a_kill(launch, tmp_path):
    """Loaded once from a file; after a kill a start without the file has all of it."""
    file = tmp_path / "definitions.json"
    file.write_text(json.dumps(DEFINITIONS))
    server = launch("definitions", load_definitions=file).start()
    worker = address(server)._replace(user="worker", password="test12", vhost="side")
    check(worker)
    server.kill()
    del server.settings["load_definitions"]
    file.unlink()
    server.start()
    check(worker)
    server.close()


def check(worker):
    wire = Wire.opened(worker)
    channel = wire.channel()
    channel.declare("mine", passive=True)
    channel.confirm()
    channel.put("mine", b"1", b"2", b"3")
    assert channel.bodies("mine") == [b"2", b"3"]
    channel.declare("other", durable=True)
    with pytest.raises(Refused) as caught:
        channel.get("other")
    assert caught.value.code == 403
    wire.close()


def test_transient_things_are_gone_after_a_kill(launch):
    """What was not promised does not come back: transient queues and exchanges, exclusive queues, transient messages."""
    server = launch("transient").start()
    wire = Wire.opened(address(server))
    channel = wire.channel()
    channel.confirm()
    channel.declare("durable", durable=True)
    channel.declare("transient")
    channel.declare("exclusive", durable=True, exclusive=True)
    channel.exchange("transient")
    channel.put("durable", b"transient", delivery_mode=1)
    channel.put("durable", b"persistent", delivery_mode=2)
    server.kill()
    server.start()
    wire = Wire.opened(address(server))
    assert wire.channel().bodies("durable") == [b"persistent"]
    for gone in ("transient", "exclusive"):
        with pytest.raises(Refused) as caught:
            wire.channel().declare(gone, passive=True)
        assert caught.value.code == 404
    with pytest.raises(Refused) as caught:
        wire.channel().exchange("transient", passive=True)
    assert caught.value.code == 404
    wire.close()
    server.close()


def test_acks_before_an_orderly_stop_are_kept(launch):
    server = launch("acks").start()
    wire = Wire.opened(address(server))
    channel = wire.channel()
    channel.confirm()
    channel.declare("q", durable=True)
    channel.put("q", *(b"%d" % number for number in range(100)), delivery_mode=2)
    channel.qos(100)
    channel.consume("q")
    for delivery in channel.deliveries(100)[:50]:
        channel.ack(delivery.delivery_tag)
    channel.call("basic.qos", prefetch_count=100)
    server.stop()
    server.start()
    wire = Wire.opened(address(server))
    channel = wire.channel()
    assert channel.bodies("q") == [b"%d" % number for number in range(50, 100)]
    wire.close()
    server.close()


def test_orderly_restart_warns_of_nothing(launch):
    """Also where the journal ends in a recycled segment, whose past lies behind the end."""
    settings = {"journal.segment_size_bytes": 1024 * 1024, "journal.checkpoint_interval_ms": 100}
    server = launch("orderly", **settings).start()
    wire = Wire.opened(address(server))
    channel = wire.channel()
    channel.declare("q", durable=True)
    channel.confirm()
    channel.consume("q", no_ack=True)
    deadline = time.monotonic() + 30

    def numbers():
        return [int(name.stem) for name in (server.data_dir / "journal").glob("*.journal")]

    newest = None
    while newest is None or max(numbers()) < newest + 3:
        assert time.monotonic() < deadline, "the journal does not go on"
        if newest is None and min(numbers()) > 10:
            newest = max(numbers())
        for _ in range(10):
            channel.publish("", "q", b"x" * 20000, delivery_mode=2)
        done = {"basic.deliver": 0, "basic.ack": 0}
        while done["basic.deliver"] < 10 or not done["basic.ack"]:
            done[channel.next().name] += 1
    wire.close()
    server.stop()
    server.start()
    assert "WARN" not in server.log(), server.log()
    server.close()


def test_stop_with_open_connections_is_quick_and_says_320(launch):
    """50 connections, half of them with unacknowledged messages, are closed with 320 and the process exits with 0."""
    server = launch("stop").start()
    wires = []
    for number in range(50):
        wire = Wire.opened(address(server))
        channel = wire.channel()
        channel.declare(f"q{number}", durable=True)
        if number % 2:
            channel.publish("", f"q{number}", b"x", delivery_mode=2)
            channel.consume(f"q{number}")
            channel.deliveries(1)
        wires.append(wire)
    started = time.monotonic()
    server.terminate()
    for wire in wires:
        with pytest.raises(Refused) as caught:
            while True:
                try:
                    wire.next(0, 20)
                except Silence:
                    pytest.fail("no connection.close")
        assert (caught.value.scope, caught.value.code) == ("connection", 320)
        assert caught.value.text.startswith("CONNECTION_FORCED")
    assert server.wait() == 0
    assert time.monotonic() - started < 15
    server.close()
