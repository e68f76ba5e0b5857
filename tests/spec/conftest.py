"""Options and fixtures: which broker, which flavour, connections that close, names that get cleaned up."""

import itertools
import os
import re
import uuid

import pika
import pytest

import support
from admin import CtlAdmin, HttpAdmin
from wire import Broker, Disconnected, Silence, Wire

DEFAULT_BROKER = "amqp://guest:guest@127.0.0.1:5672/%2F"


def pytest_addoption(parser):
    group = parser.getgroup("broker")
    group.addoption(
        "--broker",
        default=os.environ.get("LEVERET_SPEC_BROKER", DEFAULT_BROKER),
        help="AMQP URL of the broker under test (or LEVERET_SPEC_BROKER); several with commas between them are nodes of "
        "one cluster, and connections go to each in turn",
    )
    group.addoption(
        "--ctl",
        default=os.environ.get("LEVERET_SPEC_CTL"),
        help='command prefix with rabbitmqctl\'s verbs, e.g. "rabbitmqctl -n node" (or LEVERET_SPEC_CTL)',
    )
    group.addoption(
        "--http-api",
        default=os.environ.get("LEVERET_SPEC_HTTP_API"),
        help="management HTTP API instead of --ctl, e.g. http://127.0.0.1:15672 (or LEVERET_SPEC_HTTP_API)",
    )
    group.addoption(
        "--alarms",
        action="store_true",
        help="also raise resource alarms, which stop every publisher of the broker",
    )
    group.addoption(
        "--flavour",
        choices=["rabbitmq", "leveret"],
        default=os.environ.get("LEVERET_SPEC_FLAVOUR"),
        help="whose expectations to hold; by default read from the broker's product property",
    )
    group.addoption(
        "--record-refusals",
        help="append every refusal seen to this file (code, method, text), to compare brokers",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "rabbitmq_only: expected of RabbitMQ, not of Leveret")
    config.addinivalue_line("markers", "leveret_only: expected of Leveret, not of RabbitMQ")
    config.addinivalue_line("markers", "admin: needs --ctl or --http-api")
    support.record = config.getoption("--record-refusals")
    if not config.getoption("--flavour"):
        config.option.flavour = detected_flavour(config.getoption("--broker"))
        os.environ["LEVERET_SPEC_FLAVOUR"] = (
            config.option.flavour
        )  # for the workers of pytest-xdist


def detected_flavour(url):
    try:
        wire = Wire.started(nodes_of(url)[0])
    except (OSError, Disconnected, Silence) as error:
        pytest.exit(f"no AMQP broker answers at {url}: {error}", returncode=4)
    wire.sock.close()
    return "leveret" if "leveret" in wire.server_properties["product"].lower() else "rabbitmq"


def pytest_collection_modifyitems(config, items):
    other = {"rabbitmq": "leveret_only", "leveret": "rabbitmq_only"}[config.getoption("--flavour")]
    has_admin = config.getoption("--ctl") or config.getoption("--http-api")
    for item in items:
        if item.get_closest_marker(other):
            item.add_marker(pytest.mark.skip(reason=f"{other} expectation"))
        if "admin" in item.fixturenames and not has_admin:
            item.add_marker(pytest.mark.skip(reason="needs --ctl or --http-api"))


def nodes_of(urls):
    """The brokers that `--broker` names: one, or the nodes of a cluster."""
    return [Broker.parse(url) for url in urls.split(",")]


@pytest.fixture(scope="session")
def nodes(request):
    return nodes_of(request.config.getoption("--broker"))


@pytest.fixture(scope="session")
def broker(nodes):
    return nodes[0]


class Names:
    """Gives unique names and remembers what to delete when the test is over."""

    def __init__(self, test):
        self.test = re.sub(r"[^0-9a-z_.]", "", test.lower().removeprefix("test_"))[:32]
        self.queues = []
        self.exchanges = []

    def unique(self):
        return f"spec-{self.test}-{uuid.uuid4().hex[:8]}"

    def queue(self):
        self.queues.append(self.unique())
        return self.queues[-1]

    def exchange(self):
        self.exchanges.append(self.unique())
        return self.exchanges[-1]

    def delete_all(self, broker):
        if not (self.queues or self.exchanges):
            return
        wire = Wire.opened(broker)
        channel = wire.channel()
        for queue in self.queues:
            channel.send("queue.delete", queue=queue, nowait=True)
        for exchange in self.exchanges:
            channel.send("exchange.delete", exchange=exchange, nowait=True)
        channel.call("basic.qos")
        wire.close()


