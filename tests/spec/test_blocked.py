"""connection.blocked and unblocked under a resource alarm. Runs with --alarms only: it stops every publisher.

The operator's command needs `set_vm_memory_high_watermark absolute N`.
"""

import pytest

from support import wait_until
from wire import CAPABILITIES, Silence

ENOUGH = "8GB"
TOO_LITTLE = "1MB"

pytestmark = pytest.mark.xdist_group("alarms")


@pytest.fixture
def alarm(request, admin):
    """Raises the memory alarm with the first call and clears it with the second, or at the end."""
    if not request.config.getoption("--alarms"):
        pytest.skip("stops every publisher of the broker; needs --alarms")
    if not hasattr(admin, "run"):
        pytest.skip("needs --ctl")

    def set_alarm(on):
        limit = TOO_LITTLE if on else ENOUGH
        admin.run("set_vm_memory_high_watermark", "absolute", limit)

    yield set_alarm
    set_alarm(False)


def published(channel, queue):
    """Publishes with confirm; whether the broker took it within a moment."""
    channel.publish("", queue, b"x")
    try:
        channel.expect("basic.ack", timeout=0.3)
    except Silence:
        return False
    return True


def test_a_publisher_is_blocked_and_unblocked(alarm, connect, queue):
    wire = connect()
    channel = wire.channel()
    channel.confirm()
    assert published(channel, queue)
    alarm(True)
    wait_until(lambda: not published(channel, queue), "publishing to stop")
    blocked = wire.expect(0, "connection.blocked")
    assert blocked.reason == "low on memory"
    alarm(False)
    wire.expect(0, "connection.unblocked")
    channel.expect("basic.ack")


def test_consumers_are_never_blocked(alarm, connect, ch, queue):
    """Nor are gets, acks, declares: a connection that publishes nothing notices nothing."""
    ch.confirm()
    ch.put(queue, *[b"%d" % number for number in range(5)])
    alarm(True)
    publisher = connect()
    stuck = publisher.channel()
    stuck.confirm()
    wait_until(lambda: not published(stuck, queue), "the alarm")
    publisher.expect(0, "connection.blocked")
    wire = connect()
    consumer = wire.channel()
    consumer.qos(2)
    consumer.consume(queue)
    for number in range(5):
        delivery = consumer.expect("basic.deliver")
        assert delivery.body == b"%d" % number
        consumer.ack(delivery.delivery_tag)
    consumer.declare(queue, passive=True)
    assert not wire.events.get(0)


def test_client_without_the_capability_is_not_told(alarm, connect, queue):
    capabilities = {**CAPABILITIES, "connection.blocked": False}
    wire = connect(capabilities=capabilities)
    channel = wire.channel()
    channel.confirm()
    alarm(True)
    wait_until(lambda: not published(channel, queue), "publishing to stop")
    assert not wire.events.get(0)
    alarm(False)
    channel.expect("basic.ack")
    assert not wire.events.get(0)
