use super::*;

/// One field of every type, and its octets as the specification lays them out.
fn every_type() -> (FieldTable, Vec<u8>) {
    let inner = FieldTable::from_iter([(ShortStr::truncated(b"k"), FieldValue::Bool(true))]);
    let fields: [(FieldValue, &[u8]); 17] = [
        (FieldValue::Bool(true), b"t\x01"),
        (FieldValue::Byte(-2), b"b\xfe"),
        (FieldValue::UnsignedByte(254), b"B\xfe"),
        (FieldValue::Short(-2), b"s\xff\xfe"),
        (FieldValue::UnsignedShort(65534), b"u\xff\xfe"),
        (FieldValue::Int(-2), b"I\xff\xff\xff\xfe"),
        (FieldValue::UnsignedInt(u32::MAX - 1), b"i\xff\xff\xff\xfe"),
        (FieldValue::Long(-2), b"l\xff\xff\xff\xff\xff\xff\xff\xfe"),
        (FieldValue::Float(1.5), b"f\x3f\xc0\x00\x00"),
        (
            FieldValue::Double(-1.5),
            b"d\xbf\xf8\x00\x00\x00\x00\x00\x00",
        ),
        (
            FieldValue::Decimal {
                scale: 2,
                value: 314,
            },
            b"D\x02\x00\x00\x01\x3a",
        ),
        (
            FieldValue::LongStr(b"text".to_vec()),
            b"S\x00\x00\x00\x04text",
        ),
        (
            FieldValue::Binary(vec![0, 255]),
            b"x\x00\x00\x00\x02\x00\xff",
        ),
        (
            FieldValue::Timestamp(1),
            b"T\x00\x00\x00\x00\x00\x00\x00\x01",
        ),
        (
            FieldValue::Array(vec![FieldValue::Int(1), FieldValue::Void]),
            b"A\x00\x00\x00\x06I\x00\x00\x00\x01V",
        ),
        (FieldValue::Table(inner), b"F\x00\x00\x00\x04\x01kt\x01"),
        (FieldValue::Void, b"V"),
    ];
    let mut table = FieldTable::new();
    let mut octets = Vec::new();
    for (index, (value, raw)) in fields.into_iter().enumerate() {
        let name = [b'a' + index as u8];
        table.insert(name, value);
        octets.extend_from_slice(&[1, name[0]]);
        octets.extend_from_slice(raw);
    }
    (table, octets)
}

#[test]
fn every_type_has_the_octets_of_the_specification() {
    let (table, octets) = every_type();
    let mut out = Vec::new();
    encode_table_body(&table, &mut out);
    assert_eq!(out, octets);
    assert_eq!(decode_table(&octets), Ok(table));
    assert_eq!(validate_table(&octets), Ok(()));
}

#[test]
fn every_truncation_ends_between_fields_or_is_an_error() {
    let (table, octets) = every_type();
    let mut whole = 0;
    for cut in 0..octets.len() {
        let decoded = decode_table(&octets[..cut]);
        assert_eq!(
            decoded.as_ref().err().copied(),
            validate_table(&octets[..cut]).err()
        );
        match decoded {
            Ok(part) => {
                assert_eq!(&table.0[..part.len()], &part.0[..]);
                whole += 1;
            }
            Err(error) => assert_eq!(error, TableError::Truncated),
        }
    }
    assert_eq!(whole, table.len());
}

#[test]
fn the_second_letters_are_read() {
    let octets = b"\x01aL\xff\xff\xff\xff\xff\xff\xff\xfe\x01bU\xff\xfe\x01ct\x07";
    let table = decode_table(octets).unwrap();
    assert_eq!(table.get("a"), Some(&FieldValue::Long(-2)));
    assert_eq!(table.get("b"), Some(&FieldValue::Short(-2)));
    assert_eq!(table.get("c"), Some(&FieldValue::Bool(true)));
}

