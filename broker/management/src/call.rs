//! A request on its way to its handler.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use leveret_topology::{Command, Topology, VHost};
use parking_lot::RwLockReadGuard;
use serde_json::{Map, Value};
use tokio::runtime::Handle;

use crate::amqp::{Channel, Closed};
use crate::broker::Broker;
use crate::json;
use crate::list::{Columns, View};
use crate::login::Caller;
use crate::rates::Range;
use crate::reply::{Failure, Reply, Result};
use crate::server::Api;

/// A request of somebody who may ask it. Handlers run on a blocking thread.
pub struct Call {
    /// The API.
    pub api: Arc<Api>,
    /// Who asks.
    pub caller: Caller,
    /// `GET` (also for HEAD), `PUT`, `POST` or `DELETE`.
    pub method: &'static str,
    /// The path as it was asked for.
    pub path: String,
    /// What stands for the names in the route's path.
    pub params: Vec<(String, String)>,
    /// The query.
    pub query: Vec<(String, String)>,
    /// Headers that handlers look at: `x-reason`, by name in lower case.
    pub reason: Option<String>,
    /// The body.
    pub body: Bytes,
    /// The runtime, for what is not blocking.
    pub runtime: Handle,
}

impl std::fmt::Debug for Call {
    /// Without what may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({} {})", self.method, self.path)
    }
}

impl Call {
    /// The broker.
    pub fn broker(&self) -> &dyn Broker {
        self.api.broker()
    }

    /// The metadata.
    pub fn topology(&self) -> RwLockReadGuard<'_, Topology> {
        self.broker().topology()
    }

    /// What stands for a name of the path; empty if the route has no such name.
    pub fn param(&self, name: &str) -> &str {
        self.optional(name).unwrap_or_default()
    }

    /// The same for a name that not every path of a handler has.
    pub fn optional(&self, name: &str) -> Option<&str> {
        let found = self.params.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    /// The name of an exchange in the path; the default exchange is called `amq.default` there.
    pub fn exchange(&self, name: &str) -> &str {
        match self.param(name) {
            "amq.default" => "",
            name => name,
        }
    }

    /// The virtual host in the path.
    pub fn vhost(&self) -> &str {
        self.param("vhost")
    }

    /// A parameter of the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    /// A switch of the query.
    pub fn is_set(&self, name: &str) -> bool {
        self.query(name) == Some("true")
    }

    /// The window of rates that is asked for.
    ///
    /// # Errors
    /// 400 for one that makes no sense.
    pub fn range(&self) -> Result<Option<Range>> {
        let lengths = Range::of(&self.query, "lengths")?;
        Range::of(&self.query, "data_rates")?;
        Range::of(&self.query, "node_stats")?;
        Ok(Range::of(&self.query, "msg_rates")?.or(lengths))
    }

    /// The body as an object.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn json(&self) -> Result<Map<String, Value>> {
        json::body(&self.body)
    }

    /// How a list is to look.
    ///
    /// # Errors
    /// 400 for pages that make no sense.
    pub fn view(&self) -> Result<View> {
        View::of(&self.query)
    }

    /// A list as it is asked for.
    ///
    /// # Errors
    /// 400 for pages that make no sense.
    pub fn list(&self, items: Vec<Value>, order: &[&str]) -> Result {
        Ok(Reply::Json(self.view()?.list(items, order)?))
    }

    /// One thing, with the columns that are asked for.
    pub fn one(&self, mut item: Value) -> Result {
        if let Some(columns) = Columns::of(&self.query) {
            columns.pick(&mut item);
        }
        Ok(Reply::Json(item))
    }

    /// Changes the metadata.
    ///
    /// # Errors
    /// The refusal.
    pub fn propose(&self, command: Command) -> Result<()> {
        Ok(self.broker().propose(command)?)
    }

    /// The virtual hosts whose contents are listed: the one of the path, or all that the user may enter (sees, for an administrator).
    ///
    /// # Errors
    /// 404 for one that is not there.
    pub fn visible<'a>(&self, topology: &'a Topology) -> Result<Vec<&'a VHost>> {
        match self.optional("vhost") {
            Some(name) => Ok(vec![topology.vhost(name).ok_or_else(Failure::missing)?]),
            None => Ok(topology
                .vhosts()
                .filter(|vhost| {
                    self.caller.is_admin() || self.caller.enters(topology, vhost.name())
                })
                .collect()),
        }
    }

    /// The names of virtual hosts whose totals the user sees.
    pub fn seen(&self, topology: &Topology) -> BTreeSet<String> {
        topology
            .vhosts()
            .filter(|vhost| self.caller.sees(topology, vhost.name()))
            .map(|vhost| vhost.name().to_string())
            .collect()
    }

    /// Does something on a channel, as the user who asks.
    ///
    /// # Errors
    /// As `work` has them, and 401 if the user may not enter the virtual host.
    pub fn channel<T>(&self, work: impl AsyncFnOnce(&mut Channel) -> Result<T>) -> Result<T> {
        let login = (self.caller.name.as_str(), self.caller.password.as_str());
        self.runtime.block_on(async {
            let opened = Channel::open(self.broker(), self.caller.peer, login, self.vhost()).await;
            let mut channel = opened.map_err(|closed| match closed {
                Closed::ByServer(code, text) if code != 530 && code != 403 => {
                    Failure::new(503, "service_unavailable", text)
                }
                _ => Failure::not_authorised("Access refused."),
            })?;
            let done = work(&mut channel).await;
            if done.is_ok() {
                channel.close().await;
            }
            done
        })
    }
}
