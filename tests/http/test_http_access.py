"""Who may ask what: logins, tags, users, permissions."""

import pytest


@pytest.fixture
def person(api, name, vhost):
    """`person(tags, enters=True)`: a user with tags, who may enter the test's virtual host; the API as that user."""
    made = []

    def make(tags, enters=True):
        user = f"{name}-{len(made)}"
        assert api.put(f"/users/{user}", {"password": "secret", "tags": tags}).status == 201
        made.append(user)
        if enters:
            everything = {"configure": ".*", "write": ".*", "read": ".*"}
            assert api.put(f"/permissions/{vhost}/{user}", everything).status == 201
        return api.user(user)

    yield make
    for user in made:
        api.delete(f"/users/{user}")


def test_nobody_is_let_in_without_a_login(api):
    answer = api.user(None).get("/whoami")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="RabbitMQ Management"'
    assert api.user("guest", "wrong").get("/whoami").refusal == (401, "not_authorized", "Login failed")
    assert api.user(None).get("/overview", Authorization="Bearer x").status == 401
    for malformed in ("Basic !!", "Basic YQ==", "Basic"):
        assert api.user(None).get("/overview", Authorization=malformed).status == 400, malformed


def test_who_is_asking(api):
    me = api.get("/whoami").json
    assert (me["name"], me["tags"]) == ("guest", ["administrator"])


@pytest.mark.leveret_only
def test_failed_logins_are_slowed_down(api, name):
    somebody = api.user(name, "wrong")
    assert [somebody.get("/whoami").status for _ in range(12)] == [401] * 10 + [429] * 2
    assert somebody.get("/whoami").headers["retry-after"] == "30"
    assert api.get("/whoami").status == 200


@pytest.mark.parametrize(
    ("tags", "may"),
    [
        ("", []),
        ("management", ["/overview", "/queues", "/vhosts", "/connections"]),
        ("policymaker", ["/overview", "/queues", "/parameters", "/global-parameters"]),
        ("monitoring", ["/overview", "/queues", "/nodes"]),
        ("administrator", ["/overview", "/queues", "/nodes", "/users", "/permissions", "/parameters", "/definitions"]),
    ],
)
def test_tags_open_doors(person, tags, may):
    somebody = person(tags)
    doors = ["/overview", "/queues", "/nodes", "/users", "/permissions", "/parameters", "/definitions"]
    for path in doors:
        expected = 200 if path in may else 401
        assert somebody.get(path).status == expected, path
    for path in may:
        assert somebody.get(path).status == 200, path


def test_reasons_of_closed_doors(person, vhost):
    somebody = person("management", enters=False)
    assert person("").get("/whoami").refusal == (401, "not_authorised", "Not management user")
    assert somebody.get("/nodes").refusal == (401, "not_authorised", "Not monitor user")
    assert somebody.get("/users").refusal == (401, "not_authorised", "Not administrator user")
    denied = (401, "not_authorised", "User not authorised to access virtual host")
    assert somebody.get(f"/queues/{vhost}").refusal == denied
    policy = {"pattern": "^a", "definition": {"max-length": 1}}
    denied = (401, "not_authorised", "User not authorised to access object")
    assert somebody.put(f"/policies/{vhost}/p", policy).refusal == denied
    assert person("policymaker").put(f"/policies/{vhost}/p", policy).status == 201


def test_lists_show_what_one_may_see(api, person, vhost):
    assert api.put(f"/queues/{vhost}/seen").status == 201
    inside, outside = person("management"), person("management", enters=False)
    assert [queue["name"] for queue in inside.get("/queues").json] == ["seen"]
    assert outside.get("/queues").json == []
    assert outside.get("/vhosts").json == []
    assert len(inside.get("/vhosts").json) == 1
    assert inside.get("/overview").json["object_totals"]["queues"] == 1
    assert outside.get("/overview").json["object_totals"]["queues"] == 0


def test_permissions_are_those_of_the_user(api, person, vhost):
    somebody = person("management", enters=False)
    user = somebody.login.split(":")[0]
    only_reading = {"configure": "", "write": "", "read": ".*"}
    assert api.put(f"/permissions/{vhost}/{user}", only_reading).status == 201
    assert somebody.put(f"/queues/{vhost}/q").refusal == (401, "not_authorised", "Access refused.")
    assert somebody.get(f"/queues/{vhost}/q").status == 404


