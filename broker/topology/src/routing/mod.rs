//! The routing tables: for every exchange, which of its bindings take a
//! message. One module per type of exchange; this one walks from exchange to
//! exchange.
//!
//! The tables are derived from the bindings, and hold slots of queues and
//! exchanges in place of their names.

mod direct;
mod fanout;
mod hash;
mod headers;
mod targets;
mod topic;
mod walk;

use leveret_protocol::FieldTable;

use crate::model::{Binding, ExchangeType};
use crate::registry::Slot;

pub(crate) use hash::weight as binding_weight;
pub(crate) use walk::{Exchanges, Queues, walk};

/// What a binding leads to, by slot in the vhost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Queue(Slot),
    Exchange(Slot),
}

/// What some exchanges want to know of a message besides its routing key. The
/// caller decodes nothing before it is asked.
pub trait MessageAttributes {
    /// The headers, when the message has any.
    fn headers(&self) -> Option<&FieldTable> {
        None
    }

    /// The property `correlation-id`.
    fn correlation_id(&self) -> Option<&[u8]> {
        None
    }

    /// The property `message-id`.
    fn message_id(&self) -> Option<&[u8]> {
        None
    }

    /// The property `timestamp`.
    fn timestamp(&self) -> Option<u64> {
        None
    }

    /// A random number, another one for each message: what `x-random` goes by.
    fn random(&self) -> u64 {
        0
    }
}

/// A message without properties.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAttributes;

impl MessageAttributes for NoAttributes {}

/// A message on its way.
#[derive(Clone, Copy)]
pub struct Publication<'a> {
    /// The routing key of basic.publish, then those of the headers CC and BCC.
    pub routing_keys: &'a [&'a [u8]],
    /// The rest.
    pub attributes: &'a dyn MessageAttributes,
}

/// The table of one exchange.
#[derive(Debug)]
pub(crate) enum Matcher {
    Direct(direct::Direct),
    Fanout(fanout::Fanout),
    Topic(topic::Topic),
    Headers(headers::Headers),
    ConsistentHash(hash::ConsistentHash),
    ModulusHash(hash::Choice),
    Random(hash::Choice),
}

impl Matcher {
    /// The empty table of an exchange of this type.
    pub fn new(kind: ExchangeType, arguments: &FieldTable) -> Matcher {
        match kind {
            ExchangeType::Direct => Matcher::Direct(Default::default()),
            ExchangeType::Fanout => Matcher::Fanout(Default::default()),
            ExchangeType::Topic => Matcher::Topic(Default::default()),
            ExchangeType::Headers => Matcher::Headers(Default::default()),
            ExchangeType::ConsistentHash => {
                Matcher::ConsistentHash(hash::ConsistentHash::new(arguments))
            }
            ExchangeType::ModulusHash => Matcher::ModulusHash(Default::default()),
            ExchangeType::Random | ExchangeType::LocalRandom => Matcher::Random(Default::default()),
        }
    }

    /// Takes a binding in. It is not in yet.
    /// Whether nothing but routing keys decides where a message goes.
    pub fn goes_by_key(&self) -> bool {
        matches!(
            self,
            Matcher::Direct(_) | Matcher::Fanout(_) | Matcher::Topic(_)
        )
    }

    pub fn add(&mut self, binding: &Binding, target: Target) {
        let key = binding.id.routing_key.as_bytes();
        match self {
            Matcher::Direct(table) => table.add(key, target),
            Matcher::Fanout(table) => table.add(target),
            Matcher::Topic(table) => table.add(key, target),
            Matcher::Headers(table) => table.add(&binding.id.arguments, target),
            Matcher::ConsistentHash(table) => table.add(binding, target),
            Matcher::ModulusHash(table) | Matcher::Random(table) => table.add(binding, target),
        }
    }

    /// Takes a binding out that was taken in with the same target.
    pub fn remove(&mut self, binding: &Binding, target: Target) {
        let key = binding.id.routing_key.as_bytes();
        match self {
            Matcher::Direct(table) => table.remove(key, target),
            Matcher::Fanout(table) => table.remove(target),
            Matcher::Topic(table) => table.remove(key, target),
            Matcher::Headers(table) => table.remove(&binding.id.arguments, target),
            Matcher::ConsistentHash(table) => table.remove(binding, target),
            Matcher::ModulusHash(table) | Matcher::Random(table) => table.remove(binding, target),
        }
    }

    /// Gives the targets of a message to `found`, some perhaps several times.
    pub fn route(&self, message: &Publication<'_>, mut found: impl FnMut(Target)) {
        match self {
            Matcher::Direct(table) => {
                message
                    .routing_keys
                    .iter()
                    .for_each(|key| table.route(key, &mut found));
            }
            Matcher::Fanout(table) => table.route(&mut found),
            Matcher::Topic(table) => {
                message
                    .routing_keys
                    .iter()
                    .for_each(|key| table.route(key, &mut found));
            }
            Matcher::Headers(table) => table.route(message.attributes.headers(), &mut found),
            Matcher::ConsistentHash(table) => table.route(message, &mut found),
            Matcher::ModulusHash(table) => table.route_by_keys(message.routing_keys, &mut found),
            Matcher::Random(table) => table.route_by(message.attributes.random(), &mut found),
        }
    }
}
