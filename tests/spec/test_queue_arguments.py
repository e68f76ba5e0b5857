"""The arguments of queue.declare: what is refused, with which words, and what is compared on redeclare."""

import pytest

from support import refused

QUORUM = {"x-queue-type": "quorum"}
TOO_LONG_MS = ("l", 315360000001)  # ten years and a millisecond


def invalid(arg, queue, why):
    return f"PRECONDITION_FAILED - invalid arg '{arg}' for queue '{queue}' in vhost '/': {why}"


def not_of_type(arg, queue, type):
    return f"PRECONDITION_FAILED - invalid arg '{arg}' for queue '{queue}' in vhost '/' of queue type {type}"


def inequivalent(arg, queue, received, current):
    return (
        f"PRECONDITION_FAILED - inequivalent arg '{arg}' for queue '{queue}' in vhost '/':"
        f" received {received} but current is {current}"
    )


NOT_INTEGERS = [
    ("1000", "longstr"),
    (True, "bool"),
    (1.5, "double"),
    (None, "void"),
    ({}, "table"),
    ([], "array"),
    (("T", 1), "timestamp"),
    (("f", 1.0), "float"),
    (("D", (0, 1)), "decimal"),
    (("x", b"1"), "binary"),
]
INTEGER_ARGS = [
    "x-expires",
    "x-message-ttl",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-queue-version",
]


@pytest.mark.parametrize("value, type", NOT_INTEGERS, ids=[type for _, type in NOT_INTEGERS])
@pytest.mark.parametrize("arg", INTEGER_ARGS)
def test_not_an_integer(ch, names, arg, value, type):
    name = names.queue()
    with refused(406, invalid(arg, name, f'"expected integer, got {type}"'), "queue.declare"):
        ch.declare(name, arguments={arg: value})


@pytest.mark.parametrize("arg", INTEGER_ARGS)
def test_negative(ch, names, arg):
    name = names.queue()
    with refused(406, invalid(arg, name, "{value_negative,-1}"), "queue.declare"):
        ch.declare(name, arguments={arg: -1})


@pytest.mark.parametrize("letter", ["b", "B", "s", "u", "I", "i", "l"])
@pytest.mark.parametrize("arg", ["x-expires", "x-message-ttl", "x-max-length", "x-max-priority"])
def test_every_width_of_integer_is_taken(ch, names, arg, letter):
    ch.declare(names.queue(), arguments={arg: (letter, 100)})


@pytest.mark.parametrize(
    "arg, value, why",
    [
        ("x-expires", 0, "{value_zero,0}"),
        ("x-expires", TOO_LONG_MS, "{value_too_large,315360000001}"),
        ("x-message-ttl", TOO_LONG_MS, "{value_too_large,315360000001}"),
        ("x-dead-letter-routing-key", "k", "routing_key_but_no_dlx_defined"),
        ("x-dead-letter-routing-key", 1, "{unacceptable_type,signedint}"),
        ("x-max-priority", 256, "{max_value_exceeded,256}"),
        ("x-max-priority", ("l", 2**40), "{max_value_exceeded,1099511627776}"),
        ("x-overflow", "no", "invalid_overflow"),
        ("x-overflow", "", "invalid_overflow"),
        ("x-overflow", "Drop-Head", "invalid_overflow"),
        ("x-overflow", 1, "{unacceptable_type,signedint}"),
        ("x-queue-mode", "no", "\"unsupported queue mode 'no'\""),
        ("x-queue-mode", 1, "{unacceptable_type,signedint}"),
        ("x-queue-version", 3, "\"unsupported queue version '3'\""),
        ("x-queue-version", 0, "\"unsupported queue version '0'\""),
        ("x-single-active-consumer", "true", "{unacceptable_type,longstr}"),
        ("x-single-active-consumer", 1, "{unacceptable_type,signedint}"),
        ("x-queue-type", "no", "\"unsupported queue type 'no'\""),
        ("x-queue-type", "Quorum", "\"unsupported queue type 'Quorum'\""),
        ("x-queue-type", 1, "{unacceptable_type,signedint}"),
    ],
)
def test_invalid_value(ch, names, arg, value, why):
    name = names.queue()
    with refused(406, invalid(arg, name, why), "queue.declare"):
        ch.declare(name, arguments={arg: value})


