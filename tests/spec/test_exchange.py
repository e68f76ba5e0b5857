"""Class exchange: declare, delete, bind and unbind between exchanges, and every text of refusal.

How each type routes is in test_routing.py.
"""

import pytest

from support import refused

TYPES = ["direct", "fanout", "topic", "headers"]
BUILT_IN = [
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
]
ON_DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"


def missing(exchange):
    return f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"


def inequivalent(arg, exchange, received, current):
    return (
        f"PRECONDITION_FAILED - inequivalent arg '{arg}' for exchange '{exchange}' in vhost '/':"
        f" received {received} but current is {current}"
    )


# -- declare -------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("durable", [False, True])
def test_declare_and_redeclare(ch, names, type, durable):
    name = names.exchange()
    for _ in range(2):
        ch.exchange(name, type, durable=durable)
    ch.exchange(name, "", passive=True)


def test_passive_of_a_missing_exchange(ch, names):
    name = names.unique()
    with refused(404, missing(name), "exchange.declare"):
        ch.exchange(name, passive=True)


def test_passive_ignores_type_and_flags(ch, names):
    name = names.exchange()
    ch.exchange(name, "topic", durable=True)
    ch.exchange(name, "no-such-type", passive=True, durable=False, auto_delete=True)


@pytest.mark.parametrize("name, type", BUILT_IN)
def test_built_in_exchanges(ch, name, type):
    ch.exchange(name, "direct", passive=True)
    ch.exchange(name, type, durable=True)


def test_built_in_exchange_with_another_type(ch):
    text = inequivalent("type", "amq.direct", "'topic'", "'direct'")
    with refused(406, text, "exchange.declare"):
        ch.exchange("amq.direct", "topic", durable=True)


@pytest.mark.parametrize(
    "fields, arg, received, current",
    [
        ({"type": "fanout"}, "type", "'fanout'", "'direct'"),
        ({"durable": True}, "durable", "'true'", "'false'"),
        ({"auto_delete": True}, "auto_delete", "'true'", "'false'"),
        ({"internal": True}, "internal", "'true'", "'false'"),
        (
            {"arguments": {"alternate-exchange": "amq.fanout"}},
            "alternate-exchange",
            "the value 'amq.fanout' of type 'longstr'",
            "none",
        ),
    ],
)
def test_inequivalent_redeclare(ch, names, fields, arg, received, current):
    name = names.exchange()
    ch.exchange(name)
    with refused(406, inequivalent(arg, name, received, current), "exchange.declare"):
        ch.exchange(name, **fields)


def test_inequivalent_alternate_exchange(ch, names):
    name = names.exchange()
    ch.exchange(name, arguments={"alternate-exchange": "amq.topic"})
    text = inequivalent("alternate-exchange", name, "'amq.fanout'", "'amq.topic'")
    with refused(406, text, "exchange.declare"):
        ch.exchange(name, arguments={"alternate-exchange": "amq.fanout"})


def test_missing_alternate_exchange_argument_is_inequivalent(ch, names):
    name = names.exchange()
    ch.exchange(name, arguments={"alternate-exchange": "amq.topic"})
    text = inequivalent(
        "alternate-exchange", name, "none", "the value 'amq.topic' of type 'longstr'"
    )
    with refused(406, text, "exchange.declare"):
        ch.exchange(name)


def test_unknown_arguments_are_not_compared(ch, names):
    name = names.exchange()
    ch.exchange(name, arguments={"x-anything": 1})
    ch.exchange(name, arguments={"x-other": "y"})


def test_inequivalence_is_found_in_order(ch, names):
    """type, durable, auto_delete, internal, then arguments: the first that differs is named."""
    name = names.exchange()
    ch.exchange(name)
    text = inequivalent("type", name, "'topic'", "'direct'")
    with refused(406, text, "exchange.declare"):
        ch.exchange(name, "topic", durable=True, auto_delete=True, internal=True)


def test_unknown_type(ch, names):
    with refused(
        503, "COMMAND_INVALID - unknown exchange type 'x-no-such'", "exchange.declare", "connection"
    ):
        ch.exchange(names.unique(), "x-no-such")


@pytest.mark.rabbitmq_only
def test_type_that_is_another_atom(ch, names):
    """A word that Erlang happens to know gives another text."""
    text = "COMMAND_INVALID - invalid exchange type 'true'"
    with refused(503, text, "exchange.declare", "connection"):
        ch.exchange(names.unique(), "true")


def test_reserved_prefix(ch):
    text = "ACCESS_REFUSED - exchange name 'amq.spec' contains reserved prefix 'amq.*'"
    with refused(403, text, "exchange.declare"):
        ch.exchange("amq.spec")


