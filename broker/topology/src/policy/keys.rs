//! The keys of a policy's definition and their values, with RabbitMQ's texts
//! for what is wrong.

use serde_json::{Map, Value};

use crate::model::{DeadLetterStrategy, Overflow};
use crate::term;

/// Keys for which a policy does not apply to a stream (RabbitMQ 3.10).
pub(crate) const STREAM_UNSUPPORTED: &[&str] = &[
    "expires",
    "message-ttl",
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "max-length",
    "max-in-memory-length",
    "max-in-memory-bytes",
    "max-priority",
    "overflow",
    "queue-mode",
    "single-active-consumer",
    "delivery-limit",
    "ha-mode",
    "ha-params",
    "ha-sync-mode",
    "ha-promote-on-shutdown",
    "ha-promote-on-failure",
    "queue-master-locator",
];

/// Keys that an operator policy may have: RabbitMQ 3.10's, and those that came
/// up to 3.13.
const OPERATOR_KEYS: &[&str] = &[
    "expires",
    "message-ttl",
    "max-length",
    "max-length-bytes",
    "max-in-memory-length",
    "max-in-memory-bytes",
    "delivery-limit",
    "queue-version",
    "overflow",
    "ha-mode",
    "ha-params",
    "ha-sync-mode",
];

/// Largest stream segment in octets (RabbitMQ).
const STREAM_SEGMENT_SIZE_MAX: u64 = 3_000_000_000;

/// Checks the definition of a policy. The error is the line that RabbitMQ
/// prints under "Validation failed".
pub(crate) fn validate_definition(
    definition: &Map<String, Value>,
    operator: bool,
) -> Result<(), String> {
    if definition.is_empty() {
        return Err("no policy provided".to_owned());
    }
    for (key, value) in definition {
        if operator && !OPERATOR_KEYS.contains(&key.as_str()) {
            return Err(unknown(key, value));
        }
        validate_key(key, value)?;
    }
    validate_ha(definition)
}

fn unknown(key: &str, value: &Value) -> String {
    let pair = format!("{{{},{}}}", term::binary(key.as_bytes()), term::json(value));
    format!("[{pair}] are not recognised policy settings")
}

fn validate_key(key: &str, value: &Value) -> Result<(), String> {
    let (valid, what) = match key {
        "alternate-exchange" => (value.is_string(), "alternate exchange name"),
        "dead-letter-exchange" => (value.is_string(), "dead letter exchange name"),
        "dead-letter-routing-key" => (value.is_string(), "dead letter routing key"),
        "dead-letter-strategy" => (
            value
                .as_str()
                .and_then(DeadLetterStrategy::from_name)
                .is_some(),
            { "dead letter strategy" },
        ),
        "message-ttl" => (value.is_u64(), "message TTL"),
        "expires" => (value.as_u64().is_some_and(|ms| ms >= 1), "queue expiry"),
        "max-length" => (value.is_u64(), "maximum length"),
        "max-length-bytes" => (value.is_u64(), "maximum length in bytes"),
        "max-in-memory-length" | "max-in-memory-bytes" => {
            (value.is_u64(), "maximum memory in bytes")
        }
        "max-priority" => (value.as_u64().is_some_and(|n| n <= 255), "maximum priority"),
        "single-active-consumer" => (value.is_boolean(), "single active consumer value"),
        "queue-mode" => (is_one_of(value, &["default", "lazy"]), "queue-mode value"),
        "queue-version" => (matches!(value.as_u64(), Some(1 | 2)), "queue-version value"),
        "overflow" => (
            value.as_str().and_then(Overflow::from_name).is_some(),
            "overflow value",
        ),
        "delivery-limit" => (value.is_u64(), "delivery limit"),
        "consumer-timeout" => (value.is_u64(), "consumer timeout"),
        "max-age" => (
            value
                .as_str()
                .is_some_and(|age| parse_max_age(age).is_some()),
            "max age",
        ),
        "queue-leader-locator" => (
            is_one_of(
                value,
                &["client-local", "balanced", "random", "least-leaders"],
            ),
            "queue leader locator value",
        ),
        "queue-master-locator" => (
            is_one_of(value, &["min-masters", "client-local", "random"]),
            "queue-master-locator",
        ),
        "initial-cluster-size" => (value.is_u64(), "cluster size"),
        "stream-max-segment-size-bytes" => (
            value.as_u64().is_some_and(|n| n <= STREAM_SEGMENT_SIZE_MAX),
            "segment size",
        ),
        "ha-mode"
        | "ha-params"
        | "ha-sync-mode"
        | "ha-sync-batch-size"
        | "ha-promote-on-shutdown"
        | "ha-promote-on-failure" => return Ok(()),
        _ => return Err(unknown(key, value)),
    };
    if valid {
        Ok(())
    } else {
        Err(format!("{} is not a valid {what}", term::json(value)))
    }
}

fn is_one_of(value: &Value, names: &[&str]) -> bool {
    value.as_str().is_some_and(|text| names.contains(&text))
}

