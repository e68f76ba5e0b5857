"""Publishers and consumers that live through faults of a cluster, and note what they saw; `Trial` is one run of them.

Every client is a thread with a connection of its own over the raw client: no library may hide a reconnect. A publisher starts on a
node of its own and goes to the next one when its connection is gone; so does a consumer, which consumes all queues. A client gives a
connection up when nothing came for `SILENCE_S`, though it had asked for heartbeats.
"""

import contextlib
import itertools
import random
import socket
import threading
import time
from collections import OrderedDict, defaultdict, deque

from harness.bodies import decode, encode
from harness.history import Begin, Confirm, Message, Receive, Refuse, Return, Send
from harness.servers import clock
from verdict import Over, judge, longest_pause
from wire import HEARTBEAT, Broker, Disconnected, Refused, Silence, Wire

PERSISTENT, TRANSIENT = 2, 1
CONNECTION_FORCED = 320
HEARTBEAT_S = 10
SILENCE_S = 15.0
WINDOW = 20
PREFETCH = 20
ACK_EVERY = 10
FANOUT_EVERY = 20
BODY_SIZES = [0, 16, 64, 300, 1000, 4000]
# How long anything may take that must happen at last; a loaded machine takes long.
DEADLINE_S = 60
# A connection's end that a client may see on a node with a fault.
ENDS = (OSError, Disconnected, Silence)


