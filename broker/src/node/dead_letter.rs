//! Dead-lettering (RabbitMQ extension): a message that was rejected, expired, dropped or returned too often goes to the
//! dead-letter exchange of its queue, with the story of its deaths in the header `x-death`.

use std::sync::{Arc, Weak};

use leveret_cluster::Notify;
use leveret_protocol::properties::{PropertiesEdit, Property};
use leveret_protocol::{FieldTable, FieldValue, PropertiesRef};
use leveret_queue::{DeadLetter, DeadReason, EntryBuilder, NewMessage};
use leveret_topology::{QueueId, QueueInfo};
use parking_lot::Mutex;

use super::{After, Attributes, Node};

impl Node {
    /// Publishes a dead letter to its targets, then settles it at its source.
    pub(super) fn dead_letter(&self, dead: DeadLetter, now_ms: u64) -> After {
        let source = self.topology().queue_by_id(QueueId(dead.queue)).cloned();
        // Without its queue there is nothing to settle, and RabbitMQ does not dead-letter what is deleted.
        let Some(source) = source else {
            return After::default();
        };
        let mut after = self.publish_dead(&source, &dead, now_ms);
        if dead.held
            && let Some(group) = self.group(source.group)
        {
            after.merge(group.dead_lettered(dead.queue, dead.seq, dead.reason));
        }
        after
    }

    /// The dead letter as an entry of each group that owns some of its targets.
    fn dead_entries(
        &self,
        source: &QueueInfo,
        dead: &DeadLetter,
        now_ms: u64,
    ) -> Vec<(u32, EntryBuilder)> {
        let Some(exchange) = source.settings.dead_letter_exchange.clone() else {
            return Vec::new();
        };
        let (_, routing_key, raw, body) = dead.message.content();
        let properties = PropertiesRef::new(raw);
        let mut headers = properties.decode_headers().unwrap_or_default();
        let keys: Vec<Vec<u8>> = match &source.settings.dead_letter_routing_key {
            Some(key) => vec![key.as_bytes().to_vec()],
            None => original_keys(routing_key, &headers),
        };
        add_death(&mut headers, source, dead, now_ms);
        if source.settings.dead_letter_routing_key.is_some() {
            // The keys of CC are told in x-death; the message goes by the new one alone.
            headers.remove("CC");
        }
        let mut edit = PropertiesEdit::new(raw).headers(&headers);
        // It must not expire at once in the next queue, too.
        edit = edit.remove(Property::Expiration);
        let properties = edit.to_bytes();
        let key_refs: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        // As RabbitMQ, by the headers that the dead letter has, its deaths among them.
        let properties_ref = PropertiesRef::new(&properties);
        let attributes = Attributes::new(&properties_ref);
        let mut queues = self.route_own(&source.vhost, &exchange, &key_refs, &attributes);
        if dead.reason != DeadReason::Rejected {
            queues.retain(|queue| !is_cycle(&headers, queue.name.as_bytes()));
        }
        let message = NewMessage {
            exchange: exchange.as_bytes(),
            routing_key: keys.first().map_or(routing_key, Vec::as_slice),
            properties: &properties,
            body: &[body],
            persistent: dead.message.is_persistent(),
            expiration_ms: None,
            priority: dead.message.priority(),
            time_ms: now_ms,
        };
        let mut groups: Vec<u32> = queues.iter().map(|q| q.group).collect();
        groups.sort_unstable();
        groups.dedup();
        let mut entries = Vec::with_capacity(groups.len());
        for id in groups {
            let ids: Vec<u64> = queues
                .iter()
                .filter(|q| q.group == id)
                .map(|q| q.id.0)
                .collect();
            let journal = message.persistent && queues.iter().any(|q| q.group == id && q.durable);
            let mut entry = EntryBuilder::with_capacity(256 + body.len() + properties.len());
            entry.enqueue(&ids, &message, journal);
            entries.push((id, entry));
        }
        entries
    }

    fn publish_dead(&self, source: &QueueInfo, dead: &DeadLetter, now_ms: u64) -> After {
        let mut after = After::default();
        for (id, entry) in self.dead_entries(source, dead, now_ms) {
            let Some(group) = self.group(id) else {
                continue;
            };
            match group.submit(Some(entry), &[], false, now_ms) {
                Ok((_, more)) => after.merge(more),
                Err(error) => tracing::debug!(%error, "dead letter was not written"),
            }
        }
        after
    }

    /// Publishes a dead letter of a mirrored queue; its source settles it once all its targets have it committed.
    pub fn dead_letter_mirrored(self: &Arc<Self>, group: u32, dead: DeadLetter) {
        let now_ms = self.now_ms();
        let source = self.topology().queue_by_id(QueueId(dead.queue)).cloned();
        let Some(source) = source else { return };
        let way = Arc::new(DeadLetterWay {
            node: Arc::downgrade(self),
            group,
            queue: dead.queue,
            seq: dead.seq,
            reason: dead.reason,
            targets: Mutex::new(None),
        });
        let mut targets = Vec::new();
        for (id, entry) in self.dead_entries(&source, &dead, now_ms) {
            if let Some(session) = self.session(id) {
                let who: Arc<dyn Notify> = way.clone();
                targets.push((id, session.submit(Some(entry), &[], Some(who), None)));
            }
        }
        if dead.held {
            *way.targets.lock() = Some(targets);
            way.notify();
        }
    }
}

