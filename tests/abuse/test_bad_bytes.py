"""Octets that are not AMQP, or not allowed: the connection ends, nobody else notices, memory stays."""

import os
import random
import struct
import time

import pytest
from codec import encode_table
from methods import encode
from wire import (
    BODY,
    FRAME_END,
    HEADER,
    HEARTBEAT,
    METHOD,
    PROTOCOL_HEADER,
    Disconnected,
    Refused,
    Silence,
    Wire,
    frame,
)

MIB = 1024 * 1024
# Random input never makes an orderly exchange, so every such connection must end; the handshake limit is 10 s.
END_S = 20.0


def ends(wire, codes=None):
    """The broker ends the connection: with a connection.close of one of `codes` (any), or without a word."""
    try:
        deadline = time.monotonic() + END_S
        while True:
            wire.next(0, max(0.0, deadline - time.monotonic()))
    except Disconnected:
        return None
    except Refused as refusal:
        assert refusal.scope == "connection"
        assert codes is None or refusal.code in codes, refusal
        return refusal.code
    except Silence:
        pytest.fail("the connection stays open")


def send(wire, data):
    try:
        wire.send_raw(data)
    except OSError:
        pass


@pytest.mark.parametrize(
    "header",
    [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x01\x00\x00", b"AMQP\x01\x01\x00\x0a", b"\x16\x03\x01\x02\x00\x01\x00\x01"],
    ids=["http", "amqp-1.0", "amqp-0-10", "tls"],
)
def test_wrong_protocol_header(broker, canary, header):
    wire = Wire.dialled(broker)
    send(wire, header)
    assert wire.rest(END_S)[:8] == PROTOCOL_HEADER


def test_random_bytes_instead_of_a_header(broker, canary, bounded):
    for seed in range(100):
        wire = Wire.dialled(broker)
        send(wire, random.Random(seed).randbytes(random.Random(seed).randrange(8, 5000)))
        try:
            assert wire.rest(END_S) in (PROTOCOL_HEADER, b"")
        except Silence:
            pytest.fail(f"seed {seed}: the connection stays open")
        finally:
            wire.sock.close()
    bounded(32 * MIB)


def test_random_bytes_after_the_handshake(broker, canary, bounded):
    for seed in range(50):
        wire = Wire.opened(broker)
        wire.channel()
        # A frame of random type never has the frame end at the right place twice in a row.
        send(wire, b"\x07" + random.Random(seed).randbytes(20000))
        ends(wire, (501, 502, 503, 504, 505, 540))
        wire.sock.close()
    bounded(32 * MIB)


def test_random_method_payloads(broker, canary, bounded):
    """Well-framed methods with real ids and random arguments: an error, or an answer, but never a stuck connection."""
    from methods import BY_IDS

    ids = [ids for ids in BY_IDS if ids[0] != 10]
    random_ = random.Random(7)
    for _ in range(150):
        wire = Wire.opened(broker)
        channel = wire.channel()
        chosen = random_.choice(ids)
        payload = struct.pack(">HH", *chosen) + random_.randbytes(random_.randrange(0, 200))
        send(wire, frame(METHOD, channel.number, payload))
        send(wire, frame(METHOD, 0, encode("connection.close", {"reply_code": 200, "reply_text": ""})))
        try:
            deadline = time.monotonic() + END_S
            while wire.next(0, max(0.0, deadline - time.monotonic())).name != "connection.close-ok":
                pass
        except (Disconnected, Refused):
            pass
        except Silence:
            pytest.fail(f"no end after {chosen} {payload!r}")
        wire.sock.close()
    bounded(32 * MIB)


@pytest.mark.parametrize("claimed", [131073, 2**24, 2**31, 2**32 - 1])
@pytest.mark.parametrize("kind", [METHOD, HEADER, BODY, HEARTBEAT])
def test_oversized_frame_is_refused_at_its_header(broker, canary, bounded, kind, claimed):
    """The size is judged before any of the payload is waited for or stored."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    send(wire, struct.pack(">BHI", kind, channel.number, claimed))
    assert ends(wire, (501,)) in (None, 501)
    bounded(8 * MIB)


def test_oversized_frame_before_tuning(broker, canary, bounded):
    wire = Wire.started(broker)
    send(wire, struct.pack(">BHI", METHOD, 0, 2**31) + b"\0" * 100_000)
    ends(wire)
    bounded(8 * MIB)


def test_wrong_frame_end(broker, canary):
    wire = Wire.opened(broker)
    channel = wire.channel()
    send(wire, frame(METHOD, channel.number, encode("basic.qos", {}), end=FRAME_END ^ 1))
    ends(wire, (501,))


@pytest.mark.parametrize("ids", [(60, 999), (61, 10), (0, 0), (0xFFFF, 0xFFFF), (10, 99), (20, 999)])
def test_unknown_method(broker, canary, ids):
    wire = Wire.opened(broker)
    channel = wire.channel()
    send(wire, frame(METHOD, channel.number, struct.pack(">HH", *ids) + b"\0" * 16))
    ends(wire, (501, 502, 503, 504, 540))


def nested(depth, last=b"\0\0\0\0"):
    """A table with a table with a table."""
    table = last
    for _ in range(depth):
        entry = b"\x01aF" + table
        table = struct.pack(">I", len(entry)) + entry
    return table


TABLES = {
    "deep": nested(5000),
    "length beyond the frame": struct.pack(">I", 2**31) + b"\x01aI\0\0\0\1",
    "negative length": struct.pack(">I", 2**32 - 1),
    "entry beyond the table": struct.pack(">I", 3) + b"\xffab",
    "string beyond the table": struct.pack(">I", 8) + b"\x01aS" + struct.pack(">I", 1000) + b"x",
    "unknown type": struct.pack(">I", 4) + b"\x01a?x",
    "array of arrays": struct.pack(">I", 3 + 4 + 5) + b"\x01aA" + struct.pack(">I", 5) + b"A\xff\xff\xff\xff",
}


# RabbitMQ reads tables of any depth.
UNLIKE_RABBITMQ = {"deep": pytest.mark.leveret_only}


@pytest.mark.parametrize("table", [pytest.param(each, marks=UNLIKE_RABBITMQ.get(each, ())) for each in TABLES])
def test_absurd_table_in_a_method(broker, canary, bounded, table):
    wire = Wire.opened(broker)
    channel = wire.channel()
    method = struct.pack(">HHH", 50, 10, 0) + b"\x01q" + b"\x00" + TABLES[table]
    send(wire, frame(METHOD, channel.number, method))
    ends(wire, (501, 502, 503))
    bounded(16 * MIB)


@pytest.mark.parametrize("table", TABLES)
def test_absurd_table_in_message_headers(broker, name, canary, bounded, table):
    """The broker may take such a message unread or refuse it; if it takes it, whoever reads it gets the same octets."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    channel.declare(name, auto_delete=True)
    channel.exchange(name, "headers", auto_delete=True)
    channel.bind(name, name, arguments={"x-match": "any", "a": 1})
    try:
        channel.publish_raw(b"\x20\x00" + TABLES[table], b"x", exchange=name, routing_key="")
        channel.call("basic.qos")
    except (Disconnected, Refused, OSError):
        pass
    wire.sock.close()
    bounded(16 * MIB)


def test_wide_table(broker, canary, bounded):
    """A table that fills the whole frame with small entries is legal, and costs no multiple of its size for long."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    arguments = {f"k{number}": True for number in range(12_000)}
    assert len(encode_table(arguments)) < 131_000
    channel.declare("wide-table", arguments=arguments, auto_delete=True)
    channel.delete("wide-table")
    wire.close()
    bounded(32 * MIB)


@pytest.mark.leveret_only
def test_body_larger_than_announced(broker, name, canary):
    wire = Wire.opened(broker)
    channel = wire.channel()
    number = channel.number
    send(wire, frame(METHOD, number, encode("basic.publish", {"exchange": "", "routing_key": name})))
    send(wire, frame(HEADER, number, struct.pack(">HHQH", 60, 0, 10, 0)))
    send(wire, frame(BODY, number, b"x" * 11))
    ends(wire, (501, 505))


def test_body_size_that_nobody_can_hold(broker, name, canary, bounded):
    """An announced size of 2^63 reserves nothing: refused, or its sender just goes away."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    number = channel.number
    send(wire, frame(METHOD, number, encode("basic.publish", {"exchange": "", "routing_key": name})))
    send(wire, frame(HEADER, number, struct.pack(">HHQH", 60, 0, 2**63, 0)))
    send(wire, frame(BODY, number, os.urandom(1000)))
    time.sleep(0.2)
    wire.sock.close()
    bounded(8 * MIB)


@pytest.mark.parametrize("kind", [0, 4, 5, 255])
def test_unknown_frame_type(broker, canary, kind):
    wire = Wire.opened(broker)
    channel = wire.channel()
    send(wire, frame(kind, channel.number, b"xyz"))
    ends(wire, (501, 502, 505))
