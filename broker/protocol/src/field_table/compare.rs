//! Equality of values: exact, and as RabbitMQ compares the arguments of a
//! repeated declaration.

use std::fmt::Write;

use super::{FieldTable, FieldValue};
use crate::terms;

impl PartialEq for FieldValue {
    /// Same type and same value; floats are compared by their bits, so a value
    /// always equals its copy.
    fn eq(&self, other: &Self) -> bool {
        use FieldValue::*;
        match (self, other) {
            (Bool(a), Bool(b)) => a == b,
            (Byte(a), Byte(b)) => a == b,
            (UnsignedByte(a), UnsignedByte(b)) => a == b,
            (Short(a), Short(b)) => a == b,
            (UnsignedShort(a), UnsignedShort(b)) => a == b,
            (Int(a), Int(b)) => a == b,
            (UnsignedInt(a), UnsignedInt(b)) => a == b,
            (Long(a), Long(b)) => a == b,
            (Float(a), Float(b)) => a.to_bits() == b.to_bits(),
            (Double(a), Double(b)) => a.to_bits() == b.to_bits(),
            (Decimal { scale: s, value: a }, Decimal { scale: t, value: b }) => (s, a) == (t, b),
            (LongStr(a), LongStr(b)) | (Binary(a), Binary(b)) => a == b,
            (Timestamp(a), Timestamp(b)) => a == b,
            (Array(a), Array(b)) => a == b,
            (Table(a), Table(b)) => a == b,
            (Void, Void) => true,
            _ => false,
        }
    }
}

impl Eq for FieldValue {}

impl FieldValue {
    /// Whether RabbitMQ takes the two for the same argument: the integer types
    /// are one type to it, and so are the two float types.
    pub fn is_equivalent(&self, other: &FieldValue) -> bool {
        if let (Some(a), Some(b)) = (self.as_integer(), other.as_integer()) {
            return a == b;
        }
        if let (Some(a), Some(b)) = (self.as_double(), other.as_double()) {
            return a == b || a.to_bits() == b.to_bits();
        }
        self == other
    }

    fn as_double(&self) -> Option<f64> {
        match self {
            FieldValue::Float(value) => Some(f64::from(*value)),
            FieldValue::Double(value) => Some(*value),
            _ => None,
        }
    }

    /// The value as RabbitMQ prints it in reply texts, without quotes: strings
    /// as they are, the rest as Erlang terms (on one line).
    pub fn to_term(&self) -> String {
        match self {
            FieldValue::LongStr(bytes) | FieldValue::Binary(bytes) => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            other => {
                let mut out = String::new();
                other.put_term(&mut out);
                out
            }
        }
    }

    fn put_term(&self, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = match self {
            FieldValue::Bool(value) => write!(out, "{value}"),
            FieldValue::Float(value) => write!(out, "{}", terms::float(f64::from(*value))),
            FieldValue::Double(value) => write!(out, "{}", terms::float(*value)),
            FieldValue::Decimal { scale, value } => write!(out, "{{{scale},{value}}}"),
            FieldValue::LongStr(bytes) | FieldValue::Binary(bytes) => {
                write!(out, "{}", terms::pretty(bytes, 0))
            }
            FieldValue::Timestamp(value) => write!(out, "{value}"),
            FieldValue::Array(values) => {
                put_list(out, values, |out, value| {
                    let _ = write!(out, "{{{},", value.type_name());
                    value.put_term(out);
                    out.push('}');
                });
                Ok(())
            }
            FieldValue::Table(table) => {
                put_list(out, table, |out, (name, value)| {
                    let name = terms::pretty(name.as_bytes(), 0);
                    let _ = write!(out, "{{{name},{},", value.type_name());
                    value.put_term(out);
                    out.push('}');
                });
                Ok(())
            }
            FieldValue::Void => write!(out, "undefined"),
            integer => write!(out, "{}", integer.as_integer().unwrap_or_default()),
        };
    }
}

fn put_list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut put: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        put(out, item);
    }
    out.push(']');
}

/// An argument that differs between an entity and a repeated declaration of it,
/// both sides as they stand in `inequivalent arg 'NAME' for queue 'Q' in vhost
/// 'V': received RECEIVED but current is CURRENT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgMismatch {
    /// What was asked for, such as `the value '1' of type 'signedint'`.
    pub received: String,
    /// What the entity has, such as `none`.
    pub current: String,
}

/// Compares one argument of an entity with that of a repeated declaration, as
/// RabbitMQ does. `None`: they are equivalent.
///
/// RabbitMQ names the type only when one side lacks the argument.
pub fn compare_args(
    current: &FieldTable,
    received: &FieldTable,
    name: &str,
) -> Option<ArgMismatch> {
    match (current.get(name), received.get(name)) {
        (None, None) => None,
        (Some(current), Some(received)) if current.is_equivalent(received) => None,
        (Some(current), Some(received)) => Some(ArgMismatch {
            received: format!("'{}'", received.to_term()),
            current: format!("'{}'", current.to_term()),
        }),
        (current, received) => Some(ArgMismatch {
            received: with_type(received),
            current: with_type(current),
        }),
    }
}

fn with_type(value: Option<&FieldValue>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) => {
            format!(
                "the value '{}' of type '{}'",
                value.to_term(),
                value.type_name()
            )
        }
    }
}
