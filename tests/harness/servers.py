"""Brokers as processes: start, wait until they serve, stop, kill -9, restart on the same data.

`Leveret` is what the tests are about; `RabbitMQ` runs Debian's package the same way, so that an expectation
can be checked against it; `Command` runs anything else from a template. All listen on a port of their own on
loopback and keep their data in a folder that the caller names. Every process is in a process group of its own, which `kill`
and `close` take down whole.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
START_DEADLINE_S = 60
STOP_DEADLINE_S = 30
RABBITMQ_HOME = Path("/usr/lib/rabbitmq/bin")


class EndedByItself(AssertionError):
    """A broker that was to be killed or stopped was dead already: whatever the test is about, this is its failure."""


class StartFailed(Exception):
    """The broker ended, or did not serve before the deadline; `returncode` is None in the second case."""

    def __init__(self, message, returncode, log):
        super().__init__(f"{message} (exit code {returncode})\n{log[-4000:]}")
        self.returncode = returncode
        self.log = log


def free_port():
    """A port that was free a moment ago, outside the range that outgoing connections take theirs from."""
    low, high = 10000, 30000
    start = int.from_bytes(os.urandom(4)) % (high - low)
    for step in range(high - low):
        port = low + (start + step) % (high - low)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


def serves(port, timeout=2.0, host="127.0.0.1"):
    """True if a broker at `port` answers the protocol header with a frame (connection.start)."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as sock:
            sock.settimeout(timeout)
            sock.sendall(PROTOCOL_HEADER)
            return sock.recv(1) == b"\x01"
    except OSError:
        return False


def resident_bytes(pid):
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def processes_of_group(group):
    """The ids of a process group's members; the second field of stat may hold spaces, so what follows it counts."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            members.append(int(stat.parent.name))
    return members


def how_it_ended(code):
    """An exit code of subprocess in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class Life:
    """One process of a server, from its start to its end."""

    def __init__(self, pid):
        self.pid = pid
        self.started = time.time()
        # What the harness or the test did to end it; nothing if nobody did.
        self.asked = None
        self.ended = None
        self.end = None

    def over(self, code):
        self.ended = time.time()
        self.end = how_it_ended(code)

    def __str__(self):
        text = f"process {self.pid} started {clock(self.started)}, "
        if self.end is None:
            return text + "runs"
        if self.asked is None:
            return text + f"ENDED BY ITSELF with {self.end}, noticed {clock(self.ended)}"
        return text + f"{self.asked}, ended with {self.end} {clock(self.ended)}"


def clock(seconds):
    """As the broker's log has it, in UTC."""
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}Z"


class Server:
    """One broker on one port and one data folder; may be started again after it ended."""

    host = "127.0.0.1"
    start_deadline_s = START_DEADLINE_S

    def __init__(self, data_dir, port=None, settings=None):
        self.data_dir = Path(data_dir)
        self.port = port or free_port()
        self.settings = dict(settings or {})
        self.process = None
        self.lives = []
        self.log_path = self.data_dir.with_name(self.data_dir.name + ".log")

    # What a kind of broker says about itself.

    def command(self):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ)

    def prepare(self):
        self.data_dir.mkdir(parents=True, exist_ok=True)

    # The life of a process.

    def start(self, prefix=(), wait=True):
        """Starts it; with `prefix` under another command (strace). Raises StartFailed if it does not serve."""
        assert self.process is None, "already started"
        self.prepare()
        self.log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,
            )
        self.lives.append(Life(self.process.pid))
        if wait:
            self.wait_serving()
        return self

    def wait_serving(self, deadline_s=None):
        deadline = time.monotonic() + (deadline_s or self.start_deadline_s)
        while not serves(self.port, host=self.host):
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.close_process()
                raise StartFailed(f"{self.command()[0]} does not serve", ended, self.log())
            time.sleep(0.02)

    def log(self):
        """What the current (or last) process wrote to stdout and stderr."""
        if not self.log_path.exists():
            return ""
        with open(self.log_path, "rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")

    def report(self, lines=100):
        """For a failed test: what became of each process, and the end of the log of all of them."""
        self.look()
        text = [f"{self.data_dir.name}, port {self.port}"]
        text += [str(life) for life in self.lives[-30:]]
        if self.log_path.exists():
            with open(self.log_path, "rb") as log:
                log.seek(max(0, self.log_path.stat().st_size - 256 * 1024))
                text += log.read().decode(errors="replace").splitlines()[-lines:]
        return "\n".join(text)

    def look(self):
        """Notices the end of a process; returns its exit code, None while it runs."""
        code = self.process and self.process.poll()
        if code is not None and self.lives[-1].end is None:
            self.lives[-1].over(code)
        return code

    def ask(self, how):
        """Notes how the process is about to be ended. Raises if it is dead already and nobody had asked for that."""
        code = self.look()
        if self.lives[-1].asked is None:
            if code is not None:
                self.process = None
                raise EndedByItself(f"{self.data_dir.name}: {self.lives[-1]}\n{self.log()[-4000:]}")
            self.lives[-1].asked = how

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def wait(self, timeout=STOP_DEADLINE_S):
        """Waits for the end of the process; returns its exit code, negative for a signal."""
        code = self.process.wait(timeout)
        self.look()
        self.process = None
        return code

    def terminate(self):
        """SIGTERM to the broker, without waiting."""
        self.ask("told to stop")
        os.kill(self.pid(), signal.SIGTERM)

    def stop(self):
        """An orderly stop by SIGTERM; returns the exit code."""
        self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.close_process()
            raise

    def kill(self):
        """kill -9 of everything that was started. Does nothing if nothing runs; raises if it had ended by itself."""
        if self.process is not None:
            self.ask("killed")
            self.close_process()

    def close_process(self):
        """As `kill`, in whatever state the process is."""
        if self.process is None:
            return
        if self.look() is None:
            self.lives[-1].asked = self.lives[-1].asked or "killed by the harness"
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.wait()

    def restart(self):
        """An orderly stop, then a start on the same data and port."""
        self.stop()
        self.start()

    def close(self):
        self.close_process()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # How to reach it.

    def url(self, vhost="%2F", user="guest:guest", scheme="amqp"):
        return f"{scheme}://{user}@{self.host}:{self.port}/{vhost}"

    def pid(self):
        """The broker itself: of the process group, whose first may be a shell or strace, the largest process."""
        return max(processes_of_group(self.process.pid), key=resident_bytes, default=self.process.pid)

    def rss_bytes(self):
        """Resident memory now; 0 when nothing runs."""
        return resident_bytes(self.pid())


