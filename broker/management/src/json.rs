//! Bodies and AMQP's tables as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use leveret_protocol::{BasicProperties, FieldTable, ShortStr};
use leveret_topology::{arguments_from_json, arguments_to_json};
use serde_json::{Map, Value, json};

use crate::reply::{Failure, Result};

/// The object that a body is; nothing at all is an empty one.
///
/// # Errors
/// 400, as RabbitMQ has them.
pub fn body(bytes: &[u8]) -> Result<Map<String, Value>> {
    if matches!(bytes, b"" | b"null" | b"undefined") {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::String(_)) => Err(Failure::bad_request(
            "invalid payload: the request body JSON-decoded to a string. Is the input \
             doubly-JSON-encoded?",
        )),
        _ => Err(Failure::bad_request("not_json")),
    }
}

/// These fields of a body.
///
/// # Errors
/// 400 that names all that are missing.
pub fn fields<'a, const N: usize>(
    body: &'a Map<String, Value>,
    names: [&str; N],
) -> Result<[&'a Value; N]> {
    let missing: Vec<String> = names
        .iter()
        .filter(|name| !body.contains_key(**name))
        .map(|name| format!("{{key_missing,{name}}}"))
        .collect();
    if !missing.is_empty() {
        return Err(Failure::bad_request(format!("[{}]", missing.join(","))));
    }
    Ok(names.map(|name| body.get(name).unwrap_or(&Value::Null)))
}

/// A text.
///
/// # Errors
/// 400 for anything else.
pub fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value
        .as_str()
        .ok_or_else(|| Failure::bad_request(json!(["not_string", name])))
}

/// A flag: a boolean, or its text; missing is false.
///
/// # Errors
/// 400 for anything else.
pub fn flag(body: &Map<String, Value>, name: &str) -> Result<bool> {
    optional_flag(body, name).map(Option::unwrap_or_default)
}

/// A flag that may be missing.
///
/// # Errors
/// 400 for what is no boolean.
pub fn optional_flag(body: &Map<String, Value>, name: &str) -> Result<Option<bool>> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(on)) => Ok(Some(*on)),
        Some(Value::String(text)) if text == "true" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" => Ok(Some(false)),
        Some(other) => Err(Failure::bad_request(json!(["not_boolean", other]))),
    }
}

/// A whole number, also as a text.
///
/// # Errors
/// 400 for anything else.
pub fn integer(value: &Value) -> Result<i64> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| Failure::bad_request(json!(["not_integer", value])))
}

/// The arguments of a declare or binding; missing or `[]` are none.
///
/// # Errors
/// 400 for what no AMQP table can hold.
pub fn arguments(body: &Map<String, Value>) -> Result<FieldTable> {
    match body.get("arguments") {
        None | Some(Value::Null) => Ok(FieldTable::new()),
        Some(Value::Array(none)) if none.is_empty() => Ok(FieldTable::new()),
        Some(Value::Object(fields)) => table(fields),
        Some(_) => Err(Failure::bad_request("arguments are not an object")),
    }
}

fn table(fields: &Map<String, Value>) -> Result<FieldTable> {
    let arguments = arguments_from_json(fields).map_err(Failure::bad_request)?;
    Ok(arguments.as_table().clone())
}

/// Properties of a message to publish.
///
/// # Errors
/// 400 for unknown names and wrong kinds.
pub fn properties(value: &Value) -> Result<BasicProperties> {
    let mut out = BasicProperties::default();
    let fields = match value {
        Value::Object(fields) => fields,
        Value::Array(none) if none.is_empty() => return Ok(out),
        _ => return Err(Failure::bad_request("properties are not an object")),
    };
    for (name, value) in fields {
        if value.is_null() {
            continue;
        }
        let octet = || {
            let number = integer(value)?;
            u8::try_from(number).map_err(|_| bad_property(name))
        };
        let short = || {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Err(bad_property(name)),
            };
            ShortStr::try_from(text).map_err(|_| bad_property(name))
        };
        match name.as_str() {
            "content_type" => out.content_type = Some(short()?),
            "content_encoding" => out.content_encoding = Some(short()?),
            "headers" => {
                let headers = value.as_object().ok_or_else(|| bad_property(name))?;
                out.headers = Some(table(headers)?);
            }
            "delivery_mode" => out.delivery_mode = Some(octet()?),
            "priority" => out.priority = Some(octet()?),
            "correlation_id" => out.correlation_id = Some(short()?),
            "reply_to" => out.reply_to = Some(short()?),
            "expiration" => out.expiration = Some(short()?),
            "message_id" => out.message_id = Some(short()?),
            "timestamp" => {
                let seconds = integer(value)?;
                out.timestamp = Some(u64::try_from(seconds).map_err(|_| bad_property(name))?);
            }
            "type" => out.kind = Some(short()?),
            "user_id" => out.user_id = Some(short()?),
            "app_id" => out.app_id = Some(short()?),
            "cluster_id" => out.cluster_id = Some(short()?),
            _ => return Err(Failure::bad_request(json!(["unknown_property", name]))),
        }
    }
    Ok(out)
}

