//! Permissions and topic permissions.

use leveret_topology::{
    ClearPermissions, ClearTopicPermissions, Command, Name, SetPermissions, SetTopicPermissions,
};
use serde_json::json;

use super::users::no_such_user;
use super::{Result, arg, expect_vhost, propose, rows};
use crate::ctl::protocol::{Failure, Request, exit};
use crate::node::Node;

const PERMISSIONS: [&str; 3] = ["configure", "write", "read"];

/// Both must be there, in the words of the commands that change permissions.
fn expect_both(node: &Node, user: &str, vhost: &str) -> Result<(Name, Name)> {
    let topology = node.topology();
    if topology.user(user).is_none() {
        let text = format!("User {user} does not exist");
        return Err(Failure::new(exit::NO_USER, text));
    }
    if topology.vhost(vhost).is_none() {
        let text = format!("Virtual host {vhost} does not exist");
        return Err(Failure::new(exit::UNAVAILABLE, text));
    }
    Ok((Name::from(user), Name::from(vhost)))
}

pub fn set(node: &Node, request: &Request) -> Result {
    let (user, vhost) = expect_both(node, arg(request, 0)?, request.vhost())?;
    let set = SetPermissions {
        user,
        vhost,
        configure: arg(request, 1)?.to_owned(),
        write: arg(request, 2)?.to_owned(),
        read: arg(request, 3)?.to_owned(),
    };
    propose(node, Command::SetPermissions(set))
}

pub fn clear(node: &Node, request: &Request) -> Result {
    let (user, vhost) = expect_both(node, arg(request, 0)?, request.vhost())?;
    let clear = ClearPermissions { user, vhost };
    propose(node, Command::ClearPermissions(clear))
}

pub fn list(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let vhost = expect_vhost(&topology, request.vhost())?;
    let all = vhost.permissions().map(|(user, p)| {
        let patterns = [&p.configure, &p.write, &p.read];
        let patterns = patterns.map(|pattern| json!(pattern.source()));
        [vec![json!(user)], patterns.to_vec()].concat()
    });
    rows(&[&["user"][..], &PERMISSIONS].concat(), all.collect())
}

pub fn list_of_user(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let name = arg(request, 0)?;
    if topology.user(name).is_none() {
        return Err(no_such_user(name));
    }
    let mut all = Vec::new();
    for vhost in topology.vhosts() {
        for (_, p) in vhost.permissions().filter(|(user, _)| **user == name) {
            let patterns = [&p.configure, &p.write, &p.read];
            let patterns = patterns.map(|pattern| json!(pattern.source()));
            all.push([vec![json!(vhost.name())], patterns.to_vec()].concat());
        }
    }
    rows(&[&["vhost"][..], &PERMISSIONS].concat(), all)
}

pub fn set_topic(node: &Node, request: &Request) -> Result {
    let (user, vhost) = expect_both(node, arg(request, 0)?, request.vhost())?;
    let set = SetTopicPermissions {
        user,
        vhost,
        exchange: Name::from(arg(request, 1)?),
        write: arg(request, 2)?.to_owned(),
        read: arg(request, 3)?.to_owned(),
    };
    propose(node, Command::SetTopicPermissions(set))
}

pub fn clear_topic(node: &Node, request: &Request) -> Result {
    let (user, vhost) = expect_both(node, arg(request, 0)?, request.vhost())?;
    let clear = ClearTopicPermissions {
        user,
        vhost,
        exchange: request.arg(1).map(Name::from),
    };
    propose(node, Command::ClearTopicPermissions(clear))
}

pub fn list_topic(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let vhost = expect_vhost(&topology, request.vhost())?;
    let all = vhost.topic_permissions().map(|(user, exchange, p)| {
        let (write, read) = (p.write.source(), p.read.source());
        vec![json!(user), json!(exchange), json!(write), json!(read)]
    });
    rows(&["user", "exchange", "write", "read"], all.collect())
}

pub fn list_topic_of_user(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let name = arg(request, 0)?;
    if topology.user(name).is_none() {
        return Err(no_such_user(name));
    }
    let mut all = Vec::new();
    for vhost in topology.vhosts() {
        let own = vhost
            .topic_permissions()
            .filter(|(user, ..)| **user == name);
        for (_, exchange, p) in own {
            let (write, read) = (p.write.source(), p.read.source());
            all.push(vec![
                json!(vhost.name()),
                json!(exchange),
                json!(write),
                json!(read),
            ]);
        }
    }
    rows(&["vhost", "exchange", "write", "read"], all)
}
