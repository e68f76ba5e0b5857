"""AMQP 0-9-1 field tables, byte for byte (section 4.2.5, with RabbitMQ's type letters).

Owns the encoding of field values and nothing else. A plain Python value gets the type a client
library would give it; a pair `(letter, value)` forces a type, and a letter that does not exist is
written as it stands, so that a test can send what no library would.
"""

import struct

FIXED = {
    "b": ">b",
    "B": ">B",
    "s": ">h",
    "u": ">H",
    "I": ">i",
    "i": ">I",
    "l": ">q",
    "L": ">q",
    "f": ">f",
    "d": ">d",
    "T": ">Q",
}


def as_bytes(value):
    return value if isinstance(value, bytes) else value.encode()


def as_text(value):
    return value.decode("utf-8", "surrogateescape")


def short_string(value):
    data = as_bytes(value)
    return struct.pack(">B", len(data)) + data


def long_string(value):
    data = as_bytes(value)
    return struct.pack(">I", len(data)) + data


def typed(value):
    """The pair (letter, value) that a plain value stands for."""
    if isinstance(value, tuple):
        return value
    if value is None:
        return "V", None
    if isinstance(value, bool):
        return "t", value
    if isinstance(value, int):
        return ("I" if -(2**31) <= value < 2**31 else "l"), value
    if isinstance(value, float):
        return "d", value
    if isinstance(value, (str, bytes)):
        return "S", value
    if isinstance(value, dict):
        return "F", value
    if isinstance(value, list):
        return "A", value
    raise TypeError(f"no field type for {value!r}")


def encode_value(value):
    letter, value = typed(value)
    mark = letter.encode("latin-1")
    if letter in FIXED:
        return mark + struct.pack(FIXED[letter], value)
    if letter == "t":
        return mark + (b"\x01" if value else b"\x00")
    if letter == "V":
        return mark
    if letter == "D":
        scale, digits = value
        return mark + struct.pack(">BI", scale, digits)
    if letter in "Sx":
        return mark + long_string(value)
    if letter == "F":
        return mark + encode_table(value)
    if letter == "A":
        return mark + long_string(b"".join(encode_value(item) for item in value))
    return mark + as_bytes(value)


def encode_table(table):
    """A field table with its length prefix; ready-made bytes pass through unchanged."""
    if isinstance(table, bytes):
        return table
    pairs = table.items() if isinstance(table, dict) else table
    return long_string(b"".join(short_string(key) + encode_value(value) for key, value in pairs))


class Reader:
    """Reads AMQP values from bytes, strictly: a short buffer raises."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise ValueError(f"{count} octets wanted, {len(piece)} left")
        self.at += count
        return piece

    def number(self, fmt):
        return struct.unpack(fmt, self.take(struct.calcsize(fmt)))[0]

    def short_string(self):
        return as_text(self.take(self.number(">B")))

    def long_string(self):
        return as_text(self.take(self.number(">I")))

    def value(self, keep_types=False):
        letter = chr(self.number(">B"))
        value = self.untyped(letter, keep_types)
        return (letter, value) if keep_types else value

    def untyped(self, letter, keep_types):
        if letter in FIXED:
            return self.number(FIXED[letter])
        if letter == "t":
            return self.number(">B") != 0
        if letter == "V":
            return None
        if letter == "D":
            return self.number(">B"), self.number(">I")
        if letter == "S":
            return self.long_string()
        if letter == "x":
            return self.take(self.number(">I"))
        if letter == "F":
            return self.table(keep_types)
        if letter == "A":
            inner = Reader(self.take(self.number(">I")))
            items = []
            while inner.at < len(inner.data):
                items.append(inner.value(keep_types))
            return items
        raise ValueError(f"unknown field type {letter!r}")

    def table(self, keep_types=False):
        inner = Reader(self.take(self.number(">I")))
        found = {}
        while inner.at < len(inner.data):
            key = inner.short_string()
            found[key] = inner.value(keep_types)
        return found
