"""Options and fixtures of the tests that start brokers: interop, crash, abuse. (tests/spec has its own.)"""

import logging
import os
import time
import uuid
from typing import NamedTuple

import pytest
from harness.options import kind
from harness.servers import Launcher, default_binary, have
from wire import Broker

KINDS = ("leveret", "rabbitmq")
LAUNCHER = pytest.StashKey[Launcher]()
STARTED = pytest.StashKey[float]()


def pytest_addoption(parser):
    group = parser.getgroup("brokers")
    group.addoption(
        "--server",
        choices=KINDS,
        default="leveret",
        help="the broker that tests start: the release binary of this checkout, or Debian's RabbitMQ",
    )
    group.addoption(
        "--binary",
        default=os.environ.get("LEVERET_TEST_BINARY", str(default_binary())),
        help="the leveret binary (or LEVERET_TEST_BINARY)",
    )
    group.addoption("--broker-cmd", help="start this instead; {port} and {data} are replaced")
    group.addoption(
        "--broker",
        default=os.environ.get("LEVERET_TEST_BROKER"),
        help="AMQP URL of a running broker for tests that need not start one; the others are skipped",
    )
    group.addoption("--long", action="store_true", help="more rounds")


def pytest_configure(config):
    config.addinivalue_line("markers", "leveret_only: expected of Leveret, not of other brokers")
    # The clients log every reconnect with a traceback; a failure would drown in them.
    for noisy in ("pika", "aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("leveret_only") and kind(config) != "leveret":
            item.add_marker(pytest.mark.skip(reason="a promise of Leveret only"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.stash[STARTED] = time.time()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what became of the brokers that ran during the test, and the ends of their logs."""
    report = yield
    launcher = item.config.stash.get(LAUNCHER, None)
    if report.failed and launcher is not None:
        report.sections += launcher.reports(item.stash[STARTED])
    return report


class External(NamedTuple):
    """A broker that runs already: only its address is known."""

    broker: Broker

    @property
    def port(self):
        return self.broker.port

    def url(self, scheme="amqp"):
        _, host, port, user, password, vhost = None, *self.broker
        vhost = "%2F" if vhost == "/" else vhost
        return f"{scheme}://{user}:{password}@{host}:{port}/{vhost}"


@pytest.fixture(scope="session")
def launch(pytestconfig, tmp_path_factory):
    """Makes servers: `launch("name", **settings)`, not started. They end with the session."""
    if pytestconfig.getoption("--broker"):
        pytest.skip("the test starts a broker of its own, and --broker names a running one")
    which = kind(pytestconfig)
    if which == "leveret" and not os.access(pytestconfig.getoption("--binary"), os.X_OK):
        pytest.fail(f"no leveret binary at {pytestconfig.getoption('--binary')}", pytrace=False)
    if which == "rabbitmq" and not have("epmd"):
        pytest.skip("RabbitMQ is not installed")
    launcher = Launcher(
        tmp_path_factory.mktemp("brokers"),
        which,
        pytestconfig.getoption("--binary"),
        pytestconfig.getoption("--broker-cmd"),
    )
    pytestconfig.stash[LAUNCHER] = launcher
    yield launcher.new
    launcher.close()


@pytest.fixture(scope="session")
def shared(request, pytestconfig):
    """A running broker that the tests of this process share and leave running."""
    url = pytestconfig.getoption("--broker")
    if url:
        return External(Broker.parse(url))
    return request.getfixturevalue("launch")("shared").start()


@pytest.fixture
def node(launch):
    """A running broker of the test's own, to be stopped, killed and restarted at will."""
    server = launch("node").start()
    yield server
    server.close()


@pytest.fixture
def name(request):
    """A name for queues and exchanges that no other test has."""
    return f"{request.node.originalname}-{uuid.uuid4().hex[:8]}"
