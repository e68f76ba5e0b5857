"""Users, virtual hosts, permissions and limits. Needs --ctl or --http-api."""

import uuid

import pytest

from admin import AdminError
from support import check_refusal, refused, wait_until
from wire import Refused, Wire

# The operator's command takes long: with pytest-xdist one worker makes the users and keeps them.
pytestmark = pytest.mark.xdist_group("access")


@pytest.fixture(scope="session")
def lettered(admin, realm):
    """A user whose permission on a name is told by the letters before its first dash: c, w and r."""
    user = f"spec-lettered-{uuid.uuid4().hex[:8]}"
    admin.add_user(user, "secret")
    configure, write, read = "^[wr]*c[wr]*-", "^[cr]*w[cr]*-", "^[cw]*r[cw]*-|^amq[.]fanout$"
    admin.set_permissions(realm.vhost, user, configure, write, read)
    yield realm._replace(user=user, password="secret")
    admin.delete_user(user)


@pytest.fixture
def limited(connect, lettered):
    """Opens channels as that user."""
    wire = connect(to=lettered)
    return wire.channel


@pytest.fixture
def denied(realm, lettered):
    """The text for a thing that the user may not use so."""

    def text(kind, name):
        return (
            f"ACCESS_REFUSED - access to {kind} '{name}' in vhost '{realm.vhost}'"
            f" refused for user '{lettered.user}'"
        )

    return text


# -- resources -----------------------------------------------------------------------------------


def test_declare_queue_needs_configure(limited, denied, names):
    name = f"wr-{names.unique()}"
    with refused(403, denied("queue", name), "queue.declare"):
        limited().declare(name)
    limited().declare(f"c-{names.unique()}")


def test_server_named_queue_needs_configure(limited):
    with pytest.raises(Refused) as caught:
        limited().declare("", exclusive=True)
    assert (caught.value.code, caught.value.ids) == (403, (50, 10))
    assert caught.value.text.startswith("ACCESS_REFUSED - access to queue 'amq.gen-")


def test_passive_declare_needs_nothing(limited, master, names):
    queue, exchange = f"x-{names.unique()}", f"x-{names.unique()}"
    master.declare(queue)
    master.exchange(exchange)
    limited().declare(queue, passive=True)
    limited().exchange(exchange, passive=True)


def test_dead_letter_exchange_needs_read_and_write(limited, denied, names):
    """Read on the queue, write on the dead letter exchange."""
    dlx, queue = f"w-{names.unique()}", f"c-{names.unique()}"
    with refused(403, denied("queue", queue), "queue.declare"):
        limited().declare(queue, arguments={"x-dead-letter-exchange": dlx})
    dlx, queue = f"x-{names.unique()}", f"cr-{names.unique()}"
    with refused(403, denied("exchange", dlx), "queue.declare"):
        limited().declare(queue, arguments={"x-dead-letter-exchange": dlx})
    limited().declare(queue, arguments={"x-dead-letter-exchange": "w-any"})


def test_delete_queue_needs_configure(limited, master, denied, names):
    name = f"wr-{names.unique()}"
    master.declare(name)
    with refused(403, denied("queue", name), "queue.delete"):
        limited().delete(name)


@pytest.mark.parametrize("method", ["queue.bind", "queue.unbind"])
def test_bind_needs_write_on_the_queue_and_read_on_the_exchange(
    limited, master, denied, names, method
):
    bad_queue, queue = f"cr-{names.unique()}", f"w-{names.unique()}"
    for name in (bad_queue, queue):
        master.declare(name)
    with refused(403, denied("queue", bad_queue), method):
        limited().call(method, queue=bad_queue, exchange="amq.fanout")
    with refused(403, denied("exchange", "amq.direct"), method):
        limited().call(method, queue=queue, exchange="amq.direct")
    limited().call(method, queue=queue, exchange="amq.fanout")


