"""A broker with its HTTP API, shared by the tests of a process, and a virtual host for each test."""

import pytest
from harness.management import q, start
from harness.options import kind


@pytest.fixture(scope="session")
def managed(launch, pytestconfig):
    """A broker with HTTP that all tests of this process share."""
    if kind(pytestconfig) == "command":
        pytest.skip("nothing is known of the broker's HTTP")
    managed = start(launch)
    yield managed
    managed.server.close()


@pytest.fixture
def api(managed):
    return managed.api


@pytest.fixture
def vhost(api, name):
    """A virtual host of the test's own, as a segment of a path."""
    assert api.put(f"/vhosts/{q(name)}").status == 201
    yield q(name)
    api.delete(f"/vhosts/{q(name)}")


@pytest.fixture
def connection(managed):
    connection = managed.connect()
    yield connection
    if connection.is_open:
        connection.close()
