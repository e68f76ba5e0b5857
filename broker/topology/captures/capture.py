"""Captures what RabbitMQ answers and where it routes, for the tests of this crate.

    python capture.py amqp://guest:guest@127.0.0.1:5672/ > rabbitmq-3.10.8.json

The vhost is to be a fresh one. Three users are expected beside the one of the URL, all with the
password `secret`: `limited` (configure ^c-, write ^w-, read ^r-; on the exchange w-topic the topic
permissions write ^k\\., read ^k\\.), `nobody` (three empty permissions) and `stranger` (none at all).
The plugin rabbitmq_consistent_hash_exchange is to be enabled.
"""

import json
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tests" / "spec"))

import methods  # noqa: E402
from wire import Broker, Refused, Wire  # noqa: E402


def queue(name="q", *, args=(), on="a", user=None, **flags):
    return {"do": "queue", "name": name, "args": list(args), "on": on, "user": user, **flags}


def exchange(name="x", type="direct", *, args=(), user=None, **flags):
    return {"do": "exchange", "name": name, "type": type, "args": list(args), "user": user, **flags}


def bind(source="x", queue="q", key="k", *, args=(), on="a", user=None, do="bind"):
    return {
        "do": do,
        "source": source,
        "queue": queue,
        "key": key,
        "args": list(args),
        "on": on,
        "user": user,
    }


def bind_exchange(source, exchange, key="k", *, user=None, do="bind"):
    return {"do": do, "source": source, "exchange": exchange, "key": key, "args": [], "user": user}


def delete_queue(name="q", *, on="a", user=None):
    return {"do": "delete_queue", "name": name, "on": on, "user": user}


def delete_exchange(name="x", *, if_unused=False, user=None):
    return {"do": "delete_exchange", "name": name, "if_unused": if_unused, "user": user}


def passive(kind, name, *, on="a"):
    return {"do": "passive", "kind": kind, "name": name, "on": on}


def publish(exchange, key="k", *, user=None):
    return {"do": "publish", "exchange": exchange, "key": key, "user": user}


def consume(name="q", *, args=(), on="a", user=None):
    return {"do": "consume", "name": name, "args": list(args), "on": on, "user": user}


def open_vhost(vhost, user):
    return {"do": "open", "vhost": vhost, "user": user}


X = "x-"
ODD_VALUES = [
    ["S", "abc"],
    ["S", ""],
    ["t", True],
    ["d", 1.5],
    ["T", 1],
    ["x", "abc"],
    ["V", None],
    ["A", [["I", 1], ["S", "a"]]],
    ["F", [["k", "S", "v"]]],
    ["D", [2, 314]],
    ["I", -1],
    ["I", 0],
    ["b", -1],
    ["l", 315360000001],
    ["I", 256],
    ["I", 3],
]
QUEUE_ARGS = [
    "expires",
    "message-ttl",
    "dead-letter-exchange",
    "max-length",
    "max-length-bytes",
    "max-priority",
    "overflow",
    "queue-mode",
    "queue-version",
    "single-active-consumer",
    "queue-type",
]


