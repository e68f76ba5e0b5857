//! The questions that the connection code asks: may this user log in, enter a
//! vhost, and do this there.

use leveret_protocol::ReplyCode;

use super::{HashingAlgorithm, PasswordHash, User};
use crate::model::{ExchangeInfo, ExchangeType, OwnerId, Resource};
use crate::refusal::Refusal;
use crate::state::Topology;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// The authenticated user.
    pub user: &'a str,
    /// The connection, for exclusive queues.
    pub connection: Option<OwnerId>,
    /// Variables for topic permissions besides `username` and `vhost`, such as
    /// `client_id`.
    pub variables: &'a [(&'a str, &'a str)],
}

impl<'a> Actor<'a> {
    /// This user over AMQP 0-9-1, on this connection.
    pub fn new(user: &'a str, connection: OwnerId) -> Actor<'a> {
        Actor {
            user,
            connection: Some(connection),
            variables: &[],
        }
    }
}

/// What a user wants to do with a queue or exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Declare and delete.
    Configure,
    /// Publish, and bind to.
    Write,
    /// Consume, get, purge, and bind from.
    Read,
}

impl Topology {
    /// The user, when the password is the user's own.
    ///
    /// Takes as long for a user that does not exist.
    ///
    /// # Errors
    /// What RabbitMQ writes to its log. The client is told only that the login
    /// was refused.
    pub fn authenticate(&self, user: &str, password: &[u8]) -> Result<&User, String> {
        if password.is_empty() {
            return Err(format!(
                "user '{user}' attempted to log in with a blank password, which is prohibited by \
                 the internal authN backend. To use TLS/x509 certificate-based authentication, \
                 configure the client to use the EXTERNAL authentication mechanism. Alternatively \
                 change the password for the user to be non-blank."
            ));
        }
        let found = self.users.get(user);
        let nobody = PasswordHash::new("\0", [0; 4], HashingAlgorithm::Sha256);
        let verified = found
            .map_or(&nobody, |user| &user.password)
            .verify(password);
        found
            .filter(|_| verified)
            .ok_or_else(|| format!("user '{user}' - invalid credentials"))
    }

    /// Whether a user may open a connection to a vhost: with any permission
    /// entry for it, an empty one too.
    ///
    /// # Errors
    /// 530 NOT_ALLOWED, as connection.open has it.
    pub fn check_vhost_access(&self, user: &str, vhost: &str) -> Result<(), Refusal> {
        let entry = self
            .vhosts
            .get(vhost)
            .ok_or_else(|| Refusal::no_vhost(vhost))?;
        match self.users.contains_key(user) && entry.permissions.contains_key(user) {
            true => Ok(()),
            false => Err(Refusal::new(
                ReplyCode::NotAllowed,
                format!("access to vhost '{vhost}' refused for user '{user}'"),
            )),
        }
    }

    /// Whether a user may do something with a queue or exchange.
    ///
    /// # Errors
    /// 403 ACCESS_REFUSED.
    pub fn check_permission(
        &self,
        actor: &Actor<'_>,
        resource: Resource<'_>,
        permission: Permission,
    ) -> Result<(), Refusal> {
        // The default exchange goes by the name that permissions know it by.
        let resource = match resource == Resource::exchange(resource.vhost, "") {
            true => Resource {
                name: "amq.default",
                ..resource
            },
            false => resource,
        };
        let permissions = self
            .vhosts
            .get(resource.vhost)
            .and_then(|vhost| vhost.permissions.get(actor.user));
        let pattern = permissions.map(|permissions| match permission {
            Permission::Configure => &permissions.configure,
            Permission::Write => &permissions.write,
            Permission::Read => &permissions.read,
        });
        match pattern.is_some_and(|pattern| pattern.is_match(resource.name)) {
            true => Ok(()),
            false => {
                let text = format!("access to {resource} refused for user '{}'", actor.user);
                Err(Refusal::access(text))
            }
        }
    }

    /// Whether a user may use a routing key (to write) or a binding key (to
    /// read) with an exchange. Only topic exchanges can forbid it.
    ///
    /// # Errors
    /// 403 ACCESS_REFUSED.
    pub fn check_topic_permission(
        &self,
        actor: &Actor<'_>,
        exchange: &ExchangeInfo,
        key: &[u8],
        permission: Permission,
    ) -> Result<(), Refusal> {
        if exchange.kind != ExchangeType::Topic {
            return Ok(());
        }
        let Some(vhost) = self.vhosts.get(&exchange.vhost) else {
            return Ok(());
        };
        let Some(user) = self.users.get(actor.user) else {
            return Ok(());
        };
        let entry = vhost
            .topic_permissions
            .get(&(user.name.clone(), exchange.name.clone()));
        let Some(permissions) = entry else {
            return Ok(());
        };
        let pattern = match permission {
            Permission::Write => &permissions.write,
            Permission::Read => &permissions.read,
            Permission::Configure => return Ok(()),
        };
        let mut variables = actor.variables.to_vec();
        variables.retain(|(name, _)| *name != "vhost" && *name != "username");
        variables.extend([("vhost", vhost.name.as_str()), ("username", actor.user)]);
        variables.sort_unstable();
        let key = String::from_utf8_lossy(key);
        match pattern.is_match(&key, &variables) {
            true => Ok(()),
            false => Err(Refusal::access(format!(
                "access to topic '{key}' in exchange '{}' in vhost '{}' refused for user '{}'",
                exchange.name, vhost.name, actor.user
            ))),
        }
    }

    /// Checks a basic.publish to an exchange, before it is routed: the
    /// permission to write, then that the exchange exists and is not internal,
    /// then the topic permission.
    ///
    /// # Errors
    /// 403 ACCESS_REFUSED, 404 NOT_FOUND.
    pub fn check_publish(
        &self,
        actor: &Actor<'_>,
        vhost: &str,
        exchange: &str,
        routing_key: &[u8],
    ) -> Result<&ExchangeInfo, Refusal> {
        self.check_permission(
            actor,
            Resource::exchange(vhost, exchange),
            Permission::Write,
        )?;
        let info = self.expect_exchange(vhost, exchange)?;
        if info.internal {
            let text = format!("cannot publish to internal {}", info.resource());
            return Err(Refusal::access(text));
        }
        self.check_topic_permission(actor, info, routing_key, Permission::Write)?;
        Ok(info)
    }
}
