"""Networks that are cut, in every shape, under load: nothing confirmed is lost, nothing is stuck after the heal."""

import itertools
import os
import random
import time

import pytest
from harness.bodies import encode
from harness.history import Message, Send
from harness.servers import serves
from network import between
from nodes import AMQP_PORT
from wire import Refused, Silence
from workload import CONNECTION_FORCED, DEADLINE_S, Patient

PAIRS = list(itertools.permutations(range(3), 2))


def test_a_minority_confirms_nothing_sends_its_clients_away_and_comes_back(trial, peer):
    if peer:
        pytest.skip("a promise of Leveret only")
    with trial() as run:
        alone = run.nodes.leader()
        wire = Patient.opened(run.brokers[alone])
        channel = wire.channel()
        channel.confirm()
        with run.fault(f"node {alone + 1}, the leader of most groups, is cut off", alone):
            run.nodes.network.isolate(alone)
            began = time.monotonic()
            for number, queue in enumerate(run.queues, 1):
                message = Message("minority", number)
                run.notes.add(Send(message, (queue,)))
                channel.publish("", queue, encode(message, 10), delivery_mode=2)
            with pytest.raises(Refused) as refused:
                while time.monotonic() < began + DEADLINE_S:
                    try:
                        event = channel.next(1.0)
                    except Silence:
                        continue
                    assert event.name != "basic.ack", f"confirmed by a minority: {event!r}"
            assert (refused.value.scope, refused.value.code) == ("connection", CONNECTION_FORCED)
            run.lines.append(f"its clients were sent away after {time.monotonic() - began:.2f} s")
            run.nodes.wait_refusing(alone)
            run.nodes.network.heal()
            address = run.nodes[alone].host
            run.until(lambda: serves(AMQP_PORT, host=address), f"node {alone + 1} does not come back by itself")
        run.accept()


def test_a_cut_in_one_direction(trial, rounds):
    """What one node sends to another is lost; the answers would come."""
    with trial() as run:
        for sender, to in random.sample(PAIRS, rounds):
            with run.fault(f"what node {sender + 1} sends to node {to + 1} is lost", sender, to):
                run.nodes.network.set({(sender, to)})
                run.load(5)
                run.nodes.network.heal()
            run.load(1)
        run.accept()


def test_flapping_cuts(trial, rounds):
    seed = int(os.environ.get("LEVERET_SEED", random.randrange(10**6)))
    print(f"LEVERET_SEED={seed}")
    chance = random.Random(seed)
    with trial() as run:
        for _ in range(rounds):
            with run.fault(f"flapping cuts, seed {seed}", 0, 1, 2):
                until = time.monotonic() + 8 * rounds
                while time.monotonic() < until:
                    run.nodes.network.set({pair for pair in PAIRS if chance.random() < 0.4})
                    run.load(chance.uniform(0.3, 2))
                run.nodes.network.heal()
            run.load(1)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_each_node_is_cut_off_in_turn(trial):
    with trial() as run:
        for alone in (0, 1, 2, run.nodes.leader()):
            with run.fault(f"node {alone + 1} is cut off", alone):
                run.nodes.network.isolate(alone)
                run.load(8)
                run.nodes.network.heal()
            run.load(2)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_short_cuts(trial):
    """Shorter and longer than it takes to notice, and than connections live."""
    with trial() as run:
        for seconds in (0.5, 1.0, 1.4, 1.6, 2.0, 2.5, 3.0, 3.5, 4.5):
            alone = random.randrange(3)
            with run.fault(f"node {alone + 1} is cut off for {seconds} s", alone):
                run.nodes.network.isolate(alone)
                run.load(seconds)
                run.nodes.network.heal()
            run.load(1)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_a_bridge(trial):
    """Two nodes do not reach each other, both reach the third."""
    with trial() as run:
        for a, b in ((0, 1), (0, 2), (1, 2)):
            with run.fault(f"nodes {a + 1} and {b + 1} do not reach each other", a, b):
                run.nodes.network.set({(a, b), (b, a)})
                run.load(10)
                run.nodes.network.heal()
            run.load(2)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_each_direction_is_cut_in_turn(trial):
    with trial() as run:
        for sender, to in PAIRS:
            with run.fault(f"what node {sender + 1} sends to node {to + 1} is lost", sender, to):
                run.nodes.network.set({(sender, to)})
                run.load(6)
                run.nodes.network.heal()
            run.load(1)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_five_nodes_are_split(trial):
    """Three and two; then a ring in which every node reaches two others."""
    with trial(count=5) as run:
        for _ in range(3):
            few = set(random.sample(range(5), 2))
            with run.fault(f"nodes {sorted(at + 1 for at in few)} are cut off", *few):
                run.nodes.network.split(few, set(range(5)) - few)
                run.load(8)
                run.nodes.network.heal()
            run.load(2)
        ring = {(a, b) for a, b in between(*({at} for at in range(5))) if (a - b) % 5 not in (1, 4)}
        with run.fault("a ring of majorities", *range(5)):
            run.nodes.network.set(ring)
            run.load(10)
            run.nodes.network.heal()
        run.load(1)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_slow_links(trial):
    """Late, uneven, and with losses; between the node and everybody, so that clients see it too."""
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("the kernel has no TAP devices, which the slow link is made of")
    with trial(slow=True) as run:
        for delay, jitter, loss in ((20, 20, 0.0), (5, 5, 0.02), (100, 50, 0.005)):
            with run.fault(f"links of {delay} to {delay + jitter} ms each way, {loss:.1%} lost", 0, 1, 2):
                for relay in run.nodes.network.relays:
                    relay.set(delay, jitter, loss)
                run.load(10)
                for relay in run.nodes.network.relays:
                    relay.set()
            run.load(1)
        run.accept()
