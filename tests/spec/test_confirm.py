"""Class confirm: publisher confirms, positive and negative, and their order."""

import pytest

from support import refused


def confirmed(channel, wanted):
    """Settles until `wanted` publishes are; returns {tag: "ack" or "nack"}, multiple expanded."""
    settled = {}
    oldest = 1
    while len(settled) < wanted:
        event = channel.expect("basic.ack", "basic.nack")
        first = oldest if event.multiple else event.delivery_tag
        for tag in range(first, event.delivery_tag + 1):
            settled.setdefault(tag, event.name.removeprefix("basic."))
        while oldest in settled:
            oldest += 1
    return settled


def test_select_is_repeatable(ch):
    ch.confirm()
    ch.confirm()


def test_nowait_select(ch, queue):
    ch.send("confirm.select", nowait=True)
    ch.publish("", queue, b"x")
    ack = ch.expect("basic.ack")
    assert (ack.delivery_tag, ack.multiple) == (1, False)


def test_counting_starts_at_select(ch, queue):
    ch.publish("", queue, b"before")
    ch.confirm()
    ch.publish("", queue, b"after")
    assert ch.expect("basic.ack").delivery_tag == 1


def test_select_again_does_not_restart_the_count(ch, queue):
    ch.confirm()
    ch.put(queue, b"1")
    ch.confirm()
    ch.publish("", queue, b"2")
    assert ch.expect("basic.ack").delivery_tag == 2


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("mode", [1, 2])
def test_every_message_is_confirmed_once(ch, names, durable, mode):
    name = ch.declare(names.queue(), durable=durable).queue
    ch.confirm()
    for _ in range(500):
        ch.publish("", name, b"x", delivery_mode=mode)
    assert confirmed(ch, 500) == dict.fromkeys(range(1, 501), "ack")
    ch.nothing()


def test_quorum_queue_confirms(ch, names):
    arguments = {"x-queue-type": "quorum"}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    ch.confirm()
    for _ in range(100):
        ch.publish("", name, b"x")
    assert confirmed(ch, 100) == dict.fromkeys(range(1, 101), "ack")


def test_unroutable_is_confirmed(ch, names):
    ch.confirm()
    ch.publish("amq.direct", names.unique(), b"x")
    assert ch.expect("basic.ack").delivery_tag == 1


def test_exchange_without_queues(ch, names):
    exchange = names.exchange()
    ch.exchange(exchange, "fanout")
    ch.confirm()
    ch.publish(exchange, "", b"x")
    assert ch.expect("basic.ack").delivery_tag == 1


def test_one_confirm_for_many_queues(ch, names):
    exchange = names.exchange()
    ch.exchange(exchange, "fanout")
    for durable in (False, True, False, True):
        ch.bind(ch.declare(names.queue(), durable=durable).queue, exchange)
    ch.confirm()
    for _ in range(10):
        ch.publish(exchange, "", b"x", delivery_mode=2)
    assert confirmed(ch, 10) == dict.fromkeys(range(1, 11), "ack")
    ch.nothing()


def test_returns_come_before_their_acks(ch, names, queue):
    """Returned and routed messages mixed: each return before the ack of its tag."""
    ch.confirm()
    for number in range(1, 21):
        key = queue if number % 2 else queue + "-none"
        ch.publish("", key, b"%d" % number, mandatory=True)
    returned, acked = set(), set()
    oldest = 1
    while len(acked) < 20:
        event = ch.expect("basic.return", "basic.ack")
        if event.name == "basic.return":
            number = int(event.body)
            assert number not in acked
            returned.add(number)
            continue
        first = oldest if event.multiple else event.delivery_tag
        acked |= set(range(first, event.delivery_tag + 1))
        while oldest in acked:
            oldest += 1
        assert {number for number in acked if number % 2 == 0} <= returned
    assert returned == set(range(2, 21, 2))


def test_nacks_and_acks_mixed(ch, names):
    """Refused by a full queue: each tag is settled once, with the right sign."""
    full = ch.declare(
        names.queue(), arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
    ).queue
    free = ch.declare(names.queue()).queue
    ch.confirm()
    for number in range(1, 41):
        ch.publish("", full if number % 4 == 0 else free, b"x")
    seen = {}
    oldest = 1
    while len(seen) < 40:
        event = ch.expect("basic.ack", "basic.nack")
        first = oldest if event.multiple else event.delivery_tag
        for tag in range(first, event.delivery_tag + 1):
            seen.setdefault(tag, event.name)
        while oldest in seen:
            oldest += 1
    wanted = {n: "basic.ack" if n % 4 else "basic.nack" for n in range(1, 41)}
    assert seen == wanted


def test_nack_fields(ch, names):
    name = ch.declare(
        names.queue(), arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
    ).queue
    ch.confirm()
    for number in (1, 2):
        ch.publish("", name, b"x")
        assert ch.expect("basic.nack").delivery_tag == number


def test_deleting_the_queue_confirms_what_it_had(ch, other, names):
    name = ch.declare(names.queue(), durable=True).queue
    ch.confirm()
    for _ in range(200):
        ch.publish("", name, b"x" * 100, delivery_mode=2)
    other.delete(name)
    assert confirmed(ch, 200) == dict.fromkeys(range(1, 201), "ack")


def test_each_channel_counts_for_itself(wire, queue):
    channels = [wire.channel() for _ in range(3)]
    for channel in channels:
        channel.confirm()
        channel.publish("", queue, b"x")
    for channel in channels:
        assert channel.expect("basic.ack").delivery_tag == 1


def test_consumer_on_the_publishing_channel(ch, queue):
    """Deliveries and confirms share the channel and not their numbers."""
    ch.confirm()
    ch.consume(queue, no_ack=True)
    for _ in range(10):
        ch.publish("", queue, b"x")
    acked, delivered = 0, 0
    while acked < 10 or delivered < 10:
        event = ch.expect("basic.ack", "basic.deliver")
        if event.name == "basic.deliver":
            delivered += 1
            assert event.delivery_tag == delivered
        else:
            acked = event.delivery_tag if event.multiple else acked + 1


def test_confirm_after_tx(ch):
    ch.call("tx.select")
    text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode"
    with refused(406, text, "confirm.select"):
        ch.confirm()


def test_tx_after_confirm(ch):
    ch.confirm()
    text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode"
    with refused(406, text, "tx.select"):
        ch.call("tx.select")


@pytest.mark.parametrize("method", ["tx.commit", "tx.rollback"])
def test_tx_methods_in_confirm_mode(ch, method):
    ch.confirm()
    with refused(406, "PRECONDITION_FAILED - channel is not transactional", method):
        ch.call(method)


def test_a_refused_publish_is_not_confirmed(ch, names, queue):
    ch.confirm()
    ch.put(queue, b"x")
    name = names.unique()
    ch.publish(name, "", b"x")
    text = f"NOT_FOUND - no exchange '{name}' in vhost '/'"
    with refused(404, text, "basic.publish"):
        ch.next()
