//! Random commands: two machines stay equal, the invariants hold, and messages
//! go where a simple reference sends them.

use leveret_protocol::{FieldTable, FieldValue};
use proptest::prelude::*;
use serde_json::json;

use crate::command::{
    ChangeBinding, CloseConnection, Command, DeclareExchange, DeclareQueue, DeleteExchange,
    DeletePolicy, DeleteQueue, DeleteVhost, PutVhost,
};
use crate::model::{Arguments, Binding, Destination, ExchangeType, Key, Name, OwnerId};
use crate::routing::MessageAttributes;
use crate::state::{Topology, VHost};
use crate::testing::{State, policy};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const VHOSTS: [&str; 2] = ["/", "v"];
const KINDS: [ExchangeType; 6] = [
    ExchangeType::Direct,
    ExchangeType::Fanout,
    ExchangeType::Topic,
    ExchangeType::Headers,
    ExchangeType::ConsistentHash,
    ExchangeType::ModulusHash,
];

fn name() -> impl Strategy<Value = Name> {
    prop::sample::select(&NAMES[..]).prop_map(Name::from)
}

fn vhost() -> impl Strategy<Value = Name> {
    prop_oneof![9 => Just(Name::from(VHOSTS[0])), 1 => Just(Name::from(VHOSTS[1]))]
}

fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["x", "y", "", "*", "#", "1"][..])
}

fn key() -> impl Strategy<Value = Key> {
    prop::collection::vec(word(), 0..4).prop_map(|words| Key::from(words.join(".").as_str()))
}

fn value() -> impl Strategy<Value = FieldValue> {
    prop_oneof![
        (0..3i32).prop_map(FieldValue::Int),
        (0..3i64).prop_map(FieldValue::Long),
        Just(FieldValue::Double(1.0)),
        Just(FieldValue::from("1")),
        Just(FieldValue::Void),
    ]
}

fn headers() -> impl Strategy<Value = FieldTable> {
    prop::collection::btree_map(prop::sample::select(&["p", "q", "x-r"][..]), value(), 0..3)
        .prop_map(|fields| {
            let mut table = FieldTable::new();
            fields
                .into_iter()
                .for_each(|(name, value)| table.insert(name, value));
            table
        })
}

fn binding_arguments() -> impl Strategy<Value = Arguments> {
    let modes = &["all", "any", "all-with-x", "any-with-x"][..];
    (headers(), prop::option::of(prop::sample::select(modes))).prop_map(|(mut table, mode)| {
        if let Some(mode) = mode {
            table.insert("x-match", mode);
        }
        Arguments::from(table)
    })
}

fn declare_queue() -> impl Strategy<Value = DeclareQueue> {
    let owner = prop::option::weighted(0.2, (1..3u128).prop_map(OwnerId));
    (
        vhost(),
        name(),
        any::<bool>(),
        owner,
        prop::option::of(0..4i32),
    )
        .prop_map(|(vhost, name, durable, exclusive_owner, length)| {
            let mut declare = DeclareQueue::new(&vhost, &name);
            declare.durable = durable;
            declare.exclusive_owner = exclusive_owner;
            if let Some(length) = length {
                declare.arguments.insert("x-max-length", length - 1);
            }
            declare
        })
}

fn declare_exchange() -> impl Strategy<Value = DeclareExchange> {
    let alternate = prop::option::weighted(0.3, name());
    (
        vhost(),
        name(),
        prop::sample::select(&KINDS[..]),
        any::<[bool; 2]>(),
        alternate,
    )
        .prop_map(|(vhost, name, kind, [durable, auto_delete], alternate)| {
            let mut declare = DeclareExchange::new(&vhost, &name, kind.as_str());
            declare.durable = durable;
            declare.auto_delete = auto_delete;
            if let Some(alternate) = alternate {
                declare
                    .arguments
                    .insert("alternate-exchange", alternate.as_str());
            }
            declare
        })
}

