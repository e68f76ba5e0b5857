"""A cluster whose nodes are each in a network namespace: leveret, or RabbitMQ with the same faults for comparison."""

import re
import shutil
import signal
import subprocess
import time

from harness.servers import RABBITMQ_HOME, Leveret, RabbitMQ, serves

AMQP_PORT = 5672
CLUSTER_PORT = 25672
LEADING = re.compile(r"leading\b.*?\bgroup=(\d+)\b.*?\bterm=(\d+)")
# What a node says that was too slow to hear another one, or too slow for itself.
SILENT = re.compile(r"node is silent peer=(\d+)")
SLOW = ("no majority of the cluster", "without the claims")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Placed:
    """A server that runs in a namespace."""

    namespace = None

    def start(self, prefix=(), wait=True):
        return super().start(("ip", "netns", "exec", self.namespace, *prefix), wait)

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def wipe(self):
        """The disk is replaced by an empty one."""
        assert self.process is None, "still runs"
        shutil.rmtree(self.data_dir)


class LeveretNode(Placed, Leveret):
    def __init__(self, binary, folder, host, namespace, settings):
        super().__init__(binary, folder, AMQP_PORT, settings)
        self.host, self.namespace = host, namespace

    def all_log(self):
        """What all processes of this node wrote."""
        if not self.log_path.exists():
            return ""
        return COLOUR.sub("", self.log_path.read_text(errors="replace"))

    def leads(self):
        """(group, term) of every time that this node began to lead."""
        return [(int(group), int(term)) for group, term in LEADING.findall(self.all_log())]

    def logged(self):
        """How much it has written so far, for `slow`."""
        return len(self.all_log())

    def slow(self, since, steady):
        """What it has said since then that only a machine without processor time explains, if no fault touched these nodes."""
        said = self.all_log()[since:]
        found = [f"node {peer} was silent" for peer in set(SILENT.findall(said)) if int(peer) - 1 in steady]
        return found + [words for words in SLOW if words in said]


class RabbitMQNode(Placed, RabbitMQ):
    """Long names are addresses, so that no name has to be looked up; epmd is on its usual port, as each node has its own."""

    def __init__(self, folder, host, namespace, settings):
        super().__init__(folder, AMQP_PORT, settings)
        self.host, self.namespace = host, namespace
        self.epmd_port, self.dist_port = 4369, CLUSTER_PORT

    def prepare(self):
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lines = [f"{key} = {value}" for key, value in self.settings.items()]
        (self.data_dir / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.data_dir / "enabled_plugins").write_text("[].\n")
        cookie = self.data_dir / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text("PARTITIONTESTS")
            cookie.chmod(0o400)
        if self.epmd is None:
            self.epmd = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "epmd"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def environment(self):
        name = f"rabbit@{self.host}"
        return {
            **super().environment(),
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
        }

    def rabbitmqctl(self, *words):
        command = ["ip", "netns", "exec", self.namespace, str(RABBITMQ_HOME / "rabbitmqctl"), "--longnames"]
        command += ["-n", f"rabbit@{self.host}", *words]
        return subprocess.run(command, env=self.environment(), check=True, capture_output=True, text=True).stdout

    def leads(self):
        return []

    def logged(self):
        return 0

    def slow(self, since, steady):
        return []


class Nodes:
    """The nodes of one cluster on `network`; `kind` is leveret, rabbitmq (mirrored by policy) or rabbitmq-quorum."""

    def __init__(self, network, base, binary, kind="leveret", folders=None, **settings):
        self.network, self.kind = network, kind
        base.mkdir(parents=True, exist_ok=True)
        self.nodes = []
        for at in range(network.count):
            folder = (folders or {}).get(at, base / f"node{at + 1}")
            make = self.leveret if kind == "leveret" else self.rabbitmq
            node = make(at, base, folder, binary, settings)
            # A node's folder may be a small disk.
            node.log_path = base / f"node{at + 1}.log"
            self.nodes.append(node)

    def leveret(self, at, base, folder, binary, settings):
        cookie = base / "cookie"
        cookie.write_text("a secret of these tests")
        cookie.chmod(0o600)
        addresses = self.network.addresses
        own = {
            "leveret.node_name": f"node{at + 1}@{addresses[at]}",
            "loopback_users": "none",
            "cluster.listen": f"{addresses[at]}:{CLUSTER_PORT}",
            "cluster.cookie_file": str(cookie),
            **settings,
        }
        for other, address in enumerate(addresses):
            own[f"cluster_formation.classic_config.nodes.{other + 1}"] = f"node{other + 1}@{address}:{CLUSTER_PORT}"
        return LeveretNode(binary, folder, addresses[at], self.network.namespaces[at], own)

    def rabbitmq(self, at, base, folder, binary, settings):
        addresses = self.network.addresses
        own = {
            "loopback_users": "none",
            "cluster_formation.peer_discovery_backend": "classic_config",
            # 60 by default; the others of these tests wait for it.
            "net_ticktime": "15",
            "cluster_partition_handling": "autoheal",
            **settings,
        }
        for other, address in enumerate(addresses):
            own[f"cluster_formation.classic_config.nodes.{other + 1}"] = f"rabbit@{address}"
        return RabbitMQNode(folder, addresses[at], self.network.namespaces[at], own)

    def __getitem__(self, at):
        return self.nodes[at]

    def __iter__(self):
        return iter(self.nodes)

    def __len__(self):
        return len(self.nodes)

    def start(self):
        """Starts those that do not run, and waits until all serve."""
        stopped = [node for node in self.nodes if node.process is None]
        for node in stopped:
            node.start(wait=False)
        for node in stopped:
            node.wait_serving(60 if self.kind == "leveret" else 240)
        if self.kind == "rabbitmq":
            policy = '{"ha-mode":"all","ha-sync-mode":"automatic"}'
            self.nodes[0].rabbitmqctl("set_policy", "mirrored", ".*", policy)
        return self

    def leader(self, group=None):
        """The node that leads `group`; without one, the node that leads most groups of queues."""
        newest = {}
        for at, node in enumerate(self.nodes):
            for led, term in node.leads():
                newest[led] = max(newest.get(led, (0, 0)), (term, at))
        if group is not None:
            return newest.get(group, (0, 0))[1]
        led = [at for of, (_, at) in newest.items() if of]
        return max(range(len(self.nodes)), key=led.count)

    def kill(self, *which):
        """kill -9 of these, or of all at once: none lives to see the others go."""
        nodes = [self.nodes[at] for at in which or range(len(self.nodes))]
        for node in nodes:
            node.ask("killed")
            node.signal(signal.SIGKILL)
        for node in nodes:
            node.close_process()

    def wait_refusing(self, at, deadline_s=60):
        """Waits until a node takes no connections; returns after how many seconds it did."""
        began = time.monotonic()
        while serves(AMQP_PORT, 0.5, self.nodes[at].host):
            assert time.monotonic() < began + deadline_s, f"node {at + 1} still takes connections"
            time.sleep(0.05)
        return time.monotonic() - began

    def close(self):
        for node in self.nodes:
            node.close()

    def reports(self):
        for at, node in enumerate(self.nodes):
            yield f"node {at + 1}", node.report(200)
