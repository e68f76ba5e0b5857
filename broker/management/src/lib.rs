//! The HTTP API of a node and its metrics, in the form of RabbitMQ's management and Prometheus plugins (3.13), so that rabbitmqadmin,
//! Kolla, Juju, Prometheus and Grafana's dashboards work unchanged.
//!
//! What the broker has comes through the narrow trait [`Broker`]; who calls is the server, once for each connection ([`Http::serve`]).
//! Users, virtual hosts, policies and parameters are changed by commands of the metadata; queues, exchanges, bindings and messages by AMQP
//! methods on a connection within the process ([`amqp`]), as the user who asks, so that permissions, equivalence and texts are those that
//! every client meets.
//!
//! Invariants: a change is answered when it is durable; a body is at most [`server::BODY_BYTES_MAX`] long; whatever may block runs on
//! the blocking threads of the caller's runtime and holds no lock of the broker while it writes JSON; no answer holds a password, only
//! hashes, and those to administrators only.
//!
//! Deliberately absent: the web page, bearer tokens, BERT.

#![forbid(unsafe_code)]

pub mod amqp;
mod attempts;
mod broker;
mod call;
mod handlers;
mod json;
mod list;
mod login;
pub mod metrics;
mod openapi;
mod page;
mod rates;
mod reply;
mod routes;
pub mod server;
mod stats;
mod text;

pub use broker::{
    AlarmReport, Broker, ChannelReport, ConnectionReport, ConsumerReport, GroupReport, Histogram,
    ListenerReport, NodeReport, Place, QueueReport, Reach,
};
pub use server::{Api, Http};
pub use stats::{Churn, MessageStats};
