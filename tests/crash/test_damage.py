"""A damaged journal: refused where it is damage, cut where it is the torn tail of a crash.

The cases of the format page one by one, on simulated disks, are in leveret-storage; here the binary is looked at: what it
says, how it exits, what it serves.
"""

import re

import pytest
from filled import body, content, fill, find, flip, segments
from harness.servers import StartFailed

pytestmark = pytest.mark.leveret_only

# No checkpoint between filling and the kill: the start replays all of it.
REPLAYED = {"journal.checkpoint_interval_ms": 86_400_000, "journal.segment_size_bytes": 1024 * 1024}
COUNT = 3000


def refused_start(server):
    with pytest.raises(StartFailed) as caught:
        server.start()
    failed = caught.value
    assert failed.returncode not in (None, 0), failed
    assert "panicked" not in failed.log, failed
    return failed


def test_flipped_byte_in_the_middle_is_refused_and_named(launch):
    server = launch("damage", **REPLAYED).start()
    fill(server, "q", COUNT)
    server.kill()
    path, offset = find(server, body(COUNT // 2))
    before = [segment.read_bytes() for segment in segments(server)]
    flip(path, offset + 100)
    failed = refused_start(server)
    assert path.name in failed.log, failed
    named = [int(number) for number in re.findall(r"\d+", failed.log.split(path.name, 1)[1])]
    # The record begins somewhat before the body; messages of one batch may share it.
    assert any(offset - 2**21 <= number <= offset + 100 for number in named), failed
    # Nothing was changed: with the bit flipped back, all is there.
    flip(path, offset + 100)
    assert [segment.read_bytes() for segment in segments(server)][: len(before)] == before
    server.start()
    assert content(server, "q") == [body(number) for number in range(COUNT)]


def test_missing_segment_is_refused(launch):
    server = launch("missing", **REPLAYED).start()
    fill(server, "q", COUNT)
    server.kill()
    path, _ = find(server, body(COUNT // 2))
    path.rename(path.with_suffix(".away"))
    failed = refused_start(server)
    assert path.stem.lstrip("0") in failed.log, failed
    path.with_suffix(".away").rename(path)
    server.start()
    assert content(server, "q") == [body(number) for number in range(COUNT)]


def test_torn_tail_is_cut_and_logged(launch):
    """The last record of a killed broker is damaged: as if its write had been torn. Everything before it is there."""
    server = launch("torn", **REPLAYED).start()
    fill(server, "q", COUNT)
    # Of its own batch, and nothing is published after it that could prove it.
    fill(server, "last", 1)
    server.kill()
    path = segments(server)[-1]
    while not (data := path.read_bytes()).rstrip(b"\0")[4096:]:
        path = segments(server)[segments(server).index(path) - 1]
    last = len(data.rstrip(b"\0")) - 1
    flip(path, last)
    server.start()
    # The line names the file, and the place in it from which on nothing was kept: where the record began.
    cut = re.search(r"WARN.*torn end of the journal was cut.*file=(\S+) offset=(\d+)", server.log())
    assert cut, server.log()
    assert cut[1].strip('"') == str(path)
    offset = int(cut[2])
    assert offset % 8 == 0 and offset < data.rindex(b"needle 0 ") < last < offset + 2048, (offset, last)
    assert content(server, "q") == [body(number) for number in range(COUNT)]
    # And it goes on from there, also over another start.
    fill(server, "after", 100)
    server.kill()
    server.start()
    assert content(server, "after") == [body(number) for number in range(100)]


def test_damage_under_a_checkpoint_is_never_delivered(launch):
    """After an orderly stop the start need not read every message; a damaged one is found at the latest when it is read."""
    server = launch("checkpointed", **REPLAYED).start()
    fill(server, "q", COUNT)
    server.stop()
    path, offset = find(server, body(COUNT // 2))
    flip(path, offset + 100)
    try:
        server.start()
    except StartFailed as failed:
        assert path.name in failed.log, failed
        return
    try:
        found = content(server, "q")
    except Exception:
        found = []
    assert set(found) <= {body(number) for number in range(COUNT)}
    assert path.name in server.log(), "nothing in the log about damage"
