"""Policies: every key a queue argument has, live, by priority, merged with arguments.

Needs --ctl or --http-api.
"""

import pytest

from admin import AdminError
from support import count, wait_count, wait_until
from wire import Refused

# The operator's command takes long: with pytest-xdist one worker keeps one virtual host for these.
pytestmark = pytest.mark.xdist_group("policy")


def there(connect, realm, queue):
    """Whether a mandatory publish reaches the queue (a declare would count as use)."""
    wire = connect(to=realm)
    channel = wire.channel()
    channel.confirm()
    channel.publish("", queue, b"probe", mandatory=True)
    answer = channel.expect("basic.return", "basic.ack").name
    wire.close()
    return answer == "basic.ack"


@pytest.fixture
def patient(master, names):
    """A queue in the realm with messages 0 to 4, and no arguments."""
    name = master.declare(names.unique()).queue
    master.confirm()
    master.put(name, *[b"%d" % number for number in range(5)])
    return name


def test_message_ttl_holds_for_what_comes_after(master, patient, policy):
    """What is in the queue already keeps the time it had."""
    policy(f"^{patient}$", {"message-ttl": 100}, apply_to="queues")
    second = master.declare(patient + "-second").queue
    policy(f"^{second}$", {"message-ttl": 100}, apply_to="queues")

    def drained():
        master.put(second, b"x")
        master.nothing(0.15)
        return count(master, second) == 0

    wait_until(drained, "the policy to expire a message")
    assert master.bodies(patient) == [b"%d" % number for number in range(5)]


def test_expires_applies_to_what_is_there(connect, realm, patient, policy):
    policy(f"^{patient}$", {"expires": 100})
    wait_until(lambda: not there(connect, realm, patient), "queue gone")


def test_max_length_applies_to_what_is_there(master, patient, policy):
    policy(f"^{patient}$", {"max-length": 2})
    wait_count(master, patient, 2)
    assert master.bodies(patient) == [b"3", b"4"]


def test_max_length_bytes_and_overflow(master, names, policy):
    name = names.unique()
    policy(f"^{name}$", {"max-length-bytes": 2, "overflow": "reject-publish"})
    master.declare(name)
    master.confirm()
    master.put(name, b"a", b"b")
    master.publish("", name, b"c")
    master.expect("basic.nack")


def test_dead_letters_and_clearing(master, names, policy, admin, realm):
    graveyard = master.declare(names.unique()).queue
    name = names.unique()
    made = policy(f"^{name}$", {"dead-letter-exchange": "", "dead-letter-routing-key": graveyard})
    master.declare(name)
    master.confirm()
    master.put(name, b"a", b"b")
    master.reject(master.get(name, no_ack=False).delivery_tag, requeue=False)
    message = wait_until(lambda: master.get(graveyard), "the dead letter")
    assert (message.body, message.headers["x-first-death-queue"]) == (b"a", name)
    admin.clear_policy(realm.vhost, made)

    def dropped():
        """Rejects until a reject leaves no dead letter: clearing is live too."""
        master.put(name, b"c")
        master.reject(master.get(name, no_ack=False).delivery_tag, requeue=False)
        wait_count(master, name, 1)
        master.nothing(0.05)
        return master.get(graveyard) is None

    wait_until(dropped, "the policy cleared")


def test_alternate_exchange(master, names, policy):
    alternate, name = names.unique(), names.unique()
    master.exchange(alternate, "fanout")
    queue = master.declare(names.unique()).queue
    master.bind(queue, alternate)
    master.exchange(name)
    policy(f"^{name}$", {"alternate-exchange": alternate}, apply_to="exchanges")

    def routed():
        master.publish(name, "unrouted", b"x")
        master.call("basic.qos")
        return master.get(queue)

    assert wait_until(routed, "the alternate exchange").exchange == name


def test_delivery_limit_of_a_quorum_queue(master, names, policy):
    name = names.unique()
    policy(f"^{name}$", {"delivery-limit": 1})
    master.declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    master.confirm()
    master.put(name, b"x")
    master.consume(name)
    for _ in range(2):
        master.nack(master.expect("basic.deliver").delivery_tag)
    wait_count(master, name, 0)
    master.nothing()


@pytest.mark.leveret_only
def test_single_active_consumer_comes_and_goes(master, names, policy, admin, realm):
    """RabbitMQ knows it as an argument only. What one that waits holds unacknowledged stays its own."""
    queue = master.declare(names.unique()).queue
    first, second, third = (master.wire.channel() for _ in range(3))
    for channel, priority in ((first, -1), (second, 0), (third, 0)):
        channel.qos(2)
        channel.consume(queue, arguments={"x-priority": priority})
    master.confirm()
    master.put(queue, b"0", b"1")
    assert second.expect("basic.deliver").body == b"0"
    assert third.expect("basic.deliver").body == b"1"
    made = policy(f"^{queue}$", {"single-active-consumer": True})
    master.put(queue, b"2", b"3")
    assert second.expect("basic.deliver").body == b"2"
    third.ack(1)
    third.call("basic.qos", prefetch_count=2)
    third.nothing()
    second.ack(0, multiple=True)
    assert second.expect("basic.deliver").body == b"3"
    second.close()
    assert third.expect("basic.deliver").body == b"3"
    admin.clear_policy(realm.vhost, made)
    master.put(queue, b"4", b"5", b"6")
    assert third.expect("basic.deliver").body == b"4"
    assert [d.body for d in first.deliveries(2)] == [b"5", b"6"]


