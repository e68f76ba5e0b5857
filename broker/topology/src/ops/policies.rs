//! Policies: setting them, and what they then change.

use std::sync::Arc;

use crate::command::{DeletePolicy, SetPolicy};
use crate::model::{ExchangeInfo, Name, QueueInfo, QueueType};
use crate::ops::parameters::{no_such_parameter, validation_failed};
use crate::ops::queues::is_mirrored;
use crate::ops::vhosts::no_such_vhost;
use crate::outcome::Outcome;
use crate::pattern::Pattern;
use crate::policy::{Effective, Policy, best, validate_definition};
use crate::refusal::Refusal;
use crate::state::{Topology, VHost};

/// Most policies of a vhost, and as many operator policies: each declaration
/// of a queue goes through them.
const POLICIES_MAX: usize = 1000;

impl Topology {
    pub(super) fn apply_set_policy(&mut self, set: &SetPolicy) -> Result<Outcome, Refusal> {
        let vhost = self
            .vhosts
            .get_mut(&set.vhost)
            .ok_or_else(|| no_such_vhost(&set.vhost))?;
        let pattern = Pattern::new(&set.pattern).map_err(|error| {
            let text = format!("pattern should be regular expression but is invalid: {error}");
            validation_failed(&text)
        })?;
        validate_definition(&set.definition, set.operator)
            .map_err(|error| validation_failed(&error))?;
        let policy = Policy {
            name: set.name.clone(),
            pattern,
            definition: set.definition.clone(),
            priority: set.priority,
            apply_to: set.apply_to,
        };
        let policies = vhost.policies_mut(set.operator);
        if policies.len() >= POLICIES_MAX && !policies.contains_key(&set.name) {
            return Err(Refusal::precondition(format!(
                "more than {POLICIES_MAX} policies"
            )));
        }
        policies.insert(set.name.clone(), policy);
        let mut outcome = Outcome {
            changed: true,
            ..Outcome::default()
        };
        vhost.apply_policies(&mut outcome);
        Ok(outcome)
    }

    pub(super) fn apply_delete_policy(
        &mut self,
        delete: &DeletePolicy,
    ) -> Result<Outcome, Refusal> {
        let vhost = self
            .vhosts
            .get_mut(&delete.vhost)
            .ok_or_else(|| no_such_vhost(&delete.vhost))?;
        if vhost
            .policies_mut(delete.operator)
            .remove(&delete.name)
            .is_none()
        {
            return Err(no_such_parameter());
        }
        let mut outcome = Outcome {
            changed: true,
            ..Outcome::default()
        };
        vhost.apply_policies(&mut outcome);
        Ok(outcome)
    }
}

impl Effective<'_> {
    /// The names of the policy and the operator policy.
    pub(crate) fn names(&self) -> (Option<Name>, Option<Name>) {
        let name = |policy: Option<&Policy>| policy.map(|policy| policy.name.clone());
        (name(self.policy), name(self.operator))
    }
}

impl VHost {
    fn policies_mut(&mut self, operator: bool) -> &mut std::collections::BTreeMap<Name, Policy> {
        match operator {
            true => &mut self.operator_policies,
            false => &mut self.policies,
        }
    }

    fn effective(&self, matches: impl Fn(&Policy) -> bool) -> Effective<'_> {
        Effective {
            policy: best(self.policies.values(), &matches),
            operator: best(self.operator_policies.values(), &matches),
        }
    }

    /// The policies of a queue of this name and type.
    pub(crate) fn queue_policies(&self, name: &str, kind: QueueType) -> Effective<'_> {
        self.effective(|policy| policy.matches_queue(name, kind))
    }

    /// The policies of an exchange of this name.
    pub(crate) fn exchange_policies(&self, name: &str) -> Effective<'_> {
        self.effective(|policy| policy.matches_exchange(name))
    }

    /// Brings every queue and exchange in line with the policies.
    fn apply_policies(&mut self, outcome: &mut Outcome) {
        let mut queues: Vec<Arc<QueueInfo>> = self.queues.iter().cloned().collect();
        queues.sort_unstable_by_key(|queue| queue.id);
        for before in queues {
            let after = self.with_policies(&before);
            if after != *before {
                self.replace_queue(before, after, outcome);
            }
        }
        let mut exchanges: Vec<Arc<ExchangeInfo>> = self
            .exchanges
            .iter()
            .map(|entry| entry.info.clone())
            .collect();
        exchanges.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for before in exchanges {
            self.apply_exchange_policies(&before, outcome);
        }
    }

    /// A queue as its arguments and the policies make it.
    pub(crate) fn with_policies(&mut self, queue: &QueueInfo) -> QueueInfo {
        let policies = self.queue_policies(&queue.name, queue.kind);
        let (policy, operator_policy) = policies.names();
        let settings = policies.queue_settings(&queue.arguments);
        let mirrored = is_mirrored(queue.kind, &queue.arguments, &settings);
        let settings = self.share_settings(settings);
        QueueInfo {
            policy,
            operator_policy,
            settings,
            mirrored,
            ..queue.clone()
        }
    }

    /// An exchange as its arguments and the policies make it.
    pub(crate) fn exchange_with_policies(&self, exchange: &ExchangeInfo) -> ExchangeInfo {
        let policies = self.exchange_policies(&exchange.name);
        let (policy, operator_policy) = policies.names();
        let alternate_exchange = policies.alternate_exchange(&exchange.arguments);
        ExchangeInfo {
            policy,
            operator_policy,
            alternate_exchange,
            ..exchange.clone()
        }
    }

    fn apply_exchange_policies(&mut self, before: &ExchangeInfo, outcome: &mut Outcome) {
        let after = self.exchange_with_policies(before);
        if after == *before {
            return;
        }
        let after = Arc::new(after);
        if let Some(entry) = self.exchanges.get_mut(&before.name) {
            entry.info = after.clone();
        }
        outcome.exchanges_changed.push(after);
        outcome.changed = true;
    }
}
