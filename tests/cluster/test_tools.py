"""RabbitMQ's command line tools: the binary, called by their names, with one node and with three.

What has a counterpart in RabbitMQ is a table; `--server rabbitmq` runs it with RabbitMQ's own tools and node.
"""

import json
import os
import re
import subprocess

import pika
import pytest
from harness.cluster import name_of
from harness.options import kind
from harness.servers import RABBITMQ_HOME, Leveret, RabbitMQ
from test_nodes import DEADLINE_S, connect, until

NAMES = ("rabbitmqctl", "rabbitmq-diagnostics", "rabbitmq-queues", "rabbitmq-upgrade", "rabbitmq-plugins")
CALL_S = 150


class Tools:
    """Calls the tools for a node."""

    def __init__(self, folder, environment, node=None):
        self.folder, self.environment, self.node = folder, environment, node

    def call(self, line, code=0, silent=True):
        """A command line: (standard output, standard error). The exit code must be `code`."""
        name, *words = line.split()
        command = [str(self.folder / name), *(["-n", self.node] if self.node else []), *words]
        command += ["--silent"] if silent else []
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=CALL_S, check=False
        )
        assert done.returncode == code, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout, done.stderr

    def json(self, line, code=0):
        out, err = self.call(f"{line} --formatter json", code)
        return json.loads(out if code == 0 else err)


def links(binary, folder):
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to(os.path.abspath(binary))
    return folder


def tools_of(node, folder):
    return Tools(folder, {"LEVERET_CTL_SOCKET": str(node.data_dir / "ctl.sock")})


@pytest.fixture(scope="module")
def single(pytestconfig, tmp_path_factory):
    """A node and its tools."""
    if pytestconfig.getoption("--broker"):
        pytest.skip("the tools are for a node that is started here")
    folder = tmp_path_factory.mktemp("tools")
    pid_file = folder / "pid"
    if kind(pytestconfig) == "rabbitmq":
        node = RabbitMQ(folder / "node")
        environment = {"HOME": str(node.data_dir), "ERL_EPMD_PORT": str(node.epmd_port)}
        own = node.environment
        node.environment = lambda: {**own(), "RABBITMQ_PID_FILE": str(pid_file)}
        tools = Tools(RABBITMQ_HOME, environment, f"test{node.port}@localhost")
        node.tool_name = tools.node
    else:
        node = Leveret(
            pytestconfig.getoption("--binary"),
            folder / "node",
            settings={"leveret.pid_file": str(pid_file), "leveret.node_name": "single@localhost"},
        )
        tools = tools_of(node, links(node.binary, folder / "bin"))
        node.tool_name = "single@localhost"
    node.pid_file = pid_file
    with node:
        node.start()
        yield node, tools


@pytest.fixture
def own(pytestconfig, single):
    """The same; not for RabbitMQ."""
    if kind(pytestconfig) != "leveret":
        pytest.skip("a promise of Leveret's")
    return single


