"""Publishers, consumers and a topology changer that live through the broker's deaths, and write down what they saw.

Every worker is a thread with a connection of its own over the raw client, because a crash test must know which octets
arrived: no library may hide a reconnect. A worker whose connection breaks connects again as soon as the broker serves.
"""

import itertools
import random
import threading
import time

from harness.bodies import decode, encode
from harness.history import Ack, AckDurable, Begin, Confirm, Message, Receive, Refuse, Return, Send
from wire import Disconnected, Refused, Silence, Wire

PERSISTENT = 2
# Small bodies and now and then one over several frames.
BODY_SIZES = [0, 16, 16, 64, 300, 1000, 4000]
LARGE_BODY, LARGE_EVERY = 300_000, 400
PREFETCH = 200
MARK_EVERY = 50
# A publisher stops while this much is unread, so that no backlog outgrows the final drain.
BACKLOG_MAX = 3_000
LIFE_SIGN_S = 30.0
CONNECTION_FORCED = 320


class History:
    """Events in one order that agrees with what each worker saw."""

    def __init__(self):
        self.lock = threading.Lock()
        self.events = []
        self.owed = 0
        self.received = 0
        self.confirmed = 0

    def add(self, *events):
        with self.lock:
            self.events += events
            for event in events:
                self.owed += len(event.queues) if isinstance(event, Send) else 0
                self.received += isinstance(event, Receive)
                self.confirmed += isinstance(event, Confirm)


class Worker(threading.Thread):
    """Runs `session` again and again until told to stop; a broken connection ends a session, not the worker."""

    def __init__(self, broker, history, name):
        super().__init__(name=name, daemon=True)
        self.broker = broker
        self.history = history
        self.stopping = threading.Event()
        self.failure = None
        # Whether the broker may close the connection with 320: only if it is stopped in good order.
        self.may_be_forced = False

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    wire = Wire.opened(self.broker)
                except (OSError, Disconnected, Silence):
                    time.sleep(0.02)
                    continue
                except Refused as refusal:
                    if not (self.may_be_forced and refusal.code == CONNECTION_FORCED):
                        raise
                    time.sleep(0.02)
                    continue
                try:
                    self.session(wire)
                except (OSError, Disconnected):
                    pass
                except Refused as refusal:
                    if not (self.may_be_forced and refusal.code == CONNECTION_FORCED):
                        raise
                finally:
                    wire.sock.close()
        except BaseException as error:
            self.failure = error

    def session(self, wire):
        raise NotImplementedError

    def finish(self, seconds=60):
        self.stopping.set()
        self.join(seconds)
        assert not self.is_alive(), f"{self.name} does not end"
        if self.failure:
            raise AssertionError(f"{self.name}: {self.failure!r}") from self.failure


class Publisher(Worker):
    """Publishes numbered persistent messages with confirms, at most `window` of them unconfirmed."""

    def __init__(self, broker, history, name, window, exchange, routing_key, queues, busy):
        super().__init__(broker, history, name)
        self.window = window
        self.exchange, self.routing_key, self.queues = exchange, routing_key, queues
        self.number = 0
        self.busy = busy

    def session(self, wire):
        channel = wire.channel()
        channel.confirm()
        tag, open_tags = 0, {}
        while not self.stopping.is_set() or open_tags:
            while len(open_tags) < self.window and not self.stopping.is_set() and not self.busy():
                tag += 1
                open_tags[tag] = self.publish(channel)
            if open_tags:
                self.settle(channel.next(LIFE_SIGN_S), open_tags)
            else:
                time.sleep(0.01)

    def publish(self, channel):
        message = Message(self.name, self.number)
        self.number += 1
        size = LARGE_BODY if self.number % LARGE_EVERY == 0 else random.choice(BODY_SIZES)
        # Written down first: what was sent may arrive even if the send fails half-way.
        self.history.add(Send(message, self.queues))
        channel.publish(
            self.exchange, self.routing_key, encode(message, size), mandatory=True, delivery_mode=PERSISTENT
        )
        return message

    def settle(self, event, open_tags):
        if event.name == "basic.return":
            self.history.add(Return(decode(event.body)[0]))
            return
        kind = {"basic.ack": Confirm, "basic.nack": Refuse}[event.name]
        last = event.delivery_tag
        tags = [tag for tag in open_tags if tag <= last] if event.multiple else [last]
        self.history.add(*(kind(open_tags.pop(tag)) for tag in tags))


