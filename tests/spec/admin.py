"""What the access tests ask of a broker's operator, behind one interface with two implementations.

`CtlAdmin` runs a command with rabbitmqctl's verbs and flags (`rabbitmqctl -n node`, `leveret ctl ...`).
`HttpAdmin` speaks RabbitMQ's management HTTP API. Every call returns when the broker has done it, and
raises AdminError when it refuses.
"""

import base64
import json
import shlex
import subprocess
import urllib.error
import urllib.request
from urllib.parse import quote

CALL_DEADLINE_S = 30


class AdminError(Exception):
    """The broker or its command line refused, with its words."""


class CtlAdmin:
    """Runs `prefix verb arguments`."""

    def __init__(self, prefix):
        self.prefix = shlex.split(prefix)

    def run(self, *arguments):
        done = subprocess.run(
            [*self.prefix, *arguments],
            capture_output=True,
            text=True,
            timeout=CALL_DEADLINE_S,
            check=False,
        )
        if done.returncode != 0:
            raise AdminError(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def add_vhost(self, vhost):
        self.run("add_vhost", vhost)

    def delete_vhost(self, vhost):
        self.run("delete_vhost", vhost)

    def add_user(self, user, password):
        self.run("add_user", user, password)

    def delete_user(self, user):
        self.run("delete_user", user)

    def set_user_tags(self, user, *tags):
        self.run("set_user_tags", user, *tags)

    def set_permissions(self, vhost, user, configure=".*", write=".*", read=".*"):
        self.run("set_permissions", "-p", vhost, user, configure, write, read)

    def clear_permissions(self, vhost, user):
        self.run("clear_permissions", "-p", vhost, user)

    def set_topic_permissions(self, vhost, user, exchange, write, read):
        self.run("set_topic_permissions", "-p", vhost, user, exchange, write, read)

    def set_vhost_limits(self, vhost, **limits):
        self.run("set_vhost_limits", "-p", vhost, dashed_json(limits))

    def clear_vhost_limits(self, vhost):
        self.run("clear_vhost_limits", "-p", vhost)

    def set_user_limits(self, user, **limits):
        self.run("set_user_limits", user, dashed_json(limits))

    def clear_user_limits(self, user):
        self.run("clear_user_limits", user, "all")

    def set_policy(
        self, vhost, name, pattern, definition, priority=0, apply_to="all", operator=False
    ):
        self.run(
            "set_operator_policy" if operator else "set_policy",
            "-p",
            vhost,
            "--priority",
            str(priority),
            "--apply-to",
            apply_to,
            name,
            pattern,
            json.dumps(definition),
        )

    def clear_policy(self, vhost, name, operator=False):
        self.run("clear_operator_policy" if operator else "clear_policy", "-p", vhost, name)


class HttpAdmin:
    """Speaks the management HTTP API at `url` (with user and password in it)."""

    def __init__(self, url, user="guest", password="guest"):
        self.url = url.rstrip("/")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.headers = {"Authorization": "Basic " + token, "Content-Type": "application/json"}

    def request(self, verb, *path, body=None):
        url = "/".join([self.url, "api", *(quote(piece, safe="") for piece in path)])
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, self.headers, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=CALL_DEADLINE_S) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            raise AdminError(f"{verb} {path}: {error.code} {error.read().decode()}") from None

    def add_vhost(self, vhost):
        self.request("PUT", "vhosts", vhost, body={})

    def delete_vhost(self, vhost):
        self.request("DELETE", "vhosts", vhost)

    def add_user(self, user, password):
        self.request("PUT", "users", user, body={"password": password, "tags": ""})
        self.passwords = {**getattr(self, "passwords", {}), user: password}

    def delete_user(self, user):
        self.request("DELETE", "users", user)

    def set_user_tags(self, user, *tags):
        body = {"password": self.passwords[user], "tags": ",".join(tags)}
        self.request("PUT", "users", user, body=body)

    def set_permissions(self, vhost, user, configure=".*", write=".*", read=".*"):
        body = {"configure": configure, "write": write, "read": read}
        self.request("PUT", "permissions", vhost, user, body=body)

    def clear_permissions(self, vhost, user):
        self.request("DELETE", "permissions", vhost, user)

    def set_topic_permissions(self, vhost, user, exchange, write, read):
        body = {"exchange": exchange, "write": write, "read": read}
        self.request("PUT", "topic-permissions", vhost, user, body=body)

    def set_vhost_limits(self, vhost, **limits):
        for name, value in limits.items():
            self.request("PUT", "vhost-limits", vhost, dashed(name), body={"value": value})

    def clear_vhost_limits(self, vhost):
        for name in ("max-connections", "max-queues"):
            self.request("DELETE", "vhost-limits", vhost, name)

    def set_user_limits(self, user, **limits):
        for name, value in limits.items():
            self.request("PUT", "user-limits", user, dashed(name), body={"value": value})

    def clear_user_limits(self, user):
        for name in ("max-connections", "max-channels"):
            self.request("DELETE", "user-limits", user, name)

    def set_policy(
        self, vhost, name, pattern, definition, priority=0, apply_to="all", operator=False
    ):
        body = {
            "pattern": pattern,
            "definition": definition,
            "priority": priority,
            "apply-to": apply_to,
        }
        kind = "operator-policies" if operator else "policies"
        self.request("PUT", kind, vhost, name, body=body)

    def clear_policy(self, vhost, name, operator=False):
        self.request("DELETE", "operator-policies" if operator else "policies", vhost, name)


def dashed(name):
    return name.replace("_", "-")


def dashed_json(limits):
    return json.dumps({dashed(name): value for name, value in limits.items()})
