//! Commands and snapshots as octets.

use leveret_protocol::FieldValue;
use serde_json::json;

use crate::command::{COMMAND_VERSION, Command, DecodeError, PutVhost, SetTopicPermissions};
use crate::model::Name;
use crate::snapshot::SnapshotError;
use crate::state::Topology;
use crate::testing::{State, bind, bind_exchange, exchange, policy, queue};

fn furnished() -> State {
    let mut state = State::new();
    state.apply(Command::PutVhost(PutVhost {
        name: Name::from("v"),
        description: "d".to_owned(),
        tags: vec![Name::from("t")],
        default_queue_type: Some(Name::from("quorum")),
        tracing: Some(true),
        user: Some(Name::from("guest")),
    }));
    state.apply(Command::SetTopicPermissions(SetTopicPermissions {
        user: Name::from("guest"),
        vhost: Name::from("/"),
        exchange: Name::from("topic"),
        write: "^{username}$".to_owned(),
        read: String::new(),
    }));
    state.apply(
        exchange("topic", "topic")
            .durable()
            .arg("alternate-exchange", "hash"),
    );
    state.apply(exchange("hash", "x-consistent-hash").auto_delete());
    state.apply(
        queue("durable")
            .durable()
            .arg("unknown", FieldValue::Double(1.5)),
    );
    state.apply(queue("exclusive").exclusive(u128::MAX));
    state.apply(policy(
        "p",
        "^d",
        json!({"ha-mode": "exactly", "ha-params": 2}),
    ));
    state.apply(bind("topic", "durable", "a.#"));
    state.apply(bind("hash", "durable", "2"));
    state.apply(bind_exchange("topic", "hash", "*"));
    state
}

#[test]
fn a_snapshot_restores_to_the_same() {
    let state = furnished();
    let octets = state.topology.snapshot();
    let restored = Topology::restore(&octets).unwrap();
    restored.check_invariants();
    assert_eq!(restored.snapshot(), octets);
    let durable = restored.queue("/", "durable").unwrap();
    assert_eq!(durable, state.topology.queue("/", "durable").unwrap());
    assert!(durable.mirrored);
    let again = State {
        topology: restored,
        index: state.index,
    };
    for key in ["a.b", "a", "x", ""] {
        assert_eq!(
            again.route("topic", &[key]),
            state.route("topic", &[key]),
            "{key}"
        );
    }
}

#[test]
fn a_restart_restores_what_is_durable() {
    let state = furnished();
    let restored = Topology::restore_durable(&state.topology.snapshot()).unwrap();
    restored.check_invariants();
    let vhost = restored.vhost("/").unwrap();
    assert_eq!(vhost.queues().len(), 1);
    assert_eq!(vhost.bindings().len(), 1);
    assert!(restored.exchange("/", "hash").is_none());
    assert!(restored.vhost("v").unwrap().tracing());
}

#[test]
fn damaged_snapshots_are_refused() {
    let state = furnished();
    let octets = state.topology.snapshot();
    assert!(matches!(
        Topology::restore(&octets[1..]),
        Err(SnapshotError::Json(_))
    ));
    let mut json: serde_json::Value = serde_json::from_slice(&octets).unwrap();
    let restore = |json: &serde_json::Value| {
        Topology::restore(json.to_string().as_bytes())
            .unwrap_err()
            .to_string()
    };
    json["version"] = 99.into();
    assert_eq!(
        restore(&json),
        "metadata snapshot of version 99, newer than 1"
    );
    json["version"] = 1.into();
    let queues = json["vhosts"][0]["queues"].take();
    json["vhosts"][0]["queues"] = json!([]);
    assert!(restore(&json).contains("a binding of what is not there"));
    json["vhosts"][0]["queues"] = json!([queues[0], queues[0]]);
    assert!(restore(&json).contains("two queues"));
}

#[test]
fn commands_survive_their_encoding() {
    let commands = [
        Command::DeclareQueue(queue("q").exclusive(7).arg("x-expires", 5)),
        Command::Bind(bind("x", "q", "k")),
        Command::SetPolicy(policy("p", "^a", json!({"max-length": 5}))),
    ];
    for command in commands {
        assert_eq!(Command::decode(&command.encode()).unwrap(), command);
    }
}

#[test]
fn commands_of_other_versions_are_read_as_far_as_possible() {
    let old = json!({"v": 1, "command": {"DeclareQueue": {"vhost": "/", "name": "q", "new": 1}}});
    let decoded = Command::decode(old.to_string().as_bytes()).unwrap();
    assert_eq!(decoded, Command::DeclareQueue(queue("q")));
    let newer = json!({"v": COMMAND_VERSION + 1, "command": {"Unheard": {}}});
    let error = Command::decode(newer.to_string().as_bytes()).unwrap_err();
    assert!(matches!(error, DecodeError::Version(2)));
    assert!(matches!(Command::decode(b"{}"), Err(DecodeError::Json(_))));
}
