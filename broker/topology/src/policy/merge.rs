//! How policy, operator policy and arguments come together (RabbitMQ 3.10,
//! with the operator keys of 3.13).

use std::borrow::Cow;

use leveret_protocol::FieldValue;
use serde_json::{Map, Value};

use super::Policy;
use crate::model::{
    Arguments, DeadLetterStrategy, EffectiveQueueSettings, HaMode, Key, Name, Overflow,
};

/// The policies that apply to one queue or exchange.
#[derive(Clone, Copy, Default)]
pub(crate) struct Effective<'a> {
    /// The policy.
    pub policy: Option<&'a Policy>,
    /// The operator policy.
    pub operator: Option<&'a Policy>,
}

impl<'a> Effective<'a> {
    /// The value of a key after the merge of the two.
    pub fn get(&self, key: &str) -> Option<Cow<'a, Value>> {
        let of = |policy: Option<&'a Policy>| policy.and_then(|policy| policy.definition.get(key));
        match (of(self.policy), of(self.operator)) {
            (None, None) => None,
            (Some(value), None) | (None, Some(value)) => Some(Cow::Borrowed(value)),
            (Some(value), Some(limit)) => Some(Cow::Borrowed(merge_value(key, value, limit))),
        }
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key)?.as_str().map(str::to_owned)
    }

    /// The settings of a queue with these arguments.
    pub fn queue_settings(&self, arguments: &Arguments) -> EffectiveQueueSettings {
        let merge = Merge {
            policies: self,
            arguments,
        };
        EffectiveQueueSettings {
            message_ttl_ms: merge.smallest("message-ttl"),
            expires_ms: merge.smallest("expires").filter(|ms| *ms > 0),
            max_length: merge.smallest("max-length"),
            max_length_bytes: merge.smallest("max-length-bytes"),
            overflow: merge
                .text("overflow")
                .and_then(|name| Overflow::from_name(&name))
                .unwrap_or_default(),
            dead_letter_exchange: merge.text("dead-letter-exchange").map(Name::from),
            dead_letter_routing_key: merge.key("dead-letter-routing-key"),
            dead_letter_strategy: merge
                .text("dead-letter-strategy")
                .and_then(|name| DeadLetterStrategy::from_name(&name))
                .unwrap_or_default(),
            max_priority: merge.max_priority(),
            delivery_limit: merge.smallest("delivery-limit"),
            single_active_consumer: merge.flag("single-active-consumer"),
            consumer_timeout_ms: merge.smallest("consumer-timeout"),
            lazy: merge.text("queue-mode").is_some_and(|mode| mode == "lazy"),
            ha_mode: self.ha_mode(),
        }
    }

    fn ha_mode(&self) -> Option<HaMode> {
        let params = self.get("ha-params");
        match self.text("ha-mode")?.as_str() {
            "all" => Some(HaMode::All),
            "exactly" => {
                let count = params?.as_u64()?;
                Some(HaMode::Exactly(u32::try_from(count).unwrap_or(u32::MAX)))
            }
            "nodes" => {
                let nodes = params?;
                let nodes = nodes
                    .as_array()?
                    .iter()
                    .filter_map(Value::as_str)
                    .map(Name::from);
                Some(HaMode::Nodes(nodes.collect()))
            }
            _ => None,
        }
    }

    /// The alternate exchange of an exchange with these arguments.
    pub fn alternate_exchange(&self, arguments: &Arguments) -> Option<Name> {
        match arguments.get("alternate-exchange") {
            Some(value) => value.as_text().map(Name::from),
            None => self.text("alternate-exchange").map(Name::from),
        }
    }
}

/// An argument `x-KEY` beside the policies' `KEY`.
struct Merge<'a> {
    policies: &'a Effective<'a>,
    arguments: &'a Arguments,
}

