use serde_json::{Value, json};

use super::{ImportOptions, ImportStep, plan_import};
use crate::access::{Actor, Permission};
use crate::command::Command;
use crate::model::{HaMode, Overflow, OwnerId, QueueType, Resource};
use crate::state::Topology;
use crate::testing::State;

const FROM_RABBITMQ: &[u8] = include_bytes!("../../captures/definitions-3.10.8.json");

fn plan(file: &[u8], vhost: Option<&str>) -> Result<Vec<ImportStep>, String> {
    let mut salt = || [9; 4];
    let options = ImportOptions {
        vhost,
        user: None,
        salt: &mut salt,
    };
    plan_import(file, options).map_err(|error| error.to_string())
}

/// Imports as the server does.
fn import(state: &mut State, file: &[u8], vhost: Option<&str>) {
    for step in plan(file, vhost).unwrap() {
        match state.try_apply(step.command.clone()) {
            Ok(_) => {}
            Err(refusal) if step.may_be_skipped(&refusal) => {}
            Err(refusal) => panic!("{}: {refusal}", step.object),
        }
    }
}

fn empty() -> State {
    State {
        topology: Topology::new(),
        index: 0,
    }
}

#[test]
fn an_export_of_rabbitmq_imports() {
    let mut state = empty();
    import(&mut state, FROM_RABBITMQ, None);
    let topology = &state.topology;
    assert!(
        topology
            .authenticate("openstack", b"stacked")
            .unwrap()
            .has_tag("monitoring")
    );
    assert!(topology.authenticate("guest", b"guest").is_ok());
    let user = topology.user("openstack").unwrap();
    assert_eq!(
        (user.limits.max_connections, user.limits.max_channels),
        (Some(100), Some(500))
    );

    let vhost = topology.vhost("openstack").unwrap();
    assert_eq!(vhost.description(), "OpenStack");
    assert_eq!(vhost.default_queue_type(), Some(QueueType::Quorum));
    assert_eq!(vhost.limits().max_queues, Some(500));
    assert_eq!(
        vhost.bindings().len(),
        3,
        "without those of what was not exported"
    );

    let conductor = topology.queue("openstack", "conductor").unwrap();
    assert_eq!(conductor.settings.ha_mode, Some(HaMode::All));
    assert!(conductor.mirrored);
    assert_eq!(
        conductor.settings.expires_ms,
        Some(3_600_000),
        "of the operator policy"
    );
    let notifications = topology.queue("openstack", "notifications.info").unwrap();
    assert_eq!(notifications.kind, QueueType::Quorum);
    assert_eq!(notifications.settings.message_ttl_ms, Some(600_000));
    assert_eq!(notifications.settings.overflow, Overflow::RejectPublish);
    let reply = topology.queue("openstack", "reply_0a1b").unwrap();
    assert!(!reply.mirrored);
    assert_eq!(reply.settings.expires_ms, Some(1_800_000));
    let nova = topology.exchange("openstack", "nova").unwrap();
    assert_eq!(nova.alternate_exchange.as_deref(), Some("unrouted"));

    let actor = Actor::new("openstack", OwnerId(1));
    let allowed = |key: &[u8]| {
        topology
            .check_topic_permission(&actor, nova, key, Permission::Write)
            .is_ok()
    };
    assert!(allowed(b"nova.x") && !allowed(b"cinder.x"));
}

/// Lists in an order of their own, and without what Leveret writes otherwise.
fn normalized(mut definitions: Value) -> Value {
    let sections = definitions.as_object_mut().unwrap();
    sections.remove("product_name");
    sections.remove("product_version");
    for (section, list) in sections.iter_mut() {
        let Some(list) = list.as_array_mut() else {
            continue;
        };
        for item in list.iter_mut() {
            let item = item.as_object_mut().unwrap();
            match section.as_str() {
                "exchanges" => drop(item.remove("internal")),
                "vhosts" => {
                    let kept = ["name", "metadata"];
                    item.retain(|key, _| kept.contains(&key.as_str()));
                }
                _ => {}
            }
        }
        // Bindings of an exclusive queue and of an internal exchange.
        list.retain(|item| {
            let of = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            let ends = [of("source"), of("destination")];
            section != "bindings" || !ends.iter().any(|end| end == "hidden" || end == "mine")
        });
        list.sort_by_key(Value::to_string);
    }
    definitions
}