def cases():
    """Lists of operations: all but the last succeed, the last one's answer is captured."""
    yield [queue(), queue(durable=True)]
    yield [queue(durable=True), queue()]
    yield [queue(), queue(auto_delete=True)]
    yield [queue(), queue(exclusive=True)]
    yield [queue(exclusive=True), queue()]
    yield [queue(exclusive=True), queue(exclusive=True, durable=True)]
    yield [queue(exclusive=True), queue(exclusive=True, on="b")]
    yield [queue(exclusive=True), passive("queue", "q", on="b")]
    yield [queue(exclusive=True), delete_queue(on="b")]
    yield [queue(exclusive=True), consume(on="b")]
    yield [queue(exclusive=True), exchange(), bind(on="b")]
    yield [queue(exclusive=True), exchange(), bind(), bind(on="b", do="unbind")]
    yield [queue(exclusive=True), exchange(), bind(on="b", do="unbind")]
    yield [queue("amq.mine")]
    yield [queue("amq")]
    yield [passive("queue", "none")]
    yield [passive("exchange", "none")]
    yield [passive("exchange", "")]
    yield [passive("queue", "")]
    yield [delete_queue("none")]
    yield [consume("none")]
    for key in QUEUE_ARGS:
        for letter, value in ODD_VALUES:
            yield [queue(args=[[X + key, letter, value]])]
    yield [queue(args=[["x-dead-letter-routing-key", "S", "k"]])]
    yield [queue(args=[["x-dead-letter-routing-key", "I", 1]])]
    dlx = ["x-dead-letter-exchange", "S", "none"]
    yield [queue(args=[dlx, ["x-dead-letter-routing-key", "I", 1]])]
    yield [queue(args=[dlx, ["x-dead-letter-routing-key", "S", "k"]])]
    yield [queue(args=[["x-max-age", "S", "1D"]])]
    yield [queue(args=[["x-expires", "S", "a"], ["x-message-ttl", "S", "a"]])]
    yield [queue(args=[["x-unknown", "V", None], ["x-ha-policy", "I", 1]])]
    stream = ["x-queue-type", "S", "stream"]
    yield [queue(args=[stream])]
    yield [queue(args=[stream], durable=True, auto_delete=True)]
    yield [queue(args=[stream], exclusive=True)]
    yield [queue(args=[stream, ["x-expires", "I", 1]], durable=True)]
    yield [queue(args=[stream, ["x-max-age", "S", "1x"]], durable=True)]
    yield [queue(args=[stream, ["x-max-age", "I", 1]], durable=True)]
    for one, other in [
        ([], [["x-expires", "I", 1800000]]),
        ([["x-expires", "I", 1800000]], []),
        ([["x-expires", "I", 1800000]], [["x-expires", "I", 1800001]]),
        ([["x-expires", "I", 1800000]], [["x-expires", "l", 1800000]]),
        ([["x-expires", "I", 1800000]], [["x-expires", "S", "1800000"]]),
        ([["x-expires", "I", 1800000]], [["x-expires", "d", 1.5]]),
        ([["x-message-ttl", "I", 1]], [["x-message-ttl", "I", 2]]),
        ([["x-max-length", "I", 1]], []),
        ([["x-max-length-bytes", "I", 1]], []),
        ([["x-max-priority", "I", 1]], [["x-max-priority", "b", 1]]),
        ([["x-max-priority", "I", 1]], [["x-max-priority", "I", 2]]),
        ([["x-overflow", "S", "drop-head"]], [["x-overflow", "S", "reject-publish"]]),
        ([["x-single-active-consumer", "t", True]], [["x-single-active-consumer", "t", False]]),
        ([["x-single-active-consumer", "t", True]], []),
        ([["x-dead-letter-exchange", "S", "a"]], [["x-dead-letter-exchange", "S", "b"]]),
        ([], [["x-dead-letter-exchange", "S", "b"]]),
        ([], [["x-queue-type", "S", "classic"]]),
        ([["x-queue-type", "S", "classic"]], []),
        ([["x-ha-policy", "S", "all"]], [["x-ha-policy", "S", "nodes"]]),
        ([["x-ha-policy", "S", "all"]], []),
        ([], [["x-expires", "A", [["I", 1]]]]),
        ([], [["x-expires", "F", [["k", "I", 1]]]]),
        ([], [["x-expires", "d", 1.5]]),
        ([], [["x-expires", "V", None]]),
        ([], [["x-expires", "t", True]]),
        ([], [stream]),
    ]:
        yield [queue(args=one), queue(args=other)]

    yield [exchange(type="nonsense")]
    yield [exchange(), exchange(type="fanout")]
    yield [exchange(), exchange(durable=True)]
    yield [exchange(), exchange(auto_delete=True)]
    yield [exchange(), exchange(internal=True)]
    yield [exchange(), exchange(args=[["alternate-exchange", "S", "a"]])]
    yield [exchange(args=[["alternate-exchange", "S", "a"]]), exchange()]
    alternate = exchange(args=[["alternate-exchange", "S", "a"]])
    yield [alternate, exchange(args=[["alternate-exchange", "S", "b"]])]
    yield [exchange(args=[["alternate-exchange", "I", 1]])]
    yield [exchange(), exchange(args=[["unknown", "I", 1]])]
    yield [exchange("amq.mine")]
    yield [exchange("")]
    yield [exchange("amq.direct", durable=True)]
    yield [exchange("amq.direct")]
    yield [delete_exchange("amq.direct")]
    yield [delete_exchange("amq.none")]
    yield [delete_exchange("")]
    yield [delete_exchange("none")]
    yield [exchange(), queue(), bind(), delete_exchange(if_unused=True)]
    yield [exchange("y"), exchange(), bind_exchange("y", "x"), delete_exchange(if_unused=True)]
    yield [exchange(internal=True), publish("x")]
    yield [publish("none")]

    yield [queue(), bind("none")]
    yield [exchange(), bind(queue="none")]
    yield [bind("none", "none")]
    yield [queue(), bind("")]
    yield [exchange(), bind_exchange("x", "")]
    yield [exchange(), bind_exchange("x", "none")]
    yield [queue(), bind("none", do="unbind")]
    yield [exchange(), queue(), bind(do="unbind")]
    yield [exchange(), queue(), bind(), bind()]
    for letter, value in [["S", "some"], ["S", ""], ["I", 1], ["t", True], ["V", None], ["x", "all"]]:
        yield [exchange(type="headers"), queue(), bind(args=[["x-match", letter, value]])]
    for value in ["all", "any", "all-with-x", "any-with-x"]:
        yield [exchange(type="headers"), queue(), bind(args=[["x-match", "S", value]])]
    for key in ["0", "-1", "1", "abc", "", "1.5"]:
        yield [exchange(type="x-consistent-hash"), queue(), bind(key=key)]
    yield [exchange(type="x-consistent-hash", args=[["hash-property", "S", "none"]])]
    both = [["hash-property", "S", "message_id"], ["hash-header", "S", "h"]]
    yield [exchange(type="x-consistent-hash", args=both)]

    for key, values in {
        "x-priority": [["S", "1"], ["t", True], ["I", -1]],
        "x-cancel-on-ha-failover": [["S", "true"], ["I", 1], ["t", True]],
        "x-stream-offset": [["S", "last"]],
        "x-unknown": [["S", "last"]],
    }.items():
        for letter, value in values:
            yield [queue(), consume(args=[[key, letter, value]])]

    limited = {"user": "limited"}
    yield [queue("q", **limited)]
    yield [queue("c-q", **limited)]
    yield [queue("c-q", args=[["x-dead-letter-exchange", "S", "w-x"]], **limited)]
    yield [exchange("c-x", args=[["alternate-exchange", "S", "w-x"]], **limited)]
    yield [exchange("q", **limited)]
    yield [queue("r-q"), delete_queue("r-q", **limited)]
    yield [delete_queue("none", **limited)]
    yield [exchange("r-x"), delete_exchange("r-x", **limited)]
    yield [exchange("r-x"), queue("r-q"), bind("r-x", "r-q", **limited)]
    yield [exchange("w-x"), queue("w-q"), bind("w-x", "w-q", **limited)]
    yield [exchange("r-x"), queue("w-q"), bind("r-x", "w-q", **limited)]
    yield [exchange("r-x"), queue("r-q"), bind("r-x", "r-q", do="unbind", **limited)]
    yield [exchange("r-x"), exchange("r-y"), bind_exchange("r-x", "r-y", **limited)]
    yield [bind("none", "none", **limited)]
    yield [bind("", "w-q", **limited)]
    yield [exchange("r-x"), publish("r-x", **limited)]
    yield [publish("none", **limited)]
    yield [publish("w-none", **limited)]
    yield [publish("", **limited)]
    yield [exchange("w-topic", "topic"), publish("w-topic", "l.1", **limited)]
    yield [exchange("w-topic", "topic"), publish("w-topic", "k.1", **limited)]
    yield [queue("w-q"), consume("w-q", **limited)]
    yield [queue("r-q"), consume("r-q", **limited)]
    yield [queue("q", user="nobody")]
    yield [open_vhost("none", "limited")]
    yield [open_vhost("none", "stranger")]
    yield [open_vhost("/", "stranger")]
    yield [open_vhost("/", "nobody")]


