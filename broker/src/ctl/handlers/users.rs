//! Users and their limits.

use leveret_topology::{
    Command, DeleteUser, HashingAlgorithm, Name, PasswordHash, PutUser, SetUserLimits, User,
};
use serde_json::{Map, Value, json};

use super::{Result, arg, json_object, propose, propose_or, refused, rows, salt};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

fn hash(password: &str) -> PasswordHash {
    PasswordHash::new(password, salt(), HashingAlgorithm::Sha256)
}

fn put(name: &str) -> PutUser {
    PutUser {
        name: Name::from(name),
        password: None,
        tags: None,
        must_be_new: false,
        must_exist: true,
    }
}

fn no_user(name: &str) -> Failure {
    Failure::new(exit::NO_USER, format!("User \"{name}\" does not exist"))
}

/// RabbitMQ's own words where the command line does not know the error.
pub(super) fn no_such_user(name: &str) -> Failure {
    Failure::new(exit::UNAVAILABLE, format!("{{:no_such_user, \"{name}\"}}"))
}

fn user(node: &Node, name: &str, otherwise: fn(&str) -> Failure) -> Result<User> {
    let user = node.topology().user(name).cloned();
    user.ok_or_else(|| otherwise(name))
}

pub fn add(node: &Node, request: &Request) -> Result {
    let (name, password) = (arg(request, 0)?, arg(request, 1)?);
    if name.is_empty() {
        let text = "user cannot be an empty string";
        return Err(Failure::new(exit::DATA_ERROR, text));
    }
    let exists = format!("User \"{name}\" already exists");
    if node.topology().user(name).is_some() {
        return Err(Failure::new(exit::SOFTWARE, exists));
    }
    let put = PutUser {
        password: Some(hash(password)),
        tags: Some(Vec::new()),
        must_be_new: true,
        must_exist: false,
        ..put(name)
    };
    propose(node, Command::PutUser(put))
}

pub fn delete(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    user(node, name, no_user)?;
    let delete = DeleteUser {
        name: Name::from(name),
    };
    propose(node, Command::DeleteUser(delete))
}

pub fn change_password(node: &Node, request: &Request) -> Result {
    let (name, password) = (arg(request, 0)?, arg(request, 1)?);
    user(node, name, no_user)?;
    let put = PutUser {
        password: Some(hash(password)),
        ..put(name)
    };
    propose(node, Command::PutUser(put))
}

pub fn clear_password(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    user(node, name, no_such_user)?;
    let put = PutUser {
        password: Some(PasswordHash::default()),
        ..put(name)
    };
    propose(node, Command::PutUser(put))
}

pub fn authenticate(node: &Node, request: &Request) -> Result {
    let (name, password) = (arg(request, 0)?, arg(request, 1)?);
    match node.topology().authenticate(name, password.as_bytes()) {
        Ok(_) => Ok(Output::Message("Success".to_owned()).into()),
        Err(why) => {
            let text = format!("Error: failed to authenticate user \"{name}\"\n{why}");
            Err(Failure::new(exit::DATA_ERROR, text))
        }
    }
}

pub fn set_tags(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    user(node, name, no_user)?;
    let tags = request.args.iter().skip(1);
    let put = PutUser {
        tags: Some(tags.map(|tag| Name::from(tag.as_str())).collect()),
        ..put(name)
    };
    propose(node, Command::PutUser(put))
}

pub fn list(node: &Node) -> Result {
    let topology = node.topology();
    let users = topology.users();
    let users = users.map(|user| vec![json!(user.name), json!(user.tags)]);
    rows(&["user", "tags"], users.collect())
}

fn limits(user: &User) -> Map<String, Value> {
    match json!(user.limits) {
        Value::Object(limits) => limits,
        _ => Map::new(),
    }
}

fn replace_limits(node: &Node, user: &str, limits: Map<String, Value>) -> Result {
    let set = SetUserLimits {
        user: Name::from(user),
        limits,
    };
    propose_or(node, Command::SetUserLimits(set), |refusal| {
        // Without the frame that policies and parameters have.
        let text = refusal.text.trim_start_matches("Validation failed\n\n");
        let text = text.trim_end().to_owned();
        refused(leveret_topology::Refusal { text, ..refusal })
    })
}

/// New limits are added to those there are.
pub fn set_limits(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    let user = user(node, name, no_such_user)?;
    let mut all = limits(&user);
    all.extend(json_object(arg(request, 1)?, "user limits not an object")?);
    replace_limits(node, name, all)
}

pub fn clear_limits(node: &Node, request: &Request) -> Result {
    let (name, limit) = (arg(request, 0)?, arg(request, 1)?);
    let user = user(node, name, no_such_user)?;
    let mut left = limits(&user);
    if limit == "all" {
        left.clear();
    } else {
        left.remove(limit);
    }
    replace_limits(node, name, left)
}

pub fn list_limits(node: &Node, request: &Request) -> Result {
    let text = |user: &User| Value::Object(limits(user)).to_string();
    if request.flag("global") {
        let topology = node.topology();
        let limited = topology.users().filter(|user| !limits(user).is_empty());
        let limited = limited.map(|user| vec![json!(user.name), json!(text(user))]);
        return rows(&["user", "limits"], limited.collect());
    }
    let user = user(
        node,
        request.option("user").unwrap_or("guest"),
        no_such_user,
    )?;
    Ok(Output::Message(text(&user)).into())
}
