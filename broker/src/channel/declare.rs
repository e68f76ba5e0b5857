//! Classes exchange and queue: declare, delete, bind, unbind, purge.

use leveret_protocol::method::{
    ExchangeBind, ExchangeBindOk, ExchangeDeclare, ExchangeDeclareOk, ExchangeDelete,
    ExchangeDeleteOk, ExchangeUnbind, ExchangeUnbindOk, QueueBind, QueueBindOk, QueueDeclare,
    QueueDeclareOk, QueueDelete, QueueDeleteOk, QueuePurge, QueuePurgeOk, QueueUnbind,
    QueueUnbindOk,
};
use leveret_protocol::{FieldTable, Method, ShortStr};
use leveret_storage::Location;
use leveret_topology::{
    Actor, Arguments, ChangeBinding, Command, DeclareExchange, DeclareQueue, DeleteExchange,
    DeleteQueue, Destination, Key, Name, Outcome, Permission, Placement, QueueInfo, Refusal,
    Resource, in_use, not_empty, strip_cr_lf,
};

use super::Channel;
use crate::connection::core::{Core, Fault};
use crate::connection::name;
use crate::ticket::{Answer, Question};

/// A name to declare: RabbitMQ drops line ends from it.
fn declared(text: &ShortStr) -> Name {
    Name::from(strip_cr_lf(&text.to_string_lossy()).as_ref())
}

/// A method's answer, unless nobody waits for it.
fn answer(no_wait: bool, method: impl Into<Method>) -> Option<Method> {
    (!no_wait).then(|| method.into())
}

impl Core {
    /// Who asks, for permission checks.
    fn actor<'a>(&'a self, variables: &'a [(&'a str, &'a str)]) -> Actor<'a> {
        Actor {
            user: &self.session.user,
            connection: Some(self.id),
            variables,
        }
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        self.session
            .client_id
            .iter()
            .map(|id| ("client_id", id.as_str()))
            .collect()
    }

    /// Runs a check of the metadata with the user's rights.
    fn check<R>(
        &self,
        check: impl FnOnce(&leveret_topology::Topology, &Actor<'_>) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let variables = self.variables();
        check(&self.node.topology(), &self.actor(&variables))
    }

    /// Proposes a command and answers once it is safe.
    fn propose(
        &mut self,
        channel: u16,
        command: &Command,
        answer: Option<Method>,
    ) -> Result<(), Fault> {
        let (_, at) = self.outcome_of(|| command.clone())?;
        self.send_durably(channel, answer, at);
        Ok(())
    }

    /// Proposes a command; its outcome, and what must be durable before anyone is told.
    fn outcome_of(
        &mut self,
        command: impl FnOnce() -> Command,
    ) -> Result<(Outcome, Option<Location>), Fault> {
        match self.ask(Question::Proposal, |node, ticket| {
            node.propose_for(&command(), ticket)
        })? {
            Answer::Proposed(proposed) => Ok(proposed?),
            other => Err(Fault::mixed_up(&other)),
        }
    }

    /// Ready messages and consumers of a queue. `touch`: the queue is declared.
    fn counts_of(&mut self, queue: &QueueInfo, touch: bool) -> Result<(u64, u32), Fault> {
        let now_ms = self.now_ms;
        match self.ask(Question::Counts, |node, ticket| {
            node.counts_for(queue, touch, now_ms, ticket)
        })? {
            Answer::Counts(ready, consumers) => Ok((ready, consumers)),
            other => Err(Fault::mixed_up(&other)),
        }
    }

    /// Whether the method has made its proposal in an earlier run, and with it its checks.
    fn has_proposed(&self) -> bool {
        self.asked.before(Question::Proposal)
    }
}

impl Channel {
    pub(super) fn exchange_declare(
        &mut self,
        core: &mut Core,
        m: ExchangeDeclare,
    ) -> Result<(), Fault> {
        let vhost = core.session.vhost.clone();
        let exchange = declared(&m.exchange);
        if m.passive {
            core.check(|topology, _| {
                leveret_topology::check_not_default(&exchange)?;
                topology.expect_exchange(&vhost, &exchange).map(|_| ())
            })?;
            core.send_durably(self.number, answer(m.no_wait, ExchangeDeclareOk {}), None);
            return Ok(());
        }
        let declare = DeclareExchange {
            durable: m.durable,
            auto_delete: m.auto_delete,
            internal: m.internal,
            arguments: Arguments::from(m.arguments),
            user: Some(core.session.user.clone()),
            ..DeclareExchange::new(&vhost, &exchange, &m.kind.to_string_lossy())
        };
        let exists = !core.has_proposed()
            && core.check(|topology, actor| {
                topology
                    .check_declare_exchange(&declare, Some(actor))
                    .map(|found| found.is_some())
            })?;
        let reply = answer(m.no_wait, ExchangeDeclareOk {});
        if exists {
            core.send_durably(self.number, reply, None);
            return Ok(());
        }
        core.propose(self.number, &Command::DeclareExchange(declare), reply)
    }

