"""rabbitmqadmin, as RabbitMQ's management plugin brings it, against the API."""

import glob
import json
import os
import subprocess
import sys

import pytest

PLACES = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins/rabbitmq_management-*/priv/www/cli/rabbitmqadmin"


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    found = glob.glob(os.environ.get("RABBITMQADMIN", PLACES))
    if not found:
        pytest.skip("rabbitmqadmin is not installed; RABBITMQADMIN names one")
    # As it is installed it has a placeholder in it, which RabbitMQ fills when it serves it.
    text = open(found[0], encoding="utf-8").read()
    path = tmp_path_factory.mktemp("rabbitmqadmin") / "rabbitmqadmin"
    path.write_text(text.replace("%%VSN%%", "3.10.8"), encoding="utf-8")
    return path


@pytest.fixture
def admin(script, api, vhost, name):
    """`admin("list", "queues")`: what it prints, in the test's virtual host; it has to succeed."""

    def run(*words, fails=False):
        login = ["-H", "127.0.0.1", "-P", str(api.port), "-u", "guest", "-p", "guest", "-V", name]
        done = subprocess.run(
            [sys.executable, str(script), *login, *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode != 0) is fails, done
        return done.stdout + done.stderr

    return run


def listed(admin, *words):
    return json.loads(admin("-f", "raw_json", "list", *words))


def test_objects_are_declared_listed_and_deleted(admin, name):
    assert "queue declared" in admin("declare", "queue", "name=q", "durable=true", 'arguments={"x-max-length":5}')
    assert "exchange declared" in admin("declare", "exchange", "name=x", "type=topic")
    assert "binding declared" in admin("declare", "binding", "source=x", "destination=q", "routing_key=a.#")
    assert "policy declared" in admin("declare", "policy", "name=p", "pattern=^q", 'definition={"max-length":3}')
    assert "component bogus not found" in admin("declare", "parameter", "component=bogus", "name=a", "value={}", fails=True)
    (queue,) = listed(admin, "queues", "name", "durable", "arguments")
    assert queue == {"name": "q", "durable": True, "arguments": {"x-max-length": 5}}
    assert "x" in [exchange["name"] for exchange in listed(admin, "exchanges")]
    assert ("x", "q", "a.#") in [(b["source"], b["destination"], b["routing_key"]) for b in listed(admin, "bindings")]
    assert [p["name"] for p in listed(admin, "policies") if p["vhost"] == name] == ["p"]
    for kind in ("nodes", "users", "vhosts", "permissions", "connections", "channels", "consumers"):
        assert isinstance(listed(admin, kind), list)
    assert "rabbitmq_version" in admin("show", "overview")
    assert "binding deleted" in admin(
        "delete", "binding", "source=x", "destination_type=queue", "destination=q", "properties_key=a.%23"
    )
    assert "policy deleted" in admin("delete", "policy", "name=p")
    assert "exchange deleted" in admin("delete", "exchange", "name=x")
    assert "queue deleted" in admin("delete", "queue", "name=q")
    assert "Not found" in admin("delete", "queue", "name=q", fails=True)


def test_messages_and_users(admin, name):
    admin("declare", "queue", "name=q")
    assert "Message published" in admin("publish", "routing_key=q", "payload=hello")
    assert "NOT routed" in admin("publish", "routing_key=nobody", "payload=hello")
    assert "hello" in admin("get", "queue=q", "ackmode=ack_requeue_true")
    assert "queue purged" in admin("purge", "queue", "name=q")
    assert "No items" in admin("get", "queue=q", "ackmode=ack_requeue_false")
    assert "user declared" in admin("declare", "user", f"name={name}", "password=secret", "tags=management")
    assert "permission declared" in admin(
        "declare", "permission", f"vhost={name}", f"user={name}", "configure=.*", "write=.*", "read=.*"
    )
    assert "user deleted" in admin("delete", "user", f"name={name}")


def test_definitions_are_exported_and_imported(admin, tmp_path):
    admin("declare", "queue", "name=q", "durable=true")
    file = tmp_path / "definitions.json"
    assert "Exported definitions" in admin("export", str(file))
    admin("delete", "queue", "name=q")
    assert "Uploaded definitions" in admin("import", str(file))
    assert [queue["name"] for queue in listed(admin, "queues", "name")] == ["q"]
