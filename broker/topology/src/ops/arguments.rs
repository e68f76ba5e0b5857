//! The `x-` arguments of a queue and of a consumer: their types and ranges,
//! with RabbitMQ's texts, and which of them a repeated declaration must repeat.

use leveret_protocol::field_table::compare_args;
use leveret_protocol::{FieldTable, FieldValue};

use crate::model::{Arguments, DeadLetterStrategy, Overflow, QueueInfo, QueueType, Resource};
use crate::policy::parse_max_age;
use crate::refusal::Refusal;
use crate::term;

/// Largest time-to-live in milliseconds: ten years, as in RabbitMQ.
const EXPIRY_MS_MAX: i64 = 315_360_000_000;

/// The check of one argument; the error is an Erlang term.
type Check = fn(&FieldValue, &FieldTable) -> Result<(), String>;

/// The arguments of a queue that are checked, in RabbitMQ's order: the first
/// that is wrong is named.
const QUEUE_CHECKS: &[(&str, Check)] = &[
    ("x-expires", expires),
    ("x-message-ttl", message_ttl),
    ("x-dead-letter-exchange", longstr),
    ("x-dead-letter-routing-key", dead_letter_routing_key),
    ("x-dead-letter-strategy", dead_letter_strategy),
    ("x-max-length", non_negative),
    ("x-max-length-bytes", non_negative),
    ("x-max-in-memory-length", non_negative),
    ("x-max-in-memory-bytes", non_negative),
    ("x-max-priority", max_priority),
    ("x-overflow", overflow),
    ("x-queue-mode", queue_mode),
    ("x-queue-version", queue_version),
    ("x-single-active-consumer", boolean),
    ("x-quorum-initial-group-size", positive),
    ("x-max-age", max_age),
    ("x-stream-max-segment-size-bytes", non_negative),
    ("x-initial-cluster-size", positive),
    ("x-queue-leader-locator", leader_locator),
    ("x-delivery-limit", non_negative),
    ("x-consumer-timeout", non_negative),
];

/// Arguments that only a stream has.
const STREAM_ONLY: &[&str] = &[
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
];

/// Arguments that a stream can have.
const STREAM: &[&str] = &[
    "x-max-length-bytes",
    "x-queue-type",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-initial-cluster-size",
    "x-queue-leader-locator",
];

/// Arguments that mean something to a classic or quorum queue of RabbitMQ, so
/// that a stream refuses them.
const NOT_STREAM: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-master-locator",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
];

/// Arguments that a repeated declaration has to repeat, whichever of classic
/// and quorum the two declarations name.
///
/// RabbitMQ compares more, and those are deliberately left out, so that a queue
/// that one client declares as classic and another as mirrored or quorum is the
/// same queue: `x-queue-type` (but a stream is another queue),
/// `x-queue-leader-locator`, `x-quorum-initial-group-size`,
/// `x-max-in-memory-length`, `x-max-in-memory-bytes`. It compares neither
/// `x-ha-policy` nor `x-ha-policy-params`, and nothing that it does not know.
const COMPARED: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-single-active-consumer",
];

/// As [`COMPARED`], when both declarations are classic.
const COMPARED_CLASSIC: &[&str] = &[
    "x-max-priority",
    "x-queue-mode",
    "x-queue-version",
    "x-queue-master-locator",
];

/// As [`COMPARED`], when both declarations are quorum.
const COMPARED_QUORUM: &[&str] = &["x-dead-letter-strategy", "x-delivery-limit"];

/// As [`COMPARED`], when both declarations are stream.
const COMPARED_STREAM: &[&str] = &[
    "x-max-length-bytes",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
];

/// The type that these arguments ask for.
///
/// # Errors
/// 406 when `x-queue-type` is none of the three.
pub(crate) fn queue_type(arguments: &Arguments, queue: Resource<'_>) -> Result<QueueType, Refusal> {
    let Some(value) = arguments.get("x-queue-type") else {
        return Ok(QueueType::Classic);
    };
    let found = match value.as_longstr() {
        None => Err(unacceptable(value)),
        Some(name) => std::str::from_utf8(name)
            .ok()
            .and_then(QueueType::from_name)
            .ok_or_else(|| {
                format!(
                    "\"unsupported queue type '{}'\"",
                    String::from_utf8_lossy(name)
                )
            }),
    };
    found.map_err(|error| invalid("x-queue-type", queue, &error))
}

