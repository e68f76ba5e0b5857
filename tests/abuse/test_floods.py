"""Too much of what is allowed: connections, channels, frames, messages, and clients that stop reading."""

import socket
import struct
import threading
import time

import pytest
from harness.options import address
from harness.canary import Canary
from methods import encode
from wire import HEARTBEAT, METHOD, PROTOCOL_HEADER, Disconnected, Refused, Silence, Wire, frame

MIB = 1024 * 1024


def wait(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)


def ended(sock, seconds):
    """True if the broker closes the connection within `seconds`; what it sends before is thrown away."""
    deadline = time.monotonic() + seconds
    while (remaining := deadline - time.monotonic()) > 0:
        sock.settimeout(remaining)
        try:
            if not sock.recv(65536):
                return True
        except socket.timeout:
            return False
        except ConnectionError:
            return True
    return False


@pytest.fixture(scope="module")
def hasty(launch):
    """A broker with a short handshake limit, so that a test of it need not wait 10 s."""
    server = launch("hasty", handshake_timeout=2000).start()
    yield server
    server.close()


@pytest.mark.parametrize(
    "said", [b"", b"AMQ", PROTOCOL_HEADER, PROTOCOL_HEADER + b"\x01\x00"], ids=["nothing", "half-header", "header", "half-frame"]
)
def test_silent_connections_are_cut(hasty, name, said):
    """1000 connections that begin and never go on are gone after the handshake limit; meanwhile others are served."""
    canary = Canary(address(hasty), name)
    canary.start()
    before = hasty.rss_bytes()
    sockets = [socket.create_connection(("127.0.0.1", hasty.port), timeout=10) for _ in range(1000)]
    for sock in sockets:
        try:
            sock.sendall(said)
        except ConnectionError:
            pass
    grown = hasty.rss_bytes() - before
    deadline = time.monotonic() + 20
    for sock in sockets:
        assert ended(sock, deadline - time.monotonic()), "still open long after the handshake limit"
        sock.close()
    canary.finish()
    assert grown < 64 * MIB, f"{grown / 1000:.0f} octets for each silent connection"


def test_slow_loris(hasty, name):
    """A handshake that comes octet by octet is cut by the same limit: progress does not extend it."""
    sock = socket.create_connection(("127.0.0.1", hasty.port), timeout=10)
    start_ok = frame(
        METHOD,
        0,
        encode(
            "connection.start-ok",
            {"client_properties": {}, "mechanism": "PLAIN", "response": "\0guest\0guest", "locale": "en_US"},
        ),
    )
    started = time.monotonic()
    cut = False
    sock.setblocking(False)
    for octet in PROTOCOL_HEADER + start_ok * 10:
        try:
            sock.send(bytes([octet]))
            while not cut and sock.recv(4096) == b"":
                cut = True
        except BlockingIOError:
            pass
        except ConnectionError:
            cut = True
        if cut or time.monotonic() - started > 15:
            break
        time.sleep(0.1)
    assert cut, "a handshake of 15 s was let go on"
    assert time.monotonic() - started < 10
    sock.close()


def test_ten_thousand_channels(broker, canary, bounded):
    """Five connections with 2000 channels each; one more than channel_max is refused."""
    wires = [Wire.opened(broker) for _ in range(5)]
    for wire in wires:
        opens = b"".join(frame(METHOD, n, encode("channel.open", {})) for n in range(1, 2001))
        wire.send_raw(opens)
        for number in range(1, 2001):
            wire.expect(number, "channel.open-ok", timeout=30)
    bounded(160 * MIB)
    for number in range(2001, wires[0].tune.channel_max + 1):
        wires[0].channel(number)
    with pytest.raises(Refused) as caught:
        wires[0].channel(60_000)
    assert (caught.value.scope, caught.value.code) == ("connection", 530)
    for wire in wires:
        wire.sock.close()
    bounded(64 * MIB)


def test_channel_churn(broker, canary, bounded):
    """Opening and closing 20,000 channels leaves nothing behind."""
    wire = Wire.opened(broker)
    numbers = range(1, 201)
    opens = b"".join(frame(METHOD, n, encode("channel.open", {})) for n in numbers)
    closes = b"".join(frame(METHOD, n, encode("channel.close", {"reply_code": 200})) for n in numbers)
    for _ in range(100):
        for burst, answer in ((opens, "channel.open-ok"), (closes, "channel.close-ok")):
            wire.send_raw(burst)
            for number in numbers:
                wire.expect(number, answer, timeout=30)
    wire.close()
    bounded(16 * MIB)


def test_connection_churn(broker, canary, bounded):
    for _ in range(300):
        wire = Wire.opened(broker)
        wire.channel()
        # Half of them without a word, as crashed clients do.
        wire.sock.close()
    bounded(32 * MIB)


def test_flood_of_heartbeats(broker, canary, bounded):
    wire = Wire.opened(broker)
    beats = frame(HEARTBEAT, 0, b"") * 10_000
    for _ in range(50):
        wire.send_raw(beats)
    wire.channel()
    wire.close()
    bounded(16 * MIB)


