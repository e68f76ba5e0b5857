"""Nodes on a network of their own: a namespace for each, on a bridge in a namespace of its own, which this machine reaches.

    client (here) 198.18.N.1 ── hub (bridge) ──┬── node 1  198.18.N.11
                                               ├── node 2  198.18.N.12
                                               └── node 3  198.18.N.13

A cut is one-way: the one node's entry for the other in its neighbour table is set to an address that nobody has, so its packets leave
and arrive nowhere, as with a pulled cable; open connections notice nothing but silence. No packet filter is needed, and clients reach
all nodes always. A slow link is a relay (`relay.py`) between the node and the bridge, as few kernels have netem.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

NAMESPACES = Path("/run/netns")
# RFC 2544: for measuring, routed nowhere.
NET = "198.18"
NOBODY = "02:00:00:00:ff:ff"
CLIENT = 1
FIRST_NODE = 11


class Missing(Exception):
    """Why there can be no such network here."""


def require():
    """Raises `Missing` with the reason if this machine cannot do it."""
    if os.geteuid() != 0:
        raise Missing("network namespaces need root")
    if shutil.which("ip") is None:
        raise Missing("network namespaces need ip (Debian: iproute2)")
    tried = subprocess.run(["ip", "netns", "add", probe := f"leveret-{os.getpid()}-probe"], capture_output=True, text=True)
    if tried.returncode != 0:
        raise Missing(f"the kernel makes no network namespaces: {tried.stderr.strip()}")
    subprocess.run(["ip", "netns", "delete", probe], check=True)


def ip(*words, namespace=None):
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *where, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join([*where, *map(str, words)])}: {done.stderr.strip()}")
    return done.stdout


def batch(namespace, lines):
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines) + "\n", check=True, text=True)


def mac(host):
    return f"02:00:00:00:00:{host:02x}"


def remove_left_over():
    """Namespaces of runs whose process is gone, as after a kill -9 of the tests, with what still runs in them."""
    for path in NAMESPACES.glob("leveret-*-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):
                for process in ip("netns", "pids", path.name).split():
                    os.kill(int(process), signal.SIGKILL)
                ip("netns", "delete", path.name)


class Network:
    """`count` namespaces; node n (from 0) has `addresses[n]` and `namespaces[n]`. With `slow` every node is behind a relay."""

    def __init__(self, count, slow=False):
        remove_left_over()
        self.count = count
        self.relays = []
        self.made = []
        self.cuts = set()
        self.prefix = f"leveret-{os.getpid()}"
        try:
            self.make(slow)
        except BaseException:
            self.close()
            raise

    def make(self, slow):
        self.hub = self.namespace("hub")
        ip("link", "add", "bridge", "type", "bridge", "forward_delay", 0, namespace=self.hub)
        ip("link", "set", "bridge", "up", namespace=self.hub)
        self.number = self.claim()
        self.addresses = [f"{NET}.{self.number}.{FIRST_NODE + at}" for at in range(self.count)]
        self.namespaces = [self.namespace(str(at + 1)) for at in range(self.count)]
        for at, namespace in enumerate(self.namespaces):
            port = f"node{at + 1}"
            if slow:
                ip("tuntap", "add", "eth0", "mode", "tap", namespace=namespace)
                ip("tuntap", "add", port, "mode", "tap", namespace=self.hub)
            else:
                ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace, namespace=self.hub)
            ip("link", "set", port, "master", "bridge", namespace=self.hub)
            ip("link", "set", port, "up", namespace=self.hub)
            ip("link", "set", "lo", "up", namespace=namespace)
            ip("link", "set", "eth0", "address", mac(FIRST_NODE + at), namespace=namespace)
            ip("link", "set", "eth0", "up", namespace=namespace)
            ip("address", "add", f"{self.addresses[at]}/24", "dev", "eth0", namespace=namespace)
            hosts = [CLIENT, *(FIRST_NODE + other for other in range(self.count) if other != at)]
            batch(namespace, [self.neighbour(host) for host in hosts])
            if slow:
                self.relays.append(Relay(self.hub, port, namespace))

    def namespace(self, name):
        name = f"{self.prefix}-{id(self):x}-{name}"
        ip("netns", "add", name)
        self.made.append(name)
        return name

    def claim(self):
        """Takes a network that no other run has: its interface's name is the claim, which the kernel gives once."""
        for number in range(256):
            name = f"leveret{number}"
            try:
                ip("link", "add", name, "type", "veth", "peer", "name", "client", "netns", self.hub)
            except OSError as error:
                if "File exists" not in str(error):
                    raise
                continue
            ip("link", "set", "client", "master", "bridge", namespace=self.hub)
            ip("link", "set", "client", "up", namespace=self.hub)
            ip("link", "set", name, "address", mac(CLIENT))
            ip("link", "set", name, "up")
            ip("address", "add", f"{NET}.{number}.{CLIENT}/24", "dev", name)
            return number
        raise OSError("all test networks are taken")

    def neighbour(self, host, address=None):
        own = f"{NET}.{self.number}.{host}"
        return f"neigh replace {own} lladdr {address or mac(host)} dev eth0 nud permanent"

    # Cuts.

    def set(self, cuts):
        """Exactly these cuts, pairs (from, to) of nodes: what `from` sends does not reach `to`."""
        changed = self.cuts ^ set(cuts)
        self.cuts = set(cuts)
        for sender in sorted({sender for sender, _ in changed}):
            lines = []
            for to in sorted(to for other, to in changed if other == sender):
                lines.append(self.neighbour(FIRST_NODE + to, NOBODY if (sender, to) in self.cuts else None))
            batch(self.namespaces[sender], lines)

    def heal(self):
        self.set(())

    def split(self, *sides):
        """Nodes of different sides do not reach each other."""
        self.set(between(*sides))

    def isolate(self, node):
        self.split({node}, set(range(self.count)) - {node})

    def close(self):
        for relay in self.relays:
            relay.close()
        for name in reversed(self.made):
            with contextlib.suppress(OSError):
                ip("netns", "delete", name)
        self.made.clear()


def between(*sides):
    """The cuts that part these sets of nodes, in both directions."""
    return {(a, b) for one in sides for other in sides if one is not other for a in one for b in other}


class Relay:
    """A process that carries frames between a node and the bridge, late and not all of them."""

    def __init__(self, hub, port, namespace):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("relay.py")), hub, port, namespace, "eth0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n", "the relay does not start"

    def set(self, delay_ms=0.0, jitter_ms=0.0, loss=0.0):
        """Each way: so long, evenly spread up to so much longer, in order; this share of the frames is lost."""
        self.process.stdin.write(f"{delay_ms} {jitter_ms} {loss}\n")
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()