/// Checks the arguments of a new queue of this type.
///
/// # Errors
/// 406 with RabbitMQ's text for the first that is wrong.
pub(crate) fn check_queue_arguments(
    arguments: &Arguments,
    kind: QueueType,
    queue: Resource<'_>,
) -> Result<(), Refusal> {
    let applies = |name: &str| match kind {
        QueueType::Stream => STREAM.contains(&name),
        QueueType::Classic | QueueType::Quorum => !STREAM_ONLY.contains(&name),
    };
    for (name, check) in QUEUE_CHECKS.iter().filter(|(name, _)| applies(name)) {
        if let Some(value) = arguments.get(name) {
            check(value, arguments).map_err(|error| invalid(name, queue, &error))?;
        }
    }
    let misplaced = match kind {
        QueueType::Stream => NOT_STREAM,
        QueueType::Classic | QueueType::Quorum => STREAM_ONLY,
    };
    for (name, _) in arguments.iter() {
        if misplaced
            .iter()
            .any(|other| other.as_bytes() == name.as_bytes())
        {
            let module = kind.module();
            let text = format!("invalid arg '{name}' for {queue} of queue type {module}");
            return Err(Refusal::precondition(text));
        }
    }
    Ok(())
}

/// Compares the arguments of a queue with those of a repeated declaration, of
/// this type.
///
/// # Errors
/// 406 with RabbitMQ's text for the first that differs.
pub(crate) fn check_equivalent_arguments(
    current: &QueueInfo,
    received: &Arguments,
    kind: QueueType,
) -> Result<(), Refusal> {
    let compared: [&[&str]; 2] = match (current.kind, kind) {
        (QueueType::Stream, QueueType::Stream) => [COMPARED_STREAM, &[]],
        (QueueType::Stream, _) | (_, QueueType::Stream) => [&["x-queue-type"], &[]],
        (QueueType::Classic, QueueType::Classic) => [COMPARED, COMPARED_CLASSIC],
        (QueueType::Quorum, QueueType::Quorum) => [COMPARED, COMPARED_QUORUM],
        _ => [COMPARED, &[]],
    };
    let names = compared.into_iter().flatten();
    check_equivalent(&current.arguments, received, current.resource(), names)
}

/// Compares some arguments of an entity with those of a repeated declaration.
///
/// # Errors
/// 406 with RabbitMQ's text for the first that differs.
pub(crate) fn check_equivalent<'a>(
    current: &FieldTable,
    received: &FieldTable,
    resource: Resource<'_>,
    names: impl IntoIterator<Item = &'a &'a str>,
) -> Result<(), Refusal> {
    for name in names {
        if let Some(mismatch) = compare_args(current, received, name) {
            return Err(inequivalent(
                name,
                resource,
                &mismatch.received,
                &mismatch.current,
            ));
        }
    }
    Ok(())
}

/// 406 for a property or argument that differs; both values come quoted.
pub(crate) fn inequivalent(
    name: &str,
    resource: Resource<'_>,
    received: &str,
    current: &str,
) -> Refusal {
    Refusal::precondition(format!(
        "inequivalent arg '{name}' for {resource}: received {received} but current is {current}"
    ))
}

/// Checks the arguments of basic.consume.
///
/// # Errors
/// 406 with RabbitMQ's text for the first that is wrong.
pub fn check_consume_arguments(queue: &QueueInfo, arguments: &FieldTable) -> Result<(), Refusal> {
    let resource = queue.resource();
    let is_stream = queue.kind == QueueType::Stream;
    let checks: &[(&str, Check)] = match is_stream {
        true => &[("x-stream-offset", stream_offset)],
        false => &[
            ("x-priority", integer),
            ("x-cancel-on-ha-failover", boolean),
        ],
    };
    for (name, check) in checks {
        if let Some(value) = arguments.get(name) {
            check(value, arguments).map_err(|error| invalid(name, resource, &error))?;
        }
    }
    let misplaced: &[&[u8]] = match is_stream {
        true => &[b"x-priority", b"x-cancel-on-ha-failover"],
        false => &[b"x-stream-offset"],
    };
    for (name, _) in arguments {
        if misplaced.contains(&name.as_bytes()) {
            let module = queue.kind.module();
            let text = format!("invalid arg '{name}' for {resource} of queue type {module}");
            return Err(Refusal::precondition(text));
        }
    }
    Ok(())
}