@pytest.mark.parametrize("method", ["basic.get", "basic.consume", "queue.purge"])
def test_reading_needs_read(limited, master, denied, names, method):
    name, good = f"cw-{names.unique()}", f"r-{names.unique()}"
    for queue in (name, good):
        master.declare(queue)
    with refused(403, denied("queue", name), method):
        limited().call(method, queue=name)
    limited().call(method, queue=good)


def test_publish_needs_write(limited, master, denied, names):
    name, good = f"cr-{names.unique()}", f"w-{names.unique()}"
    for exchange in (name, good):
        master.exchange(exchange)
    channel = limited()
    channel.publish(name, "k", b"x")
    with refused(403, denied("exchange", name), "basic.publish"):
        channel.next()
    channel = limited()
    channel.confirm()
    channel.publish(good, "k", b"x")
    channel.expect("basic.ack")


def test_publish_to_a_missing_exchange_is_refused_first(limited, denied, names):
    name = f"cr-{names.unique()}"
    channel = limited()
    channel.publish(name, "k", b"x")
    with refused(403, denied("exchange", name), "basic.publish"):
        channel.next()


def test_default_exchange_is_called_amq_default(limited, denied):
    channel = limited()
    channel.publish("", "k", b"x")
    with refused(403, denied("exchange", "amq.default"), "basic.publish"):
        channel.next()


def test_declare_exchange_needs_configure(limited, denied, names):
    name = f"wr-{names.unique()}"
    with refused(403, denied("exchange", name), "exchange.declare"):
        limited().exchange(name)
    limited().exchange(f"c-{names.unique()}")


def test_alternate_exchange_needs_read_and_write(limited, denied, names):
    alternate, name = f"w-{names.unique()}", f"c-{names.unique()}"
    with refused(403, denied("exchange", name), "exchange.declare"):
        limited().exchange(name, arguments={"alternate-exchange": alternate})
    alternate, name = f"x-{names.unique()}", f"cr-{names.unique()}"
    with refused(403, denied("exchange", alternate), "exchange.declare"):
        limited().exchange(name, arguments={"alternate-exchange": alternate})


def test_delete_exchange_needs_configure(limited, master, denied, names):
    name = f"wr-{names.unique()}"
    master.exchange(name)
    with refused(403, denied("exchange", name), "exchange.delete"):
        limited().call("exchange.delete", exchange=name)


@pytest.mark.parametrize("method", ["exchange.bind", "exchange.unbind"])
def test_exchange_bind_needs_write_and_read(limited, master, denied, names, method):
    target, source = f"cr-{names.unique()}", f"r-{names.unique()}"
    good_target, bad_source = f"w-{names.unique()}", f"cw-{names.unique()}"
    for name in (target, source, good_target, bad_source):
        master.exchange(name)
    with refused(403, denied("exchange", target), method):
        limited().call(method, destination=target, source=source)
    with refused(403, denied("exchange", bad_source), method):
        limited().call(method, destination=good_target, source=bad_source)
    limited().call(method, destination=good_target, source=source)


def test_a_refusal_leaves_the_connection(connect, lettered, names):
    wire = connect(to=lettered)
    with pytest.raises(Refused):
        wire.channel().declare(f"x-{names.unique()}")
    wire.channel().declare(f"c-{names.unique()}")


# -- topics --------------------------------------------------------------------------------------


def topic_denied(realm, user, key):
    return (
        f"ACCESS_REFUSED - access to topic '{key}' in exchange 'amq.topic'"
        f" in vhost '{realm.vhost}' refused for user '{user}'"
    )


@pytest.fixture
def topical(admin, realm, add_user):
    user = add_user(configure=".*", write=".*", read=".*")
    admin.set_topic_permissions(realm.vhost, user.user, "amq.topic", "^w[.]", "^r[.]")
    return user


