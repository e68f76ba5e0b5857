"""Dead-lettering: the reasons, routing, and every header, for classic and quorum queues."""

import time

import pytest

from support import wait_count, wait_until


@pytest.fixture
def graveyard(ch, names):
    """A queue, where dead letters go through the default exchange."""
    return ch.declare(names.queue()).queue


@pytest.fixture
def mortal(ch, names, graveyard):
    """Declares a queue whose dead letters go to the graveyard."""

    def declare(durable=False, **arguments):
        arguments = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        arguments.setdefault("x-dead-letter-exchange", "")
        arguments.setdefault("x-dead-letter-routing-key", graveyard)
        ch.confirm()
        return ch.declare(names.queue(), durable=durable, arguments=arguments).queue

    return declare


def fetch(ch, queue):
    """The next message of the queue, waited for."""
    return wait_until(lambda: ch.get(queue), f"a message in {queue}")


def check_death(message, queue, reason, exchange="", keys=None, times=1, **more):
    """The whole of the headers that the first death gives, types included."""
    headers = message.typed_headers
    assert headers.pop("x-first-death-exchange") == ("S", exchange)
    assert headers.pop("x-first-death-queue") == ("S", queue)
    assert headers.pop("x-first-death-reason") == ("S", reason)
    letter, deaths = headers.pop("x-death")
    assert (letter, len(deaths)) == ("A", 1)
    letter, death = deaths[0]
    assert letter == "F"
    letter, at = death.pop("time")
    assert letter == "T" and abs(at - time.time()) < 60
    assert death == {
        "count": ("l", times),
        "reason": ("S", reason),
        "queue": ("S", queue),
        "exchange": ("S", exchange),
        "routing-keys": ("A", [("S", key) for key in (keys or [queue])]),
        **more,
    }
    return headers


# -- reasons -------------------------------------------------------------------------------------


def test_rejected(ch, mortal, graveyard):
    name = mortal()
    ch.put(name, b"x")
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    message = fetch(ch, graveyard)
    assert (message.body, message.exchange, message.routing_key) == (b"x", "", graveyard)
    assert message.redelivered is False
    assert check_death(message, name, "rejected") == {}


def test_nacked(ch, mortal, graveyard):
    name = mortal()
    ch.put(name, b"a", b"b")
    ch.get(name, no_ack=False)
    last = ch.get(name, no_ack=False)
    ch.nack(last.delivery_tag, multiple=True, requeue=False)
    for body in (b"a", b"b"):
        message = fetch(ch, graveyard)
        assert message.body == body
        check_death(message, name, "rejected")


def test_expired_by_the_queue(ch, mortal, graveyard):
    name = mortal(message_ttl=50)
    ch.put(name, b"x")
    check_death(fetch(ch, graveyard), name, "expired")


def test_expired_by_the_message(ch, mortal, graveyard):
    """expiration leaves the properties, or it would expire again; x-death keeps it."""
    name = mortal()
    ch.put(name, b"x", expiration="50", message_id="m", delivery_mode=2)
    message = fetch(ch, graveyard)
    assert message.properties.keys() == {"headers", "message_id", "delivery_mode"}
    check_death(message, name, "expired", **{"original-expiration": ("S", "50")})


def test_original_expiration_is_kept_for_every_reason(ch, mortal, graveyard):
    name = mortal()
    ch.put(name, b"x", expiration="60000")
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    message = fetch(ch, graveyard)
    check_death(message, name, "rejected", **{"original-expiration": ("S", "60000")})


def test_maxlen(ch, mortal, graveyard):
    name = mortal(max_length=1)
    ch.put(name, b"old", b"new")
    message = fetch(ch, graveyard)
    assert message.body == b"old"
    check_death(message, name, "maxlen")


def test_maxlen_bytes(ch, mortal, graveyard):
    name = mortal(max_length_bytes=3)
    ch.put(name, b"old", b"new")
    message = fetch(ch, graveyard)
    assert message.body == b"old"
    check_death(message, name, "maxlen")


def test_reject_publish_does_not_dead_letter(ch, mortal, graveyard):
    name = mortal(max_length=1, overflow="reject-publish")
    ch.put(name, b"kept")
    ch.publish("", name, b"refused")
    ch.expect("basic.nack")
    assert ch.get(graveyard) is None


def test_reject_publish_dlx_does(ch, mortal, graveyard):
    """The publisher is refused, the message goes to the dead letter exchange all the same."""
    name = mortal(max_length=1, overflow="reject-publish-dlx")
    ch.put(name, b"kept")
    ch.publish("", name, b"refused")
    ch.expect("basic.nack")
    message = fetch(ch, graveyard)
    assert message.body == b"refused"
    check_death(message, name, "maxlen")


