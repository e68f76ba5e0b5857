"""Class channel: open, close, flow, and what a channel error leaves alone."""

import pytest

import methods
from support import refused
from wire import METHOD, Refused, Silence, frame

UNIMPLEMENTED = "COMMAND_INVALID - unimplemented method"


def test_open_ok_is_empty(wire):
    assert wire.call(1, "channel.open").reserved1 == ""


def test_open_twice(ch):
    ch.send("channel.open")
    with refused(504, "CHANNEL_ERROR - second 'channel.open' seen", "channel.open", "connection"):
        ch.next()


def test_any_number_in_any_order(wire):
    for number in (2047, 5, 1, 300):
        wire.channel(number)


def test_close_and_reuse_at_once(wire):
    """close-ok received, the number may be opened again in the next octet."""
    for _ in range(20):
        wire.channel(3).close()


def test_reuse_without_waiting_for_open_ok(wire, queue):
    wire.send(5, "channel.open")
    wire.send(5, "queue.declare", queue=queue, passive=True)
    wire.expect(5, "channel.open-ok")
    wire.expect(5, "queue.declare-ok")


def test_close_requeues_what_was_not_acknowledged(wire, ch, queue):
    ch.confirm()
    ch.put(queue, b"a", b"b")
    doomed = wire.channel()
    doomed.get(queue, no_ack=False)
    doomed.close()
    first = ch.get(queue)
    assert (first.body, first.redelivered) == (b"a", True)
    assert ch.get(queue).redelivered is False


def test_close_ends_its_consumers(wire, ch, queue):
    doomed = wire.channel()
    doomed.consume(queue)
    doomed.close()
    assert ch.declare(queue, passive=True).consumer_count == 0


def test_channel_error_leaves_the_connection_and_other_channels(wire, ch, queue):
    bad = wire.channel()
    with pytest.raises(Refused):
        bad.declare("spec-no-such-queue", passive=True)
    assert ch.declare(queue, passive=True).queue == queue
    wire.channel(bad.number)


def test_channel_error_requeues_what_was_not_acknowledged(wire, ch, queue):
    ch.confirm()
    ch.put(queue, b"a")
    bad = wire.channel()
    bad.get(queue, no_ack=False)
    with pytest.raises(Refused):
        bad.call("basic.get", queue="spec-no-such-queue")
    assert ch.get(queue).redelivered is True


def test_frames_after_channel_close_are_ignored(wire, ch, names):
    """Between the broker's channel.close and the client's close-ok nothing is done or answered."""
    wire.answers_close = False
    bad = wire.channel()
    name = names.queue()
    wire.send_raw(
        frame(METHOD, bad.number, methods.encode("queue.purge", {"queue": "spec-no-such"}))
        + frame(METHOD, bad.number, methods.encode("queue.declare", {"queue": name}))
    )
    with pytest.raises(Refused):
        bad.next()
    bad.publish("spec-no-such-exchange", "")
    bad.send("queue.declare", queue=name)
    bad.send("channel.close-ok")
    wire.channel(bad.number).call("basic.qos")
    with refused(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", "queue.declare"):
        ch.declare(name, passive=True)


def test_close_sent_while_the_broker_closes_is_answered(wire):
    wire.answers_close = False
    bad = wire.channel()
    bad.send("queue.purge", queue="spec-no-such-queue")
    with pytest.raises(Refused):
        bad.next()
    bad.close()


def test_nothing_comes_after_channel_close(wire, ch, queue):
    """A delivery may come before the channel.close, never after it."""
    consumer = wire.channel()
    consumer.consume(queue, no_ack=True)
    consumer.send("queue.purge", queue="spec-no-such-queue")
    with pytest.raises(Refused):
        consumer.next()
    ch.confirm()
    ch.put(queue, b"late")
    with pytest.raises(Silence):
        consumer.next(0.15)


def test_close_ok_without_close(ch):
    ch.send("channel.close-ok")
    with refused(503, UNIMPLEMENTED, "channel.close-ok", "connection"):
        ch.next()


def test_flow_active(ch):
    assert ch.call("channel.flow", active=True).active is True


def test_flow_inactive(ch):
    ch.send("channel.flow", active=False)
    with refused(540, "NOT_IMPLEMENTED - active=false", "channel.flow", "connection"):
        ch.next()


def test_access_request(ch):
    """A method of AMQP 0-8 that old clients send."""
    ch.send("access.request", realm="/data", active=True)
    assert ch.expect("access.request-ok").ticket == 1


@pytest.mark.parametrize(
    "name, fields",
    [
        ("queue.declare-ok", {"queue": "x"}),
        ("basic.qos-ok", {}),
        ("basic.consume-ok", {"consumer_tag": "x"}),
        ("channel.open-ok", {}),
        ("basic.cancel-ok", {"consumer_tag": "x"}),
        ("basic.recover-ok", {}),
        ("confirm.select-ok", {}),
        ("tx.select-ok", {}),
    ],
)
def test_answers_are_not_requests(ch, name, fields):
    ch.send(name, **fields)
    with refused(503, UNIMPLEMENTED, name, "connection"):
        ch.next()


def test_close_text_and_ids_are_free(ch):
    ch.call("channel.close", reply_code=404, reply_text="x" * 255, class_id=60, method_id=40)


def test_many_channels_interleaved(wire, names):
    """Each channel's answers keep its own order, whatever the others do."""
    channels = [wire.channel() for _ in range(20)]
    for step in range(5):
        for channel in channels:
            channel.send("basic.qos", prefetch_count=step)
            channel.send("tx.select")
    for channel in channels:
        for _ in range(5):
            channel.expect("basic.qos-ok")
            channel.expect("tx.select-ok")
