"""oslo.messaging: two services that call, cast, fan out and notify, in both directions, over restarts of the broker.

Each set of options is one that OpenStack deployments run; OSLO.md's table of what they declare on the wire is
checked by this only in so far as declaring it has to work, twice, before and after a restart.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

PEER = Path(__file__).with_name("oslo_peer.py")

# Quick reconnects: the defaults are meant for clusters, and wait a second and more at every step.
QUICK = {"kombu_reconnect_delay": 0.1, "rabbit_retry_interval": 1, "heartbeat_timeout_threshold": 10}
QUEUE_MANAGER = {"use_queue_manager": True, "hostname": "host"}
OPTIONS = {
    "default": {},
    "durable": {"amqp_durable_queues": True},
    "ha": {"rabbit_ha_queues": True},
    "durable-ha": {"amqp_durable_queues": True, "rabbit_ha_queues": True},
    "quorum": {"rabbit_quorum_queue": True, "rabbit_quorum_delivery_limit": 10},
    "transient-quorum": {
        "rabbit_quorum_queue": True,
        "rabbit_transient_quorum_queue": True,
        **QUEUE_MANAGER,
    },
    "prefetch-and-cancel": {"rabbit_qos_prefetch_count": 1, "enable_cancel_on_failover": True},
}
SURVIVES = ("durable", "durable-ha", "quorum", "transient-quorum")


class Service:
    """A peer process; `ask` sends a command and waits for its answer."""

    def __init__(self, server, name, options, log):
        options = {**QUICK, **options}
        if options.get("use_queue_manager"):
            options["processname"] = name
        self.log = open(log, "wb")
        self.process = subprocess.Popen(
            [sys.executable, str(PEER), server.url(scheme="rabbit"), name, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )
        self.name = name

    def ask(self, do, **arguments):
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended in {do}"
        answer = json.loads(line)
        assert "error" not in answer, f"{self.name}: {do}: {answer['error']}"
        return answer["value"]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


class Background(threading.Thread):
    """Runs one command while the test goes on; `result` waits and raises what it raised."""

    def __init__(self, service, do, **arguments):
        super().__init__(daemon=True)
        self.service, self.do, self.arguments = service, do, arguments
        self.value = self.error = None
        self.start()

    def run(self):
        try:
            self.value = self.service.ask(self.do, **self.arguments)
        except BaseException as error:
            self.error = error

    def result(self, seconds=90):
        self.join(seconds)
        assert not self.is_alive(), f"{self.service.name}: {self.do} hangs"
        if self.error:
            raise self.error
        return self.value


@pytest.fixture(params=OPTIONS, ids=list(OPTIONS))
def services(request, node, tmp_path):
    """Two services with one set of options, serving and listening."""
    made = [Service(node, name, OPTIONS[request.param], tmp_path / f"{name}.log") for name in ("nova", "neutron")]
    try:
        for service in made:
            service.ask("start_server")
            service.ask("start_listener")
        yield made
    finally:
        for service in made:
            service.close()


def wait_seen(service, kind, wanted, seconds=30):
    """Waits until the service has seen each number of `wanted`; more may come (at least once)."""
    deadline = time.monotonic() + seconds
    while not set(wanted) <= set(seen := service.ask("seen", kind=kind)):
        assert time.monotonic() < deadline, f"{service.name} saw {len(seen)} of {len(wanted)} of {kind}"
        time.sleep(0.05)
    return seen


def exchange_everything(first, second, start):
    """All patterns in both directions; `start` makes the numbers of one round different from another's."""
    for caller, callee in ((first, second), (second, first)):
        calls = caller.ask("call", to=callee.name, first=start, count=20)
        assert calls == [[callee.name, number] for number in range(start, start + 20)]
        assert caller.ask("call_failing", to=callee.name)[0] == "ValueError"
    numbers = range(start, start + 20)
    for caller, callee in ((first, second), (second, first)):
        repeated = caller.ask("cast", to=callee.name, first=start, count=20)
        seen = [number for number in wait_seen(callee, "cast", numbers) if number in numbers]
        # In order, and once; what the client sent again, at least once.
        assert (list(dict.fromkeys(seen)) if repeated else seen) == list(numbers)
    first.ask("fanout", first=start, count=20)
    for service in (first, second):
        wait_seen(service, "fanout", numbers)
    first.ask("notify", first=start, count=20)
    deadline = time.monotonic() + 30
    while not set(numbers) <= set(first.ask("seen", kind="notification") + second.ask("seen", kind="notification")):
        assert time.monotonic() < deadline, "notifications are missing"
        time.sleep(0.05)


def test_patterns_over_restarts(node, services):
    first, second = services
    exchange_everything(first, second, 0)
    # A restart while both have calls under way: each call is answered in the end, rightly.
    for round_, how in enumerate((node.stop, node.kill), 1):
        start = 1000 * round_
        calls = [
            Background(first, "call_patiently", to=second.name, first=start, count=200),
            Background(second, "call_patiently", to=first.name, first=start, count=200),
        ]
        how()
        node.start()
        for call, callee in zip(calls, (second, first)):
            assert call.result() == [[callee.name, number] for number in range(start, start + 200)]
        exchange_everything(first, second, start + 500)


@pytest.mark.parametrize("services", SURVIVES, ids=SURVIVES, indirect=True)
def test_casts_wait_for_their_server_over_a_restart(node, services):
    """Durable queues: what was cast to a stopped server is there when broker and server are back."""
    first, second = services
    second.ask("stop_server")
    first.ask("cast", to=second.name, first=0, count=100)
    node.kill()
    node.start()
    second.ask("start_server")
    wait_seen(second, "cast", range(100))
