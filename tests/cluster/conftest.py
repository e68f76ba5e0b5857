"""Clusters of the release binary; a failed test shows every node's log."""

import uuid

import pytest
from harness.cluster import Cluster
from harness.options import kind


@pytest.fixture
def cluster(pytestconfig, tmp_path):
    if kind(pytestconfig) != "leveret" or pytestconfig.getoption("--broker"):
        pytest.skip("a cluster is made of the leveret binary")
    made = Cluster(pytestconfig.getoption("--binary"), tmp_path / "cluster")
    try:
        yield made.start()
    finally:
        for at, node in enumerate(made.nodes):
            print(f"--- node {at + 1}, exit code {node.process and node.process.poll()}")
            if node.log_path.exists():
                print(node.log_path.read_text(errors="replace")[-3000:])
        made.close()


@pytest.fixture
def name():
    return f"queue-{uuid.uuid4().hex[:8]}"
