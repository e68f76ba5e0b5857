//! A whole node on a simulated disk whose power is cut at every operation: transactions over several groups are there in all
//! their queues or in none, those that were answered are there, and so is what was confirmed.

mod wire;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use leveret::node::Node;
use leveret_config::Config;
use leveret_protocol::Method;
use leveret_protocol::method::{
    BasicAck, ChannelOpen, ConfirmSelect, QueueDeclare, TxCommit, TxRollback, TxSelect,
};
use leveret_storage::disk::sim::{Fault, SimDisk};
use wire::{Wire, declare, get};

/// Queues that every transaction writes to; they lie in several groups.
const QUEUES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Queues of publishes with confirms, between the transactions.
const CONFIRMED: [&str; 2] = ["x", "y"];
const TRANSACTIONS: u32 = 6;
/// A checkpoint is written after this one.
const CHECKPOINT_AFTER: u32 = 2;

const TX: u16 = 1;
const CONFIRM: u16 = 2;

fn start(disk: &SimDisk) -> Option<Arc<Node>> {
    let mut config = Config::default();
    config.node.data_dir = "data".into();
    // A unit of large messages goes over several segments.
    config.journal.segment_size_bytes = 64 << 10;
    config.journal.sync_interval_ms = 5;
    match Node::start_on(config, 1 << 30, Arc::new(disk.clone())) {
        Ok((node, _)) => Some(Arc::new(node)),
        Err(error) => {
            assert!(disk.power_is_cut(), "{error}");
            None
        }
    }
}

/// What the client was told.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    /// The queues are there.
    declared: bool,
    /// Transactions 0 to here, exclusive, were answered.
    committed: u32,
    /// The next one was asked for.
    asked: u32,
    /// Publishes with confirm that were confirmed.
    confirmed: u32,
}

/// A client that gives up when the power is gone.
struct Client<'a> {
    wire: Wire,
    disk: &'a SimDisk,
}

impl Client<'_> {
    /// Waits for a method; `None`: the power was cut before.
    fn answer(&mut self, name: &str) -> Option<wire::Came> {
        let mut came = None;
        let disk = self.disk;
        self.wire.until(name, |wire| {
            came = wire.came().into_iter().next();
            came.is_some() || disk.power_is_cut()
        });
        let came = came?;
        if disk.power_is_cut() && matches!(came.method, Method::ConnectionClose(_)) {
            return None;
        }
        assert_eq!(came.method.name(), name, "{came:?}");
        Some(came)
    }

    fn call(
        &mut self,
        channel: u16,
        method: impl Into<Method>,
        answer: &str,
    ) -> Option<wire::Came> {
        self.wire.send(channel, method);
        self.answer(answer)
    }
}

fn body(transaction: u32, bytes: usize) -> Vec<u8> {
    let mut body = format!("{transaction} ").into_bytes();
    body.resize(bytes.max(body.len()), b'.');
    body
}

