"""What clients saw, and what must hold of it.

The load (`load.py`) writes events while brokers are killed under it; `check` reads them afterwards. It knows no
broker and no socket, so that its own tests can feed it histories of brokers that lose, repeat or disorder messages.

A message is named by (producer, number): numbers of one producer grow, and are never used again, also not after
a reconnect. What is owed is counted per queue: a message routed to three queues is owed three times.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple


class Message(NamedTuple):
    producer: str
    number: int


@dataclass
class Send:
    """A publish that was handed to a socket, to be routed to `queues`. `batch` names its transaction, if any."""

    message: Message
    queues: tuple
    batch: int | None = None


@dataclass
class Confirm:
    """The broker took responsibility: basic.ack for a publish, or tx.commit-ok for a batch's."""

    message: Message


@dataclass
class Refuse:
    """basic.nack: the broker says it did not take it."""

    message: Message


@dataclass
class Return:
    """basic.return: no queue."""

    message: Message


@dataclass
class Begin:
    """A consumer's session has connected, and consumes nothing yet."""

    session: int


@dataclass
class End:
    """The broker has ended and is not started again yet. `killed`: what it had not written is gone, also if it was delivered."""

    killed: bool


@dataclass
class Receive:
    """A delivery. `session` is the consumer's connection; `intact` is whether the body is what was sent."""

    message: Message
    queue: str
    session: int
    redelivered: bool
    intact: bool = True


@dataclass
class Ack:
    """An ack was handed to a socket. It may be lost with the connection."""

    message: Message
    queue: str
    session: int


@dataclass
class AckDurable:
    """Every ack so far of this session is on disk: a later confirm on the same channel was received."""

    session: int


