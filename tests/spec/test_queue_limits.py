"""Time and length limits of queues: expiry, time to live, length in messages and bytes, overflow."""

import time

import pytest

from support import count, refused, wait_count, wait_until


def gone(connect, name):
    """Asks with a mandatory publish, because any declare would count as use of the queue."""
    wire = connect()
    channel = wire.channel()
    channel.confirm()
    channel.publish("", name, b"probe", mandatory=True)
    answer = channel.expect("basic.return", "basic.ack").name
    wire.close()
    return answer == "basic.return"


# -- x-expires -----------------------------------------------------------------------------------


def test_unused_queue_expires(ch, connect, names):
    name = ch.declare(names.queue(), arguments={"x-expires": 100}).queue
    wait_until(lambda: gone(connect, name), "queue gone")


def test_expiry_takes_messages_and_bindings(ch, connect, names):
    name = ch.declare(names.queue(), arguments={"x-expires": 200}).queue
    ch.bind(name, "amq.direct", name)
    ch.confirm()
    ch.put(name, b"x")
    wait_until(lambda: gone(connect, name), "queue gone")
    ch.publish("amq.direct", name, b"x", mandatory=True)
    assert ch.expect("basic.return").reply_code == 312


def test_queue_with_a_consumer_does_not_expire(ch, connect, names):
    name = ch.declare(names.queue(), arguments={"x-expires": 100}).queue
    tag = ch.consume(name)
    ch.nothing(0.4)
    ch.call("basic.cancel", consumer_tag=tag)
    wait_until(lambda: gone(connect, name), "queue gone")


@pytest.mark.parametrize("use", ["declare", "passive", "get"])
def test_declare_and_get_are_use(ch, names, use):
    """The time starts again with each declare, passive or not, and each get. It is one that a busy machine keeps."""
    name = ch.declare(names.queue(), arguments={"x-expires": 2500}).queue
    deadline = time.monotonic() + 5.5
    while time.monotonic() < deadline:
        if use == "declare":
            ch.declare(name, arguments={"x-expires": 2500})
        elif use == "passive":
            ch.declare(name, passive=True)
        else:
            ch.get(name)
        time.sleep(0.05)
    assert ch.declare(name, passive=True).queue == name


def test_publishing_is_no_use(ch, connect, names):
    name = ch.declare(names.queue(), arguments={"x-expires": 300}).queue
    wait_until(lambda: gone(connect, name), "queue gone, though it is published to all the time")


# -- time to live --------------------------------------------------------------------------------


def test_queue_ttl(ch, names):
    name = ch.declare(names.queue(), arguments={"x-message-ttl": 100}).queue
    ch.confirm()
    ch.put(name, b"a", b"b")
    wait_count(ch, name, 0)
    assert ch.get(name) is None


def test_ttl_zero_without_a_consumer_drops_at_once(ch, names):
    name = ch.declare(names.queue(), arguments={"x-message-ttl": 0}).queue
    ch.confirm()
    ch.put(name, b"x")
    assert count(ch, name) == 0


def test_ttl_zero_with_a_consumer_delivers(ch, names):
    """What can be delivered at once is, ttl 0 means only that it does not wait."""
    name = ch.declare(names.queue(), arguments={"x-message-ttl": 0}).queue
    ch.consume(name, no_ack=True)
    ch.publish("", name, b"x")
    assert ch.expect("basic.deliver").body == b"x"


def test_expiration_zero_with_a_consumer_delivers(ch, queue):
    ch.consume(queue, no_ack=True)
    ch.publish("", queue, b"x", expiration="0")
    message = ch.expect("basic.deliver")
    assert (message.body, message.properties["expiration"]) == (b"x", "0")


def test_message_expiration(ch, queue):
    ch.confirm()
    ch.put(queue, b"gone", expiration="50")
    ch.put(queue, b"stays")
    wait_count(ch, queue, 1)
    assert ch.get(queue).body == b"stays"


def test_the_lower_of_both_counts(ch, names):
    name = ch.declare(names.queue(), arguments={"x-message-ttl": 100}).queue
    ch.confirm()
    ch.put(name, b"x", expiration="60000")
    wait_count(ch, name, 0)
    name = ch.declare(names.queue(), arguments={"x-message-ttl": 60000}).queue
    ch.put(name, b"x", expiration="50")
    wait_count(ch, name, 0)


def test_message_that_is_out_does_not_expire(ch, queue):
    """Its time is looked at again when it comes back."""
    ch.confirm()
    ch.put(queue, b"x", expiration="2000")
    message = ch.get(queue, no_ack=False)
    ch.nothing(2.2)
    ch.reject(message.delivery_tag)
    wait_count(ch, queue, 0)


@pytest.mark.rabbitmq_only
def test_expired_message_behind_another_waits(ch, queue):
    """Classic queues expire from the head only: an expired message behind a live one still counts."""
    ch.confirm()
    ch.put(queue, b"head")
    ch.put(queue, b"behind", expiration="50")
    ch.nothing(0.2)
    assert count(ch, queue) == 2
    assert ch.bodies(queue) == [b"head"]


def test_expired_message_is_never_delivered(ch, queue):
    ch.confirm()
    ch.put(queue, b"head")
    ch.put(queue, b"behind", expiration="50")
    ch.nothing(0.2)
    ch.consume(queue, no_ack=True)
    assert ch.expect("basic.deliver").body == b"head"
    ch.nothing()


