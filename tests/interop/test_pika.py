"""pika: blocking and asynchronous adapters at real work."""

import hashlib
import os
import threading
import time

import pika
import pytest
from pika.exceptions import AMQPConnectionError, UnroutableError

LARGE_BYTES = 10 * 1024 * 1024
PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/octet-stream")


def connect(server, **options):
    parameters = pika.URLParameters(server.url())
    for key, value in options.items():
        setattr(parameters, key, value)
    return pika.BlockingConnection(parameters)


@pytest.fixture
def connection(shared):
    connection = connect(shared)
    yield connection
    if connection.is_open:
        connection.close()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def queue(shared, name):
    """A durable queue, deleted over a connection of its own."""
    with connect(shared) as own:
        own.channel().queue_declare(name, durable=True)
    yield name
    with connect(shared) as own:
        own.channel().queue_delete(name)


def take(channel, queue, count, seconds=30):
    """Consumes and acks `count` messages; returns (method, properties, body) in order of arrival."""
    taken = []
    for item in channel.consume(queue, inactivity_timeout=seconds):
        assert item[0] is not None, f"{len(taken)} of {count} messages after {seconds} s of silence"
        channel.basic_ack(item[0].delivery_tag)
        taken.append(item)
        if len(taken) == count:
            break
    channel.cancel()
    return taken


def test_publish_with_confirms_and_consume(channel, queue):
    channel.confirm_delivery()
    sent = [b"message %d" % n for n in range(300)]
    for body in sent:
        channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)
    taken = take(channel, queue, len(sent))
    assert [body for _, _, body in taken] == sent
    assert not any(method.redelivered for method, _, _ in taken)
    assert all(properties.delivery_mode == 2 for _, properties, _ in taken)
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_unroutable_mandatory_message_comes_back(channel, name):
    channel.confirm_delivery()
    with pytest.raises(UnroutableError) as caught:
        channel.basic_publish("", name, b"to nobody", mandatory=True)
    assert caught.value.messages[0].body == b"to nobody"


def test_every_property_arrives(channel, queue):
    headers = {
        "int": 5,
        "long": 2**40,
        "text": "grüße",
        "true": True,
        "nothing": None,
        "list": [1, "two", {"three": 3}],
        "table": {"inner": {"deep": "x"}},
    }
    properties = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers=headers,
        delivery_mode=1,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="600000",
        message_id="m",
        timestamp=1700000000,
        type="t",
        user_id="guest",
        app_id="a",
    )
    channel.basic_publish("", queue, b"x", properties)
    ((_, got, _),) = take(channel, queue, 1)
    assert got.__dict__ == properties.__dict__


def test_large_message(channel, queue):
    channel.confirm_delivery()
    body = os.urandom(LARGE_BYTES)
    channel.basic_publish("", queue, body, PERSISTENT)
    ((_, _, got),) = take(channel, queue, 1)
    assert hashlib.sha256(got).digest() == hashlib.sha256(body).digest()


def test_many_channels(connection, queue):
    channels = [connection.channel() for _ in range(300)]
    for number, channel in enumerate(channels):
        channel.basic_publish("", queue, b"%d" % number)
    # Channels are ordered each for itself; the queue has them all once each channel was heard of.
    for channel in channels:
        channel.queue_declare(queue, passive=True)
    bodies = {body for _, _, body in take(channels[0], queue, len(channels))}
    assert bodies == {b"%d" % number for number in range(len(channels))}
    for channel in channels:
        channel.close()


def test_work_is_shared_by_prefetch(shared, queue):
    """Two consumers with a prefetch of 1 and slow acks each get half of the work."""
    with connect(shared) as connection:
        first, second = connection.channel(), connection.channel()
        counts = {first: 0, second: 0}

        def work(channel, method, _properties, _body):
            counts[channel] += 1
            channel.basic_ack(method.delivery_tag)

        for channel in counts:
            channel.basic_qos(prefetch_count=1)
        for _ in range(20):
            first.basic_publish("", queue, b"job")
        first.queue_declare(queue, passive=True)
        for channel in counts:
            channel.basic_consume(queue, work)
        deadline = time.monotonic() + 20
        while sum(counts.values()) < 20:
            assert time.monotonic() < deadline, counts.values()
            connection.process_data_events(time_limit=0.1)
        assert all(count > 0 for count in counts.values())


def test_messages_of_a_closed_channel_are_redelivered(connection, queue):
    channel = connection.channel()
    channel.basic_publish("", queue, b"x")
    channel.queue_declare(queue, passive=True)
    method, _, _ = channel.basic_get(queue)
    assert not method.redelivered
    channel.close()
    again = connection.channel()
    ((method, _, _),) = take(again, queue, 1)
    assert method.redelivered


def test_heartbeats_keep_an_idle_connection(shared, queue):
    """A connection with heartbeats of 1 s that only reads stays for several times the limit of 2 s."""
    with connect(shared, heartbeat=1) as connection:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            connection.process_data_events(time_limit=0.2)
        channel = connection.channel()
        channel.queue_declare(queue, passive=True)


def test_consumer_is_told_of_a_deleted_queue(connection, name):
    channel = connection.channel()
    channel.queue_declare(name)
    cancelled = []
    channel.add_on_cancel_callback(cancelled.append)
    tag = channel.basic_consume(name, lambda *_: None)
    connection.channel().queue_delete(name)
    deadline = time.monotonic() + 10
    while not cancelled:
        assert time.monotonic() < deadline, "no basic.cancel"
        connection.process_data_events(time_limit=0.1)
    assert cancelled[0].method.consumer_tag == tag


