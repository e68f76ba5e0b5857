//! Vhosts.

use leveret_protocol::ReplyCode;
use serde_json::{Map, Value};

use crate::access::UserPermissions;
use crate::command::{DeleteVhost, PutVhost, SetVhostLimits};
use crate::limits::VhostLimits;
use crate::model::QueueType;
use crate::ops::parameters::validation_failed;
use crate::outcome::{BindingChange, Outcome};
use crate::refusal::Refusal;
use crate::state::{Topology, VHost, in_order};

impl Topology {
    pub(super) fn apply_put_vhost(&mut self, put: &PutVhost) -> Result<Outcome, Refusal> {
        let default_queue_type = match put.default_queue_type.as_deref() {
            None | Some("" | "undefined") => None,
            Some(name) => Some(QueueType::from_name(name).ok_or_else(|| {
                Refusal::precondition(format!("invalid default queue type '{name}'"))
            })?),
        };
        let mut outcome = Outcome {
            changed: true,
            ..Outcome::default()
        };
        if !self.vhosts.contains_key(&put.name) {
            let mut vhost = VHost::new(put.name.clone());
            vhost.insert_own_exchanges(&mut outcome);
            self.grant_everything(&mut vhost, put, &mut outcome);
            self.vhosts.insert(put.name.clone(), vhost);
            outcome.vhost_created = Some(put.name.clone());
        }
        let vhost = self.expect_vhost_mut(&put.name)?;
        vhost.description = put.description.clone();
        vhost.tags = put.tags.clone();
        vhost.default_queue_type = default_queue_type.or(vhost.default_queue_type);
        vhost.tracing = put.tracing.unwrap_or(vhost.tracing);
        Ok(outcome)
    }

    /// Who makes a vhost may do everything in it, as in RabbitMQ.
    fn grant_everything(&self, vhost: &mut VHost, put: &PutVhost, outcome: &mut Outcome) {
        let user = put
            .user
            .as_ref()
            .filter(|user| self.users.contains_key(*user));
        let Some(user) = user else { return };
        if let Ok(all) = UserPermissions::new(".*", ".*", ".*") {
            vhost.permissions.insert(user.clone(), all);
            outcome.access_changed = true;
        }
    }

    pub(super) fn apply_delete_vhost(&mut self, delete: &DeleteVhost) -> Result<Outcome, Refusal> {
        let Some(vhost) = self.vhosts.remove(&delete.name) else {
            return Err(no_such_vhost(&delete.name));
        };
        let mut outcome = Outcome {
            vhost_deleted: Some(vhost.name.clone()),
            access_changed: true,
            changed: true,
            ..Outcome::default()
        };
        outcome.queues_deleted.extend(vhost.queues.iter().cloned());
        let mut exchanges: Vec<_> = vhost
            .exchanges
            .iter()
            .map(|entry| entry.info.clone())
            .collect();
        exchanges.sort_by(|a, b| a.name.cmp(&b.name));
        outcome.exchanges_deleted = exchanges;
        let bindings = vhost.exchanges.iter().flat_map(|entry| &entry.bindings);
        outcome.bindings_deleted = in_order(bindings.map(|binding| binding.0.clone()))
            .into_iter()
            .map(|binding| BindingChange {
                vhost: vhost.name.clone(),
                binding,
            })
            .collect();
        Ok(outcome)
    }

    pub(super) fn apply_set_vhost_limits(
        &mut self,
        set: &SetVhostLimits,
    ) -> Result<Outcome, Refusal> {
        let vhost = self
            .vhosts
            .get_mut(&set.vhost)
            .ok_or_else(|| no_such_vhost(&set.vhost))?;
        vhost.limits = parse_limits(&set.limits)?;
        Ok(Outcome {
            changed: true,
            access_changed: true,
            ..Outcome::default()
        })
    }
}

pub(super) fn parse_limits(limits: &Map<String, Value>) -> Result<VhostLimits, Refusal> {
    VhostLimits::from_json(limits).map_err(|error| validation_failed(&error))
}

/// 404 for a vhost that does not exist, of a command that is no AMQP method.
pub(super) fn no_such_vhost(vhost: &str) -> Refusal {
    Refusal::new(
        ReplyCode::NotFound,
        format!("Virtual host '{vhost}' does not exist"),
    )
}
