use super::*;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(FRAME_END);
    out
}

#[test]
fn every_prefix_of_a_stream_gives_the_whole_frames_in_it() {
    let frames = [
        (METHOD, 1, &b"\x00\x3c\x00\x28"[..]),
        (HEADER, 1, &[0; 14]),
        (BODY, 1, &[0xCE; 300]),
        (HEARTBEAT, 0, b""),
        (BODY, 65535, b"x"),
    ];
    let mut stream = Vec::new();
    let mut ends = Vec::new();
    for (kind, channel, payload) in frames {
        stream.extend(frame(kind, channel, payload));
        ends.push(stream.len());
    }
    for cut in 0..=stream.len() {
        let mut rest = &stream[..cut];
        let mut seen = 0;
        while let Some((found, consumed)) = parse_frame(rest, 4096).unwrap() {
            let (kind, channel, payload) = frames[seen];
            assert_eq!(
                (found.kind as u8, found.channel, found.payload),
                (kind, channel, payload)
            );
            assert_eq!(frame_size(rest), Some(consumed));
            rest = &rest[consumed..];
            seen += 1;
        }
        assert_eq!(seen, ends.iter().filter(|end| **end <= cut).count());
    }
}

#[test]
fn a_payload_may_have_frame_max_octets_and_no_more() {
    let fits = frame(BODY, 3, &[1; 4096]);
    assert!(parse_frame(&fits, 4096).unwrap().is_some());
    let head = frame(BODY, 3, &[1; 4097]);
    let error = parse_frame(&head[..FRAME_HEAD], 4096).unwrap_err();
    assert_eq!(
        error,
        FrameError::TooLarge {
            kind: 3,
            channel: 3,
            size: 4097,
            size_max: 4088
        }
    );
    assert_eq!(
        error.to_string(),
        "type 3, all octets = <<>>: {frame_too_large,4097,4088}"
    );
    assert_eq!(error.reply_code().code(), 501);
    assert!(parse_frame(&head, 0).unwrap().is_some());
}

#[test]
fn without_a_limit_there_is_a_cap() {
    let mut head = vec![BODY, 0, 1];
    head.extend_from_slice(&PAYLOAD_SIZE_CAP.to_be_bytes());
    assert_eq!(parse_frame(&head, 0), Ok(None));
    assert_eq!(parse_frame(&head, u32::MAX), Ok(None));
    head.truncate(3);
    head.extend_from_slice(&(PAYLOAD_SIZE_CAP + 1).to_be_bytes());
    assert!(matches!(
        parse_frame(&head, 0),
        Err(FrameError::TooLarge { .. })
    ));
    assert!(matches!(
        parse_frame(&head, u32::MAX),
        Err(FrameError::TooLarge { .. })
    ));
}

#[test]
fn a_wrong_end_octet_is_an_error() {
    let mut bytes = frame(METHOD, 7, b"GET / HTTP/1.1\r\nHost");
    *bytes.last_mut().unwrap() = 0;
    let error = parse_frame(&bytes, 4096).unwrap_err();
    assert_eq!(error.channel(), 7);
    assert_eq!(
        error.to_string(),
        "type 1, first 16 octets = <<\"GET / HTTP/1.1\\r\\n\">>: {invalid_frame_end_marker,0}"
    );
}

#[test]
fn an_unknown_kind_is_an_error_once_the_frame_is_whole() {
    for kind in 0..=255 {
        let bytes = frame(kind, 2, b"\x00\x01");
        assert_eq!(parse_frame(&bytes[..9], 4096), Ok(None));
        let parsed = parse_frame(&bytes, 4096);
        if matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
            assert_eq!(parsed.unwrap().unwrap().0.kind as u8, kind);
        } else {
            assert_eq!(
                parsed.unwrap_err().to_string(),
                format!("type {kind}, all octets = <<0,1>>: unknown_frame")
            );
        }
    }
}

#[test]
fn texts_for_frames_that_may_not_come() {
    let bytes = frame(HEARTBEAT, 0, b"\x01");
    let (found, _) = parse_frame(&bytes, 4096).unwrap().unwrap();
    assert_eq!(unexpected_frame_text(&found), "type 8, all octets = <<1>>");
    assert_eq!(
        unknown_frame_text(&found),
        "type 8, all octets = <<1>>: unknown_frame"
    );
}

#[test]
fn protocol_headers() {
    assert_eq!(
        parse_protocol_header(&PROTOCOL_HEADER),
        Ok(Some(ProtocolVersion::Amqp091))
    );
    assert_eq!(
        parse_protocol_header(b"AMQP\x01\x01\x00\x09"),
        Ok(Some(ProtocolVersion::Amqp09))
    );
    for cut in 0..PROTOCOL_HEADER_SIZE {
        assert_eq!(parse_protocol_header(&PROTOCOL_HEADER[..cut]), Ok(None));
    }
    let error = parse_protocol_header(b"AMQP\x00\x01\x00\x00more").unwrap_err();
    assert_eq!(error, ProtocolHeaderError::Version([0, 1, 0, 0]));
    assert_eq!(
        error.to_string(),
        "AMQP protocol id 0 version 1-0-0 is not served"
    );
    let error = parse_protocol_header(b"GET / HTTP/1.1").unwrap_err();
    assert_eq!(error, ProtocolHeaderError::NotAmqp(*b"GET / HT"));
    assert_eq!(
        error.to_string(),
        "not an AMQP protocol header: \"GET / HT\""
    );
}