@pytest.mark.parametrize(
    "value, type", [(1, "signedint"), (True, "bool"), ([1], "array"), (None, "void")]
)
def test_dead_letter_exchange_of_a_wrong_type(ch, names, value, type):
    name = names.queue()
    text = (
        f"PRECONDITION_FAILED - invalid type '{type}' for arg 'x-dead-letter-exchange'"
        f" in queue '{name}' in vhost '/'"
    )
    with refused(406, text, "queue.declare"):
        ch.declare(name, arguments={"x-dead-letter-exchange": value})


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-message-ttl": 0},
        {"x-max-length": 0},
        {"x-max-length-bytes": 0},
        {"x-max-length": ("l", 2**40)},
        {"x-max-priority": 0},
        {"x-max-priority": 255},
        {"x-expires": ("l", 315360000000)},
        {"x-message-ttl": ("l", 315360000000)},
        {"x-dead-letter-exchange": ""},
        {"x-dead-letter-exchange": "no-such-exchange", "x-dead-letter-routing-key": ""},
        {"x-overflow": "drop-head"},
        {"x-overflow": "reject-publish"},
        {"x-overflow": "reject-publish-dlx"},
        {"x-queue-mode": "default"},
        {"x-queue-mode": "lazy"},
        {"x-queue-version": 1},
        {"x-queue-version": 2},
        {"x-single-active-consumer": True},
        {"x-single-active-consumer": False},
        {"x-queue-type": "classic"},
        {"x-queue-master-locator": "client-local"},
        {"x-queue-master-locator": "min-masters"},
        {"x-queue-master-locator": "random"},
        {"x-ha-policy": "all"},
        {"x-ha-policy": "nodes", "x-ha-policy-params": ["a"]},
        {"x-ha-policy": 1},
        {"x-anything": {"nested": [1, {"deep": None}]}},
        {"ttl": 5},
    ],
)
def test_taken(ch, names, arguments):
    name = names.queue()
    for _ in range(2):
        ch.declare(name, arguments=arguments)


# -- arguments of another queue type -------------------------------------------------------------


@pytest.mark.rabbitmq_only
@pytest.mark.parametrize(
    "arg, value",
    [
        ("x-delivery-limit", 1),
        ("x-quorum-initial-group-size", 1),
        ("x-max-in-memory-length", 1),
        ("x-max-in-memory-bytes", 1),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-queue-leader-locator", "client-local"),
        ("x-max-age", "1h"),
        ("x-stream-max-segment-size-bytes", 1),
        ("x-initial-cluster-size", 1),
    ],
)
def test_not_an_argument_of_classic_queues(ch, names, arg, value):
    name = names.queue()
    with refused(406, not_of_type(arg, name, "rabbit_classic_queue"), "queue.declare"):
        ch.declare(name, arguments={arg: value})


@pytest.mark.rabbitmq_only
@pytest.mark.parametrize(
    "arg, value",
    [
        ("x-max-priority", 5),
        ("x-queue-mode", "lazy"),
        ("x-queue-version", 2),
        ("x-queue-master-locator", "client-local"),
    ],
)
def test_not_an_argument_of_quorum_queues(ch, names, arg, value):
    name = names.queue()
    with refused(406, not_of_type(arg, name, "rabbit_quorum_queue"), "queue.declare"):
        ch.declare(name, durable=True, arguments={**QUORUM, arg: value})


@pytest.mark.parametrize(
    "arg, value, why",
    [
        ("x-dead-letter-strategy", "no", "invalid_dlx_strategy"),
        ("x-dead-letter-strategy", 1, "{unacceptable_type,signedint}"),
        ("x-queue-leader-locator", "no", "invalid_queue_locator_arg"),
        ("x-queue-leader-locator", 1, "{unacceptable_type,signedint}"),
        ("x-quorum-initial-group-size", 0, "{value_zero,0}"),
        ("x-max-in-memory-length", -1, "{value_negative,-1}"),
        ("x-max-in-memory-bytes", "1", '"expected integer, got longstr"'),
        ("x-expires", 0, "{value_zero,0}"),
    ],
)
def test_invalid_value_of_a_quorum_queue(ch, names, arg, value, why):
    name = names.queue()
    with refused(406, invalid(arg, name, why), "queue.declare"):
        ch.declare(name, durable=True, arguments={**QUORUM, arg: value})


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-delivery-limit": 3},
        {"x-quorum-initial-group-size": 1},
        {"x-max-in-memory-length": 5, "x-max-in-memory-bytes": 500},
        {"x-queue-leader-locator": "client-local"},
        {"x-queue-leader-locator": "balanced"},
        {"x-dead-letter-strategy": "at-most-once"},
        {"x-message-ttl": 1000, "x-expires": 60000, "x-max-length": 5},
        {"x-single-active-consumer": True},
    ],
)
def test_taken_by_a_quorum_queue(ch, names, arguments):
    name = names.queue()
    for _ in range(2):
        ch.declare(name, durable=True, arguments={**QUORUM, **arguments})


