//! Limits of vhosts and users, and the texts when they are reached. The
//! connection code counts what is in use and asks here.

use leveret_protocol::ReplyCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::refusal::Refusal;
use crate::state::{Topology, VHost};
use crate::term;

/// The limits of a vhost. None and negative numbers: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VhostLimits {
    /// Most connections at a time.
    #[serde(
        rename = "max-connections",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub max_connections: Option<i64>,
    /// Most queues at a time.
    #[serde(
        rename = "max-queues",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub max_queues: Option<i64>,
}

impl VhostLimits {
    /// Whether there is no limit at all.
    pub fn is_empty(&self) -> bool {
        *self == VhostLimits::default()
    }

    /// The limits in this JSON object; what is wrong with it otherwise.
    pub(crate) fn from_json(limits: &Map<String, Value>) -> Result<VhostLimits, String> {
        let mut out = VhostLimits::default();
        for (name, value) in limits {
            let slot = match name.as_str() {
                "max-connections" => &mut out.max_connections,
                "max-queues" => &mut out.max_queues,
                _ => {
                    let pair = format!(
                        "{{{},{}}}",
                        term::binary(name.as_bytes()),
                        term::json(value)
                    );
                    return Err(format!("Unrecognised terms [{pair}] in limits"));
                }
            };
            let number = value.as_i64().ok_or_else(|| {
                format!(
                    "{name} should be a number, actually was {}",
                    term::json(value)
                )
            })?;
            *slot = Some(number);
        }
        Ok(out)
    }
}

/// The limit, when `in_use` leaves no room for one more.
fn reached(limit: Option<i64>, in_use: u64) -> Option<i64> {
    limit.filter(|limit| u64::try_from(*limit).is_ok_and(|limit| in_use >= limit))
}

impl Topology {
    /// Whether one more connection may be opened, as connection.open asks:
    /// first by the vhost, then by the user. The numbers are the open
    /// connections of each, over the whole cluster, without the new one.
    ///
    /// # Errors
    /// 530 NOT_ALLOWED with the limit.
    pub fn check_connection_limits(
        &self,
        user: &str,
        vhost: &str,
        in_vhost: u64,
        of_user: u64,
    ) -> Result<(), Refusal> {
        let limits = self
            .vhosts
            .get(vhost)
            .ok_or_else(|| Refusal::no_vhost(vhost))?
            .limits;
        if let Some(limit) = reached(limits.max_connections, in_vhost) {
            let text = format!(
                "access to vhost '{vhost}' refused for user '{user}': connection limit ({limit}) \
                 is reached"
            );
            return Err(Refusal::new(ReplyCode::NotAllowed, text));
        }
        let limits = self
            .users
            .get(user)
            .map(|user| user.limits)
            .unwrap_or_default();
        if let Some(limit) = reached(limits.max_connections, of_user) {
            let text = format!(
                "connection refused for user '{user}': user connection limit ({limit}) is reached"
            );
            return Err(Refusal::new(ReplyCode::NotAllowed, text));
        }
        Ok(())
    }

    /// Whether a user may open one more channel; `of_user` are open already.
    ///
    /// # Errors
    /// 530 NOT_ALLOWED with the limit.
    pub fn check_channel_limit(&self, user: &str, of_user: u64) -> Result<(), Refusal> {
        let limits = self
            .users
            .get(user)
            .map(|user| user.limits)
            .unwrap_or_default();
        match reached(limits.max_channels, of_user) {
            None => Ok(()),
            Some(limit) => Err(Refusal::new(
                ReplyCode::NotAllowed,
                format!(
                    "number of channels opened for user '{user}' has reached the maximum allowed \
                     user limit of ({limit})"
                ),
            )),
        }
    }
}

impl VHost {
    /// Whether one more queue may be declared.
    pub(crate) fn check_queue_limit(&self, queue: &str) -> Result<(), Refusal> {
        match reached(self.limits.max_queues, self.queues.len() as u64) {
            None => Ok(()),
            Some(limit) => Err(Refusal::precondition(format!(
                "cannot declare queue '{queue}': queue limit in vhost '{}' ({limit}) is reached",
                self.name
            ))),
        }
    }
}
