"""Every behaviour is the same through any node, and outlives the leader that it hangs on."""

import json
import subprocess
import threading
import time

import pika
import pytest
from harness.cluster import Cluster
from harness.options import kind

DEADLINE_S = 60
MIRRORED = {"x-ha-policy": "all"}
PERSISTENT = pika.BasicProperties(delivery_mode=2)
REPLIES = "amq.rabbitmq.reply-to"
# Longer than a loaded machine takes from a declare to the consume behind it.
EXPIRES_MS = 5000


@pytest.fixture(scope="module")
def trio(pytestconfig, tmp_path_factory):
    """Three nodes that the tests of this file share; what a test has killed is started again after it."""
    if kind(pytestconfig) != "leveret" or pytestconfig.getoption("--broker"):
        pytest.skip("a cluster is made of the leveret binary")
    made = Cluster(pytestconfig.getoption("--binary"), tmp_path_factory.mktemp("semantics") / "cluster")
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def nodes(trio, request):
    yield trio.nodes
    print(trio.report(30))
    trio.start()


@pytest.fixture
def open_channel():
    """Channels on connections of their own, which end with the test."""
    connections = []

    def open_channel(node):
        parameters = pika.URLParameters(node.url())
        parameters.blocked_connection_timeout = DEADLINE_S
        connections.append(pika.BlockingConnection(parameters))
        return connections[-1].channel()

    yield open_channel
    for connection in connections:
        try:
            connection.close()
        except (pika.exceptions.AMQPError, OSError):
            # Its node was killed.
            pass


def until(condition, what, seconds=DEADLINE_S):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)
    return value


