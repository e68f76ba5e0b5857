"""The checker finds what faulty clusters do: one history for each kind of fault."""

import pytest
from harness.history import Begin, Confirm, Message, Receive, Send
from verdict import Over, judge, longest_pause

ONE, TWO, THREE = (Message("publisher1.1", number) for number in (1, 2, 3))
# Session 1 is on node 0, which had no fault; session 2 is on node 1, which had one.
HOMES, STEADY = {1: 0, 2: 1, 3: 2}, {0, 2}


def sent(*messages, confirmed=True):
    for message in messages:
        yield Send(message, ("q",))
        if confirmed:
            yield Confirm(message)


def receive(message, session=1, redelivered=False):
    return Receive(message, "q", session, redelivered)


def faults(*history, **more):
    found = judge([Begin(1), Begin(2), Begin(3), *history], HOMES, STEADY, **more).faults()
    return {kind: len(list(sentences)) for kind, sentences in found.items()}


def test_a_good_history_with_a_fault_of_a_node():
    history = [
        *sent(ONE, TWO, THREE),
        receive(ONE),
        receive(TWO, 2),
        Over(2, "Disconnected"),
        receive(TWO, 3, redelivered=True),
        receive(THREE, 3),
    ]
    assert faults(*history) == {}


def test_a_lost_message():
    assert faults(*sent(ONE, TWO), receive(TWO)) == {"lost": 1}


def test_an_ambiguous_message_may_be_there_or_not():
    assert faults(*sent(ONE, TWO, confirmed=False), receive(TWO)) == {}


def test_a_message_that_was_published_again_may_come_twice_and_each_only_once():
    again = Message("publisher1.2", 1)
    history = [*sent(ONE, confirmed=False), *sent(again), receive(again), receive(ONE, 3)]
    assert faults(*history) == {}
    assert faults(*history, receive(again, 2)) == {"unmarked_duplicates": 1}


def test_a_duplicate_without_the_mark():
    history = [*sent(ONE), receive(ONE, 2), Over(2, "Disconnected"), receive(ONE, 3)]
    assert faults(*history) == {"unmarked_duplicates": 1}


def test_a_reordered_message():
    assert faults(*sent(ONE, TWO), receive(TWO), receive(ONE)) == {"disorder": 1}


def test_another_connection_of_a_publisher_has_an_order_of_its_own():
    later = Message("publisher1.2", 1)
    assert faults(*sent(TWO, later), receive(later), receive(TWO)) == {}


def test_a_message_that_nobody_sent():
    assert faults(receive(ONE)) == {"unexpected": 1}


@pytest.mark.parametrize("receiver", (1, 3))
def test_what_a_consumer_without_a_fault_has_is_given_to_nobody_again(receiver):
    assert faults(*sent(ONE), receive(ONE), receive(ONE, receiver, redelivered=True)) == {"taken_away": 1}


def test_a_node_with_a_fault_gives_its_own_clients_what_is_not_its_own_any_more():
    assert faults(*sent(ONE), receive(ONE), receive(ONE, 2, redelivered=True)) == {}


def test_what_a_consumer_without_a_fault_had_is_given_on_after_its_end():
    assert faults(*sent(ONE), receive(ONE), Over(1), receive(ONE, 3, redelivered=True)) == {}


def test_what_was_under_way_to_another_one_before_is_not_taken_away():
    history = [*sent(ONE), receive(ONE, 1, redelivered=True), receive(ONE, 2)]
    assert faults(*history) == {}


def test_a_client_of_a_node_without_a_fault_loses_its_connection():
    assert faults(Over(1, "320")) == {"dropped": 1}
    assert faults(Over(2, "320")) == {}
    assert faults(Over(1)) == {}


def test_what_is_stuck_and_what_was_refused():
    assert faults(stuck=["q through node 1: 3 messages"]) == {"stuck": 1}
    assert faults(refused=["channel: 404"]) == {"refused": 1}


def test_the_longest_pause_counts_its_edges():
    assert longest_pause([], 10, 14) == 4
    assert longest_pause([9, 11, 12, 20], 10, 14) == 2
    assert longest_pause([10.5, 13.5], 10, 14) == 3
