"""A disk that is full, and a disk whose sync fails: clear words, nothing confirmed lost, and it goes on afterwards."""

import os
import re
import shutil
import subprocess
import threading
import time

import pytest
from harness.options import address
from filled import body, content, fill
from harness.servers import have
from wire import Disconnected, Refused, Silence, Wire

pytestmark = pytest.mark.leveret_only

SMALL = {"journal.segment_size_bytes": 1024 * 1024, "memory_monitor_interval": 50}
MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path):
    """A mounted tmpfs of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "leveret-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def wait(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)


class Flood(threading.Thread):
    """Publishes persistent messages to one queue as fast as the broker takes them, and notes how it answers.

    Confirms of one channel for one queue come in order, so the highest tag says how many there are.
    """

    def __init__(self, server, queue, limit=1_000_000):
        super().__init__(daemon=True)
        self.wire = Wire.opened(address(server))
        self.channel = self.wire.channel()
        self.channel.confirm()
        self.queue = queue
        self.limit = limit
        self.sent = 0
        self.confirmed = 0
        self.refused = 0
        self.blocked = threading.Event()
        self.unblocked = threading.Event()
        self.stopping = threading.Event()
        self.over = None
        self.start()

    def run(self):
        try:
            while not self.stopping.is_set():
                while self.sent - self.confirmed - self.refused < 100 and self.sent < self.limit:
                    self.channel.publish("", self.queue, body(self.sent), delivery_mode=2)
                    self.sent += 1
                self.listen()
        except (OSError, Disconnected, Refused) as error:
            self.over = error

    def listen(self):
        try:
            channel = self.wire.pump(0.1)
        except Silence:
            return
        for event in self.wire.events.pop(channel, ()):
            if event.name == "basic.ack":
                self.confirmed = max(self.confirmed, event.delivery_tag)
            elif event.name == "basic.nack":
                self.refused += 1
            elif event.name == "connection.blocked":
                self.unblocked.clear()
                self.blocked.set()
            elif event.name == "connection.unblocked":
                self.unblocked.set()
            elif event.name.endswith(".close"):
                raise Refused(event.name.partition(".")[0], event)

    def finish(self):
        self.stopping.set()
        self.join(30)
        assert not self.is_alive()
        self.wire.sock.close()


def declare(server, queue):
    wire = Wire.opened(address(server))
    wire.channel().declare(queue, durable=True)
    wire.close()


def take(server, queue, least=0):
    """Consumes and acks `least` messages, or with 0 until the queue is empty; returns the bodies in order."""
    wire = Wire.opened(address(server))
    channel = wire.channel()
    channel.qos(100)
    channel.consume(queue)
    got = []
    while not least or len(got) < least:
        try:
            event = channel.next(10.0 if least else 1.0)
        except Silence:
            assert not least, f"{len(got)} of {least} messages, then silence"
            break
        got.append(event.body)
        channel.ack(event.delivery_tag)
    # An orderly close gives back what is not acked, after the acks before it were taken.
    wire.close()
    return got


@pytest.mark.parametrize(
    "settings",
    [
        {**SMALL, "disk_free_limit.absolute": "16MiB"},
        # Above the limit, and too little for one more segment; found by the journal, not by looking now and then.
        {
            "disk_free_limit.absolute": "1MiB",
            "journal.segment_size_bytes": 8 * MIB,
            "memory_monitor_interval": 10000,
        },
    ],
    ids=["below-the-limit", "no-room-for-a-segment"],
)
def test_full_disk_blocks_publishers_until_there_is_room(launch, small_disk, settings):
    """Blocked while there is room, consumers go on, room comes back, publishers go on: without a hand or a restart."""
    settings = {**settings, "journal.checkpoint_interval_ms": 200}
    server = launch("full", data_dir=small_disk / "data", **settings).start()
    declare(server, "q")
    flood = Flood(server, "q")
    wait(flood.blocked.is_set, "connection.blocked")
    assert shutil.disk_usage(small_disk).free > 4 * MIB, "blocked too late"
    stood = flood.confirmed
    got = take(server, "q", stood)
    wait(flood.unblocked.is_set, "connection.unblocked after the queue was emptied")
    wait(lambda: flood.confirmed >= stood + 1000, "publishing does not go on")
    flood.finish()
    got += take(server, "q")
    confirmed = flood.confirmed
    assert flood.refused == 0
    assert got[:confirmed] == [body(number) for number in range(confirmed)]
    server.close()


def test_no_space_left_stops_without_losing_what_was_confirmed(launch, small_disk):
    """With the alarm turned off the write fails: a clear line, an exit, and everything confirmed after a start with room."""
    settings = {**SMALL, "disk_free_limit.absolute": 0}
    server = launch("nospace", data_dir=small_disk / "data", **settings).start()
    declare(server, "q")
    flood = Flood(server, "q")
    wait(lambda: flood.over or server.process.poll() is not None, "the write to fail", 60)
    assert server.wait() not in (0, None)
    flood.finish()
    assert re.search(r"No space left|ENOSPC|os error 28", server.log()), server.log()
    assert "panicked" not in server.log(), server.log()
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    server.start()
    confirmed = flood.confirmed
    assert content(server, "q")[:confirmed] == [body(number) for number in range(confirmed)]
    server.close()


# Some syncs belong to the start (header blocks, checkpoints); later ones to the load.
@pytest.mark.parametrize("when", [1, 2, 5, 20, 60])
def test_failed_sync_ends_the_process_and_confirms_nothing_more(launch, tmp_path, when):
    """The n-th fdatasync or fsync returns EIO: no confirm for what it was to cover, a clear line, exit; a restart recovers."""
    if not have("strace"):
        pytest.skip("strace is not installed")
    server = launch("sync")
    server.start()
    declare(server, "q")
    fill(server, "before", 50)
    server.stop()
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fdatasync,fsync,sync_file_range"]
    inject = ["-e", f"inject=fdatasync:error=EIO:when={when}+"]
    server.start(prefix=[*strace, *inject], wait=False)
    confirmed = 0
    try:
        server.wait_serving()
    except Exception as failed:
        # The start itself syncs: then it is the start that fails.
        assert server.process is None, failed
        log = server.log()
        assert getattr(failed, "returncode", None) not in (None, 0), failed
    else:
        flood = Flood(server, "q")
        wait(lambda: flood.over is not None, "the connection to end", 60)
        flood.finish()
        confirmed = flood.confirmed
        assert server.wait() != 0
        log = server.log()
    assert "INJECTED" in trace.read_text()
    assert re.search(r"Input/output error|EIO|os error 5", log), log
    assert re.search(r"sync", log), log
    assert "panicked" not in log, log
    server.start()
    found = content(server, "q")
    assert found[:confirmed] == [body(number) for number in range(confirmed)]
    assert content(server, "before") == [body(number) for number in range(50)]
    server.close()


def test_reading_while_full(launch, small_disk):
    """What is there can be read and acked while publishers are blocked, over a restart as well."""
    settings = {**SMALL, "disk_free_limit.absolute": "16MiB", "journal.checkpoint_interval_ms": 200}
    server = launch("reading", data_dir=small_disk / "data", **settings).start()
    declare(server, "q")
    flood = Flood(server, "q")
    wait(flood.blocked.is_set, "connection.blocked")
    confirmed = flood.confirmed
    flood.finish()
    server.kill()
    server.start()
    got = take(server, "q")
    assert got[:confirmed] == [body(number) for number in range(confirmed)]
    server.close()
