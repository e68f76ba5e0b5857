//! Exchanges.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Arguments, Name, Resource};

/// The types of exchanges. The ones after `Headers` are RabbitMQ extensions
/// that come with it as plugins; here they are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExchangeType {
    /// The binding key equals the routing key (AMQP 0-9-1 section 3.1.3.1).
    #[serde(rename = "direct")]
    Direct,
    /// Every binding (section 3.1.3.2).
    #[serde(rename = "fanout")]
    Fanout,
    /// Words and wildcards (section 3.1.3.3).
    #[serde(rename = "topic")]
    Topic,
    /// Header fields (section 3.1.3.4).
    #[serde(rename = "headers")]
    Headers,
    /// One binding, by a hash; the binding key is its weight.
    #[serde(rename = "x-consistent-hash")]
    ConsistentHash,
    /// One binding, by a hash modulo the number of bindings.
    #[serde(rename = "x-modulus-hash")]
    ModulusHash,
    /// One binding at random.
    #[serde(rename = "x-random")]
    Random,
    /// One binding at random, as `x-random`: a mirrored queue has no one node
    /// that it would be local to.
    #[serde(rename = "x-local-random")]
    LocalRandom,
}

impl ExchangeType {
    /// Every type.
    pub const ALL: [ExchangeType; 8] = [
        ExchangeType::Direct,
        ExchangeType::Fanout,
        ExchangeType::Topic,
        ExchangeType::Headers,
        ExchangeType::ConsistentHash,
        ExchangeType::ModulusHash,
        ExchangeType::Random,
        ExchangeType::LocalRandom,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ExchangeType::Direct => "direct",
            ExchangeType::Fanout => "fanout",
            ExchangeType::Topic => "topic",
            ExchangeType::Headers => "headers",
            ExchangeType::ConsistentHash => "x-consistent-hash",
            ExchangeType::ModulusHash => "x-modulus-hash",
            ExchangeType::Random => "x-random",
            ExchangeType::LocalRandom => "x-local-random",
        }
    }

    /// The type of this name, if there is one.
    pub fn from_name(name: &str) -> Option<ExchangeType> {
        ExchangeType::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ExchangeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An exchange, as it is until something of it changes; then another takes its
/// place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeInfo {
    /// Its vhost.
    pub vhost: Name,
    /// Its name; that of the default exchange is empty.
    pub name: Name,
    /// How it routes.
    pub kind: ExchangeType,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes with its last binding. It stays while it never had one.
    pub auto_delete: bool,
    /// Whether only other exchanges may publish to it.
    pub internal: bool,
    /// As declared.
    pub arguments: Arguments,
    /// The user who declared it.
    pub declared_by: Option<Name>,
    /// The policy that applies to it.
    pub policy: Option<Name>,
    /// The operator policy that applies to it.
    pub operator_policy: Option<Name>,
    /// Where messages go that no binding takes: the argument
    /// `alternate-exchange`, else the policy's.
    pub alternate_exchange: Option<Name>,
}

impl ExchangeInfo {
    /// How texts name it.
    pub fn resource(&self) -> Resource<'_> {
        Resource::exchange(&self.vhost, &self.name)
    }

    /// Whether it is the default exchange.
    pub fn is_default(&self) -> bool {
        self.name.is_empty()
    }
}
