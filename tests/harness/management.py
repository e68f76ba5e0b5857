"""A broker with its HTTP API, and a small client of it: every answer as status, headers and body."""

import base64
import http.client
import json
import time
import urllib.parse
from typing import NamedTuple

import pika

from .servers import free_port

DEADLINE_S = 120


def q(name):
    """A name as a segment of a path."""
    return urllib.parse.quote(name, safe="")


class Answer(NamedTuple):
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def refusal(self):
        """The status, the kind and the reason of a refusal."""
        body = self.json
        return self.status, body["error"], body["reason"]


class Api:
    """The API at a port, as some user."""

    def __init__(self, port, user="guest", password="guest"):
        self.port = port
        self.login = None if user is None else f"{user}:{password}"

    def user(self, user, password="secret"):
        return Api(self.port, user, password)

    def send(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            if self.login is not None:
                headers.setdefault("Authorization", "Basic " + base64.b64encode(self.login.encode()).decode())
            if body is not None:
                headers.setdefault("Content-Type", "application/json")
                body = body if isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, lower, response.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.send("GET", "/api" + path, **headers)

    def put(self, path, body=None, **headers):
        return self.send("PUT", "/api" + path, {} if body is None else body, **headers)

    def post(self, path, body=None, **headers):
        return self.send("POST", "/api" + path, {} if body is None else body, **headers)

    def delete(self, path, **headers):
        return self.send("DELETE", "/api" + path, **headers)

    def eventually(self, path, holds):
        """The JSON of a path once `holds` is true of it: statistics come every few seconds in RabbitMQ. Nobody may listen yet."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                answer = self.get(path)
                if answer.status == 200 and holds(answer.json):
                    return answer.json
            except ConnectionRefusedError as error:
                answer = error
            assert time.monotonic() < deadline, (path, str(answer)[:2000])
            time.sleep(0.1)


class Managed(NamedTuple):
    server: object
    api: Api
    metrics: Api

    def connect(self):
        return pika.BlockingConnection(pika.URLParameters(self.server.url() + "?heartbeat=0"))


def start(launch, name="managed", **settings):
    ports = free_port(), free_port()
    server = launch(
        name,
        **{
            "management.tcp.port": ports[0],
            "management.tcp.ip": "127.0.0.1",
            "prometheus.tcp.port": ports[1],
            "prometheus.tcp.ip": "127.0.0.1",
            **settings,
        },
    )
    server.plugins = ("rabbitmq_management", "rabbitmq_prometheus")
    server.start()
    api = Api(ports[0])
    api.eventually("/whoami", lambda _: True)
    return Managed(server, api, Api(ports[1], None))