def test_delivery_limit(ch, mortal, graveyard):
    """x-delivery-limit 2: two returns are forgiven, the third is the end."""
    name = mortal(durable=True, queue_type="quorum", delivery_limit=2)
    ch.put(name, b"x")
    ch.qos(1)
    ch.consume(name)
    counts = []
    for _ in range(3):
        delivery = ch.expect("basic.deliver")
        counts.append((delivery.redelivered, delivery.headers.get("x-delivery-count")))
        ch.nack(delivery.delivery_tag)
    assert counts == [(False, None), (True, 1), (True, 2)]
    message = fetch(ch, graveyard)
    assert check_death(message, name, "delivery_limit") == {}


@pytest.mark.leveret_only
@pytest.mark.parametrize("durable", [False, True])
def test_delivery_limit_of_any_queue(ch, mortal, graveyard, durable):
    name = mortal(durable=durable, delivery_limit=1)
    ch.put(name, b"x")
    ch.qos(1)
    ch.consume(name)
    for _ in range(2):
        ch.nack(ch.expect("basic.deliver").delivery_tag)
    check_death(fetch(ch, graveyard), name, "delivery_limit")


def test_quorum_queue_rejected(ch, mortal, graveyard):
    name = mortal(durable=True, queue_type="quorum")
    ch.put(name, b"x")
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    check_death(fetch(ch, graveyard), name, "rejected")


def test_quorum_queue_maxlen(ch, mortal, graveyard):
    name = mortal(durable=True, queue_type="quorum", max_length=1)
    ch.put(name, b"old", b"new")
    message = fetch(ch, graveyard)
    assert message.body == b"old"
    check_death(message, name, "maxlen")


def test_quorum_queue_expired(ch, mortal, graveyard):
    name = mortal(durable=True, queue_type="quorum", message_ttl=50)
    ch.put(name, b"x")
    check_death(fetch(ch, graveyard), name, "expired")


# -- what is not dead-lettered -------------------------------------------------------------------


def test_purge_delete_and_ack_leave_no_dead_letters(ch, mortal, graveyard):
    name = mortal()
    ch.put(name, b"a", b"b", b"c")
    ch.ack(ch.get(name, no_ack=False).delivery_tag)
    ch.get(name, no_ack=True)
    ch.call("queue.purge", queue=name)
    ch.put(name, b"d")
    ch.delete(name)
    assert ch.get(graveyard) is None


def test_without_a_dead_letter_exchange_it_is_dropped(ch, queue):
    ch.confirm()
    ch.put(queue, b"x")
    ch.reject(ch.get(queue, no_ack=False).delivery_tag, requeue=False)
    wait_count(ch, queue, 0)
    assert ch.get(queue) is None


def test_missing_dead_letter_exchange_drops(ch, mortal, graveyard, names):
    """It need not exist at declaration, nor ever."""
    exchange = names.exchange()
    name = mortal(dead_letter_exchange=exchange)
    ch.put(name, b"lost", b"found")
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    ch.exchange(exchange, "fanout")
    ch.bind(graveyard, exchange)
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    assert fetch(ch, graveyard).body == b"found"
    assert ch.get(graveyard) is None


# -- routing -------------------------------------------------------------------------------------


def test_headers_exchange_sees_the_headers_of_the_dead_letter(ch, names):
    """The message's own and those that its death gave it."""
    target = names.exchange()
    ch.exchange(target, "headers")
    conditions = {
        "own": {"x-match": "all", "kind": "a"},
        "given": {"x-match": "all-with-x", "x-first-death-reason": "rejected"},
        "foreign": {"x-match": "all", "kind": "b"},
    }
    graves = {which: ch.declare(names.queue()).queue for which in conditions}
    for which, arguments in conditions.items():
        ch.bind(graves[which], target, arguments=arguments)
    name = ch.declare(names.queue(), arguments={"x-dead-letter-exchange": target}).queue
    ch.publish("", name, b"x", headers={"kind": "a"})
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    assert fetch(ch, graves["own"]).body == b"x"
    assert fetch(ch, graves["given"]).body == b"x"
    assert ch.get(graves["foreign"]) is None


def test_without_a_routing_key_the_message_keeps_its_own(ch, names):
    source, target = names.exchange(), names.exchange()
    ch.exchange(source, "topic")
    ch.exchange(target, "topic")
    graveyard = ch.declare(names.queue()).queue
    ch.bind(graveyard, target, "a.#")
    arguments = {"x-dead-letter-exchange": target}
    name = ch.declare(names.queue(), arguments=arguments).queue
    ch.bind(name, source, "#")
    ch.confirm()
    ch.publish(source, "a.b", b"x")
    ch.expect("basic.ack")
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    message = fetch(ch, graveyard)
    assert (message.exchange, message.routing_key) == (target, "a.b")
    check_death(message, name, "rejected", exchange=source, keys=["a.b"])


def test_cc_keys_route_dead_letters_too(ch, names):
    """Without a dead letter routing key the CC keys stay and route again; BCC keys are gone."""
    target = names.exchange()
    ch.exchange(target)
    graveyard = ch.declare(names.queue()).queue
    arguments = {"x-dead-letter-exchange": target}
    name = ch.declare(names.queue(), arguments=arguments).queue
    ch.bind(graveyard, target, "carbon")
    ch.confirm()
    ch.put(name, b"x", headers={"CC": ["carbon"]})
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    headers = check_death(fetch(ch, graveyard), name, "rejected", keys=[name, "carbon"])
    assert headers == {"CC": ("A", [("S", "carbon")])}


