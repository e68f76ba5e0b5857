"""Class queue: declare, bind, unbind, purge, delete, exclusivity, auto-delete, and their refusals.

Arguments are in test_queue_arguments.py, limits and expiry in test_queue_limits.py.
"""

import pytest

from support import consumers, count, refused, wait_count, wait_until
from wire import Refused

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{}' in vhost '/'."
    " It could be originally declared on another connection or the exclusive property value"
    " does not match that of the original declaration."
)


def missing(queue):
    return f"NOT_FOUND - no queue '{queue}' in vhost '/'"


def inequivalent(arg, queue, received, current):
    return (
        f"PRECONDITION_FAILED - inequivalent arg '{arg}' for queue '{queue}' in vhost '/':"
        f" received {received} but current is {current}"
    )


# -- declare -------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("auto_delete", [False, True])
def test_declare_and_redeclare(ch, names, durable, auto_delete):
    name = names.queue()
    for _ in range(2):
        reply = ch.declare(name, durable=durable, auto_delete=auto_delete)
        assert (reply.queue, reply.message_count, reply.consumer_count) == (name, 0, 0)


def test_declare_ok_counts(ch, other, names):
    """Ready messages and consumers; what is out for acknowledgement is not counted."""
    name = ch.declare(names.queue()).queue
    ch.confirm()
    ch.put(name, b"a", b"b", b"c")
    assert ch.declare(name).message_count == 3
    ch.get(name, no_ack=False)
    assert count(other, name) == 2
    other.qos(1)
    other.consume(name)
    other.expect("basic.deliver")
    assert (count(ch, name), consumers(ch, name)) == (1, 1)


def test_passive_of_a_missing_queue(ch, names):
    name = names.unique()
    with refused(404, missing(name), "queue.declare"):
        ch.declare(name, passive=True)


def test_passive_ignores_every_other_field(ch, names):
    name = ch.declare(names.queue()).queue
    ch.declare(name, passive=True, durable=True, auto_delete=True, arguments={"x-expires": 1})


def test_passive_without_a_name(ch):
    with refused(404, missing(""), "queue.declare"):
        ch.declare("", passive=True)


@pytest.mark.parametrize("field, arg", [("durable", "durable"), ("auto_delete", "auto_delete")])
@pytest.mark.parametrize("first", [False, True])
def test_inequivalent_flags(ch, names, field, arg, first):
    name = ch.declare(names.queue(), **{field: first}).queue
    words = {True: "'true'", False: "'false'"}
    with refused(406, inequivalent(arg, name, words[not first], words[first]), "queue.declare"):
        ch.declare(name, **{field: not first})


def test_inequivalence_is_found_in_order(ch, names):
    name = ch.declare(names.queue()).queue
    with refused(406, inequivalent("durable", name, "'true'", "'false'"), "queue.declare"):
        ch.declare(name, durable=True, auto_delete=True, arguments={"x-expires": 60000})


def test_server_named(ch):
    first = ch.declare("", exclusive=True).queue
    second = ch.declare("", exclusive=True).queue
    assert first.startswith("amq.gen-") and second.startswith("amq.gen-") and first != second


def test_empty_name_means_the_last_declared_queue(ch, names):
    """On this channel, by any declare, in every method that names a queue."""
    name = ch.declare(names.queue()).queue
    ch.confirm()
    ch.put(name, b"a", b"b")
    assert ch.get("").body == b"a"
    ch.bind("", "amq.direct", "")
    ch.publish("amq.direct", name, b"c")
    ch.expect("basic.ack")
    ch.call("queue.unbind", queue="", exchange="amq.direct", routing_key="")
    assert ch.call("queue.purge", queue="").message_count == 2
    tag = ch.consume("")
    assert consumers(ch, name) == 1
    ch.call("basic.cancel", consumer_tag=tag)
    ch.delete("")
    with refused(404, missing(name), "queue.declare"):
        ch.declare(name, passive=True)


@pytest.mark.parametrize(
    "method",
    ["queue.bind", "queue.unbind", "queue.purge", "queue.delete", "basic.get", "basic.consume"],
)
def test_empty_name_without_a_declared_queue(ch, method):
    with refused(404, "NOT_FOUND - no previously declared queue", method):
        ch.call(method)


