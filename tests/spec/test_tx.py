"""Class tx: what a transaction covers, when it is seen, and errors inside it."""

import pytest

from support import count, refused, wait_count


@pytest.fixture
def tx(wire):
    channel = wire.channel()
    channel.call("tx.select")
    return channel


def test_select_is_repeatable(ch):
    ch.call("tx.select")
    ch.call("tx.select")


@pytest.mark.parametrize("method", ["tx.commit", "tx.rollback"])
def test_without_select(ch, method):
    with refused(406, "PRECONDITION_FAILED - channel is not transactional", method):
        ch.call(method)


def test_empty_transactions(tx):
    for _ in range(3):
        tx.call("tx.commit")
        tx.call("tx.rollback")


def test_publish_is_seen_after_commit_only(tx, ch, queue):
    tx.publish("", queue, b"a")
    tx.publish("", queue, b"b")
    tx.call("basic.qos")
    assert count(ch, queue) == 0
    tx.call("tx.commit")
    assert ch.bodies(queue) == [b"a", b"b"]


def test_rollback_forgets_publishes(tx, ch, queue):
    tx.publish("", queue, b"never")
    tx.call("tx.rollback")
    tx.publish("", queue, b"x")
    tx.call("tx.commit")
    assert ch.bodies(queue) == [b"x"]


def test_closing_the_channel_forgets(tx, ch, queue):
    tx.publish("", queue, b"never")
    tx.close()
    assert count(ch, queue) == 0


def test_commit_to_several_queues(tx, ch, names):
    queues = [ch.declare(names.queue(), durable=durable).queue for durable in (True, False)]
    for queue in queues:
        tx.publish("", queue, b"x", delivery_mode=2)
    tx.call("tx.commit")
    assert [count(ch, queue) for queue in queues] == [1, 1]


def test_ack_counts_at_commit(tx, wire, ch, queue):
    ch.confirm()
    ch.put(queue, b"a", b"b")
    for _ in range(2):
        tx.ack(tx.get(queue, no_ack=False).delivery_tag)
    tx.call("tx.commit")
    tx.close()
    assert ch.get(queue) is None


def test_ack_without_commit_is_none(tx, ch, queue):
    ch.confirm()
    ch.put(queue, b"a")
    tx.ack(tx.get(queue, no_ack=False).delivery_tag)
    tx.close()
    wait_count(ch, queue, 1)


def test_rollback_gives_the_tag_back(tx, ch, queue):
    """After rollback the message is unacknowledged still, and the tag valid; it is not redelivered."""
    ch.confirm()
    ch.put(queue, b"a")
    tag = tx.get(queue, no_ack=False).delivery_tag
    tx.ack(tag)
    tx.call("tx.rollback")
    assert ch.get(queue) is None
    tx.ack(tag)
    tx.call("tx.commit")
    tx.close()
    assert ch.get(queue) is None


def test_double_ack_inside(tx, ch, queue):
    """Told at once, not at commit."""
    ch.confirm()
    ch.put(queue, b"a")
    tag = tx.get(queue, no_ack=False).delivery_tag
    tx.ack(tag)
    tx.ack(tag)
    with refused(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}", "basic.ack"):
        tx.next()
    wait_count(ch, queue, 1)


def test_reject_counts_at_commit(tx, ch, queue):
    ch.confirm()
    ch.put(queue, b"a", b"b")
    first, second = (tx.get(queue, no_ack=False).delivery_tag for _ in range(2))
    tx.reject(first, requeue=True)
    tx.nack(second, requeue=False)
    tx.call("basic.qos")
    assert count(ch, queue) == 0
    tx.call("tx.commit")
    wait_count(ch, queue, 1)
    assert ch.bodies(queue) == [b"a"]


def test_deliveries_go_on_inside(tx, ch, queue):
    """Consuming is no part of the transaction; credit comes back at commit."""
    tx.qos(1)
    tx.consume(queue)
    ch.confirm()
    ch.put(queue, b"a", b"b")
    tx.ack(tx.expect("basic.deliver").delivery_tag)
    tx.nothing()
    tx.call("tx.commit")
    assert tx.expect("basic.deliver").body == b"b"


def test_publish_and_ack_together(tx, ch, names, queue):
    """Move a message: taken here, put there, or neither."""
    target = ch.declare(names.queue()).queue
    ch.confirm()
    ch.put(queue, b"x")
    message = tx.get(queue, no_ack=False)
    tx.publish("", target, message.body)
    tx.ack(message.delivery_tag)
    tx.call("tx.commit")
    tx.close()
    assert (count(ch, queue), ch.bodies(target)) == (0, [b"x"])


def test_declarations_are_no_part(tx, ch, names):
    name = tx.declare(names.queue()).queue
    tx.call("tx.rollback")
    assert ch.declare(name, passive=True).queue == name


def test_missing_exchange_is_told_at_once(tx, ch, names, queue):
    name = names.unique()
    tx.publish("", queue, b"never")
    tx.publish(name, "", b"x")
    with refused(404, f"NOT_FOUND - no exchange '{name}' in vhost '/'", "basic.publish"):
        tx.next()
    assert count(ch, queue) == 0


def test_returns_come_at_commit(tx, names):
    """basic.return before commit-ok."""
    tx.publish("", names.unique(), b"x", mandatory=True)
    tx.call("basic.qos")
    tx.nothing()
    tx.send("tx.commit")
    assert [tx.next().name for _ in range(2)] == ["basic.return", "tx.commit-ok"]


def test_queue_deleted_before_commit(tx, ch, names):
    """Routes are taken at publish time; a queue that is gone by commit takes nothing."""
    name = ch.declare(names.queue()).queue
    tx.publish("", name, b"x")
    tx.call("basic.qos")
    ch.delete(name)
    tx.call("tx.commit")
    ch.declare(name)
    assert count(ch, name) == 0


@pytest.mark.rabbitmq_only
def test_queue_bound_before_commit_takes_nothing(tx, ch, names, queue):
    """Bindings are followed at publish time, not at commit."""
    exchange = names.exchange()
    ch.exchange(exchange, "fanout")
    tx.publish(exchange, "", b"x")
    tx.call("basic.qos")
    ch.bind(queue, exchange)
    tx.call("tx.commit")
    assert count(ch, queue) == 0


def test_full_queue_refuses_the_commit(tx, ch, names):
    arguments = {"x-max-length": 0, "x-overflow": "reject-publish"}
    name = ch.declare(names.queue(), arguments=arguments).queue
    tx.publish("", name, b"x")
    with refused(406, "PRECONDITION_FAILED - partial tx completion", "tx.commit"):
        tx.call("tx.commit")


def test_large_transaction(tx, ch, queue):
    for number in range(2000):
        tx.publish("", queue, b"%d" % number)
    tx.call("tx.commit")
    assert count(ch, queue) == 2000


def test_transactions_with_pika(pika_connection, names):
    """The same through an ordinary client."""
    channel = pika_connection.channel()
    name = names.queue()
    channel.queue_declare(name)
    channel.tx_select()
    channel.basic_publish("", name, b"no")
    channel.tx_rollback()
    channel.basic_publish("", name, b"yes")
    channel.tx_commit()
    _, _, body = channel.basic_get(name, auto_ack=True)
    assert body == b"yes"
    assert channel.basic_get(name)[0] is None
