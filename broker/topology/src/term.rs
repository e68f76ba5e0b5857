//! Values as RabbitMQ's reply texts print them: as Erlang terms.

use std::fmt::Write;

use serde_json::Value;

/// A binary, such as `<<"abc">>`.
pub(crate) fn binary(octets: &[u8]) -> String {
    if octets.is_empty() {
        return "<<>>".to_owned();
    }
    let text = std::str::from_utf8(octets).unwrap_or_default();
    let printable = !text.is_empty() && !text.chars().any(|c| c.is_control());
    if printable {
        return format!(
            "<<\"{}\">>",
            text.replace('\\', "\\\\").replace('"', "\\\"")
        );
    }
    let numbers: Vec<String> = octets.iter().map(u8::to_string).collect();
    format!("<<{}>>", numbers.join(","))
}

/// A value of decoded JSON.
pub(crate) fn json(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => binary(text.as_bytes()),
        Value::Array(values) => {
            let items: Vec<String> = values.iter().map(json).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) => {
            let mut out = String::from("#{");
            for (index, (name, value)) in fields.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                // Writing to a string cannot fail.
                let _ = write!(out, "{comma}{} => {}", binary(name.as_bytes()), json(value));
            }
            out.push('}');
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_look_like_erlangs() {
        assert_eq!(binary(b"abc"), "<<\"abc\">>");
        assert_eq!(binary(b"a\"b"), "<<\"a\\\"b\">>");
        assert_eq!(binary(b""), "<<>>");
        assert_eq!(binary(b"\x01\xff"), "<<1,255>>");
        let value = serde_json::json!({"a": [1, -2.5, true], "b": "x"});
        assert_eq!(
            json(&value),
            "#{<<\"a\">> => [1,-2.5,true],<<\"b\">> => <<\"x\">>}"
        );
    }
}