    pub(super) fn exchange_delete(
        &mut self,
        core: &mut Core,
        m: ExchangeDelete,
    ) -> Result<(), Fault> {
        let delete = DeleteExchange {
            vhost: core.session.vhost.clone(),
            name: declared(&m.exchange),
            if_unused: m.if_unused,
        };
        if !core.has_proposed() {
            core.check(|topology, actor| topology.check_delete_exchange(&delete, Some(actor)))?;
        }
        let reply = answer(m.no_wait, ExchangeDeleteOk {});
        core.propose(self.number, &Command::DeleteExchange(delete), reply)
    }

    /// exchange.bind (RabbitMQ extension).
    pub(super) fn exchange_bind(&mut self, core: &mut Core, m: ExchangeBind) -> Result<(), Fault> {
        let destination = Destination::Exchange(name(&m.destination));
        let change = binding(core, &m.source, destination, &m.routing_key, m.arguments);
        self.bind(core, change, answer(m.no_wait, ExchangeBindOk {}))
    }

    /// exchange.unbind (RabbitMQ extension).
    pub(super) fn exchange_unbind(
        &mut self,
        core: &mut Core,
        m: ExchangeUnbind,
    ) -> Result<(), Fault> {
        let destination = Destination::Exchange(name(&m.destination));
        let change = binding(core, &m.source, destination, &m.routing_key, m.arguments);
        self.unbind(core, change, answer(m.no_wait, ExchangeUnbindOk {}))
    }

    pub(super) fn queue_bind(&mut self, core: &mut Core, m: QueueBind) -> Result<(), Fault> {
        let queue = self.queue_name(&m.queue)?;
        let key = self.binding_key(&m.queue, &m.routing_key);
        let change = binding(
            core,
            &m.exchange,
            Destination::Queue(queue),
            &key,
            m.arguments,
        );
        self.bind(core, change, answer(m.no_wait, QueueBindOk {}))
    }

    pub(super) fn queue_unbind(&mut self, core: &mut Core, m: QueueUnbind) -> Result<(), Fault> {
        let queue = self.queue_name(&m.queue)?;
        let key = self.binding_key(&m.queue, &m.routing_key);
        let change = binding(
            core,
            &m.exchange,
            Destination::Queue(queue),
            &key,
            m.arguments,
        );
        self.unbind(core, change, answer(false, QueueUnbindOk {}))
    }

    /// AMQP 0-9-1: with neither a queue nor a key named, the key is the name of the queue declared last.
    fn binding_key(&self, queue: &ShortStr, key: &ShortStr) -> ShortStr {
        match &self.last_queue {
            Some(last) if queue.is_empty() && key.is_empty() => {
                ShortStr::truncated(last.as_bytes())
            }
            _ => key.clone(),
        }
    }

