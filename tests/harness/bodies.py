"""Bodies that say which message they are, and whether they arrived as they were sent."""

import random
import struct
import zlib

from .history import Message


def encode(message, size):
    head = f"{message.producer} {message.number} ".encode()
    filler = random.Random(message.number).randbytes(size)
    body = head + filler
    return body + struct.pack(">I", zlib.crc32(body))


def decode(body):
    """The message and whether its checksum holds."""
    producer, number, _ = body.split(b" ", 2)
    intact = zlib.crc32(body[:-4]) == struct.unpack(">I", body[-4:])[0]
    return Message(producer.decode(), int(number)), intact
