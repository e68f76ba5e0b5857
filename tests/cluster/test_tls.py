"""Nodes that speak TLS to each other, each with a certificate."""

import os
import signal
import socket
import ssl

import pytest
from harness.authority import Authority
from harness.servers import have
from test_nodes import MIRRORED, PERSISTENT, bodies, connect, until


@pytest.fixture
def authority(tmp_path):
    if not have("openssl"):
        pytest.skip("openssl makes the certificates, and is not installed")
    return Authority(tmp_path / "authority", "between nodes")


def settings(authority):
    certificate, key = authority.server()
    return {
        "cluster.ssl_options.cacertfile": authority.pem,
        "cluster.ssl_options.certfile": certificate,
        "cluster.ssl_options.keyfile": key,
    }


def port(node):
    return int(node.settings["cluster.listen"].rsplit(":", 1)[1])


def hears(node, context):
    """Whether a node answers anything after the handshake that this context makes: a byte, or a clean end."""
    with socket.create_connection(("127.0.0.1", port(node)), timeout=30) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as stream:
                # The client's certificate is judged behind the handshake of TLS 1.3.
                stream.sendall(b"x" * 64)
                return stream.recv(1) is not None
        except ssl.SSLError:
            return False
        except ConnectionResetError:
            return False


def test_nodes_speak_tls_and_only_to_their_own(cluster_of, authority, tmp_path, name):
    cluster = cluster_of(settings(authority))
    connection = connect(cluster.nodes[0])
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True, arguments=MIRRORED)
    channel.basic_publish("", name, b"over TLS", PERSISTENT, mandatory=True)
    connection.close()
    node = cluster.nodes[0]
    assert hears(node, authority.trust(authority.sign("/CN=any", "subjectAltName=IP:127.0.0.1")))
    # Without a certificate, and with one of somebody else's.
    assert not hears(node, authority.trust())
    stranger = Authority(tmp_path / "stranger", "between nodes")
    assert not hears(node, authority.trust(stranger.server()))
    # New certificates, one node after the other, while they run.
    for running in cluster.nodes:
        new = authority.server()
        for key, path in zip(("certfile", "keyfile"), new, strict=True):
            os.replace(path, running.settings[f"cluster.ssl_options.{key}"])
        running.signal(signal.SIGHUP)
        until(lambda node=running: "read the certificates between nodes again" in node.log(), "the certificates are read")
    cluster.nodes[2].kill()
    cluster.start()
    connection = connect(cluster.nodes[2])
    assert bodies(connection.channel(), name, 1) == [b"over TLS"]
    connection.close()


def test_a_part_of_the_files_is_refused(cluster_of, authority):
    from harness.servers import StartFailed

    files = settings(authority)
    del files["cluster.ssl_options.keyfile"]
    with pytest.raises(StartFailed, match="belong together"):
        cluster_of(files)
