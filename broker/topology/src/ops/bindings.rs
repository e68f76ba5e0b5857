//! queue.bind, queue.unbind, exchange.bind and exchange.unbind.

use std::sync::Arc;

use leveret_protocol::FieldValue;

use crate::access::{Actor, Permission};
use crate::command::ChangeBinding;
use crate::model::{Arguments, Binding, Destination, ExchangeType, Resource};
use crate::ops::exchanges::check_not_default;
use crate::ops::queues::check_exclusive_access;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::routing::binding_weight;
use crate::state::{Topology, VHost};
use crate::term;

impl Topology {
    /// Checks a bind without doing it: whether the binding is there already.
    ///
    /// # Errors
    /// RabbitMQ's, in its order: 403 without the permission to write to the
    /// destination or to read from the exchange, and for the default exchange;
    /// 404 for what does not exist; 406 for a binding that the exchange cannot
    /// have; 405 for an exclusive queue of another connection.
    pub fn check_bind(
        &self,
        bind: &ChangeBinding,
        actor: Option<&Actor<'_>>,
    ) -> Result<bool, Refusal> {
        let vhost = self.check_binding_access(bind, actor)?;
        let exchange = vhost.exchanges.get(&bind.source);
        let missing_destination = !vhost.has(&bind.destination);
        let Some(exchange) = exchange else {
            return Err(Refusal::not_found(Resource::exchange(
                &vhost.name,
                &bind.source,
            )));
        };
        if missing_destination {
            return Err(Refusal::not_found(bind.destination.resource(&vhost.name)));
        }
        check_binding_arguments(exchange.info.kind, bind)?;
        vhost.check_destination_access(bind)?;
        Ok(vhost.binding(&bind.id()).is_some())
    }

    /// Checks an unbind without doing it: whether the binding is there. What
    /// does not exist is no error.
    ///
    /// # Errors
    /// 403 and 405 as for a bind.
    pub fn check_unbind(
        &self,
        unbind: &ChangeBinding,
        actor: Option<&Actor<'_>>,
    ) -> Result<bool, Refusal> {
        let vhost = self.check_binding_access(unbind, actor)?;
        let exists = vhost.binding(&unbind.id()).is_some();
        if exists {
            vhost.check_destination_access(unbind)?;
        }
        Ok(exists)
    }

    fn check_binding_access(
        &self,
        change: &ChangeBinding,
        actor: Option<&Actor<'_>>,
    ) -> Result<&VHost, Refusal> {
        let vhost = self.expect_vhost(&change.vhost)?;
        let destination = change.destination.resource(&vhost.name);
        if let Some(actor) = actor {
            self.check_permission(actor, destination, Permission::Write)?;
        }
        if let Destination::Exchange(name) = &change.destination {
            check_not_default(name)?;
        }
        check_not_default(&change.source)?;
        let Some(actor) = actor else { return Ok(vhost) };
        let source = Resource::exchange(&vhost.name, &change.source);
        self.check_permission(actor, source, Permission::Read)?;
        if let Some(exchange) = vhost.exchanges.get(&change.source) {
            let key = change.routing_key.as_bytes();
            self.check_topic_permission(actor, &exchange.info, key, Permission::Read)?;
        }
        Ok(vhost)
    }

    pub(super) fn apply_bind(
        &mut self,
        index: u64,
        bind: &ChangeBinding,
    ) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        if !self.check_bind(bind, None)? {
            let vhost = self.expect_vhost_mut(&bind.vhost)?;
            let id = vhost.with_own_names(bind.id());
            vhost.insert_binding(Arc::new(Binding { id, created: index }), &mut outcome);
        }
        Ok(outcome)
    }

    pub(super) fn apply_unbind(&mut self, unbind: &ChangeBinding) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        self.check_unbind(unbind, None)?;
        let vhost = self.expect_vhost_mut(&unbind.vhost)?;
        if let Some(binding) = vhost.binding(&unbind.id()).cloned() {
            vhost.remove_binding(&binding, &mut outcome);
        }
        Ok(outcome)
    }
}

impl VHost {
    fn has(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Queue(name) => self.queues.slot(name).is_some(),
            Destination::Exchange(name) => self.exchanges.slot(name).is_some(),
        }
    }

    /// An exclusive queue is its connection's to bind.
    fn check_destination_access(&self, change: &ChangeBinding) -> Result<(), Refusal> {
        match &change.destination {
            Destination::Queue(name) => match self.queues.get(name) {
                Some(queue) => check_exclusive_access(queue, change.connection),
                None => Ok(()),
            },
            Destination::Exchange(_) => Ok(()),
        }
    }
}

fn check_binding_arguments(kind: ExchangeType, bind: &ChangeBinding) -> Result<(), Refusal> {
    match kind {
        ExchangeType::Headers => check_x_match(&bind.arguments),
        ExchangeType::ConsistentHash => check_weight(bind.routing_key.as_bytes()),
        _ => Ok(()),
    }
}

fn check_x_match(arguments: &Arguments) -> Result<(), Refusal> {
    let Some(value) = arguments.get("x-match") else {
        return Ok(());
    };
    let known: [&[u8]; 4] = [b"all", b"any", b"all-with-x", b"any-with-x"];
    match value {
        FieldValue::LongStr(name) if known.contains(&name.as_slice()) => Ok(()),
        FieldValue::LongStr(name) => Err(Refusal::precondition(format!(
            "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
            term::binary(name)
        ))),
        other => Err(Refusal::precondition(format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            other.type_name(),
            match other {
                FieldValue::Binary(octets) => term::binary(octets),
                other => other.to_term(),
            }
        ))),
    }
}

fn check_weight(key: &[u8]) -> Result<(), Refusal> {
    if binding_weight(key).is_some() {
        return Ok(());
    }
    let is_number = std::str::from_utf8(key).is_ok_and(|text| text.parse::<i128>().is_ok());
    Err(Refusal::precondition(match is_number {
        true => "The binding key must be greater than 0".to_owned(),
        false => format!("The binding key must be an integer: {}", term::binary(key)),
    }))
}
