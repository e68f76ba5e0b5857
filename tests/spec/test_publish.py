"""Class basic, publishing: returns, content frames, properties, CC/BCC, user-id."""

import struct

import pytest

import methods
from support import refused
from wire import BODY, HEADER, METHOD, Refused, frame

EVERY_PROPERTY = {
    "content_type": "application/json",
    "content_encoding": "gzip",
    "headers": {
        "string": "text",
        "bytes": ("x", b"\x00\xff"),
        "bool": True,
        "false": False,
        "int8": ("b", -8),
        "uint8": ("B", 200),
        "int16": ("s", -300),
        "uint16": ("u", 60000),
        "int32": ("I", -70000),
        "uint32": ("i", 4000000000),
        "int64": ("l", -(2**60)),
        "float": ("f", 1.5),
        "double": ("d", 1e300),
        "decimal": ("D", (2, 12345)),
        "time": ("T", 1700000000),
        "void": None,
        "list": [1, "two", [3.0], {"four": None}],
        "table": {"inner": {"more": 1}},
        "": "empty key",
        "ključ": "žluť",
    },
    "delivery_mode": 2,
    "priority": 7,
    "correlation_id": "c" * 255,
    "reply_to": "reply",
    "expiration": "3600000",
    "message_id": "id",
    "timestamp": 2**63 - 1,
    "type": "type",
    "app_id": "app",
    "cluster_id": "cluster",
}


# -- mandatory and immediate ---------------------------------------------------------------------


def test_mandatory_is_returned_whole(ch, names):
    key = names.unique()
    raw = methods.encode_properties(EVERY_PROPERTY)
    ch.publish_raw(raw, b"body" * 100000, exchange="amq.topic", routing_key=key, mandatory=True)
    returned = ch.expect("basic.return")
    assert (returned.reply_code, returned.reply_text) == (312, "NO_ROUTE")
    assert (returned.exchange, returned.routing_key) == ("amq.topic", key)
    assert (returned.raw_properties, returned.body) == (raw, b"body" * 100000)


def test_mandatory_on_the_default_exchange(ch, names):
    key = names.unique()
    ch.publish("", key, b"x", mandatory=True)
    returned = ch.expect("basic.return")
    assert (returned.reply_text, returned.exchange, returned.routing_key) == ("NO_ROUTE", "", key)


def test_mandatory_and_routed_is_not_returned(ch, queue):
    ch.publish("", queue, b"x", mandatory=True)
    ch.publish("", queue + "-none", b"y", mandatory=True)
    assert ch.expect("basic.return").body == b"y"


def test_unroutable_without_mandatory_is_dropped(ch, names):
    ch.publish("", names.unique(), b"x")
    ch.call("basic.qos")
    ch.nothing()


def test_return_comes_before_the_ack(ch, names):
    ch.confirm()
    for number in range(1, 4):
        ch.publish("", names.unique(), b"x", mandatory=True)
        ch.expect("basic.return")
        assert ch.expect("basic.ack").delivery_tag == number


@pytest.mark.parametrize("mandatory", [False, True])
def test_immediate(ch, queue, mandatory):
    ch.publish("", queue, b"x", immediate=True, mandatory=mandatory)
    with refused(540, "NOT_IMPLEMENTED - immediate=true", "basic.publish", "connection"):
        ch.next()


def test_publish_to_a_missing_exchange(ch, names):
    name = names.unique()
    ch.publish(name, "k", b"x")
    text = f"NOT_FOUND - no exchange '{name}' in vhost '/'"
    with refused(404, text, "basic.publish"):
        ch.next()


def test_publish_after_a_failed_publish_is_ignored(wire, ch, names, queue):
    """All that is sent before the client sees channel.close is lost."""
    bad = wire.channel()
    bad.publish(names.unique(), "k", b"x")
    for _ in range(10):
        bad.publish("", queue, b"lost")
    with pytest.raises(Refused):
        bad.next()
    wire.channel(bad.number).call("basic.qos")
    assert ch.get(queue) is None


# -- content -------------------------------------------------------------------------------------


def test_every_property_comes_back_byte_for_byte(ch, queue):
    raw = methods.encode_properties(EVERY_PROPERTY)
    ch.publish_raw(raw, b"x", routing_key=queue)
    ch.publish_raw(raw, b"y", routing_key=queue)
    assert ch.get(queue).raw_properties == raw
    ch.consume(queue, no_ack=True)
    assert ch.expect("basic.deliver").raw_properties == raw


