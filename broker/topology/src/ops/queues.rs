//! queue.declare, queue.delete, and what else makes queues come and go.

use std::sync::Arc;

use leveret_protocol::{FieldValue, ReplyCode};

use crate::access::{Actor, Permission};
use crate::command::{CloseConnection, DeclareQueue, DeleteQueue, PlaceQueue};
use crate::model::{
    Arguments, EffectiveQueueSettings, OwnerId, QueueId, QueueInfo, QueueType, Resource,
};
use crate::ops::arguments::{
    check_equivalent_arguments, check_queue_arguments, inequivalent, queue_type,
};
use crate::outcome::{Outcome, QueueChange};
use crate::refusal::Refusal;
use crate::state::{Topology, VHost};

impl Topology {
    /// Checks a queue.declare, not passive, without doing it: the queue when it
    /// is there and equivalent, None when it would be created.
    ///
    /// `actor` is whose permissions are asked; None asks for none (apply does
    /// not: the permissions were checked where the command came from).
    ///
    /// # Errors
    /// RabbitMQ's, in its order: 403 for a reserved name or a permission, 405
    /// for an exclusive queue of another connection, 406 for what is not
    /// equivalent, for a limit and for arguments that are invalid.
    pub fn check_declare_queue(
        &self,
        declare: &DeclareQueue,
        actor: Option<&Actor<'_>>,
    ) -> Result<Option<&Arc<QueueInfo>>, Refusal> {
        let vhost = self.expect_vhost(&declare.vhost)?;
        let resource = Resource::queue(&vhost.name, &declare.name);
        let kind = vhost.declared_type(declare);
        if declare.name.is_empty() {
            return Err(Refusal::new(
                ReplyCode::NotFound,
                "no previously declared queue",
            ));
        }
        if !declare.server_named {
            check_reserved(resource)?;
        }
        if let Some(actor) = actor {
            self.check_permission(actor, resource, Permission::Configure)?;
        }
        if let Some(queue) = vhost.queues.get(&declare.name) {
            if !declare.keep_existing {
                check_equivalent_queue(queue, declare, kind)?;
            }
            return Ok(Some(queue));
        }
        vhost.check_queue_limit(&declare.name)?;
        self.check_dead_letter_exchange(declare, actor)?;
        let arguments = vhost.declared_arguments(declare);
        let kind = queue_type(&arguments, resource)?;
        check_queue_arguments(&arguments, kind, resource)?;
        check_stream_properties(declare, kind, resource)?;
        Ok(None)
    }

    /// The argument has to be a name, and one whom the actor may let write to
    /// it.
    fn check_dead_letter_exchange(
        &self,
        declare: &DeclareQueue,
        actor: Option<&Actor<'_>>,
    ) -> Result<(), Refusal> {
        let key = "x-dead-letter-exchange";
        let queue = Resource::queue(&declare.vhost, &declare.name);
        let Some(value) = declare.arguments.get(key) else {
            return Ok(());
        };
        let exchange = exchange_argument(value, key, queue)?;
        let Some(actor) = actor else { return Ok(()) };
        self.check_permission(actor, queue, Permission::Read)?;
        let exchange = Resource::exchange(&declare.vhost, &exchange);
        self.check_permission(actor, exchange, Permission::Write)
    }

    /// Whether the queue that this declaration would create is mirrored, by its
    /// arguments and the policies there are.
    pub fn would_be_mirrored(&self, declare: &DeclareQueue) -> bool {
        let Some(vhost) = self.vhosts.get(&declare.vhost) else {
            return false;
        };
        let kind = vhost.declared_type(declare);
        let settings = vhost
            .queue_policies(&declare.name, kind)
            .queue_settings(&declare.arguments);
        is_mirrored(kind, &declare.arguments, &settings)
    }

    pub(super) fn apply_declare_queue(
        &mut self,
        index: u64,
        declare: &DeclareQueue,
    ) -> Result<Outcome, Refusal> {
        let existing = self.check_declare_queue(declare, None)?.cloned();
        let mut outcome = Outcome {
            queue: existing,
            ..Outcome::default()
        };
        if outcome.queue.is_none() {
            let vhost = self.expect_vhost_mut(&declare.vhost)?;
            let queue = Arc::new(vhost.new_queue(QueueId(index), declare));
            vhost.insert_queue(queue.clone(), &mut outcome);
            outcome.queue = Some(queue);
        }
        Ok(outcome)
    }

