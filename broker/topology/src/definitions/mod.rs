//! Definitions: the state as RabbitMQ's `definitions.json`, of RabbitMQ 3.x
//! and 4.x, of everything or of one vhost.

mod export;
mod import;
mod json;

pub use import::{DefinitionsError, ImportOptions, ImportStep, plan_import};

#[cfg(test)]
mod tests;
