"""Several leveret nodes on loopback as one cluster: started, killed, stopped and started again one by one."""

import json
import shutil
import subprocess
import time

from .servers import Leveret, free_port

CTL_DEADLINE_S = 150


class Cluster:
    """`count` nodes that found a cluster of each other; node n is `nodes[n]`, a `Leveret`."""

    def __init__(self, binary, base, count=3, **settings):
        base.mkdir(parents=True, exist_ok=True)
        self.binary, self.base, self.settings = binary, base, settings
        self.cookie = base / "cookie"
        self.cookie.write_text("a secret of these tests")
        self.cookie.chmod(0o600)
        self.ports = [free_port() for _ in range(count)]
        self.nodes = []
        for _ in range(count):
            self.make(self.ports[len(self.nodes)], self.founders())

    def founders(self):
        return {
            f"cluster_formation.classic_config.nodes.{at + 1}": f"node{at + 1}@127.0.0.1:{port}"
            for at, port in enumerate(self.ports)
        }

    def make(self, port, lists):
        name = f"node{len(self.nodes) + 1}"
        own = {
            "leveret.node_name": f"{name}@127.0.0.1",
            "cluster.listen": f"127.0.0.1:{port}",
            "cluster.cookie_file": str(self.cookie),
            **self.settings,
            **lists,
        }
        self.nodes.append(Leveret(self.binary, self.base / name, settings=own))
        return self.nodes[-1]

    def add(self, alone=False):
        """One more node, not started: it has the founders in its list; `alone` none, so it waits to be told (join_cluster)."""
        return self.make(free_port(), {} if alone else self.founders())

    def start(self):
        """Starts those that do not run, and waits until all serve."""
        stopped = [node for node in self.nodes if node.process is None]
        for node in stopped:
            node.start(wait=False)
        for node in stopped:
            node.wait_serving()
        return self

    def url(self):
        """The addresses of all nodes, as tests/spec takes them."""
        return ",".join(node.url() for node in self.nodes)

    def ctl(self):
        """The command line of the second node: what it shows and does is the whole cluster's."""
        return self.nodes[1].ctl()

    @property
    def process(self):
        """Of the nodes that were started, the first that has ended, or any."""
        started = [node.process for node in self.nodes if node.process is not None]
        return next((process for process in started if process.poll() is not None), (started or [None])[0])

    @process.setter
    def process(self, process):
        for node in self.nodes:
            node.process = process

    def look(self):
        """Notices the end of a node; returns its exit code, None while all run."""
        codes = [node.look() for node in self.nodes]
        return next((code for code in codes if code is not None), None)

    def report(self, lines=100):
        return "\n".join(node.report(lines) for node in self.nodes)

    def kill(self):
        for node in self.nodes:
            node.kill()

    def close(self):
        for node in self.nodes:
            node.close()


def name_of(node):
    return node.settings["leveret.node_name"]


def wipe(node):
    """The disk of a node that does not run is replaced by an empty one."""
    shutil.rmtree(node.data_dir)


def ctl(node, *words, code=0):
    """`leveret ctl` for a node: what it wrote, both streams. The exit code must be `code`, unless that is None."""
    done = subprocess.run(
        [node.binary, "ctl", "--data-dir", str(node.data_dir), *words],
        capture_output=True,
        text=True,
        timeout=CTL_DEADLINE_S,
        check=False,
    )
    assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def status(node):
    """`cluster_status` as an object."""
    return json.loads(ctl(node, "cluster_status", "--formatter", "json"))


def wait_for_voters(node, count, deadline_s=60):
    """Waits until every group has so many voters, and nobody who only learns, and returns the status."""
    deadline = time.monotonic() + deadline_s
    while True:
        seen = status(node)
        groups = seen["groups"]
        if groups and all(len(g["members"]) == count and all(m["voter"] for m in g["members"]) for g in groups):
            return seen
        assert time.monotonic() < deadline, f"not {count} voters everywhere: {seen}"
        time.sleep(0.1)
