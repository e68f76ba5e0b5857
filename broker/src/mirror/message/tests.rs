//! Messages are what they were behind the wire.

use bytes::Bytes;
use leveret_queue::{DeadReason, Message, Standing};

use super::*;

fn message(body: &[u8]) -> Message {
    let new = leveret_queue::NewMessage {
        exchange: b"x",
        routing_key: b"key",
        properties: &[0, 0],
        body: &[body],
        persistent: true,
        expiration_ms: Some(5),
        priority: 3,
        time_ms: 77,
    };
    leveret_queue::EntryBuilder::single(&new).expect("a message")
}

fn attach() -> Attach {
    Attach {
        key: 7,
        queue: 9,
        no_ack: true,
        exclusive: false,
        passive: true,
        cancelled: true,
        priority: -3,
        prefetch: 100,
        shared: true,
        before: Some(Standing {
            arrival: 5,
            active: true,
        }),
        credit: 65536,
    }
}

fn item() -> Item {
    Item {
        number: 4,
        seq: 5,
        redelivered: true,
        delivery_count: Some(2),
        message: message(b"body"),
    }
}

fn ups() -> Vec<Up> {
    vec![
        Up::Claim {
            next: 3,
            last: 5,
            claims: vec![Claim {
                attach: attach(),
                held: vec![1, 5, 2],
            }],
        },
        Up::Batch {
            number: 8,
            settles: vec![SettleSeqs {
                queue: 9,
                consumer: Some(7),
                how: Settle::Requeue,
                items: vec![(1, 10, 2), (4, 20, 1)],
            }],
            entry: Bytes::from_static(b"entry"),
        },
        Up::Attach {
            request: 1,
            attach: attach(),
        },
        Up::Cancel { request: 9, key: 7 },
        Up::Release { key: 7 },
        Up::Credit { key: 7, bytes: 100 },
        Up::Grant { key: 7, places: 3 },
        Up::Share { key: 7 },
        Up::Get {
            request: 2,
            queue: 9,
            holder: None,
        },
        Up::Purge {
            request: 3,
            queue: 9,
        },
        Up::Counts {
            request: 4,
            queue: 9,
            touch: true,
        },
        Up::DeadLettered {
            queue: 9,
            seq: 3,
            reason: DeadReason::MaxLen,
        },
    ]
}

fn downs() -> Vec<Down> {
    vec![
        Down::Committed {
            number: 4,
            refused: vec![(3, vec![0, 2])],
        },
        Down::Claimed {
            key: 7,
            numbers: vec![1, 0, 2],
        },
        Down::Attached {
            request: 1,
            arrival: Some(3),
        },
        Down::Attached {
            request: 1,
            arrival: None,
        },
        Down::Active {
            key: 7,
            active: true,
        },
        Down::Wanted { key: 7 },
        Down::Unused { key: 7, places: 2 },
        Down::Deliver {
            items: vec![(7, item()), (8, item())],
        },
        Down::Cancelled { key: 7 },
        Down::Got {
            request: 2,
            got: Some((item(), 17)),
        },
        Down::Got {
            request: 2,
            got: None,
        },
        Down::Purged {
            request: 3,
            messages: 5,
        },
        Down::Counts {
            request: 4,
            ready: 6,
            consumers: 2,
        },
        Down::NotLeading,
        Down::Ended { request: 8 },
    ]
}

fn bytes_of(up: &Up) -> Bytes {
    let mut out = Vec::new();
    let tail = up.encode(&mut out);
    out.extend_from_slice(&tail.unwrap_or_default());
    Bytes::from(out)
}

#[test]
fn what_was_encoded_is_decoded() {
    for up in ups() {
        assert_eq!(Up::decode(&bytes_of(&up)), Ok(up));
    }
    for down in downs() {
        let mut out = Vec::new();
        down.encode(&mut out);
        assert_eq!(Down::decode(&Bytes::from(out)), Ok(down));
    }
}

#[test]
fn cut_and_damaged_bytes_are_refused_or_something_else_but_never_trusted() {
    for up in ups() {
        let whole = bytes_of(&up);
        for end in 0..whole.len() {
            // A batch's entry has no length of its own: the frame has.
            if let Ok(other) = Up::decode(&whole.slice(..end)) {
                assert!(matches!(other, Up::Batch { .. }), "{other:?}");
            }
        }
        for at in 0..whole.len() {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 0xff;
            let _ = Up::decode(&Bytes::from(damaged));
        }
    }
    for down in downs() {
        let mut out = Vec::new();
        down.encode(&mut out);
        for end in 0..out.len() {
            assert!(Down::decode(&Bytes::copy_from_slice(&out[..end])).is_err());
        }
        for at in 0..out.len() {
            let mut damaged = out.clone();
            damaged[at] ^= 0xff;
            let _ = Down::decode(&Bytes::from(damaged));
        }
    }
}

#[test]
fn a_count_without_its_items_allocates_nothing() {
    let mut out = vec![4];
    out.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Down::decode(&Bytes::from(out)), Err(Malformed(1)));
}
