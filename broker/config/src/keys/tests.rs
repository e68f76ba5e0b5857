//! The table against itself, and against the names that RabbitMQ has.

use std::collections::HashSet;

use super::*;
use crate::reader::Key;

/// Keys that exist to refuse what is not there: every value they take means the same.
const REFUSING: [&str; 6] = [
    "auth_backends.$num",
    "auth_backends.$num.authn",
    "auth_backends.$num.authz",
    "definitions.import_backend",
    "management.listener.ssl",
    "ssl_options.crl_check",
];

/// The name with words at its free places.
fn written(name: &str) -> Key {
    let word = |word: &str| match word {
        "**" => "any.thing".to_owned(),
        _ => word.trim_start_matches('$').to_owned(),
    };
    let name = name.split('.').map(word).collect::<Vec<_>>().join(".");
    Key::parse(&name).unwrap_or_else(|| panic!("`{name}` is not a key"))
}

/// Values of the form that `kind` takes, its limits among them.
fn samples(kind: &Kind) -> Vec<String> {
    let ends = |low: &u64, high: &u64| vec![low.to_string(), high.to_string()];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match kind {
        Kind::Flag(_) | Kind::NamedFlag(_) => words(&["true", "false"]),
        Kind::Int(low, high, ..) | Kind::Bytes(low, high, _) | Kind::FrameBytes(low, high, _) => {
            ends(low, high)
        }
        Kind::IntOrInfinity(low, high, ..) => [ends(low, high), words(&["infinity"])].concat(),
        Kind::Ratio(low, high, _) => vec![low.to_string(), high.to_string()],
        Kind::Text(_) | Kind::Path(_) => words(&["sample"]),
        Kind::Existing(_) => words(&["/"]),
        Kind::Choice(choices) => choices.iter().map(|(word, _)| (*word).to_owned()).collect(),
        Kind::Level(_) => words(&["debug", "none"]),
        Kind::Listen(_) => words(&["1", "192.0.2.1:1", "[2001:db8::1]:1", "host.example:1"]),
        Kind::Ip(_) => words(&["192.0.2.1", "2001:db8::1"]),
        Kind::Network(_) => words(&["192.0.2.0/24"]),
    }
}

fn after(spec: &KeySpec, value: &str) -> Config {
    let mut config = Config::default();
    // What a listed default, or an empty list, would hide.
    config
        .net
        .tls_listeners
        .push(crate::ListenAddr::loopback(9));
    if let Some(reset) = spec.reset {
        reset(&mut config);
    }
    if let Err(error) = spec.kind.set(&mut config, "name", value) {
        panic!("`{} = {value}`: {error:?}", spec.name);
    }
    config
}

fn before() -> Config {
    let mut config = Config::default();
    config
        .net
        .tls_listeners
        .push(crate::ListenAddr::loopback(9));
    config
}

#[test]
fn every_key_finds_itself() {
    let mut names = HashSet::new();
    for spec in all() {
        assert!(names.insert(spec.name), "{} is there twice", spec.name);
        let (_, found) = find(&written(spec.name)).unwrap();
        assert_eq!(found.name, spec.name);
    }
}

#[test]
fn every_sample_is_taken_and_a_used_key_changes_the_configuration() {
    for spec in all() {
        let changes = samples(&spec.kind)
            .iter()
            .any(|value| after(spec, value) != before());
        let expected = spec.effect == Effect::Used && !REFUSING.contains(&spec.name);
        assert!(changes || !expected, "{} changes nothing", spec.name);
    }
}

#[test]
fn what_the_table_calls_the_default_is_the_default() {
    for spec in all().filter(|spec| !spec.default.is_empty() && spec.reset.is_none()) {
        assert_eq!(after(spec, spec.default), before(), "{}", spec.name);
    }
}

#[test]
fn listed_defaults_are_the_default() {
    for (name, values) in [
        ("listeners.tcp.$name", &["127.0.0.1:5672"][..]),
        ("auth_mechanisms.$name", &["PLAIN", "AMQPLAIN"]),
    ] {
        let spec = all().find(|spec| spec.name == name).unwrap();
        assert_eq!(spec.default, values.join(", "));
        let mut config = Config::default();
        spec.reset.unwrap()(&mut config);
        for value in values {
            spec.kind.set(&mut config, "", value).unwrap();
        }
        assert_eq!(config, Config::default(), "{name}");
    }
    for (name, user) in [
        ("loopback_users.$user", "guest"),
        ("default_user_tags.$tag", "administrator"),
    ] {
        let spec = all().find(|spec| spec.name == name).unwrap();
        assert_eq!(spec.default, user);
        let mut config = Config::default();
        spec.reset.unwrap()(&mut config);
        assert_ne!(config, Config::default());
        spec.kind.set(&mut config, user, "true").unwrap();
        assert_eq!(config, Config::default(), "{name}");
    }
}

#[test]
fn the_last_words_of_the_ends_are_refused() {
    for spec in all() {
        let outside = match spec.kind {
            Kind::Int(_, high, ..) | Kind::IntOrInfinity(_, high, ..) if high < u64::MAX => {
                (high + 1).to_string()
            }
            Kind::Bytes(_, high, _) | Kind::FrameBytes(_, high, _) if high < u64::MAX => {
                (high + 1).to_string()
            }
            Kind::Text(_) | Kind::Path(_) => continue,
            _ => "not a value of this".to_owned(),
        };
        let result = spec.kind.set(&mut Config::default(), "name", &outside);
        assert!(result.is_err(), "{} = {outside}", spec.name);
    }
}

#[test]
fn all_of_rabbitmqs_names_are_known() {
    let names = include_str!("../../tests/data/rabbitmq_keys.txt");
    let names: Vec<_> = names
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(names.len() > 900);
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| find(&written(name)).is_none())
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn distances() {
    for (a, b, expected) in [
        ("", "", 0),
        ("a", "", 1),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("same", "same", 0),
    ] {
        assert_eq!(distance(a, b, 10), expected, "{a} {b}");
        assert_eq!(distance(b, a, 10), expected, "{b} {a}");
    }
    assert_eq!(distance("short", "very much longer", 3), 4);
}