def serve_doubles(server, queue, ready, stop):
    """An RPC server: answers each number with its double, to whoever asked."""
    with connect(server) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, auto_delete=True)

        def answer(channel, method, properties, body):
            reply = pika.BasicProperties(correlation_id=properties.correlation_id)
            channel.basic_publish("", properties.reply_to, b"%d" % (2 * int(body)), reply)
            channel.basic_ack(method.delivery_tag)

        channel.basic_consume(queue, answer)
        ready.set()
        while not stop.is_set():
            connection.process_data_events(time_limit=0.1)


@pytest.mark.parametrize("direct", [True, False], ids=["direct-reply-to", "exclusive-queue"])
def test_rpc(shared, name, direct):
    ready, stop = threading.Event(), threading.Event()
    server = threading.Thread(target=serve_doubles, args=(shared, name, ready, stop))
    server.start()
    try:
        assert ready.wait(10)
        with connect(shared) as connection:
            channel = connection.channel()
            reply_to = "amq.rabbitmq.reply-to"
            if not direct:
                reply_to = channel.queue_declare("", exclusive=True).method.queue
            replies = {}

            def receive(_channel, _method, properties, body):
                replies[properties.correlation_id] = int(body)

            channel.basic_consume(reply_to, receive, auto_ack=True)
            for number in range(100):
                call = pika.BasicProperties(reply_to=reply_to, correlation_id=str(number))
                channel.basic_publish("", name, b"%d" % number, call)
            deadline = time.monotonic() + 20
            while len(replies) < 100:
                assert time.monotonic() < deadline, f"{len(replies)} replies"
                connection.process_data_events(time_limit=0.1)
            assert replies == {str(number): 2 * number for number in range(100)}
    finally:
        stop.set()
        server.join(10)


def test_asynchronous_publisher_with_many_confirms_in_flight(shared, queue):
    """SelectConnection: 2000 persistent messages without waiting; confirms may come as multiples."""
    count, confirmed, failures = 2000, set(), []

    def on_open(connection):
        connection.channel(on_open_callback=on_channel)

    def on_channel(channel):
        channel.confirm_delivery(on_confirm, callback=lambda _frame: publish(channel))

    def publish(channel):
        for number in range(count):
            channel.basic_publish("", queue, b"%d" % number, PERSISTENT)

    def on_confirm(frame):
        method = frame.method
        if not isinstance(method, pika.spec.Basic.Ack):
            failures.append(method)
        first = 1 if method.multiple else method.delivery_tag
        confirmed.update(range(first, method.delivery_tag + 1))
        if len(confirmed) == count or failures:
            connection.close()

    connection = pika.SelectConnection(
        pika.URLParameters(shared.url()),
        on_open_callback=on_open,
        on_open_error_callback=lambda connection, error: failures.append(error) or connection.ioloop.stop(),
        on_close_callback=lambda connection, _reason: connection.ioloop.stop(),
    )
    connection.ioloop.call_later(60, connection.ioloop.stop)
    connection.ioloop.start()
    assert not failures
    assert confirmed == set(range(1, count + 1))
    with connect(shared) as own:
        bodies = [body for _, _, body in take(own.channel(), queue, count)]
    assert bodies == [b"%d" % number for number in range(count)]


def test_transactions(connection, queue):
    channel = connection.channel()
    channel.tx_select()
    channel.basic_publish("", queue, b"undone")
    channel.tx_rollback()
    channel.basic_publish("", queue, b"done")
    assert connection.channel().queue_declare(queue, passive=True).method.message_count == 0
    channel.tx_commit()
    assert connection.channel().basic_get(queue, auto_ack=True)[2] == b"done"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_durable_queue_survives_a_restart(node, name, how):
    with connect(node) as connection:
        channel = connection.channel()
        channel.exchange_declare(name, "topic", durable=True)
        channel.queue_declare(name, durable=True)
        channel.queue_bind(name, name, "a.*")
        channel.queue_declare("transient")
        channel.confirm_delivery()
        for number in range(50):
            channel.basic_publish(name, "a.b", b"%d" % number, PERSISTENT, mandatory=True)
        getattr(node, how)()
        with pytest.raises(AMQPConnectionError):
            while True:
                connection.process_data_events(time_limit=1)
    node.start()
    with connect(node) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(name, "a.c", b"50", PERSISTENT, mandatory=True)
        assert [int(body) for _, _, body in take(channel, name, 51)] == list(range(51))
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
            channel.queue_declare("transient", passive=True)
        assert caught.value.reply_code == 404


def test_orderly_stop_closes_with_connection_forced(node):
    with connect(node) as connection:
        connection.channel()
        node.terminate()
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
            while True:
                connection.process_data_events(time_limit=1)
    assert caught.value.reply_code == 320
    assert caught.value.reply_text.startswith("CONNECTION_FORCED")
    node.wait()


def test_blocked_publisher_is_told(launch, name):
    """A disk limit above any disk: the first publish brings connection.blocked; others go on consuming."""
    server = launch("blocked", **{"disk_free_limit.absolute": "1000000GB"}).start()
    try:
        # Never closed by the client: a blocked connection is not read, so its close would wait for ever.
        connection = connect(server)
        blocked = []
        connection.add_on_connection_blocked_callback(lambda _, frame: blocked.append(frame.method.reason))
        channel = connection.channel()
        channel.queue_declare(name)
        channel.basic_publish("", name, b"x")
        deadline = time.monotonic() + 15
        while not blocked:
            assert time.monotonic() < deadline, "no connection.blocked"
            connection.process_data_events(time_limit=0.1)
        assert blocked[0] == "low on disk"
        with connect(server) as other:
            assert other.channel().queue_declare(name, passive=True).method.consumer_count == 0
    finally:
        server.close()