fn bad_property(name: &str) -> Failure {
    Failure::bad_request(json!(["invalid_property", name]))
}

/// Properties of a message that was fetched; none at all is an empty list, as RabbitMQ writes it.
pub fn properties_value(properties: &BasicProperties) -> Value {
    let mut out = Map::new();
    let texts = [
        ("app_id", &properties.app_id),
        ("cluster_id", &properties.cluster_id),
        ("content_encoding", &properties.content_encoding),
        ("content_type", &properties.content_type),
        ("correlation_id", &properties.correlation_id),
        ("expiration", &properties.expiration),
        ("message_id", &properties.message_id),
        ("reply_to", &properties.reply_to),
        ("type", &properties.kind),
        ("user_id", &properties.user_id),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            out.insert(name.to_owned(), json!(text.to_string_lossy()));
        }
    }
    if let Some(headers) = &properties.headers {
        out.insert("headers".to_owned(), arguments_to_json(headers));
    }
    let numbers = [
        ("delivery_mode", properties.delivery_mode.map(u64::from)),
        ("priority", properties.priority.map(u64::from)),
        ("timestamp", properties.timestamp),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            out.insert(name.to_owned(), json!(number));
        }
    }
    match out.is_empty() {
        true => json!([]),
        false => Value::Object(out),
    }
}

/// A body to publish.
///
/// # Errors
/// 400 for another encoding, and for what is no base64.
pub fn payload(text: &str, encoding: &str) -> Result<Vec<u8>> {
    match encoding {
        "string" => Ok(text.as_bytes().to_vec()),
        "base64" => STANDARD
            .decode(text)
            .map_err(|_| Failure::bad_request(json!(["not_base64", text]))),
        other => Err(Failure::bad_request(json!(["unsupported_encoding", other]))),
    }
}

/// A fetched body, and how it is encoded: as a text if it is one and `auto` allows it.
pub fn payload_value(body: &[u8], auto: bool) -> (String, &'static str) {
    match std::str::from_utf8(body) {
        Ok(text) if auto => (text.to_owned(), "string"),
        _ => (STANDARD.encode(body), "base64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_objects_or_nothing() {
        assert!(body(b"").unwrap().is_empty());
        assert!(body(b"null").unwrap().is_empty());
        for bad in [&b"[]"[..], b"x", b"1", b"{", b"\"a\""] {
            assert_eq!(body(bad).unwrap_err().status, 400);
        }
    }

    #[test]
    fn missing_fields_are_named() {
        let given = body(br#"{"b":1}"#).unwrap();
        let failure = fields(&given, ["a", "b", "c"]).unwrap_err();
        assert_eq!(failure.reason, "[{key_missing,a},{key_missing,c}]");
    }

    #[test]
    fn properties_go_both_ways() {
        let given = json!({
            "content_type": "t", "headers": {"a": 1, "b": {"c": [true]}}, "delivery_mode": 2,
            "priority": 3, "expiration": "5", "timestamp": 7, "type": "k",
        });
        assert_eq!(properties_value(&properties(&given).unwrap()), given);
        assert_eq!(properties_value(&BasicProperties::default()), json!([]));
        for bad in [
            json!({"delivery_mode": 300}),
            json!({"nope": 1}),
            json!("x"),
        ] {
            assert_eq!(properties(&bad).unwrap_err().status, 400);
        }
    }

    #[test]
    fn bodies_that_are_no_text_are_encoded() {
        assert_eq!(payload_value(b"hi", true), ("hi".to_owned(), "string"));
        assert_eq!(payload_value(b"hi", false), ("aGk=".to_owned(), "base64"));
        assert_eq!(payload_value(&[0xff], true), ("/w==".to_owned(), "base64"));
        assert_eq!(payload("aGk=", "base64").unwrap(), b"hi");
        assert_eq!(payload("a", "base64").unwrap_err().status, 400);
    }
}
