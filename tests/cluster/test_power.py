"""Machines that lose power: what was written and not synced is gone, and nobody counts on it.

A real power cut cannot be made here. A node is killed and started with another boot id (LEVERET_BOOT_ID), as after a start of its machine: it
must take it that its logs of groups that do not wait for the disk lost their end.
"""

import pytest
from harness.cluster import status
from test_nodes import MIRRORED, PERSISTENT, bodies, connect, until

QUEUES = 12


def cut_power(node, boot_id):
    node.kill()
    node.boot_id = boot_id


def members(node, kind="transient"):
    """Of each group of a kind: (generation, {node: (epoch, votes)}); None while somebody is there twice."""
    found = []
    for group in status(node)["groups"]:
        if group["kind"] == kind:
            there = {m["id"]: (m["epoch"], m["voter"]) for m in group["members"]}
            found.append((group["generation"], there if len(there) == len(group["members"]) else None))
    return found


def wait_for_members(node, generation, epochs):
    wanted = (generation, {at + 1: (epoch, True) for at, epoch in enumerate(epochs)})
    until(lambda: all(seen == wanted for seen in members(node)), f"not {wanted}", describe=lambda: members(node))


def declare(channel, name):
    """Queues over all groups, with one confirmed message each."""
    queues = [f"{name}-{at}" for at in range(QUEUES)]
    for queue in queues:
        channel.queue_declare(queue, durable=False, arguments=MIRRORED)
        channel.basic_publish("", queue, queue.encode(), mandatory=True)
    return queues


def opened(node):
    connection = connect(node)
    channel = connection.channel()
    channel.confirm_delivery()
    return connection, channel


def test_a_node_that_lost_its_log_learns_it_and_votes_again(cluster, name):
    connection, channel = opened(cluster.nodes[0])
    queues = declare(channel, name)
    cut_power(cluster.nodes[2], "another start")
    # Meanwhile the others go on.
    for queue in queues:
        channel.basic_publish("", queue, b"meanwhile", mandatory=True)
    cluster.nodes[2].start()
    wait_for_members(cluster.nodes[0], 0, (0, 0, 1))
    # What waits for the disk lost nothing.
    assert all(there == {at: (0, True) for at in (1, 2, 3)} for _, there in members(cluster.nodes[0], "durable"))
    assert cluster.nodes[2].log_path.read_text().count("the machine started again") == 1
    # Its votes count again: one more may go now, and nothing is lost.
    connection.close()
    cluster.nodes[0].kill()
    connection, channel = opened(cluster.nodes[2])
    for queue in queues:
        assert bodies(channel, queue, 2) == [queue.encode(), b"meanwhile"]
        channel.basic_publish("", queue, b"after", mandatory=True)
        assert bodies(channel, queue, 1) == [b"after"]
    connection.close()
    # A process that starts again on the same machine has lost nothing.
    cluster.nodes[2].kill()
    cluster.start()
    wait_for_members(cluster.nodes[1], 0, (0, 0, 1))


def test_after_a_power_cut_of_all_what_is_durable_is_back_and_the_rest_begins_anew(cluster, name):
    connection, channel = opened(cluster.nodes[0])
    queues = declare(channel, name)
    channel.queue_declare(name, durable=True, arguments=MIRRORED)
    sent = [b"%d" % n for n in range(100)]
    for body in sent:
        channel.basic_publish("", name, body, PERSISTENT, mandatory=True)
    for at, node in enumerate(cluster.nodes):
        cut_power(node, f"second start {at}")
    cluster.start()
    wait_for_members(cluster.nodes[1], 1, (1, 1, 1))
    connection, channel = opened(cluster.nodes[1])
    assert bodies(channel, name, len(sent)) == sent
    for queue in queues:
        assert channel.queue_declare(queue, passive=True).method.message_count == 0
        channel.basic_publish("", queue, b"again", mandatory=True)
        assert bodies(channel, queue, 1) == [b"again"]
    # Killed without a power cut, everything stays as it is.
    channel.basic_publish("", queues[0], b"kept", mandatory=True)
    cluster.kill()
    cluster.start()
    wait_for_members(cluster.nodes[0], 1, (1, 1, 1))
    connection, channel = opened(cluster.nodes[2])
    assert bodies(channel, queues[0], 1) == [b"kept"]
    connection.close()


@pytest.mark.parametrize("missing", (False, True), ids=("all back", "one stays away"))
def test_a_majority_lost_its_logs_and_the_others_go_on_with_it(cluster_of, name, missing):
    cluster = cluster_of({"cluster_partition_handling": "ignore"})
    stays, first, second = cluster.nodes
    connection, channel = opened(stays)
    queues = declare(channel, name)
    held = {}
    consumer = connection.channel()
    consumer.basic_qos(prefetch_count=1)
    for queue in queues:
        method, _, body = consumer.basic_get(queue)
        assert body == queue.encode()
        held[queue] = method.delivery_tag
    for node in (first, second):
        cut_power(node, "another start")
    if missing:
        # The only one that still has the logs: a majority is there without it, and need not wait for it.
        connection.close()
        stays.kill()
    for node in (first, second):
        node.start(wait=False)
    for node in (first, second):
        node.wait_serving()
    if missing:
        wait_for_members(first, 1, (0, 1, 1))
        other, publisher = opened(second)
        for queue in queues:
            publisher.basic_publish("", queue, b"new", mandatory=True)
        # It comes back with logs of the generation before, which are nobody's.
        stays.start()
        wait_for_members(stays, 1, (0, 1, 1))
        connection, channel = opened(stays)
    else:
        wait_for_members(stays, 1, (0, 1, 1))
        # The client on the node that stayed sees a pause.
        other, publisher = opened(second)
        for queue in queues:
            publisher.basic_publish("", queue, b"new", mandatory=True)
        for tag in held.values():
            # Of messages that are gone: not of those that came after them.
            consumer.basic_ack(tag)
    for queue in queues:
        channel.basic_publish("", queue, b"last", mandatory=True)
        assert bodies(channel, queue, 2) == [b"new", b"last"]
        assert channel.queue_declare(queue, passive=True).method.message_count == 0
    other.close()
    connection.close()


def test_a_machine_that_was_stopped_in_order_lost_nothing(cluster, name):
    connection, channel = opened(cluster.nodes[0])
    queues = declare(channel, name)
    connection.close()
    for node in cluster.nodes:
        node.stop()
        node.boot_id = "another start"
    cluster.start()
    wait_for_members(cluster.nodes[2], 0, (0, 0, 0))
    connection, channel = opened(cluster.nodes[2])
    for queue in queues:
        assert bodies(channel, queue, 1) == [queue.encode()]
    connection.close()
