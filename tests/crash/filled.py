"""A journal with known content, for tests that damage it or its disk."""

import struct

from harness.options import address
from wire import Wire

# Not a power of two, and odd: bodies lie at all alignments.
BODY_BYTES = 1013


def body(number):
    """Unique octets that can be found again in a file."""
    return struct.pack(">Q", number) + f"needle {number} ".encode().ljust(BODY_BYTES - 8, b"%d" % (number % 10))


def fill(server, queue, count):
    """Declares a durable queue and publishes `count` persistent messages, each confirmed before this returns."""
    wire = Wire.opened(address(server))
    channel = wire.channel()
    channel.declare(queue, durable=True)
    channel.confirm()
    channel.put(queue, *(body(number) for number in range(count)), delivery_mode=2)
    wire.close()


def content(server, queue):
    """All bodies of a queue, taken out."""
    wire = Wire.opened(address(server))
    found = wire.channel().bodies(queue)
    wire.close()
    return found


def segments(server):
    return sorted(server.data_dir.rglob("*.journal"))


def find(server, needle):
    """The file and offset of octets in the journal; the newest if they are there more than once."""
    for path in reversed(segments(server)):
        at = path.read_bytes().rfind(needle)
        if at >= 0:
            return path, at
    raise LookupError(needle)


def flip(path, offset):
    """Flips one bit of one byte."""
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
