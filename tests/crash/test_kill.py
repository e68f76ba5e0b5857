"""kill -9 under load, in a loop: nothing confirmed is lost, nothing acked for good comes back, order holds.

A kill shows what the process kept to itself. What the kernel had not written yet survives a kill: for that there
are the simulated disks of leveret-storage's own tests.
"""

import random
import time

import pytest
from harness.options import address, kind
from harness.history import End, check
from load import BACKLOG_MAX, Changer, Consumer, History, Publisher, Transactor
from wire import Wire

ROUNDS, ROUNDS_LONG = 20, 300
# The least a round must have confirmed before its kill: a kill of an idle broker tests nothing.
PROGRESS = 20

# The second rolls segments, checkpoints and reclaims many times in the few seconds between kills.
SETTINGS = {
    "default": {},
    "small": {
        "journal.segment_size_bytes": 1024 * 1024,
        "journal.checkpoint_interval_ms": 200,
        "journal.sync_interval_ms": 10,
    },
}

QUEUES = ("one", "left", "right", "tx", "tx-left", "tx-right", "markers")


def declare_all(broker):
    wire = Wire.opened(broker)
    channel = wire.channel()
    for queue in QUEUES:
        channel.declare(queue, durable=True)
    channel.exchange("both", "fanout", durable=True)
    channel.bind("left", "both")
    channel.bind("right", "both")
    wire.close()


def make_workers(broker, history):
    def busy():
        return history.owed - history.received > BACKLOG_MAX

    publishers = [
        Publisher(broker, history, "window-1", 1, "", "one", ("one",), busy),
        Publisher(broker, history, "window-100", 100, "", "one", ("one",), busy),
        Publisher(broker, history, "fanout-100", 100, "both", "", ("left", "right"), busy),
        Transactor(broker, history, "tx-1", ("tx",), busy),
        Transactor(broker, history, "tx-2", ("tx-left", "tx-right"), busy),
    ]
    consumed = ("one", *(queue for queue in QUEUES if queue != "markers"))
    consumers = [
        Consumer(broker, history, f"consumer-{at}", queue, "markers") for at, queue in enumerate(consumed)
    ]
    return publishers, consumers


def ready(broker):
    """Messages waiting in all queues but the markers'."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    counts = [channel.declare(queue, passive=True).message_count for queue in QUEUES[:-1]]
    wire.close()
    return sum(counts)


def wait(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)


def drain(broker, history):
    """Waits until every queue is empty and nothing arrives any more."""
    wait(lambda: ready(broker) == 0, "queues are not drained")
    before = -1
    while before != history.received:
        before = history.received
        time.sleep(0.5)


def alive(workers):
    for worker in workers:
        assert worker.failure is None, f"{worker.name}: {worker.failure!r}"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("settings", SETTINGS)
def test_kill_in_a_loop(launch, pytestconfig, settings):
    if SETTINGS[settings] and kind(pytestconfig) != "leveret":
        pytest.skip("settings of Leveret")
    rounds = ROUNDS_LONG if pytestconfig.getoption("--long") else ROUNDS
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed of the times of kills: {seed}")
    random_ = random.Random(seed)
    server = launch("kill", **SETTINGS[settings]).start()
    broker = address(server)
    declare_all(broker)
    history = History()
    publishers, consumers = make_workers(broker, history)
    changer = Changer(broker, history)
    workers = [*publishers, *consumers, changer]
    for worker in workers:
        worker.start()
    for _ in range(rounds):
        goal = history.confirmed + PROGRESS
        time.sleep(random_.uniform(0.05, 1.2))
        wait(lambda: history.confirmed >= goal, "no confirms")
        server.kill()
        history.add(End(killed=True))
        server.start()
        faults = changer.verify()
        assert not faults, faults[:10]
        alive(workers)
    for worker in [*publishers, changer]:
        worker.finish()
    drain(broker, history)
    for worker in consumers:
        worker.finish()
    report = check(history.events)
    print(report.text())
    assert not report.faults(), report.text()
    server.close()


def test_orderly_restarts_under_load(launch):
    """SIGTERM instead: the same rules, and a clean exit each time."""
    server = launch("term").start()
    broker = address(server)
    declare_all(broker)
    history = History()
    publishers, consumers = make_workers(broker, history)
    workers = [*publishers, *consumers]
    for worker in workers:
        worker.may_be_forced = True
        worker.start()
    for _ in range(4):
        goal = history.confirmed + 10 * PROGRESS
        wait(lambda: history.confirmed >= goal, "no confirms")
        assert server.stop() == 0
        history.add(End(killed=False))
        server.start()
        alive(workers)
    for worker in publishers:
        worker.finish()
    drain(broker, history)
    for worker in consumers:
        worker.finish()
    report = check(history.events)
    print(report.text())
    assert not report.faults(), report.text()
