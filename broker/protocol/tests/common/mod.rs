//! Random methods, tables and properties.
//!
//! The octets are laid out here a second time, independently of the codec,
//! from the names and types that [`method_arguments`] lists.

#![allow(dead_code, reason = "each test binary uses its part")]

use leveret_protocol::method::method_arguments;
use leveret_protocol::{BasicProperties, FieldTable, FieldValue, Method, ShortStr};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// Short strings of any octets.
pub fn short_bytes() -> BoxedStrategy<ShortStr> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..20),
        1 => vec(any::<u8>(), 255),
    ]
    .prop_map(|bytes| ShortStr::truncated(&bytes))
    .boxed()
}

/// Short strings that are UTF-8.
pub fn short_text() -> BoxedStrategy<ShortStr> {
    vec(any::<char>(), 0..60)
        .prop_map(|chars| ShortStr::truncated(chars.into_iter().collect::<String>().as_bytes()))
        .boxed()
}

/// Values without a table or an array in them.
fn leaf() -> BoxedStrategy<FieldValue> {
    prop_oneof![
        any::<bool>().prop_map(FieldValue::Bool),
        any::<i8>().prop_map(FieldValue::Byte),
        any::<u8>().prop_map(FieldValue::UnsignedByte),
        any::<i16>().prop_map(FieldValue::Short),
        any::<u16>().prop_map(FieldValue::UnsignedShort),
        any::<i32>().prop_map(FieldValue::Int),
        any::<u32>().prop_map(FieldValue::UnsignedInt),
        any::<i64>().prop_map(FieldValue::Long),
        any::<f32>().prop_map(FieldValue::Float),
        any::<f64>().prop_map(FieldValue::Double),
        any::<(u8, u32)>().prop_map(|(scale, value)| FieldValue::Decimal { scale, value }),
        vec(any::<u8>(), 0..40).prop_map(FieldValue::LongStr),
        vec(any::<u8>(), 0..40).prop_map(FieldValue::Binary),
        any::<u64>().prop_map(FieldValue::Timestamp),
        Just(FieldValue::Void),
    ]
    .boxed()
}

/// Any value, nested up to five levels.
pub fn value() -> BoxedStrategy<FieldValue> {
    leaf()
        .prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(FieldValue::Array),
                vec((short_bytes(), inner), 0..6)
                    .prop_map(|fields| FieldValue::Table(fields.into())),
            ]
        })
        .boxed()
}

/// Any table: names of any octets, in any order, also twice.
pub fn table() -> BoxedStrategy<FieldTable> {
    vec((short_bytes(), value()), 0..6)
        .prop_map(FieldTable::from)
        .boxed()
}

/// Tables as a sorted map holds them: UTF-8 names in order, each once.
pub fn sorted_table() -> BoxedStrategy<FieldTable> {
    let sorted = |inner: BoxedStrategy<FieldValue>| {
        btree_map(short_text(), inner, 0..6)
            .prop_map(|fields| fields.into_iter().collect::<FieldTable>())
    };
    let value = leaf().prop_recursive(4, 30, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(FieldValue::Array),
            sorted(inner).prop_map(FieldValue::Table),
        ]
    });
    sorted(value.boxed()).boxed()
}

/// Any properties.
pub fn properties(
    text: fn() -> BoxedStrategy<ShortStr>,
    headers: fn() -> BoxedStrategy<FieldTable>,
) -> BoxedStrategy<BasicProperties> {
    let texts = vec(option::of(text()), 10);
    let numbers = (
        option::of(any::<u8>()),
        option::of(any::<u8>()),
        option::of(any::<u64>()),
    );
    (texts, option::of(headers()), numbers)
        .prop_map(|(texts, headers, (delivery_mode, priority, timestamp))| {
            let mut texts = texts.into_iter();
            let mut text = || texts.next().flatten();
            BasicProperties {
                content_type: text(),
                content_encoding: text(),
                headers,
                delivery_mode,
                priority,
                correlation_id: text(),
                reply_to: text(),
                expiration: text(),
                message_id: text(),
                timestamp,
                kind: text(),
                user_id: text(),
                app_id: text(),
                cluster_id: text(),
            }
        })
        .boxed()
}

