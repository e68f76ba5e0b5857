"""Class connection, once the handshake is over: frames, errors, close, heartbeats, update-secret.

The handshake itself is in test_handshake.py.
"""

import struct
import time
from contextlib import suppress

import pytest

import methods
from support import check_refusal, ends, refused
from wire import BODY, HEADER, HEARTBEAT, METHOD, Disconnected, Refused, Silence, Wire, frame


def refusal(wire):
    """The connection.close that the broker answers with."""
    with pytest.raises(Refused) as caught:
        wire.next(0)
    return caught.value


def test_close_is_answered_and_the_client_ends_the_socket(connect):
    """After close-ok the broker waits for the client to hang up, at most one heartbeat interval."""
    wire = connect(heartbeat=1)
    wire.call(0, "connection.close", reply_code=200, reply_text="bye")
    assert wire.rest().replace(frame(HEARTBEAT, 0, b""), b"") == b""


def test_close_with_open_channels(wire, names):
    """The channels need no close of their own."""
    for _ in range(3):
        wire.channel().declare(names.queue(), exclusive=True)
    wire.call(0, "connection.close", reply_code=200, reply_text="bye")


def test_close_deletes_exclusive_queues_before_close_ok(connect, ch, names):
    wire = connect()
    name = names.queue()
    wire.channel().declare(name, exclusive=True)
    wire.call(0, "connection.close", reply_code=200, reply_text="bye")
    with refused(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", "queue.declare"):
        ch.declare(name, passive=True)


def test_close_ok_without_close(wire):
    wire.send(0, "connection.close-ok")
    check_refusal(
        refusal(wire),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        "connection.close-ok",
        "connection",
    )


def test_the_client_may_close_while_the_broker_closes(wire):
    wire.answers_close = False
    wire.send(0, "connection.open", virtual_host="/")
    refusal(wire)
    wire.send(0, "connection.close", reply_code=200, reply_text="bye")
    wire.events[0].clear()
    wire.expect(0, "connection.close-ok")


def test_nothing_is_served_after_connection_close(wire, ch, names):
    wire.answers_close = False
    wire.send(0, "connection.open", virtual_host="/")
    refusal(wire)
    ch.send("queue.declare", queue=names.queue())
    with pytest.raises(Silence):
        wire.read_frame(0.2)


@pytest.mark.parametrize(
    "name, fields",
    [
        ("connection.open", {"virtual_host": "/"}),
        ("connection.tune-ok", {}),
        ("connection.start-ok", {}),
        ("connection.secure-ok", {}),
    ],
)
def test_handshake_methods_on_an_open_connection(wire, name, fields):
    wire.send(0, name, **fields)
    check_refusal(
        refusal(wire),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        name,
        "connection",
    )


def test_channel_method_on_channel_0(wire):
    wire.send(0, "channel.open")
    check_refusal(
        refusal(wire),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        "channel.open",
        "connection",
    )


def test_queue_method_on_channel_0(wire):
    wire.send(0, "queue.declare", queue="spec-never")
    check_refusal(
        refusal(wire),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        "queue.declare",
        "connection",
    )


@pytest.mark.parametrize(
    "name, fields",
    [("queue.declare", {}), ("basic.qos", {}), ("channel.close", {}), ("basic.ack", {})],
)
def test_method_on_a_channel_that_is_not_open(wire, name, fields):
    wire.send(7, name, **fields)
    check_refusal(refusal(wire), 504, "CHANNEL_ERROR - expected 'channel.open'", name, "connection")


def test_publish_on_a_channel_that_is_not_open(wire):
    wire.send_raw(
        frame(METHOD, 7, methods.encode("basic.publish", {}))
        + frame(HEADER, 7, struct.pack(">HHQH", 60, 0, 0, 0))
    )
    check_refusal(
        refusal(wire), 504, "CHANNEL_ERROR - expected 'channel.open'", "basic.publish", "connection"
    )


def test_connection_method_on_another_channel(wire, ch):
    ch.send("connection.close", reply_code=200, reply_text="bye")
    with refused(503, "COMMAND_INVALID - unimplemented method", "connection.close", "connection"):
        ch.next()


@pytest.mark.parametrize(
    "channel, class_id, method_id", [(1, 999, 10), (1, 60, 999), (0, 999, 10), (0, 10, 999)]
)
def test_unknown_method(connect, channel, class_id, method_id):
    """RabbitMQ drops the connection without a word; a close that says why is as good."""
    wire = connect()
    wire.channel(1)
    wire.send_frame(METHOD, channel, struct.pack(">HH", class_id, method_id))
    ends(wire, codes=(503, 540))


def test_method_frame_shorter_than_its_fields(wire, ch):
    payload = methods.encode("queue.declare", {"queue": "xx"})
    wire.send_frame(METHOD, ch.number, payload[:9])
    check_refusal(
        refusal(wire),
        501,
        "FRAME_ERROR - cannot decode <<0,0,2,120,120>>",
        "queue.declare",
        "connection",
    )


def test_method_frame_longer_than_its_fields(wire, ch):
    wire.send_frame(METHOD, ch.number, methods.encode("queue.declare", {"queue": "xx"}) + b"x")
    check_refusal(
        refusal(wire),
        501,
        "FRAME_ERROR - cannot decode <<0,0,2,120,120,0,0,0,0,0,120>>",
        "queue.declare",
        "connection",
    )


@pytest.mark.parametrize(
    "table",
    [
        b"\0\0\0\4\1aZa",
        b"\0\0\0\5\1aI\0\0",
        b"\0\0\0\4\1aS\0",
        b"\0\0\0\x0a\1aS\xff\xff\xff\xffab",
        b"\0\0\0\7\1aA\0\0\0\1",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xff",
    ],
    ids=["type", "int", "string", "huge-string", "array", "huge-table", "key"],
)
def test_malformed_field_table(connect, table):
    wire = connect()
    channel = wire.channel()
    channel.send("queue.declare", exclusive=True, arguments=table)
    ends(wire)


def test_deeply_nested_field_table(connect):
    """Nesting costs the broker nothing but that connection, whatever it answers."""
    wire = connect()
    wire.channel().send("queue.declare", exclusive=True, arguments=encode_deep(5000))
    with suppress(Disconnected, Refused):
        wire.expect(1, "queue.declare-ok")
    connect().channel()


def encode_deep(depth):
    """A table in a table in a table..., built from the inside."""
    table = b"\0\0\0\0"
    for _ in range(depth):
        field = b"\1aF" + table
        table = struct.pack(">I", len(field)) + field
    return table


def test_empty_method_frame(wire, ch):
    wire.send_frame(METHOD, ch.number, b"")
    check_refusal(
        refusal(wire),
        501,
        "FRAME_ERROR - type 1, all octets = <<>>: unknown_frame",
        None,
        "connection",
    )


def test_unknown_frame_type(wire, ch):
    wire.send_frame(4, ch.number, b"abc")
    check_refusal(
        refusal(wire),
        501,
        'FRAME_ERROR - type 4, all octets = <<"abc">>: unknown_frame',
        None,
        "connection",
    )


def test_unknown_frame_type_on_channel_0(wire):
    wire.send_frame(9, 0, b"0123456789abcdefXYZ")
    check_refusal(
        refusal(wire),
        501,
        'FRAME_ERROR - type 9, first 16 octets = <<"0123456789abcdef">>: unknown_frame',
        None,
        "connection",
    )


def test_body_frame_on_channel_0(wire):
    wire.send_frame(BODY, 0, b"abc")
    check_refusal(
        refusal(wire),
        505,
        'UNEXPECTED_FRAME - type 3, all octets = <<"abc">>',
        None,
        "connection",
    )


def test_heartbeat_on_a_channel(wire, ch):
    wire.send_frame(HEARTBEAT, ch.number, b"")
    check_refusal(
        refusal(wire), 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", None, "connection"
    )


def test_heartbeat_with_payload(wire):
    wire.send_frame(HEARTBEAT, 0, b"x")
    check_refusal(
        refusal(wire),
        501,
        'FRAME_ERROR - type 8, all octets = <<"x">>: unknown_frame',
        None,
        "connection",
    )


def test_bad_frame_end(wire, ch):
    wire.send_frame(METHOD, ch.number, methods.encode("basic.qos", {}), end=0xCD)
    check_refusal(
        refusal(wire),
        501,
        "FRAME_ERROR - type 1, all octets = <<0,60,0,10,0,0,0,0,0,0,0>>:"
        " {invalid_frame_end_marker,205}",
        None,
        "connection",
    )


def test_frame_larger_than_frame_max(connect):
    """The payload may be up to frame_max itself: RabbitMQ forgives the 8 octets of framing."""
    wire = connect(frame_max=4096)
    channel = wire.channel()
    wire.send_raw(struct.pack(">BHI", BODY, channel.number, 4097))
    check_refusal(
        refusal(wire),
        501,
        "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4097,4088}",
        None,
        "connection",
    )


def test_frame_of_exactly_frame_max_is_taken(connect, names):
    wire = connect(frame_max=4096)
    channel = wire.channel()
    name = channel.declare(names.queue()).queue
    for payload in (4088, 4096):
        wire.send_raw(
            frame(METHOD, 1, methods.encode("basic.publish", {"routing_key": name}))
            + frame(HEADER, 1, struct.pack(">HHQH", 60, 0, payload, 0))
            + frame(BODY, 1, b"x" * payload)
        )
    channel.call("basic.qos")
    assert [len(body) for body in channel.bodies(name)] == [4088, 4096]


def test_the_broker_keeps_to_the_negotiated_frame_max(connect, names):
    channel = connect(frame_max=4096).channel()
    name = channel.declare(names.queue()).queue
    channel.confirm()
    channel.put(name, b"x" * 10000)
    message = channel.get(name)
    assert message.body_frames == [4088, 4088, 1824]


def test_channel_number_is_free_up_to_channel_max(connect):
    """channel_max limits how many channels are open; RabbitMQ does not look at the number."""
    wire = connect(channel_max=2)
    wire.channel(2)
    wire.channel(1)


def test_too_many_channels(connect):
    wire = connect(channel_max=2)
    wire.channel()
    wire.channel()
    wire.send(3, "channel.open")
    check_refusal(
        refusal(wire),
        530,
        "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)",
        None,
        "connection",
    )


@pytest.mark.rabbitmq_only
def test_channel_number_over_channel_max(connect):
    connect(channel_max=2).channel(3)


def test_a_closed_channel_gives_its_place_back(connect):
    wire = connect(channel_max=1)
    for _ in range(3):
        wire.channel(1).close()
    wire.channel(1)


def test_all_2047_channels(connect):
    wire = connect()
    assert wire.tune.channel_max == 2047
    wire.send_raw(
        b"".join(
            frame(METHOD, number, methods.encode("channel.open", {})) for number in range(1, 2048)
        )
    )
    for number in range(1, 2048):
        wire.expect(number, "channel.open-ok")


@pytest.mark.parametrize("secret", ["guest", "another", ""])
def test_update_secret(wire, ch, queue, secret):
    """Whatever it is: of users that the broker itself keeps, the password counts at the login only."""
    reply = wire.call(0, "connection.update-secret", new_secret=secret, reason="rotation")
    assert reply.fields == {}
    assert ch.declare(queue, passive=True).queue == queue


def test_update_secret_on_a_channel(wire, ch):
    ch.send("connection.update-secret", new_secret="x", reason="y")
    with refused(
        503, "COMMAND_INVALID - unimplemented method", "connection.update-secret", "connection"
    ):
        ch.next()


# How late a busy machine may be with what is due after a second.
BUSY_S = 15


def test_heartbeats_come_when_nothing_else_does(connect):
    wire = connect(heartbeat=1)
    started = time.monotonic()
    wire.pump()
    assert wire.heartbeats == 1
    assert time.monotonic() - started < BUSY_S


def test_no_heartbeats_when_switched_off(connect):
    """tune-ok 0 switches them off in both directions, whatever tune said."""
    wire = connect(heartbeat=0)
    with pytest.raises(Silence):
        wire.read_frame(1.2)


def test_a_silent_client_is_dropped(connect):
    """Two heartbeat intervals without an octet: the socket ends, no connection.close is sent."""
    wire = connect(heartbeat=1)
    started = time.monotonic()
    with pytest.raises(Disconnected):
        while True:
            kind, channel, payload = wire.read_frame()
            assert (kind, channel, payload) == (HEARTBEAT, 0, b"")
    assert 1.0 < time.monotonic() - started < BUSY_S


# Long enough that a client that did nothing would have been dropped, with room for a busy machine.
KEPT_S = 6.5


def test_any_traffic_counts_as_a_heartbeat(connect):
    channel = connect(heartbeat=2).channel()
    deadline = time.monotonic() + KEPT_S
    while time.monotonic() < deadline:
        channel.call("basic.qos")
        channel.nothing(0.2)
    channel.call("basic.qos")


def test_heartbeat_frames_keep_the_connection(connect):
    wire = connect(heartbeat=2)
    deadline = time.monotonic() + KEPT_S
    while time.monotonic() < deadline:
        wire.send_frame(HEARTBEAT, 0, b"")
        with suppress(Silence):
            wire.pump(0.5)
    wire.channel()


def test_a_frame_may_come_one_octet_at_a_time(wire, ch, queue):
    for octet in frame(METHOD, ch.number, methods.encode("basic.get", {"queue": queue})):
        wire.send_raw(bytes([octet]))
    ch.expect("basic.get-empty")


def test_many_frames_in_one_write(wire, ch, queue):
    get = frame(METHOD, ch.number, methods.encode("basic.get", {"queue": queue}))
    wire.send_raw(get * 200)
    for _ in range(200):
        ch.expect("basic.get-empty")


def test_half_close_by_the_client(connect):
    """A client that shuts down its writing side is gone: the broker ends the connection."""
    wire = connect()
    wire.sock.shutdown(1)
    assert wire.rest() == b""


def test_two_connections_do_not_disturb_each_other(connect, names):
    """An error on one connection leaves the other, its channels and its exclusive queues."""
    bad, good = connect(), connect()
    channel = good.channel()
    name = channel.declare(names.queue(), exclusive=True).queue
    bad.send(0, "channel.open")
    refusal(bad)
    assert channel.declare(name, passive=True).queue == name


def test_server_properties_stay_in_the_handshake(connect):
    """Nothing is sent unasked after open-ok."""
    wire = connect()
    with pytest.raises(Silence):
        wire.read_frame(0.15)


def test_dialled_but_silent_connection_is_left_alone_for_a_while(connect):
    """No octet is sent before the client's protocol header."""
    wire = connect(stage=Wire.dialled)
    with pytest.raises(Silence):
        wire.read_frame(0.3)
