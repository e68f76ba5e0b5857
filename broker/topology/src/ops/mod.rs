//! What each command does: its checks, then its change. A check that refuses
//! comes before anything is changed.

pub(crate) mod arguments;
mod bindings;
pub(crate) mod exchanges;
mod nodes;
mod parameters;
mod policies;
pub(crate) mod queues;
mod users;
mod vhosts;

pub(crate) use parameters::VHOST_LIMITS;

use crate::command::Command;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::state::Topology;

impl Topology {
    /// Applies a command. `index` is its place in the order of all commands:
    /// never used twice, always greater than the ones before; a queue that is
    /// created gets it as its id.
    ///
    /// Total and deterministic: any command on any state gives an outcome or a
    /// refusal, the same on every node.
    ///
    /// # Errors
    /// A refusal changes nothing.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Outcome, Refusal> {
        let mut outcome = match command {
            Command::DeclareExchange(command) => self.apply_declare_exchange(command),
            Command::DeleteExchange(command) => self.apply_delete_exchange(command),
            Command::Bind(command) => self.apply_bind(index, command),
            Command::Unbind(command) => self.apply_unbind(command),
            Command::DeclareQueue(command) => self.apply_declare_queue(index, command),
            Command::DeleteQueue(command) => self.apply_delete_queue(command),
            Command::PlaceQueue(command) => self.apply_place_queue(command),
            Command::CloseConnection(command) => self.apply_close_connection(command),
            Command::PutVhost(command) => self.apply_put_vhost(command),
            Command::DeleteVhost(command) => self.apply_delete_vhost(command),
            Command::SetVhostLimits(command) => self.apply_set_vhost_limits(command),
            Command::PutUser(command) => self.apply_put_user(command),
            Command::DeleteUser(command) => self.apply_delete_user(command),
            Command::SetUserLimits(command) => self.apply_set_user_limits(command),
            Command::SetPermissions(command) => self.apply_set_permissions(command),
            Command::ClearPermissions(command) => self.apply_clear_permissions(command),
            Command::SetTopicPermissions(command) => self.apply_set_topic_permissions(command),
            Command::ClearTopicPermissions(command) => self.apply_clear_topic_permissions(command),
            Command::SetPolicy(command) => self.apply_set_policy(command),
            Command::DeletePolicy(command) => self.apply_delete_policy(command),
            Command::SetParameter(command) => self.apply_set_parameter(command),
            Command::ClearParameter(command) => self.apply_clear_parameter(command),
            Command::SetGlobalParameter(command) => self.apply_set_global_parameter(command),
            Command::ClearGlobalParameter(command) => self.apply_clear_global_parameter(command),
            Command::FormGroup(command) => self.apply_form_group(command),
            Command::NodeUp(command) => self.apply_node_up(command),
            Command::NodeDown(command) => self.apply_node_down(command),
            Command::AdmitNode(command) => self.apply_admit_node(command),
            Command::NodeJoined(command) => self.apply_node_joined(command),
            Command::ForgetNode(command) => self.apply_forget_node(command),
            Command::NodeRemoved(command) => self.apply_node_removed(command),
            Command::SetMaintenance(command) => self.apply_set_maintenance(command),
        }?;
        self.note(&mut outcome);
        Ok(outcome)
    }
}
