//! Logs: text for people, or one JSON object a line.

use std::io::IsTerminal;

use leveret_config::{LogConfig, LogFormat, LogLevel};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

/// The Raft library tells each of its steps; they are for those who look for its faults.
fn filter(level: LogLevel) -> Targets {
    let level = level_filter(level);
    let library = match level {
        LevelFilter::DEBUG => LevelFilter::INFO,
        level => level.min(LevelFilter::ERROR),
    };
    Targets::new()
        .with_default(level)
        .with_target("openraft", library)
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        // Both are RabbitMQ's; `notice` is what people should notice.
        LogLevel::Notice | LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical | LogLevel::Alert | LogLevel::Emergency => {
            LevelFilter::ERROR
        }
        LogLevel::None => LevelFilter::OFF,
    }
}

/// Starts logging as configured.
///
/// # Errors
/// The log file cannot be opened.
pub fn start(config: &LogConfig) -> Result<(), String> {
    let mut layers: Vec<Boxed> = Vec::new();
    if config.console {
        let level = filter(config.console_level.max(config.level));
        let colors = config.console_colors && std::io::stdout().is_terminal();
        let stderr = config.console_stderr;
        let writer = move || -> Box<dyn std::io::Write> {
            if stderr {
                Box::new(std::io::stderr())
            } else {
                Box::new(std::io::stdout())
            }
        };
        let layer: Boxed = match config.console_format {
            LogFormat::Text => fmt::layer()
                .with_ansi(colors)
                .with_target(false)
                .with_writer(writer)
                .with_filter(level)
                .boxed(),
            LogFormat::Json => fmt::layer()
                .json()
                .with_writer(writer)
                .with_filter(level)
                .boxed(),
        };
        layers.push(layer);
    }
    if let Some(file) = &config.file {
        let path = config
            .dir
            .as_ref()
            .map_or_else(|| file.clone(), |dir| dir.join(file));
        let open = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path);
        let open = open.map_err(|e| format!("cannot open the log file {}: {e}", path.display()))?;
        let writer = std::sync::Mutex::new(open);
        let level = filter(config.file_level.max(config.level));
        let layer: Boxed = match config.file_format {
            LogFormat::Text => fmt::layer()
                .with_ansi(false)
                .with_target(false)
                .with_writer(writer)
                .with_filter(level)
                .boxed(),
            LogFormat::Json => fmt::layer()
                .json()
                .with_writer(writer)
                .with_filter(level)
                .boxed(),
        };
        layers.push(layer);
    }
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|e| e.to_string())
}
