"""Certificates that change while the broker runs."""

import signal
import ssl
import time

import pytest
from wire import DEADLINE_S

pytestmark = pytest.mark.leveret_only


def shown(port, context):
    """The certificate that the server shows now."""
    wire = port.dialled(context)
    try:
        return wire.sock.getpeercert(binary_form=True)
    finally:
        wire.sock.close()


def until_shown(port, context, certificate):
    wanted = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    deadline = time.monotonic() + DEADLINE_S
    while shown(port, context) != wanted:
        assert time.monotonic() < deadline, "the new certificate is not shown"
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["interval", "SIGHUP"])
def test_a_new_certificate_needs_no_restart(tls_server, authority, tmp_path, how):
    """It is shown to new connections; open ones go on; half a replacement changes nothing."""
    names = (tmp_path / "certificate.pem", tmp_path / "key.pem")

    def install(identity):
        for name, new in zip(names, identity, strict=True):
            fresh = name.with_suffix(".new")
            fresh.write_bytes(new.read_bytes())
            fresh.rename(name)

    old, new = authority.server(), authority.server()
    install(old)
    interval = {"interval": 50, "SIGHUP": 86_400_000}[how]
    port = tls_server(names, **{"leveret.tls_reload_interval": interval})
    process = port.server.pid()
    context = authority.trust(authority.sign("/CN=client"))
    until_shown(port, context, old[0])
    wire = port.connection(context).opened(port.broker)
    channel = wire.channel()
    queue = channel.declare(exclusive=True).queue

    # A certificate whose key is not there yet: the old pair is kept, and the log says why.
    names[0].write_bytes(new[0].read_bytes())
    if how == "SIGHUP":
        port.server.signal(signal.SIGHUP)
    deadline = time.monotonic() + DEADLINE_S
    while "cannot be used" not in port.server.log():
        assert time.monotonic() < deadline, port.server.log()
        time.sleep(0.02)
    until_shown(port, context, old[0])

    install(new)
    if how == "SIGHUP":
        port.server.signal(signal.SIGHUP)
    until_shown(port, context, new[0])
    channel.confirm()
    channel.put(queue, b"still here")
    assert channel.bodies(queue) == [b"still here"]
    wire.close()
    port.connection(context).opened(port.broker).close()
    assert port.server.pid() == process and port.server.process.poll() is None
