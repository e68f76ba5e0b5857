//! The `leveret` binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    leveret::cli::main()
}
