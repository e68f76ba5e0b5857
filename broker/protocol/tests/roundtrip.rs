//! Random methods, tables and properties survive decoding and encoding, and
//! every truncation of them is an error.

mod common;

use leveret_protocol::encode::put_method;
use leveret_protocol::field_table::{TableRef, decode_table, encode_table_body, validate_table};
use leveret_protocol::method::method_name;
use leveret_protocol::{BasicProperties, Method, MethodError, PropertiesRef, fuzzing, parse_frame};
use proptest::prelude::*;

proptest! {
    #[test]
    fn methods(payload in common::any_payload(), channel: u16) {
        let method = Method::decode(&payload).unwrap();
        let (class, id) = method.id();
        prop_assert_eq!(Some(method.name()), method_name(class, id));
        let mut again = Vec::new();
        method.encode_payload(&mut again);
        prop_assert_eq!(&again, &payload);

        let mut framed = Vec::new();
        put_method(&mut framed, channel, &method);
        let (frame, consumed) = parse_frame(&framed, 0).unwrap().unwrap();
        prop_assert_eq!((frame.channel, frame.payload, consumed), (channel, &payload[..], framed.len()));
        fuzzing::method(&payload);
    }

    #[test]
    fn cut_methods(payload in common::any_payload()) {
        for cut in 0..payload.len() {
            let error = Method::decode(&payload[..cut]).unwrap_err();
            let short = matches!(error, MethodError::TooShort);
            prop_assert_eq!(short, cut < 4);
            if !short {
                // The arguments end inside an argument: never a table error.
                let layout = matches!(error, MethodError::Arguments { .. });
                prop_assert!(layout, "{:?}", error);
            }
        }
        let mut longer = payload.clone();
        longer.push(0);
        let error = Method::decode(&longer).unwrap_err();
        let layout = matches!(error, MethodError::Arguments { .. });
        prop_assert!(layout, "{:?}", error);
        prop_assert_eq!(error.reply_code().code(), 501);
    }

    #[test]
    fn tables(table in common::table()) {
        let mut octets = Vec::new();
        encode_table_body(&table, &mut octets);
        prop_assert_eq!(decode_table(&octets), Ok(table.clone()));
        prop_assert_eq!(validate_table(&octets), Ok(()));
        for (name, value) in &table {
            let first = TableRef::new(&octets).get(name.as_bytes()).unwrap().value().unwrap();
            prop_assert_eq!(Some(&first), table.get(name));
            prop_assert!(value.is_equivalent(value));
        }
        for cut in 0..octets.len() {
            fuzzing::table(&octets[..cut]);
        }
    }

    #[test]
    fn properties(properties in common::properties(common::short_bytes, common::table)) {
        let raw = properties.to_bytes();
        prop_assert_eq!(PropertiesRef::new(&raw).validate(), Ok(()));
        prop_assert_eq!(BasicProperties::decode(&raw), Ok(properties));
        fuzzing::properties(&raw);
        for cut in 0..raw.len() {
            prop_assert!(PropertiesRef::new(&raw[..cut]).validate().is_err());
            fuzzing::properties(&raw[..cut]);
        }
    }

    #[test]
    fn any_octets_never_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzzing::frames(&octets);
        fuzzing::method(&octets);
        fuzzing::table(&octets);
        fuzzing::properties(&octets);
    }

    #[test]
    fn spoilt_methods_never_panic(
        mut payload in common::any_payload(),
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        for (at, octet) in spoils {
            *at.get_mut(&mut payload) = octet;
        }
        fuzzing::method(&payload);
    }
}