@pytest.mark.parametrize("name, _kind", methods.PROPERTIES)
def test_each_property_alone(ch, queue, name, _kind):
    raw = methods.encode_properties({name: {**EVERY_PROPERTY, "user_id": "guest"}[name]})
    ch.publish_raw(raw, b"x", routing_key=queue)
    ch.call("basic.qos")
    assert ch.get(queue).raw_properties == raw


def test_no_properties(ch, queue):
    ch.publish("", queue, b"x")
    assert ch.get(queue).raw_properties == b"\x00\x00"


def test_empty_headers_are_kept(ch, queue):
    raw = methods.encode_properties({"headers": {}})
    ch.publish_raw(raw, b"x", routing_key=queue)
    assert ch.get(queue).raw_properties == raw


def test_repeated_header_keys_are_kept(ch, queue):
    raw = methods.encode_properties({"headers": [("a", 1), ("a", 2)]})
    ch.publish_raw(raw, b"x", routing_key=queue)
    assert ch.get(queue).raw_properties == raw


@pytest.mark.parametrize("size", [0, 1, 131064, 131065, 262128, 1000000, 5000003])
def test_body_sizes(ch, queue, size):
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    ch.confirm()
    ch.put(queue, body)
    message = ch.get(queue)
    assert message.body == body
    full, rest = divmod(size, 131064)
    assert message.body_frames == [131064] * full + ([rest] if rest else [])


def test_body_in_many_small_frames(wire, ch, queue):
    body = b"0123456789" * 50
    wire.send_raw(
        frame(METHOD, ch.number, methods.encode("basic.publish", {"routing_key": queue}))
        + frame(HEADER, ch.number, struct.pack(">HHQH", 60, 0, len(body), 0))
        + b"".join(frame(BODY, ch.number, body[at : at + 1]) for at in range(len(body)))
    )
    ch.call("basic.qos")
    message = ch.get(queue)
    assert (message.body, message.body_frames) == (body, [len(body)])


def test_empty_body_frames_are_harmless(wire, ch, queue):
    wire.send_raw(
        frame(METHOD, ch.number, methods.encode("basic.publish", {"routing_key": queue}))
        + frame(HEADER, ch.number, struct.pack(">HHQH", 60, 0, 2, 0))
        + frame(BODY, ch.number, b"")
        + frame(BODY, ch.number, b"a")
        + frame(BODY, ch.number, b"")
        + frame(BODY, ch.number, b"b")
    )
    ch.call("basic.qos")
    assert ch.get(queue).body == b"ab"


def test_contents_of_two_channels_interleave(wire, queue):
    first, second = wire.channel(), wire.channel()

    def start(channel):
        wire.send_frame(
            METHOD, channel.number, methods.encode("basic.publish", {"routing_key": queue})
        )
        wire.send_frame(HEADER, channel.number, struct.pack(">HHQH", 60, 0, 4, 0))

    start(first)
    start(second)
    for channel, piece in [(first, b"aa"), (second, b"bb"), (second, b"BB"), (first, b"AA")]:
        wire.send_frame(BODY, channel.number, piece)
    for channel in (first, second):
        channel.call("basic.qos")
    assert sorted(first.bodies(queue)) == [b"aaAA", b"bbBB"]


# -- malformed content: the connection ends ------------------------------------------------------


def publish_then(wire, ch, *frames):
    method = frame(METHOD, ch.number, methods.encode("basic.publish", {"routing_key": "spec"}))
    wire.send_raw(method + b"".join(frames))


def header(size, class_id=60, weight=0, properties=b"\x00\x00"):
    return frame(HEADER, 1, struct.pack(">HHQ", class_id, weight, size) + properties)


UNEXPECTED = "UNEXPECTED_FRAME - expected "
NOT_HEADER = UNEXPECTED + "content header for class 60, got non content header frame instead"
NOT_BODY = UNEXPECTED + "content body, got non content body frame instead"
NOT_METHOD = UNEXPECTED + "method frame, got non method frame instead"


@pytest.mark.parametrize(
    "frames, text",
    [
        ([frame(METHOD, 1, methods.encode("basic.qos", {}))], NOT_HEADER),
        ([frame(BODY, 1, b"x")], NOT_HEADER),
        (
            [header(1, class_id=50)],
            UNEXPECTED + "content header for class 60, got one for class 50 instead",
        ),
        ([header(1, weight=1)], NOT_HEADER),
        ([header(1), frame(METHOD, 1, methods.encode("basic.qos", {}))], NOT_BODY),
        ([header(1), header(1)], NOT_BODY),
    ],
    ids=["method", "body", "class", "weight", "method-in-body", "header-in-body"],
)
def test_unexpected_frame_in_content(wire, ch, frames, text):
    publish_then(wire, ch, *frames)
    with refused(505, text, "basic.publish", "connection"):
        ch.next()


