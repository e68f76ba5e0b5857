"""Class connection, the handshake: protocol header, start, tune, open, and what each refuses."""

import struct
import time
from contextlib import suppress

import pytest

import methods
from support import check_refusal, ends
from wire import (
    HEARTBEAT,
    METHOD,
    PROTOCOL_HEADER,
    Disconnected,
    Refused,
    Silence,
    Wire,
    amqplain,
    frame,
)

NO_CAPABILITIES = {}


def refusal(wire):
    with pytest.raises(Refused) as caught:
        wire.next(0)
    return caught.value


# -- protocol header -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        b"HTTP/1.1",
        b"GET / HT",
        b"AMQP\x00\x00\x09\x02",
        b"AMQP\x00\x00\x08\x00",
        b"AMQP\x09\x09\x09\x09",
        b"amqp\x00\x00\x09\x01",
        b"\x00" * 8,
    ],
)
def test_wrong_protocol_header_is_answered_with_ours(connect, header):
    wire = connect(stage=Wire.dialled)
    wire.send_raw(header)
    assert wire.rest() == PROTOCOL_HEADER


def test_protocol_header_in_pieces(connect):
    wire = connect(stage=Wire.dialled)
    for octet in PROTOCOL_HEADER:
        wire.send_raw(bytes([octet]))
    wire.expect(0, "connection.start")


@pytest.mark.rabbitmq_only
def test_protocol_header_of_0_9(connect):
    """RabbitMQ answers 0-9 as 0-9-1 and still knows 0-8."""
    wire = connect(stage=Wire.dialled)
    wire.send_raw(b"AMQP\x01\x01\x00\x09")
    start = wire.expect(0, "connection.start")
    assert (start.version_major, start.version_minor) == (0, 9)


# -- start ---------------------------------------------------------------------------------------


def test_start_fields(connect):
    start = connect(stage=Wire.started).start
    assert (start.version_major, start.version_minor, start.locales) == (0, 9, "en_US")
    assert {"PLAIN", "AMQPLAIN"} <= set(start.mechanisms.split(" "))


def test_server_capabilities(connect):
    properties = connect(stage=Wire.started).server_properties
    assert properties["capabilities"] == {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "consumer_priorities": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": True,
    }


def test_server_properties(connect):
    properties = connect(stage=Wire.started).server_properties
    for key in ("product", "version", "platform", "copyright", "information", "cluster_name"):
        assert isinstance(properties[key], str) and properties[key], key


@pytest.mark.parametrize("kind, channel", [(METHOD, 1), (HEARTBEAT, 1), (METHOD, 9)])
def test_frames_on_a_channel_before_open(connect, kind, channel):
    """RabbitMQ waits a moment and ends the connection without a word."""
    wire = connect(stage=Wire.started)
    wire.send_frame(kind, channel, methods.encode("channel.open", {}) if kind == METHOD else b"")
    assert wire.rest() == b""


def test_open_before_start_ok(connect):
    wire = connect(stage=Wire.started)
    wire.send(0, "connection.open", virtual_host="/")
    assert wire.rest() == b""


def test_heartbeat_during_the_handshake_is_harmless(connect, broker):
    wire = connect(stage=Wire.started)
    wire.send_frame(HEARTBEAT, 0, b"")
    wire.start_ok(broker)
    wire.expect(0, "connection.tune")


# -- authentication ------------------------------------------------------------------------------


def test_plain(connect):
    connect(stage=Wire.tuned)


def test_amqplain(connect, broker):
    response = amqplain(broker.user, broker.password)
    connect(mechanism="AMQPLAIN", response=response).channel()


@pytest.mark.parametrize("mechanism", ["PLAIN", "AMQPLAIN"])
def test_wrong_password(connect, broker, mechanism):
    wire = connect(stage=Wire.started)
    plain = f"\0{broker.user}\0wrong"
    wire.start_ok(
        broker, mechanism, plain if mechanism == "PLAIN" else amqplain(broker.user, "wrong")
    )
    check_refusal(
        refusal(wire),
        403,
        f"ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}."
        " For details see the broker logfile.",
        None,
        "connection",
    )


def test_unknown_user_gets_the_same_answer_as_a_wrong_password(connect, broker):
    wire = connect(stage=Wire.started)
    wire.start_ok(broker, response="\0spec-nobody\0guest")
    check_refusal(
        refusal(wire),
        403,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."
        " For details see the broker logfile.",
        None,
        "connection",
    )


def test_wrong_password_without_authentication_failure_close(connect, broker):
    """A client that does not announce the capability sees the socket end, and nothing else."""
    wire = connect(stage=Wire.started)
    wire.start_ok(broker, response="\0guest\0wrong", capabilities=NO_CAPABILITIES)
    assert wire.rest() == b""


def test_failed_login_ends_the_connection(connect, broker):
    wire = connect(stage=Wire.started)
    wire.start_ok(broker, response="\0guest\0wrong")
    refusal(wire)
    assert wire.rest() == b""


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "", "plain"])
def test_unknown_mechanism(connect, broker, mechanism):
    """RabbitMQ says 503 in its log only and ends the connection after 3 s."""
    wire = connect(stage=Wire.started)
    wire.start_ok(broker, mechanism)
    ends(wire, codes=(503,))


