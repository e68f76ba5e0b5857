"""How exchanges route: every type, alternate exchanges, exchange-to-exchange, loops, many bindings."""

import pytest

from wire import Refused


@pytest.fixture
def route(ch, names):
    """Gives an exchange of a type and a function that says which of its queues get a message."""
    ch.confirm()

    def setup(type, bindings, **fields):
        exchange = names.exchange()
        ch.exchange(exchange, type, **fields)
        queues = []
        for key, arguments in bindings:
            queue = ch.declare(names.queue(), exclusive=True).queue
            ch.bind(queue, exchange, key, arguments)
            queues.append(queue)

        def targets(key="", headers=None):
            properties = {} if headers is None else {"headers": headers}
            ch.publish(exchange, key, b"x", **properties)
            ch.expect("basic.ack")
            return [place for place, queue in enumerate(queues) if ch.bodies(queue)]

        return targets

    return setup


def keys(*patterns):
    return [(pattern, {}) for pattern in patterns]


def test_direct(route):
    targets = route("direct", keys("a", "a", "b", ""))
    assert targets("a") == [0, 1]
    assert targets("b") == [2]
    assert targets("") == [3]
    assert targets("c") == []
    assert targets("A") == []


def test_direct_knows_no_patterns(route):
    targets = route("direct", keys("*", "#"))
    assert targets("a") == []
    assert targets("#") == [1]


def test_fanout(route):
    targets = route("fanout", keys("a", "", "#"))
    assert targets("whatever") == [0, 1, 2]


@pytest.mark.parametrize(
    "pattern, matching, other",
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "a.c", "A.b", ""]),
        ("*", ["a"], ["", "a.b", "."]),
        ("a.*", ["a.b", "a."], ["a", "a.b.c", "b.a"]),
        ("*.b", ["a.b", ".b"], ["b", "a.b.c"]),
        ("a.*.c", ["a.b.c", "a..c"], ["a.c", "a.b.b.c"]),
        ("#", ["", "a", "a.b", "...", "a.b.c.d"], []),
        ("a.#", ["a", "a.b", "a.b.c", "a."], ["", "b", "b.a"]),
        ("#.c", ["c", "b.c", "a.b.c", ".c"], ["c.a", "", "cc"]),
        ("a.#.c", ["a.c", "a.b.c", "a.b.b.c", "a..c"], ["a", "c", "a.c.b"]),
        ("#.b.#", ["b", "a.b", "b.a", "a.b.a", "b.b"], ["a", "", "bb"]),
        ("#.*", ["a", "a.b", "."], [""]),
        ("*.#", ["a", "a.b", "."], [""]),
        ("*.*", ["a.b", "."], ["a", "a.b.c"]),
        ("#.#", ["a", "a.b", ""], []),
        ("#.a.#.b.#", ["a.b", "x.a.y.b.z", "a.a.b.b"], ["b.a", "a"]),
        ("", [""], ["a", "."]),
        (".", ["."], ["", "a", ".."]),
        ("a..b", ["a..b"], ["a.b", "a.x.b"]),
        ("a*", ["a*"], ["ab", "a"]),
        ("a#", ["a#"], ["a", "ab"]),
        ("*.stock.#", ["usd.stock", "eur.stock.db", "usd.stock.a.b"], ["stock", "stock.nyse"]),
    ],
)
def test_topic(route, pattern, matching, other):
    """An empty key has no words at all; a key of one dot has two empty words."""
    targets = route("topic", keys(pattern))
    assert [key for key in matching + other if targets(key)] == matching


def test_topic_with_many_bindings_of_one_queue_gives_one_copy(ch, names, queue):
    exchange = names.exchange()
    ch.exchange(exchange, "topic")
    for key in ("#", "a.*", "*.b", "a.b", "a.#"):
        ch.bind(queue, exchange, key)
    ch.confirm()
    ch.publish(exchange, "a.b", b"once")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"once"]


def test_topic_unbind_takes_one_pattern(ch, names, queue):
    exchange = names.exchange()
    ch.exchange(exchange, "topic")
    for key in ("a.#", "#.a", "*"):
        ch.bind(queue, exchange, key)
    ch.confirm()
    for key in ("a.#", "*"):
        ch.call("queue.unbind", queue=queue, exchange=exchange, routing_key=key)
    ch.publish(exchange, "a.b", b"no")
    ch.expect("basic.ack")
    ch.publish(exchange, "b.a", b"yes")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"yes"]


def headers(**arguments):
    return "", {key.replace("_", "-"): value for key, value in arguments.items()}


def test_headers_all_is_the_default(route):
    targets = route("headers", [headers(a=1, b="x"), headers(x_match="all", a=1, b="x")])
    assert targets("", {"a": 1, "b": "x", "c": 9}) == [0, 1]
    assert targets("", {"a": 1}) == []
    assert targets("", {"a": 1, "b": "y"}) == []
    assert targets("", {}) == []
    assert targets() == []


def test_headers_any(route):
    targets = route("headers", [headers(x_match="any", a=1, b="x")])
    assert targets("", {"a": 1}) == [0]
    assert targets("", {"b": "x", "a": 2}) == [0]
    assert targets("", {"a": 2, "b": "y"}) == []
    assert targets() == []


def test_headers_void_asks_only_for_presence(route):
    targets = route("headers", [headers(a=None)])
    assert targets("", {"a": "anything"}) == [0]
    assert targets("", {"a": None}) == [0]
    assert targets("", {"b": 1}) == []


def test_headers_without_conditions(route):
    """all of nothing is true, any of nothing is false."""
    targets = route("headers", [headers(), headers(x_match="all"), headers(x_match="any")])
    assert targets("", {"a": 1}) == [0, 1]
    assert targets() == [0, 1]


