"""Nodes that join, leave, lose their disk and are replaced, while queues work."""

import re
import threading
import time

import pika
import pytest
from harness.cluster import Cluster, ctl, name_of, status, wait_for_voters, wipe
from harness.options import kind
from test_nodes import DEADLINE_S, MIRRORED, PERSISTENT, bodies, connect, until

# Colours of the log.
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Load(threading.Thread):
    """Publishes to queues through one node and takes half of what it publishes, until it is stopped."""

    def __init__(self, node, queues):
        super().__init__(daemon=True)
        self.node, self.queues = node, queues
        self.confirmed, self.taken = {queue: [] for queue in queues}, {queue: [] for queue in queues}
        self.stopping, self.failure, self.rounds = threading.Event(), None, 0

    def run(self):
        try:
            connection = connect(self.node)
            channel = connection.channel()
            channel.confirm_delivery()
            for at, queue in enumerate(self.queues):
                channel.queue_declare(queue, durable=at % 2 == 0, arguments=MIRRORED)
            number = 0
            while not self.stopping.is_set():
                for queue in self.queues:
                    body = b"%d " % number + b"x" * 200
                    channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)
                    self.confirmed[queue].append(body)
                    number += 1
                    if number % 2 == 0:
                        method, _, body = channel.basic_get(queue)
                        if method:
                            channel.basic_ack(method.delivery_tag)
                            self.taken[queue].append(body)
                self.rounds += 1
            connection.close()
        except BaseException as error:
            self.failure = error

    def at_work(self, rounds=5):
        """Waits until it has done some more."""
        wanted = self.rounds + rounds
        until(lambda: self.rounds >= wanted or self.failure, "the load stands still")
        assert self.failure is None, self.failure

    def stop(self):
        self.stopping.set()
        self.join(DEADLINE_S)
        assert self.failure is None and not self.is_alive(), self.failure

    def check(self, node):
        """Everything that was confirmed and not taken is there, once and in order."""
        connection = connect(node)
        channel = connection.channel()
        for queue in self.queues:
            taken = self.taken[queue]
            left = self.confirmed[queue][len(taken) :]
            assert taken == self.confirmed[queue][: len(taken)]
            assert list(self.rest(channel, queue, len(left))) == left
        connection.close()

    def rest(self, channel, queue, count):
        """Takes what waits: `count` messages, and whatever is behind them. An acknowledgement has no answer, so the last one may have gone
        with the node that it was said to, and its message comes again, marked; those before it were followed by confirms."""
        last = self.taken[queue][-1:]
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            method, _, body = channel.basic_get(queue)
            if method is None:
                if count <= 0:
                    return
                time.sleep(0.02)
                continue
            channel.basic_ack(method.delivery_tag)
            if method.redelivered and body in last:
                last = []
                continue
            count -= 1
            yield body


@pytest.fixture
def load(cluster, name):
    made = Load(cluster.nodes[0], [f"{name}-{at}" for at in range(16)])
    made.start()
    made.at_work()
    yield made
    made.stopping.set()
    made.join(DEADLINE_S)


def test_a_fourth_and_a_fifth_node_join_under_load(cluster, load):
    for count in (4, 5):
        cluster.add()
        cluster.start()
        ctl(cluster.nodes[0], "await_online_nodes", str(count), "--timeout", "60")
        seen = wait_for_voters(cluster.nodes[-1], count)
        assert sorted(seen["running_nodes"]) == sorted(map(name_of, cluster.nodes))
        # The metadata say so once all groups have it.
        members = {name_of(node): "member" for node in cluster.nodes}
        until(lambda members=members: status(cluster.nodes[-1])["membership"] == members, "a node still joins")
        load.at_work()
    load.stop()
    # The two that joined and one more are the majority now, and have everything.
    for node in cluster.nodes[:2]:
        node.kill()
    load.check(cluster.nodes[4])
    # Whoever joined finds the others again after a full stop.
    cluster.kill()
    cluster.start()
    wait_for_voters(cluster.nodes[3], 5)


def test_a_node_that_was_forgotten_is_told_and_its_disk_never_comes_back(cluster, load):
    one, _, three = cluster.nodes
    text = ctl(one, "forget_cluster_node", name_of(one), code=69)
    assert "cannot remove itself" in text
    assert "no member" in ctl(one, "forget_cluster_node", "rabbit@nowhere", code=69)
    assert "majority" in ctl(one, "forget_cluster_node", name_of(three), "--offline", code=69)
    # While it runs: it stops by itself, and says why.
    ctl(one, "forget_cluster_node", name_of(three))
    assert name_of(three) not in status(one)["disk_nodes"]
    until(lambda: three.look() is not None, "the node that was removed runs on")
    assert "was removed from the cluster" in three.log()
    assert three.wait() != 0
    wait_for_voters(one, 2)
    load.at_work()
    # With the same data it is told again; with none it is a new node of the old name.
    three.start(wait=False)
    until(lambda: three.look() is not None, "the node that was removed runs again")
    assert "was removed from the cluster" in three.log()
    three.wait()
    wipe(three)
    three.start()
    seen = wait_for_voters(one, 3)
    ids = {member["node"]: member["id"] for member in seen["groups"][0]["members"]}
    assert ids[name_of(three)] == 4
    load.at_work()
    load.stop()
    load.check(three)


