//! Which producer feeds which queue, which consumer reads it, and how that is declared.
//!
//! - As many producers as queues or more: producer `p` feeds queue `p mod Q`; its stream is `p`.
//! - Fewer producers than queues: producer `p` feeds `p, p+P, p+2P…` in turn; the stream is the
//!   queue's number.
//! - Fanout: every producer feeds every queue; the stream is the producer's number.
//!
//! Consumers share the queues out in the same way.

use super::plan::{Exchange, Plan};
use crate::error::Result;
use crate::net::{Client, QueueOptions};

/// One place a producer publishes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub exchange: String,
    pub routing_key: String,
    /// Number that the messages of this route carry.
    pub stream: u32,
}

/// The names and numbers of a scenario.
pub struct Topology<'a> {
    plan: &'a Plan,
}

impl<'a> Topology<'a> {
    /// Of `plan`.
    pub fn new(plan: &'a Plan) -> Self {
        Topology { plan }
    }

    /// Name of queue `n`; all names have the same length.
    pub fn queue(&self, n: usize) -> String {
        Topology::queue_name(&self.plan.prefix, n)
    }

    /// Name of queue `n` under a prefix.
    pub fn queue_name(prefix: &str, n: usize) -> String {
        format!("{prefix}-{n:07}")
    }

    /// Name of the exchange, empty for the default one.
    pub fn exchange(&self) -> String {
        let kind = match self.plan.exchange {
            Exchange::Default => return String::new(),
            Exchange::Direct => "direct",
            Exchange::Topic => "topic",
            Exchange::Fanout => "fanout",
        };
        format!("{}.{kind}", self.plan.prefix)
    }

    /// Where producer `p` publishes, in turn.
    pub fn routes(&self, p: usize) -> Vec<Route> {
        let (producers, queues) = (self.plan.producers, self.plan.queues);
        let route = |queue: usize, stream: usize| Route {
            exchange: self.exchange(),
            routing_key: match self.plan.exchange {
                Exchange::Default | Exchange::Direct => self.queue(queue),
                Exchange::Topic => format!("{}.{queue:07}.event", self.plan.prefix),
                Exchange::Fanout => String::new(),
            },
            stream: stream as u32,
        };
        if self.plan.exchange == Exchange::Fanout || producers >= queues {
            vec![route(p % queues, p)]
        } else {
            (p..queues)
                .step_by(producers)
                .map(|q| route(q, q))
                .collect()
        }
    }

    /// How many streams there are; they are numbered from 0.
    pub fn streams(&self) -> usize {
        match self.plan.exchange {
            Exchange::Fanout => self.plan.producers,
            _ if self.plan.producers == 0 => 0,
            _ => self.plan.producers.max(self.plan.queues),
        }
    }

    /// The streams that feed each queue.
    pub fn streams_by_queue(&self) -> Vec<Vec<u32>> {
        let (producers, queues) = (self.plan.producers, self.plan.queues);
        (0..queues)
            .map(|q| match self.plan.exchange {
                Exchange::Fanout => (0..producers as u32).collect(),
                _ if producers == 0 => Vec::new(),
                _ if producers >= queues => {
                    (q..producers).step_by(queues).map(|p| p as u32).collect()
                }
                _ => vec![q as u32],
            })
            .collect()
    }

    /// The queues that consumer `c` subscribes to.
    pub fn subscriptions(&self, c: usize) -> Vec<usize> {
        let (consumers, queues) = (self.plan.consumers, self.plan.queues);
        if consumers >= queues {
            vec![c % queues]
        } else {
            (c..queues).step_by(consumers).collect()
        }
    }

    /// Queues that a message reaches.
    pub fn copies(&self) -> u64 {
        if self.plan.exchange == Exchange::Fanout {
            self.plan.queues as u64
        } else {
            1
        }
    }

    /// Deletes what an earlier run left, and declares all anew.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn declare(&self, client: &mut Client) -> Result<()> {
        self.delete(client)?;
        let options = QueueOptions {
            durable: self.plan.durable,
            arguments: self.plan.queue_arguments.clone(),
            ..QueueOptions::default()
        };
        let exchange = self.exchange();
        let kind = match self.plan.exchange {
            Exchange::Default => None,
            Exchange::Direct => Some("direct"),
            Exchange::Topic => Some("topic"),
            Exchange::Fanout => Some("fanout"),
        };
        if let Some(kind) = kind {
            client.declare_exchange(&exchange, kind, self.plan.durable)?;
        }
        for n in 0..self.plan.queues {
            let queue = self.queue(n);
            client.declare_queue(&queue, &options)?;
            match self.plan.exchange {
                Exchange::Default => {}
                Exchange::Direct => client.bind_queue(&queue, &exchange, &queue)?,
                Exchange::Topic => {
                    let pattern = format!("{}.{n:07}.*", self.plan.prefix);
                    client.bind_queue(&queue, &exchange, &pattern)?;
                }
                Exchange::Fanout => client.bind_queue(&queue, &exchange, "")?,
            }
        }
        let end = match self.plan.exchange {
            Exchange::Topic => ".*",
            _ => "",
        };
        let prefix = &self.plan.prefix;
        let others = (0..self.plan.bindings).map(|n| format!("{prefix}.other-{n:07}{end}"));
        client.bind_queue_often(&self.queue(0), &exchange, others)
    }

    /// Deletes queues and exchange.
    ///
    /// # Errors
    /// The broker refuses; that they are missing is no refusal.
    pub fn delete(&self, client: &mut Client) -> Result<()> {
        for n in 0..self.plan.queues {
            client.delete_queue(&self.queue(n))?;
        }
        match self.plan.exchange {
            Exchange::Default => Ok(()),
            _ => client.delete_exchange(&self.exchange()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Flags;

    fn plan(line: &str) -> Plan {
        Plan::take(&mut Flags::new(Flags::from_line(line))).unwrap()
    }

    /// What the routes say must be what the judge expects, for every shape.
    #[test]
    fn routes_and_expectations_agree() {
        for (p, q) in [(1, 1), (1, 7), (3, 7), (7, 3), (16, 16), (4, 2)] {
            for exchange in ["default", "topic", "fanout"] {
                let plan = plan(&format!(
                    "--producers {p} --queues {q} --exchange {exchange}"
                ));
                let t = Topology::new(&plan);
                let mut fed = vec![Vec::new(); q];
                let mut streams = Vec::new();
                for producer in 0..p {
                    for route in t.routes(producer) {
                        streams.push(route.stream);
                        for (queue, list) in fed.iter_mut().enumerate() {
                            let hit = exchange == "fanout"
                                || route.routing_key.contains(&format!("{queue:07}"));
                            if hit {
                                list.push(route.stream);
                            }
                        }
                    }
                }
                fed.iter_mut().for_each(|l| l.sort_unstable());
                streams.sort_unstable();
                assert_eq!(fed, t.streams_by_queue(), "{p} {q} {exchange}");
                assert_eq!(streams, (0..t.streams() as u32).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn every_queue_has_a_consumer() {
        for (c, q) in [(1, 5), (5, 1), (3, 7), (7, 3)] {
            let plan = plan(&format!("--consumers {c} --queues {q}"));
            let t = Topology::new(&plan);
            let mut read: Vec<usize> = (0..c).flat_map(|n| t.subscriptions(n)).collect();
            read.sort_unstable();
            read.dedup();
            assert_eq!(read, (0..q).collect::<Vec<_>>());
        }
    }
}