@pytest.fixture
def names(request, broker):
    names = Names(request.node.name)
    yield names
    names.delete_all(broker)


@pytest.fixture
def connect(request, nodes, broker, names):
    """Opens raw connections that end with the test: `connect()`, `connect(heartbeat=1)`,
    `connect(stage=Wire.started)`, `connect(to=other_broker)`. In a cluster each goes to the next node; which
    node a test begins with hangs on its name only, so that a failure comes again."""
    wires = []
    first = sum(request.node.name.encode()) % len(nodes)
    turns = itertools.cycle(nodes[first:] + nodes[:first])

    def connect(stage=Wire.opened, to=broker, **options):
        node = next(turns)
        wire = stage(to._replace(host=node.host, port=node.port), **options)
        wires.append(wire)
        return wire

    yield connect
    for wire in wires:
        wire.close()


@pytest.fixture
def wire(connect):
    return connect()


@pytest.fixture
def ch(wire):
    """A channel on a connection of its own."""
    return wire.channel()


@pytest.fixture
def other(connect):
    """A channel on a second connection."""
    return connect().channel()


@pytest.fixture
def queue(ch, names):
    """The name of a fresh, plain, non-durable queue."""
    return ch.declare(names.queue()).queue


@pytest.fixture
def pika_connection(broker, names):
    parameters = pika.ConnectionParameters(
        host=broker.host,
        port=broker.port,
        virtual_host=broker.vhost,
        credentials=pika.PlainCredentials(broker.user, broker.password),
        socket_timeout=10,
        blocked_connection_timeout=10,
    )
    connection = pika.BlockingConnection(parameters)
    yield connection
    if connection.is_open:
        connection.close()


@pytest.fixture
def pika_channel(pika_connection):
    return pika_connection.channel()


@pytest.fixture(scope="session")
def admin(request):
    """The operator's hands; a test that uses it is skipped without --ctl or --http-api."""
    config = request.config
    if config.getoption("--http-api"):
        broker = nodes_of(config.getoption("--broker"))[0]
        return HttpAdmin(config.getoption("--http-api"), broker.user, broker.password)
    return CtlAdmin(config.getoption("--ctl"))


@pytest.fixture(scope="session")
def realm(admin, broker):
    """A virtual host of this run's own, where the broker's user may do everything."""
    vhost = f"spec-realm-{uuid.uuid4().hex[:8]}"
    admin.add_vhost(vhost)
    admin.set_permissions(vhost, broker.user)
    yield broker._replace(vhost=vhost)
    admin.delete_vhost(vhost)


@pytest.fixture
def master(connect, realm):
    """A channel in the realm, as the user who may do everything."""
    return connect(to=realm).channel()


@pytest.fixture
def add_user(admin, realm):
    """Makes users that go with the test: `add_user(configure=, write=, read=)` gives a Broker to log in with.

    Without any of the three the user has no permissions in the realm.
    """
    made = []

    def add(**permissions):
        user = f"spec-user-{uuid.uuid4().hex[:8]}"
        admin.add_user(user, "secret")
        made.append(user)
        if permissions:
            admin.set_permissions(realm.vhost, user, **{**NO_PERMISSIONS, **permissions})
        return realm._replace(user=user, password="secret")

    yield add
    for user in made:
        admin.delete_user(user)


NO_PERMISSIONS = {"configure": "^$", "write": "^$", "read": "^$"}


@pytest.fixture
def policy(admin, realm):
    """Sets policies in the realm, with which they go. Patterns must name one test's own resources."""

    def set_policy(pattern, definition, **options):
        name = f"spec-policy-{uuid.uuid4().hex[:8]}"
        admin.set_policy(realm.vhost, name, pattern, definition, **options)
        return name

    return set_policy