/// The `ha-` keys depend on each other.
fn validate_ha(definition: &Map<String, Value>) -> Result<(), String> {
    let get = |key| definition.get(key);
    let Some(mode) = get("ha-mode") else {
        return match definition.keys().any(|key| key.starts_with("ha-")) {
            true => Err(
                "ha-mode must be specified to specify ha-params, ha-sync-mode or \
                         ha-promote-on-shutdown"
                    .to_owned(),
            ),
            false => Ok(()),
        };
    };
    validate_ha_mode(mode, get("ha-params"))?;
    if let Some(value) = get("ha-sync-mode").filter(|v| !is_one_of(v, &["automatic", "manual"])) {
        let got = term::json(value);
        return Err(format!(
            "ha-sync-mode must be \"manual\" or \"automatic\", got {got}"
        ));
    }
    if let Some(value) =
        get("ha-sync-batch-size").filter(|value| value.as_u64().is_none_or(|n| n == 0))
    {
        let got = term::json(value);
        return Err(format!(
            "ha-sync-batch-size takes an integer greater than 0, {got} given"
        ));
    }
    for key in ["ha-promote-on-shutdown", "ha-promote-on-failure"] {
        if let Some(value) = get(key).filter(|v| !is_one_of(v, &["always", "when-synced"])) {
            let got = term::json(value);
            return Err(format!(
                "{key} must be \"always\" or \"when-synced\", got {got}"
            ));
        }
    }
    Ok(())
}

fn validate_ha_mode(mode: &Value, params: Option<&Value>) -> Result<(), String> {
    let given = || params.map_or("none".to_owned(), term::json);
    match mode.as_str() {
        Some("all") if params.is_none() => Ok(()),
        Some("all") => Err("ha-mode=\"all\" does not take parameters".to_owned()),
        Some("exactly") => match params.and_then(Value::as_u64) {
            Some(count) if count > 0 => Ok(()),
            _ => Err(format!(
                "ha-mode=\"exactly\" takes an integer, {} given",
                given()
            )),
        },
        Some("nodes") => match params.and_then(Value::as_array) {
            None => Err(format!("ha-mode=\"nodes\" takes a list, {} given", given())),
            Some(nodes) if nodes.is_empty() => {
                Err("ha-mode=\"nodes\" list must be non-empty".to_owned())
            }
            Some(nodes) if nodes.iter().all(Value::is_string) => Ok(()),
            Some(nodes) => {
                let odd: Vec<String> = nodes
                    .iter()
                    .filter(|node| !node.is_string())
                    .map(term::json)
                    .collect();
                Err(format!(
                    "ha-mode=\"nodes\" takes a list of strings, [{}] was not a string",
                    odd.join(",")
                ))
            }
        },
        _ => Err(format!("{} is not a valid ha-mode value", term::json(mode))),
    }
}

/// The milliseconds of an age such as `7D`: a positive number and one of the
/// units Y, M, D, h, m, s. None when it is not that.
pub(crate) fn parse_max_age(age: &str) -> Option<u64> {
    let digits = age.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = age.split_at_checked(digits)?;
    let number: u64 = number.parse().ok().filter(|n| *n > 0)?;
    let seconds: u64 = match unit {
        "Y" => 365 * 86400,
        "M" => 30 * 86400,
        "D" => 86400,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return None,
    };
    number.checked_mul(seconds * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(definition: Value, operator: bool) -> Result<(), String> {
        validate_definition(definition.as_object().unwrap(), operator)
    }

    #[test]
    fn good_definitions_pass() {
        for definition in [
            serde_json::json!({"ha-mode": "all"}),
            serde_json::json!({"ha-mode": "exactly", "ha-params": 2, "ha-sync-mode": "automatic"}),
            serde_json::json!({"ha-mode": "nodes", "ha-params": ["rabbit@a"]}),
            serde_json::json!({"ha-mode": "all", "ha-promote-on-shutdown": "always"}),
            serde_json::json!({"message-ttl": 0, "expires": 1, "max-length": 0}),
            serde_json::json!({"dead-letter-exchange": "", "overflow": "reject-publish-dlx"}),
            serde_json::json!({"max-age": "7D", "queue-mode": "lazy", "alternate-exchange": "a"}),
        ] {
            assert_eq!(check(definition.clone(), false), Ok(()), "{definition}");
        }
        assert_eq!(check(serde_json::json!({"message-ttl": 5}), true), Ok(()));
    }

    #[test]
    fn bad_definitions_get_rabbitmqs_texts() {
        let cases = [
            (serde_json::json!({}), "no policy provided"),
            (
                serde_json::json!({"foo": 1}),
                "[{<<\"foo\">>,1}] are not recognised policy settings",
            ),
            (
                serde_json::json!({"message-ttl": -1}),
                "-1 is not a valid message TTL",
            ),
            (
                serde_json::json!({"expires": 0}),
                "0 is not a valid queue expiry",
            ),
            (
                serde_json::json!({"overflow": "x"}),
                "<<\"x\">> is not a valid overflow value",
            ),
            (
                serde_json::json!({"ha-mode": "all", "ha-params": 2}),
                "ha-mode=\"all\" does not take parameters",
            ),
            (
                serde_json::json!({"ha-mode": "exactly"}),
                "ha-mode=\"exactly\" takes an integer, none given",
            ),
            (
                serde_json::json!({"ha-sync-mode": "automatic"}),
                "ha-mode must be specified to specify ha-params, ha-sync-mode or \
                 ha-promote-on-shutdown",
            ),
            (
                serde_json::json!({"max-age": "7d"}),
                "<<\"7d\">> is not a valid max age",
            ),
        ];
        for (definition, text) in cases {
            assert_eq!(check(definition, false), Err(text.to_owned()));
        }
        assert_eq!(
            check(serde_json::json!({"dead-letter-exchange": "x"}), true),
            Err(
                "[{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings"
                    .to_owned()
            )
        );
    }

    #[test]
    fn ages_have_units() {
        assert_eq!(parse_max_age("1800s"), Some(1_800_000));
        assert_eq!(parse_max_age("1Y"), Some(365 * 86_400_000));
        for bad in ["", "s", "0s", "-1s", "1", "1ss", "99999999999999999999s"] {
            assert_eq!(parse_max_age(bad), None, "{bad}");
        }
    }
}