@pytest.mark.parametrize(
    "value, why",
    [
        ("", "no_integer"),
        ("abc", "no_integer"),
        (" 5", "no_integer"),
        ("-1", "{value_negative,-1}"),
        ("1.5", '{leftover_string,".5"}'),
        ("5x", '{leftover_string,"x"}'),
        ("315360000001", "{value_too_large,315360000001}"),
        ("100000000000000", "{value_too_large,100000000000000}"),
    ],
)
def test_invalid_expiration(ch, queue, value, why):
    ch.publish("", queue, b"x", expiration=value)
    text = f"PRECONDITION_FAILED - invalid expiration '{value}': {why}"
    with refused(406, text, "basic.publish"):
        ch.next()


@pytest.mark.parametrize("value", ["0", "+5000", "007000", "315360000000"])
def test_expiration_that_is_taken(ch, queue, value):
    ch.confirm()
    ch.put(queue, b"x", expiration=value)


# -- length --------------------------------------------------------------------------------------


def limited(ch, names, **arguments):
    arguments = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    ch.confirm()
    return ch.declare(names.queue(), arguments=arguments).queue


def numbered(first, last):
    return [b"%d" % number for number in range(first, last)]


def test_drop_head_is_the_default(ch, names):
    name = limited(ch, names, max_length=3)
    ch.put(name, *numbered(0, 5))
    assert ch.bodies(name) == numbered(2, 5)


def test_drop_head(ch, names):
    name = limited(ch, names, max_length=3, overflow="drop-head")
    ch.put(name, *numbered(0, 5))
    assert ch.bodies(name) == numbered(2, 5)


def test_max_length_zero(ch, names):
    name = limited(ch, names, max_length=0)
    ch.put(name, b"x")
    assert count(ch, name) == 0


def test_max_length_zero_with_a_consumer(ch, names):
    name = limited(ch, names, max_length=0)
    ch.consume(name, no_ack=True)
    ch.publish("", name, b"x")
    found = {ch.next().name for _ in range(2)}
    assert found == {"basic.deliver", "basic.ack"}


def test_max_length_counts_ready_messages_only(ch, names):
    name = limited(ch, names, max_length=2)
    ch.put(name, b"a", b"b")
    out = ch.get(name, no_ack=False)
    ch.put(name, b"c")
    assert count(ch, name) == 2
    ch.reject(out.delivery_tag)
    wait_count(ch, name, 2)
    assert ch.bodies(name) == [b"b", b"c"]


def test_max_length_bytes_drop_head(ch, names):
    """Bodies count, properties do not."""
    name = limited(ch, names, max_length_bytes=10)
    ch.put(name, b"aaaa", b"bbbb", content_type="x" * 100)
    assert count(ch, name) == 2
    ch.put(name, b"cccc")
    assert ch.bodies(name) == [b"bbbb", b"cccc"]
    ch.put(name, b"x" * 11)
    assert count(ch, name) == 0


def test_both_limits(ch, names):
    name = limited(ch, names, max_length=3, max_length_bytes=4)
    ch.put(name, b"aa", b"bb", b"c")
    assert ch.bodies(name) == [b"bb", b"c"]
    ch.put(name, b"a", b"b", b"c", b"d")
    assert ch.bodies(name) == [b"b", b"c", b"d"]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_reject_publish(ch, names, overflow):
    name = limited(ch, names, max_length=2, overflow=overflow)
    ch.put(name, b"a", b"b")
    ch.publish("", name, b"c")
    assert ch.expect("basic.nack").delivery_tag == 3
    assert ch.bodies(name) == [b"a", b"b"]
    ch.put(name, b"d")


def test_reject_publish_by_bytes(ch, names):
    """Refused is what would go over; something smaller still fits."""
    name = limited(ch, names, max_length_bytes=5, overflow="reject-publish")
    ch.put(name, b"aaaa")
    ch.publish("", name, b"bb")
    ch.expect("basic.nack")
    ch.put(name, b"c")
    assert ch.bodies(name) == [b"aaaa", b"c"]


def test_reject_publish_without_confirms_drops_silently(ch, other, names):
    name = limited(ch, names, max_length=1, overflow="reject-publish")
    for body in (b"a", b"b"):
        other.publish("", name, body)
    other.call("basic.qos")
    assert other.bodies(name) == [b"a"]


def test_reject_publish_refuses_where_one_of_two_queues_is_full(ch, names):
    """One nack for the message; the other queue keeps its copy."""
    full = limited(ch, names, max_length=0, overflow="reject-publish")
    free = ch.declare(names.queue()).queue
    exchange = names.exchange()
    ch.exchange(exchange, "fanout")
    ch.bind(full, exchange)
    ch.bind(free, exchange)
    ch.publish(exchange, "", b"x")
    ch.expect("basic.nack")
    assert (ch.bodies(free), ch.bodies(full)) == ([b"x"], [])


def test_length_limit_and_priorities(ch, names):
    """The head is what would be delivered next: the highest priority is dropped first."""
    name = limited(ch, names, max_length=2, max_priority=5)
    ch.put(name, b"high", priority=5)
    ch.put(name, b"low 1", priority=1)
    ch.put(name, b"low 2", priority=1)
    assert ch.bodies(name) == [b"low 1", b"low 2"]


# -- quorum queues -------------------------------------------------------------------------------


def test_limits_of_a_quorum_queue(ch, names):
    arguments = {"x-queue-type": "quorum", "x-max-length": 3}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    ch.confirm()
    ch.put(name, *numbered(0, 5))
    wait_count(ch, name, 3)
    assert ch.bodies(name) == numbered(2, 5)


def test_ttl_of_a_quorum_queue(ch, names):
    arguments = {"x-queue-type": "quorum", "x-message-ttl": 100}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    ch.confirm()
    ch.put(name, b"x")
    wait_count(ch, name, 0)
