//! Bindings: what an exchange hands on to whom.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::{Arguments, Key, Name, Resource};

/// What a binding leads to, by name within the vhost.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Destination {
    /// A queue.
    Queue(Name),
    /// An exchange (RabbitMQ extension: exchange to exchange bindings).
    Exchange(Name),
}

impl Destination {
    /// The name of the queue or exchange.
    pub fn name(&self) -> &Name {
        match self {
            Destination::Queue(name) | Destination::Exchange(name) => name,
        }
    }

    /// How texts name it.
    pub fn resource<'a>(&'a self, vhost: &'a str) -> Resource<'a> {
        match self {
            Destination::Queue(name) => Resource::queue(vhost, name),
            Destination::Exchange(name) => Resource::exchange(vhost, name),
        }
    }
}

/// What makes a binding itself within a vhost: two bindings of the same pair
/// with another key or other arguments are two bindings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingId {
    /// Name of the exchange.
    pub source: Name,
    /// Where its messages go.
    pub destination: Destination,
    /// The routing key of the binding.
    #[serde(default)]
    pub routing_key: Key,
    /// Arguments, in the order of their names.
    #[serde(default)]
    pub arguments: Arguments,
}

impl Hash for BindingId {
    /// Leaves the values of the arguments out: equal bindings have equal hashes.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
        self.destination.hash(state);
        self.routing_key.hash(state);
        self.arguments.len().hash(state);
        for (name, _) in self.arguments.iter() {
            name.hash(state);
        }
    }
}

/// A binding that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// What it binds, and how.
    #[serde(flatten)]
    pub id: BindingId,
    /// Index of the command that created it: the order of creation.
    pub created: u64,
}
