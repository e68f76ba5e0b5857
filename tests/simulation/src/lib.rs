//! A cluster in one thread, with everything that can fail made to fail, from a seed.
//!
//! Several nodes run the real Raft groups (`leveret_cluster::raft`) over the real journal on simulated disks, with the queues' replica as
//! state machine, and clients that publish through numbered sessions. Time, network, disks and what openraft draws come from the
//! seed, so a run can be had again to the bit. [`run::run`] is one run.
//!
//! - [`runtime`]: tasks of processes that can be stopped and killed; [`random`]: the seed's numbers.
//! - [`network`]: packets and connections; [`node`]: a node's disk and its lives.
//! - [`leader`], [`store`], [`snapshot`], [`session`]: level one, a model of what runs on the groups, by docs/cluster.md, section 5, without consumers.
//! - [`broker`]: level two, the broker's own leaders and sessions, with clients; [`deliveries`]: what must hold of what these get.
//! - [`hosted`]: what a run does with either.
//! - [`judge`]: what must hold, after every step; [`faults`]: what is done to the nodes.

#![forbid(unsafe_code)]

pub mod broker;
pub mod deliveries;
pub mod faults;
pub mod hosted;
pub mod judge;
pub mod leader;
pub mod network;
pub mod node;
pub mod random;
pub mod run;
pub mod runtime;
pub mod session;
pub mod snapshot;
pub mod store;
