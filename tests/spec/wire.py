"""A raw AMQP 0-9-1 client for tests: a socket, frames, and just enough of a session.

It never hides what happened: frames come out in the order they came in, nothing is answered behind the
test's back except a close (so that a refusal leaves no half-closed peer), and anything, however malformed,
can be sent. It is not a client for use: one thread, no recovery, no flow control.
"""

import socket
import struct
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import methods
from codec import encode_table

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
DEADLINE_S = 20.0

CAPABILITIES = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


class Broker(NamedTuple):
    """Where and as whom to connect; `parse` reads an amqp URL as RabbitMQ's URI specification has it."""

    host: str
    port: int
    user: str
    password: str
    vhost: str

    @classmethod
    def parse(cls, url):
        parts = urlsplit(url)
        if parts.scheme != "amqp":
            raise ValueError(f"not an amqp URL: {url}")
        return cls(
            parts.hostname or "127.0.0.1",
            parts.port or 5672,
            unquote(parts.username or "guest"),
            unquote(parts.password or "guest"),
            unquote(parts.path[1:]) or "/",
        )


class Frame(NamedTuple):
    type: int
    channel: int
    payload: bytes


class Method:
    """A received method: its name, its fields as attributes."""

    def __init__(self, name, fields):
        self.name = name
        self.fields = fields

    def __getattr__(self, field):
        try:
            return self.__dict__["fields"][field]
        except KeyError:
            raise AttributeError(field) from None

    def __repr__(self):
        return f"{self.name}({self.fields})"


class Message(Method):
    """A method that carries content, with the content: `raw_properties` are the octets as received."""

    def __init__(self, name, fields, raw_properties, body, body_frames):
        super().__init__(name, fields)
        self.raw_properties = raw_properties
        self.body = body
        self.body_frames = body_frames

    @property
    def properties(self):
        return methods.decode_properties(self.raw_properties)

    @property
    def typed_headers(self):
        return methods.decode_properties(self.raw_properties, keep_types=True)["headers"]

    @property
    def headers(self):
        return self.properties.get("headers", {})

    def __repr__(self):
        return f"{self.name}({self.fields}, {self.body[:40]!r})"


class Refused(Exception):
    """The broker closed a channel (`scope` "channel") or the connection ("connection")."""

    def __init__(self, scope, close):
        self.scope = scope
        self.code = close.reply_code
        self.text = close.reply_text
        self.ids = (close.class_id, close.method_id)
        super().__init__(f"{scope}: {self.code} {self.text} {self.ids}")


class Disconnected(Exception):
    """The broker ended the TCP connection without (further) words."""


class Silence(Exception):
    """Nothing came before the deadline."""