D, C, Q, U, P = "rabbitmq-diagnostics", "rabbitmqctl", "rabbitmq-queues", "rabbitmq-upgrade", "rabbitmq-plugins"
RUNNING = "RabbitMQ on node {node} is fully booted and running\n"
LISTENERS = r"(Interface: \S+, port: \d+, protocol: \S+, purpose: .*\n)+"
# What is called, its exit code, its standard output with --silent, the keys of its JSON.
TABLE = (
    (f"{D} ping", 0, r"Ping succeeded\n", {"message"}),
    (f"{D} server_version", 0, r"\d+\.\d+\.\d+\S*\n", {"result", "value"}),
    (f"{D} is_running", 0, RUNNING, {"message", "result"}),
    (f"{D} is_booting", 0, r"RabbitMQ on node {node} is fully booted .*\n", {"message", "result"}),
    (f"{D} check_running", 0, RUNNING, {"message"}),
    (f"{D} check_local_alarms", 0, "", {"result"}),
    (f"{D} check_alarms", 0, "", {"result"}),
    (f"{D} alarms", 0, r"Node {node} reported no alarms, local or clusterwide\n", {"alarms", "node", "result"}),
    (f"{D} listeners", 0, LISTENERS, {"listeners", "node", "result"}),
    (
        f"{D} check_port_connectivity",
        0,
        r"Successfully connected to ports [\d, ]+ on node {node}\.\n",
        {"listeners", "node", "result"},
    ),
    (
        f"{D} check_port_listener {{port}}",
        0,
        r"A listener for port {port} is running on node {node}\.\n",
        {"node", "port", "result"},
    ),
    (f"{D} check_port_listener 1", 69, "", {"listeners", "missing", "ports", "result"}),
    (f"{D} check_port_listener abc", 65, "", None),
    (
        f"{D} check_protocol_listener amqp",
        0,
        r"A listener for protocol amqp is running on node {node}\.\n",
        {"node", "protocol", "result"},
    ),
    (f"{D} check_protocol_listener mqtt", 69, "", {"listeners", "missing", "protocols", "result"}),
    (f"{D} check_virtual_hosts", 0, "", {"result"}),
    (f"{D} check_if_node_is_quorum_critical", 0, "", {"message", "result"}),
    (f"{D} check_if_node_is_mirror_sync_critical", 0, "", {"message", "result"}),
    (f"{D} check_certificate_expiration --within 2 --unit weeks", 0, None, {"result"}),
    (f"{D} node_health_check", 0, r"Health check passed\n", None),
    (f"{D} log_location", 0, r"(\S+\n)+", {"node_name", "paths", "result"}),
    (f"{D} memory_breakdown", 0, r"(\w+: [\d.e-]+ gb \([\d.]+%\)\n)+\n?", None),
    (f"{D} list_unresponsive_queues", 0, "", None),
    (f"{D} add_user a b", 64, "", None),
    (f"{Q} quorum_status nothing", 69, "", None),
    (f"{Q} quorum_status", 64, "", None),
    (f"{Q} rebalance nothing", 69, "", None),
    (f"{Q} add_member nothing {{node}}", 69, "", None),
    (f"{Q} delete_member nothing {{node}}", 69, "", None),
    (f"{Q} list_queues", 64, "", None),
    (f"{U} await_online_quorum_plus_one", 0, "", {"message", "result"}),
    (f"{U} await_online_synchronized_mirror", 0, "", {"message", "result"}),
    (f"{P} is_enabled nothing", 69, "", None),
    (f"{P} enable nothing", 70, None, None),
    (f"{C} drain", 64, "", None),
    (f"{C} sync_queue nothing", 69, "", None),
    (f"{C} cancel_sync_queue nothing", 69, "", None),
    (f"{C} await_online_nodes 1", 0, "", None),
    (f"{C} await_online_nodes 2 -t 1", 70, "", None),
    (f"{C} wait", 64, "", None),
    (f"{C} wait {{pid_file}} -t 60", 0, r"Waiting for pid file '{pid_file}' to appear\npid is \d+\n(.*\n)+", None),
    (f"{C} wait {{pid_file}}.not -t 1", 75, r"Waiting for pid file '{pid_file}.not' to appear\n", None),
    (f"{C} wait --pid 4194305 -t 60", 69, None, None),
    (f"{C} list_queues name type", 0, "", None),
)


@pytest.mark.parametrize(("line", "code", "text", "keys"), TABLE, ids=[line for line, *_ in TABLE])
def test_the_tools_say_what_rabbitmqs_do(single, line, code, text, keys):
    node, tools = single
    of_this = {"node": node.tool_name, "port": node.port, "pid_file": node.pid_file}
    line = line.format(**of_this)
    out, err = tools.call(line, code)
    # Replaced by hand: a pattern has braces of its own.
    for word, value in of_this.items():
        text = text and text.replace(f"{{{word}}}", re.escape(str(value)))
    assert text is None or re.fullmatch(text, out), repr(out)
    assert code == 0 or err
    if keys is not None:
        assert set(tools.json(line, code)) == keys


def test_an_application_that_is_stopped_serves_nobody_and_is_started_again(single):
    node, tools = single
    client = connect(node)
    tools.call(f"{C} stop_app")
    # RabbitMQ's ends the connection in its own way; that it has ended is what counts.
    with pytest.raises(pika.exceptions.AMQPError):
        until(lambda: client.process_data_events(time_limit=0.1), "the client is still served")
    with pytest.raises(pika.exceptions.AMQPError):
        connect(node)
    assert tools.json(f"{D} is_running")["result"] is False
    tools.call(f"{D} check_running", 69)
    tools.call(f"{C} stop_app")
    tools.call(f"{C} start_app")
    tools.call(f"{C} start_app")
    assert tools.json(f"{D} is_running")["result"] is True
    connect(node).close()


def test_a_node_alone_is_drained_and_revived(single):
    node, tools = single
    tools.call(f"{U} drain")
    with pytest.raises(pika.exceptions.AMQPError):
        connect(node)
    assert tools.json(f"{C} status")["is_under_maintenance"] is True
    # That is not stopped.
    tools.call(f"{D} check_running")
    tools.call(f"{U} revive")
    assert tools.json(f"{C} status")["is_under_maintenance"] is False
    connect(node).close()


def test_what_is_built_in_is_listed_as_plugins(own):
    node, tools = own
    on = tools.call(f"{P} list -e -m")[0].split()
    assert "rabbitmq_consistent_hash_exchange" in on
    # Nothing listens for HTTP here.
    assert "rabbitmq_management" not in on
    tools.call(f"{P} is_enabled rabbitmq_management", 69)
    tools.call(f"{P} is_enabled rabbitmq_consistent_hash_exchange")
    tools.call(f"{P} enable rabbitmq_consistent_hash_exchange")
    tools.call(f"{P} disable rabbitmq_consistent_hash_exchange", 69)
    assert "plugins_not_found" in tools.call(f"{P} enable rabbitmq_shovel", 70)[1]