def test_reserved_prefix_passive(ch):
    with refused(404, missing("amq.spec"), "exchange.declare"):
        ch.exchange("amq.spec", passive=True)


def test_default_exchange_cannot_be_declared(ch):
    with refused(403, ON_DEFAULT, "exchange.declare"):
        ch.exchange("")


def test_default_exchange_cannot_be_declared_passively(ch):
    with refused(403, ON_DEFAULT, "exchange.declare"):
        ch.exchange("", passive=True)


def test_alternate_exchange_of_a_wrong_type(ch, names):
    name = names.unique()
    text = (
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange'"
        f" in exchange '{name}' in vhost '/'"
    )
    with refused(406, text, "exchange.declare"):
        ch.exchange(name, arguments={"alternate-exchange": 1})


def test_name_of_255_octets(ch, names):
    name = names.unique().ljust(255, "x")
    ch.exchange(name)
    ch.call("exchange.delete", exchange=name)


def test_line_breaks_are_taken_out_of_names(ch, names):
    name = names.exchange()
    ch.exchange(f"\r{name}\n")
    ch.exchange(name, passive=True)


# -- delete --------------------------------------------------------------------------------------


def test_delete(ch, names):
    name = names.exchange()
    ch.exchange(name)
    ch.call("exchange.delete", exchange=name)
    with refused(404, missing(name), "exchange.declare"):
        ch.exchange(name, passive=True)


def test_delete_of_a_missing_exchange_is_fine(ch, names):
    ch.call("exchange.delete", exchange=names.unique())


def test_delete_if_unused(ch, names, queue):
    name = names.exchange()
    ch.exchange(name)
    ch.bind(queue, name, "k")
    text = f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"
    with refused(406, text, "exchange.delete"):
        ch.call("exchange.delete", exchange=name, if_unused=True)


def test_delete_if_unused_looks_at_bindings_from_it_only(ch, names):
    """A destination of a binding is not in use."""
    source, name = names.exchange(), names.exchange()
    ch.exchange(source)
    ch.exchange(name)
    ch.call("exchange.bind", destination=name, source=source)
    ch.call("exchange.delete", exchange=name, if_unused=True)


@pytest.mark.parametrize("name, type", BUILT_IN)
def test_built_in_exchanges_cannot_be_deleted(ch, name, type):
    text = f"ACCESS_REFUSED - deletion of system exchange '{name}' in vhost '/' not allowed"
    with refused(403, text, "exchange.delete"):
        ch.call("exchange.delete", exchange=name)


def test_missing_exchange_with_a_reserved_name_cannot_be_deleted(ch):
    text = "ACCESS_REFUSED - deletion of system exchange 'amq.spec' in vhost '/' not allowed"
    with refused(403, text, "exchange.delete"):
        ch.call("exchange.delete", exchange="amq.spec")


def test_default_exchange_cannot_be_deleted(ch):
    with refused(403, ON_DEFAULT, "exchange.delete"):
        ch.call("exchange.delete", exchange="")


def test_delete_takes_the_bindings_along(ch, names, queue):
    name = names.exchange()
    ch.exchange(name, "fanout")
    ch.bind(queue, name)
    ch.call("exchange.delete", exchange=name)
    ch.exchange(name, "fanout")
    ch.publish(name, "", b"x", mandatory=True)
    assert ch.expect("basic.return").reply_code == 312


# -- auto-delete ---------------------------------------------------------------------------------


def test_auto_delete_after_the_last_unbind(ch, names, queue):
    name = names.exchange()
    ch.exchange(name, auto_delete=True)
    ch.bind(queue, name, "a")
    ch.bind(queue, name, "b")
    ch.call("queue.unbind", queue=queue, exchange=name, routing_key="a")
    ch.exchange(name, passive=True)
    ch.call("queue.unbind", queue=queue, exchange=name, routing_key="b")
    with refused(404, missing(name), "exchange.declare"):
        ch.exchange(name, passive=True)


def test_auto_delete_after_the_queue_is_gone(ch, names, queue):
    name = names.exchange()
    ch.exchange(name, auto_delete=True)
    ch.bind(queue, name, "a")
    ch.delete(queue)
    with refused(404, missing(name), "exchange.declare"):
        ch.exchange(name, passive=True)


def test_auto_delete_exchange_that_was_never_bound_stays(ch, names, queue):
    name = names.exchange()
    ch.exchange(name, auto_delete=True)
    ch.delete(queue)
    ch.exchange(name, passive=True)


def test_auto_delete_with_exchange_bindings(ch, names):
    """The source is deleted when its last binding goes, here with the destination exchange."""
    source, target = names.exchange(), names.exchange()
    ch.exchange(source, auto_delete=True)
    ch.exchange(target)
    ch.call("exchange.bind", destination=target, source=source)
    ch.call("exchange.delete", exchange=target)
    with refused(404, missing(source), "exchange.declare"):
        ch.exchange(source, passive=True)


