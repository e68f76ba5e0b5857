"""Carries frames between two TAP devices in two network namespaces, with delay, jitter and loss: a slow link.

`relay.py NAMESPACE DEVICE NAMESPACE DEVICE`; says "ready", and takes lines `delay_ms jitter_ms loss` from stdin until it ends.
Frames of one direction stay in order. At most a thousand frames wait in one direction; what is more is lost, as in a router.
"""

import ctypes
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
QUEUE_MAX = 1000
FRAME_MAX = 65536


def opened(namespace, device):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as handle:
        if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    return tap


class Link:
    """How slow it is now."""

    delay_s = jitter_s = loss = 0.0

    def read(self):
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        delay, jitter, self.loss = map(float, line.split())
        self.delay_s, self.jitter_s = delay / 1000, jitter / 1000


class Way:
    """One direction."""

    def __init__(self, link, source, target):
        self.link, self.source, self.target = link, source, target
        self.waiting = deque()

    def take(self):
        for _ in range(64):
            try:
                frame = os.read(self.source, FRAME_MAX)
            except BlockingIOError:
                return
            if len(self.waiting) < QUEUE_MAX and random.random() >= self.link.loss:
                due = time.monotonic() + self.link.delay_s + random.random() * self.link.jitter_s
                last = self.waiting[-1][0] if self.waiting else 0.0
                self.waiting.append((max(due, last), frame))

    def give(self, now):
        while self.waiting and self.waiting[0][0] <= now:
            try:
                os.write(self.target, self.waiting.popleft()[1])
            except OSError:
                # The device is down: nobody hears.
                pass

    def due(self):
        return self.waiting[0][0] if self.waiting else float("inf")


def main(arguments):
    link = Link()
    taps = [opened(*arguments[0:2]), opened(*arguments[2:4])]
    ways = [Way(link, taps[0], taps[1]), Way(link, taps[1], taps[0])]
    poll = select.epoll()
    for tap in (*taps, sys.stdin.fileno()):
        poll.register(tap, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        wait = min(way.due() for way in ways) - time.monotonic()
        ready = {handle for handle, _ in poll.poll(min(max(wait, 0.0), 1.0))}
        if sys.stdin.fileno() in ready:
            link.read()
        for way in ways:
            if way.source in ready:
                way.take()
            way.give(time.monotonic())


if __name__ == "__main__":
    main(sys.argv[1:])