def test_dead_letter_routing_key_takes_cc_out(ch, mortal, graveyard):
    name = mortal()
    ch.put(name, b"x", headers={"CC": ["carbon"], "mine": 1})
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    headers = check_death(fetch(ch, graveyard), name, "rejected", keys=[name, "carbon"])
    assert headers == {"mine": ("I", 1)}


def test_properties_and_body_stay(ch, mortal, graveyard):
    name = mortal()
    properties = {
        "content_type": "a/b",
        "content_encoding": "utf-8",
        "headers": {"mine": "value"},
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "message_id": "m",
        "timestamp": 12345,
        "type": "t",
        "app_id": "a",
    }
    ch.put(name, b"body" * 50000, **properties)
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    message = fetch(ch, graveyard)
    assert message.body == b"body" * 50000
    found = message.properties
    assert found.pop("headers")["mine"] == "value"
    properties.pop("headers")
    assert found == properties


def test_order_of_dead_letters(ch, mortal, graveyard):
    name = mortal(max_length=1)
    ch.put(name, *[b"%d" % number for number in range(50)])
    wait_count(ch, graveyard, 49)
    assert ch.bodies(graveyard) == [b"%d" % number for number in range(49)]


# -- more than one death -------------------------------------------------------------------------


def test_second_death_elsewhere_comes_first_in_the_list(ch, names):
    last = ch.declare(names.queue()).queue
    second = ch.declare(
        names.queue(),
        arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": last},
    ).queue
    first = ch.declare(
        names.queue(),
        arguments={
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": second,
            "x-message-ttl": 30,
        },
    ).queue
    ch.confirm()
    ch.put(first, b"x")
    wait_count(ch, second, 1)
    ch.reject(ch.get(second, no_ack=False).delivery_tag, requeue=False)
    headers = fetch(ch, last).headers
    assert [(d["queue"], d["reason"], d["count"]) for d in headers["x-death"]] == [
        (second, "rejected", 1),
        (first, "expired", 1),
    ]
    assert headers["x-first-death-queue"] == first
    assert headers["x-first-death-reason"] == "expired"
    assert headers["x-first-death-exchange"] == ""


def test_same_death_again_counts(ch, names):
    """A message rejected back into its own queue: one entry, counted."""
    name = names.queue()
    ch.declare(name, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name})
    ch.confirm()
    ch.put(name, b"x")
    for _ in range(3):
        message = wait_until(lambda: ch.get(name, no_ack=False), "message")
        ch.reject(message.delivery_tag, requeue=False)
    check_death(fetch(ch, name), name, "rejected", times=3)


def test_automatic_cycle_is_dropped(ch, names):
    """Expired twice in the same queue without a rejection between: dropped the second time."""
    name, between = names.queue(), names.queue()
    for queue, target in ((name, between), (between, name)):
        ch.declare(
            queue,
            arguments={
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": target,
                "x-message-ttl": 20,
            },
        )
    ch.confirm()
    ch.put(name, b"x")
    wait_until(
        lambda: ch.declare(name, passive=True).message_count == 0
        and ch.declare(between, passive=True).message_count == 0,
        "both empty",
    )
    ch.nothing()
    assert (ch.get(name), ch.get(between)) == (None, None)


def test_queue_that_dead_letters_into_itself_drops(ch, names):
    name = names.queue()
    arguments = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": name,
        "x-message-ttl": 20,
    }
    ch.declare(name, arguments=arguments)
    ch.confirm()
    ch.put(name, b"x")
    wait_count(ch, name, 0)


def test_cycle_with_a_rejection_goes_round(ch, names):
    """The usual retry loop: rejected to a waiting queue, expired back, as often as wanted."""
    work, wait = names.queue(), names.queue()
    ch.declare(work, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": wait})
    ch.declare(
        wait,
        arguments={
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": work,
            "x-message-ttl": 20,
        },
    )
    ch.confirm()
    ch.put(work, b"x")
    for turn in range(3):
        message = wait_until(lambda: ch.get(work, no_ack=False), "message")
        counts = {d["queue"]: d["count"] for d in message.headers.get("x-death", [])}
        assert counts == ({work: turn, wait: turn} if turn else {})
        ch.reject(message.delivery_tag, requeue=False)


def test_foreign_x_death_header_is_replaced(ch, mortal, graveyard):
    """An x-death that is not a list starts anew (and the first-death headers are not set)."""
    name = mortal()
    ch.put(name, b"x", headers={"x-death": "nonsense"})
    ch.reject(ch.get(name, no_ack=False).delivery_tag, requeue=False)
    headers = fetch(ch, graveyard).headers
    assert [(d["queue"], d["count"]) for d in headers["x-death"]] == [(name, 1)]
    assert "x-first-death-queue" not in headers
