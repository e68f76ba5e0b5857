//! Definitions: the state as RabbitMQ's `definitions.json`, of RabbitMQ 3.x
//! and 4.x, of everything or of one vhost.

mod export;
mod import;
mod json;

pub use import::{DefinitionsError, ImportOptions, ImportStep, plan_import};
pub use json::{arguments as arguments_from_json, object as arguments_to_json};

#[cfg(test)]
mod tests;
