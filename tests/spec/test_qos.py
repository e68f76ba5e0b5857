"""Class basic, qos as RabbitMQ means it: per consumer, and global = per channel."""

import pytest

from support import count, refused, wait_count


@pytest.fixture
def filled(ch, queue):
    ch.confirm()
    ch.put(queue, *[b"%d" % number for number in range(10)])
    return queue


@pytest.fixture
def worker(wire):
    return wire.channel()


def test_per_consumer(worker, filled):
    worker.qos(3)
    worker.consume(filled)
    deliveries = worker.deliveries(3)
    worker.nothing()
    worker.ack(deliveries[0].delivery_tag)
    assert worker.expect("basic.deliver").body == b"3"
    worker.nothing()


def test_each_consumer_has_its_own(worker, filled):
    worker.qos(2)
    tags = [worker.consume(filled) for _ in range(2)]
    got = worker.deliveries(4)
    assert sorted(d.consumer_tag for d in got) == sorted(tags * 2)
    worker.nothing()


def test_it_holds_for_consumers_that_come_later(worker, filled):
    """A consumer keeps the count that was set when it came."""
    first = worker.consume(filled)
    worker.deliveries(10)
    worker.qos(1)
    second = worker.consume(filled)
    worker.call("basic.recover", requeue=True)
    tags = [d.consumer_tag for d in worker.deliveries(10)]
    assert tags.count(second) <= 1 and tags.count(first) >= 9


def test_zero_is_without_limit(worker, filled):
    worker.qos(1)
    worker.qos(0)
    worker.consume(filled)
    worker.deliveries(10)


def test_global_is_shared_by_the_channel(worker, filled):
    worker.qos(3, True)
    for _ in range(2):
        worker.consume(filled)
    deliveries = worker.deliveries(3)
    worker.nothing()
    worker.ack(deliveries[-1].delivery_tag, multiple=True)
    worker.deliveries(3)
    worker.nothing()


def test_global_holds_for_consumers_that_are_there(worker, filled):
    """Raised while they wait, it lets more through at once."""
    worker.qos(2, True)
    worker.consume(filled)
    worker.deliveries(2)
    worker.qos(5, True)
    worker.deliveries(3)
    worker.nothing()


def test_global_zero_lifts_it(worker, filled):
    worker.qos(2, True)
    worker.consume(filled)
    worker.deliveries(2)
    worker.qos(0, True)
    worker.deliveries(8)


def test_both_limits_hold(worker, filled):
    worker.qos(2)
    worker.qos(3, True)
    for _ in range(2):
        worker.consume(filled)
    deliveries = worker.deliveries(3)
    per_consumer = [d.consumer_tag for d in deliveries]
    assert all(per_consumer.count(tag) <= 2 for tag in per_consumer)
    worker.nothing()


def test_no_ack_consumers_know_no_limit(worker, filled):
    worker.qos(1)
    worker.consume(filled, no_ack=True)
    worker.deliveries(10)


def test_get_knows_no_limit(worker, filled):
    worker.qos(1)
    for _ in range(10):
        assert worker.get(filled, no_ack=False)


def test_what_get_holds_does_not_count(worker, filled):
    worker.qos(1)
    worker.get(filled, no_ack=False)
    worker.consume(filled)
    assert worker.expect("basic.deliver").body == b"1"


@pytest.mark.parametrize("settle", ["ack", "reject", "nack"])
def test_each_way_of_settling_gives_credit(worker, filled, settle):
    worker.qos(1)
    worker.consume(filled)
    tag = worker.expect("basic.deliver").delivery_tag
    if settle == "ack":
        worker.ack(tag)
    elif settle == "reject":
        worker.reject(tag, requeue=False)
    else:
        worker.nack(tag, requeue=False)
    assert worker.expect("basic.deliver").body == b"1"


def test_requeue_gives_credit(worker, filled):
    worker.qos(1)
    worker.consume(filled)
    worker.reject(worker.expect("basic.deliver").delivery_tag)
    again = worker.expect("basic.deliver")
    assert (again.body, again.redelivered) == (b"0", True)


@pytest.mark.parametrize("size", [1, 2**32 - 1])
def test_prefetch_size(ch, size):
    ch.send("basic.qos", prefetch_size=size)
    text = f"NOT_IMPLEMENTED - prefetch_size!=0 ({size})"
    with refused(540, text, "basic.qos", "connection"):
        ch.next()


def test_largest_count(worker, filled):
    worker.qos(65535)
    worker.consume(filled)
    worker.deliveries(10)


def test_undelivered_messages_stay_ready(worker, ch, filled):
    worker.qos(4)
    worker.consume(filled)
    worker.deliveries(4)
    assert count(ch, filled) == 6
    worker.close()
    wait_count(ch, filled, 10)


@pytest.mark.rabbitmq_only
def test_global_on_a_quorum_queue(worker, ch, names):
    arguments = {"x-queue-type": "quorum"}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    worker.qos(5, True)
    text = f"NOT_IMPLEMENTED - queue '{name}' in vhost '/' does not support global qos"
    with refused(540, text, "basic.consume", "connection"):
        worker.consume(name)


@pytest.mark.leveret_only
def test_global_on_any_queue(worker, ch, names):
    arguments = {"x-queue-type": "quorum"}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    ch.confirm()
    ch.put(name, b"a", b"b", b"c")
    worker.qos(2, True)
    worker.consume(name)
    worker.deliveries(2)
    worker.nothing()
