//! Who asks, and what they may: Basic authentication, and RabbitMQ's tags.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use leveret_topology::{Topology, User};

use crate::attempts::Attempts;
use crate::broker::Broker;
use crate::reply::{Failure, Result};

/// What a route asks of a user. Everybody needs a tag of management.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody who may use the API.
    Any,
    /// `administrator`.
    Admin,
    /// `administrator` or `monitoring`.
    Monitor,
    /// Access to the virtual host in the path, or `administrator`.
    Vhost,
    /// The same, or `monitoring`.
    VhostVisible,
    /// `policymaker` with access to the virtual host in the path, or `administrator`.
    Policies,
    /// `policymaker` or `administrator`.
    GlobalParameters,
}

/// Somebody who is logged in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's name.
    pub name: String,
    /// The password that came with the request, for the connection that does what is asked for.
    pub password: String,
    /// The user's tags.
    pub tags: Vec<String>,
    /// Where the request came from.
    pub peer: SocketAddr,
}

impl Caller {
    fn has(&self, tags: &[&str]) -> bool {
        self.tags.iter().any(|tag| tags.contains(&tag.as_str()))
    }

    /// `administrator`.
    pub fn is_admin(&self) -> bool {
        self.has(&["administrator"])
    }

    /// `administrator` or `monitoring`.
    pub fn is_monitor(&self) -> bool {
        self.has(&["administrator", "monitoring"])
    }

    /// `administrator` or `policymaker`.
    pub fn is_policymaker(&self) -> bool {
        self.has(&["administrator", "policymaker"])
    }

    fn is_management(&self) -> bool {
        self.has(&["administrator", "monitoring", "policymaker", "management"])
    }

    /// Whether the user may enter a virtual host.
    pub fn enters(&self, topology: &Topology, vhost: &str) -> bool {
        topology.check_vhost_access(&self.name, vhost).is_ok()
    }

    /// Whether the user sees that a virtual host exists.
    pub fn sees(&self, topology: &Topology, vhost: &str) -> bool {
        self.is_monitor() || self.enters(topology, vhost)
    }
}

/// User and password of an Authorization header; `None` if it is of another kind, or there is none.
///
/// # Errors
/// 400 for one that is malformed, as RabbitMQ has it.
fn basic(headers: &HeaderMap) -> Result<Option<(String, String)>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let pair = || {
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Some(None);
        }
        let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Some((user.to_owned(), password.to_owned())))
    };
    pair().ok_or_else(|| Failure::bad_request("the Authorization header is malformed"))
}

/// Logs a request in.
///
/// # Errors
/// 401, or 429 for who failed too often.
pub fn log_in(
    broker: &dyn Broker,
    attempts: &Attempts,
    headers: &HeaderMap,
    peer: SocketAddr,
) -> Result<Caller> {
    let login_failed = || Failure::new(401, "not_authorized", "Login failed");
    let (name, password) = basic(headers)?.ok_or_else(login_failed)?;
    let from = peer.ip().to_canonical();
    if !attempts.may_try(from, &name, broker.now_ms()) {
        let reason = "too many failed logins, try again later";
        return Err(Failure::new(429, "too_many_requests", reason));
    }
    let caller = {
        let topology = broker.topology();
        let user = topology.authenticate(&name, password.as_bytes());
        user.map(|user: &User| Caller {
            tags: user.tags.iter().map(|tag| tag.to_string()).collect(),
            name: name.clone(),
            password,
            peer,
        })
    };
    let caller = match caller {
        Err(why) => {
            tracing::warn!(%peer, "HTTP access denied: {why}");
            Err(login_failed())
        }
        Ok(_) if is_shut_out(broker, &name, from) => Err(Failure::not_authorised(
            "User can only log in via localhost",
        )),
        Ok(caller) if !caller.is_management() => {
            Err(Failure::not_authorised("Not management user"))
        }
        Ok(caller) => Ok(caller),
    };
    attempts.tried(from, &name, caller.is_ok(), broker.now_ms());
    caller
}

fn is_shut_out(broker: &dyn Broker, user: &str, from: IpAddr) -> bool {
    broker.loopback_users().iter().any(|only| only == user) && !from.is_loopback()
}

/// Whether somebody may do what a route is for; `vhost` is the one in the path, if there is one.
///
/// # Errors
/// 401 with RabbitMQ's reason.
pub fn check(
    caller: &Caller,
    access: Access,
    vhost: Option<&str>,
    topology: &Topology,
) -> Result<()> {
    // One that does not exist is found to be missing later.
    let enters = || {
        vhost.is_none_or(|vhost| topology.vhost(vhost).is_none() || caller.enters(topology, vhost))
    };
    let (may, reason) = match access {
        Access::Any => (true, ""),
        Access::Admin => (caller.is_admin(), "Not administrator user"),
        Access::Monitor => (caller.is_monitor(), "Not monitor user"),
        Access::Vhost => (
            caller.is_admin() || enters(),
            "User not authorised to access virtual host",
        ),
        Access::VhostVisible => (
            caller.is_monitor() || enters(),
            "User not authorised to access virtual host",
        ),
        Access::Policies => (
            caller.is_admin() || (caller.is_policymaker() && enters()),
            "User not authorised to access object",
        ),
        Access::GlobalParameters => (
            caller.is_policymaker(),
            "User not authorised to access object",
        ),
    };
    match may {
        true => Ok(()),
        false => Err(Failure::not_authorised(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            basic(&headers)
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(
            of("Basic Z3Vlc3Q6Z3Vlc3Q=").unwrap(),
            pair("guest", "guest")
        );
        assert_eq!(of("basic YTpiOmM=").unwrap(), pair("a", "b:c"));
        assert_eq!(of("Bearer x").unwrap(), None);
        assert_eq!(basic(&HeaderMap::new()).unwrap(), None);
        for bad in ["Basic", "Basic !!", "Basic YQ==", ""] {
            assert_eq!(of(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