def test_headers_x_arguments_are_not_conditions(route):
    """Arguments that begin with x- count for all-with-x and any-with-x only."""
    targets = route(
        "headers",
        [
            headers(x_match="all", x_a=1, b=1),
            headers(x_match="any", x_a=1),
            headers(x_match="all-with-x", x_a=1, b=1),
            headers(x_match="any-with-x", x_a=1),
        ],
    )
    assert targets("", {"b": 1}) == [0]
    assert targets("", {"x-a": 1, "b": 1}) == [0, 2, 3]
    assert targets("", {"x-a": 1}) == [3]


def test_headers_compare_types_and_values(route):
    """Numbers are equal across types; a number is never a string or a boolean."""
    targets = route("headers", [headers(a=("l", 1)), headers(a="1"), headers(a=True)])
    assert targets("", {"a": ("I", 1)}) == [0]
    assert targets("", {"a": ("b", 1)}) == [0]
    assert targets("", {"a": ("d", 1.0)}) == [0]
    assert targets("", {"a": "1"}) == [1]
    assert targets("", {"a": True}) == [2]


def test_headers_ignore_the_routing_key(route):
    targets = route("headers", [("some.key", {"a": 1})])
    assert targets("other", {"a": 1}) == [0]


@pytest.mark.parametrize(
    "value, text",
    [
        (
            "some",
            'PRECONDITION_FAILED - Invalid x-match field value <<"some">>;'
            " expected all, any, all-with-x, or any-with-x",
        ),
        (
            1,
            "PRECONDITION_FAILED - Invalid x-match field type signedint (value 1);"
            " expected longstr",
        ),
    ],
)
def test_headers_invalid_x_match(ch, names, queue, value, text):
    exchange = names.exchange()
    ch.exchange(exchange, "headers")
    with pytest.raises(Refused) as caught:
        ch.bind(queue, exchange, "", {"x-match": value})
    assert (caught.value.code, caught.value.text, caught.value.ids) == (406, text, (50, 20))


def test_default_exchange_routes_by_queue_name(ch, queue):
    ch.confirm()
    ch.put(queue, b"x")
    assert ch.get(queue).exchange == ""


def test_one_copy_per_queue_over_several_paths(ch, names, queue):
    """A queue reached through three ways gets one copy."""
    a, b, c = (names.exchange() for _ in range(3))
    for name in (a, b, c):
        ch.exchange(name, "fanout")
    for target in (b, c):
        ch.call("exchange.bind", destination=target, source=a)
    for source in (a, b, c):
        ch.bind(queue, source)
    ch.confirm()
    ch.publish(a, "", b"once")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"once"]


def test_exchange_loop_ends(ch, names, queue):
    a, b = names.exchange(), names.exchange()
    for name in (a, b):
        ch.exchange(name, "fanout")
    ch.call("exchange.bind", destination=b, source=a)
    ch.call("exchange.bind", destination=a, source=b)
    ch.call("exchange.bind", destination=a, source=a)
    ch.bind(queue, b)
    ch.confirm()
    ch.publish(a, "", b"once")
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"once"]


def test_message_names_the_first_exchange(ch, names, queue):
    """exchange and routing key of a delivery are those of the publish, over however many hops."""
    a, b = names.exchange(), names.exchange()
    ch.exchange(a, "fanout")
    ch.exchange(b, "topic")
    ch.call("exchange.bind", destination=b, source=a)
    ch.bind(queue, b, "k.#")
    ch.confirm()
    ch.publish(a, "k.l", b"x")
    ch.expect("basic.ack")
    message = ch.get(queue)
    assert (message.exchange, message.routing_key) == (a, "k.l")


# -- alternate exchange --------------------------------------------------------------------------


def test_alternate_exchange_gets_what_is_not_routed(ch, names, queue):
    alternate, main = names.exchange(), names.exchange()
    routed = ch.declare(names.queue()).queue
    ch.exchange(alternate, "fanout")
    ch.exchange(main, arguments={"alternate-exchange": alternate})
    ch.bind(queue, alternate)
    ch.bind(routed, main, "known")
    ch.confirm()
    for key, body in (("known", b"1"), ("unknown", b"2")):
        ch.publish(main, key, body, mandatory=True)
        ch.expect("basic.ack")
    assert ch.bodies(routed) == [b"1"]
    message = ch.get(queue)
    assert (message.body, message.exchange, message.routing_key) == (b"2", main, "unknown")


def test_alternate_exchange_that_does_not_exist(ch, names):
    """It may be declared later; until then the message is unroutable."""
    main, alternate = names.exchange(), names.exchange()
    ch.exchange(main, arguments={"alternate-exchange": alternate})
    ch.publish(main, "k", b"x", mandatory=True)
    assert ch.expect("basic.return").reply_code == 312


def test_alternate_exchange_chain_and_loop(ch, names, queue):
    a, b = names.exchange(), names.exchange()
    ch.exchange(a, arguments={"alternate-exchange": b})
    ch.exchange(b, arguments={"alternate-exchange": a})
    ch.publish(a, "k", b"x", mandatory=True)
    assert ch.expect("basic.return").exchange == a
    ch.bind(queue, b, "k")
    ch.confirm()
    ch.publish(a, "k", b"y", mandatory=True)
    ch.expect("basic.ack")
    assert ch.bodies(queue) == [b"y"]


def test_alternate_exchange_without_a_queue_returns(ch, names):
    alternate, main = names.exchange(), names.exchange()
    ch.exchange(alternate, "fanout")
    ch.exchange(main, arguments={"alternate-exchange": alternate})
    ch.publish(main, "k", b"x", mandatory=True)
    assert ch.expect("basic.return").reply_text == "NO_ROUTE"
