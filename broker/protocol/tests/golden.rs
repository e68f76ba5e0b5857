//! Methods with named arguments against octets laid out by hand from the
//! specification, and what is known of every method.

use leveret_protocol::method::*;
use leveret_protocol::{FieldTable, FieldValue, ReplyCode, ShortStr};

fn short(text: &str) -> ShortStr {
    ShortStr::try_from(text).unwrap()
}

fn arguments() -> FieldTable {
    let mut table = FieldTable::new();
    table.insert("x-max-length", FieldValue::Int(10));
    table
}

const ARGUMENTS: &[u8] = b"\x00\x00\x00\x12\x0cx-max-lengthI\x00\x00\x00\x0a";

#[track_caller]
fn check(method: impl Into<Method>, parts: &[&[u8]]) {
    let method = method.into();
    let expected = parts.concat();
    let mut out = Vec::new();
    method.encode_payload(&mut out);
    assert_eq!(out, expected, "{}", method.name());
    assert_eq!(Method::decode(&expected), Ok(method));
}

#[test]
fn connection() {
    check(
        ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::new(),
            mechanisms: b"PLAIN AMQPLAIN".to_vec(),
            locales: b"en_US".to_vec(),
        },
        &[
            b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x00",
            b"\x00\x00\x00\x0ePLAIN AMQPLAIN\x00\x00\x00\x05en_US",
        ],
    );
    check(
        ConnectionStartOk {
            client_properties: FieldTable::new(),
            mechanism: short("PLAIN"),
            response: b"\0guest\0guest".to_vec(),
            locale: short("en_US"),
        },
        &[
            b"\x00\x0a\x00\x0b\x00\x00\x00\x00\x05PLAIN",
            b"\x00\x00\x00\x0c\0guest\0guest\x05en_US",
        ],
    );
    check(
        ConnectionTune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        },
        &[b"\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c"],
    );
    check(
        ConnectionOpen {
            virtual_host: short("/"),
            ..Default::default()
        },
        &[b"\x00\x0a\x00\x28\x01/\x00\x00"],
    );
    check(
        ConnectionClose {
            reply_code: ReplyCode::ConnectionForced.code(),
            reply_text: short("bye"),
            class_id: 60,
            method_id: 40,
        },
        &[b"\x00\x0a\x00\x32\x01\x40\x03bye\x00\x3c\x00\x28"],
    );
    check(ConnectionCloseOk {}, &[b"\x00\x0a\x00\x33"]);
    check(
        ConnectionUpdateSecret {
            new_secret: b"s3".to_vec(),
            reason: short("r"),
        },
        &[b"\x00\x0a\x00\x46\x00\x00\x00\x02s3\x01r"],
    );
}

#[test]
fn exchange_and_queue() {
    check(
        ExchangeDeclare {
            ticket: 0,
            exchange: short("e"),
            kind: short("topic"),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: true,
            no_wait: true,
            arguments: arguments(),
        },
        &[b"\x00\x28\x00\x0a\x00\x00\x01e\x05topic\x1a", ARGUMENTS],
    );
    check(
        ExchangeBind {
            ticket: 0,
            destination: short("d"),
            source: short("s"),
            routing_key: short("rk"),
            no_wait: true,
            arguments: arguments(),
        },
        &[b"\x00\x28\x00\x1e\x00\x00\x01d\x01s\x02rk\x01", ARGUMENTS],
    );
    check(ExchangeUnbindOk {}, &[b"\x00\x28\x00\x33"]);
    check(
        QueueDeclare {
            ticket: 0,
            queue: short("q"),
            passive: true,
            durable: false,
            exclusive: true,
            auto_delete: false,
            no_wait: true,
            arguments: arguments(),
        },
        &[b"\x00\x32\x00\x0a\x00\x00\x01q\x15", ARGUMENTS],
    );
    check(
        QueueDeclareOk {
            queue: short("q"),
            message_count: 1,
            consumer_count: 2,
        },
        &[b"\x00\x32\x00\x0b\x01q\x00\x00\x00\x01\x00\x00\x00\x02"],
    );
    check(
        QueueDelete {
            queue: short("q"),
            if_empty: true,
            ..Default::default()
        },
        &[b"\x00\x32\x00\x28\x00\x00\x01q\x02"],
    );
    check(
        QueueUnbind {
            ticket: 0,
            queue: short("q"),
            exchange: short("e"),
            routing_key: short("rk"),
            arguments: FieldTable::new(),
        },
        &[b"\x00\x32\x00\x32\x00\x00\x01q\x01e\x02rk\x00\x00\x00\x00"],
    );
}

