"""What must hold of a run over faults: `harness.history` with what only a cluster promises.

It knows no broker and no socket, so that `test_verdict.py` can feed it the histories of brokers that lose, repeat, disorder, take away
or get stuck. A message is one send: what is published again after its connection was gone is another message, so that each send may
come once without the mark, and only what was confirmed is owed. The producer of a message is one channel of a publisher: AMQP keeps the
order of a channel, not that of a client that goes to another node.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from harness.history import Begin, Receive, Report, check


@dataclass
class Over:
    """A consumer's session has noticed its end. `why` is empty if the client itself closed it."""

    session: int
    why: str = ""


@dataclass
class Verdict:
    """`steady` are nodes that no fault touched; `homes` says which node a session is on, of consumers and of publishers."""

    report: Report
    taken_away: list = field(default_factory=list)
    dropped: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    stuck: list = field(default_factory=list)

    KINDS = ("taken_away", "dropped", "refused", "stuck")

    def faults(self):
        own = {kind: found for kind in self.KINDS if (found := getattr(self, kind))}
        return {**self.report.faults(), **own}

    def text(self):
        lines = [", ".join(f"{count} {what}" for what, count in sorted(self.report.counts.items()))]
        lines += [f"{len(found)} {kind}: " + "; ".join(map(str, found[:5])) for kind, found in self.faults().items()]
        return "\n".join(lines)


def judge(events, homes, steady, refused=(), stuck=()):
    """The verdict over the events of all clients, in the order in which they noted them, after everything was healed and drained."""
    known = [event for event in events if not isinstance(event, Over)]
    verdict = Verdict(check(known), refused=list(refused), stuck=list(stuck))
    for event in events:
        if isinstance(event, Over) and event.why and homes[event.session] in steady:
            verdict.dropped.append(f"session {event.session} on node {homes[event.session] + 1}, which had no fault: {event.why}")
    verdict.taken_away = taken_away(events, homes, steady)
    return verdict


def taken_away(events, homes, steady):
    """What a consumer held, or had acknowledged, on a node without a fault, and what was given to somebody again while that session lived."""
    over = set()
    holders = defaultdict(set)
    found = []
    for event in events:
        if isinstance(event, Over):
            over.add(event.session)
        elif isinstance(event, Begin):
            over.discard(event.session)
        elif isinstance(event, Receive):
            key = (event.queue, event.message)
            # One without the mark was under way before: it may be noted late, and is judged as a duplicate. What a node with a fault still
            # gives to its own clients, until it knows that it does not lead any more, counts for nobody else.
            again = event.redelivered and homes[event.session] in steady
            for holder in sorted(holders[key] - over) if again else ():
                to, had = (f"session {session} on node {homes[session] + 1}" for session in (event.session, holder))
                found.append(f"{event.message} in {event.queue}: to {to}, while {had} had it")
            if homes[event.session] in steady:
                holders[key].add(event.session)
    return found


def longest_pause(times, begin, end):
    """The longest time without a confirm from `begin` to `end`, in seconds; `times` ascend."""
    marks = [begin, *(time for time in times if begin < time < end), end]
    return max(later - earlier for earlier, later in zip(marks, marks[1:], strict=False))
