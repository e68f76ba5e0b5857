//! Policies: settings that an operator puts on queues and exchanges by the
//! pattern of their names.
//!
//! `keys` knows which settings there are and what their values may be, `merge`
//! how policy, operator policy and arguments come together. Applying a change
//! of the policies to what exists is `ops::policies`.

mod keys;
mod merge;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::{Name, QueueType};
use crate::pattern::Pattern;

pub(crate) use keys::{STREAM_UNSUPPORTED, parse_max_age, validate_definition};
pub(crate) use merge::{Effective, merged_definition};

/// What a policy applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyTo {
    /// Queues and exchanges.
    #[default]
    All,
    /// Exchanges.
    Exchanges,
    /// Queues of every type.
    Queues,
    /// Queues declared as classic (RabbitMQ 3.12).
    ClassicQueues,
    /// Queues declared as quorum (RabbitMQ 3.12).
    QuorumQueues,
    /// Queues declared as stream (RabbitMQ 3.12).
    Streams,
}

impl ApplyTo {
    /// The value of `apply-to`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ApplyTo::All => "all",
            ApplyTo::Exchanges => "exchanges",
            ApplyTo::Queues => "queues",
            ApplyTo::ClassicQueues => "classic_queues",
            ApplyTo::QuorumQueues => "quorum_queues",
            ApplyTo::Streams => "streams",
        }
    }

    /// The value of this name, if there is one.
    pub fn from_name(name: &str) -> Option<ApplyTo> {
        use ApplyTo::*;
        [All, Exchanges, Queues, ClassicQueues, QuorumQueues, Streams]
            .into_iter()
            .find(|value| value.as_str() == name)
    }

    fn covers_queues(self, kind: QueueType) -> bool {
        match self {
            ApplyTo::All | ApplyTo::Queues => true,
            ApplyTo::Exchanges => false,
            ApplyTo::ClassicQueues => kind == QueueType::Classic,
            ApplyTo::QuorumQueues => kind == QueueType::Quorum,
            ApplyTo::Streams => kind == QueueType::Stream,
        }
    }
}

/// A policy or operator policy. Its vhost is the one that holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// The name.
    pub name: Name,
    /// The names it applies to.
    pub pattern: Pattern,
    /// The settings.
    pub definition: Map<String, Value>,
    /// Of several that match, the highest applies; of equals, the one whose
    /// name comes first.
    #[serde(default)]
    pub priority: i64,
    /// What it applies to.
    #[serde(default, rename = "apply-to")]
    pub apply_to: ApplyTo,
}

impl Policy {
    /// Whether it applies to a queue of this name and type, unless another of
    /// higher priority does.
    ///
    /// For streams RabbitMQ's rule holds that a policy with a key they cannot
    /// have does not apply at all. Classic and quorum queues have all keys here.
    pub fn matches_queue(&self, name: &str, kind: QueueType) -> bool {
        self.apply_to.covers_queues(kind)
            && (kind != QueueType::Stream
                || !self
                    .definition
                    .keys()
                    .any(|key| STREAM_UNSUPPORTED.contains(&key.as_str())))
            && self.pattern.is_match(name)
    }

    /// Whether it applies to an exchange of this name, unless another of higher
    /// priority does.
    pub fn matches_exchange(&self, name: &str) -> bool {
        matches!(self.apply_to, ApplyTo::All | ApplyTo::Exchanges) && self.pattern.is_match(name)
    }
}

/// Of the policies that match, the one that applies. They come in the order of
/// their names.
pub(crate) fn best<'a>(
    policies: impl Iterator<Item = &'a Policy>,
    matches: impl Fn(&Policy) -> bool,
) -> Option<&'a Policy> {
    let mut best: Option<&Policy> = None;
    for policy in policies {
        if best.is_none_or(|best| policy.priority > best.priority) && matches(policy) {
            best = Some(policy);
        }
    }
    best
}