def test_users_come_and_go(api, name):
    path = f"/users/{name}"
    assert api.get(path).refusal == (404, "Object Not Found", "Not Found")
    assert api.put(path, {}).refusal == (400, "bad_request", "tags_not_present")
    assert api.put(path, {"password": "secret", "tags": "management"}).status == 201
    assert api.put(path, {"password": "secret", "tags": ["management", "policymaker"]}).status == 204
    user = api.get(path).json
    assert user["tags"] == ["management", "policymaker"]
    assert user["hashing_algorithm"] == "rabbit_password_hashing_sha256"
    assert "secret" not in str(user)
    # The hash is the password for another user.
    other = {"password_hash": user["password_hash"], "tags": "management"}
    assert api.put(path + "-2", other).status == 201
    assert api.user(name + "-2").get("/whoami").status == 200
    assert api.put(path + "-2", {"password_hash": "!!", "tags": ""}).refusal == (400, "bad_request", ["not_base64", "!!"])
    assert api.put(path + "-2", {"password_hash": "", "tags": "management"}).status == 204
    assert api.user(name + "-2", "").get("/whoami").status == 401
    assert name in [user["name"] for user in api.get("/users/without-permissions").json]
    assert api.post("/users/bulk-delete", {"users": [name + "-2"]}).status == 204
    assert api.get(path + "-2").status == 404
    assert api.delete(path).status == 204
    assert api.delete(path).status == 404


def test_permissions_come_and_go(api, person, vhost, name):
    user = person("").login.split(":")[0]
    path = f"/permissions/{vhost}/{user}"
    missing = (400, "bad_request", "[{key_missing,read}]")
    assert api.put(path, {"configure": "", "write": ".*"}).refusal == missing
    assert api.put(path, {"configure": "", "write": ".*", "read": "("}).status == 400
    assert api.put(f"/permissions/no-such/{user}", {"configure": "", "write": "", "read": ""}).refusal == (
        400,
        "bad_request",
        "vhost_or_user_not_found",
    )
    assert api.put(path, {"configure": "a", "write": "b", "read": "c"}).status == 204
    expected = {"user": user, "vhost": name, "configure": "a", "write": "b", "read": "c"}
    assert api.get(path).json == expected
    assert api.get(f"/users/{user}/permissions").json == [expected]
    assert expected in api.get(f"/vhosts/{vhost}/permissions").json
    assert expected in api.get("/permissions").json
    assert api.delete(path).status == 204
    assert api.get(path).status == 404


def test_topic_permissions_come_and_go(api, person, vhost, name):
    user = person("").login.split(":")[0]
    path = f"/topic-permissions/{vhost}/{user}"
    assert api.get(path).status == 404
    assert api.put(path, {"exchange": "amq.topic", "write": "a", "read": "b"}).status == 201
    expected = [{"user": user, "vhost": name, "exchange": "amq.topic", "write": "a", "read": "b"}]
    assert api.get(path).json == expected
    assert api.get(f"/users/{user}/topic-permissions").json == expected
    assert api.delete(path).status == 204
    assert api.get(path).status == 404


def test_limits(api, vhost, name, person):
    assert api.put(f"/vhost-limits/{vhost}/max-queues", {"value": 5}).status == 204
    assert api.get(f"/vhost-limits/{vhost}").json == [{"vhost": name, "value": {"max-queues": 5}}]
    assert api.put(f"/vhost-limits/{vhost}/bogus", {"value": 5}).status == 400
    refusal = 'Validation failed\n\nmax-queues should be a number, actually was <<"a">>\n'
    assert api.put(f"/vhost-limits/{vhost}/max-queues", {"value": "a"}).refusal == (400, "bad_request", refusal)
    for _ in range(2):
        assert api.delete(f"/vhost-limits/{vhost}/max-queues").status == 204
    assert api.get("/vhost-limits/no-such").status == 404
    user = person("").login.split(":")[0]
    assert api.put(f"/user-limits/{user}/max-channels", {"value": 5}).status == 204
    assert api.get(f"/user-limits/{user}").json == [{"user": user, "value": {"max-channels": 5}}]
    assert api.delete(f"/user-limits/{user}/max-channels").status == 204
    assert api.get(f"/user-limits/{user}").json == []
