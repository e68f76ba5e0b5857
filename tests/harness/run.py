"""The parts of `tests/run`: each runs a command, counts its tests, and adds to the sum.

Everything started is in the process group of this program's child and ends with it, whatever happens: brokers that a killed
test left behind are found by their data folder, which is under one temporary folder of this run.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from dataclasses import dataclass, field
from pathlib import Path

from harness.cluster import Cluster
from harness.servers import Leveret, RabbitMQ, StartFailed

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PARTS = ("cargo", "spec", "settings", "interop", "crash", "cluster", "http", "mirrored", "partition", "abuse")
# Parts that start nothing of their own, and so can use a cluster that is shared.
SHARED_PARTS = ("spec",)
PART_DEADLINE_S, PART_DEADLINE_LONG_S = 1500, 4 * 3600
CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)
# The heading of a failed test's output; it is there with --quiet too.
CARGO_FAILED = re.compile(r"^---- (\S.*?) stdout ----$", re.MULTILINE)


@dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    names: list = field(default_factory=list)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.names += other.names

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


class Run:
    """One run: its options, its temporary folder, its children."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = Path(folder)
        self.child = None
        self.server = None

    def command(self, command, **environment):
        """Runs a command whose output is shown as it comes; returns (exit code, output). Ends it at the deadline."""
        deadline = PART_DEADLINE_LONG_S if self.options.long else PART_DEADLINE_S
        print("+", " ".join(map(str, command)), flush=True)
        self.child = subprocess.Popen(
            [str(word) for word in command],
            cwd=environment.pop("cwd", ROOT),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        signal.signal(signal.SIGALRM, lambda *_: self.end_child())
        signal.alarm(deadline)
        output = []
        for line in self.child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            output.append(line)
        code = self.child.wait()
        signal.alarm(0)
        self.child = None
        return code, "".join(output)

    def end_child(self):
        if self.child is not None:
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self):
        """Ends all that is left of this run: the child, the server, brokers whose arguments name our folder, its mounts."""
        signal.alarm(0)
        self.end_child()
        if self.server is not None:
            self.server.close()
        mark = str(self.folder).encode()
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if mark in cmdline.read_bytes() and int(cmdline.parent.name) != os.getpid():
                    os.kill(int(cmdline.parent.name), signal.SIGKILL)
            except (OSError, ValueError):
                pass
        for line in Path("/proc/mounts").read_text().splitlines():
            if (point := line.split()[1]).startswith(str(self.folder)):
                subprocess.run(["umount", "-l", point], check=False)

    # The parts.

    def cargo(self):
        command = ["cargo", "test", "--workspace", "--exclude", "leveret-simulation", "--locked", "--no-fail-fast"]
        command += ["--quiet"] if self.options.quiet else []
        environment = {"LEVERET_TEST_BROKER": self.shared_url()}
        if self.options.server == "leveret" and not self.options.broker:
            environment |= {"LEVERET_TEST_RUN": "1", "LEVERET_TEST_BINARY": str(self.binary())}
        count = self.cargo_test(command, environment)
        # Optimised: many times as many seeds in its minute. Named beside the broker, it is built of what the broker's binary is built of.
        command = ["cargo", "test", "--release", "--locked", "-p", "leveret", "-p", "leveret-simulation", "--test", "seeds"]
        count.add(self.cargo_test(command, {"LEVERET_SIM_SEEDS": "20000"} if self.options.long else {}))
        return count

    def cargo_test(self, command, environment):
        code, output = self.command(command, **environment)
        count = Count(names=[f"cargo: {name}" for name in CARGO_FAILED.findall(output)])
        for passed, failed, ignored in CARGO_RESULT.findall(output):
            count.add(Count(int(passed), int(failed), int(ignored)))
        return self.at_least_one_failure(count, code, "cargo test")

    def spec(self):
        # The tests of users and policies wait for an operator's interface; they are counted as skipped without one.
        broker = ["--broker", self.shared_url()]
        control = ["--ctl", self.server.ctl()] if isinstance(self.server, (RabbitMQ, Cluster)) else []
        return self.pytest("spec", TESTS / "spec", [*broker, *control])

    def settings(self):
        return self.pytest("settings", TESTS / "settings", self.server_options())

    def interop(self):
        return self.pytest("interop", TESTS / "interop", self.server_options())

    def crash(self):
        # Alone on the machine: a crash test that has no processor time tests little.
        return self.pytest("crash", TESTS / "crash", self.server_options())

    def cluster(self):
        return self.pytest("cluster", TESTS / "cluster", self.server_options())

    def http(self):
        return self.pytest("http", TESTS / "http", self.server_options())

    def partition(self):
        # Two clusters at once: pauses of a loaded machine say little.
        return self.pytest("partition", TESTS / "partition", self.server_options(), workers=2)

    def mirrored(self):
        """The protocol through the nodes of a cluster: the tests of `spec` again."""
        if self.options.broker or self.options.server != "leveret":
            return Count()
        cluster = Cluster(self.binary(), self.folder / "mirrored-nodes")
        try:
            cluster.start()
            options = ["--broker", cluster.url(), "--ctl", cluster.ctl()]
            # What is about one node whatever its neighbours are is not done again.
            again = "not test_handshake and not test_connection and not test_channel"
            count = self.pytest("mirrored", TESTS / "spec", [*options, "-k", again])
            if cluster.look() is not None:
                count.add(Count(failed=1, names=["mirrored: a node ended by itself"]))
            if count.failed:
                print(f"== the nodes: {cluster.report(50)}", flush=True)
            return count
        finally:
            cluster.close()

    def abuse(self):
        return self.pytest("abuse", TESTS / "abuse", self.server_options())

    def server_options(self):
        options = ["--long"] if self.options.long else []
        if self.options.broker:
            return [*options, "--broker", self.options.broker]
        if self.options.server == "leveret":
            options += ["--binary", self.binary()]
        return [*options, "--server", self.options.server]

    def pytest(self, name, tests, options, workers=None):
        results = self.folder / f"{name}.xml"
        code, _ = self.command(
            [
                *(sys.executable, "-m", "pytest", tests, *options),
                *("-p", "no:cacheprovider", "-q", "-n", str(workers or self.options.workers)),
                *(f"--junitxml={results}", f"--basetemp={self.folder / name}"),
            ],
            cwd=tests,
        )
        count = read_junit(results, name) if results.exists() else Count()
        # Brokers' data: the next part needs the room.
        shutil.rmtree(self.folder / name, ignore_errors=True)
        # 5: nothing collected.
        return self.at_least_one_failure(count, code, f"pytest {name}")

    def at_least_one_failure(self, count, code, what):
        """A command that failed without a failed test (did not build, was ended) counts as one failure."""
        if code != 0 and count.failed == 0:
            count.add(Count(failed=1, names=[f"{what}: exit code {code}"]))
        return count

    # The brokers.

    def binary(self):
        return TARGET / "release" / "leveret"

    def build(self):
        code, _ = self.command(["cargo", "build", "--release", "--locked", "-p", "leveret"])
        return code == 0

    def shared_url(self):
        """The broker that several parts use, started when the first of them asks."""
        if self.options.broker:
            return self.options.broker
        if self.server is None:
            data = self.folder / "shared"
            if self.options.server == "leveret":
                self.server = Leveret(self.binary(), data)
            elif self.options.server == "leveret-cluster":
                self.server = Cluster(self.binary(), data)
            else:
                self.server = RabbitMQ(data)
        if self.server.process is None:
            self.server.start()
        return self.server.url()

    def look_at_shared(self, part, count):
        """After a part: a shared broker that ended is a failure, and a failure shows the end of the shared broker's log."""
        if self.server is None or self.server.process is None:
            return
        ended = self.server.look() is not None
        if ended:
            count.add(Count(failed=1, names=[f"{part}: the shared broker ended by itself"]))
        if count.failed:
            print(f"== the broker that parts share: {self.server.report(50)}", flush=True)
        if ended:
            self.server.process = None