class Leveret(Server):
    """`leveret server`; `settings` become --set arguments."""

    name = "leveret"

    def __init__(self, binary, data_dir, port=None, settings=None):
        super().__init__(data_dir, port, settings)
        self.binary = str(binary)
        # Of the machine, as the node is told; None: the real one.
        self.boot_id = None

    def environment(self):
        told = {} if self.boot_id is None else {"LEVERET_BOOT_ID": self.boot_id}
        return {**(super().environment() or os.environ), **told}

    def command(self):
        # Several nodes of one machine cannot have the default ports of HTTP: whoever wants it names one.
        settings = {"management.tcp": "none", "prometheus.tcp": "none", **self.settings}
        for kind in ("management", "prometheus"):
            if f"{kind}.tcp.port" in settings:
                del settings[f"{kind}.tcp"]
        settings = {"listeners.tcp.test": f"{self.host}:{self.port}", **settings}
        sets = [f"--set={key}={value}" for key, value in settings.items()]
        return [self.binary, "server", "--data-dir", str(self.data_dir), *sets]

    def ctl(self):
        """The node's command line, as one line."""
        return shlex.join([self.binary, "ctl", "--data-dir", str(self.data_dir)])


class RabbitMQ(Server):
    """Debian's RabbitMQ as a node of its own, with an epmd of its own; `settings` become rabbitmq.conf."""

    name = "rabbitmq"
    # With plugins on a busy machine it takes minutes.
    start_deadline_s = 300

    def __init__(self, data_dir, port=None, settings=None):
        super().__init__(data_dir, port, settings)
        self.epmd_port = free_port()
        self.dist_port = free_port()
        self.epmd = None
        self.plugins = ()

    def prepare(self):
        super().prepare()
        lines = [f"{key} = {value}" for key, value in self.settings.items()]
        (self.data_dir / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.data_dir / "enabled_plugins").write_text(f"[{','.join(self.plugins)}].\n")
        if self.epmd is None:
            self.epmd = subprocess.Popen(
                ["epmd", "-address", "127.0.0.1", "-port", str(self.epmd_port)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def command(self):
        return [str(RABBITMQ_HOME / "rabbitmq-server")]

    def environment(self):
        folder = self.data_dir
        return {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
        }

    def ctl(self):
        """rabbitmqctl for this node, as one command line."""
        words = ["env", f"HOME={self.data_dir}", f"ERL_EPMD_PORT={self.epmd_port}"]
        return shlex.join([*words, str(RABBITMQ_HOME / "rabbitmqctl"), "-n", f"test{self.port}@localhost"])

    def close(self):
        super().close()
        if self.epmd is not None:
            self.epmd.kill()
            self.epmd.wait()
            self.epmd = None


class Command(Server):
    """Any broker, by a command line in which {port} and {data} are replaced."""

    name = "command"

    def __init__(self, template, data_dir, port=None, settings=None):
        super().__init__(data_dir, port, settings)
        self.template = template

    def command(self):
        return shlex.split(self.template.format(port=self.port, data=self.data_dir))


class Launcher:
    """Makes servers of one kind, each in a folder of its own under `base`, and ends all of them in `close`."""

    def __init__(self, base, kind="leveret", binary=None, command=None):
        self.base = Path(base)
        self.kind = "command" if command else kind
        self.binary = binary
        self.template = command
        self.made = []

    def new(self, name, data_dir=None, **settings):
        """A server that is not started yet. Settings with dots in their keys: new("n", **{"a.b": 1})."""
        folder = data_dir or self.base / f"{name}-{len(self.made)}"
        if self.kind == "leveret":
            server = Leveret(self.binary, folder, settings=settings)
        elif self.kind == "rabbitmq":
            server = RabbitMQ(folder, settings=settings)
        else:
            server = Command(self.template, folder, settings=settings)
        if data_dir:
            # Such a folder may be a small disk, and gone when the log is wanted.
            server.log_path = self.base / f"{name}-{len(self.made)}.log"
        self.made.append(server)
        return server

    def close(self):
        for server in self.made:
            server.close()
        self.made.clear()

    def reports(self, since):
        """A title and a text for every server that ran after `since` (seconds since 1970)."""
        for server in self.made:
            server.look()
            if any(life.ended is None or life.ended >= since for life in server.lives):
                yield f"broker {server.data_dir.name}", server.report()


def default_binary():
    """The release binary of this checkout, where cargo puts it."""
    root = Path(__file__).resolve().parents[2]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    return target / "release" / "leveret"


def have(command):
    return shutil.which(command) is not None
