"""Clusters of the release binary; a failed test shows every node's log."""

import uuid

import pytest
from harness.cluster import Cluster
from harness.options import kind


@pytest.fixture
def cluster_of(pytestconfig, tmp_path):
    """Starts a cluster of three with these settings."""
    if kind(pytestconfig) != "leveret" or pytestconfig.getoption("--broker"):
        pytest.skip("a cluster is made of the leveret binary")
    clusters = []

    def start(settings):
        made = Cluster(pytestconfig.getoption("--binary"), tmp_path / f"cluster-{len(clusters)}", **settings)
        clusters.append(made)
        return made.start()

    try:
        yield start
    finally:
        for made in clusters:
            for at, node in enumerate(made.nodes):
                print(f"--- node {at + 1}, exit code {node.process and node.process.poll()}")
                if node.log_path.exists():
                    print(node.log_path.read_text(errors="replace")[-3000:])
            made.close()


@pytest.fixture
def cluster(cluster_of):
    return cluster_of({})


@pytest.fixture
def name():
    return f"queue-{uuid.uuid4().hex[:8]}"
