//! exchange.declare and exchange.delete.

use std::sync::Arc;

use leveret_protocol::{FieldValue, ReplyCode};

use crate::access::{Actor, Permission};
use crate::command::{DeclareExchange, DeleteExchange};
use crate::model::{ExchangeInfo, ExchangeType, Resource};
use crate::ops::arguments::check_equivalent;
use crate::ops::queues::{check_equal, check_reserved, exchange_argument, in_use};
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::state::{Topology, VHost};

/// Properties of a message that `hash-property` may name.
const HASH_PROPERTIES: &[&[u8]] = &[b"correlation_id", b"message_id", b"timestamp"];

impl Topology {
    /// Checks an exchange.declare, not passive, without doing it: the exchange
    /// when it is there and equivalent, None when it would be created.
    ///
    /// # Errors
    /// RabbitMQ's, in its order: 503 for an unknown type, 403 for the default
    /// exchange, a permission and a reserved name, 406 for what is not
    /// equivalent and for arguments that are invalid.
    pub fn check_declare_exchange(
        &self,
        declare: &DeclareExchange,
        actor: Option<&Actor<'_>>,
    ) -> Result<Option<&Arc<ExchangeInfo>>, Refusal> {
        let vhost = self.expect_vhost(&declare.vhost)?;
        let kind = exchange_type(&declare.kind)?;
        let resource = Resource::exchange(&vhost.name, &declare.name);
        check_not_default(&declare.name)?;
        if let Some(actor) = actor {
            self.check_permission(actor, resource, Permission::Configure)?;
        }
        if let Some(entry) = vhost.exchanges.get(&declare.name) {
            if !declare.keep_existing {
                check_equivalent_exchange(&entry.info, declare, kind)?;
            }
            return Ok(Some(&entry.info));
        }
        check_reserved(resource)?;
        self.check_alternate_exchange(declare, actor)?;
        check_hash_arguments(declare, kind)?;
        Ok(None)
    }

    /// Checks a passive exchange.declare: the exchange.
    ///
    /// # Errors
    /// 403 for the default exchange, 404 when there is none.
    pub fn check_passive_exchange(
        &self,
        vhost: &str,
        name: &str,
    ) -> Result<&Arc<ExchangeInfo>, Refusal> {
        check_not_default(name)?;
        self.expect_exchange(vhost, name)
    }

    fn check_alternate_exchange(
        &self,
        declare: &DeclareExchange,
        actor: Option<&Actor<'_>>,
    ) -> Result<(), Refusal> {
        let key = "alternate-exchange";
        let resource = Resource::exchange(&declare.vhost, &declare.name);
        let Some(value) = declare.arguments.get(key) else {
            return Ok(());
        };
        let alternate = exchange_argument(value, key, resource)?;
        let Some(actor) = actor else { return Ok(()) };
        self.check_permission(actor, resource, Permission::Read)?;
        let alternate = Resource::exchange(&declare.vhost, &alternate);
        self.check_permission(actor, alternate, Permission::Write)
    }

    pub(super) fn apply_declare_exchange(
        &mut self,
        declare: &DeclareExchange,
    ) -> Result<Outcome, Refusal> {
        let existing = self.check_declare_exchange(declare, None)?.cloned();
        let mut outcome = Outcome {
            exchange: existing,
            ..Outcome::default()
        };
        if outcome.exchange.is_none() {
            let kind = exchange_type(&declare.kind)?;
            let vhost = self.expect_vhost_mut(&declare.vhost)?;
            let exchange = Arc::new(vhost.new_exchange(kind, declare));
            vhost.insert_exchange(exchange.clone(), &mut outcome);
            outcome.exchange = Some(exchange);
        }
        Ok(outcome)
    }

    /// Checks an exchange.delete without doing it. An exchange that does not
    /// exist is no error.
    ///
    /// # Errors
    /// 403 for the default exchange, one of the broker's own and without the
    /// permission to configure, 406 when it is in use and must not be.
    pub fn check_delete_exchange(
        &self,
        delete: &DeleteExchange,
        actor: Option<&Actor<'_>>,
    ) -> Result<(), Refusal> {
        let resource = Resource::exchange(&delete.vhost, &delete.name);
        check_not_default(&delete.name)?;
        if delete.name.starts_with("amq.") {
            return Err(Refusal::access(format!(
                "deletion of system {resource} not allowed"
            )));
        }
        if let Some(actor) = actor {
            self.check_permission(actor, resource, Permission::Configure)?;
        }
        let vhost = self.expect_vhost(&delete.vhost)?;
        match vhost.exchanges.get(&delete.name) {
            Some(entry) if delete.if_unused && !entry.bindings.is_empty() => Err(in_use(resource)),
            _ => Ok(()),
        }
    }

