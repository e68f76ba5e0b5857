//! The octets written here against those of the crate amq-protocol, for every
//! method, for content headers and for field tables: it decodes what this crate
//! writes, and what it then writes itself is the same.
//!
//! Reserved arguments, names that are not UTF-8, duplicate names and the order
//! of fields are left out: it does not keep them.

mod common;

use amq_protocol::frame::{gen_frame, parse_frame};
use leveret_protocol::encode::{Return, put_content, put_method};
use leveret_protocol::{BasicProperties, Method};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Decodes the frames with the other crate and encodes them again with it.
fn through_the_other(octets: &[u8]) -> Vec<u8> {
    let mut rest = octets;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (left, frame) = parse_frame(rest).expect("the other crate reads the frame");
        rest = left;
        let written = gen_frame(&frame)(Vec::new().into()).expect("it writes the frame");
        out.extend(written.into_inner().0);
    }
    out
}

#[test]
fn methods() {
    for &(class, id) in Method::IDS {
        let mut runner = TestRunner::new(Config {
            cases: 64,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&common::plain_payload(class, id), |payload| {
                let method = Method::decode(&payload).unwrap();
                let mut framed = Vec::new();
                put_method(&mut framed, 7, &method);
                prop_assert_eq!(through_the_other(&framed), framed, "{}", method.name());
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{class}.{id}: {error}"));
    }
}

proptest! {
    #[test]
    fn contents(
        properties in common::properties(common::short_text, common::sorted_table),
        body in prop::collection::vec(any::<u8>(), 0..9000),
    ) {
        let properties = BasicProperties { cluster_id: None, ..properties };
        let method =
            Return { reply_code: 312, reply_text: b"NO_ROUTE", exchange: b"e", routing_key: b"k" };
        let mut out = Vec::new();
        put_content(&mut out, 7, &method, &properties.to_bytes(), &body, 4096);
        prop_assert_eq!(through_the_other(&out), out);
    }
}