def test_topic_permissions(connect, realm, topical, names):
    wire = connect(to=topical)
    channel = wire.channel()
    queue = channel.declare(names.unique(), exclusive=True).queue
    channel.bind(queue, "amq.topic", "r.#")
    channel.confirm()
    channel.publish("amq.topic", "w.a", b"x")
    channel.expect("basic.ack")
    channel.publish("amq.topic", "r.a", b"x")
    with refused(403, topic_denied(realm, topical.user, "r.a"), "basic.publish"):
        channel.next()
    with refused(403, topic_denied(realm, topical.user, "w.#"), "queue.bind"):
        wire.channel().bind(queue, "amq.topic", "w.#")
    other = wire.channel()
    other.exchange(names.unique(), "topic")
    other.confirm()
    other.publish("amq.direct", "anything", b"x")
    other.expect("basic.ack")


# -- virtual hosts -------------------------------------------------------------------------------


def open_refusal(connect, user):
    """What connection.open is answered."""
    wire = connect(stage=Wire.tuned, to=user)
    wire.tune_ok()
    wire.send(0, "connection.open", virtual_host=user.vhost)
    with pytest.raises(Refused) as caught:
        wire.next(0)
    return caught.value


def test_vhost_without_permissions(connect, add_user):
    user = add_user()
    check_refusal(
        open_refusal(connect, user),
        530,
        f"NOT_ALLOWED - access to vhost '{user.vhost}' refused for user '{user.user}'",
        "connection.open",
        "connection",
    )


def test_permissions_that_match_nothing_are_enough_for_the_vhost(connect, add_user):
    connect(to=add_user(configure="^$", write="^$", read="^$")).channel()


def test_vhosts_are_apart(ch, master, names):
    """The same name in two virtual hosts is two queues."""
    name = names.queue()
    ch.declare(name, auto_delete=True)
    assert master.declare(name, durable=True).message_count == 0
    master.confirm()
    master.put(name, b"x")
    assert ch.get(name) is None


def test_deleting_a_vhost_closes_its_connections(admin, broker, connect):
    vhost = f"spec-vhost-{uuid.uuid4().hex[:8]}"
    admin.add_vhost(vhost)
    admin.set_permissions(vhost, broker.user)
    wire = connect(to=broker._replace(vhost=vhost))
    wire.channel().declare("q", durable=True)
    admin.delete_vhost(vhost)
    with pytest.raises(Refused) as caught:
        wire.next(0)
    check_refusal(
        caught.value,
        320,
        f"CONNECTION_FORCED - vhost '{vhost}' is deleted",
        None,
        "connection",
    )


def test_new_vhost_has_the_built_in_exchanges(master):
    for name in ("direct", "fanout", "topic", "headers", "match"):
        master.exchange(f"amq.{name}", passive=True)


# -- users ---------------------------------------------------------------------------------------


def test_new_user_logs_in(connect, add_user):
    user = add_user(configure=".*", write=".*", read=".*")
    connect(to=user).channel()
    wire = connect(stage=Wire.started)
    wire.start_ok(user, response=f"\0{user.user}\0wrong")
    with pytest.raises(Refused) as caught:
        wire.next(0)
    assert caught.value.code == 403


def test_deleting_a_user_closes_its_connections(admin, realm, connect):
    user = f"spec-user-{uuid.uuid4().hex[:8]}"
    admin.add_user(user, "secret")
    admin.set_permissions(realm.vhost, user)
    wire = connect(to=realm._replace(user=user, password="secret"))
    admin.delete_user(user)
    with pytest.raises(Refused) as caught:
        wire.next(0)
    check_refusal(
        caught.value, 320, f"CONNECTION_FORCED - user '{user}' is deleted", None, "connection"
    )


def test_permissions_change_live(admin, connect, add_user, names):
    """A channel opened after the change goes by it."""
    user = add_user(configure="^$")
    wire = connect(to=user)
    with pytest.raises(Refused):
        wire.channel().declare(names.unique())
    admin.set_permissions(user.vhost, user.user, configure=".*", write="^$", read="^$")
    wire.channel().declare(names.unique(), auto_delete=True)


