//! Definitions as a whole.

use super::{Handled, Result};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

pub fn export(node: &Node) -> Result {
    let value = node
        .topology()
        .export_definitions(env!("CARGO_PKG_VERSION"));
    let text = format!("{value}\n");
    Ok(Output::Report { text, value }.into())
}

/// What was imported before something is refused stays.
pub fn import(node: &Node, request: &Request) -> Result {
    let definitions = request.option("definitions").unwrap_or_default();
    let imported = node
        .import(definitions.as_bytes(), None, None)
        .map_err(|why| Failure::new(exit::DATA_ERROR, why))?;
    Ok(Handled {
        durable: imported.durable,
        ..Output::Message("Successfully imported definitions.".to_owned()).into()
    })
}
