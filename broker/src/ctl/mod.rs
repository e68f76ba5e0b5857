//! `leveret ctl`: the operator's command line of a running node, and the node's side of it.
//!
//! The verbs, flags, output and exit codes are rabbitmqctl's (RabbitMQ 3.10), so that what calls it can call this. The
//! client ([`client`]) reads the command line, checks it against the table of verbs, and sends one line of JSON over
//! the Unix socket `ctl.sock` in the data directory; the node ([`CtlServer`]) answers with one line ([`protocol`]).
//! Whoever may open the socket may do everything: it belongs to the user that runs the node, mode 0600, and the peer's
//! identity is checked besides.
//!
//! Invariants: a change is answered when it is durable; a request is at most [`protocol::REQUEST_BYTES_MAX`] long; nothing of
//! a request is logged but its verb, since arguments may be passwords.
//!
//! The binary is also each of RabbitMQ's command line tools, when it is called by its name ([`Tool`]). A command that names another node of
//! the cluster (`-n`) is passed on by the node whose socket it came over (`elsewhere`).
//!
//! Deliberately absent: `eval`, Erlang distribution, configuration encryption (`encode`, `decode`), `reset` (a node's data are removed by who
//! stopped it).

mod args;
mod banner;
pub mod client;
mod columns;
mod dial;
mod elsewhere;
mod format;
mod handlers;
pub mod protocol;
mod report;
mod server;
mod thresholds;
mod tools;
mod verbs;
mod wait;

pub use elsewhere::answer_command;
pub use handlers::{node::FEATURE_FLAGS, salt};
pub use server::{CtlServer, SOCKET_NAME};
pub use tools::Tool;

/// Does a verb that another node passes on, of what this node itself has: its output in JSON. `None`: it is none of those verbs, or is
/// refused.
pub fn answer_here(node: &crate::node::Node, request: &[u8]) -> Option<Vec<u8>> {
    let request: protocol::Request = serde_json::from_slice(request).ok()?;
    if !handlers::everywhere::concerns(&request.verb) {
        return None;
    }
    let handled = handlers::handle_here(node, &request).ok()?;
    serde_json::to_vec(&handled.output).ok()
}
