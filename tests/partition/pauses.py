"""How long publishers on surviving nodes pause when a node is lost: the distribution over many tries.

    python tests/partition/pauses.py --binary target/release/leveret --tries 50 --queues 10000 --fault kill

Three nodes in network namespaces (as root). Each try takes one node away (`kill`: kill -9, `stop`: SIGSTOP, `cut`: cut off from the others),
in turn, and brings it back. A publisher on each other node publishes to all queues in random order with confirms; its longest time
without a confirm from the fault on is the try's pause. All queues are mirrored, half of them durable.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "spec"), str(Path(__file__).parent)]

import network  # noqa: E402
from harness.servers import default_binary  # noqa: E402
from nodes import Nodes  # noqa: E402
from verdict import longest_pause  # noqa: E402
from wire import Broker, Wire  # noqa: E402
from workload import Notes, Publisher  # noqa: E402

SEEN_S = 6.0
DECLARES_AT_ONCE = 500
MIRRORED = {"x-ha-policy": "all"}
DEADLINE_S = 180


def declare(broker, queues):
    """Several declares under way at once; answers come in order."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    for at in range(0, len(queues), DECLARES_AT_ONCE):
        some = queues[at : at + DECLARES_AT_ONCE]
        for queue in some:
            durable = queue.startswith("durable")
            channel.send("queue.declare", queue=queue, durable=durable, arguments=MIRRORED)
        for _ in some:
            channel.expect("queue.declare-ok", timeout=DEADLINE_S)
    wire.close()


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited {DEADLINE_S} s in vain: {what}")
        time.sleep(0.02)


def publishing(publisher, count=50):
    """Waits until it has had so many confirms again."""
    confirms = publisher.notes.confirms[publisher.name]
    enough = len(confirms) + count
    until(lambda: len(confirms) >= enough, f"{publisher.name} has no confirms")


def one(nodes, queues, victim, fault, per_second):
    """One try; returns the longest pause of each publisher."""
    notes = Notes()
    shuffled = random.sample(queues, len(queues))
    publishers = []
    for at, node in enumerate(nodes):
        if at != victim:
            brokers = [Broker.parse(node.url())]
            name = f"publisher{at + 1}"
            publishers.append(Publisher(notes, brokers, 0, name, shuffled, None, per_second))
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publishing(publisher)
    began = time.monotonic()
    if fault == "kill":
        nodes.kill(victim)
    elif fault == "stop":
        nodes[victim].freeze()
    else:
        nodes.network.isolate(victim)
    time.sleep(SEEN_S)
    ended = time.monotonic()
    for publisher in publishers:
        publishing(publisher, 2)
        publisher.stopping.set()
    for publisher in publishers:
        publisher.join(DEADLINE_S)
    if fault == "kill":
        nodes.start()
    elif fault == "stop":
        nodes[victim].thaw()
    else:
        nodes.network.heal()
    nodes[victim].wait_serving(DEADLINE_S)
    moved = [publisher.name for publisher in publishers if publisher.incarnation != 1]
    if moved:
        print(f"{moved} lost connections to nodes without a fault")
    return [longest_pause(notes.confirms[publisher.name], began, ended) for publisher in publishers]


def share(sorted_pauses, part):
    """The pause that this part of the tries stays under (the highest of few)."""
    return sorted_pauses[min(len(sorted_pauses) - 1, int(len(sorted_pauses) * part))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(default_binary()))
    parser.add_argument("--fault", choices=("kill", "stop", "cut"), default="kill")
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--queues", type=int, default=32)
    parser.add_argument("--per-second", type=int, default=200, help="publishes of each publisher")
    parser.add_argument("--peer", choices=("leveret", "rabbitmq", "rabbitmq-quorum"), default="leveret")
    options = parser.parse_args()
    try:
        network.require()
    except network.Missing as reason:
        sys.exit(str(reason))
    queues = [f"{'durable' if at % 2 else 'transient'}-{at}" for at in range(options.queues)]
    if options.peer == "rabbitmq-quorum":
        MIRRORED["x-queue-type"] = "quorum"
        queues = [f"durable-{at}" for at in range(options.queues)]
    net = network.Network(3)
    pauses = []
    with tempfile.TemporaryDirectory() as folder:
        nodes = Nodes(net, Path(folder), options.binary, options.peer)
        try:
            nodes.start()
            began = time.monotonic()
            shares = [threading.Thread(target=declare, args=(Broker.parse(node.url()), queues[at::3])) for at, node in enumerate(nodes)]
            for thread in shares:
                thread.start()
            for thread in shares:
                thread.join()
            print(f"{len(queues)} queues declared in {time.monotonic() - began:.1f} s", flush=True)
            for attempt in range(options.tries):
                victim = attempt % 3
                found = one(nodes, queues, victim, options.fault, options.per_second)
                pauses.append(max(found))
                print(f"{attempt + 1}: node {victim + 1}, " + ", ".join(f"{pause:.3f} s" for pause in found), flush=True)
        finally:
            nodes.close()
            net.close()
    pauses.sort()
    said = ", ".join(f"p{part:g} {share(pauses, part / 100):.3f} s" for part in (50, 90, 99))
    print(f"{options.fault}, {len(queues)} queues, {len(pauses)} tries: {said}, longest {pauses[-1]:.3f} s")


if __name__ == "__main__":
    main()