fn change_binding() -> impl Strategy<Value = ChangeBinding> {
    let destination = prop_oneof![
        2 => name().prop_map(Destination::Queue),
        1 => name().prop_map(Destination::Exchange),
    ];
    let arguments = prop_oneof![Just(Arguments::new()), binding_arguments()];
    let connection = prop::option::of((1..3u128).prop_map(OwnerId));
    (vhost(), name(), destination, key(), arguments, connection).prop_map(
        |(vhost, source, destination, routing_key, arguments, connection)| ChangeBinding {
            vhost,
            source,
            destination,
            routing_key,
            arguments,
            connection,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let definitions = prop::sample::select(vec![
        json!({"max-length": 2}),
        json!({"ha-mode": "all"}),
        json!({"alternate-exchange": "a"}),
    ]);
    prop_oneof![
        8 => declare_queue().prop_map(Command::DeclareQueue),
        8 => declare_exchange().prop_map(Command::DeclareExchange),
        16 => change_binding().prop_map(Command::Bind),
        4 => change_binding().prop_map(Command::Unbind),
        2 => (vhost(), name())
            .prop_map(|(vhost, name)| Command::DeleteQueue(DeleteQueue { vhost, name, id: None })),
        2 => (vhost(), name(), any::<bool>()).prop_map(|(vhost, name, if_unused)| {
            Command::DeleteExchange(DeleteExchange { vhost, name, if_unused })
        }),
        1 => (name(), definitions)
            .prop_map(|(name, definition)| Command::SetPolicy(policy(&name, &name, definition))),
        1 => name().prop_map(|name| {
            let vhost = Name::from("/");
            Command::DeletePolicy(DeletePolicy { vhost, name, operator: false })
        }),
        1 => (1..3u128).prop_map(|connection| {
            Command::CloseConnection(CloseConnection { connection: OwnerId(connection) })
        }),
        1 => Just(Command::PutVhost(PutVhost {
            name: Name::from("v"),
            description: String::new(),
            tags: Vec::new(),
            default_queue_type: None,
            tracing: None,
            user: None,
        })),
        1 => Just(Command::DeleteVhost(DeleteVhost { name: Name::from("v") })),
    ]
}

struct Headers(FieldTable);

impl MessageAttributes for Headers {
    fn headers(&self) -> Option<&FieldTable> {
        Some(&self.0)
    }
}

/// The rules of routing, as slowly and plainly as they can be written.
mod reference {
    use super::*;

    fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => topic_matches(rest, key),
            (Some((&"#", rest)), Some((_, left))) => {
                topic_matches(rest, key) || topic_matches(pattern, left)
            }
            (Some((word, rest)), Some((own, left))) => {
                (*word == "*" || word == own) && topic_matches(rest, left)
            }
            _ => false,
        }
    }

    fn words(key: &str) -> Vec<&str> {
        if key.is_empty() {
            Vec::new()
        } else {
            key.split('.').collect()
        }
    }

    fn equal(wanted: &FieldValue, value: &FieldValue) -> bool {
        let number = |value: &FieldValue| match value {
            FieldValue::Double(float) => Some(*float),
            value => value.as_integer().map(|integer| integer as f64),
        };
        match (wanted, value) {
            (FieldValue::Void, _) => true,
            (FieldValue::LongStr(a), FieldValue::LongStr(b)) => a == b,
            (a, b) => number(a).is_some() && number(a) == number(b),
        }
    }

    fn headers_match(arguments: &Arguments, headers: &FieldTable) -> bool {
        let mode = arguments.text("x-match").unwrap_or("all");
        let mut results = arguments
            .iter()
            .filter(|(name, _)| *name != "x-match")
            .filter(|(name, _)| mode.ends_with("-with-x") || !name.as_bytes().starts_with(b"x-"))
            .map(|(name, wanted)| headers.get(name).is_some_and(|value| equal(wanted, value)));
        if mode.starts_with("any") {
            results.any(|one| one)
        } else {
            results.all(|one| one)
        }
    }

    fn matches(kind: ExchangeType, binding: &Binding, key: &str, headers: &FieldTable) -> bool {
        let pattern = binding.id.routing_key.to_string_lossy();
        match kind {
            ExchangeType::Direct => pattern == key,
            ExchangeType::Fanout => true,
            ExchangeType::Topic => topic_matches(&words(&pattern), &words(key)),
            ExchangeType::Headers => headers_match(&binding.id.arguments, headers),
            _ => panic!("not of a kind that has a reference"),
        }
    }

    /// The names of the queues, sorted; None when a hash decides somewhere.
    pub fn route(
        vhost: &VHost,
        exchange: &str,
        keys: &[&str],
        headers: &FieldTable,
    ) -> Option<Vec<String>> {
        let (mut queues, mut seen) = (Vec::new(), vec![exchange.to_owned()]);
        let mut next = 0;
        while let Some(name) = seen.get(next).cloned() {
            next += 1;
            let exchanges = vhost.exchanges();
            let Some(info) = exchanges.iter().find(|info| info.name == name.as_str()) else {
                continue;
            };
            if matches!(
                info.kind,
                ExchangeType::ConsistentHash | ExchangeType::ModulusHash
            ) {
                return None;
            }
            let mut found: Vec<Destination> = vhost
                .bindings_from(&name)
                .iter()
                .filter(|b| keys.iter().any(|key| matches(info.kind, b, key, headers)))
                .map(|binding| binding.id.destination.clone())
                .collect();
            if let (true, Some(alternate)) = (found.is_empty(), &info.alternate_exchange) {
                found.push(Destination::Exchange(alternate.clone()));
            }
            for destination in found {
                match destination {
                    Destination::Queue(name) => queues.push(name.to_string()),
                    Destination::Exchange(name) if !seen.iter().any(|one| name == one.as_str()) => {
                        seen.push(name.to_string());
                    }
                    Destination::Exchange(_) => {}
                }
            }
        }
        queues.sort();
        queues.dedup();
        Some(queues)
    }
}

