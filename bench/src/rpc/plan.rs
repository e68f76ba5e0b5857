//! What an RPC scenario asks for.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::load::{bounded, take_arguments, take_uris};
use crate::uri::Uri;
use crate::wire::{Properties, STAMP_BYTES, Table};

/// An RPC scenario.
#[derive(Debug, Clone, Serialize)]
pub struct RpcPlan {
    #[serde(skip)]
    pub uris: Vec<Uri>,
    /// Each makes one call at a time.
    pub callers: usize,
    /// Each takes requests from the common queue.
    pub servers: usize,
    /// Connections of a server for replies; each waits for its confirm.
    pub reply_connections: usize,
    /// Octets of requests and of replies.
    pub size: usize,
    /// Request queue and exchange survive a restart. Reply queues never do.
    pub durable: bool,
    /// Deliveries without ack per server; 0: no limit.
    pub prefetch: u16,
    pub time_s: f64,
    pub warmup_s: f64,
    /// A call that takes longer counts as lost.
    pub timeout_s: f64,
    /// 1: all on one thread; 2: callers on one, servers on the other.
    pub threads: usize,
    #[serde(skip)]
    pub queue_arguments: Table,
    pub prefix: String,
}

impl RpcPlan {
    /// Takes the flags of an RPC scenario.
    ///
    /// # Errors
    /// A value is malformed or out of bounds.
    pub fn take(flags: &mut Flags) -> Result<RpcPlan> {
        let plan = RpcPlan {
            uris: take_uris(flags)?,
            callers: bounded(flags, "callers", 1, 10_000)?,
            servers: bounded(flags, "servers", 1, 10_000)?,
            reply_connections: bounded(flags, "reply-connections", 4, 1000)?,
            size: bounded(flags, "size", 512, 100_000)?,
            durable: flags.switch("durable"),
            prefetch: bounded(flags, "prefetch", 0, u64::from(u16::MAX))? as u16,
            time_s: flags.seconds("time", 10.0)?,
            warmup_s: flags.seconds("warmup", 0.0)?,
            timeout_s: flags.seconds("timeout", 60.0)?,
            threads: bounded(flags, "threads", 2, 2)?,
            queue_arguments: take_arguments(flags)?,
            prefix: flags.text("prefix")?.unwrap_or_else(|| "bench-rpc".into()),
        };
        let counts = [
            plan.callers,
            plan.servers,
            plan.reply_connections,
            plan.threads,
        ];
        if counts.contains(&0) || plan.size < STAMP_BYTES {
            return Err(Error::Usage(
                "counts must be at least 1, --size at least 16".into(),
            ));
        }
        if plan.warmup_s >= plan.time_s || plan.prefix.len() > 200 {
            return Err(Error::Usage("--warmup must be shorter than --time".into()));
        }
        Ok(plan)
    }

    /// The broker that connection `n` goes to.
    pub fn uri(&self, n: usize) -> &Uri {
        &self.uris[n % self.uris.len()]
    }

    /// The topic exchange of requests.
    pub fn exchange(&self) -> String {
        format!("{}.topic", self.prefix)
    }

    /// The queue of requests, and its binding key.
    pub fn request_queue(&self) -> String {
        format!("{}-requests", self.prefix)
    }

    /// The reply queue of caller `n`.
    pub fn reply_queue(&self, n: usize) -> String {
        format!("{}-reply-{n:06}", self.prefix)
    }

    /// The properties that oslo.messaging sets, for requests (`reply_to` given) and replies.
    pub fn properties(&self, correlation_id: &str, reply_to: Option<String>) -> Properties {
        Properties {
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            headers: Some(Table::new()),
            delivery_mode: Some(2),
            priority: Some(0),
            correlation_id: Some(correlation_id.into()),
            expiration: reply_to
                .is_some()
                .then(|| format!("{:.0}", self.timeout_s * 1e3)),
            reply_to,
            message_id: None,
        }
    }
}
