"""Small answers about the run: which broker is under test, and where a server is."""

from wire import Broker


def kind(config):
    if config.getoption("--broker"):
        return "external"
    return "command" if config.getoption("--broker-cmd") else config.getoption("--server")


def address(server):
    """A server of any kind as the raw client's Broker."""
    return Broker.parse(server.url())