    /// Checks a queue.delete: the queue, or None when there is none (then
    /// RabbitMQ answers that no message was deleted). Whether it is in use or
    /// empty is up to the caller: see [`in_use`] and [`not_empty`].
    ///
    /// # Errors
    /// 403 without the permission to configure, 405 for an exclusive queue of
    /// another connection.
    pub fn check_delete_queue(
        &self,
        vhost: &str,
        name: &str,
        actor: &Actor<'_>,
    ) -> Result<Option<&Arc<QueueInfo>>, Refusal> {
        self.check_permission(actor, Resource::queue(vhost, name), Permission::Configure)?;
        let queue = self.queue(vhost, name);
        if let Some(queue) = queue {
            check_exclusive_access(queue, actor.connection)?;
        }
        Ok(queue)
    }

    pub(super) fn apply_delete_queue(&mut self, delete: &DeleteQueue) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        let Some(vhost) = self.vhosts.get_mut(&delete.vhost) else {
            return Ok(outcome);
        };
        let Some(queue) = vhost.queues.get(&delete.name) else {
            return Ok(outcome);
        };
        if delete.id.is_none_or(|id| id == queue.id) {
            vhost.remove_queue(&delete.name, &mut outcome);
        }
        Ok(outcome)
    }

    pub(super) fn apply_place_queue(&mut self, place: &PlaceQueue) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        let Some(before) = self.queues_by_id.get(&place.id).cloned() else {
            return Ok(outcome);
        };
        if before.group != place.group {
            let after = QueueInfo {
                group: place.group,
                ..QueueInfo::clone(&before)
            };
            let vhost = self.expect_vhost_mut(&before.vhost)?;
            vhost.replace_queue(before, after, &mut outcome);
        }
        Ok(outcome)
    }

    pub(super) fn apply_close_connection(
        &mut self,
        close: &CloseConnection,
    ) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        let owned = self
            .queues_by_owner
            .get(&close.connection)
            .cloned()
            .unwrap_or_default();
        if !owned.is_empty() {
            outcome.connection_closed = Some(close.connection);
        }
        for id in owned {
            if let Some(queue) = self.queues_by_id.get(&id).cloned() {
                let vhost = self.expect_vhost_mut(&queue.vhost)?;
                vhost.remove_queue(&queue.name, &mut outcome);
            }
        }
        Ok(outcome)
    }
}

impl VHost {
    /// The type of a declaration, the vhost's own when it names none. One that
    /// is unknown counts as classic until it is refused.
    pub(crate) fn declared_type(&self, declare: &DeclareQueue) -> QueueType {
        match declare.arguments.get("x-queue-type") {
            Some(value) => value
                .as_text()
                .and_then(QueueType::from_name)
                .unwrap_or_default(),
            None => self.default_type(declare).unwrap_or_default(),
        }
    }

    /// The default type of the vhost. As in RabbitMQ quorum and stream are the
    /// default only of queues that are durable, not exclusive and not
    /// auto-delete; by its own argument any queue can be quorum.
    fn default_type(&self, declare: &DeclareQueue) -> Option<QueueType> {
        let fits = declare.durable && !declare.auto_delete && declare.exclusive_owner.is_none();
        self.default_queue_type
            .filter(|kind| *kind == QueueType::Classic || fits)
    }

    /// The arguments of a new queue, with the type that the vhost adds.
    fn declared_arguments(&self, declare: &DeclareQueue) -> Arguments {
        let mut arguments = declare.arguments.clone();
        if !arguments.contains("x-queue-type")
            && let Some(kind) = self.default_type(declare)
        {
            arguments.insert("x-queue-type", kind.as_str());
        }
        arguments
    }

    fn new_queue(&mut self, id: QueueId, declare: &DeclareQueue) -> QueueInfo {
        let kind = self.declared_type(declare);
        let policies = self.queue_policies(&declare.name, kind);
        let (policy, operator_policy) = policies.names();
        let settings = policies.queue_settings(&declare.arguments);
        let queue = QueueInfo {
            id,
            vhost: self.name.clone(),
            name: declare.name.clone(),
            kind,
            durable: declare.durable && declare.exclusive_owner.is_none(),
            auto_delete: declare.auto_delete,
            exclusive_owner: declare.exclusive_owner,
            mirrored: is_mirrored(kind, &declare.arguments, &settings),
            group: 0,
            arguments: self.declared_arguments(declare),
            declared_by: declare.user.clone(),
            policy,
            operator_policy,
            settings: self.share_settings(settings),
        };
        let group = match queue.mirrored {
            true => declare.placement.mirrored,
            false => declare.placement.local,
        };
        QueueInfo { group, ..queue }
    }

