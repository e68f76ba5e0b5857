"""Priority queues: order by x-max-priority."""

import pytest

from support import wait_count


@pytest.fixture
def prioritised(ch, names):
    ch.confirm()
    return ch.declare(names.queue(), arguments={"x-max-priority": 10}).queue


def test_highest_first_and_in_order_within(ch, prioritised):
    for number, priority in enumerate([1, 5, 1, 9, 5, 0, 9]):
        ch.put(prioritised, b"%d/%d" % (priority, number), priority=priority)
    assert ch.bodies(prioritised) == [
        b"9/3",
        b"9/6",
        b"5/1",
        b"5/4",
        b"1/0",
        b"1/2",
        b"0/5",
    ]


def test_without_priority_is_zero(ch, prioritised):
    ch.put(prioritised, b"none")
    ch.put(prioritised, b"one", priority=1)
    ch.put(prioritised, b"zero", priority=0)
    assert ch.bodies(prioritised) == [b"one", b"none", b"zero"]


def test_above_the_maximum_is_the_maximum(ch, prioritised):
    ch.put(prioritised, b"ten", priority=10)
    ch.put(prioritised, b"255", priority=255)
    ch.put(prioritised, b"eleven", priority=11)
    assert ch.bodies(prioritised) == [b"ten", b"255", b"eleven"]


def test_the_property_is_left_as_it_was(ch, prioritised):
    ch.put(prioritised, b"x", priority=200)
    assert ch.get(prioritised).properties == {"priority": 200}


def test_without_the_argument_priorities_mean_nothing(ch, queue):
    ch.confirm()
    ch.put(queue, b"low", priority=1)
    ch.put(queue, b"high", priority=9)
    assert ch.bodies(queue) == [b"low", b"high"]


def test_consumer_gets_them_by_priority(wire, ch, prioritised):
    for priority in range(5):
        ch.put(prioritised, b"%d" % priority, priority=priority)
    worker = wire.channel()
    worker.qos(1)
    worker.consume(prioritised)
    seen = []
    for _ in range(5):
        delivery = worker.expect("basic.deliver")
        seen.append(delivery.body)
        worker.ack(delivery.delivery_tag)
    assert seen == [b"4", b"3", b"2", b"1", b"0"]


def test_requeued_message_goes_back_to_its_place(ch, wire, prioritised):
    for body, priority in [(b"a", 5), (b"b", 5), (b"c", 9)]:
        ch.put(prioritised, body, priority=priority)
    worker = wire.channel()
    tags = [worker.get(prioritised, no_ack=False).delivery_tag for _ in range(2)]
    for tag in reversed(tags):
        worker.reject(tag)
    wait_count(ch, prioritised, 3)
    assert ch.bodies(prioritised) == [b"c", b"a", b"b"]


def test_expiry_in_a_priority_queue(ch, prioritised):
    """What is expired is never delivered, even where it is counted behind a higher priority."""
    ch.put(prioritised, b"low", priority=1, expiration="50")
    ch.put(prioritised, b"high", priority=5)
    ch.nothing(0.2)
    assert ch.bodies(prioritised) == [b"high"]


def test_purge_empties_every_level(ch, prioritised):
    for priority in range(10):
        ch.put(prioritised, b"x", priority=priority)
    assert ch.call("queue.purge", queue=prioritised).message_count == 10