#[test]
fn letters_of_no_type_are_an_error() {
    for tag in 0..=255 {
        let octets = [1, b'k', tag, 0, 0, 0, 0, 0, 0, 0, 0];
        let known = b"tbBsuUIilLfdDSxTAFV".contains(&tag);
        let unknown = decode_table(&octets) == Err(TableError::UnknownType(tag));
        assert_eq!(unknown, !known, "{tag}");
        assert_eq!(validate_table(&octets).err(), decode_table(&octets).err());
    }
}

#[test]
fn lengths_past_the_end_are_an_error() {
    for tag in [b'S', b'x', b'F', b'A'] {
        for len in [5, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut octets = vec![1, b'k', tag];
            octets.extend_from_slice(&len.to_be_bytes());
            octets.extend_from_slice(b"\x01at\x01");
            assert_eq!(decode_table(&octets), Err(TableError::Truncated));
            assert_eq!(validate_table(&octets), Err(TableError::Truncated));
        }
    }
    assert_eq!(decode_table(b"\xffk"), Err(TableError::Truncated));
    assert_eq!(decode_table(b"\x01k"), Err(TableError::Truncated));
}

/// A table of `levels` tables inside each other, without a length field.
fn nested(levels: usize, tag: u8) -> Vec<u8> {
    let mut body = Vec::new();
    for level in 1..levels {
        let mut outer = Vec::new();
        if tag == b'F' || level + 1 == levels {
            outer.extend_from_slice(b"\x01k");
        }
        outer.push(tag);
        outer.extend_from_slice(&(body.len() as u32).to_be_bytes());
        outer.extend_from_slice(&body);
        body = outer;
    }
    body
}

#[test]
fn depth_is_bounded() {
    for tag in [b'F', b'A'] {
        let deepest = nested(TABLE_DEPTH_MAX, tag);
        let table = decode_table(&deepest).unwrap();
        assert_eq!(validate_table(&deepest), Ok(()));
        let mut again = Vec::new();
        encode_table_body(&table, &mut again);
        assert_eq!(again, deepest);

        let deeper = nested(TABLE_DEPTH_MAX + 1, tag);
        assert_eq!(decode_table(&deeper), Err(TableError::TooDeep));
        assert_eq!(validate_table(&deeper), Err(TableError::TooDeep));
    }
    let bomb = nested(15_000, b'F');
    assert_eq!(decode_table(&bomb), Err(TableError::TooDeep));
    assert_eq!(validate_table(&bomb), Err(TableError::TooDeep));
    assert_eq!(TableRef::new(&bomb).iter().count(), 1);
}

#[test]
fn size_is_bounded() {
    let mut octets = b"\x01kS".to_vec();
    let len = TABLE_SIZE_MAX - octets.len() - 4;
    octets.extend_from_slice(&(len as u32).to_be_bytes());
    octets.resize(TABLE_SIZE_MAX, b'x');
    assert!(decode_table(&octets).is_ok());
    octets.extend_from_slice(b"\x01at\x01");
    assert_eq!(
        decode_table(&octets),
        Err(TableError::TooLarge(TABLE_SIZE_MAX + 4))
    );
    assert_eq!(
        validate_table(&octets),
        Err(TableError::TooLarge(TABLE_SIZE_MAX + 4))
    );
}

#[test]
fn order_and_duplicates_stay() {
    let octets = b"\x01bt\x01\x01at\x00\x01bt\x00";
    let mut table = decode_table(octets).unwrap();
    assert_eq!(table.get("b"), Some(&FieldValue::Bool(true)));
    let mut out = Vec::new();
    encode_table_body(&table, &mut out);
    assert_eq!(out, octets);
    table.sort();
    let names: Vec<_> = table.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["a", "b", "b"]);
    assert_eq!(table.get("b"), Some(&FieldValue::Bool(true)));
    table.insert("b", false);
    assert_eq!(table.len(), 3);
    assert_eq!(table.remove("b"), Some(FieldValue::Bool(false)));
    assert_eq!(table.len(), 1);
    assert_eq!(table.remove("b"), None);
}