def value_of(letter, value):
    if letter == "A":
        return letter, [value_of(*item) for item in value]
    if letter == "F":
        return letter, {key: value_of(*rest) for key, *rest in value}
    if letter == "D":
        return letter, tuple(value)
    return letter, value


def table(args):
    return {key: value_of(letter, value) for key, letter, value in args}


class Session:
    """The connections of one case."""

    def __init__(self, broker):
        self.broker = broker
        self.wires = {}

    def channel(self, op):
        who = op.get("user"), op.get("on", "a")
        if who not in self.wires:
            broker = self.broker
            if op.get("user"):
                broker = broker._replace(user=op["user"], password="secret")
            self.wires[who] = Wire.opened(broker)
        return self.wires[who].channel()

    def close(self):
        for wire in self.wires.values():
            try:
                wire.close()
            except Exception:
                pass

    def run(self, op):
        do = op["do"]
        if do == "open":
            broker = self.broker._replace(user=op["user"], password="secret", vhost=op["vhost"])
            Wire.opened(broker).close()
            return
        channel = self.channel(op)
        if do == "queue":
            flags = {k: op.get(k, False) for k in ("durable", "exclusive", "auto_delete")}
            channel.declare(op["name"], arguments=table(op["args"]), **flags)
        elif do == "exchange":
            flags = {k: op.get(k, False) for k in ("durable", "internal", "auto_delete")}
            channel.exchange(op["name"], op["type"], arguments=table(op["args"]), **flags)
        elif do in ("bind", "unbind"):
            fields = {"routing_key": op["key"], "arguments": table(op["args"])}
            if "queue" in op:
                channel.call(f"queue.{do}", queue=op["queue"], exchange=op["source"], **fields)
            else:
                names = {"destination": op["exchange"], "source": op["source"]}
                channel.call(f"exchange.{do}", **names, **fields)
        elif do == "delete_queue":
            channel.delete(op["name"])
        elif do == "delete_exchange":
            channel.call("exchange.delete", exchange=op["name"], if_unused=op["if_unused"])
        elif do == "passive" and op["kind"] == "queue":
            channel.declare(op["name"], passive=True)
        elif do == "passive":
            channel.exchange(op["name"], passive=True)
        elif do == "publish":
            channel.confirm()
            channel.publish(op["exchange"], op["key"])
            channel.expect("basic.ack")
        elif do == "consume":
            channel.consume(op["name"], arguments=table(op["args"]))
        else:
            raise ValueError(do)
        channel.close()


