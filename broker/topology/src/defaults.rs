//! What a new store begins with.

use crate::access::{HashingAlgorithm, PasswordHash, SALT_SIZE};
use crate::command::{Command, PutUser, PutVhost, SetPermissions};
use crate::model::Name;

/// One vhost and one user, as RabbitMQ's `default_vhost`, `default_user`,
/// `default_pass`, `default_user_tags` and `default_permissions` configure them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultContent {
    /// The vhost.
    pub vhost: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The user's tags.
    pub tags: Vec<String>,
    /// The user's permissions in the vhost.
    pub configure: String,
    /// As `configure`.
    pub write: String,
    /// As `configure`.
    pub read: String,
}

impl Default for DefaultContent {
    /// Vhost `/` and user `guest` with password `guest`, an administrator who
    /// may do everything.
    fn default() -> Self {
        DefaultContent {
            vhost: "/".to_owned(),
            user: "guest".to_owned(),
            password: "guest".to_owned(),
            tags: vec!["administrator".to_owned()],
            configure: ".*".to_owned(),
            write: ".*".to_owned(),
            read: ".*".to_owned(),
        }
    }
}

impl DefaultContent {
    /// The commands that bring an empty state to it. The salt is drawn at
    /// random by the caller.
    pub fn commands(&self, salt: [u8; SALT_SIZE]) -> Vec<Command> {
        let (user, vhost) = (
            Name::from(self.user.as_str()),
            Name::from(self.vhost.as_str()),
        );
        let password = PasswordHash::new(&self.password, salt, HashingAlgorithm::Sha256);
        vec![
            Command::PutVhost(PutVhost {
                name: vhost.clone(),
                description: "Default virtual host".to_owned(),
                tags: Vec::new(),
                default_queue_type: None,
                tracing: None,
                user: None,
            }),
            Command::PutUser(PutUser {
                name: user.clone(),
                password: Some(password),
                tags: Some(
                    self.tags
                        .iter()
                        .map(|tag| Name::from(tag.as_str()))
                        .collect(),
                ),
                must_be_new: false,
                must_exist: false,
            }),
            Command::SetPermissions(SetPermissions {
                user,
                vhost,
                configure: self.configure.clone(),
                write: self.write.clone(),
                read: self.read.clone(),
            }),
        ]
    }
}

#[cfg(test)]
mod tests {
    use crate::access::{Actor, Permission};
    use crate::model::{OwnerId, Resource};
    use crate::testing::State;

    #[test]
    fn guest_is_an_administrator_of_the_default_vhost() {
        let state = State::new().topology;
        assert!(
            state
                .authenticate("guest", b"guest")
                .unwrap()
                .has_tag("administrator")
        );
        assert!(state.authenticate("guest", b"Guest").is_err());
        assert!(state.authenticate("nobody", b"guest").is_err());
        assert!(state.authenticate("guest", b"").is_err());
        assert_eq!(state.check_vhost_access("guest", "/"), Ok(()));
        let guest = Actor::new("guest", OwnerId(1));
        for permission in [Permission::Configure, Permission::Write, Permission::Read] {
            let queue = Resource::queue("/", "q");
            assert_eq!(state.check_permission(&guest, queue, permission), Ok(()));
        }
    }

    #[test]
    fn a_vhost_has_its_own_exchanges() {
        let state = State::new().topology;
        let exchanges = state.vhost("/").unwrap().exchanges();
        let seen: Vec<String> = exchanges
            .iter()
            .map(|x| format!("{} {} {} {}", x.name, x.kind, x.durable, x.internal))
            .collect();
        assert_eq!(
            seen,
            [
                " direct true false",
                "amq.direct direct true false",
                "amq.fanout fanout true false",
                "amq.headers headers true false",
                "amq.match headers true false",
                "amq.rabbitmq.trace topic true true",
                "amq.topic topic true false",
            ]
        );
    }
}
