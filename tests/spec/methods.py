"""The methods and content properties of AMQP 0-9-1 with RabbitMQ's extensions, as one table.

Each line of `DEFINITIONS` is: class id, method id, name, then the fields in wire order. `wire.py` calls
`encode` and `decode`; a test that wants a malformed method builds the bytes itself.
"""

import struct

from codec import Reader, encode_table, long_string, short_string

DEFINITIONS = """
10 10 connection.start version_major:octet version_minor:octet server_properties:table mechanisms:longstr locales:longstr
10 11 connection.start-ok client_properties:table mechanism:shortstr response:longstr locale:shortstr
10 20 connection.secure challenge:longstr
10 21 connection.secure-ok response:longstr
10 30 connection.tune channel_max:short frame_max:long heartbeat:short
10 31 connection.tune-ok channel_max:short frame_max:long heartbeat:short
10 40 connection.open virtual_host:shortstr reserved1:shortstr reserved2:bit
10 41 connection.open-ok reserved1:shortstr
10 50 connection.close reply_code:short reply_text:shortstr class_id:short method_id:short
10 51 connection.close-ok
10 60 connection.blocked reason:shortstr
10 61 connection.unblocked
10 70 connection.update-secret new_secret:longstr reason:shortstr
10 71 connection.update-secret-ok
20 10 channel.open reserved1:shortstr
20 11 channel.open-ok reserved1:longstr
20 20 channel.flow active:bit
20 21 channel.flow-ok active:bit
20 40 channel.close reply_code:short reply_text:shortstr class_id:short method_id:short
20 41 channel.close-ok
30 10 access.request realm:shortstr exclusive:bit passive:bit active:bit write:bit read:bit
30 11 access.request-ok ticket:short
40 10 exchange.declare ticket:short exchange:shortstr type:shortstr passive:bit durable:bit auto_delete:bit internal:bit nowait:bit arguments:table
40 11 exchange.declare-ok
40 20 exchange.delete ticket:short exchange:shortstr if_unused:bit nowait:bit
40 21 exchange.delete-ok
40 30 exchange.bind ticket:short destination:shortstr source:shortstr routing_key:shortstr nowait:bit arguments:table
40 31 exchange.bind-ok
40 40 exchange.unbind ticket:short destination:shortstr source:shortstr routing_key:shortstr nowait:bit arguments:table
40 51 exchange.unbind-ok
50 10 queue.declare ticket:short queue:shortstr passive:bit durable:bit exclusive:bit auto_delete:bit nowait:bit arguments:table
50 11 queue.declare-ok queue:shortstr message_count:long consumer_count:long
50 20 queue.bind ticket:short queue:shortstr exchange:shortstr routing_key:shortstr nowait:bit arguments:table
50 21 queue.bind-ok
50 30 queue.purge ticket:short queue:shortstr nowait:bit
50 31 queue.purge-ok message_count:long
50 40 queue.delete ticket:short queue:shortstr if_unused:bit if_empty:bit nowait:bit
50 41 queue.delete-ok message_count:long
50 50 queue.unbind ticket:short queue:shortstr exchange:shortstr routing_key:shortstr arguments:table
50 51 queue.unbind-ok
60 10 basic.qos prefetch_size:long prefetch_count:short global:bit
60 11 basic.qos-ok
60 20 basic.consume ticket:short queue:shortstr consumer_tag:shortstr no_local:bit no_ack:bit exclusive:bit nowait:bit arguments:table
60 21 basic.consume-ok consumer_tag:shortstr
60 30 basic.cancel consumer_tag:shortstr nowait:bit
60 31 basic.cancel-ok consumer_tag:shortstr
60 40 basic.publish ticket:short exchange:shortstr routing_key:shortstr mandatory:bit immediate:bit
60 50 basic.return reply_code:short reply_text:shortstr exchange:shortstr routing_key:shortstr
60 60 basic.deliver consumer_tag:shortstr delivery_tag:longlong redelivered:bit exchange:shortstr routing_key:shortstr
60 70 basic.get ticket:short queue:shortstr no_ack:bit
60 71 basic.get-ok delivery_tag:longlong redelivered:bit exchange:shortstr routing_key:shortstr message_count:long
60 72 basic.get-empty cluster_id:shortstr
60 80 basic.ack delivery_tag:longlong multiple:bit
60 90 basic.reject delivery_tag:longlong requeue:bit
60 100 basic.recover-async requeue:bit
60 110 basic.recover requeue:bit
60 111 basic.recover-ok
60 120 basic.nack delivery_tag:longlong multiple:bit requeue:bit
85 10 confirm.select nowait:bit
85 11 confirm.select-ok
90 10 tx.select
90 11 tx.select-ok
90 20 tx.commit
90 21 tx.commit-ok
90 30 tx.rollback
90 31 tx.rollback-ok
"""

