//! Runtime parameters of vhosts, and global parameters.

use leveret_protocol::ReplyCode;
use serde_json::Value;

use crate::command::{ClearGlobalParameter, ClearParameter, SetGlobalParameter, SetParameter};
use crate::limits::VhostLimits;
use crate::ops::vhosts::{no_such_vhost, parse_limits};
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::state::{Topology, VHost};

/// The component whose one parameter `limits` is the limits of the vhost.
pub(crate) const VHOST_LIMITS: &str = "vhost-limits";

/// Components whose parameters are kept for whoever reads them.
const COMPONENTS: &[&str] = &["federation-upstream", "federation-upstream-set", "shovel"];

/// Most parameters of a vhost, and most global ones.
const PARAMETERS_MAX: usize = 10_000;

impl Topology {
    pub(super) fn apply_set_parameter(&mut self, set: &SetParameter) -> Result<Outcome, Refusal> {
        let vhost = self.vhost_of_parameter(&set.vhost, &set.component)?;
        if set.component == VHOST_LIMITS {
            let not_a_list = || validation_failed("limits not a list");
            vhost.limits = parse_limits(set.value.as_object().ok_or_else(not_a_list)?)?;
            return Ok(Outcome {
                access_changed: true,
                ..changed()
            });
        }
        let key = (set.component.clone(), set.name.clone());
        if vhost.parameters.len() >= PARAMETERS_MAX && !vhost.parameters.contains_key(&key) {
            return Err(too_many());
        }
        vhost.parameters.insert(key, set.value.clone());
        Ok(changed())
    }

    pub(super) fn apply_clear_parameter(
        &mut self,
        clear: &ClearParameter,
    ) -> Result<Outcome, Refusal> {
        let vhost = self.vhost_of_parameter(&clear.vhost, &clear.component)?;
        if clear.component == VHOST_LIMITS {
            if vhost.limits.is_empty() {
                return Err(no_such_parameter());
            }
            vhost.limits = VhostLimits::default();
            return Ok(Outcome {
                access_changed: true,
                ..changed()
            });
        }
        match vhost
            .parameters
            .remove(&(clear.component.clone(), clear.name.clone()))
        {
            Some(_) => Ok(changed()),
            None => Err(no_such_parameter()),
        }
    }

    fn vhost_of_parameter(&mut self, vhost: &str, component: &str) -> Result<&mut VHost, Refusal> {
        if component == "policy" || component == "operator_policy" {
            let text = match component {
                "policy" => "policies may not be set or cleared as parameters",
                _ => "operator policies may not be set or cleared as parameters",
            };
            return Err(Refusal::precondition(text));
        }
        if component != VHOST_LIMITS && !COMPONENTS.contains(&component) {
            return Err(validation_failed(&format!(
                "component {component} not found"
            )));
        }
        self.vhosts
            .get_mut(vhost)
            .ok_or_else(|| no_such_vhost(vhost))
    }

    pub(super) fn apply_set_global_parameter(
        &mut self,
        set: &SetGlobalParameter,
    ) -> Result<Outcome, Refusal> {
        let parameters = &mut self.global_parameters;
        if parameters.len() >= PARAMETERS_MAX && !parameters.contains_key(&set.name) {
            return Err(too_many());
        }
        parameters.insert(set.name.clone(), set.value.clone());
        Ok(changed())
    }

    pub(super) fn apply_clear_global_parameter(
        &mut self,
        clear: &ClearGlobalParameter,
    ) -> Result<Outcome, Refusal> {
        match self.global_parameters.remove(&clear.name) {
            Some(_) => Ok(changed()),
            None => Err(no_such_parameter()),
        }
    }

    /// A global parameter, such as `cluster_name`.
    pub fn global_parameter(&self, name: &str) -> Option<&Value> {
        self.global_parameters.get(name)
    }

    /// The global parameters in the order of their names.
    pub fn global_parameters(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.global_parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }
}

fn changed() -> Outcome {
    Outcome {
        changed: true,
        ..Outcome::default()
    }
}

fn too_many() -> Refusal {
    Refusal::precondition(format!("more than {PARAMETERS_MAX} parameters"))
}

/// 404 for a parameter or policy that does not exist.
pub(super) fn no_such_parameter() -> Refusal {
    Refusal::new(ReplyCode::NotFound, "Parameter does not exist")
}

/// 406 for a parameter, policy or limit that is invalid, in RabbitMQ's form.
pub(super) fn validation_failed(line: &str) -> Refusal {
    Refusal::precondition(format!("Validation failed\n\n{line}\n"))
}