    pub(super) fn apply_delete_exchange(
        &mut self,
        delete: &DeleteExchange,
    ) -> Result<Outcome, Refusal> {
        self.check_delete_exchange(delete, None)?;
        let mut outcome = Outcome::default();
        self.expect_vhost_mut(&delete.vhost)?
            .remove_exchange(&delete.name, &mut outcome);
        Ok(outcome)
    }
}

impl VHost {
    fn new_exchange(&self, kind: ExchangeType, declare: &DeclareExchange) -> ExchangeInfo {
        let policies = self.exchange_policies(&declare.name);
        let (policy, operator_policy) = policies.names();
        ExchangeInfo {
            vhost: self.name.clone(),
            name: declare.name.clone(),
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            alternate_exchange: policies.alternate_exchange(&declare.arguments),
            arguments: declare.arguments.clone(),
            declared_by: declare.user.clone(),
            policy,
            operator_policy,
        }
    }

    /// Creates the exchanges that every vhost has (RabbitMQ's).
    pub(super) fn insert_own_exchanges(&mut self, outcome: &mut Outcome) {
        let own = [
            ("", ExchangeType::Direct, false),
            ("amq.direct", ExchangeType::Direct, false),
            ("amq.fanout", ExchangeType::Fanout, false),
            ("amq.headers", ExchangeType::Headers, false),
            ("amq.match", ExchangeType::Headers, false),
            ("amq.rabbitmq.trace", ExchangeType::Topic, true),
            ("amq.topic", ExchangeType::Topic, false),
        ];
        for (name, kind, internal) in own {
            let mut declare = DeclareExchange::new(&self.name, name, kind.as_str());
            declare.durable = true;
            declare.internal = internal;
            let exchange = Arc::new(self.new_exchange(kind, &declare));
            self.insert_exchange(exchange, outcome);
        }
    }
}

/// The exchange type of a name.
///
/// # Errors
/// 503 COMMAND_INVALID when there is none.
pub(crate) fn exchange_type(name: &str) -> Result<ExchangeType, Refusal> {
    ExchangeType::from_name(name).ok_or_else(|| {
        let text = format!("unknown exchange type '{name}'");
        Refusal::new(ReplyCode::CommandInvalid, text)
    })
}

/// Nothing may be done with the default exchange but publish to it.
///
/// # Errors
/// 403 ACCESS_REFUSED when the name is empty.
///
/// # Errors
/// 403 ACCESS_REFUSED.
pub fn check_not_default(exchange: &str) -> Result<(), Refusal> {
    match exchange.is_empty() {
        false => Ok(()),
        true => Err(Refusal::access(
            "operation not permitted on the default exchange",
        )),
    }
}

fn check_equivalent_exchange(
    exchange: &ExchangeInfo,
    declare: &DeclareExchange,
    kind: ExchangeType,
) -> Result<(), Refusal> {
    let resource = exchange.resource();
    check_equal("type", resource, kind, exchange.kind)?;
    check_equal("durable", resource, declare.durable, exchange.durable)?;
    check_equal(
        "auto_delete",
        resource,
        declare.auto_delete,
        exchange.auto_delete,
    )?;
    check_equal("internal", resource, declare.internal, exchange.internal)?;
    let current = &exchange.arguments;
    check_equivalent(
        current,
        &declare.arguments,
        resource,
        &["alternate-exchange"],
    )
}

/// What a consistent hash goes by is one thing that it knows.
fn check_hash_arguments(declare: &DeclareExchange, kind: ExchangeType) -> Result<(), Refusal> {
    if kind != ExchangeType::ConsistentHash {
        return Ok(());
    }
    let (header, property) = (
        declare.arguments.get("hash-header"),
        declare.arguments.get("hash-property"),
    );
    match (header, property) {
        (Some(_), Some(_)) => Err(Refusal::precondition(
            "hash-header and hash-property are mutually exclusive",
        )),
        (None, Some(value))
            if !value
                .as_longstr()
                .is_some_and(|name| HASH_PROPERTIES.contains(&name)) =>
        {
            Err(Refusal::precondition(format!(
                "Unsupported property: {}",
                value.to_term()
            )))
        }
        (Some(value), None) if !matches!(value, FieldValue::LongStr(_)) => Err(
            Refusal::precondition(format!("Unsupported header: {}", value.to_term())),
        ),
        _ => Ok(()),
    }
}
