"""Class basic, consuming: consume, cancel, get, deliver, priorities, exclusivity, single active consumer."""

import pytest

import methods
from support import consumers, refused, wait_count, wait_until
from wire import METHOD, Silence, frame

# -- consume -------------------------------------------------------------------------------------


def test_consume_ok_comes_before_the_first_delivery(ch, wire, queue):
    ch.confirm()
    ch.put(queue, *[b"x"] * 10)
    for _ in range(5):
        consumer = wire.channel()
        consumer.send("basic.consume", queue=queue, consumer_tag="t")
        assert consumer.next().name == "basic.consume-ok"
        consumer.deliveries(10)
        consumer.close()


def test_server_gives_a_tag(ch, queue):
    tags = {ch.consume(queue) for _ in range(3)}
    assert len(tags) == 3
    assert all(tag.startswith("amq.ctag-") for tag in tags)


def test_tag_in_use(ch, queue):
    ch.consume(queue, "tag")
    with refused(
        530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'", "basic.consume", "connection"
    ):
        ch.consume(queue, "tag")


def test_tag_is_per_channel(wire, ch, queue):
    ch.consume(queue, "tag")
    wire.channel().consume(queue, "tag")


def test_tag_is_free_after_cancel(ch, queue):
    ch.consume(queue, "tag")
    ch.call("basic.cancel", consumer_tag="tag")
    ch.consume(queue, "tag")