/// A dead letter that its targets have not all committed.
struct DeadLetterWay {
    node: Weak<Node>,
    group: u32,
    queue: u64,
    seq: u64,
    reason: DeadReason,
    /// Groups and the session's numbers there; nothing once it is done.
    targets: Mutex<Option<Vec<(u32, u64)>>>,
}

impl Notify for DeadLetterWay {
    fn notify(&self) {
        let Some(node) = self.node.upgrade() else {
            return;
        };
        let mut targets = self.targets.lock();
        let safe =
            |(id, number): &(u32, u64)| node.session(*id).is_none_or(|s| s.committed() >= *number);
        if !targets.as_ref().is_some_and(|t| t.iter().all(safe)) {
            return;
        }
        *targets = None;
        drop(targets);
        if let Some(session) = node.session(self.group) {
            session.dead_lettered(self.queue, self.seq, self.reason);
        }
    }
}

/// The message's routing key and those of its header CC.
fn original_keys(routing_key: &[u8], headers: &FieldTable) -> Vec<Vec<u8>> {
    let mut keys = vec![routing_key.to_vec()];
    let cc = headers
        .get("CC")
        .and_then(FieldValue::as_array)
        .unwrap_or_default();
    keys.extend(
        cc.iter()
            .filter_map(FieldValue::as_longstr)
            .map(<[u8]>::to_vec),
    );
    keys
}

fn text<'a>(table: &'a FieldTable, name: &str) -> Option<&'a [u8]> {
    table.get(name)?.as_longstr()
}

fn deaths(headers: &FieldTable) -> &[FieldValue] {
    headers
        .get("x-death")
        .and_then(FieldValue::as_array)
        .unwrap_or_default()
}

/// RabbitMQ's rule against endless circling: a message does not go where it has died already, unless a client rejected it
/// since then.
fn is_cycle(headers: &FieldTable, queue: &[u8]) -> bool {
    for death in deaths(headers) {
        let FieldValue::Table(death) = death else {
            continue;
        };
        if text(death, "reason") == Some(b"rejected") {
            return false;
        }
        if text(death, "queue") == Some(queue) {
            return true;
        }
    }
    false
}

/// Adds a death to `x-death`: one entry for each queue and reason, the latest first, counted.
fn add_death(headers: &mut FieldTable, source: &QueueInfo, dead: &DeadLetter, now_ms: u64) {
    let (exchange, routing_key, raw, _) = dead.message.content();
    let queue = source.name.as_bytes();
    let reason = dead.reason.as_str().as_bytes();
    let mut entries: Vec<FieldValue> = deaths(headers).to_vec();
    let known = entries.iter().position(|entry| {
        matches!(entry, FieldValue::Table(t)
            if text(t, "queue") == Some(queue) && text(t, "reason") == Some(reason))
    });
    let entry = match known.map(|at| entries.remove(at)) {
        Some(FieldValue::Table(mut entry)) => {
            let count = entry
                .get("count")
                .and_then(FieldValue::as_integer)
                .unwrap_or(0);
            entry.insert("count", FieldValue::Long(count + 1));
            entry
        }
        _ => {
            let keys = original_keys(routing_key, headers);
            let keys = keys.into_iter().map(FieldValue::LongStr).collect();
            let mut entry = FieldTable::new();
            entry.insert("count", FieldValue::Long(1));
            entry.insert("reason", FieldValue::LongStr(reason.to_vec()));
            entry.insert("queue", FieldValue::LongStr(queue.to_vec()));
            entry.insert("time", FieldValue::Timestamp(now_ms / 1000));
            entry.insert("exchange", FieldValue::LongStr(exchange.to_vec()));
            entry.insert("routing-keys", FieldValue::Array(keys));
            if let Some(expiration) = PropertiesRef::new(raw).expiration() {
                entry.insert(
                    "original-expiration",
                    FieldValue::LongStr(expiration.to_vec()),
                );
            }
            entry
        }
    };
    entries.insert(0, FieldValue::Table(entry));
    // Something else under the name is replaced, and then the first death is not known.
    let first = headers
        .get("x-death")
        .is_none_or(|value| value.as_array().is_some());
    headers.insert("x-death", FieldValue::Array(entries));
    if first && !headers.contains("x-first-death-reason") {
        headers.insert("x-first-death-reason", FieldValue::LongStr(reason.to_vec()));
        headers.insert("x-first-death-queue", FieldValue::LongStr(queue.to_vec()));
        headers.insert(
            "x-first-death-exchange",
            FieldValue::LongStr(exchange.to_vec()),
        );
    }
}
