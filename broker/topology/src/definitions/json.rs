//! Arguments as plain JSON: AMQP's types are lost on the way out, and chosen as
//! RabbitMQ does on the way in.

use leveret_protocol::{FieldTable, FieldValue, ShortStr};
use serde_json::{Map, Value};

use crate::model::Arguments;

/// Most levels of lists and objects in an argument.
const DEPTH_MAX: usize = 32;

/// Arguments of this object: integers become `long`, other numbers `double`,
/// texts `longstr`.
///
/// # Errors
/// What of it no table can hold: null, a long name, a large number, a deep
/// list.
pub fn arguments(fields: &Map<String, Value>) -> Result<Arguments, String> {
    table(fields, DEPTH_MAX).map(Arguments::from)
}

fn table(fields: &Map<String, Value>, depth: usize) -> Result<FieldTable, String> {
    fields
        .iter()
        .map(|(name, value)| {
            let short = ShortStr::new(name.as_bytes())
                .map_err(|_| format!("the name of an argument is too long: '{name}'"))?;
            Ok((short, field(name, value, depth)?))
        })
        .collect()
}

fn field(name: &str, value: &Value, depth: usize) -> Result<FieldValue, String> {
    let deeper = depth
        .checked_sub(1)
        .ok_or_else(|| format!("argument '{name}' is too deep"))?;
    Ok(match value {
        Value::Null => return Err(format!("argument '{name}' is null")),
        Value::Bool(value) => FieldValue::Bool(*value),
        Value::String(text) => FieldValue::from(text.as_str()),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => FieldValue::Long(number),
            (None, Some(float)) if !number.is_u64() => FieldValue::Double(float),
            _ => return Err(format!("argument '{name}' is too large: {number}")),
        },
        Value::Array(values) => FieldValue::Array(
            values
                .iter()
                .map(|value| field(name, value, deeper))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(fields) => FieldValue::Table(table(fields, deeper)?),
    })
}

/// Arguments as an object. Octets that are no text get replacement characters,
/// a number that is none becomes null.
pub fn object(arguments: &FieldTable) -> Value {
    let fields = arguments
        .iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), plain(value)));
    Value::Object(fields.collect())
}

fn plain(value: &FieldValue) -> Value {
    match value {
        FieldValue::Bool(value) => Value::Bool(*value),
        FieldValue::LongStr(octets) | FieldValue::Binary(octets) => {
            Value::String(String::from_utf8_lossy(octets).into_owned())
        }
        FieldValue::Float(value) => Value::from(f64::from(*value)),
        FieldValue::Double(value) => Value::from(*value),
        FieldValue::Decimal { scale, value } => {
            Value::from(f64::from(*value) / 10f64.powi(i32::from(*scale)))
        }
        FieldValue::Timestamp(value) => Value::from(*value),
        FieldValue::Array(values) => Value::Array(values.iter().map(plain).collect()),
        FieldValue::Table(fields) => object(fields),
        FieldValue::Void => Value::Null,
        integer => integer.as_integer().map_or(Value::Null, Value::from),
    }
}