impl Merge<'_> {
    fn argument(&self, key: &str) -> Option<&FieldValue> {
        self.arguments.get(format!("x-{key}"))
    }

    /// Of argument and policy the smaller number. Negative arguments do not get
    /// here: they are refused when the queue is declared.
    fn smallest(&self, key: &str) -> Option<u64> {
        let argument = self.argument(key).and_then(FieldValue::as_integer);
        let argument = argument.and_then(|number| u64::try_from(number).ok());
        match (argument, self.policies.number(key)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The argument, else the policy.
    fn text(&self, key: &str) -> Option<String> {
        match self.argument(key) {
            Some(value) => Some(String::from_utf8_lossy(value.as_longstr()?).into_owned()),
            None => self.policies.text(key),
        }
    }

    fn key(&self, key: &str) -> Option<Key> {
        match self.argument(key) {
            Some(value) => value.as_longstr().map(Key::from),
            None => self.policies.text(key).map(|text| Key::from(text.as_str())),
        }
    }

    fn flag(&self, key: &str) -> bool {
        match self.argument(key) {
            Some(value) => value.as_bool().unwrap_or(false),
            None => self
                .policies
                .get(key)
                .and_then(|value| value.as_bool())
                .unwrap_or(false),
        }
    }

    fn max_priority(&self) -> Option<u8> {
        let argument = self
            .argument("max-priority")
            .and_then(FieldValue::as_integer);
        let number = match argument {
            Some(number) => u64::try_from(number).ok(),
            None => self.policies.number("max-priority"),
        };
        number
            .map(|n| u8::try_from(n).unwrap_or(u8::MAX))
            .filter(|n| *n > 0)
    }
}

/// The value that a policy's and an operator policy's come to.
fn merge_value<'a>(key: &str, value: &'a Value, limit: &'a Value) -> &'a Value {
    match key {
        "message-ttl"
        | "expires"
        | "max-length"
        | "max-length-bytes"
        | "max-in-memory-length"
        | "max-in-memory-bytes"
        | "delivery-limit" => {
            if value.as_u64() <= limit.as_u64() {
                value
            } else {
                limit
            }
        }
        "ha-mode" => stronger_ha_mode(value, limit),
        "ha-params" => larger_ha_params(value, limit),
        _ => limit,
    }
}

/// `all` before `exactly` before `nodes`.
fn stronger_ha_mode<'a>(value: &'a Value, limit: &'a Value) -> &'a Value {
    for mode in ["all", "exactly"] {
        for side in [value, limit] {
            if side == mode {
                return side;
            }
        }
    }
    value
}

/// A count before a list, the greater count, the longer list.
fn larger_ha_params<'a>(value: &'a Value, limit: &'a Value) -> &'a Value {
    match (value.as_u64(), limit.as_u64()) {
        (Some(a), Some(b)) => {
            if a > b {
                value
            } else {
                limit
            }
        }
        (Some(_), None) => value,
        (None, Some(_)) => limit,
        (None, None) => {
            let len = |side: &Value| side.as_array().map_or(0, Vec::len);
            if len(value) > len(limit) {
                value
            } else {
                limit
            }
        }
    }
}

/// The definition that two policies come to, for whoever asks what is in force.
pub(crate) fn merged_definition(effective: Effective<'_>) -> Map<String, Value> {
    let keys = |policy: Option<&Policy>| -> Vec<String> {
        policy
            .map(|policy| policy.definition.keys().cloned().collect())
            .unwrap_or_default()
    };
    let mut merged = Map::new();
    for key in keys(effective.policy)
        .into_iter()
        .chain(keys(effective.operator))
    {
        if let Some(value) = effective.get(&key) {
            merged.insert(key, value.into_owned());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use crate::policy::ApplyTo;

    fn policy(definition: Value) -> Policy {
        Policy {
            name: Name::from("p"),
            pattern: Pattern::new("").unwrap(),
            definition: definition.as_object().unwrap().clone(),
            priority: 0,
            apply_to: ApplyTo::All,
        }
    }

    /// Argument, policy, operator policy, and what they come to.
    #[test]
    fn numbers_become_the_smallest() {
        type Row = (Option<i32>, Option<u64>, Option<u64>, Option<u64>);
        let table: &[Row] = &[
            (None, None, None, None),
            (Some(5), None, None, Some(5)),
            (None, Some(5), None, Some(5)),
            (None, None, Some(5), Some(5)),
            (Some(5), Some(7), None, Some(5)),
            (Some(7), Some(5), None, Some(5)),
            (Some(7), Some(6), Some(5), Some(5)),
            (Some(5), Some(6), Some(7), Some(5)),
            (Some(6), Some(5), Some(7), Some(5)),
            (Some(5), None, Some(7), Some(5)),
            (Some(0), Some(5), None, Some(0)),
        ];
        for key in [
            "message-ttl",
            "max-length",
            "max-length-bytes",
            "delivery-limit",
        ] {
            for (argument, own, limit, expected) in table {
                let mut arguments = Arguments::new();
                if let Some(number) = argument {
                    arguments.insert(&format!("x-{key}"), *number);
                }
                let own = own.map(|n| policy(serde_json::json!({key: n})));
                let limit = limit.map(|n| policy(serde_json::json!({key: n})));
                let effective = Effective {
                    policy: own.as_ref(),
                    operator: limit.as_ref(),
                };
                let settings = effective.queue_settings(&arguments);
                let actual = match key {
                    "message-ttl" => settings.message_ttl_ms,
                    "max-length" => settings.max_length,
                    "max-length-bytes" => settings.max_length_bytes,
                    _ => settings.delivery_limit,
                };
                assert_eq!(actual, *expected, "{key} {argument:?} {own:?} {limit:?}");
            }
        }
    }

    #[test]
    fn words_come_from_the_argument_first() {
        let own = policy(serde_json::json!({
            "overflow": "reject-publish", "dead-letter-exchange": "p", "queue-mode": "lazy"
        }));
        let effective = Effective {
            policy: Some(&own),
            operator: None,
        };
        let plain = effective.queue_settings(&Arguments::new());
        assert_eq!(plain.overflow, Overflow::RejectPublish);
        assert_eq!(plain.dead_letter_exchange, Some(Name::from("p")));
        assert!(plain.lazy);
        let arguments = Arguments::from([
            ("x-overflow", FieldValue::from("drop-head")),
            ("x-dead-letter-exchange", FieldValue::from("")),
            ("x-queue-mode", FieldValue::from("default")),
        ]);
        let own = effective.queue_settings(&arguments);
        assert_eq!(own.overflow, Overflow::DropHead);
        assert_eq!(own.dead_letter_exchange, Some(Name::from("")));
        assert!(!own.lazy);
    }

    #[test]
    fn ha_modes_merge_to_the_stronger() {
        let table = [
            (serde_json::json!({"ha-mode": "all"}), Some(HaMode::All)),
            (
                serde_json::json!({"ha-mode": "exactly", "ha-params": 3}),
                Some(HaMode::Exactly(3)),
            ),
            (
                serde_json::json!({"ha-mode": "exactly", "ha-params": 1}),
                Some(HaMode::Exactly(2)),
            ),
            (
                serde_json::json!({"ha-mode": "nodes", "ha-params": ["a"]}),
                Some(HaMode::Exactly(2)),
            ),
            (
                serde_json::json!({"message-ttl": 1}),
                Some(HaMode::Exactly(2)),
            ),
        ];
        let limit = policy(serde_json::json!({"ha-mode": "exactly", "ha-params": 2}));
        for (definition, expected) in table {
            let own = policy(definition.clone());
            let effective = Effective {
                policy: Some(&own),
                operator: Some(&limit),
            };
            assert_eq!(
                effective.queue_settings(&Arguments::new()).ha_mode,
                expected,
                "{definition}"
            );
        }
    }

    #[test]
    fn the_definition_in_force_has_the_keys_of_both() {
        let own = policy(serde_json::json!({"max-length": 10, "overflow": "drop-head"}));
        let limit = policy(serde_json::json!({"max-length": 5, "expires": 7}));
        let merged = merged_definition(Effective {
            policy: Some(&own),
            operator: Some(&limit),
        });
        let expected = serde_json::json!({"max-length": 5, "overflow": "drop-head", "expires": 7});
        assert_eq!(Value::Object(merged), expected);
    }
}
