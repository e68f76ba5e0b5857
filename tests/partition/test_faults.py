"""Processes that die, hang, are stopped, or lose their disk, under load: nothing confirmed is lost, nothing is stuck afterwards."""

import random

import pytest
from harness.servers import serves
from nodes import AMQP_PORT

LONG_LOAD_S = 5


def test_the_leaders_node_is_killed(trial, rounds):
    with trial() as run:
        for _ in range(rounds):
            victim = run.nodes.leader()
            with run.fault(f"kill -9 of node {victim + 1}, the leader of most groups", victim):
                run.nodes.kill(victim)
                run.load(2)
                run.nodes.start()
            run.load(1)
        run.accept()


def test_the_leaders_node_hangs(trial, rounds):
    with trial() as run:
        for _ in range(rounds):
            victim = run.nodes.leader()
            with run.fault(f"SIGSTOP of node {victim + 1}, the leader of most groups", victim):
                run.nodes[victim].freeze()
                run.load(5)
                run.nodes[victim].thaw()
            run.load(1)
        run.accept()


def test_all_nodes_are_killed(trial, rounds):
    with trial(durable=8, transient=0) as run:
        for _ in range(rounds):
            with run.fault("kill -9 of all nodes", 0, 1, 2):
                run.nodes.kill()
                run.nodes.start()
            run.load(1)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_nodes_are_killed_at_random(trial):
    with trial() as run:
        for _ in range(20):
            victim = random.randrange(3)
            with run.fault(f"kill -9 of node {victim + 1}", victim):
                run.nodes.kill(victim)
                run.load(random.uniform(0, 3))
                run.nodes.start()
            run.load(random.uniform(0, 2))
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_a_node_hangs_and_another_one_is_killed_when_it_wakes_up(trial):
    """The leader is paused, another one leads; the first wakes up and the second is killed."""
    with trial() as run:
        for _ in range(5):
            victim = run.nodes.leader()
            with run.fault(f"SIGSTOP of node {victim + 1}, then kill -9 of its successor", 0, 1, 2):
                run.nodes[victim].freeze()
                run.load(4)
                successor = next(at for at in (run.nodes.leader(), 0, 1) if at != victim)
                run.nodes[victim].thaw()
                run.nodes.kill(successor)
                run.load(1)
                run.nodes.start()
            run.load(2)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_nodes_are_restarted_in_turn(trial):
    with trial() as run:
        for _ in range(2):
            with run.fault("a restart of each node in turn", 0, 1, 2):
                for node in run.nodes:
                    node.restart()
                    run.load(2)
            run.load(1)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(600)
def test_five_nodes_lose_two(trial):
    with trial(count=5) as run:
        for _ in range(5):
            victims = random.sample(range(5), 2)
            with run.fault(f"kill -9 of nodes {victims[0] + 1} and {victims[1] + 1} at once", *victims):
                run.nodes.kill(*victims)
                run.load(3)
                run.nodes.start()
            run.load(1)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(300)
def test_the_disk_of_a_node_is_full(trial, make, small_disk):
    """The node stops, the others go on; with room it comes back."""
    settings = {"journal.segment_size_bytes": 1024 * 1024, "disk_free_limit.absolute": 0}
    nodes = make(folders={2: small_disk.folder / "node3"}, **settings)
    with trial(nodes) as run:
        with run.fault("a full disk of node 3", 2):
            small_disk.fill()
            run.until(lambda: nodes[2].look() is not None, "node 3 goes on though its disk is full")
            nodes[2].wait()
            run.load(2)
            small_disk.free()
            run.nodes.start()
        run.load(1)
        run.accept()


@pytest.mark.long_run
@pytest.mark.timeout(300)
def test_the_disk_of_a_node_is_wiped(trial):
    """Under its old name it is not let in: it would vote without what it had voted for."""
    with trial() as run:
        victim = run.nodes.leader()
        with run.fault(f"kill -9 and an empty disk of node {victim + 1}", victim):
            run.nodes.kill(victim)
            run.nodes[victim].wipe()
            run.nodes[victim].start(wait=False)
            run.gone.add(victim)
            run.until(lambda: "not let into" in run.nodes[victim].log(), "the wiped node is not refused")
            run.load(LONG_LOAD_S)
            assert not serves(AMQP_PORT, host=run.nodes[victim].host)
        run.accept()