class Patient(Wire):
    """A raw client that waits no longer than a real one would, and knows when it heard something last."""

    @classmethod
    def dialled(cls, broker):
        sock = socket.create_connection((broker.host, broker.port), timeout=3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = cls(sock)
        wire.heard = wire.beaten = time.monotonic()
        return wire

    def next(self, channel, timeout=SILENCE_S):
        return super().next(channel, min(timeout, SILENCE_S))

    def expect(self, channel, *names, timeout=SILENCE_S):
        return super().expect(channel, *names, timeout=timeout)

    def read_frame(self, timeout=SILENCE_S):
        frame = super().read_frame(timeout)
        self.heard = time.monotonic()
        return frame

    def send_raw(self, data):
        self.sock.settimeout(SILENCE_S)
        super().send_raw(data)

    def live(self):
        """Sends a heartbeat when it is time; raises if the broker sent nothing for too long."""
        now = time.monotonic()
        if now - self.beaten > HEARTBEAT_S / 2:
            self.beaten = now
            self.send_frame(HEARTBEAT, 0, b"")
        if now - self.heard > SILENCE_S:
            raise Disconnected("no heartbeat")


class Notes:
    """What all clients saw, in one order that agrees with what each of them saw."""

    def __init__(self):
        self.lock = threading.Lock()
        self.events = []
        self.times = []
        self.homes = {}
        self.sends = {}
        self.confirmed = set()
        self.received = set()
        self.confirms = defaultdict(list)
        self.refused = []
        self.ids = itertools.count(1)
        self.ambiguous = 0

    def add(self, *events):
        with self.lock:
            for event in events:
                self.events.append(event)
                self.times.append(time.time())
                match event:
                    case Send():
                        self.sends[event.message] = event.queues
                    case Confirm():
                        self.confirmed.add(event.message)
                    case Receive():
                        self.received.add((event.queue, event.message))

    def session(self, at):
        with self.lock:
            session = next(self.ids)
            self.homes[session] = at
            self.events.append(Begin(session))
            self.times.append(time.time())
        return session

    def trace(self, sentences):
        """What became of the messages that these sentences name, and of the sessions."""
        named = [message for message in self.sends if any(str(message) in sentence for sentence in sentences)]
        for when, event in zip(self.times, self.events, strict=True):
            if isinstance(event, Begin | Over) or event.message in named:
                home = f" on node {self.homes[event.session] + 1}" if hasattr(event, "session") else ""
                yield f"{clock(when)} {event}{home}"

    def missing(self):
        """What was confirmed and did not arrive yet."""
        with self.lock:
            return [
                (queue, message)
                for message in self.confirmed
                for queue in self.sends[message]
                if (queue, message) not in self.received
            ]


class Client(threading.Thread):
    """Runs `session` on one node after the other until told to stop."""

    def __init__(self, notes, brokers, home, name):
        super().__init__(name=name, daemon=True)
        self.notes, self.brokers, self.at = notes, brokers, home
        self.stopping = threading.Event()
        self.failure = None

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    wire = Patient.opened(self.brokers[self.at], heartbeat=HEARTBEAT_S)
                except Refused as refusal:
                    self.refused(refusal)
                    wire = None
                except ENDS:
                    wire = None
                if wire is not None:
                    self.attend(wire)
                if not self.stopping.is_set():
                    self.at = (self.at + 1) % len(self.brokers)
                    time.sleep(0.05)
        except BaseException as error:
            self.failure = error

    def attend(self, wire):
        session = self.notes.session(self.at)
        why = ""
        try:
            self.session(wire, session)
            wire.close()
        except Refused as refusal:
            why = str(refusal)
            self.refused(refusal)
        except ENDS as error:
            why = repr(error)
        finally:
            self.notes.add(Over(session, why))
            self.ended()
            wire.sock.close()

    def ended(self):
        pass

    def refused(self, refusal):
        """A node may send its clients away; nothing else is to be answered to what these clients do."""
        if (refusal.scope, refusal.code) != ("connection", CONNECTION_FORCED):
            self.notes.refused.append(f"{self.name} on node {self.at + 1}: {refusal}")

    def session(self, wire, session):
        raise NotImplementedError


class Publisher(Client):
    """Publishes numbered messages with confirms to all queues in turn, now and then to all at once."""

    def __init__(self, notes, brokers, home, name, queues, fanout, per_second):
        super().__init__(notes, brokers, home, name)
        self.queues, self.fanout = queues, fanout
        self.interval = 1 / per_second
        self.incarnation = 0
        self.unconfirmed = OrderedDict()
        self.again = deque()
        self.turn = itertools.count(home)
        self.retried = 0

    def session(self, wire, session):
        self.incarnation += 1
        producer, number = f"{self.name}.{self.incarnation}", 0
        channel = wire.channel()
        channel.confirm()
        due = time.monotonic()
        while not self.stopping.is_set() or self.unconfirmed:
            now = time.monotonic()
            if now >= due and len(self.unconfirmed) < WINDOW and not self.stopping.is_set():
                due = max(due + self.interval, now - 0.2)
                number += 1
                self.publish(channel, Message(producer, number))
            else:
                with contextlib.suppress(Silence):
                    self.settle(channel.next(min(max(due - now, 0.002), 0.05)))
            wire.live()

    def publish(self, channel, message):
        if self.again:
            exchange, key = self.again.popleft()
            self.retried += 1
        else:
            turn = next(self.turn)
            to_all = self.fanout and turn % FANOUT_EVERY == 0
            exchange, key = (self.fanout, "") if to_all else ("", self.queues[turn % len(self.queues)])
        queues = tuple(self.queues) if exchange else (key,)
        body = encode(message, random.choice(BODY_SIZES))
        self.unconfirmed[message.number] = (message, (exchange, key))
        # Written down first: what was sent may arrive even if the send fails half-way.
        self.notes.add(Send(message, queues))
        mode = TRANSIENT if key.startswith("transient") else PERSISTENT
        channel.publish(exchange, key, body, mandatory=True, delivery_mode=mode)

    def settle(self, event):
        if event.name == "basic.return":
            self.notes.add(Return(decode(event.body)[0]))
            return
        kind = {"basic.ack": Confirm, "basic.nack": Refuse}[event.name]
        last = event.delivery_tag
        numbers = [number for number in self.unconfirmed if number <= last] if event.multiple else [last]
        for number in numbers:
            message, where = self.unconfirmed.pop(number)
            self.notes.add(kind(message))
            if kind is Refuse:
                self.again.append(where)
        if kind is Confirm:
            self.notes.confirms[self.name].append(time.monotonic())

    def ended(self):
        """What is open is published again: whether the first is there, nobody knows."""
        self.notes.ambiguous += len(self.unconfirmed)
        self.again += [where for _, where in self.unconfirmed.values()]
        self.unconfirmed.clear()


class Consumer(Client):
    """Consumes all queues on one channel, and acknowledges some messages at a time, so that it always holds some."""

    def __init__(self, notes, brokers, home, name, queues):
        super().__init__(notes, brokers, home, name)
        self.queues = queues

    def session(self, wire, session):
        channel = wire.channel()
        channel.qos(PREFETCH)
        for queue in self.queues:
            channel.consume(queue, tag=queue)
        held = 0
        while not self.stopping.is_set():
            event = None
            with contextlib.suppress(Silence):
                event = channel.next(0.1)
            if event is not None and event.name == "basic.deliver":
                message, intact = decode(event.body)
                self.notes.add(Receive(message, event.consumer_tag, session, event.redelivered, intact))
                held, newest = held + 1, event.delivery_tag
            elif event is not None:
                self.notes.refused.append(f"{self.name} on node {self.at + 1}: {event!r}")
            if held >= ACK_EVERY or (held and event is None):
                channel.ack(newest, multiple=True)
                held = 0
            wire.live()
        if held:
            channel.ack(newest, multiple=True)


class Trial:
    """Queues, clients on all nodes, faults, and the verdict."""

    def __init__(self, nodes, durable=4, transient=4, per_second=150, arguments=None):
        self.nodes = nodes
        self.brokers = [Broker.parse(node.url()) for node in nodes]
        self.queues = [f"durable-{at}" for at in range(durable)] + [f"transient-{at}" for at in range(transient)]
        self.arguments = {"x-ha-policy": "all"} if arguments is None else arguments
        self.notes = Notes()
        self.victims = set()
        # Nodes that are not to come back.
        self.gone = set()
        self.lines = []
        self.stuck = []
        self.declare()
        self.logged = [node.logged() for node in nodes]
        self.publishers = [
            Publisher(self.notes, self.brokers, at, f"publisher{at + 1}", self.queues, "fanout", per_second)
            for at in range(len(nodes))
        ]
        self.consumers = [
            Consumer(self.notes, self.brokers, at, f"consumer{at + 1}", self.queues) for at in range(len(nodes))
        ]

    def declare(self):
        """Each queue through another node."""
        wires = [Wire.opened(broker) for broker in self.brokers]
        channels = [wire.channel() for wire in wires]
        channels[0].exchange("fanout", "fanout", durable=True)
        for at, queue in enumerate(self.queues):
            channel = channels[at % len(channels)]
            channel.declare(queue, durable=queue.startswith("durable"), arguments=self.arguments)
            channel.bind(queue, "fanout")
        for wire in wires:
            wire.close()

    def __enter__(self):
        for client in (*self.consumers, *self.publishers):
            client.start()
        self.confirming("at the start")
        return self

    def __exit__(self, *_):
        for client in (*self.publishers, *self.consumers):
            client.stopping.set()
        for client in (*self.publishers, *self.consumers):
            client.join(2 * SILENCE_S)

    def confirming(self, when):
        """Waits until every publisher has had another two confirms; returns after how long, for the worst."""
        began = time.monotonic()
        before = {publisher: len(self.notes.confirms[publisher.name]) for publisher in self.publishers}
        for publisher in self.publishers:
            enough = before[publisher] + 2
            name = publisher.name
            self.until(lambda: len(self.notes.confirms[name]) >= enough, f"{name} has no confirms {when}")
        return time.monotonic() - began

    def until(self, condition, what, seconds=None):
        """Waits for it; in vain is a fault of the broker, and the trial goes on, so that all of them are seen."""
        seconds = seconds or DEADLINE_S
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self.stuck.append(f"{what() if callable(what) else what}, {seconds} s")
                return False
            time.sleep(0.02)
        return True

    def load(self, seconds):
        """The clients go on for so long."""
        time.sleep(seconds)

    @contextlib.contextmanager
    def fault(self, name, *victims):
        """A fault of these nodes goes on inside; afterwards all is well again, and publishers must get on."""
        self.victims |= set(victims)
        began = time.monotonic()
        homes = {publisher: (publisher.at, publisher.incarnation) for publisher in self.publishers}
        yield
        healed = time.monotonic()
        back = self.confirming(f"after {name}")
        ended = time.monotonic()
        pauses = {}
        for publisher, home in homes.items():
            pause = longest_pause(self.notes.confirms[publisher.name], began, ended)
            kind = "stayed" if (publisher.at, publisher.incarnation) == home else "moved"
            pauses[kind] = max(pauses.get(kind, 0.0), pause)
        text = ", ".join(f"{pause:.2f} s for publishers that {kind}" for kind, pause in sorted(pauses.items()))
        self.lines.append(f"{name} ({healed - began:.1f} s): longest pause {text}; all confirmed {back:.2f} s after it")

    # The end.

    def there(self):
        return [(at, broker) for at, broker in enumerate(self.brokers) if at not in self.gone]

    def accept(self):
        """Nothing may be wrong."""
        verdict = self.finish()
        print("\n".join(self.lines))
        faults = verdict.faults()
        if faults:
            print("\n".join(self.notes.trace([str(sentence) for found in faults.values() for sentence in found[:3]])))
        assert not faults, verdict.text()

    def finish(self):
        """Everything is healed: lets it drain, tries each queue through each node, and judges."""
        for publisher in self.publishers:
            publisher.stopping.set()
        for publisher in self.publishers:
            self.until(lambda: not publisher.is_alive(), f"{publisher.name} waits for confirms")
        missing = self.notes.missing
        self.until(lambda: not missing(), lambda: f"{len(missing())} confirmed messages do not arrive: {missing()[:3]}")
        self.probe()
        steady = set(range(len(self.nodes))) - self.victims
        self.counted("consumers", len(self.consumers))
        for consumer in self.consumers:
            consumer.stopping.set()
        for consumer in self.consumers:
            self.until(lambda: not consumer.is_alive(), f"{consumer.name} does not end")
        self.counted("no consumers", 0)
        for client in (*self.publishers, *self.consumers):
            if client.failure is not None:
                self.stuck.append(f"{client.name}: {client.failure!r}")
        slow = [f"node {at + 1}: {what}" for at in sorted(steady) for what in self.nodes[at].slow(self.logged[at], steady)]
        if slow:
            # Nodes that do not hear each other in time are taken for lost: they keep their promises of messages, not those of clients.
            self.lines.append(f"the machine was too slow for nodes without a fault ({'; '.join(slow)})")
            steady = set()
        verdict = judge(self.notes.events, self.notes.homes, steady, self.notes.refused, self.stuck)
        counts = verdict.report.counts
        counts["ambiguous"] = self.notes.ambiguous
        counts["published again"] = sum(publisher.retried for publisher in self.publishers)
        self.lines.append(verdict.text())
        return verdict

    def probe(self):
        """A publish to each queue through each node is confirmed and arrives."""
        began = time.monotonic()
        for at, broker in self.there():
            try:
                wire = Patient.opened(broker)
                channel = wire.channel()
                channel.confirm()
                sent = [Message(f"probe{at + 1}", number) for number in range(1, len(self.queues) + 1)]
                for message, queue in zip(sent, self.queues, strict=True):
                    self.notes.add(Send(message, (queue,)))
                    channel.publish("", queue, encode(message, 10), mandatory=True, delivery_mode=PERSISTENT)
                settled = 0
                deadline = time.monotonic() + DEADLINE_S
                while settled < len(sent):
                    try:
                        settled += channel.settled()
                    except Silence:
                        if time.monotonic() > deadline:
                            raise
                self.notes.add(*(Confirm(message) for message in sent))
                wire.close()
            except (*ENDS, Refused, AssertionError) as error:
                self.stuck.append(f"a publish to each queue through node {at + 1}: {error!r}")
        missing = self.notes.missing
        self.until(lambda: not missing(), lambda: f"{len(missing())} probes do not arrive: {missing()[:3]}")
        self.lines.append(f"each queue used through each node in {time.monotonic() - began:.2f} s")

    def counted(self, what, consumers):
        """Every node says of every queue that it is empty, and has so many consumers."""

        def different():
            found = []
            for at, broker in self.there():
                try:
                    wire = Patient.opened(broker)
                    channel = wire.channel()
                    for queue in self.queues:
                        said = channel.declare(queue, passive=True)
                        if (said.message_count, said.consumer_count) != (0, consumers):
                            counts = f"{said.message_count} messages, {said.consumer_count} consumers"
                            found.append(f"{queue} through node {at + 1}: {counts}")
                    wire.close()
                except (*ENDS, Refused) as error:
                    found.append(f"node {at + 1}: {error!r}")
            return found

        self.until(lambda: not different(), lambda: f"with {what}: {different()[:5]}")