@pytest.mark.parametrize("data", [header(0), frame(BODY, 1, b"x")], ids=["header", "body"])
def test_content_without_a_method(wire, ch, data):
    wire.send_raw(data)
    with refused(505, NOT_METHOD, None, "connection"):
        ch.next()


def test_body_after_an_empty_body(wire, ch):
    publish_then(wire, ch, header(0), frame(BODY, 1, b"x"))
    with refused(505, NOT_METHOD, None, "connection"):
        ch.next()


def test_content_frames_of_another_channel_are_no_part_of_it(wire, ch):
    """A body on a channel that is not open is an error of that channel's."""
    publish_then(wire, ch, header(1))
    wire.send_frame(BODY, 9, b"x")
    with refused(505, NOT_METHOD, None, "connection"):
        ch.next()


# -- CC and BCC ----------------------------------------------------------------------------------


def test_cc_and_bcc(ch, names):
    to, cc, bcc = (ch.declare(names.queue()).queue for _ in range(3))
    ch.publish("", to, b"x", headers={"CC": [cc], "BCC": [bcc], "other": 1})
    ch.call("basic.qos")
    for name in (to, cc, bcc):
        message = ch.get(name)
        assert message.headers == {"CC": [cc], "other": 1}
        assert message.routing_key == to


def test_bcc_alone_leaves_empty_headers(ch, names):
    to, bcc = (ch.declare(names.queue()).queue for _ in range(2))
    ch.publish("", to, b"x", headers={"BCC": [bcc]})
    ch.call("basic.qos")
    assert ch.get(to).properties == {"headers": {}}
    assert ch.get(bcc).properties == {"headers": {}}


def test_cc_through_a_topic_exchange(ch, queue):
    ch.bind(queue, "amq.topic", f"{queue}.cc")
    ch.publish("amq.topic", f"{queue}.other", b"x", headers={"CC": [f"{queue}.cc"]}, mandatory=True)
    ch.call("basic.qos")
    assert ch.get(queue).routing_key == f"{queue}.other"


def test_cc_to_the_same_queue_is_one_copy(ch, queue):
    ch.publish("", queue, b"x", headers={"CC": [queue, queue]})
    ch.call("basic.qos")
    assert ch.bodies(queue) == [b"x"]


@pytest.mark.parametrize("key", ["CC", "BCC"])
@pytest.mark.parametrize("value, type", [("one", "longstr"), (5, "signedint"), (None, "void")])
def test_cc_that_is_no_list(ch, queue, key, value, type):
    ch.publish("", queue, b"x", headers={key: value})
    text = (
        "PRECONDITION_FAILED - invalid message:" f' {{unacceptable_type_in_header,"{key}",{type}}}'
    )
    with refused(406, text, "basic.publish"):
        ch.next()


def test_cc_entries_that_are_no_strings_are_passed_over(ch, names):
    to, cc = (ch.declare(names.queue()).queue for _ in range(2))
    ch.publish("", to, b"x", headers={"CC": [1, cc, None]})
    ch.call("basic.qos")
    assert ch.bodies(cc) == [b"x"]


# -- user-id -------------------------------------------------------------------------------------


def test_own_user_id(ch, broker, queue):
    ch.publish("", queue, b"x", user_id=broker.user)
    ch.call("basic.qos")
    assert ch.get(queue).properties == {"user_id": broker.user}


@pytest.mark.parametrize("claimed", ["somebody", "", "Guest"])
def test_foreign_user_id(ch, broker, queue, claimed):
    ch.publish("", queue, b"x", user_id=claimed)
    text = (
        f"PRECONDITION_FAILED - user_id property set to '{claimed}'"
        f" but authenticated user was '{broker.user}'"
    )
    with refused(406, text, "basic.publish"):
        ch.next()


def test_publishing_with_pika(pika_channel, names):
    """The same through an ordinary client: a returned message raises, a routed one does not."""
    import pika

    name = names.queue()
    pika_channel.queue_declare(name)
    pika_channel.confirm_delivery()
    pika_channel.basic_publish("", name, b"x" * 300000, mandatory=True)
    _, _, body = pika_channel.basic_get(name, auto_ack=True)
    assert body == b"x" * 300000
    with pytest.raises(pika.exceptions.UnroutableError) as caught:
        pika_channel.basic_publish("", name + "-none", b"y", mandatory=True)
    assert caught.value.messages[0].method.reply_text == "NO_ROUTE"
