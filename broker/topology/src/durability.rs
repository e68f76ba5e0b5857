//! What survives a restart: which commands concern it, and what is dropped
//! when everything has restarted.

use rustc_hash::FxHashSet;

use crate::command::{ChangeBinding, Command};
use crate::model::{Destination, QueueId};
use crate::outcome::Outcome;
use crate::state::{Topology, VHost};

impl Command {
    /// Whether the command changes something that survives a restart, so that
    /// its answer has to wait for the disk. Ask before it is applied.
    ///
    /// A transient queue or exchange, what binds it, and an exclusive queue do
    /// not survive; a binding does when both of its ends do. A deletion counts
    /// also when only an auto-delete exchange that it takes along would survive.
    ///
    /// A command that is not durable belongs in the journal all the same, in
    /// its order: a later one can depend on it.
    pub fn is_durable(&self, state: &Topology) -> bool {
        match self {
            Command::DeclareExchange(declare) => declare.durable,
            Command::DeclareQueue(declare) => declare.durable && declare.exclusive_owner.is_none(),
            Command::Bind(change) => state.vhost(&change.vhost).is_some_and(|vhost| {
                vhost.is_durable_exchange(&change.source)
                    && vhost.is_durable_end(&change.destination)
            }),
            Command::Unbind(change) => state.is_durable_unbind(change),
            Command::DeleteExchange(delete) => state.vhost(&delete.vhost).is_some_and(|vhost| {
                vhost.deletion_is_durable(Destination::Exchange(delete.name.clone()))
            }),
            Command::DeleteQueue(delete) => state.vhost(&delete.vhost).is_some_and(|vhost| {
                vhost.deletion_is_durable(Destination::Queue(delete.name.clone()))
            }),
            Command::PlaceQueue(place) => state.is_durable_queue(place.id),
            Command::CloseConnection(close) => {
                state.queues_of_owner(close.connection).iter().any(|id| {
                    state.queue_by_id(*id).is_some_and(|queue| {
                        let vhost = state.vhost(&queue.vhost);
                        let queue = Destination::Queue(queue.name.clone());
                        vhost.is_some_and(|vhost| vhost.deletion_is_durable(queue))
                    })
                })
            }
            _ => true,
        }
    }
}

impl Topology {
    fn is_durable_queue(&self, id: QueueId) -> bool {
        self.queue_by_id(id).is_some_and(|queue| queue.durable)
    }

    fn is_durable_unbind(&self, change: &ChangeBinding) -> bool {
        let Some(vhost) = self.vhost(&change.vhost) else {
            return false;
        };
        let Some(source) = self.exchange(&change.vhost, &change.source) else {
            return false;
        };
        let binding_is = source.durable && vhost.is_durable_end(&change.destination);
        let exchange_may_go = source.auto_delete
            && vhost.deletion_is_durable(Destination::Exchange(change.source.clone()));
        binding_is || exchange_may_go
    }

    /// Drops what does not survive a restart: exclusive and transient queues,
    /// transient exchanges, and their bindings. For when all nodes that held
    /// the state have restarted. Auto-delete exchanges stay, as in RabbitMQ.
    pub fn drop_transient(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for vhost in self.vhosts.values_mut() {
            vhost.drop_transient(&mut outcome);
        }
        self.note(&mut outcome);
        outcome
    }
}

impl VHost {
    fn is_durable_exchange(&self, name: &str) -> bool {
        self.exchanges
            .get(name)
            .is_some_and(|entry| entry.info.durable)
    }

