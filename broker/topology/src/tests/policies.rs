//! Policies as they come, change and go, and what queues and exchanges make of
//! them.

use serde_json::json;

use crate::command::{Command, DeletePolicy, SetPolicy};
use crate::model::{HaMode, Name, QueueType};
use crate::policy::ApplyTo;
use crate::testing::{State, bind, exchange, policy, queue};

fn delete(name: &str) -> Command {
    let (vhost, name) = (Name::from("/"), Name::from(name));
    Command::DeletePolicy(DeletePolicy {
        vhost,
        name,
        operator: false,
    })
}

#[test]
fn a_policy_applies_to_what_is_there_and_what_comes() {
    let mut state = State::new();
    state.apply(queue("a.1"));
    state.apply(queue("b.1"));
    let outcome = state.apply(policy("p", "^a", json!({"max-length": 5})));
    assert_eq!(outcome.queues_changed.len(), 1);
    let change = &outcome.queues_changed[0];
    assert_eq!(change.before.settings.max_length, None);
    assert_eq!(change.after.settings.max_length, Some(5));
    assert_eq!(change.after.policy.as_deref(), Some("p"));
    assert_eq!(
        state.apply(queue("a.2")).queue.unwrap().settings.max_length,
        Some(5)
    );
    let outcome = state.apply(policy("p", "^a", json!({"max-length": 5})));
    assert!(outcome.queues_changed.is_empty(), "nothing is different");
    let outcome = state.apply(delete("p"));
    assert_eq!(outcome.queues_changed.len(), 2);
    assert_eq!(
        state
            .topology
            .queue("/", "a.1")
            .unwrap()
            .settings
            .max_length,
        None
    );
    assert_eq!(
        state.refused(delete("p")),
        "NOT_FOUND - Parameter does not exist"
    );
}

#[test]
fn the_highest_priority_wins_and_then_the_first_name() {
    let mut state = State::new();
    for (name, priority) in [("c", 1), ("b", 2), ("a", 1), ("d", 2)] {
        let set = policy(name, "", json!({"max-length": 1}));
        state.apply(SetPolicy { priority, ..set });
    }
    let policy_of = |state: &mut State| state.apply(queue("q")).queue.unwrap().policy.clone();
    for expected in ["b", "d", "a", "c"] {
        assert_eq!(policy_of(&mut state).as_deref(), Some(expected));
        state.apply(delete(expected));
    }
    assert_eq!(policy_of(&mut state), None);
}

#[test]
fn a_policy_applies_to_what_it_says() {
    let mut state = State::new();
    state.apply(queue("classic"));
    state.apply(queue("quorum").durable().arg("x-queue-type", "quorum"));
    state.apply(queue("stream").durable().arg("x-queue-type", "stream"));
    state.apply(exchange("exchange", "fanout"));
    let table: &[(ApplyTo, &[&str])] = &[
        (ApplyTo::All, &["classic", "quorum", "stream", "exchange"]),
        (ApplyTo::Queues, &["classic", "quorum", "stream"]),
        (ApplyTo::Exchanges, &["exchange"]),
        (ApplyTo::ClassicQueues, &["classic"]),
        (ApplyTo::QuorumQueues, &["quorum"]),
        (ApplyTo::Streams, &["stream"]),
    ];
    for (apply_to, names) in table {
        let set = policy("p", "", json!({"max-length-bytes": 5}));
        state.apply(SetPolicy {
            apply_to: *apply_to,
            ..set
        });
        for name in ["classic", "quorum", "stream", "exchange"] {
            let policy = match state.topology.queue("/", name) {
                Some(queue) => queue.policy.clone(),
                None => state.topology.exchange("/", name).unwrap().policy.clone(),
            };
            assert_eq!(
                policy.is_some(),
                names.contains(&name),
                "{apply_to:?} {name}"
            );
        }
    }
}

#[test]
fn a_policy_with_a_foreign_key_does_not_apply_to_a_stream() {
    let mut state = State::new();
    state.apply(policy(
        "p",
        "",
        json!({"max-length-bytes": 5, "message-ttl": 5}),
    ));
    let stream = state
        .apply(queue("s").durable().arg("x-queue-type", "stream"))
        .queue
        .unwrap();
    assert_eq!((stream.kind, &stream.policy), (QueueType::Stream, &None));
    assert!(state.apply(queue("q")).queue.unwrap().policy.is_some());
}