@pytest.mark.rabbitmq_only
@pytest.mark.parametrize(
    "fields, property",
    [
        ({}, "non-durable"),
        ({"durable": True, "exclusive": True}, "exclusive-owner"),
        ({"durable": True, "auto_delete": True}, "auto-delete"),
    ],
)
def test_quorum_queue_refuses_properties(ch, names, fields, property):
    name = names.queue()
    text = f"PRECONDITION_FAILED - invalid property '{property}' for queue '{name}' in vhost '/'"
    with refused(406, text, "queue.declare"):
        ch.declare(name, arguments=QUORUM, **fields)


@pytest.mark.rabbitmq_only
def test_quorum_queue_needs_a_name(ch):
    text = "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_quorum_queue"
    with refused(406, text, "queue.declare"):
        ch.declare("", durable=True, arguments=QUORUM)


@pytest.mark.leveret_only
@pytest.mark.parametrize(
    "fields",
    [{}, {"durable": True, "exclusive": True}, {"durable": True, "auto_delete": True}],
)
@pytest.mark.parametrize("arguments", [QUORUM, {"x-ha-policy": "all"}])
def test_every_kind_of_queue_can_be_mirrored(ch, names, fields, arguments):
    """DESIGN.md, Promises: a mirrored queue may be non-durable, exclusive or auto-delete."""
    name = names.queue()
    ch.declare(name, arguments={**arguments, "x-max-priority": 5, "x-expires": 60000}, **fields)
    ch.confirm()
    ch.put(name, b"x")
    assert ch.get(name).body == b"x"


@pytest.mark.leveret_only
@pytest.mark.parametrize("first", [{}, QUORUM, {"x-queue-type": "classic"}, {"x-ha-policy": "all"}])
@pytest.mark.parametrize(
    "second", [{}, QUORUM, {"x-queue-type": "classic"}, {"x-ha-policy": "all"}]
)
def test_type_and_mirroring_are_not_compared(ch, names, first, second):
    """DESIGN.md, Promises: declared as classic, mirrored or quorum, it is the same queue."""
    name = names.queue()
    ch.declare(name, durable=True, arguments=first)
    ch.declare(name, durable=True, arguments=second)


@pytest.mark.leveret_only
@pytest.mark.parametrize(
    "own", [{"x-queue-mode": "lazy"}, {"x-queue-version": 2}, {"x-queue-master-locator": "random"}]
)
def test_what_only_classic_queues_have_is_not_compared_with_quorum(ch, names, own):
    """Between two classic declarations it is: see test_inequivalent."""
    for first, second in [(own, QUORUM), (QUORUM, own)]:
        name = names.queue()
        ch.declare(name, durable=True, arguments=first)
        ch.declare(name, durable=True, arguments=second)


# -- equivalence ---------------------------------------------------------------------------------


DLX = "x-dead-letter-exchange"
DLK = "x-dead-letter-routing-key"


