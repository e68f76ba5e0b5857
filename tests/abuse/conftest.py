"""A broker to mistreat, and the canary: a well-behaved connection that must not notice."""

import threading
import time

import pytest
from harness.options import address, kind
from harness.canary import Canary

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def target(launch):
    server = launch("abuse").start()
    yield server
    server.close()


@pytest.fixture
def broker(target):
    return address(target)


@pytest.fixture
def canary(broker, name):
    """Runs during the test; the test fails if the canary does."""
    canary = Canary(broker, name)
    canary.start()
    yield canary
    canary.finish()


@pytest.fixture
def bounded(target, pytestconfig):
    """`bounded(64 * MIB)`: asserts that resident memory did not grow by more since the test began.

    The limits are Leveret's; of another broker only the behaviour is looked at.
    """
    before = target.rss_bytes()
    judged = kind(pytestconfig) == "leveret"

    def check(limit, wait_s=15.0):
        """Memory may need a moment to come back after what used it was closed."""
        deadline = time.monotonic() + wait_s
        while judged and (grown := target.rss_bytes() - before) > limit:
            assert time.monotonic() < deadline, f"grew by {grown / MIB:.0f} MiB, allowed {limit / MIB:.0f}"
            time.sleep(0.1)

    return check


@pytest.fixture
def peak(target, pytestconfig):
    """Samples resident memory during the test: `peak()` is the most by which it has grown (of Leveret; else 0)."""
    before = target.rss_bytes()
    most = [before]
    stopping = threading.Event()

    def sample():
        while not stopping.wait(0.05):
            most[0] = max(most[0], target.rss_bytes())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    judged = kind(pytestconfig) == "leveret"
    yield lambda: most[0] - before if judged else 0
    stopping.set()
    sampler.join()