fn check_routes(state: &State, keys: &[Key], headers: &FieldTable) {
    let keys: Vec<_> = keys
        .iter()
        .map(|key| key.to_string_lossy().into_owned())
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let attributes = Headers(headers.clone());
    let vhost = state.topology.vhost("/").unwrap();
    for exchange in vhost.exchanges() {
        if exchange.is_default() {
            continue;
        }
        let Some(expected) = reference::route(vhost, &exchange.name, &keys, headers) else {
            continue;
        };
        let mut found = state.route_with(&exchange.name, &keys, &attributes);
        found.sort();
        assert_eq!(found, expected, "{} {keys:?} {headers:?}", exchange.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn equal_commands_make_equal_states(
        commands in prop::collection::vec(command(), 1..80),
        keys in prop::collection::vec(key(), 1..3),
        headers in headers(),
    ) {
        let mut one = State::new();
        let mut other = State::new();
        for (number, command) in commands.iter().enumerate() {
            let before = one.topology.snapshot();
            let decoded = Command::decode(&command.encode()).unwrap();
            prop_assert_eq!(&decoded, command);
            let outcome = one.try_apply(command.clone());
            prop_assert_eq!(&outcome, &other.try_apply(decoded));
            let after = one.topology.snapshot();
            prop_assert_eq!(&after, &other.topology.snapshot());
            match outcome {
                Err(_) => prop_assert_eq!(&before, &after, "a refusal changed something"),
                Ok(outcome) if !outcome.changed => prop_assert_eq!(&before, &after),
                Ok(_) => {}
            }
            // One of the two goes on from its snapshot, as a new mirror does.
            if number % 7 == 3 {
                other.topology = Topology::restore(&after).unwrap();
                other.topology.check_invariants();
            }
        }
        check_routes(&one, &keys, &headers);
        for exchange in one.topology.vhost("/").unwrap().exchanges() {
            let key = keys[0].to_string_lossy();
            let attributes = Headers(headers.clone());
            let route = |state: &State| state.route_with(&exchange.name, &[&key], &attributes);
            prop_assert_eq!(route(&one), route(&other));
        }
    }

    #[test]
    fn many_bindings_route_as_the_reference_does(
        bindings in prop::collection::vec((key(), binding_arguments(), 0..6usize), 1..60),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        keys in prop::collection::vec(key(), 1..3),
        headers in headers(),
    ) {
        for kind in ["topic", "headers"] {
            let mut state = State::new();
            state.apply(DeclareExchange::new("/", "x", kind));
            (0..6).for_each(|n| drop(state.apply(DeclareQueue::new("/", &format!("q{n}")))));
            let change = |(key, arguments, queue): &(Key, Arguments, usize)| ChangeBinding {
                routing_key: key.clone(),
                arguments: arguments.clone(),
                ..crate::testing::bind("x", &format!("q{queue}"), "")
            };
            for binding in &bindings {
                state.apply(change(binding));
            }
            check_routes(&state, &keys, &headers);
            for index in &removed {
                state.apply(Command::Unbind(change(index.get(&bindings))));
            }
            check_routes(&state, &keys, &headers);
        }
    }

    #[test]
    fn a_restart_keeps_exactly_what_durable_commands_made(
        commands in prop::collection::vec(command(), 1..60),
    ) {
        let mut state = State::new();
        for command in &commands {
            let durable = command.is_durable(&state.topology);
            let keep = |state: &State| {
                let mut topology = Topology::restore(&state.topology.snapshot()).unwrap();
                topology.drop_transient();
                topology.check_invariants();
                topology.snapshot()
            };
            let before = keep(&state);
            let _ = state.try_apply(command.clone());
            if !durable {
                prop_assert_eq!(before, keep(&state), "{:?}", command);
            }
        }
    }
}