/// Arguments of a method, laid out in octets. The bits of an octet are in
/// `Bit`s that follow each other.
#[derive(Debug, Clone)]
pub enum Argument {
    Octets(Vec<u8>),
    Bit(bool),
}

fn argument(kind: &str, table: BoxedStrategy<FieldTable>) -> BoxedStrategy<Argument> {
    let sized = |len: usize| vec(any::<u8>(), len).boxed();
    let short = |text: BoxedStrategy<ShortStr>| {
        text.prop_map(|text| [&[text.len() as u8], text.as_bytes()].concat())
            .boxed()
    };
    let octets = match kind {
        "octet" => sized(1),
        "short" => sized(2),
        "long" => sized(4),
        "longlong" => sized(8),
        "bit" => return any::<bool>().prop_map(Argument::Bit).boxed(),
        "shortstr" => short(short_text()),
        "shortbytes" => short(short_bytes()),
        "longstr" => vec(any::<u8>(), 0..300)
            .prop_map(|bytes| [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat())
            .boxed(),
        "table" => table
            .prop_map(|table| {
                let mut out = Vec::new();
                leveret_protocol::field_table::encode_table(&table, &mut out);
                out
            })
            .boxed(),
        other => panic!("unknown type of argument {other}"),
    };
    octets.prop_map(Argument::Octets).boxed()
}

/// The payload of a method frame.
fn lay_out(class: u16, method: u16, arguments: &[Argument]) -> Vec<u8> {
    let mut out = [class.to_be_bytes(), method.to_be_bytes()].concat();
    let mut bits = 0;
    for argument in arguments {
        match argument {
            Argument::Octets(octets) => {
                bits = 0;
                out.extend_from_slice(octets);
            }
            Argument::Bit(bit) => {
                if bits == 0 {
                    out.push(0);
                }
                *out.last_mut().unwrap() |= u8::from(*bit) << bits;
                bits += 1;
            }
        }
    }
    out
}

/// Payloads of one method.
pub fn payload(class: u16, method: u16) -> BoxedStrategy<Vec<u8>> {
    method_arguments(class, method)
        .expect("a known method")
        .iter()
        .map(|(_, kind)| argument(kind, table()))
        .collect::<Vec<_>>()
        .prop_map(move |arguments| lay_out(class, method, &arguments))
        .boxed()
}

/// Payloads of one method that other implementations can represent: reserved
/// arguments have the values the specification gives them, strings are UTF-8, tables are sorted.
pub fn plain_payload(class: u16, method: u16) -> BoxedStrategy<Vec<u8>> {
    let reserved = |name: &str, kind: &str| match (name, kind) {
        ("ticket", _) if (class, method) == (30, 11) => Some(Argument::Octets(vec![0, 1])),
        ("ticket", _) => Some(Argument::Octets(vec![0, 0])),
        ("capabilities" | "known_hosts" | "out_of_band" | "cluster_id", _) => {
            Some(Argument::Octets(vec![0]))
        }
        ("prefetch_size", _) => Some(Argument::Octets(vec![0; 4])),
        ("channel_id", _) => Some(Argument::Octets(vec![0; 4])),
        ("insist", _) => Some(Argument::Bit(false)),
        _ => None,
    };
    method_arguments(class, method)
        .expect("a known method")
        .iter()
        .map(|(name, kind)| match reserved(name, kind) {
            Some(argument) => Just(argument).boxed(),
            None if *kind == "shortbytes" => argument("shortstr", sorted_table()),
            None => argument(kind, sorted_table()),
        })
        .collect::<Vec<_>>()
        .prop_map(move |arguments| lay_out(class, method, &arguments))
        .boxed()
}

/// Payloads of any method.
pub fn any_payload() -> BoxedStrategy<Vec<u8>> {
    prop::sample::select(Method::IDS)
        .prop_flat_map(|(class, method)| payload(class, method))
        .boxed()
}