def test_auto_delete_runs_up_a_chain(ch, names, queue):
    """Deleting the destination of one exchange may be the end of the next."""
    first, second = names.exchange(), names.exchange()
    ch.exchange(first, auto_delete=True)
    ch.exchange(second, auto_delete=True)
    ch.call("exchange.bind", destination=second, source=first)
    ch.bind(queue, second)
    ch.call("queue.unbind", queue=queue, exchange=second)
    with refused(404, missing(first), "exchange.declare"):
        ch.exchange(first, passive=True)


# -- internal ------------------------------------------------------------------------------------


def test_publish_to_an_internal_exchange(ch, names):
    name = names.exchange()
    ch.exchange(name, internal=True)
    text = f"ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'"
    ch.publish(name, "k", b"x")
    with refused(403, text, "basic.publish"):
        ch.next()


def test_internal_exchange_routes_what_another_exchange_gives_it(ch, names, queue):
    outer, inner = names.exchange(), names.exchange()
    ch.exchange(outer, "fanout")
    ch.exchange(inner, "fanout", internal=True)
    ch.call("exchange.bind", destination=inner, source=outer)
    ch.bind(queue, inner)
    ch.confirm()
    ch.publish(outer, "", b"through")
    ch.expect("basic.ack")
    assert ch.get(queue).body == b"through"


# -- bind and unbind -----------------------------------------------------------------------------


def test_bind_missing_source(ch, names):
    target, source = names.exchange(), names.unique()
    ch.exchange(target)
    with refused(404, missing(source), "exchange.bind"):
        ch.call("exchange.bind", destination=target, source=source)


def test_bind_missing_destination(ch, names):
    source, target = names.exchange(), names.unique()
    ch.exchange(source)
    with refused(404, missing(target), "exchange.bind"):
        ch.call("exchange.bind", destination=target, source=source)


def test_bind_both_missing(ch, names):
    source, target = names.unique(), names.unique()
    with refused(404, missing(source), "exchange.bind"):
        ch.call("exchange.bind", destination=target, source=source)


@pytest.mark.parametrize("method", ["exchange.bind", "exchange.unbind"])
@pytest.mark.parametrize("end", ["source", "destination"])
def test_default_exchange_cannot_be_bound(ch, method, end):
    ends = {"source": "amq.fanout", "destination": "amq.direct", end: ""}
    with refused(403, ON_DEFAULT, method):
        ch.call(method, **ends)


def test_bind_twice_is_one_binding(ch, names, queue):
    source, target = names.exchange(), names.exchange()
    ch.exchange(source, "fanout")
    ch.exchange(target, "fanout")
    ch.bind(queue, target)
    for _ in range(2):
        ch.call("exchange.bind", destination=target, source=source, routing_key="k")
    ch.confirm()
    ch.publish(source, "k", b"once")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"once"]
    ch.call("exchange.unbind", destination=target, source=source, routing_key="k")
    ch.publish(source, "k", b"never", mandatory=True)
    assert ch.expect("basic.return").reply_code == 312


def test_unbind_of_a_missing_binding_is_fine(ch, names):
    source, target = names.exchange(), names.exchange()
    ch.exchange(source)
    ch.exchange(target)
    ch.call("exchange.unbind", destination=target, source=source, routing_key="never")


def test_unbind_with_missing_exchanges_is_fine(ch, names):
    ch.call("exchange.unbind", destination=names.unique(), source=names.unique())


# -- nowait --------------------------------------------------------------------------------------


def test_nowait_variants_are_done_and_not_answered(wire, ch, names, queue):
    source, target = names.exchange(), names.exchange()
    for name in (source, target):
        ch.send("exchange.declare", exchange=name, type="fanout", nowait=True)
    ch.send("exchange.bind", destination=target, source=source, nowait=True)
    ch.bind(queue, target)
    ch.confirm()
    ch.publish(source, "", b"x")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"x"]
    ch.send("exchange.unbind", destination=target, source=source, nowait=True)
    ch.publish(source, "", b"y", mandatory=True)
    ch.expect("basic.return")
    ch.expect("basic.ack")
    ch.send("exchange.delete", exchange=source, nowait=True)
    with refused(404, missing(source), "exchange.declare"):
        ch.exchange(source, passive=True)


def test_nowait_errors_are_told(ch, names):
    name = names.unique()
    ch.send("exchange.declare", exchange=name, passive=True, nowait=True)
    with refused(404, missing(name), "exchange.declare"):
        ch.next()
