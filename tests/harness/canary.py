"""A well-behaved client that runs beside others which are not, and must not notice them."""

import threading
import time

from wire import Wire

# How long it may wait for its round trips while others misbehave, on two busy cores.
ROUND_TRIP_S = 5.0


class Canary(threading.Thread):
    """Publishes, gets and acks, ten times a second, on one connection and each time on a new one too."""

    def __init__(self, broker, name):
        super().__init__(daemon=True)
        self.broker = broker
        self.queue = f"canary-{name}"
        self.stopping = threading.Event()
        self.failure = None
        self.rounds = 0
        self.slowest = 0.0

    def run(self):
        try:
            wire = Wire.opened(self.broker)
            channel = wire.channel()
            channel.confirm()
            channel.declare(self.queue)
            while not self.stopping.is_set():
                started = time.monotonic()
                self.sing(channel)
                fresh = Wire.opened(self.broker)
                assert fresh.channel().declare(self.queue, passive=True).message_count == 0
                fresh.close()
                self.slowest = max(self.slowest, time.monotonic() - started)
                self.rounds += 1
                self.stopping.wait(0.1)
            channel.delete(self.queue)
            wire.close()
        except BaseException as error:
            self.failure = error

    def sing(self, channel):
        channel.put(self.queue, b"tweet")
        message = channel.get(self.queue, no_ack=False)
        assert message.body == b"tweet" and not message.redelivered
        channel.ack(message.delivery_tag)

    def finish(self):
        """At least two whole rounds, none too slow, no failure."""
        goal = self.rounds + 2
        deadline = time.monotonic() + 30
        while self.rounds < goal and self.failure is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self.stopping.set()
        self.join(30)
        assert self.failure is None, f"the canary: {self.failure!r}"
        assert self.rounds >= goal, "the canary is stuck"
        assert self.slowest < ROUND_TRIP_S, f"the canary waited {self.slowest:.1f} s"
