"""`consumer_timeout`: a delivery that is not acknowledged in time ends its channel."""

import time

import pytest
from harness.options import address
from support import check_refusal, wait_count
from wire import Refused, Wire

TIMEOUT_MS = 1500
TEXT = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel {} timed out. Timeout value used: {} ms."
    " This timeout value can be configured, see consumers doc guide to learn more"
)


@pytest.fixture
def impatient(launch, monkeypatch):
    # RabbitMQ looks once a minute otherwise, and it has no key in rabbitmq.conf for that.
    monkeypatch.setenv("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-rabbit channel_tick_interval 300")
    server = launch("impatient", consumer_timeout=TIMEOUT_MS).start()
    wire = Wire.opened(address(server))
    yield wire
    wire.close()
    server.close()


def times_out(channel):
    with pytest.raises(Refused) as caught:
        while True:
            channel.next()
    check_refusal(caught.value, 406, TEXT.format(channel.number, TIMEOUT_MS), None)


def test_a_delivery_that_is_not_acknowledged_ends_its_channel(impatient):
    watcher = impatient.channel()
    late, patient = impatient.channel(7), impatient.channel()
    watcher.declare("late")
    watcher.declare("acked")
    watcher.confirm()
    watcher.put("late", b"1", b"2", b"3")
    watcher.put("acked", b"4")
    patient.consume("acked")
    patient.ack(patient.deliveries(1)[0].delivery_tag)
    late.consume("late")
    started = time.monotonic()
    first, *_ = late.deliveries(3)
    # Acknowledging some of them is not enough.
    late.ack(first.delivery_tag)
    times_out(late)
    assert time.monotonic() - started > TIMEOUT_MS / 1000 - 0.1
    # Channel and consumer are gone, the connection goes on, and the messages are back.
    wait_count(watcher, "late", 2)
    assert watcher.declare("late", passive=True).consumer_count == 0
    message = watcher.get("late")
    assert (message.body, message.redelivered) == (b"2", True)
    assert patient.declare("acked", passive=True).consumer_count == 1
    assert impatient.channel(7).bodies("late") == [b"3"]


def test_what_was_got_times_out_too(impatient):
    channel, watcher = impatient.channel(), impatient.channel()
    watcher.declare("got")
    watcher.confirm()
    watcher.put("got", b"1")
    assert channel.get("got", no_ack=False).body == b"1"
    times_out(channel)
    wait_count(watcher, "got", 1)


def test_without_acknowledgement_nothing_times_out(impatient):
    quiet, late = impatient.channel(), impatient.channel()
    quiet.declare("quiet")
    quiet.declare("late")
    quiet.confirm()
    quiet.put("quiet", b"1")
    quiet.put("late", b"2")
    quiet.consume("quiet", no_ack=True)
    assert quiet.deliveries(1)[0].body == b"1"
    late.consume("late")
    times_out(late)
    # As old as the one that timed out, and its channel is open.
    assert quiet.declare("quiet", passive=True).consumer_count == 1
