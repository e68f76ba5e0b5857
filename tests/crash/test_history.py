"""The checker finds what faulty brokers do: one history for each kind of fault."""

import pytest
from harness.history import Ack, AckDurable, Begin, Confirm, End, Message, Receive, Refuse, Return, Send, check

KILL = End(killed=True)
ONE, TWO, THREE = (Message("p", number) for number in (1, 2, 3))


def sends(*messages, queues=("q",)):
    return [Send(message, queues) for message in messages]


def receive(message, session=1, redelivered=False, queue="q", **more):
    return Receive(message, queue, session, redelivered, **more)


def faults(*history):
    return {kind: len(found) for kind, found in check(history).faults().items()}


def test_good_history():
    history = [
        *sends(ONE, TWO),
        Confirm(ONE),
        receive(ONE),
        Ack(ONE, "q", 1),
        Confirm(TWO),
        receive(TWO),
        receive(TWO, session=2, redelivered=True),
    ]
    report = check(history)
    assert report.faults() == {}
    assert report.counts["confirmed"] == 2
    assert report.counts["duplicates, marked"] == 1


def test_confirmed_and_never_received_is_lost():
    assert faults(*sends(ONE, TWO), Confirm(ONE), Confirm(TWO), receive(TWO)) == {"lost": 1}


def test_each_queue_is_owed_its_copy():
    history = [*sends(ONE, queues=("a", "b")), Confirm(ONE), receive(ONE, queue="a")]
    assert faults(*history) == {"lost": 1}


def test_unconfirmed_may_be_lost_or_recovered():
    report = check([*sends(ONE, TWO), receive(TWO)])
    assert report.faults() == {}
    assert report.counts["unknown"] == 2
    assert report.counts["recovered"] == 1


def test_nacked_may_be_lost():
    report = check([*sends(ONE), Refuse(ONE)])
    assert report.faults() == {}
    assert (report.counts["nacked"], report.counts["unknown"]) == (1, 0)


def test_never_sent_is_unexpected():
    assert faults(receive(ONE)) == {"unexpected": 1}


def test_wrong_queue_is_unexpected():
    assert faults(*sends(ONE), receive(ONE, queue="other")) == {"unexpected": 1}


def test_damaged_body_is_corrupt():
    assert faults(*sends(ONE), Confirm(ONE), receive(ONE, intact=False)) == {"corrupt": 1}


def test_second_delivery_needs_the_mark():
    history = [*sends(ONE), Confirm(ONE), receive(ONE), receive(ONE, session=2)]
    assert faults(*history) == {"unmarked_duplicates": 1}


def test_first_deliveries_in_order():
    assert faults(*sends(ONE, TWO), receive(TWO), receive(ONE)) == {"disorder": 1}


def test_order_holds_per_session_and_spares_redeliveries():
    history = [
        *sends(ONE, TWO, THREE),
        receive(TWO),
        receive(ONE, session=2),
        receive(THREE, session=2),
        receive(TWO, session=2, redelivered=True),
    ]
    assert faults(*history) == {}


def test_message_acked_for_good_stays_away():
    history = [*sends(ONE), Confirm(ONE), receive(ONE), Ack(ONE, "q", 1), AckDurable(1)]
    assert faults(*history) == {}
    assert faults(*history, receive(ONE, 2, True)) == {"resurrected": 1}


def test_ack_without_a_later_confirm_may_be_forgotten():
    history = [*sends(ONE, TWO), receive(ONE), AckDurable(1), Ack(ONE, "q", 1), receive(ONE, 2, True)]
    assert faults(*history) == {}


def test_returned_message_is_a_fault():
    assert faults(*sends(ONE), Return(ONE)) == {"returned": 1}


@pytest.mark.parametrize("received, torn", [((), 0), ((ONE,), 1), ((ONE, TWO), 0)])
def test_transaction_is_whole_or_absent(received, torn):
    batch = [Send(message, ("q",), batch=7) for message in (ONE, TWO)]
    found = faults(*batch, *(receive(message) for message in received))
    assert found == ({"torn_batches": 1} if torn else {})


def test_transaction_over_two_queues_is_whole():
    batch = [Send(ONE, ("a",), batch=7), Send(TWO, ("b",), batch=7)]
    assert faults(*batch, receive(ONE, queue="a")) == {"torn_batches": 1}


def begin_and_send():
    return [Begin(1), *(Send(message, ("q",), batch=7) for message in (ONE, TWO))]


@pytest.mark.parametrize("seen", [(), (KILL,)])
def test_transaction_that_arrived_in_part_before_the_kill_may_be_lost(seen):
    """Also if the consumer reads it only after the kill."""
    history = [*begin_and_send(), *seen, receive(ONE), KILL, Begin(2)]
    assert faults(*history) == {}


def test_transaction_of_which_a_part_came_back_is_torn():
    history = [*begin_and_send(), receive(ONE), KILL, Begin(2), receive(ONE, 2, True)]
    assert faults(*history) == {"torn_batches": 1}
    assert faults(*history, receive(TWO, 2, True)) == {}


def test_transaction_lost_in_part_without_a_kill_is_torn():
    history = [KILL, *begin_and_send(), receive(ONE), Begin(2)]
    assert faults(*history) == {"torn_batches": 1}
    assert faults(*history, End(killed=False), Begin(3)) == {"torn_batches": 1}


def test_confirmed_transaction_that_arrived_in_part_is_torn():
    history = [*begin_and_send(), Confirm(ONE), Confirm(TWO), receive(ONE), KILL, Begin(2)]
    assert faults(*history) == {"lost": 1, "torn_batches": 1}


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_session_notes_after_the_end_came_before_it(killed):
    """Two consumers of one queue: the second one's new session is quicker than the first one's old one."""
    history = [*sends(ONE), Confirm(ONE), Begin(1), End(killed), Begin(2), receive(ONE, 2, True)]
    history += [Ack(ONE, "q", 2), AckDurable(2), receive(ONE, 1)]
    assert faults(*history) == {}
    # Not so if the session is one of the new life.
    assert faults(*history, Begin(3), receive(ONE, 3)) == {"resurrected": 1, "unmarked_duplicates": 1}


def test_what_two_sessions_note_of_one_life_is_in_no_order():
    """The first one's connection ends, with the message unread in its socket; the broker gives it to the second."""
    history = [*sends(ONE), Confirm(ONE), receive(ONE, 2, True), Ack(ONE, "q", 2), AckDurable(2), receive(ONE, 1)]
    assert faults(*history) == {}
    # One of them is the first delivery; no further one is without the mark, and none at all comes after the ack.
    assert faults(*history, receive(ONE, 3)) == {"unmarked_duplicates": 1, "resurrected": 1}
    assert faults(*history, receive(ONE, 3, True)) == {"resurrected": 1}
    # The first one's connection is over then, or the second was given what the first still held.
    assert faults(*history, AckDurable(1)) == {"unmarked_duplicates": 1}
    # One session is in order, and so are two lives.
    assert faults(*sends(ONE), receive(ONE, 1, True), receive(ONE, 1)) == {"unmarked_duplicates": 1}
    assert faults(*sends(ONE), receive(ONE, 1, True), End(killed=False), receive(ONE, 2)) == {"unmarked_duplicates": 1}