PROPERTIES = [
    ("content_type", "shortstr"),
    ("content_encoding", "shortstr"),
    ("headers", "table"),
    ("delivery_mode", "octet"),
    ("priority", "octet"),
    ("correlation_id", "shortstr"),
    ("reply_to", "shortstr"),
    ("expiration", "shortstr"),
    ("message_id", "shortstr"),
    ("timestamp", "longlong"),
    ("type", "shortstr"),
    ("user_id", "shortstr"),
    ("app_id", "shortstr"),
    ("cluster_id", "shortstr"),
]

NUMBERS = {"octet": ">B", "short": ">H", "long": ">I", "longlong": ">Q"}
WRITERS = {"shortstr": short_string, "longstr": long_string, "table": encode_table}
READERS = {"shortstr": Reader.short_string, "longstr": Reader.long_string, "table": Reader.table}
DEFAULTS = {"shortstr": "", "longstr": "", "table": {}, "bit": False}


class Definition:
    """One line of the table: its ids, name and (field, type) list."""

    def __init__(self, line):
        class_id, method_id, self.name, *fields = line.split()
        self.ids = int(class_id), int(method_id)
        self.fields = [tuple(field.split(":")) for field in fields]


BY_NAME = {d.name: d for d in map(Definition, DEFINITIONS.strip().splitlines())}
BY_IDS = {d.ids: d for d in BY_NAME.values()}
CONTENT_METHODS = {"basic.return", "basic.deliver", "basic.get-ok", "basic.publish"}


def encode(name, fields):
    """The payload of a method frame. Fields that are not given are zero, false or empty."""
    definition = BY_NAME[name]
    unknown = set(fields) - {field for field, _ in definition.fields}
    if unknown:
        raise TypeError(f"{name} has no field {sorted(unknown)}")
    out = [struct.pack(">HH", *definition.ids)]
    bits = []
    for field, kind in definition.fields:
        value = fields.get(field, DEFAULTS.get(kind, 0))
        if kind == "bit":
            bits.append(bool(value))
            continue
        out.append(pack_bits(bits))
        bits = []
        out.append(encode_field(kind, value))
    out.append(pack_bits(bits))
    return b"".join(out)


def pack_bits(bits):
    """Consecutive bits share octets, the first in the lowest bit (section 4.2.5.2)."""
    if not bits:
        return b""
    return bytes([sum(1 << place for place, bit in enumerate(bits) if bit)])


def encode_field(kind, value):
    if kind in NUMBERS:
        return struct.pack(NUMBERS[kind], value)
    return WRITERS[kind](value)


def decode_field(kind, reader):
    if kind in NUMBERS:
        return reader.number(NUMBERS[kind])
    return READERS[kind](reader)


def decode(payload):
    """(definition, fields) of a method frame's payload; trailing octets raise."""
    reader = Reader(payload)
    definition = BY_IDS[reader.number(">H"), reader.number(">H")]
    fields = {}
    place = 0
    for field, kind in definition.fields:
        if kind == "bit":
            if place == 0:
                octet = reader.number(">B")
            fields[field] = bool(octet >> place & 1)
            place += 1
            continue
        place = 0
        fields[field] = decode_field(kind, reader)
    if reader.at != len(payload):
        raise ValueError(f"{definition.name} has {len(payload) - reader.at} octets too many")
    return definition, fields


def encode_properties(properties):
    """Property flags and values of a content header (section 4.2.6.1)."""
    if isinstance(properties, bytes):
        return properties
    names = [name for name, _ in PROPERTIES]
    unknown = set(properties) - set(names)
    if unknown:
        raise TypeError(f"no property {sorted(unknown)}")
    flags = 0
    values = []
    for place, (name, kind) in enumerate(PROPERTIES):
        if name in properties:
            flags |= 1 << (15 - place)
            values.append(encode_field(kind, properties[name]))
    return struct.pack(">H", flags) + b"".join(values)


def decode_properties(data, keep_types=False):
    reader = Reader(data)
    flags = reader.number(">H")
    found = {}
    for place, (name, kind) in enumerate(PROPERTIES):
        if flags >> (15 - place) & 1:
            found[name] = (
                reader.table(keep_types) if kind == "table" else decode_field(kind, reader)
            )
    return found
