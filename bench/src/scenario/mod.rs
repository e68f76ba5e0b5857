//! The subcommands.

mod backlog;
mod churn;
mod idle;
mod rpc;
mod run;

pub use backlog::backlog;
pub use churn::churn;
pub use idle::idle;
pub use rpc::rpc;
pub use run::run;