    fn is_durable_end(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Queue(name) => self.queues.get(name).is_some_and(|queue| queue.durable),
            Destination::Exchange(name) => self.is_durable_exchange(name),
        }
    }

    /// Whether `first` survives a restart, or an exchange that may be deleted
    /// with it.
    fn deletion_is_durable(&self, first: Destination) -> bool {
        let mut seen = FxHashSet::default();
        let mut pending = vec![first];
        while let Some(destination) = pending.pop() {
            if self.is_durable_end(&destination) {
                return true;
            }
            for binding in self.incoming.get(&destination).into_iter().flatten() {
                let source = self.exchanges.get(&binding.id.source);
                if source.is_some_and(|entry| entry.info.auto_delete)
                    && seen.insert(binding.id.source.clone())
                {
                    pending.push(Destination::Exchange(binding.id.source.clone()));
                }
            }
        }
        false
    }

    fn drop_transient(&mut self, outcome: &mut Outcome) {
        let queues = self.queues();
        for queue in queues.iter().filter(|queue| !queue.durable) {
            self.drop_queue(&queue.name, outcome);
        }
        let exchanges = self.exchanges();
        for exchange in exchanges.iter().filter(|exchange| !exchange.durable) {
            self.drop_exchange(&exchange.name, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{CloseConnection, DeleteQueue};
    use crate::model::{Name, OwnerId};
    use crate::testing::{State, bind, exchange, queue};

    #[test]
    fn declarations_are_as_durable_as_what_they_declare() {
        let state = State::new();
        let is_durable = |command: Command| command.is_durable(&state.topology);
        assert!(!is_durable(queue("q").into()));
        assert!(is_durable(queue("q").durable().into()));
        assert!(!is_durable(queue("q").durable().exclusive(1).into()));
        assert!(!is_durable(exchange("x", "direct").into()));
        assert!(is_durable(exchange("x", "direct").durable().into()));
    }

    #[test]
    fn a_binding_is_durable_when_both_ends_are() {
        let mut state = State::new();
        state.apply(exchange("durable", "direct").durable());
        state.apply(exchange("transient", "direct"));
        state.apply(queue("dq").durable());
        state.apply(queue("tq"));
        for (source, destination, expected) in [
            ("durable", "dq", true),
            ("durable", "tq", false),
            ("transient", "dq", false),
            ("transient", "tq", false),
        ] {
            let change = bind(source, destination, "k");
            assert_eq!(
                Command::Bind(change.clone()).is_durable(&state.topology),
                expected
            );
            state.apply(Command::Bind(change.clone()));
            assert_eq!(
                Command::Unbind(change).is_durable(&state.topology),
                expected
            );
        }
    }

    #[test]
    fn deleting_a_transient_queue_is_durable_when_an_exchange_may_go_with_it() {
        let mut state = State::new();
        state.apply(exchange("x", "fanout").durable().auto_delete());
        state.apply(exchange("y", "fanout").auto_delete());
        state.apply(queue("q").exclusive(7));
        let delete = || {
            let (vhost, name) = (Name::from("/"), Name::from("q"));
            Command::DeleteQueue(DeleteQueue {
                vhost,
                name,
                id: None,
            })
        };
        let close = Command::CloseConnection(CloseConnection {
            connection: OwnerId(7),
        });
        let mut to_y = bind("x", "y", "");
        to_y.destination = Destination::Exchange(Name::from("y"));
        state.apply(Command::Bind(to_y));
        assert!(!delete().is_durable(&state.topology));
        assert!(!close.is_durable(&state.topology));
        let mut from_y = bind("y", "q", "");
        from_y.connection = Some(OwnerId(7));
        state.apply(Command::Bind(from_y));
        assert!(delete().is_durable(&state.topology));
        assert!(close.is_durable(&state.topology));
        let outcome = state.apply(close);
        let gone: Vec<&str> = outcome
            .exchanges_deleted
            .iter()
            .map(|x| x.name.as_str())
            .collect();
        assert_eq!(gone, ["y", "x"]);
    }

    #[test]
    fn a_restart_drops_what_is_transient() {
        let mut state = State::new();
        state.apply(exchange("durable", "direct").durable());
        state.apply(exchange("fading", "direct").durable().auto_delete());
        state.apply(exchange("transient", "direct"));
        state.apply(queue("dq").durable());
        state.apply(queue("tq"));
        state.apply(queue("xq").durable().exclusive(1));
        for source in ["durable", "transient"] {
            state.apply(Command::Bind(bind(source, "dq", "k")));
        }
        state.apply(Command::Bind(bind("fading", "tq", "k")));
        let outcome = state.topology.drop_transient();
        state.topology.check_invariants();
        let names: Vec<&str> = outcome
            .queues_deleted
            .iter()
            .map(|q| q.name.as_str())
            .collect();
        assert_eq!(names, ["tq", "xq"]);
        let vhost = state.topology.vhost("/").unwrap();
        assert_eq!(vhost.queues().len(), 1);
        assert_eq!(vhost.bindings().len(), 1);
        assert!(state.topology.exchange("/", "fading").is_some());
        assert!(state.topology.exchange("/", "transient").is_none());
        assert!(state.topology.queues_of_owner(OwnerId(1)).is_empty());
    }
}
