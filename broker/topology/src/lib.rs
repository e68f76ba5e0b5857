//! The metadata machine: everything that RabbitMQ keeps in its metadata store,
//! and the routing tables that follow from it.
//!
//! [`Topology`] is the state; a [`Command`] changes it, by [`Topology::apply`],
//! and the [`Outcome`] says what the caller has to do about it. The server
//! applies every command on every node in the same order; the connection code
//! reads: it checks an operation with the `check_` methods before it proposes
//! the command, which repeats what can have changed meanwhile, and asks
//! [`Topology::route`] where a message goes.
//!
//! Invariants: nodes that applied the same commands have equal states and equal
//! [snapshots](Topology::snapshot). Nothing here does I/O, looks at a clock or
//! draws a random number: time, salts and placement come inside commands. A
//! refusal changes nothing. Every text that AMQP clients see is RabbitMQ's.
//!
//! Deliberately absent: messages and consumers (the queue machine's), counts of
//! open connections (given to the checks of limits), direct reply-to.

#![forbid(unsafe_code)]

mod access;
mod command;
mod defaults;
mod definitions;
mod durability;
mod limits;
mod lookup;
mod model;
mod ops;
mod outcome;
mod pattern;
mod policy;
mod refusal;
mod registry;
mod routing;
mod snapshot;
mod state;
mod term;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use access::{
    Actor, HashingAlgorithm, PasswordHash, Permission, SALT_SIZE, TopicPermissions, User,
    UserLimits, UserPermissions,
};
pub use command::*;
pub use defaults::DefaultContent;
pub use definitions::{
    DefinitionsError, ImportOptions, ImportStep, arguments_from_json, arguments_to_json,
    plan_import,
};
pub use limits::VhostLimits;
pub use model::{
    Arguments, Binding, BindingId, DeadLetterStrategy, Destination, EffectiveQueueSettings,
    ExchangeInfo, ExchangeType, ForgottenNode, Formed, HaMode, Key, Name, NodeInfo, NodeState,
    Overflow, OwnerId, QueueId, QueueInfo, QueueType, Resource, ResourceKind, strip_cr_lf,
};
pub use ops::arguments::check_consume_arguments;
pub use ops::exchanges::check_not_default;
pub use ops::queues::{check_exclusive_access, in_use, not_empty};
pub use outcome::{BindingChange, Outcome, QueueChange};
pub use pattern::{Pattern, PatternError};
pub use policy::{ApplyTo, Policy};
pub use refusal::Refusal;
pub use routing::{MessageAttributes, NoAttributes, Publication};
pub use snapshot::SnapshotError;
pub use state::{Topology, VHost};
