//! Class tx: publishes and settles that take effect together (AMQP 0-9-1 section 1.9).
//!
//! They are collected on the channel, routed as they come as in RabbitMQ, and handed to the node in one piece at commit: all
//! groups concerned are locked, and their entries follow each other in the journal as one unit that recovery takes
//! whole or not at all.

use std::sync::Arc;

use leveret_protocol::method::{TxCommitOk, TxRollbackOk, TxSelectOk};
use leveret_queue::{NewMessage, UnackedRange};
use leveret_topology::QueueInfo;

use super::Channel;
use super::settle::unknown;
use crate::connection::core::{Core, Fault};
use crate::connection::unacked::{Tags, Unacked};
use crate::node::{Settle, Transaction};
use crate::ticket::{Answer, Question};

/// Bytes that one transaction may hold: less than a record of the journal.
const TX_BYTES_MAX: usize = 192 << 20;
/// The same in a cluster, where each group's part has to fit between two nodes.
const TX_BYTES_MAX_MIRRORED: usize = 48 << 20;
/// What a message counts for besides its body and properties: names and headers.
const MESSAGE_OVERHEAD: usize = 640;

/// A message that was not routable and is returned at commit.
#[derive(Debug)]
struct Unroutable {
    exchange: Vec<u8>,
    routing_key: Vec<u8>,
    properties: Vec<u8>,
    body: Vec<u8>,
}

/// What a transaction has collected.
#[derive(Debug, Default)]
pub struct Tx {
    transaction: Transaction,
    settled: Vec<(Settle, u64, Unacked)>,
    returns: Vec<Unroutable>,
    bytes: usize,
}

impl Tx {
    /// Adds a publish.
    ///
    /// # Errors
    /// The transaction is too large.
    pub fn publish(
        &mut self,
        queues: &[Arc<QueueInfo>],
        message: &NewMessage<'_>,
        mandatory: bool,
        mirrored: bool,
    ) -> Result<(), Fault> {
        let max = match mirrored {
            true => TX_BYTES_MAX_MIRRORED,
            false => TX_BYTES_MAX,
        };
        let body: usize = message.body.iter().map(|b| b.len()).sum();
        self.bytes += body + message.properties.len() + 16 * queues.len() + MESSAGE_OVERHEAD;
        if self.bytes > max {
            return Err(Fault::precondition(format!(
                "transaction is larger than {max} bytes"
            )));
        }
        if queues.is_empty() {
            if mandatory {
                self.returns.push(Unroutable {
                    exchange: message.exchange.to_vec(),
                    routing_key: message.routing_key.to_vec(),
                    properties: message.properties.to_vec(),
                    body: message.body.concat(),
                });
            }
            return Ok(());
        }
        if !self.transaction.publish(queues, message) {
            return Err(Fault::precondition("transaction of too many queues"));
        }
        Ok(())
    }

    /// Adds a settle; the tag counts as used at once.
    pub fn settle(
        &mut self,
        tags: &mut Tags,
        tag: u64,
        multiple: bool,
        how: Settle,
    ) -> Result<(), Fault> {
        if !multiple {
            let Some(unacked) = tags.take(tag) else {
                return Err(unknown(tag));
            };
            self.settled.push((how, tag, unacked));
            return Ok(());
        }
        let settled = &mut self.settled;
        let known = tags.take_up_to(tag, |tag, unacked| settled.push((how, tag, unacked)));
        if known { Ok(()) } else { Err(unknown(tag)) }
    }
}

impl Channel {
    pub(super) fn tx_select(&mut self, core: &mut Core) -> Result<(), Fault> {
        if self.confirm.is_some() {
            return Err(Fault::precondition("cannot switch from confirm to tx mode"));
        }
        self.tx.get_or_insert_default();
        core.send(self.number, TxSelectOk {});
        Ok(())
    }

    fn open_tx(&mut self) -> Result<Box<Tx>, Fault> {
        match self.tx.take() {
            Some(tx) => {
                self.tx = Some(Box::default());
                Ok(tx)
            }
            None => Err(Fault::precondition("channel is not transactional")),
        }
    }

    pub(super) fn tx_commit(&mut self, core: &mut Core) -> Result<(), Fault> {
        let Some(tx) = &mut self.tx else {
            return Err(Fault::precondition("channel is not transactional"));
        };
        let (node, now_ms) = (Arc::clone(&core.node), core.now_ms);
        let committed = core.ask(Question::Commit, |_, ticket| {
            let mut transaction = std::mem::take(&mut tx.transaction);
            for (how, _, unacked) in &tx.settled {
                let range = UnackedRange {
                    slot: unacked.slot,
                    first: unacked.number,
                    count: 1,
                };
                transaction.settle(unacked.group, unacked.queue, *how, range);
            }
            node.commit_for(transaction, now_ms, ticket)
        })?;
        let Answer::Committed(committed) = committed else {
            return Err(Fault::mixed_up(&committed));
        };
        let tx = self.open_tx()?;
        for message in &tx.returns {
            self.put_return(
                core,
                &NewMessage {
                    exchange: &message.exchange,
                    routing_key: &message.routing_key,
                    properties: &message.properties,
                    body: &[&message.body],
                    persistent: false,
                    expiration_ms: None,
                    priority: 0,
                    time_ms: core.now_ms,
                },
            );
        }
        if committed.refused {
            // As in RabbitMQ: what was not refused stays committed.
            return Err(Fault::precondition("partial tx completion"));
        }
        core.send_durably(self.number, Some(TxCommitOk {}.into()), committed.at);
        Ok(())
    }

    /// tx.rollback: publishes are forgotten; settled deliveries are unacknowledged again, under their tags.
    pub(super) fn tx_rollback(&mut self, core: &mut Core) -> Result<(), Fault> {
        let tx = self.open_tx()?;
        self.tags
            .restore(tx.settled.iter().map(|(_, tag, unacked)| (*tag, *unacked)));
        core.send(self.number, TxRollbackOk {});
        Ok(())
    }
}