def test_nothing_is_removed_without_a_majority(cluster):
    one, two, three = cluster.nodes
    two.kill()
    three.kill()

    def refusal():
        return ctl(one, "forget_cluster_node", name_of(three), code=None)

    until(lambda: "hears no majority" in refusal(), "the minority removes a node, or does not say why not")
    text = refusal()
    assert "1 of 3 nodes" in text and name_of(two) in text and name_of(three) in text
    assert "hears no majority" in ctl(one, "cluster_status")
    two.start(wait=False)
    two.wait_serving()
    # Two of three: the third may go. Then the second may not: nobody would be left but the first.
    ctl(one, "forget_cluster_node", name_of(three))
    wait_for_voters(one, 2)
    two.kill()
    time_limit = time.monotonic() + DEADLINE_S
    while "hears no majority" not in ctl(one, "forget_cluster_node", name_of(two), code=69):
        assert time.monotonic() < time_limit


def test_a_wiped_disk_is_refused_until_the_node_is_forgotten(cluster, load):
    one, two, three = cluster.nodes
    three.kill()
    wipe(three)
    three.start(wait=False)
    until(lambda: "forget_cluster_node" in three.log(), "the wiped node does not say what to do")
    assert f"{name_of(three)} is a member already, with another disk" in three.log()
    assert name_of(three) not in status(one)["running_nodes"]
    assert "does not serve yet" in ctl(three, "ping", code=69)
    assert f"forget_cluster_node {name_of(three)}" in ctl(three, "cluster_status", code=69)
    ctl(two, "forget_cluster_node", name_of(three))
    three.wait_serving()
    wait_for_voters(one, 3)
    load.at_work()
    load.stop()
    load.check(three)


def test_all_nodes_are_replaced_one_after_another_and_have_everything(cluster, load):
    for at, node in enumerate(cluster.nodes):
        if at == 0:
            # The load's own node: it goes on through another one.
            load.stop()
        helper = cluster.nodes[(at + 1) % 3]
        node.kill()
        wipe(node)
        ctl(helper, "forget_cluster_node", name_of(node))
        node.start()
        wait_for_voters(helper, 3)
    # Nothing of what was written first is on any of these disks but by what the groups sent each other.
    cluster.kill()
    cluster.start()
    load.check(cluster.nodes[0])


@pytest.fixture
def small_logs(pytestconfig, tmp_path):
    """Three nodes that keep no log behind a checkpoint, and send snapshots slowly."""
    if kind(pytestconfig) != "leveret" or pytestconfig.getoption("--broker"):
        pytest.skip("a cluster is made of the leveret binary")
    made = Cluster(
        pytestconfig.getoption("--binary"),
        tmp_path / "cluster",
        **{
            "cluster.log_keep_bytes": "0",
            "journal.checkpoint_interval_ms": "300",
            "cluster.catch_up_bytes_per_second": "1MiB",
        },
    )
    try:
        yield made.start()
    finally:
        for at, node in enumerate(made.nodes):
            print(f"--- node {at + 1}")
            print(node.log_path.read_text(errors="replace")[-3000:])
        made.close()


def fill(node, queue, numbers):
    """Publishes 4 KiB messages, confirmed."""
    connection = connect(node)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(queue, durable=True, arguments=MIRRORED)
    made = [b"%d " % number + b"x" * 4096 for number in numbers]
    for body in made:
        channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)
    connection.close()
    return made


def received(node):
    """Snapshots with messages that a node received, in order: (messages in it, messages that came)."""
    log = ANSI.sub("", node.log_path.read_text(errors="replace"))
    found = re.findall(r"snapshot received group=(?:\d+) messages=(\d+) came=(\d+)", log)
    return [(int(messages), int(came)) for messages, came in found if messages != "0"]


def begun(node):
    """Transfers of messages to a node of which something came."""
    return node.log_path.read_text(errors="replace").count("messages of a snapshot come")


def group_with(node, entries):
    """The group of durable queues with the most entries, at least so many."""
    found = max((g for g in status(node)["groups"] if g["kind"] == "durable"), key=lambda g: g["log_next"])
    assert found["log_next"] > entries
    return found


def check_alone(cluster, node, queue, wanted):
    """All others are drained, so this node leads, and what it serves is from its own disk."""
    for other in cluster.nodes:
        if other is not node:
            ctl(other, "drain")
    until(lambda: {group["leader"] for group in status(node)["groups"]} == {name_of(node)}, "others lead, or nobody")
    connection = connect(node)
    assert bodies(connection.channel(), queue, len(wanted)) == wanted
    connection.close()