#[test]
fn the_export_equals_rabbitmqs() {
    let mut state = empty();
    import(&mut state, FROM_RABBITMQ, None);
    let mut expected: Value = serde_json::from_slice(FROM_RABBITMQ).unwrap();
    // RabbitMQ writes this one definition as a list of pairs.
    expected["parameters"][0]["value"]["definition"] =
        json!({"expires": 3600000, "max-length-bytes": 1000000});
    let actual = state.topology.export_definitions("0.1.0");
    assert_eq!(normalized(actual), normalized(expected));
}

#[test]
fn an_export_imports_to_the_same() {
    let mut first = empty();
    import(&mut first, FROM_RABBITMQ, None);
    let export = first.topology.export_definitions("0.1.0");
    let mut second = empty();
    import(&mut second, export.to_string().as_bytes(), None);
    assert_eq!(second.topology.export_definitions("0.1.0"), export);
    import(&mut second, export.to_string().as_bytes(), None);
    assert_eq!(
        second.topology.export_definitions("0.1.0"),
        export,
        "twice is once"
    );
}

#[test]
fn definitions_of_one_vhost_go_to_another() {
    let mut first = empty();
    import(&mut first, FROM_RABBITMQ, None);
    let export = first
        .topology
        .export_vhost_definitions("openstack", "0.1.0")
        .unwrap();
    assert!(export.get("users").is_none());
    assert!(export["queues"][0].get("vhost").is_none());
    let mut second = State::new();
    import(&mut second, export.to_string().as_bytes(), Some("/"));
    assert_eq!(second.topology.vhost("/").unwrap().queue_count(), 4);
    let again = second
        .topology
        .export_vhost_definitions("/", "0.1.0")
        .unwrap();
    assert_eq!(again, export);
    assert!(
        first
            .topology
            .export_vhost_definitions("none", "0.1.0")
            .is_none()
    );
}