def test_empty_name_with_a_routing_key(ch, queue):
    """Only an empty key with an empty name stands for the queue's name."""
    ch.bind("", "amq.direct", f"{queue}.key")
    ch.confirm()
    ch.publish("amq.direct", f"{queue}.key", b"x")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"x"]


def test_reserved_prefix(ch):
    text = "ACCESS_REFUSED - queue name 'amq.spec' contains reserved prefix 'amq.*'"
    with refused(403, text, "queue.declare"):
        ch.declare("amq.spec")


def test_reserved_prefix_passive(ch):
    with refused(404, missing("amq.spec"), "queue.declare"):
        ch.declare("amq.spec", passive=True)


@pytest.mark.rabbitmq_only
def test_server_named_queue_cannot_be_redeclared_by_name(ch):
    """The reserved prefix is refused even where the queue exists."""
    name = ch.declare("", exclusive=True).queue
    text = f"ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
    with refused(403, text, "queue.declare"):
        ch.declare(name, exclusive=True)


def test_name_of_255_octets(ch, names):
    name = (names.unique() + "x" * 255)[:255]
    assert ch.declare(name, exclusive=True).queue == name
    ch.confirm()
    ch.put(name, b"x")
    assert ch.get(name).routing_key == name


def test_name_in_utf_8(ch, names):
    name = names.queue() + "-žluťoučký-兎"
    assert ch.declare(name, exclusive=True).queue == name
    ch.confirm()
    ch.put(name, b"x")
    assert ch.get(name).routing_key == name


def test_line_breaks_are_taken_out_of_names(ch, names):
    name = names.queue()
    assert ch.declare(f"{name}\r\n").queue == name
    assert ch.declare(f"\n{name}", passive=True).queue == name
    ch.delete(f"{name}\r\n")
    with refused(404, missing(name), "queue.declare"):
        ch.declare(name, passive=True)


def test_nowait_declare(ch, names):
    name = names.queue()
    ch.send("queue.declare", queue=name, nowait=True)
    assert ch.declare(name, passive=True).queue == name


def test_nowait_errors_are_told(ch, names):
    name = names.unique()
    ch.send("queue.declare", queue=name, passive=True, nowait=True)
    with refused(404, missing(name), "queue.declare"):
        ch.next()


# -- exclusive -----------------------------------------------------------------------------------


def test_exclusive_queue_is_locked_for_other_connections(ch, connect, names):
    name = ch.declare(names.queue(), exclusive=True).queue
    ch.bind(name, "amq.direct")
    second = connect()
    for method, fields in [
        ("queue.declare", {"passive": True}),
        ("queue.declare", {"exclusive": True}),
        ("queue.declare", {}),
        ("queue.bind", {"exchange": "amq.direct"}),
        ("queue.unbind", {"exchange": "amq.direct"}),
        ("queue.purge", {}),
        ("queue.delete", {}),
        ("basic.get", {}),
        ("basic.consume", {}),
    ]:
        with refused(405, LOCKED.format(name), method):
            second.channel().call(method, queue=name, **fields)


def test_exclusive_queue_takes_publishes_from_anyone(ch, other, names):
    name = ch.declare(names.queue(), exclusive=True).queue
    other.confirm()
    other.put(name, b"x")
    assert ch.get(name).body == b"x"


def test_exclusive_queue_on_its_own_connection(wire, ch, names):
    """Any channel of the connection may use it."""
    name = ch.declare(names.queue(), exclusive=True).queue
    second = wire.channel()
    second.declare(name, exclusive=True)
    second.declare(name, passive=True)
    second.delete(name)


@pytest.mark.parametrize("first", [False, True])
def test_exclusive_must_be_the_same(ch, names, first):
    name = ch.declare(names.queue(), exclusive=first).queue
    with refused(405, LOCKED.format(name), "queue.declare"):
        ch.declare(name, exclusive=not first)


def test_exclusive_lock_comes_before_other_differences(ch, names):
    name = ch.declare(names.queue()).queue
    with refused(405, LOCKED.format(name), "queue.declare"):
        ch.declare(name, exclusive=True, durable=True, arguments={"x-expires": 1000})


