//! From field tables to octets, with the type letters RabbitMQ writes.

use super::{FieldTable, FieldValue};
use crate::wire::{put_long, put_short, put_sized};

/// Appends a table with its length field.
pub fn encode_table(table: &FieldTable, out: &mut Vec<u8>) {
    put_sized(out, |out| encode_table_body(table, out));
}

/// Appends the fields of a table without a length field, as a SASL AMQPLAIN
/// response has them.
pub fn encode_table_body(table: &FieldTable, out: &mut Vec<u8>) {
    for (name, value) in table {
        put_short(out, name.as_bytes());
        encode_value(value, out);
    }
}

/// Appends a value: its type letter and its octets.
pub fn encode_value(value: &FieldValue, out: &mut Vec<u8>) {
    match value {
        FieldValue::Bool(value) => out.extend_from_slice(&[b't', u8::from(*value)]),
        FieldValue::Byte(value) => put(out, b'b', value.to_be_bytes()),
        FieldValue::UnsignedByte(value) => put(out, b'B', value.to_be_bytes()),
        FieldValue::Short(value) => put(out, b's', value.to_be_bytes()),
        FieldValue::UnsignedShort(value) => put(out, b'u', value.to_be_bytes()),
        FieldValue::Int(value) => put(out, b'I', value.to_be_bytes()),
        FieldValue::UnsignedInt(value) => put(out, b'i', value.to_be_bytes()),
        FieldValue::Long(value) => put(out, b'l', value.to_be_bytes()),
        FieldValue::Float(value) => put(out, b'f', value.to_be_bytes()),
        FieldValue::Double(value) => put(out, b'd', value.to_be_bytes()),
        FieldValue::Decimal { scale, value } => {
            put(out, b'D', [*scale]);
            out.extend_from_slice(&value.to_be_bytes());
        }
        FieldValue::LongStr(bytes) => {
            out.push(b'S');
            put_long(out, bytes);
        }
        FieldValue::Binary(bytes) => {
            out.push(b'x');
            put_long(out, bytes);
        }
        FieldValue::Timestamp(value) => put(out, b'T', value.to_be_bytes()),
        FieldValue::Array(values) => {
            out.push(b'A');
            put_sized(out, |out| {
                values.iter().for_each(|value| encode_value(value, out))
            });
        }
        FieldValue::Table(table) => {
            out.push(b'F');
            encode_table(table, out);
        }
        FieldValue::Void => out.push(b'V'),
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, tag: u8, octets: [u8; N]) {
    out.push(tag);
    out.extend_from_slice(&octets);
}
