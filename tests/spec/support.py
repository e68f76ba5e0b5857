"""What the tests share: expected refusals, waiting on conditions, and the record of refusals seen."""

import re
import time
from contextlib import contextmanager

import pytest

import methods
from wire import DEADLINE_S, Disconnected, Refused

UNIQUE = re.compile(r"spec-[0-9a-z_.]+-[0-9a-f]{8}")

# RabbitMQ's printer folds long terms over lines; where it folds is not part of what we compare.
LINE_BREAK = re.compile(r"\n *")

# Set by conftest.py when --record-refusals names a file.
record = None


@contextmanager
def refused(code, text, method, scope="channel"):
    """Expects the broker to close `scope` with this code, this very text and this failing method.

    `method` is a name ("queue.declare"), or None where the close carries the ids 0, 0.
    """
    with pytest.raises(Refused) as caught:
        yield
    check_refusal(caught.value, code, text, method, scope)


def check_refusal(refusal, code, text, method, scope="channel"):
    note(refusal)
    seen = LINE_BREAK.sub("", refusal.text)
    ids = methods.BY_NAME[method].ids if method else (0, 0)
    assert (refusal.scope, refusal.code, seen, refusal.ids) == (scope, code, cut(text), ids)


def cut(text):
    """A reply text is a short string: what is over 255 octets ends in "..." at 255 (RabbitMQ)."""
    octets = text.encode()
    return text if len(octets) <= 255 else octets[:252].decode() + "..."


def note(refusal):
    """Writes a refusal to the record, with unique names made equal, so that records compare."""
    if record is None:
        return
    definition = methods.BY_IDS.get(refusal.ids)
    method = definition.name if definition else "-"
    text = UNIQUE.sub("<name>", LINE_BREAK.sub("", refusal.text))
    with open(record, "a", encoding="utf-8") as out:
        out.write(f"{refusal.scope}\t{refusal.code}\t{method}\t{refusal.ids}\t{text}\n")


def wait_until(condition, what, timeout=DEADLINE_S):
    """Polls `condition` until it is true; returns its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s in vain: {what}"
        time.sleep(0.01)
    return value


def count(channel, queue):
    """Ready messages of a queue, by a passive declare."""
    return channel.declare(queue, passive=True).message_count


def consumers(channel, queue):
    return channel.declare(queue, passive=True).consumer_count


def wait_count(channel, queue, wanted):
    wait_until(lambda: count(channel, queue) == wanted, f"{wanted} messages in {queue}")


def sort_by_tag(deliveries):
    return sorted(deliveries, key=lambda delivery: delivery.delivery_tag)


def ends(wire, codes=(501, 502, 503, 540, 541)):
    """The broker ends the connection: with a close of one of these codes, or without a word."""
    try:
        while True:
            wire.next(0)
    except Disconnected:
        pass
    except Refused as refusal:
        note(refusal)
        assert refusal.scope == "connection" and refusal.code in codes, refusal
