use super::*;
use crate::content::ContentHeaderRef;
use crate::frame::{FrameKind, FrameRef, parse_frame};
use crate::short_str::ShortStr;

const PROPERTIES: &[u8] = b"\x10\x00\x02";

fn frames(mut bytes: &[u8]) -> Vec<FrameRef<'_>> {
    let mut found = Vec::new();
    while let Some((frame, consumed)) = parse_frame(bytes, 0).unwrap() {
        found.push(frame);
        bytes = &bytes[consumed..];
    }
    assert_eq!(bytes, b"");
    found
}

fn deliver() -> Deliver<'static> {
    Deliver {
        consumer_tag: b"ctag1",
        delivery_tag: 0x0102_0304_0506_0708,
        redelivered: true,
        exchange: b"amq.direct",
        routing_key: b"key\xff",
    }
}

#[test]
fn a_small_delivery_is_octet_for_octet_what_the_specification_says() {
    let mut out = Vec::new();
    let method = Deliver {
        consumer_tag: b"c",
        delivery_tag: 1,
        redelivered: false,
        exchange: b"",
        routing_key: b"q",
    };
    put_content(&mut out, 1, &method, PROPERTIES, b"hi", 4096);
    let expected = [
        &b"\x01\x00\x01\x00\x00\x00\x12\x00\x3c\x00\x3c\x01c\x00\x00\x00\x00\x00\x00\x00\x01"[..],
        b"\x00\x00\x01q\xce",
        b"\x02\x00\x01\x00\x00\x00\x0f\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02",
        b"\x10\x00\x02\xce",
        b"\x03\x00\x01\x00\x00\x00\x02hi\xce",
    ]
    .concat();
    assert_eq!(out, expected);
}

#[test]
fn the_room_is_reserved_once() {
    let body = vec![1; 10_000];
    for frame_max in [0, 4096, 131_072] {
        for size in [0, 1, 4088, 4089, 8176, 10_000] {
            let mut out = Vec::new();
            put_content(
                &mut out,
                1,
                &deliver(),
                PROPERTIES,
                &body[..size],
                frame_max,
            );
            let reserved = deliver().frame_size_max()
                + HEADER_FRAME_OVERHEAD
                + PROPERTIES.len()
                + size
                + (size / body_part_max(frame_max) + 1) * FRAME_OVERHEAD;
            // A buffer that had to grow again would be larger than this.
            assert_eq!(out.capacity(), reserved);
        }
    }
}

#[test]
fn bodies_are_split_by_frame_max() {
    let body: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    for frame_max in [0, 1, 4096, 8192, 131_072, u32::MAX] {
        for size in [0, 1, 4087, 4088, 4089, 8176, 8177, 20_000] {
            let body = &body[..size];
            let mut out = Vec::new();
            put_content(&mut out, 9, &deliver(), PROPERTIES, body, frame_max);
            let found = frames(&out);
            assert!(found.iter().all(|frame| frame.channel == 9));
            let Ok(Method::BasicDeliver(method)) = Method::decode(found[0].payload) else {
                panic!("not basic.deliver");
            };
            assert_eq!(method.consumer_tag, "ctag1");
            assert_eq!(method.delivery_tag, 0x0102_0304_0506_0708);
            assert!(method.redelivered);
            assert_eq!(method.exchange, "amq.direct");
            assert_eq!(method.routing_key.as_bytes(), b"key\xff");
            let header = ContentHeaderRef::parse(found[1].payload).unwrap();
            assert_eq!((header.class_id, header.body_size), (60, size as u64));
            assert_eq!(header.properties, PROPERTIES);
            let limit = body_part_max(frame_max);
            assert_eq!(found.len(), 2 + size.div_ceil(limit));
            assert!(found[2..].iter().all(|frame| frame.payload.len() <= limit));
            let joined: Vec<u8> = found[2..].iter().flat_map(|f| f.payload).copied().collect();
            assert_eq!(joined, body);
        }
    }
}