def test_consume_from_a_missing_queue(ch, names):
    name = names.unique()
    with refused(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", "basic.consume"):
        ch.consume(name)


def test_nowait_consume(ch, queue):
    ch.send("basic.consume", queue=queue, consumer_tag="quiet", no_ack=True, nowait=True)
    ch.publish("", queue, b"x")
    assert ch.next().consumer_tag == "quiet"


def test_deliver_fields(ch, queue):
    tag = ch.consume(queue)
    ch.publish("amq.direct", "unbound", b"lost")
    ch.bind(queue, "amq.direct", queue)
    ch.publish("amq.direct", queue, b"x", content_type="a/b")
    delivery = ch.expect("basic.deliver")
    assert delivery.fields == {
        "consumer_tag": tag,
        "delivery_tag": 1,
        "redelivered": False,
        "exchange": "amq.direct",
        "routing_key": queue,
    }
    assert (delivery.body, delivery.properties) == (b"x", {"content_type": "a/b"})


def test_delivery_tags_count_up_per_channel(wire, ch, names):
    """Over all consumers and gets of the channel, with and without acknowledgement."""
    a, b = (ch.declare(names.queue()).queue for _ in range(2))
    ch.confirm()
    ch.put(a, b"1", b"2")
    ch.put(b, b"3")
    channel = wire.channel()
    assert channel.get(a, no_ack=True).delivery_tag == 1
    assert channel.get(b, no_ack=False).delivery_tag == 2
    channel.consume(a)
    assert channel.expect("basic.deliver").delivery_tag == 3


def test_consumer_tags_of_255_octets(ch, queue):
    assert ch.consume(queue, "t" * 255) == "t" * 255


@pytest.mark.parametrize(
    "arguments, why",
    [
        ({"x-priority": "1"}, '"expected integer, got longstr"'),
        ({"x-priority": True}, '"expected integer, got bool"'),
        ({"x-priority": 1.5}, '"expected integer, got double"'),
        ({"x-cancel-on-ha-failover": 1}, "{unacceptable_type,signedint}"),
        ({"x-cancel-on-ha-failover": "true"}, "{unacceptable_type,longstr}"),
    ],
)
def test_invalid_arguments(ch, queue, arguments, why):
    (arg,) = arguments
    text = f"PRECONDITION_FAILED - invalid arg '{arg}' for queue '{queue}' in vhost '/': {why}"
    with refused(406, text, "basic.consume"):
        ch.consume(queue, arguments=arguments)


@pytest.mark.rabbitmq_only
def test_argument_of_another_queue_type(ch, queue):
    text = (
        f"PRECONDITION_FAILED - invalid arg 'x-stream-offset' for queue '{queue}' in vhost '/'"
        " of queue type rabbit_classic_queue"
    )
    with refused(406, text, "basic.consume"):
        ch.consume(queue, arguments={"x-stream-offset": "first"})


@pytest.mark.rabbitmq_only
def test_cancel_on_ha_failover_of_a_quorum_queue(ch, names):
    arguments = {"x-queue-type": "quorum"}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    text = (
        f"PRECONDITION_FAILED - invalid arg 'x-cancel-on-ha-failover' for queue '{name}'"
        " in vhost '/' of queue type rabbit_quorum_queue"
    )
    with refused(406, text, "basic.consume"):
        ch.consume(name, arguments={"x-cancel-on-ha-failover": True})


@pytest.mark.leveret_only
def test_cancel_on_ha_failover_of_any_queue(ch, names):
    """OSLO.md: a service with both options set must start."""
    arguments = {"x-queue-type": "quorum"}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    ch.consume(name, arguments={"x-cancel-on-ha-failover": True})


@pytest.mark.parametrize(
    "arguments",
    [{"x-unknown": [1]}, {"x-priority": ("l", 2**40)}, {"x-cancel-on-ha-failover": True}],
)
def test_arguments_that_are_taken(ch, queue, arguments):
    ch.consume(queue, arguments=arguments)


def test_no_local_is_ignored(ch, queue):
    ch.consume(queue, no_local=True, no_ack=True)
    ch.publish("", queue, b"own")
    assert ch.expect("basic.deliver").body == b"own"


# -- exclusive consumers -------------------------------------------------------------------------


def in_exclusive_use(queue):
    return f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"


def test_exclusive_consumer_keeps_others_out(ch, other, queue):
    ch.consume(queue, exclusive=True)
    with refused(403, in_exclusive_use(queue), "basic.consume"):
        other.consume(queue)


def test_exclusive_consumer_on_the_same_channel(ch, queue):
    ch.consume(queue, exclusive=True)
    with refused(403, in_exclusive_use(queue), "basic.consume"):
        ch.consume(queue)


def test_exclusive_consumer_where_others_are(ch, other, queue):
    ch.consume(queue)
    with refused(403, in_exclusive_use(queue), "basic.consume"):
        other.consume(queue, exclusive=True)


def test_exclusive_consumer_leaves(ch, other, queue):
    tag = ch.consume(queue, exclusive=True)
    ch.call("basic.cancel", consumer_tag=tag)
    other.consume(queue)


def test_get_beside_an_exclusive_consumer(ch, other, queue):
    """An exclusive consumer does not keep basic.get out."""
    ch.qos(1)
    ch.consume(queue, exclusive=True)
    other.confirm()
    other.put(queue, b"a", b"b")
    ch.expect("basic.deliver")
    assert other.get(queue).body == b"b"


# -- cancel --------------------------------------------------------------------------------------


def test_cancel_of_an_unknown_tag_is_fine(ch):
    assert ch.call("basic.cancel", consumer_tag="never").consumer_tag == "never"


def test_nothing_is_delivered_after_cancel_ok(ch, other, queue):
    other.confirm()
    other.put(queue, *[b"x"] * 50)
    tag = ch.consume(queue, no_ack=True)
    ch.send("basic.cancel", consumer_tag=tag)
    while ch.next().name == "basic.deliver":
        pass
    other.put(queue, b"late")
    ch.nothing()


def test_cancel_keeps_what_is_unacknowledged(ch, queue):
    ch.confirm()
    ch.put(queue, b"x")
    tag = ch.consume(queue)
    delivery = ch.expect("basic.deliver")
    ch.call("basic.cancel", consumer_tag=tag)
    assert ch.get(queue) is None
    ch.reject(delivery.delivery_tag)
    wait_count(ch, queue, 1)


def test_nowait_cancel(ch, queue):
    tag = ch.consume(queue)
    ch.send("basic.cancel", consumer_tag=tag, nowait=True)
    assert ch.declare(queue, passive=True).consumer_count == 0


# -- consumer cancel notification ----------------------------------------------------------------


def test_client_is_told_when_the_queue_goes(ch, other, queue):
    tag = ch.consume(queue)
    other.delete(queue)
    cancel = ch.expect("basic.cancel")
    assert (cancel.consumer_tag, cancel.nowait) == (tag, True)


def test_delete_ok_comes_before_the_cancel_it_causes(ch, queue):
    """oslo.messaging stops its close routine otherwise."""
    ch.consume(queue)
    ch.send("queue.delete", queue=queue)
    assert [ch.next().name for _ in range(2)] == ["queue.delete-ok", "basic.cancel"]


def test_every_consumer_is_told(ch, other, queue):
    tags = {ch.consume(queue) for _ in range(3)}
    other.delete(queue)
    assert {ch.expect("basic.cancel").consumer_tag for _ in range(3)} == tags


def test_client_without_the_capability_is_not_told(connect, ch, queue):
    channel = connect(capabilities={}).channel()
    channel.consume(queue)
    ch.delete(queue)
    channel.nothing()


def test_tag_is_free_after_the_notification(ch, names, queue):
    ch.consume(queue, "tag")
    ch.send("queue.delete", queue=queue)
    ch.expect("queue.delete-ok")
    ch.expect("basic.cancel")
    ch.consume(ch.declare(names.queue()).queue, "tag")


def test_what_is_out_stays_valid_when_the_queue_goes(ch, other, queue):
    """An ack for a message of a deleted queue is no error."""
    other.confirm()
    ch.consume(queue)
    other.put(queue, b"x")
    delivery = ch.expect("basic.deliver")
    other.delete(queue)
    ch.expect("basic.cancel")
    ch.ack(delivery.delivery_tag)
    ch.call("basic.qos")


# -- get -----------------------------------------------------------------------------------------


def test_get_empty(ch, queue):
    assert ch.call("basic.get", queue=queue).name == "basic.get-empty"


def test_get_fields(ch, queue):
    ch.confirm()
    ch.put(queue, b"a", b"b", b"c")
    message = ch.get(queue)
    assert message.fields == {
        "delivery_tag": 1,
        "redelivered": False,
        "exchange": "",
        "routing_key": queue,
        "message_count": 2,
    }


def test_get_from_a_missing_queue(ch, names):
    name = names.unique()
    with refused(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", "basic.get"):
        ch.get(name)


def test_get_without_ack_is_final(wire, ch, queue):
    ch.confirm()
    ch.put(queue, b"x")
    channel = wire.channel()
    channel.get(queue, no_ack=True)
    channel.close()
    assert ch.get(queue) is None


# -- who gets what -------------------------------------------------------------------------------


def test_round_robin(ch, queue):
    """Consumers with credit take turns, strictly."""
    tags = [ch.consume(queue, no_ack=True) for _ in range(3)]
    for _ in range(9):
        ch.publish("", queue, b"x")
    assert [d.consumer_tag for d in ch.deliveries(9)] == tags * 3


def test_round_robin_over_channels(wire, ch, queue):
    channels = [wire.channel() for _ in range(3)]
    for channel in channels:
        channel.consume(queue, no_ack=True)
    for number in range(6):
        ch.publish("", queue, b"%d" % number)
    got = [[d.body for d in channel.deliveries(2)] for channel in channels]
    assert got == [[b"0", b"3"], [b"1", b"4"], [b"2", b"5"]]


def test_a_consumer_without_credit_is_passed_over(wire, ch, queue):
    slow, quick = wire.channel(), wire.channel()
    slow.qos(1)
    slow.consume(queue)
    quick.consume(queue, no_ack=True)
    ch.confirm()
    ch.put(queue, *[b"%d" % number for number in range(10)])
    held = slow.expect("basic.deliver").body
    rest = [d.body for d in quick.deliveries(9)]
    assert sorted([held, *rest]) == [b"%d" % number for number in range(10)]
    assert rest == sorted(rest)


def test_consumer_priorities(wire, ch, queue):
    """The highest with credit gets it; the others when that one is full."""
    low, high = wire.channel(), wire.channel()
    low.consume(queue, no_ack=True, arguments={"x-priority": -1})
    high.qos(2)
    high.consume(queue, arguments={"x-priority": 10})
    ch.confirm()
    ch.put(queue, b"1", b"2", b"3")
    assert [d.body for d in high.deliveries(2)] == [b"1", b"2"]
    assert low.expect("basic.deliver").body == b"3"
    high.ack(0, multiple=True)
    high.call("basic.qos", prefetch_count=2)
    ch.put(queue, b"4")
    assert high.expect("basic.deliver").body == b"4"


def test_equal_priorities_take_turns(ch, queue):
    tags = [ch.consume(queue, no_ack=True, arguments={"x-priority": 5}) for _ in range(2)]
    ch.consume(queue, no_ack=True)
    for _ in range(4):
        ch.publish("", queue, b"x")
    assert [d.consumer_tag for d in ch.deliveries(4)] == tags * 2


def test_order_is_kept_over_many_messages(ch, queue):
    bodies = [b"%06d" % number for number in range(3000)]
    ch.confirm()
    ch.put(queue, *bodies[:1500])
    ch.consume(queue, no_ack=True)
    for body in bodies[1500:]:
        ch.publish("", queue, body)
    seen = []
    while len(seen) < 3000:
        event = ch.next()
        if event.name == "basic.deliver":
            seen.append(event.body)
    assert seen == bodies


# -- single active consumer ----------------------------------------------------------------------


@pytest.fixture(params=["classic", "quorum"])
def single(request, ch, names):
    arguments = {"x-single-active-consumer": True, "x-queue-type": request.param}
    return ch.declare(names.queue(), durable=True, arguments=arguments).queue


def test_one_consumer_gets_everything(wire, ch, single):
    first, second = wire.channel(), wire.channel()
    first.consume(single, no_ack=True)
    second.consume(single, no_ack=True)
    ch.confirm()
    ch.put(single, *[b"%d" % number for number in range(5)])
    assert [d.body for d in first.deliveries(5)] == [b"%d" % number for number in range(5)]
    second.nothing()


def test_the_next_takes_over_in_order_of_arrival(wire, ch, single):
    channels = [wire.channel() for _ in range(3)]
    tags = [channel.consume(single, no_ack=True) for channel in channels]
    ch.confirm()
    for turn in range(3):
        ch.put(single, b"%d" % turn)
        assert channels[turn].expect("basic.deliver").body == b"%d" % turn
        channels[turn].call("basic.cancel", consumer_tag=tags[turn])


def test_the_next_is_the_one_of_the_highest_priority(wire, ch, names):
    """So RabbitMQ's classic queues have it; its quorum queues go by arrival only."""
    arguments = {"x-single-active-consumer": True}
    queue = ch.declare(names.queue(), arguments=arguments).queue
    channels = [wire.channel() for _ in range(4)]
    tags = [
        channel.consume(queue, no_ack=True, arguments={"x-priority": priority})
        for channel, priority in zip(channels, (0, 0, 7, 7))
    ]
    ch.confirm()
    for turn in (0, 2, 3, 1):
        ch.put(queue, b"%d" % turn)
        assert channels[turn].expect("basic.deliver").body == b"%d" % turn
        channels[turn].call("basic.cancel", consumer_tag=tags[turn])


def test_takeover_when_the_active_connection_dies(connect, ch, single):
    active, waiting = connect(), connect().channel()
    doomed = active.channel()
    doomed.consume(single)
    waiting.consume(single)
    ch.confirm()
    ch.put(single, b"x")
    doomed.expect("basic.deliver")
    active.sock.close()
    delivery = waiting.expect("basic.deliver")
    assert (delivery.body, delivery.redelivered) == (b"x", True)


def test_full_active_consumer_is_waited_for(wire, ch, single):
    active, waiting = wire.channel(), wire.channel()
    active.qos(1)
    active.consume(single)
    waiting.consume(single)
    ch.confirm()
    ch.put(single, b"1", b"2")
    delivery = active.expect("basic.deliver")
    waiting.nothing()
    active.ack(delivery.delivery_tag)
    assert active.expect("basic.deliver").body == b"2"


def test_waiting_consumers_are_counted(ch, names):
    """(A quorum queue of RabbitMQ counts only the active one.)"""
    arguments = {"x-single-active-consumer": True}
    name = ch.declare(names.queue(), arguments=arguments).queue
    for _ in range(2):
        ch.consume(name)
    assert consumers(ch, name) == 2


def test_exclusive_consumer_of_a_single_active_queue(ch, names):
    arguments = {"x-single-active-consumer": True}
    name = ch.declare(names.queue(), arguments=arguments).queue
    with refused(403, in_exclusive_use(name), "basic.consume"):
        ch.consume(name, exclusive=True)


@pytest.mark.rabbitmq_only
def test_get_from_a_single_active_quorum_queue(ch, names):
    arguments = {"x-single-active-consumer": True, "x-queue-type": "quorum"}
    name = ch.declare(names.queue(), durable=True, arguments=arguments).queue
    text = (
        f"RESOURCE_LOCKED - cannot obtain access to locked queue '{name}' in vhost '/'. basic.get"
        " operations are not supported by quorum queues with single active consumer"
    )
    with refused(405, text, "basic.get"):
        ch.get(name)


# -- after the client is gone --------------------------------------------------------------------


def test_deliveries_come_back_when_the_connection_dies(connect, ch, queue):
    ch.confirm()
    ch.put(queue, b"a", b"b")
    wire = connect()
    doomed = wire.channel()
    doomed.consume(queue)
    doomed.deliveries(2)
    wire.sock.close()
    wait_count(ch, queue, 2)
    messages = [ch.get(queue) for _ in range(2)]
    assert [(m.body, m.redelivered) for m in messages] == [(b"a", True), (b"b", True)]


def test_pipelined_requests(wire, ch, queue):
    """Answers come in the order of the requests (but for consume-ok, which the queue sends)."""
    requests = [
        ("basic.get", {"queue": queue}),
        ("basic.qos", {"prefetch_count": 1}),
        ("queue.declare", {"queue": queue, "passive": True}),
    ]
    wire.send_raw(
        b"".join(
            frame(METHOD, ch.number, methods.encode(name, fields)) for name, fields in requests
        )
    )
    assert [ch.next().name for _ in range(3)] == [
        "basic.get-empty",
        "basic.qos-ok",
        "queue.declare-ok",
    ]


def test_consuming_with_pika(pika_connection, names):
    """The same through an ordinary client: a callback consumer that is cancelled with its queue."""
    channel = pika_connection.channel()
    name = names.queue()
    channel.queue_declare(name)
    seen, cancelled = [], []
    channel.add_on_cancel_callback(cancelled.append)
    channel.basic_consume(
        name,
        lambda _channel, method, _properties, body: seen.append((method.delivery_tag, body)),
        True,
    )
    for number in range(3):
        channel.basic_publish("", name, b"%d" % number)
    wait_until(lambda: pika_connection.process_data_events(0) or len(seen) == 3, "three messages")
    assert seen == [(1, b"0"), (2, b"1"), (3, b"2")]
    pika_connection.channel().queue_delete(name)
    wait_until(lambda: pika_connection.process_data_events(0) or cancelled, "the cancel")


def test_silence_without_messages(ch, queue):
    ch.consume(queue)
    with pytest.raises(Silence):
        ch.next(0.15)