@dataclass
class Report:
    """Counts, and the faults: lists of sentences. `faults` is what a test asserts to be empty."""

    counts: dict = field(default_factory=lambda: defaultdict(int))
    lost: list = field(default_factory=list)
    unexpected: list = field(default_factory=list)
    corrupt: list = field(default_factory=list)
    unmarked_duplicates: list = field(default_factory=list)
    disorder: list = field(default_factory=list)
    resurrected: list = field(default_factory=list)
    torn_batches: list = field(default_factory=list)
    returned: list = field(default_factory=list)

    KINDS = (
        "lost",
        "unexpected",
        "corrupt",
        "unmarked_duplicates",
        "disorder",
        "resurrected",
        "torn_batches",
        "returned",
    )

    def faults(self):
        return {kind: found for kind in self.KINDS if (found := getattr(self, kind))}

    def text(self):
        lines = [", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))]
        for kind, found in self.faults().items():
            lines.append(f"{len(found)} {kind}: " + "; ".join(found[:5]))
        return "\n".join(lines)


class Delivery(NamedTuple):
    """What was noted of one delivery of a message from a queue: the broker's life, the session, and whether it was marked."""

    life: int
    session: int
    redelivered: bool

    def may_precede(self, other):
        """Whether it may have been the first, though it was noted after `other`. What two sessions note of one life is in no order:
        the one may have had in its socket what was given to the other when the first one's connection ended."""
        unordered = self.life == other.life and self.session != other.session
        return unordered and other.redelivered and not self.redelivered


class Ledger:
    """The state of one walk over a history."""

    def __init__(self):
        self.report = Report()
        self.sent = {}
        self.confirmed = set()
        self.refused = set()
        self.received = defaultdict(list)
        self.acked = defaultdict(set)
        self.durably_acked = set()
        self.late = defaultdict(list)
        self.newest = {}
        # The broker's life, counted by its ends: the present one, those that ended by a kill, that of each send.
        self.life = 0
        self.killed = set()
        self.sent_in = {}

    def take(self, event):
        getattr(self, "take_" + type(event).__name__.lower())(event)

    def take_send(self, event):
        self.report.counts["attempted"] += 1
        self.sent[event.message] = event
        self.sent_in[event.message] = self.life

    def take_begin(self, event):
        pass

    def take_end(self, event):
        if event.killed:
            self.killed.add(self.life)
        self.life += 1

    def take_confirm(self, event):
        self.confirmed.add(event.message)

    def take_refuse(self, event):
        self.refused.add(event.message)

    def take_return(self, event):
        self.report.returned.append(f"{event.message} came back, though its queues exist")

    def take_receive(self, event):
        self.report.counts["received"] += 1
        key = (event.queue, event.message)
        send = self.sent.get(event.message)
        if send is None or event.queue not in send.queues:
            self.report.unexpected.append(f"{event.message} in {event.queue}")
        if not event.intact:
            self.report.corrupt.append(f"{event.message} in {event.queue}")
        seen = Delivery(self.life, event.session, event.redelivered)
        earlier = self.received[key]
        may_be_first = all(seen.may_precede(other) for other in earlier)
        what = f"{event.message} in {event.queue}: {seen} after {earlier}"
        if key in self.durably_acked and not may_be_first:
            self.report.resurrected.append(what)
        if earlier and event.redelivered:
            self.report.counts["duplicates, marked"] += 1
        elif not may_be_first:
            self.report.unmarked_duplicates.append(what)
        elif earlier:
            self.report.counts["first deliveries, noted late"] += 1
            self.late[event.session].append(what)
        earlier.append(seen)
        if not event.redelivered:
            self.check_order(event)

    def check_order(self, event):
        """First deliveries of one producer to one consumer session come in the order of their numbers."""
        line = (event.session, event.queue, event.message.producer)
        newest = self.newest.get(line, -1)
        if event.message.number <= newest:
            self.report.disorder.append(f"{event.message} in {event.queue} after number {newest}")
        self.newest[line] = max(newest, event.message.number)

    def take_ack(self, event):
        self.acked[event.session].add((event.queue, event.message))

    def take_ackdurable(self, event):
        # Its connection had not ended when it noted these: nobody else was to have them before.
        self.report.unmarked_duplicates += self.late.pop(event.session, [])
        self.durably_acked |= self.acked.pop(event.session, set())

    def finish(self):
        counts = self.report.counts
        counts["confirmed"] = len(self.confirmed)
        counts["nacked"] = len(self.refused)
        counts["unknown"] = len(self.sent.keys() - self.confirmed - self.refused)
        counts["acked for good"] = len(self.durably_acked)
        for message in sorted(self.confirmed):
            for queue in self.sent[message].queues:
                if not self.received[queue, message]:
                    self.report.lost.append(f"{message} in {queue}")
        unconfirmed = self.sent.keys() - self.confirmed
        counts["recovered"] = sum(
            1
            for message in unconfirmed
            if any(self.received[queue, message] for queue in self.sent[message].queues)
        )
        self.check_batches()
        return self.report

    def check_batches(self):
        """A transaction is there as a whole or not at all."""
        batches = defaultdict(list)
        for send in self.sent.values():
            if send.batch is not None:
                owed = [(queue, send.message) for queue in send.queues]
                batches[send.message.producer, send.batch] += owed
        for batch, owed in batches.items():
            there = [key for key in owed if self.received[key]]
            if len(there) in (0, len(owed)) or self.lost_whole(owed, there):
                continue
            self.report.torn_batches.append(f"{batch}: {len(there)} of {len(owed)}")

    def lost_whole(self, owed, there):
        """A broker delivers before it has written, and confirms afterwards: of a transaction that a kill took away as a whole,
        some may have arrived before. None of it comes later, and it is not confirmed."""
        life = self.sent_in[owed[0][1]]
        confirmed = any(message in self.confirmed for _, message in owed)
        lives = {seen.life for key in there for seen in self.received[key]}
        return life in self.killed and not confirmed and lives == {life}


def check(history):
    """The report of a whole history, drained to the end: every queue was emptied after the last restart."""
    ledger = Ledger()
    for event in by_lives(history):
        ledger.take(event)
    return ledger.finish()


def by_lives(history):
    """What a session has in its socket when the broker ends, it may note after others have gone on with the next one;
    yet all that it saw happened before the end, and stands there then. Otherwise the order stays."""
    life, began_in, lives = 0, {}, [[]]
    for event in history:
        if isinstance(event, End):
            life += 1
            lives.append([event])
            continue
        session = getattr(event, "session", None)
        if isinstance(event, Begin):
            began_in[session] = life
        lives[began_in.get(session, life)].append(event)
    return itertools.chain.from_iterable(lives)