#[test]
fn a_head_and_its_body_frames_are_the_same_octets() {
    let body = vec![0xCE; 9000];
    for size in [0, 1, 4088, 4089, 9000] {
        let body = &body[..size];
        let mut whole = Vec::new();
        put_content(&mut whole, 5, &deliver(), PROPERTIES, body, 4096);
        let mut parts = Vec::new();
        put_content_head(&mut parts, 5, &deliver(), PROPERTIES, size as u64);
        let frames = BodyFrames::new(5, body, 4096);
        assert_eq!(frames.len(), size.div_ceil(4088));
        for frame in frames {
            parts.extend_from_slice(&frame.head);
            parts.extend_from_slice(frame.part);
            parts.extend_from_slice(BodyFrame::END);
        }
        assert_eq!(parts, whole);
    }
}

#[test]
fn get_ok_and_return_are_what_the_owned_methods_write() {
    let short = ShortStr::truncated;
    let mut out = Vec::new();
    let get_ok = GetOk {
        delivery_tag: 7,
        redelivered: true,
        exchange: b"e",
        routing_key: b"rk",
        message_count: 0x0a0b_0c0d,
    };
    put_content(&mut out, 2, &get_ok, PROPERTIES, b"", 4096);
    let owned = BasicGetOk {
        delivery_tag: 7,
        redelivered: true,
        exchange: short(b"e"),
        routing_key: short(b"rk"),
        message_count: 0x0a0b_0c0d,
    };
    let found = frames(&out);
    assert_eq!(found.len(), 2);
    assert_eq!(Method::decode(found[0].payload), Ok(owned.into()));

    let mut out = Vec::new();
    let returned = Return {
        reply_code: 312,
        reply_text: b"NO_ROUTE",
        exchange: b"e",
        routing_key: b"rk",
    };
    put_content(&mut out, 2, &returned, PROPERTIES, b"body", 4096);
    let owned = BasicReturn {
        reply_code: 312,
        reply_text: short(b"NO_ROUTE"),
        exchange: short(b"e"),
        routing_key: short(b"rk"),
    };
    let found = frames(&out);
    assert_eq!(found.len(), 3);
    assert_eq!(Method::decode(found[0].payload), Ok(owned.into()));
    assert_eq!(
        found[2],
        FrameRef {
            kind: FrameKind::Body,
            channel: 2,
            payload: b"body"
        }
    );
}

#[test]
fn confirms_are_what_the_owned_methods_write() {
    for multiple in [false, true] {
        let mut out = Vec::new();
        put_ack(&mut out, 3, u64::MAX - 1, multiple);
        put_nack(&mut out, 3, 5, multiple);
        put_heartbeat(&mut out);
        let mut expected = Vec::new();
        put_method(
            &mut expected,
            3,
            &BasicAck {
                delivery_tag: u64::MAX - 1,
                multiple,
            }
            .into(),
        );
        let nack = BasicNack {
            delivery_tag: 5,
            multiple,
            requeue: true,
        };
        put_method(&mut expected, 3, &nack.into());
        expected.extend_from_slice(&HEARTBEAT_FRAME);
        assert_eq!(out, expected);
    }
}

#[test]
fn too_long_names_do_not_spoil_the_frame() {
    let long = [b'x'; 300];
    let method = Deliver {
        consumer_tag: &long,
        exchange: &long,
        routing_key: &long,
        ..deliver()
    };
    let mut out = Vec::new();
    put_content(&mut out, 1, &method, PROPERTIES, b"", 4096);
    let Ok(Method::BasicDeliver(method)) = Method::decode(frames(&out)[0].payload) else {
        panic!("not basic.deliver");
    };
    assert_eq!(method.consumer_tag.as_bytes(), &long[..255]);
    assert_eq!(method.routing_key.as_bytes(), &long[..255]);
}