@pytest.mark.leveret_only
def test_max_priority_holds_for_queues_declared_under_it(master, names, policy):
    """As an argument, it cannot change while the queue lives; RabbitMQ has no such key."""
    queue = names.unique()
    policy(f"^{queue}$", {"max-priority": 5})
    master.declare(queue)
    for priority in (1, 5, 3):
        master.publish("", queue, b"%d" % priority, priority=priority)
    assert master.bodies(queue) == [b"5", b"3", b"1"]


def test_mirroring_keys_are_taken(master, names, policy):
    name = names.unique()
    policy(f"^{name}$", {"ha-mode": "all", "ha-sync-mode": "automatic"}, apply_to="queues")
    master.declare(name)
    master.confirm()
    master.put(name, b"x")
    assert master.get(name).body == b"x"


def test_pattern_with_look_ahead(master, names, policy):
    """As OpenStack deployments write them."""
    name = names.unique()
    policy(f"^(?!(amq\\.)|(.*_fanout_)|(reply_)){name}", {"max-length": 1}, apply_to="queues")
    for queue, wanted in [(name, 1), (f"reply_{name}", 2), (f"{name}_more", 1)]:
        master.declare(queue)
        master.confirm()
        master.put(queue, b"a", b"b")
        assert count(master, queue) == wanted, queue


def test_highest_priority_wins_whole(master, names, policy):
    """One policy holds for a queue: keys of the others do not."""
    name = names.unique()
    policy(f"^{name}$", {"max-length": 1, "overflow": "reject-publish"}, priority=1)
    policy(f"^{name}$", {"max-length": 3}, priority=2)
    master.declare(name)
    master.confirm()
    master.put(name, *[b"%d" % number for number in range(5)])
    assert master.bodies(name) == [b"2", b"3", b"4"]


def test_apply_to(master, names, policy):
    """A policy for exchanges does not hold for a queue of that name."""
    name = names.unique()
    policy(f"^{name}$", {"alternate-exchange": "amq.fanout"}, priority=9, apply_to="exchanges")
    policy(f"^{name}$", {"max-length": 1}, priority=1, apply_to="queues")
    master.declare(name)
    master.confirm()
    master.put(name, b"a", b"b")
    assert master.bodies(name) == [b"b"]


@pytest.mark.parametrize("argument, wanted", [(2, 2), (4, 3)])
def test_the_lower_of_argument_and_policy(master, names, policy, argument, wanted):
    name = names.unique()
    policy(f"^{name}$", {"max-length": 3})
    master.declare(name, arguments={"x-max-length": argument})
    master.confirm()
    master.put(name, *[b"%d" % number for number in range(5)])
    assert count(master, name) == wanted


def test_argument_wins_where_there_is_no_lower(master, names, policy):
    """Names and modes: the argument counts, not the policy."""
    by_argument, by_policy = (master.declare(names.unique()).queue for _ in range(2))
    name = names.unique()
    policy(
        f"^{name}$",
        {
            "dead-letter-exchange": "amq.fanout",
            "dead-letter-routing-key": by_policy,
            "max-length": 1,
            "overflow": "reject-publish",
        },
    )
    arguments = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": by_argument,
        "x-overflow": "drop-head",
    }
    master.declare(name, arguments=arguments)
    master.confirm()
    master.put(name, b"old", b"new")
    assert wait_until(lambda: master.get(by_argument), "the dead letter").body == b"old"
    assert master.bodies(name) == [b"new"]
    assert master.get(by_policy) is None


@pytest.mark.parametrize(
    "user, wanted", [({"max-length": 2}, 2), ({"max-length": 9}, 3), (None, 3)]
)
def test_operator_policy_merges(master, names, policy, user, wanted):
    """The lower of user policy and operator policy; the operator's alone where there is no other."""
    name = names.unique()
    if user:
        policy(f"^{name}$", user)
    policy(f"^{name}$", {"max-length": 3}, operator=True, apply_to="queues")
    master.declare(name)
    master.confirm()
    master.put(name, *[b"%d" % number for number in range(5)])
    assert count(master, name) == wanted


def test_operator_policy_adds_to_a_user_policy(master, names, policy):
    name = names.unique()
    policy(f"^{name}$", {"overflow": "reject-publish"})
    policy(f"^{name}$", {"max-length": 1}, operator=True, apply_to="queues")
    master.declare(name)
    master.confirm()
    master.put(name, b"a")
    master.publish("", name, b"b")
    master.expect("basic.nack")


def test_policy_does_not_count_for_equivalence(master, names, policy):
    name = names.unique()
    policy(f"^{name}$", {"message-ttl": 60000, "max-length": 5})
    for _ in range(2):
        master.declare(name)
    with pytest.raises(Refused) as caught:
        master.declare(name, arguments={"x-max-length": 5})
    assert caught.value.code == 406


@pytest.mark.parametrize(
    "definition",
    [
        {"no-such-key": 1},
        {"message-ttl": "abc"},
        {"max-length": -1},
        {"expires": 0},
        {"overflow": "no"},
        {},
    ],
)
def test_invalid_definitions(admin, realm, definition):
    with pytest.raises(AdminError):
        admin.set_policy(realm.vhost, "spec-invalid", "^$", definition)


def test_operator_policy_takes_limits_only(admin, realm):
    with pytest.raises(AdminError):
        admin.set_policy(
            realm.vhost, "spec-invalid", "^$", {"dead-letter-exchange": "x"}, operator=True
        )


def test_invalid_pattern(admin, realm):
    with pytest.raises(AdminError):
        admin.set_policy(realm.vhost, "spec-invalid", "(", {"max-length": 1})
