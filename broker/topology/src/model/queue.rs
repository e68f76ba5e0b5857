//! Queues, as the metadata knows them. Their messages are the queue machine's.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Arguments, EffectiveQueueSettings, Name, OwnerId, QueueId, Resource};

/// What a queue was declared as. Classic and quorum are the same kind of queue
/// here; the word is kept for whoever asks, and for policies that name a type.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// `x-queue-type: classic`, or none.
    #[default]
    Classic,
    /// `x-queue-type: quorum`.
    Quorum,
    /// `x-queue-type: stream`.
    Stream,
}

impl QueueType {
    /// The value of `x-queue-type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
            QueueType::Stream => "stream",
        }
    }

    /// The type of this name, if there is one.
    pub fn from_name(name: &str) -> Option<QueueType> {
        [QueueType::Classic, QueueType::Quorum, QueueType::Stream]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }

    /// RabbitMQ's module of the type, which some reply texts name.
    pub const fn module(self) -> &'static str {
        match self {
            QueueType::Classic => "rabbit_classic_queue",
            QueueType::Quorum => "rabbit_quorum_queue",
            QueueType::Stream => "rabbit_stream_queue",
        }
    }
}

impl fmt::Display for QueueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A queue, as it is until something of it changes; then another with the same
/// id takes its place. Routing yields it behind an `Arc`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueInfo {
    /// Its identity.
    pub id: QueueId,
    /// Its vhost.
    pub vhost: Name,
    /// Its name.
    pub name: Name,
    /// What it was declared as.
    pub kind: QueueType,
    /// Whether it survives a restart. An exclusive queue never does.
    pub durable: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// The connection it belongs to and goes with, when it is exclusive.
    pub exclusive_owner: Option<OwnerId>,
    /// Whether every node keeps its contents.
    pub mirrored: bool,
    /// The group that holds its messages.
    pub group: u32,
    /// As declared.
    pub arguments: Arguments,
    /// The user who declared it.
    pub declared_by: Option<Name>,
    /// The policy that applies to it.
    pub policy: Option<Name>,
    /// The operator policy that applies to it.
    pub operator_policy: Option<Name>,
    /// What its arguments and policies come to. Queues that are alike share it.
    pub settings: Arc<EffectiveQueueSettings>,
}

impl QueueInfo {
    /// How texts name it.
    pub fn resource(&self) -> Resource<'_> {
        Resource::queue(&self.vhost, &self.name)
    }

    /// Whether it belongs to one connection.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive_owner.is_some()
    }
}
