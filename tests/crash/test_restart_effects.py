"""What was due while the broker was down happens at its start: messages expire, limits hold, dead letters go their way."""

import time

import pytest
from harness.options import address
from support import wait_count, wait_until
from wire import Refused, Wire

pytestmark = pytest.mark.leveret_only

# Over several groups of queues, so that letters cross from one to another.
SOURCES = [f"source{number}" for number in range(8)]
# Long enough for all that is done before the first of them expires, on a busy machine.
TTL_MS = 5000


def end(server, how):
    if how == "stop":
        server.stop()
    else:
        server.kill()


def open_channel(server):
    channel = Wire.opened(address(server)).channel()
    channel.confirm()
    return channel


def dead_letters(arguments):
    return {"x-dead-letter-exchange": "letters", "x-dead-letter-routing-key": "to-the-grave", **arguments}


def grave(channel):
    channel.declare("grave", durable=True)
    channel.exchange("letters", durable=True)
    channel.bind("grave", "letters", "to-the-grave")


def deaths(message):
    return [
        (death["queue"], death["reason"], death["count"], death["exchange"], death["routing-keys"])
        for death in message.headers["x-death"]
    ]


def fetch_all(channel, queue, count):
    """Exactly so many messages, waited for; in the order of the queue."""
    wait_count(channel, queue, count)
    messages = [channel.get(queue, no_ack=False) for _ in range(count)]
    assert channel.get(queue) is None
    return messages


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_expired_while_the_broker_was_down_is_dead_lettered(launch, how):
    server = launch("expired").start()
    channel = open_channel(server)
    grave(channel)
    for source in SOURCES:
        channel.declare(source, durable=True, arguments=dead_letters({"x-message-ttl": TTL_MS}))
    channel.declare("own", durable=True, arguments=dead_letters({}))
    for source in SOURCES:
        channel.put(source, b"1 %s" % source.encode(), b"2 %s" % source.encode(), delivery_mode=2)
    channel.put("own", b"1 own", delivery_mode=2, expiration=str(TTL_MS))
    channel.put("own", b"2 own", delivery_mode=2)
    published = time.monotonic()
    # Held by a consumer when the broker ends: it is back afterwards, and expires as the rest.
    holder = open_channel(server)
    assert holder.get(SOURCES[0], no_ack=False).body == b"1 source0"
    end(server, how)
    time.sleep(max(0.0, published + TTL_MS / 1000 + 0.1 - time.monotonic()))
    server.start()

    channel = open_channel(server)
    messages = fetch_all(channel, "grave", 2 * len(SOURCES) + 1)
    for message in messages:
        assert (message.exchange, message.routing_key) == ("letters", "to-the-grave")
        source = message.body.split()[1].decode()
        assert deaths(message) == [(source, "expired", 1, "", [source])]
        assert message.headers["x-first-death-reason"] == "expired"
        # It would expire again otherwise.
        assert "expiration" not in message.properties
        original = message.headers["x-death"][0].get("original-expiration")
        assert original == (str(TTL_MS) if source == "own" else None)
    bodies = [message.body for message in messages]
    for source in SOURCES:
        mine = [body for body in bodies if body.endswith(b" " + source.encode())]
        assert mine == [b"1 %s" % source.encode(), b"2 %s" % source.encode()]
        assert channel.declare(source, passive=True).message_count == 0
    assert bodies.count(b"1 own") == 1
    assert channel.bodies("own") == [b"2 own"]
    # Its -ok says that all before it is on disk, the ends of the letters' first lives among it: a kill before that may have some die twice.
    channel.declare("on-disk", durable=True)
    channel.wire.close()

    # They died once: they are there after another restart, and no more of them.
    end(server, how)
    server.start()
    channel = open_channel(server)
    again = fetch_all(channel, "grave", len(bodies))
    assert all(message.headers["x-death"][0]["count"] == 1 for message in again)
    assert [message.body for message in again] == bodies
    channel.wire.close()
    server.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_expires_after_the_start_still_does(launch, how):
    """The time of a message runs from its publish, over the restart."""
    server = launch("later").start()
    channel = open_channel(server)
    grave(channel)
    channel.declare("q", durable=True, arguments=dead_letters({"x-message-ttl": 8000}))
    channel.put("q", b"1", delivery_mode=2)
    published = time.monotonic()
    end(server, how)
    server.start()
    channel = open_channel(server)
    count = channel.declare("q", passive=True).message_count
    # A busy machine may have taken longer for the restart.
    assert count == 1 or time.monotonic() - published > 7
    message = wait_until(lambda: channel.get("grave"), "the dead letter")
    assert 7.5 < time.monotonic() - published < 20
    assert deaths(message) == [("q", "expired", 1, "", ["q"])]
    channel.wire.close()
    server.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("limit", [{"x-max-length": 2}, {"x-max-length-bytes": 4}])
def test_limits_hold_for_what_comes_back(launch, how, limit):
    """Messages that consumers held did not count. They return to the head at the start, and the queue is too long."""
    server = launch("limits").start()
    channel = open_channel(server)
    grave(channel)
    for source in SOURCES:
        channel.declare(source, durable=True, arguments=dead_letters(limit))
        channel.put(source, b"1 ", b"2 ", delivery_mode=2)
        holder = channel.wire.channel()
        holder.qos(2)
        holder.consume(source)
        holder.deliveries(2)
        channel.put(source, b"3 ", b"4 ", delivery_mode=2)
        assert channel.declare(source, passive=True).message_count == 2
    assert channel.declare("grave", passive=True).message_count == 0
    end(server, how)
    server.start()

    channel = open_channel(server)
    messages = fetch_all(channel, "grave", 2 * len(SOURCES))
    for source in SOURCES:
        mine = [message for message in messages if message.headers["x-first-death-queue"] == source]
        assert [message.body for message in mine] == [b"1 ", b"2 "]
        for message in mine:
            assert deaths(message) == [(source, "maxlen", 1, "", [source])]
        assert channel.bodies(source) == [b"3 ", b"4 "]
    channel.wire.close()
    server.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_queue_expires_by_its_own_time_after_the_start(launch, how):
    """`x-expires` begins again at the start (as in RabbitMQ), for a queue whose consumer is gone with the connection."""
    server = launch("expires").start()
    channel = open_channel(server)
    channel.declare("q", durable=True, arguments={"x-expires": 1000})
    channel.consume("q")
    end(server, how)
    server.start()
    watcher = Wire.opened(address(server))

    def gone():
        try:
            # A passive declare would count as use.
            watcher.channel().call("queue.bind", queue="q", exchange="amq.fanout")
        except Refused as refusal:
            return refusal.code == 404
        return False

    wait_until(gone, "the queue's end")
    watcher.close()
    server.close()
