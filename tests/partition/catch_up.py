"""How fast a node whose disk was wiped gets the waiting messages again, and what publishers feel meanwhile.

    python tests/partition/catch_up.py --binary target/release/leveret --messages 1000000 --size 1024

Three nodes in network namespaces (as root). Durable mirrored queues are filled, node 3 is killed, forgotten and wiped, and started as
a new one, which joins and is sent what it lacks. A publisher on node 1 goes on all the time, at a rate of its own. `leveret-bench` fills
and publishes. Caught up is: a voter of all groups and less than `NEAR` entries behind (Leveret); in the list of all queues' synchronised
mirrors (--peer rabbitmq, which has ha-sync-mode automatic); a member of all queues whose log ends where the leader's does, or less than
`NEAR` entries before (--peer rabbitmq-quorum, where the members are added by `rabbitmq-queues grow`).
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "spec"), str(Path(__file__).parent)]

import network  # noqa: E402
from harness.servers import RABBITMQ_HOME, default_binary  # noqa: E402
from nodes import Nodes  # noqa: E402

NEW = 2
NEAR = 2000
DEADLINE_S = 900
ARGUMENTS = {"leveret": ["--queue-arg", "x-ha-policy=all"], "rabbitmq": [], "rabbitmq-quorum": ["--queue-arg", "x-queue-type=quorum"]}


def load(options, nodes, name, *words):
    """Starts a subcommand of leveret-bench on node 1."""
    command = [options.bench, *words, *ARGUMENTS[options.peer], "--durable", "--persistent", "--prefix", name, "--uri", nodes[0].url(), "--quiet"]
    return subprocess.Popen([*command, "--broker-pid", "none", "--json", str(options.folder / f"{name}.json")], stdout=subprocess.DEVNULL)


def report(options, name):
    return json.loads((options.folder / f"{name}.json").read_text())


def leveret(node, *words):
    done = subprocess.run([*shlex.split(node.ctl()), "--quiet", *words], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def behind(nodes):
    """Entries that Leveret's new node lacks of all groups together; None while it is not a voter of all. Only leaders know: one that it
    leads itself it has."""
    lag = {}
    new = f"node{NEW + 1}@"
    for node in nodes:
        status = leveret(node, "cluster_status", "--formatter", "json")
        for group in json.loads(status)["groups"] if status else ():
            number, leader = group["group"], group["leader"] or ""
            known = lag.setdefault(number, None)
            if leader.startswith(new):
                lag[number] = 0
            for member in group["members"]:
                if known is None and member["node"].startswith(new) and member["voter"] and member["lag"] is not None:
                    lag[number] = member["lag"]
    if not lag or None in lag.values():
        return None
    return sum(lag.values())


def tool(node, program, *words):
    command = ["ip", "netns", "exec", node.namespace, str(RABBITMQ_HOME / program), "--longnames", "-n", f"rabbit@{node.host}", "--quiet"]
    return subprocess.run([*command, *words], env=node.environment(), capture_output=True, text=True)


def mirrored_is_there(nodes):
    listed = tool(nodes[0], "rabbitmqctl", "list_queues", "name", "synchronised_slave_pids")
    lines = [line for line in listed.stdout.splitlines() if "-0" in line]
    return bool(lines) and all(nodes[NEW].host in line for line in lines)


def quorum_is_there(nodes, queues):
    """`rabbitmq-queues quorum_status` shows each member's last index."""
    for queue in queues:
        status = tool(nodes[0], "rabbitmq-queues", "quorum_status", queue, "--formatter", "json")
        if status.returncode != 0:
            return False
        last = {row["Node Name"]: row["Last Log Index"] for row in json.loads(status.stdout)}
        new = next((index for name, index in last.items() if nodes[NEW].host in name), None)
        if not isinstance(new, int) or new + NEAR < max(index for index in last.values() if isinstance(index, int)):
            return False
    return True