@pytest.mark.parametrize(
    "first, second, arg, received, current",
    [
        ({"x-expires": 60000}, {"x-expires": 70000}, "x-expires", "'70000'", "'60000'"),
        (
            {"x-expires": 60000},
            {},
            "x-expires",
            "none",
            "the value '60000' of type 'signedint'",
        ),
        (
            {},
            {"x-expires": ("l", 60000)},
            "x-expires",
            "the value '60000' of type 'long'",
            "none",
        ),
        ({"x-message-ttl": 5}, {"x-message-ttl": 6}, "x-message-ttl", "'6'", "'5'"),
        ({"x-message-ttl": 5}, {"x-message-ttl": "5"}, "x-message-ttl", "'5'", "'5'"),
        ({"x-max-length": 5}, {"x-max-length": 6}, "x-max-length", "'6'", "'5'"),
        ({"x-max-length-bytes": 5}, {"x-max-length-bytes": 6}, "x-max-length-bytes", "'6'", "'5'"),
        (
            {"x-max-priority": 5},
            {},
            "x-max-priority",
            "none",
            "the value '5' of type 'signedint'",
        ),
        (
            {"x-overflow": "drop-head"},
            {"x-overflow": "reject-publish"},
            "x-overflow",
            "'reject-publish'",
            "'drop-head'",
        ),
        (
            {},
            {"x-overflow": "drop-head"},
            "x-overflow",
            "the value 'drop-head' of type 'longstr'",
            "none",
        ),
        (
            {"x-single-active-consumer": True},
            {"x-single-active-consumer": False},
            "x-single-active-consumer",
            "'false'",
            "'true'",
        ),
        (
            {},
            {"x-single-active-consumer": False},
            "x-single-active-consumer",
            "the value 'false' of type 'bool'",
            "none",
        ),
        ({DLX: "a"}, {DLX: "b"}, DLX, "'b'", "'a'"),
        (
            {DLX: "a", DLK: "k"},
            {DLX: "a"},
            DLK,
            "none",
            "the value 'k' of type 'longstr'",
        ),
        (
            {},
            {"x-queue-mode": "default"},
            "x-queue-mode",
            "the value 'default' of type 'longstr'",
            "none",
        ),
        ({"x-queue-version": 1}, {"x-queue-version": 2}, "x-queue-version", "'2'", "'1'"),
        (
            {},
            {"x-queue-master-locator": "client-local"},
            "x-queue-master-locator",
            "the value 'client-local' of type 'longstr'",
            "none",
        ),
    ],
)
def test_inequivalent(ch, names, first, second, arg, received, current):
    """The type is told only where one side is missing."""
    name = ch.declare(names.queue(), arguments=first).queue
    with refused(406, inequivalent(arg, name, received, current), "queue.declare"):
        ch.declare(name, arguments=second)


@pytest.mark.parametrize(
    "first, second",
    [
        ({"x-expires": 60000}, {"x-expires": ("l", 60000)}),
        ({"x-max-priority": 3}, {"x-max-priority": ("B", 3)}),
        ({}, {"x-queue-type": "classic"}),
        ({"x-queue-type": "classic"}, {}),
        ({"x-ha-policy": "all"}, {}),
        ({}, {"x-ha-policy": "nodes"}),
        ({"x-unknown": 1}, {"x-unknown": 2}),
    ],
)
def test_equivalent(ch, names, first, second):
    """Integers compare by value over all widths; what the queue does not know is not compared."""
    name = ch.declare(names.queue(), arguments=first).queue
    ch.declare(name, arguments=second)


@pytest.mark.rabbitmq_only
@pytest.mark.parametrize(
    "first, second, received, current",
    [
        ({}, QUORUM, "the value 'quorum' of type 'longstr'", "none"),
        (QUORUM, {}, "none", "the value 'quorum' of type 'longstr'"),
        (QUORUM, {"x-queue-type": "classic"}, "'classic'", "'quorum'"),
    ],
)
def test_queue_type_is_compared(ch, names, first, second, received, current):
    name = ch.declare(names.queue(), durable=True, arguments=first).queue
    with refused(406, inequivalent("x-queue-type", name, received, current), "queue.declare"):
        ch.declare(name, durable=True, arguments=second)


@pytest.mark.rabbitmq_only
def test_invalid_arguments_are_not_looked_at_on_redeclare(ch, names):
    """Only the known arguments of the existing type are compared, and values are not validated."""
    name = ch.declare(names.queue()).queue
    ch.declare(name, arguments={"x-delivery-limit": 5})


def test_invalid_value_on_redeclare_is_inequivalent(ch, names):
    name = ch.declare(names.queue(), arguments={"x-overflow": "drop-head"}).queue
    with refused(406, inequivalent("x-overflow", name, "'no'", "'drop-head'"), "queue.declare"):
        ch.declare(name, arguments={"x-overflow": "no"})
