"""Class basic, settling: ack, nack, reject, recover, redelivery and the place of what comes back."""

import pytest

from support import refused, wait_count
from wire import Refused


@pytest.fixture(params=["classic", "quorum"])
def filled(request, ch, names):
    """A queue with the messages 0 to 4, of either type."""
    arguments = {"x-queue-type": request.param}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    ch.confirm()
    ch.put(name, *[b"%d" % number for number in range(5)])
    return name


@pytest.fixture
def worker(wire):
    """A channel of its own for acknowledging on."""
    return wire.channel()


def take(channel, queue, count=5):
    return [channel.get(queue, no_ack=False).delivery_tag for _ in range(count)]


def unknown(tag):
    return f"PRECONDITION_FAILED - unknown delivery tag {tag}"


# -- ack -----------------------------------------------------------------------------------------


def test_ack_one(ch, worker, filled):
    tags = take(worker, filled)
    worker.ack(tags[2])
    worker.close()
    wait_count(ch, filled, 4)
    assert ch.bodies(filled) == [b"0", b"1", b"3", b"4"]


def test_ack_in_any_order(ch, worker, filled):
    for tag in reversed(take(worker, filled)):
        worker.ack(tag)
    worker.close()
    assert ch.get(filled) is None


def test_ack_multiple(ch, worker, filled):
    tags = take(worker, filled)
    worker.ack(tags[2], multiple=True)
    worker.close()
    wait_count(ch, filled, 2)
    assert ch.bodies(filled) == [b"3", b"4"]


def test_ack_multiple_with_gaps(ch, worker, filled):
    tags = take(worker, filled)
    worker.ack(tags[1])
    worker.ack(tags[3], multiple=True)
    worker.close()
    wait_count(ch, filled, 1)
    assert ch.bodies(filled) == [b"4"]


def test_ack_zero_multiple_is_all(ch, worker, filled):
    take(worker, filled)
    worker.ack(0, multiple=True)
    worker.close()
    assert ch.get(filled) is None


def test_ack_zero_multiple_of_nothing_is_fine(worker):
    worker.ack(0, multiple=True)
    worker.nack(0, multiple=True)
    worker.call("basic.qos")


def test_ack_zero(worker, filled):
    take(worker, filled)
    worker.ack(0)
    with refused(406, unknown(0), "basic.ack"):
        worker.next()


@pytest.mark.parametrize("multiple", [False, True])
def test_ack_of_an_unknown_tag(worker, filled, multiple):
    take(worker, filled)
    worker.ack(99, multiple)
    with refused(406, unknown(99), "basic.ack"):
        worker.next()


def test_largest_tag(worker):
    worker.ack(2**64 - 1)
    with refused(406, unknown(2**64 - 1), "basic.ack"):
        worker.next()


def test_double_ack(worker, filled):
    tags = take(worker, filled)
    worker.ack(tags[1])
    worker.ack(tags[1])
    with refused(406, unknown(tags[1]), "basic.ack"):
        worker.next()


def test_ack_multiple_below_what_is_settled(worker, filled):
    """Tag 2 was acknowledged with multiple: again multiple is unknown, for the tag is gone."""
    tags = take(worker, filled)
    worker.ack(tags[1], multiple=True)
    worker.ack(tags[1], multiple=True)
    with refused(406, unknown(tags[1]), "basic.ack"):
        worker.next()


def test_ack_of_a_no_ack_delivery(worker, filled):
    worker.ack(worker.get(filled, no_ack=True).delivery_tag)
    with refused(406, unknown(1), "basic.ack"):
        worker.next()


def test_ack_on_another_channel(ch, worker, filled):
    tags = take(worker, filled)
    ch.ack(tags[0])
    with refused(406, unknown(tags[0]), "basic.ack"):
        ch.next()


def test_wrong_ack_requeues_the_rest(ch, worker, filled):
    tags = take(worker, filled)
    worker.ack(tags[0])
    worker.ack(tags[0])
    with pytest.raises(Refused):
        worker.next()
    wait_count(ch, filled, 4)


# -- nack and reject -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["basic.nack", "basic.reject"])
def test_unknown_tag(worker, method):
    worker.send(method, delivery_tag=5, requeue=True)
    with refused(406, unknown(5), method):
        worker.next()


def test_reject_without_requeue(ch, worker, filled):
    worker.reject(take(worker, filled, 1)[0], requeue=False)
    worker.close()
    wait_count(ch, filled, 4)
    assert ch.get(filled).redelivered is False


