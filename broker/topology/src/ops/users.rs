//! Users and their permissions.

use leveret_protocol::ReplyCode;

use crate::access::{TopicPermissions, User, UserLimits, UserPermissions};
use crate::command::{
    ClearPermissions, ClearTopicPermissions, DeleteUser, PutUser, SetPermissions,
    SetTopicPermissions, SetUserLimits,
};
use crate::ops::parameters::validation_failed;
use crate::ops::vhosts::no_such_vhost;
use crate::outcome::Outcome;
use crate::pattern::PatternError;
use crate::refusal::Refusal;
use crate::state::{Topology, VHost};

/// Most tags of a user.
const TAGS_MAX: usize = 100;

impl Topology {
    pub(super) fn apply_put_user(&mut self, put: &PutUser) -> Result<Outcome, Refusal> {
        let current = self.users.get(&put.name);
        match current {
            Some(_) if put.must_be_new => {
                let text = format!("User '{}' already exists", put.name);
                return Err(Refusal::precondition(text));
            }
            None if put.must_exist => return Err(no_such_user(&put.name)),
            _ => {}
        }
        if put.tags.as_ref().is_some_and(|tags| tags.len() > TAGS_MAX) {
            return Err(Refusal::precondition(format!("more than {TAGS_MAX} tags")));
        }
        let current = current.cloned();
        let (password, tags, limits) = match current {
            Some(user) => (user.password, user.tags, user.limits),
            None => Default::default(),
        };
        let user = User {
            name: put.name.clone(),
            password: put.password.clone().unwrap_or(password),
            tags: put.tags.clone().unwrap_or(tags),
            limits,
        };
        self.users.insert(put.name.clone(), user);
        Ok(access_changed())
    }

    pub(super) fn apply_delete_user(&mut self, delete: &DeleteUser) -> Result<Outcome, Refusal> {
        let user = self
            .users
            .remove(&delete.name)
            .ok_or_else(|| no_such_user(&delete.name))?;
        for vhost in self.vhosts.values_mut() {
            vhost.permissions.remove(&user.name);
            vhost
                .topic_permissions
                .retain(|(name, _), _| *name != user.name);
        }
        Ok(Outcome {
            user_deleted: Some(user.name),
            ..access_changed()
        })
    }

    pub(super) fn apply_set_user_limits(
        &mut self,
        set: &SetUserLimits,
    ) -> Result<Outcome, Refusal> {
        let user = self
            .users
            .get_mut(&set.user)
            .ok_or_else(|| no_such_user(&set.user))?;
        user.limits =
            UserLimits::from_json(&set.limits).map_err(|error| validation_failed(&error))?;
        Ok(access_changed())
    }

    pub(super) fn apply_set_permissions(
        &mut self,
        set: &SetPermissions,
    ) -> Result<Outcome, Refusal> {
        let permissions =
            UserPermissions::new(&set.configure, &set.write, &set.read).map_err(invalid_pattern)?;
        let vhost = self.vhost_of_user(&set.user, &set.vhost)?;
        vhost.permissions.insert(set.user.clone(), permissions);
        Ok(access_changed())
    }

    pub(super) fn apply_clear_permissions(
        &mut self,
        clear: &ClearPermissions,
    ) -> Result<Outcome, Refusal> {
        let vhost = self.vhost_of_user(&clear.user, &clear.vhost)?;
        vhost.permissions.remove(&clear.user);
        Ok(access_changed())
    }

    pub(super) fn apply_set_topic_permissions(
        &mut self,
        set: &SetTopicPermissions,
    ) -> Result<Outcome, Refusal> {
        let permissions = TopicPermissions::new(&set.write, &set.read).map_err(invalid_pattern)?;
        let vhost = self.vhost_of_user(&set.user, &set.vhost)?;
        vhost
            .topic_permissions
            .insert((set.user.clone(), set.exchange.clone()), permissions);
        Ok(access_changed())
    }

    pub(super) fn apply_clear_topic_permissions(
        &mut self,
        clear: &ClearTopicPermissions,
    ) -> Result<Outcome, Refusal> {
        let vhost = self.vhost_of_user(&clear.user, &clear.vhost)?;
        vhost.topic_permissions.retain(|(user, exchange), _| {
            *user != clear.user || clear.exchange.as_ref().is_some_and(|only| only != exchange)
        });
        Ok(access_changed())
    }

    fn vhost_of_user(&mut self, user: &str, vhost: &str) -> Result<&mut VHost, Refusal> {
        if !self.users.contains_key(user) {
            return Err(no_such_user(user));
        }
        self.vhosts
            .get_mut(vhost)
            .ok_or_else(|| no_such_vhost(vhost))
    }
}

fn access_changed() -> Outcome {
    Outcome {
        changed: true,
        access_changed: true,
        ..Outcome::default()
    }
}

/// 404 for a user that does not exist.
fn no_such_user(user: &str) -> Refusal {
    Refusal::new(ReplyCode::NotFound, format!("User '{user}' does not exist"))
}

fn invalid_pattern((source, error): (String, PatternError)) -> Refusal {
    Refusal::precondition(format!("invalid regular expression '{source}': {error}"))
}