#[test]
fn an_operator_policy_limits_the_others() {
    let mut state = State::new();
    let limit = SetPolicy {
        operator: true,
        ..policy("o", "", json!({"max-length": 10}))
    };
    state.apply(limit);
    state.apply(policy(
        "p",
        "big",
        json!({"max-length": 20, "overflow": "reject-publish"}),
    ));
    state.apply(policy("s", "small", json!({"max-length": 5})));
    let length =
        |state: &State, name: &str| state.topology.queue("/", name).unwrap().settings.max_length;
    state.apply(queue("big"));
    state.apply(queue("small"));
    state.apply(queue("none"));
    state.apply(queue("own").arg("x-max-length", 3));
    assert_eq!(length(&state, "big"), Some(10));
    assert_eq!(length(&state, "small"), Some(5));
    assert_eq!(length(&state, "none"), Some(10));
    assert_eq!(length(&state, "own"), Some(3));
    let big = state.topology.queue("/", "big").unwrap();
    let definition = state
        .topology
        .vhost("/")
        .unwrap()
        .queue_policy_definition(big);
    assert_eq!(
        serde_json::Value::Object(definition),
        json!({"max-length": 10, "overflow": "reject-publish"})
    );
    assert_eq!(big.operator_policy.as_deref(), Some("o"));
    let refused = SetPolicy {
        operator: true,
        ..policy("o", "", json!({"ha-sync-mode": 1}))
    };
    state.refused(refused);
}

#[test]
fn ha_policies_make_queues_mirrored_while_they_last() {
    let mut state = State::new();
    let kolla = r"^(?!(amq\.)|(.*_fanout_)|(reply_)).*";
    state.apply(queue("nova"));
    state.apply(queue("reply_1"));
    let outcome = state.apply(policy("ha-all", kolla, json!({"ha-mode": "all"})));
    assert_eq!(outcome.queues_changed.len(), 1);
    let nova = &outcome.queues_changed[0].after;
    assert!(nova.mirrored);
    assert_eq!(nova.settings.ha_mode, Some(HaMode::All));
    assert!(state.topology.would_be_mirrored(&queue("cinder")));
    assert!(!state.topology.would_be_mirrored(&queue("reply_2")));
    state.apply(delete("ha-all"));
    assert!(!state.topology.queue("/", "nova").unwrap().mirrored);
}

#[test]
fn a_policy_gives_an_exchange_its_alternate() {
    let mut state = State::new();
    state.apply(exchange("main", "direct"));
    state.apply(exchange("own", "direct").arg("alternate-exchange", "none"));
    state.apply(exchange("spare", "fanout"));
    state.apply(queue("q"));
    state.apply(bind("spare", "q", ""));
    let version = state.topology.version();
    let outcome = state.apply(policy("p", "", json!({"alternate-exchange": "spare"})));
    assert!(
        outcome
            .exchanges_changed
            .iter()
            .any(|exchange| exchange.name == "main")
    );
    assert!(state.topology.version() > version);
    assert_eq!(state.route("main", &["k"]), ["q"]);
    assert!(
        state.route("own", &["k"]).is_empty(),
        "the argument comes first"
    );
    state.apply(delete("p"));
    assert!(state.route("main", &["k"]).is_empty());
}

#[test]
fn what_is_invalid_is_refused_in_rabbitmqs_form() {
    let mut state = State::new();
    assert_eq!(
        state.refused(policy("p", "", json!({"message-ttl": "soon"}))),
        "PRECONDITION_FAILED - Validation failed\n\n<<\"soon\">> is not a valid message TTL\n"
    );
    assert!(
        state
            .refused(policy("p", "(", json!({"message-ttl": 1})))
            .starts_with("PRECONDITION_FAILED - Validation failed\n\npattern should be regular")
    );
    let elsewhere = SetPolicy {
        vhost: Name::from("v"),
        ..policy("p", "", json!({"expires": 1}))
    };
    assert_eq!(
        state.refused(elsewhere),
        "NOT_FOUND - Virtual host 'v' does not exist"
    );
}

#[test]
fn queues_that_are_alike_share_their_settings() {
    let mut state = State::new();
    let first = state.apply(queue("a").arg("x-expires", 5)).queue.unwrap();
    let second = state.apply(queue("b").arg("x-expires", 5)).queue.unwrap();
    assert!(std::sync::Arc::ptr_eq(&first.settings, &second.settings));
}