class Transactor(Worker):
    """Publishes batches in transactions; a batch over several queues is one transaction too."""

    def __init__(self, broker, history, name, queues, busy):
        super().__init__(broker, history, name)
        self.queues = queues
        self.number = 0
        self.batch = 0
        self.busy = busy

    def session(self, wire):
        channel = wire.channel()
        channel.call("tx.select")
        while not self.stopping.is_set():
            if self.busy():
                time.sleep(0.01)
                continue
            self.batch += 1
            batch = []
            for _ in range(5):
                for queue in self.queues:
                    message = Message(self.name, self.number)
                    self.number += 1
                    self.history.add(Send(message, (queue,), self.batch))
                    channel.publish("", queue, encode(message, 100), delivery_mode=PERSISTENT)
                    batch.append(message)
            channel.send("tx.commit")
            channel.expect("tx.commit-ok", timeout=LIFE_SIGN_S)
            self.history.add(*(Confirm(message) for message in batch))


class Consumer(Worker):
    """Consumes and acks; now and then publishes a marker, whose confirm says that the acks before it are on disk."""

    sessions = itertools.count(1)

    def __init__(self, broker, history, name, queue, markers):
        super().__init__(broker, history, name)
        self.queue = queue
        self.markers = markers

    def session(self, wire):
        session = next(Consumer.sessions)
        self.history.add(Begin(session))
        channel = wire.channel()
        channel.confirm()
        channel.qos(PREFETCH)
        channel.consume(self.queue)
        unmarked = 0
        while not self.stopping.is_set():
            try:
                event = channel.next(0.2)
            except Silence:
                continue
            assert event.name == "basic.deliver", event
            message, intact = decode(event.body)
            self.history.add(Receive(message, self.queue, session, event.redelivered, intact))
            channel.ack(event.delivery_tag)
            self.history.add(Ack(message, self.queue, session))
            unmarked += 1
            if unmarked == MARK_EVERY:
                self.mark(channel, session)
                unmarked = 0

    def mark(self, channel, session):
        """Sends a marker and waits for its confirm. Acks nothing meanwhile: deliveries stay in the client."""
        channel.publish("", self.markers, b"", delivery_mode=PERSISTENT)
        aside = []
        while (event := channel.next(LIFE_SIGN_S)).name != "basic.ack":
            aside.append(event)
        channel.wire.events[channel.number].extendleft(reversed(aside))
        self.history.add(AckDurable(session))


class Changer(Worker):
    """Declares and deletes durable queues, exchanges and bindings, and keeps what the broker said about each.

    `present` and `absent` hold names whose -ok was received; a name in neither may exist or not.
    """

    def __init__(self, broker, history):
        super().__init__(broker, history, "changer")
        self.lock = threading.Lock()
        self.number = 0
        self.present = []
        self.absent = []

    def session(self, wire):
        channel = wire.channel()
        while not self.stopping.is_set():
            with self.lock:
                self.number += 1
                name = f"topology-{self.number}"
                channel.exchange(name, "topic", durable=True)
                channel.declare(name, durable=True)
                channel.bind(name, name, "key.*")
                self.present.append(name)
                if self.number % 3 == 0:
                    doomed = self.present.pop(random.randrange(len(self.present)))
                    channel.delete(doomed)
                    channel.call("exchange.delete", exchange=doomed)
                    self.absent.append(doomed)
            time.sleep(0.005)

    def verify(self, seconds=30):
        """Compares the broker with what it said. Returns sentences about differences."""
        with self.lock:
            wire = Wire.opened(self.broker)
            faults = [fault for name in self.present for fault in missing(wire, name)]
            faults += [f"{name} is back" for name in self.absent if exists(wire, name)]
            wire.close()
            return faults


def exists(wire, queue):
    channel = wire.channel()
    try:
        channel.declare(queue, passive=True)
    except Refused as refusal:
        assert refusal.code == 404, refusal
        return False
    channel.close()
    return True


def missing(wire, name):
    """What of a queue, its exchange and their binding is not there."""
    if not exists(wire, name):
        return [f"queue {name} is gone"]
    channel = wire.channel()
    try:
        channel.confirm()
        channel.publish(name, "key.x", b"", mandatory=True)
        returned = channel.next().name == "basic.return"
        if returned:
            channel.expect("basic.ack")
        channel.call("queue.purge", queue=name)
        channel.close()
    except Refused as refusal:
        return [f"exchange {name} is gone: {refusal}"]
    return [f"binding of {name} is gone"] if returned else []
