//! The configuration of a node: `rabbitmq.conf`, read, checked and typed.
//!
//! [`Config::load`] is called once by the server, before anything else is started; what it returns is
//! plain data that everybody may read. The keys and their meanings are one table, [`keys`]; the page
//! `docs/configuration.md` is generated from it.
//!
//! Deliberately absent: reading the environment, RabbitMQ's older Erlang-term files
//! (`rabbitmq.config`, `advanced.config`), and changing anything while the node runs.

#![forbid(unsafe_code)]

mod config;
mod defaults;
mod error;
mod files;
#[doc(hidden)]
pub mod fuzzing;
pub mod keys;
mod kind;
mod load;
mod page;
pub mod reader;

pub use config::*;
pub use error::{ConfigError, Problem};
pub use page::reference;