    fn bind(
        &mut self,
        core: &mut Core,
        change: ChangeBinding,
        reply: Option<Method>,
    ) -> Result<(), Fault> {
        let exists = !core.has_proposed()
            && core.check(|topology, actor| topology.check_bind(&change, Some(actor)))?;
        if exists {
            core.send_durably(self.number, reply, None);
            return Ok(());
        }
        core.propose(self.number, &Command::Bind(change), reply)
    }

    fn unbind(
        &mut self,
        core: &mut Core,
        change: ChangeBinding,
        reply: Option<Method>,
    ) -> Result<(), Fault> {
        let exists = core.has_proposed()
            || core.check(|topology, actor| topology.check_unbind(&change, Some(actor)))?;
        if !exists {
            core.send_durably(self.number, reply, None);
            return Ok(());
        }
        core.propose(self.number, &Command::Unbind(change), reply)
    }

    pub(super) fn queue_declare(&mut self, core: &mut Core, m: QueueDeclare) -> Result<(), Fault> {
        let asked = declared(&m.queue);
        if let Some(consumers) = Self::declare_reply_address(core, &asked) {
            let reply = QueueDeclareOk {
                queue: m.queue,
                message_count: 0,
                consumer_count: consumers?,
            };
            self.last_queue = Some(asked);
            core.send_durably(self.number, answer(m.no_wait, reply), None);
            return Ok(());
        }
        if m.passive {
            return self.queue_declare_passive(core, &m);
        }
        let vhost = core.session.vhost.clone();
        let server_named = m.queue.is_empty();
        let queue = if server_named {
            Name::from(core.node.new_name("amq.gen-"))
        } else {
            declared(&m.queue)
        };
        let durable = m.durable && !m.exclusive;
        let group = core.node.place(&vhost, &queue, durable);
        let declare = DeclareQueue {
            server_named,
            // An exclusive queue is never durable, whatever it was declared as.
            durable,
            auto_delete: m.auto_delete,
            exclusive_owner: m.exclusive.then_some(core.id),
            arguments: Arguments::from(m.arguments),
            placement: Placement {
                local: group,
                mirrored: group,
            },
            user: Some(core.session.user.clone()),
            ..DeclareQueue::new(&vhost, &queue)
        };
        let found = if core.has_proposed() {
            None
        } else {
            core.check(|topology, actor| {
                let found = topology
                    .check_declare_queue(&declare, Some(actor))?
                    .cloned();
                if let Some(found) = &found {
                    leveret_topology::check_exclusive_access(found, actor.connection)?;
                }
                Ok(found)
            })?
        };
        let (queue, at) = match found {
            Some(queue) => (Some(queue), None),
            None => {
                let (outcome, at) = core.outcome_of(|| Command::DeclareQueue(declare))?;
                (outcome.queue, at)
            }
        };
        let Some(queue) = queue else {
            return Err(Fault::new(
                leveret_protocol::ReplyCode::InternalError,
                "no queue",
            ));
        };
        self.declared(core, &queue, m.no_wait, at)?;
        core.counts.queues_declared += 1;
        Ok(())
    }

    fn queue_declare_passive(&mut self, core: &mut Core, m: &QueueDeclare) -> Result<(), Fault> {
        let queue = declared(&m.queue);
        let vhost = core.session.vhost.clone();
        let queue = core.check(|topology, actor| {
            let queue = topology.expect_queue(&vhost, &queue)?;
            leveret_topology::check_exclusive_access(queue, actor.connection)?;
            Ok(queue.clone())
        })?;
        self.declared(core, &queue, m.no_wait, None)
    }

    fn declared(
        &mut self,
        core: &mut Core,
        queue: &QueueInfo,
        no_wait: bool,
        at: Option<Location>,
    ) -> Result<(), Fault> {
        let (messages, consumers) = core.counts_of(queue, true)?;
        self.last_queue = Some(queue.name.clone());
        let reply = QueueDeclareOk {
            queue: ShortStr::truncated(queue.name.as_bytes()),
            message_count: u32::try_from(messages).unwrap_or(u32::MAX),
            consumer_count: consumers,
        };
        core.send_durably(self.number, answer(no_wait, reply), at);
        Ok(())
    }

