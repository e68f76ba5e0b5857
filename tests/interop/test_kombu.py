"""kombu over py-amqp: what Celery and OpenStack stand on."""

import os
import socket
import threading
import time

import amqp
import kombu
import pytest
from kombu.pools import producers

LARGE_BYTES = 10 * 1024 * 1024


def connect(server, **options):
    options.setdefault("transport_options", {"confirm_publish": True})
    return kombu.Connection(server.url(), **options)


@pytest.fixture
def connection(shared):
    with connect(shared) as connection:
        yield connection


@pytest.fixture
def queue(connection, name):
    """A durable queue bound to a durable direct exchange, both with the test's name."""
    exchange = kombu.Exchange(name, "direct", durable=True)
    queue = kombu.Queue(name, exchange, routing_key=name)(connection.default_channel)
    queue.declare()
    yield queue
    channel = connection.channel()
    channel.queue_delete(name)
    channel.exchange_delete(name)


def drain(connection, condition, seconds=30):
    """Handles events until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        try:
            connection.drain_events(timeout=0.2)
        except socket.timeout:
            pass


def test_producer_and_consumer(connection, queue):
    received = []

    def handle(body, message):
        received.append((body, message.headers.get("n"), message.delivery_info["redelivered"]))
        message.ack()

    producer = connection.Producer(exchange=queue.exchange, routing_key=queue.name, serializer="json")
    for n in range(200):
        producer.publish({"n": n, "text": "größe"}, headers={"n": n}, mandatory=True)
    with connection.Consumer([queue], callbacks=[handle]):
        drain(connection, lambda: len(received) == 200)
    assert received == [({"n": n, "text": "größe"}, n, False) for n in range(200)]


def test_requeue_and_reject(connection, queue):
    seen = []

    def handle(body, message):
        seen.append((body, message.delivery_info["redelivered"]))
        if len(seen) == 1:
            message.requeue()
        else:
            message.reject()

    connection.Producer().publish("x", exchange=queue.exchange, routing_key=queue.name)
    with connection.Consumer([queue], callbacks=[handle]):
        drain(connection, lambda: len(seen) == 2)
    assert seen == [("x", False), ("x", True)]
    assert queue.queue_declare(passive=True).message_count == 0


def test_compressed_large_message(connection, queue):
    body = os.urandom(LARGE_BYTES)
    producer = connection.Producer(exchange=queue.exchange, routing_key=queue.name)
    producer.publish(body, compression="zlib", content_type="application/octet-stream", content_encoding="binary")
    message = queue.get()
    assert message.payload == body
    message.ack()


def test_simple_queue(connection, name):
    with connection.SimpleQueue(name) as queue:
        for n in range(20):
            queue.put(n)
        for n in range(20):
            message = queue.get(timeout=10)
            assert message.payload == n
            message.ack()
    connection.channel().queue_delete(name)


def test_many_channels(connection, queue):
    channels = [connection.channel() for _ in range(200)]
    for n, channel in enumerate(channels):
        kombu.Producer(channel).publish(n, exchange=queue.exchange, routing_key=queue.name)
    got = []
    while (message := queue.get(no_ack=True)) is not None:
        got.append(message.payload)
    # Each publish waited for its confirm, so the channels' messages are in order among each other too.
    assert got == list(range(200))
    for channel in channels:
        channel.close()


def test_producer_pool_in_threads(shared, connection, queue):
    pool = producers[connect(shared)]
    errors = []

    def publish(thread):
        try:
            for n in range(50):
                with pool.acquire(block=True) as producer:
                    producer.publish([thread, n], exchange=queue.exchange, routing_key=queue.name, retry=True)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    got = set()
    while (message := queue.get(no_ack=True)) is not None:
        got.add(tuple(message.payload))
    assert got == {(thread, n) for thread in range(4) for n in range(50)}
    pool.force_close_all()


def test_heartbeats(shared):
    """With a heartbeat of 1 s an idle connection stays if both sides send theirs, and is cut if the client does not."""
    with connect(shared, heartbeat=1) as connection:
        connection.connect()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            connection.heartbeat_check(rate=2)
            try:
                connection.drain_events(timeout=0.25)
            except socket.timeout:
                pass
        assert connection.connection.connected
        # From here on the client is silent: the broker ends the connection.
        with pytest.raises(connection.recoverable_connection_errors):
            connection.drain_events(timeout=10)
            pytest.fail("an event on an idle connection")


def test_consumer_is_told_of_a_deleted_queue(connection, name):
    queue = kombu.Queue(name, durable=False)(connection.default_channel)
    queue.declare()
    with connection.Consumer([queue], callbacks=[lambda *_: None]):
        connection.channel().queue_delete(name)
        with pytest.raises(amqp.exceptions.ConsumerCancelled):
            drain(connection, lambda: False, seconds=10)


def test_closed_channel_number_is_used_again_at_once(shared):
    """py-amqp answers a channel error with close-ok and opens the same number in the same breath."""
    connection = amqp.Connection(f"127.0.0.1:{shared.port}", confirm_publish=True)
    with connection:
        channel = connection.channel()
        number = channel.channel_id
        for _ in range(50):
            with pytest.raises(amqp.exceptions.NotFound):
                channel.queue_declare("no such queue", passive=True)
            channel = connection.channel(number)
            channel.confirm_select()
            channel.basic_publish_confirm(amqp.Message("x"), "", "nobody")


def test_amqplain_and_plain(shared):
    for method in ("AMQPLAIN", "PLAIN"):
        with amqp.Connection(f"127.0.0.1:{shared.port}", login_method=method) as connection:
            assert connection.channel().channel_id == 1
        with pytest.raises(amqp.exceptions.AccessRefused) as caught:
            amqp.Connection(f"127.0.0.1:{shared.port}", password="wrong", login_method=method).connect()
        assert f"Login was refused using authentication mechanism {method}" in str(caught.value)


def test_publisher_and_consumer_go_on_after_a_restart(node, name):
    """`ensure` and `autoretry` reconnect; confirmed messages on a durable queue are all there, once the broker is back."""
    queue = kombu.Queue(name, kombu.Exchange(name, "direct", durable=True), routing_key=name)
    confirmed, failures = [], []
    stop = threading.Event()

    def publish():
        with connect(node) as connection:
            with connection.Producer() as producer:
                n = 0
                while not stop.is_set():
                    try:
                        producer.publish(
                            n,
                            exchange=queue.exchange,
                            routing_key=name,
                            declare=[queue],
                            retry=True,
                            retry_policy={"interval_start": 0.2, "interval_step": 0.001, "max_retries": 300},
                        )
                    except Exception as error:
                        failures.append(error)
                        return
                    confirmed.append(n)
                    n += 1

    with connect(node) as setup:
        queue(setup.default_channel).declare()
    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        for how in ("stop", "kill"):
            before = len(confirmed) + 50
            wait_for(lambda: len(confirmed) >= before or failures)
            getattr(node, how)()
            node.start()
        before = len(confirmed) + 50
        wait_for(lambda: len(confirmed) >= before or failures)
    finally:
        stop.set()
        publisher.join(60)
    assert not failures
    got = set()
    with connect(node) as connection:
        bound = queue(connection.default_channel)
        while (message := bound.get(no_ack=True)) is not None:
            got.add(message.payload)
    assert set(confirmed) <= got


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
