"""Every route of the description: nobody gets in without a login, and no name in a path breaks anything."""

import re

import pytest
from harness.management import q

# Names that mean something to a shell, a browser, a log, a file system, Unicode, or AMQP.
HOSTILE = (
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "a/b?c=d#e&f",
    "quote\"'`;--",
    "line\r\nbreak",
    "nul\0",
    "naïve ☃ \U0001f407",
    "\u202eright to left",
    "x" * 256,
    "{queue}",
    "amq.default",
    " ",
)


def operations(api):
    for path, ops in api.user(None).get("/openapi.json").json["paths"].items():
        for method in ops:
            yield method.upper(), path


def fill(path, value):
    return re.sub(r"\{\w+\}", lambda _: value, path)


@pytest.mark.leveret_only
def test_no_route_lets_anybody_in_without_a_login(api):
    nobody, seen = api.user(None), 0
    for method, path in operations(api):
        answer = nobody.send(method, fill(path, "x"), {} if method in ("PUT", "POST") else None)
        assert (answer.status, answer.json["error"]) == (401, "not_authorized"), (method, path)
        assert answer.headers["www-authenticate"].startswith("Basic"), (method, path)
        seen += 1
    assert seen > 100


@pytest.mark.leveret_only
@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_names(api, hostile):
    for method, path in operations(api):
        if method == "GET" and "{" in path:
            answer = api.send(method, fill(path, q(hostile)))
            # A check that fails says so with 503.
            most = 503 if "/health/checks/" in path else 499
            assert 200 <= answer.status <= most, (path, answer)
            if answer.body and answer.status != 200:
                assert answer.headers["content-type"].startswith("application/json"), (path, answer)


@pytest.mark.leveret_only
@pytest.mark.parametrize("body", (b"[]", b'"x"', b"1", b"{", b"\xff", b"[" * 100_000), ids=range(6))
def test_bodies_that_are_no_objects_are_refused(api, body):
    """Whatever a route is for: where a body is read, it has to be an object, and no depth of it does any harm."""
    paths = api.user(None).get("/openapi.json").json["paths"]
    for path, ops in paths.items():
        for method, op in ops.items():
            if "requestBody" in op and "definitions" not in path and "all-configuration" not in path:
                answer = api.send(method.upper(), fill(path, "%2F"), body)
                assert answer.status in (400, 404), (method, path, answer)


@pytest.mark.leveret_only
def test_bytes_that_are_no_text_are_refused(api):
    for method, path in operations(api):
        if method == "GET" and "{" in path:
            answer = api.send(method, fill(path, "%FF%FE"))
            assert answer.status in (400, 404), (path, answer)


@pytest.mark.leveret_only
def test_names_longer_than_amqp_has_are_not_made(api):
    assert api.put(f"/vhosts/{'v' * 256}").refusal == (400, "bad_request", "a name is longer than 255 bytes")
    assert api.put(f"/queues/%2F/{'q' * 256}").status == 400
    assert api.put(f"/exchanges/%2F/{'x' * 256}").status == 400
