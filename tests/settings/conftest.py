"""Certificates of one run, made with openssl: an authority, a server, and clients by their subjects."""

import ssl
import subprocess
from pathlib import Path

import pytest
from harness.options import address
from harness.servers import free_port, have
from wire import DEADLINE_S, Wire


class Authority:
    """Signs certificates; everything is in one folder."""

    def __init__(self, folder, name):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.made = 0
        self.pem = self.folder / "authority.pem"
        self.key = self.folder / "authority.key"
        self.openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-days", "30", "-keyout", self.key, "-out", self.pem),
        )

    def openssl(self, *arguments):
        command = ["openssl", *map(str, arguments)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert made.returncode == 0, made.stderr

    def sign(self, subject, extensions=""):
        """A certificate for `subject` ("/O=x/CN=y"); returns the paths of it and of its key."""
        self.made += 1
        stem = self.folder / f"{self.made}"
        request, certificate, key = (stem.with_suffix(end) for end in (".csr", ".pem", ".key"))
        options = stem.with_suffix(".ext")
        options.write_text(f"basicConstraints=CA:FALSE\n{extensions}\n")
        self.openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-utf8"),
            *("-subj", subject, "-keyout", key, "-out", request),
        )
        self.openssl(
            *("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self.key, "-set_serial", self.made),
            *("-days", "30", "-extfile", options, "-out", certificate),
        )
        return certificate, key

    def server(self):
        return self.sign("/CN=localhost", "subjectAltName=IP:127.0.0.1")

    def trust(self, identity=None):
        """A client's context that trusts this authority and shows `identity`."""
        context = ssl.create_default_context(cafile=self.pem)
        if identity is not None:
            context.load_cert_chain(*identity)
        return context


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