def test_a_transfer_goes_on_after_its_receiver_and_its_sender_were_killed(small_logs, name):
    cluster = small_logs
    sent = fill(cluster.nodes[0], name, range(1200))
    four = cluster.add()
    four.start(wait=False)
    until(lambda: begun(four) == 1, "no transfer begins")
    assert not received(four), "the transfer is over before it can be broken off"
    four.kill()
    four.start(wait=False)
    until(lambda: begun(four) == 2, "no transfer begins again")
    assert not received(four), "the transfer is over before it can be broken off"
    sender = next(node for node in cluster.nodes if name_of(node) == group_with(cluster.nodes[0], 0)["leader"])
    sender.kill()
    sender.start()
    four.wait_serving()
    wait_for_voters(four, 4)
    check_alone(cluster, four, name, sent)
    # What had come before the sender died did not come again.
    (messages, came) = received(four)[-1]
    assert messages == len(sent) and came < messages, received(four)


def test_a_mirror_that_was_away_for_long_keeps_what_it_has(small_logs, name):
    cluster = small_logs
    three = cluster.nodes[2]
    sent = fill(cluster.nodes[0], name, range(300))

    def has_all():
        # No log is kept behind a checkpoint: one that is empty is in it, and outlives a kill.
        here = group_with(three, 0)
        return here["log_first"] == here["log_next"] == group_with(cluster.nodes[0], 0)["log_next"]

    until(has_all, "a node stays behind")
    three.kill()
    missed = group_with(cluster.nodes[0], 0)
    sent += fill(cluster.nodes[1], name, range(300, 600))

    def purged(node):
        groups = {group["group"]: group for group in status(node)["groups"]}
        return groups[missed["group"]]["log_first"] > missed["log_next"]

    until(lambda: purged(cluster.nodes[0]) and purged(cluster.nodes[1]), "what was missed stays in the logs")
    three.start()
    until(lambda: received(three), "no snapshot comes")
    assert received(three)[-1] == (600, 300)
    check_alone(cluster, three, name, sent)


def test_a_drained_node_leads_nothing_and_is_safe_to_stop(cluster, load):
    one, two, three = cluster.nodes
    client = connect(three)
    assert "safe to stop" in ctl(three, "drain")
    seen = status(one)
    assert seen["maintenance_status"][name_of(three)] == "under maintenance"
    assert name_of(three) not in {group["leader"] for group in seen["groups"]}
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        client.process_data_events(time_limit=DEADLINE_S)
    assert closed.value.reply_code == 320
    with pytest.raises(pika.exceptions.AMQPError):
        connect(three)
    load.at_work()
    ctl(three, "revive")
    three.wait_serving()
    ctl(three, "drain")
    assert three.stop() == 0
    load.at_work()
    # One of two that are left is needed for a majority.
    until(lambda: name_of(three) not in status(one)["running_nodes"], "the stopped node counts as running")
    assert name_of(three) in ctl(two, "drain", code=69)
    three.start()
    assert status(one)["maintenance_status"][name_of(three)] == "not under maintenance"

    def spread():
        leaders = [group["leader"] for group in status(one)["groups"] if group["kind"] != "metadata"]
        counts = [leaders.count(name_of(node)) for node in cluster.nodes]
        return max(counts) - min(counts) < 2

    until(spread, "leaderships do not spread over a node that came back")
    load.stop()
    load.check(three)


def test_a_node_alone_joins_when_it_is_told_to(cluster, load):
    one = cluster.nodes[0]
    member = f"{name_of(one)}:{cluster.ports[0]}"
    four = cluster.add(alone=True)
    four.start()
    connection = connect(four)
    connection.channel().queue_declare("own")
    assert "queues" in ctl(four, "join_cluster", member, code=69)
    connection.channel().queue_delete("own")
    connection.close()
    assert ctl(four, "join_cluster", "node9@127.0.0.1:1", code=69)
    ctl(four, "join_cluster", member)
    until(lambda: name_of(four) in status(one)["running_nodes"], "the node does not join")
    four.wait_serving()
    wait_for_voters(one, 4)
    assert "already a member" in ctl(four, "join_cluster", name_of(one))
    load.at_work()
    load.stop()
    load.check(four)
    # It is one of the cluster from now on, without a word in its configuration.
    four.kill()
    four.start()
    assert name_of(four) in status(one)["running_nodes"]


def test_a_node_alone_has_the_same_verbs(launch):
    node = launch("alone").start()
    seen = status(node)
    assert seen["disk_nodes"] == seen["running_nodes"] and len(seen["disk_nodes"]) == 1
    assert seen["groups"] == []
    ctl(node, "await_online_nodes", "1")
    assert "is alone" in ctl(node, "forget_cluster_node", "rabbit@other", code=69)
    assert "1 of 2 nodes" in ctl(node, "await_online_nodes", "2", "--timeout", "1", code=70)
    with pytest.raises(pika.exceptions.AMQPError):
        pika.BlockingConnection(pika.URLParameters(node.url(user="nobody:nothing")))
    node.close()