def test_flood_of_tiny_publishes(broker, name, canary, bounded):
    """200,000 empty messages to nowhere, one frame pair each."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    publish = frame(METHOD, channel.number, encode("basic.publish", {"exchange": "", "routing_key": name}))
    header = frame(2, channel.number, struct.pack(">HHQH", 60, 0, 0, 0))
    burst = (publish + header) * 1000
    for _ in range(200):
        wire.send_raw(burst)
    channel.call("basic.qos")
    wire.close()
    bounded(32 * MIB)


@pytest.mark.leveret_only
def test_answers_that_nobody_reads(broker, name, canary, peak):
    """A client that asks and asks, and never reads an answer: the broker stops reading it, and keeps little for it."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    channel.declare(name, auto_delete=True)
    question = frame(METHOD, channel.number, encode("queue.declare", {"queue": name, "passive": True})) * 1000
    wire.sock.settimeout(3)
    with pytest.raises(socket.timeout):
        for _ in range(2000):
            wire.sock.sendall(question)
    assert peak() < 64 * MIB
    wire.sock.close()


def test_consumer_that_does_not_read(broker, name, canary, peak):
    """100 MiB for a consumer without prefetch that reads nothing: what it was not sent yet is not kept twice."""
    deaf = Wire.opened(broker)
    channel = deaf.channel()
    channel.declare(name)
    channel.consume(name, no_ack=False)
    publisher = Wire.opened(broker)
    out = publisher.channel()
    out.confirm()
    body = b"x" * 100_000
    for _ in range(50):
        out.put(name, *([body] * 20))
    assert peak() < 250 * MIB
    deaf.sock.close()
    wait(lambda: out.declare(name, passive=True).message_count == 1000, "messages of the deaf consumer came back")
    out.delete(name)
    publisher.close()


def test_publishers_faster_than_consumers(broker, name, canary, bounded, peak):
    """Four publishers without confirms against one slow consumer; the backlog goes, and its memory with it."""
    setup = Wire.opened(broker)
    channel = setup.channel()
    channel.declare(name)
    published, stopping = [0] * 4, threading.Event()

    def publish(which):
        wire = Wire.opened(broker)
        out = wire.channel()
        while not stopping.is_set() and published[which] < 50_000:
            out.publish("", name, b"x" * 500)
            published[which] += 1
        out.call("basic.qos")
        wire.close()

    publishers = [threading.Thread(target=publish, args=(which,)) for which in range(4)]
    for publisher in publishers:
        publisher.start()
    consumer = Wire.opened(broker)
    slow = consumer.channel()
    slow.qos(1)
    slow.consume(name)
    for _ in range(50):
        delivery = slow.next()
        time.sleep(0.05)
        slow.ack(delivery.delivery_tag)
    stopping.set()
    for publisher in publishers:
        publisher.join(60)
        assert not publisher.is_alive()
    consumer.close()
    wait(
        lambda: channel.declare(name, passive=True).message_count >= sum(published) - 51,
        "the backlog is what was published and not consumed",
    )
    channel.call("queue.purge", queue=name)
    channel.delete(name)
    setup.close()
    assert peak() < 400 * MIB
    bounded(128 * MIB)


def test_half_open_connection_is_found_by_heartbeat(broker, canary):
    """A client that agreed on heartbeats of 1 s and falls silent is cut, though its socket stays open."""
    wire = Wire.opened(broker, heartbeat=1)
    assert ended(wire.sock, 15)


def test_unfinished_message_is_not_kept(broker, name, canary, bounded):
    """200 connections stop in the middle of a message of 1 MiB; closed, they leave nothing."""
    wires = []
    for _ in range(200):
        wire = Wire.opened(broker)
        channel = wire.channel()
        number = channel.number
        wire.send_raw(frame(METHOD, number, encode("basic.publish", {"exchange": "", "routing_key": name})))
        wire.send_raw(frame(2, number, struct.pack(">HHQH", 60, 0, MIB, 0)))
        wire.send_raw(frame(3, number, b"x" * 100_000))
        wires.append(wire)
    for wire in wires:
        wire.sock.close()
    bounded(48 * MIB)


def test_queue_churn(broker, name, canary, bounded):
    """10,000 queues made, bound and deleted by one connection leave nothing behind."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    channel.exchange(name, "topic")
    for number in range(0, 10_000, 100):
        for each in range(number, number + 100):
            queue = f"{name}-{each}"
            channel.send("queue.declare", queue=queue)
            channel.send("queue.bind", queue=queue, exchange=name, routing_key=f"a.{each}.*")
            channel.send("queue.delete", queue=queue)
        for _ in range(100):
            channel.expect("queue.declare-ok", timeout=30)
            channel.expect("queue.bind-ok", timeout=30)
            channel.expect("queue.delete-ok", timeout=30)
    channel.call("exchange.delete", exchange=name)
    wire.close()
    bounded(32 * MIB)


def test_disconnected_and_silence_are_told_apart(broker):
    """The tests above rest on it: an idle good connection is silent, and not ended."""
    wire = Wire.opened(broker)
    with pytest.raises(Silence):
        wire.next(0, 0.5)
    wire.channel()
    wire.close()
    with pytest.raises((Disconnected, OSError)):
        wire.send_raw(b"x")
        wire.next(0)
