"""HAProxy in front of three nodes, with the configuration that docs/packaging has as its example."""

import shutil
import subprocess
from pathlib import Path

import pika
import pytest
from harness.servers import free_port
from test_nodes import DEADLINE_S, connect, until

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "packaging" / "haproxy.cfg"


class Proxy:
    """HAProxy with the example's configuration and these nodes; it is connected to like one of them."""

    def __init__(self, nodes, folder):
        self.port = free_port()
        text = EXAMPLE.read_text().replace("bind :5670", f"bind 127.0.0.1:{self.port}")
        # As many descriptors as the example wants are not given to everybody.
        text = text.replace("maxconn 20000", "maxconn 200")
        for at, node in enumerate(nodes, 1):
            text = text.replace(f"10.0.0.1{at}:5672", f"127.0.0.1:{node.port}")
        assert "10.0.0." not in text
        self.config = folder / "haproxy.cfg"
        self.config.write_text(text)
        self.log = (folder / "haproxy.log").open("w")
        self.process = subprocess.Popen(
            ["haproxy", "-f", str(self.config), "-db"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )

    def url(self):
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture
def proxied(cluster_of, tmp_path):
    if shutil.which("haproxy") is None:
        pytest.skip("there is no haproxy")
    cluster = cluster_of({})
    proxy = Proxy(cluster.nodes, tmp_path)
    try:
        yield cluster, proxy
    finally:
        proxy.close()
        print((tmp_path / "haproxy.log").read_text()[-3000:])


def test_clients_go_on_through_haproxy_when_a_node_is_killed(proxied, name):
    cluster, proxy = proxied

    def serves():
        assert proxy.process.poll() is None, "haproxy ended"
        try:
            connect(proxy).close()
        except pika.exceptions.AMQPError:
            return False
        return True

    until(serves, "nobody is served through haproxy")
    direct = connect(cluster.nodes[1])
    direct.channel().queue_declare(name, durable=True)
    for victim in (0, 2):
        cluster.nodes[victim].kill()
        confirmed = 0

        def publishes(body):
            nonlocal confirmed
            try:
                client = connect(proxy)
                channel = client.channel()
                channel.confirm_delivery()
                channel.basic_publish("", name, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
                client.close()
            except (pika.exceptions.AMQPError, OSError):
                return False
            confirmed += 1
            return True

        # A new client at any time gets a node that is there, at last when the check has found the dead one.
        until(lambda: all(publishes(b"x") for _ in range(6)), "clients do not go on", DEADLINE_S)
        taken = 0
        channel = direct.channel()
        while channel.basic_get(name, auto_ack=True)[0] is not None:
            taken += 1
        # One whose confirm was lost may be there too.
        assert taken >= confirmed
        cluster.nodes[victim].start()
        until(serves, "nobody is served through haproxy")
    direct.close()