def test_settings_are_told_without_passwords(own, tmp_path):
    node, tools = own
    settings = tools.json(f"{C} environment")["leveret"]
    assert settings["leveret.pid_file"] == str(node.pid_file)
    assert settings["default_pass"] == "********"
    report, _ = tools.call(f"{C} report", silent=False)
    for part in ("Reporting server status of node", "Cluster status of node", "Listing queues for vhost /", "default_user"):
        assert part in report, part
    # It needs no node.
    nobody = Tools(tools.folder, {"LEVERET_CTL_SOCKET": str(tmp_path / "none")})
    assert "Nothing to force" in nobody.call(f"{C} force_boot")[0]
    nobody.call(f"{P} enable rabbitmq_management")
    nobody.call(f"{C} ping", 69)


def test_keys_of_mirroring_are_taken_out_of_policies(own):
    node, tools = own
    tools.call(C + """ set_policy ha-all ^ {"ha-mode":"all"}""")
    tools.call(C + """ set_policy both ^b {"ha-mode":"all","max-length":7}""")
    tools.call(f"{C} remove_classic_queue_mirroring_from_policies")
    left = {policy["name"]: policy["definition"] for policy in tools.json(f"{C} list_policies")}
    assert set(left) == {"both"}
    assert "ha-mode" not in left["both"] and "max-length" in left["both"]
    tools.call(f"{C} clear_policy both")


def members(tools, queue):
    rows = tools.json(f"{Q} quorum_status {queue}")
    return {row["Node Name"]: row["Raft State"] for row in rows}


def test_the_tools_tell_of_three_nodes_of_which_one_is_killed(cluster_of, tmp_path):
    cluster = cluster_of({})
    folder = links(cluster.binary, tmp_path / "bin")
    one, two, three = (tools_of(node, folder) for node in cluster.nodes)
    names = [name_of(node) for node in cluster.nodes]
    one.call(f"{C} await_online_nodes 3 -t {DEADLINE_S}")
    client = connect(cluster.nodes[1])
    client.channel().queue_declare("q", durable=True)
    client.close()

    def all_follow():
        seen = members(two, "q")
        return sorted(seen) == sorted(names) and sorted(seen.values()) == ["follower", "follower", "leader"]

    until(all_follow, "not one leader and two followers", describe=lambda: members(two, "q"))
    one.call(f"{U} await_online_quorum_plus_one -t {DEADLINE_S}")
    one.call(f"{D} check_if_node_is_quorum_critical")
    # Another node is asked through the own one.
    assert one.json(f"{C} -n {names[1]} status")["node_name"] == names[1]
    assert one.json(f"{C} -n node3 status")["node_name"] == names[2]
    assert "no node of this cluster" in one.call(f"{C} -n nobody@nowhere status", 69)[1]
    one.call(f"{C} -n {names[1]} stop", 69)
    elsewhere = Tools(folder, {**one.environment, "RABBITMQ_NODENAME": names[2]})
    assert elsewhere.json(f"{C} status")["node_name"] == names[2]
    # Every node has every queue.
    one.call(f"{Q} grow {names[2]} all")
    assert "nothing was done" in one.call(f"{Q} delete_member q {names[2]}", 69)[1]

    cluster.nodes[2].kill()

    def is_critical():
        return one_failed(one, f"{D} check_if_node_is_quorum_critical")

    until(is_critical, "one of two nodes is not critical")
    one.call(f"{U} await_online_quorum_plus_one -t 1", 69)
    until(lambda: members(one, "q").get(names[2]) == "noproc", "the dead member is not shown as such")
    one.call(f"{C} -n {names[2]} status", 69)
    cluster.nodes[2].start()
    one.call(f"{C} await_online_nodes 3 -t {DEADLINE_S}")
    one.call(f"{U} await_online_quorum_plus_one -t {DEADLINE_S}")

    client = connect(cluster.nodes[0])
    one.call(f"{C} stop_app")
    with pytest.raises(pika.exceptions.AMQPError):
        until(lambda: client.process_data_events(time_limit=0.1), "the client is still served")
    assert members(two, "q")[names[0]] != "leader"
    other = connect(cluster.nodes[1])
    channel = other.channel()
    channel.confirm_delivery()
    channel.basic_publish("", "q", b"x", mandatory=True)
    one.call(f"{C} start_app")
    back = connect(cluster.nodes[0])
    until(lambda: back.channel().basic_get("q", auto_ack=True)[2] == b"x", "the message is missing")
    back.close()
    other.close()


def one_failed(tools, line):
    try:
        tools.call(line, 69)
    except AssertionError:
        return False
    return True