def names_of(ops):
    for op in ops:
        if op["do"] == "queue":
            yield "queue", op["name"]
        elif op["do"] == "exchange" and op["name"] and not op["name"].startswith("amq."):
            yield "exchange", op["name"]


def clean(broker, ops):
    wire = Wire.opened(broker)
    for kind, name in names_of(ops):
        channel = wire.channel()
        field = {"queue": name} if kind == "queue" else {"exchange": name}
        try:
            channel.call(f"{kind}.delete", **field)
        except Refused:
            pass
    wire.close()


def capture(broker, ops):
    session = Session(broker)
    try:
        for op in ops[:-1]:
            session.run(op)
        try:
            session.run(ops[-1])
            reply = None
        except Refused as refused:
            reply = {"code": refused.code, "text": refused.text}
    finally:
        session.close()
        clean(broker, ops)
    return {"ops": ops, "reply": reply}


def random_key(rng, wildcards):
    words = ["a", "b", "", "ab"] + (["*", "#", "*", "#"] if wildcards else [])
    return ".".join(rng.choice(words) for _ in range(rng.randrange(5)))


def random_value(rng):
    return rng.choice(
        [
            ["I", rng.randrange(3)],
            ["l", rng.randrange(3)],
            ["b", rng.randrange(3)],
            ["d", float(rng.randrange(3))],
            ["d", 1.5],
            ["S", str(rng.randrange(3))],
            ["x", str(rng.randrange(3))],
            ["t", rng.random() < 0.5],
            ["T", rng.randrange(3)],
            ["V", None],
            ["A", [["I", 1]]],
            ["A", [["l", 1]]],
            ["A", []],
            ["F", []],
            ["F", [["k", "I", 1]]],
            ["D", [0, 1]],
        ]
    )


def random_headers(rng, count, binding=False):
    names = rng.sample(["a", "b", "x-c", "d"], rng.randrange(count + 1))
    fields = [[name, *random_value(rng)] for name in names]
    if binding and rng.random() < 0.8:
        match = rng.choice(["all", "any", "all-with-x", "any-with-x"])
        fields.insert(rng.randrange(len(fields) + 1), ["x-match", "S", match])
    return fields


def capture_routes(broker, kind, rng, bindings=40, messages=60):
    """Each binding leads to a queue of its own; of each message, the queues that got it."""
    wire = Wire.opened(broker)
    channel = wire.channel()
    channel.exchange("routes", kind)
    bound = []
    for number in range(bindings):
        channel.declare(f"routes-{number}")
        key = random_key(rng, True) if kind == "topic" else ""
        args = random_headers(rng, 3, binding=True) if kind == "headers" else []
        channel.bind(f"routes-{number}", "routes", key, table(args))
        bound.append({"key": key, "args": args})
    channel.confirm()
    sent = []
    for number in range(messages):
        key = random_key(rng, False) if kind == "topic" else ""
        headers = random_headers(rng, 4) if kind == "headers" else []
        channel.publish("routes", key, str(number).encode(), headers=table(headers))
        channel.expect("basic.ack")
        sent.append({"key": key, "headers": headers, "queues": []})
    for number in range(bindings):
        while message := channel.get(f"routes-{number}"):
            sent[int(message.body)]["queues"].append(number)
        channel.delete(f"routes-{number}")
    channel.call("exchange.delete", exchange="routes")
    wire.close()
    return {"type": kind, "bindings": bound, "messages": sent}


def main():
    broker = Broker.parse(sys.argv[1])
    rng = random.Random(7)
    replies = [capture(broker, ops) for ops in cases()]
    routes = [capture_routes(broker, kind, rng) for kind in ["topic", "headers"] * 4]
    print('{"replies": [')
    print(",\n".join(json.dumps(reply) for reply in replies))
    print('], "routes": [')
    print(",\n".join(json.dumps(route) for route in routes))
    print("]}")


main()