def forget(options, nodes):
    if options.peer == "leveret":
        done = subprocess.run(
            [*shlex.split(nodes[0].ctl()), "forget_cluster_node", f"node{NEW + 1}@{nodes[NEW].host}"], capture_output=True, text=True
        )
    else:
        done = tool(nodes[0], "rabbitmqctl", "forget_cluster_node", f"rabbit@{nodes[NEW].host}")
    if done.returncode != 0:
        sys.exit(f"forget_cluster_node: {done.stdout}{done.stderr}")


def caught_up(options, nodes, queues):
    if options.peer == "leveret":
        left = behind(nodes)
        return left is not None and left < NEAR
    return mirrored_is_there(nodes) if options.peer == "rabbitmq" else quorum_is_there(nodes, queues)


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited {DEADLINE_S} s in vain: {what}")
        time.sleep(0.1)


def live(options, nodes, name, seconds):
    rate = ["--rate", str(options.rate), "--confirm-window", "1000", "--ack-every", "10", "--prefetch", "100"]
    return load(options, nodes, name, "run", "--size", "100", *rate, "--time", str(seconds), "--queues", "4", "--producers", "4", "--consumers", "4")


def confirms(outcome):
    latency = outcome["confirm"]
    return f"p50 {latency['p50_us'] / 1000:.1f} ms, p99 {latency['p99_us'] / 1000:.1f} ms, longest {latency['max_us'] / 1000:.0f} ms"


def measure(options, nodes):
    queues = [f"fill-{at:07}" for at in range(options.queues)]
    fill = ["backlog", "--messages", str(options.messages), "--size", str(options.size), "--settle", "1", "--keep"]
    spread = ["--queues", str(options.queues), "--producers", str(options.queues), "--confirm-window", "1000"]
    began = time.monotonic()
    if load(options, nodes, "fill", *fill, *spread).wait():
        sys.exit("filling failed")
    print(f"{options.messages} messages of {options.size} bytes in {time.monotonic() - began:.0f} s", flush=True)
    live(options, nodes, "before", 10).wait()
    print(f"before, {options.rate} publishes a second: {confirms(report(options, 'before')['outcome'])}", flush=True)
    nodes.kill(NEW)
    forget(options, nodes)
    nodes[NEW].wipe()
    beside = live(options, nodes, "during", options.seen)
    time.sleep(2)
    began = time.monotonic()
    nodes[NEW].start(wait=False)
    nodes[NEW].wait_serving(240)
    serves_s = time.monotonic() - began
    if options.peer == "rabbitmq-quorum":
        grown = tool(nodes[0], "rabbitmq-queues", "grow", f"rabbit@{nodes[NEW].host}", "all")
        if grown.returncode != 0:
            sys.exit(f"grow: {grown.stdout}{grown.stderr}")
    until(lambda: caught_up(options, nodes, queues), "not caught up")
    took = time.monotonic() - began
    octets = options.messages * options.size
    print(f"serves after {serves_s:.1f} s, caught up after {took:.1f} s: {octets / took / 2**20:.1f} MiB/s, {options.messages / took:.0f} messages/s")
    if beside.wait(options.seen + 120):
        print("the publisher beside it found a fault, see its report")
    outcome = report(options, "during")["outcome"]
    verdict = outcome["integrity"]
    faults = {key: verdict[key] for key in ("lost", "duplicated", "reordered")}
    print(f"meanwhile ({options.seen} s from 2 s before the start): {confirms(outcome)}; {faults}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(default_binary()))
    parser.add_argument("--bench", default=str(default_binary().with_name("leveret-bench")))
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--queues", type=int, default=8)
    parser.add_argument("--rate", type=int, default=500, help="publishes a second meanwhile")
    parser.add_argument("--seen", type=int, default=30, help="seconds that the publisher goes on")
    parser.add_argument("--peer", choices=tuple(ARGUMENTS), default="leveret")
    options = parser.parse_args()
    try:
        network.require()
    except network.Missing as reason:
        sys.exit(str(reason))
    net = network.Network(3)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        nodes = Nodes(net, options.folder / "cluster", options.binary, options.peer)
        try:
            measure(options, nodes.start())
        finally:
            nodes.close()
            net.close()


if __name__ == "__main__":
    main()