class Wire:
    """One TCP connection. `opened` does the whole handshake, `dialled` only the TCP part."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""
        self.frame_max = 131072
        self.server_properties = {}
        self.heartbeats = 0
        self.next_channel = 1
        self.answers_close = True
        self.events = {}
        self.partial = {}

    # -- setting up ------------------------------------------------------------------------------

    @classmethod
    def dialled(cls, broker):
        sock = socket.create_connection((broker.host, broker.port), timeout=DEADLINE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock)

    @classmethod
    def started(cls, broker):
        """Protocol header sent, connection.start received (it is left in `start`)."""
        wire = cls.dialled(broker)
        wire.send_raw(PROTOCOL_HEADER)
        wire.start = wire.expect(0, "connection.start")
        wire.server_properties = wire.start.server_properties
        return wire

    @classmethod
    def tuned(cls, broker, **start_ok):
        """Logged in, connection.tune received (it is left in `tune`)."""
        wire = cls.started(broker)
        wire.start_ok(broker, **start_ok)
        wire.tune = wire.expect(0, "connection.tune")
        return wire

    @classmethod
    def opened(cls, broker, heartbeat=0, frame_max=None, channel_max=None, **start_ok):
        wire = cls.tuned(broker, **start_ok)
        wire.tune_ok(heartbeat, frame_max, channel_max)
        wire.send(0, "connection.open", virtual_host=broker.vhost)
        wire.expect(0, "connection.open-ok")
        return wire

    def start_ok(self, broker, mechanism="PLAIN", response=None, capabilities=CAPABILITIES):
        if response is None:
            response = f"\0{broker.user}\0{broker.password}"
        self.send(
            0,
            "connection.start-ok",
            client_properties={"product": "spec", "capabilities": capabilities},
            mechanism=mechanism,
            response=response,
            locale="en_US",
        )

    def tune_ok(self, heartbeat=0, frame_max=None, channel_max=None):
        self.frame_max = self.tune.frame_max if frame_max is None else frame_max
        self.send(
            0,
            "connection.tune-ok",
            channel_max=self.tune.channel_max if channel_max is None else channel_max,
            frame_max=self.frame_max,
            heartbeat=heartbeat,
        )

    def channel(self, number=None):
        channel = Channel(self, number or self.next_channel)
        self.next_channel = max(self.next_channel, channel.number) + 1
        channel.call("channel.open")
        return channel

    # -- sending ---------------------------------------------------------------------------------

    def send_raw(self, data):
        self.sock.sendall(data)

    def send_frame(self, kind, channel, payload, end=FRAME_END):
        self.send_raw(frame(kind, channel, payload, end))

    def send(self, channel, name, **fields):
        self.send_frame(METHOD, channel, methods.encode(name, fields))

    def call(self, channel, name, **fields):
        self.send(channel, name, **fields)
        return self.expect(channel, *replies(name))

    # -- receiving -------------------------------------------------------------------------------

    def read_frame(self, timeout=DEADLINE_S):
        """The next frame on any channel; Silence after `timeout` seconds, Disconnected at the end."""
        deadline = time.monotonic() + timeout
        head = self.read_exactly(7, deadline)
        kind, channel, size = struct.unpack(">BHI", head)
        rest = self.read_exactly(7 + size + 1, deadline)
        assert rest[-1] == FRAME_END, f"bad frame end in {rest!r}"
        self.buffer = self.buffer[len(rest) :]
        return Frame(kind, channel, rest[7:-1])

    def read_exactly(self, count, deadline):
        """The first `count` octets not yet consumed, left in the buffer."""
        while len(self.buffer) < count:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise Silence(f"{len(self.buffer)} octets unread")
            self.sock.settimeout(remaining)
            try:
                data = self.sock.recv(262144)
            except TimeoutError:
                raise Silence(f"{len(self.buffer)} octets unread") from None
            except ConnectionError as error:
                raise Disconnected(str(error)) from None
            if not data:
                raise Disconnected("end of stream")
            self.buffer += data
        return self.buffer[:count]

    def rest(self, timeout=DEADLINE_S):
        """Every octet until the broker ends the connection."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.read_exactly(len(self.buffer) + 1, deadline)
            except Disconnected:
                return self.buffer

    def pump(self, timeout=DEADLINE_S):
        """Reads one frame into the events of its channel; returns the channel number."""
        kind, channel, payload = self.read_frame(timeout)
        if kind == HEARTBEAT:
            assert (channel, payload) == (0, b"")
            self.heartbeats += 1
            return channel
        event = self.assemble(kind, channel, payload)
        if event is None:
            return channel
        self.events.setdefault(channel, deque()).append(event)
        if self.answers_close and event.name in ("connection.close", "channel.close"):
            self.answer(channel, event.name + "-ok")
        return channel

    def answer(self, channel, name):
        """Sends a close-ok; a broker that is gone already does not mind."""
        with suppress(ConnectionError):
            self.send(channel, name)

    def assemble(self, kind, channel, payload):
        """The method or message that this frame completes, or None."""
        if kind == METHOD:
            assert channel not in self.partial, "method frame inside content"
            definition, fields = methods.decode(payload)
            if definition.name in methods.CONTENT_METHODS:
                self.partial[channel] = [definition.name, fields]
                return None
            return Method(definition.name, fields)
        part = self.partial[channel]
        if kind == HEADER:
            class_id, weight, size = struct.unpack(">HHQ", payload[:12])
            assert (class_id, weight, len(part)) == (60, 0, 2)
            part += [payload[12:], size, []]
        else:
            assert kind == BODY and len(part) == 5
            part[4].append(payload)
        name, fields, properties, size, pieces = part
        body = b"".join(pieces)
        assert len(body) <= size
        if len(body) < size:
            return None
        del self.partial[channel]
        return Message(name, fields, properties, body, [len(piece) for piece in pieces])

    def next(self, channel, timeout=DEADLINE_S):
        """The next method or message on `channel`; a close raises Refused."""
        deadline = time.monotonic() + timeout
        while True:
            self.raise_if_closed()
            mine = self.events.get(channel)
            if mine:
                event = mine.popleft()
                if event.name == "channel.close":
                    raise Refused("channel", event)
                return event
            self.pump(max(0.0, deadline - time.monotonic()))

    def raise_if_closed(self):
        for event in self.events.get(0, ()):
            if event.name == "connection.close":
                raise Refused("connection", event)

    def expect(self, channel, *names, timeout=DEADLINE_S):
        event = self.next(channel, timeout)
        assert event.name in names, f"expected {names}, got {event!r}"
        return event

    # -- ending ----------------------------------------------------------------------------------

    def close(self):
        """An orderly close where possible; never raises, so that teardown cannot hide a failure."""
        try:
            self.send(0, "connection.close", reply_code=200, reply_text="bye")
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                self.pump(1.0)
                if any(event.name == "connection.close-ok" for event in self.events.get(0, ())):
                    break
        except (OSError, Disconnected, Silence, AssertionError, ValueError, KeyError):
            pass
        self.sock.close()