def test_impersonator(admin, connect, add_user, names):
    """A user with that tag may claim any user-id."""
    user = add_user(configure=".*", write=".*", read=".*")
    admin.set_user_tags(user.user, "impersonator")
    channel = connect(to=user).channel()
    queue = channel.declare(names.unique(), exclusive=True).queue
    channel.confirm()
    channel.put(queue, b"x", user_id="somebody")
    assert channel.get(queue).properties == {"user_id": "somebody"}


def test_user_that_exists_already(admin, add_user):
    user = add_user()
    if not hasattr(admin, "run"):
        pytest.skip("the HTTP API updates instead")
    with pytest.raises(AdminError):
        admin.add_user(user.user, "other")


# -- limits --------------------------------------------------------------------------------------


@pytest.fixture
def small_vhost(admin, broker):
    vhost = f"spec-vhost-{uuid.uuid4().hex[:8]}"
    admin.add_vhost(vhost)
    admin.set_permissions(vhost, broker.user)
    yield broker._replace(vhost=vhost)
    admin.delete_vhost(vhost)


def test_vhost_limits(admin, connect, small_vhost):
    vhost, user = small_vhost.vhost, small_vhost.user
    admin.set_vhost_limits(vhost, max_connections=1, max_queues=1)
    wire = connect(to=small_vhost)
    text = (
        f"NOT_ALLOWED - access to vhost '{vhost}' refused for user '{user}':"
        " connection limit (1) is reached"
    )

    def full():
        """The broker counts connections a moment after they open."""
        refusal = open_refusal_or_none(connect, small_vhost)
        if refusal:
            check_refusal(refusal, 530, text, "connection.open", "connection")
        return refusal

    wait_until(full, "the connection limit")
    channel = wire.channel()
    channel.declare("first")
    channel.declare("first")
    text = (
        "PRECONDITION_FAILED - cannot declare queue 'second':"
        f" queue limit in vhost '{vhost}' (1) is reached"
    )
    with refused(406, text, "queue.declare"):
        channel.declare("second")
    admin.clear_vhost_limits(vhost)
    wire.channel().declare("second")


def open_refusal_or_none(connect, user):
    wire = connect(stage=Wire.tuned, to=user)
    wire.tune_ok()
    wire.send(0, "connection.open", virtual_host=user.vhost)
    try:
        wire.expect(0, "connection.open-ok")
    except Refused as refusal:
        return refusal
    wire.close()
    return None


def test_vhost_that_takes_no_connections(admin, connect, small_vhost):
    admin.set_vhost_limits(small_vhost.vhost, max_connections=0)
    check_refusal(
        open_refusal(connect, small_vhost),
        530,
        f"NOT_ALLOWED - access to vhost '{small_vhost.vhost}' refused for user"
        f" '{small_vhost.user}': connection limit (0) is reached",
        "connection.open",
        "connection",
    )


def test_user_limits(admin, connect, add_user):
    user = add_user(configure=".*", write=".*", read=".*")
    admin.set_user_limits(user.user, max_connections=1, max_channels=2)
    wire = connect(to=user)
    text = (
        f"NOT_ALLOWED - connection refused for user '{user.user}':"
        " user connection limit (1) is reached"
    )

    def full():
        refusal = open_refusal_or_none(connect, user)
        if refusal:
            check_refusal(refusal, 530, text, "connection.open", "connection")
        return refusal

    wait_until(full, "the connection limit")
    text = (
        f"NOT_ALLOWED - number of channels opened for user '{user.user}'"
        " has reached the maximum allowed user limit of (2)"
    )

    def no_more():
        """The broker counts channels a moment after they open."""
        try:
            wire.channel()
        except Refused as refusal:
            check_refusal(refusal, 530, text, None, "connection")
            return True
        return False

    wait_until(no_more, "the channel limit")
