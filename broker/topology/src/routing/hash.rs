//! Exchanges that choose one binding of many (RabbitMQ extensions):
//! `x-consistent-hash`, `x-modulus-hash` and `x-random`.
//!
//! The hash is this module's own, not Erlang's: which queue a key goes to
//! differs from RabbitMQ, that equal keys go to one queue does not.

use leveret_protocol::{FieldTable, FieldValue};

use super::{MessageAttributes, Publication, Target};
use crate::model::{Binding, BindingId, Destination, Key};

/// Largest weight of a binding: what one may add to the table.
pub(crate) const WEIGHT_MAX: u32 = 1 << 16;

/// FNV-1a in 64 bits, finished so that near keys come out far apart. It is part
/// of what nodes agree on: it never changes.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for octet in *part {
            state = (state ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        state = (state ^ 0x1ff).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state = (state ^ (state >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    state ^ (state >> 32)
}

/// The order in which bindings got into a table: of creation, so that it is
/// the same however the table came to be.
type Rank = (u64, Destination, Key);

fn rank(binding: &Binding) -> Rank {
    let BindingId {
        destination,
        routing_key,
        ..
    } = &binding.id;
    (binding.created, destination.clone(), routing_key.clone())
}

/// One binding by a number: `x-modulus-hash`, `x-random`.
#[derive(Debug, Default)]
pub(crate) struct Choice(Vec<(Rank, Target)>);

impl Choice {
    pub fn add(&mut self, binding: &Binding, target: Target) {
        let rank = rank(binding);
        let at = self.0.partition_point(|entry| entry.0 <= rank);
        self.0.insert(at, (rank, target));
    }

    pub fn remove(&mut self, binding: &Binding, target: Target) {
        let rank = rank(binding);
        if let Some(at) = self
            .0
            .iter()
            .position(|entry| entry.0 == rank && entry.1 == target)
        {
            self.0.remove(at);
        }
    }

    pub fn route_by(&self, number: u64, found: &mut impl FnMut(Target)) {
        if let Some(at) = number.checked_rem(self.0.len() as u64) {
            found(self.0[at as usize].1);
        }
    }

    pub fn route_by_keys(&self, keys: &[&[u8]], found: &mut impl FnMut(Target)) {
        self.route_by(hash(keys), found);
    }
}

/// What a consistent hash goes by.
#[derive(Debug)]
enum HashOn {
    RoutingKey,
    Header(Vec<u8>),
    CorrelationId,
    MessageId,
    Timestamp,
}

/// Bindings with as many buckets as their weights; jump consistent hashing
/// (Lamping and Veach, 2014) picks the bucket.
#[derive(Debug)]
pub(crate) struct ConsistentHash {
    hash_on: HashOn,
    bindings: Vec<(Rank, Target, u32)>,
    /// Of each destination that has a binding, by rank: where its buckets end.
    ends: Vec<(u64, Target)>,
}

impl ConsistentHash {
    /// The empty table of an exchange with these arguments, which are valid.
    pub fn new(arguments: &FieldTable) -> ConsistentHash {
        let longstr = |name: &str| arguments.get(name).and_then(FieldValue::as_longstr);
        let hash_on = match (longstr("hash-header"), longstr("hash-property")) {
            (Some(name), _) => HashOn::Header(name.to_vec()),
            (None, Some(b"correlation_id")) => HashOn::CorrelationId,
            (None, Some(b"message_id")) => HashOn::MessageId,
            (None, Some(b"timestamp")) => HashOn::Timestamp,
            (None, _) => HashOn::RoutingKey,
        };
        ConsistentHash {
            hash_on,
            bindings: Vec::new(),
            ends: Vec::new(),
        }
    }

    pub fn add(&mut self, binding: &Binding, target: Target) {
        let rank = rank(binding);
        let weight = weight(binding.id.routing_key.as_bytes()).unwrap_or(1);
        let at = self.bindings.partition_point(|entry| entry.0 <= rank);
        self.bindings.insert(at, (rank, target, weight));
        self.rebuild();
    }

    pub fn remove(&mut self, binding: &Binding, target: Target) {
        let rank = rank(binding);
        let found = self
            .bindings
            .iter()
            .position(|entry| entry.0 == rank && entry.1 == target);
        if let Some(at) = found {
            self.bindings.remove(at);
            self.rebuild();
        }
    }

    /// A destination has the weight of its oldest binding, as in RabbitMQ.
    fn rebuild(&mut self) {
        self.ends.clear();
        let mut end = 0;
        let mut seen = rustc_hash::FxHashSet::default();
        for (rank, target, weight) in &self.bindings {
            if seen.insert(&rank.1) {
                end += u64::from(*weight);
                self.ends.push((end, *target));
            }
        }
    }

    pub fn route(&self, message: &Publication<'_>, found: &mut impl FnMut(Target)) {
        let Some((buckets, _)) = self.ends.last() else {
            return;
        };
        let bucket = jump(self.hash_of(message), *buckets);
        let at = self.ends.partition_point(|(end, _)| *end <= bucket);
        if let Some((_, target)) = self.ends.get(at) {
            found(*target);
        }
    }

    /// A message without the field hashes as if it were empty: all of them go
    /// to one queue.
    fn hash_of(&self, message: &Publication<'_>) -> u64 {
        let attributes: &dyn MessageAttributes = message.attributes;
        match &self.hash_on {
            HashOn::RoutingKey => hash(&message.routing_keys[..message.routing_keys.len().min(1)]),
            HashOn::Header(name) => match attributes.headers().and_then(|all| all.get(name)) {
                Some(value) => hash(&[value.to_term().as_bytes()]),
                None => hash(&[]),
            },
            HashOn::CorrelationId => hash(&[attributes.correlation_id().unwrap_or_default()]),
            HashOn::MessageId => hash(&[attributes.message_id().unwrap_or_default()]),
            HashOn::Timestamp => {
                let text = attributes.timestamp().map(|time| time.to_string());
                hash(&[text.unwrap_or_default().as_bytes()])
            }
        }
    }
}

/// The weight that a binding key is; None when it is no number from 1 on.
/// Beyond [`WEIGHT_MAX`] it counts as that.
pub(crate) fn weight(key: &[u8]) -> Option<u32> {
    let number: i128 = std::str::from_utf8(key).ok()?.parse().ok()?;
    (number >= 1).then(|| u32::try_from(number).unwrap_or(WEIGHT_MAX).min(WEIGHT_MAX))
}

fn jump(mut key: u64, buckets: u64) -> u64 {
    let (mut bucket, mut next) = (0, 0.0f64);
    while next < buckets as f64 {
        bucket = next as u64;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let step = (1u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * step).floor();
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Arguments, Name};
    use crate::routing::NoAttributes;

    fn binding(created: u64, queue: &str, weight: &str) -> Binding {
        let id = BindingId {
            source: Name::from("x"),
            destination: Destination::Queue(Name::from(queue)),
            routing_key: Key::from(weight),
            arguments: Arguments::new(),
        };
        Binding { id, created }
    }

    fn route(table: &ConsistentHash, key: &str) -> Option<Target> {
        let mut found = None;
        let keys = [key.as_bytes()];
        let message = Publication {
            routing_keys: &keys,
            attributes: &NoAttributes,
        };
        table.route(&message, &mut |target| found = Some(target));
        found
    }

    #[test]
    fn keys_spread_by_weight_and_move_little() {
        let mut table = ConsistentHash::new(&FieldTable::new());
        assert_eq!(route(&table, "k"), None);
        table.add(&binding(1, "a", "1"), Target::Queue(0));
        table.add(&binding(2, "b", "3"), Target::Queue(1));
        let keys: Vec<String> = (0..4000).map(|n| format!("key.{n}")).collect();
        let before: Vec<_> = keys.iter().map(|key| route(&table, key)).collect();
        let heavy = before
            .iter()
            .filter(|target| **target == Some(Target::Queue(1)))
            .count();
        assert!((2800..3200).contains(&heavy), "{heavy}");

        table.add(&binding(3, "c", "1"), Target::Queue(2));
        for (key, before) in keys.iter().zip(&before) {
            let after = route(&table, key);
            assert!(after == *before || after == Some(Target::Queue(2)), "{key}");
        }
        table.remove(&binding(3, "c", "1"), Target::Queue(2));
        let again: Vec<_> = keys.iter().map(|key| route(&table, key)).collect();
        assert_eq!(again, before);
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let bindings = [
            binding(1, "a", "2"),
            binding(2, "b", "5"),
            binding(3, "a", "9"),
            binding(4, "c", "1"),
        ];
        let targets = [
            Target::Queue(0),
            Target::Queue(1),
            Target::Queue(0),
            Target::Queue(2),
        ];
        let mut forth = ConsistentHash::new(&FieldTable::new());
        let mut back = ConsistentHash::new(&FieldTable::new());
        for n in 0..4 {
            forth.add(&bindings[n], targets[n]);
            back.add(&bindings[3 - n], targets[3 - n]);
        }
        assert_eq!(forth.ends, back.ends);
        assert_eq!(forth.ends.last().map(|entry| entry.0), Some(8));
    }

    #[test]
    fn weights_are_positive_numbers() {
        assert_eq!(weight(b"10"), Some(10));
        assert_eq!(weight(b"99999999999"), Some(WEIGHT_MAX));
        for bad in [&b"0"[..], b"-1", b"", b"a", b"1.5", b"\xff"] {
            assert_eq!(weight(bad), None);
        }
    }

    #[test]
    fn a_choice_takes_each_binding_in_turn() {
        let mut choice = Choice::default();
        choice.route_by(7, &mut |_| panic!("nothing is bound"));
        choice.add(&binding(2, "b", ""), Target::Queue(1));
        choice.add(&binding(1, "a", ""), Target::Queue(0));
        let mut found = Vec::new();
        (0..3).for_each(|n| choice.route_by(n, &mut |target| found.push(target)));
        assert_eq!(
            found,
            [Target::Queue(0), Target::Queue(1), Target::Queue(0)]
        );
        choice.remove(&binding(1, "a", ""), Target::Queue(0));
        found.clear();
        choice.route_by_keys(&[b"k"], &mut |target| found.push(target));
        assert_eq!(found, [Target::Queue(1)]);
    }
}
