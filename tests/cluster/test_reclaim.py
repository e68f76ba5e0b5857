"""Old messages do not keep the journal: what lives in segments that are mostly dead moves, on every mirror."""

import pika
import pytest
from harness.cluster import Cluster
from test_nodes import MIRRORED, PERSISTENT, bodies, connect, until

SETTINGS = {
    "journal.segment_size_bytes": 1024 * 1024,
    "journal.checkpoint_interval_ms": 200,
    "cluster.log_keep_bytes": 4 * 1024 * 1024,
}
# Of 256 KiB each of 4 KiB; one in so many stays.
ROUNDS, PER_ROUND, BODY = 24, 64, 4096
# What is kept as log, what lives, and what is being written: without relocation it is over 24.
SEGMENTS_MAX = 12


@pytest.fixture
def small(cluster_of):
    return cluster_of(SETTINGS)


def segments(node):
    return list((node.data_dir / "journal").glob("*.journal"))


@pytest.mark.parametrize("durable", (True, False), ids=("durable", "transient"))
def test_old_messages_move_out_of_old_segments(small, name, durable):
    connection = connect(small.nodes[0])
    channel = connection.channel()
    channel.confirm_delivery()
    for queue in (f"{name}-old", f"{name}-churn"):
        channel.queue_declare(queue, durable=durable, arguments=MIRRORED)
    old = []
    for n in range(ROUNDS):
        body = b"old %d " % n + b"." * BODY
        channel.basic_publish("", f"{name}-old", body, PERSISTENT, mandatory=True)
        old.append(body)
        for _ in range(PER_ROUND * 4):
            channel.basic_publish("", f"{name}-churn", b"x" * BODY, PERSISTENT)
        channel.queue_purge(f"{name}-churn")

    def reclaimed():
        # A little at a time, so that there is something to checkpoint.
        channel.basic_publish("", f"{name}-churn", b"tick", PERSISTENT)
        return all(len(segments(node)) <= SEGMENTS_MAX for node in small.nodes)

    until(reclaimed, "segments that only old messages keep", describe=lambda: [len(segments(n)) for n in small.nodes])
    # One after the other leads, and reads what it moved itself.
    for victim in range(3):
        small.nodes[victim].kill()
        other = connect(small.nodes[(victim + 1) % 3])
        channel = other.channel()
        held = []
        for method, _, body in channel.consume(f"{name}-old", inactivity_timeout=60):
            assert method is not None, f"{len(held)} of {len(old)} came"
            held.append(body)
            if len(held) == len(old):
                break
        assert held == old
        other.close()
        small.start()
    connection = connect(small.nodes[0])
    assert bodies(connection.channel(), f"{name}-old", len(old)) == old
    connection.close()
