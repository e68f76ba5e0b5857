"""oslo.messaging's own functional tests through three hosts, while the nodes are killed one after another."""

import threading

import pytest
from harness.oslo_suite import EXPECTED, SECOND_DEADLINE_S, SUITE_DEADLINE_S, run_suite, unpack
from test_nodes import until

# Of the tests that run while a node is killed some see its end: a message of a server without acknowledgements goes with the
# connection, a count of connections is another. They have to pass alone, when nobody is killed.
UNLUCKY_MAX = 12
# Nodes stay up so long between two kills.
PAUSE_S = 5


@pytest.mark.timeout(SUITE_DEADLINE_S + SECOND_DEADLINE_S + 120)
def test_the_suite_passes_while_nodes_are_killed(cluster, tmp_path):
    hosts = ",".join(f"guest:guest@127.0.0.1:{node.port}" for node in cluster.nodes)
    over = threading.Event()
    kills = []
    failures = []

    def kill_one_after_another():
        try:
            while not over.wait(PAUSE_S):
                victim = cluster.nodes[len(kills) % 3]
                victim.kill()
                kills.append(victim)
                cluster.start()
        except Exception as failure:
            failures.append(failure)

    killer = threading.Thread(target=kill_one_after_another)
    killer.start()

    def peace():
        over.set()
        killer.join()

    try:
        found = run_suite(f"rabbit://{hosts}/", unpack(tmp_path / "suite"), UNLUCKY_MAX, peace)
    finally:
        peace()
    assert not failures
    until(lambda: all(node.process.poll() is None for node in cluster.nodes), "all nodes run")
    assert sorted(found) == EXPECTED
    bad = {test: details[-3000:] for test, (status, details) in found.items() if status != "success"}
    print(f"{len(kills)} kills")
    assert not bad
    assert len(kills) >= 3