/// As kolla-ansible writes it.
#[test]
fn kollas_definitions_import() {
    let file = json!({
        "vhosts": [{"name": "/"}],
        "users": [
            {"name": "openstack", "password": "secret", "tags": "administrator"},
            {"name": "monitoring", "password": "other", "tags": "monitoring, management"},
        ],
        "permissions": [
            {"user": "openstack", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
            {"user": "monitoring", "vhost": "/", "configure": "^$", "write": "^$", "read": ".*"},
        ],
        "policies": [{
            "vhost": "/",
            "name": "ha-all",
            "pattern": r"^(?!(amq\.)|(.*_fanout_)|(reply_)).*",
            "apply-to": "all",
            "definition": {"ha-mode": "all"},
            "priority": 0,
        }],
    });
    let mut state = empty();
    import(&mut state, file.to_string().as_bytes(), None);
    let topology = &state.topology;
    assert!(topology.authenticate("openstack", b"secret").is_ok());
    let monitoring = topology.authenticate("monitoring", b"other").unwrap();
    assert!(monitoring.has_tag("monitoring") && monitoring.has_tag("management"));
    let actor = Actor::new("monitoring", OwnerId(1));
    let queue = Resource::queue("/", "q");
    assert!(
        topology
            .check_permission(&actor, queue, Permission::Read)
            .is_ok()
    );
    assert!(
        topology
            .check_permission(&actor, queue, Permission::Configure)
            .is_err()
    );
    for (name, mirrored) in [("nova", true), ("x_fanout_1", false), ("reply_1", false)] {
        state.apply(crate::testing::queue(name));
        assert_eq!(
            state.topology.queue("/", name).unwrap().mirrored,
            mirrored,
            "{name}"
        );
    }
}

/// The form of RabbitMQ 4: more fields, some of them unknown here.
#[test]
fn definitions_of_rabbitmq_4_import() {
    let file = json!({
        "rabbitmq_version": "4.1.0",
        "product_name": "RabbitMQ",
        "rabbitmq_definition_format": "cluster",
        "original_cluster_name": "rabbit@a",
        "explanation": "Definitions of cluster 'rabbit@a'",
        "users": [{
            "name": "u", "hashing_algorithm": "rabbit_password_hashing_sha512",
            "password_hash": "hbDdxXzmDlSPhxcqcLXEku8bSsaRfgdGNsp7NlfTxMycHIXwZb2JMo8v5YLlkIBo86w4\
                              cVD/LQ9zxoxp7glpo+KN6Mk=",
            "tags": ["management"], "limits": {},
        }],
        "vhosts": [{
            "name": "v", "description": "d", "tags": ["t"], "default_queue_type": "classic",
            "metadata": {"description": "d", "tags": ["t"], "default_queue_type": "classic",
                         "protected_from_deletion": false},
        }],
        "queues": [{
            "name": "q", "vhost": "v", "type": "quorum", "durable": true, "auto_delete": false,
            "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 5},
        }],
        "policies": [{
            "vhost": "v", "name": "p", "pattern": "q", "apply-to": "quorum_queues",
            "definition": {"delivery-limit": 3}, "priority": 1,
        }],
    });
    let mut state = empty();
    import(&mut state, file.to_string().as_bytes(), None);
    assert!(state.topology.authenticate("u", b"secret").is_ok());
    let queue = state.topology.queue("v", "q").unwrap();
    assert_eq!(queue.settings.delivery_limit, Some(3));
    assert!(queue.mirrored);
}

#[test]
fn what_is_there_stays_as_it_is() {
    let mut state = State::new();
    state.apply(crate::testing::queue("q").arg("x-expires", 5));
    let file = json!({"queues": [{
        "name": "q", "vhost": "/", "durable": true, "auto_delete": true, "arguments": {},
    }, {
        "name": "amq.q", "vhost": "/", "durable": true, "auto_delete": true, "arguments": {},
    }]});
    let id = state.topology.queue("/", "q").unwrap().id;
    import(&mut state, file.to_string().as_bytes(), None);
    let queue = state.topology.queue("/", "q").unwrap();
    assert_eq!((queue.id, queue.durable), (id, false));
    assert!(state.topology.queue("/", "amq.q").is_none());
}

#[test]
fn errors_name_the_object() {
    let cases = [
        (json!([]), "definitions: not an object"),
        (json!({"queues": {}}), "queues: not a list"),
        (json!({"queues": [1]}), "queues[0]: not an object"),
        (
            json!({"queues": [{"vhost": "/"}]}),
            "queues[0]: 'name' is missing",
        ),
        (
            json!({"queues": [{"vhost": "/", "name": "q", "durable": "yes"}]}),
            "queue 'q' in vhost '/': 'durable' is not a boolean",
        ),
        (
            json!({"exchanges": [{"vhost": "/", "name": "x"}]}),
            "exchange 'x' in vhost '/': 'type' is missing",
        ),
        (
            json!({"exchanges": [{"vhost": "/", "name": "x", "type": "direct",
                                  "arguments": {"a": null}}]}),
            "exchange 'x' in vhost '/': argument 'a' is null",
        ),
        (
            json!({"users": [{"name": "u", "password_hash": "!"}]}),
            "user 'u': 'password_hash' is not base64",
        ),
        (
            json!({"users": [{"name": "u", "password_hash": "", "hashing_algorithm": "x"}]}),
            "user 'u': unknown hashing algorithm 'x'",
        ),
        (
            json!({"policies": [{"vhost": "/", "name": "p", "pattern": "",
                                 "definition": {}, "apply-to": "some"}]}),
            "policy 'p' in vhost '/': apply-to 'some' unrecognised",
        ),
        (
            json!({"bindings": [{"vhost": "/", "source": "x", "destination": "q",
                                 "destination_type": "topic"}]}),
            "binding of 'x' to topic 'q' in vhost '/': unknown destination_type 'topic'",
        ),
    ];
    for (file, text) in cases {
        assert_eq!(
            plan(file.to_string().as_bytes(), None),
            Err(text.to_owned())
        );
    }
    assert!(
        plan(b"{", None)
            .unwrap_err()
            .starts_with("definitions: not JSON")
    );
}

#[test]
fn old_hashes_are_md5() {
    let file = json!({"rabbit_version": "3.5.7", "users": [
        {"name": "old", "password_hash": "U4RiGhjz+vlBBAm928OWNQy/4+A=", "tags": ""},
    ]});
    let mut state = empty();
    import(&mut state, file.to_string().as_bytes(), None);
    assert!(state.topology.authenticate("old", b"secret").is_ok());
    let steps = plan(file.to_string().as_bytes(), None).unwrap();
    assert!(matches!(&steps[0].command, Command::PutUser(_)));
}
