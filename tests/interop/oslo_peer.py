"""One service process of test_oslo.py: an RPC server, a notification listener and clients for another one.

Started as `oslo_peer.py URL NAME OPTIONS`, where OPTIONS is a JSON object of [oslo_messaging_rabbit] options.
Commands come as JSON lines on stdin, one answer line each on stdout. A process of its own because
oslo.messaging wants the global configuration object, and keeps its connection pools for ever.
"""

import json
import sys
import tempfile
import threading
import time

import oslo_messaging
from oslo_concurrency import lockutils
from oslo_config import cfg

CALL_TIMEOUT_S = 30
PATIENT_TIMEOUT_S = 5
PATIENCE_S = 60
# oslo.messaging asks the socket of a new connection for its options and its port behind the connection's lock's back: if the
# heartbeat thread has closed it meanwhile, the call fails with what the system says of a closed descriptor of one's own
# (the second text is how it fails to read that error). No broker can cause it, and services call again.
CLOSED_BY_ITSELF = ("Bad file descriptor", "'OSError' object is not subscriptable")


def called_again(operation):
    """Runs an operation until the client does not trip over its own socket; returns how often it had to be repeated."""
    deadline = time.monotonic() + PATIENCE_S
    repeats = 0
    while True:
        try:
            operation()
            return repeats
        except (OSError, oslo_messaging.MessageDeliveryFailure) as error:
            if time.monotonic() > deadline or not any(text in str(error) for text in CLOSED_BY_ITSELF):
                raise
        repeats += 1


class Endpoint:
    """What the peers call on each other; it counts what it got, by kind."""

    def __init__(self, name):
        self.name = name
        self.lock = threading.Lock()
        self.seen = {"cast": [], "fanout": [], "notification": []}

    def note(self, kind, number):
        with self.lock:
            self.seen[kind].append(number)

    # RPC

    def echo(self, _context, value):
        return [self.name, value]

    def fail(self, _context, text):
        raise ValueError(text)

    def cast(self, _context, number):
        self.note("cast", number)

    def fanout(self, _context, number):
        self.note("fanout", number)

    # Notifications

    def info(self, _context, _publisher_id, _event_type, payload, _metadata):
        self.note("notification", payload["number"])


class Peer:
    def __init__(self, url, name, options):
        conf = cfg.CONF
        conf([], project="interop", prog=name)
        # The queue manager counts a host's processes under a lock file.
        lockutils.set_defaults(tempfile.mkdtemp(prefix="leveret-oslo-"))
        self.rpc = oslo_messaging.get_rpc_transport(conf, url)
        self.notification = oslo_messaging.get_notification_transport(conf, url)
        for option, value in options.items():
            conf.set_override(option, value, group="oslo_messaging_rabbit")
        self.name = name
        self.endpoint = Endpoint(name)
        self.server = None
        self.notifier = oslo_messaging.Notifier(
            self.notification, name, driver="messagingv2", topics=["notes"], retry=20
        )
        self.listener = oslo_messaging.get_notification_listener(
            self.notification, [oslo_messaging.Target(topic="notes")], [self.endpoint], executor="threading"
        )

    def start_server(self):
        target = oslo_messaging.Target(topic="compute", server=self.name)
        self.server = oslo_messaging.get_rpc_server(
            self.rpc, target, [self.endpoint], executor="threading"
        )
        # One thread: with several, messages that come in order are handled in any.
        self.server.start(override_pool_size=1)

    def stop_server(self):
        self.server.stop()
        self.server.wait()
        self.server = None

    def client(self, timeout=CALL_TIMEOUT_S, **target):
        target = oslo_messaging.Target(topic="compute", **target)
        return oslo_messaging.get_rpc_client(self.rpc, target, timeout=timeout)

    def start_listener(self):
        self.listener.start()

    def call(self, to, first, count):
        client = self.client(server=to)
        answers = []
        for number in range(first, first + count):
            called_again(lambda number=number: answers.append(client.call({}, "echo", value=number)))
        return answers

    def call_patiently(self, to, first, count):
        """Like `call` for a time with a restart in it: what a dead broker's memory held is asked for again."""
        client = self.client(PATIENT_TIMEOUT_S, server=to)
        deadline = time.monotonic() + PATIENCE_S
        answers = []
        while len(answers) < count:
            try:
                called_again(lambda: answers.append(client.call({}, "echo", value=first + len(answers))))
            except oslo_messaging.MessagingTimeout:
                if time.monotonic() > deadline:
                    raise
        return answers

    def call_failing(self, to):
        try:
            called_again(lambda: self.client(server=to).call({}, "fail", text="on purpose"))
        except Exception as error:
            return [type(error).__name__, str(error)]
        return None

    def cast(self, to, first, count):
        """Returns how many may have been sent more than once."""
        client = self.client(server=to)
        return sum(
            called_again(lambda number=number: client.cast({}, "cast", number=number))
            for number in range(first, first + count)
        )

    def fanout(self, first, count):
        client = self.client(fanout=True)
        for number in range(first, first + count):
            called_again(lambda number=number: client.cast({}, "fanout", number=number))

    def notify(self, first, count):
        for number in range(first, first + count):
            called_again(lambda number=number: self.notifier.info({}, "interop.test", {"number": number}))

    def seen(self, kind):
        with self.endpoint.lock:
            return list(self.endpoint.seen[kind])


def main():
    url, name, options = sys.argv[1:]
    peer = Peer(url, name, json.loads(options))
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"value": getattr(peer, command.pop("do"))(**command)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
