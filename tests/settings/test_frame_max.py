"""`frame_max = 0`: frames of any size, both ways."""

import struct

import methods
import pytest
from harness.options import address
from wire import BODY, HEADER, METHOD, Wire, frame

MIB = 1024 * 1024


@pytest.fixture
def channel(launch):
    server = launch("unlimited", frame_max=0).start()
    wire = Wire.opened(address(server), frame_max=0)
    assert wire.tune.frame_max == 0
    channel = wire.channel()
    channel.declare("q")
    channel.confirm()
    yield channel
    wire.close()
    server.close()


def publish(channel, body):
    """The octets of a publish with its body in one frame."""
    method = methods.encode("basic.publish", {"exchange": "", "routing_key": "q"})
    header = struct.pack(">HHQ", 60, 0, len(body)) + methods.encode_properties({})
    kinds = ((METHOD, method), (HEADER, header), (BODY, body))
    return b"".join(frame(kind, channel.number, payload) for kind, payload in kinds)


def until_confirmed(channel, count):
    confirmed = 0
    while confirmed < count:
        confirmed += channel.settled()


def octets(size):
    return bytes(range(256)) * (size // 256) + b"." * (size % 256)


# Around the sizes at which the way of reading changes, and far above.
@pytest.mark.parametrize("size", [128 * 1024 - 8, 256 * 1024 - 8, 256 * 1024 - 7, 256 * 1024 + 1, 32 * MIB + 3])
def test_a_large_frame_goes_both_ways(channel, size):
    body = octets(size)
    # Twice, and something small behind it: what follows a large frame is not lost.
    channel.wire.send_raw(publish(channel, body) + publish(channel, b"small") + publish(channel, body))
    until_confirmed(channel, 3)
    first, small, second = (channel.get("q") for _ in range(3))
    assert first.body == body and second.body == body and small.body == b"small"
    assert len(first.body_frames) == 1


def test_a_large_frame_in_pieces(channel):
    body = octets(MIB)
    data = publish(channel, body) + publish(channel, b"small")
    for at in range(0, len(data), 77_777):
        channel.wire.send_raw(data[at : at + 77_777])
    until_confirmed(channel, 2)
    assert channel.get("q").body == body
    assert channel.get("q").body == b"small"
