//! The functions behind the fuzz targets and the corpus test. They panic when
//! an invariant of the codec does not hold for the input.

use crate::content::ContentHeaderRef;
use crate::encode;
use crate::field_table::{TableRef, decode_table, encode_table_body, validate_table};
use crate::frame::{FRAME_OVERHEAD, FrameKind, parse_frame, parse_protocol_header};
use crate::method::{BasicPublish, Method, split_method};
use crate::properties::{BasicProperties, PropertiesEdit, PropertiesRef, Property};
use crate::publish::BasicPublishRef;

/// A stream of frames: every frame is parsed and its payload handed on.
pub fn frames(data: &[u8]) {
    let _ = parse_protocol_header(data);
    for frame_max in [0, 4096, 131_072] {
        let mut rest = data;
        while let Ok(Some((frame, consumed))) = parse_frame(rest, frame_max) {
            assert_eq!(consumed, frame.payload.len() + FRAME_OVERHEAD);
            let whole = rest.get(..consumed).expect("a frame is part of the buffer");
            let cut = whole.get(..consumed - 1).expect("a frame has octets");
            assert_eq!(parse_frame(cut, frame_max), Ok(None));
            match frame.kind {
                FrameKind::Method => method(frame.payload),
                FrameKind::Header => {
                    let _ = ContentHeaderRef::parse(frame.payload);
                }
                FrameKind::Body | FrameKind::Heartbeat => {}
            }
            rest = rest.get(consumed..).expect("a frame is part of the buffer");
        }
    }
}

/// The payload of a method frame: what decodes also encodes, and decodes to the
/// same again.
pub fn method(payload: &[u8]) {
    if let Ok((BasicPublish::ID, args)) = split_method(payload) {
        let (borrowed, owned) = (BasicPublishRef::decode(args), BasicPublish::decode(args));
        assert_eq!(borrowed.is_ok(), owned.is_ok());
        if let (Ok(borrowed), Ok(owned)) = (borrowed, owned) {
            assert_eq!(borrowed.exchange, owned.exchange.as_bytes());
            assert_eq!(borrowed.routing_key, owned.routing_key.as_bytes());
            assert_eq!(
                (borrowed.mandatory, borrowed.immediate),
                (owned.mandatory, owned.immediate)
            );
        }
    }
    match Method::decode(payload) {
        Ok(method) => {
            let mut again = Vec::new();
            encode::put_method(&mut again, 1, &method);
            let (frame, _) = parse_frame(&again, 0).expect("well formed").expect("whole");
            assert_eq!(Method::decode(frame.payload).expect("encoded here"), method);
        }
        Err(error) => {
            let text = error.reply_code().text(&error.to_string());
            assert!(!text.is_empty());
        }
    }
}

/// A field table without its length field.
pub fn table(bytes: &[u8]) {
    let decoded = decode_table(bytes);
    assert_eq!(decoded.as_ref().err().copied(), validate_table(bytes).err());
    let view = TableRef::new(bytes);
    for field in view.iter() {
        let _ = field.value();
        let _ = field.elements().count();
    }
    let Ok(decoded) = decoded else { return };
    assert_eq!(view.iter().count(), decoded.len());
    for (field, (name, value)) in view.iter().zip(&decoded) {
        assert_eq!(field.name, name.as_bytes());
        assert_eq!(field.value().as_ref(), Ok(value));
        assert!(value.is_equivalent(value));
        let _ = value.to_term();
    }
    let mut again = Vec::new();
    encode_table_body(&decoded, &mut again);
    assert_eq!(decode_table(&again), Ok(decoded));
}

/// Property flags and list.
pub fn properties(raw: &[u8]) {
    let view = PropertiesRef::new(raw);
    let listed: Vec<_> = view.iter().collect();
    for property in Property::ALL {
        let _ = view.get(property);
    }
    let decoded = BasicProperties::decode(raw);
    assert_eq!(decoded.is_ok(), view.validate().is_ok());
    let Ok(decoded) = decoded else { return };
    for (property, value) in listed {
        assert_eq!(view.get(property), Some(value));
    }
    let again = decoded.to_bytes();
    assert_eq!(BasicProperties::decode(&again).as_ref(), Ok(&decoded));
    // Unchanged properties are copied octet by octet.
    assert_eq!(PropertiesEdit::new(raw).to_bytes(), raw);
    let edited = PropertiesEdit::new(raw)
        .remove(Property::Expiration)
        .set(Property::ReplyTo, b"there")
        .delivery_mode(2)
        .to_bytes();
    let edited = BasicProperties::decode(&edited).expect("edited properties are well formed");
    let wanted = BasicProperties {
        expiration: None,
        reply_to: Some(crate::ShortStr::truncated(b"there")),
        delivery_mode: Some(2),
        ..decoded
    };
    assert_eq!(edited, wanted);
}
