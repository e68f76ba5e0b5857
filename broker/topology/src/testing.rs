//! Short ways to say what tests say often.

use leveret_protocol::FieldValue;

use crate::command::{ChangeBinding, Command, DeclareExchange, DeclareQueue, SetPolicy};
use crate::defaults::DefaultContent;
use crate::model::{Arguments, Destination, Key, Name, OwnerId};
use crate::outcome::Outcome;
use crate::policy::ApplyTo;
use crate::refusal::Refusal;
use crate::routing::{MessageAttributes, NoAttributes, Publication};
use crate::state::Topology;

/// A state with the default content, and the index of the next command.
pub(crate) struct State {
    pub topology: Topology,
    pub index: u64,
}

impl State {
    pub fn new() -> State {
        let mut state = State {
            topology: Topology::new(),
            index: 0,
        };
        for command in DefaultContent::default().commands([1, 2, 3, 4]) {
            state.apply(command);
        }
        state
    }

    /// Applies a command that has to succeed.
    pub fn apply(&mut self, command: impl Into<Command>) -> Outcome {
        self.try_apply(command).unwrap()
    }

    pub fn try_apply(&mut self, command: impl Into<Command>) -> Result<Outcome, Refusal> {
        self.index += 1;
        let outcome = self.topology.apply(self.index, &command.into());
        self.topology.check_invariants();
        outcome
    }

    /// The reply text of a command that has to be refused.
    pub fn refused(&mut self, command: impl Into<Command>) -> String {
        let before = self.topology.snapshot();
        let refusal = self.try_apply(command).unwrap_err();
        assert_eq!(
            self.topology.snapshot(),
            before,
            "a refusal changed something: {refusal}"
        );
        refusal.to_string()
    }

    /// The names of the queues of a message.
    pub fn route(&self, exchange: &str, keys: &[&str]) -> Vec<String> {
        self.route_with(exchange, keys, &NoAttributes)
    }

    pub fn route_with(
        &self,
        exchange: &str,
        keys: &[&str],
        attributes: &dyn MessageAttributes,
    ) -> Vec<String> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        let message = Publication {
            routing_keys: &keys,
            attributes,
        };
        let mut out = Vec::new();
        self.topology
            .route("/", exchange, &message, &mut out)
            .unwrap();
        out.iter().map(|queue| queue.name.to_string()).collect()
    }
}

pub(crate) fn queue(name: &str) -> DeclareQueue {
    DeclareQueue::new("/", name)
}

pub(crate) fn exchange(name: &str, kind: &str) -> DeclareExchange {
    DeclareExchange::new("/", name, kind)
}

pub(crate) fn bind(source: &str, queue: &str, key: &str) -> ChangeBinding {
    ChangeBinding {
        vhost: Name::from("/"),
        source: Name::from(source),
        destination: Destination::Queue(Name::from(queue)),
        routing_key: Key::from(key),
        arguments: Arguments::new(),
        connection: None,
    }
}

pub(crate) fn bind_exchange(source: &str, destination: &str, key: &str) -> ChangeBinding {
    let destination = Destination::Exchange(Name::from(destination));
    ChangeBinding {
        destination,
        ..bind(source, "", key)
    }
}

pub(crate) fn policy(name: &str, pattern: &str, definition: serde_json::Value) -> SetPolicy {
    SetPolicy {
        vhost: Name::from("/"),
        name: Name::from(name),
        operator: false,
        pattern: pattern.to_owned(),
        definition: definition.as_object().unwrap().clone(),
        priority: 0,
        apply_to: ApplyTo::All,
    }
}

impl DeclareQueue {
    pub(crate) fn durable(self) -> Self {
        DeclareQueue {
            durable: true,
            ..self
        }
    }

    pub(crate) fn exclusive(self, owner: u128) -> Self {
        DeclareQueue {
            exclusive_owner: Some(OwnerId(owner)),
            ..self
        }
    }

    pub(crate) fn arg(mut self, name: &str, value: impl Into<FieldValue>) -> Self {
        self.arguments.insert(name, value);
        self
    }
}

impl DeclareExchange {
    pub(crate) fn durable(self) -> Self {
        DeclareExchange {
            durable: true,
            ..self
        }
    }

    pub(crate) fn auto_delete(self) -> Self {
        DeclareExchange {
            auto_delete: true,
            ..self
        }
    }

    pub(crate) fn arg(mut self, name: &str, value: impl Into<FieldValue>) -> Self {
        self.arguments.insert(name, value);
        self
    }
}

impl From<DeclareQueue> for Command {
    fn from(declare: DeclareQueue) -> Self {
        Command::DeclareQueue(declare)
    }
}

impl From<DeclareExchange> for Command {
    fn from(declare: DeclareExchange) -> Self {
        Command::DeclareExchange(declare)
    }
}

impl From<ChangeBinding> for Command {
    fn from(change: ChangeBinding) -> Self {
        Command::Bind(change)
    }
}

impl From<SetPolicy> for Command {
    fn from(set: SetPolicy) -> Self {
        Command::SetPolicy(set)
    }
}
