//! `Arguments`: a field table that is kept exactly, types and all.

use std::fmt;
use std::ops::Deref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use leveret_protocol::field_table::{decode_table, encode_table_body};
use leveret_protocol::{FieldTable, FieldValue, ShortStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::name::Key;

/// The arguments of a queue, exchange or binding.
///
/// In JSON it is a list of `[name, {type letter: value}]`, so that order,
/// duplicates and AMQP's types are kept: a reply text tells `signedint` from
/// `long`. Values that JSON cannot hold exactly (floats, nested tables, octets
/// that are no text) are `{"w": BASE64}`: the AMQP encoding of a table with
/// that one value. So the JSON never nests deeper than the arguments' own list,
/// however deep a client nests its tables.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Arguments(FieldTable);

impl Arguments {
    /// No arguments.
    pub const fn new() -> Arguments {
        Arguments(FieldTable::new())
    }

    /// The table.
    pub fn as_table(&self) -> &FieldTable {
        &self.0
    }

    /// The same fields in the order of their names, as RabbitMQ keeps the
    /// arguments of a binding.
    pub fn sorted(mut self) -> Arguments {
        self.0.sort();
        self
    }

    /// Replaces or appends an argument.
    pub fn insert(&mut self, name: &str, value: impl Into<FieldValue>) {
        self.0.insert(name, value);
    }

    /// A `longstr` argument that is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_text()
    }
}

impl Deref for Arguments {
    type Target = FieldTable;
    fn deref(&self) -> &FieldTable {
        &self.0
    }
}

impl From<FieldTable> for Arguments {
    fn from(table: FieldTable) -> Self {
        Arguments(table)
    }
}

impl<const N: usize> From<[(&str, FieldValue); N]> for Arguments {
    fn from(fields: [(&str, FieldValue); N]) -> Self {
        fields
            .into_iter()
            .map(|(name, v)| (ShortStr::truncated(name.as_bytes()), v))
            .collect()
    }
}

impl FromIterator<(ShortStr, FieldValue)> for Arguments {
    fn from_iter<I: IntoIterator<Item = (ShortStr, FieldValue)>>(fields: I) -> Self {
        Arguments(fields.into_iter().collect())
    }
}

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| (name, value)))
            .finish()
    }
}

/// A value in JSON, under AMQP's type letter.
#[derive(Serialize, Deserialize)]
enum ValueJson {
    #[serde(rename = "t")]
    Bool(bool),
    #[serde(rename = "b")]
    Byte(i8),
    #[serde(rename = "B")]
    UnsignedByte(u8),
    #[serde(rename = "s")]
    Short(i16),
    #[serde(rename = "u")]
    UnsignedShort(u16),
    #[serde(rename = "I")]
    Int(i32),
    #[serde(rename = "i")]
    UnsignedInt(u32),
    #[serde(rename = "l")]
    Long(i64),
    #[serde(rename = "S")]
    Text(String),
    #[serde(rename = "T")]
    Timestamp(u64),
    #[serde(rename = "w")]
    Wire(String),
}

impl From<&FieldValue> for ValueJson {
    fn from(value: &FieldValue) -> ValueJson {
        match value {
            FieldValue::Bool(value) => ValueJson::Bool(*value),
            FieldValue::Byte(value) => ValueJson::Byte(*value),
            FieldValue::UnsignedByte(value) => ValueJson::UnsignedByte(*value),
            FieldValue::Short(value) => ValueJson::Short(*value),
            FieldValue::UnsignedShort(value) => ValueJson::UnsignedShort(*value),
            FieldValue::Int(value) => ValueJson::Int(*value),
            FieldValue::UnsignedInt(value) => ValueJson::UnsignedInt(*value),
            FieldValue::Long(value) => ValueJson::Long(*value),
            FieldValue::Timestamp(value) => ValueJson::Timestamp(*value),
            FieldValue::LongStr(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => ValueJson::Text(text.to_owned()),
                Err(_) => wire(value),
            },
            other => wire(other),
        }
    }
}