    /// The settings behind a pointer that queues with equal ones share.
    pub(crate) fn share_settings(
        &mut self,
        settings: EffectiveQueueSettings,
    ) -> Arc<EffectiveQueueSettings> {
        if *self.recent_settings != settings {
            self.recent_settings = Arc::new(settings);
        }
        self.recent_settings.clone()
    }

    /// Puts another record of the same queue in the place of one.
    pub(crate) fn replace_queue(
        &mut self,
        before: Arc<QueueInfo>,
        after: QueueInfo,
        outcome: &mut Outcome,
    ) {
        let after = Arc::new(after);
        self.queues.insert(after.name.clone(), after.clone());
        outcome.queues_changed.push(QueueChange { before, after });
        outcome.changed = true;
    }
}

/// Whether a queue is mirrored: `x-ha-policy` all or nodes, a policy with
/// `ha-mode`, or `x-queue-type: quorum`.
pub(crate) fn is_mirrored(
    kind: QueueType,
    arguments: &Arguments,
    settings: &EffectiveQueueSettings,
) -> bool {
    match kind {
        QueueType::Quorum => true,
        QueueType::Stream => false,
        QueueType::Classic => {
            settings.ha_mode.is_some()
                || arguments
                    .text("x-ha-policy")
                    .is_some_and(|policy| ["all", "nodes"].contains(&policy))
        }
    }
}

/// Names that begin with `amq.` are the broker's own.
pub(super) fn check_reserved(resource: Resource<'_>) -> Result<(), Refusal> {
    let Resource { kind, name, .. } = resource;
    match name.starts_with("amq.") {
        false => Ok(()),
        true => {
            let text = format!("{kind} name '{name}' contains reserved prefix 'amq.*'");
            Err(Refusal::access(text))
        }
    }
}

/// The name of an exchange in an argument of `resource`.
pub(super) fn exchange_argument(
    value: &FieldValue,
    key: &str,
    resource: Resource<'_>,
) -> Result<String, Refusal> {
    let octets = value.as_longstr().ok_or_else(|| {
        let kind = value.type_name();
        Refusal::precondition(format!(
            "invalid type '{kind}' for arg '{key}' in {resource}"
        ))
    })?;
    Ok(String::from_utf8_lossy(octets).into_owned())
}

fn check_equivalent_queue(
    queue: &QueueInfo,
    declare: &DeclareQueue,
    kind: QueueType,
) -> Result<(), Refusal> {
    let resource = queue.resource();
    if queue.exclusive_owner != declare.exclusive_owner {
        return Err(Refusal::locked(resource));
    }
    let durable = declare.durable && declare.exclusive_owner.is_none();
    check_equal("durable", resource, durable, queue.durable)?;
    check_equal(
        "auto_delete",
        resource,
        declare.auto_delete,
        queue.auto_delete,
    )?;
    check_equivalent_arguments(queue, &declare.arguments, kind)
}

/// Compares a property of an entity with that of a repeated declaration.
pub(super) fn check_equal<T: PartialEq + std::fmt::Display>(
    name: &str,
    resource: Resource<'_>,
    received: T,
    current: T,
) -> Result<(), Refusal> {
    if received == current {
        return Ok(());
    }
    Err(inequivalent(
        name,
        resource,
        &format!("'{received}'"),
        &format!("'{current}'"),
    ))
}

fn check_stream_properties(
    declare: &DeclareQueue,
    kind: QueueType,
    resource: Resource<'_>,
) -> Result<(), Refusal> {
    if kind != QueueType::Stream {
        return Ok(());
    }
    let property = if declare.auto_delete {
        "auto-delete"
    } else if declare.exclusive_owner.is_some() {
        "exclusive-owner"
    } else if !declare.durable {
        "non-durable"
    } else {
        return Ok(());
    };
    Err(Refusal::precondition(format!(
        "invalid property '{property}' for {resource}"
    )))
}

/// Checks that a connection may use a queue: every one that is not exclusive,
/// and its own.
///
/// # Errors
/// 405 RESOURCE_LOCKED.
pub fn check_exclusive_access(
    queue: &QueueInfo,
    connection: Option<OwnerId>,
) -> Result<(), Refusal> {
    match queue.exclusive_owner {
        None => Ok(()),
        owner if owner == connection => Ok(()),
        Some(_) => Err(Refusal::locked(queue.resource())),
    }
}

/// 406 for a delete with if-unused of a queue or exchange that is used.
pub fn in_use(resource: Resource<'_>) -> Refusal {
    Refusal::precondition(format!("{resource} in use"))
}

/// 406 for a delete with if-empty of a queue that has messages.
pub fn not_empty(queue: Resource<'_>) -> Refusal {
    Refusal::precondition(format!("{queue} not empty"))
}