def test_exclusive_ends_with_the_connection(connect, names):
    wire = connect()
    name = wire.channel().declare(names.queue(), exclusive=True).queue
    wire.sock.close()
    wait_until(lambda: not exists(connect, name), "queue gone")


def exists(connect, name):
    """Whether a queue can be declared passively; locked counts as existing."""
    wire = connect()
    try:
        wire.channel().declare(name, passive=True)
    except Refused as refusal:
        return refusal.code != 404
    finally:
        wire.close()
    return True


def test_exclusive_outlives_its_channel(wire, ch, names):
    doomed = wire.channel()
    name = doomed.declare(names.queue(), exclusive=True).queue
    doomed.close()
    assert ch.declare(name, passive=True).queue == name


def test_durable_exclusive_is_not_compared(ch, names):
    """An exclusive queue is never durable, so the flag does not matter."""
    name = ch.declare(names.queue(), exclusive=True, durable=True).queue
    ch.declare(name, exclusive=True, durable=False)


# -- auto-delete ---------------------------------------------------------------------------------


def test_auto_delete_after_the_last_consumer(wire, ch, connect, names):
    name = ch.declare(names.queue(), auto_delete=True).queue
    tags = [ch.consume(name) for _ in range(2)]
    ch.call("basic.cancel", consumer_tag=tags[0])
    assert consumers(ch, name) == 1
    ch.call("basic.cancel", consumer_tag=tags[1])
    wait_until(lambda: not exists(connect, name), "queue gone")


def test_auto_delete_when_the_channel_closes(wire, ch, connect, names):
    name = ch.declare(names.queue(), auto_delete=True).queue
    consumer = wire.channel()
    consumer.consume(name)
    consumer.close()
    wait_until(lambda: not exists(connect, name), "queue gone")


def test_auto_delete_without_a_consumer_stays(wire, ch, names):
    """A get is no consumer, and a queue that never had one stays."""
    doomed = wire.channel()
    name = doomed.declare(names.queue(), auto_delete=True).queue
    doomed.get(name)
    doomed.close()
    assert ch.declare(name, passive=True).queue == name


# -- bind and unbind -----------------------------------------------------------------------------


def test_bind_missing_exchange(ch, names, queue):
    name = names.unique()
    text = f"NOT_FOUND - no exchange '{name}' in vhost '/'"
    with refused(404, text, "queue.bind"):
        ch.bind(queue, name)


def test_bind_missing_queue(ch, names):
    name = names.unique()
    with refused(404, missing(name), "queue.bind"):
        ch.bind(name, "amq.direct", "k")


def test_bind_both_missing(ch, names):
    """The exchange is named."""
    queue, exchange = names.unique(), names.unique()
    with refused(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'", "queue.bind"):
        ch.bind(queue, exchange)


@pytest.mark.parametrize("method", ["queue.bind", "queue.unbind"])
def test_default_exchange_cannot_be_bound(ch, queue, method):
    text = "ACCESS_REFUSED - operation not permitted on the default exchange"
    with refused(403, text, method):
        ch.call(method, queue=queue, exchange="", routing_key="k")


def test_bind_twice_is_one_binding(ch, queue):
    for _ in range(2):
        ch.bind(queue, "amq.direct", queue)
    ch.confirm()
    ch.publish("amq.direct", queue, b"once")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"once"]
    ch.call("queue.unbind", queue=queue, exchange="amq.direct", routing_key=queue)
    ch.publish("amq.direct", queue, b"never", mandatory=True)
    assert ch.expect("basic.return").reply_code == 312


def test_arguments_are_part_of_a_binding(ch, queue):
    """Two bindings that differ in arguments are two: unbinding one leaves the other."""
    ch.bind(queue, "amq.direct", queue, {"a": 1})
    ch.bind(queue, "amq.direct", queue)
    ch.call("queue.unbind", queue=queue, exchange="amq.direct", routing_key=queue)
    ch.confirm()
    ch.publish("amq.direct", queue, b"x")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"x"]


def test_unbind_of_missing_things_is_fine(ch, names, queue):
    for q, exchange in [
        (queue, "amq.direct"),
        (names.unique(), "amq.direct"),
        (queue, names.unique()),
        (names.unique(), names.unique()),
    ]:
        ch.call("queue.unbind", queue=q, exchange=exchange, routing_key="never")