def ctl(node, *arguments):
    command = [node.binary, "ctl", "--data-dir", str(node.data_dir), "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def rows(node, verb, *columns):
    return json.loads(ctl(node, "--formatter", "json", verb, *columns))


def leaders(node, names):
    """The number of the node that leads each queue, by name."""
    by_name = {row["name"]: row["leader"] for row in rows(node, "list_queues", "name", "leader")}
    return {name: int(by_name[name][4]) - 1 for name in names if by_name.get(name)}


def declare(channel, names, **options):
    for name in names:
        channel.queue_declare(name, **{"durable": True, "arguments": MIRRORED, **options})


def count(channel, name):
    return channel.queue_declare(name, passive=True).method.message_count


def exists(node, name):
    return name in {row["name"] for row in rows(node, "list_queues", "name")}


def turn(channel, seconds=0.05):
    channel.connection.process_data_events(time_limit=seconds)


def led_elsewhere(nodes, names, at):
    """Kills the node that is none of `at`, once it leads some of the queues (leaders spread by and by); says which."""
    victim = next(node for node in range(3) if node not in at)

    def led():
        return [name for name, leader in leaders(nodes[at[0]], names).items() if leader == victim]

    moved = until(led, "the node leads nothing")
    nodes[victim].kill()
    return moved


class Collector:
    """Consumes on a channel; notes what comes, and holds it."""

    def __init__(self, channel, queues, arguments=None, auto_ack=False):
        self.channel, self.got, self.cancelled = channel, [], []
        channel.add_on_cancel_callback(lambda frame: self.cancelled.append(frame.method.consumer_tag))
        self.tags = []
        for queue in queues:
            self.add(queue, auto_ack, arguments)

    def add(self, queue, auto_ack=False, arguments=None):
        self.tags.append(self.channel.basic_consume(queue, self.note, auto_ack, arguments=arguments))

    def note(self, _, method, properties, body):
        self.got.append((method, properties, body))

    def wait(self, number, what):
        until(lambda: turn(self.channel) or len(self.got) >= number, f"{number} {what}, got {len(self.got)}")

    def bodies(self):
        return [body for _, _, body in self.got]


def test_a_transaction_over_many_groups(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(12)]
    channel, other = open_channel(nodes[0]), open_channel(nodes[1])
    declare(channel, names)
    channel.basic_publish("", names[0], b"held", PERSISTENT)
    got = until(lambda: channel.basic_get(names[0])[0], "a message")
    channel.tx_select()
    for at, queue in enumerate(names):
        channel.basic_publish("", queue, b"%d" % at, PERSISTENT)
    channel.basic_ack(got.delivery_tag)
    assert [count(other, queue) for queue in names] == [0] * 12
    channel.tx_commit()
    assert [count(other, queue) for queue in names] == [1] * 12
    channel.basic_publish("", names[1], b"forgotten", PERSISTENT)
    channel.tx_rollback()
    # A commit that comes while leaders change is answered, and done once.
    for queue in names:
        channel.basic_publish("", queue, b"second", PERSISTENT)
    nodes[2].kill()
    channel.tx_commit()
    assert [count(other, queue) for queue in names] == [2] * 12


def test_direct_replies_reach_a_client_of_another_node(nodes, open_channel, name):
    client, server, third = (open_channel(node) for node in nodes)
    declare(client, [name])
    replies = Collector(client, [REPLIES], auto_ack=True)
    client.basic_publish("", name, b"request", pika.BasicProperties(reply_to=REPLIES))
    _, properties, _ = until(lambda: (got := server.basic_get(name, True))[0] and got, "the request")
    for at, channel in enumerate((server, third, server)):
        channel.basic_publish("", properties.reply_to, b"%d" % at)
        replies.wait(at + 1, "replies")
    assert replies.bodies() == [b"0", b"1", b"2"]
    # A large one comes in several frames, and the broker has to ask the client's node first.
    server.confirm_delivery()
    large = b"x" * 500_000
    server.basic_publish("", properties.reply_to, large, mandatory=True)
    replies.wait(4, "replies")
    assert replies.bodies()[3] == large
    client.connection.close()
    for body in (b"late", large):
        with pytest.raises(pika.exceptions.UnroutableError):
            server.basic_publish("", properties.reply_to, body, mandatory=True)


def test_an_alarm_of_one_node_blocks_publishers_of_all(nodes, open_channel, name):
    channel = open_channel(nodes[1])
    declare(channel, [name])
    told = []
    channel.connection.add_on_connection_blocked_callback(lambda _, frame: told.append(frame.method.reason))
    channel.connection.add_on_connection_unblocked_callback(lambda *_: told.append(None))
    for end in ("lifted", "killed"):
        told.clear()
        ctl(nodes[0], "set_vm_memory_high_watermark", "absolute", "1")
        until(lambda: "Memory alarm on node node1@127.0.0.1" in ctl(nodes[2], "status"), "the alarm")

        def publish_until_blocked():
            channel.basic_publish("", name, b"x")
            turn(channel)
            return told

        until(publish_until_blocked, "connection.blocked")
        assert told == ["low on memory"]
        if end == "lifted":
            ctl(nodes[0], "set_vm_memory_high_watermark", "0.9")
        else:
            nodes[0].kill()
        until(lambda: turn(channel) or told[-1] is None, "connection.unblocked")
    channel.confirm_delivery()
    channel.basic_publish("", name, b"y", mandatory=True)


def test_a_channels_window_holds_over_queues_of_many_leaders(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(12)]
    publisher, channel = open_channel(nodes[0]), open_channel(nodes[1])
    declare(publisher, names)
    channel.basic_qos(prefetch_count=5, global_qos=True)
    consumer = Collector(channel, names)
    publisher.confirm_delivery()
    for number in range(4):
        for queue in names:
            publisher.basic_publish("", queue, b"%d" % number, PERSISTENT)
    consumer.wait(5, "deliveries")

    def held():
        turn(channel, 0.1)
        return len(consumer.got)

    assert held() == 5
    channel.basic_ack(consumer.got[0][0].delivery_tag)
    consumer.wait(6, "deliveries")
    assert held() == 6
    nodes[2].kill()
    for done in range(1, 48):
        consumer.wait(min(done + 5, 48), "deliveries")
        assert held() <= done + 5
        channel.basic_ack(consumer.got[done][0].delivery_tag)
    seen = [(method.routing_key, body) for method, _, body in consumer.got]
    assert len(set(seen)) == len(seen) == 48


@pytest.mark.parametrize("consumer_on", ("leader", "other"))
def test_an_auto_delete_queue_goes_with_the_node_of_its_last_consumer(nodes, open_channel, name, consumer_on):
    # So many that each node leads some, and does not lead some.
    names = [f"{name}-{at}" for at in range(24)]
    declare(open_channel(nodes[0]), names, auto_delete=True, durable=False)
    # Of these nobody ever was a consumer: they stay.
    idle = [f"{name}-idle-{at}" for at in range(3)]
    declare(open_channel(nodes[0]), idle, auto_delete=True, durable=False)
    led = leaders(nodes[0], names)
    victim = max(range(3), key=lambda node: (node > 0, list(led.values()).count(node)))
    mine = [queue for queue, leader in led.items() if (leader == victim) == (consumer_on == "leader")]
    assert mine
    Collector(open_channel(nodes[victim]), mine)
    until(lambda: consumers_of(nodes[0], mine) == [1] * len(mine), "consumers")
    nodes[victim].kill()
    until(lambda: not any(exists(nodes[0], queue) for queue in mine), "the queues are still there")
    assert all(exists(nodes[0], queue) for queue in idle)


def consumers_of(node, names):
    known = {row["name"]: row["consumers"] for row in rows(node, "list_queues", "name", "consumers")}
    return [known.get(queue) for queue in names]


def test_an_expiring_queue_stays_for_its_consumer_over_a_failover(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(8)]
    channel = open_channel(nodes[0])
    consumer = Collector(channel, [])
    for queue in names:
        declare(channel, [queue], arguments={**MIRRORED, "x-expires": EXPIRES_MS})
        consumer.add(queue, auto_ack=True)
    led_elsewhere(nodes, names, (0, 1))
    began = time.monotonic()
    until(lambda: turn(channel) or time.monotonic() - began > 1.3 * EXPIRES_MS / 1000, "time")
    other = open_channel(nodes[1])
    other.confirm_delivery()
    for queue in names:
        other.basic_publish("", queue, b"x", mandatory=True)
    consumer.wait(8, "deliveries")
    for tag in consumer.tags:
        channel.basic_cancel(tag)
    until(lambda: not any(exists(nodes[0], queue) for queue in names), "the queues are still there")


def test_the_single_active_consumer_stays_it_over_a_failover(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(8)]
    channels = [open_channel(nodes[0]), open_channel(nodes[1])]
    publisher = open_channel(nodes[1])
    publisher.confirm_delivery()
    declare(publisher, names, arguments={**MIRRORED, "x-single-active-consumer": True})
    # Half of the queues have their holder on each node.
    first = [Collector(channels[0], names[:4]), Collector(channels[1], names[4:])]
    second = [Collector(channels[1], names[:4]), Collector(channels[0], names[4:])]
    for queue in names:
        publisher.basic_publish("", queue, b"before", PERSISTENT)
    for collector in first:
        collector.wait(4, "first deliveries")
    nodes[2].kill()
    for queue in names:
        publisher.basic_publish("", queue, b"after", PERSISTENT)
    for collector in first:
        collector.wait(8, "deliveries after the failover")
        assert not any(method.redelivered for method, _, _ in collector.got)
    assert [collector.got for collector in second] == [[], []]
    # When they go, those that wait get what they held.
    for collector in first:
        for tag in collector.tags:
            collector.channel.basic_cancel(tag)
        for method, _, _ in collector.got:
            collector.channel.basic_nack(method.delivery_tag)
    for collector in second:
        collector.wait(8, "deliveries of the next")


def test_exclusive_queues_go_with_the_node_of_their_owner(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(4)]
    for queue in names:
        open_channel(nodes[2]).queue_declare(queue, exclusive=True)
    other = open_channel(nodes[0])
    other.basic_publish("", names[0], b"x")
    nodes[2].kill()
    until(lambda: not any(exists(nodes[0], queue) for queue in names), "the queues are still there")
    declare(other, names)


def test_consumers_are_told_that_another_node_deleted_their_queue(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(6)]
    channels = [open_channel(node) for node in nodes]
    declare(channels[0], names)
    collectors = [Collector(channel, names) for channel in channels]
    for queue in names:
        channels[0].queue_delete(queue)
    for collector in collectors:
        until(lambda: turn(collector.channel) or len(collector.cancelled) == 6, "basic.cancel")
        assert sorted(collector.cancelled) == sorted(collector.tags)


def test_a_consumer_that_asked_for_it_is_cancelled_by_a_failover(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(24)]
    asking, staying = open_channel(nodes[0]), open_channel(nodes[0])
    publisher = open_channel(nodes[1])
    publisher.confirm_delivery()
    declare(publisher, names)
    stays = Collector(staying, names)
    for queue in names:
        publisher.basic_publish("", queue, b"held", PERSISTENT)
    stays.wait(24, "deliveries")
    asks = Collector(asking, names, {"x-cancel-on-ha-failover": True})
    moved = led_elsewhere(nodes, names, (0, 1))
    tags = dict(zip(names, asks.tags, strict=True))
    wanted = {tags[queue] for queue in moved}
    until(lambda: turn(asking) or wanted <= set(asks.cancelled), "basic.cancel")
    # The others stay, and keep what they hold.
    for method, _, _ in list(stays.got):
        staying.basic_ack(method.delivery_tag)
    for _ in range(2):
        for queue in moved:
            publisher.basic_publish("", queue, b"next", PERSISTENT)
    stays.wait(24 + 2 * len(moved), "deliveries")
    assert not stays.cancelled and not any(method.redelivered for method, _, _ in stays.got)


def test_no_dead_letter_is_lost_when_leaders_die(nodes, open_channel, name):
    sources = [f"{name}-s{at}" for at in range(6)]
    targets = [f"{name}-t{at}" for at in range(6)]
    channel = open_channel(nodes[0])
    declare(channel, targets)
    for source, target in zip(sources, targets, strict=True):
        arguments = {**MIRRORED, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
        declare(channel, [source], arguments=arguments)
    channel.confirm_delivery()
    sent = [b"%d" % number for number in range(40)]
    for body in sent:
        for source in sources:
            channel.basic_publish("", source, body, PERSISTENT)
    rejecter = Collector(open_channel(nodes[1]), sources)
    rejected, killed = 0, False

    def reject():
        nonlocal rejected, killed
        turn(rejecter.channel)
        for method, _, _ in rejecter.got[rejected:]:
            rejecter.channel.basic_reject(method.delivery_tag, requeue=False)
            rejected += 1
            if rejected >= 60 and not killed:
                killed = True
                nodes[2].kill()
        return all(count(channel, target) >= len(sent) for target in targets)

    until(reject, "all dead letters")
    for target in targets:
        letters = {channel.basic_get(target, True)[2] for _ in range(count(channel, target))}
        assert letters == set(sent)


def test_a_fanout_to_many_queues_of_a_group_has_its_body_once_in_a_journal(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(40)]
    channel = open_channel(nodes[0])
    declare(channel, names)
    channel.exchange_declare(name, "fanout", durable=True)
    for queue in names:
        channel.queue_bind(queue, name)
    channel.confirm_delivery()
    mark = name.encode() + b"-the-body-of-the-fanout"
    channel.basic_publish(name, "", mark + b"." * 50_000, PERSISTENT)
    assert all(count(channel, queue) == 1 for queue in names)

    def copies(node):
        segments = [path for path in node.data_dir.rglob("*") if path.is_file()]
        return sum(path.read_bytes().count(mark) for path in segments)

    # Eight groups have durable queues. The confirm waits for two journals, the third has it a little later.
    for node in nodes:
        until(lambda node=node: copies(node) >= 2, "the message in the journal")
        assert copies(node) <= 8


def test_any_node_lists_what_all_have(nodes, open_channel, name):
    names = [f"{name}-{at}" for at in range(6)]
    channels = [open_channel(node) for node in nodes]
    declare(channels[0], names)
    channels[0].confirm_delivery()
    for at, queue in enumerate(names):
        for _ in range(at):
            channels[0].basic_publish("", queue, b"x", PERSISTENT)
    for at, channel in enumerate(channels):
        channel.basic_qos(prefetch_count=7)
        channel.basic_consume(names[0], lambda *_: None, consumer_tag=f"{name}-{at}")
    for node in nodes:
        queues = {row["name"]: row for row in rows(node, "list_queues", "name", "messages", "consumers", "leader")}
        assert [queues[queue]["messages"] for queue in names] == list(range(6))
        assert queues[names[0]]["consumers"] == 3
        assert {queues[queue]["leader"] for queue in names} <= {f"node{at}@127.0.0.1" for at in (1, 2, 3)}
        ports = {row["port"] for row in rows(node, "list_connections", "port")}
        assert ports >= {node.port for node in nodes}
        pids = [row["pid"] for row in rows(node, "list_channels", "pid")]
        assert {pid.partition("@")[0] for pid in pids} >= {"<node1", "<node2", "<node3"}
        consumers = {row["consumer_tag"]: row for row in rows(node, "list_consumers")}
        assert {consumers[f"{name}-{at}"]["prefetch_count"] for at in range(3)} == {7}
    ctl(nodes[0], "purge_queue", names[5])
    ctl(nodes[1], "delete_queue", names[4])
    assert count(channels[2], names[5]) == 0 and not exists(nodes[2], names[4])
    # A connection of another node is closed by its pid.
    [pid] = [row["pid"] for row in rows(nodes[0], "list_connections", "pid", "port") if row["port"] == nodes[2].port]
    ctl(nodes[0], "close_connection", pid, "enough")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        until(lambda: turn(channels[2]), "connection.close")
    assert closed.value.reply_code == 320


def test_a_window_that_shrinks_and_a_consumer_that_comes_later(nodes, open_channel, name):
    """What is on its way to a consumer when basic.qos is answered counts for the window."""
    channel, publisher = open_channel(nodes[0]), open_channel(nodes[1])
    declare(publisher, [name])
    publisher.confirm_delivery()
    consumer = Collector(channel, [name])
    for number in range(3):
        publisher.basic_publish("", name, b"%d" % number)
    consumer.wait(3, "deliveries")
    channel.basic_qos(prefetch_count=4, global_qos=True)
    # The next is seen by the leader after the window: it comes on the same way.
    channel.basic_publish("", name, b"3")
    consumer.wait(4, "deliveries")
    for number in range(4, 8):
        publisher.basic_publish("", name, b"%d" % number)
    turn(channel, 0.1)
    assert len(consumer.got) == 4
    channel.basic_ack(consumer.got[3][0].delivery_tag, multiple=True)
    consumer.wait(8, "deliveries")
    assert consumer.bodies() == [b"%d" % number for number in range(8)]


def test_a_publisher_sees_its_own_messages_at_once(nodes, open_channel, name):
    """A basic.get, a purge and a passive declare see what their channel has published before, confirmed or not."""
    names = [f"{name}-{at}" for at in range(6)]
    channel = open_channel(nodes[0])
    declare(channel, names)
    stop = threading.Event()

    def load():
        other = open_channel(nodes[1])
        while not stop.is_set():
            other.basic_publish("", names[0], b"load", PERSISTENT)
            turn(other, 0)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for queue in names[1:]:
            for number in range(10):
                channel.basic_publish("", queue, b"%d" % number, PERSISTENT)
                assert channel.basic_get(queue, True)[2] == b"%d" % number
            channel.basic_publish("", queue, b"x", PERSISTENT)
            assert count(channel, queue) == 1
            channel.basic_publish("", queue, b"y", PERSISTENT)
            assert channel.queue_purge(queue).method.message_count == 2
    finally:
        stop.set()
        thread.join()
