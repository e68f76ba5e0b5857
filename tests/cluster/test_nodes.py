"""Any node serves any queue; what was confirmed survives nodes, and the whole cluster."""

import threading
import time

import pika
import pytest

DEADLINE_S = 60
# Longer than any pause that is allowed, shorter than a client's patience.
PAUSE_S = 10
MIRRORED = {"x-ha-policy": "all"}
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def connect(node):
    parameters = pika.URLParameters(node.url())
    parameters.blocked_connection_timeout = DEADLINE_S
    return pika.BlockingConnection(parameters)


def until(condition, what, seconds=DEADLINE_S, describe=lambda: ""):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what} {describe()}"
        time.sleep(0.02)


def bodies(channel, queue, count):
    """Takes `count` messages by basic.get, acknowledged; fewer if there are no more for a while."""
    taken = []
    deadline = time.monotonic() + DEADLINE_S
    while len(taken) < count and time.monotonic() < deadline:
        method, _, body = channel.basic_get(queue)
        if method is None:
            time.sleep(0.02)
            continue
        channel.basic_ack(method.delivery_tag)
        taken.append(body)
    return taken


@pytest.mark.parametrize("durable", (True, False), ids=("durable", "transient"))
def test_every_node_serves_every_queue(cluster, name, durable):
    connections = [connect(node) for node in cluster.nodes]
    channels = [connection.channel() for connection in connections]
    for at, channel in enumerate(channels):
        queue = f"{name}-{at}"
        channel.queue_declare(queue, durable=durable, arguments=MIRRORED)
        publisher = channels[(at + 1) % 3]
        publisher.exchange_declare(f"{name}-x", "topic", durable=True)
        publisher.queue_bind(queue, f"{name}-x", f"key.{at}.#")
        publisher.confirm_delivery()
        sent = [b"%d" % n for n in range(50)]
        for body in sent:
            publisher.basic_publish(f"{name}-x", f"key.{at}.a", body, PERSISTENT, mandatory=True)
        taker = channels[(at + 2) % 3]
        assert taker.queue_declare(queue, passive=True).method.message_count == 50
        assert bodies(taker, queue, 50) == sent
    channels[0].queue_delete(f"{name}-0")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
        channels[1].queue_declare(f"{name}-0", passive=True)
    assert refused.value.reply_code == 404
    for connection in connections:
        connection.close()


def test_a_queue_that_one_node_declares_exclusive_is_locked_for_the_others_and_goes_with_it(cluster, name):
    owner, other = connect(cluster.nodes[0]), connect(cluster.nodes[1])
    owner.channel().queue_declare(name, exclusive=True)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
        other.channel().queue_declare(name, passive=True)
    assert refused.value.reply_code == 405
    owner.close()

    def gone():
        try:
            other.channel().queue_declare(name, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            return error.reply_code == 404
        return False

    until(gone, "the exclusive queue is still there")
    other.close()


class Consumer(threading.Thread):
    """Consumes queues through one node; notes (body, redelivered) before it acknowledges."""

    def __init__(self, node, queues):
        super().__init__(daemon=True)
        self.node, self.queues = node, queues
        self.seen, self.failure = [], None
        self.stopping = threading.Event()

    def run(self):
        try:
            connection = connect(self.node)
            channel = connection.channel()
            channel.basic_qos(prefetch_count=20)
            for queue in self.queues:
                channel.basic_consume(queue, self.take)
            while not self.stopping.is_set():
                connection.process_data_events(time_limit=0.05)
            connection.close()
        except BaseException as error:
            self.failure = error

    def take(self, channel, method, _, body):
        self.seen.append((body, method.redelivered))
        channel.basic_ack(method.delivery_tag)


@pytest.mark.parametrize("victim", (0, 1, 2))
def test_a_node_is_killed_and_the_others_clients_see_a_pause(cluster, name, victim):
    publishing, consuming = [node for at, node in enumerate(cluster.nodes) if at != victim]
    connection = connect(publishing)
    channel = connection.channel()
    channel.confirm_delivery()
    queues = [f"{name}-{at}" for at in range(16)]
    for at, queue in enumerate(queues):
        channel.queue_declare(queue, durable=at % 2 == 0, arguments=MIRRORED)
    consumer = Consumer(consuming, queues)
    consumer.start()
    sent, longest, number = [], 0.0, 0

    def publish(rounds):
        nonlocal longest, number
        for _ in range(rounds):
            for queue in queues:
                body = b"%d" % number
                began = time.monotonic()
                channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)
                longest = max(longest, time.monotonic() - began)
                sent.append(body)
                number += 1

    publish(10)
    cluster.nodes[victim].kill()
    publish(20)
    cluster.nodes[victim].start()
    publish(10)
    until(lambda: len({body for body, _ in consumer.seen}) >= len(sent) or consumer.failure, "messages are missing")
    consumer.stopping.set()
    consumer.join()
    assert consumer.failure is None
    print(f"longest pause {longest:.3f} s, {len(sent)} messages")
    assert longest < PAUSE_S
    firsts, order = set(), {queue: [] for queue in range(16)}
    for body, redelivered in consumer.seen:
        assert body not in firsts or redelivered, f"{body} came twice without a mark"
        if body not in firsts:
            order[int(body) % 16].append(int(body))
        firsts.add(body)
    assert firsts == set(sent)
    for numbers in order.values():
        assert numbers == sorted(numbers)
    # The node that came back serves what the others have.
    back = connect(cluster.nodes[victim])
    assert back.channel().queue_declare(queues[0], passive=True).method.message_count == 0
    back.close()
    connection.close()


def test_everything_durable_is_back_after_all_nodes_were_killed(cluster, name):
    connection = connect(cluster.nodes[0])
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare(name, "direct", durable=True)
    channel.queue_declare(name, durable=True, arguments=MIRRORED)
    channel.queue_bind(name, name, "key")
    sent = [b"%d" % n for n in range(300)]
    for body in sent:
        channel.basic_publish(name, "key", body, PERSISTENT, mandatory=True)
    taken = bodies(channel, name, 100)
    assert taken == sent[:100]
    # An ack has no answer; what was confirmed behind it proves that it is kept.
    channel.basic_publish(name, "key", b"last", PERSISTENT, mandatory=True)
    cluster.kill()
    cluster.start()
    connection = connect(cluster.nodes[1])
    channel = connection.channel()
    channel.basic_publish(name, "key", b"after", PERSISTENT, mandatory=True)
    assert bodies(channel, name, 202) == [*sent[100:], b"last", b"after"]
    connection.close()


def test_a_minority_sends_its_clients_away_and_serves_again_with_a_majority(cluster, name):
    connection = connect(cluster.nodes[0])
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True, arguments=MIRRORED)
    channel.basic_publish("", name, b"before", PERSISTENT, mandatory=True)
    for node in cluster.nodes[1:]:
        node.kill()
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            connection.process_data_events(time_limit=0.2)
    assert closed.value.reply_code == 320

    def refuses():
        try:
            connect(cluster.nodes[0]).close()
        except pika.exceptions.AMQPError:
            return True
        return False

    until(refuses, "the node still takes connections")
    for node in cluster.nodes[1:]:
        node.start(wait=False)
    for node in cluster.nodes:
        node.wait_serving()
    connection = connect(cluster.nodes[0])
    assert bodies(connection.channel(), name, 1) == [b"before"]
    connection.close()