    pub(super) fn queue_delete(&mut self, core: &mut Core, m: QueueDelete) -> Result<(), Fault> {
        let queue = if m.queue.is_empty() {
            self.queue_name(&m.queue)?
        } else {
            declared(&m.queue)
        };
        let vhost = core.session.vhost.clone();
        let mut message_count = 0;
        let mut command = None;
        if core.has_proposed() {
            // Only the answer is missing: what is proposed is known, and the count was asked for before.
            return self.queue_deleted(core, m.no_wait);
        }
        let found = core.check(|topology, actor| {
            Ok(topology.check_delete_queue(&vhost, &queue, actor)?.cloned())
        })?;
        if let Some(found) = found {
            let (messages, consumers) = core.counts_of(&found, false)?;
            if m.if_empty && messages > 0 {
                return Err(not_empty(found.resource()).into());
            }
            if m.if_unused && consumers > 0 {
                return Err(in_use(found.resource()).into());
            }
            message_count = u32::try_from(messages).unwrap_or(u32::MAX);
            command = Some(Command::DeleteQueue(DeleteQueue {
                vhost,
                name: queue,
                id: Some(found.id),
            }));
        }
        // delete-ok leaves before the basic.cancel that the deletion causes: that comes through the outbox.
        let reply = answer(m.no_wait, QueueDeleteOk { message_count });
        match command {
            Some(command) => core.propose(self.number, &command, reply),
            None => {
                core.send_durably(self.number, reply, None);
                Ok(())
            }
        }
    }

    /// The second half of queue.delete, run again: the answer to its proposal is there.
    fn queue_deleted(&mut self, core: &mut Core, no_wait: bool) -> Result<(), Fault> {
        let counted = core.ask(Question::Counts, |_, _| None)?;
        let Answer::Counts(messages, _) = counted else {
            return Err(Fault::mixed_up(&counted));
        };
        let proposed = core.ask(Question::Proposal, |_, _| None)?;
        let Answer::Proposed(proposed) = proposed else {
            return Err(Fault::mixed_up(&proposed));
        };
        let (_, at) = proposed?;
        let message_count = u32::try_from(messages).unwrap_or(u32::MAX);
        let reply = answer(no_wait, QueueDeleteOk { message_count });
        core.send_durably(self.number, reply, at);
        Ok(())
    }

    pub(super) fn queue_purge(&mut self, core: &mut Core, m: QueuePurge) -> Result<(), Fault> {
        let queue = self.queue_name(&m.queue)?;
        let vhost = core.session.vhost.clone();
        let queue = core.check(|topology, actor| {
            topology.check_permission(actor, Resource::queue(&vhost, &queue), Permission::Read)?;
            let queue = topology.expect_queue(&vhost, &queue)?;
            leveret_topology::check_exclusive_access(queue, actor.connection)?;
            Ok(queue.clone())
        })?;
        let now_ms = core.now_ms;
        let purged = match core.ask(Question::Purge, |node, ticket| {
            node.purge_for(&queue, now_ms, ticket)
        })? {
            Answer::Purged(purged) => purged,
            other => return Err(Fault::mixed_up(&other)),
        };
        let reply = QueuePurgeOk {
            message_count: u32::try_from(purged).unwrap_or(u32::MAX),
        };
        core.send_durably(self.number, answer(m.no_wait, reply), None);
        Ok(())
    }
}

fn binding(
    core: &Core,
    source: &ShortStr,
    destination: Destination,
    key: &ShortStr,
    arguments: FieldTable,
) -> ChangeBinding {
    ChangeBinding {
        vhost: core.session.vhost.clone(),
        source: name(source),
        destination,
        routing_key: Key::from(key.as_bytes()),
        arguments: Arguments::from(arguments),
        connection: Some(core.id),
    }
}