fn invalid(name: &str, queue: Resource<'_>, error: &str) -> Refusal {
    Refusal::precondition(format!("invalid arg '{name}' for {queue}: {error}"))
}

fn unacceptable(value: &FieldValue) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn number(value: &FieldValue) -> Result<i64, String> {
    let type_name = value.type_name();
    value
        .as_integer()
        .ok_or_else(|| format!("\"expected integer, got {type_name}\""))
}

fn integer(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    number(value).map(drop)
}

fn boolean(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    value.as_bool().map(drop).ok_or_else(|| unacceptable(value))
}

fn longstr(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    value
        .as_longstr()
        .map(drop)
        .ok_or_else(|| unacceptable(value))
}

fn non_negative_number(value: &FieldValue) -> Result<i64, String> {
    match number(value)? {
        number if number < 0 => Err(format!("{{value_negative,{number}}}")),
        number => Ok(number),
    }
}

fn non_negative(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    non_negative_number(value).map(drop)
}

fn positive(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    match non_negative_number(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        _ => Ok(()),
    }
}

fn message_ttl(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    match non_negative_number(value)? {
        number if number > EXPIRY_MS_MAX => Err(format!("{{value_too_large,{number}}}")),
        _ => Ok(()),
    }
}

fn expires(value: &FieldValue, table: &FieldTable) -> Result<(), String> {
    match number(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        _ => message_ttl(value, table),
    }
}

fn dead_letter_routing_key(value: &FieldValue, table: &FieldTable) -> Result<(), String> {
    longstr(value, table)?;
    match table.contains("x-dead-letter-exchange") {
        true => Ok(()),
        false => Err("routing_key_but_no_dlx_defined".to_owned()),
    }
}

/// Checks a word among words that are known; others are the Erlang atom `error`.
fn word(value: &FieldValue, error: &str, is_known: impl Fn(&str) -> bool) -> Result<(), String> {
    let word = value.as_longstr().ok_or_else(|| unacceptable(value))?;
    match std::str::from_utf8(word).is_ok_and(is_known) {
        true => Ok(()),
        false => Err(error.to_owned()),
    }
}

fn dead_letter_strategy(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    word(value, "invalid_dlx_strategy", |name| {
        DeadLetterStrategy::from_name(name).is_some()
    })
}

fn overflow(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    word(value, "invalid_overflow", |name| {
        Overflow::from_name(name).is_some()
    })
}

fn leader_locator(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    let known = ["client-local", "balanced", "random", "least-leaders"];
    word(value, "invalid_queue_locator_arg", |name| {
        known.contains(&name)
    })
}

fn queue_mode(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    let error = format!("\"unsupported queue mode '{}'\"", value.to_term());
    word(value, &error, |name| ["default", "lazy"].contains(&name))
}

fn queue_version(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    match non_negative_number(value)? {
        1 | 2 => Ok(()),
        number => Err(format!("\"unsupported queue version '{number}'\"")),
    }
}

fn max_priority(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    match non_negative_number(value)? {
        number if number > 255 => Err(format!("{{max_value_exceeded,{number}}}")),
        _ => Ok(()),
    }
}

fn max_age(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    word(value, "invalid_max_age", |age| parse_max_age(age).is_some())
}

fn stream_offset(value: &FieldValue, _: &FieldTable) -> Result<(), String> {
    let known =
        |name: &str| ["first", "last", "next"].contains(&name) || parse_max_age(name).is_some();
    let is_valid = match value {
        FieldValue::Timestamp(_) => true,
        value => value.as_integer().is_some() || value.as_text().is_some_and(known),
    };
    match is_valid {
        true => Ok(()),
        false => {
            let term = match value.as_longstr() {
                Some(octets) => term::binary(octets),
                None => value.to_term(),
            };
            Err(format!(
                "{{invalid_stream_offset_arg,{{{},{term}}}}}",
                value.type_name()
            ))
        }
    }
}
