"""SASL EXTERNAL: a login with a client certificate over TLS, and what is refused; certificates that are required."""

import json
import ssl

import pika
import pytest
from support import check_refusal
from wire import Disconnected, Refused, Wire

REFUSED = (
    "ACCESS_REFUSED - Login was refused using authentication mechanism EXTERNAL. For details see the broker logfile."
)
SUBJECT = "/C=SE/O=Example, Inc./OU=compute/CN=nova"
DISTINGUISHED = "CN=nova,OU=compute,O=Example\\, Inc.,C=SE"


@pytest.fixture
def external(tls_server, tmp_path):
    """A server that takes user names from certificates; of its users only `plain` has a password."""

    def start(login_from, **settings):
        file = tmp_path / "definitions.json"
        file.write_text(json.dumps(definitions("nova", DISTINGUISHED)))
        return tls_server(
            plugins=("rabbitmq_auth_mechanism_ssl",),
            **{
                "auth_mechanisms.1": "EXTERNAL",
                "auth_mechanisms.2": "PLAIN",
                "ssl_cert_login_from": login_from,
                "load_definitions": file,
                **settings,
            },
        )

    return start


def definitions(*certified):
    users = [user(name, "") for name in certified]
    # "test12", salted, as RabbitMQ's rabbit_password_hashing_sha256 has it.
    users.append(user("plain", "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"))
    rights = [
        {"user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"} for name in (*certified, "plain")
    ]
    return {"users": users, "vhosts": [{"name": "/"}], "permissions": rights}


def user(name, password_hash):
    return {
        "name": name,
        "password_hash": password_hash,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "",
    }


def check_user(wire, name):
    """The connection is this user's: user-id must be it."""
    channel = wire.channel()
    queue = channel.declare(exclusive=True).queue
    channel.publish("", queue, b"x", user_id=name)
    assert channel.get(queue).properties["user_id"] == name
    channel.publish("", queue, b"x", user_id="plain")
    with pytest.raises(Refused) as caught:
        channel.next()
    text = f"PRECONDITION_FAILED - user_id property set to 'plain' but authenticated user was '{name}'"
    check_refusal(caught.value, 406, text, "basic.publish")


def login_refused(wire):
    with pytest.raises(Refused) as caught:
        wire.next(0)
    check_refusal(caught.value, 403, REFUSED, None, "connection")


def test_the_common_name_is_the_user(external, authority):
    port = external("common_name")
    nova = authority.trust(authority.sign(SUBJECT))
    wire = port.connection(nova).opened(port.broker, mechanism="EXTERNAL", response="")
    check_user(wire, "nova")
    wire.close()
    # What the client sends along does not matter.
    wire = port.connection(nova).opened(port.broker, mechanism="EXTERNAL", response="plain")
    check_user(wire, "nova")
    wire.close()

    # Unknown, not quite the same, a certificate without a common name, no certificate.
    for subject in ("/CN=stranger", "/CN=Nova", "/O=nova", None):
        other = authority.trust(authority.sign(subject) if subject else None)
        wire = port.connection(other).started(port.broker)
        wire.start_ok(port.broker, mechanism="EXTERNAL", response="")
        login_refused(wire)
        wire.sock.close()

    # A client that did not ask to be told is not.
    stranger = authority.trust(authority.sign("/CN=stranger"))
    wire = port.connection(stranger).started(port.broker)
    wire.start_ok(port.broker, mechanism="EXTERNAL", response="", capabilities={})
    assert wire.rest() == b""

    # A password works beside it, with a certificate or without.
    plain = port.broker._replace(user="plain", password="test12")
    for context in (nova, authority.trust()):
        wire = port.connection(context).opened(plain)
        wire.close()
    # A user without a password has no empty one.
    wire = port.connection(nova).started(port.broker)
    wire.start_ok(port.broker._replace(user="nova", password=""))
    with pytest.raises(Refused) as caught:
        wire.next(0)
    check_refusal(caught.value, 403, REFUSED.replace("EXTERNAL", "PLAIN"), None, "connection")
    wire.close()


def test_common_names_are_joined(external, authority):
    """Of several in one subject all count, with commas between."""
    port = external("common_name")
    both = authority.trust(authority.sign("/CN=nova/O=x/CN=plain"))
    wire = port.connection(both).started(port.broker)
    wire.start_ok(port.broker, mechanism="EXTERNAL", response="")
    login_refused(wire)
    wire.close()


def test_the_distinguished_name_is_the_user(external, authority):
    port = external("distinguished_name")
    nova = authority.trust(authority.sign(SUBJECT))
    wire = port.connection(nova).opened(port.broker, mechanism="EXTERNAL", response="")
    check_user(wire, DISTINGUISHED)
    wire.close()
    wire = port.connection(authority.trust(authority.sign("/CN=nova"))).started(port.broker)
    wire.start_ok(port.broker, mechanism="EXTERNAL", response="")
    login_refused(wire)
    wire.close()


def test_external_is_offered_over_tls_only(external, authority):
    port = external("common_name")
    nova = authority.trust(authority.sign(SUBJECT))
    wire = port.connection(nova).started(port.broker)
    assert sorted(wire.start.mechanisms.split(" ")) == ["EXTERNAL", "PLAIN"]
    wire.close()
    wire = port.connection(authority.trust()).started(port.broker)
    assert sorted(wire.start.mechanisms.split(" ")) == ["EXTERNAL", "PLAIN"]
    wire.close()
    wire = Wire.started(port.broker._replace(port=port.server.port))
    assert wire.start.mechanisms == "PLAIN"
    wire.start_ok(port.broker, mechanism="EXTERNAL", response="nova")
    assert wire.rest() == b""


def test_pika_logs_in_with_a_certificate(external, authority):
    port = external("common_name")
    context = authority.trust(authority.sign(SUBJECT))
    connection = pika.BlockingConnection(
        pika.ConnectionParameters(
            "127.0.0.1",
            port.port,
            credentials=pika.credentials.ExternalCredentials(),
            ssl_options=pika.SSLOptions(context, "127.0.0.1"),
        )
    )
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"x", pika.BasicProperties(user_id="nova"))
    assert channel.basic_get(queue, auto_ack=True)[2] == b"x"
    connection.close()


def refused_by_tls(port, context):
    """The TLS handshake fails; with TLS 1.3 the client learns it when it reads."""
    try:
        wire = port.connection(context).started(port.broker)
    except (ssl.SSLError, Disconnected, ConnectionError, AssertionError):
        return
    wire.close()
    pytest.fail("the broker spoke")


def test_a_certificate_can_be_required(tls_server, authority, other_authority):
    port = tls_server(**{"ssl_options.fail_if_no_peer_cert": "true"})
    nova = authority.sign(SUBJECT)
    wire = port.connection(authority.trust(nova)).opened(port.broker)
    wire.close()
    refused_by_tls(port, authority.trust())
    # Nor does one of another authority do, though that has the same name.
    context = authority.trust()
    context.load_cert_chain(*other_authority.sign(SUBJECT))
    refused_by_tls(port, context)
    # The plain listener asks for nothing.
    Wire.opened(port.broker._replace(port=port.server.port)).close()


def test_a_certificate_that_is_not_required_is_checked(tls_server, authority, other_authority):
    port = tls_server()
    port.connection(authority.trust()).opened(port.broker).close()
    context = authority.trust()
    context.load_cert_chain(*other_authority.sign(SUBJECT))
    refused_by_tls(port, context)