@pytest.mark.parametrize("response", ["", "guest", "\0guest", "a\0guest", "\0\0"])
def test_malformed_plain_response(connect, broker, response):
    wire = connect(stage=Wire.started)
    wire.start_ok(broker, response=response)
    try:
        wire.pump(10)
    except Disconnected:
        return
    check_refusal(
        refusal(wire),
        403,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."
        " For details see the broker logfile.",
        None,
        "connection",
    )


@pytest.mark.parametrize(
    "response",
    [
        b"",
        amqplain("guest", "guest")[:-3],
        b"\x05LOGINS\x00\x00\x00\x05guest",
        b"garbage",
    ],
)
def test_malformed_amqplain_response(connect, broker, response):
    wire = connect(stage=Wire.started)
    wire.start_ok(broker, "AMQPLAIN", response)
    assert wire.rest() == b""


def test_external_is_refused_without_a_certificate(connect, broker):
    """EXTERNAL is offered only over TLS with a client certificate."""
    wire = connect(stage=Wire.started)
    assert "EXTERNAL" not in wire.start.mechanisms.split(" ")
    wire.start_ok(broker, "EXTERNAL", "")
    assert wire.rest() == b""


# -- tune ----------------------------------------------------------------------------------------


def test_tune_defaults(connect):
    tune = connect(stage=Wire.tuned).tune
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (2047, 131072, 60)


def test_lower_values_are_taken(connect):
    connect(frame_max=4096, channel_max=1, heartbeat=600).channel()


def test_a_higher_heartbeat_than_offered_is_taken(connect):
    connect(heartbeat=6000).channel()


@pytest.mark.parametrize(
    "tuning",
    [
        {"frame_max": 4095},
        {"frame_max": 131073},
        {"frame_max": 0},
        {"channel_max": 2048},
        {"channel_max": 0},
    ],
)
def test_values_over_the_offer_are_refused(connect, tuning):
    """RabbitMQ says why in its log only and ends the connection after 3 s."""
    wire = connect(stage=Wire.tuned)
    wire.tune_ok(**tuning)
    ends(wire, codes=(530,))


def test_open_before_tune_ok(connect):
    wire = connect(stage=Wire.tuned)
    wire.send(0, "connection.open", virtual_host="/")
    assert wire.rest() == b""


def test_start_ok_twice(connect, broker):
    wire = connect(stage=Wire.tuned)
    wire.start_ok(broker)
    assert wire.rest() == b""


def test_close_before_open(connect):
    """RabbitMQ takes connection.close only once the connection is open."""
    wire = connect(stage=Wire.tuned)
    wire.send(0, "connection.close", reply_code=200, reply_text="bye")
    assert wire.rest() == b""


# -- open ----------------------------------------------------------------------------------------


def test_open_ok_is_empty(connect, broker):
    wire = connect(stage=Wire.tuned)
    wire.tune_ok()
    reply = wire.call(0, "connection.open", virtual_host=broker.vhost)
    assert reply.reserved1 == ""


@pytest.mark.parametrize("vhost", ["spec-no-such-vhost", "", "//"])
def test_open_of_a_missing_vhost(connect, vhost):
    wire = connect(stage=Wire.tuned)
    wire.tune_ok()
    wire.send(0, "connection.open", virtual_host=vhost)
    check_refusal(
        refusal(wire),
        530,
        f"NOT_ALLOWED - vhost {vhost} not found",
        "connection.open",
        "connection",
    )


def test_channel_open_right_after_open(connect, broker):
    """A client may send on without waiting for open-ok."""
    wire = connect(stage=Wire.tuned)
    wire.tune_ok()
    wire.send(0, "connection.open", virtual_host=broker.vhost)
    wire.send(1, "channel.open")
    wire.expect(0, "connection.open-ok")
    wire.expect(1, "channel.open-ok")


# -- bad frames and slow peers during the handshake ----------------------------------------------


def test_frame_too_large_before_tune(connect):
    """Until tune the limit is 4096 octets; the socket ends without an answer."""
    wire = connect(stage=Wire.started)
    wire.send_raw(struct.pack(">BHI", METHOD, 0, 10_000_000))
    assert wire.rest() == b""


def test_bad_frame_end_during_the_handshake(connect, broker):
    wire = connect(stage=Wire.started)
    payload = methods.encode("connection.start-ok", {"mechanism": "PLAIN"})
    wire.send_frame(METHOD, 0, payload, end=0)
    assert wire.rest() == b""


@pytest.mark.parametrize("stage", [Wire.dialled, Wire.started, Wire.tuned])
def test_a_handshake_that_stalls_is_ended(connect, stage):
    """The handshake has 10 s in all (`handshake_timeout`), however far it came."""
    wire = connect(stage=stage)
    started = time.monotonic()
    assert wire.rest(timeout=20) == b""
    assert time.monotonic() - started > 5


def test_a_slow_handshake_is_ended(connect):
    """Octets that trickle in do not extend the 10 s."""
    wire = connect(stage=Wire.started)
    fields = {"mechanism": "PLAIN", "response": "x" * 100}
    start_ok = frame(METHOD, 0, methods.encode("connection.start-ok", fields))
    started = time.monotonic()
    with pytest.raises((ConnectionError, Disconnected)):
        for octet in start_ok:
            wire.send_raw(bytes([octet]))
            with suppress(Silence):
                wire.read_exactly(1, time.monotonic() + 0.2)
    assert time.monotonic() - started < 20
