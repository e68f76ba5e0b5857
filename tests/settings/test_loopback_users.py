"""Users that may only come from a loopback address: guest, unless configured otherwise."""

import json
import socket

import psutil
import pytest
from harness.options import address
from harness.servers import free_port
from support import check_refusal
from wire import Refused, Wire, amqplain

USERS = {
    "users": [
        {"name": name, "password": "test12", "tags": "administrator"} for name in ("guest", "nova")
    ],
    "vhosts": [{"name": "/"}],
    "permissions": [
        {"user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"} for name in ("guest", "nova")
    ],
}


def outside_address():
    """An IPv4 address of this machine that is not loopback, or None."""
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]
    return found[0] if found else None


@pytest.fixture
def outside(launch, tmp_path, monkeypatch):
    """`outside(**settings)`: a server that listens on every address; guest's address of it from outside."""
    host = outside_address()
    if host is None:
        pytest.skip("this machine has loopback addresses only")
    # The harness lets RabbitMQ listen on loopback only.
    servers = []

    def start(**settings):
        file = tmp_path / "definitions.json"
        file.write_text(json.dumps(USERS))
        port = free_port()
        server = launch("outside", **{"listeners.tcp.outside": f"0.0.0.0:{port}", "load_definitions": file, **settings})
        if server.name == "rabbitmq":
            environment = server.environment()
            del environment["RABBITMQ_NODE_IP_ADDRESS"], environment["RABBITMQ_NODE_PORT"]
            monkeypatch.setattr(server, "environment", lambda: environment)
            server.port = port
        servers.append(server.start())
        return address(server)._replace(host=host, port=port, password="test12")

    yield start
    for server in servers:
        server.close()


def refused(broker, mechanism, response):
    wire = Wire.started(broker)
    wire.start_ok(broker, mechanism=mechanism, response=response)
    with pytest.raises(Refused) as caught:
        wire.next(0)
    text = (
        f"ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}."
        " For details see the broker logfile."
    )
    check_refusal(caught.value, 403, text, None, "connection")
    wire.close()


def test_guest_may_not_come_from_outside(outside):
    broker = outside()
    refused(broker, "PLAIN", "\0guest\0test12")
    refused(broker, "AMQPLAIN", amqplain("guest", "test12"))
    # Nor with a wrong password, with the same words.
    refused(broker, "PLAIN", "\0guest\0wrong")
    wire = Wire.started(broker)
    wire.start_ok(broker, capabilities={})
    assert wire.rest() == b""
    # Others may, and guest from here.
    Wire.opened(broker._replace(user="nova")).close()
    Wire.opened(broker._replace(host="127.0.0.1")).close()
    Wire.opened(broker._replace(host="127.0.0.2")).close()


def test_who_may_come_from_outside_is_configured(outside):
    broker = outside(**{"loopback_users.nova": "true", "loopback_users.guest": "false"})
    Wire.opened(broker).close()
    refused(broker, "PLAIN", "\0nova\0test12")
    Wire.opened(broker._replace(host="127.0.0.1", user="nova")).close()


def test_everybody_may_come_from_outside(outside):
    broker = outside(loopback_users="none")
    Wire.opened(broker).close()