def test_nack_multiple_without_requeue(ch, worker, filled):
    worker.nack(take(worker, filled)[2], multiple=True, requeue=False)
    worker.close()
    wait_count(ch, filled, 2)


def test_requeued_messages_are_redelivered(ch, worker, filled):
    worker.reject(take(worker, filled, 1)[0])
    wait_count(ch, filled, 5)
    messages = {m.body: m.redelivered for m in (ch.get(filled) for _ in range(5))}
    assert messages == {b"0": True, b"1": False, b"2": False, b"3": False, b"4": False}


def plain(ch, names):
    name = ch.declare(names.queue()).queue
    ch.confirm()
    ch.put(name, *[b"%d" % number for number in range(5)])
    return name


def test_what_comes_back_goes_to_its_place(ch, worker, names):
    """In whatever order it is returned: the queue's order is that of the first enqueue."""
    name = plain(ch, names)
    tags = take(worker, name, 4)
    for tag in (tags[2], tags[0], tags[3], tags[1]):
        worker.reject(tag)
    wait_count(ch, name, 5)
    assert ch.bodies(name) == [b"0", b"1", b"2", b"3", b"4"]


def test_middle_comes_back_to_the_middle(ch, worker, names):
    name = plain(ch, names)
    tags = take(worker, name, 3)
    worker.reject(tags[1])
    wait_count(ch, name, 3)
    assert ch.bodies(name) == [b"1", b"3", b"4"]
    worker.nack(tags[2], multiple=True)
    wait_count(ch, name, 2)
    assert ch.bodies(name) == [b"0", b"2"]


def test_requeue_to_a_waiting_consumer(worker, names, ch):
    name = ch.declare(names.queue()).queue
    worker.consume(name)
    ch.publish("", name, b"x")
    first = worker.expect("basic.deliver")
    worker.reject(first.delivery_tag)
    again = worker.expect("basic.deliver")
    assert (first.redelivered, again.redelivered) == (False, True)
    assert again.delivery_tag == first.delivery_tag + 1


# -- recover -------------------------------------------------------------------------------------


def test_recover(worker, ch, names):
    name = plain(ch, names)
    take(worker, name, 3)
    worker.call("basic.recover", requeue=True)
    wait_count(ch, name, 5)
    messages = [ch.get(name) for _ in range(5)]
    assert [m.body for m in messages] == [b"0", b"1", b"2", b"3", b"4"]
    assert [m.redelivered for m in messages] == [True] * 3 + [False] * 2


def test_recover_async(worker, ch, names):
    name = plain(ch, names)
    take(worker, name, 2)
    worker.send("basic.recover-async", requeue=True)
    wait_count(ch, name, 5)
    worker.call("basic.qos")


def test_recover_makes_old_tags_unknown(worker, ch, names):
    tags = take(worker, plain(ch, names), 2)
    worker.call("basic.recover", requeue=True)
    worker.ack(tags[0])
    with refused(406, unknown(tags[0]), "basic.ack"):
        worker.next()


def test_recover_redelivers_to_the_consumer_itself(worker, ch, names):
    name = plain(ch, names)
    worker.consume(name)
    worker.deliveries(5)
    worker.send("basic.recover", requeue=True)
    events = [worker.next() for _ in range(6)]
    bodies = [e.body for e in events if e.name == "basic.deliver"]
    assert bodies == [b"0", b"1", b"2", b"3", b"4"]
    assert all(e.redelivered for e in events if e.name == "basic.deliver")


@pytest.mark.parametrize("method", ["basic.recover", "basic.recover-async"])
def test_recover_without_requeue(ch, method):
    ch.send(method, requeue=False)
    with refused(540, "NOT_IMPLEMENTED - requeue=false", method, "connection"):
        ch.next()


def test_recover_of_nothing(ch):
    ch.call("basic.recover", requeue=True)


def test_acking_with_pika(pika_connection, names):
    """The same through an ordinary client."""
    channel = pika_connection.channel()
    name = names.queue()
    channel.queue_declare(name)
    for number in range(4):
        channel.basic_publish("", name, b"%d" % number)
    tags = [channel.basic_get(name)[0].delivery_tag for _ in range(4)]
    channel.basic_ack(tags[0])
    channel.basic_nack(tags[2], multiple=True, requeue=True)
    channel.basic_reject(tags[3], requeue=False)
    again = [channel.basic_get(name, auto_ack=True) for _ in range(3)]
    assert [body for _, _, body in again] == [b"1", b"2", None]
    assert [method.redelivered for method, _, _ in again[:2]] == [True, True]
