//! A queue is the same whether it is declared as classic, mirrored or quorum:
//! what a cluster needs whose services are reconfigured one at a time.

use crate::command::DeclareQueue;
use crate::model::QueueType;
use crate::testing::{State, queue};

fn ways() -> Vec<(&'static str, DeclareQueue)> {
    let quorum = queue("q").arg("x-queue-type", "quorum");
    vec![
        ("plain", queue("q")),
        ("classic", queue("q").arg("x-queue-type", "classic")),
        ("ha", queue("q").arg("x-ha-policy", "all")),
        (
            "ha nodes",
            queue("q")
                .arg("x-ha-policy", "nodes")
                .arg("x-ha-policy-params", "a"),
        ),
        ("quorum", quorum.clone()),
        (
            "quorum, delivery limit",
            quorum.clone().arg("x-delivery-limit", 5),
        ),
        (
            "quorum, group size",
            quorum.clone().arg("x-quorum-initial-group-size", 3),
        ),
        (
            "quorum, memory",
            quorum.clone().arg("x-max-in-memory-length", 3),
        ),
        (
            "quorum, memory in octets",
            quorum.clone().arg("x-max-in-memory-bytes", 3),
        ),
        (
            "quorum, strategy",
            quorum.arg("x-dead-letter-strategy", "at-least-once"),
        ),
        ("lazy", queue("q").arg("x-queue-mode", "lazy")),
        (
            "master",
            queue("q").arg("x-queue-master-locator", "min-masters"),
        ),
        (
            "leader",
            queue("q").arg("x-queue-leader-locator", "balanced"),
        ),
    ]
}

/// Two declarations of one type are compared as RabbitMQ does.
fn of_one_type(one: &DeclareQueue, other: &DeclareQueue) -> bool {
    let kind = |way: &DeclareQueue| way.arguments.text("x-queue-type") == Some("quorum");
    kind(one) == kind(other)
}

/// Arguments that RabbitMQ compares between declarations of this type only.
fn compared(way: &DeclareQueue) -> Vec<(&'static str, Option<String>)> {
    [
        "x-queue-mode",
        "x-queue-master-locator",
        "x-delivery-limit",
        "x-dead-letter-strategy",
    ]
    .into_iter()
    .map(|name| (name, way.arguments.get(name).map(|value| value.to_term())))
    .collect()
}

#[test]
fn every_way_of_declaring_a_queue_finds_the_others() {
    for (first_name, first) in ways() {
        for (second_name, second) in ways() {
            let mut state = State::new();
            let created = state.apply(first.clone()).queue.unwrap();
            if of_one_type(&first, &second) && compared(&first) != compared(&second) {
                continue;
            }
            let found = state.apply(second.clone());
            assert!(
                found.queues_created.is_empty(),
                "{first_name}, {second_name}"
            );
            assert_eq!(found.queue.unwrap().id, created.id);
        }
    }
}

#[test]
fn quorum_declarations_are_compared_with_each_other() {
    let mut state = State::new();
    state.apply(
        queue("q")
            .arg("x-queue-type", "quorum")
            .arg("x-delivery-limit", 5),
    );
    assert_eq!(
        state.refused(queue("q").arg("x-queue-type", "quorum")),
        "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': \
         received none but current is the value '5' of type 'signedint'"
    );
}

#[test]
fn classic_declarations_are_compared_with_each_other() {
    let compared = [
        ("x-queue-mode", "lazy"),
        ("x-queue-master-locator", "min-masters"),
    ];
    for (name, value) in compared {
        let mut state = State::new();
        state.apply(queue("q").arg(name, value));
        let none = format!(
            "PRECONDITION_FAILED - inequivalent arg '{name}' for queue 'q' in vhost '/': \
             received none but current is the value '{value}' of type 'longstr'"
        );
        assert_eq!(state.refused(queue("q")), none);
        assert_eq!(state.refused(queue("q").arg("x-ha-policy", "all")), none);
        let quorum = queue("q").arg("x-queue-type", "quorum");
        assert!(state.apply(quorum).queues_created.is_empty());
    }
}

#[test]
fn a_mirrored_queue_can_be_whatever_a_queue_can_be() {
    let mut state = State::new();
    for (number, mirrored) in [("x-ha-policy", "all"), ("x-queue-type", "quorum")]
        .iter()
        .enumerate()
    {
        let declare = |name: &str| queue(&format!("{name}{number}")).arg(mirrored.0, mirrored.1);
        let all = [
            declare("transient"),
            declare("exclusive").exclusive(1),
            DeclareQueue {
                auto_delete: true,
                ..declare("auto-delete")
            },
            declare("expiring").arg("x-expires", 1000),
            declare("priority").arg("x-max-priority", 5),
            declare("limited")
                .arg("x-max-length", 5)
                .arg("x-overflow", "reject-publish-dlx"),
            DeclareQueue {
                server_named: true,
                ..declare("amq.gen-")
            },
        ];
        for declare in all {
            let queue = state.apply(declare).queue.unwrap();
            assert!(queue.mirrored, "{}", queue.name);
            assert!(!queue.durable);
        }
    }
}

#[test]
fn a_stream_is_another_queue() {
    let mut state = State::new();
    state.apply(queue("q").durable().arg("x-queue-type", "stream"));
    assert_eq!(
        state.refused(queue("q").durable()),
        "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': \
         received none but current is the value 'stream' of type 'longstr'"
    );
    let stream = state.topology.queue("/", "q").unwrap();
    assert_eq!((stream.kind, stream.mirrored), (QueueType::Stream, false));
}