fn wire(value: &FieldValue) -> ValueJson {
    let mut table = FieldTable::new();
    table.insert("", value.clone());
    let mut octets = Vec::new();
    encode_table_body(&table, &mut octets);
    ValueJson::Wire(STANDARD.encode(octets))
}

impl ValueJson {
    fn into_value(self) -> Result<FieldValue, String> {
        Ok(match self {
            ValueJson::Bool(value) => FieldValue::Bool(value),
            ValueJson::Byte(value) => FieldValue::Byte(value),
            ValueJson::UnsignedByte(value) => FieldValue::UnsignedByte(value),
            ValueJson::Short(value) => FieldValue::Short(value),
            ValueJson::UnsignedShort(value) => FieldValue::UnsignedShort(value),
            ValueJson::Int(value) => FieldValue::Int(value),
            ValueJson::UnsignedInt(value) => FieldValue::UnsignedInt(value),
            ValueJson::Long(value) => FieldValue::Long(value),
            ValueJson::Text(text) => FieldValue::LongStr(text.into_bytes()),
            ValueJson::Timestamp(value) => FieldValue::Timestamp(value),
            ValueJson::Wire(text) => {
                let octets = STANDARD.decode(text).map_err(|error| error.to_string())?;
                let mut table = decode_table(&octets).map_err(|error| error.to_string())?;
                table
                    .remove("")
                    .ok_or("an encoded argument without a value")?
            }
        })
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0
                .iter()
                .map(|(name, value)| (Key::from(name.as_bytes()), ValueJson::from(value))),
        )
    }
}

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Vec::<(Key, ValueJson)>::deserialize(deserializer)?;
        let mut table = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            let name = ShortStr::new(name.as_bytes()).map_err(serde::de::Error::custom)?;
            table.push((name, value.into_value().map_err(serde::de::Error::custom)?));
        }
        Ok(Arguments(FieldTable::from(table)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deep(levels: usize) -> FieldValue {
        (0..levels).fold(FieldValue::Int(1), |inner, _| {
            FieldValue::Array(vec![inner])
        })
    }

    #[test]
    fn every_type_survives_json() {
        let values = [
            FieldValue::Bool(true),
            FieldValue::Byte(-1),
            FieldValue::UnsignedByte(255),
            FieldValue::Short(-300),
            FieldValue::UnsignedShort(65000),
            FieldValue::Int(1800000),
            FieldValue::UnsignedInt(u32::MAX),
            FieldValue::Long(i64::MIN),
            FieldValue::Float(f32::NAN),
            FieldValue::Double(-0.0),
            FieldValue::Decimal {
                scale: 2,
                value: 314,
            },
            FieldValue::from("all"),
            FieldValue::LongStr(vec![0xff]),
            FieldValue::Binary(b"all".to_vec()),
            FieldValue::Timestamp(u64::MAX),
            FieldValue::Void,
            deep(100),
            FieldValue::Table(Arguments::from([("k", FieldValue::from("v"))]).0),
        ];
        let fields = values
            .into_iter()
            .enumerate()
            .map(|(n, v)| (ShortStr::truncated(&[b'a', n as u8]), v));
        let arguments: Arguments = fields.collect();
        let json = serde_json::to_string(&arguments).unwrap();
        assert_eq!(serde_json::from_str::<Arguments>(&json).unwrap(), arguments);
    }

    #[test]
    fn order_and_duplicates_are_kept() {
        let twice: Arguments = [("b", 1), ("a", 2), ("b", 3)]
            .into_iter()
            .map(|(n, v)| (ShortStr::truncated(n.as_bytes()), FieldValue::Int(v)))
            .collect();
        let json = serde_json::to_string(&twice).unwrap();
        assert_eq!(json, r#"[["b",{"I":1}],["a",{"I":2}],["b",{"I":3}]]"#);
        assert_eq!(serde_json::from_str::<Arguments>(&json).unwrap(), twice);
    }
}
