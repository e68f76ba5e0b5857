//! The command line of the `leveret` binary, which is RabbitMQ's command line tools when it is called by their names.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use leveret_config::Config;

use crate::ctl::Tool;
use crate::local_cluster::LocalCluster;

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
                        .help("Folder of everything that is kept [default: LEVERET_DATA_DIR, or ./leveret-data]"),
                )
                .arg(
                    Arg::new("node-name")
                        .long("node-name")
                        .value_name("NAME@HOST")
                        .help("This node's name [default: RABBITMQ_NODENAME, or leveret@ and the host's name]"),
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
            Command::new("local-cluster")
                .about("Runs a cluster of several nodes on loopback, for trying and testing")
                .arg(
                    Arg::new("nodes")
                        .long("nodes")
                        .value_name("N")
                        .default_value("3")
                        .value_parser(value_parser!(u16))
                        .help("How many nodes, 1 to 9"),
                )
                .arg(
                    Arg::new("dir")
                        .long("dir")
                        .value_name("DIR")
                        .default_value("leveret-cluster")
                        .value_parser(value_parser!(PathBuf))
                        .help("Folder of the nodes' data"),
                )
                .arg(
                    Arg::new("base-port")
                        .long("base-port")
                        .value_name("PORT")
                        .default_value("5672")
                        .value_parser(value_parser!(u16))
                        .help("AMQP port of the first node; the others follow"),
                )
                .arg(
                    Arg::new("set")
                        .long("set")
                        .value_name("KEY=VALUE")
                        .action(ArgAction::Append)
                        .help("One setting for all nodes; may be repeated"),
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
    let mut words = std::env::args_os();
    let program = words.next().map(PathBuf::from).unwrap_or_default();
    if let Some(tool) = Tool::of_program(&program) {
        let words = words.map(|word| word.to_string_lossy().into_owned());
        return crate::ctl::client::main(tool, words.collect());
    }
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("server", matches)) => server(matches),
        Some(("local-cluster", matches)) => local_cluster(matches),
        Some(("ctl", matches)) => {
            let words = matches.get_many::<String>("words").unwrap_or_default();
            let words = words.cloned().collect();
            Ok(crate::ctl::client::main(Tool::Leveret, words))
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
    let dir = matches.get_one::<String>("data-dir").cloned();
    if let Some(dir) = dir.or_else(|| std::env::var("LEVERET_DATA_DIR").ok()) {
        overrides.push(("leveret.data_dir".to_owned(), dir));
    }
    if let Ok(file) = std::env::var("RABBITMQ_PID_FILE") {
        overrides.push(("leveret.pid_file".to_owned(), file));
    }
    let named = matches.get_one::<String>("node-name").cloned();
    if let Some(name) = named.or_else(|| std::env::var("RABBITMQ_NODENAME").ok()) {
        overrides.push(("leveret.node_name".to_owned(), name));
    }
    run(
        matches.get_one::<PathBuf>("config").map(PathBuf::as_path),
        &overrides,
    )
}

fn local_cluster(matches: &ArgMatches) -> Result<ExitCode, String> {
    let settings = matches.get_many::<String>("set").unwrap_or_default();
    let cluster = LocalCluster {
        nodes: matches.get_one("nodes").copied().unwrap_or(3),
        dir: matches
            .get_one::<PathBuf>("dir")
            .cloned()
            .unwrap_or_else(|| PathBuf::from("leveret-cluster")),
        base_port: matches.get_one("base-port").copied().unwrap_or(5672),
        settings: settings.cloned().collect(),
    };
    cluster.run()
}

fn run(config: Option<&Path>, overrides: &[(String, String)]) -> Result<ExitCode, String> {
    let config = Config::load(config, overrides).map_err(|e| e.to_string())?;
    crate::server::logging::start(&config.log)?;
    crate::server::run(config)
}