def read_junit(path, part):
    count = Count()
    for case in xml.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        name = f"{part}: {case.get('classname')}::{case.get('name')}"
        if kinds & {"failure", "error"}:
            count.add(Count(failed=1, names=[name]))
        elif "skipped" in kinds:
            count.skipped += 1
        else:
            count.passed += 1
    return count


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="tests/run",
        description="Runs the tests of Leveret: unit and property tests, protocol, real clients, crashes, abuse.",
    )
    parser.add_argument(
        "--only", metavar="PART", action="append", choices=PARTS, help=f"one of {', '.join(PARTS)}; may be repeated"
    )
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="AMQP URL of a running broker instead; tests that start, stop or kill brokers are skipped",
    )
    parser.add_argument(
        "--server",
        choices=("leveret", "leveret-cluster", "rabbitmq"),
        default="leveret",
        help="which broker the tests start; a cluster of three serves the part spec only",
    )
    parser.add_argument("--long", action="store_true", help="hundreds of rounds of crashes instead of some")
    parser.add_argument("--workers", type=int, default=4, help="pytest processes at once (default 4: tests mostly wait)")
    parser.add_argument("--quiet", action="store_true", help="cargo prints failures only")
    return parser.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    possible = SHARED_PARTS if options.server == "leveret-cluster" else PARTS
    parts = [part for part in possible if part in (options.only or PARTS)]
    folder = tempfile.mkdtemp(prefix="leveret-tests-")
    run = Run(options, folder)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(130))
    total, lines = Count(), []
    try:
        if not options.broker and options.server != "rabbitmq" and not run.build():
            total.add(Count(failed=1, names=["the release binary does not build"]))
            parts = []
        for part in parts:
            started = time.monotonic()
            try:
                count = getattr(run, part)()
            except StartFailed as failed:
                count = Count(failed=1, names=[f"{part}: {failed}"])
            run.look_at_shared(part, count)
            total.add(count)
            lines.append(f"{part:8} {time.monotonic() - started:6.0f} s   {count}")
    finally:
        run.close()
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(["", *(f"FAILED {name}" for name in total.names), "", *lines]))
    print(total, flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
