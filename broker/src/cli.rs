//! The command line of the `leveret` binary.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use leveret_config::Config;

/// What `leveret` understands.
pub fn command() -> Command {
    Command::new("leveret")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Leveret, an AMQP 0-9-1 broker. Without a command it runs a node with nothing configured.")
        .subcommand(
            Command::new("server")
                .about("Runs a broker node")
                .arg(
                    Arg::new("config")
                        .long("config")
                        .value_name("FILE")
                        .value_parser(value_parser!(PathBuf))
                        .help("Configuration in rabbitmq.conf syntax"),
                )
                .arg(
                    Arg::new("data-dir")
                        .long("data-dir")
                        .value_name("DIR")
                        .help("Folder of everything that is kept [default: ./leveret-data]"),
                )
                .arg(
                    Arg::new("set")
                        .long("set")
                        .value_name("KEY=VALUE")
                        .action(ArgAction::Append)
                        .help("One setting, over the configuration file; may be repeated"),
                ),
        )
        .subcommand(
            Command::new("ctl")
                .about("Commands a running node: rabbitmqctl's verbs, flags and exit codes")
                .disable_help_flag(true)
                .arg(
                    Arg::new("words")
                        .value_name("COMMAND")
                        .num_args(0..)
                        .trailing_var_arg(true)
                        .allow_hyphen_values(true)
                        .help("See `leveret ctl help`"),
                ),
        )
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("server", matches)) => server(matches),
        Some(("ctl", matches)) => {
            let words = matches.get_many::<String>("words").unwrap_or_default();
            Ok(crate::ctl::client::main(words.cloned().collect()))
        }
        _ => run(None, &[]),
    };
    result.unwrap_or_else(|error| {
        eprintln!("leveret: {error}");
        ExitCode::FAILURE
    })
}

fn server(matches: &ArgMatches) -> Result<ExitCode, String> {
    let mut overrides = Vec::new();
    for setting in matches.get_many::<String>("set").unwrap_or_default() {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--set {setting}: not KEY=VALUE"))?;
        overrides.push((key.trim().to_owned(), value.trim().to_owned()));
    }
    if let Some(dir) = matches.get_one::<String>("data-dir") {
        overrides.push(("leveret.data_dir".to_owned(), dir.clone()));
    }
    run(
        matches.get_one::<PathBuf>("config").map(PathBuf::as_path),
        &overrides,
    )
}

fn run(config: Option<&Path>, overrides: &[(String, String)]) -> Result<ExitCode, String> {
    let config = Config::load(config, overrides).map_err(|e| e.to_string())?;
    crate::server::logging::start(&config.log)?;
    crate::server::run(config)
}
