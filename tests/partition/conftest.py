"""Clusters in network namespaces. A failed test shows every node's log; the pauses of all tests are printed at the end."""

import os
import shutil
import subprocess

import network
import pytest
from harness.options import kind
from harness.servers import have
from nodes import Nodes
from workload import Trial

LINES = "what was seen"


def pytest_addoption(parser):
    parser.addoption(
        "--peer",
        choices=("rabbitmq", "rabbitmq-quorum"),
        help="runs the partition tests against RabbitMQ's mirrored or quorum queues, for comparison",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "long_run: only with --long or LEVERET_LONG=1")


def is_long(config):
    return config.getoption("--long") or os.environ.get("LEVERET_LONG", "0") not in ("", "0")


def pytest_collection_modifyitems(config, items):
    aside = [item for item in items if item.get_closest_marker("long_run") and not is_long(config)]
    if aside:
        config.hook.pytest_deselected(items=aside)
        items[:] = [item for item in items if item not in aside]


def pytest_terminal_summary(terminalreporter):
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "teardown":
                for name, value in report.user_properties:
                    if name == LINES:
                        terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


@pytest.fixture
def peer(pytestconfig):
    return pytestconfig.getoption("--peer")


@pytest.fixture
def make(pytestconfig, tmp_path, peer):
    """Makes a started cluster: `make(count=3, slow=False, folders=None, **settings)`; it ends with the test."""
    if kind(pytestconfig) != "leveret" or pytestconfig.getoption("--broker"):
        pytest.skip("a cluster is made of the leveret binary; --peer is for RabbitMQ")
    if peer and not have("epmd"):
        pytest.skip("RabbitMQ is not installed")
    try:
        network.require()
    except network.Missing as reason:
        pytest.skip(str(reason))
    made = []

    def started(count=3, slow=False, folders=None, **settings):
        net = network.Network(count, slow)
        made.append(net)
        nodes = Nodes(net, tmp_path / "cluster", pytestconfig.getoption("--binary"), peer or "leveret", folders, **settings)
        made.append(nodes)
        return nodes.start()

    yield started
    for thing in reversed(made):
        for title, text in thing.reports() if isinstance(thing, Nodes) else ():
            print(f"--- {title}\n{text}")
        thing.close()


@pytest.fixture
def trial(make, peer, request):
    """Makes a workload: `with trial(**cluster) as run:`, then `run.accept()` says what must hold."""
    runs = []

    def started(nodes=None, durable=4, transient=4, **settings):
        nodes = nodes or make(**settings)
        arguments = {"rabbitmq": {}, "rabbitmq-quorum": {"x-queue-type": "quorum"}}.get(peer)
        if peer == "rabbitmq-quorum":
            durable, transient = durable + transient, 0
        runs.append(Trial(nodes, durable, transient, arguments=arguments))
        return runs[-1]

    yield started
    for run in runs:
        for line in run.lines:
            request.node.user_properties.append((LINES, line))


@pytest.fixture
def small_disk(tmp_path):
    """A mounted tmpfs of 64 MiB, and what fills it and makes room again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "leveret-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")

    class Disk:
        filler = folder / "filler"

        def fill(self):
            try:
                with open(self.filler, "wb", buffering=0) as file:
                    file.truncate(0)
                    while True:
                        file.write(bytes(min(65536, shutil.disk_usage(folder).free) or 1))
            except OSError:
                pass

        def free(self):
            self.filler.unlink()

    disk = Disk()
    disk.folder = folder
    yield disk
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def rounds(pytestconfig):
    """How often a fault is made: a few times with --long."""
    return 5 if is_long(pytestconfig) else 1