fn number(body: &[u8]) -> u32 {
    let text = body.split(|b| *b == b' ').next().unwrap();
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

/// Each transaction publishes to every queue, and acknowledges what the one before it published: whatever is whole leaves
/// one message in each queue, the same everywhere. Stops when the power does.
fn work(node: &Arc<Node>, disk: &SimDisk, bytes: usize, told: &mut Told) -> Option<()> {
    let mut client = Client {
        wire: Wire::open(node),
        disk,
    };
    client.call(TX, ChannelOpen::default(), "channel.open-ok")?;
    client.call(CONFIRM, ChannelOpen::default(), "channel.open-ok")?;
    for queue in QUEUES.iter().chain(&CONFIRMED) {
        let durable = QueueDeclare {
            durable: true,
            ..declare(queue)
        };
        client.call(TX, durable, "queue.declare-ok")?;
    }
    told.declared = true;
    client.call(CONFIRM, ConfirmSelect::default(), "confirm.select-ok")?;
    client.call(TX, TxSelect::default(), "tx.select-ok")?;
    for transaction in 0..TRANSACTIONS {
        for queue in QUEUES {
            client.wire.publish(TX, queue, b"99 rolled back");
        }
        client.call(TX, TxRollback::default(), "tx.rollback-ok")?;
        if transaction > 0 {
            for queue in QUEUES {
                let Method::BasicGetOk(got) = client.call(TX, get(queue), "basic.get-ok")?.method
                else {
                    unreachable!("it was asked for");
                };
                let ack = BasicAck {
                    delivery_tag: got.delivery_tag,
                    multiple: false,
                };
                client.wire.send(TX, ack);
            }
        }
        for queue in QUEUES {
            client.wire.publish(TX, queue, &body(transaction, bytes));
        }
        // One that is written with the unit, without being of it.
        for queue in CONFIRMED {
            client.wire.publish(CONFIRM, queue, &body(transaction, 0));
        }
        told.asked = transaction + 1;
        client.wire.send(TX, TxCommit::default());
        // Confirms and the answer come in any order.
        let mut open = (true, u64::from(CONFIRMED.len() as u32 * (transaction + 1)));
        let mut acked = 0;
        client.wire.until("the commit", |wire| {
            for came in wire.came() {
                match came.method {
                    Method::TxCommitOk(_) => {
                        open.0 = false;
                        told.committed = transaction + 1;
                    }
                    Method::BasicAck(ack) => {
                        acked = ack.delivery_tag;
                        told.confirmed = acked as u32 / CONFIRMED.len() as u32;
                    }
                    Method::ConnectionClose(_) if disk.power_is_cut() => {}
                    other => panic!("{other:?}"),
                }
            }
            (!open.0 && acked == open.1) || disk.power_is_cut()
        });
        if disk.power_is_cut() {
            return None;
        }
        if transaction == CHECKPOINT_AFTER
            && let Err(error) = node.checkpoint()
        {
            assert!(disk.power_is_cut(), "{error}");
            return None;
        }
    }
    Some(())
}

/// After the power is back: what must hold.
fn check(node: &Arc<Node>, told: Told, bytes: usize, context: &str) {
    let mut wire = Wire::open(node);
    let there: Vec<&str> = QUEUES
        .into_iter()
        .chain(CONFIRMED)
        .filter(|queue| node.topology().queue("/", queue).is_some())
        .collect();
    if !told.declared {
        // Declared one after the other: there is no gap.
        let all: Vec<&str> = QUEUES.into_iter().chain(CONFIRMED).collect();
        assert_eq!(there[..], all[..there.len()], "{context}");
        return;
    }
    assert_eq!(there.len(), QUEUES.len() + CONFIRMED.len(), "{context}");
    wire.open_channel(1);
    let contents: Vec<Vec<u32>> = QUEUES
        .iter()
        .map(|queue| {
            let drained = wire.drain(1, queue);
            for (found, _) in &drained {
                assert_eq!(found[..], body(number(found), bytes), "{context}");
            }
            drained.iter().map(|(body, _)| number(body)).collect()
        })
        .collect();
    for (queue, content) in QUEUES.iter().zip(&contents) {
        assert_eq!(
            content, &contents[0],
            "{context}: '{queue}' is not as '{}': {contents:?}, {told:?}",
            QUEUES[0]
        );
    }
    let found = contents[0].last().map_or(0, |transaction| transaction + 1);
    assert!(
        contents[0].len() <= 1,
        "{context}: acknowledged and published are apart: {contents:?}"
    );
    assert!(
        (told.committed..=told.asked).contains(&found),
        "{context}: {found} transactions are there, {told:?}"
    );
    for queue in CONFIRMED {
        let content: Vec<u32> = wire
            .drain(1, queue)
            .iter()
            .map(|(body, _)| number(body))
            .collect();
        assert_eq!(
            content,
            (0..content.len() as u32).collect::<Vec<_>>(),
            "{context}"
        );
        let count = content.len() as u32;
        assert!(
            (told.confirmed..=told.asked).contains(&count),
            "{context}: {count} in {queue}, {told:?}"
        );
    }
}

/// Opens it, after some attempts in the middle of which the power was cut again.
fn reopen(disk: &SimDisk, seed: u64) -> Arc<Node> {
    for attempt in 0..seed % 3 {
        disk.crash(seed * 31 + attempt);
        disk.fail(1 + seed % 13 + attempt, Fault::PowerCut);
        drop(start(disk));
    }
    disk.crash(seed);
    start(disk).expect("the power stays on")
}

fn cut_at_every_operation(bytes: usize, seeds: u64) {
    // The whole of it once, for the number of operations.
    let disk = SimDisk::new();
    let node = start(&disk).unwrap();
    let mut told = Told::default();
    let before = disk.operations();
    work(&node, &disk, bytes, &mut told).unwrap();
    assert_eq!(
        (told.committed, told.confirmed),
        (TRANSACTIONS, TRANSACTIONS)
    );
    let operations = disk.operations() - before;
    assert!(operations > 30, "{operations}");
    let groups: BTreeSet<u32> = QUEUES
        .iter()
        .map(|queue| node.topology().queue("/", queue).unwrap().group)
        .collect();
    assert!(groups.len() >= 3, "{groups:?}");
    drop(node);
    let mut between = 0;
    for cut in 1..=operations + 4 {
        for seed in 0..seeds {
            let context = format!("{bytes} bytes, cut at {cut} of {operations}, seed {seed}");
            let disk = SimDisk::new();
            let node = start(&disk).unwrap();
            let mut told = Told::default();
            disk.fail(cut, Fault::PowerCut);
            work(&node, &disk, bytes, &mut told);
            between += u32::from(told.asked > told.committed);
            drop(node);
            let node = reopen(&disk, cut * 100 + seed);
            check(&node, told, bytes, &context);
            drop(node);
        }
    }
    assert!(between > 10, "the power was cut during {between} commits");
}

#[test]
fn transactions_of_small_messages() {
    cut_at_every_operation(16, 6);
}

/// Units that do not fit into a segment.
#[test]
fn transactions_of_large_messages() {
    cut_at_every_operation(20_000, 3);
}

/// Whatever of the first content was written: the next start makes all of it, and guest can log in.
#[test]
fn a_first_start_that_is_cut_off_is_a_first_start_again() {
    let disk = SimDisk::new();
    drop(start(&disk).unwrap());
    let operations = disk.operations();
    assert!(operations > 10, "{operations}");
    for cut in 1..=operations {
        for seed in 0..6 {
            let disk = SimDisk::new();
            disk.fail(cut, Fault::PowerCut);
            drop(start(&disk));
            let node = reopen(&disk, cut * 100 + seed);
            let mut wire = Wire::open(&node);
            wire.open_channel(1);
            wire.declare(1, "q");
        }
    }
}

#[test]
fn the_folder_of_the_test_is_simulated() {
    let disk = SimDisk::new();
    drop(start(&disk));
    assert!(!Path::new("data").exists());
    assert!(disk.operations() > 0);
}