def test_nowait_bind(ch, queue):
    ch.send("queue.bind", queue=queue, exchange="amq.direct", routing_key=queue, nowait=True)
    ch.confirm()
    ch.publish("amq.direct", queue, b"x")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"x"]


def test_bindings_go_with_the_queue(ch, names):
    name = ch.declare(names.queue()).queue
    ch.bind(name, "amq.direct", name)
    ch.delete(name)
    ch.declare(name)
    ch.publish("amq.direct", name, b"x", mandatory=True)
    assert ch.expect("basic.return").reply_code == 312


# -- purge and delete ----------------------------------------------------------------------------


def test_purge(ch, queue):
    ch.confirm()
    ch.put(queue, *[b"x"] * 7)
    assert ch.call("queue.purge", queue=queue).message_count == 7
    assert ch.call("queue.purge", queue=queue).message_count == 0


def test_purge_leaves_what_is_unacknowledged(ch, queue):
    ch.confirm()
    ch.put(queue, b"a", b"b")
    out = ch.get(queue, no_ack=False)
    assert ch.call("queue.purge", queue=queue).message_count == 1
    ch.reject(out.delivery_tag)
    wait_count(ch, queue, 1)


def test_purge_of_a_missing_queue(ch, names):
    name = names.unique()
    with refused(404, missing(name), "queue.purge"):
        ch.call("queue.purge", queue=name)


def test_nowait_purge(ch, queue):
    ch.confirm()
    ch.put(queue, b"x")
    ch.send("queue.purge", queue=queue, nowait=True)
    assert count(ch, queue) == 0


def test_delete_counts_ready_messages(ch, names):
    name = ch.declare(names.queue()).queue
    ch.confirm()
    ch.put(name, b"a", b"b", b"c")
    ch.get(name, no_ack=False)
    assert ch.delete(name).message_count == 2


def test_delete_of_a_missing_queue_is_fine(ch, names):
    assert ch.delete(names.unique()).message_count == 0


def test_delete_if_unused(ch, queue):
    ch.consume(queue)
    text = f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"
    with refused(406, text, "queue.delete"):
        ch.delete(queue, if_unused=True)


def test_delete_if_empty(ch, queue):
    ch.confirm()
    ch.put(queue, b"x")
    text = f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"
    with refused(406, text, "queue.delete"):
        ch.delete(queue, if_empty=True)


def test_delete_not_empty_comes_before_in_use(ch, other, queue):
    ch.confirm()
    other.qos(1)
    other.consume(queue)
    ch.put(queue, b"x", b"y")
    text = f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"
    with refused(406, text, "queue.delete"):
        ch.delete(queue, if_unused=True, if_empty=True)


def test_delete_if_unused_and_empty(ch, names):
    name = ch.declare(names.queue()).queue
    assert ch.delete(name, if_unused=True, if_empty=True).message_count == 0


def test_nowait_delete(ch, names):
    name = ch.declare(names.queue()).queue
    ch.send("queue.delete", queue=name, nowait=True)
    with refused(404, missing(name), "queue.declare"):
        ch.declare(name, passive=True)


def test_delete_and_redeclare_is_a_new_queue(ch, names):
    name = ch.declare(names.queue(), durable=True).queue
    ch.confirm()
    ch.put(name, b"old")
    ch.delete(name)
    assert ch.declare(name, auto_delete=True).message_count == 0
    assert ch.get(name) is None


# -- what another client sees --------------------------------------------------------------------


def test_queues_with_pika(pika_channel, names):
    """The same through an ordinary client."""
    name = names.queue()
    assert pika_channel.queue_declare(name, durable=True).method.message_count == 0
    pika_channel.queue_bind(name, "amq.topic", "spec.pika.#")
    pika_channel.confirm_delivery()
    for number in range(10):
        pika_channel.basic_publish("amq.topic", "spec.pika.a", b"%d" % number)
    bodies = []
    for method, _properties, body in pika_channel.consume(name, inactivity_timeout=5):
        pika_channel.basic_ack(method.delivery_tag)
        bodies.append(body)
        if len(bodies) == 10:
            break
    pika_channel.cancel()
    assert bodies == [b"%d" % number for number in range(10)]
    assert pika_channel.queue_delete(name).method.message_count == 0