#[test]
fn basic() {
    check(
        BasicQos {
            prefetch_size: 0,
            prefetch_count: 100,
            global: true,
        },
        &[b"\x00\x3c\x00\x0a\x00\x00\x00\x00\x00\x64\x01"],
    );
    check(
        BasicConsume {
            ticket: 0,
            queue: short("q"),
            consumer_tag: short("ct"),
            no_local: false,
            no_ack: true,
            exclusive: false,
            no_wait: true,
            arguments: arguments(),
        },
        &[b"\x00\x3c\x00\x14\x00\x00\x01q\x02ct\x0a", ARGUMENTS],
    );
    check(
        BasicPublish {
            ticket: 0,
            exchange: short("e"),
            routing_key: short("rk"),
            mandatory: true,
            immediate: false,
        },
        &[b"\x00\x3c\x00\x28\x00\x00\x01e\x02rk\x01"],
    );
    check(
        BasicDeliver {
            consumer_tag: short("ct"),
            delivery_tag: 258,
            redelivered: true,
            exchange: short("e"),
            routing_key: short("rk"),
        },
        &[b"\x00\x3c\x00\x3c\x02ct\x00\x00\x00\x00\x00\x00\x01\x02\x01\x01e\x02rk"],
    );
    check(
        BasicNack {
            delivery_tag: 1,
            multiple: false,
            requeue: true,
        },
        &[b"\x00\x3c\x00\x78\x00\x00\x00\x00\x00\x00\x00\x01\x02"],
    );
    check(
        AccessRequest {
            realm: short("/data"),
            passive: true,
            read: true,
            ..Default::default()
        },
        &[b"\x00\x1e\x00\x0a\x05/data\x12"],
    );
    check(ConfirmSelect { no_wait: true }, &[b"\x00\x55\x00\x0a\x01"]);
}

#[test]
fn bits_without_a_name_are_ignored() {
    let ack = Method::decode(b"\x00\x3c\x00\x50\x00\x00\x00\x00\x00\x00\x00\x01\xff");
    assert_eq!(
        ack,
        Ok(BasicAck {
            delivery_tag: 1,
            multiple: true
        }
        .into())
    );
}

#[test]
fn unknown_methods_carry_their_ids() {
    for payload in [
        b"\x00\x3c\x00\x29more",
        b"\x00\x3d\x00\x28more",
        b"\xff\xff\xff\xff\0\0\0\0",
    ] {
        let error = Method::decode(payload).unwrap_err();
        let ids = (
            u16::from_be_bytes([payload[0], payload[1]]),
            u16::from_be_bytes([payload[2], payload[3]]),
        );
        assert_eq!(error.ids(), ids);
        assert_eq!(
            error,
            MethodError::Unknown {
                class_id: ids.0,
                method_id: ids.1
            }
        );
    }
}

#[test]
fn malformed_arguments_have_rabbitmqs_texts() {
    let error = Method::decode(b"\x00\x3c\x00\x50\x01\x02\x03").unwrap_err();
    assert_eq!(
        error.reply_code().text(&error.to_string()),
        "FRAME_ERROR - cannot decode <<1,2,3>>"
    );
    assert_eq!(error.ids(), (60, 80));
    let error = Method::decode(b"\x00\x14\x00\x0a\x01\xff").unwrap_err();
    assert_eq!(
        error.reply_code().text(&error.to_string()),
        "FRAME_ERROR - Malformed UTF-8 in shortstr"
    );
    let error = Method::decode(b"\x00\x32\x00\x0a\0\0\0\0\0\0\0\x03\x01kz").unwrap_err();
    assert_eq!(error.reply_code(), ReplyCode::SyntaxError);
    // What a client may put into basic.publish need not be UTF-8.
    assert!(Method::decode(b"\x00\x3c\x00\x28\0\0\x01\xff\x01\xff\0").is_ok());
}

#[test]
fn every_method_knows_itself() {
    let mut client_sent = Vec::new();
    let mut with_content = Vec::new();
    for &(class, id) in Method::IDS {
        let method = Method::empty(class, id).unwrap();
        assert_eq!(method.id(), (class, id));
        let mut payload = Vec::new();
        method.encode_payload(&mut payload);
        assert_eq!(split_method(&payload).unwrap().0, method_id(class, id));
        assert_eq!(Method::decode(&payload).as_ref(), Ok(&method));
        if method.is_client_sent() {
            client_sent.push(method.name());
        }
        if method.has_content() {
            with_content.push(method.name());
        }
    }
    assert_eq!(Method::IDS.len(), 66);
    assert_eq!(
        with_content,
        [
            "basic.publish",
            "basic.return",
            "basic.deliver",
            "basic.get-ok"
        ]
    );
    assert_eq!(
        client_sent.join(" "),
        "connection.start-ok connection.secure-ok connection.tune-ok connection.open \
         connection.close connection.close-ok connection.update-secret channel.open channel.flow \
         channel.flow-ok channel.close channel.close-ok access.request exchange.declare \
         exchange.delete exchange.bind exchange.unbind queue.declare queue.bind queue.purge \
         queue.delete queue.unbind basic.qos basic.consume basic.cancel basic.cancel-ok \
         basic.publish basic.get basic.ack basic.reject basic.recover-async basic.recover \
         basic.nack tx.select tx.commit tx.rollback confirm.select"
    );
}
