//! `leveret-bench`: a load generator for any AMQP 0-9-1 broker.
//!
//! It costs little enough CPU that the broker is what is measured, and judges after every run
//! whether each message arrived, once, in order. See `README.md` beside this crate.

#![forbid(unsafe_code)]

mod clock;
mod compare;
mod error;
mod flags;
mod integrity;
mod load;
mod net;
mod relay;
mod rpc;
mod scenario;
mod stats;
mod uri;
mod wire;

use std::process::ExitCode;

use error::Error;
use flags::Flags;

const USAGE: &str = include_str!("usage.txt");

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let flags = Flags::new(args);
    let outcome = match command.as_str() {
        "run" => scenario::run(flags),
        "rpc" => scenario::rpc(flags),
        "idle" => scenario::idle(flags),
        "backlog" => scenario::backlog(flags),
        "compare" => compare::compare(flags),
        "limit" => compare::limit(flags),
        "relay" => relay::relay(flags),
        "churn" => scenario::churn(flags),
        "--version" | "version" => {
            println!("leveret-bench {}", env!("CARGO_PKG_VERSION"));
            Ok(true)
        }
        "--help" | "help" | "-h" => {
            print!("{USAGE}");
            Ok(true)
        }
        other => Err(Error::Usage(format!(
            "unknown subcommand {other:?}; see leveret-bench help"
        ))),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            eprintln!("leveret-bench: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}
