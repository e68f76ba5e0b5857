"""Direct reply-to: the pseudo-queue amq.rabbitmq.reply-to (RabbitMQ extension)."""

import pytest

from support import refused, wait_until

PSEUDO = "amq.rabbitmq.reply-to"


@pytest.fixture
def client(wire):
    """A channel that consumes replies."""
    channel = wire.channel()
    channel.consume(PSEUDO, "replies", no_ack=True)
    return channel


def request(client, server, queue):
    """Sends a request from the client; returns the reply address the server sees."""
    client.publish("", queue, b"request", reply_to=PSEUDO)
    message = wait_until(lambda: server.get(queue), "the request")
    return message.properties["reply_to"]


def test_request_and_reply(client, other, queue):
    address = request(client, other, queue)
    assert address.startswith(PSEUDO + ".")
    other.publish("", address, b"reply", correlation_id="1")
    reply = client.expect("basic.deliver")
    assert reply.fields == {
        "consumer_tag": "replies",
        "delivery_tag": 1,
        "redelivered": False,
        "exchange": "",
        "routing_key": address,
    }
    assert (reply.body, reply.properties) == (b"reply", {"correlation_id": "1"})


def test_many_replies_to_one_address(client, other, queue):
    address = request(client, other, queue)
    for number in range(5):
        other.publish("", address, b"%d" % number)
    assert [d.body for d in client.deliveries(5)] == [b"%d" % number for number in range(5)]


def test_replies_use_no_delivery_tag_up(client, other, queue, names):
    """Every reply has the tag that the channel gives next."""
    address = request(client, other, queue)
    for body in (b"1", b"2"):
        other.publish("", address, body)
    assert [d.delivery_tag for d in client.deliveries(2)] == [1, 1]
    plain = client.declare(names.queue()).queue
    client.consume(plain, "plain")
    other.publish("", plain, b"3")
    assert client.expect("basic.deliver").delivery_tag == 1
    other.publish("", address, b"4")
    assert client.expect("basic.deliver").delivery_tag == 2
    client.ack(1)
    other.publish("", plain, b"5")
    assert client.expect("basic.deliver").delivery_tag == 2


def test_mandatory_reply_to_a_live_client(client, other, queue):
    """It arrives. (RabbitMQ returns it as NO_ROUTE as well, since no queue took it.)"""
    address = request(client, other, queue)
    other.confirm()
    other.publish("", address, b"reply", mandatory=True)
    while other.next().name != "basic.ack":
        pass
    assert client.expect("basic.deliver").body == b"reply"


def test_reply_to_a_client_that_is_gone(client, other, queue):
    address = request(client, other, queue)
    client.close()
    other.publish("", address, b"reply", mandatory=True)
    assert other.expect("basic.return").reply_code == 312


def test_reply_after_cancel(client, other, queue):
    address = request(client, other, queue)
    client.call("basic.cancel", consumer_tag="replies")
    other.publish("", address, b"late")
    other.call("basic.qos")
    client.nothing()


def test_address_can_be_asked_for(client, other, queue):
    """A declare of the address says whether its client is there, and declares nothing."""
    address = request(client, other, queue)
    reply = other.declare(address)
    assert (reply.queue, reply.message_count, reply.consumer_count) == (address, 0, 1)
    other.declare(address, passive=True)
    client.close()
    with refused(404, f"NOT_FOUND - no queue '{address}' in vhost '/'", "queue.declare"):
        other.declare(address)


def test_pseudo_queue_can_be_declared(ch):
    for passive in (False, True):
        reply = ch.declare(PSEUDO, passive=passive)
        assert (reply.queue, reply.message_count, reply.consumer_count) == (PSEUDO, 0, 1)


def test_made_up_address(other):
    name = PSEUDO + ".spec"
    with refused(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", "queue.declare"):
        other.declare(name, passive=True)


def test_consuming_with_acknowledgement(ch):
    text = "PRECONDITION_FAILED - reply consumer cannot acknowledge"
    with refused(406, text, "basic.consume"):
        ch.consume(PSEUDO)


def test_consuming_twice(client):
    text = "PRECONDITION_FAILED - reply consumer already set"
    with refused(406, text, "basic.consume"):
        client.consume(PSEUDO, no_ack=True)


def test_consuming_again_after_cancel(client, other, queue):
    client.call("basic.cancel", consumer_tag="replies")
    client.consume(PSEUDO, "again", no_ack=True)
    other.publish("", request(client, other, queue), b"x")
    assert client.expect("basic.deliver").consumer_tag == "again"


def test_requesting_without_consuming(ch, queue):
    ch.publish("", queue, b"request", reply_to=PSEUDO)
    text = "PRECONDITION_FAILED - fast reply consumer does not exist"
    with refused(406, text, "basic.publish"):
        ch.next()


def test_consumer_and_request_must_share_a_channel(wire, client, queue):
    second = wire.channel()
    second.publish("", queue, b"request", reply_to=PSEUDO)
    text = "PRECONDITION_FAILED - fast reply consumer does not exist"
    with refused(406, text, "basic.publish"):
        second.next()


def test_other_reply_addresses_are_left_alone(ch, queue):
    ch.publish("", queue, b"request", reply_to="my.own.queue")
    ch.call("basic.qos")
    assert ch.get(queue).properties == {"reply_to": "my.own.queue"}


def test_server_named_consumer(wire):
    assert wire.channel().consume(PSEUDO, no_ack=True).startswith("amq.ctag-")


def test_tag_in_use(ch, queue):
    ch.consume(queue, "tag")
    text = "NOT_ALLOWED - attempt to reuse consumer tag 'tag'"
    with refused(530, text, "basic.consume", "connection"):
        ch.consume(PSEUDO, "tag", no_ack=True)


@pytest.mark.parametrize("method", ["basic.get", "queue.purge"])
def test_not_a_real_queue(ch, method):
    with refused(404, f"NOT_FOUND - no queue '{PSEUDO}' in vhost '/'", method):
        ch.call(method, queue=PSEUDO)


def test_rpc_with_pika(pika_connection, names):
    """The same through an ordinary client."""
    channel = pika_connection.channel()
    name = names.queue()
    channel.queue_declare(name)
    replies = []
    channel.basic_consume(PSEUDO, lambda *delivery: replies.append(delivery[3]), auto_ack=True)
    server = pika_connection.channel()
    server.basic_consume(
        name,
        lambda ch, method, properties, body: ch.basic_publish(
            "", properties.reply_to, body.upper()
        ),
        auto_ack=True,
    )
    import pika

    channel.basic_publish("", name, b"hello", pika.BasicProperties(reply_to=PSEUDO))
    wait_until(lambda: pika_connection.process_data_events(0) or replies, "the reply")
    assert replies == [b"HELLO"]
