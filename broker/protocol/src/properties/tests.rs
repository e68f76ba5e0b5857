use super::*;
use crate::field_table::{FieldTable, FieldValue};
use crate::short_str::ShortStr;

fn text(value: &str) -> Option<ShortStr> {
    Some(ShortStr::truncated(value.as_bytes()))
}

fn full() -> (BasicProperties, Vec<u8>) {
    let mut headers = FieldTable::new();
    headers.insert("h", FieldValue::Int(7));
    let properties = BasicProperties {
        content_type: text("ct"),
        content_encoding: text("ce"),
        headers: Some(headers),
        delivery_mode: Some(2),
        priority: Some(9),
        correlation_id: text("co"),
        reply_to: text("rt"),
        expiration: text("60000"),
        message_id: text("mi"),
        timestamp: Some(0x0102_0304_0506_0708),
        kind: text("ty"),
        user_id: text("us"),
        app_id: text("ap"),
        cluster_id: text("cl"),
    };
    let mut raw = b"\xff\xfc\x02ct\x02ce\x00\x00\x00\x07\x01hI\x00\x00\x00\x07\x02\x09".to_vec();
    raw.extend_from_slice(b"\x02co\x02rt\x0560000\x02mi\x01\x02\x03\x04\x05\x06\x07\x08");
    raw.extend_from_slice(b"\x02ty\x02us\x02ap\x02cl");
    (properties, raw)
}

#[test]
fn all_14_have_the_octets_of_the_specification() {
    let (properties, raw) = full();
    assert_eq!(properties.to_bytes(), raw);
    assert_eq!(BasicProperties::decode(&raw), Ok(properties));
    assert_eq!(BasicProperties::default().to_bytes(), NO_PROPERTIES);
}

#[test]
fn accessors_find_each_one() {
    let (_, raw) = full();
    let view = PropertiesRef::new(&raw);
    assert_eq!(view.content_type(), Some(&b"ct"[..]));
    assert_eq!(view.content_encoding(), Some(&b"ce"[..]));
    assert_eq!(
        view.headers().unwrap().as_bytes(),
        b"\x01hI\x00\x00\x00\x07"
    );
    assert_eq!(
        view.decode_headers().unwrap().get("h"),
        Some(&FieldValue::Int(7))
    );
    assert_eq!(view.delivery_mode(), Some(2));
    assert!(view.is_persistent());
    assert_eq!(view.priority(), Some(9));
    assert_eq!(view.correlation_id(), Some(&b"co"[..]));
    assert_eq!(view.reply_to(), Some(&b"rt"[..]));
    assert_eq!(view.expiration(), Some(&b"60000"[..]));
    assert_eq!(view.message_id(), Some(&b"mi"[..]));
    assert_eq!(view.timestamp(), Some(0x0102_0304_0506_0708));
    assert_eq!(view.kind(), Some(&b"ty"[..]));
    assert_eq!(view.user_id(), Some(&b"us"[..]));
    assert_eq!(view.app_id(), Some(&b"ap"[..]));
    assert_eq!(view.cluster_id(), Some(&b"cl"[..]));

    let none = PropertiesRef::new(&NO_PROPERTIES);
    for property in Property::ALL {
        assert!(view.has(property));
        assert!(!none.has(property));
        assert_eq!(none.get(property), None);
    }
    assert!(!none.is_persistent());
    assert!(none.decode_headers().unwrap().is_empty());
}

#[test]
fn every_truncation_and_a_tail_are_errors() {
    let (_, mut raw) = full();
    for cut in 0..raw.len() {
        let error = PropertiesRef::new(&raw[..cut]).validate().unwrap_err();
        assert_eq!(error, PropertiesError::Truncated);
    }
    raw.push(0);
    assert_eq!(
        PropertiesRef::new(&raw).validate(),
        Err(PropertiesError::Trailing)
    );
}

#[test]
fn unknown_flags_are_errors() {
    for flags in 1..=3 {
        let raw = [0, flags];
        let error = PropertiesRef::new(&raw).validate().unwrap_err();
        assert_eq!(error, PropertiesError::UnknownFlags(u16::from(flags)));
    }
}

#[test]
fn a_malformed_headers_table_is_an_error() {
    let raw = b"\x20\x00\x00\x00\x00\x03\x01kz";
    assert_eq!(
        PropertiesRef::new(raw).validate(),
        Err(PropertiesError::Headers(TableError::UnknownType(b'z')))
    );
}

#[test]
fn every_combination_of_flags_is_walked_right() {
    let (properties, raw) = full();
    let view = PropertiesRef::new(&raw);
    for keep in 0..1u16 << 14 {
        let flags = keep << 2;
        let edit = Property::ALL
            .into_iter()
            .filter(|property| flags & property.flag() == 0)
            .fold(PropertiesEdit::new(&raw), PropertiesEdit::remove);
        let part = edit.to_bytes();
        let part_view = PropertiesRef::new(&part);
        assert_eq!(part_view.validate(), Ok(()));
        assert_eq!(part_view.flags(), flags);
        for property in Property::ALL {
            let wanted = (flags & property.flag() != 0)
                .then(|| view.get(property))
                .flatten();
            assert_eq!(part_view.get(property), wanted);
        }
    }
    assert_eq!(PropertiesEdit::new(&raw).to_bytes(), properties.to_bytes());
}

#[test]
fn edits_replace_insert_and_remove() {
    let (mut properties, raw) = full();
    let mut headers = FieldTable::new();
    headers.insert("x-death", FieldValue::Array(vec![]));
    let edited = PropertiesEdit::new(&raw)
        .headers(&headers)
        .remove(Property::Expiration)
        .set(Property::ReplyTo, &b"amq.rabbitmq.reply-to.g1"[..])
        .set(Property::UserId, b"guest")
        .set(Property::Timestamp, b"1")
        .delivery_mode(1)
        .to_bytes();
    properties.headers = Some(headers.clone());
    properties.expiration = None;
    properties.reply_to = text("amq.rabbitmq.reply-to.g1");
    properties.user_id = text("guest");
    properties.timestamp = None;
    properties.delivery_mode = Some(1);
    assert_eq!(BasicProperties::decode(&edited), Ok(properties));

    let inserted = PropertiesEdit::new(&NO_PROPERTIES)
        .headers(&headers)
        .to_bytes();
    let wanted = BasicProperties {
        headers: Some(headers),
        ..Default::default()
    };
    assert_eq!(BasicProperties::decode(&inserted), Ok(wanted));
}
