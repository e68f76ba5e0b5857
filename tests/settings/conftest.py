"""Certificates of one run, made with openssl: an authority, a server, and clients by their subjects."""

from pathlib import Path

import pytest
from harness.authority import Authority
from harness.options import address
from harness.servers import free_port, have
from wire import DEADLINE_S, Wire


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    if not have("openssl"):
        pytest.skip("openssl makes the certificates, and is not installed")
    return Authority(tmp_path_factory.mktemp("authority"), "test authority")


@pytest.fixture
def other_authority(authority, tmp_path):
    """Another one of the same name, which nobody trusts."""
    return Authority(tmp_path, "test authority")


class TlsPort:
    """A server's listener with TLS."""

    def __init__(self, server, port):
        self.server = server
        self.port = port
        self.broker = address(server)._replace(port=port)

    def dialled(self, context):
        """A raw client over TLS; the protocol header is not sent yet."""
        wire = Wire.dialled(self.broker)
        try:
            wire.sock = context.wrap_socket(wire.sock, server_hostname="127.0.0.1")
        except BaseException:
            wire.sock.close()
            raise
        wire.sock.settimeout(DEADLINE_S)
        return wire

    def connection(self, context):
        """A class of raw clients over TLS: `port.connection(context).opened(broker, mechanism="EXTERNAL")`."""

        class TlsWire(Wire):
            @classmethod
            def dialled(cls, _):
                return cls(self.dialled(context).sock)

        return TlsWire


@pytest.fixture
def tls_server(launch, authority):
    """`tls_server(**settings)`: a running server with a TLS listener that asks for certificates, as a TlsPort."""
    servers = []

    def start(certificate=None, plugins=(), **settings):
        port = free_port()
        certificate, key = certificate or authority.server()
        server = launch(
            "tls",
            **{
                "listeners.ssl.test": f"127.0.0.1:{port}",
                "ssl_options.cacertfile": authority.pem,
                "ssl_options.certfile": certificate,
                "ssl_options.keyfile": key,
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": "false",
                **settings,
            },
        )
        server.plugins = plugins
        servers.append(server.start())
        return TlsPort(server, port)

    yield start
    for server in servers:
        server.close()