class Channel:
    """One channel of a Wire, with short forms of what tests do most."""

    def __init__(self, wire, number):
        self.wire = wire
        self.number = number

    def send(self, name, **fields):
        self.wire.send(self.number, name, **fields)

    def call(self, name, **fields):
        return self.wire.call(self.number, name, **fields)

    def next(self, timeout=DEADLINE_S):
        return self.wire.next(self.number, timeout)

    def expect(self, *names, timeout=DEADLINE_S):
        return self.wire.expect(self.number, *names, timeout=timeout)

    def nothing(self, seconds=0.15):
        """Asserts that nothing comes on this channel for `seconds`."""
        try:
            event = self.next(seconds)
        except Silence:
            return
        raise AssertionError(f"expected nothing, got {event!r}")

    def close(self):
        return self.call("channel.close", reply_code=200, reply_text="bye")

    def publish(
        self, exchange, routing_key, body=b"", mandatory=False, immediate=False, **properties
    ):
        self.publish_raw(
            methods.encode_properties(properties),
            body,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=mandatory,
            immediate=immediate,
        )

    def publish_raw(self, properties, body, **publish):
        """Sends method, header and body frames at once; `properties` are octets."""
        header = struct.pack(">HHQ", 60, 0, len(body)) + properties
        piece = (self.wire.frame_max or 131072) - 8
        frames = [
            frame(METHOD, self.number, methods.encode("basic.publish", publish)),
            frame(HEADER, self.number, header),
        ]
        frames += [
            frame(BODY, self.number, body[at : at + piece]) for at in range(0, len(body), piece)
        ]
        self.wire.send_raw(b"".join(frames))

    def declare(self, queue="", **fields):
        return self.call("queue.declare", queue=queue, **fields)

    def delete(self, queue, **fields):
        return self.call("queue.delete", queue=queue, **fields)

    def bind(self, queue, exchange, routing_key="", arguments=None):
        return self.call(
            "queue.bind",
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            arguments=arguments or {},
        )

    def exchange(self, exchange, type="direct", **fields):
        return self.call("exchange.declare", exchange=exchange, type=type, **fields)

    def get(self, queue, no_ack=True):
        """The message at the head of the queue, or None."""
        reply = self.call("basic.get", queue=queue, no_ack=no_ack)
        return None if reply.name == "basic.get-empty" else reply

    def bodies(self, queue):
        """Takes everything the queue has, by get; returns the bodies in order."""
        found = []
        while (message := self.get(queue)) is not None:
            found.append(message.body)
        return found

    def consume(self, queue, tag="", **fields):
        """Subscribes and returns the consumer tag; deliveries to other consumers may come between."""
        self.send("basic.consume", queue=queue, consumer_tag=tag, **fields)
        aside = []
        while (event := self.next()).name != "basic.consume-ok":
            assert event.name == "basic.deliver", f"expected basic.consume-ok, got {event!r}"
            aside.append(event)
        self.wire.events.setdefault(self.number, deque()).extendleft(reversed(aside))
        return event.consumer_tag

    def deliveries(self, count, timeout=DEADLINE_S):
        return [self.expect("basic.deliver", timeout=timeout) for _ in range(count)]

    def ack(self, tag, multiple=False):
        self.send("basic.ack", delivery_tag=tag, multiple=multiple)

    def nack(self, tag, multiple=False, requeue=True):
        self.send("basic.nack", delivery_tag=tag, multiple=multiple, requeue=requeue)

    def reject(self, tag, requeue=True):
        self.send("basic.reject", delivery_tag=tag, requeue=requeue)

    def qos(self, count, global_=False):
        self.call("basic.qos", prefetch_count=count, **{"global": global_})

    def confirm(self):
        self.call("confirm.select")

    def put(self, queue, *bodies, **properties):
        """Publishes to a queue by name and waits until the broker has them all (needs confirm mode)."""
        for body in bodies:
            self.publish("", queue, body, **properties)
        waiting = len(bodies)
        while waiting > 0:
            waiting -= self.settled()

    def settled(self):
        """How many publishes the next confirm settles, by its tag and multiple flag."""
        ack = self.expect("basic.ack")
        before = self.__dict__.setdefault("highest_confirmed", 0)
        self.highest_confirmed = max(before, ack.delivery_tag)
        return ack.delivery_tag - before if ack.multiple else 1


def frame(kind, channel, payload, end=FRAME_END):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def replies(name):
    if name == "basic.get":
        return "basic.get-ok", "basic.get-empty"
    return (name + "-ok",)


def amqplain(user, password):
    """The AMQPLAIN response: a field table without its length prefix."""
    return encode_table({"LOGIN": user, "PASSWORD": password})[4:]