#[test]
fn fields_are_found_without_decoding() {
    let octets =
        b"\x02CCA\x00\x00\x00\x0cS\x00\x00\x00\x01aS\x00\x00\x00\x01b\x01kS\x00\x00\x00\x01v";
    let view = TableRef::new(octets);
    let copies: Vec<_> = view
        .get(b"CC")
        .unwrap()
        .elements()
        .map(|element| element.as_longstr())
        .collect();
    assert_eq!(copies, [Some(&b"a"[..]), Some(b"b")]);
    assert_eq!(view.get(b"k").unwrap().as_longstr(), Some(&b"v"[..]));
    assert_eq!(view.get(b"k").unwrap().elements().count(), 0);
    assert_eq!(view.get(b"BCC"), None);
    // What is malformed ends the view.
    assert_eq!(TableRef::new(&octets[..octets.len() - 1]).iter().count(), 1);
}

#[test]
fn arguments_are_compared_as_rabbitmq_does() {
    let ttl = |value: FieldValue| FieldTable::from_iter([(ShortStr::truncated(b"ttl"), value)]);
    let current = ttl(FieldValue::Int(60_000));
    assert_eq!(
        compare_args(&current, &ttl(FieldValue::Long(60_000)), "ttl"),
        None
    );
    assert_eq!(
        compare_args(&current, &ttl(FieldValue::UnsignedShort(60_000)), "ttl"),
        None
    );
    assert_eq!(compare_args(&current, &FieldTable::new(), "other"), None);

    let differs = compare_args(&current, &ttl(FieldValue::Int(1)), "ttl").unwrap();
    assert_eq!((&*differs.received, &*differs.current), ("'1'", "'60000'"));
    let kind = compare_args(&current, &ttl("60000".into()), "ttl").unwrap();
    assert_eq!((&*kind.received, &*kind.current), ("'60000'", "'60000'"));
    let none = compare_args(&FieldTable::new(), &current, "ttl").unwrap();
    assert_eq!(none.received, "the value '60000' of type 'signedint'");
    assert_eq!(none.current, "none");
    // A timestamp is no integer.
    assert!(compare_args(&current, &ttl(FieldValue::Timestamp(60_000)), "ttl").is_some());
    assert!(FieldValue::Float(0.5).is_equivalent(&FieldValue::Double(0.5)));
    assert!(!FieldValue::Float(1.0).is_equivalent(&FieldValue::Int(1)));
}

#[test]
fn values_print_as_erlang_terms() {
    let (table, _) = every_type();
    assert_eq!(
        FieldValue::Table(table).to_term(),
        "[{<<\"a\">>,bool,true},{<<\"b\">>,byte,-2},{<<\"c\">>,unsignedbyte,254},\
         {<<\"d\">>,short,-2},{<<\"e\">>,unsignedshort,65534},{<<\"f\">>,signedint,-2},\
         {<<\"g\">>,unsignedint,4294967294},{<<\"h\">>,long,-2},{<<\"i\">>,float,1.5},\
         {<<\"j\">>,double,-1.5},{<<\"k\">>,decimal,{2,314}},{<<\"l\">>,longstr,<<\"text\">>},\
         {<<\"m\">>,binary,<<0,255>>},{<<\"n\">>,timestamp,1},\
         {<<\"o\">>,array,[{signedint,1},{void,undefined}]},\
         {<<\"p\">>,table,[{<<\"k\">>,bool,true}]},{<<\"q\">>,void,undefined}]"
    );
    assert_eq!(FieldValue::from("plain").to_term(), "plain");
}

#[test]
fn a_value_that_is_not_a_number_equals_its_copy() {
    let octets = b"\x01kd\x7f\xf8\x00\x00\x00\x00\x00\x00";
    let table = decode_table(octets).unwrap();
    assert_eq!(table, table.clone());
    assert!(
        table
            .get("k")
            .unwrap()
            .is_equivalent(table.get("k").unwrap())
    );
}
